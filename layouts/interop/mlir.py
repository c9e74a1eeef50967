"""MLIR: ``affine_map<(d0, d1) -> (...)>``, ``memref<4x16xf32, strided<[32, 1], offset: 3>>``, packs and views.

A memref type read here is a layout from the coordinate to the element offset, and so is a pack of linalg.  A bare
map over a shape keeps its results apart, as the axes 0, 1, ...  The types and their readers are in
`layouts.interop.mlir_types`, packs in `layouts.interop.mlir_pack`, which views of memrefs the verifier accepts in
`layouts.interop.mlir_views`; their names can be had from here.

Not modelled: what is known at run time only (``?``, symbols).
"""

from __future__ import annotations

from collections.abc import Sequence

from layouts.interop.affine import check_length, in_text
from layouts.interop.affine_chain import affine_of
from layouts.interop.mlir_pack import PACK, Pack, pack, read_pack
from layouts.interop.mlir_types import (
    ELEMENT,
    WORD,
    AffineMap,
    MemRef,
    end,
    map_text,
    read_map,
    read_map_type,
    read_memref,
    read_memref_type,
    read_strided,
)
from layouts.interop.mlir_views import Verdict, collapse_shape, expand_shape, subview, transpose, verify
from layouts.layout import Layout
from layouts.text import Reader

__all__ = [
    "AffineMap",
    "MemRef",
    "Pack",
    "Verdict",
    "collapse_shape",
    "expand_shape",
    "normalized_shape",
    "pack",
    "read",
    "read_map",
    "read_memref",
    "read_pack",
    "subview",
    "transpose",
    "verify",
    "write",
    "write_map",
]


def read(text: str, shape: Sequence[int] | None = None) -> Layout:
    """Read a memref type, a pack, or, over a given `shape`, an affine map or a strided attribute.

    ValueError gives the position and what was expected there.
    """
    check_length(text, "MLIR text")
    if PACK.match(text.lstrip()):
        if shape is not None and tuple(shape) != read_pack(text).shape:
            raise ValueError(f"the shape {tuple(shape)} is not that of the pack, {read_pack(text).shape}")
        return read_pack(text).layout
    reader = Reader(text)
    try:
        return _read(reader, None if shape is None else tuple(shape))
    except ValueError as error:
        raise in_text(text, "MLIR text", error) from None


def _read(reader: Reader, shape: tuple[int, ...] | None) -> Layout:
    reader.space()
    found = WORD.match(reader.text, reader.position)
    word = found[0] if found else ""
    if word == "memref":
        memref = end(reader, read_memref_type(reader))
        if shape not in (None, memref.shape):
            raise ValueError(f"the shape {shape} is not that of the memref, {memref.shape}")
        return memref.layout
    if word not in ("affine_map", "strided"):
        raise reader.error("expected memref, affine_map, strided, linalg.pack or tensor.pack")
    if shape is None:
        raise ValueError(f"{word} alone has no shape: give one")
    if word == "affine_map":
        return end(reader, read_map_type(reader)).layout(shape)
    strides, offset = read_strided(reader)
    return MemRef(shape, strides=strides, offset=end(reader, offset)).layout


def normalized_shape(text: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the physical shape of a memref of `shape` with the affine map `text`, see `AffineMap`."""
    return read_map(text).normalized_shape(shape)


def write(layout: Layout, element: str = "f32") -> str:
    """Return the memref type of a layout: with ``strided<>`` where its strides are plain, else with a map.

    Reading it back gives an equal layout.  ValueError names an XOR stride or a table, and refuses several results.
    """
    if layout.axes is not None:
        axes = ", ".join(map(str, layout.axes))[:80]
        raise ValueError(f"layout with the axes {axes}: a memref has one offset, see write_map")
    if ELEMENT.fullmatch(element) is None:
        raise ValueError(f"element type {element[:40]!r}: a type such as f32 is needed")
    space, (result,) = affine_of(layout)
    if space.quotients.keys() & result.as_dict.keys():
        names = tuple(f"d{k}" for k in range(layout.rank))
        extents = "".join(f"{extent}x" for extent in space.extents)
        return f"memref<{extents}{element}, {map_text(space, [result], names)}>"
    strides = tuple(result.as_dict.get(k, _unit_stride(layout, k)) for k in range(layout.rank))
    return str(MemRef(space.extents, element, strides, result.constant))


def write_map(layout: Layout) -> str:
    """Return the affine map of a layout, one result per axis 0, 1, ...; ValueError names an XOR stride or a table."""
    space, results = affine_of(layout)
    return map_text(space, results, tuple(f"d{k}" for k in range(layout.rank)))


def _unit_stride(layout: Layout, k: int) -> int:
    """Return the stride to print for a dimension that adds nothing: the one written for it, else 0."""
    strides = layout.stride if isinstance(layout.stride, tuple) else (layout.stride,)
    found = strides[k] if layout.mode(k).size == 1 and not layout.stages else 0
    return found if isinstance(found, int) else 0
