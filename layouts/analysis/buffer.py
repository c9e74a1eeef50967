"""A layout placed in memory: which bytes it touches, in the forms that can be reasoned about.

Between the layout (elements) and the address map (DRAM): bursts, balance and overlap are questions about the set
of bytes of a `Buffer`, whatever their order.  Three forms of that set are known, the best one first: an F2-affine
space; a comb, runs of bytes at ``start + sum digit * stride`` that share no byte; and a list of runs, made by
looking at every index, up to MAX_RUNS of them.

Not modelled: elements smaller than a byte (count them in bytes, or in whole scale blocks).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import NamedTuple, TypeAlias

import numpy as np

from layouts.bulk import IntArray, outer_table
from layouts.floor_form import modes_of_terms
from layouts.layout import Layout, flat_layout
from layouts.shape import as_int, size
from layouts.xor_form import affine_bits

MAX_RUNS = 2**24  # assumed: runs looked at one by one where there is no closed form, some seconds
MAX_ELEMENT_BYTES = 2**20  # assumed: records of paged caches take some kilobytes

Mode: TypeAlias = tuple[int, int]  # extent, stride


class Affine(NamedTuple):
    """The numbers ``zero ^ (XOR of any of bits)``."""

    zero: int
    bits: tuple[int, ...]


class Comb(NamedTuple):
    """Runs of `run` bytes at ``start + sum digit * stride``.

    Strides are positive and ascending, each at least the span of what is below it: no two runs share a byte.
    """

    start: int
    run: int
    modes: tuple[Mode, ...]

    @property
    def bytes(self) -> int:
        """The bytes in the runs."""
        return self.run * prod(extent for extent, _ in self.modes)


@dataclass(frozen=True)
class Buffer:
    """Element ``i`` takes `element_bytes` bytes from byte ``base + element_bytes * layout(i)`` on.

    ValueError unless the layout gives one number and the element has 1 byte to MAX_ELEMENT_BYTES.
    """

    layout: Layout
    element_bytes: int
    base: int = 0

    def __post_init__(self) -> None:
        check_element_bytes(self.element_bytes)
        as_int(self.base, "base of the buffer")
        if self.layout.axes is not None:
            raise ValueError(f"layout {self.layout}: a buffer needs one offset, not one along each of its axes")

    def tile(self, index: Layout) -> Buffer:
        """Return the part at the indices (or coordinates, along E(0), E(1), ...) that `index` gives."""
        return replace(self, layout=through(self.layout, index))

    @cached_property
    def addresses(self) -> Layout:
        """The layout of the elements' first bytes."""
        if self.element_bytes == 1 and self.base == 0:
            return self.layout
        return self.layout.then(Layout(1, self.element_bytes, self.base))

    @cached_property
    def affine(self) -> Affine | None:
        """The bytes as an F2-affine space, None if they are none; bits of bytes within an element are the last."""
        if self.element_bytes & (self.element_bytes - 1):
            return None
        found = affine_of(self.addresses)
        if found is None or found[0] % self.element_bytes:
            return None
        return Affine(found[0], found[1] + tuple(1 << k for k in range(self.element_bytes.bit_length() - 1)))

    @cached_property
    def strides(self) -> tuple[int, tuple[Mode, ...]] | None:
        """The first bytes as (start, (extent, stride) fastest first) in integers, None if they are not of this form."""
        form = self.addresses.key[1]
        if form and isinstance(form[0], str):
            return None
        return modes_of_terms(self.addresses.size, form)

    @cached_property
    def comb(self) -> Comb | None:
        """The bytes as a comb, None where runs interleave or there are no integer strides."""
        if self.strides is None:
            return None
        merged = merge(*self.strides, self.element_bytes)
        return merged if is_comb(merged) else None

    def runs(self) -> tuple[IntArray, int]:
        """Return (first bytes, length) of runs that cover the bytes; ValueError if there are more than MAX_RUNS."""
        if self.strides is not None:
            start, run, modes = merge(*self.strides, self.element_bytes)
            self._check_count(prod(extent for extent, _ in modes))
            return outer_table(modes or ((1, 0),), start), run
        self._check_count(self.layout.size)
        return self.addresses.table(), self.element_bytes

    def _check_count(self, runs: int) -> None:
        if runs > MAX_RUNS:
            raise ValueError(
                f"layout {self.layout}: no closed form answers this, and {runs} runs are too many to look at "
                f"(at most {MAX_RUNS})"
            )

    def intervals(self) -> tuple[IntArray, IntArray]:
        """Return the (first, stop) of the longest disjoint intervals of bytes, ascending."""
        starts, length = self.runs()
        return intervals(starts, starts + length)


def affine_if_plain(layout: Layout) -> tuple[int, tuple[int, ...]] | None:
    """Return what `affine_bits` does, from the key of the layout where that has been asked for before."""
    form = layout.__dict__.get("key", (0, ()))[1]
    return (form[1], form[2:]) if form and form[0] == "f2" else affine_bits(layout)


def affine_of(layout: Layout) -> tuple[int, tuple[int, ...]] | None:
    """Return (value at 0, change by each bit of the index) of an F2-affine layout, however it is spelt.

    Unlike `affine_bits` it knows a table by its values, of which it looks at some million at most.
    """
    found = affine_if_plain(layout)
    if found is not None or layout.size & (layout.size - 1):
        return found
    form = layout.key[1]
    if form and isinstance(form[0], str):
        return (form[1], form[2:]) if form[0] == "f2" else None
    steps = modes_of_terms(layout.size, form)
    return None if steps is None else affine_bits(_flat(*steps))


def _flat(start: int, modes: Iterable[Mode]) -> Layout:
    plain = flat_layout(modes)
    return Layout(plain.shape, plain.stride, start)


def check_element_bytes(value: int) -> None:
    """Raise ValueError unless an element may have `value` bytes."""
    if not 1 <= as_int(value, "element_bytes") <= MAX_ELEMENT_BYTES:
        raise ValueError(f"element_bytes is {value}, allowed are 1..{MAX_ELEMENT_BYTES}")


def merge(start: int, modes: Iterable[Mode], run: int) -> Comb:
    """Return the set of runs at ``start + sum digit * stride`` with what is contiguous merged into the run.

    Strides come out positive and ascending, but runs may still share bytes: see `is_comb`.
    """
    rest: list[Mode] = []
    for stride, extent in sorted((abs(stride), extent) for extent, stride in modes if extent > 1 and stride):
        if not rest and stride <= run:
            run += stride * (extent - 1)
        elif rest and stride == rest[-1][0] * rest[-1][1]:
            rest[-1] = (rest[-1][0] * extent, rest[-1][1])
        else:
            rest.append((extent, stride))
    lowest = start + sum((extent - 1) * stride for extent, stride in modes if stride < 0)
    return Comb(lowest, run, tuple(rest))


def is_comb(comb: Comb) -> bool:
    """Tell whether every stride is at least the span of what is below it."""
    span = comb.run
    for extent, stride in comb.modes:
        if stride < span:
            return False
        span += stride * (extent - 1)
    return True


def intervals(first: IntArray, stop: IntArray) -> tuple[IntArray, IntArray]:
    """Return the longest disjoint intervals that cover the intervals first..stop-1, ascending."""
    order = np.argsort(first, kind="stable")
    first, reach = first[order], np.maximum.accumulate(stop[order])
    opens = np.concatenate([[True], first[1:] > reach[:-1]])
    return first[opens], reach[np.concatenate([opens[1:], [True]])]


def cyclic_sums(values: IntArray, step: int, count: int) -> IntArray:
    """Return ``sum over x < count of values[(r + x * step) % n]`` for every r of the n values, in O(n)."""
    n = len(values)
    period = n // int(np.gcd(step, n))
    walk = (np.arange(n // period)[:, None] + np.arange(period) * (step % n)) % n
    cosets = values[walk]
    rounds, rest = divmod(count, period)
    sums = rounds * cosets.sum(axis=1, keepdims=True) + np.zeros_like(cosets)
    if rest:
        before = np.zeros((len(cosets), 2 * period + 1), dtype=np.int64)
        np.cumsum(np.concatenate([cosets, cosets], axis=1), axis=1, out=before[:, 1:])
        sums += before[:, rest : rest + period] - before[:, :period]
    result = np.empty_like(values)
    result[walk] = sums
    return result


# --- indices of a part ------------------------------------------------------------------------------------------


def mode_sizes(layout: Layout) -> tuple[int, ...]:
    """Return the sizes of the top-level modes."""
    return tuple(map(size, layout.shape)) if isinstance(layout.shape, tuple) else (layout.shape,)


def through(layout: Layout, index: Layout) -> Layout:
    """Return ``layout`` after ``index``; ValueError where `index` leaves the shape of `layout`."""
    return linear_index(index, mode_sizes(layout)).then(layout)


def linear_index(index: Layout, sizes: tuple[int, ...]) -> Layout:
    """Return the linear indices, into modes of `sizes`, that `index` gives as numbers or along E(0), E(1), ..."""
    if index.axes is None:
        _check_inside(index, prod(sizes), f"index {index}")
        return index
    result = index.then(Layout(sizes))
    for axis in index.axes:
        _check_inside(index.along(axis), sizes[int(axis)], f"index {index}, coordinate {axis}")
    return result


def _check_inside(index: Layout, count: int, where: str) -> None:
    low, high = index._bounds
    if low < 0 or high >= count:
        raise ValueError(f"{where}: reaches {low if low < 0 else high}, allowed are 0..{count - 1}")
