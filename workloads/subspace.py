"""A part of main memory as a line of bytes: the addresses at which chosen fields have chosen values.

Between a placement and the address map. Where a map deals its stacks every 4 KiB, the bytes of stack 1 are the second
4 KiB of every round; counted one after another they are a line, and the way from that line to addresses is a strided
layout. `Subspace.fit` finds room on the line where that layout begins anew, `Subspace.stage` is what a tensor's layout
is composed with.
Not modelled: fields that are hashed, or whose digits lie apart: they have no such layout and are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from layouts import AddressMap, Layout
from layouts.address_fields import FIELDS
from layouts.notation import nearest_first

ALIGNMENT_BYTES = 4096  # assumed: what an allocator of device memory gives at least


class FieldDigit(NamedTuple):
    """The one digit of an address that is a field of the map: `address // divisor % size`."""

    name: str
    divisor: int
    size: int


def field_digit(address_map: AddressMap, name: str) -> FieldDigit:
    """Return the digit of a field. Raises ValueError for a field that is unknown, hashed, or in several digits."""
    if name not in FIELDS:
        raise ValueError(f"unknown field {name!r}; known: {nearest_first(name, FIELDS)}")
    place = FIELDS.index(name)
    if hashes := [row for row in address_map.hashes if row.target.field == place]:
        raise ValueError(
            f"{name} is hashed ({hashes[0].target} ^= {hashes[0].source}), so that its addresses are no strided layout"
        )
    if any(turn.field == place for turn in address_map.turns):
        raise ValueError(f"{name} is turned (+=), so that its addresses are no strided layout")
    digits = [digit for digit in address_map.digits if digit.field == place]
    if len(digits) > 1:
        raise ValueError(f"{name} lies in {len(digits)} digits of the address; allowed: one")
    return FieldDigit(name, digits[0].divisor if digits else address_map.capacity_bytes, address_map.sizes[place])


@dataclass(frozen=True)
class Subspace:
    """A line of bytes and where they lie.

    `first`: the address of byte 0. `modes`: (extent, address stride) of the digits of a place on the line, the fastest
    first; their product is the capacity. Addresses rise along the line, at least from one step of the highest digit to
    the next.
    """

    first: int
    modes: tuple[tuple[int, int], ...]

    @property
    def capacity_bytes(self) -> int:
        return prod(extent for extent, _ in self.modes)

    def address(self, place: int) -> int:
        """Return the address of a byte of the line, 0 <= place < capacity."""
        found = self.first
        for extent, stride in self.modes:
            found += place % extent * stride
            place //= extent
        return found

    def from_address(self, address: int) -> int:
        """Return the first place on the line whose address is not below `address`; the capacity if there is none."""
        low, high = 0, self.capacity_bytes
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.address(middle) < address else (low, middle)
        return low

    def fit(self, place: int, size_bytes: int) -> int:
        """Return the first place from `place` on at which `stage` begins anew for so many bytes.

        There all digits that the bytes change are 0, except the highest of them, which has room left. The result may
        lie beyond the capacity, or the bytes reach beyond it.
        """
        below, reach = ALIGNMENT_BYTES, 1
        for extent, _ in self.modes:
            reach *= extent
            if size_bytes <= reach:
                break
            below = reach
        start = -(-place // below) * below
        goes_on = reach == self.capacity_bytes or start % reach + size_bytes <= reach
        return start if goes_on else -(-start // reach) * reach

    def stage(self, element_bytes: int) -> Layout:
        """Return the layout from elements of the line to elements of address space, both from 0."""
        *inner, (_, outer_stride) = self.modes
        shape = tuple(extent if stride != 1 else extent // element_bytes for extent, stride in inner)
        strides = tuple(max(1, stride // element_bytes) for _, stride in inner)
        outer = max(1, outer_stride // element_bytes)
        return Layout((*shape, 1), (*strides, outer))


def restrict(address_map: AddressMap, wanted: Mapping[str, Sequence[int]]) -> Subspace:
    """Return the part of memory in which each of the fields has one of the wanted values.

    Values rise in equal steps: (1,), (0, 1, 2), (1, 3). Raises ValueError naming the field and its values otherwise,
    or for a field that has no strided layout.
    """
    chosen = []
    for name, values in wanted.items():
        digit = field_digit(address_map, name)
        step = values[1] - values[0] if len(values) > 1 else 1
        in_range = bool(values) and values[0] >= 0 and values[-1] < digit.size
        if not in_range or step < 1 or list(values) != list(range(values[0], values[-1] + 1, step)):
            allowed = f"from 0 to {digit.size - 1}, rising in equal steps"
            raise ValueError(f"{name} is {tuple(values)}; allowed: values {allowed}")
        if len(values) < digit.size:
            chosen.append((digit, values[0], step, len(values)))
    modes: list[tuple[int, int]] = []
    first, low = 0, 1
    for digit, least, step, count in sorted(chosen, key=lambda part: part[0].divisor):
        modes += [(digit.divisor // low, low), (count, digit.divisor * step)]
        first += least * digit.divisor
        low = digit.divisor * digit.size
    return Subspace(first, (*modes, (address_map.capacity_bytes // low, low)))
