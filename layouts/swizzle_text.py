"""CuTe's swizzle as modes of a stage, made and recognised again for its text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layouts.shape import leaves
from layouts.stride import X, stride_leaves

if TYPE_CHECKING:
    from layouts.layout import Layout


def swizzle_modes(bits: int, base: int, shift: int) -> list[tuple[int, Any]]:
    """Return the (extent, stride) modes of ``Swizzle<bits, base, shift>``, the last one to go on without end."""
    low, high = base, base + abs(shift)
    source, target = (high, low) if shift > 0 else (low, high)
    modes: list[tuple[int, Any]] = []
    for start, width in ((0, low), (low, bits), (low + bits, high - low - bits), (high, bits)):
        step: Any = X((1 << start) | (1 << target)) if start == source else 1 << start
        if width:
            modes.append((1 << width, step))
    return [*modes, (1, 1 << (high + bits))]


def swizzle_of(layout: Layout) -> tuple[int, int, int] | None:
    """Return (bits, base, shift) of a layout made of just the modes of that swizzle, None for any other."""
    if layout.offset != 0 or not isinstance(layout.shape, tuple) or layout.rank != len(leaves(layout.shape)):
        return None
    modes = list(zip(leaves(layout.shape), stride_leaves(layout.stride), strict=True))
    place = 0
    for extent, step in modes:
        if isinstance(step, X) and step.value ^ (1 << place):
            target = (step.value ^ (1 << place)).bit_length() - 1
            found = extent.bit_length() - 1, min(target, place), place - target
            return found if 0 < found[0] <= abs(found[2]) and modes == swizzle_modes(*found) else None
        place += extent.bit_length() - 1
    return None
