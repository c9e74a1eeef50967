"""The residual connection: out = x + residual, element by element, in tiles of rows and columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwmodel.assembler import Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from workloads.batch import Batch
from workloads.kernels.base import check_knobs, knob, knob_layout
from workloads.kernels.rowwise import RowKnobs, RowPhase, Step, Strip, bands, row_sizes
from workloads.model import Model
from workloads.placement import place

X, RESIDUAL, OUT = range(3)


@dataclass(frozen=True)
class Problem:
    """`rows` tokens of `columns` elements."""

    rows: int
    columns: int
    dtype: str


@dataclass(frozen=True)
class Knobs(RowKnobs):
    """What the search may choose."""

    tile_columns: int = knob(4096, "columns in a tile, at most", least=1)
    layout: str = knob("row column", "where all three lie, outermost first", axes="row, column")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int | str]) -> Problem:
    """Return the problem of `rows`, and of `columns` or the model's hidden size."""
    sizes, dtype = row_sizes("residual-add", options, model, "columns", "hidden")
    return Problem(sizes["rows"], sizes["columns"], dtype)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, tiles wider than a row."""
    width = min(knobs.tile_columns, problem.columns)
    return (repr(_tensors(problem, knobs)[X].layout.key), knobs.tile_rows, width, knobs.stages)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(_tensors(problem, knobs), machine)
    height, width = knobs.tile_rows, min(knobs.tile_columns, problem.columns)

    def strip(name: str, tensor: int) -> Strip:
        return Strip(name, height, width, lambda t: Region(tensor, {"row": t.span(), "column": t.across}))

    kernel = RowPhase(
        "add",
        height,
        width,
        problem.columns,
        knobs.stages,
        (strip("x", X), strip("residual", RESIDUAL)),
        (strip("out", OUT),),
        (Step("add", ("out", "x", "residual"), lambda t: (t.height, t.width)),),
    )
    phase = kernel.assemble(tensors, bands(problem.rows, problem.columns, width, machine.spec.cores.count), machine)
    machine.require_fit(phase, {"tile_rows": height, "tile_columns": width, "stages": knobs.stages})
    return Program("residual-add", tensors, (phase,))


def _tensors(problem: Problem, knobs: Knobs) -> list[Tensor]:
    rows = knob_layout(knobs, "layout", {"row": problem.rows, "column": problem.columns})
    return [Tensor(name, rows, problem.dtype, NONE, "cache") for name in ("x", "residual", "out")]
