"""What the attention templates share beside the main phase: the paged cache, who sees which keys, merging of parts.

The KV cache of one layer is one tensor with axes page, kv, head, token, dim; its layout is a knob in the notation of
`layouts.catalog`. Page-table entries cost issue cycles but no traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import NONE, Deferred, Phase, Schedule, Tensor
from layouts.notation import named
from workloads import paging
from workloads.buffers import allocate
from workloads.kernels.attention_problem import Types
from workloads.kernels.base import knob_layout
from workloads.numbering import within_owners

EPILOGUES = ("overlapped", "exposed")
CACHE_AXES = "page, kv, head, token, dim"

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]
Extent = tuple[Affine | int, Affine | int]  # start, length


@dataclass(frozen=True)
class Attention:
    """What a phase computes for each of its items, and with how much in flight.

    A tile of queries has up to `positions` query positions times `heads` query heads; `dim` is the length of queries
    and keys, `dim_v` of values. `window` 0, `soft_cap` 0 and `sinks` false stand for none. `partial`: results are
    stored in fp32 with their log-sum-exps. Without `overlap` an item's first load waits for the last store of the one
    before, as where every item is a thread block of its own on a core that holds one.
    """

    heads: int
    positions: int
    dim: int
    dim_v: int
    types: Types
    tile: int
    stages: int
    sram_layout: str
    lanes: int = 1
    window: int = 0
    soft_cap: int = 0
    sinks: bool = False
    partial: bool = False
    overlap: bool = True

    @property
    def rows(self) -> int:
        return self.positions * self.heads


@dataclass(frozen=True)
class Places:
    """Where an item's tensors lie: regions of q and out by lane, of K and V by key positions (start, length).

    `sinks` and `scales` are regions of tensors that some attentions do not have.
    `k_along` and `v_along` say which axis (0 tokens, 1 elements) is contiguous in memory.
    """

    q: Callable[[int], Region]
    out: Callable[[int], Region]
    k: Callable[[Extent], Region]
    v: Callable[[Extent], Region]
    sinks: Region
    scales: Region
    k_along: int = 1
    v_along: int = 1


def seen(first: Array, last: Array, window: int, grain: int, causal: bool, context: Array) -> tuple[Array, Array]:
    """Return the first key that items load and how many: those that a query in `first` .. `last` sees.

    The first is a multiple of `grain`, 1 or the keys of a tile; without `causal` all of the context.
    """
    begin = np.maximum(first - window + 1, 0) // grain * grain if window else np.zeros_like(first)
    end = last + 1 if causal else context
    return begin, end - begin


def edges(first: Array, last: Array, begin: Array, tokens: Array, tile: int, window: int, causal: bool) -> Columns:
    """Return the columns `tiles`, `edge`, `full`, `offset` of items with queries `first` .. `last`.

    Of their `tiles` tiles of keys from `begin`, the first `edge` have keys that a query has already left behind, the
    next `full` are seen whole by all, the rest have keys that are ahead of a query. `offset` is the position of the
    first query, counted from `begin`.
    """
    tiles = -(-tokens // tile)
    offset = first - begin
    ahead = begin + tokens - 1 > first
    before = np.where(ahead, np.clip((offset + 1) // tile, 0, tiles), tiles) if causal else tiles
    left = np.clip(-(-(last - window + 1 - begin) // tile), 0, before) if window else np.zeros_like(tiles)
    return {"tiles": tiles, "edge": left, "full": before - left, "offset": offset}


def cache_tensors(
    knobs: Any, heads_kv: int, dims: tuple[int, int], dtype: str, contexts: Sequence[int], pages: int | None = None
) -> tuple[Tensor, ...]:
    """Return the KV cache of sequences of these lengths; `knobs` has `layout` and `page_size`.

    It has so many `pages`, by default those of the pool of the knob `page_order`. It is one tensor where keys and
    values, of `dims` elements, are equally long; else each has one, in the same order.
    """
    if pages is None:
        pages = paging.pool_pages(knobs.page_order, contexts, knobs.page_size)

    def cache(name: str, sides: int, dim: int) -> Tensor:
        sizes = {"page": pages, "kv": sides, "head": heads_kv, "token": knobs.page_size, "dim": dim}
        return Tensor(name, knob_layout(knobs, "layout", sizes), dtype, NONE)

    if dims[0] == dims[1]:
        return (cache("kv", 2, dims[0]),)
    return cache("k", 1, dims[0]), cache("v", 1, dims[1])


def cache_numbers(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Return the numbers of the tensors that `cache_tensors` returned, or of K and V without pages."""
    return tuple(number for number, tensor in enumerate(tensors) if tensor.name in ("kv", "k", "v"))


def extra_tensors(problem: Any, types: Types) -> list[Tensor]:
    """Return the tensors that some problems have: a sink per query head, and the scales of queries, keys, values."""
    sinks = Tensor("sinks", named("head", {"head": problem.heads_q}), "fp32", NONE, "cache")
    return [sinks] * problem.sinks + [scales_tensor()] * types.scaled


def scales_tensor() -> Tensor:
    """Return the tensor of the scales of queries, of keys and of values, of a layer with an e4m3 cache."""
    return Tensor("scales", named("operand", {"operand": 3}), "fp32", NONE, "cache")


def table_tensor(knobs: Any, contexts: Sequence[int], seed: int) -> Tensor:
    """Return the page table of the sequences one after another; `knobs` has `page_order` and `page_size`."""
    entries = named("entry", {"entry": sum(-(-context // knobs.page_size) for context in contexts)})
    pages = Deferred(paging.page_numbers, (knobs.page_order, tuple(contexts), knobs.page_size, seed))
    return Tensor("page table", entries, "int32", NONE, "cache", pages)


def first_pages(contexts: Sequence[int], page_size: int) -> Array:
    """Return where each sequence begins in the page table."""
    starts: Array = np.cumsum([0, *(-(-context // page_size) for context in contexts)])[:-1]
    return starts


def in_pages(
    p: PhaseAssembler, caches: Sequence[int], table: int
) -> tuple[Callable[[Extent], Region], Callable[[Extent], Region]]:
    """Return where the keys and the values of an item lie, by its columns `head` and `first_page`.

    `caches` are the tensors of `cache_tensors`.
    """

    def side(tensor: int, part: int) -> Callable[[Extent], Region]:
        def place(here: Extent) -> Region:
            axes: dict[str, Extent] = {"kv": (part, 1), "head": (p.column("head"), 1), "token": here}
            return Region(tensor, axes, table, p.column("first_page"), "page", "token")

        return place

    return side(caches[0], 0), side(caches[-1], 1 if len(caches) == 1 else 0)


def split(tokens: Array, limit: int, owner: Array) -> tuple[Array, Array, Array]:
    """Return the pieces of at most `limit` (0: any) of `owner`'s tokens: of which owner, which piece, where it starts.

    `owner` are numbers of entries of `tokens`, which are counted from 0.
    """
    which, piece = within_owners(-(-tokens[owner] // (limit or int(tokens.max()))))
    return which, piece, piece * limit


def combine_phase(
    assembler: PhaseAssembler,
    columns: Mapping[str, Array],
    most_parts: int,
    shape: tuple[int, int, str],
    places: tuple[Region, Region],
    machine: Machine,
    order: Schedule,
    count: Affine | None = None,
) -> Phase:
    """Return the phase that merges the `parts` partial results of each item by their log-sum-exps.

    `columns` has `parts`; `shape` is rows and columns of a result and its dtype; `places` the partial results of an
    item, part by part, and its result. `count`: the rows of an item that may have fewer.
    """
    p, (rows, width, dtype) = assembler, shape
    requested = (
        block("partials", most_parts * rows, width + 1, "fp32", 2),
        block("out", rows, width, dtype, 2),
    )
    partials, out = p.add_buffers(allocate(requested, machine))
    loaded = p.counter("partials loaded", "memory")
    free, out_free = p.counter("partials free", "buffer"), p.counter("out free", "buffer")
    ready = p.counter("out", "dependency")
    p.load(Slot(partials, p.begun), places[0], wait=[(free, p.begun - 1)], signal=[loaded])
    p.vector(
        "combine",
        (Slot(out, p.begun), Slot(partials, p.begun)),
        (p.column("parts"), rows if count is None else count, width),
        wait=[(loaded, p.begun + 1), (out_free, p.begun - 1)],
        signal=[ready, free],
    )
    p.store(Slot(out, p.begun), places[1], wait=[(ready, p.begun + 1)], signal=[out_free])
    return p.finish(np.stack(list(columns.values()), axis=1), order)
