"""R4: what every unit did when. Few intervals are drawn one by one, many as the share of time a lane was busy.

The whole of it is in the trace that `rowhit timeline` writes for ui.perfetto.dev.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from explorer.tables import percent
from explorer.views.look import SEQUENTIAL, UNIT_COLOURS, count, titled
from explorer.views.run_data import RunData
from explorer.views.view import View
from hwmodel.program import QUEUES
from hwmodel.timeline import USEFUL
from hwmodel.units import FS_PER_US

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from hwmodel.timeline import Timeline

MAX_BARS = 2000  # assumed: more take a browser seconds
MAX_LANES = 64
BINS = 200


@dataclass(frozen=True)
class Busy:
    """`spans`: columns lane, unit, name, from_us, to_us of busy intervals; `lanes` in order; `whole_us` the run."""

    spans: pd.DataFrame
    lanes: tuple[str, ...]
    whole_us: float
    left_out: int  # lanes


def _table(run: RunData) -> Busy:
    return busy(run.recorded())


def busy(timeline: Timeline) -> Busy:
    import pandas as pd

    spans = [span for span in timeline.spans if span.cause == USEFUL]
    units = sorted({(span.core, span.queue) for span in spans})
    kept = set(units[:MAX_LANES])
    records = [
        {
            "lane": _lane(span.core, span.queue),
            "unit": QUEUES[span.queue],
            "name": timeline.executions[span.execution].name,
            "from_us": span.from_fs / FS_PER_US,
            "to_us": span.to_fs / FS_PER_US,
        }
        for span in spans
        if (span.core, span.queue) in kept
    ]
    columns = ["lane", "unit", "name", "from_us", "to_us"]
    lanes = tuple(_lane(*unit) for unit in units[:MAX_LANES])
    whole_us = timeline.makespan_fs / FS_PER_US
    return Busy(pd.DataFrame(records, columns=columns), lanes, whole_us, len(units) - len(lanes))


def _lane(core: int, queue: int) -> str:
    return f"core {core} {QUEUES[queue]}"


def figure(table: Busy) -> go.Figure:
    drawing = go.Figure()
    if len(table.spans) > MAX_BARS:
        drawing.add_heatmap(
            z=occupancy(table).tolist(), x0=table.whole_us / BINS / 2, dx=table.whole_us / BINS, y=list(table.lanes),
            zmin=0, zmax=1, colorscale=SEQUENTIAL, colorbar={"title": {"text": "busy [1]"}}, name="busy",
        )  # fmt: skip
    else:
        for unit, part in table.spans.groupby("unit", sort=False):
            drawing.add_bar(
                base=list(part["from_us"]), x=list(part["to_us"] - part["from_us"]), y=list(part["lane"]),
                orientation="h", name=str(unit), marker={"color": UNIT_COLOURS[str(unit)], "line": {"width": 0}},
                hovertext=list(part["name"]),
            )  # fmt: skip
    titled(drawing, "time [us]", "").update_layout(
        height=140 + 22 * len(table.lanes), margin={"l": 120}, barmode="overlay", showlegend=True
    )
    drawing.update_xaxes(range=[0, table.whole_us])
    return drawing.update_yaxes(
        type="category", autorange="reversed", categoryorder="array", categoryarray=list(table.lanes)
    )


def occupancy(table: Busy) -> NDArray[np.float64]:
    """Return the share of each bin of time that a lane was busy [lane, bin]."""
    edges = np.linspace(0, table.whole_us, BINS + 1)
    found = np.zeros((len(table.lanes), BINS))
    for place, lane in enumerate(table.lanes):
        part = table.spans[table.spans["lane"] == lane]
        from_us, to_us = part["from_us"].to_numpy(), part["to_us"].to_numpy()
        before = np.interp(edges, *_cumulated(from_us, to_us, table.whole_us))
        found[place] = np.diff(before) / np.diff(edges)
    return found.clip(0, 1)


def _cumulated(
    from_us: NDArray[np.float64], to_us: NDArray[np.float64], whole_us: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return corners (time, busy so far) of the busy time of a lane, whose intervals follow one another."""
    times = np.concatenate([[0.0], np.stack([from_us, to_us], axis=1).ravel(), [whole_us]])
    so_far = np.cumsum(to_us - from_us)
    busy_us = np.stack([so_far - (to_us - from_us), so_far], axis=1).ravel()
    return times, np.concatenate([[0.0], busy_us, [so_far[-1] if len(so_far) else 0.0]])


def text(table: Busy) -> str:
    lengths = (table.spans["to_us"] - table.spans["from_us"]).groupby(table.spans["unit"], sort=False).sum()
    lanes = table.spans.groupby("unit", sort=False)["lane"].nunique()
    parts = [f"{unit} {percent(float(lengths[unit]) / (table.whole_us * int(lanes[unit])))}" for unit in lengths.index]
    left = f", {count(table.left_out, 'lane')} not drawn" if table.left_out else ""
    binned = f", as shares of {BINS} bins of time" if len(table.spans) > MAX_BARS else ""
    drawn = f"{count(len(table.spans), 'busy interval')} in {count(len(table.lanes), 'lane')}"
    return f"{drawn}{left}{binned}; busy: {', '.join(parts)}."


VIEW = View("R4", "units", "Units over time", _table, text, figure)
