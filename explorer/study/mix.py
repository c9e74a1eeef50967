"""A mix of workloads: what a point is worth that must serve several of them.

It stands between `space`, which asks for every point on each workload, and `search`, which wants one number per
objective. `risk` says how the workloads' numbers become one: their mean by weight, the worst of them, or the CVaR, the
mean of the worst part of the weight. All three are maxima of weighted sums whose weights are not negative (the mean is
one sum; the worst and the CVaR are the largest over all ways to put the weight on the worst cases), so none falls when
one of its numbers grows. Hence the same risk of lower bounds is a lower bound of the risk of what they bound.
Not modelled: workloads that run at the same time, and share the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from explorer.evaluate import Metric, Outcome
from explorer.query import Scalar
from explorer.storage.row import flatten
from explorer.study.objective import OBJECTIVES, Objective, with_traffic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROUNDING = 2.0**-40  # more than the sums of a few workloads can be off by
_HASHES = ("program_hash", "machine_hash")


@dataclass(frozen=True)
class Risk:
    """`share`: the part of the weight, the worst, that is averaged; 1 is the mean, 0 the worst alone."""

    kind: Literal["mean", "worst", "cvar"] = "mean"
    share: float = 1.0

    @property
    def text(self) -> str:
        """The risk in words."""
        return f"mean of the worst {100 * self.share:g} %" if self.kind == "cvar" else self.kind


MEAN = Risk()


def aggregate(values: Any, weights: Sequence[float], risk: Risk) -> NDArray[np.float64]:
    """Return the risk of `values` float[..., workload] under `weights`, one each, more than 0."""
    import numpy as np

    values = np.asarray(values, np.float64)
    part = np.asarray(weights, np.float64) / sum(weights)
    if values.shape[-1] == 1:
        return np.asarray(values[..., 0])
    if risk.kind == "worst":
        return np.asarray(values.max(axis=-1))
    if risk.kind == "mean":
        return np.asarray((values * part).sum(axis=-1))
    order = np.argsort(-values, axis=-1, kind="stable")
    mass = part[order]
    before = np.cumsum(mass, axis=-1) - mass
    taken = np.clip(np.minimum(mass, risk.share - before), 0, None)
    return np.asarray((np.take_along_axis(values, order, -1) * taken).sum(axis=-1) / taken.sum(axis=-1))


def aggregate_bounds(bounds: Any, weights: Sequence[float], risk: Risk) -> NDArray[np.float64]:
    """Return the risk of lower bounds, less than a rounding could add where there are several."""
    return aggregate(bounds, weights, risk) * (1.0 if len(weights) == 1 else 1 - ROUNDING)


def numbers_of(
    metrics: Mapping[str, Mapping[str, Metric]], weights: Sequence[float], risk: Risk, objectives: Sequence[Objective]
) -> dict[str, Scalar]:
    """Return the flat numbers of one point from the metrics of its run on each workload, by name."""
    flat = {}
    for name, own in metrics.items():
        bound = own.get("bound_us") or 0.0
        assert isinstance(bound, int | float)
        flat[name] = with_traffic(flatten(own)) | {"bound_us": float(bound)}
    return merged(flat, weights, risk, [objective.metric for objective in objectives])


def merged(
    metrics: Mapping[str, Mapping[str, Scalar]], weights: Sequence[float], risk: Risk, objectives: Sequence[str]
) -> dict[str, Scalar]:
    """Return the numbers of one point from the flat `metrics` of each workload.

    Objectives and bounds are the risk of theirs; other numbers that all workloads have are means by weight, texts that
    differ stand side by side. Each workload's own time, bound, energy and objectives follow as `mix.NAME.time_us`.
    """
    first, *others = metrics.values()
    if not others:
        return dict(first)
    found: dict[str, Scalar] = {}
    bounds = {objective.bound for objective in OBJECTIVES.values()}
    for name in first:
        values = [first[name], *(other[name] for other in others if name in other)]
        if len(values) < len(metrics) or (name in _HASHES and len(set(values)) > 1):
            continue
        if any(isinstance(value, str) for value in values):
            found[name] = ", ".join(dict.fromkeys(str(value) for value in values))
        elif name in bounds:
            found[name] = float(aggregate_bounds(values, weights, risk))
        else:
            found[name] = float(aggregate(values, weights, risk if name in objectives else MEAN))
    for workload, own in metrics.items():
        kept = dict.fromkeys(["time_us", "bound_us", "energy_pj", *objectives])
        found |= {f"mix.{workload}.{name}": own[name] for name in kept if name in own}
    return found


def title_of(titles: Sequence[str], names: Sequence[str], risk: Risk) -> str:
    """Return what all workloads of a mix share, and of each its name with what is its own; of one its title."""
    if len(titles) == 1:
        return titles[0]
    parts = [title.split(" · ") for title in titles]
    shared = [part for part in parts[0] if all(part in other for other in parts)]
    own = (", ".join(part for part in mine if part not in shared) for mine in parts)
    each = ", ".join(f"{name} ({text})" if text else name for name, text in zip(names, own, strict=True))
    return " · ".join([*shared, f"{risk.text} of the mix {each}"])


def longest(outcomes: Mapping[str, Outcome]) -> Outcome:
    """Return the outcome of the workload that takes longest, whose pictures stand for the mix."""
    return max(outcomes.values(), key=lambda outcome: float(outcome.metrics["time_us"]))  # type: ignore[arg-type]
