"""XLA's array shapes with a layout: ``bf16[32,200]{1,0:T(8,128)(2,1)}``.

A dialect: text on one side, a layout from the coordinate to the element offset on the other.  ``{1,0`` lists the
dimensions minor to major; a tile splits the innermost dimensions of the array, and each further tile those of the
tile before.  A dimension that its tile does not divide is padded to whole tiles.  `Tiling` is the same idea in
Mosaic GPU, where tiles must divide.

Read and dropped: the element size ``E(n)`` and the memory space ``S(n)``.  Not modelled: dynamic bounds ``<=n``,
tuples, sparse dimensions, and packing below one element.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations, product
from math import prod

from layouts.interop.affine import check_length, in_text
from layouts.interop.affine_chain import affine_of, layout_of
from layouts.interop.quasi_affine import Affine, Digit, Space
from layouts.layout import Layout
from layouts.shape import MAX_LEAVES, as_int
from layouts.text import Reader

MAX_TILES = 8  # assumed: levels of tiling; real layouts have at most three
MAX_WRITTEN = 3  # assumed: levels of tiling `write` looks for
MAX_ORDERED = 5  # assumed: dimensions of which all orders are tried
MAX_TRIED = 5_000  # assumed: tilings looked at for one order; the usual ones are among the first hundred

COMBINE = -1  # a tile extent ``*``: the dimension is joined with the next one before the tile is cut

Field = tuple[int, int, int, int]  # dimension, divisor, stride, values: a digit ``dim // divisor`` in memory
Part = tuple[int, int, int]  # dimension, divisor, extent: a digit on the way there, padding included

_TYPE = re.compile(r"[a-z][a-z0-9]*")
_DIRECTIVE = re.compile(r"[TESL](?=\()")


@dataclass(frozen=True)
class Shape:
    """An array shape with its layout: dimensions, their order from minor to major, tiles from the outermost in."""

    element: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...]
    tiles: tuple[tuple[int, ...], ...] = ()
    tail: int = 1

    def __post_init__(self) -> None:
        if smallest := [extent for extent in self.dims if as_int(extent, "dimension") < 1]:
            raise ValueError(f"dimension {smallest[0]} is not allowed, extents are at least 1")
        if sorted(self.minor_to_major) != list(range(len(self.dims))):
            raise ValueError(
                f"minor to major {_list(self.minor_to_major)} is no order of the dimensions 0..{len(self.dims) - 1}"
            )
        if len(self.tiles) > MAX_TILES:
            raise ValueError(f"{len(self.tiles)} tiles, at most {MAX_TILES} are allowed")
        for tile in self.tiles:
            if not tile or any(extent < 1 and extent != COMBINE for extent in tile) or tile[-1] == COMBINE:
                raise ValueError(f"tile ({_list(tile)}): extents are at least 1, or '*' before another one")

    @property
    def layout(self) -> Layout:
        """The layout from coordinate to element offset, one mode per dimension."""
        if not self.dims:
            return Layout(1, 0)
        space = Space(self.dims)
        parts = [(space.dim(k), self.dims[k]) for k in reversed(self.minor_to_major)]
        for tile in self.tiles:
            parts = _cut(space, parts, tile)
        return layout_of(space, [space.row_major([value for value, _ in parts], [extent for _, extent in parts])])

    @property
    def physical_shape(self) -> tuple[int, ...]:
        """The extents in memory, major first: whole tiles, then the extents within each level of tiles."""
        space = Space((1,) * max(1, len(self.dims)))
        parts = [(Affine(0), self.dims[k]) for k in reversed(self.minor_to_major)]
        for tile in self.tiles:
            parts = _cut(space, parts, tile)
        return tuple(extent for _, extent in parts)

    @property
    def padded_elements(self) -> int:
        """The elements the array takes, padding to whole tiles and to the tail alignment ``L(n)`` included."""
        return -(-prod(self.physical_shape) // self.tail) * self.tail

    def __str__(self) -> str:
        tiles = "".join(f"({_list(tile)})" for tile in self.tiles)
        tail = f"L({self.tail})" if self.tail > 1 else ""
        directives = f":{'T' if tiles else ''}{tiles}{tail}" if tiles or tail else ""
        order = f"{{{_list(self.minor_to_major)}{directives}}}" if self.dims or directives else ""
        return f"{self.element}[{_list(self.dims)}]{order}"


def _list(numbers: Sequence[int]) -> str:
    return ",".join("*" if number == COMBINE else str(number) for number in numbers)


def _cut(space: Space, parts: list[tuple[Affine, int]], tile: Sequence[int]) -> list[tuple[Affine, int]]:
    """Return (coordinate, extent), major first, after one more tile: counts of tiles, then places in a tile."""
    parts = [(Affine(0), 1)] * (len(tile) - len(parts)) + parts
    whole, inner = parts[: len(parts) - len(tile)], parts[len(parts) - len(tile) :]
    joined: list[tuple[Affine, int]] = []
    sizes: list[int] = []
    open_part: tuple[Affine, int] | None = None
    for (value, extent), size in zip(inner, tile, strict=True):
        if open_part is not None:
            value = space.total(((open_part[0], extent), (value, 1)))
            extent *= open_part[1]
        open_part = (value, extent) if size == COMBINE else None
        if size != COMBINE:
            joined.append((value, extent))
            sizes.append(size)
    counts = [(space.floordiv(v, t), -(-n // t)) for (v, n), t in zip(joined, sizes, strict=True)]
    places = [(space.mod(v, t), t) for (v, _), t in zip(joined, sizes, strict=True)]
    return [*whole, *counts, *places]


def read(text: str) -> Layout:
    """Read a shape with a layout; without one the last dimension is the minor one, as in XLA.

    ValueError gives the position and what was expected there.
    """
    return read_shape(text).layout


def padded_elements(text: str) -> int:
    """Return the elements an array with this shape and layout takes, padding included."""
    return read_shape(text).padded_elements


def read_shape(text: str) -> Shape:
    """Read a shape with a layout; ValueError gives the position and what was expected there."""
    check_length(text, "XLA shape")
    reader = Reader(text)
    try:
        shape = _shape(reader)
        reader.end()
        return shape
    except ValueError as error:
        raise in_text(text, "XLA shape", error) from None


def _shape(reader: Reader) -> Shape:
    element = reader.match(_TYPE)
    if element is None:
        raise reader.error("expected an element type such as bf16")
    dims = _integers(reader, "[", "]", "dimensions")
    order = tuple(reversed(range(len(dims))))
    tiles: tuple[tuple[int, ...], ...] = ()
    tail = 1
    if reader.take("{"):
        found = _until(reader, ":}", "dimensions")
        order = found or order
        if reader.take(":"):
            tiles, tail = _directives(reader)
        reader.expect("}")
    return Shape(element[0], dims, order, tiles, tail)


def _directives(reader: Reader) -> tuple[tuple[tuple[int, ...], ...], int]:
    """Read ``T(8,128)(2,1)E(4)S(1)L(128)``: the tiles and the tail alignment."""
    tiles: list[tuple[int, ...]] = []
    tail = 1
    seen = ""
    while reader.peek() != "}":
        word = reader.match(_DIRECTIVE)
        if word is None or word[0] in seen:
            raise reader.error("expected T(tile), L(tail), E(bits) or S(space), each at most once, or '}'")
        seen += word[0]
        while reader.peek() == "(" and (word[0] == "T" or seen[-1] == word[0]):
            values = _integers(reader, "(", ")", "extents", combine=word[0] == "T")
            if word[0] != "T":
                tail = values[0] if word[0] == "L" and values else tail
                break
            if len(tiles) == MAX_TILES:
                raise ValueError(f"at position {reader.position}: more than {MAX_TILES} tiles")
            tiles.append(values)
    if tail < 1:
        raise reader.error(f"the tail alignment {tail} is not allowed, it is at least 1")
    return tuple(tiles), tail


def _integers(reader: Reader, opening: str, closing: str, what: str, combine: bool = False) -> tuple[int, ...]:
    reader.expect(opening)
    values = _until(reader, closing, what, combine)
    reader.expect(closing)
    return values


def _until(reader: Reader, closing: str, what: str, combine: bool = False) -> tuple[int, ...]:
    values: list[int] = []
    while not (reader.peek() and reader.peek() in closing):
        if values:
            reader.expect(",", f" or {closing[-1]!r}")
        if len(values) == MAX_LEAVES:
            raise ValueError(f"at position {reader.position}: more than {MAX_LEAVES} {what}")
        values.append(COMBINE if combine and reader.take("*") else reader.integer())
    return tuple(values)


# --- Mosaic GPU ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tiling:
    """Mosaic GPU's tiles ``((64, 64), (8, 4))``: each splits the innermost dimensions left by the tile before.

    Tiles must divide what they split.  ValueError names the tile and the extent where one does not.
    """

    tiles: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        tiles = tuple(tuple(tile) for tile in self.tiles)
        if len(tiles) > MAX_TILES:
            raise ValueError(f"{len(tiles)} tiles, at most {MAX_TILES} are allowed")
        for tile in tiles:
            if not tile or any(as_int(extent, "tile") < 1 for extent in tile):
                raise ValueError(f"tile ({_list(tile)}): extents are at least 1")
        object.__setattr__(self, "tiles", tiles)

    def tile_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the tiled array: outer extents, counts of tiles, then the extents within."""
        found = tuple(shape)
        for tile in self.tiles:
            outer, inner = self._split(found, tile)
            if any(n % t for n, t in zip(inner, tile, strict=True)):
                raise ValueError(f"tile ({_list(tile)}) does not divide the extents ({_list(inner)})")
            found = (*outer, *(n // t for n, t in zip(inner, tile, strict=True)), *tile)
        return found

    def untile_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape that `tile_shape` makes this tiled shape of."""
        found = tuple(shape)
        for tile in reversed(self.tiles):
            rest, places = self._split(found, tile)
            outer, counts = self._split(rest, tile)
            if places != tile:
                raise ValueError(f"the extents ({_list(places)}) are not those of the tile ({_list(tile)})")
            found = (*outer, *(n * t for n, t in zip(counts, tile, strict=True)))
        return found

    def tile_strides(self, strides: Sequence[int]) -> tuple[int, ...]:
        """Return the strides in the untiled array along each dimension of the tiled one."""
        found = tuple(strides)
        for tile in self.tiles:
            outer, inner = self._split(found, tile)
            found = (*outer, *(s * t for s, t in zip(inner, tile, strict=True)), *inner)
        return found

    def tile_indices(self, indices: Sequence[int]) -> tuple[int, ...]:
        """Return the coordinate in the tiled array of a coordinate in the untiled one."""
        found = tuple(indices)
        for tile in self.tiles:
            outer, inner = self._split(found, tile)
            pairs = list(zip(inner, tile, strict=True))
            found = (*outer, *(i // t for i, t in pairs), *(i % t for i, t in pairs))
        return found

    def untile_indices(self, indices: Sequence[int]) -> tuple[int, ...]:
        """Return the coordinate in the untiled array of a coordinate in the tiled one."""
        found = tuple(indices)
        for tile in reversed(self.tiles):
            rest, places = self._split(found, tile)
            outer, counts = self._split(rest, tile)
            found = (*outer, *(c * t + p for c, t, p in zip(counts, tile, places, strict=True)))
        return found

    def layout(self, shape: Sequence[int]) -> Layout:
        """Return the layout from coordinate to offset in the tiled array, which is row-major."""
        self.tile_shape(shape)
        space = Space(shape)
        parts = [(space.dim(k), extent) for k, extent in enumerate(shape)]
        for tile in self.tiles:
            parts = _cut(space, parts, tile)
        return layout_of(space, [space.row_major([value for value, _ in parts], [extent for _, extent in parts])])

    @staticmethod
    def _split(items: tuple[int, ...], tile: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if len(tile) > len(items):
            raise ValueError(f"tile ({_list(tile)}) has more dimensions than the {len(items)} it splits")
        return items[: len(items) - len(tile)], items[len(items) - len(tile) :]


# --- writing ------------------------------------------------------------------------------------------------------


def write(layout: Layout, element: str = "f32") -> str:
    """Return the XLA shape of a layout, with as few tiles as it needs; reading it back gives an equal layout.

    ValueError names what XLA cannot say: an offset, an XOR stride or a table, a gap that is not the padding of a
    tile, dimensions that overlap.
    """
    if layout.axes is not None:
        raise ValueError(f"layout with the axes {', '.join(map(str, layout.axes))[:80]}: an XLA array has one offset")
    if _TYPE.fullmatch(element) is None:
        raise ValueError(f"element type {element[:40]!r}: a type such as bf16 is needed")
    space, (result,) = affine_of(layout)
    digits, constant = space.digits(result)
    if constant:
        raise ValueError(f"XLA cannot express the offset {constant}")
    memory = _fields(space, digits)
    for order, rank in _orders(space.extents, memory):
        tiles = _Search(space.extents, memory, rank).tiles(order)
        if tiles is not None:
            found = Shape(element, space.extents, tuple(reversed(order)), tiles)
            if found.layout == layout:  # the search looks at one digit after the other: the whole is checked here
                return str(found)
    raise ValueError(f"layout {str(layout)[:60]}: no tiles of XLA place the elements like this")


def _fields(space: Space, digits: Sequence[Digit]) -> list[Field]:
    """Return the memory as fields, major first; ValueError unless each has room for its values below the next."""
    found: list[Field] = []
    for digit in sorted(digits, key=lambda digit: digit.stride):
        (dim, c), *others = digit.argument.terms
        if others or c != 1 or digit.argument.constant or dim in space.quotients:
            raise ValueError("XLA cannot express a quotient of anything but one dimension")
        if digit.stride < 1:
            raise ValueError(f"XLA cannot express the stride {digit.stride} of dimension {dim}")
        if found and (digit.stride % found[-1][2] or digit.stride < found[-1][2] * found[-1][3]):
            raise ValueError(
                f"XLA cannot express the stride {digit.stride} of dimension {dim} above {found[-1][3]} elements of "
                f"dimension {found[-1][0]} at stride {found[-1][2]}"
            )
        needed = digit.extent if digit.extent is not None else -(-space.extents[dim] // digit.low)
        found.append((dim, digit.low, digit.stride, needed))
    for dim, extent in enumerate(space.extents):
        _check_covered(dim, extent, sorted(field for field in found if field[0] == dim))
    return found[::-1]


def _check_covered(dim: int, extent: int, fields: Sequence[Field]) -> None:
    """Raise ValueError unless the fields of a dimension tell all its elements apart."""
    reached = 1
    for _, low, _, needed in fields:
        if low == reached:
            reached *= needed
    if reached < extent:
        raise ValueError(f"XLA cannot express dimension {dim}: elements {reached} apart share an offset")


def _orders(extents: Sequence[int], memory: Sequence[Field]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield (order of the dimensions, major first, highest rank of a tile), none first, then the usual ones."""
    plain = tuple(range(len(extents)))
    first = _with_ones(extents, dict.fromkeys(field[0] for field in memory))
    yield first, 0
    yield plain, 2
    yield first, 2
    yield plain, len(extents)
    yield first, len(extents)
    if len(extents) <= MAX_ORDERED:
        yield from ((order, len(extents)) for order in permutations(plain) if order not in (plain, first))


def _with_ones(extents: Sequence[int], large: Iterable[int]) -> tuple[int, ...]:
    """Return the order of the large dimensions with those of one element put in, each before the next greater one."""
    result = list(large)
    for dim in reversed([dim for dim, extent in enumerate(extents) if extent == 1]):
        place = next((k for k, other in enumerate(result) if other > dim), len(result))
        result.insert(place, dim)
    return tuple(result)


class _Search:
    """Search for the tiles that give the memory: cut, compare what later cuts leave alone, go on or back."""

    def __init__(self, extents: Sequence[int], memory: Sequence[Field], rank: int) -> None:
        self.extents = extents
        self.memory = memory
        self.rank = rank
        self.tried = 0
        gaps = [(field, above[2] // field[2]) for above, field in pairwise(memory)] + [(f, f[2]) for f in memory[-1:]]
        self.spare = {room // needed for (_, _, _, needed), room in gaps if room % needed == 0 and room > needed}
        self.spare |= {memory[-1][2]} if memory else set()
        self.spare |= {a * b for a in self.spare for b in self.spare}  # one tile that the next one cuts again
        self.borders: dict[int, set[int]] = {dim: {1} for dim in range(len(extents))}
        for dim, low, _, _ in memory:
            self.borders[dim].add(low)
        for (dim, low, _, _), room in gaps:
            self.borders[dim].add(low * room)

    def tiles(self, order: Sequence[int]) -> tuple[tuple[int, ...], ...] | None:
        """Return as few tiles as possible for dimensions in this order, major first; None if none are found."""
        parts = [(dim, 1, self.extents[dim]) for dim in order]
        for depth in range(MAX_WRITTEN + 1):
            found = self._within(parts, len(parts), depth)
            if found is not None:
                return found
        return None

    def _within(self, parts: list[Part], reach: int, depth: int) -> tuple[tuple[int, ...], ...] | None:
        if self._places(parts) == [field[:3] for field in self.memory]:
            return ()
        if depth == 0 or not self._settled(parts[: len(parts) - reach]):
            return None
        for rank in range(1, min(reach, self.rank, len(parts)) + 1):
            for tile in product(*(self._cuts(part) for part in parts[-rank:])):
                self.tried += 1
                if self.tried > MAX_TRIED:
                    return None
                counts = [(dim, low * t, -(-n // t)) for (dim, low, n), t in zip(parts[-rank:], tile, strict=True)]
                places = [(dim, low, t) for (dim, low, _), t in zip(parts[-rank:], tile, strict=True)]
                found = self._within([*parts[:-rank], *counts, *places], 2 * rank, depth - 1)
                if found is not None:
                    return (tile, *found)
        return None

    def _places(self, parts: Sequence[Part]) -> list[tuple[int, int, int]]:
        """Return (dimension, divisor, stride), major first, of the parts that take more than one value."""
        found: list[tuple[int, int, int]] = []
        stride = 1
        for dim, low, n in reversed(parts):
            if n > 1 and low < self.extents[dim]:
                found.append((dim, low, stride))
            stride *= n
        return found[::-1]

    def _settled(self, parts: Sequence[Part]) -> bool:
        """Tell whether the parts start like the memory, up to a common factor of their strides."""
        places = self._places(parts)
        wanted = self.memory[: len(places)]
        if len(places) > len(wanted) or any(a[:2] != b[:2] for a, b in zip(places, wanted, strict=True)):
            return False
        return all(w[2] * places[0][2] == p[2] * wanted[0][2] for p, w in zip(places, wanted, strict=True))

    def _cuts(self, part: Part) -> list[int]:
        """Return the tile extents worth trying: 1, the whole part, the borders of fields, the size of a gap."""
        dim, low, extent = part
        spare = self.spare if low >= self.extents[dim] or extent == 1 else ()
        return sorted({1, extent, *spare, *(b // low for b in self.borders[dim] if b % low == 0 and b > low)})
