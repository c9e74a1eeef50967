"""The values of the selection before sampling: the k largest logits of a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def top_k(logits: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the `k` largest of every row in falling order, and their indices; equal ones by the lower index.

    Shapes: logits [rows, columns] -> [rows, k] twice, values in the type of the logits. Raises ValueError unless
    1 <= k <= columns.
    """
    if logits.ndim != 2 or not 1 <= k <= logits.shape[1]:
        raise ValueError(f"top_k: logits are {logits.shape} and k {k}; allowed: [rows, columns], 1 to columns")
    order = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :k].astype(np.int64)
    return np.take_along_axis(logits, order, axis=1), order
