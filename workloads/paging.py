"""Page tables: which page of a layer's KV pool holds which tokens of which sequence.

Third step of the data's path: token `t` of sequence `s` lies in slot `t % page_size` of page
`pages[first_page[s] + t // page_size]`; the KV layout turns (page, slot, head, element) into bytes. The two
tables bound what a serving engine produces: pages in order as after a cold start, and pages in random order
as after long churn (Kwon et al. 2023, arXiv:2309.06180, describe paged KV).
Not modelled: allocation over time, prefix sharing (a page has one owner), eviction, pools with free pages
between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.batch import check_contexts

MAX_PAGES = 1 << 28  # assumed: a table of 1 GiB


@dataclass(frozen=True, eq=False)
class PageTable:
    """The pages of every sequence, in compressed sparse rows.

    `page_size`: tokens per page. `pages`: int32, the page numbers of all sequences one after another, unique
    and in 0 .. pool_pages - 1. `first_page`: int64 [sequences + 1], where each sequence starts in `pages`;
    the last entry is the length of `pages`. Every sequence has a page. The arrays are copied and read-only.
    Raises ValueError otherwise.
    """

    page_size: int
    pages: NDArray[np.int32]
    first_page: NDArray[np.int64]
    pool_pages: int

    def __post_init__(self) -> None:
        _check_count(self.page_size, "page_size", 2**62)
        _check_count(self.pool_pages, "pool_pages", MAX_PAGES)
        _check_rows(self.pages, self.first_page)
        _check_pages(self.pages, self.pool_pages)
        for name in ("pages", "first_page"):
            array = getattr(self, name).copy()
            array.flags.writeable = False
            object.__setattr__(self, name, array)


def contiguous(contexts: Sequence[int], page_size: int) -> PageTable:
    """Return the table whose pages lie in order, sequence after sequence, in a pool just large enough.

    `contexts`: KV tokens per sequence; the last page of a sequence may be partly filled.
    Raises ValueError for lengths a batch may not have, a page size below 1, or more than 2^28 pages.
    """
    first_page = _first_page(contexts, page_size)
    used = int(first_page[-1])
    return PageTable(page_size, np.arange(used, dtype=np.int32), first_page, used)


def shuffled(contexts: Sequence[int], page_size: int, rng: np.random.Generator) -> PageTable:
    """Return the table whose pages are a random permutation of the same pool, as after long churn.

    Arguments and errors as for `contiguous`; `rng` draws one uniform permutation.
    """
    first_page = _first_page(contexts, page_size)
    used = int(first_page[-1])
    pages = np.arange(used, dtype=np.int32)
    rng.shuffle(pages)
    return PageTable(page_size, pages, first_page, used)


def _first_page(contexts: Sequence[int], page_size: int) -> NDArray[np.int64]:
    check_contexts(contexts)
    _check_count(page_size, "page_size", 2**62)
    first_page = np.zeros(len(contexts) + 1, dtype=np.int64)
    np.cumsum([-(-context // page_size) for context in contexts], out=first_page[1:])
    _check_count(int(first_page[-1]), "the number of pages", MAX_PAGES)
    return first_page


def _check_count(value: int, name: str, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"page table: {name} is {value!r}; allowed: an integer from 1 to {most}")


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
    shared = np.flatnonzero(np.bincount(pages) > 1)
    if len(shared):
        raise ValueError(f"page table: page {shared[0]} stands in pages more than once; allowed: once")
