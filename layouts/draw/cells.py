"""A layout as rows and columns of values, cut to a size that can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from layouts.bulk import IntArray
from layouts.layout import Layout
from layouts.notation import NamedLayout
from layouts.shape import INT64_MAX, size
from layouts.stride import Axis, axis_order


@dataclass(frozen=True)
class Cells:
    """Values by row and column; the labels are coordinates.

    values: one int64[rows, columns] per axis of the result, one under None for a plain offset.  shown: which cells
    exist.  down, across: the names of what the labels count.  starts: rows at which an outer coordinate changes.
    note: what was cut away, "" for nothing.
    """

    values: dict[Axis | None, Any]
    shown: Any
    row_labels: tuple[str, ...]
    column_labels: tuple[str, ...]
    down: str
    across: str
    starts: tuple[int, ...]
    note: str

    def text(self, row: int, column: int) -> str:
        """Return the value of a cell, several parted by commas."""
        return ",".join(str(int(part[row, column])) for part in self.values.values())

    def where(self, row: int, column: int) -> str:
        """Return the coordinate of a cell."""
        parts = [(self.down, self.row_labels[row]), (self.across, self.column_labels[column])]
        return ", ".join(f"{name} {label}".strip() for name, label in parts if label)


def plain(layout: Layout | NamedLayout) -> tuple[Layout, tuple[str, ...]]:
    """Return a layout and a name for every mode."""
    if isinstance(layout, NamedLayout):
        return layout.layout, layout.axes
    return layout, tuple(f"mode {k}" for k in range(layout.rank)) if layout.rank > 1 else ("index",)


def heading(layout: Layout | NamedLayout, title: str | None) -> str:
    """Return a title, by default the text of the layout."""
    if title is not None:
        return title
    return layout.text if isinstance(layout, NamedLayout) else str(layout)


def mode_sizes(layout: Layout) -> list[int]:
    """Return the number of coordinates of every top-level mode."""
    return [size(extent) for extent in layout.shape] if isinstance(layout.shape, tuple) else [layout.size]


def cells(layout: Layout | NamedLayout, rows: Sequence[int | str] | None, most: tuple[int, int], wrap: int) -> Cells:
    """Return the values of a layout; the modes `rows` go down (the last one fastest), the others across.

    Without `rows` all modes but the last go down; a single mode goes across in lines of `wrap`.  No more than `most`
    rows and columns are looked at.  ValueError for a mode that is not there.
    """
    inner, names = plain(layout)
    sizes = mode_sizes(inner)
    if len(sizes) == 1 and not rows:
        return _wrapped(inner, names[0], most, wrap)
    down = list(range(len(sizes) - 1)) if rows is None else [_place(row, names) for row in rows]
    across = [k for k in range(len(sizes)) if k not in down]
    row_points, column_points = _points(sizes, down, most[0]), _points(sizes, across, most[1])
    grid = [np.zeros((len(row_points), len(column_points)), dtype=np.int64) for _ in sizes]
    for modes, points, axis in ((down, row_points, 0), (across, column_points, 1)):
        for place, k in enumerate(modes):
            line = np.array([point[place] for point in points], dtype=np.int64)
            grid[k] = grid[k] + (line[:, None] if axis == 0 else line[None, :])
    return Cells(
        values=values_at(inner, grid),
        shown=np.ones((len(row_points), len(column_points)), dtype=bool),
        row_labels=tuple(",".join(map(str, point)) for point in row_points),
        column_labels=tuple(",".join(map(str, point)) for point in column_points),
        down=",".join(names[k] for k in down),
        across=",".join(names[k] for k in across),
        starts=tuple(k for k in range(1, len(row_points)) if row_points[k][:-1] != row_points[k - 1][:-1]),
        note=_note((len(row_points), _count(sizes, down)), (len(column_points), _count(sizes, across))),
    )


def _wrapped(layout: Layout, name: str, most: tuple[int, int], wrap: int) -> Cells:
    """Return the values of a single mode, in lines."""
    columns = max(1, min(wrap, most[1], layout.size))
    lines = -(-layout.size // columns)
    shown_lines = min(lines, most[0])
    index = np.arange(shown_lines * columns, dtype=np.int64).reshape(shown_lines, columns)
    shown = index < layout.size
    return Cells(
        values=values_at(layout, [np.where(shown, index, 0)]),
        shown=shown,
        row_labels=tuple(str(k * columns) for k in range(shown_lines)) if lines > 1 else ("",) * shown_lines,
        column_labels=tuple(map(str, range(columns))) if lines == 1 else tuple(f"+{k}" for k in range(columns)),
        down="",
        across=name,
        starts=(),
        note=_note((shown_lines, lines), (columns, columns)),
    )


def values_at(layout: Layout, coordinates: list[IntArray]) -> dict[Axis | None, Any]:
    """Return the result at coordinate arrays of one shape, one per mode, by axis (None for a plain offset)."""
    result: Any = None
    if layout.size <= INT64_MAX:
        try:
            result = layout.coordinate_offsets(*coordinates)
        except ValueError:
            result = None  # no closed form, or too long to tabulate: the shown cells one by one
    if result is None:
        result = _one_by_one(layout, coordinates)
    if isinstance(result, dict):
        return {axis: result[axis] for axis in sorted(result, key=axis_order)}
    return dict(enumerate(result)) if isinstance(result, tuple) else {None: result}


def _one_by_one(layout: Layout, coordinates: list[IntArray]) -> Any:
    shape = coordinates[0].shape
    points = zip(*(part.reshape(-1).tolist() for part in coordinates), strict=True)
    nested = isinstance(layout.shape, tuple)
    found = [layout(point if nested else point[0]) for point in points]
    if found and isinstance(found[0], dict):
        return {axis: np.array([value[axis] for value in found]).reshape(shape) for axis in found[0]}
    if found and isinstance(found[0], tuple):
        return tuple(np.array(part).reshape(shape) for part in zip(*found, strict=True))
    return np.array(found).reshape(shape)


def _place(row: int | str, names: tuple[str, ...]) -> int:
    if row in names:
        return names.index(str(row))
    if isinstance(row, int) and not isinstance(row, bool) and 0 <= row < len(names):
        return row
    shown = str(row)[:80] if isinstance(row, int) else repr(str(row)[:80])
    raise ValueError(f"rows: there is no mode {shown}, allowed are {', '.join(names)[:120]} or 0..{len(names) - 1}")


def _points(sizes: list[int], modes: list[int], most: int) -> list[tuple[int, ...]]:
    """Return the first `most` coordinates of some modes, the last mode fastest."""
    ranges = [range(min(sizes[k], most)) for k in modes]
    if prod(map(len, ranges)) == 0:
        return []
    found: list[tuple[int, ...]] = []
    for point in product(*ranges):
        if len(found) == most:
            break
        found.append(point)
    return found


def _count(sizes: list[int], modes: list[int]) -> int:
    return prod(sizes[k] for k in modes)


def _note(rows: tuple[int, int], columns: tuple[int, int]) -> str:
    cut = [f"{have} of {of} {what}" for what, (have, of) in (("rows", rows), ("columns", columns)) if have < of]
    return f"cut: the first {' and '.join(cut)} are shown" if cut else ""
