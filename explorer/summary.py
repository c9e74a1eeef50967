"""The answer of a study, computed from its rows: baseline, best found, and what is proven about the rest.

The table after `explore`, the JSON and the report all show this one value.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.certificate import Certificate, certify
from explorer.objective import OBJECTIVES, Objective
from explorer.row import nested, with_nulls
from explorer.store import Identity, read_identity, rows_frame, space_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Summary:
    """One study's answer.

    `baseline` and `best` are rows by column; `space_points` counts the distinct points that can run,
    `invalid` those that cannot, by reason.
    """

    identity: Identity
    baseline: dict[str, Any]
    best: dict[str, Any]
    certificate: Certificate
    points: int
    simulated: int
    pruned: int
    space_points: int
    invalid: Counter[str]

    @property
    def objective(self) -> Objective:
        """What the study makes small."""
        return OBJECTIVES[self.identity.study.objective]

    def record(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        return {
            "best": self._point(self.best),
            "baseline": self._point(self.baseline),
            self.objective.bound: self.certificate.bound,
            "gap": self.certificate.gap,
            "proven": self.certificate.proven,
            "points": self.points,
            "simulated": self.simulated,
            "pruned": self.pruned,
            "invalid": self.invalid.total(),
            "space": self.space_points,
            "study": self.identity.study.name,
            "study_hash": self.identity.study.hash,
        }

    def _point(self, row: dict[str, Any]) -> dict[str, Any]:
        knobs = {name: row[name] for name in self.identity.settings if name in row}
        hidden = {*self.identity.settings, "key", "batch", "status", "reason"}
        return {"knobs": knobs} | with_nulls(nested({k: value for k, value in row.items() if k not in hidden}))


def summarise(folder: Path) -> Summary:
    """Return the answer that a results folder holds; ValueError when it holds none yet."""
    return summarise_frames(read_identity(folder), space_frame(folder), rows_frame(folder))


def summarise_frames(identity: Identity, space: pd.DataFrame, rows: pd.DataFrame) -> Summary:
    """Return the answer: the first row is the baseline, the first of those with least of the objective is the best."""
    objective = OBJECTIVES[identity.study.objective]
    simulated = rows[rows["status"] == "simulated"]
    best = simulated.iloc[int(simulated[objective.metric].argmin())]
    failed = [str(reason) for reason in [*space["reason"], *rows["reason"]] if reason]
    return Summary(
        identity,
        plain(rows.iloc[0]),
        plain(best),
        certify(space, rows, objective),
        len(rows),
        len(simulated),
        int((rows["status"] == "pruned").sum()),
        int(space["bound_us"].notna().sum()),
        Counter(failed),
    )


def plain(row: pd.Series[Any]) -> dict[str, Any]:
    """Return a row as plain Python values, without the columns it has no value for."""
    return {str(name): getattr(value, "item", lambda v=value: v)() for name, value in row.dropna().items()}
