"""Vector operations around the experts of a mixture: choosing them, and adding up what they return.

A token's k largest scores are chosen in k passes, each the maximum of the row, as kernels for small k do; equal scores
go by the lower expert. Not modelled: groups of experts, and biases that count for the choice but not for the weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.vector.operation import Operation, Touch, Work, read, write

Array = np.ndarray[Any, Any]


def _choose(blocks: list[Array], scores: Array, topk: int, renormalise: int) -> None:
    weights, ids, _ = blocks
    rows = len(scores)
    chosen = np.argsort(-scores, axis=1, kind="stable")[:, :topk]
    kept = np.take_along_axis(scores, chosen, axis=1)
    if renormalise:
        kept = kept / kept.sum(axis=1, keepdims=True)
    weights[:rows, :topk] = kept.astype(weights.dtype)
    ids[:rows, :topk] = chosen


def _softmax(blocks: list[Array], _: float, rows: int, experts: int, topk: int, renormalise: int) -> None:
    """Choose by softmax(logits). Operands: weights [rows, topk], expert numbers [rows, topk], logits.

    With `renormalise` > 0 the weights of a token add up to one.
    """
    wide = blocks[2][:rows, :experts].astype(np.float32)
    scores = np.exp(wide - wide.max(axis=1, keepdims=True))
    _choose(blocks, scores / scores.sum(axis=1, keepdims=True), topk, renormalise)


def _sigmoid(blocks: list[Array], _: float, rows: int, experts: int, topk: int, renormalise: int) -> None:
    """Choose by 1 / (1 + exp(-logits)). Operands and sizes as for `route_softmax`."""
    wide = blocks[2][:rows, :experts].astype(np.float32)
    decay = np.exp(-np.abs(wide))
    _choose(blocks, np.where(wide >= 0, np.float32(1), decay) / (1 + decay), topk, renormalise)


def _weighted_sum(blocks: list[Array], _: float, topk: int, rows: int, columns: int) -> None:
    """Add the rows of a token, each times its weight.

    Operands: out, source [rows · topk, columns], weights [rows, topk].
    A fourth operand [rows, columns] is added as it is.
    """
    out, source, weights, *rest = blocks
    stack = source[: rows * topk, :columns].reshape(rows, topk, columns).astype(np.float32)
    total = (stack * weights[:rows, :topk, None].astype(np.float32)).sum(axis=1, dtype=np.float32)
    for other in rest:
        total = total + other[:rows, :columns].astype(np.float32)
    out[:rows, :columns] = total.astype(out.dtype)


def _route_touches(rows: int, experts: int, topk: int) -> tuple[Touch, ...]:
    return write(0, rows, topk), write(1, rows, topk), read(2, rows, experts)


def _sum_touches(others: int, topk: int, rows: int, columns: int) -> tuple[Touch, ...]:
    touched = write(0, rows, columns), read(1, rows * topk, columns), read(2, rows, topk)
    return (*touched, *(read(3 + other, rows, columns) for other in range(others)))


# Softmax: subtract, exponentiate, divide, two reductions; sigmoid: exponentiate, add, divide. Then k maxima.
OPERATIONS: dict[str, Operation] = {
    "route_softmax": Operation(
        lambda _, rows, experts, topk, renormalise: Work(
            alu=rows * (2 * experts + topk), exp=rows * experts, reduce=rows * experts * (2 + topk)
        ),
        lambda _, rows, experts, topk, renormalise: _route_touches(rows, experts, topk),
        _softmax,
    ),
    "route_sigmoid": Operation(
        lambda _, rows, experts, topk, renormalise: Work(
            alu=rows * (2 * experts + topk), exp=rows * experts, reduce=rows * experts * topk
        ),
        lambda _, rows, experts, topk, renormalise: _route_touches(rows, experts, topk),
        _sigmoid,
    ),
    "weighted_sum": Operation(
        lambda buffers, topk, rows, columns: Work(
            alu=rows * columns * (2 * topk + len(buffers) - 3), convert=rows * columns
        ),
        lambda buffers, topk, rows, columns: _sum_touches(len(buffers) - 3, topk, rows, columns),
        _weighted_sum,
    ),
}
