"""Main memory behind the memory side: what takes bursts and says when they are done.

DRAM channels take them into their queues, and it is known later, when these have been advanced, when each was done.
`SramMemory` is SRAM spread over the chip: slices of bandwidth behind a constant latency, whose answer is
known at once; bank conflicts within a slice are not modelled.
"""

from __future__ import annotations

import numpy as np

from hwmodel.compiled import compiled
from hwmodel.description import DistributedSramSpec
from hwmodel.dram.controller import Dram, enqueue_bursts, enqueue_runs, open_request
from hwmodel.dram.state import BURSTS_LEFT, REQUESTS_LEFT, DramState
from hwmodel.runs import Array
from hwmodel.slices import Slices

ORDER, WHOSE, IS_WRITE, FIRST, STOP, TICK, BURSTS = range(7)  # of a send: runs[first:stop] as one request at a tick
SEND_FIELDS = BURSTS + 1


@compiled
def _submit(state: DramState, sends: Array, position: int, runs: Array, submissions: Array) -> int:
    """Open a request for every send from a position on, and enqueue its runs; return where there is no more room.

    What a request with a number is for is kept: submissions[number] = (order, whose).
    """
    for at in range(position, len(sends)):
        bursts = sends[at, BURSTS]
        if min(state.scalars[BURSTS_LEFT], state.scalars[REQUESTS_LEFT]) < bursts:
            return at
        number = open_request(state, bursts)
        enqueue_runs(state, runs, sends[at, FIRST], sends[at, STOP], number, sends[at, IS_WRITE], sends[at, TICK])
        submissions[number, 0], submissions[number, 1] = sends[at, ORDER], sends[at, WHOSE]
    return len(sends)


class DramMemory:
    """The DRAM channels; of a request its place in the order of submission is kept, and whose it is."""

    def __init__(self, dram: Dram) -> None:
        self.dram = dram
        self.submissions = np.zeros((len(dram.state.requests), 2), np.int64)  # by request

    def submit(self, sends: Array, runs: Array) -> None:
        """Offer requests, int64[n, 7] as named above, whose ticks do not decrease; `runs` int64[n, 2]."""
        position = _submit(self.dram.state, sends, 0, runs, self.submissions)
        while position < len(sends):
            self.dram.reserve(int(sends[position, BURSTS]))
            more = len(self.dram.state.requests) - len(self.submissions)
            self.submissions = np.pad(self.submissions, ((0, more), (0, 0)))
            position = _submit(self.dram.state, sends, position, runs, self.submissions)


def submit(dram: Dram, bursts: Array, first: int, stop: int, is_write: bool, tick: int) -> int:
    """Offer bursts[first:stop] as one request at a tick; return the request's number, which is recycled later."""
    dram.reserve(stop - first)
    request = dram.open_request(stop - first)
    enqueue_bursts(dram.state, bursts, first, stop, request, is_write, tick)
    return request


class SramMemory:
    """SRAM in slices; every access takes the latency and its slices' time."""

    def __init__(self, spec: DistributedSramSpec) -> None:
        self.latency_fs = spec.latency
        self.slices = Slices(spec.slices, spec.interleave, spec.access, spec.bandwidth, in_turn=bool(spec.local))
        self._access_bytes = spec.access
        self._line_bytes, self._count = spec.interleave, spec.slices

    def holds(self, number: int, bursts: Array) -> bool:
        """Return whether the bursts at these addresses all lie in one of the slices, which are dealt in turn."""
        return bool((bursts // self._line_bytes % self._count == number).all())

    @property
    def moved_bytes(self) -> int:
        return self.slices.bursts * self._access_bytes
