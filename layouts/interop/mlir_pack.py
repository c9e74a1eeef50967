"""The packs of linalg: ``linalg.pack %s inner_dims_pos = [0, 1] inner_tiles = [16, 3] ... : tensor<..> -> tensor<..>``.

A pack copies a tensor into tiles: it is a layout from the source's coordinate to the offset in the packed tensor,
which is row-major: the counts of tiles in the order `outer_dims_perm`, then the places within a tile.  A dimension
that its tile does not divide is padded.  LLVM 19 writes ``tensor.pack`` for the same.

Not modelled: dynamic tiles and extents; the padding value is read and dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from layouts.interop.affine import check_length, in_text
from layouts.interop.affine_chain import layout_of
from layouts.interop.mlir_types import read_extents, read_integers
from layouts.interop.quasi_affine import Space
from layouts.layout import Layout
from layouts.shape import as_int
from layouts.text import Reader

PACK = re.compile(r"(?:%[\w.#]+\s*=\s*)?(?:linalg|tensor)\.pack\b")
_VALUE = re.compile(r"%[\w.#$]+")
_PADDING = re.compile(r"padding_value\s*\([^()]{0,200}\)")
_LIST = re.compile(r"(outer_dims_perm|inner_dims_pos|inner_tiles)\s*=\s*(?=\[)")
_INTO = re.compile(r"into\b")
_TENSOR = re.compile(r"tensor\s*<")
_ELEMENT = re.compile(r"[A-Za-z_!][\w.!]*")
_ARROW = re.compile(r"->")


@dataclass(frozen=True)
class Pack:
    """A pack of a tensor of `shape`: `inner_tiles` along `inner_dims_pos`, outer dimensions in `outer_dims_perm`.

    ValueError unless the positions are distinct dimensions with one tile each, and the order is a permutation; an
    empty order is that of the dimensions.
    """

    shape: tuple[int, ...]
    inner_dims_pos: tuple[int, ...]
    inner_tiles: tuple[int, ...]
    outer_dims_perm: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rank = len(self.shape)
        for extent in (*self.shape, *self.inner_tiles):
            if as_int(extent, "extent") < 1:
                raise ValueError(f"pack: extent {extent} is not allowed, extents and tiles are at least 1")
        pos = self.inner_dims_pos
        if len(pos) != len(self.inner_tiles):
            raise ValueError(f"pack: {len(self.inner_tiles)} inner tiles for {len(pos)} positions")
        if len(set(pos)) != len(pos) or any(not 0 <= as_int(dim, "position") < rank for dim in pos):
            raise ValueError(f"pack: inner_dims_pos {list(pos)} must be distinct dimensions 0..{rank - 1}")
        if self.outer_dims_perm and sorted(self.outer_dims_perm) != list(range(rank)):
            raise ValueError(f"pack: outer_dims_perm {list(self.outer_dims_perm)} is no order of 0..{rank - 1}")

    @property
    def tile_of(self) -> dict[int, int]:
        """The tile of every dimension that has one."""
        return dict(zip(self.inner_dims_pos, self.inner_tiles, strict=True))

    @property
    def order(self) -> tuple[int, ...]:
        """The dimensions in the order of the outer part of the packed tensor."""
        return self.outer_dims_perm or tuple(range(len(self.shape)))

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """The shape of the packed tensor: counts of tiles, rounded up, then the tiles."""
        return (*(-(-self.shape[dim] // self.tile_of.get(dim, 1)) for dim in self.order), *self.inner_tiles)

    @property
    def padded(self) -> bool:
        """Whether some tile is not full."""
        return any(self.shape[dim] % tile for dim, tile in self.tile_of.items())

    @property
    def layout(self) -> Layout:
        """The layout from the coordinate in the source to the offset in the packed tensor."""
        space = Space(self.shape)
        places = [space.floordiv(space.dim(dim), self.tile_of.get(dim, 1)) for dim in self.order]
        places += [space.mod(space.dim(dim), tile) for dim, tile in self.tile_of.items()]
        return layout_of(space, [space.row_major(places, self.packed_shape)])

    def text(self, element: str = "f32") -> str:
        """Return the operation, from ``%source`` to ``%packed``, with a padding value where tiles are not full."""
        padding = f" padding_value(%padding : {element})" if self.padded else ""
        order = f" outer_dims_perm = {list(self.outer_dims_perm)}" if self.outer_dims_perm else ""
        return (
            f"linalg.pack %source{padding}{order} inner_dims_pos = {list(self.inner_dims_pos)} "
            f"inner_tiles = {list(self.inner_tiles)} into %packed : "
            f"{_tensor(self.shape, element)} -> {_tensor(self.packed_shape, element)}"
        )

    def __str__(self) -> str:
        return self.text()


def _tensor(shape: Sequence[int], element: str) -> str:
    return f"tensor<{''.join(f'{extent}x' for extent in shape)}{element}>"


def pack(
    shape: Sequence[int],
    inner_dims_pos: Sequence[int],
    inner_tiles: Sequence[int],
    outer_dims_perm: Sequence[int] = (),
) -> Layout:
    """Return the layout of a pack, see `Pack`: from the coordinate in the source to the offset in the packed tensor."""
    return Pack(tuple(shape), tuple(inner_dims_pos), tuple(inner_tiles), tuple(outer_dims_perm)).layout


def read_pack(text: str) -> Pack:
    """Read a ``linalg.pack`` or ``tensor.pack`` operation.

    ValueError gives the position and what was expected there, and tells a result type that is not the packed one.
    """
    check_length(text, "pack")
    reader = Reader(text)
    try:
        found, result, position = _pack(reader)
        if found.packed_shape != result:
            raise ValueError(f"at position {position}: the packed shape is {found.packed_shape}, not {result}")
        return found
    except ValueError as error:
        raise in_text(text, "pack", error) from None


def _pack(reader: Reader) -> tuple[Pack, tuple[int, ...], int]:
    if reader.match(PACK) is None:
        raise reader.error("expected linalg.pack or tensor.pack")
    if reader.match(_VALUE) is None:
        raise reader.error("expected a value such as %source")
    reader.match(_PADDING)
    lists: dict[str, tuple[int, ...]] = {}
    while name := reader.match(_LIST):
        if name[1] in lists:
            raise ValueError(f"at position {name.start()}: {name[1]} is given twice")
        lists[name[1]] = read_integers(reader, "integers")
    if missing := [name for name in ("inner_dims_pos", "inner_tiles") if name not in lists]:
        raise reader.error(f"expected {missing[0]} = [...]")
    if reader.match(_INTO) is not None and reader.match(_VALUE) is None:
        raise reader.error("expected a value such as %packed")
    reader.expect(":")
    shape = _tensor_type(reader)
    if reader.match(_ARROW) is None:
        raise reader.error("expected '->'")
    reader.space()
    position = reader.position
    result = _tensor_type(reader)
    reader.end()
    found = Pack(shape, lists["inner_dims_pos"], lists["inner_tiles"], lists.get("outer_dims_perm", ()))
    return found, result, position


def _tensor_type(reader: Reader) -> tuple[int, ...]:
    if reader.match(_TENSOR) is None:
        raise reader.error("expected tensor<...>")
    shape = read_extents(reader)
    if reader.match(_ELEMENT) is None:
        raise reader.error("expected an extent or an element type")
    reader.expect(">")
    return shape
