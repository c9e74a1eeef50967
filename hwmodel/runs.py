"""Addresses of bursts as runs, and int64 tables as compiled code reaches them: by pointers.

What a request asks for travels from the DMA engine through the shared cache to main memory as runs of neighbouring
bursts, two words each: the first address, and how many. A list of runs is `Row`, a pointer, and a number of runs.
Arrays would be passed along with counts of their references, which cost more than a lookup in the cache. The scalars of
a component hold the addresses of its tables; `tie` puts them there, and must again when a table is replaced.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.compiled import compiled, inlined
from hwmodel.intrinsics import Row, pointer, row_at

Array = np.ndarray[Any, Any]

BEGIN, BURSTS, RUN_WORDS = range(3)


def tie(scalars: Array, first: int, *tables: Array) -> None:
    """Write the addresses of tables, which must be contiguous, to the scalars from a place on."""
    scalars[first : first + len(tables)] = [table.ctypes.data for table in tables]


@inlined
def append(runs: Row, count: int, address: int, bursts: int, burst_bytes: int) -> int:
    """Put neighbouring bursts behind `count` runs, into the last one where they go on; return how many there are."""
    last = row_at(runs, (count - 1) * RUN_WORDS)
    if count != 0 and last[BEGIN] + last[BURSTS] * burst_bytes == address:
        last[BURSTS] += bursts
        return count
    row = row_at(runs, count * RUN_WORDS)
    row[BEGIN], row[BURSTS] = address, bursts
    return count + 1


@inlined
def copy(to: Row, runs: Row, count: int) -> None:
    """Copy runs."""
    for word in range(count * RUN_WORDS):
        to[word] = runs[word]


@compiled
def gather(bursts: Array, first: int, stop: int, burst_bytes: int, to: Array) -> int:
    """Write the runs of bursts[first:stop], as long as they can be; return how many there are."""
    runs, count = pointer(to), 0
    for at in range(first, stop):
        count = append(runs, count, bursts[at], 1, burst_bytes)
    return count


def runs_of(bursts: Array, first: int, stop: int, burst_bytes: int) -> Array:
    """Return the runs of bursts[first:stop], int64[n, 2]."""
    found = np.empty((stop - first, RUN_WORDS), np.int64)
    return found[: gather(bursts, first, stop, burst_bytes, found.reshape(-1))]


def bursts_of(runs: Array, burst_bytes: int) -> Array:
    """Return the addresses of the bursts of runs, in order."""
    counts = runs[:, BURSTS]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    found: Array = np.repeat(runs[:, BEGIN], counts) + within * burst_bytes
    return found
