"""One row per evaluated point: what was asked, what became of it, and its numbers.

Rows are what a search leaves behind; everything shown later is computed from them. A row holds no time of day
and no name of a worker, so that two runs of one study leave identical rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from explorer.evaluate import Metric
from explorer.query import Scalar
from explorer.study.objective import TIME, Objective

MAY_BE_MISSING = ("energy_pj", "energy_bound_pj", "energy_by_component_pj")  # where the machine gives no energies


class Status(StrEnum):
    """What became of a point: simulated, pruned (its bounds were above what was found), or refused."""

    SIMULATED = "simulated"
    PRUNED = "pruned"
    INVALID = "invalid"


@dataclass(frozen=True)
class Row:
    """The `point`-th point evaluated; `batch`: how many rows were known when it was asked for."""

    point: int
    batch: int
    key: str
    settings: Mapping[str, Scalar]
    status: Status
    bound_us: float
    reason: str
    metrics: Mapping[str, Scalar]

    @property
    def time_us(self) -> float | None:
        """Return the simulated time, None where there is none."""
        return self.value(TIME)

    def value(self, objective: Objective) -> float | None:
        """Return the simulated value of an objective, None where there is none."""
        return float(self.metrics[objective.metric]) if self.status is Status.SIMULATED else None

    def bound(self, objective: Objective) -> float:
        """Return the lower bound of an objective."""
        return self.bound_us if objective is TIME else float(self.metrics[objective.bound])

    def record(self) -> dict[str, Scalar]:
        """Return the row as it is stored, column by column."""
        head: dict[str, Scalar] = {"point": self.point, "batch": self.batch, "key": self.key}
        outcome: dict[str, Scalar] = {
            "status": self.status.value,
            "bound_us": self.bound_us,
            "reason": self.reason,
        }
        return head | dict(self.settings) | outcome | dict(self.metrics)


def per_unit(metrics: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return flat `metrics` with stalls as the average us of one unit, so that a unit's causes add up to the time.

    Sums over all units, as simulated, cannot be compared between machines of different numbers of units.
    """
    totals: dict[str, float] = {}
    for name, value in metrics.items():
        if name.startswith("stalls."):
            totals[name.split(".")[1]] = totals.get(name.split(".")[1], 0) + float(value)
    if not totals:
        return dict(metrics)
    time_us = float(metrics["time_us"])
    return {
        name: float(value) * time_us / totals[name.split(".")[1]] if name.startswith("stalls.") else value
        for name, value in metrics.items()
    }


def unit_name(name: str) -> str:
    """Return how a number of `per_unit` is called where it is shown: stalls are `stalls_us`."""
    return f"stalls_us.{name.removeprefix('stalls.')}" if name.startswith("stalls.") else name


def all_numbers(metrics: Mapping[str, Metric]) -> dict[str, Scalar]:
    """Return `metrics` spread like `flatten`, the bound beside the time; there may be no time."""
    flat = flatten(metrics)
    bound = metrics.get("bound_us")
    first: dict[str, Scalar] = {"time_us": flat["time_us"]} if "time_us" in flat else {}
    return first | ({} if bound is None or isinstance(bound, dict) else {"bound_us": bound}) | flat


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return flat numbers as `flatten` found them: `stalls.load.memory` is `memory` in `load` in `stalls`."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *tables, last = name.split(".")
        place = tree
        for table in tables:
            place = place.setdefault(table, {})
        place[last] = value
    return tree


def with_nulls(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested numbers with None for those that the machine does not give."""
    return dict(record) | {name: None for name in MAY_BE_MISSING if name not in record}


def flatten(metrics: Mapping[str, Metric]) -> dict[str, Scalar]:
    """Return `metrics` with tables spread over `name.entry` columns, without what is missing.

    The bound of the time is not among them: a row has its own.
    """
    flat: dict[str, Scalar] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{entry}": number for entry, number in flatten(value).items()}
        elif name != "bound_us" and value is not None:
            flat[name] = value
    return flat
