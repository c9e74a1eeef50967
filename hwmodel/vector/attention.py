"""Vector operations of attention: online softmax over tiles, masks, sinks, soft caps, and merging partial results.

Operands of 8 bits have a scale each, of queries, keys and values: a block [1, 3] that comes last among the operands
where there is one. Scores are multiplied by the first two, results by the third and by the scalar of the instruction;
kernels fold both into factors that they have anyway, so that they cost next to nothing. Probabilities in e4m3 are
stored times WEIGHT_PEAK, which that scalar takes back: FlashAttention-3 adds 8 to the exponents of two
(Max_offset in hopper/flash_fwd_kernel_sm90.h), so that weights from 2^-17 on are not rounded to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hwmodel.program import DTYPES, Buffer
from hwmodel.vector.operation import Operation, Touch, Work, read, update, write

Array = np.ndarray[Any, Any]
WEIGHT_PEAK = {"fp8_e4m3": 256.0}  # what a probability of one is stored as, by the type it is stored in; others: 1
_PEAKS = {DTYPES[name]: np.float32(peak) for name, peak in WEIGHT_PEAK.items()}


def _softmax_step(blocks: list[Array], scale: float, rows: int, columns: int, first: int) -> None:
    """Online softmax over one tile of scores [rows, columns], multiplied by `scale`.

    Operands: probabilities, scores, running maximum [rows, 1], running sum [rows, 1], accumulator [rows, width], and
    scales or not. The first tile (`first` > 0) resets maximum, sum and accumulator.
    """
    _online(blocks, blocks[1][:rows, :columns].astype(np.float32) * _scale(blocks, 5, scale), first)


def _masked_softmax_step(
    blocks: list[Array], scale: float, rows: int, columns: int, first: int, offset: int, heads: int, window: int
) -> None:
    """A softmax step in which a row sees some columns only. Operands as there.

    Row r belongs to the query at position `offset + r // heads`, counted from the position of column 0. It sees the
    columns up to its own position and, where `window` is not 0, only the last `window` of these. A row may see none.
    """
    tile = blocks[1][:rows, :columns].astype(np.float32) * _scale(blocks, 5, scale)
    behind = (offset + np.arange(rows) // heads)[:, None] - np.arange(columns)
    hidden = (behind < 0) | ((behind >= window) if window else False)
    _online(blocks, np.where(hidden, np.float32(-np.inf), tile), first)


def _scale(blocks: list[Array], scales: int, scale: float) -> np.float32:
    """Return `scale` times the scales of queries and keys, where the operand `scales` is there."""
    factor = np.float32(scale)
    return factor * blocks[scales][0, 0] * blocks[scales][0, 1] if len(blocks) > scales else factor


def _out_scale(blocks: list[Array], scales: int, scale: float) -> np.float32:
    """Return `scale` times the scale of values, where the operand `scales` is there; else 1."""
    return np.float32(scale) * blocks[scales][0, 2] if len(blocks) > scales else np.float32(1)


def _online(blocks: list[Array], tile: Array, first: int) -> None:
    probabilities, _, maximum, total, accumulator = blocks[:5]
    rows, columns = tile.shape
    if first > 0:
        maximum[:rows], total[:rows], accumulator[:rows] = -np.inf, 0.0, 0.0
    new = np.maximum(maximum[:rows], tile.max(axis=1, keepdims=True))
    shift = np.where(new == -np.inf, np.float32(0), new)  # a row that has seen nothing yet
    factor = np.exp(maximum[:rows] - shift)
    weights = np.exp(tile - shift)
    peak = _PEAKS.get(probabilities.dtype, np.float32(1))
    probabilities[:rows, :columns] = (weights * peak).astype(probabilities.dtype)
    total[:rows] = total[:rows] * factor + weights.sum(axis=1, keepdims=True)
    accumulator[:rows] *= factor
    maximum[:rows] = new


def _start_with_sink(blocks: list[Array], _: float, rows: int, heads: int, present: int) -> None:
    """Begin an online softmax as if it had already seen a sink: a logit per head that weighs no value.

    Operands: maximum, sum, accumulator, sinks [1, heads]; row r has the head `r % heads`. Where `present` is 0 it
    begins with nothing seen.
    """
    maximum, total, accumulator, sinks = blocks
    accumulator[:rows] = 0.0
    if present > 0:
        maximum[:rows, 0], total[:rows] = sinks[0, np.arange(rows) % heads], 1.0
    else:
        maximum[:rows], total[:rows] = -np.inf, 0.0


def _soft_cap(blocks: list[Array], scale: float, rows: int, columns: int, cap: int) -> None:
    """scores = cap * tanh(scores * scale / cap). Operands: scores [rows, columns], and scales or not."""
    scores = blocks[0]
    tile = scores[:rows, :columns].astype(np.float32) * _scale(blocks, 1, scale / cap)
    scores[:rows, :columns] = np.float32(cap) * np.tanh(tile)


def _normalise(blocks: list[Array], scale: float, rows: int, columns: int, begin: int = 0) -> None:
    """out = accumulator / sum, rounded to the dtype of out. Operands: out, accumulator, sum, and scales or not.

    `begin`: the first row of accumulator and sum that is taken.
    """
    out, here = blocks[0], slice(begin, begin + rows)
    accumulator, total = (block[here] for block in blocks[1:3])
    divisor = total / _out_scale(blocks, 3, scale)
    out[:rows, :columns] = (accumulator[:, :columns] / divisor).astype(out.dtype)


def _partial(blocks: list[Array], scale: float, rows: int, columns: int, begin: int = 0) -> None:
    """Normalise a partial result and append its log-sum-exp as one more column; of a row that saw nothing 0 and -inf.

    Operands: out [rows, columns + 1], accumulator, maximum, sum, and scales or not. `begin` as for normalise.
    """
    out, here = blocks[0], slice(begin, begin + rows)
    accumulator, maximum, total = (block[here] for block in blocks[1:4])
    divisor = np.where(total == 0, np.float32(1), total)
    out[:rows, :columns] = accumulator[:, :columns] / (divisor / _out_scale(blocks, 4, scale))
    out[:rows, columns] = (maximum + np.log(divisor))[:, 0]


def _combine(blocks: list[Array], _: float, parts: int, rows: int, columns: int) -> None:
    """Merge `parts` partial results [parts * rows, columns + 1] by their log-sum-exps. Operands: out, partials."""
    out, partials = blocks
    stack = partials[: parts * rows].reshape(parts, rows, columns + 1).astype(np.float32)
    weights = np.exp(stack[:, :, -1] - stack[:, :, -1].max(axis=0))
    merged = (stack[:, :, :-1] * weights[:, :, None]).sum(axis=0) / weights.sum(axis=0)[:, None]
    out[:rows, :columns] = merged.astype(out.dtype)


def _softmax_work(buffers: Sequence[Buffer], rows: int, columns: int) -> Work:
    """Per element a step scales and subtracts (2 alu), exponentiates, reduces twice (maximum, sum) and rounds.

    It also rescales the accumulator (1 alu each).
    """
    return Work(
        alu=rows * (2 * columns + buffers[4].columns),
        exp=rows * (columns + 1),
        reduce=2 * rows * columns,
        convert=rows * columns,
    )


def _masked_work(
    buffers: Sequence[Buffer], rows: int, columns: int, _: int, offset: int, heads: int, window: int
) -> Work:
    """Per element a comparison and a selection (2 alu) for each edge that runs through the tile: own position, window.

    Whether one does is known from the tile's corners, as kernels decide it per tile.
    """
    edges = (columns - 1 > offset) + (window > 0 and offset + (rows - 1) // heads >= window)
    work = _softmax_work(buffers, rows, columns)
    return replace(work, alu=work.alu + 2 * edges * rows * columns)


def _softmax_touches(buffers: Sequence[Buffer], rows: int, columns: int, *_: int) -> tuple[Touch, ...]:
    state = update(2, rows, 1), update(3, rows, 1), update(4, rows, buffers[4].columns)
    return (write(0, rows, columns), read(1, rows, columns), *state, *_scales(buffers, 5))


def _scales(buffers: Sequence[Buffer], operand: int) -> tuple[Touch, ...]:
    return (read(operand, 1, 3),) if len(buffers) > operand else ()


def _division(buffers: Sequence[Buffer], scales: int, rows: int, columns: int) -> int:
    """Return the divisions of a result, and of a row's sum by the scale of values where there is one."""
    return rows * (columns + 1) if len(buffers) > scales else rows * columns


OPERATIONS: dict[str, Operation] = {
    "softmax_step": Operation(
        lambda buffers, rows, columns, first: _softmax_work(buffers, rows, columns), _softmax_touches, _softmax_step
    ),
    "masked_softmax_step": Operation(_masked_work, _softmax_touches, _masked_softmax_step),
    "start_with_sink": Operation(
        lambda buffers, rows, heads, present: Work(alu=rows * (2 + buffers[2].columns)),
        lambda buffers, rows, heads, present: (
            write(0, rows, 1),
            write(1, rows, 1),
            write(2, rows, buffers[2].columns),
            read(3, 1, heads),
        ),
        _start_with_sink,
    ),
    # a hyperbolic tangent is one exp, as the special-function units of GPUs have it (PTX ISA: tanh.approx)
    "soft_cap": Operation(
        lambda _, rows, columns, cap: Work(alu=2 * rows * columns, exp=rows * columns),
        lambda buffers, rows, columns, cap: (update(0, rows, columns), *_scales(buffers, 1)),
        _soft_cap,
    ),
    "normalise": Operation(
        lambda buffers, rows, columns, *_: Work(alu=_division(buffers, 3, rows, columns), convert=rows * columns),
        lambda buffers, rows, columns, *_: (  # as of the first rows: all lie alike in the banks
            write(0, rows, columns),
            read(1, rows, columns),
            read(2, rows, 1),
            *_scales(buffers, 3),
        ),
        _normalise,
        costed=2,
        counts=(2, 3),
    ),
    "partial": Operation(
        lambda buffers, rows, columns, *_: Work(alu=_division(buffers, 4, rows, columns), exp=rows),
        lambda buffers, rows, columns, *_: (
            write(0, rows, columns + 1),
            read(1, rows, columns),
            read(2, rows, 1),
            read(3, rows, 1),
            *_scales(buffers, 4),
        ),
        _partial,
        costed=2,
        counts=(2, 3),
    ),
    "combine": Operation(
        lambda _, parts, rows, columns: Work(
            alu=2 * parts * rows * columns, exp=parts * rows, reduce=parts * rows, convert=rows * columns
        ),
        lambda _, parts, rows, columns: (write(0, rows, columns), read(1, parts * rows, columns + 1)),
        _combine,
    ),
}
