"""Sparse attention: every query attends to the tokens that an indexer has selected, in the absorbed latent form.

A work item is a tile of `head_tile` heads of one query, over its selected tokens or a part of at most `split_tokens` of
them. Tokens are gathered one by one from the paged latent cache through an index tensor, which holds the slot of every
selected token in the pool (page * page size + token in the page), query after query; an engine without gather takes a
descriptor for each. The cache is plain or a record, as for `mla_decode`, and the phases are the same.

Which tokens are selected decides the time, so positions are known when a program is compiled: `compile` draws them,
`program` takes them as they come from an indexer. Not modelled: the kernel that turns positions into slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.machine import Machine
from hwmodel.program import NONE, Deferred, Program, Tensor, Values
from layouts.notation import named
from workloads import paging
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS
from workloads.kernels.base import check_knobs, knob, knob_layout, require_options
from workloads.kernels.latent import Attend, Heads, Plan, combine
from workloads.kernels.latent_cache import RECORDS, Pool, by_token, check_record, place_with, plain_pool, record_pool
from workloads.kernels.mla_decode import OPTIONAL as MLA_OPTIONAL
from workloads.kernels.mla_decode import check_queries, heads_of
from workloads.model import Model
from workloads.page_orders import DRAWN_ORDERS
from workloads.schedule import SCHEDULES, schedule

SELECTIONS = ("uniform", "recent")
OPTIONS = ("heads",)
OPTIONAL = {"top_k": 2048, **MLA_OPTIONAL}  # DeepSeek V3.2

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Problem:
    """One layer's attention: query i of `q_len` sees all but the q_len - 1 - i last tokens, and selects `top_k`."""

    heads: Heads
    top_k: int
    q_len: int
    contexts: tuple[int, ...]

    def seen(self) -> Array:
        """Return how many tokens every query sees, by sequence and query."""
        contexts = np.array(self.contexts, np.int64)[:, None]
        return (contexts - self.q_len + 1 + np.arange(self.q_len)).reshape(-1)


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    record: str = knob("plain", "the cache in the queries' type, or a record with eight-bit values", choices=RECORDS)
    layout: str = knob(
        "page token dim", "where a plain cache lies, outermost first; token: in its page", axes="page, token, dim"
    )
    page_size: int = knob(64, "tokens in a page", least=1)
    page_order: str = knob("shuffled", "how an allocator has dealt the pages", choices=DRAWN_ORDERS)
    selection: str = knob("uniform", "selected tokens drawn at random, or the last ones", choices=SELECTIONS)
    head_tile: int = knob(64, "heads of a query that one core takes", least=1)
    tile: int = knob(64, "tokens in one load", least=1)
    stages: int = knob(3, "tiles of the cache in flight: scores of one, weighted sum of the one before", least=2)
    split_tokens: int = knob(0, "most selected tokens that one core takes; 0: all of a query", least=0)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)
    sram_layout: str = knob("swizzled", "where operands lie in the scratchpad", choices=OPERAND_LAYOUTS)


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of one layer over `batch`, which is required; a model gives the dtype only.

    Options: those of mla-decode, and top_k tokens per query (2048).
    """
    sizes = require_options("sparse-attention", options, OPTIONS, OPTIONAL)
    heads = heads_of("sparse-attention", sizes, model)
    if batch is None:
        raise ValueError("batch: kernel sparse-attention needs one, with a context or a trace")
    check_queries(sizes["q_len"], batch.contexts)
    return Problem(heads, sizes["top_k"], sizes["q_len"], batch.contexts)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, splits that split nothing."""
    check_knobs(knobs)
    most = int(np.minimum(problem.seen(), problem.top_k).max())
    return (
        *(repr(tensor.layout.key) for tensor in _pool(problem, knobs).tensors),
        knobs.record,
        knobs.page_size,
        knobs.page_order,
        knobs.selection,
        min(knobs.head_tile, problem.heads.count),
        knobs.tile,
        knobs.stages,
        knobs.split_tokens if 0 < knobs.split_tokens < most else 0,
        knobs.sram_layout,
        knobs.schedule,
    )


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program over tokens that are drawn. Raises ValueError as `program`.

    `seed` draws the page order and the selection.
    """
    slots = Deferred(_drawn_slots, (problem, knobs, seed))
    return _program(problem, knobs, machine, _counts(problem), slots)


def program(problem: Problem, knobs: Knobs, machine: Machine, seed: int, positions: Sequence[Array]) -> Program:
    """Return the program over `positions`, one array per query, by sequence and query.

    Raises ValueError naming a knob that is out of range, positions that a query does not see, or what does not fit and
    by how much. `seed` draws the page order.
    """
    _check_positions(problem, positions)
    counts = [len(chosen) for chosen in positions]
    return _program(problem, knobs, machine, counts, _slots(problem, knobs, seed, positions))


def _program(
    problem: Problem, knobs: Knobs, machine: Machine, counts: Sequence[int], slots: Values | Deferred
) -> Program:
    """Return the program whose queries select `counts` positions, which lie in `slots` of the pool."""
    check_knobs(knobs)
    check_record(knobs.record, problem.heads.dim, problem.heads.dtype)
    rows = min(knobs.head_tile, problem.heads.count)
    tasks = _tasks(problem, knobs, counts)
    parts = len(tasks["owner"])
    split = parts > len(counts) * -(-problem.heads.count // rows)
    index = Tensor("slots", named("entry", {"entry": sum(counts)}), "int32", NONE, "cache", slots)
    tensors = place_with(_tensors(problem, index, parts if split else 0, rows), _pool(problem, knobs), machine)
    plan = Plan(
        rows, knobs.tile, knobs.stages, knobs.sram_layout, knobs.record, "token", "token", causal=False, split=split
    )
    order = schedule(knobs.schedule, tasks["tokens"], machine.spec.cores.count)
    phases = [Attend(problem.heads, plan, machine, tensors, tasks).finish(order)]
    machine.require_fit(phases[0], {"head_tile": knobs.head_tile, "tile": knobs.tile, "stages": knobs.stages})
    if split:
        phases.append(combine(problem.heads, rows, machine, tensors, tasks))
        machine.require_fit(phases[1], {"split_tokens": knobs.split_tokens, "head_tile": knobs.head_tile})
    return Program("sparse-attention", tensors, tuple(phases))


def _check_positions(problem: Problem, positions: Sequence[Array]) -> None:
    seen = problem.seen().tolist()
    if len(positions) != len(seen):
        raise ValueError(f"positions: {len(positions)} arrays; allowed: one for each of {len(seen)} queries")
    for query, (chosen, limit) in enumerate(zip(positions, seen, strict=True)):
        if len(chosen) == 0 or chosen.min() < 0 or chosen.max() >= limit:
            ends = (int(chosen.min()), int(chosen.max())) if len(chosen) else ()
            raise ValueError(f"positions: query {query} has ends {ends}; allowed: one or more in 0 to {limit - 1}")


def _pool(problem: Problem, knobs: Knobs) -> Pool:
    pages = paging.pool_pages(knobs.page_order, problem.contexts, knobs.page_size)
    if knobs.record != "plain":
        return by_token(record_pool(knobs.record, pages, knobs.page_size))
    sizes = {"page": pages, "token": knobs.page_size, "dim": problem.heads.dim}
    return by_token(plain_pool(knob_layout(knobs, "layout", sizes), problem.heads.dtype))


def _counts(problem: Problem) -> list[int]:
    """Return how many positions every query selects: all that it sees, or `top_k`."""
    counts: list[int] = np.minimum(problem.seen(), problem.top_k).tolist()
    return counts


def _drawn_slots(problem: Problem, knobs: Knobs, seed: int) -> Values:
    """Return the slots of the positions that the knob `selection` draws, as `_slots`."""
    rng = np.random.default_rng([seed, 1])  # apart from the stream of the page order
    counts = zip(problem.seen().tolist(), _counts(problem), strict=True)
    if knobs.selection == "uniform":
        chosen = [np.sort(rng.choice(n, count, replace=False)) for n, count in counts]
    else:
        chosen = [np.arange(n - count, n) for n, count in counts]
    return _slots(problem, knobs, seed, chosen)


def _slots(problem: Problem, knobs: Knobs, seed: int, positions: Sequence[Array]) -> Values:
    """Return the slots in the pool of all positions, int32, query after query."""
    table = paging.page_table(knobs.page_order, problem.contexts, knobs.page_size, np.random.default_rng(seed))
    found = []
    for query, chosen in enumerate(positions):
        pages = table.pages[table.first_page[query // problem.q_len] + chosen // knobs.page_size]
        found.append(pages * knobs.page_size + chosen % knobs.page_size)
    return np.concatenate(found).astype(np.int32)


def _tensors(problem: Problem, slots: Tensor, parts: int, rows: int) -> list[Tensor]:
    """Return all tensors but the cache's; rows are those of all queries, by sequence, query and head."""
    heads, count = problem.heads, len(problem.seen()) * problem.heads.count
    tensors = [
        Tensor("q", named("row dim", {"row": count, "dim": heads.dim}), heads.dtype, NONE, "cache"),
        slots,
        Tensor("out", named("row dim", {"row": count, "dim": heads.value_dim}), heads.dtype, NONE, "cache"),
    ]
    if parts:
        sizes = {"part": parts, "row": rows, "column": heads.value_dim + 1}
        tensors.append(Tensor("partial", named("part row column", sizes), "fp32", NONE, "cache"))
    return tensors


def _tasks(problem: Problem, knobs: Knobs, counts: Sequence[int]) -> dict[str, Array]:
    """Return the columns of the work items, ordered by query, tile of heads and part."""
    selected = np.array(counts, np.int64)
    first = np.cumsum(np.append(0, selected))[:-1]
    limit = knobs.split_tokens or int(selected.max())
    rows = min(knobs.head_tile, problem.heads.count)
    per_query = -(-problem.heads.count // rows)
    owner = np.arange(len(selected) * per_query)
    parts = -(-selected[owner // per_query] // limit)
    owner = np.repeat(owner, parts)
    begin = (np.arange(len(owner)) - np.repeat(np.cumsum(parts) - parts, parts)) * limit
    query, head = owner // per_query, owner % per_query * rows
    tokens = np.minimum(selected[query] - begin, limit)
    return {
        "owner": owner,
        "row": query * problem.heads.count + head,
        "rows": np.minimum(problem.heads.count - head, rows),
        "first": first[query],
        "begin": begin,
        "tokens": tokens,
        "tiles": -(-tokens // knobs.tile),
        "part": np.arange(len(owner)),
    }
