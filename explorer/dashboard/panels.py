"""Pictures, tables and controls as Dash components. Dash escapes every text; figures come shielded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from dash import dcc, html

from explorer.dashboard.cut import cut_knobs, cut_metrics, values_of
from explorer.dashboard.question import Control
from explorer.page import CONFIG, LIMITS, Section
from explorer.points_table import cell_text, shown_columns
from explorer.provenance import provenance
from explorer.views.look import DETERMINISTIC, axis
from explorer.views.study_data import StudyData

MAX_LINES = 200  # of the table; assumed: more take the browser seconds
STEPS = 200  # of a slider over a metric

Component = Any  # whether Dash is there or not when types are checked
_GRAPH: Any = CONFIG


def pictures(sections: Iterable[Section]) -> list[Component]:
    """Return a block per section; what is left out is said at the end."""
    found, left = [], []
    for each in sections:
        if each.figure is None:
            left.append(html.Li(f"{each.title}: {each.text}"))
        else:
            graph = dcc.Graph(id=f"figure-{each.name}", figure=each.figure, config=_GRAPH)
            found.append(html.Section([html.H2(each.title), html.P(each.text, id=f"text-{each.name}"), graph]))
    return [*found, html.Ul(left, className="left-out")] if left else found


def filters(study: StudyData) -> list[Component]:
    """Return the controls that cut: a choice of values per knob, a range per metric."""
    found: list[Component] = [html.H2("Show only")]
    for place, knob in enumerate(cut_knobs(study)):
        options = [{"label": str(value), "value": at} for at, value in enumerate(values_of(study, knob))]
        choice = dcc.Dropdown(
            options=options, multi=True, placeholder="all", id={"type": "knob", "index": place}, searchable=False
        )
        found.append(html.Label([knob, choice]))
    for place, metric in enumerate(cut_metrics(study)):
        values = study.done[metric].dropna().to_numpy(np.float64)
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
        slider: Component = html.Div(f"{low:g} everywhere")
        if high > low:
            slider = dcc.RangeSlider(
                min=low, max=high, step=(high - low) / STEPS, value=[low, high], marks=None,
                id={"type": "range", "index": place}, tooltip={"placement": "bottom"}, allow_direct_input=False,
            )  # fmt: skip
        found.append(html.Label([axis(metric), slider]))
    return found


def points(study: StudyData, place: int) -> list[Component]:
    """Return the table of the rows, best first, each with a link to its page."""
    from explorer.objective import OBJECTIVES

    objectives = [OBJECTIVES[name] for name in study.objectives]
    columns = shown_columns(study.rows, study.identity.settings, objectives)
    ordered = study.rows.sort_values(objectives[0].metric, kind="stable", na_position="last").head(MAX_LINES)
    head = html.Tr([html.Th(name) for name in columns])
    lines = [
        html.Tr(
            [
                html.Td(
                    dcc.Link(str(value), href=f"/{place}/point/{int(value)}")
                    if name == "point"
                    else cell_text(name, value)
                )
                for name, value in zip(columns, row, strict=True)
            ]
        )
        for row in ordered[columns].itertuples(index=False)
    ]
    caption = f"{len(lines)} of {len(study.rows)} points, the best first."
    return [
        html.P(caption, id="text-points"),
        html.Div(html.Table([html.Thead(head), html.Tbody(lines)]), className="wide"),
    ]


def question(controls: Sequence[Control], batch: Mapping[str, int]) -> list[Component]:
    """Return what the what-if page can move: a slider per knob of numbers, a choice per other knob, and a text."""
    found: list[Component] = []
    for place, control in enumerate(controls):
        where = {"type": "setting", "index": place}
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in control.values):
            marks = {at: str(value) for at, value in enumerate(control.values)}
            slider = dcc.Slider(
                min=0, max=max(1, len(control.values) - 1), step=None, marks=marks, value=control.start, id=where,
                allow_direct_input=False,
            )  # fmt: skip
            found.append(html.Label([control.name, slider]))
        else:
            options = [{"label": str(value), "value": at} for at, value in enumerate(control.values)]
            choice = dcc.Dropdown(options=options, value=control.start, clearable=False, id=where, searchable=False)
            found.append(html.Label([control.name, choice]))
    hint = ", ".join(["machine numbers such as hbm.stacks=4", *(f"{name}={value}" for name, value in batch.items())])
    more = dcc.Input(id="more", type="text", debounce=True, maxLength=500, placeholder="path=value, path=value")
    return [*found, html.Label(["also set, as --set takes it (", hint, ")", more])]


def provenance_footer(study: StudyData) -> Component:
    """Return where the numbers come from (S14)."""
    facts = provenance(study.identity)
    lines = [html.Tr([html.Td(name), html.Td(text)]) for name, text in facts.items()]
    return html.Footer([html.H2("Provenance"), html.P(f"{DETERMINISTIC} {LIMITS}"), html.Table(html.Tbody(lines))])
