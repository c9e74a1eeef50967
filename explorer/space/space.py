"""The points of a study: every combination of its choices as a number, and what is known of it before it runs.

It stands between `grid`, which counts combinations, and `search`; `bounding` fills the bounds in. Everything known of
a combination stands in arrays: a million points are a few columns, and a query is made only for one that is looked at.
The baseline belongs to the space, also where it is none of the combinations (it is then one more): what is proven of
the space is proven of it. A combination may be the same point as an earlier one, by a condition or by its key, or one
that cannot run, with the reason. A choice that no point can use, or a name nobody knows, is an error of the study and
is raised before anything is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explorer.evaluate import Evaluator
from explorer.names import unknown
from explorer.query import MACHINE_PREFIX, Query, Scalar
from explorer.space.grid import Grid, Index
from explorer.study import settings
from explorer.study.constraint import BROKEN
from explorer.study.mix import Risk
from explorer.study.objective import COSTS, OBJECTIVES, TIME, Objective
from explorer.study.study import Study
from explorer.workers import Refused, attempt

MAX_COMBINATIONS = 1 << 24  # assumed: the arrays of so many take half a gigabyte
CHUNK = 1 << 16  # combinations that are looked at together
NEVER = -1  # in `first`: cannot run

TracePaths = Mapping[str, str | None]


@dataclass(frozen=True)
class Work:
    """One workload: what is asked of the simulator but for the searched knobs, and its share of the work."""

    name: str
    weight: float
    base: Query


@dataclass
class Space:
    """What is known of every combination, and of the baseline, which is the last of `count` where it is none of them.

    `first` int64[count]: the combination that stands for each, itself where it is a point of its own; NEVER where it
    cannot run. `reason` int32[count]: why, a place in `reasons`. `bounds` float64[count, measured]: lower bounds of the
    numbers `measured`, NaN where there are none. `keys`: those of combinations that were asked for.
    """

    grid: Grid
    works: tuple[Work, ...]
    risk: Risk
    objectives: tuple[Objective, ...]
    baseline: Mapping[str, Scalar]  # what it sets
    start: int  # the baseline's combination
    first: Index
    reason: NDArray[np.int32]
    reasons: list[str]
    bounds: NDArray[np.float64]
    keys: dict[int, str] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=lambda: {"": 0})  # of the reasons

    @property
    def measured(self) -> tuple[Objective, ...]:
        """The time, which every row has, and the objectives: the columns of `bounds`."""
        return tuple(dict.fromkeys((TIME, *self.objectives)))

    @property
    def objective_bounds(self) -> NDArray[np.float64]:
        """The bounds of the objectives alone, float64[count, objective]."""
        return self.bounds[:, [self.measured.index(objective) for objective in self.objectives]]

    @property
    def count(self) -> int:
        """The number of combinations, the baseline included where it is none of them."""
        return len(self.first)

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which combinations are points of their own that can run, as far as is known."""
        return np.asarray(self.first == np.arange(self.count))

    def point_of(self, index: int) -> int:
        """Return the combination that stands for one, NEVER where it cannot run."""
        found = int(self.first[index])
        return found if found in (index, NEVER) else int(self.first[found])

    @property
    def weights(self) -> tuple[float, ...]:
        """The shares of the workloads."""
        return tuple(work.weight for work in self.works)

    def values(self, index: int) -> Mapping[str, Scalar]:
        """Return what a combination sets."""
        return self.grid.values(index) if index < self.grid.size else self.baseline

    def queries(self, index: int) -> tuple[Query, ...]:
        """Return what a combination asks of the simulator, one query per workload."""
        return tuple(with_values(work.base, self.values(index)) for work in self.works)

    def refuse(self, index: int | Index, reason: str) -> None:
        """Note that combinations cannot run, and why."""
        place = self._places.setdefault(reason, len(self.reasons))
        if place == len(self.reasons):
            self.reasons.append(reason)
        self.first[index] = NEVER
        self.reason[index] = place


def with_values(query: Query, values: Mapping[str, Scalar]) -> Query:
    """Return a query with knobs and numbers of the machine set."""
    for name, value in values.items():
        query = query.with_knob(name, value)
    return query


def inputs_of(
    works: Sequence[Work], queries: Sequence[Query], inputs: Callable[[Query], dict[str, str]]
) -> dict[str, str]:
    """Return the digests of what the queries of workloads ask, by name and, of a mix, by workload."""
    return {
        (f"{work.name}." if work.name else "") + name: digest
        for work, query in zip(works, queries, strict=True)
        for name, digest in inputs(query).items()
    }


def joined(keys: list[str]) -> str:
    """Return the key of a point from those of its queries."""
    if len(keys) == 1:
        return keys[0]
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]


def span(study: Study, evaluator: Evaluator, trace_paths: TracePaths | None = None) -> Space:
    """Return the space of `study` without bounds; ValueError names the knob, the value and what is allowed."""
    defaults = evaluator.defaults(study.kernel)
    held = defaults | study.fixed
    works = tuple(replace(work, base=with_values(work.base, held)) for work in bare(study, trace_paths))
    grid = Grid(study.searched, held)
    if grid.size > MAX_COMBINATIONS:
        raise ValueError(f"knobs: {grid.size} combinations, at most {MAX_COMBINATIONS} are searched")
    _check_settings(study, evaluator, defaults, works)
    start, baseline = _start(study, grid)
    count = grid.size + (start == grid.size)
    objectives = tuple(OBJECTIVES[name] for name in study.objectives)
    measured = len({TIME, *objectives})
    first, reason = np.arange(count), np.zeros(count, np.int32)
    bounds = np.full((count, measured), np.nan)
    space = Space(grid, works, study.over, objectives, baseline, start, first, reason, [""], bounds)
    for chunk in chunks(grid.size):
        first[chunk] = grid.first(chunk)
    _constrain(space, study, evaluator)
    return space


def chunks(count: int) -> Iterator[Index]:
    """Yield the numbers below `count` in arrays."""
    for low in range(0, count, CHUNK):
        yield np.arange(low, min(low + CHUNK, count))


def bare(study: Study, trace_paths: TracePaths | None = None) -> Iterator[Work]:
    """Yield the workloads of a study, of its mix or the one it has, without any knob."""
    trace_paths = trace_paths or {}
    for name, part in study.mix.items() or [("", None)]:
        section = (part and part.batch) or study.batch
        batch = section.spec(trace_paths.get(section.trace or "")) if section else None
        base = Query(
            study.machine,
            study.kernel,
            (part and part.model) or study.model,
            batch,
            tuple((dict(study.options) | (part.options if part else {})).items()),
            seed=section.seed if section else 0,
            routing=(part and part.routing) or study.routing,
        )
        yield Work(name, part.weight if part else 1.0, base)


def _start(study: Study, grid: Grid) -> tuple[int, Mapping[str, Scalar]]:
    """Return the combination that the baseline is, or one beyond all, and what the baseline sets."""
    held = grid.held
    inside = {knob.name: study.baseline.get(knob.name, held.get(knob.name, "")) for knob in grid.knobs}
    others = {name: value for name, value in study.baseline.items() if name not in inside}
    found = grid.find(inside) if all(held.get(name) == value for name, value in others.items()) else None
    return (grid.size if found is None else found), study.baseline


def _settings(study: Study) -> Iterator[tuple[str, str, Scalar]]:
    for name, choices in study.choices.items():
        yield from (("knobs", name, choice) for choice in choices)
    yield from (("fixed", name, value) for name, value in study.fixed.items())
    yield from (("baseline", name, value) for name, value in study.baseline.items())


def _check_settings(
    study: Study, evaluator: Evaluator, defaults: Mapping[str, Scalar], works: tuple[Work, ...]
) -> None:
    """Check every value alone: name, type, sign, and for a machine path that the machine takes it."""
    base = works[0].base
    for section, name, value in _settings(study):
        where = f"{section}.{name}: {value!r}"
        if name.startswith(MACHINE_PREFIX):
            try:
                evaluator.inputs(base.with_knob(name, value))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        elif name not in defaults:
            known = f"knob of {study.kernel}"
            raise ValueError(f"{section}: {unknown(known, name, defaults)}, or {MACHINE_PREFIX}PATH")
        else:
            settings.check(value, defaults[name], where)
    for work in works:
        evaluator.inputs(work.base)


def costs(space: Space, evaluator: Evaluator, index: Index) -> dict[str, NDArray[np.float64]]:
    """Return what the machines of combinations cost, float64[n] by name; one that is none is refused, and costs 0."""
    machine = [place for place, knob in enumerate(space.grid.knobs) if knob.name.startswith(MACHINE_PREFIX)]
    digits = np.zeros_like(space.grid.digits(index))
    digits[:, machine] = space.grid.digits(index)[:, machine]
    kinds, kind = np.unique(space.grid.index(digits), return_inverse=True)
    table = np.zeros((len(kinds), len(COSTS)))
    for row, combination in enumerate(kinds):
        answer = attempt(evaluator.costs, space.queries(int(combination))[0])
        if isinstance(answer, Refused):
            space.refuse(index[kind == row], answer.reason)
        else:
            table[row] = [answer[name] for name in COSTS]
    return {name: table[kind, column] for column, name in enumerate(COSTS)}


def _constrain(space: Space, study: Study, evaluator: Evaluator) -> None:
    """Refuse the combinations that break a constraint; ValueError for one that is none, or that the baseline breaks."""
    fixed: dict[str, Scalar] = dict(space.grid.held) | study.fixed
    example = fixed | {name: choices[0] for name, choices in study.choices.items()}
    for place, constraint in enumerate(study.conditions):
        try:
            constraint.check(example | dict.fromkeys(COSTS, 0))
        except ValueError as error:
            raise ValueError(f"constraints.{place}: {error}") from None
    if not study.conditions:
        return
    own = dict(space.values(space.start))
    for chunk in chunks(space.grid.size):
        columns: dict[str, NDArray[Any]] = space.grid.columns(chunk)
        wanted = {name for constraint in study.conditions for name in constraint.names}
        columns |= costs(space, evaluator, chunk) if wanted & set(COSTS) else {}
        held = {name: np.full(len(chunk), fixed[name]) for name in wanted - columns.keys()}
        for constraint in study.conditions:
            broken = chunk[~constraint.holds(columns | held)]
            space.refuse(broken[space.first[broken] == broken], BROKEN + constraint.text)
    cost = attempt(evaluator.costs, space.queries(space.start)[0]) if set(COSTS) & wanted else {}
    known = fixed | own | (cost if isinstance(cost, dict) else {})
    for constraint in study.conditions:
        for name in constraint.names:
            if name not in known:  # a number of the machine: what it is without being set, only the machine knows
                raise ValueError(f"baseline: {name}: missing; the constraint {constraint.text} needs it")
        if not constraint.holds({name: np.array([known[name]]) for name in constraint.names})[0]:
            raise ValueError(f"baseline: breaks the constraint {constraint.text}")
