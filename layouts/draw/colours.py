"""What the colour of a cell says: the bank, the burst, or a DRAM field of the byte behind an offset."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from layouts.address_fields import FIELDS
from layouts.address_map import AddressMap
from layouts.bulk import IntArray
from layouts.notation import nearest_first
from layouts.shape import as_int

REPEAT = 12  # colours of a quantity without a known number of values; neighbours differ


@dataclass(frozen=True)
class Colouring:
    """A whole number for every offset, shown as a colour.

    name: what the number is.  of: offsets (in elements) to numbers, array to array.  count: how many numbers there
    are, None where they go on without end and colours repeat.
    """

    name: str
    of: Callable[[IntArray], IntArray]
    count: int | None = None

    def colour(self, number: int) -> str:
        """Return the colour of a number, light enough for dark text."""
        return wheel(number, self.count if self.count is not None else REPEAT)


def by_bank(element_bytes: int, bank_bytes: int = 4, banks: int = 32) -> Colouring:
    """Return the colouring by bank of a banked memory; the default is the shared memory of a GPU."""
    element, width, count = _sizes(element_bytes=element_bytes, bank_bytes=bank_bytes, banks=banks)
    return Colouring("bank", lambda offsets: offsets * element // width % count, count)


def by_burst(element_bytes: int, burst_bytes: int = 32) -> Colouring:
    """Return the colouring by burst: the aligned block of `burst_bytes` that holds the first byte of an element."""
    element, width = _sizes(element_bytes=element_bytes, burst_bytes=burst_bytes)
    return Colouring(f"burst of {width} bytes", lambda offsets: offsets * element // width)


def by_field(address_map: AddressMap, fields: str | Sequence[str], element_bytes: int, base: int = 0) -> Colouring:
    """Return the colouring by a field of DRAM, or by several together, of the tensor whose byte 0 is at `base`.

    ValueError for an unknown field; the colouring raises it for addresses beyond the map.
    """
    (element,) = _sizes(element_bytes=element_bytes)
    names = (fields,) if isinstance(fields, str) else tuple(fields)
    for name in names:
        if name not in FIELDS:
            raise ValueError(f"unknown field {name!r}, allowed are {nearest_first(name, FIELDS)}")
    sizes = [address_map.sizes[FIELDS.index(name)] for name in names]

    def number(offsets: IntArray) -> IntArray:
        location = address_map.decode(offsets * element + base)
        total = np.zeros(np.shape(offsets), dtype=np.int64)
        for name, size in zip(names, sizes, strict=True):
            total = total * size + getattr(location, name)
        return total

    count = int(np.prod(sizes, dtype=object))
    return Colouring(" ".join(names), number, count if count <= 64 else None)


def by_offset(low: int, high: int) -> Colouring:
    """Return the plain colouring: eight steps from the lowest offset to the highest."""
    span = max(1, high - low)
    return Colouring("", lambda offsets: (offsets - low) * 7 // span, 8)


def wheel(number: int, count: int) -> str:
    """Return colour `number` of `count` around the circle of hues; many hues come in alternating shades."""
    place = number % max(count, 1)
    lightness = 0.80 if count <= REPEAT else (0.86, 0.72)[place % 2]
    return _hex(place / max(count, 1), lightness, 0.62)


def shade(step: float) -> str:
    """Return a blue from nearly white (0) to light (1)."""
    return _hex(0.585, 0.96 - 0.22 * step, 0.6)


def heat(share: float) -> str:
    """Return the colour of a share from 0 (pale yellow) to 1 (dark red)."""
    return _hex(0.15 - 0.15 * share, 0.90 - 0.52 * share, 0.85 - 0.15 * share)


def _hex(hue: float, lightness: float, saturation: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, saturation))


def _sizes(**given: int) -> list[int]:
    for name, value in given.items():
        if as_int(value, name) < 1:
            raise ValueError(f"{name} is {value}, at least 1 is needed")
    return list(given.values())
