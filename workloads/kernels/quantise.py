"""Quantising activations x[m, k] to e4m3, as it comes before a GEMM of 8 bits.

By blocks: each 128 of k of a row have an fp32 scale that takes their largest magnitude to 448; one pass over x. By
tensor: one scale for all, for which a first pass finds the largest magnitude; one part of the rows per core, whose
maxima the second pass reads, every tile all of them, for want of atomic operations. Scales of blocks of zeros are 1.
With a scale that is given the second pass alone is left (`quantise-static`), and the first one is a kernel of its own,
too (`absmax`).

Not modelled: one maximum of those of the parts in the kernel `absmax`, scales that are powers of two, and fusion with
the kernel that makes x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hwmodel.assembler import PhaseAssembler, Region, Slot, Wait, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Phase, Program, Tensor
from layouts.catalog.scales import BLOCK
from layouts.notation import named
from workloads.batch import Batch
from workloads.buffers import allocate
from workloads.kernels.base import check_knobs, knob, knob_layout, require_options
from workloads.kernels.gemm_grid import Array, check_tile_k, number_of
from workloads.kernels.gemm_w8a8 import SCALE_LAYOUTS, scales_layout
from workloads.kernels.rowwise import row_dtype
from workloads.model import Model
from workloads.placement import place
from workloads.schedule import SCHEDULES, schedule

Per = Literal["block", "tensor", "given", "none"]
NAMES: dict[Per, str] = {
    "block": "quantise",
    "tensor": "quantise-tensor",
    "given": "quantise-static",
    "none": "absmax",
}
E4M3_LARGEST = 448.0


@dataclass(frozen=True)
class Problem:
    """Sizes of the activations, their type, and what has one scale: "given" with the problem, or "none" of it."""

    m: int
    k: int
    dtype: str
    per: Per


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    layout_x: str = knob("m k", "where the activations lie, outermost first", axes="m, k")
    layout_q: str = knob("m k", "where the result lies, outermost first", axes="m, k")
    scales: str = knob("m-major", "which scales of blocks lie side by side: of rows or of k", choices=SCALE_LAYOUTS)
    tile_m: int = knob(16, "rows of a tile", least=1)
    tile_k: int = knob(512, "elements of k in a tile, whole blocks of 128", least=1)
    stages: int = knob(3, "tiles of activations in flight", least=1)
    schedule: str = knob("static", "tiles dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)


def shape_per(kernel: str, per: Per) -> Callable[[Model | None, Batch | None, Mapping[str, int | str]], Problem]:
    """Return what makes a problem of the sizes m, k in its options, in `dtype`, the model's of 16 bits or bf16."""

    def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int | str]) -> Problem:
        dtype, given = row_dtype(kernel, options, model)
        sizes = require_options(kernel, given, ("m", "k"))
        return Problem(sizes["m"], sizes["k"], dtype, per)

    return shape


def candidates(problem: Problem, machine: Machine) -> Iterator[Knobs]:
    """Yield knobs to try: tiles so low that every core has one; then fewer in flight, then lower ones."""
    wide = min(512, -(-problem.k // BLOCK) * BLOCK)
    tall = max(1, min(16, -(-problem.m * -(-problem.k // wide) // machine.spec.cores.count)))
    for halvings in range(tall.bit_length()):
        for stages in (3, 2):
            yield Knobs(tile_m=tall >> halvings, tile_k=wide, stages=stages)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function."""
    layouts = [repr(tensor.layout.key) for tensor in _tensors(problem, knobs, 1)]
    return (*layouts, knobs.tile_m, knobs.tile_k, knobs.stages, knobs.schedule)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    check_tile_k(knobs.tile_k, BLOCK, "a block of a scale")
    parts = min(machine.spec.cores.count, -(-problem.m // knobs.tile_m))
    tensors = place(_tensors(problem, knobs, parts), machine)
    phases = [_absmax(problem, knobs, machine, tensors, parts)] if problem.per in ("tensor", "none") else []
    if problem.per != "none":
        phases.append(_quantise(problem, knobs, machine, tensors, parts))
    for phase in phases:
        machine.require_fit(phase, {"tile_m": knobs.tile_m, "tile_k": knobs.tile_k, "stages": knobs.stages})
    return Program(NAMES[problem.per], tensors, tuple(phases))


def _tensors(problem: Problem, knobs: Knobs, parts: int) -> list[Tensor]:
    sizes = {"m": problem.m, "k": problem.k}
    x = Tensor("x", knob_layout(knobs, "layout_x", sizes), problem.dtype, NONE)
    maxima = Tensor("maxima", named("part", {"part": parts}), "fp32", NONE, "cache")
    if problem.per == "none":
        return [x, maxima]
    q = Tensor("q", knob_layout(knobs, "layout_q", sizes), "fp8_e4m3", NONE)
    if problem.per == "block":
        return [x, q, Tensor("scales", scales_layout(knobs.scales, problem.m, problem.k), "fp32", NONE)]
    scale = Tensor("scales", named("item value", {"item": 1, "value": 1}), "fp32", NONE, "cache")
    return [x, q, scale, *([maxima] if problem.per == "tensor" else [])]


def _absmax(problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...], parts: int) -> Phase:
    """One part of the rows per core: the largest magnitude of its tiles."""
    tiles_m, tiles_k = -(-problem.m // knobs.tile_m), -(-problem.k // knobs.tile_k)
    edges = np.arange(parts + 1) * tiles_m // parts
    items = {"part": np.arange(parts), "first": edges[:-1], "tiles": np.diff(edges)}
    p = PhaseAssembler("absmax", tensors, tuple(items))
    requested = (
        block("x", knobs.tile_m, knobs.tile_k, problem.dtype, knobs.stages),
        block("maximum", 1, 1, "fp32"),
        block("out", 1, 1, "fp32", 2),
    )
    x, maximum, out = p.add_buffers(allocate(requested, machine))
    loaded, free = p.counter("x loaded", "memory"), p.counter("x free", "buffer")
    ready, out_free = p.counter("maximum", "dependency"), p.counter("out free", "buffer")

    def extents(row: Any, column: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        m, k = (p.column("first") + row) * knobs.tile_m, column * knobs.tile_k
        return (m, (problem.m - m).clip(knobs.tile_m)), (k, (problem.k - k).clip(knobs.tile_k))

    with p.loop("load", p.column("tiles")) as i, p.loop("load", tiles_k) as j:
        rows, columns = extents(i.index, j.index)
        wait: list[Wait] = [(free, j.running - knobs.stages + 1)]
        p.load(
            Slot(x, j.running), Region(number_of(tensors, "x"), {"m": rows, "k": columns}), wait=wait, signal=[loaded]
        )
    with p.loop("vector", p.column("tiles")) as i, p.loop("vector", tiles_k) as j:
        rows, columns = extents(i.index, j.index)
        p.vector(
            "absmax",
            (Slot(maximum, p.begun), Slot(x, j.running)),
            (rows[1], columns[1], 1 - i.index - j.index),
            wait=[(loaded, j.running + 1)],
            signal=[free],
        )
    wait = [(out_free, p.begun - 1)]
    p.vector("convert", (Slot(out, p.begun), Slot(maximum, p.begun)), (1, 1), wait=wait, signal=[ready])
    to = Region(number_of(tensors, "maxima"), {"part": (p.column("part"), 1)})
    p.store(Slot(out, p.begun), to, wait=[(ready, p.begun + 1)], signal=[out_free])
    tasks = np.stack(list(items.values()), axis=1)
    return p.finish(tasks, schedule("static", items["tiles"], machine.spec.cores.count))


def _items(problem: Problem, knobs: Knobs) -> dict[str, Array]:
    """Return the tiles row by row; the first of them stores the scale of the tensor."""
    grid = (-(-problem.m // knobs.tile_m), -(-problem.k // knobs.tile_k))
    row, column = np.indices(grid).reshape(2, -1)
    return {"m": row * knobs.tile_m, "tile": column, "scales": (np.arange(len(row)) == 0).astype(np.int64)}


def _quantise(problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...], parts: int) -> Phase:
    tm, tk, per = knobs.tile_m, knobs.tile_k, problem.per
    items = _items(problem, knobs)
    p = PhaseAssembler("quantise", tensors, tuple(items))
    width_of_scales = (tm, tk // BLOCK) if per == "block" else (1, 1)
    requested = [
        block("x", tm, tk, problem.dtype, knobs.stages),
        block("q", tm, tk, "fp8_e4m3", 2),
        block("scales", *width_of_scales, "fp32", knobs.stages if per == "given" else 2),
    ]
    if per == "tensor":
        requested.append(block("maxima", 1, parts, "fp32", knobs.stages))
    x, q, scales, *maxima = (Slot(number, p.begun) for number in p.add_buffers(allocate(requested, machine)))
    given = {"tensor": [(slot, "maxima") for slot in maxima], "given": [(scales, "scales")]}.get(per, [])
    loaded, free = p.counter("x loaded", "memory"), p.counter("x free", "buffer")
    ready, out_free = p.counter("q", "dependency"), p.counter("q free", "buffer")
    m, k, first = p.column("m"), p.column("tile") * tk, p.column("tile") * (tk // BLOCK)
    rows, width = (problem.m - m).clip(tm), (problem.k - k).clip(tk)
    there: dict[str, tuple[Any, Any]] = {"m": (m, rows), "k": (k, width)}
    wait: list[Wait] = [(free, p.begun - knobs.stages + 1)]
    p.load(x, Region(number_of(tensors, "x"), there), wait=wait, signal=[loaded])
    for slot, name in given:
        p.load(slot, Region(number_of(tensors, name), {}), wait=wait, signal=[loaded])
    operands = {"block": (q, scales, x), "tensor": (q, scales, x, *maxima), "given": (q, x, scales)}[per]
    sizes: tuple[Any, ...] = (1, rows, width) if per == "given" else (rows, width, BLOCK if per == "block" else parts)
    blocks = (-(-problem.k // BLOCK) - first).clip(tk // BLOCK)
    stored = [(q, Region(number_of(tensors, "q"), there))]
    if per != "given":
        of_tile = {"row": (m, rows), "col": (first, blocks)} if per == "block" else {"item": (0, p.column("scales"))}
        stored.append((scales, Region(number_of(tensors, "scales"), of_tile)))
    p.vector(
        {"block": "quantise_blocks", "tensor": "quantise_tensor", "given": "quantise"}[per],
        operands,
        sizes,
        scalar=E4M3_LARGEST if per == "given" else 0.0,
        wait=[(loaded, (p.begun + 1) * (1 + len(given))), (out_free, (p.begun - 1) * len(stored))],
        signal=[ready, free],
    )
    for source, region in stored:
        p.store(source, region, wait=[(ready, p.begun + 1)], signal=[out_free])
    tasks = np.stack(list(items.values()), axis=1)
    return p.finish(tasks, schedule(knobs.schedule, np.ones(len(tasks), np.int64), machine.spec.cores.count))
