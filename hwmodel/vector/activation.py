"""Vector operations of gated activations: SwiGLU, silu(gate) · up, with gate and up side by side or row by row.

Side by side they may be sums of a product of 8 bits, which are scaled first.
Computed in fp32, rounded once to the dtype of the destination.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwmodel.program import Buffer
from hwmodel.vector.operation import Operation, Work, read, rounded, write

Array = np.ndarray[Any, Any]


def _gated(gate: Array, up: Array) -> Array:
    gate, up = gate.astype(np.float32), up.astype(np.float32)
    decay = np.exp(-np.abs(gate))  # at most 1: does not overflow
    sigmoid = np.where(gate >= 0, np.float32(1), decay) / (1 + decay)
    gated: Array = gate * sigmoid * up
    return gated


def _swiglu(blocks: list[Array], _: float, rows: int, columns: int) -> None:
    """out = silu(gate) · up. Operands: out, source [rows, 2 · columns]: the gates of a row, then its ups."""
    out, source = blocks
    gate, up = source[:rows, :columns], source[:rows, columns : 2 * columns]
    out[:rows, :columns] = _gated(gate, up).astype(out.dtype)


def _swiglu_pairs(blocks: list[Array], _: float, rows: int, columns: int) -> None:
    """out = silu(gate) · up. Operands: out, source [2 · rows, columns]: the gates of a row above its ups."""
    out, source = blocks
    pairs = source[: 2 * rows, :columns]
    out[:rows, :columns] = _gated(pairs[::2], pairs[1::2]).astype(out.dtype)


def _swiglu_scaled(blocks: list[Array], _: float, rows: int, columns: int) -> None:
    """out = silu(s gate) · s up, s both scales multiplied. Operands: out, source as of `swiglu`, scales [1, 2]."""
    out, source, scales = blocks
    wide = source[:rows, : 2 * columns].astype(np.float32) * (np.float32(scales[0, 0]) * np.float32(scales[0, 1]))
    out[:rows, :columns] = _gated(wide[:, :columns], wide[:, columns:]).astype(out.dtype)


def _work(buffers: Sequence[Buffer], rows: int, columns: int) -> Work:
    """Per element: an exponential, an addition, a division, two multiplications and a rounding."""
    return Work(alu=4 * rows * columns, exp=rows * columns, convert=rounded(buffers, rows * columns))


OPERATIONS: dict[str, Operation] = {
    "swiglu": Operation(
        _work,
        lambda _, rows, columns: (write(0, rows, columns), read(1, rows, 2 * columns)),
        _swiglu,
    ),
    "swiglu_scaled": Operation(  # two multiplications more
        lambda _, rows, columns: Work(alu=6 * rows * columns + 1, exp=rows * columns, convert=rows * columns),
        lambda _, rows, columns: (write(0, rows, columns), read(1, rows, 2 * columns), read(2, 1, 2)),
        _swiglu_scaled,
    ),
    "swiglu_pairs": Operation(
        _work,
        lambda _, rows, columns: (write(0, rows, columns), read(1, 2 * rows, columns)),
        _swiglu_pairs,
    ),
}
