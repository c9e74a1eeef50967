"""What an access to a scratchpad tile costs: wavefronts, in cycles of the banks.

Third link of the data's path: tile element -> (layout of the buffer) -> byte of a block -> bank. Whoever reads or
writes a tile walks it in phases, and a phase takes as many wavefronts as the most words it asks of one bank
(`layouts.analysis.conflicts`, in closed form where there is one). Three walks:

* `row_lines`: the elements of a tile row by row, as many at a time as fill a line (vector unit; DMA in tensor order);
* `ordered_lines`: the same in any other order (DMA, of a tensor whose order in memory is another);
* `fragments`: lanes side by side along one axis, each with a few elements along the other (operands of a matmul).

A write that covers a bank's write granule in part is a read and a write: two accesses of that bank.

Not modelled: blocks that start inside a row of banks (the allocator of `workloads.buffers` places none there), and
accesses narrower than a row of banks sharing a cycle: each takes the scratchpad for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from hwmodel.program import Buffer
from layouts import Layout
from layouts.analysis import Access, Banks, bank_conflicts

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Scratchpad:
    """The banks of a scratchpad, and how many bytes of a bank a write must cover to be one access.

    `conflict_free`: no two words meet in a bank, and every write covers what it touches.
    """

    banks: Banks
    write_granule_bytes: int
    conflict_free: bool = False

    @property
    def line_bytes(self) -> int:
        """One row of banks."""
        return self.banks.count * self.banks.width_bytes


class Cost(NamedTuple):
    """Accesses to a tile: `phases` if no two words met in a bank, `wavefronts` as they do; bytes of elements."""

    phases: int = 0
    wavefronts: int = 0
    size_bytes: int = 0

    def plus(self, other: Cost, times: int = 1) -> Cost:
        """Return the sum of this and `times` another."""
        return Cost(*(mine + times * its for mine, its in zip(self, other, strict=True)))


NOTHING = Cost()


def row_lines(pad: Scratchpad, buffer: Buffer, rows: int, columns: int, line_bytes: int, write: bool) -> Cost:
    """Return the cost of the first rows and columns of a block, row by row, `line_bytes` at a time.

    ValueError if the block is smaller.
    """
    check_inside(buffer, rows, columns)
    return _row_lines(pad, buffer.placement, buffer.element_bytes, rows, columns, line_bytes, write)


def ordered_lines(pad: Scratchpad, buffer: Buffer, order: Array, line_bytes: int, write: bool) -> Cost:
    """Return the cost of the elements `order`, int64[n] of row + rows of the block * column, a line at a time."""
    elements = max(1, line_bytes // buffer.element_bytes)
    return _cost(pad, buffer.placement, buffer.element_bytes, Access(order, 1, elements), write)  # type: ignore[arg-type]


def fragments(
    pad: Scratchpad, buffer: Buffer, rows: int, columns: int, vector: tuple[int, int], lanes: int, write: bool = False
) -> Cost:
    """Return the cost of the first rows and columns of a block in fragments: `vector` = (axis, elements) per lane.

    `lanes` lie along the other axis; axis 0 counts rows, 1 columns. At the end of an axis fragments are smaller.
    ValueError if the block is smaller.
    """
    check_inside(buffer, rows, columns)
    return _fragments(pad, buffer.placement, buffer.element_bytes, rows, columns, vector, lanes, write)


def check_inside(buffer: Buffer, rows: int, columns: int) -> None:
    """Raise ValueError if a block of the buffer has fewer rows or columns."""
    if rows > buffer.rows or columns > buffer.columns:
        raise ValueError(
            f"buffer {buffer.name}: {rows} rows x {columns} columns are used of a block of {buffer.rows} x "
            f"{buffer.columns}"
        )


@lru_cache(maxsize=1 << 14)
def _row_lines(
    pad: Scratchpad, placement: Layout, element_bytes: int, rows: int, columns: int, line_bytes: int, write: bool
) -> Cost:
    if rows <= 0 or columns <= 0:
        return Cost()
    index = Layout((columns, rows), (_rows(placement), 1))
    return _cost(pad, placement, element_bytes, Access(index, 1, max(1, line_bytes // element_bytes)), write)


@lru_cache(maxsize=1 << 14)
def _fragments(
    pad: Scratchpad,
    placement: Layout,
    element_bytes: int,
    rows: int,
    columns: int,
    vector: tuple[int, int],
    lanes: int,
    write: bool,
) -> Cost:
    extents, strides = (rows, columns), (1, _rows(placement))
    along, across = vector[0], 1 - vector[0]
    total = Cost()
    for first, count, width in _whole_and_rest(extents[along], vector[1]):
        for lane, lane_count, lane_width in _whole_and_rest(extents[across], lanes):
            shape = (width, lane_width, count // width, lane_count // lane_width)
            step = (strides[along], strides[across], strides[along] * width, strides[across] * lane_width)
            index = Layout(shape, step, first * strides[along] + lane * strides[across])
            total = total.plus(_cost(pad, placement, element_bytes, Access(index, width, lane_width), write))
    return total


def _whole_and_rest(extent: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, extent, width) of the pieces of an axis: what `width` divides, and the rest as one width."""
    whole = extent // width * width
    if whole:
        yield 0, whole, width
    if extent > whole:
        yield whole, extent - whole, extent - whole


def _rows(placement: Layout) -> int:
    return placement.mode(0).size


def _cost(pad: Scratchpad, placement: Layout, element_bytes: int, access: Access, write: bool) -> Cost:
    found = bank_conflicts(placement, access, pad.banks, element_bytes)
    wavefronts = found.phases if pad.conflict_free else found.wavefronts
    if write and not pad.conflict_free and element_bytes % pad.write_granule_bytes:
        wavefronts = _write_wavefronts(pad, placement, element_bytes, access, wavefronts)
    return Cost(found.phases, wavefronts, access.index.size * element_bytes)


def _write_wavefronts(pad: Scratchpad, placement: Layout, element_bytes: int, access: Access, if_whole: int) -> int:
    """Return the wavefronts of writing: a word of which a granule is written in part counts twice."""
    granule, count = pad.write_granule_bytes, pad.banks.count
    first = placement.offsets(access.index.table()) * element_bytes
    per = granule // element_bytes
    if granule % element_bytes == 0 and access.elements % per == 0 and len(first) % per == 0:
        groups = first.reshape(-1, per)
        if not (groups[:, 0] % granule).any() and (np.diff(groups, axis=1) == element_bytes).all():
            return if_whole
    phase = np.repeat(np.arange(len(first)) // access.elements, element_bytes)
    byte = (first[:, None] + np.arange(element_bytes)).reshape(-1)
    span = int(byte.max()) // granule + 1
    pieces, covered = np.unique(phase * span + byte // granule, return_counts=True)
    per_word = pad.banks.width_bytes // granule
    words_in_span = -(-span // per_word)
    word = pieces // span * words_in_span + pieces % span // per_word
    words, place = np.unique(word, return_inverse=True)
    accesses = np.ones(len(words), np.int64)
    accesses[place[covered < granule]] = 2
    bank = words // words_in_span * count + words % words_in_span % count
    loads = np.bincount(bank, weights=accesses, minlength=access.phases * count).reshape(access.phases, count)
    return int(loads.max(axis=1).sum())
