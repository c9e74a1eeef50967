"""Vector operations of latent attention: widening quantised records, and online softmax with a causal mask."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.vector.operation import Operation, Work, read, update, write

Array = np.ndarray[Any, Any]


def _dequantise(blocks: list[Array], _: float, rows: int, columns: int, groups: int, tail: int) -> None:
    """Multiply `columns` columns by the scale of their group, and put the `tail` columns that have none behind them.

    Operands: out [rows, columns + tail], values [rows, columns], scales [rows, groups], tail [rows, tail]; `groups`
    divides `columns`.
    """
    out, values, scales, rest = blocks
    wide = values[:rows, :columns].astype(np.float32).reshape(rows, groups, -1)
    scaled = wide * scales[:rows, :groups, None].astype(np.float32)
    out[:rows, :columns] = scaled.reshape(rows, columns).astype(out.dtype)
    out[:rows, columns : columns + tail] = rest[:rows, :tail].astype(out.dtype)


def _causal_softmax_step(
    blocks: list[Array], scale: float, rows: int, columns: int, first: int, row: int, visible: int, heads: int
) -> None:
    """Online softmax over one tile of scores [rows, columns], multiplied by `scale`, with a causal mask.

    Row r of the tile is row `row` + r of its sequence, of query (row + r) // heads, and sees the first `visible` +
    query columns; some of the first tile, at least. Operands and `first` as for `softmax_step`.
    """
    probabilities, scores, maximum, total, accumulator = blocks
    if first > 0:
        maximum[:rows], total[:rows], accumulator[:rows] = -np.inf, 0.0, 0.0
    query = (row + np.arange(rows)) // heads
    seen = np.arange(columns) < (visible + query)[:, None]
    tile = np.where(seen, scores[:rows, :columns].astype(np.float32) * np.float32(scale), np.float32(-np.inf))
    new = np.maximum(maximum[:rows], tile.max(axis=1, keepdims=True))
    factor = np.exp(maximum[:rows] - new)
    weights = np.exp(tile - new)
    probabilities[:rows, :columns] = weights.astype(probabilities.dtype)
    total[:rows] = total[:rows] * factor + weights.sum(axis=1, keepdims=True)
    accumulator[:rows] *= factor
    maximum[:rows] = new


# Assumed: an eight-bit value is widened and its product rounded (2 conversions, 1 alu), a tail's copied (1 conversion);
# a masked softmax step compares and selects (2 alu) beyond the plain one.
OPERATIONS: dict[str, Operation] = {
    "dequantise_record": Operation(
        lambda _, rows, columns, groups, tail: Work(alu=rows * columns, convert=rows * (2 * columns + tail)),
        lambda _, rows, columns, groups, tail: (
            write(0, rows, columns + tail),
            read(1, rows, columns),
            read(2, rows, groups),
            read(3, rows, tail),
        ),
        _dequantise,
    ),
    "causal_softmax_step": Operation(
        lambda buffers, rows, columns, *_: Work(
            alu=rows * (4 * columns + buffers[4].columns),
            exp=rows * (columns + 1),
            reduce=2 * rows * columns,
            convert=rows * columns,
        ),
        lambda buffers, rows, columns, *_: (
            write(0, rows, columns),
            read(1, rows, columns),
            update(2, rows, 1),
            update(3, rows, 1),
            update(4, rows, buffers[4].columns),
        ),
        _causal_softmax_step,
        costed=2,
        counts=(6,),
    ),
}
