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
from typing import Any, Protocol

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
from workloads.kernels.model_sizes import selected
from workloads.kernels.queries import Queries, last_tokens
from workloads.model import Model
from workloads.numbering import within_owners
from workloads.page_orders import DRAWN_ORDERS
from workloads.schedule import SCHEDULES, schedule

SELECTIONS = ("uniform", "recent")
OPTIONS = ("heads",)
OPTIONAL = {"top_k": 2048, **MLA_OPTIONAL}  # DeepSeek V3.2

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Problem:
    """One layer's attention: the last `q_len` tokens of a sequence (0: all) see those before, and select `top_k`."""

    heads: Heads
    top_k: int
    q_len: int | tuple[int, ...]
    contexts: tuple[int, ...]

    @property
    def queries(self) -> Queries:
        """The tokens that attend."""
        return last_tokens(self.contexts, self.q_len)

    def seen(self) -> Array:
        """Return how many tokens every query sees, by sequence and query."""
        return self.queries.position + 1

    def attended(self) -> Array:
        """Return how many tokens every query attends to."""
        return np.minimum(self.seen(), self.top_k)


class Selecting(Protocol):
    """A problem whose queries attend to `top_k` of the tokens that they see, or to all of fewer."""

    @property
    def top_k(self) -> int: ...
    @property
    def contexts(self) -> tuple[int, ...]: ...
    @property
    def queries(self) -> Queries: ...
    def seen(self) -> Array: ...


class PageKnobs(Protocol):
    """Knobs of any kernel over a paged cache."""

    @property
    def page_size(self) -> int: ...
    @property
    def page_order(self) -> str: ...


class SelectionKnobs(PageKnobs, Protocol):
    """Knobs of any kernel whose tokens are drawn."""

    @property
    def selection(self) -> str: ...


@dataclass(frozen=True)
class GatherKnobs:
    """What the search may choose of attention over gathered tokens."""

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


@dataclass(frozen=True)
class Knobs(GatherKnobs):
    """What the search may choose."""


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of one layer over `batch`, which is required; a model gives sizes and dtype.

    Options: those of mla-decode, and top_k tokens per query (2048).
    """
    sizes = require_options("sparse-attention", options, OPTIONS, OPTIONAL, selected(model) if model else {})
    heads = heads_of("sparse-attention", sizes, model)
    if batch is None:
        raise ValueError("batch: kernel sparse-attention needs one, with a context or a trace")
    check_queries(sizes["q_len"], batch.contexts)
    return Problem(heads, sizes["top_k"], sizes["q_len"], batch.contexts)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, splits that split nothing."""
    return gather_key(problem.heads, problem.contexts, int(problem.attended().max()), knobs)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program over tokens that are drawn when their slots are read. Raises ValueError as `program`.

    `seed` draws the page order and the selection.
    """
    check_knobs(knobs)
    place_with([], gather_pool(problem.heads, problem.contexts, knobs), machine)  # before a hopeless size is listed
    slots = Deferred(drawn_slots, (problem, knobs, seed))
    gathering = Gathering(problem.heads, problem.contexts, problem.attended(), slots)
    return gather("sparse-attention", gathering, knobs, machine)


def program(problem: Problem, knobs: Knobs, machine: Machine, seed: int, positions: Sequence[Array]) -> Program:
    """Return the program over `positions`, one array per query, by sequence and query.

    Raises ValueError naming a knob that is out of range, positions that a query does not see, or what does not fit and
    by how much. `seed` draws the page order.
    """
    check_knobs(knobs)
    check_positions(positions, problem.seen())
    slots = slots_of(problem.contexts, problem.queries.sequence, positions, knobs, seed)
    gathering = Gathering(problem.heads, problem.contexts, lengths(positions), slots)
    return gather("sparse-attention", gathering, knobs, machine)


@dataclass(frozen=True, eq=False)
class Gathering:
    """Attention of many queries over tokens of a paged cache with `stored` tokens of every sequence.

    Query i attends to `counts[i]` tokens; `slots` are where they lie in the pool, query after query. `sinks`: exp(sink)
    of its head joins the denominator.
    """

    heads: Heads
    stored: tuple[int, ...]
    counts: Array
    slots: Values | Deferred
    sinks: bool = False


def gather(name: str, what: Gathering, knobs: GatherKnobs, machine: Machine) -> Program:
    """Return the program `name`. Raises ValueError as `program`, positions apart."""
    check_knobs(knobs)
    check_record(knobs.record, what.heads.dim, what.heads.dtype)
    pool = gather_pool(what.heads, what.stored, knobs)
    rows = min(knobs.head_tile, what.heads.count)
    tasks = _tasks(what, knobs)
    parts = len(tasks["owner"])
    split = parts > len(what.counts) * -(-what.heads.count // rows)
    tensors = place_with(_tensors(what, parts if split else 0, rows), pool, machine)
    plan = Plan(
        rows,
        knobs.tile,
        knobs.stages,
        knobs.sram_layout,
        knobs.record,
        "token",
        "token",
        causal=False,
        split=split,
        sinks=what.sinks,
    )
    order = schedule(knobs.schedule, tasks["tokens"], machine.spec.cores.count)
    phases = [Attend(what.heads, plan, machine, tensors, tasks).finish(order)]
    machine.require_fit(phases[0], {"head_tile": knobs.head_tile, "tile": knobs.tile, "stages": knobs.stages})
    if split:
        phases.append(combine(what.heads, rows, machine, tensors, tasks))
        machine.require_fit(phases[1], {"split_tokens": knobs.split_tokens, "head_tile": knobs.head_tile})
    return Program(name, tensors, tuple(phases))


def gather_key(heads: Heads, stored: tuple[int, ...], most: int, knobs: GatherKnobs) -> tuple[Any, ...]:
    """Return the canonical key of knobs over caches of `stored` tokens, of which a query attends to `most` at most."""
    check_knobs(knobs)
    return (
        *(repr(tensor.layout.key) for tensor in gather_pool(heads, stored, knobs).tensors),
        knobs.record,
        knobs.page_size,
        knobs.page_order,
        knobs.selection,
        min(knobs.head_tile, heads.count),
        knobs.tile,
        knobs.stages,
        knobs.split_tokens if 0 < knobs.split_tokens < most else 0,
        knobs.sram_layout,
        knobs.schedule,
    )


def draw_positions(seen: Array, count: int | Array, selection: str, rng: np.random.Generator) -> list[Array]:
    """Return for every query up to `count` of the positions 0 to `seen[i]` - 1, ascending, as `selection` says."""
    wanted = np.minimum(seen, count).tolist()
    if selection == "uniform":
        return [np.sort(rng.choice(n, k, replace=False)) for n, k in zip(seen.tolist(), wanted, strict=True)]
    return [np.arange(n - k, n) for n, k in zip(seen.tolist(), wanted, strict=True)]


def lengths(positions: Sequence[Array]) -> Array:
    """Return how many positions every query has."""
    return np.array([len(chosen) for chosen in positions], np.int64)


def check_positions(positions: Sequence[Array], seen: Array) -> None:
    """Raise ValueError unless every query has positions among those that it sees."""
    if len(positions) != len(seen):
        raise ValueError(f"positions: {len(positions)} arrays; allowed: one for each of {len(seen)} queries")
    for query, (chosen, limit) in enumerate(zip(positions, seen.tolist(), strict=True)):
        if len(chosen) == 0 or chosen.min() < 0 or chosen.max() >= limit:
            ends = (int(chosen.min()), int(chosen.max())) if len(chosen) else ()
            raise ValueError(f"positions: query {query} has ends {ends}; allowed: one or more in 0 to {limit - 1}")


def gather_pool(heads: Heads, stored: tuple[int, ...], knobs: GatherKnobs) -> Pool:
    """Return the cache of sequences of `stored` tokens, gathered by token."""
    pages = paging.pool_pages(knobs.page_order, stored, knobs.page_size)
    if knobs.record != "plain":
        return by_token(record_pool(knobs.record, pages, knobs.page_size))
    sizes = {"page": pages, "token": knobs.page_size, "dim": heads.dim}
    return by_token(plain_pool(knob_layout(knobs, "layout", sizes), heads.dtype))


def drawn_slots(problem: Selecting, knobs: SelectionKnobs, seed: int) -> Values:
    """Return the slots of the positions that the knob `selection` draws, as `slots_of`."""
    rng = np.random.default_rng([seed, 1])  # apart from the stream of the page order
    chosen = draw_positions(problem.seen(), problem.top_k, knobs.selection, rng)
    return slots_of(problem.contexts, problem.queries.sequence, chosen, knobs, seed)


def slots_of(
    stored: tuple[int, ...], sequence: Array, positions: Sequence[Array], knobs: PageKnobs, seed: int
) -> Values:
    """Return the slots in the pool of the positions of queries of a `sequence` each, int32, query after query."""
    table = paging.page_table(knobs.page_order, stored, knobs.page_size, np.random.default_rng(seed))
    first = np.repeat(table.first_page[sequence], lengths(positions))
    position = np.concatenate(positions)
    pages = table.pages[first + position // knobs.page_size]
    slots: Values = (pages * knobs.page_size + position % knobs.page_size).astype(np.int32)
    return slots


def _tensors(what: Gathering, parts: int, rows: int) -> list[Tensor]:
    """Return all tensors but the cache's; rows are those of all queries, by sequence, query and head."""
    heads, count = what.heads, len(what.counts) * what.heads.count
    tensors = [
        Tensor("q", named("row dim", {"row": count, "dim": heads.dim}), heads.dtype, NONE, "cache"),
        Tensor("slots", named("entry", {"entry": int(what.counts.sum())}), "int32", NONE, "cache", what.slots),
        Tensor("out", named("row dim", {"row": count, "dim": heads.value_dim}), heads.dtype, NONE, "cache"),
    ]
    if parts:
        sizes = {"part": parts, "row": rows, "column": heads.value_dim + 1}
        tensors.append(Tensor("partial", named("part row column", sizes), "fp32", NONE, "cache"))
    if what.sinks:
        tensors.append(Tensor("sinks", named("head", {"head": heads.count}), "fp32", NONE, "cache"))
    return tensors


def _tasks(what: Gathering, knobs: GatherKnobs) -> dict[str, Array]:
    """Return the columns of the work items, ordered by query, tile of heads and part."""
    selected = what.counts
    first = np.cumsum(np.append(0, selected))[:-1]
    limit = knobs.split_tokens or int(selected.max())
    rows = min(knobs.head_tile, what.heads.count)
    per_query = -(-what.heads.count // rows)
    owner = np.arange(len(selected) * per_query)
    owner, part = within_owners(-(-selected[owner // per_query] // limit))
    begin = part * limit
    query, head = owner // per_query, owner % per_query * rows
    tokens = np.minimum(selected[query] - begin, limit)
    tasks = {
        "owner": owner,
        "row": query * what.heads.count + head,
        "rows": np.minimum(what.heads.count - head, rows),
        "first": first[query],
        "begin": begin,
        "tokens": tokens,
        "tiles": -(-tokens // knobs.tile),
        "part": np.arange(len(owner)),
    }
    return tasks | ({"head": head, "sink": np.where(begin == 0, 1, 0)} if what.sinks else {})
