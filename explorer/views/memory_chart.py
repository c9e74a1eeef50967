"""R2: the levels of memory as boxes, with the bytes that cross between them and how near each is to its peak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from explorer.tables import percent
from explorer.views.look import GIGA, UNIT_COLOURS, titled
from explorer.views.run_data import RunData
from explorer.views.view import View

if TYPE_CHECKING:
    import pandas as pd

_UNITS = ("matrix", "vector", "load", "store")
_SCRATCHPADS = "scratchpads"


def _table(run: RunData) -> pd.DataFrame:
    """Return a line per arrow: from, to, moved_bytes, written_bytes of them away from the units, what `to` reaches of
    its peak, and what was found there; None where it is not known."""
    import pandas as pd

    metrics = run.metrics
    sram: Mapping[str, Mapping[str, Any]] = metrics.get("sram") or {}
    busy: Mapping[str, float] = metrics.get("utilisation") or {}
    records: list[dict[str, Any]] = [
        _arrow(unit, _SCRATCHPADS, sram[unit]["read_bytes"] + sram[unit]["written_bytes"], None, busy.get("sram"))
        for unit in _UNITS
        if unit in sram and unit in ("matrix", "vector") and (sram[unit]["read_bytes"] or sram[unit]["written_bytes"])
    ]
    before = _SCRATCHPADS
    for name, level in run.table("levels").items():
        share = metrics.get("hbm_bandwidth_fraction") if name == "hbm" else busy.get(name)
        record = _arrow(before, name, level["asked_bytes"], None if name == "network" else level["stored_bytes"], share)
        records.append(record | {"hit": _hit(level)})
        before = name
    return pd.DataFrame(records)


def _arrow(source: str, target: str, moved: int, written: int | None, share: float | None) -> dict[str, Any]:
    numbers = {"moved_bytes": moved, "written_bytes": written}
    return {"from": source, "to": target, **numbers, "share_of_peak": share, "hit": None}


def _hit(level: Mapping[str, Any]) -> float | None:
    return level["hit_bytes"] / level["asked_bytes"] if level["asked_bytes"] else None


def figure(table: pd.DataFrame) -> go.Figure:
    units = [name for name in table["from"] if name in _UNITS]
    chain = [_SCRATCHPADS, *table[~table["from"].isin(_UNITS)]["to"]]
    places = {name: (0.0, float(place)) for place, name in enumerate(units)}
    middle = (len(units) - 1) / 2 if units else 0.0
    places |= {name: (place + 1.0, middle) for place, name in enumerate(chain)}
    drawing = go.Figure()
    for name, (x, y) in places.items():
        drawing.add_shape(
            type="rect", x0=x - 0.22, x1=x + 0.22, y0=y - 0.32, y1=y + 0.32, line={"color": "#222222"},
            fillcolor=UNIT_COLOURS.get(name, UNIT_COLOURS["sram"]), opacity=0.35,
        )  # fmt: skip
    peaks = {row["to"]: row["share_of_peak"] for _, row in table.iterrows()}
    boxes = {
        name: f"{name}: {percent(peaks[name])} of its peak" if _known(peaks.get(name)) else name for name in places
    }
    drawing.add_scatter(
        x=[x for x, _ in places.values()], y=[y for _, y in places.values()], mode="text", name="levels",
        text=list(places), hovertext=list(boxes.values()), hoverinfo="text", showlegend=False,
    )  # fmt: skip
    for _, row in table.iterrows():
        _draw_arrow(drawing, places[row["from"]], places[row["to"]], row)
    titled(drawing, "", "").update_layout(height=260 + 60 * len(units), margin={"l": 20, "b": 20})
    drawing.update_xaxes(visible=False, range=[-0.5, len(chain) + 0.6])
    return drawing.update_yaxes(visible=False, range=[-1.0, max(1, len(units)) - 0.1])


def _draw_arrow(drawing: go.Figure, source: tuple[float, float], target: tuple[float, float], row: Any) -> None:
    drawing.add_annotation(
        x=target[0] - 0.22, y=target[1], ax=source[0] + 0.22, ay=source[1], xref="x", yref="y", axref="x", ayref="y",
        arrowhead=2, arrowside="end+start", arrowcolor="#222222", text="",
    )  # fmt: skip
    x, y = (source[0] + target[0]) / 2, (source[1] + target[1]) / 2
    words = [f"{row['moved_bytes'] / GIGA:.3g} GB"]
    words += [f"{row['written_bytes'] / GIGA:.3g} GB of it written"] if _known(row["written_bytes"]) else []
    words += [f"{percent(row['share_of_peak'])} of peak"] if _known(row["share_of_peak"]) else []
    for place, line in enumerate(words):
        drawing.add_annotation(x=x, y=y, yshift=42 - 14 * place, text=line, showarrow=False, font={"size": 11})


def _known(share: Any) -> bool:
    return share is not None and share == share


def text(table: pd.DataFrame) -> str:
    parts = []
    for _, row in table[~table["from"].isin(_UNITS)].iterrows():
        peak = f", {percent(row['share_of_peak'])} of its peak" if _known(row["share_of_peak"]) else ""
        hits = f", {percent(row['hit'])} found there" if _known(row["hit"]) else ""
        written = f", {int(row['written_bytes']):,} of them written" if _known(row["written_bytes"]) else ""
        parts.append(f"{row['to']}: {row['moved_bytes']:,} bytes{written}{hits}{peak}")
    return f"Asked of each level, from the scratchpads outwards: {'; '.join(parts)}."


VIEW = View("R2", "memory", "Memory chart", _table, text, figure)
