"""The orders in which the digits of several axes can lie in memory, innermost first.

An axis is cut into digits at some of its boundaries: 16 at 4 gives ``axis % 4`` and ``axis // 4``.  An order of the
digits of all axes, each with the product of the extents inside it as its stride, is a compact layout, and every
compact layout is exactly one order in which no digit follows directly on the next lower digit of its axis (such
two would be one digit).  So orders without such neighbours are the distinct functions.

How many orders complete a beginning has a closed form.  By inclusion and exclusion over the neighbours that are
glued together, the orders of chains of digits are ``sum of (-1)**(digits - blocks) * blocks!`` over all ways to
cut every axis and to glue its digits to blocks; the sum over the cuts is a polynomial in the number of blocks per
axis, and the axes multiply.  Only while a page boundary still lies ahead is the number found by recursion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import comb, factorial
from typing import Any, NamedTuple, TypeAlias

MAX_STATES = 50_000  # assumed: beginnings remembered; each holds some kilobytes

Gap: TypeAlias = tuple[int, int]  # the boundaries low, high of a part of an axis that has no place in memory yet
Polynomial: TypeAlias = list[int]  # by number of blocks


class Digit(NamedTuple):
    """The digit ``axis % high // low``, with the axis by its place."""

    axis: int
    low: int
    high: int

    @property
    def extent(self) -> int:
        """The number of values of the digit."""
        return self.high // self.low


class State(NamedTuple):
    """A beginning of an order: what is left of every axis.

    `budgets` are the digits each axis may still have; `open_end` is the axis and boundary at which the last digit
    ended, where the axis goes on there; `room` is what is left of the page, in elements, 1 behind its boundary.
    """

    gaps: tuple[tuple[Gap, ...], ...]
    budgets: tuple[int, ...]
    open_end: tuple[int, int] | None
    room: int


Option: TypeAlias = tuple[Digit, State, int]  # the next digit, the state after it, the orders that go on from there


class Orders:
    """The orders of digits of axes with the boundaries `cuts` (1 and the size included), at most `most` digits each.

    `page` (in elements) demands that its boundary falls between two digits or divides a digit evenly; `outer` are
    the extents that follow behind all digits, innermost first.
    """

    def __init__(self, cuts: Sequence[Sequence[int]], most: Sequence[int], page: int, outer: Sequence[int]) -> None:
        self.cuts = [sorted(set(axis)) for axis in cuts]
        self.outer = tuple(outer)
        gaps = tuple(((1, axis[-1]),) if axis[-1] > 1 else () for axis in self.cuts)
        self.root = State(gaps, tuple(most), None, page)
        self._chains: dict[tuple[int, Gap], list[Polynomial]] = {}
        self._axes: dict[tuple[int, tuple[Gap, ...], int], Polynomial] = {}
        self._options: dict[State, list[Option]] = {}
        self._counts: dict[tuple[Any, ...], int] = {}
        self._kinds: dict[tuple[int, ...], int] = {}
        self._kinds_of: dict[tuple[int, Gap], int] = {}

    def options(self, state: State) -> list[Option]:
        """Return the digits that may come next, in the order of axis and boundaries, all of which can be completed."""
        found = self._options.get(state)
        if found is None:
            found = [option for axis in range(len(self.cuts)) for option in self._options_of_axis(state, axis)]
            if len(self._options) >= MAX_STATES:
                self._options.clear()
            self._options[state] = found
        return found

    def count(self, state: State) -> int:
        """Return the number of orders that complete a beginning.

        ValueError when a page boundary ahead makes it depend on more than MAX_STATES beginnings.
        """
        if not any(state.gaps):
            return int(_fits(state.room, self.outer))
        if state.room == 1:
            blocks = [1]
            for axis, gaps in enumerate(state.gaps):
                blocks = _product(blocks, self._polynomial(axis, gaps, state.budgets[axis]))
            return sum(n * _orders(m, state.open_end is not None) for m, n in enumerate(blocks))
        alike = self._alike(state)
        if alike not in self._counts:
            total = sum(count for _, _, count in self.options(state))
            if len(self._counts) >= MAX_STATES:
                raise ValueError(f"page_bytes: the count depends on more than {MAX_STATES} beginnings")
            self._counts[alike] = total
        return self._counts[alike]

    def _alike(self, state: State) -> tuple[Any, ...]:
        """Return what the count of a beginning depends on: how its gaps can be cut, not where they lie."""
        axes = []
        opened = None
        for axis, gaps in enumerate(state.gaps):
            kinds = [self._kind(axis, gap) for gap in gaps]
            longest = sum(len(self._chain(axis, gap)) - 1 for gap in gaps)
            unlimited = longest <= state.budgets[axis]
            sets = [[kind] for kind in kinds] if unlimited else [sorted(kinds)]
            axes += [(63 if unlimited else state.budgets[axis], part) for part in sets]
            if state.open_end is not None and state.open_end[0] == axis:
                (kind,) = [kind for kind, gap in zip(kinds, gaps, strict=True) if gap[0] == state.open_end[1]]
                opened = (kind, () if unlimited else (state.budgets[axis], *sorted(kinds)))
        return (state.room, opened, *((most, *kinds) for most, kinds in sorted(axes)))

    def _kind(self, axis: int, gap: Gap) -> int:
        """Return the number of the set of boundaries of a gap, relative to its low end."""
        low, high = gap
        if (axis, gap) not in self._kinds_of:
            cuts = tuple(c // low for c in self.cuts[axis] if low <= c <= high and c % low == 0 and high % c == 0)
            self._kinds_of[axis, gap] = self._kinds.setdefault(cuts, len(self._kinds))
        return self._kinds_of[axis, gap]

    def allows(self, digits: Sequence[Digit]) -> bool:
        """Tell whether digits, innermost first, are one of the orders."""
        state = self.root
        for digit in digits:
            after = [after for found, after in self._steps(state, digit.axis) if found == digit]
            if not after or min(after[0].budgets) < 0:
                return False
            state = after[0]
        return not any(state.gaps) and _fits(state.room, self.outer)

    def walk(self, first: list[Option]) -> Iterator[tuple[Digit, ...]]:
        """Yield all orders that start with one of the options `first`, in the order of `options`."""
        stack = [iter(first)]
        digits: list[Digit] = []
        while stack:
            option = next(stack[-1], None)
            if option is None:
                stack.pop()
                if digits:
                    digits.pop()
                continue
            digits.append(option[0])
            if any(option[1].gaps):
                stack.append(iter(self.options(option[1])))
            else:
                yield tuple(digits)
                digits.pop()

    def at(self, rank: int, first: list[Option]) -> tuple[Digit, ...]:
        """Return order number `rank` of `walk`, without walking."""
        digits: list[Digit] = []
        options = first
        while options:
            digit, after, count = options[0]
            if rank >= count:
                rank -= count
                options = options[1:]
                continue
            digits.append(digit)
            options = self.options(after) if any(after.gaps) else []
        return tuple(digits)

    def _options_of_axis(self, state: State, axis: int) -> Iterator[Option]:
        if not state.gaps[axis] or state.budgets[axis] < 1:
            return
        blocks = [1]
        for other, gaps in enumerate(state.gaps):
            if other != axis:
                blocks = _product(blocks, self._polynomial(other, gaps, state.budgets[other]))
        weights: dict[tuple[int, bool], int] = {}

        def weight(more: int, is_open: bool) -> int:
            if (more, is_open) not in weights:
                weights[more, is_open] = sum(n * _orders(m + more, is_open) for m, n in enumerate(blocks))
            return weights[more, is_open]

        for digit, after in self._steps(state, axis):
            if after.room > 1 or not any(after.gaps):
                count = self.count(after)
            else:
                own = self._polynomial(axis, after.gaps[axis], after.budgets[axis])
                is_open = after.open_end is not None
                count = sum(n * weight(m, is_open) for m, n in enumerate(own) if n)
            if count:
                yield digit, after, count

    def _steps(self, state: State, axis: int) -> Iterator[tuple[Digit, State]]:
        """Yield the digits of an axis that may come next, whether or not they can be completed."""
        budgets = tuple(budget - (k == axis) for k, budget in enumerate(state.budgets))
        for low in self.cuts[axis]:
            gap = next((gap for gap in state.gaps[axis] if gap[0] <= low < gap[1]), None)
            if gap is None or low % gap[0] or gap[1] % low or state.open_end == (axis, low):
                continue
            for high in self.cuts[axis]:
                if not low < high <= gap[1] or high % low or gap[1] % high:
                    continue
                room = _room_after(state.room, high // low)
                if room is None:
                    continue
                rest = [other for other in state.gaps[axis] if other != gap]
                rest += [part for part in ((gap[0], low), (high, gap[1])) if part[0] < part[1]]
                if len(rest) > budgets[axis]:
                    continue
                gaps = tuple(tuple(sorted(rest)) if k == axis else same for k, same in enumerate(state.gaps))
                end = (axis, high) if high < gap[1] else None
                yield Digit(axis, low, high), State(gaps, budgets, end, room)

    def _polynomial(self, axis: int, gaps: tuple[Gap, ...], budget: int) -> Polynomial:
        """Return, by number of blocks, the signed ways to cut and glue what is left of an axis."""
        if not gaps:
            return [1]
        key = (axis, gaps, budget)
        if key not in self._axes:
            parts = [self._chain(axis, gap) for gap in gaps]
            if sum(len(part) - 1 for part in parts) <= budget:  # no limit: the number of digits does not matter
                total = [1]
                for part in parts:
                    total = _product(total, _sum(part))
            else:
                rows = [[1]]
                for part in parts:
                    rows = _limited_product(rows, part, budget)
                total = _sum(rows)
            self._axes[key] = total
        return self._axes[key]

    def _chain(self, axis: int, gap: Gap) -> list[Polynomial]:
        """Return, by number of digits and then of blocks, the signed ways to cut one gap and glue its digits."""
        if (axis, gap) not in self._chains:
            low, high = gap
            ways: dict[int, list[int]] = {low: [1]}  # boundary -> chains from low to it, by number of digits
            for end in (c for c in self.cuts[axis] if low < c <= high and c % low == 0 and high % c == 0):
                shorter = [chains for start, chains in ways.items() if end % start == 0]
                ways[end] = [0, *_sum(shorter)]
            self._chains[axis, gap] = [
                [chains * comb(k - 1, m - 1) * (-1) ** (k - m) if m else 0 for m in range(k + 1)] if k else [0]
                for k, chains in enumerate(ways[high])
            ]
        return self._chains[axis, gap]


def _orders(blocks: int, is_open: bool) -> int:
    """Return the orders of blocks, without those that start with the one block that may not come first."""
    return factorial(blocks) - (factorial(blocks - 1) if is_open and blocks else 0)


def _room_after(room: int, extent: int) -> int | None:
    """Return the room in the page behind a digit, None where the page boundary does not divide the digit."""
    if room == 1 or extent % room == 0:
        return 1
    return room // extent if room % extent == 0 else None


def _fits(room: int | None, extents: tuple[int, ...]) -> bool:
    for extent in extents:
        room = None if room is None else _room_after(room, extent)
    return room is not None


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    result = [0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        if x:
            for j, y in enumerate(b):
                result[i + j] += x * y
    return result


def _sum(rows: Sequence[Polynomial]) -> Polynomial:
    return [sum(row[m] for row in rows if m < len(row)) for m in range(max(map(len, rows)))]


def _limited_product(a: list[Polynomial], b: list[Polynomial], most: int) -> list[Polynomial]:
    """Return the product of two polynomials in digits and blocks, up to `most` digits."""
    result: list[Polynomial] = []
    for k in range(min(len(a) + len(b) - 2, most) + 1):
        pairs = [_product(a[i], b[k - i]) for i in range(len(a)) if 0 <= k - i < len(b)]
        result.append(_sum(pairs))
    return result
