"""Prefill attention: many queries per sequence against the keys up to theirs, tile by tile with an online softmax.

The queries are the last tokens of every sequence: all of it in a plain prefill, a chunk of it where the KV cache holds
what came before. A work item is a tile of queries of one KV head, or a pair of tiles that take turns
(`attention_phase`), against all tiles of keys that any of its rows sees: the triangle below the diagonal, and the
window's band, are counted by whole tiles, and only the tiles on an edge are masked. Both tiles of a pair walk the tiles
of keys of the pair. The rows of a tile are the query heads of a group, position by position, so that K and V are loaded
once for all of them (`packing`), or the positions of one head. Where tiles of queries are few, their keys can be split
over cores (`split_tokens`): items then store fp32 partial results with their log-sum-exp, which a second phase merges.

Sequences are ragged: queries, results and, without pages, keys and values of all sequences lie one after another along
one token axis. With pages K and V lie in a paged KV cache, as for `decode_attention`. Either may be e4m3
(`attention_problem`), and values longer or shorter than keys. Tensors that the kernels before
and after touch reside in the shared cache where a machine has one and they fit; a paged cache does not.

Not modelled: the writing of new keys into the cache.
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
    cache_numbers,
    cache_tensors,
    combine_phase,
    edges,
    extra_tensors,
    first_pages,
    in_pages,
    seen,
    split,
    table_tensor,
)
from workloads.kernels.attention_phase import AttendPhase
from workloads.kernels.attention_problem import (
    MODEL_SIZES,
    problem_sizes,
    products_knob,
    require_context,
    require_flags,
    require_products,
    require_types,
    types_of,
)
from workloads.kernels.base import check_knobs, knob, knob_layout
from workloads.kernels.gemm_grid import number_of
from workloads.model import Model
from workloads.numbering import within_owners
from workloads.page_orders import DRAWN_ORDERS
from workloads.placement import place
from workloads.schedule import SCHEDULES, schedule

PACKINGS = ("group", "head")
PIPELINES = ("two-stage", "warp-specialised")
ORDERS = ("natural", "longest-first")
Q, OUT, K, V = range(4)
KV, TABLE = K, V  # with pages; values that are not as long as keys then have a tensor further behind
OPTIONAL = {"q_len": 0, "soft_cap": 0, "bidirectional": 0, "q_fp8": 0, **MODEL_SIZES}

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Problem:
    """One layer's prefill attention: `contexts` are the tokens of every sequence, the new ones at the end.

    `q_len`: the new tokens of every sequence, 0 for all of it, or a number for each. `bidirectional`: 1 where every
    query sees all keys, as in encoders. The others as for decode attention. Raises ValueError for a context shorter
    than `q_len`, a flag beyond 1, a window of bidirectional attention, or types that do not go together.
    """

    heads_q: int
    heads_kv: int
    head_dim: int
    dtype: str
    contexts: tuple[int, ...]
    q_len: int | tuple[int, ...] = 0
    window: int = 0
    sinks: int = 0
    soft_cap: int = 0
    bidirectional: int = 0
    head_dim_v: int = 0
    kv_dtype: str = ""
    q_fp8: int = 0

    def __post_init__(self) -> None:
        require_context(self.contexts, self.q_len)
        require_flags(sinks=self.sinks, bidirectional=self.bidirectional)
        require_types(self)
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
        if isinstance(self.q_len, tuple):
            return self.q_len
        return tuple(self.q_len or context for context in self.contexts)


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
    split_tokens: int = knob(0, "most keys of a tile of queries that one core takes; 0: all that it sees", least=0)
    products: str = products_knob()

    @property
    def lanes(self) -> int:
        return 2 if self.pipeline == "warp-specialised" else 1


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of one attention layer of `model` over `batch`, both required; `options` as in OPTIONAL.

    `window`, `sinks`, `head_dim_v` and the type of the cache are the model's where `options` do not give them.
    """
    return Problem(**problem_sizes("prefill-attention", model, batch, options, (), OPTIONAL))


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function, and only those that are used."""
    check_knobs(knobs)
    layouts = (repr(tensor.layout.key) for tensor in _keys_and_values(problem, knobs))
    paging = (knobs.page_size, knobs.page_order) if knobs.page_size else (0,)
    choices = (knobs.epilogue, knobs.schedule, knobs.sram_layout)
    tiles = (heads_of_tile(problem, knobs), _positions(problem, knobs), knobs.tile_kv, knobs.stages, knobs.lanes)
    parts = knobs.split_tokens if _splits(_items(problem, knobs), knobs) else 0
    return (*layouts, *paging, *tiles, *choices, _is_sorted(knobs), parts, types_of(problem, knobs.products))


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` draws the page order.
    """
    check_knobs(knobs)
    _positions(problem, knobs)
    require_products(types_of(problem, knobs.products), machine)
    tasks = work_items(problem, knobs)
    parts = len(tasks["part"]) if "part" in tasks else 0
    tensors = place(_tensors(problem, knobs, seed, parts), machine)
    phases = [_attend(problem, knobs, machine, tensors, in_order(tasks, knobs))]
    machine.require_fit(phases[0], {"tile_q": knobs.tile_q, "tile_kv": knobs.tile_kv, "stages": knobs.stages})
    if parts:
        phases.append(_combine(problem, knobs, machine, tensors, tasks))
        machine.require_fit(phases[1], {"tile_q": knobs.tile_q, "split_tokens": knobs.split_tokens})
    return Program("prefill-attention", tensors, tuple(phases))


def heads_of_tile(problem: Problem, knobs: Knobs) -> int:
    """Return how many query heads share a tile of queries."""
    return problem.group if knobs.packing == "group" else 1


def _positions(problem: Problem, knobs: Knobs) -> int:
    """Return how many query positions a tile has. Raises ValueError where it has no room for one."""
    heads = heads_of_tile(problem, knobs)
    if knobs.tile_q < heads:
        raise ValueError(
            f"tile_q: {knobs.tile_q}; allowed: with packing group at least the {heads} query heads of a group"
        )
    return min(knobs.tile_q // heads, max(problem.lengths))


def _keys_and_values(problem: Problem, knobs: Knobs) -> tuple[Tensor, ...]:
    dtype, dims = types_of(problem, knobs.products).kv, (problem.head_dim, problem.dim_v)
    if knobs.page_size:
        return cache_tensors(knobs, problem.heads_kv, dims, dtype, problem.contexts)
    sizes = {"token": sum(problem.contexts), "head": problem.heads_kv}
    k, v = (knob_layout(knobs, f"layout_{name}", sizes | {"dim": dim}) for name, dim in zip("kv", dims, strict=True))
    return Tensor("k", k, dtype, NONE, "cache"), Tensor("v", v, dtype, NONE, "cache")


def _tensors(problem: Problem, knobs: Knobs, seed: int, parts: int) -> list[Tensor]:
    types, (first, *more) = types_of(problem, knobs.products), _keys_and_values(problem, knobs)
    sizes = {"token": sum(problem.lengths), "head": problem.heads_q}
    q, out = (named("token head dim", sizes | {"dim": dim}) for dim in (problem.head_dim, problem.dim_v))
    tensors = [Tensor("q", q, types.q, NONE, "cache"), Tensor("out", out, types.out, NONE, "cache"), first]
    tensors += [table_tensor(knobs, problem.contexts, seed)] if knobs.page_size else []
    tensors += more
    if parts:
        rows = knobs.lanes * _positions(problem, knobs) * heads_of_tile(problem, knobs)
        partial = {"part": parts, "row": rows, "column": problem.dim_v + 1}
        tensors.append(Tensor("partial", named("part row column", partial), "fp32", NONE, "cache"))
    return tensors + extra_tensors(problem, types)


def _items(problem: Problem, knobs: Knobs) -> Columns:
    """Return the columns of the tiles of queries, by sequence, KV head, tile and query head, before any splitting."""
    contexts, lengths = np.array(problem.contexts, np.int64), np.array(problem.lengths, np.int64)
    positions, lanes = _positions(problem, knobs), knobs.lanes
    apart = problem.group // heads_of_tile(problem, knobs)  # query heads of a KV head that are items of their own
    tiles = -(-lengths // (positions * lanes))
    sequence, number = within_owners(tiles * problem.heads_kv * apart)
    head, rest = np.divmod(number, tiles[sequence] * apart)
    skipped = rest // apart * positions * lanes
    queries = np.minimum(lengths[sequence] - skipped, positions * lanes)
    first = (contexts - lengths)[sequence] + skipped
    begin, tokens = seen(
        first, first + queries - 1, problem.window, knobs.tile_kv, not problem.bidirectional, contexts[sequence]
    )
    return {
        "sequence": sequence,
        "head": head,
        "q_head": head * problem.group + rest % apart * heads_of_tile(problem, knobs),
        "q_row": (np.cumsum(lengths) - lengths)[sequence] + skipped,
        "queries": queries,
        "first": first,
        "begin": begin,
        "tokens": tokens,
    }


def _splits(items: Columns, knobs: Knobs) -> bool:
    return 0 < knobs.split_tokens < int(items["tokens"].max())


def work_items(problem: Problem, knobs: Knobs) -> Columns:
    """Return the columns of the work items: the tiles of queries, or the parts of their keys one after another."""
    items, contexts = _items(problem, knobs), problem.contexts
    is_split = _splits(items, knobs)
    owner, piece, skipped = split(items["tokens"], knobs.split_tokens, np.arange(len(items["tokens"])))
    items = {name: column[owner] for name, column in items.items()}
    sequence, first, queries = items["sequence"], items.pop("first"), items.pop("queries")
    begin, tokens = items.pop("begin") + skipped, items.pop("tokens") - skipped
    tokens = np.minimum(tokens, knobs.split_tokens) if is_split else tokens
    q_tokens, causal = np.minimum(queries, _positions(problem, knobs)), not problem.bidirectional
    keys = {"begin": begin, "tokens": tokens, "sink": np.where(piece == 0, 1, 0)}
    columns = items | {"q_tokens": q_tokens} | keys
    columns |= edges(first, first + queries - 1, begin, tokens, knobs.tile_kv, problem.window, causal)
    if knobs.lanes == 2:
        columns["q_more"] = queries - q_tokens
    if knobs.page_size:
        columns["first_page"] = first_pages(contexts, knobs.page_size)[sequence]
    else:
        columns["k_row"] = (np.cumsum(contexts) - contexts)[sequence]
    if is_split:
        columns |= {"owner": owner, "part": np.arange(len(owner))}
    return columns


def in_order(columns: Columns, knobs: Knobs) -> Columns:
    if not _is_sorted(knobs):
        return columns
    longest_first = np.argsort(-costs(columns), kind="stable")
    return {name: column[longest_first] for name, column in columns.items()}


def _is_sorted(knobs: Knobs) -> bool:
    """Return whether items with most work stand first; the other schedules sort by themselves."""
    return knobs.order == "longest-first" and knobs.schedule == "static"


def _queries(columns: Columns) -> Array:
    """Return the query positions of the items, of both tiles where there are two."""
    return columns["q_tokens"] + columns.get("q_more", np.zeros_like(columns["q_tokens"]))


def costs(columns: Columns) -> Array:
    """Return the products of query and key positions of the items."""
    return _queries(columns) * columns["tokens"]


def _attend(problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...], tasks: Columns) -> Phase:
    attention = Attention(
        heads=heads_of_tile(problem, knobs),
        positions=_positions(problem, knobs),
        dim=problem.head_dim,
        dim_v=problem.dim_v,
        types=types_of(problem, knobs.products),
        tile=knobs.tile_kv,
        stages=knobs.stages,
        sram_layout=knobs.sram_layout,
        lanes=knobs.lanes,
        window=problem.window,
        soft_cap=problem.soft_cap,
        sinks=problem.sinks == 1,
        partial="part" in tasks,
        overlap=knobs.epilogue == "overlapped",
    )
    p = PhaseAssembler("attend", tensors, tuple(tasks))
    order = schedule(knobs.schedule, costs(tasks), machine.spec.cores.count)
    return AttendPhase(attention, p, tasks, _places(p, attention, knobs, tensors)).write(machine, order)


def _places(p: PhaseAssembler, attention: Attention, knobs: Knobs, tensors: tuple[Tensor, ...]) -> Places:
    heads = (p.column("q_head"), attention.heads)

    def rows(tensor: int, lane: int) -> Region:
        queries = (p.column("q_row") + lane * attention.positions, p.column("q_more" if lane else "q_tokens"))
        return Region(tensor, {"token": queries, "head": heads})

    def part(lane: int) -> Region:
        count = p.column("q_more" if lane else "q_tokens") * attention.heads
        axes: dict[str, Extent] = {"part": (p.column("part"), 1), "row": (lane * attention.rows, count)}
        return Region(number_of(tensors, "partial"), axes)

    def keys(tensor: int, here: Extent) -> Region:
        return Region(tensor, {"token": (p.column("k_row") + here[0], here[1]), "head": (p.column("head"), 1)})

    caches = cache_numbers(tensors)
    if knobs.page_size:
        k, v = in_pages(p, caches, TABLE)
    else:
        k, v = (lambda here: keys(K, here)), (lambda here: keys(V, here))
    return Places(
        q=lambda lane: rows(Q, lane),
        out=part if attention.partial else lambda lane: rows(OUT, lane),
        k=k,
        v=v,
        sinks=Region(number_of(tensors, "sinks"), {"head": heads}),
        scales=Region(number_of(tensors, "scales"), {}),
        k_along=contiguous_axis(tensors[caches[0]], ("token", "dim")),
        v_along=contiguous_axis(tensors[caches[-1]], ("token", "dim")),
    )


def _combine(problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...], tasks: Columns) -> Phase:
    """Merge the parts of every tile of queries, by strips of positions so that all parts of one fit."""
    heads, parts = heads_of_tile(problem, knobs), np.bincount(tasks["owner"])
    first, queries = np.cumsum(parts) - parts, _queries(tasks)
    most = int(parts.max())
    strip = max(1, _positions(problem, knobs) * knobs.lanes // most)
    owner, _, skipped = split(queries[first], strip, np.arange(len(parts)))
    columns = {
        "q_head": tasks["q_head"][first][owner],
        "q_row": tasks["q_row"][first][owner] + skipped,
        "q_tokens": np.minimum(queries[first][owner] - skipped, strip),
        "skipped": skipped,
        "first": first[owner],
        "parts": parts[owner],
    }
    p = PhaseAssembler("combine", tensors, tuple(columns))
    count = p.column("q_tokens") * heads
    there = {"part": (p.column("first"), p.column("parts")), "row": (p.column("skipped") * heads, count)}
    to: dict[str, Extent] = {"token": (p.column("q_row"), p.column("q_tokens")), "head": (p.column("q_head"), heads)}
    places = Region(number_of(tensors, "partial"), there), Region(OUT, to)
    order = schedule("static", columns["parts"] * columns["q_tokens"], machine.spec.cores.count)
    shape = strip * heads, problem.dim_v, problem.dtype
    return combine_phase(p, columns, most, shape, places, machine, order, count)
