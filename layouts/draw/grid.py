"""The grid: the offset of every coordinate, coloured by where it lies in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from layouts.draw.cells import Cells, cells, heading
from layouts.draw.colours import Colouring, by_offset, shade
from layouts.draw.svg import FONT, INK, PALE, Picture, width_of
from layouts.layout import Layout
from layouts.notation import NamedLayout

MAX_CELLS = 128  # rows and columns of a grid
MAX_HOVER = 4096  # cells up to which each has a text of its own when pointed at
MAX_LEGEND = 32
_LINE, _HEIGHT = 16, 20  # pixels of a line of text, of a cell


def grid_svg(
    layout: Layout | NamedLayout,
    colouring: Colouring | None = None,
    title: str | None = None,
    rows: Sequence[int | str] | None = None,
    most: int = MAX_CELLS,
) -> str:
    """Return the picture of a layout with the offset, in elements, in each cell.

    Mode 0 goes down and mode 1 across; of more modes all but the last go down, the last of these fastest, unless
    `rows` names those that do.  A single mode goes across in lines of 32.  Without `colouring` the colour follows the
    offset.  A layout with axes shows them with commas, and its first axis is coloured.  No more than `most` (at most
    128) rows and columns are drawn, with a note.  ValueError for a mode that is not there.
    """
    limit = max(1, min(most, MAX_CELLS))
    table = cells(layout, rows, (limit, limit), 32)
    picture = Picture(heading(layout, title))
    first = next(iter(table.values.values()))
    present = first[table.shown]
    low, high = (int(present.min()), int(present.max())) if present.size else (0, 0)
    shown = colouring if colouring is not None else by_offset(low, high)
    numbers = np.asarray(shown.of(first)) if first.size else first
    y = _heading(picture, picture.title, table)
    y = _cells(picture, table, shown, numbers, y, plain=colouring is None)
    if colouring is not None and present.size:
        _legend(picture, colouring, sorted(set(numbers[table.shown].tolist())), y + 10)
    return picture.done()


def repr_svg(layout: Layout | NamedLayout) -> str:
    """Return a small picture of a layout, for notebooks; what cannot be drawn is said in words."""
    try:
        return grid_svg(layout, most=32)
    except (ValueError, OverflowError) as error:
        picture = Picture("layout")
        picture.text(8, 20, str(layout)[:160])
        picture.text(8, 38, f"cannot be drawn: {error}", fill=PALE)
        return picture.done()


def _heading(picture: Picture, title: str, table: Cells) -> float:
    y = 4.0
    named = [axis for axis in table.values if axis is not None]
    lines = [title, f"values: {','.join(map(str, named))}" if named else "", table.note]
    for line, fill in zip(lines, (INK, PALE, "#b42318"), strict=True):
        if line:
            y += _LINE
            picture.text(8, y - 3, line, fill=fill)
    return y + 6


def _cells(picture: Picture, table: Cells, colouring: Colouring, numbers: Any, top: float, plain: bool) -> float:
    """Draw the cells and their labels below `top`; return where they end."""
    rows, columns = len(table.row_labels), len(table.column_labels)
    texts = [[table.text(i, j) if table.shown[i, j] else "" for j in range(columns)] for i in range(rows)]
    longest = max((width_of(text) for line in texts for text in line), default=0)
    width = max(24.0, longest + 8, max(map(width_of, table.column_labels), default=0) + 4)
    left = max([width_of(table.down), *map(width_of, table.row_labels)], default=0) + 16
    if table.across:
        picture.text(left, top + FONT, table.across, fill=PALE)
        top += _LINE
    picture.text(left - 8, top + FONT, table.down, "end", PALE)
    for j, label in enumerate(table.column_labels):
        picture.text(left + (j + 0.5) * width, top + FONT, label, "middle", PALE)
    top += _LINE
    hover = rows * columns <= MAX_HOVER
    for i in range(rows):
        y = top + i * _HEIGHT
        picture.text(left - 8, y + _HEIGHT / 2 + FONT * 0.36, table.row_labels[i], "end", PALE)
        for j in range(columns):
            if not table.shown[i, j]:
                continue
            number = int(numbers[i, j])
            told = f"{table.where(i, j)}: {texts[i][j]}" + ("" if plain else f", {colouring.name} {number}")
            fill = shade(number / 7) if plain else colouring.colour(number)
            picture.cell(left + j * width, y, width, _HEIGHT, fill, texts[i][j], told if hover else "", INK)
    for i in table.starts:
        picture.line(left, top + i * _HEIGHT, left + columns * width, top + i * _HEIGHT, INK)
    return top + rows * _HEIGHT


def _legend(picture: Picture, colouring: Colouring, numbers: list[int], y: float) -> None:
    picture.text(8, y + FONT, colouring.name, fill=PALE)
    x = 8 + width_of(colouring.name) + 12
    start = x
    picture.parts.append('<g class="key">')
    for number in numbers[:MAX_LEGEND]:
        if x > max(picture.width, 480) - 24:
            x, y = start, y + _HEIGHT
        width = width_of(number) + 10
        picture.cell(x, y - 2, width, 17, colouring.colour(number), str(number), "", INK)
        x += width + 3
    picture.parts.append("</g>")
    if len(numbers) > MAX_LEGEND:
        picture.text(x + 4, y + FONT, f"and {len(numbers) - MAX_LEGEND} more", fill=PALE)
    if colouring.count is None:
        picture.text(start, y + FONT + _LINE, "colours repeat", fill=PALE)
