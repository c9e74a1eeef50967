"""Vector operations of attention: online softmax over tiles, partial results and their merging."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.vector.operation import Operation, Work, read, update, write

Array = np.ndarray[Any, Any]


def _softmax_step(blocks: list[Array], scale: float, rows: int, columns: int, first: int) -> None:
    """Online softmax over one tile of scores [rows, columns], multiplied by `scale`.

    Operands: probabilities, scores, running maximum [rows, 1], running sum [rows, 1], accumulator [rows, width].
    The first tile (`first` > 0) resets maximum, sum and accumulator.
    """
    probabilities, scores, maximum, total, accumulator = blocks
    if first > 0:
        maximum[:rows], total[:rows], accumulator[:rows] = -np.inf, 0.0, 0.0
    tile = scores[:rows, :columns].astype(np.float32) * np.float32(scale)
    new = np.maximum(maximum[:rows], tile.max(axis=1, keepdims=True))
    factor = np.exp(maximum[:rows] - new)
    weights = np.exp(tile - new)
    probabilities[:rows, :columns] = weights.astype(probabilities.dtype)
    total[:rows] = total[:rows] * factor + weights.sum(axis=1, keepdims=True)
    accumulator[:rows] *= factor
    maximum[:rows] = new


def _normalise(blocks: list[Array], _: float, rows: int, columns: int) -> None:
    """out = accumulator / sum, rounded to the dtype of out. Operands: out, accumulator, sum."""
    out, accumulator, total = blocks
    out[:rows, :columns] = (accumulator[:rows, :columns] / total[:rows]).astype(out.dtype)


def _partial(blocks: list[Array], _: float, rows: int, columns: int) -> None:
    """Normalise a partial result and append its log-sum-exp as one more column.

    Operands: out [rows, columns + 1], accumulator, maximum, sum.
    """
    out, accumulator, maximum, total = blocks
    out[:rows, :columns] = accumulator[:rows, :columns] / total[:rows]
    out[:rows, columns] = (maximum[:rows] + np.log(total[:rows]))[:, 0]


def _combine(blocks: list[Array], _: float, parts: int, rows: int, columns: int) -> None:
    """Merge `parts` partial results [parts * rows, columns + 1] by their log-sum-exps. Operands: out, partials."""
    out, partials = blocks
    stack = partials[: parts * rows].reshape(parts, rows, columns + 1).astype(np.float32)
    weights = np.exp(stack[:, :, -1] - stack[:, :, -1].max(axis=0))
    merged = (stack[:, :, :-1] * weights[:, :, None]).sum(axis=0) / weights.sum(axis=0)[:, None]
    out[:rows, :columns] = merged.astype(out.dtype)


# Per element: a softmax step scales and subtracts (2 alu), exponentiates, reduces twice (maximum, sum), rounds,
# and rescales the accumulator of `width` columns (1 alu each).
OPERATIONS: dict[str, Operation] = {
    "softmax_step": Operation(
        lambda buffers, rows, columns, first: Work(
            alu=rows * (2 * columns + buffers[4].columns),
            exp=rows * (columns + 1),
            reduce=2 * rows * columns,
            convert=rows * columns,
        ),
        lambda buffers, rows, columns, first: (
            write(0, rows, columns),
            read(1, rows, columns),
            update(2, rows, 1),
            update(3, rows, 1),
            update(4, rows, buffers[4].columns),
        ),
        _softmax_step,
    ),
    "normalise": Operation(
        lambda _, rows, columns: Work(alu=rows * columns, convert=rows * columns),
        lambda _, rows, columns: (write(0, rows, columns), read(1, rows, columns), read(2, rows, 1)),
        _normalise,
    ),
    "partial": Operation(
        lambda _, rows, columns: Work(alu=rows * columns, exp=rows),
        lambda _, rows, columns: (
            write(0, rows, columns + 1),
            read(1, rows, columns),
            read(2, rows, 1),
            read(3, rows, 1),
        ),
        _partial,
    ),
    "combine": Operation(
        lambda _, parts, rows, columns: Work(
            alu=2 * parts * rows * columns, exp=parts * rows, reduce=parts * rows, convert=rows * columns
        ),
        lambda _, parts, rows, columns: (write(0, rows, columns), read(1, parts * rows, columns + 1)),
        _combine,
    ),
}
