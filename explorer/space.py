"""The points of a study: each distinct combination of its choices once, with its lower bound.

It stands between `study` and `search`. The baseline belongs to the space, also where it is none of the
combinations: what is proven of the space is proven of it. Combinations are numbered in the order written (last
knob fastest); those whose canonical key was seen before are the same point; those that cannot be run are
counted with the reason. A choice that no point can use, or a name nobody knows, is an error of the study and is
raised here, before anything is written.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

from explorer import settings
from explorer.evaluate import Evaluator
from explorer.names import unknown
from explorer.objective import TIME, Objective
from explorer.progress import Progress
from explorer.query import MACHINE_PREFIX, Choice, Query, Scalar
from explorer.study import Study
from explorer.workers import Refused, attempt

MAX_COMBINATIONS = 1 << 16  # assumed: bounding so many takes minutes, more would be hours
CHUNK = 8  # assumed: bounds per task handed to a worker, a few tens of milliseconds of work

Known = Mapping[str, float | str]  # by key: a lower bound in us, or the reason why the point cannot run


@dataclass(frozen=True, slots=True)
class Point:
    """One distinct point: `choice` is the values of the searched knobs; () for a baseline outside."""

    choice: Choice
    key: str
    query: Query


@dataclass(frozen=True)
class Candidates:
    """The points of a study before their bounds are known, and where each combination went.

    `point_of`: the key of every combination that has one; `refused`: why the others have none.
    """

    knobs: tuple[str, ...]
    baseline: Point
    points: tuple[Point, ...]
    point_of: Mapping[Choice, str]
    refused: Mapping[Choice, str]


@dataclass(frozen=True)
class Space:
    """The candidates with their lower bounds, or the reasons why they cannot run, by key.

    `bound_pj` is empty where the energy is not what the study makes small.
    """

    candidates: Candidates
    bound_us: Mapping[str, float]
    reasons: Mapping[str, str]
    bound_pj: Mapping[str, float] = field(default_factory=dict)

    def bounds(self, objective: Objective) -> Mapping[str, float]:
        """Return the lower bounds of what a study makes small, by key."""
        return self.bound_us if objective is TIME else self.bound_pj


def enumerate_points(study: Study, evaluator: Evaluator, trace_path: str | None = None) -> Candidates:
    """Return the distinct points of `study`; ValueError names the knob, the value and what is allowed."""
    defaults = evaluator.defaults(study.kernel)
    base = _base_query(study, evaluator, defaults, trace_path)
    _check_settings(study, evaluator, defaults, base)
    baseline = base
    for name, value in study.baseline.items():
        baseline = baseline.with_knob(name, value)
    knobs = tuple(study.knobs)
    points: dict[str, Point] = {}
    point_of: dict[Choice, str] = {}
    refused: dict[Choice, str] = {}
    for choice in itertools.product(*study.knobs.values()):
        query = base
        for name, value in zip(knobs, choice, strict=True):
            query = query.with_knob(name, value)
        answer = attempt(evaluator.key, query)
        if isinstance(answer, Refused):
            refused[choice] = answer.reason
        else:
            points.setdefault(answer, Point(choice, answer, query))
            point_of[choice] = answer
    key = _baseline_key(evaluator, baseline)
    start = points.get(key, Point((), key, baseline))
    return Candidates(knobs, start, tuple(points.values()), point_of, refused)


def probe(candidates: Candidates, known: Known, evaluator: Evaluator, objective: Objective = TIME) -> Known:
    """Return `known` and the bounds of the baseline and of at least one point for every choice of every knob.

    Raises ValueError when the baseline cannot run or has no such objective, or when no combination with some choice
    can run: a slip of the study.
    """
    found = dict(known)

    def failure(point: Point) -> str:
        if point.key not in found:
            answer = attempt(evaluator.bound_us, point.query)
            found[point.key] = answer.reason if isinstance(answer, Refused) else answer
        bound = found[point.key]
        return bound if isinstance(bound, str) else ""

    if reason := failure(candidates.baseline):
        raise ValueError(f"baseline: {reason}")
    if objective is not TIME:
        try:
            evaluator.bound_pj(candidates.baseline.query)
        except ValueError as error:
            raise ValueError(f"objective: {error}") from None
    points = {point.key: point for point in candidates.points}
    for position, name in enumerate(candidates.knobs):
        reasons: dict[Scalar, str] = {}
        for choice, key in candidates.point_of.items():
            value = choice[position]
            if reasons.get(value, "not tried"):
                reasons[value] = failure(points[key])
        for choice, reason in candidates.refused.items():
            reasons.setdefault(choice[position], reason)
        for value, reason in reasons.items():
            if reason:
                raise ValueError(f"knobs.{name}: {value!r}: {reason}")
    return found


def bound_space(
    candidates: Candidates,
    known: Known,
    evaluator: Evaluator,
    executor: Executor,
    progress: Progress,
    objective: Objective = TIME,
) -> Space:
    """Return the space: the bound of every point, from `known` or computed now."""
    everything = {p.key: p for p in (candidates.baseline, *candidates.points)}
    missing = [p for key, p in everything.items() if key not in known]
    found = dict(known)
    answers = executor.map(partial(attempt, evaluator.bound_us), [p.query for p in missing], chunksize=CHUNK)
    for done, (point, answer) in enumerate(zip(missing, answers, strict=True), start=1):
        found[point.key] = answer.reason if isinstance(answer, Refused) else answer
        progress("lower bounds", done, len(missing))
    bounds = {key: value for key in everything if not isinstance(value := found[key], str)}
    reasons = {key: value for key in everything if isinstance(value := found[key], str)}
    if objective is TIME:
        return Space(candidates, bounds, reasons)
    queries = [everything[key].query for key in bounds]
    energies = executor.map(evaluator.bound_pj, queries, chunksize=CHUNK)
    return Space(candidates, bounds, reasons, dict(zip(bounds, energies, strict=True)))


def _base_query(study: Study, evaluator: Evaluator, defaults: Mapping[str, Scalar], trace_path: str | None) -> Query:
    batch = study.batch.spec(trace_path) if study.batch else None
    query = Query(
        study.machine,
        study.kernel,
        study.model,
        batch,
        tuple(study.options.items()),
        tuple(sorted(defaults.items())),
        seed=study.batch.seed if study.batch else 0,
        routing=study.routing,
    )
    for name, value in study.fixed.items():
        query = query.with_knob(name, value)
    return query


def _settings(study: Study) -> Iterator[tuple[str, str, Scalar]]:
    for name, choices in study.knobs.items():
        yield from (("knobs", name, choice) for choice in choices)
    yield from (("fixed", name, value) for name, value in study.fixed.items())
    yield from (("baseline", name, value) for name, value in study.baseline.items())


def _check_settings(study: Study, evaluator: Evaluator, defaults: Mapping[str, Scalar], base: Query) -> None:
    """Check every value alone: name, type, sign, and for a machine path that the machine takes it."""
    combinations = math.prod(len(choices) for choices in study.knobs.values())
    if combinations > MAX_COMBINATIONS:
        raise ValueError(f"knobs: {combinations} combinations, at most {MAX_COMBINATIONS} are searched")
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
    evaluator.inputs(base)


def _baseline_key(evaluator: Evaluator, baseline: Query) -> str:
    try:
        return evaluator.key(baseline)
    except ValueError as error:
        raise ValueError(f"baseline: {error}") from None
