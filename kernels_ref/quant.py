"""The values of narrow formats: rounding, quantisers and dequantisers, packing of two elements per byte.

Rounding is to nearest, ties to even, with saturation at the largest number of the format, worked out in float64 by
arithmetic alone, so that it can judge casts made elsewhere. Formats of elements are those of OCP's 8-bit floating
point specification 1.0 and of its microscaling (MX) specification 1.0; NVFP4 is NVIDIA's: e2m1 in blocks of 16 with an
e4m3 scale each, and one fp32 scale per tensor. Blocks lie along the last axis, which need not be a multiple of them.

Scales of fp8 and int4 are amax over the largest number, rounded to fp32 or bf16; quotients are rounded to fp32 before
they are rounded to the format, as units that divide in fp32 do. Blocks of zeros have scale 1, or 2^-127 where a scale
is a power of two.
Not modelled: stochastic rounding, infinities and NaN, scales from earlier batches, zero points, Hadamard rotations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating point format: bits of the fraction, exponents of its normal numbers, largest number."""

    fraction_bits: int
    least_exponent: int
    largest_exponent: int
    largest: float


E4M3 = FloatFormat(3, -6, 8, 448.0)
E5M2 = FloatFormat(2, -14, 15, 57344.0)
E2M1 = FloatFormat(1, 0, 2, 6.0)
BF16 = FloatFormat(7, -126, 127, 2.0**128 - 2.0**120)
FP32 = FloatFormat(23, -126, 127, 2.0**128 - 2.0**104)

FP8_BLOCK = 128  # columns of a scale of DeepSeek-V3's fp8 blocks, and rows where both are counted
INT4_GROUP = 128
MX_BLOCK = 32
NVFP4_BLOCK = 16
INT4_LARGEST = 7
INT8_LARGEST = 127


def round_to(values: NDArray[Any], form: FloatFormat) -> Floats:
    """Return `values` rounded to a format: to nearest, ties to even, saturating. Any shape."""
    wide = np.asarray(values, np.float64)
    _, exponent = np.frexp(wide)  # wide = f 2^exponent with |f| in [0.5, 1)
    spacing = np.ldexp(1.0, np.maximum(exponent - 1, form.least_exponent) - form.fraction_bits)
    rounded = np.rint(wide / spacing) * spacing  # rint takes ties to even
    kept: Floats = np.clip(rounded, -form.largest, form.largest)
    return kept


def blocks(values: NDArray[Any], size: int) -> Floats:
    """Return `values` [..., k] as blocks [..., ceil(k / size), size], the last one filled up with zeros."""
    wide = np.asarray(values, np.float64)
    rest = -wide.shape[-1] % size
    padded = np.pad(wide, [(0, 0)] * (wide.ndim - 1) + [(0, rest)])
    return padded.reshape(*wide.shape[:-1], -1, size)


def spread(scales: NDArray[Any], size: int, k: int) -> Floats:
    """Return scales [..., blocks] of blocks of `size` along the last axis, one per element: [..., k]."""
    return np.repeat(np.asarray(scales, np.float64), size, axis=-1)[..., :k]


def _scale(amax: Floats, largest: float, form: FloatFormat) -> Floats:
    return np.where(amax > 0, round_to(amax / largest, form), 1.0)


def _quotient(values: Floats, scales: Floats) -> Floats:
    return round_to(values / scales, FP32)


def fp8_tensor(values: NDArray[Any]) -> tuple[Floats, float]:
    """Return e4m3 elements and the one fp32 scale by which they are multiplied."""
    wide = np.asarray(values, np.float64)
    scale = _scale(np.abs(wide).max(initial=0.0), E4M3.largest, FP32)
    return round_to(_quotient(wide, scale), E4M3), float(scale)


def fp8_static(values: NDArray[Any], scale: float) -> Floats:
    """Return e4m3 elements under a scale that is given, saturated where it is too small."""
    return round_to(_quotient(np.asarray(values, np.float64), np.asarray(scale)), E4M3)


def fp8_rows(values: NDArray[Any], size: int = FP8_BLOCK) -> tuple[Floats, Floats]:
    """Return e4m3 elements [..., k] and fp32 scales [..., ceil(k / size)], one per block of 1 x `size`."""
    wide = np.asarray(values, np.float64)
    scales = _scale(np.abs(blocks(wide, size)).max(axis=-1), E4M3.largest, FP32)
    return round_to(_quotient(wide, spread(scales, size, wide.shape[-1])), E4M3), scales


def fp8_squares(values: NDArray[Any], size: int = FP8_BLOCK) -> tuple[Floats, Floats]:
    """Return e4m3 elements [n, k] and fp32 scales [ceil(n / size), ceil(k / size)], one per `size` x `size` block."""
    wide = np.asarray(values, np.float64)
    n, k = wide.shape
    columns = np.abs(blocks(wide, size)).max(axis=-1)
    amax = blocks(columns.T, size).max(axis=-1).T
    scales = _scale(amax, E4M3.largest, FP32)
    return round_to(_quotient(wide, squares(scales, size, n, k)), E4M3), scales


def squares(scales: NDArray[Any], size: int, n: int, k: int) -> Floats:
    """Return scales of `size` x `size` blocks, one per element: [n, k]."""
    return spread(spread(scales, size, k).T, size, n).T


def int4_groups(values: NDArray[Any], size: int = INT4_GROUP) -> tuple[NDArray[np.int64], Floats]:
    """Return integers in -8..7 [..., k] and bf16 scales [..., ceil(k / size)], symmetric without zero points."""
    wide = np.asarray(values, np.float64)
    scales = _scale(np.abs(blocks(wide, size)).max(axis=-1), INT4_LARGEST, BF16)
    quotient = _quotient(wide, spread(scales, size, wide.shape[-1]))
    return np.clip(np.rint(quotient), -INT4_LARGEST - 1, INT4_LARGEST).astype(np.int64), scales


def int8_channels(values: NDArray[Any]) -> tuple[NDArray[np.int64], Floats]:
    """Return integers in -127..127 [n, k] and bf16 scales [n, 1], symmetric."""
    wide = np.asarray(values, np.float64)
    scales = _scale(np.abs(wide).max(axis=-1, keepdims=True), INT8_LARGEST, BF16)
    quotient = _quotient(wide, scales)
    return np.clip(np.rint(quotient), -INT8_LARGEST, INT8_LARGEST).astype(np.int64), scales


def mx(values: NDArray[Any], form: FloatFormat, size: int = MX_BLOCK) -> tuple[Floats, Floats]:
    """Return elements of `form` [..., k] and scales [..., ceil(k / size)], powers of two from 2^-127 to 2^127.

    The shared exponent is floor(log2 amax) - that of the format's largest number (OCP MX specification 1.0, 6.3).
    """
    wide = np.asarray(values, np.float64)
    amax = np.abs(blocks(wide, size)).max(axis=-1)
    _, exponent = np.frexp(amax)
    shared = np.where(amax > 0, exponent - 1 - form.largest_exponent, -127)
    scales = np.ldexp(1.0, np.clip(shared, -127, 127))
    return round_to(wide / spread(scales, size, wide.shape[-1]), form), scales


def nvfp4(values: NDArray[Any], size: int = NVFP4_BLOCK, tensor: float | None = None) -> tuple[Floats, Floats, float]:
    """Return e2m1 elements [..., k], e4m3 scales [..., ceil(k / size)] and the fp32 scale of the tensor.

    An element is worth element * scale * tensor scale, whose last factor, unless it is given, lets the largest block
    scale be 448.
    """
    wide = np.asarray(values, np.float64)
    if tensor is None:
        tensor = float(_scale(np.abs(wide).max(initial=0.0), E4M3.largest * E2M1.largest, FP32))
    largest = round_to(np.asarray(E2M1.largest * tensor), FP32)
    scales = round_to(_quotient(np.abs(blocks(wide, size)).max(axis=-1), largest), E4M3)
    divisor = round_to(np.where(scales > 0, scales, 1.0) * tensor, FP32)
    return round_to(_quotient(wide, spread(divisor, size, wide.shape[-1])), E2M1), scales, tensor


def e2m1_codes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the four bits of e2m1 numbers: sign, two bits of exponent, one of fraction. ValueError for others."""
    magnitudes = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    wide = np.asarray(values, np.float64)
    codes = np.searchsorted(magnitudes, np.abs(wide))
    if (codes > 7).any() or (magnitudes[np.minimum(codes, 7)] != np.abs(wide)).any():
        raise ValueError(
            "e2m1_codes: a value is no e2m1 number; allowed: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives"
        )
    bits: NDArray[np.uint8] = np.asarray(codes + 8 * np.signbit(wide), np.uint8)
    return bits


def pack(codes: NDArray[Any]) -> NDArray[np.uint8]:
    """Return codes of four bits [..., k] two to a byte [..., ceil(k / 2)], the even one in the low bits."""
    whole = np.pad(np.asarray(codes, np.uint8), [(0, 0)] * (np.ndim(codes) - 1) + [(0, np.shape(codes)[-1] % 2)])
    packed: NDArray[np.uint8] = np.asarray(whole[..., ::2] | whole[..., 1::2] << 4, np.uint8)
    return packed
