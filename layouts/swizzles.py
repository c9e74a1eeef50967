"""CuTe's swizzle as a stage of a layout: some bits of an offset XORed into others."""

from __future__ import annotations

from typing import Any

from layouts.layout import Layout, flat_layout
from layouts.shape import as_int
from layouts.stride import X


def swizzle(bits: int, base: int, shift: int) -> Layout:
    """Return CuTe's ``Swizzle<bits, base, shift>`` as a stage: bits base+shift.. are XORed into bits base...

    A negative shift XORs the lower bits into the higher ones.  ValueError unless 0 <= bits <= abs(shift) (or bits
    is 0), 0 <= base, and all within 62 bits.
    """
    for name, number in (("bits", bits), ("base", base), ("shift", shift)):
        as_int(number, f"swizzle {name}")
    if bits < 0 or base < 0 or (bits > abs(shift)) or base + bits + abs(shift) > 62:
        raise ValueError(
            f"swizzle S<{bits},{base},{shift}>: allowed are 0 <= bits <= abs(shift), base >= 0, 62 bits in all"
        )
    if bits == 0:
        return Layout((1, 1), (0, 1))
    low, high = base, base + abs(shift)
    source, target = (high, low) if shift > 0 else (low, high)
    modes: list[tuple[int, Any]] = []
    for start, width in ((0, low), (low, bits), (low + bits, high - low - bits), (high, bits), (high + bits, 0)):
        step: Any = X((1 << start) | (1 << target)) if start == source and width == bits else 1 << start
        if width or start == high + bits:
            modes.append((1 << width, step))
    return flat_layout(modes)
