"""The vector unit: the named operations a program may use, with their cost and their values side by side.

An operation's cost is a count of fp32 operations by primitive class (alu, exp, reduce, convert); the classes run on
lanes of their own, so an operation takes as long as its slowest class. Values are computed in fp32 and rounded where
a block of a narrower dtype is written. `touches` says which part of which operand an operation reads and writes, each
once and row by row; what these accesses cost, `hwmodel.operands` works out from the layouts of the buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hwmodel.spec import VectorSpec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Work:
    """Counts of fp32 operations by class."""

    alu: int = 0
    exp: int = 0
    reduce: int = 0
    convert: int = 0

    def cycles(self, unit: VectorSpec) -> int:
        lanes = (
            (self.alu, unit.alu),
            (self.exp, unit.exp),
            (self.reduce, unit.reduce),
            (self.convert, unit.convert),
        )
        return max(-(-count // width) for count, width in lanes)


class Touch(NamedTuple):
    """The first rows and columns of an operand that an operation reads, writes or both."""

    operand: int
    rows: int
    columns: int
    reads: bool
    writes: bool


def _read(operand: int, rows: int, columns: int) -> Touch:
    return Touch(operand, rows, columns, True, False)


def _write(operand: int, rows: int, columns: int) -> Touch:
    return Touch(operand, rows, columns, False, True)


def _update(operand: int, rows: int, columns: int) -> Touch:
    return Touch(operand, rows, columns, True, True)


@dataclass(frozen=True)
class Operation:
    """A vector operation: what it counts, what it touches, and its values, which it writes into the operand blocks."""

    work: Callable[..., Work]  # (operand buffers, *sizes)
    touches: Callable[..., tuple[Touch, ...]]  # (operand buffers, *sizes)
    values: Callable[..., None]  # (operand blocks, scalar of the instruction, *sizes)


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


def _convert(blocks: list[Array], _: float, rows: int, columns: int) -> None:
    """Copy with rounding to the dtype of the destination. Operands: out, source."""
    out, source = blocks
    out[:rows, :columns] = source[:rows, :columns].astype(out.dtype)


def _sum(blocks: list[Array], _: float, parts: int, rows: int, columns: int) -> None:
    """Add `parts` partial results [parts * rows, columns]. Operands: out, partials."""
    out, partials = blocks
    stack = partials[: parts * rows, :columns].reshape(parts, rows, columns)
    out[:rows, :columns] = stack.sum(axis=0, dtype=np.float32).astype(out.dtype)


# The counts are assumed: an addition, a multiplication and a division are one alu each, a logarithm is one exp.
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
            _write(0, rows, columns),
            _read(1, rows, columns),
            _update(2, rows, 1),
            _update(3, rows, 1),
            _update(4, rows, buffers[4].columns),
        ),
        _softmax_step,
    ),
    "normalise": Operation(
        lambda _, rows, columns: Work(alu=rows * columns, convert=rows * columns),
        lambda _, rows, columns: (_write(0, rows, columns), _read(1, rows, columns), _read(2, rows, 1)),
        _normalise,
    ),
    "partial": Operation(
        lambda _, rows, columns: Work(alu=rows * columns, exp=rows),
        lambda _, rows, columns: (
            _write(0, rows, columns + 1),
            _read(1, rows, columns),
            _read(2, rows, 1),
            _read(3, rows, 1),
        ),
        _partial,
    ),
    "combine": Operation(
        lambda _, parts, rows, columns: Work(
            alu=2 * parts * rows * columns, exp=parts * rows, reduce=parts * rows, convert=rows * columns
        ),
        lambda _, parts, rows, columns: (_write(0, rows, columns), _read(1, parts * rows, columns + 1)),
        _combine,
    ),
    "convert": Operation(
        lambda _, rows, columns: Work(convert=rows * columns),
        lambda _, rows, columns: (_write(0, rows, columns), _read(1, rows, columns)),
        _convert,
    ),
    "sum": Operation(
        lambda _, parts, rows, columns: Work(alu=parts * rows * columns, convert=rows * columns),
        lambda _, parts, rows, columns: (_write(0, rows, columns), _read(1, parts * rows, columns)),
        _sum,
    ),
}
