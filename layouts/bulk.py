"""Many offsets at once: the loops behind `Layout.offsets` and `Layout.table`.

Arbitrary indices are worked on in blocks that stay in a core's L2 cache, by a floor sum with constant divisors,
or by a few XOR look-up tables; blocks go to one thread per CPU (NumPy releases the interpreter meanwhile).  Whole
domains never divide: they are outer sums and outer XORs of the modes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layouts.shape import INT64_MAX
from layouts.stride import X, carryless_product

BLOCK_INDICES = 65_536  # indices worked on at once, so that the intermediate arrays stay in a core's L2 cache
_TABLE_BITS = 13  # look-up tables of 64 KiB stay in a core's L2 cache
_MAX_DISTANCES = 12  # beyond it look-up tables are faster (measured: 0.4 ns a distance, 5 to 8 ns for two tables)
_PARALLEL_INDICES = 1 << 20  # fewer are done before a second thread has started

IntArray = NDArray[np.int64]


def in_blocks(array: IntArray, function: Callable[[Any], Any]) -> IntArray:
    """Return `function` of an array of indices, taken block by block, as int64 in the same shape."""
    flat = array.reshape(-1)
    result = np.empty(flat.size, dtype=np.int64)

    def work(start: int) -> None:
        result[start : start + BLOCK_INDICES] = function(flat[start : start + BLOCK_INDICES])

    starts = range(0, flat.size, BLOCK_INDICES)
    threads = min(os.cpu_count() or 1, 8)
    if flat.size < _PARALLEL_INDICES or threads == 1:
        for start in starts:
            work(start)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, starts))
    return result.reshape(array.shape)


def floor_sums(array: IntArray, form: Iterable[tuple[int, int]], low: int, high: int, size: int) -> IntArray:
    """Return ``sum c * (i // P)`` (P = 0: the constant c) of every index; `low` and `high` bound the results."""
    narrow = low >= 0 and high < 2**32 and size <= 2**32
    # Unsigned arithmetic wraps, so that terms may be negative or large as long as their sum is an offset.
    kind: type[np.unsignedinteger[Any]] = np.uint32 if narrow else np.uint64
    modulus = 2**32 if narrow else 2**64
    terms = [(kind(p), kind(c % modulus)) for p, c in form if p <= INT64_MAX]

    def sums(block: IntArray) -> Any:
        index = block.astype(kind)
        total = np.zeros_like(index)
        part = np.empty_like(index)
        for p, c in terms:
            if p == 0:
                total += c
                continue
            if p == 1:
                np.multiply(index, c, out=part)
            else:
                np.floor_divide(index, p, out=part)
                part *= c
            total += part
        return total

    return in_blocks(array, sums)


def xor_sums(array: IntArray, zero: int, bits: Sequence[int]) -> IntArray:
    """Return the value at 0 XORed with the change by each set bit of every index.

    Bits that move by the same distance move together, by a mask and a shift: a swizzle has a handful of distances.
    Maps with many of them use look-up tables.
    """
    masks: dict[int, int] = {}
    for place, column in enumerate(bits):
        for target in range(column.bit_length()):
            if column >> target & 1:
                masks[target - place] = masks.get(target - place, 0) | 1 << place
    if len(masks) > _MAX_DISTANCES:
        return _looked_up(array, zero, bits)
    narrow = len(bits) <= 32 and max([zero, *bits], default=0) < 2**32
    kind: type[np.unsignedinteger[Any]] = np.uint32 if narrow else np.uint64
    moves = [(kind(mask), kind(abs(distance)), distance > 0) for distance, mask in sorted(masks.items())]

    def moved(block: IntArray) -> Any:
        index = block.astype(kind)
        total = np.full(index.shape, zero, dtype=kind)
        part = np.empty_like(index)
        for mask, distance, up in moves:
            np.bitwise_and(index, mask, out=part)
            if up:
                np.left_shift(part, distance, out=part)
            else:
                np.right_shift(part, distance, out=part)
            total ^= part
        return total

    return in_blocks(array, moved)


def _looked_up(array: IntArray, zero: int, bits: Sequence[int]) -> IntArray:
    parts = [(start, xor_table(0, bits[start : start + _TABLE_BITS])) for start in range(0, len(bits), _TABLE_BITS)]

    def look_up(block: IntArray) -> Any:
        total = np.full(block.shape, zero, dtype=np.int64)
        for start, table in parts:
            total ^= table.take((block >> start) & (len(table) - 1))
        return total

    return in_blocks(array, look_up)


def xor_table(zero: int, bits: Sequence[int]) -> IntArray:
    """Return the values of a whole domain, int64[2**len(bits)], of an F2-affine map."""
    half = len(bits) // 2
    halves = []
    for part in (bits[:half], bits[half:]):
        table = np.zeros(1, dtype=np.int64)
        for bit in part:
            table = np.concatenate([table, table ^ bit])
        halves.append(table)
    values: IntArray = np.bitwise_xor.outer(halves[1] ^ zero, halves[0]).reshape(-1)
    return values


def outer_table(modes: Iterable[tuple[int, Any]], offset: int) -> IntArray:
    """Return the offsets of a whole domain, int64[size]; modes are (extent, integer or XOR stride), fastest first."""
    listed = list(modes)
    summed, xored = np.full(1, offset, dtype=np.int64), np.zeros(1, dtype=np.int64)
    has_xor = any(isinstance(stride, X) for _, stride in listed)
    for extent, stride in listed:
        digits = np.arange(extent, dtype=np.int64)
        plus = np.zeros_like(digits) if isinstance(stride, X) else digits * stride
        summed = np.add.outer(plus, summed).reshape(-1)
        if has_xor:
            bits = carryless(digits, stride.value) if isinstance(stride, X) else np.zeros_like(digits)
            xored = np.bitwise_xor.outer(bits, xored).reshape(-1)
    return summed ^ xored if has_xor else summed


def carryless(digit: Any, value: int) -> Any:
    """Return the carry-less product of a number or an array of numbers and `value`."""
    if not isinstance(digit, np.ndarray):
        return carryless_product(int(digit), value)
    if int(digit.min(initial=0)) < 0:
        raise ValueError(f"XOR stride X{value}: a step of {int(digit.min())} is negative and has no carry-less product")
    result = np.zeros_like(digit)
    for k in range(value.bit_length()):
        if value >> k & 1:
            result ^= digit << k
    return result


def xor_extremes(zero: int, bits: Iterable[int]) -> tuple[int, int]:
    """Return the smallest and the largest value of an F2-affine map."""
    basis: list[int] = []  # largest first, each with a highest bit of its own
    for bit in bits:
        for known in basis:
            bit = min(bit, bit ^ known)
        if bit:
            basis = sorted([*basis, bit], reverse=True)
    low = high = zero
    for known in basis:
        low, high = min(low, low ^ known), max(high, high ^ known)
    return low, high


def as_index_array(indices: ArrayLike, size: int, where: str) -> IntArray:
    """Return `indices` as int64; ValueError unless they are integers within 0..size-1."""
    array = np.asarray(indices)
    if array.size == 0:
        return np.zeros(array.shape, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{where}: indices of type {array.dtype} are not integers")
    for extreme in (int(array.min()), int(array.max())):
        if not 0 <= extreme < size:
            raise ValueError(f"{where}: index {extreme} is outside 0..{size - 1}")
    return array.astype(np.int64, copy=False)
