"""Who proposes the next point: one small contract, one file per family, one table of names.

A sampler proposes combinations of a grid and learns what they came to, in the order asked; it is a function of the
study's seed and of the answers alone. The search skips what it has seen, what cannot run and what cannot be better,
and lets the lowest bound decide where a sampler proposes nothing new, so that every sampler ends with a proof.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from explorer.extras import missing

if TYPE_CHECKING:
    from explorer.search.frontier import Frontier, Values
    from explorer.space.grid import Grid

SAMPLERS: Mapping[str, str] = {
    "auto": "chosen by the size of the space, the budget and the number of objectives",
    "exhaustive": "every point that could still be better, lowest bound first",
    "random": "uniform, from the seed",
    "best-first": "lowest bound times what values have been of bounds, learned from knobs; from the seed where unsure",
    "tpe": "Optuna's tree-structured Parzen estimator",
    "nsga2": "Optuna's NSGA-II, a genetic search for fronts",
    "nsga3": "Optuna's NSGA-III, for three objectives and more",
    "cmaes": "Optuna's CMA-ES on the places of choices, one objective (extra `cmaes`)",
    "gp": "Optuna's Gaussian process, at most hundreds of points (extra `gp`)",
}
_FAMILIES = {"exhaustive": "plain", "random": "plain", "best-first": "best_first"}  # others: Optuna's
_NEEDS = {"cmaes": "cmaes", "gp": "torch"}  # what Optuna does not bring


@dataclass(frozen=True)
class Task:
    """What a sampler is made for: the combinations of `grid`, so many `objectives` and `points` at most, a seed."""

    grid: Grid
    frontier: Frontier
    objectives: int
    points: int
    seed: int


@dataclass(frozen=True)
class Proposal:
    """A combination, and what the sampler needs to learn of it later."""

    index: int
    token: Any = None


class Sampler(Protocol):
    """Proposes and learns."""

    def propose(self) -> Proposal | None:
        """Return the next proposal, None to leave it to the lowest bound."""

    def adopt(self, index: int) -> Proposal:
        """Return a proposal for a combination that was chosen elsewhere."""

    def learn(self, proposal: Proposal, values: Values | None, bounds: Values | None) -> None:
        """Take what became of a proposal.

        Without values it was refused, or pruned by the `bounds` that are given then.
        """


def choose(name: str, combinations: int, points: int, objectives: int) -> tuple[str, str]:
    """Return the sampler that `name` stands for, and why where that is a choice."""
    if name != "auto":
        return name, ""
    sizes = f"{combinations} combinations for {points} points"  # of which the baseline is one, also where it is extra
    if combinations <= points:
        return "exhaustive", sizes
    if objectives > 1 and points >= 1000:
        genetic = "nsga2" if objectives == 2 else "nsga3"
        return genetic, f"{objectives} objectives and a budget of {points} points"
    return "best-first", sizes


def check(name: str, objectives: int) -> None:
    """Raise ValueError where the library of a sampler is not installed, or it takes fewer objectives."""
    if name == "cmaes" and objectives > 1:
        raise ValueError(f"sampler: cmaes takes one objective, there are {objectives}; allowed: nsga2, best-first")
    needed = _NEEDS.get(name)
    if needed and importlib.util.find_spec(needed) is None:
        raise missing(f"sampler: {name}", needed, name)


def make(name: str, task: Task) -> Sampler:
    """Return the sampler of a name other than auto that `check` passes."""
    module = importlib.import_module(f"explorer.search.samplers.{_FAMILIES.get(name, 'optuna_family')}")
    sampler: Sampler = module.make(name, task)
    return sampler
