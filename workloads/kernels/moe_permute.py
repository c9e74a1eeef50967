"""Permutation of a layer of experts: rows of tokens are gathered into the order of their experts.

Each expert's rows lie together, in contiguous groups padded to whole blocks or in masked ones with room for a fixed
number (expert e from row e · room on, the layout [expert, room, column]). Padding rows are not written. The table of
sorted tokens is given with the program; what kernels spend on making it is not modelled.
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
from workloads.kernels.base import knob, knob_layout
from workloads.kernels.model_sizes import expert_rows
from workloads.kernels.moe_problem import (
    GROUPINGS,
    Routed,
    RoutingKnobs,
    check,
    expert_items,
    groups_of,
    routed_sizes,
    routing_key,
    routing_of,
    sorted_tokens,
)
from workloads.kernels.rowwise import Items, RowKnobs, RowPhase, Strip
from workloads.model import Model
from workloads.placement import place
from workloads.routing import Groups, Routing

X, TOKENS, PERMUTED = range(3)


@dataclass(frozen=True, kw_only=True)
class Problem(Routed):
    """Routed tokens of `columns` elements."""

    columns: int


@dataclass(frozen=True, kw_only=True)
class Knobs(RowKnobs, RoutingKnobs):
    """What the search may choose."""

    tile_columns: int = knob(4096, "columns in a tile, at most", least=1)
    groups: str = knob(
        "contiguous", "rows of experts one after another, or with room for a fixed number", choices=GROUPINGS
    )
    block: int = knob(128, "rows to whose multiple contiguous groups are padded", least=1)
    layout: str = knob("row column", "where the permuted rows lie, outermost first", axes="row, column")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of tokens, experts and topk, and of `columns` or the model's hidden size."""
    return Problem(**hidden_sizes("moe-permute", options, model))


def hidden_sizes(kernel: str, options: Mapping[str, int], model: Model | None) -> dict[str, Any]:
    """Return the fields of a problem of routed tokens with `columns` elements, by default the model's hidden size."""
    sizes = routed_sizes(kernel, options, model, (), {"columns": 0, "max_rows": 0}, expert_rows)
    if not sizes["columns"]:
        raise ValueError(f"options: size columns is missing; kernel {kernel} needs it, or a model")
    return sizes


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: tiles wider than a row, and blocks of masked groups."""
    block = knobs.block if knobs.groups == "contiguous" else 0
    width = min(knobs.tile_columns, problem.columns)
    rows = knobs.block << 10 if block else problem.experts * (problem.max_rows or problem.tokens)
    layout = repr(knob_layout(knobs, "layout", {"row": rows, "column": problem.columns}).key)  # rows: as if so many
    routing = routing_key(problem, knobs)
    return (*routing, layout, knobs.tile_rows, width, knobs.stages, knobs.groups, block)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` draws the routing where the problem has none.
    """
    check(knobs)
    routing = routing_of(problem, knobs, seed)
    groups = groups_of(problem, routing, knobs.groups, knobs.block)
    sizes = {"row": groups.rows, "column": problem.columns}
    tokens = named("row column", sizes | {"row": problem.tokens})
    tensors = place(
        [
            Tensor("x", tokens, problem.dtype, NONE, "cache"),
            sorted_tokens(routing),
            Tensor("permuted", knob_layout(knobs, "layout", sizes), problem.dtype, NONE, "cache"),
        ],
        machine,
    )
    tile = knobs.tile_rows, min(knobs.tile_columns, problem.columns)
    kernel, items = permute(routing, groups, (X, TOKENS, PERMUTED), (*tile, problem.columns), knobs.stages)
    phase = kernel.assemble(tensors, items, machine)
    machine.require_fit(phase, {"tile_rows": tile[0], "tile_columns": tile[1], "stages": knobs.stages})
    return Program("moe-permute", tensors, (phase,))


def permute(
    routing: Routing, groups: Groups, numbers: tuple[int, int, int], sizes: tuple[int, int, int], stages: int
) -> tuple[RowPhase, Items]:
    """Return the phase that gathers tokens into permuted rows, and its items.

    `numbers`: tensors of tokens, of the table of sorted tokens, of permuted rows, the first and last with axes row and
    column; `sizes`: rows and columns of a tile, columns in all.
    """
    source, table, to = numbers
    height, width, columns = sizes

    def gathered(tile: Any) -> Region:
        return Region(source, {"row": tile.span("sorted"), "column": tile.across}, table, 0, "row", "row")

    kernel = RowPhase(
        "permute",
        height,
        width,
        columns,
        stages,
        (Strip("rows", height, width, gathered),),
        (Strip("permuted", height, width, lambda t: Region(to, {"row": t.span(), "column": t.across}), "rows"),),
    )
    return kernel, expert_items(routing, groups, height, width, columns)
