from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.assembler import block
from hwmodel.matrix import STORED_BITS, reads
from hwmodel.program import DTYPES
from hwmodel.spec import load_machine
from hwmodel.sram_access import Scratchpad
from hwmodel.vector import OPERATIONS, Work
from kernels_ref import quant
from layouts.analysis import Banks

PAD = Scratchpad(Banks(32, 4), 1)
rows_and_columns = st.tuples(st.integers(1, 5), st.integers(1, 70))


@given(rows_and_columns, st.sampled_from(["expand_int4", "expand_fp4", "expand_blocks"]), st.sampled_from([16, 32]))
def test_an_expansion_touches_its_packed_elements_and_one_scale_per_block(
    size: tuple[int, int], name: str, per_scale: int
) -> None:
    rows, columns = size
    touched = OPERATIONS[name].touches([], rows, columns, per_scale)
    width = columns if name == "expand_blocks" else (columns + 1) // 2
    assert [(t.operand, t.rows, t.columns, t.reads, t.writes) for t in touched] == [
        (0, rows, columns, False, True),
        (1, rows, width, True, False),
        (2, rows, -(-columns // per_scale), True, False),
    ]


@pytest.mark.parametrize(("attached", "expanded"), [("attach_blocks", "expand_blocks"), ("attach_fp4", "expand_fp4")])
def test_what_the_matrix_unit_does_itself_costs_reading_scales_and_has_the_values_of_expanding(
    attached: str, expanded: str
) -> None:
    assert OPERATIONS[attached].work([], 4, 64, 32) == Work()
    assert [touch.operand for touch in OPERATIONS[attached].touches([], 4, 64, 32)] == [2]
    assert OPERATIONS[attached].values is OPERATIONS[expanded].values


@given(st.integers(1, 4), st.integers(1, 300), st.integers(0, 127), st.integers(0, 2**31))
def test_promotion_scales_each_column_by_its_block_and_adds_from_the_second_block_of_k_on(
    rows: int, columns: int, offset: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    product, before = rng.integers(-8, 8, (2, rows, columns)).astype(np.float32)
    of_a = 2.0 ** rng.integers(-3, 3, (rows, 1)).astype(np.float32)
    of_b = 2.0 ** rng.integers(-3, 3, ((offset + columns - 1) // 128 + 1, 1)).astype(np.float32)
    expected = [
        [product[i, j] * of_a[i, 0] * of_b[(offset + j) // 128, 0] for j in range(columns)] for i in range(rows)
    ]
    for first, added in ((1, 0 * before), (0, before), (-3, before)):
        out = product.copy()
        OPERATIONS["promote"].values([out, before, of_a, of_b], 0.0, rows, columns, offset, first)
        np.testing.assert_array_equal(out, expected + added)  # powers of two and small numbers: exact in any order


def test_the_largest_number_of_several_tiles_is_kept_and_a_first_tile_begins_anew() -> None:
    maximum: Any = np.full((1, 1), 99, np.float32)
    for first, tile, expected in ((1, [[1, -5]], 5), (0, [[3, 2]], 5), (-1, [[-7, 0]], 7), (1, [[0, 0]], 0)):
        OPERATIONS["absmax"].values([maximum, np.array(tile, DTYPES["bf16"])], 0.0, 1, 2, first)
        assert maximum[0, 0] == expected


@pytest.mark.parametrize("dtype", list(STORED_BITS))
def test_a_scaled_operand_is_read_in_the_bits_that_hardware_keeps_and_without_conflicts(dtype: str) -> None:
    unit = load_machine("b200-sxm").cores.matrix
    cost = reads(unit, PAD, block("a", 128, 256, dtype), 1, 128, 256, unit.m)
    assert cost.size_bytes == 128 * 256 * STORED_BITS[dtype] // 8
    assert cost.wavefronts == cost.phases == cost.size_bytes // PAD.line_bytes


@given(st.integers(1, 3), st.integers(1, 70), st.integers(0, 2**31), st.booleans())
def test_powers_of_two_and_two_levels_of_scales_quantise_as_the_formats_say(
    rows: int, columns: int, seed: int, with_zeros: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((rows, columns)) * 2.0 ** rng.integers(-20, 20, (rows, 1))).astype(np.float32)
    x[:, : 16 * with_zeros] = 0
    elements, scales = quant.mx(x, quant.E4M3)
    out, found = np.zeros(x.shape, DTYPES["fp8_e4m3"]), np.zeros(scales.shape, DTYPES["e8m0"])
    OPERATIONS["quantise_mx"].values([out, found, x], 0.0, rows, columns, 32)
    np.testing.assert_array_equal(out.astype(float), elements)
    np.testing.assert_array_equal(found.astype(float), scales)
    tensor = np.float32(rng.uniform(1e-4, 1))
    elements, scales, _ = quant.nvfp4(x, tensor=float(tensor))
    packed, found = np.zeros((rows, -(-columns // 2)), np.uint8), np.zeros(scales.shape, DTYPES["fp8_e4m3"])
    OPERATIONS["quantise_nvfp4"].values([packed, found, x, np.array([[tensor]])], 0.0, rows, columns, 16)
    np.testing.assert_array_equal(packed, quant.pack(quant.e2m1_codes(elements)))
    np.testing.assert_array_equal(found.astype(float), scales)


def test_a_pass_of_two_levels_touches_packed_elements_and_the_scale_of_the_tensor() -> None:
    touched = OPERATIONS["quantise_nvfp4"].touches([], 3, 33, 16)
    assert [(t.operand, t.rows, t.columns, t.writes) for t in touched] == [
        (0, 3, 17, True),
        (1, 3, 3, True),
        (2, 3, 33, False),
        (3, 1, 1, False),
    ]
    assert OPERATIONS["quantise_mx"].work([], 3, 64, 32).alu == 3 * (64 + 2)
