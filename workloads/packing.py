"""Dynamic storage allocation: starts for items that are each in use for an interval of time, as low as possible.

The combinatorial core of `bufferise`, in whole rows and without names. Deciding it is NP-complete (Garey and Johnson,
problem SR2), so greedy orders come first and a bounded search last.

What can be reached is at most what is in use at once, but not always that: between the two stands the search over
placements that are *pushed down*, in which every item rests on the floor or on one that is in use with it. Some least
placement is pushed down, and laying its items in the order of their starts, each on the skyline of those before, gives
it again; so those orders are all there is to look at. An item that starts above where another one that is still to
come would end leaves a hole into which that one could be pushed: such orders are left out too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_ROUNDS = 60  # assumed, as MAX_NODES: what a compiler can wait for
MAX_NODES = 1000  # of one search
MAX_SEARCHED = 120  # items; with more, a step takes too long


@dataclass(frozen=True, slots=True)
class Item:
    """So many rows, starting at a multiple of `alignment`, in use from `first` to `last`, both included."""

    rows: int
    alignment: int
    first: int
    last: int


@dataclass(frozen=True)
class Packing:
    """Starts in the order of the items; `bound`: no packing is lower; `searched`: the search has raised it."""

    starts: tuple[int, ...]
    bound: int
    searched: bool


def pack(items: Sequence[Item]) -> Packing:
    """Return a packing of the items, which is a least one where its height equals its bound."""
    bound = lower_bound(items)
    meets = _meetings(items)
    starts, order = _greedy(items, meets, bound)
    if _height(items, starts) > bound:
        starts = _moved_forward(items, meets, starts, order, bound)
    if _height(items, starts) == bound or len(items) > MAX_SEARCHED:
        return Packing(tuple(starts), bound, False)
    return _searched(items, starts, bound)


def _searched(items: Sequence[Item], starts: list[int], bound: int) -> Packing:
    """Return the lowest of a packing and those that searches for ever higher ones find, and the bound they prove."""
    height, proven = _height(items, starts), bound
    for longest in (False, True):
        for limit in (proven, bound * 51 // 50, bound * 26 // 25):
            if not proven <= limit < height:
                continue
            search = _Search(items, limit, longest)
            if search.found is not None:
                starts, height = search.found, _height(items, search.found)
                break
            if search.is_complete:
                proven = limit + 1
    return Packing(tuple(starts), proven, proven > bound)


def live_rows(items: Sequence[Item]) -> int:
    """Return the rows in use at the fullest moment."""
    return max((sum(item.rows for item in live) for live in _moments(items)), default=0)


def lower_bound(items: Sequence[Item]) -> int:
    """Return what no packing is below.

    Items that start at multiples of one alignment and are in use at once lie apart even when each is rounded up to it,
    all but the padding of the one at the top; taken over all moments and alignments.
    """
    bound = 0
    for live in _moments(items):
        for alignment in {item.alignment for item in live}:
            aligned = [item.rows for item in live if item.alignment >= alignment]
            padding = [-rows % alignment for rows in aligned]
            bound = max(bound, sum(aligned) + sum(padding) - max(padding))
    return bound


def _moments(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield the items in use at each moment when one begins: between those the sets only shrink."""
    for moment in sorted({item.first for item in items}):
        yield [item for item in items if item.first <= moment <= item.last]


def _meetings(items: Sequence[Item]) -> list[list[int]]:
    """Return for every item the others that are in use at the same time."""
    return [
        [j for j, other in enumerate(items) if j != i and other.first <= item.last and item.first <= other.last]
        for i, item in enumerate(items)
    ]


def _height(items: Sequence[Item], starts: Sequence[int]) -> int:
    return max((start + item.rows for item, start in zip(items, starts, strict=True)), default=0)


def _greedy(items: Sequence[Item], meets: list[list[int]], bound: int) -> tuple[list[int], list[int]]:
    """Return the lowest of the greedy packings, and its order; the first one that reaches the bound."""
    best: tuple[int, list[int], list[int]] | None = None
    for order in _orders(items):
        for best_fit in (False, True):
            starts = _lay(items, meets, order, best_fit)
            height = _height(items, starts)
            if best is None or height < best[0]:
                best = height, starts, order
            if height == bound:
                return starts, order
    assert best is not None
    return best[1:]


def _orders(items: Sequence[Item]) -> Iterator[list[int]]:
    """Yield the orders in which items are laid: as given, largest, largest and longest, longest, earliest first."""
    numbers = list(range(len(items)))
    yield numbers
    lengths = [item.last - item.first + 1 for item in items]
    yield sorted(numbers, key=lambda i: -items[i].rows)
    yield sorted(numbers, key=lambda i: -items[i].rows * lengths[i])
    yield sorted(numbers, key=lambda i: (-lengths[i], -items[i].rows))
    yield sorted(numbers, key=lambda i: (items[i].first, -items[i].rows))
    yield sorted(numbers, key=lambda i: (items[i].first, -lengths[i]))
    yield sorted(numbers, key=lambda i: (-items[i].last, -items[i].rows))


def _lay(items: Sequence[Item], meets: list[list[int]], order: Sequence[int], best_fit: bool) -> list[int]:
    """Return the starts when items are laid one after another, each into the lowest or the tightest gap."""
    starts = [-1] * len(items)
    for i in order:
        taken = sorted((starts[j], starts[j] + items[j].rows) for j in meets[i] if starts[j] >= 0)
        starts[i] = _gap(taken, items[i], best_fit)
    return starts


def _gap(taken: list[tuple[int, int]], item: Item, best_fit: bool) -> int:
    """Return the start of the gap between sorted intervals that an item goes into, above them where none is wide."""
    floor, found, least = 0, -1, -1
    for begin, end in taken:
        start = -(-floor // item.alignment) * item.alignment
        room = begin - floor
        if start + item.rows <= begin and (found < 0 or room < least):
            found, least = start, room
            if not best_fit:
                break
        floor = max(floor, end)
    return found if found >= 0 else -(-floor // item.alignment) * item.alignment


def _moved_forward(
    items: Sequence[Item], meets: list[list[int]], best: list[int], order: list[int], bound: int
) -> list[int]:
    """Lay again and again, each time with the item at the top before the one that it stands on; return the lowest."""
    starts, seen = best, {tuple(order)}
    for _ in range(MAX_ROUNDS):
        top = max(order, key=lambda i: starts[i] + items[i].rows)
        position = order.index(top)
        beneath = [p for p, j in enumerate(order[:position]) if j in meets[top]]
        for place in reversed(beneath):
            order_now = [*order[:place], top, *order[place:position], *order[position + 1 :]]
            if tuple(order_now) not in seen:
                break
        else:
            return best
        order = order_now
        seen.add(tuple(order))
        starts = _lay(items, meets, order, False)
        if _height(items, starts) < _height(items, best):
            best = starts
            if _height(items, best) == bound:
                break
    return best


class _Search:
    """Depth first over the orders of pushed-down placements, for a packing of at most `limit` rows: `found` or None.

    Of what may come next the lowest comes first, then the largest and longest, or with `longest` the longest.
    """

    def __init__(self, items: Sequence[Item], limit: int, longest: bool) -> None:
        self.found: list[int] | None = None
        self._nodes = 0
        self._items, self._limit = items, limit
        moments = sorted({item.first for item in items})
        self._spans = [
            range(moments.index(item.first), sum(moment <= item.last for moment in moments)) for item in items
        ]
        lengths = [len(span) for span in self._spans]
        self._ranks = [
            (-length, -item.rows) if longest else (-item.rows * length, 0)
            for item, length in zip(items, lengths, strict=True)
        ]
        self._skyline = [0] * len(moments)
        self._left = [sum(item.rows for item in live) for live in _moments(items)]
        self._starts = [-1] * len(items)
        self._descend(0, len(items))

    @property
    def is_complete(self) -> bool:
        """Whether nothing was left out, so that without `found` there is no such packing."""
        return self._nodes < MAX_NODES

    def _descend(self, lowest: int, missing: int) -> None:
        """Lay one more item at or above `lowest`, in every way that leaves room for the others."""
        if missing == 0:
            self.found = list(self._starts)
            return
        self._nodes += 1
        for start, i in self._candidates(lowest):
            if self.found is not None or not self.is_complete:
                return
            rows, span = self._items[i].rows, self._spans[i]
            kept = [self._skyline[t] for t in span]
            for t in span:
                self._skyline[t] = start + rows
                self._left[t] -= rows
            self._starts[i] = start
            if all(self._skyline[t] + self._left[t] <= self._limit for t in span):
                self._descend(start, missing - 1)
            self._starts[i] = -1
            for t, before in zip(span, kept, strict=True):
                self._skyline[t] = before
                self._left[t] += rows

    def _candidates(self, lowest: int) -> list[tuple[int, int]]:
        """Return (start, item) of what may come next, the most promising first."""
        found, ceiling = [], self._limit + 1
        for i, item in enumerate(self._items):
            if self._starts[i] < 0:
                skyline = max(self._skyline[t] for t in self._spans[i])
                start = -(-skyline // item.alignment) * item.alignment
                ceiling = min(ceiling, start + item.rows)
                found.append((start, self._ranks[i], i))
        found.sort()
        return [(start, i) for start, _, i in found if lowest <= start < ceiling]
