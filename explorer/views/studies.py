"""Several studies beside each other: what each found, their fronts under one another, one layout for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from explorer.search.pareto import front
from explorer.text.tables import signed
from explorer.views.look import BASELINE, BEST, PRUNED, SERIES, axis, count, shown, titled
from explorer.views.study_data import StudyData
from explorer.views.versus import Versus, versus
from explorer.views.versus import figure as versus_figure
from explorer.views.versus import text as versus_text
from explorer.views.view import NotShown, View
from explorer.views.workloads import Slowdown, slowdown_figure, slowdown_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Found:
    """`table`: columns study, baseline, best, bound, of a metric that all studies have."""

    metric: str
    table: pd.DataFrame


def _common(studies: Sequence[StudyData]) -> list[str]:
    return [name for name in studies[0].objectives if all(name in study.objectives for study in studies)]


def _found(studies: Sequence[StudyData]) -> Found:
    import pandas as pd

    if studies[0].objective.metric not in _common(studies):
        raise NotShown("the studies do not make the same small")
    metric = studies[0].objective.metric
    records = [
        {
            "study": study.name,
            "baseline": float(study.baseline[metric]),
            "best": float(study.best[metric]),
            "bound": study.certificate.bound,
        }
        for study in studies
    ]
    return Found(metric, pd.DataFrame(records))


def found_figure(found: Found) -> go.Figure:
    drawing = go.Figure()
    series = (("baseline", "baseline", BASELINE), ("best", "best found", BEST), ("bound", "no point is below", PRUNED))
    for column, name, colour in series:
        drawing.add_bar(x=list(found.table["study"]), y=list(found.table[column]), name=name, marker={"color": colour})
    titled(drawing, "study", axis(found.metric)).update_layout(barmode="group")
    return drawing.update_xaxes(type="category")


def found_text(found: Found) -> str:
    first = found.table.iloc[0]
    parts = [f"{first['study']}: {shown(found.metric, float(first['best']))}"]
    for _, row in found.table.iloc[1:].iterrows():
        change = f" ({signed(float(row['best']) / float(first['best']) - 1)})" if first["best"] else ""
        parts.append(f"{row['study']}: {shown(found.metric, float(row['best']))}{change}")
    return f"The best found, against that of the first: {'; '.join(parts)}."


def _fronts(studies: Sequence[StudyData]) -> dict[str, pd.DataFrame]:
    """Return the points that no other of their study beats, by study: two columns, the metrics."""
    metrics = _common(studies)[:2]
    if len(metrics) < 2:
        raise NotShown("the studies have less than two objectives in common")
    fronts = {}
    for study in studies:
        kept = study.done.iloc[front(study.done[metrics].to_numpy(np.float64))]
        fronts[study.name] = kept[metrics].sort_values(metrics, kind="stable", ignore_index=True)
    return fronts


def fronts_figure(fronts: dict[str, pd.DataFrame]) -> go.Figure:
    drawing = go.Figure()
    x, y = next(iter(fronts.values())).columns
    for (name, part), colour in zip(fronts.items(), SERIES * len(fronts), strict=False):
        drawing.add_scatter(
            x=list(part[x]), y=list(part[y]), name=name, mode="lines+markers", line={"color": colour, "shape": "hv"}
        )
    return titled(drawing, axis(str(x)), axis(str(y))).update_layout(showlegend=True)


def fronts_text(fronts: dict[str, pd.DataFrame]) -> str:
    import pandas as pd

    everything = pd.concat(fronts, names=["study"]).reset_index("study")
    x, y = everything.columns[1:]
    kept = everything.iloc[front(everything[[x, y]].to_numpy(np.float64))]
    parts = [f"{count(int((kept['study'] == name).sum()), 'point')} of {name}" for name in fronts]
    return f"The front of all studies together has {count(len(kept), 'point')}: {', '.join(parts)}."


def _shared(studies: Sequence[StudyData]) -> Slowdown:
    """Return the slowdown with each value of a knob that all studies search, a study being a workload."""
    import pandas as pd

    knobs = [name for name in studies[0].knobs if all(name in study.knobs for study in studies)]
    if len(studies) < 2 or not knobs:
        raise NotShown("the studies search no knob in common")
    if any(study.objective.metric != "time_us" for study in studies):
        raise NotShown("the studies do not all look for the least time")
    knob = next((name for name in knobs if "layout" in name), knobs[0])
    best = pd.DataFrame({s.name: s.done.groupby(s.done[knob].astype(str))["time_us"].min() for s in studies})
    slowdown = (best / best.min()).dropna()
    if not len(slowdown):
        raise NotShown(f"no value of {knob} was simulated in all studies")
    return Slowdown(knob, slowdown, str(studies[0].baseline[knob]))


def _best(studies: Sequence[StudyData]) -> Versus:
    if len(studies) < 2:
        raise NotShown("there is one study")
    hidden = ("point", "batch", "key", "status", "reason")
    rows = [{name: value for name, value in s.best.items() if name not in (*hidden, *s.settings)} for s in studies[:2]]
    return versus((studies[0].name, studies[1].name), *rows)


FOUND = View("R9", "found", "What each found", _found, found_text, found_figure)
FRONTS = View("S1", "fronts", "Fronts", _fronts, fronts_text, fronts_figure)
SHARED = View("S8", "shared", "One layout for all studies", _shared, slowdown_text, slowdown_figure)
BEST_RUNS = View(
    "R9", "best", "The best of the second against the best of the first", _best, versus_text, versus_figure
)
