"""How a search stands: which points are unseen, which of them could still be better, and what that proves.

It stands beside `search`, which tells it every point that was asked for and every value that came back, and asks it
for the lowest bound and for the certificate. All of it is arrays over combinations. A point is covered when a simulated
one is nowhere worse than its bounds: it can be nowhere better. The order of bounds is made once; what is asked, known
or covered stays so, so that places in it only move forward.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from explorer.certificate import Certificate
from explorer.pareto import covers

WINDOW = 1 << 14  # points of the order that are looked at together

Values = tuple[float, ...]


class Frontier:
    """The state of a search over points with `bounds` float64[n, objective], those that are `alive`."""

    def __init__(self, bounds: NDArray[np.float64], alive: NDArray[np.bool_]) -> None:
        self.bounds = bounds
        self.front: list[Values] = []
        self.best = np.full(bounds.shape[1], np.inf)
        self._open = alive.copy()  # neither asked for nor covered
        self._unknown = alive.copy()  # without a value so far
        scale = [float(np.nanmedian(column[alive])) or 1.0 for column in bounds.T]
        score = (bounds / np.array(scale)).sum(axis=1) if len(scale) > 1 else bounds[:, 0]
        self.order = _ascending(score, alive)
        self._columns = [self.order] if len(scale) == 1 else [_ascending(column, alive) for column in bounds.T]
        self._next = 0
        self._least = [0] * len(scale)

    def ask(self, index: int) -> None:
        """Note that a point was asked for."""
        self._open[index] = False

    def tell(self, index: int, values: Values | None) -> None:
        """Note what became of a point: its values, or None where it has none."""
        self.ask(index)
        self._unknown[index] = False
        if values is None or any(all(o <= v for o, v in zip(other, values, strict=True)) for other in self.front):
            return
        self.front = [o for o in self.front if not all(v <= b for v, b in zip(values, o, strict=True))] + [values]
        self.best = np.minimum(self.best, values)
        self._open &= ~covers(values, self.bounds)

    def is_open(self, index: int) -> bool:
        """Tell whether a point is unseen and could be better than what was found."""
        return bool(self._open[index])

    def beaten(self, index: int) -> bool:
        """Tell whether a point that was found is nowhere worse than the bounds of another, and somewhere better."""
        bound = self.bounds[index].tolist()
        return any(
            all(v <= b for v, b in zip(values, bound, strict=True)) and list(values) != bound for values in self.front
        )

    def lowest(self) -> int | None:
        """Return the open point with the lowest bound, None when no unseen point can be better than what was found."""
        while self._next < len(self.order) and not self._open[self.order[self._next]]:
            self._next += 1
        return int(self.order[self._next]) if self._next < len(self.order) else None

    def lowest_few(self, most: int) -> NDArray[np.int64]:
        """Return up to `most` open points, lowest bounds first."""
        found: list[NDArray[np.int64]] = []
        for start in range(self._next, len(self.order), WINDOW):
            window = self.order[start : start + WINDOW]
            found.append(window[self._open[window]])
            if sum(map(len, found)) >= most:
                break
        return np.concatenate(found)[:most] if found else self.order[:0]

    def certificates(self) -> tuple[Certificate, ...]:
        """Return what is proven of every objective."""
        found = []
        for column, order in enumerate(self._columns):
            place = self._least[column]
            while place < len(order) and not self._unknown[order[place]]:
                place += 1
            self._least[column] = place
            best = float(self.best[column])
            least = float(self.bounds[order[place], column]) if place < len(order) else best
            found.append(Certificate(min(best, least), best))
        return tuple(found)


def _ascending(score: NDArray[np.float64], alive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the living points by score, equal ones as written."""
    living = np.flatnonzero(alive)
    return np.asarray(living[np.argsort(score[living], kind="stable")])
