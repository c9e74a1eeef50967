"""Main memory as the memory side sees it: takes bursts at a time to come and says when they are done.

`DramMemory` puts them into the queues of the compiled channels and learns later, when these have been advanced, when
each was done. `SramMemory` is SRAM spread over the chip: slices of bandwidth behind a constant latency, whose answer is
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


@compiled
def _submit(state: DramState, bursts: Any, first: int, stop: int, is_write: bool, tick: int) -> int:
    """Open a request and enqueue its bursts; return its number, or -1 where there is no room."""
    if min(state.scalars[BURSTS_LEFT], state.scalars[REQUESTS_LEFT]) < stop - first:
        return -1
    request: int = open_request(state, stop - first)
    enqueue_bursts(state, bursts, first, stop, request, is_write, tick)
    return request


def submit(dram: Dram, bursts: Array, first: int, stop: int, is_write: bool, tick: int) -> int:
    """Offer bursts[first:stop] as one request at a tick; return the request's number, which is recycled later."""
    number = _submit(dram.state, bursts, first, stop, is_write, tick)
    if number < 0:
        dram.reserve(stop - first)
        number = _submit(dram.state, bursts, first, stop, is_write, tick)
    return int(number)


class SramMemory:
    """SRAM in slices; every access takes the latency and its slices' time."""

    def __init__(self, spec: DistributedSramSpec) -> None:
        self._latency_fs = spec.latency
        self._access_bytes = spec.access
        self._slices = Slices(spec.slices, spec.interleave, spec.access, spec.bandwidth)
        self.accesses = 0

    def serve(self, bursts: Array, first: int, stop: int, now_fs: int) -> int:
        """Return when bursts[first:stop], which arrive at `now_fs`, are done. In order of time."""
        self.accesses += stop - first
        return self._slices.serve(bursts, first, stop, now_fs) + self._latency_fs

    @property
    def moved_bytes(self) -> int:
        return self.accesses * self._access_bytes
