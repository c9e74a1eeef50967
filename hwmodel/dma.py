"""The DMA engines' address generation: from a rectangular region of a tensor to the DRAM bursts that it touches.

The engine walks a region in address order, page by page (or token by token) where an index tensor is involved, and
every burst touched is fetched once per page (a burst is fetched again when two pages or two regions share it). An
engine with a larger `min_transfer` fetches whole aligned pieces of that size. Elements that a region needs are *useful*
bytes; whole bursts are *fetched* bytes; the difference is over-fetch. Bursts that follow one another make a run, and
a memory request holds a bounded number of bytes and of runs.
Compiled with numba, as it runs once per tile of a program. Indices themselves cost issue cycles, no traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hwmodel.compiled import compiled, inlined
from hwmodel.intrinsics import pointer, trailing_zeros
from hwmodel.program import NONE, Expression, Phase, Program, Tensor
from hwmodel.runs import BEGIN, BURSTS, RUN_WORDS, append, bursts_of
from hwmodel.slices import quotient

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Leaves:
    """A tensor's layout as tables: per axis the digits of its coordinate, fastest first, strides in bytes."""

    extents: Array  # int64[axes, digits]
    strides: Array
    order: Array  # axes from the largest stride to the smallest

    @staticmethod
    def of(tensor: Tensor) -> Leaves:
        leaves = [tensor.layout.leaves(axis) or ((1, 0),) for axis in tensor.layout.axes]
        digits = max(len(axis) for axis in leaves)
        extents, strides = np.ones((2, len(leaves), digits), np.int64)
        for i, axis in enumerate(leaves):
            for j, (extent, stride) in enumerate(axis):
                extents[i, j], strides[i, j] = extent, stride * tensor.element_bytes
        order = np.argsort(-strides.max(axis=1, where=extents > 1, initial=0), kind="stable")
        return Leaves(extents, strides * (extents > 1), order)


class Regions:
    """The tiles of a phase, ready to be evaluated for a queue's variables."""

    def __init__(self, program: Program, phase: Phase, burst_bytes: int, min_transfer_bytes: int = 0) -> None:
        self._burst_bytes = burst_bytes
        self._bursts_per_transfer = np.arange(0, max(burst_bytes, min_transfer_bytes), burst_bytes)
        self._tensors = program.tensors
        self._leaves = [Leaves.of(tensor) for tensor in program.tensors]
        self._tiles = [self._decode(tile, phase) for tile in phase.tiles]

    def _decode(self, tile: Any, phase: Phase) -> tuple[Any, ...]:
        tensor = self._tensors[tile["tensor"]]
        axes = range(len(tensor.layout.axes))
        starts = [_constant_if_any(phase.expression(tile["start"][a])) for a in axes]
        extents = [_constant_if_any(phase.expression(tile["extent"][a])) for a in axes]
        page_axis, position_axis = int(tile["page_axis"]), int(tile["position_axis"])
        table, page_size = _NO_TABLE, 1
        if tile["index"] != NONE:
            table = self._tensors[tile["index"]].values
            if position_axis != page_axis:
                page_size = tensor.layout.size(tensor.layout.axes[position_axis])
        pages = page_axis, position_axis, page_size, table, phase.expression(tile["index_start"])
        return int(tile["tensor"]), starts, extents, *pages

    def region(self, tile: int, variables: list[int]) -> Region:
        """Return the region that `tile` denotes now."""
        tensor, starts, extents, page_axis, position_axis, page_size, table, index_start = self._tiles[tile]
        return Region(
            tensor,
            tuple([e if type(e) is int else e(variables) for e in starts]),
            tuple([e if type(e) is int else e(variables) for e in extents]),
            page_axis,
            position_axis,
            page_size,
            table,
            index_start(variables),
        )

    def bursts(self, region: Region, is_store: bool = False) -> Array:
        """Return the burst addresses of a region, in the order in which the engine asks for them; int64.

        A load asks for whole transfers, a store writes the bursts that it touches.
        """
        transfers = 1 if is_store else len(self._bursts_per_transfer)
        found = self._touched(region, self._burst_bytes * transfers)
        return found if transfers == 1 else np.add.outer(found, self._bursts_per_transfer).reshape(-1)

    def _touched(self, region: Region, granule_bytes: int) -> Array:
        leaves = self._leaves[region.tensor]
        tensor = self._tensors[region.tensor]
        runs: Array = tile_runs(
            tensor.base_bytes,
            tensor.element_bytes,
            granule_bytes,
            leaves.extents,
            leaves.strides,
            leaves.order,
            np.array(region.starts, np.int64),
            np.array(region.extents, np.int64),
            region.page_axis,
            region.position_axis,
            region.page_size,
            region.table,
            region.first_page,
        )
        return bursts_of(runs, granule_bytes)


class Region(NamedTuple):
    """A region with its numbers: per axis start and extent; pages by table where `page_axis` is not NONE.

    Where the position axis is the page axis, every position along it is looked up: pages of one token.
    """

    tensor: int
    starts: tuple[int, ...]
    extents: tuple[int, ...]
    page_axis: int
    position_axis: int
    page_size: int
    table: Array
    first_page: int

    @property
    def elements(self) -> int:
        count = 1
        for extent in self.extents:
            count *= extent
        return count

    @property
    def tile_axes(self) -> list[int]:
        """The axes of the tile in its buffer: all but the one whose coordinates are looked up per page."""
        gone = NONE if self.page_axis == self.position_axis else self.page_axis
        return [axis for axis in range(len(self.starts)) if axis != gone]

    @property
    def pages(self) -> int:
        """How many indices the region needs; nought without an index tensor."""
        if self.page_axis == NONE or self.elements == 0:
            return 0
        start = self.starts[self.position_axis]
        stop = start + self.extents[self.position_axis]
        return (stop - 1) // self.page_size - start // self.page_size + 1


_NO_TABLE = np.zeros(0, np.int32)


def _constant_if_any(expression: Expression) -> Expression | int:
    return expression if expression.terms else expression([])


@compiled
def _axis_offset(extents: Array, strides: Array, axis: int, coordinate: int) -> int:
    offset: int = 0
    for digit in range(extents.shape[1] - 1):
        offset += coordinate % extents[axis, digit] * strides[axis, digit]
        coordinate //= extents[axis, digit]
    offset += coordinate * strides[axis, extents.shape[1] - 1]
    return offset


@compiled
def _chunks(
    base: int,
    element_bytes: int,
    extents: Array,
    strides: Array,
    order: Array,
    starts: Array,
    counts: Array,
    out: Array,
) -> tuple[int, int]:
    """Write the start address of every contiguous chunk of a page-free region; return (chunks, chunk bytes)."""
    run_axis, run = -1, 1
    for axis in range(extents.shape[0]):  # the axis whose fastest digit is contiguous
        if strides[axis, 0] == element_bytes and counts[axis] > 1 and extents[axis, 0] > 1:
            run_axis = axis
            first, stop = starts[axis], starts[axis] + counts[axis]
            run = extents[axis, 0]
            while first % run or stop % run:  # a region that cuts a digit is walked in smaller runs
                if counts[axis] <= run and first // run == (stop - 1) // run:
                    run = counts[axis]
                    break
                run = np.gcd(run, np.gcd(first, stop))
    out[0] = base
    chunks = 1
    for axis in order:  # largest stride first: the product comes out in address order for most layouts
        count = counts[axis] if axis != run_axis else counts[axis] // run
        step = 1 if axis != run_axis else run
        if count == 1:
            offset = _axis_offset(extents, strides, axis, starts[axis])
            for i in range(chunks):
                out[i] += offset
            continue
        for i in range(chunks - 1, -1, -1):
            start = out[i]
            for j in range(count - 1, -1, -1):
                out[i * count + j] = start + _axis_offset(extents, strides, axis, starts[axis] + j * step)
        chunks *= count
    return chunks, run * element_bytes


@compiled
def _sort(numbers: Array, count: int) -> None:
    """Sort the first numbers in place, by Shell's method: the library's takes a second to compile."""
    gap = count >> 1
    while gap > 0:
        for i in range(gap, count):
            number, at = numbers[i], i
            while at >= gap and numbers[at - gap] > number:
                numbers[at] = numbers[at - gap]
                at -= gap
            numbers[at] = number
        gap >>= 1


@compiled
def tile_runs(
    base: int,
    element_bytes: int,
    granule_bytes: int,
    extents: Array,
    strides: Array,
    order: Array,
    starts: Array,
    counts: Array,
    page_axis: int,
    position_axis: int,
    page_size: int,
    table: Array,
    first_page: int,
) -> Array:
    """Return the runs of granules of one region, int64[n, 2] in the order of `Regions.bursts`: bursts or transfers.

    `starts` and `counts` are overwritten.
    """
    elements = 1
    for axis in range(len(counts)):
        elements *= counts[axis]
    if elements <= 0:
        return np.empty((0, RUN_WORDS), np.int64)
    chunk_starts = np.empty(elements, np.int64)
    shift = trailing_zeros(granule_bytes) if granule_bytes & (granule_bytes - 1) == 0 else -1
    found, total = np.empty((64, RUN_WORDS), np.int64), 0
    position, stop = 0, 1
    if page_axis >= 0:
        position, stop = starts[position_axis], starts[position_axis] + counts[position_axis]
    while position < stop:
        if page_axis >= 0:
            starts[page_axis] = table[first_page + position // page_size]
            if position_axis != page_axis:
                starts[position_axis] = position % page_size
            counts[position_axis] = min(stop - position, page_size - position % page_size)
            position += counts[position_axis]
        else:
            position += 1
        chunks, chunk_bytes = _chunks(base, element_bytes, extents, strides, order, starts, counts, chunk_starts)
        for i in range(1, chunks):
            if chunk_starts[i] < chunk_starts[i - 1]:
                _sort(chunk_starts, chunks)
                break
        if total + chunks > len(found):
            found = _with_room(found, total, 2 * (total + chunks))
        last = -1
        for i in range(chunks):
            end = quotient(chunk_starts[i] + chunk_bytes - 1, granule_bytes, shift)
            begin = max(quotient(chunk_starts[i], granule_bytes, shift), last + 1)
            if begin <= end:
                runs = pointer(found.reshape(-1))
                total = append(runs, total, begin * granule_bytes, end - begin + 1, granule_bytes)
                last = end
    return found[:total]


@inlined
def _with_room(runs: Array, count: int, room: int) -> Array:
    """Return a longer table with the first `count` runs."""
    longer = np.empty((room, RUN_WORDS), np.int64)
    for i in range(count):
        longer[i, BEGIN], longer[i, BURSTS] = runs[i, BEGIN], runs[i, BURSTS]
    return longer


@compiled
def cut_requests(bursts: Array, burst_bytes: int, most_bursts: int, most_runs: int) -> Array:
    """Return where each memory request of a list of bursts stops; int64.

    A request takes what comes next, up to `most_bursts` bursts in `most_runs` runs of consecutive ones.
    """
    stops = np.empty(len(bursts), np.int64)
    total, first, runs = 0, 0, 1
    for i in range(1, len(bursts)):
        runs += bursts[i] != bursts[i - 1] + burst_bytes
        if i - first == most_bursts or runs > most_runs:
            stops[total] = i
            total, first, runs = total + 1, i, 1
    if len(bursts):
        stops[total] = len(bursts)
        total += 1
    return stops[:total]
