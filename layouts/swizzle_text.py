"""How a stage of a layout is recognised as a CuTe swizzle, for its text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layouts.stride import X, stride_leaves

if TYPE_CHECKING:
    from layouts.layout import Layout


def swizzle_of(layout: Layout) -> tuple[int, int, int] | None:
    """Return (bits, base, shift) of a layout that `layouts.swizzles.swizzle` could have made, None for any other."""
    if layout.offset != 0 or layout.stage_axes is not None or not layout.has_xor:
        return None
    place = 0
    found: tuple[int, int, int] | None = None
    for extent, step in zip(_flat(layout.shape), stride_leaves(layout.stride), strict=True):
        width = extent.bit_length() - 1
        if extent != 1 << width:
            return None
        if isinstance(step, X):
            other = step.value ^ (1 << place)
            if found is not None or (step.value < 1 << place and not step.value >> place & 1):
                return None
            if other <= 0 or other & (other - 1):
                return None
            target = other.bit_length() - 1
            found = (width, min(target, place), place - target)
        elif step != 1 << place:
            return None
        place += width
    if found is None or found[0] > abs(found[2]) or found[0] == 0:
        return None
    return found if place >= found[1] + found[0] + abs(found[2]) else None


def _flat(shape: object) -> tuple[int, ...]:
    if isinstance(shape, tuple):
        return tuple(leaf for item in shape for leaf in _flat(item))
    return (int(shape),)  # type: ignore[call-overload]
