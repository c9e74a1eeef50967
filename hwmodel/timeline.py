"""What happened when in a run: what every unit of every core did, who waited for whom, and counts over time.

Recorded by `hwmodel.recorder` from a run of the reference; drawn by `explorer.perfetto`. Times are integers of
femtoseconds since the start of the run. The spans of a unit follow one another without overlap, and those of a cause
add up to what `Result.stalls` has of it, for all cores of a kind of unit together, to the femtosecond.

Not kept: time that a unit has no work or waits for a launch (it is what is between spans), the way of a request
through network, caches and banks, and what an instruction computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

USEFUL = "useful"
GB_PER_SECOND = 10**6  # bytes per femtosecond
MOST_BINS = 500  # assumed: what a reader can tell apart on a screen


class Span(NamedTuple):
    """A part of a unit's time with one cause, "useful" or what it waited for; `execution` is a place in `executions`.

    What a DMA engine waits for after its last instruction, its last requests, belongs to that instruction.
    """

    core: int
    queue: int
    cause: str
    from_fs: int
    to_fs: int
    execution: int


class Request(NamedTuple):
    """A memory request of a DMA engine for an execution, from its issue until it was complete."""

    core: int
    queue: int
    execution: int
    from_fs: int
    to_fs: int


@dataclass(frozen=True, slots=True)
class Execution:
    """An instruction that a unit executed: its name, the blocks (buffer[slot]) it names, and its sizes or its region.

    `done_fs` is when it was complete and its counters were raised: of a load when its data was in the scratchpad.
    """

    core: int
    queue: int
    name: str
    blocks: tuple[str, ...]
    of: str
    done_fs: int


@dataclass(frozen=True)
class PhaseSpan:
    """A phase: its launch from `from_fs` to `launched_fs`, its work to `to_fs`."""

    name: str
    from_fs: int
    launched_fs: int
    to_fs: int


@dataclass(frozen=True)
class Steps:
    """A count over time, of one core or of all (`core` -1): values[i] from times_fs[i] on, 0 before and at the end."""

    core: int
    name: str
    times_fs: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Timeline:
    """A run.

    `links` lead from an execution to one that first needed the counter of data that it raised, by their places;
    `releases` from the one that raised a counter of data or of free buffers last before another could go on.
    """

    program: str
    machine: str
    program_hash: str
    machine_hash: str
    makespan_fs: int
    cores: int
    phases: tuple[PhaseSpan, ...]
    executions: tuple[Execution, ...]
    spans: tuple[Span, ...]
    links: tuple[tuple[int, int], ...]
    releases: tuple[tuple[int, int], ...]
    requests: tuple[Request, ...]
    counts: tuple[Steps, ...]


def round_fs(least_fs: int) -> int:
    """Return the smallest of 1, 2, 5, 10, ... nanoseconds that is not shorter; whole nanoseconds, as viewers have."""
    width_fs = 10**6
    for factor in _series():
        if width_fs * factor >= least_fs:
            return width_fs * factor
    raise AssertionError


def _series() -> Iterator[int]:
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def stepped(core: int, name: str, changes: Iterable[tuple[int, int]]) -> Steps:
    """Return a count from its changes (time, difference), in order of time; those of one time are one step."""
    merged: dict[int, int] = {}
    for time_fs, change in changes:
        merged[time_fs] = merged.get(time_fs, 0) + change
    kept = [(time_fs, change) for time_fs, change in merged.items() if change]
    return Steps(core, name, tuple(t for t, _ in kept), tuple(accumulate(change for _, change in kept)))


def bandwidth(name: str, times_fs: Sequence[int], sizes_bytes: Sequence[int], makespan_fs: int) -> Steps:
    """Return the GB/s of bytes that moved at some times, in bins of equal width.

    One GB/s for 10**6 femtoseconds is a byte, so that the steps add up to the bytes, of every step a whole number.
    A byte counts in the bin in which it begins; bins begin at 0, and bins alike are one step. The last one is to 0.
    """
    if not times_fs:
        return Steps(-1, name, (), ())
    width_fs = round_fs(makespan_fs // MOST_BINS)
    bins = np.array(times_fs, np.int64) // width_fs
    sums = np.bincount(bins, np.array(sizes_bytes, np.float64)).tolist()  # whole numbers, exact below 2**53
    return _binned(name, width_fs, [size * GB_PER_SECOND / width_fs for size in sums])


def waiting(name: str, arrived_fs: Sequence[int], done_fs: Sequence[int], makespan_fs: int) -> Steps:
    """Return how many of what arrived and was done at some times were between the two: means of bins."""
    width_fs = round_fs(makespan_fs // MOST_BINS)
    edges_fs = np.arange(0, max(done_fs, default=0) + 2 * width_fs, width_fs)
    waited_fs = np.diff(_since(arrived_fs, edges_fs) - _since(done_fs, edges_fs)).tolist()
    return _binned(name, width_fs, [time_fs / width_fs for time_fs in waited_fs])


def _since(times_fs: Sequence[int], now_fs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return how long ago the times are that are over, added up, at each of some moments."""
    earlier = np.sort(np.array(times_fs, np.int64))
    over = np.searchsorted(earlier, now_fs, "right")
    return np.asarray(over * now_fs - np.append(0, np.cumsum(earlier))[over])


def _binned(name: str, width_fs: int, values: list[float]) -> Steps:
    """Return values of bins from 0 on, and 0 after them, as steps; equal ones that follow one another are one."""
    values = [*values, 0.0]
    changes = [i for i, value in enumerate(values) if value != (values[i - 1] if i else 0)]
    return Steps(-1, name, tuple(i * width_fs for i in changes), tuple(values[i] for i in changes))


def held(fills: Sequence[int], uses: Sequence[tuple[int, int]], end_fs: int) -> Iterator[tuple[int, int]]:
    """Yield from when to when a block holds data that is still to be used.

    `fills`: when loads into it were complete; `uses`: from when to when instructions used it. What is loaded is held
    until the last use before the next load; what nobody uses until that, or until the end.
    """
    events = sorted([(time_fs, 0, time_fs) for time_fs in fills] + [(begin, 1, done) for begin, done in uses])
    begun = last = None
    for time_fs, is_use, done_fs in events:
        if begun is None:
            begun = None if is_use else time_fs
        elif is_use:
            last = max(last or 0, done_fs)
        elif last is not None:
            yield begun, min(last, time_fs)
            begun, last = time_fs, None
    if begun is not None:
        yield begun, end_fs if last is None else last
