"""S7: traffic of main memory against the scratchpad it takes: where does capacity stop paying?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from explorer.query import MACHINE_PREFIX, Scalar
from explorer.views.look import BASELINE, BEST, GIGA, OTHER, points, titled
from explorer.views.study_data import StudyData
from explorer.views.view import NotShown, View
from hwmodel.units import parse

if TYPE_CHECKING:
    import pandas as pd

CAPACITY = "sram_capacity_bytes"
PER_CORE = f"{MACHINE_PREFIX}cores.sram.capacity"
STOPS_PAYING = 0.01  # assumed: less traffic than this share of the least is not worth a larger scratchpad
_KIB = 1024


def _table(study: StudyData) -> pd.DataFrame:
    """Return columns capacity_bytes, traffic_bytes and least_bytes (with no more capacity), smallest capacity first.

    Points that have the machine's own scratchpad, which they do not say, are left out, as a baseline may be.
    """
    done = study.done
    if CAPACITY in done:
        capacity = [int(value) for value in done[CAPACITY]]
    elif PER_CORE in done:
        done = done[done[PER_CORE].notna()]
        capacity = [_bytes(value) for value in done[PER_CORE]]
    else:
        raise NotShown(f"no point of the study says its capacity; search {PER_CORE} to see this")
    if len(set(capacity)) < 2:
        raise NotShown("all points that say their capacity have the same scratchpads")
    traffic = done["hbm_read_bytes"].to_numpy(np.int64)
    if "hbm_write_bytes" in done:
        traffic = traffic + done["hbm_write_bytes"].to_numpy(np.int64)
    return staircase(capacity, traffic.tolist(), has_baseline=bool(done.index[0] == study.rows.index[0]))


def _bytes(value: Scalar) -> int:
    return int(parse(value, "bytes")) if isinstance(value, str) else int(value)


def staircase(capacity: list[int], traffic: list[int], has_baseline: bool = True) -> pd.DataFrame:
    """Return the table of points, of which the first may be the baseline."""
    import pandas as pd

    found = pd.DataFrame({"capacity_bytes": capacity, "traffic_bytes": traffic, "is_baseline": False})
    found.loc[0, "is_baseline"] = has_baseline
    found = found.sort_values(["capacity_bytes", "traffic_bytes"], kind="stable", ignore_index=True)
    found["least_bytes"] = found["traffic_bytes"].cummin()
    return found


def figure(table: pd.DataFrame) -> go.Figure:
    drawing, start = go.Figure(), table[table["is_baseline"]]
    kib, moved = table["capacity_bytes"] / _KIB, table["traffic_bytes"] / GIGA
    points(drawing, kib, moved, name="simulated", marker={"color": OTHER})
    drawing.add_scatter(
        x=list(kib), y=list(table["least_bytes"] / GIGA), name="least with so much", mode="lines",
        line={"color": BEST, "shape": "hv"},
    )  # fmt: skip
    marker = {"color": BASELINE, "symbol": "diamond", "size": 11}
    if len(start):
        points(drawing, kib[start.index], moved[start.index], name="baseline", marker=marker)
    titled(drawing, "scratchpad capacity [KiB], logarithmic", "moved over HBM [GB]")
    return drawing.update_xaxes(type="log").update_yaxes(rangemode="tozero")


def text(table: pd.DataFrame) -> str:
    least = int(table["least_bytes"].iloc[-1])
    enough = table[table["least_bytes"] <= (1 + STOPS_PAYING) * least].iloc[0]
    smallest = table.groupby("capacity_bytes")["traffic_bytes"].min()
    first, last = smallest.index[[0, -1]]
    more = "what more would save was not tried" if enough["capacity_bytes"] == last else "more does not pay"
    return (
        f"With {int(enough['capacity_bytes']) // _KIB:,} KiB the traffic is within {100 * STOPS_PAYING:.0f} % of the "
        f"least found ({least:,} bytes): {more}. With the smallest, {int(first) // _KIB:,} KiB, it is "
        f"{int(smallest.iloc[0]):,} bytes."
    )


VIEW = View("S7", "capacity", "Where capacity stops paying", _table, text, figure)
