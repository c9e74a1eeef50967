"""A layout in words, one line per mode and per stage, and its values as a text grid for terminals.

Side branch of the data's path: it reads layouts and changes nothing.  It says what the strides do; what a layout
costs on a machine is not its business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from layouts.draw.cells import cells, mode_sizes, plain
from layouts.layout import Layout, Stage, Table
from layouts.notation import NamedLayout
from layouts.shape import leaves
from layouts.stride import Step, Vector, X
from layouts.swizzle_text import swizzle_of

MAX_SHOWN = 8  # entries of a table that are spelt out
MAX_LINE = 400  # assumed: characters of one line


def explain(layout: Layout | NamedLayout) -> str:
    """Return what a layout does, in words: a line for the whole, one per mode, one for an offset, one per stage.

    "packed" is a digit whose stride is just the span of all digits with smaller strides, of any mode; a larger one
    leaves a gap, with a smaller one offsets may meet.
    """
    inner, names = plain(layout)
    lines = [_whole(layout, inner, names)]
    spans = _spans(inner)
    digits = iter([(e, step, span) for (e, step), span in zip(inner.leaves(), spans, strict=True)])
    shapes = inner.shape if isinstance(inner.shape, tuple) else (inner.shape,)
    for name, extent, shape in zip(names, mode_sizes(inner), shapes, strict=True):
        told = [_digit(*digit) for digit in islice(digits, len(leaves(shape))) if digit[0] > 1]
        what = "; then ".join(told) if told and extent else "always at 0" if extent else "empty"
        lines.append(f"  {name}: {_count(extent, 'coordinate')}: {what}")
    if inner.offset != 0:
        lines.append(f"  all of it starts at {inner.offset}")
    axes: Any = inner.stage_axes
    for stage in inner.stages:
        lines.append(f"  then {_stage(stage, axes)}")
        axes = stage.reads(axes)
    return "\n".join(line if len(line) <= MAX_LINE else line[: MAX_LINE - 3] + "..." for line in lines)


def grid(
    layout: Layout | NamedLayout, rows: Sequence[int | str] | None = None, most_rows: int = 32, most_columns: int = 16
) -> str:
    """Return the values of a layout as aligned text, coordinates at the left and on top.

    Modes go down and across as in `layouts.draw.grid_svg`; a single mode goes in lines of 16.  No more than the given
    rows and columns are shown, with a note.  ValueError for a mode of `rows` that is not there.
    """
    table = cells(layout, rows, (max(1, most_rows), max(1, most_columns)), 16)
    body = [
        [table.text(i, j) if table.shown[i, j] else "" for j in range(len(table.column_labels))]
        for i in range(len(table.row_labels))
    ]
    width = max([len(text) for line in [table.column_labels, *body] for text in line], default=1)
    left = max(map(len, [table.down, *table.row_labels]), default=0)
    named = [str(axis) for axis in table.values if axis is not None]
    lines = [f"values: {','.join(named)}"] if named else []
    lines += [" " * left + " | " + table.across] if table.across else []
    lines.append(table.down.rjust(left) + " | " + " ".join(label.rjust(width) for label in table.column_labels))
    lines.append("-" * left + "-+-" + "-" * ((width + 1) * len(table.column_labels) - 1))
    for label, line in zip(table.row_labels, body, strict=True):
        lines.append(label.rjust(left) + " | " + " ".join(text.rjust(width) for text in line))
    lines += [table.note] if table.note else []
    return "\n".join(line.rstrip() for line in lines)


def _whole(layout: Layout | NamedLayout, inner: Layout, names: tuple[str, ...]) -> str:
    text = layout.text if isinstance(layout, NamedLayout) else str(layout)
    shown = text if len(text) <= 160 else text[:157] + "..."
    count = _count(inner.size, "element")
    if inner.axes is not None:
        return f"{shown}: {count}, sent to {', '.join(str(axis) for axis in inner.axes)}"
    try:
        span = inner.cosize if inner.size else 0
    except ValueError:
        return f"{shown}: {count}"
    return f"{shown}: {count} in a span of {span}"


def _spans(layout: Layout) -> list[int | None]:
    """Return for every digit with an integer stride the span of the digits with smaller ones, None for others."""
    digits = list(layout.leaves())
    spans: list[int | None] = []
    for place, (_, step) in enumerate(digits):
        if not isinstance(step, int):
            spans.append(None)
            continue
        below = [
            (extent - 1) * abs(other)
            for k, (extent, other) in enumerate(digits)
            if isinstance(other, int) and (abs(other), k) < (abs(step), place)
        ]
        spans.append(sum(below) + 1)
    return spans


def _digit(extent: int, step: Step, span: int | None) -> str:
    """Return what one digit of a mode does."""
    if isinstance(step, X):
        return f"{extent} by {_xor(step, extent)}"
    if isinstance(step, Vector):
        moves = []
        for axis, part in step.parts:
            moves.append(f"{_xor(part, extent)} of {axis}" if isinstance(part, X) else f"stride {part} along {axis}")
        return f"{extent} at {' and '.join(moves)}"
    if step == 0:
        return f"{extent} at stride 0, all at one place"
    told = f"{extent} at stride {step}" + (", backwards" if step < 0 else "")
    below = span or 1
    gap = abs(step) - below
    if gap == 0:
        return f"{told}, contiguous" if below == 1 else f"{told}, packed on the span {below} of smaller strides"
    if gap > 0:
        return f"{told}, a gap of {gap} behind every {below}"
    return f"{told}, less than the span {below} of smaller strides: offsets may meet or interleave"


def _xor(step: X, extent: int) -> str:
    """Return which bits an XOR stride flips."""
    bits = [k for k in range(step.value.bit_length()) if step.value >> k & 1]
    width = (extent - 1).bit_length()
    if not bits:
        return "XOR with nothing"
    if width <= 1:
        return f"XOR: flips bit{'s' if len(bits) > 1 else ''} {_listed(bits)}"
    return f"XOR: its bit j flips bit{'s' if len(bits) > 1 else ''} " + _listed([f"{k}+j" if k else "j" for k in bits])


def _stage(stage: Stage, axes: object) -> str:
    """Return what a stage does with the value before it."""
    if isinstance(stage, Table):
        shown = ", ".join(map(str, stage.values[:MAX_SHOWN])) + (", ..." if len(stage.values) > MAX_SHOWN else "")
        what = "the value" if stage.axis is None else f"coordinate {stage.axis}"
        return f"a table of {len(stage.values)} entries takes the place of {what}: {shown}"
    found = swizzle_of(stage)
    if found is not None:
        bits, base, shift = found
        low, high = base, base + abs(shift)
        source, target = (high, low) if shift > 0 else (low, high)
        return (
            f"swizzle S<{bits},{base},{shift}>: {_bits(source, bits)} are XORed into {_bits(target, bits)}; "
            f"blocks of {1 << base} stay together, the pattern repeats every {1 << (high + bits)}"
        )
    if axes is not None or stage.stage_axes is not None:
        return _reading(stage, axes is not None)
    return _padding(stage) or _reading(stage, False)


def _padding(stage: Layout) -> str | None:
    """Return the words for a stage of two digits that has a name: padding, division, remainder, a factor."""
    parts = [(extent, step) for extent, step in stage.leaves()]
    added = f", plus {stage.offset}" if stage.offset != 0 else ""
    if len(parts) == 1 and isinstance(parts[0][1], int):
        return f"the value times {parts[0][1]}{added}"
    if len(parts) != 2 or any(not isinstance(step, int) for _, step in parts):
        return None
    (extent, low), (_, high) = parts
    if (low, high) == (1, 0):
        return f"the remainder by {extent}{added}"
    if low == 0:
        return f"the value divided by {extent}, rounded down{f', times {high}' if high != 1 else ''}{added}"
    if low == 1 and high > extent:
        return f"padding: behind every {extent}, {high - extent} are left free{added}"
    if low == 1 and high == extent:
        return f"the value as it is{added}"
    return None


def _reading(stage: Layout, by_axis: bool) -> str:
    """Return the words for any stage: its digits, the last one without end."""
    groups = stage.stage_modes(1 if by_axis else None)
    told = []
    for k, group in enumerate(groups):
        what = f"coordinate {k}" if by_axis else "the value"
        digits = [_open_digit(extent, step, place == len(group) - 1) for place, (extent, step) in enumerate(group)]
        told.append(f"{what} is read as " + " then ".join(digits))
    added = f"; plus {stage.offset}" if stage.offset != 0 else ""
    return "; ".join(told) + added


def _open_digit(extent: int, step: Step, last: bool) -> str:
    count = "the rest" if last else f"a digit of {extent}"
    if isinstance(step, int):
        return f"{count} times {step}" if step else f"{count}, dropped"
    return f"{count} times {step}"


def _bits(start: int, width: int) -> str:
    return f"bits {start}..{start + width - 1}" if width > 1 else f"bit {start}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _listed(items: Iterable[object]) -> str:
    shown = [str(item) for item in items]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]
