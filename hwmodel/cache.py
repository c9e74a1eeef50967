"""The shared cache: sectored lines in slices, least recently used replaced, written back when a dirty line leaves.

It stands between the network and main memory and is driven request by request: `access` looks up every line that a
request touches and says what to fetch, what to write back and which fetches of others to wait for; `fill` makes fetched
data valid; `serve` passes a request's bytes through the slices. What is reused, within a core and between cores, and
what is lost to capacity comes out of the tags. A line is looked up, replaced and tracked while outstanding as a whole;
a sector is what a miss fetches; presence is kept per burst, so that a store needs no fetch.

A line lies in the slice that `slices` deals it to, and in a set of that slice that is found alike. Compiled; work is
per line touched, and an untouched set costs nothing.

Not modelled: bandwidth of fills and write-backs into the slices, copies of a line in several partitions, and a port
per slice for tags (a lookup takes no time of its own: it lies in the network's latency).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwmodel.compiled import compiled, inlined
from hwmodel.slices import Slices, fold, shift
from hwmodel.spec import SharedCacheSpec
from hwmodel.traffic import LevelTraffic

Array = np.ndarray[Any, Any]

(
    BURST_BYTES,
    BURST_SHIFT,
    LINE_BYTES,
    LINE_SHIFT,
    LINE_BURSTS,
    SECTOR_BURSTS,
    SLICES,
    SETS,
    WAYS,
    MSHRS,
    CLOCK,
    OUTSTANDING,
    FETCHED,
    FILLED,
    EVICTED,
    AWAITED,
    HITS,
    MISSES,
    MERGED,
    STORED,
    ALL_FETCHED,
    ALL_EVICTED,
    ROW,
) = range(23)
COUNTS = ROW + 1
RUN = 1024  # assumed: lines of an older stream that are stored and loaded in turn, 128 KiB as by a wave of items
VALID, DIRTY, PENDING, FETCHES = range(4)  # of a line's row: masks of bursts, then the fetch of each sector


class CacheState(NamedTuple):
    """The arrays on which the compiled functions work; the counts of the last access lie in `scalars`."""

    scalars: Array
    sets: Array  # [slice x set] side by side, as a lookup reads them: per way line + 1, when it was last used, a row
    fetched: Array  # addresses of bursts to read from memory
    filled: Array  # [line, (row, mask)] of what those reads will make valid
    evicted: Array  # addresses of bursts to write to memory
    awaited: Array  # numbers of earlier fetches that the request needs too


def no_cache() -> CacheState:
    """Return what stands for a cache where there is none."""
    empty, pairs = np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
    return CacheState(np.zeros(COUNTS, np.int64), empty, empty, pairs, empty, empty)


@inlined
def _quotient(number: int, divisor: int, shift: int) -> int:
    """Return number // divisor; `shift` is its logarithm, or -1."""
    return int(number >> shift if shift >= 0 else number // divisor)


@inlined
def _set_of(scalars: Array, line: int) -> int:
    """Return where the set begins in which a line may lie."""
    inner = line // scalars[SLICES]
    here = fold(line, scalars[SLICES]) * scalars[SETS] + fold(inner, scalars[SETS])
    return int(here * scalars[WAYS] * (2 + scalars[ROW]))


@inlined
def _find(state: CacheState, first: int, line: int) -> int:
    """Return the way of a line in the set that begins at `first`, or -1."""
    for way in range(state.scalars[WAYS]):
        if state.sets[first + way] == line + 1:
            return way
    return -1


@inlined
def _allocate(state: CacheState, first: int, line: int) -> int:
    """Return a way for a line in its set, after putting its last line's dirty bursts to `evicted`; -1 if all wait."""
    scalars, sets = state.scalars, state.sets
    stamps, rows = first + scalars[WAYS], first + 2 * scalars[WAYS]
    victim, oldest = -1, np.int64(2**62)
    for way in range(scalars[WAYS]):
        if sets[stamps + way] < oldest and sets[rows + way * scalars[ROW] + PENDING] == 0:
            victim, oldest = way, sets[stamps + way]
    if victim < 0:
        return -1
    row = rows + victim * scalars[ROW]
    dirty, burst = sets[row + DIRTY], (sets[first + victim] - 1) * scalars[LINE_BURSTS]
    while dirty:
        if dirty & 1:
            state.evicted[scalars[EVICTED]] = burst * scalars[BURST_BYTES]
            scalars[EVICTED] += 1
            scalars[ALL_EVICTED] += 1
        dirty >>= 1
        burst += 1
    sets[first + victim] = line + 1
    sets[row + VALID] = sets[row + DIRTY] = 0
    return victim


@inlined
def _ones(mask: int) -> int:
    count = 0
    while mask:
        mask &= mask - 1
        count += 1
    return count


@inlined
def _load(state: CacheState, row: int, line: int, touched: int, fetch: int) -> None:
    """Count hits, merges and misses of a line's bursts; ask for the sectors that are missing."""
    scalars, sets = state.scalars, state.sets
    valid, pending = sets[row + VALID], sets[row + PENDING]
    merged = touched & pending & ~valid
    missing = touched & ~(valid | pending)
    scalars[HITS] += _ones(touched & valid)
    scalars[MERGED] += _ones(merged)
    scalars[MISSES] += _ones(missing)
    if merged | missing == 0:
        return
    asked, here = 0, (1 << scalars[SECTOR_BURSTS]) - 1
    for at in range(row + FETCHES, row + scalars[ROW]):
        if merged & here and sets[at] != fetch:
            state.awaited[scalars[AWAITED]] = sets[at]
            scalars[AWAITED] += 1
        if missing & here:
            asked |= here & ~(valid | pending)
            sets[at] = fetch
        here <<= scalars[SECTOR_BURSTS]
    if asked == 0:
        return
    scalars[OUTSTANDING] += pending == 0
    sets[row + PENDING] |= asked
    state.filled[scalars[FILLED], 0], state.filled[scalars[FILLED], 1] = row, asked
    scalars[FILLED] += 1
    address = line * scalars[LINE_BYTES]
    while asked:
        if asked & 1:
            state.fetched[scalars[FETCHED]] = address
            scalars[FETCHED] += 1
            scalars[ALL_FETCHED] += 1
        asked >>= 1
        address += scalars[BURST_BYTES]


@compiled
def is_crowded(scalars: Array, bursts: int) -> bool:
    """Return whether a load of so many bursts must wait at the cache's entry, because too few misses are free for it.

    Assumed, without a source: a load enters as a whole or not at all. It is taken to need as many misses as its bursts
    fill lines, whether they would hit or not, or half of all where that is more; bursts that lie scattered over more
    lines may still stop half way, in `access`. Requests enter in order, so what comes behind waits with it, hits and
    stores too. Without the rule a load would send its first misses as soon as one is free: the rule changes times and
    the order of fetches of a machine whose misses run out, and nothing where they do not.
    """
    lines = -(-bursts // scalars[LINE_BURSTS])
    return bool(scalars[OUTSTANDING] + min(lines, scalars[MSHRS] // 2) > scalars[MSHRS])


@compiled
def access(state: CacheState, bursts: Array, first: int, stop: int, is_write: bool, fetch: int) -> int:
    """Look up bursts[first:stop] for one request; return the position reached, less than `stop` if it must wait.

    It must wait where no outstanding miss is free, or where every line of a set is outstanding. What is to be read from
    memory belongs to the number `fetch`, which no fetch under way has. Room must have been reserved.
    """
    scalars, sets = state.scalars, state.sets
    scalars[FETCHED] = scalars[FILLED] = scalars[EVICTED] = scalars[AWAITED] = 0
    line_bytes = scalars[LINE_BYTES]
    at = first
    while at < stop:
        start, touched, count = at, 0, 0
        line = _quotient(bursts[at], line_bytes, scalars[LINE_SHIFT])
        base = line * line_bytes
        while at < stop and 0 <= bursts[at] - base < line_bytes:
            bit = 1 << _quotient(bursts[at] - base, scalars[BURST_BYTES], scalars[BURST_SHIFT])
            if touched & bit:  # the same burst again counts again
                break
            touched |= bit
            count += 1
            at += 1
        here = _set_of(scalars, line)
        way = _find(state, here, line)
        row = here + 2 * scalars[WAYS] + way * scalars[ROW]
        if (
            not is_write
            and scalars[OUTSTANDING] >= scalars[MSHRS]
            and (way < 0 or (sets[row + PENDING] == 0 and touched & ~sets[row + VALID]))
        ):
            return int(start)
        if way < 0:
            way = _allocate(state, here, line)
            if way < 0:
                return int(start)
            row = here + 2 * scalars[WAYS] + way * scalars[ROW]
        scalars[CLOCK] += 1
        sets[here + scalars[WAYS] + way] = scalars[CLOCK]
        if is_write:
            sets[row + VALID] |= touched
            sets[row + DIRTY] |= touched
            scalars[STORED] += count
        else:
            _load(state, row, line, touched, fetch)
    return int(stop)


@compiled
def fill(state: CacheState, filled: Array, lines: int) -> None:
    """Make valid what a fetch brought: filled[:lines] = (row, mask)."""
    sets = state.sets
    for i in range(lines):
        row = filled[i, 0]
        sets[row + PENDING] &= ~filled[i, 1]
        sets[row + VALID] |= filled[i, 1]
        state.scalars[OUTSTANDING] -= sets[row + PENDING] == 0


@compiled
def _hold(state: CacheState, first: int, stop: int) -> None:
    """Put the clean bursts of these numbers into the cache, least recently used first; of their lines no others."""
    scalars = state.scalars
    bursts = scalars[LINE_BURSTS]
    for line in range(first // bursts, -(-stop // bursts)):
        here = _set_of(scalars, line)
        way = _find(state, here, line)
        if way < 0:
            way = _allocate(state, here, line)
            scalars[EVICTED] = scalars[ALL_EVICTED] = 0  # was written before the run begins
        scalars[CLOCK] += 1
        state.sets[here + scalars[WAYS] + way] = scalars[CLOCK]
        row = here + 2 * scalars[WAYS] + way * scalars[ROW]
        begin, end = max(first - line * bursts, 0), min(stop - line * bursts, bursts)
        state.sets[row + VALID] |= (1 << end) - (1 << begin)


@compiled
def _age(state: CacheState, first: int, stored_lines: int) -> None:
    """Fill an empty cache with the lines from number `first` on, least recently used first.

    Of every RUN lines the first `stored_lines` are dirty. `first` is a multiple of slices x sets, so that as many lines
    take one way of each set.
    """
    scalars = state.scalars
    block = scalars[SLICES] * scalars[SETS]
    everything = (1 << scalars[LINE_BURSTS]) - 1
    for way in range(scalars[WAYS]):
        for line in range(first + way * block, first + (way + 1) * block):
            here = _set_of(scalars, line)
            scalars[CLOCK] += 1
            state.sets[here + way] = line + 1
            state.sets[here + scalars[WAYS] + way] = scalars[CLOCK]
            row = here + 2 * scalars[WAYS] + way * scalars[ROW]
            state.sets[row + VALID] = everything
            state.sets[row + DIRTY] = everything if line % RUN < stored_lines else 0


class SharedCache:
    """The cache of a machine, in front of a memory of bursts of `burst_bytes`; empty at first.

    `machine.check_cache` says whether its numbers fit each other.
    """

    def __init__(self, spec: SharedCacheSpec, burst_bytes: int) -> None:
        line_bursts, sector_bursts = spec.line // burst_bytes, spec.sector // burst_bytes
        scalars = np.zeros(COUNTS, np.int64)
        scalars[BURST_BYTES], scalars[LINE_BURSTS], scalars[SECTOR_BURSTS] = burst_bytes, line_bursts, sector_bursts
        scalars[LINE_BYTES], scalars[LINE_SHIFT], scalars[BURST_SHIFT] = spec.line, shift(spec.line), shift(burst_bytes)
        scalars[SLICES], scalars[WAYS], scalars[MSHRS] = spec.slices, spec.ways, spec.outstanding_misses
        scalars[ROW] = FETCHES + line_bursts // sector_bursts
        scalars[SETS] = spec.capacity // (spec.slices * spec.ways * spec.line)
        self._burst_bytes = burst_bytes
        self._fetches = 0
        self.slices = Slices(spec.slices, spec.line, burst_bytes, spec.bandwidth)
        empty, lines = np.zeros(0, np.int64), spec.capacity // spec.line
        self.state = CacheState(
            scalars=scalars,
            sets=np.zeros(lines * (2 + int(scalars[ROW])), np.int64),
            fetched=empty,
            filled=np.zeros((0, 2), np.int64),
            evicted=empty,
            awaited=empty,
        )
        self.reserve(64)

    def reserve(self, bursts: int) -> None:
        """Make room for requests of so many bursts."""
        line = int(self.state.scalars[LINE_BURSTS])
        self.state = self.state._replace(
            fetched=np.zeros(bursts * line, np.int64),
            filled=np.zeros((bursts, 2), np.int64),
            evicted=np.zeros(bursts * line, np.int64),
            awaited=np.zeros(bursts * line, np.int64),
        )

    def access(self, bursts: Array, first: int, stop: int, is_write: bool) -> Access:
        """Look up bursts[first:stop] for one request; see `access` above."""
        if stop - first > len(self.state.filled):
            self.reserve(2 * (stop - first))
        state, scalars = self.state, self.state.scalars
        self._fetches += 1
        reached = access(state, bursts, first, stop, is_write, self._fetches)
        return Access(
            reached,
            self._fetches,
            state.fetched[: scalars[FETCHED]].copy(),
            state.filled[: scalars[FILLED]].copy(),
            state.evicted[: scalars[EVICTED]].copy(),
            set(state.awaited[: scalars[AWAITED]].tolist()),
        )

    def fill(self, filled: Array) -> None:
        """Make valid what a fetch brought."""
        fill(self.state, filled, len(filled))

    def serve(self, bursts: Array, first: int, stop: int, now_fs: int) -> int:
        """Pass the bytes of a request through the slices; return when the last has passed."""
        return self.slices.serve(bursts, first, stop, now_fs)

    def hold(self, base_bytes: int, size_bytes: int) -> None:
        """Put the bursts of a range of addresses into the cache, as if they had just been read."""
        _hold(self.state, base_bytes // self._burst_bytes, -(-(base_bytes + size_bytes) // self._burst_bytes))

    def age(self, base_bytes: int, stores: float) -> None:
        """Fill an empty cache with what a stream from `base_bytes` on has left, of which the part `stores` is dirty."""
        scalars = self.state.scalars
        block = int(scalars[SLICES] * scalars[SETS])
        first = -(-base_bytes // (int(scalars[LINE_BYTES]) * block)) * block
        _age(self.state, first, round(RUN * stores))

    @property
    def busy_fs(self) -> int:
        """For how long the bandwidth of all slices would have been in use."""
        return self.slices.busy_fs

    def traffic(self) -> LevelTraffic:
        """Return the bytes so far."""
        scalars = self.state.scalars
        hits, misses, merged, stored = (int(scalars[i]) for i in (HITS, MISSES, MERGED, STORED))
        fetched, written_back = int(scalars[ALL_FETCHED]), int(scalars[ALL_EVICTED])
        rows = self.state.sets.reshape(-1, scalars[WAYS] * (2 + scalars[ROW]))[:, 2 * scalars[WAYS] :]
        dirty = int(np.bitwise_count(rows.reshape(len(rows), -1, scalars[ROW])[:, :, DIRTY]).sum())
        asked = hits + misses + merged + stored
        counts = asked, hits, misses, merged, stored, fetched, written_back, dirty
        return LevelTraffic(*(bursts * self._burst_bytes for bursts in counts))


class Access(NamedTuple):
    """The outcome of a lookup: how far it came, and what must happen for it."""

    reached: int
    fetch: int  # the number of what is fetched for it
    fetched: Array  # burst addresses to read
    filled: Array  # for `fill`, when they have come
    evicted: Array  # burst addresses to write
    awaited: set[int]  # earlier fetches that it needs too
