"""The application: a page per address, and what happens when the reader moves something.

    /0/answer, /0/settings, /0/machine, /0/trust, /0/points     the views of the first study
    /0/point/12                                                 one point of it
    /0/what-if                                                  its settings to move
    /compare                                                    all studies beside each other

Addresses are read by one pattern; anything else is no page. Filters stand beside the pages and stay when these change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from dash import ALL, Dash, Input, Output, State, dcc, html, no_update

from explorer.dashboard import panels
from explorer.dashboard.checks import install
from explorer.dashboard.cut import Cut, apply, read_cut
from explorer.dashboard.live import Live
from explorer.dashboard.question import RECORDED, Answer, ask, controls, query_of, record
from explorer.query import Query, Scalar
from explorer.report.page import STYLE, Section, sections_of
from explorer.storage.folder import read_details
from explorer.study.objective import OBJECTIVES
from explorer.summary import plain
from explorer.text.tables import signed
from explorer.views import index, memory_chart, speed, time_tree
from explorer.views.run_data import RunData, of_row
from explorer.views.study_data import StudyData
from explorer.views.view import drawn

REFRESH_MS = 2000
ANSWER_S = 60  # assumed: nobody waits longer for one answer
MOST_KEPT = 256  # answers
_ANSWERED = (speed.VIEW, memory_chart.VIEW, time_tree.VIEW)
_ADDRESS = re.compile(r"/(\d{1,4})/([a-z-]{1,20})(?:/(\d{1,9}))?")
_PAGES = {**{part: part.capitalize() for part in index.STUDY}, "points": "Points", "what-if": "What if"}
_WIDTHS = """
body { max-width: 1700px }
.beside { display: flex; gap: 24px } .filters { flex: 0 0 260px } .content { flex: 1; min-width: 0 }
.filters label, .question label { display: block; margin: 10px 0; font-size: 13px }
nav a { margin-right: 1.2em }
"""


class At(NamedTuple):
    """Where the reader is: the place of a study (-1: all), a page, and a point of it."""

    study: int
    page: str
    point: int = 0


def at(path: Any) -> At:
    """Return the page of an address; ValueError for one that is none."""
    text = str(path or "/")
    if text == "/":
        return At(0, "answer")
    if text == "/compare":
        return At(-1, "compare")
    found = _ADDRESS.fullmatch(text)
    if found is None or (found[2] not in _PAGES and found[2] != "point"):
        raise ValueError("there is no such page")
    return At(int(found[1]), found[2], int(found[3] or 0))


class Dashboard:
    """The pages of some results folders; simulations run in `executor`. `trace_path`: the file of a trace by name."""

    def __init__(
        self, folders: Sequence[Path], executor: Executor, trace_path: Callable[[str | None], str | None]
    ) -> None:
        self.live = Live(folders)
        self._executor, self._trace_path = executor, trace_path
        self._asked: dict[Query, Answer] = {}

    def application(self) -> Dash:
        """Return the Dash application."""
        app = Dash("rowhit", serve_locally=True, title="rowhit", update_title="", suppress_callback_exceptions=True)
        app.index_string = app.index_string.replace("</head>", f"<style>{STYLE}{_WIDTHS}</style></head>")
        beside = [html.Div(id="filters", className="filters"), html.Div(id="content", className="content")]
        app.layout = html.Div(
            [
                dcc.Location(id="at"),
                dcc.Interval(id="clock", interval=REFRESH_MS),
                dcc.Store(id="version", data=0),
                dcc.Store(id="shown", data=None),
                dcc.Store(id="drawn", data=None),
                html.Nav(id="menu"),
                html.Div(beside, className="beside"),
            ]
        )
        self._connect(app)
        install(app, self._check_page)
        return app

    def _connect(self, app: Dash) -> None:
        where = Input("at", "pathname")
        knobs, ranges, moved = ({"type": kind, "index": ALL} for kind in ("knob", "range", "setting"))
        app.callback(Output("version", "data"), Input("clock", "n_intervals"), State("version", "data"))(self.tick)
        frame = Output("menu", "children"), Output("filters", "children"), Output("shown", "data")
        app.callback(*frame, where, State("shown", "data"))(self.frame)
        page = where, Input("version", "data"), Input(knobs, "value"), Input(ranges, "value")
        about = State(knobs, "id"), State(ranges, "id"), State(ranges, "min"), State(ranges, "max")
        drawn_at = Output("content", "children"), Output("drawn", "data")
        app.callback(*drawn_at, *page, *about, State("drawn", "data"))(self.content)
        here, more = State("at", "pathname"), Input("more", "value")
        app.callback(Output("answer", "children"), Input(moved, "value"), more, here)(self.answer)
        record = Input("record", "n_clicks")
        app.callback(Output("recorded", "children"), record, here, prevent_initial_call=True)(self.recorded)

    def _check_page(self, path: str) -> None:
        """Raise ValueError for an address without a page."""
        if (place := at(path).study) >= len(self.live.folders):
            raise ValueError(f"no study {place}; there are {len(self.live.folders)}")

    def tick(self, _: Any, shown: Any) -> Any:
        """Return the version of what is there now, if it is another than what is shown."""
        version = self.live.refresh()
        return no_update if version == shown else version

    def frame(self, path: Any, shown: Any) -> Any:
        """Return the links to all pages, and the filters of a study where another one was shown."""
        try:
            here = at(path)
            study = self.live.study(max(here.study, 0))
        except ValueError as error:
            return [dcc.Link("Answer", href="/0/answer"), html.Span(str(error))], [], None
        links = [dcc.Link(name, href=f"/{max(here.study, 0)}/{page}") for page, name in _PAGES.items()]
        if len(self.live.names) > 1:
            links += [dcc.Link("Compare", href="/compare")]
            links += [dcc.Link(name, href=f"/{place}/answer") for place, name in enumerate(self.live.names)]
        if here.study < 0:
            return links, [], None
        return links, no_update if shown == here.study else panels.filters(study), here.study

    def content(
        self,
        path: Any,
        _: Any,
        knobs: Any,
        ranges: Any,
        knob_ids: Any,
        range_ids: Any,
        low: Any,
        high: Any,
        drawn_at: Any,
    ) -> Any:
        """Return a page, of the points that the filters let through."""
        try:
            here = at(path)
            if here.page in ("point", "what-if") and drawn_at == path:
                return no_update, no_update  # what was moved there stays; neither is of the points that are filtered
            touched = [value if value != [a, b] else None for value, a, b in zip(ranges, low, high, strict=True)]
            cut = read_cut(_by_place(knob_ids, knobs), _by_place(range_ids, touched))
            return self._page(here, cut), path
        except ValueError as error:
            return html.P(str(error), id="said"), path

    def _page(self, here: At, cut: Cut) -> Any:
        if here.page == "compare":
            return panels.pictures(sections_of(drawn(index.STUDIES, self.live.studies())))
        study = self.live.study(here.study)
        if here.page == "what-if":
            batch = study.identity.study.batch
            sizes = {"batch": batch.sequences, "context": batch.context} if batch and batch.context else {}
            question = html.Div(panels.question(controls(study.identity.study), sizes), className="question")
            title = html.H1(f"{study.name}: what if")
            return [title, question, dcc.Loading(html.Div(id="answer")), panels.provenance_footer(study)]
        if here.page == "point":
            return self._point(study, here)
        kept = apply(study, cut)
        count = html.P(f"{len(kept.rows)} of {len(study.rows)} points pass the filters.", id="passing")
        if here.page == "points":
            body = panels.points(kept, here.study)
        else:
            body = panels.pictures(sections_of(drawn(index.STUDY[here.page], kept)))
        return [html.H1(study.name), html.P(study.identity.title), count, *body, panels.provenance_footer(study)]

    def _point(self, study: StudyData, here: At) -> Any:
        row = _row(study, here.point)
        title = html.H1(f"{study.name}: point {here.point}")
        if row["status"] != "simulated":
            bound = study.objective.shown(float(row[study.objective.bound]))
            return [title, html.P(f"{row['status']}; its lower bound is {bound}. {row['reason']}")]
        try:
            banks = read_details(self.live.folders[here.study], here.point).banks
        except ValueError:  # kept of the baseline and of every best so far
            banks = None
        run, start = of_row(f"point {here.point}", row, banks), of_row("baseline", study.baseline)
        pairs = drawn(index.RUNS, (start, run)) if here.point else ()
        settings = ", ".join(f"{name} {row[name]}" for name in study.settings if name in row)
        views = [view for view in index.RUN if view not in RECORDED or view.code == "R3"]
        return [
            title,
            html.P(settings),
            *panels.pictures(sections_of([*drawn(views, run), *pairs])),
            html.Button("Simulate it again and record what happens when (R3, R4, R6, R7, R10)", id="record"),
            dcc.Loading(html.Div(id="recorded")),
            panels.provenance_footer(study),
        ]

    def recorded(self, _: Any, path: Any) -> Any:
        """Return the pictures of a recorded run of a point."""
        try:
            here = at(path)
            study = self.live.study(here.study)
            row = _row(study, here.point)
            query = self._query(study, {name: row[name] for name in study.settings if name in row})
            return panels.pictures(_again(each) for each in self._executor.submit(record, query).result(ANSWER_S))
        except (ValueError, TimeoutError) as error:
            return html.P(_words(error))

    def answer(self, moved: Any, more: Any, path: Any) -> Any:
        """Return what the settings moved give, beside the baseline."""
        try:
            study = self.live.study(at(path).study)
            asked = controls(study.identity.study)
            chosen = {
                control.name: control.values[int(place)]
                for control, place in zip(asked, moved, strict=True)
                if isinstance(place, int | float) and 0 <= place < len(control.values)
            }
            start = self._ask(self._query(study, {control.name: control.values[control.start] for control in asked}))
            found = self._ask(self._query(study, chosen, str(more or "")))
        except (ValueError, TimeoutError) as error:
            return html.P(_words(error), id="said")
        pair = replace(start.run, title="baseline"), replace(found.run, title="what if")
        pictures = [*drawn(index.RUNS[:1], pair), *drawn(_ANSWERED, found.run), *drawn(index.RUNS[1:], pair)]
        return [
            html.P(_said(study, pair), id="what-if"),
            html.P(f"{found.run.title}. Simulated: {found.fidelity}."),
            *panels.pictures(sections_of(pictures)),
        ]

    def _query(self, study: StudyData, chosen: dict[str, Scalar], more: str = "") -> Query:
        asked = study.identity.study
        return query_of(asked, chosen, self._trace_path(asked.batch.trace if asked.batch else None), more)

    def _ask(self, query: Query) -> Answer:
        if query not in self._asked:
            answer = self._executor.submit(ask, query).result(ANSWER_S)
            if len(self._asked) >= MOST_KEPT:
                self._asked.clear()
            self._asked[query] = answer
        return self._asked[query]


def _by_place(ids: Any, values: Any) -> dict[int, Any]:
    return {int(each["index"]): value for each, value in zip(ids, values, strict=True)}


def _row(study: StudyData, point: int) -> dict[str, Any]:
    if not 0 <= point < len(study.rows):
        raise ValueError(f"there is no point {point}; there are {len(study.rows)}")
    return plain(study.rows.iloc[point])


def _again(section: Section) -> Section:
    """Return a section of a recorded run under a name of its own beside those of the row."""
    return replace(section, name=f"recorded-{section.name}")


def _said(study: StudyData, pair: tuple[RunData, RunData]) -> str:
    parts = []
    for name in dict.fromkeys((*study.objectives, "time_us", "energy_pj")):
        before, after = (run.metrics.get(name) for run in pair)
        if before and after is not None and name in OBJECTIVES:
            objective = OBJECTIVES[name]
            change = signed(after / before - 1)
            parts.append(f"{objective.noun} {objective.shown(after)}, {change} against {objective.shown(before)}")
    return f"{'; '.join(parts)}."


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {ANSWER_S} s: ask for less"
    return " ".join(str(error).split())
