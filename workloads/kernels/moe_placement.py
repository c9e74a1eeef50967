"""Placement of experts: which core runs an expert, and where its weights lie, with copies of the hot ones.

With `pinned`, expert e belongs to core e modulo the cores, as experts are dealt to the ranks of expert parallelism;
`pinned-balanced` gives the expert with the most tokens to the core with the fewest so far. Copies go, one by one, to
the expert with the most tokens per copy (as EPLB of DeepSeek does), and copies of one expert share its tiles. The other
schedules know no owners: any core may take any tile.

Weights lie over all of memory, or every copy in one place. Of those `in stacks`, copy i is in stack i modulo the
stacks; those `in cores` are in the SRAM beside their owners (by the rule of `pinned` where the schedule knows none), on
machines where that is a core's own. Copies then are copies in memory, too: the axis of experts has a seat for each, and
empty ones where cores have fewer than the fullest.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hwmodel.machine import Machine
from hwmodel.program import Schedule, Tensor
from workloads.placement import Interleaved, Partitioned, place, place_as
from workloads.schedule import SCHEDULES, beside, schedule

PINNED = ("pinned", "pinned-balanced")
PLACEMENTS = (*SCHEDULES, *PINNED)
WEIGHTS: dict[str, Literal["stack", "core"] | None] = {"interleaved": None, "stacks": "stack", "cores": "core"}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Homes:
    """Where experts live: of all copies, those of expert 0 first, the core that owns each and its seat in the weights.

    `times`: the copies of every expert, at least 1. `seats`: the extent of the weights' axis of experts.
    """

    times: Array
    owner: Array
    seat: Array
    seats: int

    def copies(self, expert: Array) -> Array:
        """Return the copy that each item takes, by the items' experts: those of one expert take its copies in turn."""
        order = np.argsort(expert, kind="stable")
        turn = np.empty(len(expert), np.int64)  # of an item among those of its expert
        turn[order] = np.arange(len(expert)) - np.searchsorted(expert[order], expert[order])
        found: Array = (np.cumsum(self.times) - self.times)[expert] + turn % self.times[expert]
        return found


def homes_of(name: str, weights: str, counts: Array, copies: int, machine: Machine) -> Homes:
    """Return where experts with `counts` tokens live under a schedule, their weights placed as one of WEIGHTS.

    `copies` are those beyond one of each; schedules that know no owners make none. Raises ValueError for more of them
    than one of every expert for every core.
    """
    cores, times = machine.spec.cores.count, np.ones(len(counts), np.int64)
    most = len(counts) * cores
    if name in PINNED and copies > most:
        raise ValueError(
            f"copies: {copies}; allowed: up to {most}, one of {len(counts)} experts for each of {cores} cores"
        )
    for _ in range(min(copies, int(counts.sum())) if name in PINNED else 0):  # more copies than rows would stand idle
        times[np.argmax(counts / times)] += 1
    owner = _owners(name, np.repeat(counts / times, times), cores)
    if weights == "interleaved":
        return Homes(times, owner, np.repeat(np.arange(len(counts)), times), len(counts))
    if weights == "stacks":
        stacks = machine.address_map.sizes[0]
        return Homes(times, owner, np.arange(len(owner)), -(-len(owner) // stacks) * stacks)
    order = np.argsort(owner, kind="stable")
    rank = np.empty(len(owner), np.int64)  # of a copy among those of its core
    rank[order] = np.arange(len(owner)) - np.searchsorted(owner[order], owner[order])
    return Homes(times, owner, rank * cores + owner, int(rank.max() + 1) * cores)


def place_weights(
    tensors: Sequence[Tensor], names: Collection[str], weights: str, machine: Machine
) -> tuple[Tensor, ...]:
    """Return the tensors placed: those with these `names` by their axis "expert" as one of WEIGHTS, others anywhere.

    Raises ValueError naming the knob, the tensor, and what the placement cannot have.
    """
    field = WEIGHTS[weights]
    if field is None:
        return place(tensors, machine)
    there = Partitioned("expert", field, "cyclic")
    try:
        return place_as(tensors, [there if t.name in names else Interleaved() for t in tensors], machine)
    except ValueError as error:
        raise ValueError(f"placement: {weights}: {error}") from None


def place_experts(name: str, expert: Array, costs: Array, homes: Homes, cores: int) -> Schedule:
    """Return the schedule of items: `expert` and cost of each. ValueError for an unknown name."""
    if name not in PINNED:
        return schedule(name, costs, cores)
    return beside(homes.owner[homes.copies(expert)], cores)


def _owners(name: str, load: Array, cores: int) -> Array:
    """Return the core of every copy of an expert."""
    if name != "pinned-balanced":
        return np.arange(len(load)) % cores
    shares = schedule("balanced", np.ceil(load).astype(np.int64), cores)
    owner = np.empty(len(load), np.int64)
    owner[shares.order] = np.repeat(np.arange(cores), np.diff(shares.start))
    return owner
