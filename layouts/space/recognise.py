"""How a layout of unknown spelling is taken apart into a stage and the digits below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layouts.bulk import IntArray
from layouts.layout import Layout, Stage, modes_of_key
from layouts.notation import NamedLayout
from layouts.space.variants import MAX_LOOKED_AT, Variant

Modes = dict[str, list[tuple[int, int]]]  # (extent, stride) of the digits of each axis, lowest first


def modes_under(layout: NamedLayout, variant: Variant) -> Modes | None:
    """Return the compact digits on which `variant` gives `layout`, None if there are none."""
    plain = layout.layout
    last = plain.stages[-1:]
    if len(plain.stages) == (variant.stage is not None) and str(last[0] if last else None) == str(variant.stage):
        plain = Layout(plain.shape, plain.stride, plain.offset)
        if plain.is_affine:
            parts = {axis: plain.mode(k) for k, axis in enumerate(layout.axes)}
            return {axis: list(modes_of_key(mode.key)) for axis, mode in parts.items() if mode.size > 1}
    if layout.layout.axes is not None:
        return None
    sizes = {axis: layout.size(axis) for axis in layout.axes}
    find = _from_values if variant.count <= MAX_LOOKED_AT else _from_bits
    modes = find(layout, variant, sizes)
    if modes is None or layout_of({axis: modes.get(axis, []) for axis in layout.axes}, variant.stage) != layout.layout:
        return None
    return modes


def _from_values(layout: NamedLayout, variant: Variant, sizes: Mapping[str, int]) -> Modes | None:
    """Return the digits of every axis by its offsets with the other coordinates at 0."""
    modes: Modes = {}
    for axis, size in sizes.items():
        points = [np.arange(size) if other == axis else np.zeros(1, dtype=np.int64) for other in sizes]
        offsets = variant.undo(layout.layout.coordinate_offsets(*points))
        digits = None if offsets is None else _digits_of(np.array(offsets))
        if digits is None:
            return None
        if size > 1:
            modes[axis] = digits
    return modes


def _from_bits(layout: NamedLayout, variant: Variant, sizes: Mapping[str, int]) -> Modes | None:
    """Return the digits of a bitwise layout by what its bits change."""
    if not layout.layout.is_f2:
        return None
    zero = layout.layout(0)
    offsets = variant.undo([zero, *(zero ^ bit for bit in layout.layout.bits)])
    if offsets is None or offsets[0] != 0:
        return None
    modes: Modes = {}
    steps = iter(offsets[1:])
    for axis, size in sizes.items():
        bits = [(2, next(steps)) for _ in range(size.bit_length() - 1)]
        if bits:
            extents, strides = zip(*bits, strict=True)
            modes[axis] = list(modes_of_key(Layout(extents, strides).key))
    return modes


def _digits_of(offsets: IntArray) -> list[tuple[int, int]] | None:
    """Return (extent, stride) of the digits whose sums are `offsets`, longest digits first; None if there are none."""
    size, product = len(offsets), 1
    digits: list[tuple[int, int]] = []
    while product < size:
        steps = offsets[::product]
        uneven = np.flatnonzero(steps != steps[1] * np.arange(len(steps)))
        extent = int(uneven[0]) if len(uneven) else size // product
        if extent < 2 or size % (product * extent):
            return None
        digits.append((extent, int(steps[1])))
        product *= extent
    return digits


def layout_of(modes: Mapping[str, Sequence[tuple[int, int]]], stage: Stage | None) -> Layout:
    """Return the layout of the digits of each axis, one mode per axis, with a stage or none behind."""
    shape: list[Any] = []
    stride: list[Any] = []
    for parts in modes.values():
        extents, strides = zip(*parts, strict=True) if parts else ((1,), (0,))
        shape.append(extents if len(parts) > 1 else extents[0])
        stride.append(strides if len(parts) > 1 else strides[0])
    return Layout(tuple(shape), tuple(stride), stages=() if stage is None else (stage,))
