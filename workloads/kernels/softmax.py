"""Softmax along rows: out = softmax(scale · x), a row in one core, as a whole or in parts (`row_parts`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hwmodel.assembler import Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from workloads.batch import Batch
from workloads.kernels import row_parts
from workloads.kernels.base import check_knobs, knob, knob_layout, require_options
from workloads.kernels.row_parts import STATE, PartKnobs, PartPhase, Pass
from workloads.kernels.rowwise import RowPhase, Step, Strip, bands, row_dtype
from workloads.model import Model
from workloads.placement import place

X, OUT = range(2)


@dataclass(frozen=True)
class Problem:
    """`rows` of `columns` elements, which are multiplied by `scale` first."""

    rows: int
    columns: int
    dtype: str
    scale: float = 1.0


@dataclass(frozen=True)
class Knobs(PartKnobs):
    """What the search may choose."""

    layout: str = knob("row column", "where x and out lie, outermost first", axes="row, column")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int | str]) -> Problem:
    """Return the problem of the sizes rows and columns, in `dtype`, the model's or bf16."""
    dtype, given = row_dtype("softmax", options, model)
    sizes = require_options("softmax", given, ("rows", "columns"))
    return Problem(sizes["rows"], sizes["columns"], dtype)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function."""
    return (repr(_tensors(problem, knobs)[X].layout.key), knobs.tile_rows, knobs.stages, knobs.part(problem.columns))


def candidates(problem: Problem, machine: Machine) -> Iterator[Knobs]:
    """Yield knobs to try."""
    return row_parts.candidates(Knobs)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(_tensors(problem, knobs), machine)
    columns, part = problem.columns, knobs.part(problem.columns)
    items = bands(problem.rows, columns, columns, machine.spec.cores.count)
    if part:
        phase = PartPhase(
            "softmax",
            knobs.tile_rows,
            part,
            columns,
            knobs.stages,
            ("x",),
            (),
            ("out",),
            (Pass("softmax_part", (STATE, "x"), problem.scale, reduces=True),),
            (Pass("softmax_result", ("out", STATE, "x"), problem.scale),),
            numbers=2,
        ).assemble(tensors, items, machine)
        machine.require_fit(phase, {"tile_rows": knobs.tile_rows, "tile_columns": part, "stages": knobs.stages})
        return Program("softmax", tensors, (phase,))

    def strip(name: str, tensor: int) -> Strip:
        return Strip(name, knobs.tile_rows, columns, lambda t: Region(tensor, {"row": t.span()}))

    kernel = RowPhase(
        "softmax",
        knobs.tile_rows,
        columns,
        columns,
        knobs.stages,
        (strip("x", X),),
        (strip("out", OUT),),
        (Step("softmax", ("out", "x"), lambda t: (t.height, columns), problem.scale),),
    )
    phase = kernel.assemble(tensors, items, machine)
    machine.require_fit(phase, {"tile_rows": knobs.tile_rows, "stages": knobs.stages})
    return Program("softmax", tensors, (phase,))


def _tensors(problem: Problem, knobs: Knobs) -> list[Tensor]:
    rows = knob_layout(knobs, "layout", {"row": problem.rows, "column": problem.columns})
    return [Tensor(name, rows, problem.dtype, NONE, "cache") for name in ("x", "out")]
