"""The samplers that learn nothing: the lowest bound always, and uniform draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from explorer.frontier import Values
from explorer.samplers import Proposal, Sampler, Task


class Exhaustive:
    """Leaves every choice to the lowest bound."""

    def __init__(self, task: Task) -> None:
        pass

    def propose(self) -> Proposal | None:
        return None

    def adopt(self, index: int) -> Proposal:
        return Proposal(index)

    def learn(self, proposal: Proposal, values: Values | None, bounds: Values | None) -> None:
        pass


class Random(Exhaustive):
    """Draws every combination with the same chance."""

    def __init__(self, task: Task) -> None:
        self._rng = np.random.default_rng(task.seed)
        self._size = task.grid.size

    def propose(self) -> Proposal | None:
        return Proposal(int(self._rng.integers(self._size)))


PLAIN: Mapping[str, Callable[[Task], Sampler]] = {"exhaustive": Exhaustive, "random": Random}


def make(name: str, task: Task) -> Sampler:
    """Return a sampler of this family."""
    return PLAIN[name](task)
