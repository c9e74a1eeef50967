"""Pure integer algebra of memory layouts: where an index lives.

The ground floor of rowhit; it imports nothing but NumPy.  `Layout` sends an index to an offset, `named`
reads a layout by the names of its axes, `AddressMap` sends a byte address to a DRAM bank, row and column.
"""

from layouts.address_map import FIELDS, AddressMap, Location
from layouts.algebra import coalesce, composition, is_injective
from layouts.layout import Layout, Table, swizzle
from layouts.notation import NamedLayout, named
from layouts.stride import E, X
from layouts.text import parse

__all__ = [
    "FIELDS",
    "AddressMap",
    "E",
    "Layout",
    "Location",
    "NamedLayout",
    "Table",
    "X",
    "coalesce",
    "composition",
    "is_injective",
    "named",
    "parse",
    "swizzle",
]
