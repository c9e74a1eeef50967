"""Contiguous runs, alignment, and the bursts that a buffer touches.

Between the layout and the memory system: what a copy engine can move as one piece, and how many sectors, bursts or
rows of a given size have to be fetched for it.  `contiguous_runs` walks in the order of the index, which is that of
the innermost accessed axis when the layout is reindexed by it (`Buffer.tile`); `touched` asks for the set of bytes
and knows no order.

Not modelled: the order in time of the bursts, and caches that keep a burst between two runs (each touched granule
is counted once).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np

from layouts.analysis.buffer import MAX_RUNS, Buffer, Comb, cyclic_sums, intervals
from layouts.bulk import IntArray
from layouts.f2 import rank, transpose
from layouts.layout import Layout
from layouts.shape import as_int

MAX_GRANULE_BYTES = 2**22  # assumed: DRAM rows have kilobytes, pages up to 2 MiB


@dataclass(frozen=True)
class Runs:
    """The indices fall into `count` blocks of `length`, in each of which offsets count up one by one.

    `length` is the largest that divides all of the index range alike; `alignment` is the greatest common divisor of
    the offsets at which blocks start, 0 if the only one is 0.  In elements.
    """

    length: int
    count: int
    alignment: int


@dataclass(frozen=True)
class Touched:
    """Granules (bursts, sectors, rows) that hold a byte of a buffer; `form` is "rank", "residues" or "count"."""

    granule_bytes: int
    granules: int
    useful_bytes: int
    form: str

    @property
    def fetched_bytes(self) -> int:
        """The bytes of the granules."""
        return self.granules * self.granule_bytes

    @property
    def over_fetch(self) -> float:
        """Fetched over useful bytes, at least 1."""
        return self.fetched_bytes / self.useful_bytes


def contiguous_runs(layout: Layout) -> Runs:
    """Return the contiguous runs of a layout in the order of its index, and how they are aligned; exact.

    ValueError for a layout with axes, or one that has no closed form and too many indices to look at.
    """
    if layout.axes is not None:
        raise ValueError(f"layout {layout}: has axes; ask for the runs along one of them")
    form = layout.key[1]
    if not form or not isinstance(form[0], str):
        return _runs_of_sum(layout.size, dict(form))
    if form[0] == "f2":
        return _runs_of_bits(form[1], form[2:])
    if layout.size > MAX_RUNS:
        raise ValueError(
            f"layout {layout}: its runs have no closed form, and {layout.size} indices are too many to look at"
        )
    table = layout.table()
    breaks = np.flatnonzero(np.diff(table) != 1) + 1
    length = gcd(layout.size, int(np.gcd.reduce(breaks, initial=0)))
    return Runs(length, layout.size // length, int(np.gcd.reduce(table[::length])))


def _runs_of_sum(size: int, terms: dict[int, int]) -> Runs:
    """Return the runs of ``sum c * (i // P)``: offsets jump exactly at multiples of some P > 1.

    The functions ``i // P`` are independent, so that the divisor of all values is that of the coefficients.
    """
    start = terms.pop(0, 0)
    step = terms.pop(1, 0)
    length = gcd(size, *terms) if step == 1 else 1
    blocks = {1: step * length}  # the sum over the index of the block
    for p, c in terms.items():
        blocks[p // length] = blocks.get(p // length, 0) + c
    count = size // length
    return Runs(length, count, gcd(start, *(c for p, c in blocks.items() if p < count)))


def _runs_of_bits(zero: int, bits: tuple[int, ...]) -> Runs:
    """Return the runs of an F2-affine map."""
    place = max(k for k in range(len(bits) + 1) if _counts_up(zero, bits, k))
    return Runs(1 << place, 1 << (len(bits) - place), affine_gcd(zero, bits[place:]))


def _counts_up(zero: int, bits: tuple[int, ...], k: int) -> bool:
    """Tell whether the lowest `k` bits add: all plain, but for the last, which may carry alike everywhere."""
    if k == 0:
        return True
    top = 1 << (k - 1)
    touched = bits[k - 1] | (top - 1)
    return (
        all(bit == 1 << place for place, bit in enumerate(bits[: k - 1]))
        and not zero & (top - 1)
        and zero ^ bits[k - 1] == zero + top
        and not any(bit & touched for bit in bits[k:])
    )


def affine_gcd(zero: int, bits: tuple[int, ...]) -> int:
    """Return the greatest common divisor of the numbers ``zero ^ (XOR of any of bits)``, 0 if all are 0.

    Its power of two is the lowest bit in use.  Digits of the result that always flip together are a signed weight;
    the Walsh transform, which is invertible but for powers of two, gives the weights from the values, so that an
    odd number divides the values exactly if it divides the weights.
    """
    used = zero
    for bit in bits:
        used |= bit
    if not used:
        return 0
    weights: dict[int, int] = {}
    for place, pattern in enumerate(transpose(bits, used.bit_length())):
        if pattern:
            weights[pattern] = weights.get(pattern, 0) + (-1 if zero >> place & 1 else 1) * (1 << place)
    odd = gcd(zero, *weights.values())
    return (odd // (odd & -odd)) * (used & -used)


# --- granules ---------------------------------------------------------------------------------------------------


def touched(buffer: Buffer, granule_bytes: int) -> Touched:
    """Return the granules of `granule_bytes` (from address 0 on) that hold a byte of the buffer, exactly.

    A part of a tensor is ``touched(buffer.tile(index), ...)``.  ValueError where there is no closed form and the
    buffer has too many runs to look at.
    """
    if not 1 <= as_int(granule_bytes, "granule_bytes") <= MAX_GRANULE_BYTES:
        raise ValueError(f"granule_bytes is {granule_bytes}, allowed are 1..{MAX_GRANULE_BYTES}")
    affine = buffer.affine
    if affine is not None and granule_bytes & (granule_bytes - 1) == 0:
        useful = 1 << rank(affine.bits)
        granules = 1 << rank(bit // granule_bytes for bit in affine.bits)
        return Touched(granule_bytes, granules, useful, "rank")
    comb = buffer.comb
    if comb is not None:
        return Touched(granule_bytes, _granules_of_comb(comb, granule_bytes), comb.bytes, "residues")
    first, stop = buffer.intervals()
    useful = int((stop - first).sum())
    low, high = granule_intervals(first, stop, granule_bytes)
    return Touched(granule_bytes, int((high - low).sum()), useful, "count")


def granule_intervals(first: IntArray, stop: IntArray, granule_bytes: int) -> tuple[IntArray, IntArray]:
    """Return the disjoint intervals of granule numbers that hold the bytes first..stop-1."""
    return intervals(first // granule_bytes, (stop - 1) // granule_bytes + 1)


def _granules_of_comb(comb: Comb, granule: int) -> int:
    """Return the granules of nested runs, level by level for every place of the start in a granule.

    The copies of a level lie one after the other, so that a granule is counted twice exactly where a copy starts in
    the granule that the one before ends in.
    """
    places = np.arange(granule, dtype=np.int64)
    counts = (places + comb.run - 1) // granule + 1
    span = comb.run
    for extent, stride in comb.modes:
        shared = ((places + span - 1) // granule == (places + stride) // granule).astype(np.int64)
        counts = cyclic_sums(counts, stride, extent) - cyclic_sums(shared, stride, extent - 1)
        span += stride * (extent - 1)
    return int(counts[comb.start % granule])


__all__ = ["Runs", "Touched", "contiguous_runs", "touched"]
