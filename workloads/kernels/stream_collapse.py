"""What a block reads of residual streams: their weighted sum, with the weights made from their logits (DeepSeek V4).

A row has `streams` copies of the hidden state. Their product with a matrix, a kernel of its own, gives the row's
logits; this kernel norms them by the root mean square of the streams, makes the weights (`pre`, `post` and, by rounds
of Sinkhorn's iteration, `mix`: `kernels_ref.compressed`), stores them for `expand-streams`, and stores the sum of the
streams by `pre`. Without rounds, as before the head of a model, there is `pre` alone, and no weights are stored.
A row is reduced in one core, so whole rows must fit its scratchpad.
Not modelled: a norm of the sum, which follows as a kernel of its own, and logits wider than 16 bits.
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

STREAMS, LOGITS, BASE, SCALES, OUT, WEIGHTS = range(6)
SIZES = {"streams": 4, "rounds": 20}  # DeepSeek V4
OPTIONS = ("rows",)
OPTIONAL = {"columns": 0, "head": 0, **SIZES}


@dataclass(frozen=True)
class Problem:
    """`rows` tokens of `streams` times `columns` elements; `rounds` of Sinkhorn's iteration, 0: the sum alone."""

    rows: int
    streams: int
    columns: int
    rounds: int
    dtype: str
    eps: float = 1e-6

    @property
    def weights(self) -> int:
        """The weights of a row, and its logits."""
        return self.streams * (2 + self.streams) if self.rounds else self.streams


@dataclass(frozen=True)
class Knobs(RowKnobs):
    """What the search may choose."""

    tile_rows: int = knob(2, "rows in a tile, at most", least=1)
    layout: str = knob("row stream column", "where the streams lie, outermost first", axes="row, stream, column")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of `rows` of `columns` or the model's hidden size; `head`: 1 for the sum before a head."""
    sizes, dtype = row_sizes("collapse-streams", options, model, "columns", "hidden", ("head",), SIZES)
    rounds = 0 if sizes["head"] else sizes["rounds"]
    return Problem(sizes["rows"], sizes["streams"], sizes["columns"], rounds, dtype)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function."""
    return (repr(_tensors(problem, knobs)[STREAMS].layout.key), knobs.tile_rows, knobs.stages)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(_tensors(problem, knobs), machine)
    n, columns, tile = problem.streams, problem.columns, knobs.tile_rows

    def strip(name: str, rows: int, width: int, tensor: int) -> Strip:
        return Strip(name, rows, width, lambda t: Region(tensor, {"row": t.span()}))

    def whole(name: str, width: int, tensor: int) -> Strip:
        return Strip(name, 1, width, lambda t: Region(tensor, {}))

    weights = Strip("weights", tile, problem.weights, None, dtype="fp32")
    stored = (strip("weights", tile, problem.weights, WEIGHTS),) if problem.rounds else ()
    kernel = RowPhase(
        "collapse",
        tile,
        columns,
        columns,
        knobs.stages,
        (strip("streams", tile * n, columns, STREAMS), strip("logits", tile, problem.weights, LOGITS)),
        (strip("out", tile, columns, OUT), *stored),
        (
            Step(
                "stream_weights",
                ("weights", "streams", "logits", "base", "scales"),
                lambda t: (t.height, n, columns, problem.rounds),
                problem.eps,
            ),
            Step("collapse_streams", ("out", "streams", "weights"), lambda t: (t.height, n, columns)),
        ),
        (whole("base", problem.weights, BASE), whole("scales", 3 if problem.rounds else 1, SCALES)),
        () if stored else (weights,),
    )
    items = bands(problem.rows, columns, columns, machine.spec.cores.count)
    phase = kernel.assemble(tensors, items, machine)
    machine.require_fit(phase, {"tile_rows": tile, "stages": knobs.stages})
    return Program("collapse-streams", tensors, (phase,))


def _tensors(problem: Problem, knobs: Knobs) -> list[Tensor]:
    rows, columns, weights = problem.rows, problem.columns, problem.weights
    streams = knob_layout(knobs, "layout", {"row": rows, "stream": problem.streams, "column": columns})
    per_row = named("row weight", {"row": rows, "weight": weights})
    scales = 3 if problem.rounds else 1
    tensors = [
        Tensor("streams", streams, problem.dtype, NONE, "cache"),
        Tensor("logits", per_row, problem.dtype, NONE, "cache"),
        Tensor("base", named("one weight", {"one": 1, "weight": weights}), "fp32", NONE),
        Tensor("scales", named("one scale", {"one": 1, "scale": scales}), "fp32", NONE),
        Tensor("out", named("row column", {"row": rows, "column": columns}), problem.dtype, NONE, "cache"),
    ]
    if problem.rounds:
        tensors.append(Tensor("weights", per_row, "fp32", NONE, "cache"))
    return tensors
