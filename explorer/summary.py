"""The answer of a study, computed from its rows: baseline, best found, and what is proven about the rest.

The table after `explore`, the JSON and the report all show this one value.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.search.certificate import Certificate, certify, covered, ruled_out
from explorer.search.samplers import choose
from explorer.space.table import COMBINATIONS
from explorer.storage.folder import Identity, read_identity, rows_frame, space_frame
from explorer.storage.row import nested, with_nulls
from explorer.study.constraint import BROKEN
from explorer.study.objective import OBJECTIVES, Objective

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Account:
    """What became of the combinations of a study, each of which is counted once.

    `ruled_out`: not simulated, and by their bounds they cannot be better; `left`: they may be. `same`: as another one;
    `constrained`: they break a constraint.
    """

    simulated: int
    ruled_out: int
    left: int
    same: int
    constrained: int
    cannot_run: int

    @property
    def combinations(self) -> int:
        """How many there are."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Summary:
    """One study's answer.

    `baseline`, `best` (of the first objective) and `front` (what no other point beats in all objectives) are rows by
    column; `certificates` what is proven of each objective, `covered` the fraction of the unseen points that cannot add
    to the front. `space_points` counts the distinct points that can run, `invalid` those that cannot, by reason.
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
    account: Account
    certificates: tuple[Certificate, ...] = ()
    front: tuple[dict[str, Any], ...] = ()
    covered: float = 1.0

    @property
    def objective(self) -> Objective:
        """What the study makes small, the first of several."""
        return self.objectives[0]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """All that the study makes small."""
        return tuple(OBJECTIVES[name] for name in self.identity.study.objectives)

    @property
    def sampler(self) -> tuple[str, str]:
        """The sampler that was used, and why where the study leaves the choice."""
        study = self.identity.study
        return choose(study.sampler, study.combinations, study.budget.points, len(study.objectives))

    @property
    def stopped(self) -> str:
        """Why the search is at its end: proven, target or budget; "" where it is not."""
        study = self.identity.study
        if self.covered == 1.0:
            return "proven"
        if study.tolerance is not None and all(c.within(study.tolerance) for c in self.certificates):
            return "target"
        return "budget" if self.points >= study.budget.points else ""

    def record(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        named = zip(self.objectives, self.certificates or (self.certificate,), strict=False)
        proofs = {
            objective.metric: {"bound": c.bound, "best": c.best, "gap": c.gap, "proven": c.proven}
            for objective, c in named
        }
        return {
            "best": self._point(self.best),
            "baseline": self._point(self.baseline),
            self.objective.bound: self.certificate.bound,
            "gap": self.certificate.gap,
            "proven": self.certificate.proven,
            "objectives": proofs,
            "front": [self._point(row) for row in self.front],
            "covered": self.covered,
            "sampler": self.sampler[0],
            "stopped": self.stopped or None,
            "points": self.points,
            "simulated": self.simulated,
            "pruned": self.pruned,
            "invalid": self.invalid.total(),
            "space": self.space_points,
            "combinations": {"all": self.account.combinations, **asdict(self.account)},
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
    import numpy as np

    from explorer.search.pareto import front

    objectives = [OBJECTIVES[name] for name in identity.study.objectives]
    simulated = rows[rows["status"] == "simulated"]
    _check_numbers(identity, space, simulated, objectives)
    best = simulated.iloc[int(simulated[objectives[0].metric].argmin())]
    values = simulated[[objective.metric for objective in objectives]].to_numpy(np.float64)
    reasons = _reasons(space) + _reasons(rows)
    certificates = tuple(certify(space, rows, objective) for objective in objectives)
    return Summary(
        identity,
        plain(rows.iloc[0]),
        plain(best),
        certificates[0],
        len(rows),
        len(simulated),
        int((rows["status"] == "pruned").sum()),
        int(space["bound_us"].notna().sum()),
        reasons,
        _account(identity, space, rows, ruled_out(space, rows, objectives), reasons),
        certificates,
        tuple(plain(simulated.iloc[place]) for place in front(values)),
        covered(space, rows, objectives),
    )


def _check_numbers(
    identity: Identity, space: pd.DataFrame, simulated: pd.DataFrame, objectives: list[Objective]
) -> None:
    """Raise ValueError unless a point was simulated, all of those have their objectives, and the space its bounds."""
    import pandas as pd

    name = identity.study.name
    if simulated.empty:
        raise ValueError(f"results of {name}: no point was simulated there yet")
    for objective in objectives:
        for frame, column in ((simulated, objective.metric), (space, objective.bound)):
            if column not in frame or not pd.api.types.is_numeric_dtype(frame[column]):
                raise ValueError(f"results of {name}: {column}: damaged or missing; run the study again elsewhere")


def _account(
    identity: Identity, space: pd.DataFrame, rows: pd.DataFrame, ruled_out: NDArray[np.bool_], reasons: Counter[str]
) -> Account:
    """Return what became of the combinations; `ruled_out`: of every point without a value whether it is."""
    known = space.attrs.get(COMBINATIONS)
    combinations = identity.study.combinations if known is None else known
    constrained = sum(count for reason, count in reasons.items() if reason.startswith(BROKEN))
    return Account(
        simulated=int((rows["status"] == "simulated").sum()),
        ruled_out=int(ruled_out.sum()),
        left=int((~ruled_out).sum()),
        same=max(0, combinations - len(space)),
        constrained=constrained,
        cannot_run=reasons.total() - constrained,
    )


def _reasons(frame: pd.DataFrame) -> Counter[str]:
    reasons = frame.loc[frame["reason"] != "", "reason"].value_counts(sort=False)
    return Counter({str(reason): int(count) for reason, count in reasons.items()})


def plain(row: pd.Series[Any]) -> dict[str, Any]:
    """Return a row as plain Python values, without the columns it has no value for."""
    return {str(name): getattr(value, "item", lambda v=value: v)() for name, value in row.dropna().items()}
