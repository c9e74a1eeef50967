"""SRAM bank conflicts: how many cycles the lanes of an access take to be served.

Where element offsets become banks: byte ``a`` lies in word ``w = a // width``, word ``w`` in bank ``w % count``.
In one cycle every bank delivers one word, to all lanes that ask for it; the lanes of one phase are served together,
so that a phase takes as many cycles (wavefronts) as the most words it asks of one bank.

Three forms of the answer, all exact, the first that holds is taken:
* rank: the layout and the access are F2-affine, sizes are powers of two.  A phase touches a coset of a space V of
  words, and every bank it touches holds 2^(dim V - rank of the bank bits on V) of them, in every phase alike.
* cyclic: integer strides.  The words of a phase are counted on Z_count, mode by mode: L words at stride d fall on
  ``count / gcd(d, count)`` banks.  Any number of banks.
* count: everything else, by compiled code that looks at every access.

Not modelled: elements smaller than a byte, read-modify-write of words written in part, and conflicts between
different accesses in flight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import gcd, prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from layouts.analysis.buffer import (
    Comb,
    Mode,
    affine_if_plain,
    affine_of,
    check_element_bytes,
    cyclic_sums,
    is_comb,
    linear_index,
    merge,
    mode_sizes,
)
from layouts.analysis.counting import count_wavefronts
from layouts.bulk import IntArray
from layouts.f2 import image
from layouts.floor_form import fused_terms, modes_of_terms
from layouts.layout import Layout, Table, flat_layout
from layouts.shape import as_int, shown

MAX_BANKS = 65_536  # assumed: real memories have 4 to some hundred
MAX_ELEMENTS = 2**20  # assumed: elements of one phase; real ones have 8 to 1024
MAX_COUNTED = 2**28  # assumed: accesses that are counted one by one, some seconds
_BLOCK = 1 << 20  # accesses whose offsets are held at once
_TABLE_ELEMENTS = 1 << 22  # layouts whose offsets are looked up in a table rather than computed
_MANY_BLOCK = 1 << 13  # layouts whose ranks are computed at once, so that they stay in a core's cache


@dataclass(frozen=True)
class Banks:
    """`count` banks, each one word of `width_bytes` wide; any numbers from 1 on."""

    count: int
    width_bytes: int

    def __post_init__(self) -> None:
        if not 1 <= as_int(self.count, "banks") <= MAX_BANKS:
            raise ValueError(f"banks: a count of {self.count}, allowed are 1..{MAX_BANKS}")
        if not 1 <= as_int(self.width_bytes, "banks") <= MAX_BANKS:
            raise ValueError(f"banks: a width of {self.width_bytes} bytes, allowed are 1..{MAX_BANKS}")


@dataclass(frozen=True)
class Access:
    """What lanes ask for together: (element of a lane's vector, lane, phase), fastest first, -> index of the tensor.

    `index` gives linear indices of the tensor, or coordinates along E(0), E(1), ...; a sequence of integers is
    taken as a table of linear indices.  `vector` elements of `lanes` lanes make one phase, the last one may be
    short.  ValueError for a vector that does not divide the number of elements.
    """

    index: Layout
    vector: int = 1
    lanes: int = 32
    name: str = ""
    _known: dict[tuple[str, tuple[int, ...]], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.index, Layout):
            values = np.asarray(self.index)
            object.__setattr__(self, "index", Layout(max(values.size, 1)).then(Table(values)))
        for what, value in (("vector", self.vector), ("lanes", self.lanes)):
            if not 1 <= as_int(value, f"access: {what}") <= MAX_ELEMENTS:
                raise ValueError(f"access: {what} is {value}, allowed are 1..{MAX_ELEMENTS}")
        if self.index.size == 0:
            raise ValueError(f"access: {shown(self.index)} has no elements")
        if self.index.size % self.vector:
            raise ValueError(
                f"access: vectors of {self.vector} do not divide the {self.index.size} elements of {self.index}"
            )
        if self.elements > MAX_ELEMENTS:
            raise ValueError(f"access: {self.elements} elements in a phase, at most {MAX_ELEMENTS} are allowed")

    @classmethod
    def of_tile(
        cls, shape: Sequence[int], vector: tuple[int, int], lanes: Sequence[tuple[int, int]], name: str = ""
    ) -> Access:
        """Return the access that walks a whole tile of `shape`, from (dimension, count) pairs.

        `vector` elements of a lane lie side by side along their dimension, then come the `lanes`, fastest first;
        the rest of the tile follows phase by phase, dimension 0 first.  ``of_tile((128, 64), (1, 8), [(0, 8)])`` is
        an ldmatrix read of bf16: 8 columns per lane, 8 rows per phase.  ValueError where a count does not divide.
        """
        done = [1] * len(shape)
        modes: list[Mode] = []
        for dimension, count in [vector, *lanes]:
            if not 0 <= dimension < len(shape) or count < 1 or shape[dimension] % (done[dimension] * count):
                raise ValueError(
                    f"access: {count} elements along dimension {dimension} after {tuple(done)} do not divide "
                    f"the tile {tuple(shape)}"
                )
            modes.append((count, prod(shape[:dimension]) * done[dimension]))
            done[dimension] *= count
        modes += [(shape[k] // done[k], prod(shape[:k]) * done[k]) for k in range(len(shape))]
        return cls(flat_layout(modes), vector[1], prod(count for _, count in lanes), name)

    @property
    def elements(self) -> int:
        """The elements of one phase."""
        return min(self.vector * self.lanes, self.index.size)

    @property
    def phases(self) -> int:
        """The number of phases."""
        return -(-self.index.size // self.elements)

    def linear(self, sizes: tuple[int, ...]) -> Layout:
        """Return the linear indices into a tensor whose modes have `sizes`; ValueError where they leave it."""
        if ("linear", sizes) not in self._known:
            self._known["linear", sizes] = linear_index(self.index, sizes)
        found: Layout = self._known["linear", sizes]
        return found

    def phase_bits(self, sizes: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return what the bits within a phase change in the linear index, None if that is not F2-affine."""
        if ("bits", sizes) not in self._known:
            affine = affine_of(self.linear(sizes))
            self._known["bits", sizes] = None if affine is None else affine[1][: self.elements.bit_length() - 1]
        found: tuple[int, ...] | None = self._known["bits", sizes]
        return found


@dataclass(frozen=True)
class Conflicts:
    """Cycles of an access: `wavefronts` in all phases together, `degree` in the worst one; `form` of the answer."""

    phases: int
    wavefronts: int
    degree: int
    form: str  # "rank", "cyclic" or "count"


def bank_conflicts(layout: Layout, access: Access, banks: Banks, element_bytes: int) -> Conflicts:
    """Return the cycles that an access to a tensor of this layout takes, exact in every case.

    ValueError where the access leaves the layout, the layout has axes, or more than MAX_COUNTED accesses would
    have to be counted one by one.
    """
    check_element_bytes(element_bytes)
    if layout.axes is not None:
        raise ValueError(f"layout {shown(layout)}: bank conflicts need one offset, not one along each of its axes")
    sizes = mode_sizes(layout)
    index = access.linear(sizes)
    if is_binary(access, banks, element_bytes):
        inner, outer = access.phase_bits(sizes), affine_if_plain(layout)
        if inner is not None and outer is not None:
            degree = 1 << _lost_rank([image(outer[1], bit) for bit in inner], banks, element_bytes)
            return Conflicts(access.phases, access.phases * degree, degree, "rank")
    found = _by_cycles(index.then(layout).then(Layout(1, element_bytes)), access, banks, element_bytes)
    if found is None:
        found = (*_by_counting(layout, index, access, banks, element_bytes), "count")
    return Conflicts(access.phases, *found)


# --- rank -------------------------------------------------------------------------------------------------------


def is_binary(access: Access, banks: Banks, element_bytes: int) -> bool:
    """Tell whether everything is a power of two and the phases are whole."""
    numbers = (access.vector, access.lanes, access.index.size, banks.count, banks.width_bytes, element_bytes)
    return not any(number & (number - 1) for number in numbers)


def _lost_rank(offsets: Sequence[int], banks: Banks, element_bytes: int) -> int:
    """Return dim V - rank of the bank bits on V, for the words V that element offsets span.

    Elimination by lowest bits: what has no bank bit left is lost.
    """
    words = [offset * element_bytes // banks.width_bytes for offset in offsets]
    words += [1 << k for k in range((element_bytes // banks.width_bytes).bit_length() - 1)]
    pivots: list[tuple[int, int]] = []
    lost = 0
    for word in words:
        for bit, pivot in pivots:
            if word & bit:
                word ^= pivot
        if word:
            pivots.append((word & -word, word))
            lost += word % banks.count == 0
    return lost


def bank_conflicts_many(bases: ArrayLike, access: Access, banks: Banks, element_bytes: int) -> IntArray:
    """Return the degree of every one of many F2 layouts of one tensor, int64[layouts].

    ``bases[i, k]`` is what bit k of the linear index changes in the offset of layout i (`Layout.bits`).  All phases
    of a layout have the same degree, so that its wavefronts are ``degree * access.phases``.  ValueError unless all
    sizes are powers of two and the access is F2-affine with linear indices.
    """
    check_element_bytes(element_bytes)
    array = np.asarray(bases, dtype=np.int64)
    if array.ndim != 2:
        raise ValueError(f"bases: an array layouts x bits is needed, found {array.ndim} dimensions")
    if array.min(initial=0) < 0 or int(array.max(initial=0)) * element_bytes >= 2**62:
        raise ValueError(f"bases: offsets from 0 on are needed, whose {element_bytes}-byte elements fit 62 bits")
    if not is_binary(access, banks, element_bytes):
        raise ValueError(f"access {access.index}: vector, lanes, size, banks and elements must be powers of two")
    bits = access.phase_bits((1 << array.shape[1],))
    if bits is None:
        raise ValueError(f"access {access.index}: is not linear over F2")
    sources = [[k for k in range(array.shape[1]) if bit >> k & 1] for bit in bits]
    blocks = [array[start : start + _MANY_BLOCK].T for start in range(0, len(array), _MANY_BLOCK)]
    parts = [
        _degrees([_xor(block, rows) for rows in sources], block.shape[1], banks, element_bytes) for block in blocks
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _xor(rows: Any, chosen: Sequence[int]) -> Any:
    return np.bitwise_xor.reduce(rows[chosen], axis=0)


def _degrees(offsets: list[Any], layouts: int, banks: Banks, element_bytes: int) -> Any:
    """Return 2^lost rank for arrays of offsets, one per layout, as `_lost_rank` does for one layout."""
    words = [offset * element_bytes // banks.width_bytes for offset in offsets]
    words += [np.full(layouts, 1 << k) for k in range((element_bytes // banks.width_bytes).bit_length() - 1)]
    lost = np.zeros(layouts, dtype=np.int64)
    for place, word in enumerate(words):
        lowest = word & -word
        for k in range(place + 1, len(words)):
            words[k] = words[k] ^ np.where(words[k] & lowest, word, 0)
        lost += (word & (banks.count - 1) == 0) & (word != 0)
    return np.left_shift(1, lost)


# --- cyclic -----------------------------------------------------------------------------------------------------


def _by_cycles(chain: Layout, access: Access, banks: Banks, element_bytes: int) -> tuple[int, int, str] | None:
    """Return (wavefronts, degree, form) of byte addresses with integer strides, None where it has no such form."""
    terms = fused_terms(chain)
    form = None if terms is None else modes_of_terms(chain.size, terms)
    cut = None if form is None else _cut(form[1], access.elements)
    if form is None or cut is None:
        return None
    inside, phases = cut
    # What a phase costs depends on where in a word it starts: count the phases by that.
    starts = np.zeros(banks.width_bytes, dtype=np.int64)
    starts[form[0] % banks.width_bytes] = 1
    for extent, stride in phases:
        starts = cyclic_sums(starts, -stride, extent)
    wavefronts = worst = 0
    for start in np.flatnonzero(starts).tolist():
        degree = _cyclic_degree(merge(start, inside, element_bytes), banks)
        if degree is None:
            return None
        wavefronts += degree * int(starts[start])
        worst = max(worst, degree)
    return wavefronts, worst, "cyclic"


def _cut(modes: Sequence[Mode], elements: int) -> tuple[list[Mode], list[Mode]] | None:
    """Return the modes of one phase and those of the phases, None where a phase cuts a mode unevenly."""
    inside: list[Mode] = []
    for place, (extent, stride) in enumerate(modes):
        if elements % extent == 0:
            inside.append((extent, stride))
            elements //= extent
        elif extent % elements == 0:
            rest = [(extent // elements, stride * elements), *modes[place + 1 :]]
            return [*inside, (elements, stride)], rest
        else:
            return None
    return (inside, []) if elements == 1 else None


def _cyclic_degree(runs: Comb, banks: Banks) -> int | None:
    """Return the most words that runs of bytes ask of one bank, None where words have no integer strides."""
    width = banks.width_bytes
    if any(stride % width for _, stride in runs.modes):
        return None
    first, last = runs.start // width, (runs.start + runs.run - 1) // width
    words = merge(first, [(extent, stride // width) for extent, stride in runs.modes], last - first + 1)
    if not is_comb(words):
        return None
    if words.run == 1 and len(words.modes) <= 1:
        extent, stride = words.modes[0] if words.modes else (1, 1)
        return -(-extent // (banks.count // gcd(stride, banks.count)))
    loads = np.full(banks.count, words.run // banks.count, dtype=np.int64)
    loads[: words.run % banks.count] += 1
    for extent, stride in words.modes:
        loads = cyclic_sums(loads, -stride, extent)
    return int(loads.max())


# --- count ------------------------------------------------------------------------------------------------------


def _by_counting(layout: Layout, index: Layout, access: Access, banks: Banks, element_bytes: int) -> tuple[int, int]:
    if index.size > MAX_COUNTED:
        raise ValueError(
            f"layout {shown(layout)}: its bank conflicts have no closed form, and {index.size} accesses are too many "
            f"to count (at most {MAX_COUNTED})"
        )
    if max(map(abs, layout._bounds)) * element_bytes >= 2**62:
        raise ValueError(
            f"layout {shown(layout)}: addresses of its elements of {element_bytes} bytes do not fit 64 bits"
        )
    wavefronts = worst = 0
    for offsets in _offset_blocks(layout, index, access.elements):
        total, most = count_wavefronts(offsets, access.elements, element_bytes, banks.count, banks.width_bytes)
        wavefronts += total
        worst = max(worst, most)
    return wavefronts, worst


def _offset_blocks(layout: Layout, index: Layout, elements: int) -> Iterator[IntArray]:
    """Yield the offsets of whole phases, some million at a time."""
    block = max(1, _BLOCK // elements) * elements
    table = layout.table() if layout.size <= _TABLE_ELEMENTS else None
    if index.size <= block:
        indices = index.table()
        yield table[indices] if table is not None else layout.offsets(indices)
        return
    for start in range(0, index.size, block):
        indices = index.offsets(np.arange(start, min(start + block, index.size)))
        yield table[indices] if table is not None else layout.offsets(indices)


__all__ = ["Access", "Banks", "Conflicts", "bank_conflicts", "bank_conflicts_many"]
