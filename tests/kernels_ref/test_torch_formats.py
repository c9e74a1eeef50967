"""Narrow formats beside the casts of PyTorch, bit for bit: nothing here has a tolerance."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_ref import quant

torch = pytest.importorskip("torch", reason="pip install -e '.[oracle]' installs PyTorch")

pytestmark = pytest.mark.oracle

Array = np.ndarray[Any, Any]
FORMATS = {
    "float8_e4m3fn": quant.E4M3,
    "float8_e5m2": quant.E5M2,
    "bfloat16": quant.BF16,
    "float32": quant.FP32,
}
shapes = st.tuples(st.integers(1, 4), st.integers(1, 300))
seeds = st.integers(0, 2**32 - 1)
spreads = st.sampled_from([0.0, 1.0, 6.0])


def drawn(shape: tuple[int, int], seed: int, spread: float) -> Any:
    """Return bf16 numbers, as float32, whose magnitudes lie `spread` powers of two apart, some of them zero."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 2.0 ** (spread * rng.standard_normal(shape))
    return torch.from_numpy(np.where(rng.random(shape) < 0.1, 0.0, values)).bfloat16().float()


def in_blocks(values: Any, size: int) -> Any:
    """Return [..., k] as [..., blocks, size], the last block filled up with zeros."""
    return torch.nn.functional.pad(values, (0, -values.shape[-1] % size)).unflatten(-1, (-1, size))


def flat(blocks: Any, like: Any) -> Array:
    """Return blocks as they were before `in_blocks`, in float64."""
    return blocks.float().flatten(-2)[..., : like.shape[-1]].double().numpy()


def fp32_scale(amax: Any, largest: float) -> Any:
    return torch.where(amax > 0, amax / largest, torch.ones_like(amax))


def saturated(values: Any, name: str) -> Array:
    """Return values cast to a type of PyTorch and back, held within its range first: its casts overflow."""
    dtype = getattr(torch, name)
    most = torch.finfo(dtype).max
    return values.clamp(-most, most).to(dtype).double().numpy()


@pytest.mark.parametrize("name", FORMATS)
def test_every_number_of_sixteen_bits_is_rounded_as_pytorch_casts_it(name: str) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for sixteen in (torch.bfloat16, torch.float16):
        numbers = bits.view(sixteen)
        finite = numbers[torch.isfinite(numbers)].float()
        assert len(finite) >= 2**16 - 2**11
        np.testing.assert_array_equal(quant.round_to(finite.numpy(), FORMATS[name]), saturated(finite, name))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_midpoints_and_their_neighbours_are_rounded_as_pytorch_casts_them(name: str) -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(getattr(torch, name)).float()
    numbers = torch.unique(codes[torch.isfinite(codes)])
    middles = (numbers[1:] + numbers[:-1]) / 2
    up, down = torch.tensor(torch.inf), torch.tensor(-torch.inf)
    for values in (numbers, middles, torch.nextafter(middles, up), torch.nextafter(middles, down)):
        np.testing.assert_array_equal(quant.round_to(values.numpy(), FORMATS[name]), saturated(values, name))
    np.testing.assert_array_equal(quant.round_to(numbers.numpy(), FORMATS[name]), numbers.numpy())


@pytest.mark.parametrize("name", FORMATS)
@given(st.integers(0, 2**32 - 1))
def test_numbers_of_any_bits_are_rounded_as_pytorch_casts_them(name: str, seed: int) -> None:
    numbers = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**32, 500, dtype=np.uint32).view(np.float32))
    finite = numbers[torch.isfinite(numbers)]
    np.testing.assert_array_equal(quant.round_to(finite.numpy(), FORMATS[name]), saturated(finite, name))


def test_the_types_of_both_libraries_have_the_same_bits() -> None:
    """Arrays go from the one to the other by their bits, here and where operands are stored."""
    for name, wide in (("float8_e4m3fn", np.uint8), ("float8_e5m2", np.uint8), ("bfloat16", np.uint16)):
        bits = np.arange(np.iinfo(wide).max + 1).astype(wide)
        theirs = torch.from_numpy(bits).view(getattr(torch, name)).float().numpy()
        np.testing.assert_array_equal(bits.view(getattr(ml_dtypes, name)).astype(np.float32), theirs)


@given(shapes, seeds, spreads)
def test_fp8_of_tensors_rows_and_squares_is_a_quotient_that_pytorch_casts(
    shape: tuple[int, int], seed: int, spread: float
) -> None:
    x = drawn(shape, seed, spread)
    scale = fp32_scale(x.abs().max(), 448.0)
    elements, found = quant.fp8_tensor(x.numpy())
    assert found == float(scale)
    np.testing.assert_array_equal(elements, (x / scale).to(torch.float8_e4m3fn).double().numpy())
    static = quant.fp8_static(x.numpy(), float(scale) / 8)  # what is beyond the eighth part is held back
    np.testing.assert_array_equal(static, saturated(x / (scale / 8), "float8_e4m3fn"))

    blocks = in_blocks(x, 128)
    scales = fp32_scale(blocks.abs().amax(dim=-1), 448.0)
    elements, rows = quant.fp8_rows(x.numpy())
    np.testing.assert_array_equal(rows, scales.numpy())
    np.testing.assert_array_equal(elements, flat((blocks / scales[..., None]).to(torch.float8_e4m3fn), x))


@given(st.tuples(st.integers(1, 9), st.integers(1, 20)), st.sampled_from([2, 4, 128]), seeds, spreads)
def test_fp8_of_squares_is_a_quotient_that_pytorch_casts(
    shape: tuple[int, int], size: int, seed: int, spread: float
) -> None:
    x = drawn(shape, seed, spread)
    tall = in_blocks(in_blocks(x, size).permute(1, 2, 0), size)  # [block columns, column, block rows, row]
    scales = fp32_scale(tall.abs().amax(dim=(1, 3)), 448.0)  # [block columns, block rows]
    cast = (tall / scales[:, None, :, None]).to(torch.float8_e4m3fn).float()
    expected = cast.permute(2, 3, 0, 1).flatten(0, 1).flatten(1)[: shape[0], : shape[1]]
    elements, found = quant.fp8_squares(x.numpy(), size)
    np.testing.assert_array_equal(found, scales.T.numpy())
    np.testing.assert_array_equal(elements, expected.numpy())


@given(shapes, seeds, spreads, st.sampled_from(["float8_e4m3fn", "float8_e5m2"]))
def test_blocks_of_mx_have_the_scale_of_the_exponent_bits(
    shape: tuple[int, int], seed: int, spread: float, name: str
) -> None:
    """The scale's byte is the largest magnitude's exponent field less the format's largest exponent, as e8m0 has it."""
    x, form = drawn(shape, seed, spread), FORMATS[name]
    blocks = in_blocks(x, 32)
    field = blocks.abs().amax(dim=-1).view(torch.int32) >> 23
    byte = (field - form.largest_exponent).clamp(min=0).to(torch.uint8)
    scales = byte.view(torch.float8_e8m0fnu).double()
    quotient = blocks.double() / scales[..., None]
    elements, found = quant.mx(x.numpy(), form)
    np.testing.assert_array_equal(found, scales.numpy())
    np.testing.assert_array_equal(elements, saturated(quotient, name).reshape(shape[0], -1)[:, : shape[1]])


def test_a_scale_of_mx_is_any_of_the_powers_that_e8m0_has() -> None:
    powers = torch.arange(255, dtype=torch.int32).to(torch.uint8).view(torch.float8_e8m0fnu).double().numpy()
    np.testing.assert_array_equal(powers, np.ldexp(1.0, np.arange(-127, 128)))
    largest = 448.0 * powers[(powers >= 2.0**-118) & (powers <= 2.0**119)]  # normal numbers of float32
    scales = quant.mx(largest[:, None], quant.E4M3)[1][:, 0]
    np.testing.assert_array_equal(torch.from_numpy(scales).float().to(torch.float8_e8m0fnu).double().numpy(), scales)
    np.testing.assert_array_equal(scales, largest / 448)


@given(shapes, seeds, st.sampled_from([32, 128]))
def test_groups_of_int4_are_rounded_as_pytorch_rounds(shape: tuple[int, int], seed: int, size: int) -> None:
    x = drawn(shape, seed, 1.0)
    blocks = in_blocks(x, size)
    amax = blocks.abs().amax(dim=-1)
    scales = torch.where(amax > 0, amax / 7, torch.ones_like(amax)).bfloat16().float()
    integers, found = quant.int4_groups(x.numpy(), size)
    np.testing.assert_array_equal(found, scales.numpy())
    np.testing.assert_array_equal(integers, flat((blocks / scales[..., None]).round().clamp(-8, 7), x))


@given(shapes, seeds, spreads)
def test_channels_of_int8_are_rounded_as_pytorch_rounds(shape: tuple[int, int], seed: int, spread: float) -> None:
    x = drawn(shape, seed, spread)
    amax = x.abs().amax(dim=1, keepdim=True)
    scales = torch.where(amax > 0, amax / 127, torch.ones_like(amax)).bfloat16().float()
    integers, found = quant.int8_channels(x.numpy())
    np.testing.assert_array_equal(found, scales.numpy())
    np.testing.assert_array_equal(integers, (x / scales).round().clamp(-127, 127).numpy())


def e2m1(values: Any) -> Any:
    """Return the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6: a magnitude at a midpoint goes to the code that is even."""
    numbers = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    middles = (numbers[1:] + numbers[:-1]) / 2
    beyond = torch.where(
        torch.arange(1, 8) % 2 == 0, values.abs()[..., None] >= middles, values.abs()[..., None] > middles
    )
    return numbers[beyond.sum(dim=-1)] * values.sign()


@given(shapes, seeds, spreads)
def test_nvfp4_is_a_quotient_by_two_scales(shape: tuple[int, int], seed: int, spread: float) -> None:
    x = drawn(shape, seed, spread)
    tensor = fp32_scale(x.abs().max(), 448.0 * 6.0)
    blocks = in_blocks(x, 16)
    scales = (blocks.abs().amax(dim=-1) / (6.0 * tensor)).to(torch.float8_e4m3fn).float()
    divisor = torch.where(scales > 0, scales, torch.ones_like(scales)) * tensor
    elements, found, whole = quant.nvfp4(x.numpy())
    assert whole == float(tensor)
    np.testing.assert_array_equal(found, scales.numpy())
    np.testing.assert_array_equal(elements, flat(e2m1(blocks / divisor[..., None]), x))
