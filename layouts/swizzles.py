"""CuTe's swizzle as a stage of a layout: some bits of an offset XORed into others."""

from __future__ import annotations

from layouts.layout import Layout, flat_layout
from layouts.shape import as_int
from layouts.swizzle_text import swizzle_modes


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
    return flat_layout(swizzle_modes(bits, base, shift))
