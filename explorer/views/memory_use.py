"""R5 and what stands beside it: HBM bandwidth over time, the balance of pseudo-channels, the load of banks.

Counts are of whole runs; `rowhit dram replay --pictures` draws banks over time from a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from explorer.balance import Balance, balance_of
from explorer.views.look import BASELINE, BEST, BOUND, GIGA, OTHER, count, titled
from explorer.views.run_data import RunData
from explorer.views.study_data import BASELINE as FIRST
from explorer.views.study_data import StudyData
from explorer.views.view import NotShown, View

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

COLOURS = (BASELINE, BEST, OTHER)
Banks = tuple[str, "NDArray[np.int64]", "NDArray[np.int64]", int]  # name, activates, conflicts, top of the colours


def _bandwidth(study: StudyData) -> dict[str, pd.DataFrame]:
    if not study.details:
        raise NotShown("the details of the designs were not read")
    return {name: details.bandwidth for name, details in study.details.items()}


def bandwidth_figure(frames: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Draw the HBM bandwidth over time: bins from `time_us` on move `bytes_per_second`."""
    drawing = go.Figure()
    for (name, frame), colour in zip(frames.items(), COLOURS, strict=False):
        drawing.add_scatter(
            x=list(frame["time_us"]), y=list(frame["bytes_per_second"] / GIGA), name=name.lower(), mode="lines",
            line={"color": colour, "shape": "hv"},
        )  # fmt: skip
    return titled(drawing, "time [us]", "HBM bandwidth [GB/s]")


def bandwidth_text(frames: Mapping[str, pd.DataFrame]) -> str:
    peaks = {name: float(frame["bytes_per_second"].max()) / GIGA for name, frame in frames.items()}
    return (
        f"The busiest bin moves {' and '.join(f'{peak:,.1f} GB/s ({name.lower()})' for name, peak in peaks.items())}."
    )


def _counts(banks: Mapping[str, NDArray[np.int64]] | None, name: str) -> NDArray[np.int64]:
    """Return counts of [pseudo-channel, bank]; NotShown where none are kept, and where main memory has no banks."""
    if banks is None or name not in banks:
        raise NotShown("no counts per bank are kept of this run: of the baseline and of every best so far they are")
    if not banks[name].size:
        raise NotShown("main memory of SRAM has no pseudo-channels and banks")
    return banks[name]


def _balance(study: StudyData) -> dict[str, Balance]:
    kept = {name: details.banks for name, details in study.details.items() if "bursts" in details.banks}
    if not kept:  # a results folder of an older version has none
        raise NotShown("the results have no bursts per bank")
    return {name: balance_of(_counts(banks, "bursts")) for name, banks in kept.items()}


def _run_balance(run: RunData) -> dict[str, Balance]:
    return {"This run": balance_of(_counts(run.banks, "bursts"))}


def balance_figure(loads: Mapping[str, Balance]) -> go.Figure:
    """Draw what each pseudo-channel carried in each run, and what each would carry if all carried the same."""
    drawing = go.Figure()
    first = next(iter(loads.values()))
    for (name, part), colour in zip(loads.items(), COLOURS, strict=False):
        places = np.arange(len(part.loads))
        drawing.add_bar(x=places, y=np.array(part.loads, np.int64), name=name, marker={"color": colour})
        drawing.add_scatter(
            x=[-0.5, len(part.loads) - 0.5], y=[part.ideal, part.ideal], name=f"{name}, even", mode="lines",
            line={"color": BOUND if len(loads) == 1 else colour, "dash": "dash"},
        )  # fmt: skip
    return titled(drawing, first.level, first.unit)


def balance_text(loads: Mapping[str, Balance]) -> str:
    """Say in a sentence per run how even the load is."""
    return " ".join(_balance_sentence(name, part) for name, part in loads.items())


def _balance_sentence(name: str, part: Balance) -> str:
    if not sum(part.loads):
        return f"{name}: no {part.unit}."
    idle = part.loads.count(0)
    return (
        f"{name}: {sum(part.loads):,} {part.unit} over {count(len(part.loads), part.level)}; the fullest carries "
        f"{part.imbalance:.2f} times the even share{f', {idle:,} carry nothing' if idle else ''}."
    )


def _banks(study: StudyData, name: str) -> Banks:
    if name not in study.details:
        raise NotShown("what its banks carried was not read")
    banks = study.details[name].banks
    activates = _counts(banks, "activates")
    highest = max(int(details.banks["activates"].max(initial=0)) for details in study.details.values())
    return name, activates, banks["conflicts"], highest


def _run_banks(run: RunData) -> Banks:
    activates = _counts(run.banks, "activates")
    return "This run", activates, _counts(run.banks, "conflicts"), int(activates.max())


def banks_figure(table: Banks) -> go.Figure:
    """Draw activates per bank [pseudo-channel, bank], with the totals of pseudo-channels and of banks at the edges."""
    from plotly.subplots import make_subplots

    _, counts, _, highest = table
    drawing = make_subplots(
        rows=2, cols=2, shared_xaxes=True, shared_yaxes=True, row_heights=[0.2, 0.8], column_widths=[0.85, 0.15],
        horizontal_spacing=0.02, vertical_spacing=0.03,
    )  # fmt: skip
    drawing.add_heatmap(
        z=counts.tolist(), zmin=0, zmax=max(highest, 1), colorscale="Cividis", row=2, col=1,
        colorbar={"title": {"text": "activates"}}, name="activates",
    )  # fmt: skip
    edges = {"marker": {"color": OTHER}, "showlegend": False}
    drawing.add_bar(y=counts.sum(axis=0).tolist(), name="of a bank", row=1, col=1, **edges)
    drawing.add_bar(x=counts.sum(axis=1).tolist(), orientation="h", name="of a pseudo-channel", row=2, col=2, **edges)
    titled(drawing, "", "")
    drawing.update_xaxes(title={"text": "bank of a pseudo-channel"}, row=2, col=1)
    drawing.update_yaxes(title={"text": "pseudo-channel"}, row=2, col=1)
    drawing.update_yaxes(title={"text": "activates"}, row=1, col=1)
    return drawing.update_xaxes(title={"text": "activates"}, row=2, col=2)


def banks_text(table: Banks) -> str:
    name, activates, conflicts, _ = table
    mean = float(activates.mean()) if activates.size else 0.0
    uneven = f"; the busiest has {activates.max() / mean:.2f} times the mean" if mean else ""
    return (
        f"{name}: {int(activates.sum()):,} row activates over {activates.size:,} banks{uneven}; "
        f"{int(conflicts.sum()):,} row conflicts."
    )


def _banks_view(name: str) -> View:
    table: Callable[[StudyData], Banks] = partial(_banks, name=name)
    title = f"Banks: {name.lower()}"
    return View("R5", f"banks-{name.split()[0].lower()}", title, table, banks_text, banks_figure)


BANDWIDTH = View("R6", "bandwidth", "Bandwidth", _bandwidth, bandwidth_text, bandwidth_figure)
BALANCE = View("R5", "balance", "Balance", _balance, balance_text, balance_figure)
BANKS = (_banks_view(FIRST), _banks_view("Best found"))
RUN_BALANCE = View("R5", "balance", "Balance", _run_balance, balance_text, balance_figure)
RUN_BANKS = View("R5", "banks", "Banks", _run_banks, banks_text, banks_figure)
