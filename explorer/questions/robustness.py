"""How robust the winner of a study is: against the runner-up along axes, uncertain numbers, and other batches.

A results folder names designs (its best points) and a question; everything is asked again (`variants`):

- flips: along batch, context and whatever axis is named, where the winner stops being better than the runner-up;
- tornado: over each of the machine's `ranges`, how far the time moves and which design is the best at both ends;
- held out: the designs on batches that the study did not see, other seeds of its trace or lengths of a trace.

Designs are the best that the study simulated: a point that is better elsewhere and was pruned here is not among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer import programs
from explorer.query import AZURE, MACHINE_PREFIX, TRACES, BatchSpec, Query, Scalar
from explorer.questions.crossing import Crossing
from explorer.questions.fidelity import DEFAULT, check
from explorer.questions.sweep import Axis, axes_of
from explorer.questions.variants import Asker, Table, what_if
from explorer.space.space import bare
from explorer.storage.folder import read_identity, rows_frame
from explorer.study.settings import Settings
from explorer.workers import workers

if TYPE_CHECKING:
    import pandas as pd

    from explorer.study.study import Study

MAX_TOP = 16
REACH = 4  # default axes go from a fourth to four times of what the study asked


@dataclass(frozen=True)
class Contender:
    """One of the best designs of a study: the settings in which the best differ, and its time in the results."""

    point: int
    place: int
    label: str
    changes: Settings
    time_us: float

    @property
    def name(self) -> str:
        """What the design is called: the winner, the runner-up, number 3."""
        return ("the winner", "the runner-up")[self.place] if self.place < 2 else f"number {self.place + 1}"


@dataclass(frozen=True)
class Swing:
    """What a range of one number does: the times of the designs at both ends, the winner's first, in us."""

    path: str
    low: str
    high: str
    source: str
    at_low: tuple[float, ...]
    at_high: tuple[float, ...]
    nominal_us: float
    crossing: Crossing | None

    @property
    def width(self) -> float:
        """How far the winner's time moves, as a share of its time."""
        return abs(self.at_high[0] - self.at_low[0]) / self.nominal_us

    def best(self, high: bool) -> int:
        """Return which design is the fastest at an end; the winner where several are."""
        times = self.at_high if high else self.at_low
        return times.index(min(times))


@dataclass(frozen=True)
class HeldOut:
    """The times of the designs on one batch that the study did not see, the winner's first, in us."""

    batch: str
    times_us: tuple[float, ...]

    @property
    def regret(self) -> float:
        """How much longer the winner takes than the best of the designs there, as a share."""
        return self.times_us[0] / min(self.times_us) - 1


@dataclass(frozen=True)
class Robustness:
    """How robust the first of `contenders` is; `nominal`: all of them at what the study asked."""

    title: str
    contenders: tuple[Contender, ...]
    nominal: Table
    flips: tuple[Table, ...]
    swings: tuple[Swing, ...]
    held_out: tuple[HeldOut, ...]
    unasked: tuple[str, ...] = ()  # uncertain numbers that a design sets, or at whose ends one cannot run

    @property
    def sentences(self) -> list[str]:
        """Return the findings in words."""
        from explorer.text.robustness import sentences

        return sentences(self)

    def record(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        from explorer.text.robustness import record

        return record(self)

    def to_pandas(self) -> pd.DataFrame:
        """Return the tornado as a frame: a row per uncertain number."""
        import pandas as pd

        from explorer.text.robustness import swing_record

        return pd.DataFrame([swing_record(self, swing) for swing in self.swings])

    def __str__(self) -> str:
        from explorer.text.robustness import text

        return text(self)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"


@dataclass(frozen=True)
class Bench:
    """Where designs are asked: the query that they change, and how."""

    query: Query
    contenders: tuple[Contender, ...]
    fidelity: str
    asker: Asker
    executor: Executor

    def table(self, axes: Sequence[Axis] = (), query: Query | None = None, order: Sequence[int] | None = None) -> Table:
        """Return the designs, in another order where one is given, along axes; what is swept is the same for all."""
        taken = [self.contenders[place] for place in order] if order is not None else list(self.contenders)
        swept = {axis.path.removeprefix(MACHINE_PREFIX) for axis in axes}
        changes = [
            tuple((path, value) for path, value in each.changes if path.removeprefix(MACHINE_PREFIX) not in swept)
            for each in taken
        ]
        if len(set(changes)) < len(changes):
            paths = ", ".join(axis.path for axis in axes)
            raise ValueError(f"--axis {paths}: designs differ in nothing else; allowed: what all of them share")
        names = [each.name for each in taken]
        asked, executor = (query or self.query, changes[1:], axes, self.fidelity, self.asker), self.executor
        return what_if(*asked, executor, against=changes[0], names=names)


def robust(
    results: str | Path,
    *,
    axes: Mapping[str, str | Iterable[Scalar]] | Sequence[Axis] | None = None,
    top: int = 3,
    seeds: int = 3,
    trace: str | None = None,
    fidelity: str = DEFAULT,
    jobs: int = 1,
    trace_path: str | None = None,
) -> Robustness:
    """Return how robust the winner of a results folder is.

    `axes`: by path, as `sweep` of `whatif`; by default batch and context. `top`: how many of the best designs are
    asked. `seeds`: held-out batches, of the study's `trace` or of another one. `jobs`: worker processes. Raises
    ValueError for a folder that is none, or a study whose winner has no runner-up.
    """
    from explorer.questions.asking import ASKER

    if not 2 <= top <= MAX_TOP or not 0 <= seeds <= 1 << 10:
        raise ValueError(f"robust: top {top}, seeds {seeds}; allowed: 2 to {MAX_TOP} designs, 0 to {1 << 10} seeds")
    check(fidelity)
    query, contenders, study = designs_of(Path(results), top, trace_path)
    given = axes_of(axes) if isinstance(axes, Mapping) else tuple(axes) if axes is not None else around(query)
    with workers(jobs) as executor:
        bench = Bench(query, contenders, fidelity, ASKER, executor)
        nominal = bench.table()
        flips = tuple(bench.table([axis], order=(1, 0)) for axis in given)
        swings = sorted(swings_of(bench, nominal), key=lambda swing: (-swing.width, swing.path))
        return Robustness(
            f"{study.name}: {nominal.title}",
            contenders,
            nominal,
            flips,
            tuple(swings),
            tuple(held_out(bench, seeds, trace, trace_path)),
            tuple(sorted(programs.machine_of(query.machine).spec.ranges.keys() - {swing.path for swing in swings})),
        )


def designs_of(folder: Path, top: int, trace_path: str | None = None) -> tuple[Query, tuple[Contender, ...], Study]:
    """Return the question of a study, and the best designs in its results as changes of it."""
    identity, frame = read_identity(folder), rows_frame(folder)
    study = identity.study
    works = list(bare(study, dict.fromkeys(TRACES.values(), trace_path)))
    if len(works) > 1:
        raise ValueError(f"{folder}: a mix of {len(works)} workloads; robustness is asked of studies of one")
    if study.objective != "time_us":
        raise ValueError(f"{folder}: looks for the least {study.objective}; robustness is asked of time_us alone")
    best = frame[frame["status"] == "simulated"].sort_values(["time_us", "point"]).drop_duplicates("key").head(top)
    if len(best) < 2:
        raise ValueError(f"{folder}: {len(best)} design was simulated; two are needed to compare")
    rows = [
        {name: _plain(row[name]) for name in identity.settings if not _is_missing(row.get(name))}
        for row in best.to_dict("records")
    ]
    common = {name: value for name, value in rows[0].items() if all(row.get(name) == value for row in rows)}
    query = works[0].base
    for name, value in common.items():
        query = query.with_knob(name, value)
    contenders = []
    for place, (row, found) in enumerate(zip(rows, best.to_dict("records"), strict=True)):
        changes = tuple((name, str(value)) for name, value in row.items() if name not in common)
        label = ", ".join(f"{name} {value}" for name, value in changes)
        contenders.append(Contender(int(found["point"]), place, label, changes, float(found["time_us"])))
    return query, tuple(contenders), study


def around(query: Query) -> tuple[Axis, ...]:
    """Return axes of batch and context around what a query asks."""
    if query.batch is None:
        return ()
    axes = [_factors("batch", query.batch.sequences)]
    return (*axes, _factors("context", query.batch.context)) if query.batch.context else tuple(axes)


def swings_of(bench: Bench, nominal: Table) -> list[Swing]:
    """Return what each uncertain number of the machine does that no design sets."""
    query = bench.query
    ranges = programs.machine_of(query.machine).spec.ranges
    taken = {path for path, _ in query.machine_overrides}
    taken |= {path.removeprefix(MACHINE_PREFIX) for each in bench.contenders for path, _ in each.changes}
    start = nominal.cells[0].cost_us
    assert start is not None
    found = []
    for path, entry in ranges.items():
        if path in taken:
            continue
        low, high = str(entry.low), str(entry.high)
        axis = Axis(path, (low, high))
        table = bench.table([axis])
        ends = [tuple(cell.cost_us for cell in table.at((value,))) for value in axis.values]
        times = [tuple(cost for cost in end if cost is not None) for end in ends]
        if len(times[0]) == len(times[1]) == len(bench.contenders):
            crossing = next(iter(table.crossings), None)
            found.append(Swing(path, low, high, entry.source, times[0], times[1], start, crossing))
    return found


def held_out(bench: Bench, seeds: int, trace: str | None, trace_path: str | None) -> list[HeldOut]:
    """Return the designs on batches of other seeds: of the study's trace, of the one named, or of Azure's."""
    batch = bench.query.batch
    if batch is None:
        return []
    name = TRACES[trace] if trace else batch.trace or AZURE
    path = trace_path if name == batch.trace or trace else None
    first = batch.seed + 1 if name == batch.trace else 0
    found = []
    for seed in range(first, first + seeds):
        spec = BatchSpec(batch.sequences, None, name, seed, path)
        query = replace(bench.query, batch=spec, seed=seed)
        times = tuple(cell.cost_us for cell in bench.table(query=query).cells)
        found.append(HeldOut(f"{name}, seed {seed}", tuple(float(time) for time in times if time is not None)))
    return found


def _factors(path: str, value: int) -> Axis:
    values = dict.fromkeys(max(1, value * 2**power // REACH) for power in range(2 * REACH.bit_length() - 1))
    return Axis(path, tuple(map(str, values)))


def _is_missing(value: Any) -> bool:
    """Whether a cell of a row is empty: a knob that its conditions leave out."""
    return value is None or value != value or str(value) == "<NA>"


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
