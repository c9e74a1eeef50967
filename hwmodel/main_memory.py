"""Main memory behind the memory side: what takes bursts and says when they are done.

DRAM channels take them into their queues, and it is known later, when these have been advanced, when each was done.
`SramMemory` is SRAM spread over the chip: slices of bandwidth behind a constant latency, whose answer is
known at once; bank conflicts within a slice are not modelled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.compiled import compiled
from hwmodel.dram.controller import Dram, enqueue_bursts, open_request
from hwmodel.dram.state import BURSTS_LEFT, REQUESTS_LEFT, DramState
from hwmodel.slices import Slices
from hwmodel.spec import DistributedSramSpec

Array = np.ndarray[Any, Any]
ORDER, WHOSE, IS_WRITE, FIRST, STOP, TICK = range(6)  # of a send: bursts[first:stop] as one request at a tick
SEND_FIELDS = TICK + 1


@compiled
def _submit(state: DramState, sends: Array, position: int, bursts: Array, submissions: Array) -> int:
    """Open a request for every send from a position on, and enqueue its bursts; return where there is no more room.

    What a request with a number is for is kept: submissions[number] = (order, whose).
    """
    for at in range(position, len(sends)):
        first, stop = sends[at, FIRST], sends[at, STOP]
        if min(state.scalars[BURSTS_LEFT], state.scalars[REQUESTS_LEFT]) < stop - first:
            return at
        number = open_request(state, stop - first)
        enqueue_bursts(state, bursts, first, stop, number, sends[at, IS_WRITE], sends[at, TICK])
        submissions[number, 0], submissions[number, 1] = sends[at, ORDER], sends[at, WHOSE]
    return len(sends)


class DramMemory:
    """The DRAM channels; of a request its place in the order of submission is kept, and whose it is."""

    def __init__(self, dram: Dram) -> None:
        self.dram = dram
        self.submissions = np.zeros((len(dram.state.requests), 2), np.int64)  # by request

    def submit(self, sends: Array, bursts: Array) -> None:
        """Offer requests, int64[n, 6] as named above, whose ticks do not decrease."""
        position = _submit(self.dram.state, sends, 0, bursts, self.submissions)
        while position < len(sends):
            self.dram.reserve(int(sends[position, STOP] - sends[position, FIRST]))
            more = len(self.dram.state.requests) - len(self.submissions)
            self.submissions = np.pad(self.submissions, ((0, more), (0, 0)))
            position = _submit(self.dram.state, sends, position, bursts, self.submissions)


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
