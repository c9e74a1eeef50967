"""Rotary position embedding of the query and key heads of every token.

The heads of a token lie in one tensor (token, head, dim), as the product with the stacked weights leaves them. Cosines
and sines lie in a table (position, part, pair), computed once; the row of a token's position is gathered. The result is
a tensor of its own: rotation in place moves the same bytes.
Not modelled: heads that are turned in part, positions with several components.
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
from workloads.kernels.rowwise import RowKnobs, RowPhase, Step, Strip, bands
from workloads.model import Model
from workloads.placement import place

X, TABLE, POSITIONS, OUT = range(4)
STYLES = ("neox", "interleaved")
TABLES = ("fp32", "model")


@dataclass(frozen=True)
class Problem:
    """One new token per entry of `positions`, `heads` heads of `dim` elements each; dim is even."""

    positions: tuple[int, ...]
    heads: int
    dim: int
    dtype: str


@dataclass(frozen=True)
class Knobs(RowKnobs):
    """What the search may choose; `style` is the model's."""

    style: str = knob("neox", "pairs: i with i + dim/2, or 2 i with 2 i + 1", choices=STYLES)
    table_dtype: str = knob("fp32", "type of cosines and sines: fp32, or the model's", choices=TABLES)
    layout: str = knob("token head dim", "where the heads lie, outermost first", axes="token, head, dim")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of the last token of every sequence of `batch`, with the heads of `model`; no options."""
    require_options("rope", options, ())
    if model is None:
        raise ValueError("model: kernel rope needs one")
    if batch is None:
        raise ValueError("batch: kernel rope needs one, with a context or a trace")
    dtype = require_16_bit("rope", model.dtype)
    attention = model.softmax_attention("model: kernel rope")
    heads = attention.heads_q + attention.heads_kv
    return Problem(tuple(c - 1 for c in batch.contexts), heads, attention.head_dim_qk, dtype)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function."""
    layout = repr(_tensors(problem, knobs)[X].layout.key)
    table = problem.dtype if knobs.table_dtype == "model" else "fp32"
    return (layout, knobs.style, table, knobs.tile_rows, knobs.stages)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    if problem.dim % 2:
        raise ValueError(f"model: head_dim is {problem.dim}; kernel rope needs an even one")
    tensors = place(_tensors(problem, knobs), machine)
    heads, dim, height = problem.heads, problem.dim, knobs.tile_rows

    def strip(name: str, tensor: int) -> Strip:
        return Strip(name, heads * height, dim, lambda t: Region(tensor, {"token": t.span()}))

    kernel = RowPhase(
        "rope",
        height,
        dim,
        dim,
        knobs.stages,
        (strip("x", X), angles(height, dim, TABLE, POSITIONS)),
        (strip("out", OUT),),
        (Step(f"rope_{knobs.style}", ("out", "x", "angles"), lambda t: (heads, t.height, dim)),),
    )
    phase = kernel.assemble(tensors, bands(len(problem.positions), dim, dim, machine.spec.cores.count), machine)
    machine.require_fit(phase, {"tile_rows": height, "stages": knobs.stages})
    return Program("rope", tensors, (phase,))


def angles(height: int, dim: int, table: int, positions: int) -> Strip:
    """Return the strip of cosines and sines of the tokens of a tile, gathered from the table by their positions."""

    def region(tile: Any) -> Region:
        return Region(table, {"position": tile.span()}, positions, 0, "position", "position")

    return Strip("angles", 2 * height, dim // 2, region)


def angle_tensors(positions: tuple[int, ...], dim: int, dtype: str) -> list[Tensor]:
    """Return the table of cosines and sines up to the last position, and the positions of the tokens."""
    sizes = {"position": max(positions) + 1, "part": 2, "pair": dim // 2}
    values = np.array(positions, np.int32)
    return [
        Tensor("angles", named("position part pair", sizes), dtype, NONE),
        Tensor("positions", named("entry", {"entry": len(positions)}), "int32", NONE, "cache", values),
    ]


def _tensors(problem: Problem, knobs: Knobs) -> list[Tensor]:
    # heads first, so that a block holds the tokens of one head together
    sizes = {"head": problem.heads, "token": len(problem.positions), "dim": problem.dim}
    heads = knob_layout(knobs, "layout", sizes)
    table = problem.dtype if knobs.table_dtype == "model" else "fp32"
    return [
        Tensor("x", heads, problem.dtype, NONE, "cache"),
        *angle_tensors(problem.positions, problem.dim, table),
        Tensor("out", heads, problem.dtype, NONE, "cache"),
    ]
