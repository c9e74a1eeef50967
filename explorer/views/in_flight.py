"""R6: how many requests are on their way, and how long loads take until their data is in the scratchpad."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from explorer.views.look import BOUND, SERIES, UNIT_COLOURS, coloured, count, titled
from explorer.views.run_data import RunData
from explorer.views.view import NotShown, View
from hwmodel.program import QUEUES
from hwmodel.units import FS_PER_US

if TYPE_CHECKING:
    import pandas as pd

FS_PER_NS = 10**6
PERCENTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}
_COUNTS = ("requests in flight", "HBM bursts waiting")


def _in_flight(run: RunData) -> dict[str, pd.DataFrame]:
    """Return steps by name: columns time_us and value, the value from that time on."""
    import pandas as pd

    steps = {
        each.name: each for each in run.recorded().counts if each.core < 0 and each.name in _COUNTS and each.values
    }
    if not steps:
        raise NotShown("the run asked nothing of memory")
    return {
        name: pd.DataFrame({"time_us": [t / FS_PER_US for t in each.times_fs], "value": each.values})
        for name, each in steps.items()
    }


def in_flight_figure(table: dict[str, pd.DataFrame]) -> go.Figure:
    drawing = go.Figure()
    colours = coloured(table, {"requests in flight": UNIT_COLOURS["load"], "HBM bursts waiting": UNIT_COLOURS["hbm"]})
    for name, frame in table.items():
        drawing.add_scatter(
            x=list(frame["time_us"]), y=list(frame["value"]), name=name, mode="lines",
            line={"color": colours[name], "shape": "hv"},
        )  # fmt: skip
    return titled(drawing, "time [us]", "mean of a bin [count]").update_yaxes(rangemode="tozero")


def in_flight_text(table: dict[str, pd.DataFrame]) -> str:
    parts = []
    for name, frame in table.items():
        values = frame["value"].to_numpy()[:-1]
        width = np.diff(frame["time_us"]) * (values > 0)
        mean = float((values * width).sum() / width.sum()) if width.any() else 0.0
        parts.append(
            f"{name}: {mean:,.1f} on average while there are any, {frame['value'].max():,.1f} in the fullest bin"
        )
    return f"{'; '.join(parts)}."


def _latency(run: RunData) -> pd.DataFrame:
    """Return columns name (load of a tensor) and latency_ns, from the first of its spans to its completion."""
    import pandas as pd

    timeline = run.recorded()
    load = QUEUES.index("load")
    begun: dict[int, int] = {}
    for span in timeline.spans:
        if span.queue == load:
            begun[span.execution] = min(begun.get(span.execution, span.from_fs), span.from_fs)
    if not begun:
        raise NotShown("the run loads nothing")
    loads = [(timeline.executions[number], from_fs) for number, from_fs in sorted(begun.items())]
    names, times = [each.name for each, _ in loads], [(each.done_fs - from_fs) / FS_PER_NS for each, from_fs in loads]
    return pd.DataFrame({"name": names, "latency_ns": times})


def latency_figure(table: pd.DataFrame) -> go.Figure:
    drawing = go.Figure()
    for (name, part), colour in zip(table.groupby("name", sort=True), cycle(SERIES), strict=False):
        ordered = np.sort(part["latency_ns"].to_numpy(np.float64))
        drawing.add_scatter(
            x=ordered.tolist(), y=((np.arange(len(ordered)) + 1) / len(ordered)).tolist(), name=str(name), mode="lines",
            line={"color": colour, "shape": "hv"},
        )  # fmt: skip
    for place, (name, share) in enumerate(PERCENTILES.items()):
        drawing.add_vline(
            x=float(table["latency_ns"].quantile(share, "higher")), annotation_text=name,
            line={"color": BOUND, "dash": ("solid", "dash", "dot")[place], "width": 1},
        )  # fmt: skip
    return titled(drawing, "latency of a load [ns]", "share of loads [1]").update_layout(showlegend=True)


def latency_text(table: pd.DataFrame) -> str:
    marks = [f"{name} {table['latency_ns'].quantile(share, 'higher'):,.1f} ns" for name, share in PERCENTILES.items()]
    return (
        f"From the begin of a load to its data in the scratchpad, waits for free buffers included: "
        f"{count(len(table), 'load')}, mean {table['latency_ns'].mean():,.1f} ns, {', '.join(marks)}."
    )


IN_FLIGHT = View("R6", "in-flight", "Requests on their way", _in_flight, in_flight_text, in_flight_figure)
LATENCY = View("R6", "latency", "Latency of loads", _latency, latency_text, latency_figure)
