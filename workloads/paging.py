"""Page tables: which page of a layer's KV pool holds which tokens of which sequence.

Third step of the data's path: token `t` of sequence `s` lies in slot `t % page_size` of page
`pages[first_page[s] + t // page_size]`; the KV layout turns (page, slot, head, element) into bytes. `page_table` makes
a table in one of the `page_orders`, with or without shared prefixes; `workloads.replay` makes those of a trace that is
served step by step (Kwon et al. 2023, arXiv:2309.06180, describe paged KV).
Sharing is a value of the table: `shared` says how many leading pages of every sequence have other owners too. Where it
says none, every page has one owner.
Not modelled: eviction, copies on write (only full pages of the prompt are shared).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workloads.batch import check_contexts
from workloads.numbering import within_owners
from workloads.page_orders import MAX_PAGES, ORDERS, check_count, check_order, coloured, pool_of, rows_of
from workloads.prefix import Prefixes


@dataclass(frozen=True, eq=False)
class PageTable:
    """The pages of every sequence, in compressed sparse rows.

    `page_size`: tokens per page. `pages`: int32, the page numbers of all sequences one after another, in
    0 .. pool_pages - 1. `first_page`: int64 [sequences + 1], where each sequence starts in `pages`; the last entry is
    the length of `pages`. Every sequence has a page. `shared`: int64 [sequences], how many leading pages of each have
    several owners, nought unless given. A page with several owners stands at one place in all of them, after the same
    pages, and within what they share; any other page stands in `pages` once. The arrays are copied and read-only.
    Raises ValueError otherwise.
    """

    page_size: int
    pages: NDArray[np.int32]
    first_page: NDArray[np.int64]
    pool_pages: int
    shared: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        check_count(self.page_size, "page_size", 2**62)
        check_count(self.pool_pages, "pool_pages", MAX_PAGES)
        _check_rows(self.pages, self.first_page)
        _check_pages(self.pages, self.pool_pages)
        if self.shared is None:
            object.__setattr__(self, "shared", np.zeros(len(self.first_page) - 1, dtype=np.int64))
        _check_owners(self.pages, self.first_page, self.shared_pages)
        for name in ("pages", "first_page", "shared"):
            array = getattr(self, name).copy()
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @property
    def shared_pages(self) -> NDArray[np.int64]:
        """How many leading pages of each sequence have several owners."""
        assert self.shared is not None  # __post_init__ sets it
        return self.shared

    def row(self, sequence: int) -> NDArray[np.int32]:
        """Return the pages of a sequence in the order of its tokens."""
        return self.pages[self.first_page[sequence] : self.first_page[sequence + 1]]


def page_table(
    order: str,
    contexts: Sequence[int],
    page_size: int,
    rng: np.random.Generator,
    *,
    prefixes: Prefixes | None = None,
    colours: Sequence[int] | NDArray[np.int64] | None = None,
) -> PageTable:
    """Return a table whose pages lie in `order`, one of `PAGE_ORDERS`.

    `contexts`: KV tokens per sequence. With `prefixes`, the full pages that prompts have in common are shared. `rng`
    decides what the order leaves to chance. `colours`: for the order "coloured", one number per page of a pool of
    `pool_pages(order, ...)` pages (`colours.page_colours` finds them).
    Raises ValueError for an unknown order, lengths a batch may not have, a page size below 1, more than 2^28 pages,
    and colours that are missing or too few.
    """
    check_order(order)
    rows = rows_of(contexts, page_size, prefixes)
    pool = pool_of(order, rows.distinct)
    numbers = coloured(rows, pool, colours) if order == "coloured" else ORDERS[order](rows, pool, rng)
    pages = numbers[rows.content].astype(np.int32, copy=False)
    return PageTable(page_size, pages, rows.first_page, pool, rows.shared)


def page_numbers(order: str, contexts: Sequence[int], page_size: int, seed: int) -> NDArray[np.int32]:
    """Return the pages of all sequences one after another, as in `page_table`, drawn from a generator with `seed`."""
    return page_table(order, contexts, page_size, np.random.default_rng(seed)).pages


def pool_pages(order: str, contexts: Sequence[int], page_size: int, prefixes: Prefixes | None = None) -> int:
    """Return how many pages the pool of `page_table` has: those in use, and for the churned orders some free ones."""
    check_order(order)
    if prefixes is None:
        check_contexts(contexts)
        check_count(page_size, "page_size", 2**62)
        return pool_of(order, sum(-(-context // page_size) for context in contexts))
    return pool_of(order, rows_of(contexts, page_size, prefixes).distinct)


def contiguous(contexts: Sequence[int], page_size: int) -> PageTable:
    """Return the table whose pages lie in order, sequence after sequence, in a pool just large enough.

    `contexts`: KV tokens per sequence; the last page of a sequence may be partly filled.
    Raises ValueError for lengths a batch may not have, a page size below 1, or more than 2^28 pages.
    """
    return page_table("contiguous", contexts, page_size, np.random.default_rng(0))


def shuffled(contexts: Sequence[int], page_size: int, rng: np.random.Generator) -> PageTable:
    """Return the table whose pages are a random permutation of the same pool.

    Arguments and errors as for `contiguous`; `rng` draws one uniform permutation.
    """
    return page_table("shuffled", contexts, page_size, rng)


class Fragmentation(NamedTuple):
    """How far the pages of the sequences are from lying in order.

    `mean_run`: consecutive pages with consecutive numbers, on average; `neighbours`: the share of steps from a page
    of a sequence to its next that go to the next number, 1 where there is no step.
    """

    mean_run: float
    neighbours: float


def fragmentation(table: PageTable) -> Fragmentation:
    """Return the measures of a table, every sequence counted with all its pages."""
    inner = np.ones(len(table.pages), dtype=bool)
    inner[table.first_page[:-1]] = False  # a step into a sequence's first page is none
    steps = int(inner.sum())
    next_number = int((inner[1:] & (np.diff(table.pages) == 1)).sum())
    return Fragmentation(len(table.pages) / (len(table.pages) - next_number), next_number / steps if steps else 1.0)


def _check_rows(pages: NDArray[np.int32], first_page: NDArray[np.int64]) -> None:
    for name, array, dtype in (("pages", pages, np.int32), ("first_page", first_page, np.int64)):
        if array.dtype != dtype or array.ndim != 1:
            allowed = f"one axis of {np.dtype(dtype)}"
            raise ValueError(f"page table: {name} is {array.dtype} {array.shape}; allowed: {allowed}")
    if len(first_page) < 2 or first_page[0] != 0 or first_page[-1] != len(pages):
        ends = first_page[[0, -1]].tolist() if len(first_page) else []
        raise ValueError(f"page table: first_page has ends {ends}; allowed: 0 and {len(pages)}, apart")
    empty = np.flatnonzero(np.diff(first_page) < 1)
    if len(empty):
        row = int(empty[0])
        ends = first_page[row : row + 2].tolist()
        raise ValueError(f"page table: first_page of sequence {row} and the next are {ends}; they must rise")


def _check_pages(pages: NDArray[np.int32], pool_pages: int) -> None:
    outside = np.flatnonzero((pages < 0) | (pages >= pool_pages))
    if len(outside):
        where = int(outside[0])
        raise ValueError(f"page table: pages[{where}] is {pages[where]}; allowed: 0 to {pool_pages - 1}")


def _check_owners(pages: NDArray[np.int32], first_page: NDArray[np.int64], shared: NDArray[np.int64]) -> None:
    counts = np.diff(first_page)
    if shared.dtype != np.int64 or shared.shape != counts.shape or ((shared < 0) | (shared > counts)).any():
        raise ValueError(
            f"page table: shared is {shared.dtype} {shared.shape}; allowed: int64, per sequence 0 to its pages"
        )
    if not shared.any():
        used = np.zeros(pages.max() + 1, np.bool_)
        used[pages] = True
        if int(used.sum()) == len(pages):
            return  # nothing is shared, and nothing is said to be
    sequence, position = within_owners(counts)
    declared = position < shared[sequence]
    several = np.bincount(pages)[pages] > 1
    wrong = np.flatnonzero(several != declared)
    if len(wrong):
        page = int(pages[wrong[0]])
        if several[wrong[0]]:
            raise ValueError(f"page table: page {page} stands in pages more than once; allowed: once, or in `shared`")
        raise ValueError(f"page table: page {page} is said to be shared, but has one owner")
    if not several.any():
        return
    before = np.where(position > 0, np.roll(pages, 1), -1)
    _, first_use, content = np.unique(pages, return_index=True, return_inverse=True)
    astray = np.flatnonzero((position != position[first_use][content]) | (before != before[first_use][content]))
    if len(astray):
        page = int(pages[astray[0]])
        raise ValueError(f"page table: page {page} has owners with other pages before it; they must begin alike")
