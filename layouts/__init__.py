"""Pure integer algebra of memory layouts: where an index lives.

The ground floor of rowhit; it needs nothing but NumPy (and numba where an analysis has to count).  `Layout` sends an
index to an offset, `named` reads a layout by the names of its axes, `AddressMap` sends a byte address to a DRAM bank,
row and column; all three compose.

    shape, stride, table, layout, text     the type and its notation
    floor_form, xor_form, canonical        its two normal forms, and the key by which layouts are equal
    bulk, span, injective                  many offsets at once; where they lie; whether they differ
    algebra, tiling, f2, swizzles          CuTe's operations, bit matrices, swizzles
    notation, address_map, irreducible     named axes; DRAM; the hashes by which addresses are spread over it
    analysis/ synthesis/ space/            what a layout costs; the best swizzle; the legal layouts
    catalog/ interop/ draw/, explain       the layouts of serving stacks; other systems' notations; pictures and words
"""

from layouts.address_fields import FIELDS
from layouts.address_map import AddressMap, Location
from layouts.algebra import (
    coalesce,
    complement,
    composition,
    filter_zeros_and_ones,
    left_inverse,
    recast,
    right_inverse,
    slice_modes,
)
from layouts.injective import is_injective
from layouts.layout import Layout, Table
from layouts.notation import NamedLayout, named
from layouts.stride import E, X
from layouts.swizzles import swizzle
from layouts.text import parse
from layouts.tiling import (
    blocked_product,
    flat_divide,
    logical_divide,
    logical_product,
    raked_product,
    tile_to_shape,
    tiled_divide,
    zipped_divide,
)

__all__ = [
    "FIELDS",
    "AddressMap",
    "E",
    "Layout",
    "Location",
    "NamedLayout",
    "Table",
    "X",
    "blocked_product",
    "coalesce",
    "complement",
    "composition",
    "filter_zeros_and_ones",
    "flat_divide",
    "is_injective",
    "left_inverse",
    "logical_divide",
    "logical_product",
    "named",
    "parse",
    "raked_product",
    "recast",
    "right_inverse",
    "slice_modes",
    "swizzle",
    "tile_to_shape",
    "tiled_divide",
    "zipped_divide",
]
