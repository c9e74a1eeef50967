"""Vector operations on narrow formats: quantising, expanding packed and scaled tiles, applying scales to products.

Two elements of four bits share a byte, the even one in the low bits. Scales lie beside their elements, one per block of
columns. Where a product is added at once, as in `promote` and `dot`, multiplication and addition are one alu: that is
what the units behind the rate of alu do. What the matrix unit does itself to operands with scales, the operations
`attach_blocks` and `attach_fp4` say in values; they cost their reading of the scales and no time of the vector unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from hwmodel.program import Buffer
from hwmodel.vector.operation import Operation, Touch, Work, read, update, write

Array = np.ndarray[Any, Any]
E4M3_LARGEST = np.float32(448)
E4M3_EXPONENT = 8  # of the largest e4m3 number
E2M1_LARGEST = np.float32(6)
# of the products that registers hold at a time in `dot`: a is read again for every so many columns, b for every so many
# rows; assumed: 32 lanes, each with 8 x 8 products, 8 lanes down and 4 across, and one read of a word serves all lanes
REGISTER_ROWS, REGISTER_COLUMNS = 64, 32
SCALE_ROWS = 128  # rows of b that share a scale in `promote`


def _dequantise(blocks: list[Array], _: float, rows: int, columns: int) -> None:
    """out = accumulator times the scales of a and of b. Operands: out, accumulator, scales [1, 2]."""
    out, accumulator, scales = blocks
    scale = np.float32(scales[0, 0]) * np.float32(scales[0, 1])
    out[:rows, :columns] = (accumulator[:rows, :columns].astype(np.float32) * scale).astype(out.dtype)


def _sum_scaled(blocks: list[Array], _: float, parts: int, rows: int, columns: int) -> None:
    """Add `parts` partial results [parts * rows, columns] and scale the sum. Operands: out, partials, scales [1, 2]."""
    out, partials, scales = blocks
    stack = partials[: parts * rows, :columns].reshape(parts, rows, columns)
    scale = np.float32(scales[0, 0]) * np.float32(scales[0, 1])
    out[:rows, :columns] = (stack.sum(axis=0, dtype=np.float32) * scale).astype(out.dtype)


def _promote(blocks: list[Array], _: float, rows: int, columns: int, offset: int, first: int) -> None:
    """Scale the product of one block of k and add what came before.

    Operands: product and result [rows, columns], sum of the blocks before (unless `first` > 0), scales of a [rows, 1],
    scales of b, one per 128 columns, the first of which begins `offset` columns before the tile.
    """
    product, before, of_a, of_b = blocks
    scale = of_a[:rows, :1] * of_b[(np.arange(columns) + offset) // SCALE_ROWS, 0]
    scaled = product[:rows, :columns] * scale
    product[:rows, :columns] = scaled if first > 0 else before[:rows, :columns] + scaled


def _nibbles(packed: Array, rows: int, columns: int) -> Array:
    pairs = packed[:rows, : -(-columns // 2)]
    return np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(rows, -1)[:, :columns]


def _scaled(out: Array, elements: Array, scales: Array, block: int) -> None:
    rows, columns = elements.shape
    wide = scales[:rows, : -(-columns // block)].astype(np.float32)
    product = elements.astype(np.float32) * np.repeat(wide, block, axis=1)[:, :columns]
    out[:rows, :columns] = product.astype(out.dtype)


def _expand_int4(blocks: list[Array], _: float, rows: int, columns: int, block: int) -> None:
    """out = (nibble - 8) * scale. Operands: out, packed [rows, columns / 2], scales [rows, columns / block]."""
    out, packed, scales = blocks
    _scaled(out, _nibbles(packed, rows, columns).astype(np.int8) - np.int8(8), scales, block)


def _expand_blocks(blocks: list[Array], _: float, rows: int, columns: int, block: int) -> None:
    """out = element * scale. Operands: out, elements [rows, columns], scales [rows, columns / block]."""
    out, elements, scales = blocks
    _scaled(out, elements[:rows, :columns], scales, block)


def _expand_fp4(blocks: list[Array], _: float, rows: int, columns: int, block: int) -> None:
    """out = e2m1 number * scale. Operands: out, packed [rows, columns / 2], scales [rows, columns / block]."""
    out, packed, scales = blocks
    _scaled(out, _nibbles(packed, rows, columns).view(ml_dtypes.float4_e2m1fn), scales, block)


def _quantise_blocks(blocks: list[Array], _: float, rows: int, columns: int, block: int) -> None:
    """Round blocks of a row to e4m3, with scales that take their largest number to 448; 1 for a block of zeros.

    Operands: out [rows, columns], scales [rows, columns / block], source.
    """
    out, scales, source = blocks
    for number, part in _row_blocks(source, rows, columns, block):
        amax = np.abs(part).max(axis=1, keepdims=True)
        scale = np.where(amax > 0, amax / E4M3_LARGEST, np.float32(1))
        scales[:rows, number : number + 1] = scale
        start = number * block
        out[:rows, start : start + part.shape[1]] = _to_e4m3(part / scale).astype(out.dtype)


def _quantise_mx(blocks: list[Array], _: float, rows: int, columns: int, block: int) -> None:
    """Round blocks of a row to e4m3 with scales that are powers of two, by the exponent of their largest number.

    The scale of a block of zeros is the least.
    Operands: out [rows, columns], scales [rows, columns / block], source.
    """
    out, scales, source = blocks
    for number, part in _row_blocks(source, rows, columns, block):
        amax = np.abs(part).max(axis=1, keepdims=True)
        shared = np.where(amax > 0, np.frexp(amax)[1] - 1 - E4M3_EXPONENT, -127)
        scale = np.ldexp(np.float32(1), np.clip(shared, -127, 127))
        scales[:rows, number : number + 1] = scale.astype(scales.dtype)
        start = number * block
        out[:rows, start : start + part.shape[1]] = _to_e4m3(part / scale).astype(out.dtype)


def _quantise_nvfp4(blocks: list[Array], _: float, rows: int, columns: int, block: int) -> None:
    """Round blocks of a row to e2m1, two to a byte, with e4m3 scales; the scale of the tensor is given.

    Operands: out [rows, columns / 2], scales [rows, columns / block], source, scale of the tensor [1, 1].
    """
    out, scales, source, tensor = blocks
    codes = np.zeros((rows, columns + columns % 2), np.uint8)
    for number, part in _row_blocks(source, rows, columns, block):
        amax = np.abs(part).max(axis=1, keepdims=True)
        scale = _to_e4m3(amax / (E2M1_LARGEST * tensor[0, 0])).astype(scales.dtype)
        scales[:rows, number : number + 1] = scale
        wide = scale.astype(np.float32)
        quotient = part / (np.where(wide > 0, wide, np.float32(1)) * tensor[0, 0])
        narrow = np.clip(quotient, -E2M1_LARGEST, E2M1_LARGEST).astype(ml_dtypes.float4_e2m1fn)
        codes[:, number * block : number * block + part.shape[1]] = narrow.view(np.uint8)
    out[:rows, : codes.shape[1] // 2] = codes[:, ::2] | codes[:, 1::2] << 4


def _row_blocks(source: Array, rows: int, columns: int, block: int) -> Iterator[tuple[int, Array]]:
    """Yield the blocks of columns of the first rows, in fp32, with their numbers."""
    for number, start in enumerate(range(0, columns, block)):
        yield number, source[:rows, start : min(start + block, columns)].astype(np.float32)


def _to_e4m3(values: Array) -> Array:
    clipped: Array = np.clip(values, -E4M3_LARGEST, E4M3_LARGEST)
    return clipped


def _absmax(blocks: list[Array], _: float, rows: int, columns: int, first: int) -> None:
    """Keep the largest magnitude; the first tile (`first` > 0) begins anew. Operands: maximum [1, 1], source."""
    maximum, source = blocks
    here = np.abs(source[:rows, :columns].astype(np.float32)).max(initial=0)
    maximum[0, 0] = here if first > 0 else np.maximum(maximum[0, 0], here)


def _quantise_tensor(blocks: list[Array], _: float, rows: int, columns: int, parts: int) -> None:
    """Round to e4m3 under one scale, which takes the largest of `parts` maxima to 448.

    Operands: out [rows, columns], scale [1, 1], source, maxima [1, parts].
    """
    out, scale, source, maxima = blocks
    amax = maxima[0, :parts].max()
    scale[0, 0] = amax / E4M3_LARGEST if amax > 0 else 1
    out[:rows, :columns] = _to_e4m3(source[:rows, :columns].astype(np.float32) / scale[0, 0]).astype(out.dtype)


def _dot(blocks: list[Array], _: float, m: int, n: int, k: int, first: int) -> None:
    """out[m, n] (+)= a[m, k] b[n, k]^T on the vector unit; `first` > 0 begins anew. Operands: out, a, b."""
    out, a, b = blocks
    product = a[:m, :k].astype(np.float32) @ b[:n, :k].astype(np.float32).T
    out[:m, :n] = product if first > 0 else out[:m, :n] + product


def _dot_work(buffers: Sequence[Buffer], m: int, n: int, k: int, first: int) -> Work:
    """One multiply-add per triple; what is not fp32 becomes it once."""
    rows = sum(count for buffer, count in zip(buffers[1:], (m, n), strict=True) if buffer.dtype != "fp32")
    return Work(alu=m * n * k, reduce=m * n, convert=rows * k)


def _blocks_of(columns: int, block: int) -> int:
    return -(-columns // block)


def _expansion_touches(packed: bool) -> Any:
    def touches(_: Any, rows: int, columns: int, block: int) -> tuple[Touch, ...]:
        stored = -(-columns // 2) if packed else columns
        return write(0, rows, columns), read(1, rows, stored), read(2, rows, _blocks_of(columns, block))

    return touches


def _quantised_touches(packed: bool) -> Any:
    def touches(_: Any, rows: int, columns: int, block: int) -> tuple[Touch, ...]:
        stored = -(-columns // 2) if packed else columns
        return write(0, rows, stored), write(1, rows, _blocks_of(columns, block)), read(2, rows, columns)

    return touches


def _scales_only(_: Any, rows: int, columns: int, block: int) -> tuple[Touch, ...]:
    return (read(2, rows, _blocks_of(columns, block)),)


# Per element: to expand is a conversion to fp32, a multiplication and a rounding; a nibble is cut out and, as an
# integer, moved by 8 (1 alu each). To quantise is a comparison, a division and a rounding.
OPERATIONS: dict[str, Operation] = {
    "dequantise": Operation(
        lambda _, rows, columns: Work(alu=rows * columns + 1, convert=rows * columns),
        lambda _, rows, columns: (write(0, rows, columns), read(1, rows, columns), read(2, 1, 2)),
        _dequantise,
    ),
    "sum_scaled": Operation(
        lambda _, parts, rows, columns: Work(alu=(parts + 1) * rows * columns + 1, convert=rows * columns),
        lambda _, parts, rows, columns: (write(0, rows, columns), read(1, parts * rows, columns), read(2, 1, 2)),
        _sum_scaled,
    ),
    "promote": Operation(
        lambda _, rows, columns, offset, first: Work(
            alu=rows * (columns + _blocks_of(offset + columns, SCALE_ROWS)),
        ),
        lambda _, rows, columns, offset, first: (
            update(0, rows, columns),
            read(1, rows if first <= 0 else 0, columns),
            read(2, rows, 1),
            read(3, _blocks_of(offset + columns, SCALE_ROWS), 1),
        ),
        _promote,
    ),
    "expand_int4": Operation(
        lambda _, rows, columns, block: Work(alu=3 * rows * columns, convert=2 * rows * columns),
        _expansion_touches(packed=True),
        _expand_int4,
    ),
    "expand_blocks": Operation(
        lambda _, rows, columns, block: Work(alu=rows * columns, convert=2 * rows * columns),
        _expansion_touches(packed=False),
        _expand_blocks,
    ),
    "expand_fp4": Operation(
        lambda _, rows, columns, block: Work(alu=2 * rows * columns, convert=2 * rows * columns),
        _expansion_touches(packed=True),
        _expand_fp4,
    ),
    "attach_blocks": Operation(lambda *_: Work(), _scales_only, _expand_blocks),
    "attach_fp4": Operation(lambda *_: Work(), _scales_only, _expand_fp4),
    "quantise_blocks": Operation(
        lambda _, rows, columns, block: Work(
            alu=rows * (columns + _blocks_of(columns, block)), reduce=rows * columns, convert=2 * rows * columns
        ),
        _quantised_touches(packed=False),
        _quantise_blocks,
    ),
    "quantise_mx": Operation(  # a scale is the exponent of a number, and no division
        lambda _, rows, columns, block: Work(
            alu=rows * (columns + _blocks_of(columns, block)), reduce=rows * columns, convert=2 * rows * columns
        ),
        _quantised_touches(packed=False),
        _quantise_mx,
    ),
    "quantise_nvfp4": Operation(  # three more for a scale, to round it and to multiply it; one to pack an element
        lambda _, rows, columns, block: Work(
            alu=rows * (2 * columns + 3 * _blocks_of(columns, block)),
            reduce=rows * columns,
            convert=rows * (2 * columns + _blocks_of(columns, block)),
        ),
        lambda buffers, rows, columns, block: (
            *_quantised_touches(packed=True)(buffers, rows, columns, block),
            read(3, 1, 1),
        ),
        _quantise_nvfp4,
    ),
    "absmax": Operation(
        lambda _, rows, columns, first: Work(reduce=rows * columns, convert=rows * columns),
        lambda _, rows, columns, first: (update(0, 1, 1), read(1, rows, columns)),
        _absmax,
    ),
    "quantise_tensor": Operation(
        lambda _, rows, columns, parts: Work(alu=rows * columns + 1, reduce=parts, convert=2 * rows * columns),
        lambda _, rows, columns, parts: (
            write(0, rows, columns),
            write(1, 1, 1),
            read(2, rows, columns),
            read(3, 1, parts),
        ),
        _quantise_tensor,
    ),
    "dot": Operation(
        _dot_work,
        lambda _, m, n, k, first: (
            update(0, m, n),
            *([read(1, m, k)] * _blocks_of(n, REGISTER_COLUMNS)),
            *([read(2, n, k)] * _blocks_of(m, REGISTER_ROWS)),
        ),
        _dot,
    ),
}
