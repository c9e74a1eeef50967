"""The parts of an address map: the fields of a DRAM location, digits of addresses, hashes and turns of fields.

What `layouts.address_map` is made of, and `layouts.irreducible` makes; it says what they mean together.
"""

from typing import NamedTuple

FIELDS = ("stack", "channel", "pseudo_channel", "bank_group", "bank", "row", "column")


class Digit(NamedTuple):
    """field += (address // divisor % modulus) * multiplier."""

    divisor: int
    modulus: int
    field: int
    multiplier: int


class Bit(NamedTuple):
    """One bit of a field, by the field's place in FIELDS."""

    field: int
    bit: int

    def __str__(self) -> str:
        return f"{FIELDS[self.field]}[{self.bit}]"


class Hash(NamedTuple):
    """field[target] ^= bit `source` of the unhashed fields."""

    target: Bit
    source: Bit


class Turn(NamedTuple):
    """field = (field + weight * bit `source` of the unhashed fields) modulo its size."""

    field: int
    weight: int
    source: Bit
