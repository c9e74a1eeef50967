"""What the busiest core has at least of work items, under a schedule or however they are dealt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.program import Schedule
from workloads.kernels.demands.columns import distinct
from workloads.schedule import schedule

Array = np.ndarray[Any, Any]
MOST_BALANCED = 4096  # assumed: items whose balanced schedule is worked out; of more the mean says nearly as much
HEAVIEST = 4  # assumed: how many of the heaviest items that meet on one core are looked at


@dataclass(frozen=True)
class Share:
    """How many items there are of every kind, int64[kinds] or [points, kinds]; those of one busy core if known."""

    items: Array
    cores: int
    of_core: Array | None = None

    def busiest(self, costs: Any) -> Array:
        """Return what the busiest core has at least, of costs per item int64[points, kinds]; int64[points]."""
        costs = np.asarray(costs)
        mean = -(-(costs * self.items).sum(axis=-1) // self.cores)
        if self.of_core is not None:
            some: Array = (costs * self.of_core).sum(axis=-1)
        else:
            some = self._however_dealt(*np.broadcast_arrays(costs, self.items))
        most: Array = np.maximum(mean, some)
        return most

    def _however_dealt(self, costs: Array, items: Array) -> Array:
        """Return what some core has at least: of n * cores + 1 items, n + 1 meet on one.

        Of the heaviest n * cores + 1 these are no less than the lightest n + 1.
        """
        order = np.argsort(-costs, axis=-1, kind="stable")
        costs, items = np.take_along_axis(costs, order, axis=-1), np.take_along_axis(items, order, axis=-1)
        ends = np.cumsum(items, axis=-1)
        all_items = ends[..., -1:]
        found: Array = np.zeros(costs.shape[:-1], np.int64)
        for meeting in (*range(1, HEAVIEST + 1), -(-all_items // self.cores)):
            last = (meeting - 1) * self.cores + 1
            taken = np.minimum(ends, last) - np.maximum(ends - items, last - meeting)
            taken = np.where(all_items >= last, np.maximum(taken, 0), 0)
            found = np.maximum(found, (taken * costs).sum(axis=-1))
        return found


def share_of(
    columns: Sequence[Array], costs: Array, how: str, cores: int, order: Schedule | None = None
) -> tuple[list[Array], Share]:
    """Return the distinct rows of columns of items, which are their kinds, and the share under the schedule `how`.

    `costs`: by which items are dealt; `order`: the schedule where it is known already.
    """
    kinds, which = distinct(columns)
    items = np.bincount(which)
    if order is None and (how == "static" or (how == "balanced" and len(costs) <= MOST_BALANCED)):
        order = schedule(how, costs, cores)
    if order is None or order.dynamic:
        return kinds, Share(items, cores)
    core = np.repeat(np.arange(cores), np.diff(order.start))
    busy = int(np.bincount(core, weights=costs[order.order], minlength=cores).argmax())
    mine = order.order[order.start[busy] : order.start[busy + 1]]
    return kinds, Share(items, cores, np.bincount(which[mine], minlength=len(items)))
