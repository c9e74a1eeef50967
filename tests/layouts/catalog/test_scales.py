"""Scale layouts against the vendors' formulas and against padded reshapes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts.catalog import scales
from layouts.layout import Layout

DATA = Path(os.environ.get("ROWHIT_DATA") or Path(__file__).parents[3] / "../shared/data") / "layouts"


def grid(layout, *axes):
    indices = np.indices([layout.size(axis) for axis in axes], sparse=True)
    return layout.offsets(**dict(zip(axes, indices, strict=True)))


def up(value, multiple):
    return (value + multiple - 1) // multiple * multiple


def distinct(offsets):
    return len(np.unique(offsets)) == offsets.size


SIZES = [(128, 4), (256, 64), (1, 1), (7, 3), (100, 5), (129, 130), (300, 9), (64, 8), (640, 2)]


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_tiles_of_128x4_are_the_padded_matrix_reshaped(rows, cols, batch):
    b = batch or 1
    mp, kp = up(rows, 128), up(cols, 4)
    stored = np.arange(b * mp * kp).reshape(b, mp // 128, kp // 4, 32, 4, 4)
    expected = stored.transpose(0, 1, 4, 3, 2, 5).reshape(b, mp, kp)[:, :rows, :cols]
    layout = scales.sf_128x4(rows, cols, batch=batch)
    axes = ("row", "col") if batch is None else ("batch", "row", "col")
    assert np.array_equal(grid(layout, *axes).reshape(expected.shape), expected)
    assert layout.size("row") == rows
    assert layout.size("col") == cols
    assert distinct(grid(layout, *axes))
    assert scales.sf_size("128x4", rows, cols, batch=b) == stored.size


@given(st.integers(1, 400), st.integers(1, 600), st.sampled_from([1, 16, 32]), st.booleans(), st.data())
def test_the_scale_of_an_element_lies_where_the_vendors_formulas_say(rows, cols, vec, elements, data):
    m = data.draw(st.integers(0, rows - 1))
    count = -(-cols // vec)
    col = data.draw(st.integers(0, (cols if elements else count) - 1))
    k = col // vec if elements else col
    big = scales.sf_128x4(rows, cols, vec, elements).offset(row=m, col=col)
    assert big == m // 128 * -(-count // 4) * 512 + k // 4 * 512 + m % 32 * 16 + m % 128 // 32 * 4 + k % 4
    small = scales.sf_8x4(rows, cols, vec, elements).offset(row=m, col=col)
    assert small == m // 8 * -(-count // 4) * 32 + k // 4 * 32 + m % 8 * 4 + k % 4
    assert scales.sf_linear(rows, cols, vec, elements).offset(row=m, col=col) == m * count + k


@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_tiles_of_8x4_are_the_padded_matrix_reshaped(rows, cols):
    mp, kp = up(rows, 8), up(cols, 4)
    stored = np.arange(2 * mp * kp).reshape(2, mp // 8, kp // 4, 8, 4)
    expected = stored.transpose(0, 1, 3, 2, 4).reshape(2, mp, kp)[:, :rows, :cols]
    assert np.array_equal(grid(scales.sf_8x4(rows, cols, batch=2), "batch", "row", "col"), expected)
    assert scales.sf_size("8x4", rows, cols, batch=2) == stored.size
    assert scales.sf_size("linear", rows, cols, 2) == rows * -(-cols // 2)


def test_whole_tiles_need_no_stage_and_equal_the_cute_layout():
    layout = scales.sf_128x4(384, 256, 32, elements=True).layout
    assert not layout.stages
    assert layout == Layout((((32, 4), 3), ((32, 4), 2)), (((16, 4), 1024), ((0, 1), 512)))
    assert scales.sf_128x4(100, 5).layout.stages


def test_a_scale_is_shared_by_the_elements_of_its_vector_alone():
    offsets = grid(scales.sf_128x4(5, 40, 16, elements=True), "row", "col")
    assert np.array_equal(offsets, grid(scales.sf_128x4(5, 40, 16), "row", "col")[:, np.arange(40) // 16])


@pytest.mark.parametrize("experts", [None, 3])
@pytest.mark.parametrize(("m", "k"), [(1, 128), (6, 200), (64, 7168), (127, 1000)])
def test_deepgemm_sm90_scales_are_mn_major_with_columns_on_16_bytes(m, k, experts):
    e, count, column = experts or 1, -(-k // 128), up(m, 4)
    stored = np.arange(e * count * column).reshape(e, count, column)
    expected = stored[:, :, :m].transpose(0, 2, 1)
    axes = ("row", "col") if experts is None else ("expert", "row", "col")
    assert np.array_equal(grid(scales.deepgemm_sfa(m, k, experts), *axes).reshape(e, m, count), expected)
    wide = grid(scales.deepgemm_sfa(m, k, experts, elements=True), *axes).reshape(e, m, k)
    assert np.array_equal(wide, expected[:, :, np.arange(k) // 128])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("n", "k"), [(128, 128), (300, 1000), (576, 1536)])
def test_deepgemm_sm90_weight_scales_are_one_per_128_by_128(n, k, transposed):
    down, across = -(-n // 128), -(-k // 128)
    stored = np.arange(2 * down * across)
    expected = stored.reshape(2, across, down).transpose(0, 2, 1) if transposed else stored.reshape(2, down, across)
    layout = scales.deepgemm_sfb(n, k, 2, transposed)
    assert np.array_equal(grid(layout, "expert", "row", "col"), expected)
    wide = scales.deepgemm_sfb(n, k, None, transposed, elements=True)
    row, col = np.indices((n, k), sparse=True)
    assert np.array_equal(grid(wide, "row", "col"), expected[0][row // 128, col // 128])


@pytest.mark.parametrize("gran_k", [32, 128])
@pytest.mark.parametrize(("mn", "k"), [(1, 128), (6, 1000), (64, 7168), (127, 96)])
def test_deepgemm_sm100_scales_pack_four_columns_in_an_int(mn, k, gran_k):
    count, column = -(-k // gran_k), up(mn, 4)
    words = -(-count // 4)
    stored = np.arange(2 * words * column * 4).reshape(2, words, column, 4)[:, :, :mn]
    expected = stored.transpose(0, 2, 1, 3).reshape(2, mn, words * 4)[:, :, :count]
    layout = scales.deepgemm_packed(mn, k, gran_k, 2)
    assert np.array_equal(grid(layout, "expert", "row", "col"), expected)
    assert distinct(grid(layout, "expert", "row", "col"))


@pytest.mark.parametrize(("mn", "k"), [(128, 128), (384, 1000), (256, 7168)])
def test_utccp_scales_are_the_packed_ones_with_rows_transposed_in_each_128(mn, k):
    count = -(-k // 32)
    words = -(-count // 4)
    plain = np.arange(2 * mn * words * 4).reshape(2, mn, words * 4)  # a byte per (row, scale column)
    turned = plain.reshape(2, mn // 128, 4, 32, words * 4).swapaxes(2, 3).reshape(2, mn, words, 4)
    memory = turned.transpose(0, 2, 1, 3).ravel()  # MN-major ints
    offsets = grid(scales.deepgemm_utccp(mn, k, 32, 2), "expert", "row", "col")
    assert np.array_equal(memory[offsets], plain[:, :, :count])
    if words == 1:
        assert scales.deepgemm_utccp(mn, k) == scales.sf_128x4(mn, count)


@pytest.mark.parametrize(("group", "element_bytes"), [(32, 1), (128, 2), (64, 2), (128, 4), (16, 1)])
@pytest.mark.parametrize(("experts", "rows", "k"), [(2, 64, 128), (3, 192, 640)])
def test_mixed_input_scales_are_folded_into_rows_of_16_bytes(experts, rows, k, group, element_bytes):
    per_k, width = 128 // group, 16 // element_bytes
    s = width // per_k
    plain = np.arange(experts * rows * k // group).reshape(experts, rows, k // group)
    parts = plain.reshape(experts, rows // 64, s, 64 // s, k // 128, per_k)
    memory = parts.transpose(0, 1, 4, 3, 2, 5).ravel()
    layout = scales.mixed_input_scales(experts, rows, k, group, element_bytes)
    assert np.array_equal(memory[grid(layout, "expert", "row", "col")], plain)
    assert layout.is_injective
    assert layout.cosize == plain.size


BAD = [
    (lambda: scales.sf_128x4(0, 4), "sf_128x4: rows is 0, at least 1 is needed"),
    (lambda: scales.sf_8x4(4, 4, 0), "sf_8x4: vec is 0, at least 1 is needed"),
    (lambda: scales.sf_linear(4, 4, batch=0), "sf_linear: batch is 0, at least 1 is needed"),
    (lambda: scales.sf_size("128x8", 4, 4), "sf_size: kind is '128x8', allowed are 128x4, 8x4, linear"),
    (lambda: scales.deepgemm_sfa(4, True), "deepgemm_sfa: k: True is not an integer"),
    (lambda: scales.deepgemm_packed(4, 128, 64), "deepgemm_packed: gran_k is 64, allowed are 32, 128"),
    (lambda: scales.deepgemm_utccp(64, 128), "deepgemm_utccp: mn is 64, a multiple of 128 is needed"),
    (lambda: scales.mixed_input_scales(1, 60, 128), "mixed_input_scales: rows is 60, a multiple of 64 is needed"),
    (lambda: scales.mixed_input_scales(1, 64, 64), "mixed_input_scales: k is 64, a multiple of 128 is needed"),
    (
        lambda: scales.mixed_input_scales(1, 64, 128, 48),
        "mixed_input_scales: group is 48, a divisor of 128 of at least 8 is needed",
    ),
    (
        lambda: scales.mixed_input_scales(1, 64, 128, 16, 4),
        "mixed_input_scales: group is 16, a divisor of 128 of at least 32 is needed",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_a_size_that_the_stack_refuses_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=r"^[^\n]{1,200}$") as error:
        make()
    assert str(error.value) == message


def nested(value):
    return tuple(map(nested, value)) if isinstance(value, list) else value


@pytest.mark.skipif(not DATA.exists(), reason="the conformance cases are not here")
def test_every_128x4_case_agrees_in_layout_and_offsets():
    cases = [c for c in json.loads((DATA / "named_layouts.json").read_text()) if c["op"] == "sf_128x4"]
    assert len(cases) == 60
    for case in cases:
        layout = scales.sf_128x4(case["M"], case["K"], case["vec"], elements=True)
        given_layout = Layout(nested(case["layout"]["shape"]), nested(case["layout"]["stride"]))
        assert layout.layout == given_layout, case["id"]
        points = np.array(case["points"])
        assert layout.offsets(row=points[:, 0], col=points[:, 1]).tolist() == case["offsets"], case["id"]
        assert case["vendor_formula_agrees"], case["id"]
        m, k = points[:, 0], points[:, 1] // case["vec"]
        tiles = case["K"] // case["vec"] // 4
        formula = m // 128 * tiles * 512 + k // 4 * 512 + m % 32 * 16 + m % 128 // 32 * 4 + k % 4
        assert formula.tolist() == case["offsets"], case["id"]
