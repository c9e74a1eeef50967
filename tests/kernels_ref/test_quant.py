from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels_ref import quant

FORMATS = {
    "e4m3": (quant.E4M3, ml_dtypes.float8_e4m3fn),
    "e5m2": (quant.E5M2, ml_dtypes.float8_e5m2),
    "e2m1": (quant.E2M1, ml_dtypes.float4_e2m1fn),
    "bf16": (quant.BF16, ml_dtypes.bfloat16),
    "fp32": (quant.FP32, np.float32),
}
shapes = st.tuples(st.integers(1, 4), st.integers(1, 300))
spreads = st.sampled_from([0.0, 1.0, 6.0])


def drawn(shape: tuple[int, int], seed: int, spread: float) -> np.ndarray[Any, Any]:
    """Return bf16 numbers whose magnitudes lie `spread` powers of two apart, some of them zero."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 2.0 ** (spread * rng.standard_normal(shape))
    return np.where(rng.random(shape) < 0.1, 0.0, values).astype(ml_dtypes.bfloat16).astype(float)


def numbers_of(form: quant.FloatFormat) -> list[Fraction]:
    """Return all numbers of a small format that are not negative, from the definition of its encoding."""
    spacing, found = Fraction(2) ** (form.least_exponent - form.fraction_bits), [Fraction(0)]
    found += [i * spacing for i in range(1, 1 << form.fraction_bits)]
    for exponent in range(form.least_exponent, form.largest_exponent + 1):
        step = Fraction(2) ** (exponent - form.fraction_bits)
        found += [Fraction(2) ** exponent + i * step for i in range(1 << form.fraction_bits)]
    return [number for number in found if number <= form.largest]


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1"])
def test_every_midpoint_between_two_numbers_goes_to_the_even_one_and_its_neighbours_to_the_nearer(name: str) -> None:
    form, _ = FORMATS[name]
    numbers = numbers_of(form)
    for index, (below, above) in enumerate(pairwise(numbers)):
        middle = float((below + above) / 2)
        even = float(below if index % 2 == 0 else above)
        around = quant.round_to(np.array([middle, -middle, np.nextafter(middle, 0), np.nextafter(middle, 1e9)]), form)
        assert around.tolist() == [even, -even, float(below), float(above)]
    assert quant.round_to(np.array([1e30, -1e30]), form).tolist() == [form.largest, -form.largest]


@pytest.mark.parametrize("name", FORMATS)
@given(st.lists(st.floats(-1e38, 1e38, allow_subnormal=True), min_size=1, max_size=40), st.integers(-40, 20))
def test_rounding_agrees_with_the_casts_of_ml_dtypes_and_numpy(name: str, values: list[float], power: int) -> None:
    """Both from fp32, which both see exactly, within the range of the format; beyond it the casts overflow."""
    form, dtype = FORMATS[name]
    wide = np.clip(np.ldexp(np.array(values), power), -form.largest, form.largest).astype(np.float32)
    np.testing.assert_array_equal(quant.round_to(wide, form), wide.astype(dtype).astype(np.float64))


@settings(max_examples=50)
@given(shapes, st.integers(0, 2**31), spreads)
def test_a_scaled_block_comes_back_within_half_a_step_of_its_largest_number(
    shape: tuple[int, int], seed: int, spread: float
) -> None:
    """The spacing of e4m3 below 448 is at most 32; scales differ from amax / 448 by one rounding of fp32."""
    values = drawn(shape, seed, spread)
    for elements, scales in (
        (quant.fp8_rows(values)[0], quant.spread(quant.fp8_rows(values)[1], 128, shape[1])),
        (quant.fp8_squares(values)[0], quant.squares(quant.fp8_squares(values)[1], 128, *shape)),
        quant.fp8_tensor(values),
    ):
        assert (np.abs(elements * scales - values) <= 16 * (1 + 1e-6) * scales).all()
        relative = np.abs(elements * scales - values) <= np.abs(values) * (2.0**-4 + 1e-6) + scales * 2.0**-10
        assert relative.all()


@settings(max_examples=50)
@given(shapes, st.integers(0, 2**31), spreads)
def test_scales_take_the_largest_of_their_block_to_the_top_of_the_format(
    shape: tuple[int, int], seed: int, spread: float
) -> None:
    values = drawn(shape, seed, spread)
    for row, scales in zip(values, quant.fp8_rows(values)[1], strict=True):
        for block, scale in enumerate(scales):
            amax = float(np.abs(row[128 * block : 128 * (block + 1)]).max())
            assert scale == (np.float32(amax) / np.float32(448) if amax else 1.0)
    elements, scales = quant.fp8_squares(values)
    assert scales.shape == (1, -(-shape[1] // 128))
    assert (np.abs(elements).max() == 448) == bool(np.abs(values).max() > 0)


@settings(max_examples=50)
@given(shapes, st.integers(0, 2**31), spreads, st.sampled_from(["e4m3", "e2m1", "e5m2"]))
def test_mx_blocks_follow_the_definition_of_the_specification(
    shape: tuple[int, int], seed: int, spread: float, name: str
) -> None:
    """By whole numbers: the scale X = 2^(floor(log2 amax) - emax), and no element further from v / X than any other."""
    form, dtype = FORMATS[name]
    values = drawn(shape, seed, spread)
    elements, scales = quant.mx(values, form)
    for row in range(shape[0]):
        for block, scale in enumerate(scales[row]):
            here = slice(32 * block, 32 * block + 32)
            amax = Fraction(float(np.abs(values[row, here]).max()))
            if amax:
                bound = Fraction(float(scale)) * 2**form.largest_exponent
                assert bound <= amax < 2 * bound
            else:
                assert scale == 2.0**-127
    quotient = values / quant.spread(scales, 32, shape[1])
    largest = np.float32(form.largest)
    cast = np.clip(quotient.astype(np.float32), -largest, largest).astype(dtype).astype(float)
    np.testing.assert_array_equal(elements, cast)
    np.testing.assert_array_equal(scales.astype(ml_dtypes.float8_e8m0fnu).astype(float), scales)


@settings(max_examples=50)
@given(shapes, st.integers(0, 2**31), spreads)
def test_nvfp4_has_two_levels_of_scales_and_keeps_what_they_can_hold(
    shape: tuple[int, int], seed: int, spread: float
) -> None:
    """Within a block the spacing of e2m1 is at most 2: errors are one scale, and what its rounding cuts off."""
    values = drawn(shape, seed, spread)
    elements, scales, tensor = quant.nvfp4(values)
    assert scales.shape == (shape[0], -(-shape[1] // 16))
    np.testing.assert_array_equal(scales.astype(ml_dtypes.float8_e4m3fn).astype(float), scales)
    np.testing.assert_array_equal(elements.astype(ml_dtypes.float4_e2m1fn).astype(float), elements)
    if values.any():
        assert scales.max() == 448
    here = quant.spread(scales, 16, shape[1]) * tensor
    kept = here >= 2.0**-6 * tensor  # normal numbers of e4m3
    assert (np.abs(elements * here - values) <= 1.4 * here)[kept].all()


@settings(max_examples=50)
@given(shapes, st.integers(0, 2**31), st.sampled_from([32, 128]))
def test_int4_groups_are_off_by_half_a_step_and_the_rounding_of_their_scale(
    shape: tuple[int, int], seed: int, size: int
) -> None:
    values = drawn(shape, seed, 1.0)
    integers, scales = quant.int4_groups(values, size)
    assert integers.min() >= -8
    assert integers.max() <= 7
    np.testing.assert_array_equal(scales.astype(ml_dtypes.bfloat16).astype(float), scales)
    step = quant.spread(scales, size, shape[1])
    assert (np.abs(integers * step - values) <= step * (0.5 + 7 * 2.0**-8)).all()


@given(st.lists(st.integers(0, 15), min_size=1, max_size=9))
def test_two_codes_share_a_byte_the_even_one_below(codes: list[int]) -> None:
    packed = quant.pack(np.array(codes)).tolist()
    assert packed == [low + 16 * high for low, high in zip(codes[::2], [*codes[1::2], 0], strict=False)]


def test_the_codes_of_e2m1_are_its_bits() -> None:
    numbers = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(float)
    assert quant.e2m1_codes(numbers).tolist() == list(range(16))
    with pytest.raises(ValueError, match="e2m1_codes: a value is no e2m1 number"):
        quant.e2m1_codes(np.array([5.0]))


@pytest.mark.parametrize("quantise", [quant.fp8_rows, quant.fp8_squares, quant.int4_groups])
def test_zeros_stay_zeros_under_a_scale_of_one(quantise: Callable[..., Any]) -> None:
    elements, scales = quantise(np.zeros((3, 200)))
    assert not elements.any()
    assert (scales == 1).all()


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**31))
def test_integers_of_channels_times_their_scales_are_the_weights_within_a_step(n: int, k: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((n, k))
    integers, scales = quant.int8_channels(x)
    assert np.abs(integers).max() <= 127
    assert scales.shape == (n, 1)
    # half a step, and where the scale was rounded down (by up to 2**-9 of it) what is cut off at 127
    assert (np.abs(integers * scales - x) <= (0.5 + 127 * 2.0**-8) * scales).all()


def test_a_scale_that_is_given_saturates_what_it_does_not_reach() -> None:
    elements = quant.fp8_static(np.array([0.0, 1.0, -3.0, 1000.0]), 2.0)
    assert elements.tolist() == [0.0, 0.5, -1.5, 448.0]
    one, scales, tensor = quant.nvfp4(np.array([[6.0, 3.0, 1e6]]), tensor=1.0)
    assert (scales.tolist(), tensor) == ([[448.0]], 1.0)
    assert one.tolist() == [[0.0, 0.0, 6.0]]
