"""The bit matrix of a layout that is linear over F2: which bit of the index changes which bit of the offset."""

from __future__ import annotations

from layouts.draw.cells import heading, mode_sizes, plain
from layouts.draw.svg import FONT, INK, PALE, Picture, width_of
from layouts.layout import Layout
from layouts.notation import NamedLayout
from layouts.xor_form import affine_bits

_CELL = 20
_ON, _OFF, _CONSTANT = "#2f6fb3", "#f2f4f7", "#b54708"


def bits_svg(layout: Layout | NamedLayout, title: str | None = None) -> str:
    """Return the picture of the matrix of an F2-affine layout: a column per bit of the index, a row per result bit.

    Bit 0 is at the top and at the left; a bit of the constant that is XORed in has a column of its own.  The rows of
    a layout with axes are grouped by axis.  ValueError for a layout that is not linear over F2.
    """
    inner, names = plain(layout)
    columns = [
        f"{name}[{k}]"
        for name, extent in zip(names, mode_sizes(inner), strict=True)
        for k in range(extent.bit_length() - 1)
    ]
    rows, constants = _rows(inner)
    picture = Picture(heading(layout, title))
    picture.text(8, 17, picture.title)
    headings = [*columns, *(["constant"] if any(constants) else [])]
    left = max((width_of(label) for label, _ in rows), default=0) + 16
    top = 30 + max(map(width_of, headings), default=0)
    for j, name in enumerate(headings):
        picture.upright(left + (j + 0.5) * _CELL + FONT * 0.36, top - 6, name)
    for i, ((label, line), constant) in enumerate(zip(rows, constants, strict=True)):
        y = top + i * _CELL
        picture.text(left - 8, y + _CELL / 2 + FONT * 0.36, label, "end", PALE)
        for j, bit in enumerate([*line, *([constant] if any(constants) else [])]):
            on = _CONSTANT if j == len(columns) else _ON
            told = f"{headings[j]} {'changes' if bit else 'leaves'} {label}"
            fill, ink = (on, "#ffffff") if bit else (_OFF, "#98a2b3")
            picture.cell(left + j * _CELL, y, _CELL, _CELL, fill, str(int(bit)), told, ink)
    bottom = top + len(rows) * _CELL
    for j in range(1, len(headings)):
        if headings[j].split("[")[0] != headings[j - 1].split("[")[0]:
            picture.line(left + j * _CELL, top, left + j * _CELL, bottom, INK, 1.5)
    return picture.done()


def _rows(layout: Layout) -> tuple[list[tuple[str, list[bool]]], list[bool]]:
    """Return (label, bit per column) of every result bit, and the bits of the constant."""
    parts = {"offset": layout} if layout.axes is None else {str(axis): layout.along(axis) for axis in layout.axes}
    rows: list[tuple[str, list[bool]]] = []
    constants: list[bool] = []
    for name, part in parts.items():
        affine = affine_bits(part)
        if affine is None:
            raise ValueError(f"layout {str(layout)[:120]}: is not linear over F2, it has no bit matrix")
        zero, bits = affine
        for k in range(max((bit.bit_length() for bit in (zero, *bits)), default=0)):
            rows.append((f"{name}[{k}]", [bool(bit >> k & 1) for bit in bits]))
            constants.append(bool(zero >> k & 1))
    return rows, constants
