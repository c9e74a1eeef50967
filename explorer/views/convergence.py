"""S11: what was found after so many simulations, as the share of the space of outcomes that it dominates.

The share (hypervolume) is of the box between the best and the worst value of every objective in all studies drawn; of
one objective it is how far the best found has come from the worst to the best. Studies that differ in their seed alone
are one line with a band from the least to the most.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from explorer.pareto import hypervolume
from explorer.tables import percent
from explorer.views.look import SERIES, coloured, count, titled
from explorer.views.study_data import StudyData
from explorer.views.view import NotShown, View

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Values = tuple[float, ...]


@dataclass(frozen=True)
class Convergence:
    """`lines`: columns line, simulations, low, middle, high (shares); `studies`: how many are in each line."""

    lines: pd.DataFrame
    studies: dict[str, int]
    metrics: tuple[str, ...]


def shares(values: NDArray[np.float64]) -> list[float]:
    """Return the share of the unit box that the first n rows [points, metrics] dominate, for every n."""
    front: list[Values] = []
    found: list[float] = []
    for row in values.tolist():
        value = tuple(row)
        if not any(all(a <= b for a, b in zip(other, value, strict=True)) for other in front):
            front = [o for o in front if not all(a <= b for a, b in zip(value, o, strict=True))] + [value]
            found.append(hypervolume(front, (1.0,) * len(value)))
        else:
            found.append(found[-1])
    return found


def _one(study: StudyData) -> Convergence:
    if len(study.objectives) < 2:
        raise NotShown("the study has one objective; the search above shows how it came to its best")
    return convergence([study])


def convergence(studies: Sequence[StudyData]) -> Convergence:
    import pandas as pd

    metrics = tuple(name for name in studies[0].objectives if all(name in study.objectives for study in studies))
    if not metrics:
        raise NotShown("the studies have no objective in common")
    values = [study.done[list(metrics)].to_numpy(np.float64) for study in studies]
    everything = np.concatenate(values)
    low, high = everything.min(axis=0), everything.max(axis=0)
    box = np.where(high > low, high - low, 1.0)
    groups: dict[str, list[list[float]]] = defaultdict(list)
    labels = _labels(studies)
    for label, part in zip(labels, values, strict=True):
        groups[label].append(shares((part - low) / box))
    records: list[dict[str, Any]] = []
    for label, runs in groups.items():
        for place in range(max(map(len, runs))):
            now = [run[min(place, len(run) - 1)] for run in runs]
            numbers = {"low": min(now), "middle": float(np.median(now)), "high": max(now)}
            records.append({"line": label, "simulations": place + 1, **numbers})
    return Convergence(pd.DataFrame(records), {label: len(runs) for label, runs in groups.items()}, metrics)


def _labels(studies: Sequence[StudyData]) -> list[str]:
    """Return a name per study, the same for those that differ in their name and seed alone."""
    asked = [
        json.dumps(study.identity.study.model_dump(exclude={"name", "seed"}), sort_keys=True, default=str)
        for study in studies
    ]
    samplers = [study.sampler for study in studies]
    plain = len({*zip(samplers, asked, strict=True)}) == len(set(samplers))
    first = {text: study.name for text, study in zip(reversed(asked), reversed(studies), strict=True)}
    return [sampler if plain else f"{first[text]}, {sampler}" for sampler, text in zip(samplers, asked, strict=True)]


def figure(table: Convergence) -> go.Figure:
    drawing = go.Figure()
    colours = coloured(table.studies, {}, SERIES)
    for label, part in table.lines.groupby("line", sort=False):
        x, colour = list(part["simulations"]), colours[str(label)]
        if table.studies[str(label)] > 1:
            drawing.add_scatter(
                x=[*x, *x[::-1]], y=[*part["high"], *part["low"][::-1]], fill="toself", fillcolor=colour, opacity=0.2,
                line={"width": 0}, name=f"{label}, least to most", hoverinfo="skip", showlegend=False, mode="lines",
            )  # fmt: skip
        drawing.add_scatter(
            x=x, y=list(part["middle"]), name=str(label), mode="lines", line={"color": colour, "shape": "hv"}
        )
    titled(drawing, "simulations", "share of outcomes dominated [1]")
    return drawing.update_layout(showlegend=True).update_yaxes(range=[0, 1.02])


def text(table: Convergence) -> str:
    parts = []
    for label, part in table.lines.groupby("line", sort=False):
        end = float(part["middle"].iloc[-1])
        reached = int(part[part["middle"] >= 0.99 * end]["simulations"].iloc[0])
        seeds = f"median of {table.studies[str(label)]} seeds" if table.studies[str(label)] > 1 else "one seed"
        parts.append(
            f"{label} ({seeds}) ends at {percent(end)} and is within 1 % of that after {count(reached, 'simulation')}"
        )
    return f"{'; '.join(parts)}. 100 % is the best value of {' and '.join(table.metrics)} of all that is drawn."


VIEW = View("S11", "hypervolume", "Convergence", _one, text, figure)
COMPARED = View("S11", "convergence", "Convergence by sampler", convergence, text, figure)
