"""S4, S5 and S6: which knobs matter, what each of them does, and the two that matter most together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from explorer.study.objective import OBJECTIVES
from explorer.text.tables import percent
from explorer.views.look import BASELINE, BEST, OTHER, SEQUENTIAL, SERIES, axis, shown, titled
from explorer.views.study_data import StudyData
from explorer.views.view import NotShown, View

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_ACROSS = 3  # knobs beside each other


@dataclass(frozen=True)
class Knobs:
    """The simulated rows (first the baseline), the knobs in order of importance, what is made small.

    `importance`: columns knob, objective, share.
    """

    done: pd.DataFrame
    knobs: tuple[str, ...]
    metrics: tuple[str, ...]
    importance: pd.DataFrame


def share_explained(groups: pd.Series[Any], values: NDArray[np.float64]) -> float:
    """Return the share of the variance of `values` that lies between `groups`, less what chance would give (epsilon
    squared); 0 where nothing can be said.

    Source: Kelley, An unbiased correlation ratio measure, PNAS 21 (1935).
    """
    codes = groups.astype(str).factorize(use_na_sentinel=False)[0]  # what the baseline does not set is a group, too
    number, amount = len(values), int(codes.max()) + 1
    total = float(((values - values.mean()) ** 2).sum())
    if not total or number <= amount or amount < 2:
        return 0.0
    means = np.bincount(codes, values) / np.bincount(codes)
    within = float(((values - means[codes]) ** 2).sum())
    return max(0.0, 1 - within / (number - amount) / (total / (number - 1)))


def _table(study: StudyData) -> Knobs:
    import pandas as pd

    knobs, done = study.varied(), study.done
    if len(done) < len(knobs) + 2:
        raise NotShown(f"{len(done)} simulated points are too few for {len(knobs)} knobs")
    records = [
        {"knob": knob, "objective": metric, "share": share_explained(done[knob], _logarithm(done[metric]))}
        for metric in study.objectives
        for knob in knobs
    ]
    importance = pd.DataFrame(records)
    first = importance[importance["objective"] == study.objectives[0]].sort_values(
        "share", ascending=False, kind="stable"
    )
    return Knobs(done, tuple(first["knob"]), study.objectives, importance)


def _pairs(study: StudyData) -> Knobs:
    if len(study.varied()) < 2:
        raise NotShown("one knob differs, a map needs two")
    return _table(study)


def _logarithm(values: pd.Series[Any]) -> NDArray[np.float64]:
    found = values.to_numpy(np.float64)
    return np.asarray(np.log(found)) if (found > 0).all() else found


def importance_figure(table: Knobs) -> go.Figure:
    drawing = go.Figure()
    for metric, colour in zip(table.metrics, SERIES, strict=False):
        part = table.importance[table.importance["objective"] == metric].set_index("knob").loc[list(table.knobs)]
        drawing.add_bar(
            x=list(part.index), y=[100 * share for share in part["share"]], name=_noun(metric), marker={"color": colour}
        )
    titled(drawing, "knob", "variance explained [%]").update_layout(showlegend=True)
    return drawing.update_xaxes(type="category")


def importance_text(table: Knobs) -> str:
    parts = []
    for metric in table.metrics:
        part = table.importance[table.importance["objective"] == metric]
        best = part.sort_values("share", ascending=False, kind="stable").iloc[0]
        parts.append(f"{best['knob']} alone explains {percent(best['share'])} of the variance of the {_noun(metric)}")
    return f"{'; '.join(parts)} (of its logarithm, over the simulated points, which a search does not draw evenly)."


def response_figure(table: Knobs) -> go.Figure:
    from plotly.subplots import make_subplots

    metric = table.metrics[0]
    lines = -(-len(table.knobs) // _ACROSS)
    drawing = make_subplots(rows=lines, cols=min(_ACROSS, len(table.knobs)), vertical_spacing=0.42 / lines)
    for place, knob in enumerate(table.knobs):
        at = {"row": place // _ACROSS + 1, "col": place % _ACROSS + 1}
        groups = responses(table, knob)
        for value, part in groups.items():
            drawing.add_box(y=part.to_numpy(np.float64), name=value, marker={"color": OTHER}, showlegend=False, **at)
        drawing.add_scatter(
            x=list(groups), y=[float(part.min()) for part in groups.values()], mode="lines+markers",
            name="best of each", line={"color": BEST}, showlegend=not place, **at,
        )  # fmt: skip
        drawing.add_scatter(
            x=list(groups), y=[float(table.done[metric].iloc[0])] * len(groups), mode="lines",
            name="baseline", line={"color": BASELINE, "dash": "dash"}, showlegend=not place, **at,
        )  # fmt: skip
    titled(drawing, "", "").update_layout(height=110 + 330 * lines, legend={"y": 1.08}, margin={"b": 90})
    drawing.update_yaxes(title={"text": axis(metric)}, exponentformat="power")
    for place, knob in enumerate(table.knobs):
        at = {"row": place // _ACROSS + 1, "col": place % _ACROSS + 1}
        drawing.update_xaxes(title={"text": knob}, type="category", **at)
    return drawing


def responses(table: Knobs, knob: str) -> dict[str, pd.Series[Any]]:
    """Return the values of the first objective by the value of a knob, in the order of its values."""
    groups = dict(list(table.done.groupby(knob, observed=True)[table.metrics[0]]))
    order = sorted(groups, key=lambda value: (isinstance(value, str), value))
    return {str(value): groups[value] for value in order}


def response_text(table: Knobs) -> str:
    parts = []
    for knob in table.knobs:
        best = {value: float(part.min()) for value, part in responses(table, knob).items()}
        low, high = min(best, key=lambda value: best[value]), max(best, key=lambda value: best[value])
        if best[high] == best[low]:
            parts.append(f"{knob} makes no difference to it")
            continue
        worse = best[high] / best[low] - 1 if best[low] else 0.0
        parts.append(f"{knob}: {low} is best ({shown(table.metrics[0], best[low])}), {high} {percent(worse)} worse")
    return f"The best found with each value of a knob. {'; '.join(parts)}."


def pair_table(table: Knobs) -> pd.DataFrame:
    """Return the best of the first objective by pairs of values: rows of the second knob, columns of the first."""
    first, second = table.knobs[:2]
    return table.done.pivot_table(index=second, columns=first, values=table.metrics[0], aggfunc="min", observed=True)


def pair_figure(table: Knobs) -> go.Figure:
    first, second = table.knobs[:2]
    best = pair_table(table)
    metric = table.metrics[0]
    cells = best.to_numpy(np.float64)
    words = [["" if np.isnan(cell) else shown(metric, float(cell)) for cell in line] for line in cells]
    drawing = go.Figure()
    places = {"x": [str(value) for value in best.columns], "y": [str(value) for value in best.index]}
    drawing.add_heatmap(
        **places, z=_with_gaps(cells), text=words, texttemplate="%{text}", colorscale=SEQUENTIAL,
        reversescale=True, hoverongaps=False, colorbar={"title": {"text": axis(metric)}, "exponentformat": "power"},
    )  # fmt: skip
    if (cost := _cost(table, best)) is not None:
        drawing.add_contour(
            **places, z=cost, contours={"coloring": "none", "showlabels": True}, line={"color": "white", "dash": "dot"},
            name=f"iso {axis('sram_capacity_bytes')}", showlegend=True, showscale=False,
        )  # fmt: skip
    start = table.done.iloc[0]
    drawing.add_scatter(
        x=[str(start[first])], y=[str(start[second])], mode="markers", name="baseline",
        marker={"color": BASELINE, "symbol": "diamond-open", "size": 22, "line": {"width": 3}}, showlegend=True,
    )  # fmt: skip
    titled(drawing, first, second).update_layout(margin={"l": 170})
    return drawing.update_xaxes(type="category").update_yaxes(type="category")


def _with_gaps(cells: NDArray[np.float64]) -> list[list[float | None]]:
    return [[None if np.isnan(cell) else float(cell) for cell in line] for line in cells]


def _cost(table: Knobs, best: pd.DataFrame) -> list[list[float | None]] | None:
    """Return what each pair costs in scratchpad, where that is known and differs."""
    if (
        "sram_capacity_bytes" not in table.done
        or table.done["sram_capacity_bytes"].nunique() < 2
        or min(best.shape) < 2
    ):
        return None
    first, second = table.knobs[:2]
    cost = table.done.pivot_table(
        index=second, columns=first, values="sram_capacity_bytes", aggfunc="min", observed=True
    )
    return _with_gaps(cost.to_numpy(np.float64))


def pair_text(table: Knobs) -> str:
    first, second = table.knobs[:2]
    best = pair_table(table)
    cells = best.to_numpy(np.float64)
    low, column = np.unravel_index(int(np.nanargmin(cells)), cells.shape)
    missing = int(np.isnan(cells).sum())
    gaps = f"; {missing} of {cells.size} pairs were not simulated" if missing else ""
    return (
        f"The best is {first} {best.columns[int(column)]} with {second} {best.index[int(low)]} "
        f"({shown(table.metrics[0], float(cells[low, column]))}); {_steady(best)}{gaps}."
    )


def _steady(best: pd.DataFrame) -> str:
    """Return in words whether one value of the first knob is the best with every value of the second."""
    first, second = best.columns.name, best.index.name
    lines = best.dropna()
    if not len(lines):
        return f"with no {second} all {first} were simulated"
    wins = lines.eq(lines.min(axis=1), axis=0).all()
    always = [str(value) for value in best.columns[wins.to_numpy()]]
    which = "" if len(lines) == len(best) else ", where all were simulated"
    if not always:
        return f"which {first} is best depends on {second}{which}"
    if len(always) == best.shape[1]:
        return f"{first} makes no difference{which}"
    return f"whatever {second} is, {first} {' or '.join(always)} is best{which}"


def _noun(metric: str) -> str:
    objective = OBJECTIVES.get(metric)
    return objective.noun if objective else axis(metric).split(" [")[0]


IMPORTANCE = View("S4", "importance", "Which knobs matter", _table, importance_text, importance_figure)
RESPONSE = View("S5", "response", "What each knob does", _table, response_text, response_figure)
PAIR = View("S6", "pair", "Two knobs together", _pairs, pair_text, pair_figure)
