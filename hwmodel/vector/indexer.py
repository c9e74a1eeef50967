"""Vector operations of sparse attention: the indexer's scores, and the positions of the largest ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.vector.operation import Operation, Work, read, update, write

Array = np.ndarray[Any, Any]


def _index_scores(blocks: list[Array], _: float, queries: int, columns: int, heads: int) -> None:
    """Sum relu(product) times the weight of its head over the heads of every query.

    Operands: out [queries, columns], products [queries * heads, columns], weights [queries, heads].
    """
    out, products, weights = blocks
    positive = np.maximum(products[: queries * heads, :columns].astype(np.float32), np.float32(0))
    weighted = positive.reshape(queries, heads, columns) * weights[:queries, :heads, None].astype(np.float32)
    out[:queries, :columns] = weighted.sum(axis=1, dtype=np.float32)


def _scaled_index_scores(blocks: list[Array], scalar: float, queries: int, columns: int, heads: int) -> None:
    """The same, times the scale of the column's key. Operands: as for `index_scores`, then scales [1, columns]."""
    out, products, weights, scales = blocks
    _index_scores([out, products, weights], scalar, queries, columns, heads)
    out[:queries, :columns] *= scales[:1, :columns].astype(np.float32)


def _select_step(blocks: list[Array], _: float, columns: int, begin: int, top_k: int) -> None:
    """Keep the `top_k` largest of the scores kept so far and of a tile of scores [1, columns] from position `begin` on.

    Operands: positions [1, top_k], ascending, and their scores [1, top_k], both of the min(begin, top_k) kept so far;
    the tile. Of equal scores the lower position stays. At `begin` 0 nothing is kept yet.
    """
    positions, kept, scores = blocks
    before = min(begin, top_k)
    all_scores = np.concatenate([kept[0, :before], scores[0, :columns]])
    all_positions = np.concatenate([positions[0, :before], begin + np.arange(columns, dtype=np.int32)])
    best = np.sort(np.argsort(-all_scores, kind="stable")[:top_k])  # both parts ascend by position: stable is lower
    positions[0, : len(best)] = all_positions[best]
    kept[0, : len(best)] = all_scores[best]


def _selection_work(columns: int, begin: int, top_k: int) -> Work:
    """Assumed: a radix selection over tile and kept scores: four digits of 8 bits, each cut out, compared with the
    digits above (2 alu) and counted (1 reduce); then a comparison and a running sum that compacts (1 alu, 1 reduce).
    """
    elements = columns + min(begin, top_k)
    return Work(alu=9 * elements, reduce=5 * elements)


# Per product: a comparison and a multiplication (2 alu) and a term of a sum over heads (1 reduce).
OPERATIONS: dict[str, Operation] = {
    "index_scores": Operation(
        lambda _, queries, columns, heads: Work(alu=2 * queries * heads * columns, reduce=queries * heads * columns),
        lambda _, queries, columns, heads: (
            write(0, queries, columns),
            read(1, queries * heads, columns),
            read(2, queries, heads),
        ),
        _index_scores,
    ),
    "scaled_index_scores": Operation(
        lambda _, queries, columns, heads: Work(
            alu=(2 * heads + 1) * queries * columns, reduce=queries * heads * columns
        ),
        lambda _, queries, columns, heads: (
            write(0, queries, columns),
            read(1, queries * heads, columns),
            read(2, queries, heads),
            read(3, 1, columns),
        ),
        _scaled_index_scores,
    ),
    "select_step": Operation(
        lambda _, columns, begin, top_k: _selection_work(columns, begin, top_k),
        lambda _, columns, begin, top_k: (
            update(0, 1, min(begin + columns, top_k)),
            update(1, 1, min(begin + columns, top_k)),
            read(2, 1, columns),
        ),
        _select_step,
    ),
}
