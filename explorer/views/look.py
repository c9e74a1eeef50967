"""What all figures share: a palette that colour-blind eyes tell apart, axes with units, and words for numbers.

The same unit, tensor, component or design has the same colour on every page. Colours are Okabe and Ito's, and Tol's
muted ones where eight are too few.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import plotly.graph_objects as go

from explorer.objective import OBJECTIVES
from explorer.tables import number

BASELINE, BEST, OTHER, BOUND, PRUNED = "#0072B2", "#D55E00", "#999999", "#000000", "#CCCCCC"
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MUTED = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#DDDDDD")
UNIT_COLOURS = {
    "load": "#0072B2",
    "store": "#56B4E9",
    "matrix": "#009E73",
    "vector": "#E69F00",
    "hbm": "#D55E00",
    "sram": "#CC79A7",
    "distributed sram": "#CC79A7",
    "shared cache": "#F0E442",
    "network": "#999999",
    "tlb": "#666666",
}
CAUSE_COLOURS = {
    "useful": "#44AA99",
    "memory": "#882255",
    "buffer": "#DDCC77",
    "dependency": "#88CCEE",
    "launch": "#332288",
    "no work": "#DDDDDD",
    "row": "#CC6677",
    "bus": "#999933",
    "turnaround": "#AA4499",
    "refresh": "#117733",
    "SRAM bank conflict": "#E69F00",
    "SRAM contention": "#D55E00",
}
SEQUENTIAL = "Cividis"
DETERMINISTIC = "The simulation is deterministic: the same study and versions give the same numbers."
MAX_SVG_POINTS = 10_000  # above, points are drawn by the graphics card
GIGA = 1e9
_UNITS = {"_us": "us", "_pj": "pJ", "_bytes": "B", "_fraction": "1", "_stacks": "count", "_cycles": "cycles"}
_SHORT = {"hbm": "HBM", "sram": "SRAM", "dma": "DMA"}
_ESCAPED_NOT = ("hovertemplate", "texttemplate")  # templates of our own; data comes in by reference only


def axis(name: str) -> str:
    """Return the title of an axis that shows a column: `energy_pj` is energy [pJ]; a knob keeps its name."""
    for metric, objective in OBJECTIVES.items():
        if name == metric:
            return objective.axis
    last = name.rpartition(".")[2]
    for ending, unit in _UNITS.items():
        if last.endswith(ending) and not name.startswith("machine."):
            words = f"{last.removesuffix(ending)}{ending if ending == '_stacks' else ''}".replace("_", " ")
            mixed = f" of {name.split('.')[1]}" if name.startswith("mix.") else ""
            words = " ".join(_SHORT.get(word, word) for word in words.split())
            return f"{words}{mixed} [{unit}]"
    return name


def shown(metric: str, value: float) -> str:
    """Return a value of a metric with its unit, as tables write it."""
    objective = OBJECTIVES.get(metric)
    return objective.shown(value) if objective else number(metric, value)


def count(amount: int, noun: str) -> str:
    """Return a number with its noun, one or many."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def short(text: str, longest: int = 24) -> str:
    """Return a text that fits beside an axis."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def coloured(names: Iterable[str], known: Mapping[str, str], others: Sequence[str] = MUTED) -> dict[str, str]:
    """Return a colour for every name: the known one, or the next of the others in the order of the names."""
    found: dict[str, str] = {}
    for name in names:
        found[name] = known.get(name) or others[sum(n not in known for n in found) % len(others)]
    return found


def points(figure: go.Figure, x: Iterable[Any], y: Iterable[Any], **style: Any) -> go.Figure:
    """Add points to the figure: drawn as SVG, or by the graphics card where they are many."""
    xs, ys = list(x), list(y)
    add = figure.add_scattergl if len(xs) > MAX_SVG_POINTS else figure.add_scatter
    add(x=xs, y=ys, mode="markers", **style)
    return figure


def titled(figure: go.Figure, x: str, y: str) -> go.Figure:
    """Return the figure with the titles of its axes (with their units), in the looks that all figures share."""
    figure.update_layout(
        height=420, margin={"t": 30, "b": 50, "l": 70, "r": 20},
        xaxis={"title": {"text": x}}, yaxis={"title": {"text": y}}, legend={"orientation": "h", "y": 1.12},
    )  # fmt: skip
    for title, update in ((x, figure.update_xaxes), (y, figure.update_yaxes)):
        if title.endswith("[pJ]"):  # a prefix at the number beside the unit in the title would be read twice
            update(exponentformat="power")
    return figure


def nothing(figure: go.Figure, why: str) -> go.Figure:
    """Return the figure with a word in its middle that says why it is empty."""
    titled(figure, "", "").update_layout(height=160, xaxis={"visible": False}, yaxis={"visible": False})
    return figure.add_annotation(text=why, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")


def shielded(figure: go.Figure) -> dict[str, Any]:
    """Return the figure as plotly takes it, on white, in which no text of the data is read as markup.

    plotly draws `<b>`, `<br>` and links in any text; what a study names is shown as it is written instead.
    """
    plain = _shielded(figure.to_plotly_json())
    return {"data": plain["data"], "layout": plain["layout"] | {"template": _white()}}


@lru_cache(maxsize=1)
def _white() -> dict[str, Any]:
    import plotly.io

    return dict(plotly.io.templates["plotly_white"].to_plotly_json())


def _shielded(value: Any, key: str = "") -> Any:
    if isinstance(value, str):
        return value if key in _ESCAPED_NOT else value.replace("&", "&amp;").replace("<", "&lt;")
    if isinstance(value, dict):
        return {name: _shielded(part, name) for name, part in value.items() if name != "template"}
    if isinstance(value, list | tuple):
        return [_shielded(part, key) for part in value]
    if getattr(value, "dtype", None) is not None and value.dtype == object:
        return [_shielded(part, key) for part in value.tolist()]
    return value
