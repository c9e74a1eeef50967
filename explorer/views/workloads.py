"""S8 and S12: one layout for all workloads of a mix, and whether the best designs stay best when the mix shifts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from explorer.text.tables import percent
from explorer.views.look import BASELINE, BEST, MUTED, count, titled
from explorer.views.study_data import StudyData
from explorer.views.view import NotShown, View

if TYPE_CHECKING:
    import pandas as pd

TOP = 10  # designs whose ranks are drawn
WHOLE = "the mix"


@dataclass(frozen=True)
class Slowdown:
    """`matrix`: the best time with each value of `knob` [value, workload], over the best of its workload.

    Other knobs are the best for each value and workload.
    """

    knob: str
    matrix: pd.DataFrame
    baseline: str


@dataclass(frozen=True)
class Ranks:
    """`ranks`: the rank [design, mix] of the designs that are among the best of some mix; 1 is the best."""

    ranks: pd.DataFrame
    designs: int
    baseline: str


def _slowdown(study: StudyData) -> Slowdown:
    workloads, knobs = study.workloads(), study.varied()
    knob = next((name for name in knobs if "layout" in name), knobs[0])
    best = study.done.groupby(study.done[knob].astype(str))[[f"mix.{name}.time_us" for name in workloads]].min()
    best.columns = list(workloads)
    return Slowdown(knob, best / best.min(), str(study.baseline[knob]))


def slowdown_figure(table: Slowdown) -> go.Figure:
    cells = table.matrix.to_numpy(np.float64)
    drawing = go.Figure()
    names = [f"{value} (baseline)" if value == table.baseline else str(value) for value in table.matrix.index]
    drawing.add_heatmap(
        x=list(table.matrix.columns), y=names, z=cells.tolist(), zmin=1, colorscale="Cividis", reversescale=True,
        text=[[f"{cell:.2f}" for cell in line] for line in cells], texttemplate="%{text}",
        colorbar={"title": {"text": "times the best [1]"}},
    )  # fmt: skip
    titled(drawing, "workload", table.knob).update_layout(margin={"l": 200})
    return drawing.update_xaxes(type="category").update_yaxes(type="category")


def slowdown_text(table: Slowdown) -> str:
    worst = table.matrix.max(axis=1)
    best = str(worst.idxmin())
    loss = float(worst.min()) - 1
    winners = int((table.matrix.min(axis=1) <= 1).sum())
    each = "one is the best of every workload" if loss <= 0 else f"{winners} are each the best of some workload"
    start = ""
    if table.baseline in worst.index:
        more = percent(float(worst.loc[table.baseline]) - 1)
        start = f" The baseline, {table.baseline}, costs up to {more} more."
    return (
        f"Of {len(table.matrix)} values of {table.knob} {each}; taken for all, {best} costs least: at most "
        f"{percent(loss)} more time than the best of a workload, each with its best other settings.{start}"
    )


def _ranks(study: StudyData) -> Ranks:
    import pandas as pd

    workloads = study.workloads()
    if len(workloads) < 2:
        raise NotShown("the mix has one workload, so it cannot shift")
    done, metric = study.done.set_index("point"), study.objective.metric
    columns = {WHOLE: metric} | {f"only {name}": f"mix.{name}.{metric}" for name in workloads}
    ranks = pd.DataFrame({name: done[column].rank(method="min").astype(int) for name, column in columns.items()})
    start = study.baseline["point"]
    best = ranks.sort_values(WHOLE, kind="stable").head(TOP)
    top = best if start in best.index else pd.concat([best, ranks.loc[[start]]])
    top.index = pd.Index([f"point {point}" for point in top.index])
    return Ranks(top, len(done), f"point {start}")


def ranks_figure(table: Ranks) -> go.Figure:
    drawing = go.Figure()
    for place, (name, line) in enumerate(table.ranks.iterrows()):
        colour = BASELINE if name == table.baseline else BEST if not place else MUTED[place % len(MUTED)]
        drawing.add_scatter(
            x=list(line.index), y=[int(rank) for rank in line], mode="lines+markers", marker={"size": 9},
            name=f"{name} (baseline)" if name == table.baseline else str(name), line={"color": colour},
        )  # fmt: skip
    titled(drawing, "what the mix holds", "rank among the simulated designs [1 is best]")
    return drawing.update_xaxes(type="category").update_yaxes(autorange="reversed")


def ranks_text(table: Ranks) -> str:
    first = table.ranks.iloc[0]
    shifted = first.drop(WHOLE)
    worst = str(shifted.idxmax())
    worst_of_each = table.ranks.max(axis=1)
    steady = str(worst_of_each.idxmin())
    falls = f"falls to rank {int(shifted.max())} of {table.designs} with {worst}"
    return (
        f"The best of the mix, {table.ranks.index[0]}, {falls if shifted.max() > 1 else 'is the best of each'}; of the "
        f"{count(len(table.ranks), 'design')} drawn {steady} falls least, to rank "
        f"{int(worst_of_each.min())}."
    )


SLOWDOWN = View("S8", "slowdown", "One layout for all workloads", _slowdown, slowdown_text, slowdown_figure)
RANKS = View("S12", "ranks", "When the mix shifts", _ranks, ranks_text, ranks_figure)
