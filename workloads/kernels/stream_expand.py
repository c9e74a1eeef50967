"""What a block writes to residual streams: they are mixed, and its result is added to each by a weight (DeepSeek V4).

The weights come from `collapse-streams`; rows are cut into tiles of columns, as every column is computed by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwmodel.assembler import Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.kernels.base import check_knobs, knob, knob_layout
from workloads.kernels.rowwise import RowKnobs, RowPhase, Step, Strip, bands, row_sizes
from workloads.model import Model
from workloads.placement import place

STREAMS, RESULT, WEIGHTS, OUT = range(4)
SIZES = {"streams": 4}  # DeepSeek V4
OPTIONS = ("rows",)
OPTIONAL = {"columns": 0, **SIZES}


@dataclass(frozen=True)
class Problem:
    """`rows` tokens of `streams` times `columns` elements."""

    rows: int
    streams: int
    columns: int
    dtype: str


@dataclass(frozen=True)
class Knobs(RowKnobs):
    """What the search may choose."""

    tile_columns: int = knob(1024, "columns in a tile, at most", least=1)
    layout: str = knob("row stream column", "where the streams lie, outermost first", axes="row, stream, column")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of `rows` of `columns` or the model's hidden size."""
    sizes, dtype = row_sizes("expand-streams", options, model, "columns", "hidden", (), SIZES)
    return Problem(sizes["rows"], sizes["streams"], sizes["columns"], dtype)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, tiles wider than a row."""
    width = min(knobs.tile_columns, problem.columns)
    return (repr(_tensors(problem, knobs)[STREAMS].layout.key), knobs.tile_rows, width, knobs.stages)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(_tensors(problem, knobs), machine)
    height, width, n = knobs.tile_rows, min(knobs.tile_columns, problem.columns), problem.streams

    def strip(name: str, rows: int, tensor: int) -> Strip:
        return Strip(name, rows, width, lambda t: Region(tensor, {"row": t.span(), "column": t.across}))

    weights = Strip("weights", height, n * (2 + n), lambda t: Region(WEIGHTS, {"row": t.span()}))
    kernel = RowPhase(
        "expand",
        height,
        width,
        problem.columns,
        knobs.stages,
        (strip("streams", height * n, STREAMS), strip("result", height, RESULT), weights),
        (strip("out", height * n, OUT),),
        (Step("expand_streams", ("out", "streams", "result", "weights"), lambda t: (t.height, n, t.width)),),
    )
    phase = kernel.assemble(tensors, bands(problem.rows, problem.columns, width, machine.spec.cores.count), machine)
    machine.require_fit(phase, {"tile_rows": height, "tile_columns": width, "stages": knobs.stages})
    return Program("expand-streams", tensors, (phase,))


def _tensors(problem: Problem, knobs: Knobs) -> list[Tensor]:
    rows, n, columns = problem.rows, problem.streams, problem.columns
    streams = knob_layout(knobs, "layout", {"row": rows, "stream": n, "column": columns})
    weights = named("row weight", {"row": rows, "weight": n * (2 + n)})
    return [
        Tensor("streams", streams, problem.dtype, NONE, "cache"),
        Tensor("result", named("row column", {"row": rows, "column": columns}), problem.dtype, NONE, "cache"),
        Tensor("weights", weights, "fp32", NONE, "cache"),
        Tensor("out", streams, problem.dtype, NONE, "cache"),
    ]
