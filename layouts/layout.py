"""The layout: a function from an index to an offset, written shape:stride.

First link of the chain tensor index -> element offset -> address -> DRAM bank.  The coordinate of an
index is taken digit by digit, the LEFTMOST mode fastest, and the offset is the inner product of
coordinate and stride: ``((2,4),8):((1,16),2)`` sends index 3 = coordinate ((1,1),0) to 1 + 16 = 17 (the
conventions of CuTe).

Two layouts are equal when they are the same function of the linear index.  This is decided without
enumeration: with P_k the product of the extents before leaf k, every layout is ``f(i) = sum c_k * (i //
P_k)`` with ``c_0 = d_0``, ``c_k = d_k - s_(k-1) * d_(k-1)``; the functions ``i // P`` of distinct P are
independent, so the non-zero (P_k, c_k) and the size are a complete key.

Not modelled: XOR (swizzle) strides, padding and look-up stages; a layout starts at offset 0.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layouts.shape import (
    INT64_MAX,
    MAX_TEXT,
    IntTuple,
    as_int_tuple,
    compact_strides,
    congruent,
    leaves,
    read_int_tuple,
    replace_leaves,
    size,
    skip_space,
    to_text,
)

IntArray: TypeAlias = NDArray[np.int64]
Key: TypeAlias = tuple[int, tuple[tuple[int, int], ...]]

BLOCK_INDICES = 65_536  # indices worked on at once, so that the intermediate arrays stay in a core's L2 cache
MAX_TABLE = 2**31  # assumed: 16 GiB of offsets; beyond it ask for the offsets of chosen indices


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Layout:
    """A hierarchical shape with one stride per extent; extents are at least 1, strides any 64-bit integers.

    Without `stride` the layout is compact, leftmost mode fastest.  ValueError if shape and stride do not
    nest alike.
    """

    shape: IntTuple
    stride: IntTuple

    def __init__(self, shape: object, stride: object = None) -> None:
        checked = as_int_tuple(shape, "shape")
        if smallest := [extent for extent in leaves(checked) if extent < 1]:
            raise ValueError(f"shape {to_text(checked)}: extent {smallest[0]} is not allowed, extents are at least 1")
        strides = as_int_tuple(compact_strides(checked) if stride is None else stride, "stride")
        if not congruent(checked, strides):
            raise ValueError(f"shape {to_text(checked)} and stride {to_text(strides)} do not nest alike")
        object.__setattr__(self, "shape", checked)
        object.__setattr__(self, "stride", strides)

    def __str__(self) -> str:
        return f"{to_text(self.shape)}:{to_text(self.stride)}"

    def __repr__(self) -> str:
        return f"Layout({self.shape!r}, {self.stride!r})"

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Layout) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def rank(self) -> int:
        """The number of top-level modes."""
        return len(self.shape) if isinstance(self.shape, tuple) else 1

    @cached_property
    def size(self) -> int:
        """The number of indices."""
        return size(self.shape)

    @property
    def cosize(self) -> int:
        """Highest minus lowest offset plus 1: the elements a buffer for this layout holds."""
        low, high = self._bounds
        return high - low + 1

    @cached_property
    def key(self) -> Key:
        """The canonical form (size, ((P_k, c_k) with c_k != 0)): equal exactly for equal functions."""
        terms, product, below = [], 1, 0
        for extent, stride in self.leaves():
            if extent == 1:
                continue
            if stride != below:
                terms.append((product, stride - below))
            product *= extent
            below = extent * stride
        return self.size, tuple(terms)

    def leaves(self) -> tuple[tuple[int, int], ...]:
        """Return (extent, stride) of every leaf, leftmost (fastest) first."""
        return tuple(zip(leaves(self.shape), leaves(self.stride), strict=True))

    def mode(self, k: int) -> "Layout":
        """Return top-level mode `k` as a layout; ValueError unless 0 <= k < rank."""
        if not 0 <= k < self.rank:
            raise ValueError(f"layout {self}: there is no mode {k}, modes are 0..{self.rank - 1}")
        if isinstance(self.shape, tuple) and isinstance(self.stride, tuple):
            return Layout(self.shape[k], self.stride[k])
        return self

    def __call__(self, *coordinate: object) -> int:
        """Return the offset of a linear index or a coordinate; an int may stand for a nested mode."""
        value = as_int_tuple(coordinate[0] if len(coordinate) == 1 else coordinate, "coordinate")
        try:
            return _offset(value, self.shape, self.stride)
        except ValueError as error:
            raise ValueError(f"layout {self}, coordinate {to_text(value)}: {error}") from None

    def offsets(self, indices: ArrayLike) -> IntArray:
        """Return the offsets of an integer array of linear indices, int64 in the same shape.

        ValueError for an index outside 0..size-1 or for offsets that do not fit 64 bits.
        """
        array = as_index_array(indices, self.size, f"layout {self}")
        low, high = self._int64_bounds()
        narrow = low >= 0 and high < 2**32 and self.size <= 2**32
        # Unsigned arithmetic wraps, so that terms may be negative or large as long as their sum is an offset.
        work: type[np.unsignedinteger[Any]] = np.uint32 if narrow else np.uint64
        modulus = 2**32 if narrow else 2**64
        terms = [(work(p), work(c % modulus)) for p, c in self.key[1] if p <= INT64_MAX]
        flat = array.reshape(-1)
        result = np.zeros(flat.size, dtype=np.int64)
        for start in range(0, flat.size, BLOCK_INDICES):
            block: NDArray[np.unsignedinteger[Any]] = flat[start : start + BLOCK_INDICES].astype(work)
            total = np.zeros_like(block)
            for p, c in terms:
                total += (block // p if p > 1 else block) * c
            result[start : start + BLOCK_INDICES] = total.astype(np.int64)
        return result.reshape(array.shape)

    def table(self) -> IntArray:
        """Return the offsets of all indices as int64[size]; ValueError above MAX_TABLE."""
        if self.size > MAX_TABLE:
            raise ValueError(f"layout {self}: a table of {self.size} offsets, at most {MAX_TABLE} are allowed")
        self._int64_bounds()
        result = np.zeros(1, dtype=np.int64)
        for extent, stride in modes_of_key(self.key):
            result = np.add.outer(np.arange(extent, dtype=np.int64) * stride, result).reshape(-1)
        return result

    @property
    def _bounds(self) -> tuple[int, int]:
        spans = [(extent - 1) * stride for extent, stride in self.leaves()]
        return sum(s for s in spans if s < 0), sum(s for s in spans if s > 0)

    def _int64_bounds(self) -> tuple[int, int]:
        low, high = self._bounds
        if low < -INT64_MAX or high > INT64_MAX:
            raise ValueError(f"layout {self}: offsets {low}..{high} do not fit 64 bits")
        return low, high


def _offset(coordinate: IntTuple, shape: IntTuple, stride: IntTuple) -> int:
    if isinstance(coordinate, tuple):
        if not (isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(coordinate)):
            raise ValueError(f"{to_text(coordinate)} is not a coordinate of the shape {to_text(shape)}")
        return sum(map(_offset, coordinate, shape, stride))
    if not 0 <= coordinate < size(shape):
        raise ValueError(f"{coordinate} is outside 0..{size(shape) - 1}")
    total = 0
    for extent, step in zip(leaves(shape), leaves(stride), strict=True):
        coordinate, digit = divmod(coordinate, extent)
        total += digit * step
    return total


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


def modes_of_key(key: Key) -> tuple[tuple[int, int], ...]:
    """Return the (extent, stride) pairs, fastest first, of the shortest flat layout with this key."""
    count, terms = key
    steps = terms if terms and terms[0][0] == 1 else ((1, 0), *terms)
    bounds = [p for p, _ in steps] + [count]
    modes: list[tuple[int, int]] = []
    below = 0
    for (p, c), above in zip(steps, bounds[1:], strict=True):
        extent, stride = above // p, c + below
        modes.append((extent, stride))
        below = extent * stride
    return tuple(modes)


def flat_layout(modes: Iterable[tuple[int, int]]) -> Layout:
    """Return the layout of (extent, stride) pairs, fastest first; a single pair gives an unnested layout."""
    extents, strides = zip(*modes, strict=True)
    return Layout(extents, strides) if len(extents) > 1 else Layout(extents[0], strides[0])


def nested_layout(profile: IntTuple, parts: Iterable[Layout]) -> Layout:
    """Return the layout that has the layouts `parts` in place of the leaves of `profile`, leftmost first."""
    listed = list(parts)
    return Layout(
        replace_leaves(profile, iter([part.shape for part in listed])),
        replace_leaves(profile, iter([part.stride for part in listed])),
    )


def parse(text: str) -> Layout:
    """Read a layout from its text, ``((2,4),8):((1,16),2)``; white space is free.

    ValueError gives the position and what was expected there.  Length, depth and digits are bounded.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"layout text: {len(text)} characters, at most {MAX_TEXT} are allowed")
    try:
        shape, position = read_int_tuple(text, 0)
        position = skip_space(text, position)
        if text[position : position + 1] != ":":
            raise ValueError(f"at position {position}: expected ':' between shape and stride")
        stride, position = read_int_tuple(text, position + 1)
        position = skip_space(text, position)
        if position < len(text):
            raise ValueError(f"at position {position}: expected the end of the text, found {text[position]!r}")
        return Layout(shape, stride)
    except ValueError as error:
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise ValueError(f"layout text {shown!r}: {error}") from None
