"""Vector operations of rotary position embedding (Su et al. 2021, arXiv:2104.09864).

A pair of elements is a point in the plane that is turned by the angle of its token and pair. `rope_neox` pairs element
i with i + dim / 2, `rope_interleaved` 2 i with 2 i + 1. Cosines and sines are read from a table, not computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.vector.operation import Operation, Touch, Work, read, write

Array = np.ndarray[Any, Any]


def _turn(blocks: list[Array], heads: int, tokens: int, dim: int, first: slice, second: slice) -> None:
    out, x, table = blocks
    half = dim // 2
    angles = table[: 2 * tokens, :half].astype(np.float32).reshape(tokens, 2, half)
    cosine, sine = angles[:, 0], angles[:, 1]
    points = x[: heads * tokens, :dim].astype(np.float32).reshape(heads, tokens, dim)
    a, b = points[:, :, first], points[:, :, second]
    turned = np.empty_like(points)
    turned[:, :, first] = a * cosine - b * sine
    turned[:, :, second] = b * cosine + a * sine
    out[: heads * tokens, :dim] = turned.reshape(heads * tokens, dim).astype(out.dtype)


def _neox(blocks: list[Array], _: float, heads: int, tokens: int, dim: int) -> None:
    """Turn (i, i + dim/2). Operands: out, x [heads · tokens, dim], table [2 · tokens, dim/2]: cosines above sines."""
    _turn(blocks, heads, tokens, dim, slice(0, dim // 2), slice(dim // 2, dim))


def _interleaved(blocks: list[Array], _: float, heads: int, tokens: int, dim: int) -> None:
    """Turn (2 i, 2 i + 1). Operands as for `rope_neox`."""
    _turn(blocks, heads, tokens, dim, slice(0, dim, 2), slice(1, dim, 2))


def _work(heads: int, tokens: int, dim: int) -> Work:
    """Per pair four multiplications and two additions; a rounding per element."""
    elements = heads * tokens * dim
    return Work(alu=3 * elements, convert=elements)


def _touches(heads: int, tokens: int, dim: int) -> tuple[Touch, ...]:
    rows = heads * tokens
    return write(0, rows, dim), read(1, rows, dim), read(2, 2 * tokens, dim // 2)


OPERATIONS: dict[str, Operation] = {
    name: Operation(
        lambda _, heads, tokens, dim: _work(heads, tokens, dim),
        lambda _, heads, tokens, dim: _touches(heads, tokens, dim),
        values,
    )
    for name, values in (("rope_neox", _neox), ("rope_interleaved", _interleaved))
}
