"""S1 and S2: what no other design beats in every objective, and the designs near it to choose from.

Two objectives are the axes, a third is the colour. A study of one objective has no front; its time is drawn against the
bytes of main memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from explorer.search.pareto import front
from explorer.text.tables import signed
from explorer.views.look import (
    BASELINE,
    BEST,
    BOUND,
    OTHER,
    SEQUENTIAL,
    axis,
    count,
    points,
    shown,
    titled,
)
from explorer.views.study_data import StudyData
from explorer.views.view import NotShown, View

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

NEAR = 0.05  # assumed: a review looks at what is at most so far behind the front
MOST_LISTED = 12


@dataclass(frozen=True)
class Front:
    """The simulated rows, first the baseline, with `on_front` and `excess`; `metrics` are small-is-better columns.

    `excess`: by how much of itself a row must shrink in every metric to be on the front; 0 on it.
    """

    done: pd.DataFrame
    metrics: tuple[str, ...]
    objective: str
    settings: tuple[str, ...] = ()
    refused: int = 0

    @property
    def front(self) -> pd.DataFrame:
        return self.done[self.done["on_front"]].sort_values(list(self.metrics), kind="stable")


def excess(values: NDArray[np.float64], best: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far rows [n, metrics] are behind a front: the least factor, less 1, that some of it is better by."""
    ratios = [(values / np.maximum(other, np.finfo(float).tiny)).min(axis=1) for other in best]
    return np.asarray(np.maximum(np.max(ratios, axis=0) - 1, 0))


def front_of(
    done: pd.DataFrame, metrics: Sequence[str], objective: str, settings: Sequence[str] = (), refused: int = 0
) -> Front:
    found = done.copy()
    values = found[list(metrics)].to_numpy(np.float64)
    found["on_front"] = np.isin(np.arange(len(values)), front(values))
    found["excess"] = excess(values, values[found["on_front"].to_numpy()])
    return Front(found, tuple(metrics), objective, tuple(settings), refused)


def _objectives(study: StudyData) -> Front:
    if len(study.objectives) < 2:
        raise NotShown("the study has one objective, so its front is one point, the best found")
    return _front(study, study.objectives)


def _traffic(study: StudyData) -> Front:
    return _front(study, ("hbm_read_bytes", "time_us"))


def _designs(study: StudyData) -> Front:
    return _front(study, study.objectives)


def _front(study: StudyData, metrics: tuple[str, ...]) -> Front:
    refused = int((study.rows["status"] == "invalid").sum()) + int((study.space["reason"] != "").sum())
    return front_of(study.done, metrics, study.objective.metric, study.settings, refused)


def figure(table: Front) -> go.Figure:
    x, y = table.metrics[:2]
    done, kept = table.done, table.front
    best = done.iloc[[int(done[table.objective].argmin())]]
    drawing = go.Figure()
    marker: dict[str, Any] = {"color": OTHER}
    if len(table.metrics) > 2:
        third = table.metrics[2]
        bar = {"title": {"text": axis(third)}}
        marker = {"color": list(done[third]), "colorscale": SEQUENTIAL, "showscale": True, "colorbar": bar}
    points(drawing, done[x], done[y], name="simulated", marker=marker)
    drawing.add_scatter(
        x=list(kept[x]), y=list(kept[y]), name="Pareto front",
        mode="markers" if len(table.metrics) > 2 else "lines+markers", line={"color": BOUND, "shape": "hv"},
        marker={"color": BOUND, "symbol": "circle-open", "size": 9},
    )  # fmt: skip
    start = {"color": BASELINE, "symbol": "diamond", "size": 11}
    points(drawing, done[x].iloc[:1], done[y].iloc[:1], name="baseline", marker=start)
    points(drawing, best[x], best[y], name="best found", marker={"color": BEST, "symbol": "star", "size": 13})
    titled(drawing, axis(x), axis(y))
    if x.startswith("hbm_"):  # bytes are often the same for all; that they are is what there is to see
        drawing.update_xaxes(range=[0, 1.1 * float(done[x].max())])
    return drawing


def text(table: Front) -> str:
    x, y = table.metrics[:2]
    done = table.done
    best, start = done.iloc[int(done[table.objective].argmin())], done.iloc[0]
    words = " and ".join(axis(name).split(" [")[0] for name in table.metrics)
    refused = (
        f" {count(table.refused, 'point')} of the space cannot run or break a constraint." if table.refused else ""
    )
    return (
        f"The best found has {shown(x, _plain(best[x]))} ({axis(x).split(' [')[0]}) and {shown(y, _plain(best[y]))}, "
        f"the baseline {shown(x, _plain(start[x]))} and {shown(y, _plain(start[y]))}. The Pareto front of {words} has "
        f"{count(len(table.front), 'point')}.{refused}"
    )


def knees(table: Front) -> pd.DataFrame:
    """Return the designs within `NEAR` of the front, nearest first, and the baseline above them."""
    near = table.done[table.done["excess"] <= NEAR].sort_values(["excess", *table.metrics], kind="stable")
    rows = [table.done.iloc[[0]], near[near["point"] != table.done["point"].iloc[0]].head(MOST_LISTED)]
    import pandas as pd

    found: pd.DataFrame = pd.concat(rows)
    return found


def list_figure(table: Front) -> go.Figure:
    rows = knees(table)
    start = rows.iloc[0]
    names = [name for name in table.settings if rows[name].nunique(dropna=False) > 1]
    columns: dict[str, list[str]] = {"point": [str(point) for point in rows["point"]]}
    for metric in table.metrics:
        columns[axis(metric).split(" [")[0]] = [shown(metric, _plain(value)) for value in rows[metric]]
        columns[f"{axis(metric).split(' [')[0]}, against baseline"] = [
            signed(float(value) / float(start[metric]) - 1) if start[metric] else "" for value in rows[metric]
        ]
    columns["behind the front"] = [signed(float(value)) for value in rows["excess"]]
    columns |= {name: ["" if value is None else str(value) for value in rows[name]] for name in names}
    drawing = go.Figure()
    drawing.add_table(
        header={"values": list(columns), "align": "left", "fill": {"color": "#e8eef4"}},
        cells={
            "values": list(columns.values()), "align": "left",
            "fill": {"color": [["#dcebf7", *["white"] * (len(rows) - 1)]]},
        },
    )  # fmt: skip
    return titled(drawing, "", "").update_layout(height=130 + 40 * len(rows), margin={"l": 10})


def list_text(table: Front) -> str:
    rows, all_near = knees(table), int((table.done["excess"] <= NEAR).sum())
    start_near = bool(table.done["excess"].iloc[0] <= NEAR)
    listed = len(rows) - 1 + start_near
    more = f"; listed are the {listed} nearest" if listed < all_near else ""
    where = "among them" if start_near else f"{signed(float(table.done['excess'].iloc[0]))} behind it"
    best = "best found" if len(table.metrics) == 1 else "front"
    return (
        f"{count(all_near, 'design')} within {100 * NEAR:.0f} % of the {best}{more}; the baseline, first, is {where}."
    )


def _plain(value: Any) -> Any:
    return getattr(value, "item", lambda: value)()


VIEW = View("S1", "pareto", "Pareto front", _objectives, text, figure)
TRAFFIC = View("S1", "traffic", "Time and traffic", _traffic, text, figure)
DESIGNS = View("S2", "designs", "Designs to choose from", _designs, list_text, list_figure)
