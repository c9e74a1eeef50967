"""S10: how far simulated points are from their own bounds: is the model, or the mapping, at fault?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from explorer.views.look import BASELINE, OTHER, titled
from explorer.views.study_data import StudyData
from explorer.views.view import NotShown, View

if TYPE_CHECKING:
    import pandas as pd

WORST = 5
_BINS = 30


def _table(study: StudyData) -> pd.DataFrame:
    """Return columns point and ratio (simulated over bound), in the order asked: the baseline first."""
    metric, bound = study.objective.metric, study.objective.bound
    done = study.done[study.done[bound] > 0]
    if not len(done):
        raise NotShown("no point has a bound above 0")
    found = done[["point"]].copy()
    found["ratio"] = done[metric].to_numpy(np.float64) / done[bound].to_numpy(np.float64)
    return found


def figure(table: pd.DataFrame) -> go.Figure:
    counts, edges = np.histogram(table["ratio"], bins=_BINS)
    drawing = go.Figure()
    drawing.add_bar(
        x=((edges[1:] + edges[:-1]) / 2).tolist(), y=counts.tolist(), width=np.diff(edges).tolist(), name="points",
        marker={"color": OTHER},
    )  # fmt: skip
    start = float(table["ratio"].iloc[0])
    drawing.add_vline(x=start, line={"color": BASELINE, "dash": "dash"}, annotation_text="baseline")
    return titled(drawing, "simulated over lower bound [1]", "points").update_layout(bargap=0)


def text(table: pd.DataFrame) -> str:
    worst = table.nlargest(WORST, "ratio", keep="first")
    listed = ", ".join(f"point {int(point)} ({ratio:.2f})" for point, ratio in worst.itertuples(index=False))
    return (
        f"Simulated values are {table['ratio'].median():.2f} times their bounds in the median, between "
        f"{table['ratio'].min():.2f} and {table['ratio'].max():.2f}; furthest away: {listed}."
    )


VIEW = View("S10", "gap", "Simulated against bound", _table, text, figure)
