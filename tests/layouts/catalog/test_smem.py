"""Shared-memory tiles against the swizzle done on byte addresses, and CUTLASS's answers."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from layouts.catalog import smem
from layouts.layout import Layout
from layouts.text import parse

DATA = Path(os.environ.get("ROWHIT_DATA") or Path(__file__).parents[3] / "../shared/data") / "layouts"
NAMES = {0: "INTER", 1: "32B", 2: "64B", 3: "128B"}
WIDTHS = [4, 8, 16, 32, 64]


def grid(layout):
    row, col = np.indices([layout.size("row"), layout.size("col")], sparse=True)
    return layout.offsets(row=row, col=col)


def expected(rows, cols, b, major, bits, order):
    """Count the atom's bits, swizzle its byte addresses, repeat it, all in bits and bytes."""
    long = (128 << b) // bits
    mn, k = np.indices((rows, cols), sparse=True)
    short, run = (mn, k) if major == "K" else (k, mn)
    down = -(-rows // (8 if major == "K" else long))
    across = -(-cols // (long if major == "K" else 8))
    tile_row, tile_col = (mn // 8, k // long) if major == "K" else (mn // long, k // 8)
    tile = tile_col * down + tile_row if order == "row" else tile_row * across + tile_col
    bit = ((tile * 8 + short % 8) * long + run % long) * bits
    byte, rest = bit // 8, bit % 8
    byte = byte ^ (byte >> 7 & (1 << b) - 1) << 4
    return (byte * 8 + rest) // bits


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("b", NAMES)
@pytest.mark.parametrize("major", ["K", "MN"])
def test_an_atom_is_8_lines_of_the_swizzle_width(b, major, bits):
    atom = smem.smem_atom(NAMES[b], major, bits)
    long = (128 << b) // bits
    assert atom.layout.shape == ((8, long) if major == "K" else (long, 8))
    offsets = grid(atom)
    assert np.array_equal(offsets, expected(*offsets.shape, b, major, bits, "row"))
    assert np.array_equal(np.sort(offsets.ravel()), np.arange(8 * long))


@pytest.mark.parametrize("order", ["row", "col"])
@pytest.mark.parametrize("major", ["K", "MN"])
@pytest.mark.parametrize("b", NAMES)
@pytest.mark.parametrize(("rows", "cols", "bits"), [(64, 64, 16), (128, 256, 8), (24, 96, 32), (13, 70, 16), (3, 5, 4)])
def test_a_tile_repeats_the_atom_and_pads_what_it_does_not_divide(rows, cols, bits, b, major, order):
    tile = smem.smem_tile(rows, cols, NAMES[b], major, bits, order)
    offsets = grid(tile)
    assert offsets.shape == (rows, cols)
    assert np.array_equal(offsets, expected(rows, cols, b, major, bits, order))
    assert len(np.unique(offsets)) == rows * cols
    size = smem.smem_elements(rows, cols, NAMES[b], major, bits)
    assert offsets.max() < size
    assert size % (8 * (128 << b) // bits) == 0
    assert tile.offset(row=rows - 1, col=cols - 1) == offsets[-1, -1]


def test_the_half_precision_tile_of_64_by_64_is_cutes_and_conflict_free_by_columns():
    tile = smem.smem_tile(64, 64)
    assert tile.layout == parse("S<3,3,3> o 0 o (64,64):(64,1)")
    assert tile.layout == Layout((64, 64), (64, 1)).then(smem.smem_swizzle("128B", 16))
    chunks = grid(tile)[:8, 0] * 2 // 16 % 8  # the 16-byte chunk of a 128-byte line, in 8 rows of one column
    assert sorted(chunks.tolist()) == list(range(8))


BAD = [
    (lambda: smem.smem_atom("16B"), "smem_atom: name is '16B', allowed are INTER, 32B, 64B, 128B"),
    (lambda: smem.smem_atom("32B", "M"), "smem_atom: major is 'M', allowed are K, MN"),
    (lambda: smem.smem_atom("32B", "K", 6), "smem_atom: bits is 6, allowed are 4, 8, 16, 32, 64"),
    (lambda: smem.smem_tile(0, 64), "smem_tile: rows is 0, at least 1 is needed"),
    (lambda: smem.smem_tile(64, 64, order="k"), "smem_tile: order is 'k', allowed are row, col"),
    (lambda: smem.smem_elements(8, -1), "smem_elements: cols is -1, at least 1 is needed"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_an_unknown_atom_or_size_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=r"^[^\n]{1,200}$") as error:
        make()
    assert str(error.value) == message


@pytest.mark.skipif(not DATA.exists(), reason="the conformance cases are not here")
def test_every_tiled_atom_of_cutlass_is_the_tile_of_one_of_the_two_orders():
    cases = [c for c in json.loads((DATA / "named_layouts.json").read_text()) if c["op"] == "smem_atom_tiled"]
    assert len(cases) == 80
    seen = set()
    for case in cases:
        b, base, shift = case["swizzle"]
        rows, cols = case["shape"]
        given_layout = parse(case["layout_text"])
        tiles = {o: smem.smem_tile(rows, cols, NAMES[b], case["major"], case["elem_bits"], o) for o in ("row", "col")}
        orders = {order for order, tile in tiles.items() if tile.layout == given_layout}
        assert orders, case["id"]
        seen |= orders
        tile = tiles[orders.pop()]
        points = np.array(case["points"])
        assert tile.offsets(row=points[:, 0], col=points[:, 1]).tolist() == case["offsets"], case["id"]
        assert shift == 3, case["id"]
        assert (8 << base) == 1 << 10 - case["elem_bits"].bit_length() + 1, case["id"]  # 16 bytes of elements
    assert seen == {"row", "col"}
