"""CuTe: text, C++ types and expressions, and the Python DSL.

Text is the project's own notation (`layouts.text`), static integers written ``_8`` included.  C++ is read as types,
``Layout<Shape<_8,Shape<_2,_4>>, Stride<_64,...>>`` and ``ComposedLayout<Swizzle<3,4,3>, _0, Layout<...>>``, or as
expressions, ``make_layout(make_shape(8, 64), make_stride(64, 1))``; Python as ``make_layout((8, 64), stride=(64, 1))``
and ``make_composed_layout(make_swizzle(3, 4, 3), 0, ...)``, with or without a module in front.

Not read: computed arguments, names of variables, and layouts of dynamic extents.
"""

from __future__ import annotations

import re
from math import prod

from layouts.layout import Layout, Table
from layouts.shape import MAX_DEPTH, MAX_TEXT, leaves, shown
from layouts.stride import StrideTuple, Vector, X, stride_leaves
from layouts.swizzle_text import swizzle_of
from layouts.swizzles import swizzle
from layouts.text import Reader, nested, parse

STYLES = ("text", "cpp", "python")

_MODULE = r"(?:(?:cutlass\s*\.\s*)?cute\s*(?:::|\.)\s*)?"
_HEAD = re.compile(_MODULE + r"(make_composed_layout|composition|make_layout|ComposedLayout|Layout)\b")
_SWIZZLE = re.compile(_MODULE + r"(make_swizzle\s*\(|Swizzle\s*<)")
_TUPLE = re.compile(_MODULE + r"(make_shape|make_stride|make_tuple|make_coord|Shape|Stride|tuple|IntTuple)\b")
_INT = re.compile(_MODULE + r"(?:_(-?[0-9]+)|(?:Int|C)\s*<\s*(-?[0-9]+)\s*>|(-?[0-9]+))(?:\s*\{\s*\})?")
_POINTER = re.compile(r"(?:smem_|gmem_|rmem_|tmem_)?ptr\[[^\]\n]{0,40}\]\((?:unset|0x[0-9a-fA-F]+)\)")
_ORDER = re.compile(_MODULE + r"(LayoutRight|LayoutLeft|GenRowMajor|GenColMajor)\b(?:\s*\{\s*\})?")
_VALUE = re.compile(r"\{\s*\}")  # of a type, as in Shape<_8>{}
_KEYWORD = re.compile(r"(?:stride|shape|inner|offset|outer)\s*=")
_STATIC = re.compile(r"(?<![A-Za-z0-9_])_(-?[0-9])")
_CLOSING = {"(": ")", "<": ">"}


def read(text: str) -> Layout:
    """Read a layout from CuTe's text, C++ or Python; ValueError with the position and what was expected there."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"CuTe text: {len(text)} characters, at most {MAX_TEXT} are allowed")
    reader = Reader(text)
    reader.space()
    if not _HEAD.match(text, reader.position):
        return parse(_POINTER.sub("0", _STATIC.sub(r"\1", text)))  # where a tensor is, is not part of its layout
    try:
        layout = _layout(reader, 0)
        reader.match(_VALUE)
        reader.end()
        return layout
    except ValueError as error:
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise ValueError(f"CuTe text {shown!r}: {error}") from None


def _layout(reader: Reader, depth: int) -> Layout:
    if depth > MAX_DEPTH:
        raise ValueError(f"at position {reader.position}: layouts nest deeper than {MAX_DEPTH} levels")
    head = reader.match(_HEAD)
    if head is None:
        raise reader.error("expected make_layout, make_composed_layout, Layout or ComposedLayout")
    opening = "(" if head[1][0].islower() else "<"
    reader.expect(opening)
    if head[1] in ("make_composed_layout", "composition", "ComposedLayout"):
        layout = _composed(reader, depth, has_offset=head[1] != "composition")
    else:
        shape = _tuple(reader)
        stride = _stride(reader, shape) if reader.take(",") else None
        layout = Layout(shape, stride)
    reader.expect(_CLOSING[opening])
    return layout


def _composed(reader: Reader, depth: int, has_offset: bool) -> Layout:
    reader.match(_KEYWORD)
    outer: Layout
    if found := reader.match(_SWIZZLE):
        numbers = [_int(reader)]
        for _ in range(2):
            reader.expect(",")
            numbers.append(_int(reader))
        reader.expect(">" if "<" in found[1] else ")")
        reader.match(_VALUE)
        outer = swizzle(*numbers)
    else:
        outer = _layout(reader, depth + 1)
    reader.expect(",")
    reader.match(_KEYWORD)
    offset = 0
    if has_offset:
        offset = _int(reader)
        reader.expect(",")
        reader.match(_KEYWORD)
    inner = _layout(reader, depth + 1)
    reader.match(_VALUE)
    if inner.offset != 0 or inner.stages:
        raise reader.error("expected a plain layout as the innermost one")
    return Layout(inner.shape, inner.stride, offset, (outer,))


def _stride(reader: Reader, shape: StrideTuple) -> StrideTuple | None:
    """Read a stride, or the name of an order of a shape that is not nested deeper than one level."""
    reader.match(_KEYWORD)
    order = reader.match(_ORDER)
    if order is None:
        return _tuple(reader)
    if order[1] in ("LayoutLeft", "GenColMajor"):
        return None
    extents = leaves(shape)  # type: ignore[arg-type]
    if isinstance(shape, tuple) and len(extents) != len(shape):
        raise reader.error(f"expected strides: {order[1]} of a nested shape is not read")
    strides = [prod(extents[k + 1 :]) for k in range(len(extents))]
    return tuple(strides) if isinstance(shape, tuple) else strides[0]


def _tuple(reader: Reader) -> StrideTuple:
    reader.match(_KEYWORD)
    return nested(_Tuples(reader), lambda: _int(reader))


def _int(reader: Reader) -> int:
    found = reader.match(_INT)
    if found is None:
        raise reader.error("expected an integer, _8, Int<8> or a tuple")
    digits = next(group for group in found.groups() if group is not None)
    if len(digits) > 20 or abs(int(digits)) >= 2**63:
        raise ValueError(f"at position {found.start()}: an integer of {len(digits)} digits does not fit 64 bits")
    return int(digits)


class _Tuples(Reader):
    """A reader to which ``make_shape(``, ``Shape<`` and ``(`` all look like an opening bracket."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._closing: list[str] = []

    @property
    def text(self) -> str:  # type: ignore[override]
        return self._reader.text

    @property
    def position(self) -> int:
        return self._reader.position

    @position.setter
    def position(self, value: int) -> None:
        self._reader.position = value

    def take(self, character: str) -> bool:
        if character == "(":
            return self._open()
        closes = character == ")" and bool(self._closing)
        taken = self._reader.take(self._closing[-1] if closes else character)
        if taken and closes and self._closing.pop() == ">":
            self._reader.match(_VALUE)
        return taken

    def peek(self) -> str:
        found = self._reader.peek()
        return ")" if self._closing and found == self._closing[-1] else found

    def _open(self) -> bool:
        start = self.position
        found = self._reader.match(_TUPLE)
        opening = self._reader.peek()
        if opening == "(" or (found and opening == "<"):
            self._closing.append(_CLOSING[opening])
            self.position += 1
            return True
        if found:
            raise self.error("expected '(' or '<'")
        self.position = start
        return False


def write(layout: Layout, style: str = "text") -> str:
    """Return a layout in CuTe's words; `style` is one of STYLES.

    C++ and Python hold integer strides, and one stage behind them that is a swizzle or a layout.  ValueError names
    the stage that CuTe cannot express.
    """
    if style not in STYLES:
        raise ValueError(f"style {style!r}: allowed are {', '.join(STYLES)}")
    if style == "text":
        return str(layout)
    for step in stride_leaves(layout.stride):
        if isinstance(step, X | Vector):
            kind = "XOR stride" if isinstance(step, X) else "step along axes"
            raise ValueError(f"layout {layout}: CuTe {style} has no {kind} {step}")
    if isinstance(layout.offset, Vector):
        raise ValueError(f"layout {shown(layout)}: CuTe {style} has no offset along axes")
    if len(layout.stages) > 1:
        raise ValueError(f"layout {layout}: CuTe {style} composes two layouts, here are {len(layout.stages) + 1}")
    inner = _plain(layout, style)
    if not layout.stages and layout.offset == 0:
        return inner
    outer = layout.stages[0] if layout.stages else swizzle(0, 0, 0)
    if isinstance(outer, Table):
        raise ValueError(f"layout {layout}: CuTe {style} has no table")
    bits = swizzle_of(outer) or ((0, 4, 3) if not layout.stages else None)
    if style == "python":
        words = f"cute.make_swizzle({', '.join(map(str, bits))})" if bits else write(outer, style)
        return f"cute.make_composed_layout({words}, {layout.offset}, {inner})"
    words = f"Swizzle<{','.join(map(str, bits))}>" if bits else write(outer, style)
    return f"ComposedLayout<{words}, {_cpp(layout.offset, '')}, {inner}>"


def _plain(layout: Layout, style: str) -> str:
    if style == "python":
        return f"cute.make_layout({_python(layout.shape)}, stride={_python(layout.stride)})"
    return f"Layout<{_cpp(layout.shape, 'Shape')}, {_cpp(layout.stride, 'Stride')}>"


def _python(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return "(" + ", ".join(map(_python, value)) + ("," if len(value) == 1 else "") + ")"


def _cpp(value: object, name: str) -> str:
    if not isinstance(value, tuple):
        return f"_{value}" if int(str(value)) >= 0 else f"Int<{value}>"
    return f"{name}<{','.join(_cpp(item, name) for item in value)}>"
