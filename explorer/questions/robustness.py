"""How robust the winner of a study is: against the runner-up along axes, uncertain numbers, and other batches.

A results folder names designs (its best points) and a question; everything is asked again (`variants`), and compared by
what the study makes small: an objective, of a mix the risk of it over all workloads. The files that the study names are
found where it lay, and are those that it asked of, by their digests.

- flips: along batch, context and whatever axis is named, where the winner stops being better than the runner-up;
- tornado: over each of the machine's `ranges`, how far that moves and which design is the best at both ends;
- held out: the designs on batches that the study did not see, other seeds of its trace or lengths of a trace.

Designs that tie are ranked by the other objectives of the study; none of them is called the winner. What the machine
costs (`COSTS`) is known without a simulation and the same for all batches.

Designs are the best that the study simulated: a point that is better elsewhere and was pruned here is not among them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from explorer import programs
from explorer.names import unknown
from explorer.progress import Progress, renamed, silent
from explorer.query import MACHINE_PREFIX, TRACES, BatchSpec, Scalar
from explorer.questions.crossing import Crossing
from explorer.questions.fidelity import DEFAULT, check, for_objective
from explorer.questions.goal import Goal
from explorer.questions.sweep import Axis, axes_of
from explorer.questions.variants import Asker, Cell, Queries, Table, what_if
from explorer.space.space import TracePaths, Work, bare, inputs_of, with_values
from explorer.storage.folder import Identity, check_inputs, read_identity, rows_frame
from explorer.study.objective import COSTS, OBJECTIVES, TIME, Objective
from explorer.study.settings import Settings
from explorer.study.study import is_path
from explorer.workers import Refused, workers
from explorer.workers.sources import digests, files_of, read_anew

if TYPE_CHECKING:
    import pandas as pd

_Of = TypeVar("_Of")
MAX_TOP = 16
REACH = 4  # default axes go from a fourth to four times of what the study asked


@dataclass(frozen=True)
class Contender:
    """One of the best designs of a study: the settings in which the best differ, and its cost in the results."""

    point: int
    place: int
    label: str
    changes: Settings
    cost: float
    is_tied: bool = False  # the first of the designs is not alone

    @property
    def name(self) -> str:
        """What the design is called: the winner, the runner-up, number 3; of a tie, number 1 and number 2."""
        if self.place < 2 and not self.is_tied:
            return ("the winner", "the runner-up")[self.place]
        return f"number {self.place + 1}"


@dataclass(frozen=True)
class Swing:
    """What a range of one number does: the costs of the designs at both ends, the winner's first."""

    path: str
    low: str
    high: str
    source: str
    at_low: tuple[float, ...]
    at_high: tuple[float, ...]
    nominal: float
    crossing: Crossing | None

    @property
    def width(self) -> float:
        """How far the winner's cost moves from the one at the nominal value, as a share of it."""
        ends = self.at_low[0], self.at_high[0]
        return max(abs(cost - self.nominal) for cost in ends) / self.nominal if self.nominal else 0.0

    def best(self, high: bool) -> int:
        """Return which design is the best at an end; the winner where several are."""
        costs = self.at_high if high else self.at_low
        return costs.index(min(costs))


@dataclass(frozen=True)
class HeldOut:
    """The costs of the designs on batches that the study did not see, one for each workload, the winner's first."""

    batch: str
    costs: tuple[float, ...]

    @property
    def regret(self) -> float:
        """How far the winner is above the best of the designs there, as a share."""
        least = min(self.costs)
        return self.costs[0] / least - 1 if least else 0.0


@dataclass(frozen=True)
class Unheld:
    """A held-out batch on which one of the designs cannot run, and the reason."""

    batch: str
    reason: str


@dataclass(frozen=True)
class Robustness:
    """How robust the first of `contenders` is; `nominal`: all of them at what the study asked."""

    title: str
    contenders: tuple[Contender, ...]
    nominal: Table
    flips: tuple[Table, ...]
    swings: tuple[Swing, ...]
    held_out: tuple[HeldOut, ...]
    objective: Objective = TIME
    unasked: tuple[str, ...] = ()  # uncertain numbers that a design sets, or at whose ends one cannot run
    unheld: tuple[Unheld, ...] = ()
    undrawn: str = ""  # why no batch was held out
    ranked_by: str = ""  # the other objectives, which rank designs that tie
    is_of_another_version: bool = False  # the results, of the simulator

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
class Designs:
    """What a results folder asks, a query for each workload, by what it compares, and its best designs as changes."""

    queries: Queries
    contenders: tuple[Contender, ...]
    goal: Goal
    name: str
    ranked_by: str = ""
    is_of_another_version: bool = False


@dataclass(frozen=True)
class Bench:
    """Where designs are asked: how, by whom, and who hears how far it is."""

    designs: Designs
    fidelity: str
    asker: Asker
    executor: Executor
    progress: Progress = silent

    def table(
        self,
        axes: Sequence[Axis] = (),
        queries: Queries | None = None,
        order: Sequence[int] | None = None,
        stage: str | None = None,
    ) -> Table:
        """Return the designs, in another order where one is given, along axes; what is swept is the same for all.

        `stage`: under which name progress is told of the table.
        """
        contenders = self.designs.contenders
        taken = [contenders[place] for place in order] if order is not None else list(contenders)
        swept = {axis.path.removeprefix(MACHINE_PREFIX) for axis in axes}
        changes = [
            tuple((path, value) for path, value in each.changes if path.removeprefix(MACHINE_PREFIX) not in swept)
            for each in taken
        ]
        if len(set(changes)) < len(changes):
            paths = ", ".join(axis.path for axis in axes)
            raise ValueError(f"--axis {paths}: designs differ in nothing else; allowed: what all of them share")

        return what_if(
            queries or self.designs.queries,
            changes[1:],
            axes,
            self.fidelity,
            self.asker,
            self.executor,
            against=changes[0],
            names=[each.name for each in taken],
            goal=self.designs.goal,
            progress=silent if stage is None else renamed(self.progress, stage),
        )

    def attempted(self, axes: Sequence[Axis] = (), queries: Queries | None = None) -> Table | Refused:
        """Return the table of the designs, or why one of them can run at none of its points."""
        try:
            return self.table(axes, queries)
        except ValueError as error:
            return Refused(" ".join(str(error).split()))

    def counted(self, stage: str, of: Sequence[_Of]) -> Iterator[_Of]:
        """Yield what is asked one after another, and tell progress of it."""
        for done, each in enumerate(of):
            self.progress(stage, done, len(of))
            yield each
        if of:
            self.progress(stage, len(of), len(of))


def robust(
    results: str | Path,
    *,
    axes: Mapping[str, str | Iterable[Scalar]] | Sequence[Axis] | None = None,
    top: int = 3,
    seeds: int = 3,
    trace: str | None = None,
    fidelity: str = DEFAULT,
    jobs: int = 1,
    objective: str | None = None,
    trace_paths: TracePaths | None = None,
    progress: Progress = silent,
) -> Robustness:
    """Return how robust the winner of a results folder is.

    `axes`: by path, as `sweep` of `whatif`; by default batch and context, where all workloads have the same. `top`: how
    many of the best designs are asked. `seeds`: held-out batches, of the traces of the study or of the one named; none
    where there is no trace. `jobs`: worker processes. `objective`: one of the study's, by default its first.
    `trace_paths`: the files of traces.
    Raises ValueError for a folder that is none, a study whose winner has no runner-up, or a trace that cannot be read.
    """
    from explorer.questions.asking import ASKER

    _check_arguments(results, top, seeds, jobs, trace, objective, fidelity)
    designs = designs_of(Path(results), top, trace_paths, objective)
    undrawn = why_undrawn(designs, trace)
    draws = [] if undrawn else drawn_queries(designs.queries, seeds, trace, trace_paths or {})
    read_anew(digests(files_of([*designs.queries, *itertools.chain(*draws)])))
    _check_traces(draws)
    for_objective(fidelity, designs.goal.objective)
    fidelity = "bound" if designs.goal.objective.metric in COSTS else fidelity
    given = (
        axes_of(axes, "--axis") if isinstance(axes, Mapping) else tuple(default_axes(designs) if axes is None else axes)
    )
    with workers(jobs) as executor:
        bench = Bench(designs, fidelity, ASKER, executor, progress)
        nominal = bench.table(stage="designs")
        flips = tuple(bench.table([axis], order=(1, 0), stage=f"axis {axis.path}") for axis in given)
        swings = sorted(swings_of(bench, nominal), key=lambda swing: (-swing.width, swing.path))
        ranges = programs.machine_of(designs.queries[0].machine).spec.ranges
        batches = list(held_out(bench, draws))
        return Robustness(
            f"{designs.name}: {nominal.title}",
            designs.contenders,
            nominal,
            flips,
            tuple(swings),
            tuple(each for each in batches if isinstance(each, HeldOut)),
            designs.goal.objective,
            tuple(sorted(ranges.keys() - {swing.path for swing in swings})),
            tuple(each for each in batches if isinstance(each, Unheld)),
            undrawn if seeds else "",
            designs.ranked_by,
            designs.is_of_another_version,
        )


def _check_arguments(
    results: str | Path, top: int, seeds: int, jobs: int, trace: str | None, objective: str | None, fidelity: str
) -> None:
    """Refuse arguments of `robust` that are none."""
    from explorer.questions.asking import check_types

    check_types({"results": results}, str | Path, "the folder that explore wrote")
    check_types({"top": top, "seeds": seeds, "jobs": jobs}, int, "a whole number")
    check_types({"trace": trace, "objective": objective}, str | None, "a name")
    if not 2 <= top <= MAX_TOP or not 0 <= seeds <= 1 << 10:
        raise ValueError(f"robust: top {top}, seeds {seeds}; allowed: 2 to {MAX_TOP} designs, 0 to {1 << 10} seeds")
    check(fidelity)
    if trace is not None and trace not in TRACES:
        raise ValueError(f"--trace: {unknown('trace', trace, TRACES)}")


def designs_of(folder: Path, top: int, trace_paths: TracePaths | None = None, objective: str | None = None) -> Designs:
    """Return the question of a study, and the best designs in its results."""
    identity, frame = read_identity(folder), rows_frame(folder)
    study = identity.study
    metric = study.objective if objective is None else objective
    if metric not in study.objectives:
        raise ValueError(f"--objective: {unknown(f'objective of {folder}', metric, study.objectives)}")
    works = list(bare(study.located(), trace_paths))
    is_of_another_version = _check_unchanged(folder, identity, works)
    names, weights = tuple(work.name for work in works), tuple(work.weight for work in works)
    others = [name for name in study.objectives if name != metric]
    simulated = frame[frame["status"] == "simulated"]
    best = simulated.sort_values([metric, *others, "point"]).drop_duplicates("key").head(top)
    if len(best) < 2:
        raise ValueError(f"{folder}: {len(best)} design was simulated; two are needed to compare")
    rows = [
        {name: _plain(row[name]) for name in identity.settings if not _is_missing(row.get(name))}
        for row in best.to_dict("records")
    ]
    common = {name: value for name, value in rows[0].items() if all(row.get(name) == value for row in rows)}
    is_tied = bool(best[metric].iloc[0] == best[metric].iloc[1])
    contenders = []
    for place, (row, found) in enumerate(zip(rows, best.to_dict("records"), strict=True)):
        changes = tuple((name, str(value)) for name, value in row.items() if name not in common)
        label = ", ".join(f"{name} {value}" for name, value in changes)
        contenders.append(Contender(int(found["point"]), place, label, changes, float(found[metric]), is_tied))
    queries = tuple(with_values(work.base, common) for work in works)
    goal = Goal(OBJECTIVES[metric], names, weights, study.over)
    ranked_by = ", ".join(OBJECTIVES[name].noun for name in others)
    return Designs(queries, tuple(contenders), goal, study.name, ranked_by, is_of_another_version)


def _check_unchanged(folder: Path, identity: Identity, works: Sequence[Work]) -> bool:
    """Return whether another version of the simulator computed the results.

    Raises ValueError where what the study names is not there, or no longer what it was.
    """
    study = identity.study
    for query in (work.base for work in works):
        named = [name for name in (query.machine, query.model) if name and is_path(name)]
        missing = next((path for path in filter(None, [*named, query.routing]) if not Path(path).exists()), None)
        if missing is not None:
            start = f"its folder, {study.file.parent} as seen from the results" if study.file else "the current folder"
            again = f"put it there, or run explore again with --out {folder} on the study where it lies now"
            raise ValueError(f"{folder}: {missing}: no such file; relative paths of a study start at {start}; {again}")
    read_anew(digests(files_of(work.base for work in works)))
    asked = programs.defaults(study.kernel) | study.fixed | study.baseline
    now = inputs_of(works, [with_values(work.base, asked) for work in works], programs.inputs)
    check_inputs(folder, identity, now)
    return any(now[name] != digest for name, digest in identity.inputs.items() if name.endswith("simulator"))


def default_axes(designs: Designs) -> tuple[Axis, ...]:
    """Return the axes around what a study asked; none where they change nothing."""
    return () if designs.goal.objective.metric in COSTS else around(designs.queries)


def around(queries: Queries) -> tuple[Axis, ...]:
    """Return axes of batch and context around what queries ask, where they ask the same."""
    batches = [query.batch for query in queries]
    found = {
        "batch": {batch.sequences if batch else None for batch in batches},
        "context": {batch.context if batch else None for batch in batches},
    }
    same = ((path, next(iter(values))) for path, values in found.items() if len(values) == 1)
    return tuple(_factors(path, value) for path, value in same if value is not None)


def swings_of(bench: Bench, nominal: Table) -> list[Swing]:
    """Return what each uncertain number of the machine does that no design sets, and at whose ends all can run."""
    query = bench.designs.queries[0]
    ranges = programs.machine_of(query.machine).spec.ranges
    taken = {path for path, _ in query.machine_overrides}
    taken |= {path.removeprefix(MACHINE_PREFIX) for each in bench.designs.contenders for path, _ in each.changes}
    start = nominal.cells[0].cost
    assert start is not None
    asked = [(path, entry) for path, entry in ranges.items() if path not in taken]
    found = []
    for path, entry in bench.counted("uncertain numbers", asked):
        low, high = str(entry.low), str(entry.high)
        axis = Axis(path, (low, high))
        table = bench.attempted([axis])
        if isinstance(table, Refused):
            continue
        at_low, at_high = (_costs(table.at((value,))) for value in axis.values)
        if at_low is not None and at_high is not None:
            crossing = next(iter(table.crossings), None)
            found.append(Swing(path, low, high, entry.source, at_low, at_high, start, crossing))
    return found


def held_out(bench: Bench, draws: Sequence[Queries]) -> Iterator[HeldOut | Unheld]:
    """Yield the designs on batches that the study did not see."""
    for drawn in bench.counted("held-out batches", draws):
        specs = dict.fromkeys(query.batch for query in drawn if query.batch and query.batch.trace)
        names = ", ".join(f"{spec.trace}, seed {spec.seed}" for spec in specs)
        table = bench.attempted(queries=drawn)
        if isinstance(table, Refused):
            yield Unheld(names, table.reason)
            continue
        costs = _costs(table.cells)
        assert costs is not None  # without axes a design that cannot run is the error
        yield HeldOut(names, costs)


def why_undrawn(designs: Designs, trace: str | None) -> str:
    """Return why no batch can be held out; empty where one can.

    Raises ValueError for a trace where the kernel takes no batch.
    """
    kernel, batches = designs.queries[0].kernel, [query.batch for query in designs.queries if query.batch]
    if not batches:
        if trace:
            raise ValueError(f"--trace: kernel {kernel} takes no batch; allowed: no --trace")
        return f"{kernel} takes none"
    if designs.goal.objective.metric in COSTS:
        return f"{designs.goal.objective.metric} is the same on all"
    if trace is None and not any(batch.trace for batch in batches):
        return f"the study draws none from a trace; --trace draws them from one: {', '.join(TRACES)}"
    return ""


def drawn_queries(queries: Queries, seeds: int, trace: str | None, trace_paths: TracePaths) -> list[Queries]:
    """Return queries with batches of other seeds, of each workload's trace or of the one named."""
    name = TRACES[trace] if trace else None
    return [drawn_batches(queries, draw, name, trace_paths) for draw in range(seeds)]


def drawn_batches(queries: Queries, draw: int, trace: str | None, trace_paths: TracePaths) -> Queries:
    """Return queries with the batches of a draw: of seeds that no workload of the study, and no other draw, has.

    Without a trace that is named, workloads whose contexts are fixed keep them.
    """
    batches = [query.batch for query in queries]
    found = []
    for place, (query, batch) in enumerate(zip(queries, batches, strict=True)):
        if batch is not None and (name := trace or batch.trace):
            first = max((other.seed + 1 for other in batches if other and other.trace == name), default=0)
            seed = first + draw * len(queries) + place
            path = trace_paths.get(name) if trace else batch.trace_path
            query = replace(query, batch=BatchSpec(batch.sequences, None, name, seed, path), seed=seed)
        found.append(query)
    return tuple(found)


def _check_traces(draws: Sequence[Queries]) -> None:
    """Raise ValueError unless the traces of the draws can be read; those of all draws are the same."""
    for query in itertools.chain(*draws[:1]):
        if query.batch is not None:
            programs.batch_of(query.batch)


def _costs(cells: Sequence[Cell]) -> tuple[float, ...] | None:
    """Return the costs of designs at a point, in their order; None where one cannot run."""
    costs = tuple(cell.cost for cell in cells if cell.cost is not None)
    return costs if len(costs) == len(cells) else None


def _factors(path: str, value: int) -> Axis:
    values = dict.fromkeys(max(1, value * 2**power // REACH) for power in range(2 * REACH.bit_length() - 1))
    return Axis(path, tuple(map(str, values)))


def _is_missing(value: Any) -> bool:
    """Whether a cell of a row is empty: a knob that its conditions leave out."""
    return value is None or value != value or str(value) == "<NA>"


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
