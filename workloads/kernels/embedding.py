"""Embedding: the rows of a table that the token numbers name, gathered in their order.

Token numbers are given with the problem, or drawn uniformly by the seed; text has fewer distinct tokens, so that a
shared cache would hit more often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.kernels.base import check_knobs, knob, knob_layout, require_16_bit, require_options
from workloads.kernels.moe_problem import index_tensor
from workloads.kernels.rowwise import RowKnobs, RowPhase, Strip, bands
from workloads.model import Model
from workloads.placement import place

TABLE, TOKENS, OUT = range(3)


@dataclass(frozen=True)
class Problem:
    """`rows` tokens out of a `vocabulary`, `columns` elements each; `tokens` are their numbers, or empty.

    Raises ValueError for tokens of another number, or outside the vocabulary.
    """

    rows: int
    vocabulary: int
    columns: int
    dtype: str
    tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.tokens and len(self.tokens) != self.rows:
            raise ValueError(f"tokens: {len(self.tokens)} numbers; allowed: {self.rows}, or none")
        for number, token in enumerate(self.tokens):
            if not 0 <= token < self.vocabulary:
                raise ValueError(f"tokens: number {number} is {token}; allowed: 0 to {self.vocabulary - 1}")


@dataclass(frozen=True)
class Knobs(RowKnobs):
    """What the search may choose."""

    tile_columns: int = knob(4096, "columns in a tile, at most", least=1)
    layout: str = knob("token column", "where the table lies, outermost first", axes="token, column")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of `rows`, and of `vocabulary` and `columns` or the model's vocabulary and hidden size."""
    sizes = require_options("embedding", options, ("rows",), {"vocabulary": 0, "columns": 0})
    for name, of_model in (("vocabulary", "vocabulary"), ("columns", "hidden")):
        if not sizes[name]:
            if model is None:
                raise ValueError(f"options: size {name} is missing; kernel embedding needs it, or a model")
            sizes[name] = getattr(model, of_model)
    dtype = require_16_bit("embedding", model.dtype if model else "bf16")
    return Problem(sizes["rows"], sizes["vocabulary"], sizes["columns"], dtype)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, tiles wider than a row."""
    width = min(knobs.tile_columns, problem.columns)
    return (repr(_table(problem, knobs).layout.key), knobs.tile_rows, width, knobs.stages)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` draws the tokens where the problem has none.
    """
    check_knobs(knobs)
    tokens = problem.tokens or np.random.default_rng(seed).integers(problem.vocabulary, size=problem.rows)
    rows = named("row column", {"row": problem.rows, "column": problem.columns})
    out = Tensor("out", rows, problem.dtype, NONE, "cache")
    tensors = place([_table(problem, knobs), index_tensor("tokens", np.array(tokens)), out], machine)
    height, width = knobs.tile_rows, min(knobs.tile_columns, problem.columns)

    def gathered(tile: Any) -> Region:
        return Region(TABLE, {"token": tile.span(), "column": tile.across}, TOKENS, 0, "token", "token")

    kernel = RowPhase(
        "embed",
        height,
        width,
        problem.columns,
        knobs.stages,
        (Strip("rows", height, width, gathered),),
        (Strip("out", height, width, lambda t: Region(OUT, {"row": t.span(), "column": t.across}), "rows"),),
    )
    phase = kernel.assemble(tensors, bands(problem.rows, problem.columns, width, machine.spec.cores.count), machine)
    machine.require_fit(phase, {"tile_rows": height, "tile_columns": width, "stages": knobs.stages})
    return Program("embedding", tensors, (phase,))


def _table(problem: Problem, knobs: Knobs) -> Tensor:
    table = knob_layout(knobs, "layout", {"token": problem.vocabulary, "column": problem.columns})
    return Tensor("table", table, problem.dtype, NONE)
