"""The figures of a report: pure functions from tables to plotly figures, each with a sentence that reads it.

Figure and sentence come from the same table, so that a test of the sentence is a test of the figure. Every
axis has its unit; baseline and best found keep their colours throughout (Okabe and Ito's palette, which
colour-blind eyes tell apart).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from explorer.objective import ENERGY, TIME, Objective, at_least_joules, joules

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from explorer.balance import Balance

BASELINE, BEST, OTHER, BOUND, PRUNED = "#0072B2", "#D55E00", "#999999", "#000000", "#CCCCCC"
GIGA = 1e9
PJ_PER_US_PER_W = 1e6
_COMPONENT = "energy_by_component_pj."


def simulated(rows: pd.DataFrame, objective: Objective = TIME) -> pd.DataFrame:
    """Return the simulated rows with the best value so far in `best`."""
    done = rows[rows["status"] == "simulated"].copy()
    done["best"] = done[objective.metric].cummin()
    return done


def pareto(rows: pd.DataFrame, metrics: tuple[str, str]) -> pd.DataFrame:
    """Return the simulated rows that no other beats in both `metrics` (smaller is better)."""
    first, second = metrics
    ordered = simulated(rows).sort_values([first, second], kind="stable")
    values = ordered[second].to_numpy(np.float64)
    before = np.minimum.accumulate(np.concatenate([[np.inf], values[:-1]]))
    return ordered[values < before]


def history(rows: pd.DataFrame, bound: float, objective: Objective = TIME) -> go.Figure:
    """Return the objective of every point in the order asked, the best so far, and the bound of the space."""
    done = simulated(rows, objective)
    pruned = rows[rows["status"] == "pruned"]
    figure = go.Figure()
    figure.add_scatter(
        x=list(pruned["point"]), y=list(pruned[objective.bound]), name="pruned (its bound)",
        mode="markers", marker={"color": PRUNED, "symbol": "x-thin-open"},
    )  # fmt: skip
    figure.add_scatter(
        x=list(done["point"]),
        y=list(done[objective.metric]),
        name="simulated",
        mode="markers",
        marker={"color": OTHER},
    )
    figure.add_scatter(
        x=list(done["point"]), y=list(done["best"]), name="best so far", mode="lines",
        line={"color": BEST, "shape": "hv"},
    )  # fmt: skip
    figure.add_scatter(
        x=[0], y=[float(done[objective.metric].iloc[0])], name="baseline",
        mode="markers", marker={"color": BASELINE, "symbol": "diamond", "size": 11},
    )  # fmt: skip
    words = f"no point can be {objective.better}"
    figure.add_hline(y=bound, line={"color": BOUND, "dash": "dash"}, annotation_text=words)
    return titled(figure, "point, in the order asked", objective.axis)


def history_text(rows: pd.DataFrame, bound: float, objective: Objective = TIME) -> str:
    """Return the history in one sentence."""
    done = simulated(rows, objective)
    best, shown = done.iloc[int(done[objective.metric].argmin())], objective.shown
    return (
        f"{len(rows)} points, {len(done)} simulated. The best, point {best['point']}, takes "
        f"{shown(best[objective.metric])}; the baseline {shown(done[objective.metric].iloc[0])}; "
        f"no point of the space can be {objective.better} than {objective.at_least(bound)}."
    )


def traffic(rows: pd.DataFrame, objective: Objective = TIME) -> go.Figure:
    """Return time against bytes read from HBM, with the points that nothing beats in both."""
    done, front = simulated(rows), pareto(rows, ("time_us", "hbm_read_bytes"))
    best = done.iloc[[int(done[objective.metric].argmin())]]
    figure = go.Figure()
    for name, part, style in (
        ("simulated", done, {"mode": "markers", "marker": {"color": OTHER}}),
        ("Pareto front", front, {"mode": "lines+markers", "line": {"color": BOUND, "shape": "hv"}}),
        (
            "baseline",
            done.iloc[:1],
            {"mode": "markers", "marker": {"color": BASELINE, "symbol": "diamond", "size": 11}},
        ),
        ("best found", best, {"mode": "markers", "marker": {"color": BEST, "symbol": "star", "size": 13}}),
    ):
        x = [float(value) / GIGA for value in part["hbm_read_bytes"]]
        figure.add_scatter(x=x, y=list(part["time_us"]), name=name, **style)
    return titled(figure, "read from HBM [GB]", "time [us]").update_xaxes(
        range=[0, 1.1 * float(done["hbm_read_bytes"].max()) / GIGA]
    )


def traffic_text(rows: pd.DataFrame, objective: Objective = TIME) -> str:
    """Return time and traffic in one sentence."""
    done, front = simulated(rows), pareto(rows, ("time_us", "hbm_read_bytes"))
    best, start = done.iloc[int(done[objective.metric].argmin())], done.iloc[0]
    return (
        f"The best found reads {int(best['hbm_read_bytes']):,} bytes from HBM, the baseline "
        f"{int(start['hbm_read_bytes']):,}. The Pareto front of time and bytes has "
        f"{count(len(front), 'point')}."
    )


def energy(baseline: Mapping[str, Any], best: Mapping[str, Any]) -> go.Figure:
    """Return the energy of two rows by component, stacked."""
    figure = go.Figure()
    for name in (column for column in baseline if column.startswith(_COMPONENT)):
        parts = [float(row[name]) for row in (baseline, best)]
        if any(parts):
            figure.add_bar(x=["baseline", "best found"], y=parts, name=name.removeprefix(_COMPONENT))
    return titled(figure, "", ENERGY.axis).update_layout(barmode="stack")


def energy_text(baseline: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    """Return the energies of two rows, their bounds and their power in one sentence."""
    power = [float(row["energy_pj"]) / float(row["time_us"]) / PJ_PER_US_PER_W for row in (baseline, best)]
    return (
        f"The best found takes {joules(best['energy_pj'])} ({power[1]:.0f} W while it runs), at least "
        f"{at_least_joules(best['energy_bound_pj'])} whatever the order of its memory accesses; the baseline "
        f"{joules(baseline['energy_pj'])} ({power[0]:.0f} W)."
    )


def bandwidth(baseline: pd.DataFrame, best: pd.DataFrame) -> go.Figure:
    """Return the HBM bandwidth over time: bins from `time_us` on move `bytes_per_second`."""
    figure = go.Figure()
    for name, frame, colour in (("baseline", baseline, BASELINE), ("best found", best, BEST)):
        figure.add_scatter(
            x=list(frame["time_us"]), y=list(frame["bytes_per_second"] / GIGA), name=name, mode="lines",
            line={"color": colour, "shape": "hv"},
        )  # fmt: skip
    return titled(figure, "time [us]", "HBM bandwidth [GB/s]")


def bandwidth_text(baseline: pd.DataFrame, best: pd.DataFrame) -> str:
    """Return the highest bandwidths in one sentence."""
    peaks = [float(frame["bytes_per_second"].max()) / GIGA for frame in (baseline, best)]
    return f"The busiest bin moves {peaks[0]:,.1f} GB/s (baseline) and {peaks[1]:,.1f} GB/s (best found)."


def balance(loads: Mapping[str, Balance]) -> go.Figure:
    """Return what each pseudo-channel carried in each run, and what each would carry if all carried the same."""
    figure = go.Figure()
    first = next(iter(loads.values()))
    for (name, part), colour in zip(loads.items(), (BASELINE, BEST, OTHER), strict=False):
        places = np.arange(len(part.loads))
        figure.add_bar(x=places, y=np.array(part.loads, np.int64), name=name, marker={"color": colour})
        figure.add_scatter(
            x=[-0.5, len(part.loads) - 0.5], y=[part.ideal, part.ideal], name=f"{name}, even", mode="lines",
            line={"color": BOUND if len(loads) == 1 else colour, "dash": "dash"},
        )  # fmt: skip
    return titled(figure, first.level, first.unit)


def balance_text(loads: Mapping[str, Balance]) -> str:
    """Return in a sentence per run how even the load is."""
    return " ".join(_balance_sentence(name, part) for name, part in loads.items())


def _balance_sentence(name: str, part: Balance) -> str:
    if not sum(part.loads):
        return f"{name}: no {part.unit}."
    idle = part.loads.count(0)
    return (
        f"{name}: {sum(part.loads):,} {part.unit} over {count(len(part.loads), part.level)}; the fullest carries "
        f"{part.imbalance:.2f} times the even share{f', {idle:,} carry nothing' if idle else ''}."
    )


def bank_heat(counts: NDArray[np.int64], highest: int) -> go.Figure:
    """Return counts per bank [pseudo-channel, bank] as a heat map with colours from 0 to `highest`."""
    figure = go.Figure()
    figure.add_heatmap(
        z=counts.tolist(), zmin=0, zmax=max(highest, 1), colorscale="Cividis",
        colorbar={"title": {"text": "activates"}},
    )  # fmt: skip
    return titled(figure, "bank of a pseudo-channel", "pseudo-channel")


def bank_text(name: str, activates: NDArray[np.int64], conflicts: NDArray[np.int64]) -> str:
    """Return the load of the banks in one sentence."""
    mean = float(activates.mean())
    uneven = f"; the busiest has {activates.max() / mean:.2f} times the mean" if mean else ""
    return (
        f"{name}: {int(activates.sum()):,} row activates over {activates.size:,} banks{uneven}; "
        f"{int(conflicts.sum()):,} row conflicts."
    )


def count(number: int, noun: str) -> str:
    """Return a number with its noun, one or many."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def titled(figure: go.Figure, x: str, y: str) -> go.Figure:
    """Return the figure with the titles of its axes (with their units), in the looks that all figures share."""
    figure.update_layout(
        template="plotly_white", height=420, margin={"t": 30, "b": 50, "l": 70, "r": 20},
        xaxis={"title": {"text": x}}, yaxis={"title": {"text": y}}, legend={"orientation": "h", "y": 1.12},
    )  # fmt: skip
    if y == ENERGY.axis:  # a prefix at the number beside the unit in the title would be read twice
        figure.update_yaxes(exponentformat="power")
    return figure


def nothing(figure: go.Figure, why: str) -> go.Figure:
    """Return the figure with a word in its middle that says why it is empty."""
    titled(figure, "", "").update_layout(height=160, xaxis={"visible": False}, yaxis={"visible": False})
    return figure.add_annotation(text=why, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
