"""What the reader has filtered: values of knobs that are let through, and ranges of metrics.

Choices come from the browser as places in lists, never as names: what they stand for is looked up here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from explorer.query import Scalar
from explorer.views.study_data import StudyData

_METRICS = ("hbm_bandwidth_fraction", "hbm_read_bytes")


@dataclass(frozen=True)
class Cut:
    """`knobs`: by place of the knob, the places of the values let through; `ranges`: by place of the metric."""

    knobs: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    ranges: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def values_of(study: StudyData, knob: str) -> tuple[Scalar, ...]:
    """Return the values that the rows have of a knob, numbers in order."""
    found = [getattr(value, "item", lambda v=value: v)() for value in study.rows[knob].dropna().unique()]
    return tuple(sorted(found, key=lambda value: (isinstance(value, str), value)))


def cut_knobs(study: StudyData) -> tuple[str, ...]:
    """Return the knobs that can be cut: those that the study searches."""
    return tuple(name for name in study.identity.study.knobs if name in study.rows)


def cut_metrics(study: StudyData) -> tuple[str, ...]:
    """Return the metrics that can be cut: the objectives, and what they are traded for."""
    return tuple(name for name in dict.fromkeys((*study.objectives, *_METRICS)) if name in study.done)


def read_cut(knobs: Mapping[int, Any], ranges: Mapping[int, Any]) -> Cut:
    """Return the cut that a browser sent; what is of another form lets everything through."""
    places = {place: tuple(v for v in _list(each) if _whole(v)) for place, each in knobs.items()}
    limits = {}
    for place, each in ranges.items():
        numbers = [float(v) for v in _list(each) if isinstance(v, float) or _whole(v)]
        if len(numbers) == 2:
            limits[place] = (numbers[0], numbers[1])
    return Cut(places, limits)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def apply(study: StudyData, cut: Cut) -> StudyData:
    """Return the study with the rows that pass, and the baseline; rows without a metric pass by their knobs alone."""
    import pandas as pd

    keep = pd.Series(True, index=study.rows.index)
    for place, knob in enumerate(cut_knobs(study)):
        values = values_of(study, knob)
        chosen = [values[at] for at in cut.knobs.get(place, ()) if 0 <= at < len(values)]
        if chosen:
            keep &= study.rows[knob].isin(chosen)
    for place, metric in enumerate(cut_metrics(study)):
        if place in cut.ranges:
            column = study.rows[metric]
            keep &= column.between(*cut.ranges[place]) | column.isna()
    return study.cut(keep)
