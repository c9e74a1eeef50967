"""Placement of experts on cores: pinned experts, with copies of the hot ones.

With `pinned`, expert e belongs to core e modulo the cores, as experts are dealt to the ranks of expert parallelism;
`pinned-balanced` gives the expert with the most tokens to the core with the fewest so far. Copies go, one by one, to
the expert with the most tokens per copy (as EPLB of DeepSeek does), and copies of one expert share its tiles. The other
schedules know no owners: any core may take any tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.program import Schedule
from workloads.schedule import SCHEDULES, schedule

PLACEMENTS = (*SCHEDULES, "pinned", "pinned-balanced")
Array = np.ndarray[Any, Any]


def place_experts(name: str, expert: Array, costs: Array, counts: Array, cores: int, copies: int) -> Schedule:
    """Return the schedule of items: `expert` and cost of each, tokens `counts` of every expert, `copies` more in all.

    ValueError for an unknown name.
    """
    if name not in ("pinned", "pinned-balanced"):
        return schedule(name, costs, cores)
    times = np.ones(len(counts), np.int64)
    for _ in range(min(copies, len(expert))):  # more copies than items would stand idle
        times[np.argmax(counts / times)] += 1
    first = np.cumsum(times) - times
    owner = _owners(name, np.repeat(counts / times, times), cores)
    turn = np.zeros(len(expert), np.int64)  # of an item among those of its expert
    for e in np.unique(expert):
        mine = np.flatnonzero(expert == e)
        turn[mine] = np.arange(len(mine))
    core = owner[first[expert] + turn % times[expert]]
    order = np.argsort(core, kind="stable")
    return Schedule(order.astype(np.int64), np.searchsorted(core[order], np.arange(cores + 1)).astype(np.int64))


def _owners(name: str, load: Array, cores: int) -> Array:
    """Return the core of every copy of an expert."""
    if name == "pinned":
        return np.arange(len(load)) % cores
    shares = schedule("balanced", np.ceil(load).astype(np.int64), cores)
    owner = np.empty(len(load), np.int64)
    owner[shares.order] = np.repeat(np.arange(cores), np.diff(shares.start))
    return owner
