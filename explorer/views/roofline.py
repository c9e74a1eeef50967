"""S9: is a design bound by its units, by main memory, or by neither?

The roofline in shares of the machine's own peaks, so that points of different machines stand under one roof. Across:
how much longer the busiest kind of unit works than main memory would at its peak (1 is the ridge); up: the share of the
time that those units work. Below the roof a point is bound by something else: latency, scratchpads, launches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from explorer.tables import percent
from explorer.views.look import BASELINE, BEST, BOUND, UNIT_COLOURS, coloured, points, titled
from explorer.views.study_data import StudyData
from explorer.views.view import NotShown, View

if TYPE_CHECKING:
    import pandas as pd

_UNITS = ("utilisation.matrix", "utilisation.vector")
NEAR = 0.8  # assumed: of the roof, from which on a point is said to be bound by it


def _table(study: StudyData) -> pd.DataFrame:
    """Return columns point, intensity, busy, roof, limited_by and role (baseline, best found, or "")."""
    done = study.done
    units = [name for name in _UNITS if name in done]
    if not units or not (done["hbm_bandwidth_fraction"] > 0).all() or not (done[units].max(axis=1) > 0).any():
        raise NotShown("the points do not both compute and use main memory")
    import pandas as pd

    busy, memory = done[units].max(axis=1).to_numpy(np.float64), done["hbm_bandwidth_fraction"].to_numpy(np.float64)
    role = np.where(done["point"] == study.best["point"], "best found", "")
    role[0] = "baseline"
    columns = {"point": done["point"], "intensity": busy / memory, "busy": busy, "role": role}
    found = pd.DataFrame(columns | {"limited_by": done["limited_by"].astype(str)})
    found["roof"] = np.minimum(1.0, found["intensity"])
    return found


def figure(table: pd.DataFrame) -> go.Figure:
    drawing = go.Figure()
    table = table[table["busy"] > 0]
    low, high = min(0.1, 0.5 * float(table["intensity"].min())), max(10.0, 2 * float(table["intensity"].max()))
    drawing.add_scatter(
        x=[low, 1.0, high], y=[low, 1.0, 1.0], mode="lines", name="roof", line={"color": BOUND, "dash": "dash"}
    )
    colours = coloured(sorted(table["limited_by"].unique()), UNIT_COLOURS)
    for name, part in table.groupby("limited_by"):
        style = {"color": colours[str(name)], "opacity": 0.6}
        points(drawing, part["intensity"], part["busy"], name=f"bound set by {name}", marker=style)
    for name, colour, symbol in (("baseline", BASELINE, "diamond"), ("best found", BEST, "star")):
        part = table[table["role"] == name]
        points(
            drawing, part["intensity"], part["busy"], name=name, marker={"color": colour, "symbol": symbol, "size": 12}
        )
    titled(
        drawing,
        "busy units over HBM at its peak, ridge at 1 [1], logarithmic",
        "units busy, of their peak [1], logarithmic",
    )
    return drawing.update_xaxes(type="log").update_yaxes(type="log")


def text(table: pd.DataFrame) -> str:
    memory = int((table["intensity"] < 1).sum())
    at_roof = int((table["busy"] >= NEAR * table["roof"]).sum())
    parts = [
        f"the {name} reaches {percent(float(row['busy'] / row['roof']))} of its roof"
        for name in ("baseline", "best found")
        for _, row in table[table["role"] == name].iterrows()
        if row["roof"]
    ]
    return (
        f"{memory} of {len(table)} points ask more of main memory than of their units, {at_roof} are within "
        f"{percent(1 - NEAR)} of their roof; {', '.join(parts)}."
    )


VIEW = View("S9", "roofline", "What binds", _table, text, figure)
