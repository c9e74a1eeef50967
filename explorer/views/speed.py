"""R1: how near every part of the machine comes to its peak, and what binds, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from explorer.objective import microseconds
from explorer.tables import percent
from explorer.views.look import BOUND, UNIT_COLOURS, coloured, titled
from explorer.views.run_data import RunData
from explorer.views.view import View

if TYPE_CHECKING:
    import pandas as pd

BOUND_NAME = "lower bound over time"
BINDS = 0.6  # assumed: of the time, from which on the resource that sets the bound is said to bind the run


def _table(run: RunData) -> pd.DataFrame:
    """Return columns part and share (of its peak, over the whole run), and what was said of the run in every line."""
    import pandas as pd

    metrics = run.metrics
    parts = {
        BOUND_NAME: metrics["bound_us"] / metrics["time_us"] if metrics["time_us"] else 0.0,
        **run.table("utilisation"),
    }
    found = pd.DataFrame({"part": list(parts), "share": [float(share) for share in parts.values()]})
    return found.assign(limited_by=str(metrics["limited_by"]), time_us=float(metrics["time_us"]))


def figure(table: pd.DataFrame) -> go.Figure:
    colours = coloured(table["part"], UNIT_COLOURS | {BOUND_NAME: BOUND})
    drawing = go.Figure()
    drawing.add_bar(
        x=[100 * share for share in table["share"]], y=list(table["part"]), orientation="h", name="of its peak",
        marker={"color": [colours[name] for name in table["part"]]}, text=[percent(share) for share in table["share"]],
        textposition="outside", cliponaxis=False,
    )  # fmt: skip
    titled(drawing, "of the peak, over the whole run [%]", "").update_layout(
        height=120 + 34 * len(table), margin={"l": 170, "r": 60}
    )
    return drawing.update_xaxes(range=[0, 105]).update_yaxes(type="category", autorange="reversed")


def text(table: pd.DataFrame) -> str:
    share = dict(zip(table["part"], table["share"], strict=True))
    first = table.iloc[0]
    bound, name = share[BOUND_NAME], first["limited_by"]
    binds = (
        f"{name.upper() if name == 'hbm' else name.capitalize()}-bound"
        if bound >= BINDS
        else "Bound by latency and waiting rather than by a peak"
    )
    units = {part: value for part, value in share.items() if part not in (BOUND_NAME, "hbm")}
    memory = f"HBM moves {percent(share['hbm'])} of what its peak would; " if "hbm" in share else ""
    busiest = max(units, key=lambda part: units[part])
    return (
        f"{binds}: {name}, which sets the lower bound, needs {percent(bound)} of the {microseconds(first['time_us'])}. "
        f"{memory}the busiest of the units and scratchpads is {busiest}, {percent(units[busiest])}."
    )


VIEW = View("R1", "speed", "Speed of light", _table, text, figure)
