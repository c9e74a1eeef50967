"""Replaying an address trace on one channel: an in-order source that offers accesses until one is refused."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.compiled import compiled
from hwmodel.dram import state as k
from hwmodel.dram.controller import Dram
from hwmodel.dram.intake import offer
from hwmodel.dram.state import DramState, memory_of

Array = np.ndarray[Any, Any]
CHUNK = 512


@compiled
def _feed(
    state: DramState, addresses: Array, writes: Array, first: int, stop: int, parts: int, step: int, gap: int
) -> None:
    m = memory_of(state)
    for i in range(first, stop):
        for part in range(parts):
            offer(m, state.words, addresses[i] + part * step, 1, -1, 1 if writes[i] else 0, i * gap)


def replay(dram: Dram, addresses: Array, writes: Array, access_bytes: int, gap_ticks: int = 0) -> int:
    burst_bytes = dram.organisation.burst_bytes
    parts = access_bytes // burst_bytes
    scalars = dram.state.scalars
    scalars[k.REPLAYING] = 1
    n = len(addresses)
    dram.reserve(2 * CHUNK * parts)
    first = 0
    while True:
        stop = min(n, first + CHUNK)
        _feed(dram.state, addresses, writes, first, stop, parts, burst_bytes, gap_ticks)
        first = stop
        scalars[k.MORE] = first < n
        status = dram._run(k.NEVER, 1)
        if status != k.STARVED:
            break
    return int(dram.state.channels[:, k.LAST_DONE].max())
