"""Layouts from their text: ``((2,4),8):((1,16),2)``, ``S<3,3,3> o 0 o (64,64):(64,1)``, ``(8,2):(4@lane,1@m)``.

A chain is written in the order of functions, the stage applied last first: ``C o B o A`` is ``A.then(B, C)``.
An integer in front of a layout is its offset, ``[5,2,7]`` is a table (``[5,2,7]@1`` of coordinate 1), ``S<b,m,s>``
or ``Sw<b,m,s>`` a swizzle.  Strides are integers, XOR strides ``X9``, or steps along axes, ``4@lane+1@0``.

Reading is iterative and bounded; ValueError gives the position and what was expected there.
"""

from __future__ import annotations

import re

from layouts.layout import Layout, Stage, Table
from layouts.shape import MAX_DEPTH, MAX_DIGITS, MAX_LEAVES, MAX_TEXT
from layouts.stride import Axis, Scalar, Step, StrideTuple, Vector, X, vector
from layouts.swizzles import swizzle

MAX_TABLE_TEXT = 1 << 14  # assumed: entries of a table written as text

_SWIZZLE = re.compile(r"(?:Sw|S|Swizzle)<\s*(-?[0-9]{1,3})\s*,\s*(-?[0-9]{1,3})\s*,\s*(-?[0-9]{1,3})\s*>")
_INTEGER = re.compile(r"-?[0-9]+")
_AXIS = re.compile(r"[A-Za-z_]\w*|[0-9]{1,3}", re.ASCII)
_THEN = re.compile(r"(?:o|∘)(?![A-Za-z0-9_])")


def parse(text: str) -> Layout:
    """Read a layout from its text; white space is free.

    ValueError gives the position and what was expected there.  Length, depth and digits are bounded.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"layout text: {len(text)} characters, at most {MAX_TEXT} are allowed")
    reader = Reader(text)
    try:
        layout = _chain(reader)
        reader.end()
        return layout
    except ValueError as error:
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise ValueError(f"layout text {shown!r}: {error}") from None


class Reader:
    """A text and a position in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def space(self) -> None:
        """Move to the next character that is not white space."""
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1

    def peek(self) -> str:
        """Return the next character after white space, "" at the end."""
        self.space()
        return self.text[self.position : self.position + 1]

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Return the match of `pattern` here and move behind it; None, without moving, where it does not match."""
        self.space()
        found = pattern.match(self.text, self.position)
        if found:
            self.position = found.end()
        return found

    def take(self, character: str) -> bool:
        """Move behind `character` if it is next, and tell whether it was."""
        if self.peek() == character and character:
            self.position += 1
            return True
        return False

    def expect(self, character: str, why: str = "") -> None:
        """Move behind `character`; ValueError if something else is next."""
        if not self.take(character):
            raise self.error(f"expected {character!r}{why}")

    def error(self, message: str) -> ValueError:
        """Return a ValueError with the position and what was found there."""
        self.space()
        found = repr(self.text[self.position]) if self.position < len(self.text) else "the end of the text"
        return ValueError(f"at position {self.position}: {message}, found {found}")

    def end(self) -> None:
        """Raise ValueError unless the text ends here."""
        if self.peek():
            raise self.error("expected the end of the text")

    def integer(self, expected: str = "an integer") -> int:
        """Read an integer of at most 64 bits."""
        start = self.position
        found = self.match(_INTEGER)
        if found is None:
            raise self.error(f"expected {expected}")
        if len(found[0].lstrip("-")) > MAX_DIGITS:
            self.position = found.start()
            raise ValueError(f"at position {found.start()}: an integer has at most {MAX_DIGITS} digits")
        value = int(found[0])
        if abs(value) >= 2**63:
            raise ValueError(f"at position {max(start, found.start())}: {found[0]} does not fit 64 bits")
        return value


def _chain(reader: Reader) -> Layout:
    parts: list[Stage | int | Vector] = [_part(reader)]
    start = 0
    while reader.match(_THEN):
        reader.space()
        start = reader.position
        parts.append(_part(reader))
    inner = parts.pop()
    if not isinstance(inner, Layout) or _SWIZZLE.match(reader.text, start):
        raise reader.error("expected ':' and the strides of the last layout")
    stages: list[Stage] = []
    layout = inner
    for part in reversed(parts):
        if isinstance(part, int | Vector):
            if stages:
                last = stages[-1]
                if not isinstance(last, Layout) or last.offset != 0:
                    raise reader.error(f"the offset {part} has no layout to its right")
                stages[-1] = Layout(last.shape, last.stride, part)
            else:
                layout = Layout(layout.shape, layout.stride, part)
        else:
            stages.append(part)
    return Layout(layout.shape, layout.stride, layout.offset, stages)


def _part(reader: Reader) -> Stage | int | Vector:
    """Read a swizzle, a table, an offset, or a shape:stride."""
    if found := reader.match(_SWIZZLE):
        return swizzle(*map(int, found.groups()))
    if reader.peek() == "[":
        return _table(reader)
    start = reader.position
    shape = nested(reader, lambda: _step(reader, "an integer or '('"))
    if reader.take(":"):
        stride = nested(reader, lambda: _step(reader, "a stride or '('"))
        _integers(shape, start)
        return Layout(shape, stride)
    if isinstance(shape, int | Vector):
        return shape
    raise reader.error("expected ':' between shape and stride")


def _integers(shape: object, start: int) -> None:
    if isinstance(shape, tuple):
        for item in shape:
            _integers(item, start)
    elif not isinstance(shape, int):
        raise ValueError(f"at position {start}: extents are integers, found {shape}")


def _table(reader: Reader) -> Table:
    reader.expect("[")
    values = [reader.integer()]
    while reader.take(","):
        if len(values) == MAX_TABLE_TEXT:
            raise ValueError(f"at position {reader.position}: a table has at most {MAX_TABLE_TEXT} entries in text")
        values.append(reader.integer())
    reader.expect("]", " or ','")
    return Table(values, reader.integer("a coordinate number") if reader.take("@") else None)


def nested(reader: Reader, leaf: object) -> StrideTuple:
    """Read a leaf or a tuple of nested tuples of leaves; `leaf()` reads one.  Iterative and bounded."""
    stack: list[list[StrideTuple]] = []
    count = 0
    while True:
        opening = reader.position
        if reader.take("("):
            if len(stack) == MAX_DEPTH:
                raise ValueError(f"at position {opening}: tuples nest deeper than {MAX_DEPTH} levels")
            stack.append([])
            continue
        value: StrideTuple = leaf()  # type: ignore[operator]
        count += 1
        if count > MAX_LEAVES:
            raise ValueError(f"at position {reader.position}: more than {MAX_LEAVES} integers in one tuple")
        while stack:
            stack[-1].append(value)
            if reader.take(",") and reader.peek() != ")":  # Python's (8,) is a tuple of one
                break
            if not reader.take(")"):
                raise reader.error("expected ',' or ')'")
            value = tuple(stack.pop())
        else:
            return value


def _step(reader: Reader, expected: str) -> Step:
    parts: list[tuple[Axis, Scalar]] = []
    while True:
        position = reader.position
        value: Scalar = X(reader.integer()) if reader.take("X") else reader.integer(expected)
        if not reader.take("@"):
            if parts:
                raise reader.error("expected '@' and an axis")
            return value
        axis = reader.match(_AXIS)
        if axis is None:
            raise reader.error("expected an axis, a name or a number")
        parts.append((int(axis[0]) if axis[0].isdigit() else axis[0], value))
        if len(parts) > MAX_LEAVES:
            raise ValueError(f"at position {position}: more than {MAX_LEAVES} axes in one stride")
        if not reader.take("+"):
            return vector(parts)
