"""Orders of KV pages: which page numbers a batch gets.

Between a batch and its page table. An order gives a number to every distinct page of a batch: in order or at random,
as an allocator leaves them after long use (`workloads.allocator`), or by colour, so that pages which are read together
lie in different channels or banks.
Not modelled: what a trace would have left behind (`workloads.replay` does that); here the guests before the batch are
drawn from its own lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from math import gcd
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layouts.notation import nearest_first
from workloads.allocator import ALLOCATORS, Coloured, FreePages
from workloads.batch import check_contexts
from workloads.prefix import Prefixes

MAX_PAGES = 1 << 28  # assumed: a table of 1 GiB
CHURN_ROUNDS = 8  # assumed: how often every place in the batch has changed hands before the batch as it is
SLACK_PART = 8  # assumed: one page in so many of a churned pool is free; engines admit until few are left
GROWN_PART = 8  # one page in so many was taken while decoding: assumed, between the 15 % of Azure's and the 6 % of
# Mooncake's conversations, the mean share of generated tokens in the context over all decode steps of the trace


class Rows(NamedTuple):
    """What a page table has to hold, before any page has a number.

    `first_page` as in `PageTable`; `content`: integers, one entry per entry of `pages`, equal where a page is the same,
    numbered by first use; `shared` as in `PageTable`; `new`: how many pages each sequence is the first to use.
    """

    first_page: NDArray[np.int64]
    content: NDArray[np.integer[Any]]
    shared: NDArray[np.int64]
    new: NDArray[np.int64]

    @property
    def distinct(self) -> int:
        return int(self.new.sum())


# --- the orders -------------------------------------------------------------------------------------------------------


def _contiguous(rows: Rows, pool: int, rng: np.random.Generator) -> NDArray[np.integer[Any]]:
    return np.arange(pool, dtype=np.int32)


def _shuffled(rows: Rows, pool: int, rng: np.random.Generator) -> NDArray[np.integer[Any]]:
    pages = np.arange(pool, dtype=np.int32)
    rng.shuffle(pages)
    return pages


def _churned(name: str) -> Callable[[Rows, int, np.random.Generator], NDArray[np.int64]]:
    """Return the order in which an allocator gives pages to the batch once its pool is well used.

    As many guests as the batch has sequences, with up to twice their mean length, come and go in random order,
    `CHURN_ROUNDS` times over. A guest takes the pages of its prompt at once and those that it grows by one at a time,
    while others grow. Then the guests leave one by one; the sequences of the batch enter as soon as their prompts fit,
    and at last take in turns the pages that they grew by.
    """

    def order(rows: Rows, pool: int, rng: np.random.Generator) -> NDArray[np.int64]:
        free = ALLOCATORS[name](pool)
        grown = rows.new // GROWN_PART
        guests = _guests(free, len(rows.new), rows.distinct // len(rows.new), rng)
        found = _enter(free, guests, (rows.new - grown).tolist(), rng)
        for turn in range(int(grown.max())):
            growing = np.flatnonzero(grown > turn).tolist()
            for place, page in zip(growing, free.take(len(growing)).tolist(), strict=True):
                found[place].append(page)
        return np.array([page for pages in found for page in pages], dtype=np.int64)

    return order


def _guests(free: FreePages, places: int, mean: int, rng: np.random.Generator) -> list[list[int]]:
    """Return the pages of the guests that are there after all rounds; `mean` is their pages on average."""
    held: list[list[int]] = [[] for _ in range(places)]
    longest = max(1, 2 * (mean - mean // GROWN_PART))
    for place in (place for _ in range(1 + CHURN_ROUNDS) for place in rng.permutation(places).tolist()):
        free.give(np.array(held[place], dtype=np.int32))
        held[place] = free.take(min(free.count, int(rng.integers(1, longest + 1)))).tolist()
        pages = free.take(min(free.count, mean // GROWN_PART)).tolist()  # what all grow by while one comes and goes
        for grower, page in zip(rng.integers(places, size=len(pages)).tolist(), pages, strict=True):
            held[grower].append(page)
    return held


def _enter(free: FreePages, guests: list[list[int]], prompts: list[int], rng: np.random.Generator) -> list[list[int]]:
    """Return the pages that prompts get, in random order, while the guests leave in that order."""
    found: list[list[int]] = [[] for _ in prompts]
    order = rng.permutation(len(prompts)).tolist()
    entered = 0
    for leaving in order:
        free.give(np.array(guests[leaving], dtype=np.int32))
        while entered < len(order) and free.fits(prompts[order[entered]]):
            found[order[entered]] = free.take(prompts[order[entered]]).tolist()
            entered += 1
    return found


def coloured(rows: Rows, pool: int, colours: Sequence[int] | NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return page numbers such that pages at one position, and pages that follow each other, differ in colour.

    Page j of sequence s wants colour s + j * step, where the step is such
    that it leads to another colour and goes round all of them.
    """
    if colours is None:
        raise ValueError("page table: the order coloured needs the colours of the pages, from colours.page_colours")
    if len(colours) < pool:
        raise ValueError(f"page table: {len(colours)} colours; allowed: one for each of at least {pool} pages")
    free = Coloured(colours[:pool])
    step = next(n for n in count(min(len(rows.new), free.colours)) if gcd(n, free.colours) == 1)
    counts = np.diff(rows.first_page)
    first_use = np.unique(rows.content, return_index=True)[1]
    sequence = np.repeat(np.arange(len(counts)), counts)[first_use]
    position = first_use - rows.first_page[sequence]
    order = np.lexsort((sequence, position))
    numbers = np.empty(rows.distinct, dtype=np.int64)
    numbers[order] = free.take_wanted((sequence + position * step)[order].tolist())
    return numbers


ORDERS: dict[str, Callable[[Rows, int, np.random.Generator], NDArray[np.integer[Any]]]] = {
    "contiguous": _contiguous,
    "shuffled": _shuffled,
    "first-fit": _churned("first-fit"),
    "oldest-first": _churned("oldest-first"),
    "newest-first": _churned("newest-first"),
}
DRAWN_ORDERS = tuple(ORDERS)  # those that need no colours
PAGE_ORDERS = (*DRAWN_ORDERS, "coloured")


# --- what a table has to hold -----------------------------------------------------------------------------------------


def rows_of(contexts: Sequence[int], page_size: int, prefixes: Prefixes | None) -> Rows:
    check_contexts(contexts)
    check_count(page_size, "page_size", 2**62)
    pages = [-(-context // page_size) for context in contexts]
    check_count(sum(pages), "the number of pages", MAX_PAGES)
    first_page = np.concatenate([[0], np.cumsum(pages, dtype=np.int64)])
    if prefixes is None:
        content = np.arange(first_page[-1], dtype=np.int32)
        return Rows(first_page, content, np.zeros(len(contexts), np.int64), np.diff(first_page))
    if len(prefixes.tokens) != len(contexts):
        raise ValueError(f"page table: prefixes of {len(prefixes.tokens)} sequences; allowed: {len(contexts)}")
    keys = -1 - np.arange(first_page[-1])  # a page of its own, unless it holds the full page of a prompt
    for sequence, path in enumerate(prefixes.paths()):
        full = min(prefixes.tokens[sequence], contexts[sequence]) // page_size
        last_token = (np.arange(full) + 1) * page_size - 1
        first = first_page[sequence]
        keys[first : first + full] = path[last_token // prefixes.block_tokens] * MAX_PAGES + np.arange(full)
    _, first_use, content, owners = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    numbered = np.argsort(np.argsort(first_use))  # by first use instead of by key
    sequence_of = np.repeat(np.arange(len(contexts)), pages)
    shared = np.bincount(sequence_of[owners[content] > 1], minlength=len(contexts))
    new = np.bincount(sequence_of[first_use], minlength=len(contexts))
    return Rows(first_page, numbered[content], shared.astype(np.int64), new.astype(np.int64))


def pool_of(order: str, distinct: int) -> int:
    churned = order not in ("contiguous", "shuffled", "coloured")
    pool = -(-distinct * SLACK_PART // (SLACK_PART - 1)) if churned else distinct
    check_count(pool, "the number of pages", MAX_PAGES)
    return pool


def check_order(order: str) -> None:
    if order not in PAGE_ORDERS:
        raise ValueError(f"page table: unknown order {order!r}; known: {nearest_first(str(order), PAGE_ORDERS)}")


def check_count(value: int, name: str, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"page table: {name} is {value!r}; allowed: an integer from 1 to {most}")
