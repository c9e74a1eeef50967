"""Divides and products: how a layout is cut into tiles, and how tiles are repeated.

They build on `layouts.algebra`: a divide is a composition with a tile and with everything beside it, a product
repeats a layout over the offsets beside it.  Tilers are layouts, integers n for ``n:1``, or tuples of these that go
mode by mode (None keeps a mode whole).  The results are spelt as CuTe spells them; what no layout expresses is
refused.
"""

from __future__ import annotations

from typing import Any

from layouts.algebra import as_tiler, bare_mode, check_nested, coalesce, complement, compose_leaves, composition, join
from layouts.layout import Layout
from layouts.shape import as_int_tuple, shown


def logical_divide(layout: Layout, tiler: Any) -> Layout:
    """Return ((tile), (rest)): mode 0 walks one tile, mode 1 the tiles; with a tuple, so in every mode.

    Where the tile does not divide the layout, the last tiles go on beyond its end, as in CuTe: the size of the result
    is then larger.  ValueError where the tile does not divide a mode evenly, or tile and rest leave gaps.
    """
    if isinstance(tiler, tuple | list):
        if len(tiler) > layout.rank:
            raise ValueError(f"divide of {shown(layout)}: {len(tiler)} tiles for {layout.rank} modes")
        parts = [bare_mode(layout, k) for k in range(layout.rank)]
        divided = [
            logical_divide(part, _unit(tile)) for part, tile in zip(parts, tiler, strict=False) if tile is not None
        ]
        found = iter(divided)
        modes = [next(found) if k < len(tiler) and tiler[k] is not None else part for k, part in enumerate(parts)]
        return join(modes, layout)
    tile = as_tiler(tiler)
    check_nested(tile, f"divide of {shown(layout)}")
    rest = complement(tile, layout.size)
    if rest.size == 0:
        raise ValueError(f"divide of {shown(layout)}: the tile {shown(tile)} overlaps itself")
    whole = coalesce(layout) if layout.size > 1 else layout  # so that beyond its end the last mode goes on
    divided_layout = composition(whole, join([tile, rest]))
    return Layout(divided_layout.shape, divided_layout.stride, layout.offset, layout.stages)


def _unit(tile: Any) -> Any:
    """Return the tile 1:1 as 1:0: in a tuple of tiles CuTe gives the mode of a single element no stride."""
    return Layout(1, 0) if isinstance(tile, Layout) and (tile.shape, tile.stride) == (1, 1) else tile


def zipped_divide(layout: Layout, tiler: Any) -> Layout:
    """Return ((tiles of all modes), (rests of all modes)) of `logical_divide`."""
    divided = logical_divide(layout, tiler)
    if not isinstance(tiler, tuple | list):
        return divided
    tiles, rests = _unzip(divided, tiler)
    return join([join(tiles), join(rests)], layout)


def tiled_divide(layout: Layout, tiler: Any) -> Layout:
    """Return ((tiles of all modes), rest of mode 0, rest of mode 1, ...) of `logical_divide`."""
    divided = logical_divide(layout, tiler)
    if not isinstance(tiler, tuple | list):
        rest = bare_mode(divided, 1)
        return join([bare_mode(divided, 0), *(bare_mode(rest, k) for k in range(rest.rank))], layout)
    tiles, rests = _unzip(divided, tiler)
    return join([join(tiles), *rests], layout)


def flat_divide(layout: Layout, tiler: Any) -> Layout:
    """Return (tile of mode 0, tile of mode 1, ..., rest of mode 0, ...) of `logical_divide`."""
    zipped = zipped_divide(layout, tiler)
    halves = [bare_mode(zipped, 0), bare_mode(zipped, 1)]
    return join([bare_mode(half, k) for half in halves for k in range(half.rank)], layout)


def _unzip(divided: Layout, tiler: tuple[Any, ...] | list[Any]) -> tuple[list[Layout], list[Layout]]:
    tiles: list[Layout] = []
    rests: list[Layout] = []
    for k in range(divided.rank):
        mode = bare_mode(divided, k)
        if k >= len(tiler) or tiler[k] is None:
            rests.append(mode)
        elif isinstance(tiler[k], tuple | list):
            inner_tiles, inner_rests = _unzip(mode, tiler[k])
            tiles.append(join(inner_tiles))
            rests.append(join(inner_rests))
        else:
            tiles.append(bare_mode(mode, 0))
            rests.append(bare_mode(mode, 1))
    return tiles, rests


def logical_product(layout: Layout, tiler: Any) -> Layout:
    """Return (layout, repetitions): `layout` repeated over the offsets it leaves free, in the order of `tiler`.

    The modes of `tiler` are taken one by one, as CuTe defines the product: modes that carry into each other, such as
    ``(2,2):(1,2)`` where three offsets are free, make repetitions that overlap, which `is_injective` tells.
    """
    if isinstance(tiler, tuple | list):
        if len(tiler) > layout.rank:
            raise ValueError(f"product of {shown(layout)}: {len(tiler)} tiles for {layout.rank} modes")
        parts = [bare_mode(layout, k) for k in range(layout.rank)]
        return join(
            [
                logical_product(part, tiler[k]) if k < len(tiler) and tiler[k] is not None else part
                for k, part in enumerate(parts)
            ],
            layout,
        )
    tile = as_tiler(tiler)
    free = complement(layout, layout.size * tile.cosize)
    return join([layout, compose_leaves(free, tile)])


def blocked_product(layout: Layout, tiler: Layout) -> Layout:
    """Return `layout` as blocks laid out by `tiler`: mode k is (mode k of the block, mode k of the tiler)."""
    block, tiles = _padded_product(layout, tiler)
    return join([join([bare_mode(block, k), bare_mode(tiles, k)]) for k in range(block.rank)])


def raked_product(layout: Layout, tiler: Layout) -> Layout:
    """Return `layout` interleaved by `tiler`: mode k is (mode k of the tiler, mode k of the block)."""
    block, tiles = _padded_product(layout, tiler)
    return join([join([bare_mode(tiles, k), bare_mode(block, k)]) for k in range(block.rank)])


def _padded_product(layout: Layout, tiler: Layout) -> tuple[Layout, Layout]:
    rank = max(layout.rank, tiler.rank)
    result = logical_product(_padded(layout, rank), _padded(tiler, rank))
    return bare_mode(result, 0), bare_mode(result, 1)


def _padded(layout: Layout, rank: int) -> Layout:
    modes = [bare_mode(layout, k) for k in range(layout.rank)]
    return join([*modes, *[Layout(1, 0)] * (rank - layout.rank)])


def tile_to_shape(block: Layout, shape: object, order: tuple[int, ...] | None = None) -> Layout:
    """Return `block` repeated to `shape`, one extent per mode; `order` says which mode's tiles come first.

    ``order=(1, 0)`` repeats along mode 1 first.  ValueError where a mode of the block does not divide its extent.
    """
    extents = as_int_tuple(shape, "shape")
    listed = extents if isinstance(extents, tuple) else (extents,)
    if len(listed) != block.rank or any(not isinstance(extent, int) for extent in listed):
        raise ValueError(f"tile_to_shape of {shown(block)}: the shape {shape} has not one extent per mode")
    ranks = tuple(range(block.rank)) if order is None else tuple(order)
    if sorted(ranks) != list(range(block.rank)):
        raise ValueError(f"tile_to_shape of {shown(block)}: the order {order} is no order of {block.rank} modes")
    counts = []
    for k, extent in enumerate(listed):
        tile = bare_mode(block, k).size
        if not isinstance(extent, int) or tile == 0 or extent % tile:
            raise ValueError(f"tile_to_shape of {shown(block)}: mode {k} of {tile} does not divide the extent {extent}")
        counts.append(extent // tile)
    strides, product = [0] * block.rank, 1
    for k in ranks:
        strides[k] = product
        product *= counts[k]
    bare = Layout(block.shape, block.stride)
    span = Layout(tuple(counts), tuple(strides))
    repeated = blocked_product(bare, span)
    modes = [bare_mode(repeated, k) for k in range(block.rank)]
    return join(modes, block)
