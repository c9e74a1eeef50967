"""Whether two buffers share a byte.

Two tensors may only live side by side if they do not overlap.  The answer is exact: by their spans, by a search among
integer strides that keeps only what the smaller strides can still reach, or by looking at the bytes; where none of
these is within bounds, a ValueError, never a guess.
"""

from __future__ import annotations

from math import gcd

import numpy as np

from layouts.analysis.buffer import Buffer, Comb, Mode, merge
from layouts.bulk import IntArray
from layouts.f2 import rank

MAX_STATES = 200_000  # assumed: partial sums held at once; ordinary buffers need a handful


# --- two buffers --------------------------------------------------------------------------------------------------


def overlap(a: Buffer, b: Buffer) -> bool:
    """Tell whether two buffers share a byte, exactly.

    ValueError where there is no closed form and the buffers have too many runs to look at.
    """
    if _spans_apart(a, b):
        return False
    if a.affine is not None and b.affine is not None:
        bits = [*a.affine.bits, *b.affine.bits]
        return rank(bits) == rank([*bits, a.affine.zero ^ b.affine.zero])
    if a.strides is not None and b.strides is not None:
        runs_a, runs_b = merge(*a.strides, a.element_bytes), merge(*b.strides, b.element_bytes)
        found = _runs_meet(runs_a, runs_b)
        if found is not None:
            return found
    return _intervals_meet(a.intervals(), b.intervals())


def _spans_apart(a: Buffer, b: Buffer) -> bool:
    try:
        (low_a, high_a), (low_b, high_b) = a.addresses._bounds, b.addresses._bounds
    except ValueError:  # a span without closed form
        return False
    return low_a >= high_b + b.element_bytes or low_b >= high_a + a.element_bytes


def _runs_meet(a: Comb, b: Comb) -> bool | None:
    """Tell whether a run of `a` meets a run of `b`, None where too many partial sums would be needed.

    They meet where b's start less a's lies between ``1 - b.run`` and ``a.run - 1``.  Digits of a are counted
    downwards, so that all strides are positive; the largest are taken first, the last two solved for.
    """
    modes = sorted([*a.modes, *b.modes], key=lambda mode: -mode[1])
    low, high = 1 - b.run, a.run - 1
    sums = {b.start - a.start - sum((extent - 1) * stride for extent, stride in a.modes)}
    while True:
        reach = sum((extent - 1) * stride for extent, stride in modes)
        divisor = gcd(*(stride for _, stride in modes))
        sums = {s for s in sums if s <= high and s + reach >= low and _has_multiple(low - s, high - s, divisor)}
        if not modes or not sums:
            return bool(sums)
        if len(modes) == 2 and len(sums) * ((high - low) // divisor + 1) <= MAX_STATES:
            return any(_solvable(t, *modes) for s in sums for t in _multiples(low - s, high - s, divisor))
        extent, stride = modes.pop(0)
        reach -= (extent - 1) * stride
        following: set[int] = set()
        for s in sums:
            first, last = max(0, -((s + reach - low) // stride)), min(extent - 1, (high - s) // stride)
            if len(following) + last - first >= MAX_STATES:
                return None
            following.update(range(s + first * stride, s + last * stride + 1, stride))
        sums = following


def _multiples(low: int, high: int, divisor: int) -> range:
    return range(-(-low // divisor) * divisor, high + 1, divisor)


def _has_multiple(low: int, high: int, divisor: int) -> bool:
    """Tell whether low..high holds a multiple of `divisor`; the only multiple of 0 is 0."""
    return low <= 0 <= high if divisor == 0 else high // divisor * divisor >= low


def _solvable(total: int, first: Mode, second: Mode) -> bool:
    """Tell whether two digits times their strides add up to `total`, which the strides' divisor divides."""
    (extent, stride), (other_extent, other) = first, second
    divisor = gcd(stride, other)
    period = other // divisor
    solution = total // divisor * pow(stride // divisor, -1, period) % period  # of the first digit, modulo the period
    lowest = max(0, -(((other_extent - 1) * other - total) // stride))
    return lowest + (solution - lowest) % period <= min(extent - 1, total // stride)


def _intervals_meet(a: tuple[IntArray, IntArray], b: tuple[IntArray, IntArray]) -> bool:
    """Tell whether two ascending lists of disjoint intervals meet."""
    (first_a, stop_a), (first_b, stop_b) = a, b
    before = np.searchsorted(first_b, stop_a, side="left") - 1  # the last interval of b that starts before a's stop
    return bool(np.any((before >= 0) & (stop_b[before] > first_a)))


__all__ = ["overlap"]
