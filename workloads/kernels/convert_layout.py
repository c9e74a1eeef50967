"""Layout conversion: a matrix is read tile by tile in one layout and written in another; no value changes.

What stands between two kernels when one leaves a tensor in another layout than the next one takes it. A work item is
one tile; neighbouring items are in flight in `stages` buffers. Nothing is computed: the store takes the block
that the load has filled. A tensor of more axes is a matrix whose rows and columns have digits: `between` takes any two
layouts of one shape.

The tensors reside in the shared cache where a machine has one and they fit: the kernels before and after have just
touched them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import DTYPES, NONE, Phase, Program, Tensor
from layouts.notation import NamedLayout, nearest_first
from workloads.batch import Batch
from workloads.buffers import allocate
from workloads.kernels.base import check_knobs, knob, knob_layout, require_options
from workloads.model import Model
from workloads.placement import place
from workloads.schedule import SCHEDULES, schedule

SOURCE, TARGET = range(2)
AXES = ("row", "column")


@dataclass(frozen=True)
class Problem:
    """A matrix of any element type."""

    rows: int
    columns: int
    dtype: str


@dataclass(frozen=True)
class TileKnobs:
    """What the search may choose where the layouts are given."""

    tile_rows: int = knob(64, "rows of a tile, at most", least=1)
    tile_columns: int = knob(64, "columns of a tile, at most", least=1)
    stages: int = knob(3, "tiles in flight", least=1)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)


@dataclass(frozen=True)
class Knobs(TileKnobs):
    """What the search may choose."""

    layout_in: str = knob("row column", "where the matrix lies, outermost first", axes="row, column")
    layout_out: str = knob("column row", "where it is to lie, outermost first", axes="row, column")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of the sizes rows, columns in `options`, in the model's dtype or bf16; no batch is used."""
    require_options("convert-layout", options, ("rows", "columns"))
    dtype = model.dtype if model else "bf16"
    if dtype not in DTYPES:
        raise ValueError(f"kernel convert-layout: unknown dtype {dtype!r}; known: {nearest_first(dtype, DTYPES)}")
    return Problem(options["rows"], options["columns"], dtype)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, tiles no larger than needed."""
    layouts = [repr(layout.key) for layout in _layouts(problem, knobs)]
    tile = min(knobs.tile_rows, problem.rows), min(knobs.tile_columns, problem.columns)
    return (*layouts, *tile, knobs.stages, knobs.schedule)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    return between(*_layouts(problem, knobs), problem.dtype, knobs, machine)


def between(source: NamedLayout, target: NamedLayout, dtype: str, knobs: TileKnobs, machine: Machine) -> Program:
    """Return the program from one layout of the axes row and column to another."""
    requested = [Tensor("source", source, dtype, NONE, "cache"), Tensor("target", target, dtype, NONE, "cache")]
    tensors = place(requested, machine)
    phase = _convert(source.size("row"), source.size("column"), dtype, knobs, machine, tensors)
    sizes = {"tile_rows": knobs.tile_rows, "tile_columns": knobs.tile_columns, "stages": knobs.stages}
    machine.require_fit(phase, sizes)
    return Program("convert-layout", tensors, (phase,))


def _layouts(problem: Problem, knobs: Knobs) -> tuple[NamedLayout, NamedLayout]:
    sizes = {"row": problem.rows, "column": problem.columns}
    return knob_layout(knobs, "layout_in", sizes), knob_layout(knobs, "layout_out", sizes)


def _convert(
    rows: int, columns: int, dtype: str, knobs: TileKnobs, machine: Machine, tensors: tuple[Tensor, ...]
) -> Phase:
    tile = min(knobs.tile_rows, rows), min(knobs.tile_columns, columns)
    grid = np.indices((-(-rows // tile[0]), -(-columns // tile[1]))).reshape(2, -1)
    tasks = np.stack([grid[0] * tile[0], grid[1] * tile[1]], axis=1)
    p = PhaseAssembler("convert layout", tensors, AXES)
    (buffer,) = p.add_buffers(allocate([block("tile", *tile, dtype, knobs.stages)], machine))
    loaded, free = p.counter("tile loaded", "memory"), p.counter("tile free", "buffer")
    row, column = p.column("row"), p.column("column")
    there = {"row": (row, (rows - row).clip(tile[0])), "column": (column, (columns - column).clip(tile[1]))}
    here = Slot(buffer, p.begun)
    p.load(here, Region(SOURCE, there), wait=[(free, p.begun - knobs.stages + 1)], signal=[loaded])
    p.store(here, Region(TARGET, there), wait=[(loaded, p.begun + 1)], signal=[free])
    costs = np.minimum(rows - tasks[:, 0], tile[0]) * np.minimum(columns - tasks[:, 1], tile[1])
    return p.finish(tasks, schedule(knobs.schedule, costs, machine.spec.cores.count))
