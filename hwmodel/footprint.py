"""How many distinct bytes a phase's descriptors touch, at least: what memory must move however much is reused.

Each execution of a load or store is a box of a tensor's coordinates. Along every axis a largest set of intervals that
do not overlap is kept, and the boxes made of these: two of them that differ are disjoint, so the sizes of the distinct
ones add up. Tiles that are cut from one grid, as kernels do, lose nothing by it. Behind a page table a box lies in the
order of the table's entries; where a page stands in it twice (sequences that begin alike), and where every token is
looked up, boxes are cut into pieces of pages that lie where the table says. Where nothing can be said (an overlapping
layout, too many pieces, starts that depend on a running index) the answer is nought; of very many boxes some count.
"""

from __future__ import annotations

from collections.abc import Set
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from hwmodel.expansion import grouped
from hwmodel.program import NONE, Expression, Phase, Program, Tensor
from layouts import Layout, is_injective

Array = np.ndarray[Any, Any]
Mode: TypeAlias = tuple[int, int]  # extent, stride in bytes
DIRECT = NONE  # instead of an index tensor
MOST_PIECES = 1 << 22  # assumed: of one kind of access, some 500 MB; what is beyond does not count
MOST_BOXES = 1 << 23  # assumed: of one kind of access, some 2 GB and ten seconds; what is beyond does not count


class Access(NamedTuple):
    """How instructions reach a tensor: through which index tensor (`table`), if any, and along which axes."""

    tensor: int
    table: int
    page_axis: int
    position_axis: int

    @property
    def by_position(self) -> bool:
        """Whether every position is looked up, and not the page that it lies in."""
        return self.page_axis == self.position_axis


class Footprint:
    """The boxes of one kind of instruction (loads or stores) in one phase."""

    def __init__(self, program: Program, phase: Phase) -> None:
        self._program, self._phase = program, phase
        self._repeated: dict[int, bool] = {}
        self._boxes: dict[Access, list[Array]] = {}  # int32 or int64[n, axes, (start, extent)]
        self._seen: dict[Access, int] = {}  # how many boxes were looked at
        self._pieces: dict[Access, int] = {}  # how many pieces of pages they were cut into

    @property
    def tensors(self) -> set[int]:
        """The tensors that the instructions name."""
        return {access.tensor for access in self._boxes}

    def add(self, number: int, variables: Array) -> None:
        """Add the executions of an instruction on tile `number`; `variables` int64[executions, variables]."""
        tile = self._phase.tiles[number]
        access = Access(*(int(tile[name]) for name in ("tensor", "index", "page_axis", "position_axis")))
        boxes = self._boxes.setdefault(access, [])
        axes = range(len(self._program.tensors[access.tensor].layout.axes))
        expressions = [[self._phase.expression(tile[part][axis]) for part in ("start", "extent")] for axis in axes]
        index_start = self._phase.expression(tile["index_start"])
        if _running(self._phase, [e for pair in expressions for e in pair] + [index_start], variables.shape[1]):
            return
        room = MOST_BOXES - self._seen.get(access, 0)
        if room == 0:
            return
        box = np.stack([np.stack([_values(e, variables) for e in pair], axis=1) for pair in expressions], axis=1)
        used = _any_elements(box)
        box, variables = _only(box, used)[:room], _only(variables, used)[:room]
        self._seen[access] = MOST_BOXES - room + len(box)
        if access.table == DIRECT:
            boxes.append(_narrowed(box))
        else:
            boxes += map(_narrowed, self._looked_up(box, _values(index_start, variables), access))

    def _looked_up(self, boxes: Array, first: Array, access: Access) -> list[Array]:
        """Return the boxes along one axis of positions in all pages, as long as there are not too many.

        `boxes` int64[n, axes, 2] begin at the entries `first` of the index tensor.
        """
        layout, position = self._program.tensors[access.tensor].layout, access.position_axis
        page_size = 1 if access.by_position else layout.size(layout.axes[position])
        boxes[:, position, 0] += page_size * first
        if not access.by_position:
            boxes[:, access.page_axis] = 0, 1
            if not self._repeats(access.table):
                return [boxes]
        boxes = _distinct_boxes(boxes)
        if len(boxes):
            pieces = self._pieces.get(access, 0) + np.cumsum(_pages(boxes[:, position], page_size)[1])
            boxes = boxes[pieces <= MOST_PIECES]
            if len(boxes):
                self._pieces[access] = int(pieces[len(boxes) - 1])
        if not len(boxes):
            return []
        pages = self._program.tensors[access.table].values
        assert pages is not None  # tiles name index tensors only
        return [_in_memory(boxes, pages.astype(np.int64), position, page_size)]

    def distinct_bytes(self, without: Set[int]) -> list[tuple[frozenset[int], int]]:
        """Return groups of tensors, none in `without`, with a number of bytes which are surely touched of each.

        Groups lie apart. Of tensors that may have bytes in common, such as keys that are values, too, one counts.
        """
        least: dict[int, int] = {}
        for access, boxes in self._boxes.items():
            tensor = self._program.tensors[access.tensor]
            if boxes and access.tensor not in without and _keeps_apart(tensor.layout.layout):
                size = min(_disjoint_elements(np.concatenate(boxes)) * tensor.element_bytes, tensor.size_bytes)
                least[access.tensor] = max(least.get(access.tensor, 0), size)
        groups: list[frozenset[int]] = []
        for number in least:
            tensor = self._program.tensors[number]
            joined = [g for g in groups if any(_may_share(tensor, self._program.tensors[other]) for other in g)]
            groups = [g for g in groups if g not in joined] + [frozenset({number}).union(*joined)]
        return [(group, max(least[number] for number in group)) for group in groups]

    def _repeats(self, table: int) -> bool:
        """Return whether a page stands in an index tensor more than once."""
        if table not in self._repeated:
            pages = self._program.tensors[table].values
            self._repeated[table] = pages is not None and len(np.unique(pages)) < len(pages)
        return self._repeated[table]


def _may_share(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors may have bytes in common: they reach over each other, and do not take turns."""
    begin, end = max(one.base_bytes, other.base_bytes), min(t.base_bytes + t.size_bytes for t in (one, other))
    return begin < end and not any(_take_turns(one, other, turn_bytes) for _, turn_bytes in _modes(one) or ())


def _modes(tensor: Tensor) -> list[Mode] | None:
    """Return (extent, stride in bytes) of what a tensor's layout consists of, None of one with more than strides."""
    layout = tensor.layout.layout
    if layout.stages or layout.offset != 0 or any(type(s) is not int or s < 0 for _, s in layout.leaves()):
        return None
    return [(extent, stride * tensor.element_bytes) for extent, stride in layout.leaves() if extent > 1]


def _take_turns(one: Tensor, other: Tensor, turn_bytes: int) -> bool:
    """Return whether each of two tensors keeps to a part of its own of every `turn_bytes` of memory."""
    reaches = []
    for tensor in (one, other):
        modes = _modes(tensor)
        if modes is None or any(stride % turn_bytes for _, stride in modes if stride >= turn_bytes):
            return False
        within = sum((extent - 1) * stride for extent, stride in modes if stride < turn_bytes)
        reaches.append(within + tensor.element_bytes)
    behind = (other.base_bytes - one.base_bytes) % turn_bytes
    return reaches[0] <= behind and behind + reaches[1] <= turn_bytes


@lru_cache(maxsize=1024)
def _keeps_apart(layout: Layout) -> bool:
    """Return whether a layout surely puts no two elements in one place."""
    try:
        return is_injective(layout)
    except ValueError:  # nobody can say
        return False


def starts_unknown(phase: Phase, tile: Any, variables: int) -> bool:
    """Return whether only an executor knows where the regions of a tile lie; of so many variables."""
    parts = [part for name in ("start", "extent") for part in tile[name].tolist() if part != NONE]
    return _running(phase, [phase.expression(part) for part in (*parts, int(tile["index_start"]))], variables)


def _running(phase: Phase, expressions: list[Expression], variables: int) -> bool:
    running = {1 + len(phase.columns), *range(3 + len(phase.columns), variables, 2)}
    return any(variable in running for expression in expressions for variable, _ in expression.terms)


def _values(expression: Expression, variables: Array) -> Array:
    value = np.full(len(variables), expression.constant, np.int64)
    for variable, coefficient in expression.terms:
        value += coefficient * variables[:, variable]
    return value % expression.modulo if expression.modulo else np.minimum(value, expression.maximum)


def _pages(intervals: Array, page_size: int) -> tuple[Array, Array]:
    """Return the first page of every interval (start, extent), and how many pages it touches."""
    first = intervals[:, 0] // page_size
    return first, (intervals.sum(axis=1) - 1) // page_size - first + 1


def _in_memory(boxes: Array, table: Array, axis: int, page_size: int) -> Array:
    """Return boxes whose `axis` counts positions in the order of a table as pieces of pages in the order of memory.

    `boxes` int64[n, axes, (start, extent)], none of them empty; `table`: which page of memory every page is.
    """
    first, count = _pages(boxes[:, axis], page_size)
    which = np.repeat(np.arange(len(boxes)), count)
    page = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    pieces = boxes[which]
    start = np.maximum(pieces[:, axis, 0], page * page_size)
    stop = np.minimum(pieces[:, axis].sum(axis=1), (page + 1) * page_size)
    pieces[:, axis, 0], pieces[:, axis, 1] = start + (table[page] - page) * page_size, stop - start
    return pieces


def _distinct_boxes(boxes: Array) -> Array:
    """Return the distinct ones of int64[n, axes, (start, extent)]."""
    same = np.zeros(len(boxes), np.int64)
    for axis in range(boxes.shape[1]):
        same = grouped(np.stack([same, grouped(boxes[:, axis])[1]], axis=1))[1]
    return boxes[grouped(same[:, None])[0]]


def _any_elements(boxes: Array) -> Array:
    """Return which of int64[n, axes, (start, extent)] are not empty."""
    used: Array = np.logical_and.reduce([boxes[:, axis, 1] > 0 for axis in range(boxes.shape[1])])
    return used


def _disjoint_elements(boxes: Array) -> int:
    """Return the elements of disjoint boxes out of int32 or int64[n, axes, (start, extent)]."""
    boxes = _only(boxes, _any_elements(boxes))
    same = np.zeros(len(boxes), np.int64)  # which box it is, by the axes seen so far
    for axis in range(boxes.shape[1]):
        first, which = grouped(boxes[:, axis])
        if len(first) > 1:
            kept = _apart(boxes[first, axis])[which]
            boxes, same, which = _only(boxes, kept), _only(same, kept), _only(which, kept)
            same = grouped(np.stack([same, which], axis=1))[1]
    extents = boxes[grouped(same[:, None])[0], :, 1]
    return int(extents.prod(axis=1, dtype=np.int64).sum())


def _narrowed(boxes: Array) -> Array:
    """Return boxes in half the memory, where their numbers fit."""
    if boxes.size and int(boxes.min()) >= 0 and int(boxes.max()) <= np.iinfo(np.int32).max:
        return boxes.astype(np.int32)
    return boxes


def _only(rows: Array, kept: Array) -> Array:
    """Return the rows that are kept; no copy of all of them."""
    found: Array = rows if kept.all() else rows[kept]
    return found


def _apart(intervals: Array) -> Array:
    """Return which intervals (start, extent) to keep so that none overlap: always the one that ends first."""
    ends = intervals.sum(axis=1, dtype=np.int64)
    if (intervals[1:, 0] >= ends[:-1]).all():  # in order: the usual case
        return np.ones(len(intervals), bool)
    keep = np.zeros(len(intervals), bool)
    reached = np.iinfo(np.int64).min
    for i in np.lexsort((-intervals[:, 0], ends)):
        if intervals[i, 0] >= reached:
            keep[i], reached = True, ends[i]
    return keep
