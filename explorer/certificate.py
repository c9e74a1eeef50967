"""What a search has proven: no point of the space can be faster than `bound_us`.

Every distinct point stands with its simulated time, or, where it was not simulated, with its lower bound; the
least of these bounds the best possible from below. When it equals the best time found, the best is proven.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Certificate:
    """`bound_us` <= the fastest of the space <= `best_us`; `gap` = best / bound - 1."""

    bound_us: float
    best_us: float

    @property
    def gap(self) -> float:
        return self.best_us / self.bound_us - 1

    @property
    def proven(self) -> bool:
        return self.bound_us == self.best_us


def certify(space: pd.DataFrame, rows: pd.DataFrame) -> Certificate:
    """Return what `rows` (status, key, time_us) prove about `space` (key, bound_us; NaN: cannot run)."""
    simulated = rows[rows["status"] == "simulated"]
    settled = set(rows.loc[rows["status"] != "pruned", "key"])
    bounds = space.loc[~space["key"].isin(settled), "bound_us"].dropna()
    best_us = float(simulated["time_us"].min())
    return Certificate(min(best_us, float(bounds.min())) if len(bounds) else best_us, best_us)
