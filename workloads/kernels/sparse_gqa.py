"""Sparse grouped-query attention: every query attends to selected tokens, with plain caches of keys and values.

A work item is one KV head of one query, over its selected tokens or a part of at most `split_tokens` of them; its rows
are the query heads of the group. Tokens are gathered one by one from the paged cache through an index tensor of slots,
as for `sparse_attention`, here twice, for keys and for values, and of one head at a time; all heads of a query attend
to the same tokens. Scores, softmax and weighted sum are those of `decode_attention`.

Which tokens are selected decides the time: `compile` draws them, `program` takes them as they come from an indexer. Not
modelled: the kernel that turns positions into slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwmodel.assembler import PhaseAssembler, Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Deferred, Phase, Program, Tensor, Values
from layouts.notation import named
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS, contiguous_axis
from workloads.kernels.attention_parts import (
    CACHE_AXES,
    Attention,
    Columns,
    Extent,
    Places,
    cache_tensors,
    combine_phase,
    split,
)
from workloads.kernels.attention_phase import AttendPhase
from workloads.kernels.attention_problem import Types
from workloads.kernels.base import check_knobs, knob, require_16_bit, require_options
from workloads.kernels.latent_cache import joined
from workloads.kernels.mla_decode import check_queries
from workloads.kernels.queries import Queries, last_tokens
from workloads.kernels.sparse_attention import SELECTIONS, check_positions, drawn_slots, lengths, slots_of
from workloads.model import Model
from workloads.page_orders import DRAWN_ORDERS
from workloads.placement import place
from workloads.schedule import SCHEDULES, schedule

Q, KV, SLOTS, OUT, PARTIAL = range(5)
OPTIONS = ()
OPTIONAL = {"top_k": 2048, "q_len": 1}

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Problem:
    """One layer's attention: the last `q_len` tokens of a sequence (0: all) see those before, and select `top_k`."""

    heads_q: int
    heads_kv: int
    head_dim: int
    top_k: int
    q_len: int
    dtype: str
    contexts: tuple[int, ...]

    @property
    def group(self) -> int:
        return self.heads_q // self.heads_kv

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


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    layout: str = knob(
        "page kv token head dim",
        "where the cache lies, outermost first; kv: K or V, token: in its page",
        axes=CACHE_AXES,
    )
    page_size: int = knob(64, "tokens in a page", least=1)
    page_order: str = knob("shuffled", "how an allocator has dealt the pages", choices=DRAWN_ORDERS)
    selection: str = knob("uniform", "selected tokens drawn at random, or the last ones", choices=SELECTIONS)
    tile: int = knob(64, "tokens of K and V in one load", least=1)
    stages: int = knob(4, "tiles of K and of V in flight", least=1)
    split_tokens: int = knob(0, "most selected tokens that one core takes; 0: all of a query", least=0)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)
    sram_layout: str = knob("swizzled", "where q, K, V, probabilities lie in the scratchpad", choices=OPERAND_LAYOUTS)


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of one attention layer of `model` over `batch`, both required.

    Options: top_k tokens per query (2048), q_len tokens per sequence (1).
    """
    sizes = require_options("sparse-gqa", options, (), OPTIONAL)
    if model is None:
        raise ValueError("model: kernel sparse-gqa needs one")
    if batch is None:
        raise ValueError("batch: kernel sparse-gqa needs one, with a context or a trace")
    check_queries(sizes["q_len"], batch.contexts)
    attention = model.softmax_attention("model: kernel sparse-gqa")
    dtype = require_16_bit("sparse-gqa", model.dtype)
    heads = attention.heads_q, attention.heads_kv, attention.head_dim_qk
    return Problem(*heads, sizes["top_k"], sizes["q_len"], dtype, batch.contexts)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, splits that split nothing."""
    check_knobs(knobs)
    most = int(problem.attended().max())
    return (
        repr(_cache(problem, knobs).layout.key),
        knobs.page_size,
        knobs.page_order,
        knobs.selection,
        knobs.tile,
        knobs.stages,
        knobs.split_tokens if 0 < knobs.split_tokens < most else 0,
        knobs.sram_layout,
        knobs.schedule,
    )


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program over tokens that are drawn when their slots are read. Raises ValueError as `program`.

    `seed` draws the page order and the selection.
    """
    check_knobs(knobs)
    place([_cache(problem, knobs)], machine)  # before a hopeless size is listed
    slots = Deferred(drawn_slots, (problem, knobs, seed))
    return _program(problem, knobs, machine, problem.attended(), slots)


def program(problem: Problem, knobs: Knobs, machine: Machine, seed: int, positions: Sequence[Array]) -> Program:
    """Return the program over `positions`, one array per query, by sequence and query.

    Raises ValueError naming a knob that is out of range, positions that a query does not see, or what does not fit and
    by how much. `seed` draws the page order.
    """
    check_knobs(knobs)
    check_positions(positions, problem.seen())
    slots = slots_of(problem.contexts, problem.queries.sequence, positions, knobs, seed)
    return _program(problem, knobs, machine, lengths(positions), slots)


def _program(problem: Problem, knobs: Knobs, machine: Machine, counts: Array, slots: Values | Deferred) -> Program:
    """Return the program whose queries attend to `counts` tokens each, which lie in `slots` of the pool."""
    tasks = _tasks(problem, knobs, counts)
    parts = len(tasks["owner"])
    is_split = parts > len(counts) * problem.heads_kv
    index = Tensor("slots", named("entry", {"entry": int(counts.sum())}), "int32", NONE, "cache", slots)
    tensors = place(_tensors(problem, knobs, index, parts if is_split else 0), machine)
    phases = [_attend(problem, knobs, machine, tensors, tasks, is_split)]
    machine.require_fit(phases[0], {"tile": knobs.tile, "stages": knobs.stages})
    if is_split:
        phases.append(_combine(problem, machine, tensors, tasks))
        machine.require_fit(phases[1], {"split_tokens": knobs.split_tokens})
    return Program("sparse-gqa", tensors, tuple(phases))


def _cache(problem: Problem, knobs: Knobs) -> Tensor:
    """Return the cache, gathered by token."""
    dims = problem.head_dim, problem.head_dim
    (cache,) = cache_tensors(knobs, problem.heads_kv, dims, problem.dtype, problem.contexts)
    return replace(cache, layout=joined(cache.layout))


def _tensors(problem: Problem, knobs: Knobs, slots: Tensor, parts: int) -> list[Tensor]:
    sizes = {"token": len(problem.queries.sequence), "head": problem.heads_q, "dim": problem.head_dim}
    rows = named("token head dim", sizes)
    tensors = [
        Tensor("q", rows, problem.dtype, NONE, "cache"),
        _cache(problem, knobs),
        slots,
        Tensor("out", rows, problem.dtype, NONE, "cache"),
    ]
    if parts:
        partial = {"part": parts, "row": problem.group, "column": problem.head_dim + 1}
        tensors.append(Tensor("partial", named("part row column", partial), "fp32", NONE, "cache"))
    return tensors


def _tasks(problem: Problem, knobs: Knobs, selected: Array) -> Columns:
    """Return the columns of the work items, ordered by query, head and part."""
    query = np.repeat(np.arange(len(selected)), problem.heads_kv)
    owner, _, begin = split(selected, knobs.split_tokens, query)
    query = query[owner]
    tokens = selected[query] - begin
    tokens = np.minimum(tokens, knobs.split_tokens) if knobs.split_tokens else tokens
    tiles = -(-tokens // knobs.tile)
    return {
        "owner": owner,
        "query": query,
        "head": owner % problem.heads_kv,
        "first": (np.cumsum(selected) - selected)[query],
        "begin": begin,
        "tokens": tokens,
        "part": np.arange(len(owner)),
        "q_tokens": np.ones_like(owner),
        "tiles": tiles,
        "edge": np.zeros_like(tiles),
        "full": tiles,
        "offset": np.zeros_like(tiles),
    }


def _rows(p: PhaseAssembler, problem: Problem, tensor: int) -> Region:
    """Return the rows of an item in q or in the result."""
    group = problem.group
    return Region(tensor, {"token": (p.column("query"), 1), "head": (p.column("head") * group, group)})


def _attend(
    problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...], tasks: Columns, is_split: bool
) -> Phase:
    p = PhaseAssembler("attend", tensors, tuple(tasks))
    attention = Attention(
        heads=problem.group,
        positions=1,
        dim=problem.head_dim,
        dim_v=problem.head_dim,
        types=Types(*[problem.dtype] * 4),
        tile=knobs.tile,
        stages=knobs.stages,
        sram_layout=knobs.sram_layout,
        partial=is_split,
    )

    def gathered(side: int, here: Extent) -> Region:
        axes: dict[str, Extent] = {"kv": (side, 1), "head": (p.column("head"), 1), "token": here}
        return Region(KV, axes, SLOTS, p.column("first"), "token", "token")

    part = Region(PARTIAL, {"part": (p.column("part"), 1)})
    along = contiguous_axis(tensors[KV], ("token", "dim"))
    places = Places(
        q=lambda lane: _rows(p, problem, Q),
        out=lambda lane: part if is_split else _rows(p, problem, OUT),
        k=lambda here: gathered(0, here),
        v=lambda here: gathered(1, here),
        sinks=part,  # there are none, and no scales
        scales=part,
        k_along=along,
        v_along=along,
    )
    order = schedule(knobs.schedule, tasks["tokens"], machine.spec.cores.count)
    return AttendPhase(attention, p, tasks, places).write(machine, order)


def _combine(problem: Problem, machine: Machine, tensors: tuple[Tensor, ...], tasks: Columns) -> Phase:
    """Merge the parts of every (query, head), by strips of heads so that all parts of one fit."""
    parts, group = np.bincount(tasks["owner"]), problem.group
    first, most = np.cumsum(parts) - parts, int(parts.max())
    strip = max(1, group // most)
    owner, _, begin = split(np.full(len(parts), group), strip, np.arange(len(parts)))
    columns = {
        "query": tasks["query"][first][owner],
        "head": tasks["head"][first][owner],
        "begin": begin,
        "strip": np.minimum(group - begin, strip),
        "first": first[owner],
        "parts": parts[owner],
    }
    p = PhaseAssembler("combine", tensors, tuple(columns))
    begin_at, rows = p.column("begin"), p.column("strip")
    there = Region(PARTIAL, {"part": (p.column("first"), p.column("parts")), "row": (begin_at, rows)})
    to = Region(OUT, {"token": (p.column("query"), 1), "head": (p.column("head") * group + begin_at, rows)})
    order = schedule("static", columns["parts"] * columns["strip"], machine.spec.cores.count)
    shape_of = strip, problem.head_dim, problem.dtype
    return combine_phase(p, columns, most, shape_of, (there, to), machine, order, rows)
