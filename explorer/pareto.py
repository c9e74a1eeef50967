"""What several objectives make of a set of points: the front, and how much of the space it covers.

Pure functions of arrays; smaller is better in every column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def covers(value: ArrayLike, others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which of `others` float64[n, objective] are nowhere better than `value` float64[objective]."""
    return np.asarray((others >= np.asarray(value)).all(axis=1))


def front(values: ArrayLike) -> NDArray[np.int64]:
    """Return the rows of `values` float64[n, objective] that no other beats, in order; of equal ones the first."""
    found: list[int] = []
    rows = np.asarray(values, np.float64)
    for place in np.lexsort(rows.T[::-1]).tolist():  # what beats a row stands before it
        if not any((rows[other] <= rows[place]).all() for other in found):
            found.append(place)
    return np.array(sorted(found), np.int64)


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Return the volume between the points float64[n, objective] and a reference that is worse in every objective."""
    top = np.asarray(reference, np.float64)
    rows = np.asarray(values, np.float64).reshape(-1, len(top))
    rows = rows[(rows < top).all(axis=1)]
    return _volume(rows[front(rows)] if len(rows) else rows, top)


def _volume(rows: NDArray[np.float64], top: NDArray[np.float64]) -> float:
    """Return the volume by slices along the last objective."""
    if not len(rows):
        return 0.0
    if len(top) == 1:
        return float(top[0] - rows[:, 0].min())
    rows = rows[np.argsort(rows[:, -1], kind="stable")]
    ends = np.append(rows[1:, -1], top[-1])
    slices = (
        float(end - row[-1]) * _volume(rows[: place + 1, :-1], top[:-1])
        for place, (row, end) in enumerate(zip(rows, ends, strict=True))
    )
    return float(sum(slices))
