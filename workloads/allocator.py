"""Allocators of KV pages: which free page a sequence gets next.

Between the requests and the page table: a serving engine takes pages when a sequence is admitted or grows, and gives
them back when it ends; in which order free pages are handed out decides what a page table looks like after an hour.
`OldestFirst` is the queue of vLLM (v1, `FreeKVCacheBlockQueue`) and SGLang (`TokenToKVPoolAllocator`), `NewestFirst`
the stack of simpler engines, `FirstFit` a pool kept sorted, `FirstRun` an engine without pages, which reserves one run
of them per sequence. `Coloured` looks at where pages lie in DRAM.
Not modelled: several pools, pages of several sizes, moving pages (compaction).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pages = NDArray[np.int32]


class FreePages(Protocol):
    """The free pages of a pool of pages 0 .. n - 1, all of them free at first."""

    @property
    def count(self) -> int:
        """How many pages are free."""

    def fits(self, count: int) -> bool:
        """Return whether `take(count)` would succeed."""

    def take(self, count: int) -> Pages:
        """Return `count` pages, no longer free, in the order of the tokens. Raises ValueError where they do not fit."""

    def give(self, pages: Pages) -> None:
        """Free pages, given in the order of the tokens. Raises ValueError for one that is free already."""


class _Pool:
    """Which pages are free, and the checks that all allocators share."""

    def __init__(self, pool_pages: int) -> None:
        self._is_free = np.ones(pool_pages, dtype=bool)
        self._count = pool_pages

    @property
    def count(self) -> int:
        return self._count

    def fits(self, count: int) -> bool:
        return count <= self._count

    def _note_taken(self, pages: Pages) -> Pages:
        self._is_free[pages] = False
        self._count -= len(pages)
        return pages

    def _note_given(self, pages: Pages) -> None:
        if self._is_free[pages].any():
            raise ValueError(f"allocator: page {pages[self._is_free[pages]][0]} is given back, but is free already")
        self._is_free[pages] = True
        self._count += len(pages)

    def _require(self, count: int) -> None:
        if not self.fits(count):
            raise ValueError(f"allocator: {count} pages are asked for; free of {len(self._is_free)}: {self._count}")


class FirstFit(_Pool):
    """The free pages with the lowest numbers."""

    def __init__(self, pool_pages: int) -> None:
        super().__init__(pool_pages)
        self._lowest = 0  # no page below it is free

    def take(self, count: int) -> Pages:
        self._require(count)
        stop = self._lowest + count
        while np.count_nonzero(self._is_free[self._lowest : stop]) < count:
            stop += stop - self._lowest
        pages = (self._lowest + np.flatnonzero(self._is_free[self._lowest : stop])[:count]).astype(np.int32)
        if count:
            self._lowest = int(pages[-1]) + 1
        return self._note_taken(pages)

    def give(self, pages: Pages) -> None:
        self._note_given(pages)
        if len(pages):
            self._lowest = min(self._lowest, int(pages.min()))


class FirstRun(_Pool):
    """The lowest run of free pages that is long enough: free pages in shorter runs are of no use."""

    def fits(self, count: int) -> bool:
        return count == 0 or self._find(count) is not None

    def take(self, count: int) -> Pages:
        first = 0 if count == 0 else self._find(count)
        if first is None:
            runs = self._runs()
            longest = int((runs[1] - runs[0]).max(initial=0))
            raise ValueError(
                f"allocator: a run of {count} pages is asked for; {self._count} are free, in runs of at most {longest}"
            )
        return self._note_taken(np.arange(first, first + count, dtype=np.int32))

    def give(self, pages: Pages) -> None:
        self._note_given(pages)

    def _runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where runs of free pages start and stop."""
        edges = np.diff(self._is_free.astype(np.int8), prepend=0, append=0)
        return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)

    def _find(self, count: int) -> int | None:
        start, stop = self._runs()
        long = np.flatnonzero(stop - start >= count)
        return int(start[long[0]]) if len(long) else None


class OldestFirst(_Pool):
    """A queue: the pages that have been free for longest; of one sequence its last page goes in first, as in vLLM."""

    def __init__(self, pool_pages: int) -> None:
        super().__init__(pool_pages)
        self._ring = np.arange(pool_pages, dtype=np.int32)
        self._head = 0

    def take(self, count: int) -> Pages:
        self._require(count)
        pages = self._ring[(self._head + np.arange(count)) % max(1, len(self._ring))]
        self._head += count
        return self._note_taken(pages)

    def give(self, pages: Pages) -> None:
        tail = self._head + self._count
        self._note_given(pages)
        self._ring[(tail + np.arange(len(pages))) % max(1, len(self._ring))] = pages[::-1]


class NewestFirst(_Pool):
    """A stack: the pages that came back last."""

    def __init__(self, pool_pages: int) -> None:
        super().__init__(pool_pages)
        self._stack = np.arange(pool_pages, dtype=np.int32)[::-1].copy()

    def take(self, count: int) -> Pages:
        self._require(count)
        pages = self._stack[self._count - count : self._count][::-1].copy()
        return self._note_taken(pages)

    def give(self, pages: Pages) -> None:
        before = self._count
        self._note_given(pages)
        self._stack[before : before + len(pages)] = pages[::-1]


class Coloured(_Pool):
    """The page of the wanted colour with the lowest number; where there is none left, of the colour with most pages.

    `colours`: one number per page of the pool, equal for pages that compete for one resource (a channel, a bank). The
    colours, in rising order, are dealt in a circle: `take` goes on with the colour after the one it wanted last.
    """

    def __init__(self, colours: Sequence[int] | NDArray[np.int64]) -> None:
        super().__init__(len(colours))
        names, self._colour_of = np.unique(np.asarray(colours, dtype=np.int64), return_inverse=True)
        self._stacks: list[list[int]] = [[] for _ in names]
        for page in range(len(colours) - 1, -1, -1):  # so that the lowest number of a colour comes off first
            self._stacks[self._colour_of[page]].append(page)
        self._next = 0

    @property
    def colours(self) -> int:
        """How many colours there are."""
        return len(self._stacks)

    def take(self, count: int) -> Pages:
        self._next += count
        return self.take_wanted(range(self._next - count, self._next))

    def take_wanted(self, wanted: Sequence[int]) -> Pages:
        """Return a page for each of `wanted`: of that colour, counted round the circle, or of that with most left."""
        self._require(len(wanted))
        return self._note_taken(np.array([self._pop(colour) for colour in wanted], dtype=np.int32))

    def give(self, pages: Pages) -> None:
        self._note_given(pages)
        for page in pages[::-1].tolist():
            self._stacks[self._colour_of[page]].append(page)

    def _pop(self, wanted: int) -> int:
        stack = self._stacks[wanted % len(self._stacks)]
        return (stack or max(self._stacks, key=len)).pop()


ALLOCATORS: dict[str, Callable[[int], FreePages]] = {
    "first-fit": FirstFit,
    "first-run": FirstRun,
    "oldest-first": OldestFirst,
    "newest-first": NewestFirst,
}
