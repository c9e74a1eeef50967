"""What if: designs beside each other, at one point or along one or two swept axes.

A query (of a mix one for each workload), changes of it, and axes make cells; each query is answered on its own, so any
executor may do it. A `Goal` says what is compared. The first design is what the others are compared with: the query
itself unless another one is named. Along an axis of numbers the crossings of each design with the first are looked for
(`crossing`). A cell that cannot run keeps its place, with the reason; a first design that cannot run anywhere is an
error, and so is it where no other one can.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from explorer.progress import Progress, silent
from explorer.query import MACHINE_PREFIX, Query, Scalar
from explorer.questions.answer import Answer, RunKey
from explorer.questions.crossing import Costs, Crossing, flips
from explorer.questions.fidelity import Measured, for_objective
from explorer.questions.goal import TIME_ALONE, Goal, with_bound
from explorer.questions.sameness import same_sentences
from explorer.questions.sweep import Axis
from explorer.search.certificate import relative_gap
from explorer.storage.row import all_numbers, nested, per_unit, with_nulls
from explorer.study import settings
from explorer.study.mix import title_of
from explorer.study.objective import COSTS
from explorer.study.settings import Settable, Settings
from explorer.text.tables import percent
from explorer.workers import Refused, attempt

if TYPE_CHECKING:
    import pandas as pd

MAX_CELLS = 4096  # assumed: of a question; more belong into a study
BASELINE = "baseline"
_NUMBERS = ("time_us", "bound_us", "energy_pj", "energy_bound_pj", "hbm_read_bytes", "hbm_write_bytes")  # of a row
Queries = tuple[Query, ...]  # of a design: one for each workload
Point = tuple[tuple[Axis, str], ...]  # of a sweep: a value of each axis


@dataclass(frozen=True)
class Asker:
    """What answers queries. Functions raise ValueError in one line for a query that cannot be run; all are picklable.

    `settable(kernel)`: its knobs and sizes. `check(query)`: raises early and cheaply. `measure(query, fidelity)`: its
    numbers. `answer(query, measured)`: the same as an answer. `describe(query, swept)`: a title without the paths that
    are swept. `bound(query, metric)`: what no run has less of, of an objective whose bound is not among the numbers.
    """

    settable: Callable[[str], Settable]
    check: Callable[[Query], object]
    measure: Callable[[Query, str], Measured]
    answer: Callable[[Query, Measured], Answer]
    describe: Callable[[Query, Collection[str]], str]
    bound: Callable[[Query, str], float]


@dataclass(frozen=True)
class Design:
    """One design: what it `changes`, as settings and as typed values; `option`: where these were given."""

    label: str
    changes: Settings
    values: Mapping[str, Scalar]
    option: str = "--set"


@dataclass(frozen=True)
class Cell:
    """A design at a point of the axes: an answer for each workload and all numbers, or the reason why there is none.

    `cost`: the number that is compared, its bound where nothing was simulated, None where there is no answer; `gap`:
    how far it is above its bound, as a share.
    """

    design: int
    at: tuple[str, ...]
    answers: tuple[Answer, ...]
    metrics: Mapping[str, Any]
    cost: float | None
    gap: float | None
    reason: str = ""

    @property
    def keys(self) -> list[RunKey]:
        """What the answers are identified by."""
        return [answer.key for answer in self.answers]

    def said(self, what: Callable[[Answer], str]) -> str:
        """Return what the answers say, once where they say the same."""
        return ", ".join(dict.fromkeys(what(answer) for answer in self.answers))


@dataclass(frozen=True)
class Table:
    """Answers to a what-if: `cells` in order of the points of `axes`, the designs within."""

    title: str
    fidelity: str
    designs: tuple[Design, ...]
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    crossings: tuple[Crossing, ...]
    goal: Goal = TIME_ALONE

    def __len__(self) -> int:
        return len(self.cells)

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    @property
    def sentences(self) -> list[str]:
        """Where designs cross, and which are the same, in words."""
        return [*(crossing.sentence for crossing in self.crossings), *same_sentences(self)]

    @property
    def same(self) -> list[int | None]:
        """For every cell the first design that is the same at its point, None where there is none before it.

        What is the same is the program, for every workload, and the machine.
        """
        found = []
        for place, cell in enumerate(self.cells):
            before = self.cells[place - cell.design : place] if cell.answers else ()
            found.append(next((other.design for other in before if other.keys == cell.keys), None))
        return found

    def at(self, point: Sequence[str]) -> list[Cell]:
        """Return the designs at a point."""
        return [cell for cell in self.cells if cell.at == tuple(point)]

    @property
    def points(self) -> list[tuple[str, ...]]:
        """The points of the axes; one that is empty where there are none."""
        return list(itertools.product(*(axis.values for axis in self.axes)))

    def rows(self) -> list[dict[str, Any]]:
        """Return a record per cell: axes, design, numbers, what limits, key, validation, and how it came about."""
        same = self.same
        return [self._row(cell, self.cells[place - cell.design], same[place]) for place, cell in enumerate(self.cells)]

    def _row(self, cell: Cell, first: Cell, same: int | None) -> dict[str, Any]:
        """Return the record of a cell; `first`: the first design at its point; `same`: the design it is the same as."""
        head: dict[str, Any] = dict(zip((axis.path for axis in self.axes), map(_typed, cell.at), strict=True))
        head |= {"design": self.designs[cell.design].label, "reason": cell.reason}
        if not cell.answers:
            return head
        compared = (self.goal.objective.metric, self.goal.objective.bound)
        names = dict.fromkeys((*_NUMBERS, *compared))
        numbers = all_numbers(cell.metrics)
        change = cell.cost / first.cost - 1 if first.cost and cell.cost is not None else None
        return {
            **head,
            **{name: numbers[name] for name in names if name in numbers},
            "gap": cell.gap,
            "difference": change,
            "same_as": None if same is None else self.designs[same].label,
            "limited_by": cell.said(lambda answer: answer.limited_by),
            "how": cell.said(lambda answer: answer.how),
            "validated": all(answer.validated for answer in cell.answers),
            "validation": cell.said(lambda answer: answer.validation.text),
            "key": cell.said(lambda answer: str(answer.key)),
        }

    def to_pandas(self) -> pd.DataFrame:
        """Return `rows` as a frame."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def record(self) -> dict[str, Any]:
        """Return the table as JSON-able values: a baseline and its variants, or the rows and crossings of a sweep."""
        if self.axes:
            axes = [{"path": axis.path, "values": list(map(_typed, axis.values))} for axis in self.axes]
            crossings = [crossing.record() for crossing in self.crossings]
            return {"fidelity": self.fidelity, "axes": axes, "rows": self.rows(), "crossings": crossings}
        numbers = [all_numbers(cell.metrics) for cell in self.cells]
        variants = [
            {
                "set": dict(self.designs[cell.design].values),
                "same_as": None if same is None else self.designs[same].label,
                **({"reason": cell.reason} if cell.reason else with_nulls(nested(found))),
                "difference": nested(differences(numbers[0], found)),
            }
            for cell, found, same in zip(self.cells[1:], numbers[1:], self.same[1:], strict=True)
        ]
        baseline = with_nulls(nested(numbers[0]))
        about = [
            _about(answer) for cell in self.cells for answer in cell.answers or (None,) * max(1, len(self.goal.names))
        ]
        return {"fidelity": self.fidelity, "baseline": baseline, "variants": variants, "answers": about}

    def __str__(self) -> str:
        from explorer.text.whatif import table_text

        return table_text(self)

    def _repr_html_(self) -> str:
        from explorer.text.whatif import table_html

        return table_html(self)


@dataclass(frozen=True)
class _Asking:
    """How queries are asked: by whom, how closely, and what is compared."""

    asker: Asker
    executor: Executor
    fidelity: str
    goal: Goal

    def refusal(self, queries: Queries) -> str:
        """Return why a design cannot run, for a mix with the workload; empty where it can."""
        for name, query in zip(self.goal.names, queries, strict=True):
            if isinstance(answer := attempt(self.asker.check, query), Refused):
                return f"mix.{name}: {answer.reason}" if name else answer.reason
        return ""

    def measured(self, designs: Sequence[Queries]) -> Iterator[tuple[Measured, ...]]:
        """Yield the numbers of designs that can run, on each workload."""
        measure = partial(_measured, self.asker, self.fidelity, self.goal)
        answers = self.executor.map(measure, itertools.chain.from_iterable(designs))
        return (tuple(itertools.islice(answers, len(queries))) for queries in designs)

    def cell(self, number: int, at: tuple[str, ...], queries: Queries, measured: tuple[Measured, ...]) -> Cell:
        """Return a design at a point."""
        answers = tuple(self.asker.answer(*each) for each in zip(queries, measured, strict=True))
        numbers = self.goal.numbers([each.metrics for each in measured])
        value = self.goal.value(numbers)
        gap = None if value is None else relative_gap(value, self.goal.bound(numbers))
        metrics = measured[0].metrics if self.goal == TIME_ALONE else numbers
        return Cell(number, at, answers, metrics, self.goal.cost(numbers), gap)

    def costs(self, designs: Sequence[Queries]) -> Costs | None:
        """Return what is compared of two designs; None where one cannot run."""
        if any(map(self.refusal, designs)):
            return None
        one, other = (self.goal.cost(self.goal.numbers([m.metrics for m in each])) for each in self.measured(designs))
        return one, other


def what_if(
    queries: Queries,
    changes: Sequence[Settings],
    axes: Sequence[Axis],
    fidelity: str,
    asker: Asker,
    executor: Executor,
    against: Settings = (),
    names: Sequence[str] = (),
    goal: Goal = TIME_ALONE,
    progress: Progress = silent,
) -> Table:
    """Return the answers to a query and changes of it at every point of the axes; `against` changes the first design.

    `queries`: one for each workload of the `goal`. `names`: what the designs are called, the first one first; by
    default their changes; named designs are compared with one another, so that each must run somewhere.

    Raises ValueError naming the setting that the simulator does not take, or a design that cannot run at any point.
    """
    asking = _Asking(asker, executor, for_objective(fidelity, goal.objective), goal)
    settable = asker.settable(queries[0].kernel)
    if against and not changes:
        changes = [()]
    designs = (_design(against, settable, "--against"), *(_design(change, settable) for change in changes))
    if names:
        designs = tuple(replace(design, label=name) for design, name in zip(designs, names, strict=True))
    points = list(itertools.product(*(axis.values for axis in axes)))
    if len(points) * len(designs) > MAX_CELLS:
        raise ValueError(f"--sweep: {len(points)} points of {len(designs)} designs; allowed: {MAX_CELLS} in all")
    asked = [
        (number, at, _changed(queries, design, tuple(zip(axes, at, strict=True)), settable))
        for at in points
        for number, design in enumerate(designs)
    ]
    refused = _refusals(asked, designs, asking, bool(axes), all_run=bool(names))
    found = asking.measured([each for place, (_, _, each) in enumerate(asked) if place not in refused])
    cells = []
    for place, (number, at, each) in enumerate(asked):
        progress("designs", place, len(asked))
        reason = refused.get(place, "")
        cells.append(
            Cell(number, at, (), {}, None, None, reason) if reason else asking.cell(number, at, each, next(found))
        )
    progress("designs", len(asked), len(asked))
    swept = {axis.path.removeprefix(MACHINE_PREFIX) for axis in axes}
    title = title_of([asker.describe(query, swept) for query in queries], goal.names, goal.risk)
    table = Table(title, asking.fidelity, designs, tuple(axes), tuple(cells), (), goal)
    return replace(table, crossings=tuple(_crossings(table, queries, asking, settable)))


def differences(baseline: Mapping[str, Scalar], variant: Mapping[str, Scalar]) -> dict[str, float]:
    """Return the relative differences of flat numbers: 0.1 is 10 % more; a number whose baseline is 0 has none.

    Stalls are fs summed over all units; their differences are of the average unit, as a variant may have more units.
    """
    found = {}
    starts = per_unit(baseline)
    for name, value in per_unit(variant).items():
        start = starts.get(name)
        if isinstance(value, int | float) and isinstance(start, int | float) and start != 0:
            found[name] = value / start - 1
    return found


def _design(changes: Settings, settable: Settable, option: str = "--set") -> Design:
    values = {path: settings.typed(((path, text),), settable.knobs)[path] for path, text in changes}
    return Design(_typed_in(changes) or BASELINE, changes, values, option)


def _typed_in(changes: Settings) -> str:
    """Return changes as `--set` takes them."""
    return ",".join(f"{path}={value}" for path, value in changes)


def _typed(text: str) -> Scalar:
    return settings.typed((("", text),), {})[""]


def _changed(queries: Queries, design: Design, at: Point, settable: Settable) -> Queries:
    taken = {axis.path.removeprefix(MACHINE_PREFIX) for axis, _ in at}
    own = [path for path, _ in design.changes if path.removeprefix(MACHINE_PREFIX) in taken]
    if own:
        raise ValueError(f"{design.option} {own[0]}: is swept, too; allowed: one of both")
    changed = [settings.apply(query, design.changes, settable, design.option) for query in queries]
    for axis, value in at:
        changed = [settings.apply(query, ((axis.path, value),), settable, axis.option) for query in changed]
    return tuple(changed)


def _refusals(
    asked: Sequence[tuple[int, tuple[str, ...], Queries]],
    designs: Sequence[Design],
    asking: _Asking,
    swept: bool,
    all_run: bool,
) -> dict[int, str]:
    """Return by place why cells cannot run.

    Raises ValueError where a design can run at no point: the first one, or another one of `all_run` or
    where no other one can.
    """
    reasons = (asking.refusal(queries) for _, _, queries in asked)
    found = {place: reason for place, reason in enumerate(reasons) if reason}
    running = {number for place, (number, _, _) in enumerate(asked) if place not in found}
    needed = range(len(designs)) if all_run or running <= {0} else range(1)
    for number in needed:
        if number not in running:
            place = next(place for place, (of, _, _) in enumerate(asked) if of == number)
            at = f" at {', '.join(asked[place][1])}" if swept else ""
            raise ValueError(f"{_where(designs[number], at)}{found[place]}")
    return found


def _where(design: Design, at: str) -> str:
    """Return the head of a line about a design at a point: as it was set, or by its name."""
    if design.label == _typed_in(design.changes):
        return f"{design.option} {design.label}{at}: "
    return f"{design.label}{at}: " if at or design.label != BASELINE else ""


def _measured(asker: Asker, fidelity: str, goal: Goal, query: Query) -> Measured:
    return with_bound(asker.measure(query, fidelity), query, goal.objective, asker.bound)


def _about(answer: Answer | None) -> dict[str, Any] | None:
    """Return what is said of an answer beside its numbers; nothing where there is none."""
    if answer is None:
        return None
    record = answer.record()
    return {name: record[name] for name in ("fidelity", "gap", "key", "validation")}


def _crossings(table: Table, queries: Queries, asking: _Asking, settable: Settable) -> Iterator[Crossing]:
    """Yield where each design crosses the first along the first axis of numbers, for every value of another axis."""
    along = next((place for place, axis in enumerate(table.axes) if axis.numbers is not None), None)
    if along is None:
        return
    axis, others = table.axes[along], [axis for place, axis in enumerate(table.axes) if place != along]
    for held in itertools.product(*(other.values for other in others)):
        fixed = tuple(zip(others, held, strict=True))
        line = [table.at((*held[:along], value, *held[along:])) for value in axis.values]
        for number, design in enumerate(table.designs[1:], 1):
            found = _costs_along(axis, line, number)
            if not found or all(cells[number].keys == cells[0].keys for cells in line):
                continue
            pair = (design, table.designs[0])

            def ask(at: Decimal, pair: tuple[Design, Design] = pair, fixed: Point = fixed) -> Costs | None:
                point = (*fixed, (axis, axis.text(at)))
                return asking.costs([_changed(queries, each, point, settable) for each in pair])

            first, last = found[0], found[-1]
            changes = flips(found, ask, axis.is_whole, axis.text)
            where = ", ".join(f"{other.path} {value}" for other, value in fixed)
            begins = first[1][0] < first[1][1]
            ends = axis.text(first[0]), axis.text(last[0])
            doubt = _doubt(table, number, [costs for _, costs in found])
            names, goal = (design.label, table.designs[0].label), table.goal.objective
            yield Crossing(*names, axis.path, *ends, changes, begins, where, doubt, goal)


def _costs_along(axis: Axis, line: Sequence[Sequence[Cell]], number: int) -> list[tuple[Decimal, Costs]]:
    """Return the costs of a design and of the first one at the points of an axis where both can run, in order."""
    found = []
    for cells, at in zip(line, axis.numbers or (), strict=True):
        one, other = cells[number].cost, cells[0].cost
        if one is not None and other is not None:
            found.append((at, (one, other)))
    return sorted(found)


def _doubt(table: Table, number: int, costs: Sequence[Costs]) -> str:
    """Return why the better of a design and the first one may be the other one; empty where that is known."""
    if table.goal.objective.metric in COSTS:
        return ""
    hows = {answer.how for cell in table.cells if cell.design in (0, number) for answer in cell.answers}
    if "bound" in hows:
        return "lower bounds alone were compared"
    if "windows" not in hows:
        return ""
    from explorer.questions.window_error import known_error

    error = known_error(table.fidelity).worst_ratio
    sure = all(abs(one / other - 1) > error for one, other in costs if other)
    return "" if sure else f"times by windows, which are sure of the better one above a difference of {percent(error)}"
