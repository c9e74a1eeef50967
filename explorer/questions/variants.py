"""What if: designs beside each other, at one point or along one or two swept axes.

A query, changes of it, and axes make cells; each is answered on its own, so any executor may do it. The first design is
what the others are compared with: the query itself unless another one is named. Along an axis of numbers the crossings
of each design with the first are looked for (`crossing`). A design that cannot run anywhere is an error; a
single cell that cannot run keeps its place, with the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from explorer.query import MACHINE_PREFIX, Query, Scalar
from explorer.questions.answer import Answer
from explorer.questions.crossing import Crossing, Times, flips
from explorer.questions.fidelity import Measured
from explorer.questions.sweep import Axis
from explorer.storage.row import all_numbers, nested, per_unit, with_nulls
from explorer.study import settings
from explorer.study.settings import Settings
from explorer.text.tables import percent
from explorer.workers import Refused, attempt

if TYPE_CHECKING:
    import pandas as pd

MAX_CELLS = 4096  # assumed: of a question; more belong into a study
BASELINE = "baseline"


@dataclass(frozen=True)
class Asker:
    """What answers queries. Functions raise ValueError in one line for a query that cannot be run; all are picklable.

    `defaults(kernel)`: its knobs. `check(query)`: raises early and cheaply. `measure(query, fidelity)`: its numbers.
    `answer(query, measured)`: the same as an answer. `describe(query)`: a title.
    """

    defaults: Callable[[str], dict[str, Scalar]]
    check: Callable[[Query], object]
    measure: Callable[[Query, str], Measured]
    answer: Callable[[Query, Measured], Answer]
    describe: Callable[[Query], str]


@dataclass(frozen=True)
class Design:
    """One design: what it `changes`, as settings and as typed values."""

    label: str
    changes: Settings
    values: Mapping[str, Scalar]


@dataclass(frozen=True)
class Cell:
    """A design at a point of the axes: the answer and all its numbers, or the reason why there is none."""

    design: int
    at: tuple[str, ...]
    answer: Answer | None
    metrics: Mapping[str, Any]
    reason: str = ""

    @property
    def cost_us(self) -> float | None:
        """The time, or the bound where that is all that was asked for; None where there is no answer."""
        if self.answer is None:
            return None
        return self.answer.bound_us if self.answer.time_us is None else self.answer.time_us


@dataclass(frozen=True)
class Table:
    """Answers to a what-if: `cells` in order of the points of `axes`, the designs within."""

    title: str
    fidelity: str
    designs: tuple[Design, ...]
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    crossings: tuple[Crossing, ...]

    def __len__(self) -> int:
        return len(self.cells)

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    @property
    def sentences(self) -> list[str]:
        """Where designs cross, in words."""
        return [crossing.sentence for crossing in self.crossings]

    def at(self, point: Sequence[str]) -> list[Cell]:
        """Return the designs at a point."""
        return [cell for cell in self.cells if cell.at == tuple(point)]

    @property
    def points(self) -> list[tuple[str, ...]]:
        """The points of the axes; one that is empty where there are none."""
        return list(itertools.product(*(axis.values for axis in self.axes)))

    def rows(self) -> list[dict[str, Any]]:
        """Return a record per cell: axes, design, numbers, what limits, key, validation, and how it came about."""
        return [self._row(cell) for cell in self.cells]

    def _row(self, cell: Cell) -> dict[str, Any]:
        first = next(other for other in self.cells if other.at == cell.at)
        head: dict[str, Any] = dict(zip((axis.path for axis in self.axes), map(_typed, cell.at), strict=True))
        head |= {"design": self.designs[cell.design].label, "reason": cell.reason}
        if cell.answer is None:
            return head
        answer = cell.answer
        numbers = ("time_us", "bound_us", "energy_pj", "energy_bound_pj", "hbm_read_bytes", "hbm_write_bytes")
        found = {name: value for name in numbers if (value := answer.numbers.get(name)) is not None}
        plain = {name: getattr(value, "value", value) for name, value in found.items()}
        change = cell.cost_us / first.cost_us - 1 if first.cost_us and cell.cost_us is not None else None
        return {
            **head,
            **plain,
            "gap": None if answer.gap is None else answer.gap.value,
            "difference": change,
            "limited_by": answer.limited_by,
            "how": answer.how,
            "validated": answer.validated,
            "validation": answer.validation.text,
            "key": str(answer.key),
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
                **with_nulls(nested(found)),
                "difference": nested(differences(numbers[0], found)),
            }
            for cell, found in zip(self.cells[1:], numbers[1:], strict=True)
        ]
        baseline = with_nulls(nested(numbers[0]))
        about = [_about(cell) for cell in self.cells]
        return {"fidelity": self.fidelity, "baseline": baseline, "variants": variants, "answers": about}

    def __str__(self) -> str:
        from explorer.text.whatif import table_text

        return table_text(self)

    def _repr_html_(self) -> str:
        from explorer.text.whatif import table_html

        return table_html(self)


def what_if(
    query: Query,
    changes: Sequence[Settings],
    axes: Sequence[Axis],
    fidelity: str,
    asker: Asker,
    executor: Executor,
    against: Settings = (),
    names: Sequence[str] = (),
) -> Table:
    """Return the answers to a query and changes of it at every point of the axes; `against` changes the first design.

    `names`: what the designs are called, the first one first; by default their changes.

    Raises ValueError naming the setting that the simulator does not take, or the design that cannot run at any point.
    """
    defaults = asker.defaults(query.kernel)
    if against and not changes:
        changes = [()]
    designs = tuple(_design(change, defaults) for change in (against, *changes))
    if names:
        designs = tuple(replace(design, label=name) for design, name in zip(designs, names, strict=True))
    points = list(itertools.product(*(axis.values for axis in axes)))
    if len(points) * len(designs) > MAX_CELLS:
        raise ValueError(f"--sweep: {len(points)} points of {len(designs)} designs; allowed: {MAX_CELLS} in all")
    paths = [axis.path for axis in axes]
    asked = [
        (number, at, _changed(query, design, tuple(zip(paths, at, strict=True)), defaults))
        for at in points
        for number, design in enumerate(designs)
    ]
    refused = _refusals(asked, designs, asker, bool(axes))
    runnable = [cell_query for place, (_, _, cell_query) in enumerate(asked) if place not in refused]
    answers = executor.map(partial(_measured, asker, fidelity), runnable)
    cells = tuple(_cell(*cell, refused.get(place, ""), answers, asker) for place, cell in enumerate(asked))
    table = Table(asker.describe(query), fidelity, designs, tuple(axes), cells, ())
    return replace(table, crossings=tuple(_crossings(table, query, asker, executor, defaults)))


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


def _design(changes: Settings, defaults: Mapping[str, Scalar]) -> Design:
    label = ",".join(f"{path}={value}" for path, value in changes)
    return Design(label or BASELINE, changes, {path: _value(path, text, defaults) for path, text in changes})


def _value(path: str, text: str, defaults: Mapping[str, Scalar]) -> Scalar:
    return settings.typed(((path, text),), defaults)[path]


def _typed(text: str) -> Scalar:
    return settings.typed((("", text),), {})[""]


def _changed(query: Query, design: Design, at: Settings, defaults: Mapping[str, Scalar]) -> Query:
    taken = {path.removeprefix(MACHINE_PREFIX) for path, _ in at}
    own = [path for path, _ in design.changes if path.removeprefix(MACHINE_PREFIX) in taken]
    if own:
        raise ValueError(f"--set {own[0]}: is swept, too; allowed: one of both")
    return settings.apply(settings.apply(query, design.changes, defaults), at, defaults, option="--sweep")


def _refusals(
    asked: Sequence[tuple[int, tuple[str, ...], Query]], designs: Sequence[Design], asker: Asker, swept: bool
) -> dict[int, str]:
    """Return by place why cells cannot run. Raises ValueError where a design can run at no point."""
    found: dict[int, str] = {}
    for place, (_, _, query) in enumerate(asked):
        answer = attempt(asker.check, query)
        if isinstance(answer, Refused):
            found[place] = answer.reason
    for number, design in enumerate(designs):
        places = [place for place, (of, _, _) in enumerate(asked) if of == number]
        if all(place in found for place in places):
            at = f" at {', '.join(asked[places[0]][1])}" if swept else ""
            where = f"--set {design.label}{at}: " if design.changes else f"{design.label}{at}: " if swept else ""
            raise ValueError(f"{where}{found[places[0]]}")
    return found


def _measured(asker: Asker, fidelity: str, query: Query) -> Measured:
    return asker.measure(query, fidelity)


def _cell(
    number: int, at: tuple[str, ...], query: Query, reason: str, answers: Iterator[Measured], asker: Asker
) -> Cell:
    if reason:
        return Cell(number, at, None, {}, reason)
    measured = next(answers)
    return Cell(number, at, asker.answer(query, measured), measured.metrics)


def _about(cell: Cell) -> dict[str, Any]:
    """Return what is said of an answer beside its numbers."""
    assert cell.answer is not None
    answer = cell.answer.record()
    return {name: answer[name] for name in ("fidelity", "gap", "key", "validation")}


def _crossings(
    table: Table, query: Query, asker: Asker, executor: Executor, defaults: Mapping[str, Scalar]
) -> Iterator[Crossing]:
    """Yield where each design crosses the first along the first axis of numbers, for every value of another axis."""
    along = next((place for place, axis in enumerate(table.axes) if axis.numbers is not None), None)
    if along is None:
        return
    axis, others = table.axes[along], [axis for place, axis in enumerate(table.axes) if place != along]
    for held in itertools.product(*(other.values for other in others)):
        fixed = tuple((other.path, value) for other, value in zip(others, held, strict=True))
        for number, design in enumerate(table.designs[1:], 1):
            found = _times_along(table, along, held, number)
            if not found:
                continue
            pair = (design, table.designs[0])

            def ask(at: Decimal, pair: tuple[Design, Design] = pair, fixed: Settings = fixed) -> Times | None:
                point = (*fixed, (axis.path, axis.text(at)))
                return _asked([_changed(query, each, point, defaults) for each in pair], table, asker, executor)

            first, last = found[0], found[-1]
            changes = flips(found, ask, axis.is_whole, axis.text)
            where = ", ".join(f"{path} {value}" for path, value in fixed)
            begins = first[1][0] < first[1][1]
            ends = axis.text(first[0]), axis.text(last[0])
            doubt = _doubt(table, number, [times for _, times in found])
            yield Crossing(design.label, table.designs[0].label, axis.path, *ends, changes, begins, where, doubt)


def _times_along(table: Table, along: int, held: tuple[str, ...], number: int) -> list[tuple[Decimal, Times]]:
    """Return the times of a design and of the first one at the points of an axis where both can run, in order."""
    axis = table.axes[along]
    found = []
    for value, at in zip(axis.values, axis.numbers or (), strict=True):
        cells = table.at((*held[:along], value, *held[along:]))
        one, other = cells[number].cost_us, cells[0].cost_us
        if one is not None and other is not None:
            found.append((at, (one, other)))
    return sorted(found)


def _doubt(table: Table, number: int, times: Sequence[Times]) -> str:
    """Return why the better of a design and the first one may be the other one; empty where both were run whole."""
    hows = {cell.answer.how for cell in table.cells if cell.design in (0, number) and cell.answer is not None}
    if "bound" in hows:
        return "lower bounds alone were compared"
    if "windows" not in hows:
        return ""
    from explorer.questions.window_error import known_error

    error = known_error().worst_ratio
    sure = all(abs(one / other - 1) > error for one, other in times if other)
    return "" if sure else f"times by windows, which are sure of the better one above a difference of {percent(error)}"


def _asked(queries: Sequence[Query], table: Table, asker: Asker, executor: Executor) -> Times | None:
    if any(isinstance(attempt(asker.check, query), Refused) for query in queries):
        return None
    one, other = executor.map(partial(_measured, asker, table.fidelity), queries)
    return _cost(one), _cost(other)


def _cost(measured: Measured) -> float:
    cost = measured.metrics.get("time_us", measured.metrics["bound_us"])
    assert isinstance(cost, int | float)
    return cost
