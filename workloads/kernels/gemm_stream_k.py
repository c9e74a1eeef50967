"""Stream-K GEMM: the work of c[m, n] = a[m, k] b[n, k]^T dealt evenly, whatever the number of tiles.

All tiles of c one after another, each its tiles of k, make a line, which is cut into one piece per core, equal to one
step of k (Osama et al. 2023, arXiv:2301.03598). A core walks its piece: a tile that lies in it whole is stored as c; of
one that is cut, the cores store partial sums, and a second phase adds these up ("fix-up"; in the paper the core
that began a tile waits for the others instead). `streamed` says whether all tiles are dealt so, or only those that are
left when every core has had equally many whole ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import PhaseAssembler, Region, Wait, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Buffer, Phase, Program, Schedule, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS
from workloads.kernels import gemm
from workloads.kernels.base import check_knobs, knob, require_options
from workloads.kernels.gemm import Problem
from workloads.kernels.gemm_grid import Array, Grid, group_knob, number_of, order_knob, scales_tensor
from workloads.kernels.gemm_tiles import Axes, Multiply, Recipe, add_partials, operand_stream
from workloads.model import Model
from workloads.numbering import within_owners
from workloads.placement import place
from workloads.schedule import schedule

STREAMED = ("all", "rest")


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    layout_a: str = knob("m k", "where a lies, outermost first", axes="m, k")
    layout_b: str = knob("n k", "where b lies, outermost first", axes="n, k")
    layout_c: str = knob("m n", "where c lies, outermost first", axes="m, n")
    tile_m: int = knob(128, "rows of a tile of a and c", least=1)
    tile_n: int = knob(128, "columns of a tile of c, rows of a tile of b", least=1)
    tile_k: int = knob(64, "elements of k in one load of a and b", least=1)
    stages: int = knob(2, "tiles of a and of b in flight", least=1)
    streamed: str = knob("rest", "tiles dealt by steps of k: all, or the rest of whole rounds", choices=STREAMED)
    sram_layout: str = knob("swizzled", "where tiles of a and b lie in the scratchpad", choices=OPERAND_LAYOUTS)
    order: str = order_knob()
    group_m: int = group_knob()


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of the sizes m, n, k in `options`, in the model's dtype or bf16; the batch is not used."""
    require_options("stream-k", options, ("m", "n", "k"))
    return gemm.shape(model, batch, options)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, orders by what they order."""
    grid = _grid(problem, knobs)
    layouts = [repr(tensor.layout.key) for tensor in gemm.operand_tensors(problem, knobs)]
    return (*layouts, *grid.key, knobs.stages, knobs.streamed, knobs.sram_layout)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    grid = _grid(problem, knobs)
    items, order = work_items(grid, machine.spec.cores.count, knobs.streamed)
    split = items["split"].any()
    tensors = place(_tensors(problem, knobs, grid, int(items["part"].max()) + 1 if split else 0), machine)
    recipe = Recipe(
        operand_stream(grid, machine, knobs, tensors, "a"),
        operand_stream(grid, machine, knobs, tensors, "b"),
        (number_of(tensors, "c"), problem.result_dtype),
        number_of(tensors, "partial"),
        sum_dtype=problem.sum_dtype,
        scales=number_of(tensors, "scales"),
    )
    writer = (_Streamed if split else Multiply)(grid, recipe, machine, tensors, knobs.stages, items)
    phases = [writer.written().finish(np.stack(list(items.values()), axis=1), order)]
    sizes = {"tile_m": knobs.tile_m, "tile_n": knobs.tile_n}
    machine.require_fit(phases[0], sizes | {"tile_k": knobs.tile_k, "stages": knobs.stages})
    if split:
        phases.append(_fix_up(grid, recipe, machine, tensors, items))
        machine.require_fit(phases[1], sizes)
    return Program("stream-k", tensors, tuple(phases))


def _grid(problem: Problem, knobs: Knobs) -> Grid:
    return Grid.of(knobs, problem.m, problem.n, problem.k)


def _tensors(problem: Problem, knobs: Knobs, grid: Grid, parts: int) -> list[Tensor]:
    tensors = gemm.operand_tensors(problem, knobs)
    if parts:
        sizes = {"part": parts, "m": grid.tile_m, "n": grid.tile_n}
        tensors.append(Tensor("partial", named("part m n", sizes), problem.sum_dtype, NONE))
    return tensors + ([scales_tensor()] if problem.scaled else [])


def work_items(grid: Grid, cores: int, streamed: str) -> tuple[dict[str, Array], Schedule]:
    """Return the columns of the work items, and which core runs which: its whole tiles, then its piece of the line.

    `whole` and `split` are the rows that an item stores as c and as a partial sum, one of which is nought; `part`
    numbers the partial sums by tile and k.
    """
    row, column = grid.tiles_in_order()
    depth = grid.tiles[2]
    dealt = 0 if streamed == "all" else len(row) // cores * cores
    edges = np.arange(cores + 1) * (len(row) - dealt) * depth // cores
    ends = np.union1d(edges, np.arange(len(row) - dealt + 1) * depth)
    start, steps = ends[:-1], np.diff(ends)
    tile = np.concatenate([np.arange(dealt), dealt + start // depth])
    core = np.concatenate([np.arange(dealt) % cores, np.searchsorted(edges, start, side="right") - 1])
    tiles = np.concatenate([np.full(dealt, depth), steps])
    is_split = tiles < depth
    rows = np.minimum(grid.m - row[tile] * grid.tile_m, grid.tile_m)
    items = {
        "m": row[tile] * grid.tile_m,
        "n": column[tile] * grid.tile_n,
        "first": np.concatenate([np.zeros(dealt, np.int64), start % depth]),
        "tiles": tiles,
        "part": np.where(is_split, np.cumsum(is_split) - 1, 0),
        "whole": np.where(is_split, 0, rows),
        "split": np.where(is_split, rows, 0),
    }
    counts = np.bincount(core, minlength=cores)
    order = np.argsort(core, kind="stable")
    return items, Schedule(order.astype(np.int64), np.cumsum([0, *counts]).astype(np.int64))


class _Streamed(Multiply):
    """The main phase whose items end in c or in a partial sum: both are written, one of them without rows."""

    def _outs(self) -> list[Buffer]:
        tile = self._grid.tile_m, self._grid.tile_n
        return [block("out", *tile, self._recipe.result[1]), block("partial out", *tile, self._recipe.sum_dtype)]

    def _epilogue(self) -> None:
        p, width = self._p, self._extents()[1]
        accumulator = self._slot("accumulator", p.begun)
        wait: list[Wait] = [(self._counter("out free"), p.begun * 2), (self._counter("sum"), p.begun + 1)]
        operands = [self._slot("out", p.begun), accumulator]
        free = [self._counter("accumulator free")]
        if self._scaled:
            operands.append(self._slot("scales", p.begun))
            wait.append((self._counter("scales loaded"), p.begun + 1))
            free.append(self._counter("scales free"))
        p.vector("dequantise" if self._scaled else "convert", operands, (p.column("whole"), width), wait=wait)
        partial = (self._slot("partial out", p.begun), accumulator)
        p.vector("convert", partial, (p.column("split"), width), signal=[self._counter("out"), *free])

    def _store(self) -> None:
        p, width = self._p, self._extents()[1]
        c = Region(self._recipe.result[0], {"m": (p.column("m"), p.column("whole")), "n": (p.column("n"), width)})
        there: Axes = {"part": (p.column("part"), 1), "m": (0, p.column("split")), "n": (0, width)}
        for name, region in (("out", c), ("partial out", Region(self._recipe.partial, there))):
            ready: list[Wait] = [(self._counter("out"), p.begun + 1)]
            p.store(self._slot(name, p.begun), region, wait=ready, signal=[self._counter("out free")])


def _fix_up(
    grid: Grid, recipe: Recipe, machine: Machine, tensors: tuple[Tensor, ...], items: dict[str, Array]
) -> Phase:
    """Add the partial sums of every tile that was cut, by strips of rows that fit where one tile did."""
    cut = np.flatnonzero(items["split"])
    begins = cut[items["first"][cut] == 0]  # the parts of a tile follow one another
    first = items["part"][begins]
    parts = np.diff(np.append(first, len(cut)))
    strip = max(1, grid.tile_m // int(parts.max()))
    which, number = within_owners(-(-items["split"][begins] // strip))
    top = number * strip
    columns = {
        "part": first[which],
        "parts": parts[which],
        "top": top,
        "m": items["m"][begins][which] + top,
        "n": items["n"][begins][which],
        "rows": np.minimum(items["split"][begins][which] - top, strip),
    }
    p = PhaseAssembler("fix up", tensors, tuple(columns))
    rows, width = p.column("rows"), (grid.n - p.column("n")).clip(grid.tile_n)
    source: Axes = {"part": (p.column("part"), p.column("parts")), "m": (p.column("top"), rows), "n": (0, width)}
    there: Axes = {"m": (p.column("m"), rows), "n": (p.column("n"), width)}
    partials = block("partials", int(parts.max()) * strip, grid.tile_n, recipe.sum_dtype, 2)
    sizes = (p.column("parts"), rows, width)
    add_partials(p, recipe, machine, partials, strip, Region(recipe.partial, source), there, sizes)
    tasks = np.stack(list(columns.values()), axis=1)
    return p.finish(tasks, schedule("static", np.ones(len(tasks), np.int64), machine.spec.cores.count))
