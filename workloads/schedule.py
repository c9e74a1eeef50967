"""Schedules: which core runs which work item, in which order.

`static` deals the items round, as a grid of thread blocks on a persistent kernel does; `balanced` gives the next
largest item to the core with the least work so far; `dynamic` lets free cores take the next largest item from a queue.
`beside` keeps items with the core that holds their data (`workloads.placement`).
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from hwmodel.program import Schedule
from layouts.notation import nearest_first

SCHEDULES = ("static", "balanced", "dynamic")


def schedule(name: str, costs: np.ndarray[Any, Any], cores: int) -> Schedule:
    """Return the schedule `name` of tasks with these costs (any unit) over `cores`. Raises ValueError if unknown."""
    count = len(costs)
    if name == "static":
        shares = [np.arange(core, count, cores) for core in range(cores)]
    elif name == "balanced":
        shares = _balanced(costs, cores)
    elif name == "dynamic":
        return Schedule(_largest_first(costs), np.zeros(0, np.int64))
    else:
        raise ValueError(f"schedule: unknown {name!r}; known: {nearest_first(name, SCHEDULES)}")
    start = np.cumsum([0, *map(len, shares)])
    return Schedule(np.concatenate(shares).astype(np.int64), start.astype(np.int64))


def beside(core: np.ndarray[Any, Any], cores: int) -> Schedule:
    """Return the schedule in which core `core[i]`, below `cores`, runs item i; a core runs its items in their order."""
    order = np.argsort(core, kind="stable")
    return Schedule(order.astype(np.int64), np.searchsorted(core[order], np.arange(cores + 1)).astype(np.int64))


def _largest_first(costs: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.argsort(-costs, kind="stable").astype(np.int64)


def _balanced(costs: np.ndarray[Any, Any], cores: int) -> list[np.ndarray[Any, Any]]:
    shares: list[list[int]] = [[] for _ in range(cores)]
    heap = [(0, core) for core in range(cores)]
    for task in _largest_first(costs).tolist():
        load, core = heapq.heappop(heap)
        shares[core].append(task)
        heapq.heappush(heap, (load + int(costs[task]), core))
    return [np.array(share, np.int64) for share in shares]
