"""S3: parallel coordinates, knobs on the left and metrics on the right: which settings survive a cut?

Values of a knob are places with their names beside them, and lines are spread around a place, so that they do not hide
one another; the spread follows from the order of the rows alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from explorer.views.look import SEQUENTIAL, axis, count, short, titled
from explorer.views.study_data import StudyData
from explorer.views.view import View

if TYPE_CHECKING:
    import pandas as pd

MAX_LINES = 2000  # assumed: browsers take many seconds for more
_SPREAD = 0.3  # of the distance of two values
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Lines:
    """Rows to draw, knobs and metrics of them; `total` rows there are; `roles`: baseline, best, other by row."""

    rows: pd.DataFrame
    knobs: tuple[str, ...]
    metrics: tuple[str, ...]
    roles: tuple[str, ...]
    total: int


def _table(study: StudyData) -> Lines:
    knobs, metric = study.varied(), study.objective.metric
    rows = study.done
    if len(rows) > MAX_LINES:
        kept = {*rows[metric].nsmallest(MAX_LINES - 1).index, rows.index[0]}
        rows = rows[rows.index.isin(kept)]
    special = {study.baseline["point"]: "baseline"} | {study.best["point"]: "best found"}
    roles = tuple(special.get(int(point), "other") for point in rows["point"])
    extra = [name for name in ("hbm_bandwidth_fraction",) if name in rows]
    return Lines(rows, knobs, (*study.objectives, *extra), roles, len(study.done))


def figure(table: Lines) -> go.Figure:
    metric = table.metrics[0]
    dimensions = [_places("design", table.roles)]
    dimensions += [_places(name, list(table.rows[name])) for name in table.knobs]
    dimensions += [{"label": axis(name), "values": table.rows[name].to_numpy(np.float64)} for name in table.metrics]
    drawing = go.Figure()
    drawing.add_parcoords(
        dimensions=dimensions, labelangle=-15,
        line={
            "color": table.rows[metric].to_numpy(np.float64), "colorscale": SEQUENTIAL, "reversescale": True,
            "showscale": True, "colorbar": {"title": {"text": axis(metric)}},
        },
    )  # fmt: skip
    return titled(drawing, "", "").update_layout(height=480, margin={"t": 110, "l": 110, "b": 30})


def _places(name: str, values: Any) -> dict[str, Any]:
    """Return the dimension of a knob: a place per value, lines spread around it."""
    order = sorted(dict.fromkeys(values), key=lambda value: (isinstance(value, str), value))
    at = np.array([order.index(value) for value in values], np.float64)
    spread = ((np.arange(len(at)) * _GOLDEN) % 1 - 0.5) * _SPREAD
    return {
        "label": name,
        "values": at + spread,
        "tickvals": list(range(len(order))),
        "ticktext": [short(str(value)) for value in order],
        "range": [-0.5, len(order) - 0.5],
    }


def text(table: Lines) -> str:
    metric = table.metrics[0]
    best = table.rows.nsmallest(max(1, len(table.rows) // 10), metric)
    common = [f"{name} {best[name].iloc[0]}" for name in table.knobs if best[name].nunique() == 1 and len(best) > 1]
    cut = f", the best {len(table.rows):,} of them drawn" if len(table.rows) < table.total else ""
    tenth = "the best tenth of those drawn" if cut else "the best tenth"
    if len(best) < 2:
        said = "too few to say what the best tenth has in common"
    elif common:
        said = f"{tenth} ({count(len(best), 'design')}) all have {', '.join(common)}"
    else:
        said = f"{tenth} ({count(len(best), 'design')}) have no setting in common"
    return f"{count(table.total, 'design')}{cut}: {said}. Drag along an axis to cut."


VIEW = View("S3", "parallel", "Settings and metrics", _table, text, figure)
