"""How many distinct bytes a phase's descriptors touch, at least: what memory must move however much is reused.

Each execution of a load or store is a box of a tensor's coordinates. Along every axis a largest set of intervals that
do not overlap is kept, and the boxes made of these: two of them that differ are disjoint, so the sizes of the distinct
ones add up. Tiles that are cut from one grid, as kernels do, lose nothing by it. Behind a page table a box lies in the
order of the table's entries, provided that no page stands in it twice. Where nothing can be said (an overlapping
layout, shared pages, starts that depend on a running index) the answer is nought.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.program import NONE, Expression, Phase, Program

Array = np.ndarray[Any, Any]
DIRECT = NONE  # instead of an index tensor


class Footprint:
    """The boxes of one kind of instruction (loads or stores) in one phase."""

    def __init__(self, program: Program, phase: Phase) -> None:
        self._program, self._phase = program, phase
        self._boxes: dict[tuple[int, int], list[Array]] = {}  # by tensor and index: int64[n, axes, (start, extent)]

    @property
    def tensors(self) -> set[int]:
        """The tensors that the instructions name."""
        return {tensor for tensor, _ in self._boxes}

    def add(self, number: int, variables: Array) -> None:
        """Add the executions of an instruction on tile `number`; `variables` int64[executions, variables]."""
        tile = self._phase.tiles[number]
        tensor = int(tile["tensor"])
        boxes = self._boxes.setdefault((tensor, int(tile["index"])), [])
        axes = range(len(self._program.tensors[tensor].layout.axes))
        expressions = [[self._phase.expression(tile[part][axis]) for part in ("start", "extent")] for axis in axes]
        index_start = self._phase.expression(tile["index_start"])
        if _running(self._phase, [e for pair in expressions for e in pair] + [index_start], variables.shape[1]):
            return
        box = np.stack([np.stack([_values(e, variables) for e in pair], axis=1) for pair in expressions], axis=1)
        if tile["index"] != NONE:
            layout, position = self._program.tensors[tensor].layout, tile["position_axis"]
            page_size = layout.size(layout.axes[position])
            box[:, position, 0] += page_size * _values(index_start, variables)
            box[:, tile["page_axis"]] = 0, 1
        boxes.append(box)

    def distinct_bytes(self, without: set[int], in_cache: bool) -> int:
        """Return a number of bytes which are surely touched, of no tensor in `without` and, unless `in_cache`, of none
        that resides in the shared cache.
        """
        least: dict[int, int] = {}
        for (tensor, index), boxes in self._boxes.items():
            description = self._program.tensors[tensor]
            hidden = tensor in without or (description.resident == "cache" and not in_cache)
            if boxes and not hidden and self._injective(tensor, index):
                elements = _disjoint_elements(np.concatenate(boxes))
                size = min(elements * description.element_bytes, description.size_bytes)
                least[tensor] = max(least.get(tensor, 0), size)
        return sum(least.values())

    def _injective(self, tensor: int, index: int) -> bool:
        layout = self._program.tensors[tensor].layout
        size = int(np.prod([layout.size(axis) for axis in layout.axes], dtype=object))
        if layout.cosize < size:
            return False
        table = None if index == DIRECT else self._program.tensors[index].values
        return table is None or len(np.unique(table)) == len(table)


def _running(phase: Phase, expressions: list[Expression], variables: int) -> bool:
    running = {1 + len(phase.columns), *range(3 + len(phase.columns), variables, 2)}
    return any(variable in running for expression in expressions for variable, _ in expression.terms)


def _values(expression: Expression, variables: Array) -> Array:
    value = np.full(len(variables), expression.constant, np.int64)
    for variable, coefficient in expression.terms:
        value += coefficient * variables[:, variable]
    return value % expression.modulo if expression.modulo else np.minimum(value, expression.maximum)


def _disjoint_elements(boxes: Array) -> int:
    """Return the elements of disjoint boxes out of int64[n, axes, (start, extent)]."""
    boxes = boxes[(boxes[:, :, 1] > 0).all(axis=1)]
    same = np.zeros(len(boxes), np.int64)  # which box it is, by the axes seen so far
    for axis in range(boxes.shape[1]):
        intervals, which = _distinct(boxes[:, axis, 0], boxes[:, axis, 1])
        kept = _apart(intervals)[which]
        boxes, same = boxes[kept], _distinct(same[kept], which[kept])[1]
    _, first = np.unique(same, return_index=True)
    return int(boxes[first, :, 1].prod(axis=1).sum())


def _distinct(left: Array, right: Array) -> tuple[Array, Array]:
    """Return the distinct pairs of int64[n] and int64[n], in order, and which of them each is.

    `np.unique` of rows says the same, but takes many times as long.
    """
    order = np.lexsort((right, left))
    pairs = np.stack([left[order], right[order]], axis=1)
    new = np.ones(len(pairs), bool)
    new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    which = np.empty(len(pairs), np.int64)
    which[order] = np.cumsum(new) - 1
    return pairs[new], which


def _apart(intervals: Array) -> Array:
    """Return which intervals (start, extent) to keep so that none overlap: always the one that ends first."""
    ends = intervals.sum(axis=1)
    keep = np.zeros(len(intervals), bool)
    reached = np.iinfo(np.int64).min
    for i in np.lexsort((-intervals[:, 0], ends)):
        if intervals[i, 0] >= reached:
            keep[i], reached = True, ends[i]
    return keep
