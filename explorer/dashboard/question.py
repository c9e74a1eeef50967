"""The what-if page's question: the settings of a study with some of them moved, as a query, and its answer.

Queries are answered in worker processes, so that pages stay responsive. Only a study that names its machine, its model
and its routing by name can be asked: a results folder that somebody sent opens no file of the reader's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from explorer import programs
from explorer.query import Query, Scalar
from explorer.questions.fidelity import measure
from explorer.report.page import Section, sections_of
from explorer.study import settings
from explorer.study.study import Study
from explorer.text.tables import percent
from explorer.views import index
from explorer.views.run_data import RunData, of_query
from explorer.views.view import View, drawn

_FILES = (".yaml", ".yml", ".json", ".csv", ".npz")
RECORDED: tuple[View, ...] = tuple(view for view in index.RUN if view.code in ("R3", "R4", "R6", "R7", "R10"))


@dataclass(frozen=True)
class Control:
    """A setting that can be moved: the values it can have, and the place of the one it starts with."""

    name: str
    values: tuple[Scalar, ...]
    start: int


@dataclass(frozen=True)
class Answer:
    """A simulated query, and by which model."""

    run: RunData
    fidelity: str


def controls(study: Study) -> tuple[Control, ...]:
    """Return a control per searched knob, which starts at the baseline."""
    known = programs.defaults(study.kernel) | study.fixed | study.baseline
    found = []
    for name, choices in study.choices.items():
        start = known.get(name, choices[0])
        values = sorted(dict.fromkeys([*choices, start]), key=lambda value: (isinstance(value, str), value))
        found.append(Control(name, tuple(values), values.index(start)))
    return tuple(found)


def query_of(study: Study, chosen: Mapping[str, Scalar], trace_path: str | None = None, more: str = "") -> Query:
    """Return the query of a point with the chosen settings, and more of them as `--set` takes them.

    Raises ValueError for a study that names files, and for a setting that is not known.
    """
    for kind, named in (("machine", study.machine), ("model", study.model), ("routing", study.routing)):
        if named and ("/" in named or "\\" in named or named.endswith(_FILES)):
            raise ValueError(f"{kind} {named!r}: a file; allowed in what-if: a {kind} by its name")
    if study.mix:
        raise ValueError(f"what-if asks about one workload, this study is of a mix of {len(study.mix)}")
    defaults = programs.defaults(study.kernel)
    query = Query(
        study.machine,
        study.kernel,
        study.model,
        study.batch.spec(trace_path) if study.batch else None,
        tuple(study.options.items()),
        tuple(sorted(defaults.items())),
        seed=study.batch.seed if study.batch else 0,
    )
    for name, value in (dict(study.fixed) | dict(chosen)).items():
        query = query.with_knob(name, value)
    return settings.apply(query, settings.parse(more), programs.settable(study.kernel)) if more.strip() else query


def ask(query: Query) -> Answer:
    """Return the answer to a query, by windows where it is long; in a worker process. ValueError where none can be."""
    found = measure(query, "windows")
    part = f"windows with {percent(found.part)} of its tiles, which give the time alone"
    return Answer(RunData(programs.describe(query), found.metrics), "every burst" if found.how == "whole" else part)


def record(query: Query) -> list[Section]:
    """Return what a recorded run shows beyond a row (R3, R4, R6, R7, R10); in a worker process."""
    return list(sections_of(drawn(RECORDED, of_query(query))))
