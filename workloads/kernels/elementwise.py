"""One operation on every number: a sum, product, quotient or power with another, or a function, in tiles.

The other number is a second tensor of the same shape and layout, or one scalar that the instruction holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwmodel.assembler import Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from hwmodel.vector.pointwise import BINARY, UNARY
from workloads.batch import Batch
from workloads.kernels.base import check_knobs, knob, knob_layout, named_option
from workloads.kernels.rowwise import RowKnobs, RowPhase, Step, Strip, bands, row_sizes
from workloads.model import Model
from workloads.placement import place

OPERATIONS = (*BINARY, *UNARY)
OTHERS = ("tensor", "scalar")
SCALAR = 2.0


@dataclass(frozen=True)
class Problem:
    """`rows` of `columns` numbers; `other`: what a binary operation takes them with, unused by one of one number."""

    rows: int
    columns: int
    dtype: str
    operation: str = "add"
    other: str = "tensor"
    scalar: float = SCALAR

    @property
    def sources(self) -> tuple[str, ...]:
        """The tensors that are read."""
        return ("x", "y") if self.operation in BINARY and self.other == "tensor" else ("x",)

    @property
    def function(self) -> str:
        """The operation of the vector unit."""
        return f"{self.operation}_scalar" if self.operation in BINARY and self.other == "scalar" else self.operation


@dataclass(frozen=True)
class Knobs(RowKnobs):
    """What the search may choose."""

    tile_columns: int = knob(4096, "columns in a tile, at most", least=1)
    layout: str = knob("row column", "where all of them lie, outermost first", axes="row, column")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int | str]) -> Problem:
    """Return the problem of `rows`, of `columns` or the model's hidden size, with its `operation` and the `other`."""
    operation, given = named_option(options, "operation", OPERATIONS)
    other, given = named_option(given, "other", OTHERS)
    sizes, dtype = row_sizes("elementwise", given, model, "columns", "hidden")
    return Problem(sizes["rows"], sizes["columns"], dtype, operation, other)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, tiles wider than a row."""
    width = min(knobs.tile_columns, problem.columns)
    return (repr(_tensors(problem, knobs)[0].layout.key), knobs.tile_rows, width, knobs.stages)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(_tensors(problem, knobs), machine)
    height, width = knobs.tile_rows, min(knobs.tile_columns, problem.columns)

    def strip(number: int) -> Strip:
        there = tensors[number].name
        return Strip(there, height, width, lambda t: Region(number, {"row": t.span(), "column": t.across}))

    *sources, out = (strip(number) for number in range(len(tensors)))
    step = Step(problem.function, ("out", *problem.sources), lambda t: (t.height, t.width), problem.scalar)
    kernel = RowPhase(
        problem.operation,
        height,
        width,
        problem.columns,
        knobs.stages,
        tuple(sources),
        (out,),
        (step,),
    )
    phase = kernel.assemble(tensors, bands(problem.rows, problem.columns, width, machine.spec.cores.count), machine)
    machine.require_fit(phase, {"tile_rows": height, "tile_columns": width, "stages": knobs.stages})
    return Program("elementwise", tensors, (phase,))


def _tensors(problem: Problem, knobs: Knobs) -> list[Tensor]:
    rows = knob_layout(knobs, "layout", {"row": problem.rows, "column": problem.columns})
    return [Tensor(name, rows, problem.dtype, NONE, "cache") for name in (*problem.sources, "out")]
