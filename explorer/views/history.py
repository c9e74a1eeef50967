"""S11 for one objective: every point in the order asked, the best so far, and what no point can be better than."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from explorer.objective import TIME, Objective
from explorer.views.look import BASELINE, BEST, BOUND, OTHER, PRUNED, points, titled
from explorer.views.study_data import StudyData
from explorer.views.view import View

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class History:
    """`rows` as stored, `done` the simulated ones with the best so far in `best`, `bound` of the whole space."""

    rows: pd.DataFrame
    done: pd.DataFrame
    bound: float
    objective: Objective = TIME


def history_of(rows: pd.DataFrame, bound: float, objective: Objective = TIME) -> History:
    done = rows[rows["status"] == "simulated"].copy()
    done["best"] = done[objective.metric].cummin()
    return History(rows, done, bound, objective)


def _table(study: StudyData) -> History:
    return history_of(study.rows, study.certificate.bound, study.objective)


def figure(table: History) -> go.Figure:
    done, objective = table.done, table.objective
    pruned = table.rows[table.rows["status"] == "pruned"]
    drawing = go.Figure()
    bounds: list[float] = list(pruned[objective.bound]) if len(pruned) else []
    style = {"color": PRUNED, "symbol": "x-thin-open"}
    points(drawing, pruned["point"], bounds, name="pruned (its bound)", marker=style)
    points(drawing, done["point"], done[objective.metric], name="simulated", marker={"color": OTHER})
    drawing.add_scatter(
        x=list(done["point"]), y=list(done["best"]), name="best so far", mode="lines",
        line={"color": BEST, "shape": "hv"},
    )  # fmt: skip
    start = {"color": BASELINE, "symbol": "diamond", "size": 11}
    points(drawing, done["point"].iloc[:1], done[objective.metric].iloc[:1], name="baseline", marker=start)
    words = f"no point can be {objective.better}"
    drawing.add_hline(y=table.bound, line={"color": BOUND, "dash": "dash"}, annotation_text=words)
    return titled(drawing, "point, in the order asked", objective.axis)


def text(table: History) -> str:
    done, objective = table.done, table.objective
    best, shown = done.iloc[int(done[objective.metric].argmin())], objective.shown
    return (
        f"{len(table.rows)} points, {len(done)} simulated. The best, point {best['point']}, takes "
        f"{shown(best[objective.metric])}; the baseline {shown(done[objective.metric].iloc[0])}; "
        f"no point of the space can be {objective.better} than {objective.at_least(table.bound)}."
    )


VIEW = View("S11", "history", "Search", _table, text, figure)
