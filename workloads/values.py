"""Values of a call: what a kernel's tensor is of what another has stored, and how it lies there.

Between the templates, which lay out tensors of their own, and `sequence`, which gives them addresses. A value is as its
first step leaves it; a tensor of another step is all of it, or a *part*: rows of a matrix, or columns of its rows, such
as queries in what one product with stacked weights gives. A program reaches its tensors through their layouts and base
addresses alone, and these may be replaced when it is compiled: a part takes the strides of the whole and begins at an
offset. That goes where the template's own layout is the part's but for gaps; elsewhere a conversion is due.

Not modelled: that a kernel would fill its tiles another way if it knew that rows lie apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from hwmodel.program import Tensor
from layouts import Layout, NamedLayout, coalesce, composition
from workloads.placement import of_leaves


@dataclass(frozen=True)
class Part:
    """What a tensor is of a value: a matrix of `shape`, of which it has `rows` from `row` on (0: all that follow).

    Of each it has the columns from `column` on, as many as it has elements for. These stand in the tensor in the order
    of its `axes` (empty: as its template has them), the last one fastest. Without a shape it is all of the value.
    `held`: every run of the steps has such a value, from before the call to its end, as every layer has its cache; of
    it these elements stay.
    """

    value: str
    shape: tuple[int, int] | None = None
    axes: tuple[str, ...] = ()
    row: int = 0
    rows: int = 0
    column: int = 0
    held: bool = False


class Laid(NamedTuple):
    """A layout, and how many elements behind the first of the value it begins."""

    layout: NamedLayout
    offset: int


def part_of(known: Tensor, part: Part, tensor: Tensor) -> Laid:
    """Return where the elements of `tensor` lie in a value that is laid out as `known`, axis by axis of the tensor.

    Raises ValueError for a tensor that is not such a part, or a value whose layout does not allow to say it.
    """
    rows, width, height, columns = _cut(known, part, tensor)
    whole, offset = flat(known.layout), 0
    if (height, columns) != (rows, width):
        column_step, row_step = _steps(known, width, rows)
        whole = Layout((columns, height), (column_step, row_step))
        offset = part.row * row_step + part.column * column_step
    axes = part.axes or tensor.layout.axes
    sizes = [tensor.layout.size(axis) for axis in reversed(axes)]
    steps = [prod(sizes[:inner]) for inner in range(len(sizes))]
    found = composition(whole, Layout(tuple(sizes), tuple(steps)))
    leaves = {axis: found.mode(number).leaves() for number, axis in enumerate(reversed(axes))}
    return Laid(of_leaves(tensor.layout.axes, [list(leaves[axis]) for axis in tensor.layout.axes]), offset)


def _cut(known: Tensor, part: Part, tensor: Tensor) -> tuple[int, int, int, int]:
    """Return the rows and columns of the value, and those of the part. Raises ValueError for one that is none."""
    total, size = known.layout.layout.size, tensor.layout.layout.size
    rows, width = part.shape or (1, total)
    height = part.rows or rows - part.row
    columns, rest = divmod(size, height) if height > 0 else (0, 1)
    inside = min(part.row, part.column) >= 0 and part.row + height <= rows and part.column + columns <= width
    if rest or not inside or rows * width != total or (part.shape is None and columns < width):
        cut = f" in rows {part.row} to {part.row + height}, columns from {part.column}" if part.shape else ""
        shown = f"{total} elements" + (f" in {rows} rows" if part.shape else "")
        raise ValueError(
            f"tensor {tensor.name} has {size} elements of {tensor.dtype}{cut}, value {part.value} has {shown}"
        )
    return rows, width, height, columns


def _steps(known: Tensor, width: int, rows: int) -> tuple[int, int]:
    """Return the strides of the columns and of the rows of a value that is read as a matrix."""
    matrix = composition(flat(known.layout), Layout((width, rows), (1, width)))
    column, row = (coalesce(matrix.mode(axis)).leaves() for axis in (0, 1))
    if len(column) > 1 or len(row) > 1:
        raise ValueError(f"it lies as {known.layout.text}; allowed for its parts: one stride of rows, one of columns")
    return (column[0][1] if width > 1 else 0), (row[0][1] if rows > 1 else 0)


def packed(layout: NamedLayout) -> NamedLayout:
    """Return the layout without gaps: elements in the same order, one behind the other."""
    leaves = {axis: list(layout.leaves(axis)) for axis in layout.axes}
    step = 1
    digits = ((d, axis, i) for axis, own in leaves.items() for i, (n, d) in enumerate(own) if n > 1)
    for _, axis, number in sorted(digits):
        extent = leaves[axis][number][0]
        leaves[axis][number] = extent, step
        step *= extent
    return of_leaves(layout.axes, [leaves[axis] for axis in layout.axes])


def reordered(layout: NamedLayout, axes: tuple[str, ...]) -> NamedLayout:
    """Return the layout with its axes in this order."""
    return of_leaves(axes, [list(layout.leaves(axis)) for axis in axes])


def flat(layout: NamedLayout) -> Layout:
    """Return the layout over the elements in order, the last axis fastest."""
    inner = layout.layout
    if not isinstance(inner.shape, tuple) or not isinstance(inner.stride, tuple):
        return inner
    return Layout(inner.shape[::-1], inner.stride[::-1], inner.offset, inner.stages)


def matrices(one: NamedLayout, other: NamedLayout) -> tuple[NamedLayout, NamedLayout]:
    """Return two layouts of the same elements as layouts of one matrix, as near to a square as their axes allow."""
    total = one.layout.size
    tails = {1}
    for layout in (one, other):
        tail = 1
        for axis in reversed(layout.axes):
            tail *= layout.size(axis)
            tails.add(tail)
    for columns in sorted(tails, key=lambda tail: max(tail, total // tail)):
        try:
            return _matrix(one, columns), _matrix(other, columns)
        except ValueError:  # these columns cut a digit of one of the layouts
            continue
    raise ValueError(f"layouts {one.text} and {other.text} are not layouts of one matrix")


def _matrix(layout: NamedLayout, columns: int) -> NamedLayout:
    rows = layout.layout.size // columns
    found = composition(flat(layout), Layout((columns, rows), (1, columns)))
    assert isinstance(found.shape, tuple)
    assert isinstance(found.stride, tuple)
    return NamedLayout(("row", "column"), Layout(found.shape[::-1], found.stride[::-1], found.offset, found.stages))
