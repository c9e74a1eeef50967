"""What the busiest core has at least of work items, under a schedule or however they are dealt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.program import Schedule
from workloads.schedule import schedule

Array = np.ndarray[Any, Any]
MOST_BALANCED = 4096  # assumed: items whose balanced schedule is worked out; of more the mean says nearly as much
HEAVIEST = 4  # assumed: how many of the heaviest items that meet on one core are looked at


@dataclass(frozen=True)
class Share:
    """Items of a few `kinds`, ascending sizes int64[kinds], so many of each, and those of one busy core if known."""

    kinds: Array
    items: Array
    of_core: Array | None
    cores: int

    def busiest(self, costs: Any) -> Array:
        """Return what the busiest core has at least, of costs per item int64[points, kinds]; int64[points]."""
        costs = np.asarray(costs)
        mean = -(-(costs * self.items).sum(axis=-1) // self.cores)
        if self.of_core is not None:
            return np.maximum(mean, (costs * self.of_core).sum(axis=-1))
        return np.maximum(mean, at_least(np.broadcast_to(costs, (*costs.shape[:-1], len(self.items))), self))


def at_least(costs: Array, share: Share) -> Array:
    """Return what some core has at least, however items are dealt: of n * cores + 1 items, n + 1 meet on one.

    For the heaviest n * cores + 1 these are no less than the lightest n + 1 of them.
    """
    order = np.argsort(-costs, axis=-1, kind="stable")
    costs, items = np.take_along_axis(costs, order, axis=-1), share.items[order]
    ends = np.cumsum(items, axis=-1)
    all_items, most = int(share.items.sum()), -(-int(share.items.sum()) // share.cores)
    found: Array = np.zeros(costs.shape[:-1], np.int64)
    for meeting in {*range(1, min(HEAVIEST, most) + 1), most}:
        last = min(all_items, (meeting - 1) * share.cores + 1)
        taken = np.clip(np.minimum(ends, last) - np.maximum(ends - items, last - meeting), 0, None)
        found = np.maximum(found, (taken * costs).sum(axis=-1))
    return found


def share_of(sizes: Array, how: str, cores: int, order: Schedule | None = None) -> Share:
    """Return the share of items of these sizes under the schedule `how`; `order` where that is known already."""
    kinds, which, items = np.unique(sizes, return_inverse=True, return_counts=True)
    if order is None and (how == "static" or (how == "balanced" and len(sizes) <= MOST_BALANCED)):
        order = schedule(how, sizes, cores)
    if order is None or order.dynamic:
        return Share(kinds, items, None, cores)
    core = np.repeat(np.arange(cores), np.diff(order.start))
    busy = int(np.bincount(core, weights=sizes[order.order], minlength=cores).argmax())
    mine = order.order[order.start[busy] : order.start[busy + 1]]
    return Share(kinds, items, np.bincount(which.reshape(-1)[mine], minlength=len(kinds)), cores)
