"""Finalisation of a layer of experts: every token gathers the rows of its choices and adds them up by their weights.

The rows are where the experts' products left them, in contiguous or masked groups; their table is given with the
program. What a shared expert has returned is added, too, where the problem has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hwmodel.assembler import Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.kernels import moe_permute
from workloads.kernels.base import knob_layout
from workloads.kernels.moe_problem import check, choice_rows, groups_of, routing_of
from workloads.kernels.moe_route import choice_tensors
from workloads.kernels.rowwise import RowPhase, Step, Strip, bands
from workloads.model import Model
from workloads.placement import place

ROWS, CHOICES, WEIGHTS, OUT = range(4)
Problem = moe_permute.Problem
Knobs = moe_permute.Knobs


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of tokens, experts and topk, and of `columns` or the model's hidden size."""
    return Problem(**moe_permute.hidden_sizes("moe-finalize", options, model))


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: those of `moe_permute`, and rows that are as many tokens."""
    rows = _tokens(knobs.tile_rows, problem.topk) * problem.topk
    return moe_permute.canonical(problem, replace(knobs, tile_rows=rows))


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` draws the routing where the problem has none.
    """
    check(knobs)
    routing = routing_of(problem, knobs, seed)
    groups = groups_of(problem, routing, knobs.groups, knobs.block)
    sizes = {"row": groups.rows, "column": problem.columns}
    tensors = place(
        [
            Tensor("rows", knob_layout(knobs, "layout", sizes), problem.dtype, NONE, "cache"),
            choice_rows(routing, groups),
            choice_tensors(problem.tokens, problem.topk)[0],
            Tensor("out", named("row column", sizes | {"row": problem.tokens}), problem.dtype, NONE, "cache"),
        ],
        machine,
    )
    tile = knobs.tile_rows, min(knobs.tile_columns, problem.columns)
    kernel = finalize(problem.topk, (ROWS, CHOICES, WEIGHTS, OUT), (*tile, problem.columns), knobs.stages)
    phase = kernel.assemble(tensors, bands(problem.tokens, problem.columns, tile[1], machine.spec.cores.count), machine)
    machine.require_fit(phase, {"tile_rows": tile[0], "tile_columns": tile[1], "stages": knobs.stages})
    return Program("moe-finalize", tensors, (phase,))


def finalize(
    topk: int, numbers: tuple[int, int, int, int], sizes: tuple[int, int, int], stages: int, shared: int | None = None
) -> RowPhase:
    """Return the phase that adds up the rows of every token's choices.

    `numbers`: tensors of permuted rows, of the table of their rows, of weights (token, choice), of the result, the
    first and last with axes row and column; `sizes`: gathered rows (of one token at least) and columns of a tile,
    columns in all; `shared`: a tensor like the result that is added.
    """
    rows, table, weights, out = numbers
    gathered_rows, width, columns = sizes
    height = _tokens(gathered_rows, topk)

    def gathered(tile: Any) -> Region:
        return Region(rows, {"row": tile.span(per_row=topk), "column": tile.across}, table, 0, "row", "row")

    def strip(name: str, tensor: int) -> Strip:
        return Strip(name, height, width, lambda t: Region(tensor, {"row": t.span(), "column": t.across}))

    others = () if shared is None else (strip("shared", shared),)
    inputs = (
        Strip("rows", height * topk, width, gathered),
        Strip("weights", height, topk, lambda t: Region(weights, {"token": t.span()})),
        *others,
    )
    operands = ("out", *(strip.name for strip in inputs))
    return RowPhase(
        "finalize",
        height,
        width,
        columns,
        stages,
        inputs,
        (strip("out", out),),
        (Step("weighted_sum", operands, lambda t: (topk, t.height, t.width)),),
    )


def _tokens(rows: int, topk: int) -> int:
    """Return the tokens whose choices are so many rows at most; one token at least."""
    return max(1, rows // topk)
