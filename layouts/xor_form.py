"""Layouts that are affine over F2: a value at 0, XORed with one value per set bit of the index.

Integer strides take part where they share no bit, since addition is XOR there; so do stages whose last mode goes on
without end, on the bits that reach them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from layouts.f2 import image
from layouts.floor_form import as_integer, floor_sum, modes_of_key, pick, result_axes
from layouts.stride import Axis, X, along
from layouts.table import Table

if TYPE_CHECKING:
    from layouts.layout import Layout

_Column: TypeAlias = tuple[Any, int]  # a stride, and which bit of its digit
_Affine: TypeAlias = dict["Axis | None", tuple[int, tuple[int, ...]]]  # per axis: value at 0, change by each bit


def affine_bits(layout: Layout) -> tuple[int, tuple[int, ...]] | None:
    """Return (value at 0, change by each bit of the index) of a scalar F2-affine layout, None if it is not one."""
    if layout.size & (layout.size - 1):
        return None
    columns = _index_columns(layout)
    values = None if columns is None else _affine_sums(layout, columns)
    for stage in layout.stages:
        if values is None or isinstance(stage, Table):
            return None
        values = _affine_stage(stage, values)
    return None if values is None else next(iter(values.values()))


def _index_columns(layout: Layout) -> list[_Column] | None:
    """Return the stride of each bit of the index, None where an extent is no power of two."""
    pairs: Iterable[tuple[int, Any]] = layout.leaves()
    if any(extent & (extent - 1) for extent, _ in pairs):
        if layout.has_xor or layout.stage_axes is not None:
            return None
        pairs = modes_of_key((layout.size, floor_sum(pairs)))  # of a power of two: so may be its extents now
        if any(extent & (extent - 1) for extent, _ in pairs):
            return None
    return [(step, k) for extent, step in pairs for k in range(extent.bit_length() - 1)]


def _affine_sums(stage: Layout, columns: Sequence[_Column]) -> _Affine | None:
    """Return what each column adds to each result, None unless addition is XOR there.

    It is where the integer strides and the offset are non-negative and share no bit.
    """
    sums: _Affine = {}
    for axis in result_axes(stage):
        offset = as_integer(pick(stage.offset, axis))
        taken = offset
        if offset < 0:
            return None
        bits = []
        for step, shift in columns:
            part = step if axis is None else along(step, axis)
            if isinstance(part, X):
                bits.append(part.value << shift)
                continue
            value = part << shift
            if value < 0 or value & taken:
                return None
            taken |= value
            bits.append(value)
        sums[axis] = offset, tuple(bits)
    return sums


def _affine_stage(stage: Layout, values: _Affine) -> _Affine | None:
    """Send values through a stage that is F2-affine on the bits they have; None where it is not."""
    scalar = None in values
    columns: list[_Column] = []
    zero, count = 0, len(next(iter(values.values()))[1])
    joint = [0] * count  # the values of all axes side by side, as the columns are
    for place, modes in enumerate(stage.stage_modes(None if scalar else len(values))):
        offset, bits = values.get(None if scalar else place, (0, (0,) * count))
        reach = offset
        for bit in bits:
            reach |= bit
        start = len(columns)
        found = _open_columns(modes, reach.bit_length())
        if found is None:
            return None
        columns += found
        zero |= offset << start
        joint = [before | bit << start for before, bit in zip(joint, bits, strict=True)]
    sums = _affine_sums(stage, columns)
    if sums is None:
        return None
    return {
        axis: (at_zero ^ image(bits, zero), tuple(image(bits, bit) for bit in joint))
        for axis, (at_zero, bits) in sums.items()
    }


def _open_columns(modes: Sequence[tuple[int, Any]], bits: int) -> list[_Column] | None:
    """Return the stride of each of `bits` input bits of a stage whose last mode goes on without end."""
    columns: list[_Column] = []
    for place, (extent, step) in enumerate(modes):
        last = place == len(modes) - 1
        if extent & (extent - 1) and not last:
            return None if len(columns) < bits else columns[:bits]
        width = bits - len(columns) if last else extent.bit_length() - 1
        columns += [(step, k) for k in range(width)]
    return columns[:bits]
