"""GEMM: c[m, n] = a[m, k] b[n, k]^T, tiled, multi-buffered, with split-K and its reduction.

A work item is one tile of c, or one of `split_k` parts of it. It streams tiles of a and b through `stages` buffers
into an fp32 accumulator. With split-K the items store fp32 partial tiles and a second phase adds them up. b has the
axes of a weight matrix, output features n by input features k. Layouts are knobs in the notation of `layouts.catalog`.

Every tile is read from HBM each time it is used: hits in a shared cache are not modelled, so on machines with one this
is the time with a cold and useless cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hwmodel.assembler import PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Buffer, Phase, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS, allocate, contiguous_axis, operand
from workloads.kernels.base import check_knobs, knob, knob_layout, require_16_bit, require_options
from workloads.model import Model
from workloads.placement import place
from workloads.schedule import SCHEDULES, schedule

A, B, C, PARTIAL = range(4)


@dataclass(frozen=True)
class Problem:
    """Sizes of one matrix product with 16-bit operands and result."""

    m: int
    n: int
    k: int
    dtype: str


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    layout_a: str = knob("m k", "where a lies, outermost first", axes="m, k")
    layout_b: str = knob("n k", "where b lies, outermost first", axes="n, k")
    layout_c: str = knob("m n", "where c lies, outermost first", axes="m, n")
    tile_m: int = knob(128, "rows of a tile of a and c", least=1)
    tile_n: int = knob(128, "columns of a tile of c, rows of a tile of b", least=1)
    tile_k: int = knob(64, "elements of k in one load of a and b", least=1)
    stages: int = knob(3, "tiles of a and of b in flight", least=1)
    split_k: int = knob(1, "parts of k that different cores take; more than 1 adds a reduction", least=1)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)
    sram_layout: str = knob("swizzled", "where tiles of a and b lie in the scratchpad", choices=OPERAND_LAYOUTS)


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of the sizes m, n, k in `options`, in the model's dtype or bf16; the batch is not used."""
    require_options("gemm", options, ("m", "n", "k"))
    return Problem(options["m"], options["n"], options["k"], require_16_bit("gemm", model.dtype if model else "bf16"))


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function."""
    layouts = [repr(tensor.layout.key) for tensor in _tensors(problem, knobs)[:PARTIAL]]
    tiles = (knobs.tile_m, knobs.tile_n, knobs.tile_k)
    return (*layouts, *tiles, knobs.stages, _parts(problem, knobs), knobs.sram_layout, knobs.schedule)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    split = _parts(problem, knobs) > 1
    tensors = place(_tensors(problem, knobs)[: None if split else PARTIAL], machine)
    phases = [_multiply(problem, knobs, machine, tensors, split)]
    sizes = {"tile_m": knobs.tile_m, "tile_n": knobs.tile_n}
    machine.require_fit(phases[0], sizes | {"tile_k": knobs.tile_k, "stages": knobs.stages})
    if split:
        phases.append(_reduce(problem, knobs, machine, tensors))
        machine.require_fit(phases[1], sizes | {"split_k": knobs.split_k})
    return Program("gemm", tensors, tuple(phases))


def _parts(problem: Problem, knobs: Knobs) -> int:
    """Return into how many parts k is split: at most one per tile of k, and none empty."""
    tiles = -(-problem.k // knobs.tile_k)
    return -(-tiles // -(-tiles // min(knobs.split_k, tiles)))


def _tensors(problem: Problem, knobs: Knobs) -> list[Tensor]:
    m, n, k = problem.m, problem.n, problem.k
    parts = _parts(problem, knobs)
    return [
        Tensor("a", knob_layout(knobs, "layout_a", {"m": m, "k": k}), problem.dtype, NONE),
        Tensor("b", knob_layout(knobs, "layout_b", {"n": n, "k": k}), problem.dtype, NONE),
        Tensor("c", knob_layout(knobs, "layout_c", {"m": m, "n": n}), problem.dtype, NONE),
        Tensor("partial", named("part m n", {"part": parts, "m": m, "n": n}), "fp32", NONE),
    ]


def _work_items(problem: Problem, knobs: Knobs) -> dict[str, np.ndarray[Any, Any]]:
    """Return the columns of the work items, ordered by part, row of tiles and column of tiles."""
    sizes = ((problem.m, knobs.tile_m), (problem.n, knobs.tile_n), (problem.k, knobs.tile_k))
    tiles_m, tiles_n, tiles_k = (-(-size // tile) for size, tile in sizes)
    parts = _parts(problem, knobs)
    per_part = -(-tiles_k // parts)
    part, row, column = np.indices((parts, tiles_m, tiles_n)).reshape(3, -1)
    return {
        "part": part,
        "m": row * knobs.tile_m,
        "n": column * knobs.tile_n,
        "k": part * per_part * knobs.tile_k,
        "tiles": np.minimum(tiles_k - part * per_part, per_part),
    }


def _operand(problem: Problem, knobs: Knobs, machine: Machine, tensor: Tensor) -> Buffer:
    """Return the request for the tiles of a or b, [rows, k] both."""
    is_a = tensor.name == "a"
    request = block(tensor.name, knobs.tile_m if is_a else knobs.tile_n, knobs.tile_k, problem.dtype, knobs.stages)
    along = contiguous_axis(tensor, ("m" if is_a else "n", "k"))
    side: Literal["a", "b"] = "a" if is_a else "b"
    return operand(request, machine, knobs.sram_layout, side=side, axis_of_k=1, filled_along=along)


def _multiply(problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...], split: bool) -> Phase:
    tm, tn, tk = knobs.tile_m, knobs.tile_n, knobs.tile_k
    columns = _work_items(problem, knobs)
    p = PhaseAssembler("multiply", tensors, tuple(columns))
    requested = (
        _operand(problem, knobs, machine, tensors[A]),
        _operand(problem, knobs, machine, tensors[B]),
        block("accumulator", tm, tn, "fp32"),
        block("out", tm, tn, "fp32" if split else problem.dtype),
    )
    a, b, accumulator, out = p.add_buffers(allocate(requested, machine))
    a_ready, b_ready = p.counter("a loaded", "memory"), p.counter("b loaded", "memory")
    tile_free, out_free = p.counter("a and b free", "buffer"), p.counter("out free", "buffer")
    accumulator_free = p.counter("accumulator free", "buffer")
    summed, out_ready = p.counter("sum", "dependency"), p.counter("out", "dependency")
    part, m, n, k, tiles = (p.column(name) for name in columns)
    rows, width = (problem.m - m).clip(tm), (problem.n - n).clip(tn)

    with p.loop("load", tiles) as i:
        inner = (k + i.index * tk, (problem.k - k - i.index * tk).clip(tk))
        wait = [(tile_free, i.running - knobs.stages + 1)]
        p.load(Slot(a, i.running), Region(A, {"m": (m, rows), "k": inner}), wait=wait, signal=[a_ready])
        p.load(Slot(b, i.running), Region(B, {"n": (n, width), "k": inner}), wait=wait, signal=[b_ready])

    def multiply(number: Any, index: Any, signal: list[int]) -> None:
        p.matmul(
            Slot(accumulator, p.begun),
            Slot(a, number),
            Slot(b, number),
            (rows, width, (problem.k - k - index * tk).clip(tk)),
            transpose_b=True,
            accumulate=index,
            wait=[(a_ready, number + 1), (b_ready, number + 1), (accumulator_free, p.begun)],
            signal=signal,
        )

    number = p.begun + p.running(0)
    with p.loop("matrix", tiles - 1) as i:
        multiply(number, i.index, [tile_free])
    multiply(number, tiles - 1, [tile_free, summed])

    p.vector(
        "convert",
        (Slot(out, p.begun), Slot(accumulator, p.begun)),
        (rows, width),
        wait=[(summed, p.begun + 1), (out_free, p.begun)],
        signal=[out_ready, accumulator_free],
    )
    there = {"m": (m, rows), "n": (n, width)}
    to = Region(PARTIAL, there | {"part": (part, 1)}) if split else Region(C, there)
    p.store(Slot(out, p.begun), to, wait=[(out_ready, p.begun + 1)], signal=[out_free])
    costs = columns["tiles"]
    return p.finish(np.stack(list(columns.values()), axis=1), schedule(knobs.schedule, costs, machine.spec.cores.count))


def _reduce(problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...]) -> Phase:
    """Add the partial tiles, by strips of rows so that all parts of a strip fit where one tile did."""
    parts, tn = _parts(problem, knobs), knobs.tile_n
    strip = max(1, knobs.tile_m // parts)
    grid = np.indices((-(-problem.m // strip), -(-problem.n // tn))).reshape(2, -1)
    columns = {"m": grid[0] * strip, "n": grid[1] * tn}
    p = PhaseAssembler("reduce", tensors, tuple(columns))
    requested = (block("partials", parts * strip, tn, "fp32", 2), block("out", strip, tn, problem.dtype, 2))
    partials, out = p.add_buffers(allocate(requested, machine))
    loaded = p.counter("partials loaded", "memory")
    free, out_free = p.counter("partials free", "buffer"), p.counter("out free", "buffer")
    ready = p.counter("out", "dependency")
    m, n = p.column("m"), p.column("n")
    rows, width = (problem.m - m).clip(strip), (problem.n - n).clip(tn)
    there = {"m": (m, rows), "n": (n, width)}
    p.load(Slot(partials, p.begun), Region(PARTIAL, there), wait=[(free, p.begun - 1)], signal=[loaded])
    p.vector(
        "sum",
        (Slot(out, p.begun), Slot(partials, p.begun)),
        (parts, rows, width),
        wait=[(loaded, p.begun + 1), (out_free, p.begun - 1)],
        signal=[ready, free],
    )
    p.store(Slot(out, p.begun), Region(C, there), wait=[(ready, p.begun + 1)], signal=[out_free])
    tasks = np.stack(list(columns.values()), axis=1)
    return p.finish(tasks, schedule("static", np.ones(len(tasks), np.int64), machine.spec.cores.count))
