"""The search driver: asks, prunes by bound, simulates, tells in the order asked, a fixed number of points behind.

It stands between `space` (combinations with bounds) and `store` (rows). A point is asked for when the results of all
but the last `budget.batch` simulations before it are told, whatever the number of workers and whichever is done first,
so the rows are a function of the study alone, and workers wait only for the slowest of the points under way. Resuming
is the same run again: a point whose row is stored is not simulated a second time, and everything else happens as it
did before. The search ends with its budget, when the best is proven within the study's target, or when no point is left
whose bound is below what was found: then the best is proven.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from explorer.evaluate import Evaluator, Outcome
from explorer.progress import Progress
from explorer.query import Query, Scalar
from explorer.search.frontier import Frontier, Values
from explorer.search.samplers import Proposal, Task, choose, make
from explorer.search.simulations import Answer, Forgetful, Outcomes, Simulations
from explorer.space.space import NEVER, Space, joined
from explorer.storage.row import Row, Status
from explorer.study.mix import longest, numbers_of
from explorer.study.objective import COSTS, TIME, Objective
from explorer.study.study import Study
from explorer.workers import Refused, attempt

PATIENCE = 16  # proposals in a row that bring nothing new before the lowest bound decides; assumed


class Log(Protocol):
    """Where rows are kept."""

    def recall(self, key: str) -> Row | None:
        """Return the stored row of a point, None where there is none."""

    def append(self, row: Row, outcome: Outcome | None, best: bool) -> None:
        """Keep a new row; `best` says that no row before it has less of the first objective."""


@dataclass(frozen=True)
class _Asked:
    """A proposal under way: a new point with what becomes of it, or one that was asked for before and not told yet."""

    proposal: Proposal
    index: int
    key: str = ""
    status: Status | None = None  # None: asked for before
    queries: tuple[tuple[str, Query], ...] = ()  # by key, to be simulated
    known: int = 0  # how many rows were told when it was asked for
    reason: str = ""


class Search:
    """One run of a study over its space."""

    def __init__(
        self,
        study: Study,
        space: Space,
        evaluator: Evaluator,
        log: Log,
        progress: Progress,
        memo: Outcomes | None = None,
    ) -> None:
        self.rows: list[Row] = []
        self.frontier = Frontier(space.objective_bounds, space.alive)
        self._study, self._space, self._evaluator = study, space, evaluator
        self._log, self._progress, self._memo = log, progress, memo or Forgetful()
        self._results: dict[int, Values | None] = {}  # by combination: None where it has no value
        self._by_key = {key: index for index, key in space.keys.items() if space.first[index] == index}
        self._asked: set[int] = set()
        self._pruned: set[int] = set()
        self._fruitless = self._running = 0
        name, _ = choose(study.sampler, space.grid.size, study.budget.points, len(space.objectives))
        task = Task(space.grid, self.frontier, len(space.objectives), study.budget.points, study.seed)
        self._sampler = make(name, task)

    def run(self, executor: Executor) -> list[Row]:
        """Evaluate the baseline and then what is asked for; return all rows in the order asked."""
        simulations = Simulations(self._evaluator.simulate, executor, self._memo)
        under_way: deque[_Asked] = deque()
        asked = self._new(self._sampler.adopt(self._space.start), self._space.start)
        while asked or under_way:
            if asked:
                self._start(asked, simulations)
                under_way.append(asked)
            else:
                self._settle(under_way.popleft(), simulations)
            asked = self._ask() if self._running < self._study.budget.batch else None
        self._progress("points", self._study.budget.points, self._study.budget.points)
        return self.rows

    def _ask(self) -> _Asked | None:
        """Return what is asked for next, None where nothing is left to ask for, or nothing is worth it."""
        while len(self._asked) < self._study.budget.points and not self._good_enough():
            lowest = self.frontier.lowest()
            if lowest is None:
                break
            proposal = self._sampler.propose() if self._fruitless < PATIENCE else None
            if proposal is None:
                proposal = self._sampler.adopt(lowest)
            index = self._space.point_of(proposal.index)
            asked = None if index == NEVER or index in self._asked else self._new(proposal, index)
            if asked:
                self._fruitless = 0
                return asked
            self._fruitless += 1
            index = self._space.point_of(proposal.index)  # it may have turned out to be another
            if index != NEVER and index not in self._results:
                return _Asked(proposal, index)
            self._learn(proposal, index)
        return None

    def _good_enough(self) -> bool:
        target = self._study.tolerance
        return target is not None and all(proof.within(target) for proof in self.frontier.certificates())

    def _new(self, proposal: Proposal, index: int) -> _Asked | None:
        """Return a point that is asked for the first time, None where its key shows that it is another one."""
        known = len(self.rows)
        keys = self._keys(index)
        if isinstance(keys, Refused):
            key = self._space.keys[index] = f"combination {index}"  # it has a row, and is settled with it
            asked = _Asked(proposal, index, key, Status.INVALID, known=known, reason=keys.reason)
        else:
            key = joined([key for key, _ in keys])
            first = self._by_key.setdefault(key, index)
            self._space.keys[index] = key
            if first != index:
                self._space.first[index] = first
                self.frontier.tell(index, None)
                return None
            prune = self.frontier.beaten(index)
            asked = _Asked(proposal, index, key, Status.PRUNED if prune else Status.SIMULATED, keys, known)
        self._asked.add(index)
        self.frontier.ask(index)
        return asked

    def _keys(self, index: int) -> tuple[tuple[str, Query], ...] | Refused:
        """Return what a point asks of the simulator, by key, or why it cannot."""
        queries = self._space.queries(index)
        if len(queries) == 1 and index in self._space.keys:
            return ((self._space.keys[index], queries[0]),)
        keys = [attempt(self._evaluator.key, query) for query in queries]
        refused = next((key for key in keys if isinstance(key, Refused)), None)
        return refused or tuple(zip(map(str, keys), queries, strict=True))

    def _start(self, asked: _Asked, simulations: Simulations) -> None:
        if asked.status is Status.SIMULATED:
            self._running += 1
            if self._log.recall(asked.key) is None:
                for key, query in asked.queries:
                    simulations.start(key, query)

    def _settle(self, asked: _Asked, simulations: Simulations) -> None:
        """Wait for a point, keep its row and tell everybody; a point that was asked for before only the sampler."""
        if asked.status is not None:
            row, outcome = self._log.recall(asked.key), None
            if row is None:
                answers = self._answers(asked, simulations)
                row = self._row(asked, answers)
                done = {name: answer for name, answer in answers.items() if isinstance(answer, Outcome)}
                outcome = longest(done) if row.status is Status.SIMULATED else None
            self._keep(asked, row, outcome)
        self._learn(asked.proposal, asked.index)

    def _answers(self, asked: _Asked, simulations: Simulations) -> dict[str, Answer]:
        if asked.status is not Status.SIMULATED:
            return {}
        names = [work.name for work in self._space.works]
        return {name: simulations.answer(key) for name, (key, _) in zip(names, asked.queries, strict=True)}

    def _keep(self, asked: _Asked, row: Row, outcome: Outcome | None) -> None:
        if asked.index == self._space.start and row.status is Status.INVALID:
            raise ValueError(f"baseline: {row.reason}")
        if row.point != len(self.rows):
            raise ValueError(
                f"the stored rows are in another order (row {row.point} where {len(self.rows)} is due): "
                "another version of a library made them; choose another folder"
            )
        self._running -= asked.status is Status.SIMULATED
        values = self._values(row)
        self._log.append(row, outcome, values is not None and values[0] < self.frontier.best[0])
        self.rows.append(row)
        self._results[asked.index] = values
        if row.status is Status.PRUNED:
            self._pruned.add(asked.index)
        else:
            self.frontier.tell(asked.index, values)
        self._progress("points", len(self.rows), self._study.budget.points)

    def _values(self, row: Row) -> Values | None:
        values = [row.value(objective) for objective in self._space.objectives]
        return None if None in values else tuple(value for value in values if value is not None)

    def _learn(self, proposal: Proposal, index: int) -> None:
        """Tell the sampler what became of its proposal."""
        values = self._results.get(index)
        bounds = tuple(self.frontier.bounds[index].tolist()) if index in self._pruned else None
        self._sampler.learn(proposal, values, bounds)

    def _row(self, asked: _Asked, answers: Mapping[str, Answer]) -> Row:
        """Return the row of a point, its bounds the highest that are known."""
        space = self._space
        bounds = dict(zip((o.bound for o in space.measured), space.bounds[asked.index].tolist(), strict=True))
        status, reason, metrics = asked.status or Status.INVALID, asked.reason, dict[str, Scalar]()
        refused = next((answer for answer in answers.values() if isinstance(answer, Refused)), None)
        if refused:
            status, reason = Status.INVALID, refused.reason
        elif answers:
            metrics = self._metrics({name: a for name, a in answers.items() if isinstance(a, Outcome)}, asked)
            bounds = {name: max(bound, float(metrics.pop(name, 0.0))) for name, bound in bounds.items()}
        bound_us = bounds.pop(TIME.bound)
        settings = space.queries(asked.index)[0].settings()
        row = Row(len(self.rows), asked.known, asked.key, settings, status, bound_us, reason, metrics | bounds)
        for objective in space.measured:
            _check_bound(row, objective)
        return row

    def _metrics(self, outcomes: Mapping[str, Outcome], asked: _Asked) -> dict[str, Scalar]:
        """Return the numbers of a simulated point, and what its machine costs where that is an objective."""
        space = self._space
        wanted = {objective.metric for objective in space.objectives} & set(COSTS)
        each = {name: outcome.metrics for name, outcome in outcomes.items()}
        metrics = numbers_of(each, space.weights, space.risk, space.measured)
        costs = self._evaluator.costs(asked.queries[0][1]) if wanted else {}
        return metrics | {name: costs[name] for name in costs if name in wanted}


def _check_bound(row: Row, objective: Objective) -> None:
    value = row.value(objective)
    if value is not None and value < row.bound(objective):
        bound = objective.shown(row.bound(objective))
        raise AssertionError(f"the lower bound {bound} is above the simulated {objective.shown(value)}: {row.settings}")
