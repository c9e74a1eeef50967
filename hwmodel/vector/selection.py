"""Vector operations that select: the k largest of a row, tile by tile, with their indices.

Equal values go by the lower index. The cost is that of selection in one pass as GPUs do it (WarpSelect: Johnson, Douze
and Jégou 2017, arXiv:1702.08734): every element is compared with the smallest of the k that are kept, and once per tile
a queue of k is sorted and merged, k (log2 k)² comparisons. How often a queue is full before, which depends on the
values, is not modelled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.vector.operation import Operation, Work, read, update, write

Array = np.ndarray[Any, Any]


def _top_k(blocks: list[Array], _: float, rows: int, columns: int, k: int, first: int, tile: int) -> None:
    """Keep the k largest of a tile and of the tiles before it, in falling order.

    Operands: values [rows, k], indices [rows, k], source; `first` is the index of the tile's first column, and the
    first tile (`tile` 0) begins anew.
    """
    values, indices, source = blocks
    if tile == 0:
        values[:rows, :k] = -np.inf
        indices[:rows, :k] = np.iinfo(np.int32).max
    here = np.arange(first, first + columns, dtype=np.int32)
    number = np.concatenate([indices[:rows, :k], np.broadcast_to(here, (rows, columns))], axis=1)
    found = np.concatenate([values[:rows, :k], source[:rows, :columns].astype(values.dtype)], axis=1)
    order = np.lexsort((number, -found.astype(np.float32)), axis=1)[:, :k]
    values[:rows, :k] = np.take_along_axis(found, order, axis=1)
    indices[:rows, :k] = np.take_along_axis(number, order, axis=1)


def _merge_top_k(blocks: list[Array], _: float, parts: int, rows: int, k: int) -> None:
    """Merge the k largest of `parts` parts of every row.

    Operands: values [rows, k], indices [rows, k], values and indices of the parts [rows · parts, k].
    """
    values, indices, found, number = blocks
    candidates = found[: rows * parts, :k].reshape(rows, parts * k)
    numbers = number[: rows * parts, :k].reshape(rows, parts * k)
    order = np.lexsort((numbers, -candidates.astype(np.float32)), axis=1)[:, :k]
    values[:rows, :k] = np.take_along_axis(candidates, order, axis=1).astype(values.dtype)
    indices[:rows, :k] = np.take_along_axis(numbers, order, axis=1)


def _work(rows: int, columns: int, k: int) -> Work:
    rounds = (k - 1).bit_length()
    return Work(alu=rows * (columns + k * rounds**2), reduce=rows * k)


OPERATIONS: dict[str, Operation] = {
    "top_k": Operation(
        lambda _, rows, columns, k, *__: _work(rows, columns, k),
        lambda _, rows, columns, k, *__: (update(0, rows, k), update(1, rows, k), read(2, rows, columns)),
        _top_k,
        costed=3,
        counts=(5,),
    ),
    "merge_top_k": Operation(
        lambda _, parts, rows, k: _work(rows, parts * k, k),
        lambda _, parts, rows, k: (
            write(0, rows, k),
            write(1, rows, k),
            read(2, rows * parts, k),
            read(3, rows * parts, k),
        ),
        _merge_top_k,
    ),
}
