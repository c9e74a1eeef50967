"""Vector operations over whole rows: layer norm, root-mean-square norm, also of a sum with the residual, and softmax.

Rows are reduced in fp32; outputs are rounded to their dtype, and the norm of a sum is the norm of the rounded sum that
is stored. Of rows wider than a block, one operation reduces a part to a few numbers of the row, with those of the parts
before it, and another takes what they are for the part's result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hwmodel.vector.operation import Operation, Touch, Work, read, rounded, update, write

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


def _rms_part(blocks: list[Array], _: float, rows: int, columns: int, before: int) -> None:
    """Add the squares of a part to those of the `before` columns. Operands: state [rows, 1], x."""
    state, x = blocks
    wide = x[:rows, :columns].astype(np.float32)
    found = np.sum(wide * wide, axis=1, keepdims=True, dtype=np.float32)
    state[:rows] = found if before <= 0 else state[:rows] + found


def _rms_result(blocks: list[Array], eps: float, rows: int, columns: int, total: int) -> None:
    """The root-mean-square norm of a part of rows of `total` columns. Operands: out, state, x, weight [1, columns]."""
    out, state, x, weight = blocks
    scale = 1 / np.sqrt(state[:rows, :1] / np.float32(total) + np.float32(eps))
    normed = x[:rows, :columns].astype(np.float32) * scale * weight[:1, :columns].astype(np.float32)
    out[:rows, :columns] = normed.astype(out.dtype)


def _layer_part(blocks: list[Array], _: float, rows: int, columns: int, before: int) -> None:
    """Merge mean and squared deviations of a part with those of the `before` columns (Chan, Golub, LeVeque 1979).

    Operands: state [rows, 2], x.
    """
    state, x = blocks
    wide = x[:rows, :columns].astype(np.float32)
    mean = wide.mean(axis=1, keepdims=True, dtype=np.float32)
    squares = np.sum((wide - mean) ** 2, axis=1, keepdims=True, dtype=np.float32)
    if before > 0:
        share, ahead = np.float32(columns / (before + columns)), mean - state[:rows, :1]
        squares = state[:rows, 1:2] + squares + ahead * ahead * (np.float32(before) * share)
        mean = state[:rows, :1] + ahead * share
    state[:rows, :1], state[:rows, 1:2] = mean, squares


def _layer_result(blocks: list[Array], eps: float, rows: int, columns: int, total: int) -> None:
    """The layer norm of a part of rows of `total` columns. Operands: out, state, x, weight [1, columns], bias alike."""
    out, state, x, weight, bias = blocks
    scale = 1 / np.sqrt(state[:rows, 1:2] / np.float32(total) + np.float32(eps))
    wide, by = x[:rows, :columns].astype(np.float32), weight[:1, :columns].astype(np.float32)
    normed = (wide - state[:rows, :1]) * scale * by + bias[:1, :columns].astype(np.float32)
    out[:rows, :columns] = normed.astype(out.dtype)


def _softmax_part(blocks: list[Array], scale: float, rows: int, columns: int, before: int) -> None:
    """Merge the maximum of scale · x and the sum of exponentials with those of the `before` columns.

    Operands: state [rows, 2], x.
    """
    state, x = blocks
    wide = x[:rows, :columns].astype(np.float32) * np.float32(scale)
    most = wide.max(axis=1, keepdims=True)
    earlier = np.float32(0)
    if before > 0:
        most = np.maximum(most, state[:rows, :1])
        earlier = state[:rows, 1:2] * np.exp(state[:rows, :1] - most)
    state[:rows, 1:2] = earlier + np.exp(wide - most).sum(axis=1, keepdims=True)
    state[:rows, :1] = most


def _softmax_result(blocks: list[Array], scale: float, rows: int, columns: int) -> None:
    """The softmax of a part. Operands: out, state, x."""
    out, state, x = blocks
    wide = x[:rows, :columns].astype(np.float32) * np.float32(scale)
    out[:rows, :columns] = (np.exp(wide - state[:rows, :1]) / state[:rows, 1:2]).astype(out.dtype)


def _part_touches(numbers: int) -> Callable[..., tuple[Touch, ...]]:
    """Return what an operation touches that updates so many numbers of each row by a part of it."""
    return lambda _, rows, columns, *__: (update(0, rows, numbers), read(1, rows, columns))


# Per element: a norm squares, scales and weighs (3 alu), sums once and rounds; the sum with the residual is one alu and
# one rounding more; a layer norm subtracts the mean and adds the bias (2 alu) and sums once more. Softmax scales,
# subtracts and divides (3 alu), exponentiates, reduces twice, rounds. What is stored in fp32 is not rounded.
# In parts the same is counted in the pass in which it happens, with some operations per row to merge (of a softmax also
# an exponential); a softmax exponentiates in both passes, and scales and subtracts (2 alu) in the first, too.
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
    "rms_part": Operation(
        lambda _, rows, columns, *__: Work(alu=rows * (columns + 1), reduce=rows * columns),
        _part_touches(1),
        _rms_part,
        costed=2,
        counts=(3,),
    ),
    "rms_result": Operation(
        lambda buffers, rows, columns, total: Work(
            alu=rows * (2 * columns + 3), convert=rounded(buffers, rows * columns)
        ),
        lambda _, rows, columns, total: (
            write(0, rows, columns),
            read(1, rows, 1),
            read(2, rows, columns),
            read(3, 1, columns),
        ),
        _rms_result,
    ),
    "layer_part": Operation(
        lambda _, rows, columns, *__: Work(alu=rows * (2 * columns + 9), reduce=2 * rows * columns),
        _part_touches(2),
        _layer_part,
        costed=2,
        counts=(3,),
    ),
    "layer_result": Operation(
        lambda buffers, rows, columns, total: Work(
            alu=rows * (4 * columns + 3), convert=rounded(buffers, rows * columns)
        ),
        lambda _, rows, columns, total: (
            write(0, rows, columns),
            read(1, rows, 2),
            read(2, rows, columns),
            read(3, 1, columns),
            read(4, 1, columns),
        ),
        _layer_result,
    ),
    "softmax_part": Operation(
        lambda _, rows, columns, *__: Work(
            alu=rows * (2 * columns + 4), exp=rows * (columns + 1), reduce=2 * rows * columns
        ),
        _part_touches(2),
        _softmax_part,
        costed=2,
        counts=(3,),
    ),
    "softmax_result": Operation(
        lambda buffers, rows, columns: Work(
            alu=3 * rows * columns, exp=rows * columns, convert=rounded(buffers, rows * columns)
        ),
        lambda _, rows, columns: (write(0, rows, columns), read(1, rows, 2), read(2, rows, columns)),
        _softmax_result,
    ),
}
