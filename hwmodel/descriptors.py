"""What a tile costs its DMA engine and the scratchpad: descriptors, indices, and the order in which its lines come.

Between a region of a tensor (`hwmodel.dma`) and the engine that moves it (`hwmodel.dma_engine`). A descriptor is a
strided box of so many dimensions; a region that cuts a digit of the layout, or that needs more dimensions, takes
several. With an index tensor a region falls into pieces, one per page or token: an engine that gathers takes them in
one descriptor, any other in one each. Every piece meets the scratchpad line by line in the order in which it lies in
memory, unless the engine turns it into the order of the tile first, at one more cycle per line.

Not modelled: traffic for descriptors and indices, and where in a block a piece lies: each counts as if it began at
row 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from hwmodel.dma import Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Buffer, Phase, Program
from hwmodel.sram_access import Cost, Scratchpad, check_inside, ordered_lines, row_lines

Array = np.ndarray[Any, Any]
Mode: TypeAlias = tuple[int, int]  # extent, stride; the fastest first
Box: TypeAlias = tuple[int, tuple[Mode, ...]]  # offset of the first element, modes


class TileCost(NamedTuple):
    """`turned` lines pass the engine's transposer; `sram` are the accesses that fill or drain the buffer."""

    descriptors: int
    indices: int
    turned: int
    sram: Cost


class _Piece(NamedTuple):
    """A part of a region that lies at one index, `times` alike: per axis of the tile start and extent."""

    starts: tuple[int, ...]
    extents: tuple[int, ...]
    times: int


class Tiles:
    """The tiles of a phase with their costs, each distinct one worked out once."""

    def __init__(self, program: Program, phase: Phase, machine: Machine) -> None:
        self._phase = phase
        self._dma = machine.spec.cores.dma
        self._pad = machine.scratchpad
        layouts = [tensor.layout for tensor in program.tensors]
        self._digits = [[layout.leaves(axis) or ((1, 0),) for axis in layout.axes] for layout in layouts]
        periods = [[prod(n for n, _ in digits[:-1]) for digits in axes] for axes in self._digits]
        self._periods = [[(axis, period) for axis, period in enumerate(axes) if period > 1] for axes in periods]
        self._known: dict[tuple[Any, ...], TileCost] = {}

    def cost(self, region: Region, buffer: int, is_store: bool) -> TileCost:
        """Return the cost of moving a region into a block of a buffer, or out of it.

        Raises ValueError naming the phase and the buffer if the block is smaller than the region.
        """
        starts = region.starts
        where = tuple([starts[axis] % period for axis, period in self._periods[region.tensor]])
        paged = starts[region.position_axis] % region.page_size if region.page_axis != NONE else NONE
        key = buffer, is_store, region.tensor, region.page_axis, region.position_axis, region.extents, paged, where
        found = self._known.get(key)
        if found is None:
            try:
                found = self._known[key] = self._work_out(region, buffer, is_store)
            except ValueError as error:
                raise ValueError(f"phase {self._phase.name}: {error}") from None
        return found

    def _work_out(self, region: Region, number: int, is_store: bool) -> TileCost:
        if region.elements == 0:
            return TileCost(0, 0, 0, Cost())
        buffer = self._phase.buffers[number]
        check_inside(buffer, *_rows_and_columns([region.extents[axis] for axis in region.tile_axes]))
        digits = [self._digits[region.tensor][axis] for axis in region.tile_axes]
        pieces = _pieces(region)
        counts = [descriptors(boxes(digits, p.starts, p.extents), self._dma.dimensions) for p in pieces]
        if self._dma.gather:
            count = max(counts)
        else:
            count = sum(n * piece.times for n, piece in zip(counts, pieces, strict=True))
        straight = turned = Cost()
        for piece in pieces:
            where = tuple(digits), piece.starts, piece.extents
            in_memory, by_rows = _lines(self._pad, buffer, self._dma.write_bytes, not is_store, *where)
            straight, turned = straight.plus(in_memory, piece.times), turned.plus(by_rows, piece.times)
        if self._dma.transpose and straight.wavefronts > max(straight.phases, turned.wavefronts):
            return TileCost(count, region.pages, turned.phases, turned)
        return TileCost(count, region.pages, 0, straight)


@lru_cache(maxsize=1 << 12)  # of all programs, whose phases are often cut from one another
def _lines(
    pad: Scratchpad,
    buffer: Buffer,
    line_bytes: int,
    write: bool,
    digits: tuple[tuple[Mode, ...], ...],
    starts: tuple[int, ...],
    extents: tuple[int, ...],
) -> tuple[Cost, Cost]:
    """Return the cost of a piece in the order in which it lies in memory, and in that of its rows."""
    by_rows = row_lines(pad, buffer, *_rows_and_columns(extents), line_bytes, write)
    order = memory_order(digits, starts, extents, buffer.rows)
    return (by_rows if order is None else ordered_lines(pad, buffer, order, line_bytes, write)), by_rows


def _pieces(region: Region) -> list[_Piece]:
    """Return the parts of a region between page boundaries; one part where there is no page table."""
    starts = [region.starts[axis] for axis in region.tile_axes]
    extents = [region.extents[axis] for axis in region.tile_axes]
    if region.page_axis == NONE:
        return [_Piece(tuple(starts), tuple(extents), 1)]
    place, size = region.tile_axes.index(region.position_axis), region.page_size
    first, rest = starts[place] % size, extents[place]
    head = min(rest, size - first) if first else 0
    whole, tail = divmod(rest - head, size)
    parts = ((first, head, 1), (0, size, whole), (0, tail, 1))
    return [
        _Piece((*starts[:place], start, *starts[place + 1 :]), (*extents[:place], count, *extents[place + 1 :]), times)
        for start, count, times in parts
        if count and times
    ]


def _rows_and_columns(extents: Sequence[int]) -> tuple[int, int]:
    return prod(extents[:-1]), extents[-1]


def memory_order(
    digits: Sequence[Sequence[Mode]], starts: Sequence[int], extents: Sequence[int], block_rows: int
) -> Array | None:
    """Return the elements of a tile as they follow each other in memory, None if that is row by row.

    `digits` per axis of the tile, the last of which counts its columns; elements are row + block_rows * column.
    """
    offsets = np.zeros(1, np.int64)
    for axis, start, extent in zip(digits, starts, extents, strict=True):
        coordinate = np.arange(start, start + extent)
        own = np.zeros(extent, np.int64)
        for count, stride in axis[:-1]:
            own += coordinate % count * stride
            coordinate = coordinate // count
        own += coordinate * axis[-1][1]
        offsets = (offsets[:, None] + own).reshape(-1)
    if len(offsets) < 2 or (np.diff(offsets) > 0).all():
        return None
    rows, columns = np.divmod(np.argsort(offsets, kind="stable"), extents[-1])
    order: Array = rows + block_rows * columns
    return order


def boxes(digits: Sequence[Sequence[Mode]], starts: Sequence[int], extents: Sequence[int]) -> list[Box]:
    """Return the strided boxes that a region is made of; modes with one stride are joined, the fastest first."""
    axes = [_axis_boxes(*axis) for axis in zip(digits, starts, extents, strict=True)]
    return [
        (sum(offset for offset, _ in parts), _joined(mode for _, modes in parts for mode in modes))
        for parts in product(*axes)
    ]


def descriptors(parts: Sequence[Box], dimensions: int) -> int:
    """Return how many descriptors of so many dimensions boxes take: the shortest modes too many are walked apart."""
    return sum(prod(sorted(extent for extent, _ in modes)[: max(0, len(modes) - dimensions)]) for _, modes in parts)


def _axis_boxes(digits: Sequence[Mode], start: int, count: int) -> list[Box]:
    """Cut an interval of an axis at the boundaries of its digits."""
    (extent, stride), *upper = digits
    if not upper:
        return [(start * stride, ((count, stride),))]
    if start // extent == (start + count - 1) // extent:
        ((above, _),) = _axis_boxes(upper, start // extent, 1)
        return [(above + start % extent * stride, ((count, stride),))]
    head = -start % extent
    whole, tail = divmod(count - head, extent)
    found = _axis_boxes(digits, start, head) if head else []
    if whole:
        rest = _axis_boxes(upper, (start + head) // extent, whole)
        found += [(offset, ((extent, stride), *modes)) for offset, modes in rest]
    return found + (_axis_boxes(digits, start + count - tail, tail) if tail else [])


def _joined(modes: Iterable[Mode]) -> tuple[Mode, ...]:
    joined: list[Mode] = []
    for extent, stride in sorted((m for m in modes if m[0] > 1), key=lambda mode: mode[1]):
        if joined and stride == joined[-1][0] * joined[-1][1]:
            joined[-1] = (joined[-1][0] * extent, joined[-1][1])
        else:
            joined.append((extent, stride))
    return tuple(joined)
