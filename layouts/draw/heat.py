"""The heat map: how many wavefronts each access of a banked memory takes."""

from __future__ import annotations

from math import log2

import numpy as np
from numpy.typing import ArrayLike

from layouts.draw.colours import heat
from layouts.draw.svg import FONT, INK, PALE, Picture, width_of

MAX_CELLS = 128
_LINE, _HEIGHT, _WRAP = 16, 20, 32


def heat_svg(
    wavefronts: ArrayLike, title: str = "wavefronts per access", down: str = "", across: str = "access"
) -> str:
    """Return the picture of whole numbers of wavefronts, 1 for an access without conflict.

    wavefronts: integers, one dimension (drawn in lines of 32) or rows and columns.  `down` and `across` say what the
    rows and columns count.  No more than 128 by 128 are drawn, with a note.  ValueError for other arrays and for
    negative numbers.
    """
    given = np.asarray(wavefronts)
    if given.ndim not in (1, 2) or given.size == 0 or given.dtype.kind not in "iu":
        raise ValueError(
            f"wavefronts: {given.dtype} of shape {given.shape}, integers in one or two dimensions are needed"
        )
    if given.min() < 0:
        raise ValueError(f"wavefronts: {given.min()} is negative")
    table, shown = _lines(given)
    cut = table[:MAX_CELLS, :MAX_CELLS]
    worst = int(given.max())
    picture = Picture(title)
    picture.text(8, 17, title)
    told = f"worst {worst}, mean {given.mean():.3g}, {int((given > 1).sum())} of {given.size} accesses have conflicts"
    picture.text(8, 17 + _LINE, told, fill=PALE)
    top = 28 + _LINE
    if cut.shape != table.shape:
        note = f"cut: {cut.shape[0]} of {table.shape[0]} rows and {cut.shape[1]} of {table.shape[1]} columns are shown"
        picture.text(8, top + FONT - 6, note, fill="#b42318")
        top += _LINE
    _draw(picture, cut, shown, worst, top, (down, across), given.ndim == 1)
    return picture.done()


def _lines(given: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the array in rows and columns, and how many of its cells count."""
    if given.ndim == 2:
        return given, given.size
    columns = min(_WRAP, given.size)
    rows = -(-given.size // columns)
    padded = np.zeros(rows * columns, dtype=given.dtype)
    padded[: given.size] = given
    return padded.reshape(rows, columns), given.size


def _draw(
    picture: Picture, table: np.ndarray, shown: int, worst: int, top: float, names: tuple[str, str], wrapped: bool
) -> None:
    rows, columns = table.shape
    wide = max(width_of(int(table.max())) + 10, width_of(f"+{columns - 1}") + 6, 24.0)
    labels = [str(i * columns) if wrapped else str(i) for i in range(rows)]
    left = max([width_of(names[0]), *map(width_of, labels)]) + 16
    picture.text(left, top + FONT, names[1], fill=PALE)
    top += _LINE
    picture.text(left - 8, top + FONT, names[0], "end", PALE)
    for j in range(columns):
        picture.text(left + (j + 0.5) * wide, top + FONT, f"+{j}" if wrapped and rows > 1 else j, "middle", PALE)
    top += _LINE
    for i in range(rows):
        y = top + i * _HEIGHT
        picture.text(left - 8, y + _HEIGHT / 2 + FONT * 0.36, labels[i], "end", PALE)
        for j in range(columns):
            if wrapped and i * columns + j >= shown:
                continue
            number = int(table[i, j])
            share = log2(number) / log2(worst) if number > 1 else 0.0
            ink = "#ffffff" if share > 0.7 else INK
            picture.cell(left + j * wide, y, wide, _HEIGHT, heat(share), str(number), "", ink)
