"""The MLIR types that say where elements lie: ``affine_map<...>``, ``memref<4x16xf32, strided<[32, 1], offset: 3>>``.

The words of the dialect `layouts.interop.mlir` and their readers.  A memref whose map has several results is the
row-major array of the shape that MLIR's normalisation gives it.

Not modelled: symbols and dynamic extents, strides and offsets (``?``), semi-affine maps, aliases (``#map``); memory
spaces are read and dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

from layouts.interop.affine import MLIR, Expression, check_length, in_text, read_expression
from layouts.interop.affine_chain import layout_of
from layouts.interop.quasi_affine import Affine, Space
from layouts.layout import Layout
from layouts.shape import MAX_LEAVES
from layouts.stride import MAX_AXES
from layouts.text import Reader

V = TypeVar("V")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$.]*")
_EXTENT = re.compile(r"([0-9]+|\?)\s*x")
ELEMENT = re.compile(r"[A-Za-z_!][A-Za-z0-9_!.]*(?:<[^<>]{0,80}>)?")
_SPACE = re.compile(r"[0-9]+|#[A-Za-z_][\w.]*(?:<[^<>]{0,80}>)?")
WORD = re.compile(r"affine_map|memref|strided|offset")
_ARROW = re.compile(r"->")


@dataclass(frozen=True)
class AffineMap:
    """``affine_map<(names) -> (results)>``: integer expressions of the dimensions."""

    names: tuple[str, ...]
    results: tuple[Expression, ...]

    def space(self, shape: Sequence[int]) -> tuple[Space, list[Affine]]:
        """Return the domain and the results in normal form; ValueError for a shape of another rank."""
        self._check_rank(shape)
        space = Space(shape)
        return space, [space.read(result) for result in self.results]

    def layout(self, shape: Sequence[int]) -> Layout:
        """Return the layout over `shape`: a number for one result, the axes 0, 1, ... for several."""
        return layout_of(*self.space(shape)) if shape else _scalar([result() for result in self.results])

    def normalized_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the physical shape a memref of `shape` gets from MLIR's ``-normalize-memrefs``.

        A result's extent is its highest value plus 1; a remainder counts with its whole divisor, so that tiles are
        whole.  ValueError for a result that can be negative.
        """
        self._check_rank(shape)
        extents = []
        for k, result in enumerate(self.results):
            low, high = result.bounds(shape)
            if low < 0:
                raise ValueError(f"affine map: result {k} reaches {low}, a physical dimension starts at 0")
            extents.append(high + 1)
        return tuple(extents)

    def offset_layout(self, shape: Sequence[int]) -> Layout:
        """Return the layout to the element offset in the row-major array of `normalized_shape`."""
        if len(self.results) == 1:
            return self.layout(shape)
        if not shape:
            return Layout(1, 0)
        space, results = self.space(shape)
        return layout_of(space, [space.row_major(results, self.normalized_shape(shape))])

    def __str__(self) -> str:
        space = Space((1 << 62,) * len(self.names))
        return map_text(space, [space.read(result) for result in self.results], self.names)

    def _check_rank(self, shape: Sequence[int]) -> None:
        if len(shape) != len(self.names):
            raise ValueError(f"affine map of {len(self.names)} dimensions over the shape {tuple(shape)}")


@dataclass(frozen=True)
class MemRef:
    """A memref type: strides and offset in elements, or a map in their place; without both it is row-major."""

    shape: tuple[int, ...]
    element: str = "f32"
    strides: tuple[int, ...] | None = None
    offset: int = 0
    map: AffineMap | None = None

    def __post_init__(self) -> None:
        if smallest := [extent for extent in self.shape if extent < 1]:
            raise ValueError(f"memref: extent {smallest[0]} is not allowed, extents are at least 1")
        if self.strides is not None and len(self.strides) != len(self.shape):
            raise ValueError(f"memref: {len(self.strides)} strides for {len(self.shape)} dimensions")

    @property
    def steps(self) -> tuple[int, ...]:
        """The strides, those of the row-major array if none are written; ValueError for a map."""
        if self.map is not None:
            raise ValueError("memref: has an affine map, a strided memref is needed")
        if self.strides is not None:
            return self.strides
        return tuple(prod(self.shape[k + 1 :]) for k in range(len(self.shape)))

    @property
    def is_plain(self) -> bool:
        """Whether the layout is the identity map, as that of a memref without one is."""
        return self.map is None and (self.strides is None or (self.strides == (1,) and self.offset == 0))

    @property
    def layout(self) -> Layout:
        """The layout from coordinate to element offset."""
        if self.map is not None:
            return self.map.offset_layout(self.shape)
        if len(self.shape) > 1:
            return Layout(self.shape, self.steps, self.offset)
        return Layout(self.shape[0], self.steps[0], self.offset) if self.shape else Layout(1, 0, self.offset)

    def __str__(self) -> str:
        extents = "".join(f"{extent}x" for extent in self.shape)
        if self.map is not None:
            return f"memref<{extents}{self.element}, {self.map}>"
        return f"memref<{extents}{self.element}{'' if self.strides is None else ', ' + self.strided}>"

    @property
    def strided(self) -> str:
        """The layout attribute: ``strided<[32, 1], offset: 3>``."""
        offset = f", offset: {self.offset}" if self.offset else ""
        return f"strided<[{', '.join(map(str, self.steps))}]{offset}>"


def _scalar(values: Sequence[int]) -> Layout:
    if len(values) != 1:
        raise ValueError("affine map of no dimensions: one result is needed")
    return Layout(1, 0, values[0])


def read_memref(text: str) -> MemRef:
    """Read a memref type; ValueError gives the position and what was expected there."""
    return whole(text, read_memref_type)


def read_map(text: str) -> AffineMap:
    """Read an affine map, ``affine_map<(d0) -> (d0 mod 4)>``, or what stands between its brackets."""
    return whole(text, read_map_type)


def whole(text: str, part: Callable[[Reader], V]) -> V:
    """Return what the reader of one part makes of a whole text; its ValueError tells the text too."""
    check_length(text, "MLIR text")
    reader = Reader(text)
    try:
        return end(reader, part(reader))
    except ValueError as error:
        raise in_text(text, "MLIR text", error) from None


def end(reader: Reader, value: V) -> V:
    """Return `value` if the text ends here."""
    reader.end()
    return value


def read_memref_type(reader: Reader) -> MemRef:
    """Read a memref type from where the reader stands."""
    expect_word(reader, "memref")
    reader.expect("<")
    shape = read_extents(reader)
    element = reader.match(ELEMENT)
    if element is None:
        raise reader.error("expected an extent or an element type")
    strides, offset, found = None, 0, None
    while reader.take(","):
        word = reader.peek() and WORD.match(reader.text, reader.position)
        if word and word[0] in ("affine_map", "strided") and strides is None and found is None:
            if word[0] == "strided":
                strides, offset = read_strided(reader)
            else:
                found = read_map_type(reader)
        elif reader.match(_SPACE) is None:
            raise reader.error("expected strided<>, affine_map<> or a memory space")
    reader.expect(">", " or ','")
    if strides is not None and len(strides) != len(shape):
        raise reader.error(f"{len(strides)} strides for {len(shape)} dimensions")
    return MemRef(shape, element[0], strides, offset, found)


def read_extents(reader: Reader) -> tuple[int, ...]:
    """Read ``64x130x``: the extents before an element type."""
    shape: list[int] = []
    while found := reader.match(_EXTENT):
        reader.position = found.start()
        if found[1] == "?":
            raise _dynamic(reader)
        extent = reader.integer()
        if extent < 1:
            raise ValueError(f"at position {found.start()}: extent {extent} is not allowed, extents are at least 1")
        if len(shape) == MAX_LEAVES:
            raise ValueError(f"at position {found.start()}: more than {MAX_LEAVES} dimensions")
        shape.append(extent)
        reader.position = found.end()
    return tuple(shape)


def read_integers(reader: Reader, what: str) -> tuple[int, ...]:
    """Read a list in square brackets: ``[1, 0]``."""
    reader.expect("[")
    values: list[int] = []
    while reader.peek() != "]":
        if values:
            reader.expect(",", " or ']'")
        if reader.peek() == "?":
            raise _dynamic(reader)
        if len(values) == MAX_LEAVES:
            raise ValueError(f"at position {reader.position}: more than {MAX_LEAVES} {what}")
        values.append(reader.integer())
    reader.expect("]")
    return tuple(values)


def read_strided(reader: Reader) -> tuple[tuple[int, ...], int]:
    """Read ``strided<[32, 1], offset: 3>``."""
    expect_word(reader, "strided")
    reader.expect("<")
    strides, offset = read_integers(reader, "strides"), 0
    if reader.take(","):
        expect_word(reader, "offset")
        reader.expect(":")
        if reader.peek() == "?":
            raise _dynamic(reader)
        offset = reader.integer()
    reader.expect(">")
    return strides, offset


def _dynamic(reader: Reader) -> ValueError:
    return ValueError(f"at position {reader.position}: '?' is known at run time only, a number is needed")


def expect_word(reader: Reader, word: str) -> None:
    """Move behind one of the words of these types; ValueError if another one is next."""
    reader.space()
    found = WORD.match(reader.text, reader.position)
    if found is None or found[0] != word:
        raise reader.error(f"expected {word!r}")
    reader.position = found.end()


def read_map_type(reader: Reader) -> AffineMap:
    """Read an affine map, or ``(d0) -> (d0)`` alone."""
    bare = reader.peek() == "("
    if not bare:
        expect_word(reader, "affine_map")
        reader.expect("<")
    names = _names(reader, "(", ")")
    if reader.peek() == "[":
        position = reader.position
        if symbols := _names(reader, "[", "]"):
            raise ValueError(f"at position {position}: the symbol {symbols[0]!r} has no value here, give a number")
    if reader.match(_ARROW) is None:
        raise reader.error("expected '->'")
    reader.expect("(")
    results: list[Expression] = []
    while reader.peek() != ")":
        if results:
            reader.expect(",", " or ')'")
        if len(results) == MAX_AXES:
            raise ValueError(f"at position {reader.position}: more than {MAX_AXES} results")
        results.append(read_expression(reader, names, MLIR))
    reader.expect(")")
    if not results:
        raise reader.error("a map without results places nothing; expected an expression")
    if not bare:
        reader.expect(">")
    return AffineMap(names, tuple(results))


def _names(reader: Reader, opening: str, closing: str) -> tuple[str, ...]:
    reader.expect(opening)
    names: list[str] = []
    while reader.peek() != closing:
        if names:
            reader.expect(",", f" or {closing!r}")
        found = reader.match(_NAME)
        if found is None:
            raise reader.error("expected a name")
        if found[0] in names or len(names) == MAX_LEAVES:
            raise ValueError(f"at position {found.start()}: {found[0][:40]!r} is repeated, or there are too many names")
        names.append(found[0])
    reader.expect(closing)
    return tuple(names)


def map_text(space: Space, results: Sequence[Affine], names: Sequence[str]) -> str:
    """Return the affine map of values over a domain."""
    parts = ", ".join(space.text(result, names, python=False) for result in results)
    return f"affine_map<({', '.join(names)}) -> ({parts})>"
