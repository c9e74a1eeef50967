"""The problem that `layouts.synthesis` solves, in bits, and the layout around its solution.

A bit of the index of a tile is a direction of F2^n.  `Tile` writes the accesses in *natural* bits: the longest
vector first, whose elements must stay contiguous, then the bits of one dimension after the other.  Natural bits
are numbered as the bits of the offset in a plain compact layout, so that the layout around a space K differs from
that one by XORs only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations
from math import prod

import numpy as np
from numpy.typing import NDArray

from layouts.analysis.buffer import check_element_bytes
from layouts.analysis.conflicts import Access, Banks, bank_conflicts_many, is_binary
from layouts.bulk import IntArray
from layouts.f2 import Columns, apply, compose, image_basis, invert, rank, solve
from layouts.layout import Layout
from layouts.shape import as_int
from layouts.stride import X
from layouts.swizzles import swizzle
from layouts.synthesis.subspaces import Basis, Demand, Found, contains

MAX_INDEX_BITS = 40  # assumed: real tiles have some 2^16 elements
_ORDERED_DIMENSIONS = 4  # of more dimensions only the natural order is tried with swizzles


@dataclass(frozen=True)
class Tile:
    """A tile of powers of two, its accesses with linear indices, and its banks; made by `Tile.of`."""

    shape: tuple[int, ...]
    accesses: tuple[Access, ...]
    banks: Banks
    element_bytes: int

    @classmethod
    def of(cls, shape: Sequence[int], accesses: Sequence[Access], banks: Banks, element_bytes: int) -> Tile:
        """Return the problem; ValueError unless everything is a power of two, F2-linear, and vectors agree."""
        check_element_bytes(element_bytes)
        extents = tuple(as_int(extent, "tile") for extent in shape)
        if not extents or any(extent < 1 or extent & (extent - 1) for extent in extents):
            raise ValueError(f"tile {extents}: extents are powers of two")
        if prod(extents) > 1 << MAX_INDEX_BITS:
            raise ValueError(f"tile {extents}: {prod(extents)} elements, at most 2**{MAX_INDEX_BITS} are allowed")
        if not accesses:
            raise ValueError(f"tile {extents}: at least one access is needed")
        linear = tuple(replace(access, index=access.linear(extents)) for access in accesses)
        tile = cls(extents, linear, banks, element_bytes)
        for place, access in enumerate(linear):
            where = access.name or f"access {place}"
            if not is_binary(access, banks, element_bytes):
                raise ValueError(f"{where}: vector, lanes, size, banks and elements must be powers of two")
            if access.phase_bits(extents) is None:
                raise ValueError(f"{where}: {access.index} is not linear over F2")
            vector = tile.vector_of(access)
            if vector != tile.vector[: len(vector)] or rank(vector) < len(vector):
                raise ValueError(f"{where}: its vector and the longest one cannot both be contiguous")
        return tile

    @property
    def bits(self) -> int:
        """The bits of the index."""
        return prod(self.shape).bit_length() - 1

    @property
    def word_bits(self) -> int:
        """The bits of the offset that stay within a word, or all bits if the tile is smaller."""
        return min(self.bits, max(self.banks.width_bytes // self.element_bytes, 1).bit_length() - 1)

    @property
    def element_words(self) -> int:
        """The bits of the words within an element."""
        return max(self.element_bytes // self.banks.width_bytes, 1).bit_length() - 1

    @property
    def bank_bits(self) -> int:
        """The bits of the bank that come from the offset."""
        return max(0, self.banks.count.bit_length() - 1 - self.element_words)

    @property
    def free(self) -> int:
        """The dimensions of a word that no vector fills."""
        return max(0, self.word_bits - len(self.vector))

    def phase(self, access: Access) -> Columns:
        """Return the bits of the index that a phase of an access spans, those of a vector first."""
        found = access.phase_bits(self.shape)
        assert found is not None
        return found

    def vector_of(self, access: Access) -> Columns:
        """Return the bits of the index within a vector."""
        return self.phase(access)[: access.vector.bit_length() - 1]

    @cached_property
    def vector(self) -> Columns:
        """The bits of the index within the longest vector."""
        return max(map(self.vector_of, self.accesses), key=len)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The dimensions from the fastest to the slowest: that of the vector first, then row-major."""
        first = next((bit for access in self.accesses for bit in self.phase(access) if bit), 1)
        fastest, low = 0, 0
        for dimension, extent in enumerate(self.shape):
            width = extent.bit_length() - 1
            if first >> low & (extent - 1):
                fastest = dimension
                break
            low += width
        others = [dimension for dimension in range(len(self.shape)) if dimension != fastest]
        return (fastest, *(others if fastest == 0 else reversed(others)))

    @cached_property
    def natural(self) -> Columns:
        """The map from bits of the index to natural bits."""
        basis = list(self.vector)
        for dimension in self.order:
            low = prod(self.shape[:dimension]).bit_length() - 1
            units = [1 << (low + k) for k in range(self.shape[dimension].bit_length() - 1)]
            extend(basis, units, self.bits)
        return invert(basis, self.bits)

    @property
    def fixed(self) -> int:
        """The natural bits that are in K for the vector's sake: within a word, or beyond all banks."""
        low, high = min(len(self.vector), self.word_bits), self.word_bits + self.bank_bits
        return (1 << low) - 1 | sum(1 << k for k in range(high, len(self.vector)))

    @property
    def apart(self) -> Basis:
        """The natural bits of the vector that are banks: K may not meet them."""
        return tuple(1 << k for k in range(self.word_bits, min(len(self.vector), self.word_bits + self.bank_bits)))

    @cached_property
    def demands(self) -> tuple[Demand, ...]:
        """What every access asks for, in natural bits, and the cycles of its phases."""
        demands = []
        beyond = self.fixed >> self.word_bits << self.word_bits
        for access in self.accesses:
            space = image_basis(compose(self.natural, self.phase(access)))
            within = image_basis(vector & ~(self.fixed ^ beyond) for vector in space)
            rest = image_basis(vector & ~beyond for vector in within)
            lost = len(within) - len(rest) + max(0, self.element_words - (self.banks.count.bit_length() - 1))
            demands.append(Demand(rest, access.phases << lost))
        return tuple(demands)

    def words(self, offsets: Iterable[int]) -> list[int]:
        """Return the words of offsets, and those of the bytes within an element."""
        found = [offset * self.element_bytes // self.banks.width_bytes for offset in offsets]
        return found + [1 << k for k in range(self.element_words)]


def extend(basis: list[int], vectors: Iterable[int], dimensions: int, beside: Sequence[int] = ()) -> None:
    """Append those of `vectors` that are independent of `basis` and `beside`, up to `dimensions` in all."""
    known = image_basis([*basis, *beside])
    for vector in vectors:
        if len(basis) >= dimensions:
            return
        if not contains(known, vector):
            basis.append(vector)
            known = image_basis([*known, vector])


def layout_around(tile: Tile, found: Found) -> Layout:
    """Return a layout whose bank projection has the kernel that was found, the rest as plain as can be."""
    n, word_bits = tile.bits, tile.word_bits
    bank_bits = min(tile.bank_bits, n - word_bits)
    units = [1 << k for k in range(n)]
    shared = [*units[: min(len(tile.vector), word_bits)], *found.shared]
    extend(shared, units, word_bits)
    kernel = [*shared, *units[word_bits + bank_bits : len(tile.vector)], *found.kernel]
    extend(kernel, reversed(units), n - bank_bits, [vector for demand in tile.demands for vector in demand.space])
    banks: list[int] = []
    extend(banks, units, bank_bits, kernel)
    mask = (1 << len(kernel)) - 1
    within = [apply(kernel, solve([*kernel, *banks], unit) & mask) for unit in units]  # what is left without the banks
    lines: list[int] = []
    extend(lines, within, n - word_bits - bank_bits, shared)
    columns = compose(invert([*shared, *banks, *lines], n), tile.natural)
    return layout_of_bits(tile.shape, columns)


def layout_of_bits(shape: Sequence[int], columns: Sequence[int]) -> Layout:
    """Return the layout, one mode per dimension, in which bit k of the index changes ``columns[k]``."""
    taken, plain = 0, True
    for column in columns:
        plain = plain and not column & taken
        taken |= column
    modes, strides, low = [], [], 0
    for extent in shape:
        leaves: list[tuple[int, int]] = []
        for column in columns[low : low + extent.bit_length() - 1]:
            if leaves and column == leaves[-1][0] * leaves[-1][1]:
                leaves[-1] = (2 * leaves[-1][0], leaves[-1][1])
            else:
                leaves.append((2, column))
        low += extent.bit_length() - 1
        listed = leaves or [(1, 0)]
        steps = tuple(column if plain else X(column) for _, column in listed)
        modes.append(tuple(size for size, _ in listed) if len(listed) > 1 else listed[0][0])
        strides.append(steps if len(steps) > 1 else steps[0])
    return Layout(tuple(modes), tuple(strides))


# --- swizzles -----------------------------------------------------------------------------------------------------


def best_swizzle(tile: Tile) -> tuple[int, Layout] | None:
    """Return the (wavefronts, layout) of the best CuTe swizzle of a compact layout, None if no vector is contiguous.

    Of equals the one of the fewest bits, in the most natural order of the dimensions.
    """
    found: tuple[tuple[int, int, int], Layout] | None = None
    dimensions = range(len(tile.shape))
    orders = permutations(tile.order) if len(tile.shape) <= _ORDERED_DIMENSIONS else [tile.order]
    swizzles = [(0, 0, 0)] + [
        (bits, base, shift)
        for bits in range(1, tile.bits // 2 + 1)
        for shift in range(bits, tile.bits - bits + 1)
        for base in range(tile.bits - bits - shift + 1)
    ]
    for place, order in enumerate(orders):
        strides = [prod(tile.shape[k] for k in order[: order.index(d)]) for d in dimensions]
        bases = _swizzled(_plain_bits(tile.shape, strides), swizzles)
        kept = np.flatnonzero(_keeps_vector(bases, tile.vector))
        if len(kept) == 0:
            continue
        cycles = np.zeros(len(kept), dtype=np.int64)
        for access in tile.accesses:
            cycles += access.phases * bank_conflicts_many(bases[kept], access, tile.banks, tile.element_bytes)
        best = int(np.argmin(cycles))  # the first of equals: swizzles are in the order of their bits
        chosen = swizzles[kept[best]]
        score = (int(cycles[best]), chosen[0], place)
        if found is None or score < found[0]:
            plain = Layout(tile.shape, tuple(strides))
            found = score, plain.then(swizzle(*chosen)) if chosen[0] else plain
    return None if found is None else (found[0][0], found[1])


def _plain_bits(shape: Sequence[int], strides: Sequence[int]) -> list[int]:
    return [stride << k for extent, stride in zip(shape, strides, strict=True) for k in range(extent.bit_length() - 1)]


def _swizzled(offsets: Sequence[int], swizzles: Sequence[tuple[int, int, int]]) -> IntArray:
    """Return the offsets after each swizzle, int64[swizzles, offsets]."""
    bits, base, shift = np.array(swizzles, dtype=np.int64).T[:, :, None]
    plain = np.array(offsets, dtype=np.int64)[None, :]
    moved: IntArray = (plain >> (base + shift) & (1 << bits) - 1) << base
    return plain ^ moved


def _keeps_vector(bases: IntArray, vector: Columns) -> NDArray[np.bool_]:
    kept = np.ones(len(bases), dtype=bool)
    for place, bit in enumerate(vector):
        chosen = [k for k in range(bases.shape[1]) if bit >> k & 1]
        kept &= np.bitwise_xor.reduce(bases[:, chosen], axis=1) == 1 << place
    return kept
