"""The search driver: asks in batches of one size, prunes by bound, simulates, tells in the order asked.

It stands between `space` (points with bounds) and `store` (rows). The batch size does not depend on the
number of workers, and answers are taken in the order asked, so the rows are a function of the study alone.
Resuming is the same run again: a point whose row is stored is not simulated a second time, and everything
else happens as it did before. The search ends with its budget, or when no point is left whose bound is below
the best value of the objective: then the best is proven.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from explorer.evaluate import Evaluator, Outcome
from explorer.objective import OBJECTIVES, TIME
from explorer.progress import Progress
from explorer.query import Scalar
from explorer.row import Row, Status, flatten
from explorer.sampler import Proposer
from explorer.space import Point, Space
from explorer.study import Study
from explorer.workers import Refused, attempt

if TYPE_CHECKING:
    import optuna

PATIENCE = 16  # proposals in a row that bring nothing new before the lowest bound decides; assumed


class Log(Protocol):
    """Where rows are kept."""

    def recall(self, key: str) -> Row | None:
        """Return the stored row of a point, None where there is none."""

    def append(self, row: Row, outcome: Outcome | None, best: bool) -> None:
        """Keep a new row; `best` says that no row before it has less of the objective."""


@dataclass(frozen=True)
class _Asked:
    trial: optuna.Trial | None
    point: Point
    status: Status | None  # None: known already, or asked for earlier in the same batch


class Search:
    """One run of a study over its space."""

    def __init__(self, study: Study, space: Space, evaluator: Evaluator, log: Log, progress: Progress) -> None:
        self.rows: list[Row] = []
        self._study, self._space, self._evaluator = study, space, evaluator
        self._log, self._progress = log, progress
        self._rows: dict[str, Row] = {}
        self._best = float("inf")
        self._objective = OBJECTIVES[study.objective]
        self._bounds = space.bounds(self._objective)
        self._points = {point.key: point for point in space.candidates.points}
        valid = [point for point in space.candidates.points if point.key in space.bound_us]
        self._by_bound = sorted(valid, key=lambda point: self._bounds[point.key])  # stable: then as written
        self._proposer = Proposer(study.knobs, study.sampler, study.seed)

    def run(self, executor: Executor) -> list[Row]:
        """Evaluate the baseline, then batch after batch; return all rows in the order asked."""
        baseline = self._space.candidates.baseline
        trial = self._proposer.adopt(baseline.choice) if baseline.choice else None
        self._settle(0, [_Asked(trial, baseline, Status.SIMULATED)], executor)
        batch = 0
        while asked := self._ask():
            batch += 1
            self._settle(batch, asked, executor)
        self._progress("points", self._study.budget.points, self._study.budget.points)
        return self.rows

    def _ask(self) -> list[_Asked]:
        """Return the next batch: points to simulate, those pruned on the way, repeats inside the batch."""
        asked: list[_Asked] = []
        new: set[str] = set()
        simulated = fruitless = 0
        while simulated < self._study.budget.batch and len(self._rows) + len(new) < self._study.budget.points:
            lowest = self._lowest_bound(new)
            if lowest is None:
                break
            if fruitless < PATIENCE and self._proposer.proposes:
                trial, point = self._propose()
            else:
                trial, point = self._proposer.adopt(lowest.choice), lowest
            if point is None or point.key in self._rows:
                self._tell_known(trial, point)
                fruitless += 1
            elif point.key in new:
                asked.append(_Asked(trial, point, None))
                fruitless += 1
            else:
                prune = self._bounds[point.key] > self._best
                asked.append(_Asked(trial, point, Status.PRUNED if prune else Status.SIMULATED))
                new.add(point.key)
                simulated += not prune
                fruitless = 0
        return asked

    def _propose(self) -> tuple[optuna.Trial, Point | None]:
        """Return the sampler's next trial and its point, None for a combination that cannot run."""
        trial, choice = self._proposer.propose()
        key = self._space.candidates.point_of.get(choice, "")
        return trial, self._points[key] if key in self._space.bound_us else None

    def _lowest_bound(self, new: set[str]) -> Point | None:
        """Return the unseen point with the lowest bound, None when none can be better than the best."""
        while self._by_bound and self._by_bound[0].key in self._rows:
            self._by_bound.pop(0)
        unseen = (p for p in self._by_bound if p.key not in new and p.key not in self._rows)
        lowest = next(unseen, None)
        return lowest if lowest is not None and self._bounds[lowest.key] < self._best else None

    def _tell_known(self, trial: optuna.Trial, point: Point | None) -> None:
        if point is None:
            self._proposer.learn(trial, None)
        else:
            row = self._rows[point.key]
            self._proposer.learn(trial, row.value(self._objective), row.bound(self._objective))

    def _settle(self, batch: int, asked: list[_Asked], executor: Executor) -> None:
        """Evaluate what is not stored, keep each row as it finishes, then tell all in the order asked."""
        new = [a for a in asked if a.status is not None]
        missing = [a for a in new if a.status is Status.SIMULATED and self._log.recall(a.point.key) is None]
        simulate = partial(attempt, self._evaluator.simulate)
        answers = executor.map(simulate, [a.point.query for a in missing])
        for a in new:
            self._keep(batch, a, answers)
        for a in asked:
            if a.trial is not None:
                self._tell_known(a.trial, a.point)

    def _keep(self, batch: int, asked: _Asked, answers: Iterator[Outcome | Refused]) -> None:
        row, outcome = self._log.recall(asked.point.key), None
        if row is None:
            answer = next(answers) if asked.status is Status.SIMULATED else None
            if batch == 0 and isinstance(answer, Refused):
                raise ValueError(f"baseline: {answer.reason}")
            row = self._row(batch, asked.point, answer)
            outcome = answer if isinstance(answer, Outcome) else None
        if row.point != len(self.rows):
            raise ValueError(
                f"the stored rows are in another order (row {row.point} where {len(self.rows)} is due): "
                "another version of a library made them; choose another folder"
            )
        value = row.value(self._objective)
        best = value is not None and value < self._best
        self._log.append(row, outcome, best)
        self._rows[row.key] = row
        self.rows.append(row)
        if best and value is not None:
            self._best = value
        self._progress("points", len(self.rows), self._study.budget.points)

    def _row(self, batch: int, point: Point, answer: Outcome | Refused | None) -> Row:
        bound_us = self._space.bound_us[point.key]
        known: dict[str, Scalar] = {} if self._objective is TIME else {self._objective.bound: self._bounds[point.key]}
        status, reason = Status.PRUNED, ""
        if isinstance(answer, Refused):
            status, reason = Status.INVALID, answer.reason
        elif answer is not None:
            status, known = Status.SIMULATED, flatten(answer.metrics) | known
        row = Row(len(self.rows), batch, point.key, point.query.settings(), status, bound_us, reason, known)
        for objective in dict.fromkeys((TIME, self._objective)):
            value = row.value(objective)
            if value is not None and value < row.bound(objective):
                bound = objective.shown(row.bound(objective))
                raise AssertionError(
                    f"the lower bound {bound} is above the simulated {objective.shown(value)}: {row.settings}"
                )
        return row
