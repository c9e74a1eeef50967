"""Shared-memory tiles as Hopper's and Blackwell's matrix units read them: swizzled atoms, repeated over a tile.

Second link of the data's path: (row, col) of a tile -> element offset in shared memory.  Rows are M or N, columns K;
an atom is 8 rows (K-major) or 8 columns (MN-major) of 16, 32, 64 or 128 bytes with the swizzle of the same name, here
on elements of any power-of-two width.  The tile must start where its swizzle repeats (1024 bytes for 128B).

Not modelled: the descriptors that tell the unit these layouts, and bank conflicts (`layouts.analysis.conflicts`).

Version read: CUTLASS 7107b055.
"""

from __future__ import annotations

from layouts.catalog.sizes import Digits, by_digits, ceil_div, check_choice, check_sizes
from layouts.layout import Layout
from layouts.notation import NamedLayout
from layouts.shape import as_int
from layouts.swizzles import swizzle

SWIZZLES = {"INTER": 0, "32B": 1, "64B": 2, "128B": 3}  # name -> B of Sw<B,4,3> on bytes
WIDTHS = (4, 8, 16, 32, 64)  # bits of an element
_MAJORS = ("K", "MN")


def smem_atom(name: str = "128B", major: str = "K", bits: int = 16) -> NamedLayout:
    """Return the canonical atom: in bits ``Sw<B,4,3> o (8, 128 * 2^B):(128 * 2^B, 1)``, MN-major its transpose.

    `name` is INTER, 32B, 64B or 128B (B = 0..3), `major` K or MN, `bits` the element width.  Source: cutlass
    `include/cute/atom/mma_traits_sm90_gmma.hpp`, 7107b055.
    """
    long = _width("smem_atom", name, major, bits)
    rows, cols = (8, long) if major == "K" else (long, 8)
    return smem_tile(rows, cols, name, major, bits)


def smem_tile(
    rows: int, cols: int, name: str = "128B", major: str = "K", bits: int = 16, order: str = "row"
) -> NamedLayout:
    """Return a tile of rows x cols: the atom of `smem_atom` repeated, along `order` ("row" or "col") first.

    This is CUTLASS's ``tile_to_shape(atom, (rows, cols))``, `order` "row" being its default ``Step<_1,_2>`` and "col"
    ``Step<_2,_1>``.  Rows or columns that the atom does not divide are padded in the strides, see `smem_elements`.
    Source: cutlass `include/cute/atom/mma_traits_sm90_gmma.hpp`, 7107b055.
    """
    where = "smem_tile"
    long = _width(where, name, major, bits)
    check_sizes(where, rows=rows, cols=cols)
    check_choice(where, "order", order, ("row", "col"))
    tall, wide = (8, long) if major == "K" else (long, 8)
    inside = (long, 1) if major == "K" else (1, long)
    down, across = ceil_div(rows, tall), ceil_div(cols, wide)
    atom = 8 * long
    steps = (atom, atom * down) if order == "row" else (atom * across, atom)
    row: Digits = [(tall, inside[0]), (down, steps[0])]
    col: Digits = [(wide, inside[1]), (across, steps[1])]
    plain = by_digits(row=(rows, row), col=(cols, col))
    if SWIZZLES[name] == 0:
        return plain
    return NamedLayout(plain.axes, plain.layout.then(smem_swizzle(name, bits)))


def smem_swizzle(name: str, bits: int) -> Layout:
    """Return the swizzle of a name on elements of `bits`: ``Sw<B,4,3>`` on bytes, its base moved to the element."""
    _width("smem_swizzle", name, "K", bits)
    return swizzle(SWIZZLES[name], 7 - (bits.bit_length() - 1), 3)


def smem_elements(rows: int, cols: int, name: str = "128B", major: str = "K", bits: int = 16) -> int:
    """Return the elements a tile takes in shared memory: rows and columns rounded up to whole atoms."""
    long = _width("smem_elements", name, major, bits)
    check_sizes("smem_elements", rows=rows, cols=cols)
    tall, wide = (8, long) if major == "K" else (long, 8)
    return ceil_div(rows, tall) * ceil_div(cols, wide) * 8 * long


def _width(where: str, name: str, major: str, bits: int) -> int:
    """Check the kind of an atom and return the elements of its contiguous side."""
    check_choice(where, "name", name, tuple(SWIZZLES))
    check_choice(where, "major", major, _MAJORS)
    check_choice(where, "bits", as_int(bits, f"{where}: bits"), WIDTHS)
    return (128 << SWIZZLES[name]) // bits
