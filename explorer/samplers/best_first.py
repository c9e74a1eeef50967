"""Our own sampler: the point whose value is expected to be least, from its bound and from what was learned of others.

What a point takes is its bound times a factor, by how much it misses the bound. The logarithm of the factor is a sum
of what each knob's choice adds, and of what choices add together: a Gaussian process over the levels of knobs whose
kernel is the mean similarity of two points over their knobs, and its cube for what goes together (equal texts are
similar, numbers the more so the nearer they are in order). A point is worth its expected value less a multiple of how
unsure that is, drawn from the seed; points under way count as seen where nothing is known of them but that. Every
fourth choice is left to the lowest bound, which the proof needs. Several objectives are weighed against one another by
weights drawn anew for each proposal.

Not modelled: noise, which a simulation has none of, beyond what the kernel cannot explain.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from explorer.frontier import Values
from explorer.grid import Index
from explorer.knobs import Knob
from explorer.samplers import Proposal, Task

POOL = 384  # assumed: open points that are weighed against one another, lowest bounds first
DRAWN = 128  # assumed: more of them, from anywhere
SEEN = 96  # assumed: values that the process is fitted to, the best and the latest: some milliseconds
EVERY = 4  # assumed: of so many proposals one is the lowest bound
NOISE = 1e-2  # assumed: of the variance, what levels do not explain

Array = NDArray[np.float64]


class BestFirst:
    """Bound times learned factor."""

    def __init__(self, name: str, task: Task) -> None:
        self._grid, self._frontier = task.grid, task.frontier
        self._rng = np.random.default_rng(task.seed)
        self._ranks = [_ranks(knob) for knob in task.grid.knobs]
        self._asked = 0
        self._pending: dict[int, Index] = {}
        self._levels: list[Index] = []
        self._values: list[Array | None] = []
        self._bounds: list[Array] = []

    def propose(self) -> Proposal | None:
        self._asked += 1
        if self._asked % EVERY == 0:
            return None
        pool = self._pool()
        if not len(pool):
            return None
        return self.adopt(int(pool[int(np.argmin(self._worth(pool)))]))

    def adopt(self, index: int) -> Proposal:
        if index < self._grid.size:
            self._pending[index] = self._grid.levels(np.array([index]))[0]
        return Proposal(index)

    def learn(self, proposal: Proposal, values: Values | None, bounds: Values | None) -> None:
        """Take the values; a refused point counts as worse than all, a pruned one says nothing."""
        levels = self._pending.pop(proposal.index, None)
        if levels is None or (values is None and bounds is not None):
            return
        self._levels.append(levels)
        self._values.append(None if values is None else np.log(np.maximum(values, _TINY)))
        self._bounds.append(self._log_bounds(np.array([proposal.index]))[0])

    def _log_bounds(self, index: Index) -> Array:
        """Return the logarithms of bounds, 0 where a bound says nothing."""
        bounds = self._frontier.bounds[index]
        return np.asarray(np.log(np.where(bounds > 0, bounds, 1.0)))

    def _pool(self) -> Index:
        """Return open combinations of the grid: the lowest bounds, and some from anywhere."""
        lowest = self._frontier.lowest_few(POOL)
        drawn = self._frontier.order[self._rng.integers(len(self._frontier.order), size=DRAWN)]
        drawn = drawn[[self._frontier.is_open(int(index)) for index in drawn]]
        found = np.unique(np.concatenate([lowest, drawn]))
        return found[found < self._grid.size]

    def _worth(self, pool: Index) -> Array:
        """Return what each point of the pool is expected to take, less what is hoped for; the least is best."""
        levels = self._grid.levels(pool)
        log_bounds = self._log_bounds(pool)
        seen = self._chosen()
        known = np.array([self._levels[place] for place in seen], np.int64).reshape(len(seen), levels.shape[1])
        pending = np.array(list(self._pending.values()), np.int64).reshape(-1, levels.shape[1])
        factors = self._factors(seen)
        middle, spread = _scale(factors)
        mean = middle + spread * self._expected(levels, known, (factors - middle) / spread)
        unsure = self._unsure(levels, np.concatenate([known, pending]))
        hope = abs(self._rng.normal()) * unsure[:, None] * spread
        return self._weighed(log_bounds + mean - hope)

    def _chosen(self) -> list[int]:
        """Return the places of the values to learn from: all, or of many the best and the latest."""
        count = len(self._values)
        if count <= SEEN:
            return list(range(count))
        worst = np.inf
        totals = [worst if value is None else float(value.sum()) for value in self._values]
        best = np.argsort(totals, kind="stable")[: SEEN // 2].tolist()
        latest = [place for place in range(count - 1, -1, -1) if place not in set(best)]
        return sorted(best + latest[: SEEN - len(best)])

    def _factors(self, seen: list[int]) -> Array:
        """Return by how much seen points missed their bounds, as logarithms; refused ones more than all others."""
        found = [None if (v := self._values[p]) is None else v - self._bounds[p] for p in seen]
        valid = [factor for factor in found if factor is not None]
        width = self._frontier.bounds.shape[1]
        worst = np.max(valid, axis=0) + 1.0 if valid else np.ones(width)
        return np.array([worst if factor is None else factor for factor in found]).reshape(len(seen), width)

    def _expected(self, levels: Index, known: Index, factors: Array) -> Array:
        if not len(known):
            return np.zeros((len(levels), factors.shape[1]))
        inner = self._kernel(known, known) + NOISE * np.eye(len(known))
        return np.asarray(self._kernel(levels, known) @ np.linalg.solve(inner, factors))

    def _unsure(self, levels: Index, known: Index) -> Array:
        """Return the standard deviation of what is expected, in parts of that of all factors."""
        if not len(known):
            return np.ones(len(levels))
        inner = self._kernel(known, known) + NOISE * np.eye(len(known))
        cross = self._kernel(levels, known)
        explained = (np.linalg.solve(inner, cross.T).T * cross).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(1 - explained, 0)))

    def _kernel(self, some: Index, others: Index) -> Array:
        similar = np.zeros((len(some), len(others)))
        for place, ranks in enumerate(self._ranks):
            left, right = some[:, place, None], others[None, :, place]
            equal = (left == right).astype(np.float64)
            if ranks is not None:
                equal = 0.5 * equal + 0.5 * (1 - np.abs(ranks[left] - ranks[right]))
            similar += equal
        similar /= len(self._ranks)
        return np.asarray(0.5 * similar + 0.5 * similar**3)

    def _weighed(self, logs: Array) -> Array:
        """Return one number per point: the logarithm, or of several objectives the worst by weights from the seed."""
        if logs.shape[1] == 1:
            return logs[:, 0]
        weights = self._rng.dirichlet(np.ones(logs.shape[1]))
        low, high = logs.min(axis=0), logs.max(axis=0)
        scaled = (logs - low) / np.where(high > low, high - low, 1.0)
        return np.asarray((weights * scaled).max(axis=1) + 0.05 * (weights * scaled).sum(axis=1))


_TINY = 1e-12


def _scale(factors: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation of the logarithms of factors; of none, what is assumed of them."""
    if not len(factors):
        return np.zeros(factors.shape[1]), np.full(factors.shape[1], 0.2)
    return factors.mean(axis=0), np.maximum(factors.std(axis=0), 0.02)


def _ranks(knob: Knob) -> Array | None:
    """Return the places of numbers in the order of size, scaled to 0 to 1; None for texts. A default has the middle."""
    if any(isinstance(choice, bool | str) for choice in knob.choices):
        return None
    order = np.argsort(np.array(knob.choices, np.float64), kind="stable")
    ranks = np.empty(len(order) + 1)
    ranks[order] = np.arange(len(order)) / max(1, len(order) - 1)
    ranks[-1] = 0.5
    return ranks


def make(name: str, task: Task) -> BestFirst:
    """Return the sampler."""
    return BestFirst(name, task)
