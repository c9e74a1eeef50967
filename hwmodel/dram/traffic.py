"""What an in-order source asks a memory for: accesses written down as runs instead of one by one.

A run is a start, a stride and a direction; a segment is a table of runs of one length, walked with `streams` of them
side by side. A stream is a segment of one long run, copy and triad are two and three runs side by side, a gather is
a segment of many runs, and an arbitrary trace is a segment of runs of one access. Costs of whatever works on traffic
grow with the number of runs, not of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hwmodel.compiled import compiled, inlined

Array = np.ndarray[Any, Any]
LONG_RUN = 2048  # assumed: accesses from which on a run of a trace is worth a segment of its own
MAX_STREAMS = 3  # side by side, as they are recognised in traces
BLOCK = 256  # accesses that are looked at together, without leaving at the first that breaks a run

# Columns of `segments`: the first access, how many, runs side by side, accesses of a run, first row of `runs`
FIRST, ACCESSES, STREAMS, LENGTH, RUNS, SEGMENT_FIELDS = range(6)
START, STRIDE, DIRECTION, RUN_FIELDS = range(4)  # columns of `runs`, in bytes


class Accesses(NamedTuple):
    """Traffic as arrays for compiled code: `segments` int64[n, 5], `runs` int64[n, 3], columns as named above."""

    segments: Array
    runs: Array


@dataclass(frozen=True)
class Traffic:
    """Accesses of `access_bytes` each, in the order of the segments. Build it with the functions of this module."""

    accesses: Accesses
    access_bytes: int

    @property
    def count(self) -> int:
        """How many accesses there are."""
        segments = self.accesses.segments
        return int(segments[-1, FIRST] + segments[-1, ACCESSES]) if len(segments) else 0

    def expand(self) -> tuple[Array, Array]:
        """Return every access: byte addresses int64[n] and whether it is a write bool[n]."""
        addresses, writes = np.empty(self.count, np.int64), np.empty(self.count, np.bool_)
        _expand(self.accesses, addresses, writes)
        return addresses, writes

    def then(self, other: Traffic) -> Traffic:
        """Return this traffic and the other one after it. Raises ValueError for accesses of another size."""
        if self.access_bytes != other.access_bytes:
            raise ValueError(f"traffic: accesses of {self.access_bytes} B and of {other.access_bytes} B")
        segments = other.accesses.segments.copy()
        segments[:, FIRST] += self.count
        segments[:, RUNS] += len(self.accesses.runs)
        parts = (self.accesses.segments, segments), (self.accesses.runs, other.accesses.runs)
        return Traffic(Accesses(*(np.concatenate(part) for part in parts)), self.access_bytes)


def streams(
    starts: Sequence[int], strides: Sequence[int], writes: Sequence[bool], length: int, access_bytes: int = 64
) -> Traffic:
    """Return streams side by side: access j of each, then access j + 1 of each, `length` accesses of each.

    Raises ValueError for lists of different lengths, for no stream, or for a negative length.
    """
    if length < 0:
        raise ValueError(f"streams: length {length}; allowed: 0 or more")
    if not len(starts) == len(strides) == len(writes) or not starts:
        raise ValueError(f"streams: {len(starts)} starts, {len(strides)} strides, {len(writes)} directions")
    runs = np.array(list(zip(starts, strides, writes, strict=True)), np.int64)
    return _one_segment(runs, len(starts), length, access_bytes)


def gather(starts: Array, run_bytes: int, is_write: bool = False, access_bytes: int = 64) -> Traffic:
    """Return contiguous runs of `run_bytes` at the byte addresses `starts`, one after the other.

    Runs that go on where the one before ended, as pages in order do, count as one.
    Raises ValueError for a run that is no multiple of an access.
    """
    if run_bytes < access_bytes or run_bytes % access_bytes:
        raise ValueError(f"gather: runs of {run_bytes} B; allowed: multiples of an access of {access_bytes} B")
    addresses = np.asarray(starts, np.int64)
    firsts = np.flatnonzero(np.diff(addresses, prepend=addresses[:1]) != run_bytes)
    together = np.diff(firsts, append=len(addresses))  # runs that make one
    common = int(np.gcd.reduce(together)) if len(together) else 1
    parts, at, long = [], 0, LONG_RUN * access_bytes
    if common * run_bytes < long:
        for first, count in zip(firsts.tolist(), together.tolist(), strict=True):
            if count * run_bytes >= long:
                parts.append(_runs(addresses[at:first:common], common * run_bytes, is_write, access_bytes))
                parts.append(_runs(addresses[first : first + 1], count * run_bytes, is_write, access_bytes))
                at = first + count
    parts.append(_runs(addresses[at::common], common * run_bytes, is_write, access_bytes))
    return _joined(parts, access_bytes)


def _runs(starts: Array, run_bytes: int, is_write: bool, access_bytes: int) -> Traffic:
    runs = np.stack([starts, np.full_like(starts, access_bytes), np.full_like(starts, is_write)], axis=1)
    return _one_segment(runs, 1, run_bytes // access_bytes, access_bytes)


def trace(addresses: Array, writes: Array, access_bytes: int = 64) -> Traffic:
    """Return the accesses of a trace (byte addresses, whether they write), with its long runs found.

    Up to three streams side by side are recognised, each of LONG_RUN accesses or more.
    """
    addresses, writes = np.asarray(addresses, np.int64), np.asarray(writes, np.bool_)
    parts: list[Traffic] = []
    at = 0
    for start, stop, lag in _long_runs(addresses, writes):
        if start > at:
            parts.append(_plain(addresses[at:start], writes[at:start], access_bytes))
        strides = addresses[start + lag : start + 2 * lag] - addresses[start : start + lag]
        directions = writes[start : start + lag]
        first = addresses[start : start + lag]
        parts.append(
            streams(first.tolist(), strides.tolist(), directions.tolist(), (stop - start) // lag, access_bytes)
        )
        at = stop
    parts.append(_plain(addresses[at:], writes[at:], access_bytes))
    return _joined(parts, access_bytes)


def _long_runs(addresses: Array, writes: Array) -> list[tuple[int, int, int]]:
    """Return (start, stop, streams side by side) of long regular stretches, in order, without overlap."""
    kept: list[tuple[int, int, int]] = []
    for lag in range(1, MAX_STREAMS + 1):  # fewer streams explain more
        if sum(stop - start for start, stop, _ in kept) == len(addresses):
            break
        for start, length in _regular(addresses, writes, lag, LONG_RUN * lag):
            stop = start + length // lag * lag
            if all(stop <= other[0] or start >= other[1] for other in kept):
                kept.append((start, stop, lag))
    return sorted(kept)


@compiled
def _regular(addresses: Array, writes: Array, lag: int, least: int) -> list[tuple[int, int]]:
    """Return (start, length) of the stretches in which every access repeats the one `lag` before, a stride further.

    A stretch of `least` accesses or more is met by looking at one access in that many, less what goes before it.
    """
    found = [(0, 0) for _ in range(0)]
    step = max(1, least - 2 * lag)
    at = end = 2 * lag
    while at < len(addresses):
        if _goes_on(addresses, writes, lag, at):
            first, stop = at, at + 1
            while first > end and _goes_on(addresses, writes, lag, first - 1):
                first -= 1
            while stop + BLOCK <= len(addresses) and _all_go_on(addresses, writes, lag, stop):
                stop += BLOCK
            while stop < len(addresses) and _goes_on(addresses, writes, lag, stop):
                stop += 1
            start = first - 2 * lag
            for i in range(first - lag, first):
                if writes[i] != writes[i - lag]:
                    start = i - lag + 1
            if stop - start >= least:
                found.append((start, stop - start))
            at = end = stop
        at += step
    return found


@compiled
def _all_go_on(addresses: Array, writes: Array, lag: int, start: int) -> bool:
    """Return whether all of a block of accesses go on, as `_goes_on` asks of one; slices let it run in vectors."""
    first, before = start - 2 * lag, start - lag
    a, b, c = addresses[first : first + BLOCK], addresses[before : before + BLOCK], addresses[start : start + BLOCK]
    v, w = writes[before : before + BLOCK], writes[start : start + BLOCK]
    broken = 0
    for i in range(BLOCK):
        broken |= (c[i] - b[i]) ^ (b[i] - a[i])
    differ = False
    for i in range(BLOCK):
        differ |= v[i] ^ w[i]
    return broken == 0 and not differ


@inlined
def _goes_on(addresses: Array, writes: Array, lag: int, i: int) -> bool:
    """Return whether an access is a stride further than the one `lag` before it, as that one was."""
    same = addresses[i] - addresses[i - lag] == addresses[i - lag] - addresses[i - 2 * lag]
    return bool(same and writes[i] == writes[i - lag])


def _plain(addresses: Array, writes: Array, access_bytes: int) -> Traffic:
    runs = np.empty((len(addresses), RUN_FIELDS), np.int64)
    _fill_plain(addresses, writes, runs)
    return _one_segment(runs, 1, 1, access_bytes)


@compiled
def _fill_plain(addresses: Array, writes: Array, runs: Array) -> None:
    for i in range(len(addresses)):
        runs[i, START] = addresses[i]
        runs[i, STRIDE] = 0
        runs[i, DIRECTION] = writes[i]


def _one_segment(runs: Array, side_by_side: int, length: int, access_bytes: int) -> Traffic:
    segments = np.array([[0, len(runs) * length, side_by_side, length, 0]], np.int64)
    return Traffic(Accesses(segments[: 1 if len(runs) * length else 0], runs), access_bytes)


def _joined(parts: list[Traffic], access_bytes: int) -> Traffic:
    """Return the parts one after the other, in one step."""
    parts = [part for part in parts if part.count] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    accesses = np.cumsum([0, *(part.count for part in parts)])
    rows = np.cumsum([0, *(len(part.accesses.runs) for part in parts)])
    shifts = [np.array([first, 0, 0, 0, row]) for first, row in zip(accesses, rows, strict=True)]
    segments = [part.accesses.segments + shift for part, shift in zip(parts, shifts, strict=False)]
    return Traffic(Accesses(np.concatenate(segments), np.concatenate([p.accesses.runs for p in parts])), access_bytes)


@compiled
def _expand(accesses: Accesses, addresses: Array, writes: Array) -> None:
    for segment in range(len(accesses.segments)):
        first = accesses.segments[segment, FIRST]
        for i in range(accesses.segments[segment, ACCESSES]):
            addresses[first + i], is_write = access_at(accesses, segment, i)
            writes[first + i] = is_write != 0


@compiled
def access_at(accesses: Accesses, segment: int, access: int) -> tuple[int, int]:
    """Return (byte address, is_write) of an access of a segment."""
    side_by_side, length = accesses.segments[segment, STREAMS], accesses.segments[segment, LENGTH]
    step, stream = access // side_by_side, access % side_by_side
    run = accesses.segments[segment, RUNS] + step // length * side_by_side + stream
    return accesses.runs[run, START] + step % length * accesses.runs[run, STRIDE], accesses.runs[run, DIRECTION]
