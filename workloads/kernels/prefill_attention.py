"""Prefill attention: many queries per sequence against the keys up to theirs, tile by tile with an online softmax.

The queries are the last `q_len` tokens of every sequence: all of it in a plain prefill, a chunk of it where the KV
cache holds what came before. A work item is a tile of queries of one KV head, or a pair of tiles that take turns
(`attention_phase`), against all tiles of keys that any of its rows sees: the triangle below the diagonal, and the
window's band, are counted by whole tiles, and only the tiles on an edge are masked. Both tiles of a pair walk the tiles
of keys of the pair. The rows of a tile are the query heads of a group, position by position, so that K and V are loaded
once for all of them (`packing`), or the positions of one head.

Sequences are ragged: queries, results and, without pages, keys and values of all sequences lie one after another along
one token axis. With pages K and V lie in a paged KV cache, as for `decode_attention`. Tensors that the kernels before
and after touch reside in the shared cache where a machine has one and they fit; a paged cache does not.

Not modelled: splitting the keys of a tile of queries over cores, and the writing of new keys into the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import PhaseAssembler, Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Phase, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.buffers import OPERAND_LAYOUTS, contiguous_axis
from workloads.kernels.attention_parts import (
    CACHE_AXES,
    EPILOGUES,
    Attention,
    Columns,
    Extent,
    Places,
    cache_tensor,
    edges,
    first_pages,
    in_pages,
    require_flags,
    seen,
    table_tensor,
)
from workloads.kernels.attention_phase import AttendPhase
from workloads.kernels.base import check_knobs, knob, knob_layout, require_16_bit, require_options
from workloads.model import Model
from workloads.page_orders import DRAWN_ORDERS
from workloads.placement import place
from workloads.schedule import SCHEDULES, schedule

PACKINGS = ("group", "head")
PIPELINES = ("two-stage", "warp-specialised")
ORDERS = ("natural", "longest-first")
Q, OUT, K, V = range(4)
KV, TABLE = K, V  # with pages
OPTIONAL = {"q_len": 0, "window": 0, "sinks": 0, "soft_cap": 0, "bidirectional": 0, "head_dim_v": 0}


@dataclass(frozen=True)
class Problem:
    """One layer's prefill attention: `contexts` are the tokens of every sequence, the new ones at the end.

    `q_len`: the most new tokens of a sequence, 0 for all of it. `window`, `sinks`, `soft_cap` as for decode attention.
    `bidirectional`: 1 where every query sees all keys, as in encoders. `head_dim_v`: the length of values, 0 for
    `head_dim`. Raises ValueError for a flag beyond 1, or a window of bidirectional attention.
    """

    heads_q: int
    heads_kv: int
    head_dim: int
    dtype: str
    contexts: tuple[int, ...]
    q_len: int = 0
    window: int = 0
    sinks: int = 0
    soft_cap: int = 0
    bidirectional: int = 0
    head_dim_v: int = 0

    def __post_init__(self) -> None:
        require_flags(sinks=self.sinks, bidirectional=self.bidirectional)
        if self.window and self.bidirectional:
            raise ValueError(f"options: size window is {self.window}; allowed where bidirectional is 1: 0")

    @property
    def group(self) -> int:
        return self.heads_q // self.heads_kv

    @property
    def dim_v(self) -> int:
        return self.head_dim_v or self.head_dim

    @property
    def lengths(self) -> tuple[int, ...]:
        """The queries of every sequence."""
        return tuple(min(self.q_len or context, context) for context in self.contexts)


@dataclass(frozen=True)
class Knobs:
    """What the search may choose."""

    tile_q: int = knob(64, "rows of a tile of queries: positions times heads that share K and V", least=1)
    tile_kv: int = knob(64, "tokens of K and V in one load", least=1)
    stages: int = knob(2, "tiles of K and of V in flight", least=1)
    packing: str = knob("group", "rows of a tile: of all query heads of a KV head, or of one", choices=PACKINGS)
    pipeline: str = knob("two-stage", "one tile of queries at a time, or two that take turns", choices=PIPELINES)
    epilogue: str = knob("overlapped", "the next item's loads run during an item's end, or wait", choices=EPILOGUES)
    order: str = knob("longest-first", "items by sequence and head, or those with most work first", choices=ORDERS)
    schedule: str = knob("static", "items dealt round, to the least loaded core, or to a free one", choices=SCHEDULES)
    page_size: int = knob(0, "tokens in a page of the KV cache; 0: K and V lie in tensors of their own", least=0)
    page_order: str = knob("shuffled", "how an allocator has dealt the pages", choices=DRAWN_ORDERS)
    layout: str = knob("page kv token head dim", "where a paged KV cache lies, outermost first", axes=CACHE_AXES)
    layout_k: str = knob("token head dim", "where K lies without pages, outermost first", axes="token, head, dim")
    layout_v: str = knob("token head dim", "where V lies without pages, outermost first", axes="token, head, dim")
    sram_layout: str = knob("swizzled", "where q, K, V, probabilities lie in the scratchpad", choices=OPERAND_LAYOUTS)

    @property
    def lanes(self) -> int:
        return 2 if self.pipeline == "warp-specialised" else 1


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of one attention layer of `model` over `batch`, both required; `options` as in OPTIONAL."""
    sizes = require_options("prefill-attention", options, (), OPTIONAL)
    if model is None:
        raise ValueError("model: kernel prefill-attention needs one")
    if batch is None:
        raise ValueError("batch: kernel prefill-attention needs one, with a context or a trace")
    attention = model.softmax_attention("model: kernel prefill-attention")
    dtype = require_16_bit("prefill-attention", model.dtype)
    return Problem(attention.heads_q, attention.heads_kv, attention.head_dim_qk, dtype, batch.contexts, **sizes)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, and only those that are used."""
    check_knobs(knobs)
    tensors = [_cache(problem, knobs)] if knobs.page_size else _keys_and_values(problem, knobs)
    paging = (knobs.page_size, knobs.page_order) if knobs.page_size else (0,)
    choices = (knobs.epilogue, knobs.schedule, knobs.sram_layout)
    tiles = (_heads(problem, knobs), _positions(problem, knobs), knobs.tile_kv, knobs.stages, knobs.lanes)
    return (*(repr(tensor.layout.key) for tensor in tensors), *paging, *tiles, *choices, _is_sorted(knobs))


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` draws the page order.
    """
    check_knobs(knobs)
    _positions(problem, knobs)
    if knobs.page_size and problem.dim_v != problem.head_dim:
        raise ValueError(f"page_size: {knobs.page_size}; allowed where values have a length of their own: 0")
    if knobs.page_size:
        place([_cache(problem, knobs)], machine)  # before a page table of a hopeless size is made
    tensors = place(_tensors(problem, knobs, seed), machine)
    phase = _attend(problem, knobs, machine, tensors, _tasks(problem, knobs))
    machine.require_fit(phase, {"tile_q": knobs.tile_q, "tile_kv": knobs.tile_kv, "stages": knobs.stages})
    return Program("prefill-attention", tensors, (phase,))


def _heads(problem: Problem, knobs: Knobs) -> int:
    """Return how many query heads share a tile of queries."""
    return problem.group if knobs.packing == "group" else 1


def _positions(problem: Problem, knobs: Knobs) -> int:
    """Return how many query positions a tile has. Raises ValueError where it has no room for one."""
    heads = _heads(problem, knobs)
    if knobs.tile_q < heads:
        raise ValueError(
            f"tile_q: {knobs.tile_q}; allowed: with packing group at least the {heads} query heads of a group"
        )
    return min(knobs.tile_q // heads, max(problem.lengths))


def _cache(problem: Problem, knobs: Knobs) -> Tensor:
    return cache_tensor(knobs, problem.heads_kv, problem.head_dim, problem.dtype, problem.contexts)


def _keys_and_values(problem: Problem, knobs: Knobs) -> list[Tensor]:
    sizes = {"token": sum(problem.contexts), "head": problem.heads_kv}
    k = knob_layout(knobs, "layout_k", sizes | {"dim": problem.head_dim})
    v = knob_layout(knobs, "layout_v", sizes | {"dim": problem.dim_v})
    return [Tensor(name, layout, problem.dtype, NONE, "cache") for name, layout in (("k", k), ("v", v))]


def _tensors(problem: Problem, knobs: Knobs, seed: int) -> list[Tensor]:
    sizes = {"token": sum(problem.lengths), "head": problem.heads_q}
    tensors = [
        Tensor(name, named("token head dim", sizes | {"dim": dim}), problem.dtype, NONE, "cache")
        for name, dim in (("q", problem.head_dim), ("out", problem.dim_v))
    ]
    if knobs.page_size:
        tensors += [_cache(problem, knobs), table_tensor(knobs, problem.contexts, seed)]
    else:
        tensors += _keys_and_values(problem, knobs)
    if problem.sinks:
        tensors.append(Tensor("sinks", named("head", {"head": problem.heads_q}), "fp32", NONE, "cache"))
    return tensors


def _tasks(problem: Problem, knobs: Knobs) -> Columns:
    """Return the columns of the work items, by sequence, KV head, tile of queries and query head, or as ordered."""
    contexts, lengths = np.array(problem.contexts, np.int64), np.array(problem.lengths, np.int64)
    positions, lanes = _positions(problem, knobs), knobs.lanes
    apart = problem.group // _heads(problem, knobs)  # query heads of a KV head that are items of their own
    tiles = -(-lengths // (positions * lanes))
    items = tiles * problem.heads_kv * apart
    sequence = np.repeat(np.arange(len(contexts)), items)
    number = np.arange(len(sequence)) - (np.cumsum(items) - items)[sequence]
    head, rest = np.divmod(number, tiles[sequence] * apart)
    skipped = rest // apart * positions * lanes
    queries = np.minimum(lengths[sequence] - skipped, positions * lanes)
    first = (contexts - lengths)[sequence] + skipped
    last, causal = first + queries - 1, not problem.bidirectional
    begin, tokens = seen(first, last, problem.window, knobs.tile_kv, causal, contexts[sequence])
    columns = {
        "sequence": sequence,
        "head": head,
        "q_head": head * problem.group + rest % apart * _heads(problem, knobs),
        "q_row": (np.cumsum(lengths) - lengths)[sequence] + skipped,
        "q_tokens": np.minimum(queries, positions),
        "begin": begin,
        "tokens": tokens,
        "sink": np.ones_like(sequence),
        **edges(first, last, begin, tokens, knobs.tile_kv, problem.window, causal),
    }
    if lanes == 2:
        columns["q_more"] = queries - columns["q_tokens"]
    if knobs.page_size:
        columns["first_page"] = first_pages(problem.contexts, knobs.page_size)[sequence]
    else:
        columns["k_row"] = (np.cumsum(contexts) - contexts)[sequence]
    if _is_sorted(knobs):
        longest_first = np.argsort(-_costs(columns), kind="stable")
        columns = {name: column[longest_first] for name, column in columns.items()}
    return columns


def _is_sorted(knobs: Knobs) -> bool:
    """Return whether items with most work stand first; the other schedules sort by themselves."""
    return knobs.order == "longest-first" and knobs.schedule == "static"


def _costs(columns: Columns) -> np.ndarray[Any, Any]:
    """Return the products of query and key positions of the items."""
    costs: np.ndarray[Any, Any] = (columns["q_tokens"] + columns.get("q_more", 0)) * columns["tokens"]
    return costs


def _attend(problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...], tasks: Columns) -> Phase:
    attention = Attention(
        heads=_heads(problem, knobs),
        positions=_positions(problem, knobs),
        dim=problem.head_dim,
        dim_v=problem.dim_v,
        dtype=problem.dtype,
        tile=knobs.tile_kv,
        stages=knobs.stages,
        sram_layout=knobs.sram_layout,
        lanes=knobs.lanes,
        window=problem.window,
        soft_cap=problem.soft_cap,
        sinks=problem.sinks == 1,
        overlap=knobs.epilogue == "overlapped",
    )
    p = PhaseAssembler("attend", tensors, tuple(tasks))
    order = schedule(knobs.schedule, _costs(tasks), machine.spec.cores.count)
    return AttendPhase(attention, p, tasks, _places(p, attention, knobs, tensors)).write(machine, order)


def _places(p: PhaseAssembler, attention: Attention, knobs: Knobs, tensors: tuple[Tensor, ...]) -> Places:
    heads = (p.column("q_head"), attention.heads)

    def rows(tensor: int, lane: int) -> Region:
        queries = (p.column("q_row") + lane * attention.positions, p.column("q_more" if lane else "q_tokens"))
        return Region(tensor, {"token": queries, "head": heads})

    def keys(tensor: int, here: Extent) -> Region:
        return Region(tensor, {"token": (p.column("k_row") + here[0], here[1]), "head": (p.column("head"), 1)})

    if knobs.page_size:
        k, v = in_pages(p, KV, TABLE)
    else:
        k, v = (lambda here: keys(K, here)), (lambda here: keys(V, here))
    return Places(
        q=lambda lane: rows(Q, lane),
        out=lambda lane: rows(OUT, lane),
        k=k,
        v=v,
        sinks=Region(len(tensors) - 1, {"head": heads}),
        k_along=contiguous_axis(tensors[K], ("token", "dim")),
        v_along=contiguous_axis(tensors[KV if knobs.page_size else V], ("token", "dim")),
    )
