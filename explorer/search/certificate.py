"""What a search has proven: no point of the space has less of an objective (time, energy) than `bound`.

Every distinct point stands with its simulated value, or, where it was not simulated, with its lower bound; the
least of these bounds the best possible from below. When it equals the best value found, the best is proven. For several
objectives each has its own certificate, and the front covers a fraction of the unseen points: those whose bounds are
nowhere better than some point of the front, which can therefore add nothing to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from explorer.study.objective import TIME, Objective

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Certificate:
    """`bound` <= the best of the space <= `best`, in the unit of the objective; `gap` is None over a bound of 0."""

    bound: float
    best: float

    @property
    def gap(self) -> float | None:
        return relative_gap(self.best, self.bound)

    @property
    def proven(self) -> bool:
        return self.bound == self.best

    def within(self, tolerance: float | None) -> bool:
        """Tell whether the best is proven to be no more than a tolerance above the best possible."""
        return self.proven or (tolerance is not None and self.best <= self.bound * (1 + tolerance))


def relative_gap(value: float, bound: float) -> float | None:
    """Return by how much of a lower bound a value is above it; None where the bound is 0 and says nothing."""
    if value == bound:
        return 0.0
    return value / bound - 1 if bound else None


def certify(space: pd.DataFrame, rows: pd.DataFrame, objective: Objective = TIME) -> Certificate:
    """Return what `rows` (status, key, the objective) prove about `space` (key, its bound; NaN: cannot run)."""
    simulated = rows[rows["status"] == "simulated"]
    bounds = unseen(space, rows)[objective.bound].dropna()
    best = float(simulated[objective.metric].min())
    return Certificate(min(best, float(bounds.min())) if len(bounds) else best, best)


def unseen(space: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the points of a space that can run, as far as is known, and have no value."""
    settled = set(rows.loc[rows["status"] != "pruned", "key"])
    return space[space["bound_us"].notna() & ~space["key"].isin(settled)]


def covered(space: pd.DataFrame, rows: pd.DataFrame, objectives: Sequence[Objective]) -> float:
    """Return the fraction of the unseen points that cannot add to the front of what was simulated; 1 without any."""
    found = ruled_out(space, rows, objectives)
    return float(found.mean()) if len(found) else 1.0


def ruled_out(space: pd.DataFrame, rows: pd.DataFrame, objectives: Sequence[Objective]) -> NDArray[np.bool_]:
    """Return of every unseen point whether its bounds show that it cannot add to the front."""
    import numpy as np

    from explorer.search.pareto import covers, front

    bounds = unseen(space, rows)[[objective.bound for objective in objectives]].to_numpy(np.float64)
    simulated = rows.loc[rows["status"] == "simulated", [objective.metric for objective in objectives]]
    values = simulated.to_numpy(np.float64)
    found = np.zeros(len(bounds), np.bool_)
    for place in front(values):
        found |= covers(values[place], bounds)
    return found
