"""Vector operations that treat elements alike: rounding, scaled rounding, sums of partial results."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.vector.operation import Operation, Work, read, write

Array = np.ndarray[Any, Any]


def _convert(blocks: list[Array], _: float, rows: int, columns: int) -> None:
    """Copy with rounding to the dtype of the destination. Operands: out, source."""
    out, source = blocks
    out[:rows, :columns] = source[:rows, :columns].astype(out.dtype)


def _sum(blocks: list[Array], _: float, parts: int, rows: int, columns: int) -> None:
    """Add `parts` partial results [parts * rows, columns]. Operands: out, partials."""
    out, partials = blocks
    stack = partials[: parts * rows, :columns].reshape(parts, rows, columns)
    out[:rows, :columns] = stack.sum(axis=0, dtype=np.float32).astype(out.dtype)


def _quantise(blocks: list[Array], largest: float, groups: int, rows: int, columns: int) -> None:
    """out = source / scale, held within ±`largest`. Operands: out, source [groups · rows, columns], scale [1, 1]."""
    out, source, scale = blocks
    wide = source[: groups * rows, :columns].astype(np.float32)
    scaled = np.clip(wide / np.float32(scale[0, 0]), -largest, largest)
    out[: groups * rows, :columns] = scaled.astype(out.dtype)


OPERATIONS: dict[str, Operation] = {
    "convert": Operation(
        lambda _, rows, columns: Work(convert=rows * columns),
        lambda _, rows, columns: (write(0, rows, columns), read(1, rows, columns)),
        _convert,
    ),
    "sum": Operation(
        lambda _, parts, rows, columns: Work(alu=parts * rows * columns, convert=rows * columns),
        lambda _, parts, rows, columns: (write(0, rows, columns), read(1, parts * rows, columns)),
        _sum,
    ),
    "quantise": Operation(
        lambda _, groups, rows, columns: Work(alu=3 * groups * rows * columns, convert=groups * rows * columns),
        lambda _, groups, rows, columns: (
            write(0, groups * rows, columns),
            read(1, groups * rows, columns),
            read(2, 1, 1),
        ),
        _quantise,
    ),
}
