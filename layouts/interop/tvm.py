"""TVM: index maps ``T.index_map(lambda i, j: (i // 16, j, i % 16))``, and tile layouts by `layouts.interop.tvm_tile`.

An index map sends a logical coordinate to a physical one; over a shape it is a layout with the axes 0, 1, ..., and
`IndexMap.offset_layout` numbers the elements of the physical array.  Inverses are exact, or tell which physical
elements are padding.

Not modelled: axis separators, maps with an inverse written beside them, symbolic extents, and expressions other than
``+ - * // %`` of integers (`layouts.interop.affine`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from layouts.interop import tvm_tile
from layouts.interop.affine import PYTHON, Expression, check_length, in_text, read_expression
from layouts.interop.affine_chain import affine_of, layout_of
from layouts.interop.quasi_affine import Affine, Space
from layouts.layout import Layout, Table
from layouts.shape import MAX_LEAVES
from layouts.stride import MAX_AXES, E
from layouts.text import Reader

MAX_TABLE_INVERSE = 1 << 18  # assumed: elements of a map that is inverted by looking at all of them
MAX_PADDINGS = 8  # assumed: a map's tiles settle after one or two

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_HEAD = re.compile(r"(?:(?:T|tvm\.tirx?|tirx?)\s*\.\s*)?(?:index_map|IndexMap\s*\.\s*from_func)\s*(?=\()")
_LAMBDA = re.compile(r"lambda\b")


@dataclass(frozen=True)
class IndexMap:
    """``lambda names: (results)``: physical coordinates as integer expressions of the logical ones."""

    names: tuple[str, ...]
    results: tuple[Expression, ...]

    def map_indices(self, *coordinate: Any) -> tuple[Any, ...]:
        """Return the physical coordinate of a logical one, given as integers or integer arrays."""
        return tuple(result(*coordinate) for result in self.results)

    def map_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the physical shape: the highest value of each result plus 1; ValueError for negative values."""
        return _shape_of(*self._over(shape))

    def layout(self, shape: Sequence[int]) -> Layout:
        """Return the layout from coordinates of `shape` to the physical coordinate: the axes 0, 1, ...

        A map with one result is a layout to a number.
        """
        return layout_of(*self._over(shape))

    def offset_layout(self, shape: Sequence[int]) -> Layout:
        """Return the layout from coordinates of `shape` to the offset in the physical array, which is row-major."""
        space, results = self._over(shape)
        return layout_of(space, [space.row_major(results, _shape_of(space, results))])

    def inverse(self, shape: Sequence[int]) -> IndexMap:
        """Return the map from physical to logical coordinates; ValueError says why there is none.

        The map must send `shape` onto the whole physical shape, digit by digit: what only a table could invert is
        refused here, see `inverse_layout`.
        """
        space, results = self._over(shape)
        found = _Inverse(space, results)
        if found.padded != tuple(shape):
            raise ValueError(f"no inverse: the map is onto over the shape {found.padded}, not over {tuple(shape)}")
        return found.map(self.names)

    def inverse_layout(self, shape: Sequence[int]) -> Layout:
        """Return the inverse as a layout from the physical shape to the axes 0, 1, ... of the logical coordinate.

        A map that `inverse` refuses is inverted with a table, up to MAX_TABLE_INVERSE elements.
        """
        physical = self.map_shape(shape)
        try:
            return self.inverse(shape).layout(physical)
        except ValueError as error:
            if prod(shape) > MAX_TABLE_INVERSE or prod(shape) != prod(physical):
                raise error
        offsets = layout_of(*self._column_major(shape)).table()
        table = np.argsort(offsets)
        if not np.array_equal(offsets[table], np.arange(len(offsets))):
            raise ValueError("the map sends two elements to one place: it has no inverse")
        steps = tuple(E(k) if extent > 1 else 0 for k, extent in enumerate(shape))
        coordinates = Layout(tuple(shape), steps) if len(steps) > 1 else Layout(shape[0], 1)
        whole = Layout(physical if len(physical) > 1 else physical[0])
        return whole.then(Table(table), coordinates)

    def non_surjective_inverse(self, shape: Sequence[int]) -> PaddedInverse:
        """Return the inverse over the physical shape of the padded domain, and where there is padding.

        The domain is padded to whole tiles of the map's divisions.  ValueError where that does not make the map
        one-to-one, digit by digit.
        """
        space, results = self._over(_padded(self, shape))
        found = _Inverse(space, results, may_pad=True)
        for _ in range(MAX_PADDINGS):
            if found.padded == space.extents:
                break
            space, results = self._over(found.padded)
            found = _Inverse(space, results, may_pad=True)
        else:
            raise ValueError(f"no inverse: padding {tuple(shape)} to whole tiles comes to no end")
        return PaddedInverse(found.map(self.names), _shape_of(space, results), tuple(shape))

    def _over(self, shape: Sequence[int]) -> tuple[Space, list[Affine]]:
        if len(shape) != len(self.names):
            raise ValueError(f"index map of {len(self.names)} variables over the shape {tuple(shape)}")
        space = Space(shape)
        return space, [space.read(result) for result in self.results]

    def _column_major(self, shape: Sequence[int]) -> tuple[Space, list[Affine]]:
        space, results = self._over(shape)
        extents = _shape_of(space, results)
        return space, [space.row_major(results[::-1], extents[::-1])]

    def __str__(self) -> str:
        space = Space((1 << 62,) * len(self.names))
        return _text(space, [space.read(result) for result in self.results], self.names)


@dataclass(frozen=True)
class PaddedInverse:
    """The inverse of a map over `shape` whose physical array, of `physical_shape`, has elements of no coordinate."""

    map: IndexMap
    physical_shape: tuple[int, ...]
    shape: tuple[int, ...]

    def is_padding(self, *coordinate: Any) -> Any:
        """Tell whether physical coordinates, integers or arrays, are padding."""
        found: Any = False
        for value, extent in zip(self.map.map_indices(*coordinate), self.shape, strict=True):
            found = found | (value >= extent)
        return found

    @property
    def predicate(self) -> str:
        """The condition of padding: ``13 <= axis1 * 4 + axis0``, ``False`` where there is none."""
        space = Space(self.physical_shape)
        values = [space.read(result) for result in self.map.results]
        parts = [
            f"{extent} <= {space.text(value, self.map.names, python=True)}"
            for value, extent in zip(values, self.shape, strict=True)
            if space.bounds(value)[1] >= extent
        ]
        return " or ".join(parts) or "False"


def _shape_of(space: Space, results: Sequence[Affine]) -> tuple[int, ...]:
    bounds = [space.bounds(result) for result in results]
    if negative := [k for k, (low, _) in enumerate(bounds) if low < 0]:
        raise ValueError(f"index map: result {negative[0]} reaches {bounds[negative[0]][0]}, coordinates start at 0")
    return tuple(high + 1 for _, high in bounds)


def _padded(index_map: IndexMap, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape with every extent rounded up to whole tiles of the divisors its coordinate meets."""
    space = Space((1 << 40,) * len(shape))
    tiles = [1] * len(shape)
    for result in index_map.results:
        for digit in space.digits(space.read(result))[0]:
            atom = digit.argument.terms[0][0]
            if len(digit.argument.terms) == 1 and atom not in space.quotients:
                tiles[atom] = max(tiles[atom], digit.low * (digit.extent or 1))
    return tuple(-(-extent // tile) * tile for extent, tile in zip(shape, tiles, strict=True))


class _Inverse:
    """The inverse of a map whose results are numbers written in digits of the coordinates, every digit once.

    A variable is a coordinate, or coordinates numbered through like a row-major index.  `padded` is the domain over
    which the map is onto; with `may_pad` a digit may have more room in its result than it has values.
    """

    def __init__(self, space: Space, results: Sequence[Affine], may_pad: bool = False) -> None:
        self.space = space
        self.may_pad = may_pad
        self.padded = space.extents
        self.physical = Space(_shape_of(space, results))
        self.results = results
        self.parts: dict[Affine, list[tuple[int, int, Affine]]] = {}  # (divisor, values, value) by variable
        for k, result in enumerate(results):
            self._take_apart(k, result)

    def _take_apart(self, k: int, result: Affine) -> None:
        """Find the digits of one result, the smallest stride first."""
        digits, constant = self.space.digits(result)
        if constant:
            raise ValueError(f"no inverse: result {k} has the offset {constant}")
        digits.sort(key=lambda digit: digit.stride)
        expected = 1
        for digit, above in zip(digits, [*digits, None][1:], strict=True):
            size = self._size(digit.argument)
            values = digit.extent if digit.extent is not None else -(-size // digit.low)
            room = above.stride // max(1, digit.stride) if above is not None else values
            if digit.extent is None and room > values and self.may_pad and len(digit.argument.terms) == 1:
                values = room
            if digit.extent is None and size != values * digit.low:
                self._pad(digit.argument, values * digit.low)
            if digit.stride != expected:
                raise ValueError(f"no inverse: result {k} has a digit of stride {digit.stride}, {expected} is next")
            expected *= values
            value = self.physical.floordiv(self.physical.dim(k), digit.stride)
            if above is not None:
                value = self.physical.mod(value, values)
            self.parts.setdefault(digit.argument, []).append((digit.low, values, value))

    def _pad(self, argument: Affine, extent: int) -> None:
        atom = argument.terms[0][0]
        if len(argument.terms) > 1:
            raise ValueError(f"no inverse: {extent} values of a sum of {self._size(argument)}")
        self.padded = (*self.padded[:atom], extent, *self.padded[atom + 1 :])

    def _size(self, argument: Affine) -> int:
        """Return the number of values of a variable; ValueError unless it numbers coordinates without gaps."""
        size = 1
        for atom, c in sorted(argument.terms, key=lambda term: term[1]):
            if c != size or argument.constant or atom in self.space.quotients:
                raise ValueError("no inverse: a quotient of neither one coordinate nor several numbered through")
            size *= self.space.extents[atom]
        return size

    def map(self, names: Sequence[str]) -> IndexMap:
        """Return the inverse, its variables named axis0, axis1, ..., or as a coordinate that is passed on whole."""
        coordinates: dict[int, Affine] = {}
        for argument, parts in self.parts.items():
            value = self._variable(argument, sorted(parts, key=lambda part: part[:2]))
            below = 1
            for atom, _ in sorted(argument.terms, key=lambda term: term[1]):
                if atom in coordinates:
                    raise ValueError(f"no inverse: coordinate {atom} is in two numbers")
                rest = self.physical.floordiv(value, below)
                below *= self.space.extents[atom]
                last = below == self._size(argument)
                coordinates[atom] = rest if last else self.physical.mod(rest, self.space.extents[atom])
        for atom, extent in enumerate(self.space.extents):
            if extent > 1 and atom not in coordinates:
                raise ValueError(f"no inverse: coordinate {atom} is lost")
        found = [coordinates.get(atom, Affine(0)) for atom in range(len(self.space.extents))]
        return read_index_map(_text(self.physical, found, self._names(names)))

    def _variable(self, argument: Affine, parts: Sequence[tuple[int, int, Affine]]) -> Affine:
        """Return a variable as the sum of its digits; ValueError if one is missing or there twice."""
        reached = 1
        for low, values, _ in parts:
            if low != reached:
                fault = "is there twice" if low < reached else "is lost"
                raise ValueError(f"no inverse: the digit {min(low, reached)} of a coordinate {fault}")
            reached *= values
        if reached < self._size(argument):
            raise ValueError("no inverse: the highest digit of a coordinate is lost")
        return self.physical.total((value, low) for low, _, value in parts)

    def _names(self, names: Sequence[str]) -> list[str]:
        whole = {Affine(0, ((atom, 1),)): name for atom, name in enumerate(names)}
        found = [whole.get(result, f"axis{k}") for k, result in enumerate(self.results)]
        return found if len(set(found)) == len(found) else [f"axis{k}" for k in range(len(found))]


def read(text: str, shape: Sequence[int] | None = None) -> Layout:
    """Read a tile layout, or an index map over a given `shape`.

    A tile layout has the modes of `shape`, else one per shard, and the element offset as its value, or named axes;
    an index map has the axes 0, 1, ... of the physical coordinate.  ValueError gives the position and what was
    expected there.
    """
    if tvm_tile.is_tile(text):
        return tvm_tile.read(text, shape)
    if shape is None:
        raise ValueError(f"TVM text {text[:40]!r}: an index map alone has no shape, give one")
    return read_index_map(text).layout(shape)


def read_index_map(text: str) -> IndexMap:
    """Read ``T.index_map(lambda i, j: (...))`` or the lambda alone; ValueError gives the position."""
    check_length(text, "index map")
    reader = Reader(text)
    try:
        wrapped = reader.match(_HEAD) is not None
        if wrapped:
            reader.expect("(")
        found = _lambda(reader)
        if wrapped:
            reader.take(",")
            reader.expect(")")
        reader.end()
        return found
    except ValueError as error:
        raise in_text(text, "index map", error) from None


def _lambda(reader: Reader) -> IndexMap:
    if reader.match(_LAMBDA) is None:
        raise reader.error("expected 'lambda' or 'T.index_map'")
    names: list[str] = []
    while reader.peek() != ":":
        if names:
            reader.expect(",", " or ':'")
        found = reader.match(_NAME)
        if found is None or found[0] in names or len(names) == MAX_LEAVES:
            raise reader.error("expected the name of another variable")
        names.append(found[0])
    reader.expect(":")
    if not names:
        raise reader.error("a map of no variables has no domain; expected a name before ':'")
    return IndexMap(tuple(names), tuple(_results(reader, names)))


def _results(reader: Reader, names: Sequence[str]) -> list[Expression]:
    """Read a list, a tuple or a single expression, which may start with a parenthesis of its own."""
    opening = reader.peek()
    if opening == "(":
        start = reader.position
        reader.expect("(")
        read_expression(reader, names, PYTHON)
        is_tuple = reader.peek() == ","
        reader.position = start
        if not is_tuple:
            return [read_expression(reader, names, PYTHON)]
    elif opening != "[":
        return [read_expression(reader, names, PYTHON)]
    closing = {"(": ")", "[": "]"}[opening]
    reader.expect(opening)
    results = [read_expression(reader, names, PYTHON)]
    while reader.take(",") and reader.peek() != closing:
        if len(results) == MAX_AXES:
            raise ValueError(f"at position {reader.position}: more than {MAX_AXES} results")
        results.append(read_expression(reader, names, PYTHON))
    reader.expect(closing, " or ','")
    return results


def write(layout: Layout) -> str:
    """Return the text of a layout: a tile layout if strides and one swizzle say all, else an index map.

    Reading it back over the shape of the layout gives an equal layout.  ValueError names what neither can say.
    """
    try:
        return tvm_tile.write(layout)
    except ValueError as error:
        if any(not isinstance(axis, int) for axis in layout.axes or ()):
            raise error
    return write_index_map(layout)


def write_index_map(layout: Layout) -> str:
    """Return the index map of a layout, one result per axis 0, 1, ...; ValueError names an XOR stride or a table."""
    space, results = affine_of(layout)
    if layout.axes is not None and len(results) == 1:  # one result alone would be an offset
        results = [*results, Affine(0)]
    return _text(space, results, [f"i{k}" for k in range(layout.rank)])


def _text(space: Space, results: Sequence[Affine], names: Sequence[str]) -> str:
    parts = [space.text(result, names, python=True) for result in results]
    body = f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
    return f"T.index_map(lambda {', '.join(names)}: {body})"
