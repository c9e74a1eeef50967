"""The lower bounds of a whole space, before anything is simulated.

It stands between `space` and `search`. Where the kernel bounds many points at once, chunks of combinations go to the
workers as numbers and come back as columns. Otherwise every point is compiled and bounded by itself, which also tells
the ones that cannot run; spaces of so many points are small, so that each has its key and points that are spelled
twice are found. Of a large space keys are computed when a point is about to be simulated, and what cannot run is found
then. Bounds of a mix are the risk of the bounds of its workloads (see `mix` why that is a bound).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explorer.evaluate import Evaluator
from explorer.progress import Progress
from explorer.query import Query
from explorer.space.grid import Grid, Index
from explorer.space.space import CHUNK, NEVER, Space, Work, chunks, costs, joined
from explorer.study.mix import Risk, aggregate_bounds
from explorer.study.objective import COSTS, TIME
from explorer.workers import Refused, attempt

MAX_SINGLY = 1 << 16  # assumed: bounding so many point by point takes minutes, more would be hours
MAX_KEYED = 1 << 12  # assumed: combinations whose keys and fit are found before a search: seconds
FEW = 8  # assumed: points per task handed to a worker, some tens of milliseconds of work
PROBES = 64  # assumed: combinations with one choice that are tried before the study is at fault; choices that are tried
UNDER_WAY = 64  # tasks submitted ahead of the answers

Known = Mapping[str, float | str]  # by key: a lower bound in us, or the reason why the point cannot run


def in_columns(space: Space, evaluator: Evaluator) -> bool:
    """Tell whether all workloads can be bounded many points at once; ValueError where a large space cannot."""
    if space.grid.size <= MAX_KEYED and any(o.metric == "hbm_bytes" for o in space.objectives):
        return False  # no columns bound the bytes
    example = space.grid.columns(np.array([0]))
    found = all(evaluator.bound_columns(work.base, example) is not None for work in space.works)  # type: ignore[arg-type]
    if not found and space.grid.size > MAX_SINGLY:
        raise ValueError(f"knobs: {space.grid.size} combinations, at most {MAX_SINGLY} are searched by this kernel")
    return found


def name_points(space: Space, evaluator: Evaluator, known: Known, columns: bool) -> None:
    """Give every point of a space that is not large its key, and let points of one key be one.

    Refuses those that have none, and those that are known not to run. ValueError where the baseline has none.
    """
    start = key_of(space, evaluator, space.start)
    if isinstance(start, Refused):
        raise ValueError(f"baseline: {start.reason}")
    space.keys[space.start] = start
    if columns and space.grid.size > MAX_KEYED:
        return
    seen: dict[str, int] = {}
    for index in np.flatnonzero(space.alive).tolist():
        key = start if index == space.start else key_of(space, evaluator, index)
        if isinstance(key, Refused):
            space.refuse(index, key.reason)
        elif isinstance(reason := known.get(key), str):
            space.refuse(index, reason)
        else:
            space.keys[index] = key
            space.first[index] = seen.setdefault(key, index)
    space.start = int(space.first[space.start])
    follow = space.first >= 0
    space.first[follow] = space.first[space.first[follow]]


def key_of(space: Space, evaluator: Evaluator, index: int) -> str | Refused:
    """Return the key of a combination, or why it has none."""
    keys = []
    for query in space.queries(index):
        key = attempt(evaluator.key, query)
        if isinstance(key, Refused):
            return key
        keys.append(key)
    return joined(keys)


def probe(space: Space, evaluator: Evaluator) -> None:
    """Raise ValueError when the baseline cannot run or gives no objective, or when no combination with a choice can.

    Of many combinations with the choice some are tried, and of knobs with many choices none: what is left is found
    when it is bounded or simulated.
    """
    found: dict[int, str] = {}

    def failure(index: int) -> str:
        return _failure(space, evaluator, found, index)

    if reason := failure(space.start):
        raise ValueError(f"baseline: {reason}")
    for objective in space.objectives:
        answer = attempt(partial(bound_of, evaluator, metric=objective.metric), space.queries(space.start)[0])
        if isinstance(answer, Refused):
            raise ValueError(f"objective: {answer.reason}")
    for place, knob in enumerate(space.grid.knobs):
        if len(knob.choices) > PROBES:
            continue
        for digit, value in enumerate(knob.choices):
            tried: list[int] = []
            for index in islice(_with_choice(space, place, digit), PROBES):
                tried.append(index)
                if not failure(index):
                    break
            else:
                if not tried:
                    raise ValueError(f"knobs.{knob.name}: {value!r}: no combination has it")
                if len(tried) < PROBES:
                    with_it = f"combinations with {knob.name}={value}"
                    more = f"; nor can any other of the {len(tried)} {with_it}" if tried[1:] else ""
                    raise ValueError(f"{_blamed(space, place, tried[0], failure)}: {failure(tried[0])}{more}")


def _blamed(space: Space, place: int, index: int, failure: Callable[[int], str]) -> str:
    """Return what is at fault where a combination cannot run: the choice of a knob if it can with another, else all."""
    knob = space.grid.knobs[place]
    digits = np.repeat(space.grid.digits(np.array([index])), len(knob.choices), axis=0)
    digits[:, place] = np.arange(len(knob.choices))
    values = space.values(index)
    if len(values) == 1 or any(not failure(other) for other in space.grid.index(digits).tolist()):
        return f"knobs.{knob.name}: {values[knob.name]!r}"
    return "knobs: " + ", ".join(f"{name}={value}" for name, value in values.items())


def _with_choice(space: Space, place: int, digit: int) -> Iterator[int]:
    """Yield combinations in which a knob has a choice, and is one: those near the baseline first, then as written."""
    counts = [len(knob.choices) for knob in space.grid.knobs]
    base = space.grid.digits(np.array([space.start if space.start < space.grid.size else 0]))
    base[0, place] = digit
    near = space.grid.index(base)
    if space.grid.levels(near)[0, place] == digit:
        yield int(near[0])
    stride = int(np.prod(counts[place + 1 :], dtype=np.int64))
    rest = space.grid.size // counts[place]
    for low in range(0, rest, CHUNK):
        number = np.arange(low, min(low + CHUNK, rest))
        index = number // stride * stride * counts[place] + digit * stride + number % stride
        yield from index[space.grid.levels(index)[:, place] == digit].tolist()


def _failure(space: Space, evaluator: Evaluator, found: dict[int, str], index: int) -> str:
    """Return why a combination cannot run, or nothing."""
    if space.first[index] == NEVER:
        return space.reasons[int(space.reason[index])]
    if index not in found:
        answers = [attempt(evaluator.bound_us, query) for query in space.queries(index)]
        found[index] = next((answer.reason for answer in answers if isinstance(answer, Refused)), "")
    return found[index]


def bound_space(
    space: Space, evaluator: Evaluator, known: Known, executor: Executor, progress: Progress, columns: bool
) -> None:
    """Fill in the bounds of every point, from `known` or computed now, and refuse what cannot run."""
    if columns:
        _fill_columns(space, evaluator, executor, progress)
    if not columns or space.grid.size <= MAX_KEYED:
        _fill_singly(space, evaluator, known, executor, progress, columns)


def _fill_columns(space: Space, evaluator: Evaluator, executor: Executor, progress: Progress) -> None:
    metrics = tuple(objective.metric for objective in space.measured)
    if set(COSTS) & set(metrics):  # before, so that machines that are none are refused
        cost = [costs(space, evaluator, chunk) for chunk in chunks(space.grid.size)]
    ask = partial(_columns_of, evaluator, space.grid, space.works, space.risk, metrics)
    answers = _in_order(executor, ask, chunks(space.grid.size))
    for number, (chunk, answer) in enumerate(zip(chunks(space.grid.size), answers, strict=True)):
        for name in set(COSTS) & set(metrics):
            answer[:, metrics.index(name)] = cost[number][name]
        space.bounds[chunk] = np.where(space.alive[chunk, None], answer, np.nan)
        progress("lower bounds", min((number + 1) * CHUNK, space.grid.size), space.grid.size)
    unbounded = np.flatnonzero(space.alive & (space.bounds[:, 0] == 0))  # every run takes time: what is not allowed
    for index in unbounded[:MAX_KEYED].tolist():
        answer = attempt(partial(_check_of, evaluator), space.queries(index))  # type: ignore[arg-type]
        if isinstance(answer, Refused):
            space.refuse(index, answer.reason)
    if space.start >= space.grid.size:
        space.bounds[space.start] = _bounds_of(
            evaluator, space.queries(space.start), space.weights, space.risk, metrics
        )


def _columns_of(
    evaluator: Evaluator, grid: Grid, works: Sequence[Work], risk: Risk, metrics: Sequence[str], index: Index
) -> NDArray[np.float64]:
    """Return the bounds of combinations, float64[n, metric]; 0, which says nothing, where there is none."""
    columns: Any = grid.columns(index)
    found = np.zeros((len(index), len(metrics), len(works)))
    for place, work in enumerate(works):
        answer = evaluator.bound_columns(work.base, columns)
        for column, metric in enumerate(metrics):
            values = getattr(answer, metric, None)
            if values is not None:
                found[:, column, place] = values
    return aggregate_bounds(found, [work.weight for work in works], risk)


def _fill_singly(
    space: Space, evaluator: Evaluator, known: Known, executor: Executor, progress: Progress, columns: bool
) -> None:
    """Bound point by point, or, where columns have done that, find out which points compile."""
    metrics = tuple(objective.metric for objective in space.measured)
    points = np.flatnonzero(space.alive).tolist()
    if columns:
        ask: Any = partial(_check_of, evaluator)
        missing = [index for index in points if space.keys[index] not in known]
    else:
        ask = partial(_bounds_of, evaluator, weights=space.weights, risk=space.risk, metrics=metrics)
        missing = points
        if metrics == (TIME.metric,):
            for index in points:
                space.bounds[index] = known.get(space.keys[index], np.nan)
            missing = [index for index in points if space.keys[index] not in known]
    tasks = [missing[low : low + FEW] for low in range(0, len(missing), FEW)]
    ask_all = partial(_each, ask)
    answers = _in_order(executor, ask_all, ([space.queries(index) for index in task] for task in tasks))
    for number, (task, found) in enumerate(zip(tasks, answers, strict=True), start=1):
        for index, answer in zip(task, found, strict=True):
            if isinstance(answer, Refused):
                space.refuse(index, answer.reason)
            if isinstance(answer, Refused) or not columns:
                space.bounds[index] = np.nan if isinstance(answer, Refused) else answer
        progress("lower bounds", min(number * FEW, len(missing)), len(missing))


def _each(ask: Any, many: Sequence[tuple[Query, ...]]) -> list[Any]:
    return [attempt(ask, queries) for queries in many]  # type: ignore[arg-type]


def _check_of(evaluator: Evaluator, queries: tuple[Query, ...]) -> None:
    for query in queries:
        evaluator.check(query)


def _bounds_of(
    evaluator: Evaluator, queries: tuple[Query, ...], weights: Sequence[float], risk: Risk, metrics: Sequence[str]
) -> NDArray[np.float64]:
    """Return the bounds of one point, float64[metric]; ValueError where it cannot run."""
    found = [[bound_of(evaluator, query, metric) for query in queries] for metric in metrics]
    bounds = aggregate_bounds(found, weights, risk)
    for place, metric in enumerate(metrics):
        if metric in COSTS:  # of the machine, the same for all workloads
            bounds[place] = found[place][0]
    return bounds


def bound_of(evaluator: Evaluator, query: Query, metric: str) -> float:
    """Return what no run of a query has less of, for the metric of an objective; ValueError where it has none."""
    if metric in COSTS:
        return evaluator.costs(query)[metric]
    bounds = {"time_us": evaluator.bound_us, "energy_pj": evaluator.bound_pj, "hbm_bytes": evaluator.bound_hbm_bytes}
    return bounds[metric](query) if metric in bounds else 0.0


def _in_order(executor: Executor, ask: Any, tasks: Any) -> Iterator[Any]:
    """Yield the answers to tasks in their order, some tasks ahead."""
    waiting: list[Future[Any]] = []
    for task in tasks:
        waiting.append(executor.submit(ask, task))
        if len(waiting) > UNDER_WAY:
            yield waiting.pop(0).result()
    while waiting:
        yield waiting.pop(0).result()
