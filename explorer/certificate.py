"""What a search has proven: no point of the space has less of the objective (time, energy) than `bound`.

Every distinct point stands with its simulated value, or, where it was not simulated, with its lower bound; the
least of these bounds the best possible from below. When it equals the best value found, the best is proven.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explorer.objective import TIME, Objective

if TYPE_CHECKING:
    import pandas as pd


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


def relative_gap(value: float, bound: float) -> float | None:
    """Return by how much of a lower bound a value is above it; None where the bound is 0 and says nothing."""
    if value == bound:
        return 0.0
    return value / bound - 1 if bound else None


def certify(space: pd.DataFrame, rows: pd.DataFrame, objective: Objective = TIME) -> Certificate:
    """Return what `rows` (status, key, the objective) prove about `space` (key, its bound; NaN: cannot run)."""
    simulated = rows[rows["status"] == "simulated"]
    settled = set(rows.loc[rows["status"] != "pruned", "key"])
    bounds = space.loc[~space["key"].isin(settled), objective.bound].dropna()
    best = float(simulated[objective.metric].min())
    return Certificate(min(best, float(bounds.min())) if len(bounds) else best, best)
