"""Vector operations over whole rows: layer norm, root-mean-square norm, also of a sum with the residual, and softmax.

Rows are reduced in fp32; outputs are rounded to their dtype, and the norm of a sum is the norm of the rounded sum that
is stored. Not modelled: rows wider than a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.vector.operation import Operation, Work, read, rounded, write

Array = np.ndarray[Any, Any]


def _normed(x: Array, weight: Array, eps: float) -> Array:
    scale = 1 / np.sqrt(np.mean(x * x, axis=1, keepdims=True, dtype=np.float32) + np.float32(eps))
    normed: Array = x * scale * weight
    return normed


def _rms_norm(blocks: list[Array], eps: float, rows: int, columns: int) -> None:
    """out = x / sqrt(mean(x²) + eps) · weight, row by row. Operands: out, x, weight [1, columns]."""
    out, x, weight = blocks
    wide = x[:rows, :columns].astype(np.float32)
    out[:rows, :columns] = _normed(wide, weight[:1, :columns].astype(np.float32), eps).astype(out.dtype)


def _add_rms_norm(blocks: list[Array], eps: float, rows: int, columns: int) -> None:
    """total = x + residual; out = the norm of total. Operands: out, total, x, residual, weight [1, columns]."""
    out, total, x, residual, weight = blocks
    wide = x[:rows, :columns].astype(np.float32) + residual[:rows, :columns].astype(np.float32)
    total[:rows, :columns] = wide.astype(total.dtype)
    wide = total[:rows, :columns].astype(np.float32)
    out[:rows, :columns] = _normed(wide, weight[:1, :columns].astype(np.float32), eps).astype(out.dtype)


def _layer_norm(blocks: list[Array], eps: float, rows: int, columns: int) -> None:
    """out = (x - mean) / sqrt(variance + eps) · weight + bias. Operands: out, x, weight [1, columns], bias alike."""
    out, x, weight, bias = blocks
    wide = x[:rows, :columns].astype(np.float32)
    centred = wide - wide.mean(axis=1, keepdims=True, dtype=np.float32)
    scale = 1 / np.sqrt(np.mean(centred * centred, axis=1, keepdims=True, dtype=np.float32) + np.float32(eps))
    normed = centred * scale * weight[:1, :columns].astype(np.float32) + bias[:1, :columns].astype(np.float32)
    out[:rows, :columns] = normed.astype(out.dtype)


def _softmax(blocks: list[Array], scale: float, rows: int, columns: int) -> None:
    """out = softmax(scale · x) along each row. Operands: out, x."""
    out, x = blocks
    wide = x[:rows, :columns].astype(np.float32) * np.float32(scale)
    weights = np.exp(wide - wide.max(axis=1, keepdims=True))
    out[:rows, :columns] = (weights / weights.sum(axis=1, keepdims=True)).astype(out.dtype)


# Per element: a norm squares, scales and weighs (3 alu), sums once and rounds; the sum with the residual is one alu and
# one rounding more; a layer norm subtracts the mean and adds the bias (2 alu) and sums once more. Softmax scales,
# subtracts and divides (3 alu), exponentiates, reduces twice, rounds. What is stored in fp32 is not rounded.
OPERATIONS: dict[str, Operation] = {
    "rms_norm": Operation(
        lambda buffers, rows, columns: Work(
            alu=rows * (3 * columns + 3), reduce=rows * columns, convert=rounded(buffers, rows * columns)
        ),
        lambda _, rows, columns: (write(0, rows, columns), read(1, rows, columns), read(2, 1, columns)),
        _rms_norm,
    ),
    "add_rms_norm": Operation(
        lambda buffers, rows, columns: Work(
            alu=rows * (4 * columns + 3), reduce=rows * columns, convert=rounded(buffers, 2 * rows * columns)
        ),
        lambda _, rows, columns: (
            write(0, rows, columns),
            write(1, rows, columns),
            read(2, rows, columns),
            read(3, rows, columns),
            read(4, 1, columns),
        ),
        _add_rms_norm,
    ),
    "layer_norm": Operation(
        lambda buffers, rows, columns: Work(
            alu=rows * (5 * columns + 4), reduce=2 * rows * columns, convert=rounded(buffers, rows * columns)
        ),
        lambda _, rows, columns: (
            write(0, rows, columns),
            read(1, rows, columns),
            read(2, 1, columns),
            read(3, 1, columns),
        ),
        _layer_norm,
    ),
    "softmax": Operation(
        lambda buffers, rows, columns: Work(
            alu=3 * rows * columns,
            exp=rows * columns,
            reduce=2 * rows * columns,
            convert=rounded(buffers, rows * columns),
        ),
        lambda _, rows, columns: (write(0, rows, columns), read(1, rows, columns)),
        _softmax,
    ),
}
