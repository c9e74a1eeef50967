"""The shared cache: sectored lines in slices, least recently used replaced, written back when a dirty line leaves.

It stands between the network and main memory and is driven request by request: `access` looks up every line that a
request touches and says what to fetch, what to write back and which fetches of others to wait for; `fill` makes fetched
data valid; `serve` passes a request's bytes through the slices. What is reused, within a core and between cores, and
what is lost to capacity comes out of the tags. A line is looked up, replaced and tracked while outstanding as a whole;
a sector is what a miss fetches; presence is kept per burst, so that a store needs no fetch.

A line lies in the slice that `hashing` deals it to, and in a set of that slice to which it deals lines alike. Work is
compiled, in `cache_lookup`, and per line touched, and an untouched set costs nothing.

Not modelled: bandwidth of fills and write-backs into the slices, partitions apart (all keep the same lines, so that the
cache holds as much as one of them, `SharedCacheSpec.distinct_bytes`), and a port per slice for tags (a lookup takes no
time of its own: it lies in the network's latency).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hwmodel import cache_lookup as k
from hwmodel.description import SharedCacheSpec
from hwmodel.dram.initial_state import aligned
from hwmodel.hashing import hash_of
from hwmodel.runs import RUN_WORDS, Array, bursts_of, runs_of, tie
from hwmodel.slices import Slices, shift
from hwmodel.traffic import LevelTraffic

MOST_NOTED_BYTES = 1 << 40  # assumed: more than any machine's memory; the bits of what no program touches take no room


class SharedCache:
    """The cache of a machine, in front of a memory of bursts of `burst_bytes`; empty at first.

    It is faster, and no different, where it knows of how many bytes the memory is.
    `machine.check_cache` says whether its numbers fit each other.
    """

    def __init__(self, spec: SharedCacheSpec, burst_bytes: int, memory_bytes: int = 0) -> None:
        self.scalars = m = np.zeros(k.SCALARS, np.int64)
        m[k.BURST_BYTES], m[k.BURST_SHIFT] = burst_bytes, shift(burst_bytes)
        m[k.LINE_BYTES], m[k.LINE_SHIFT] = spec.line, shift(spec.line)
        m[k.LINE_BURSTS], m[k.SECTOR_BURSTS] = spec.line // burst_bytes, spec.sector // burst_bytes
        m[k.LINE_BURSTS_SHIFT] = shift(spec.line // burst_bytes)
        m[k.SECTORS], m[k.SLICES], m[k.WAYS] = spec.line // spec.sector, spec.slices, spec.ways
        m[k.SETS] = spec.distinct_bytes // (spec.slices * spec.ways * spec.line)
        m[k.MSHRS], m[k.FREE_MISS] = spec.outstanding_misses, k.NONE
        self._burst_bytes = burst_bytes
        self._fetches = 0
        self.slices = Slices(spec.slices, spec.line, burst_bytes, spec.bandwidth)
        lines = spec.distinct_bytes // spec.line
        misses = min(spec.outstanding_misses, lines)
        self._sets = aligned(np.zeros((0, k.WAY_WORDS), np.int64), lines)
        m[k.OLDEST_SHIFT] = (max(1, (spec.ways - 1).bit_length()) - 1).bit_length()
        self._oldest = np.zeros((lines // spec.ways << m[k.OLDEST_SHIFT]) // 64 + 1, np.int64)
        m[k.NOTED] = min(memory_bytes, MOST_NOTED_BYTES) // spec.line
        self._held = np.zeros(m[k.NOTED] // 64 + 1, np.int64)
        self._misses = np.zeros(misses, np.int64), np.zeros(misses * (k.FETCHES + int(m[k.SECTORS])), np.int64)
        tie(m, k.SET_WORDS, self._sets, self._oldest, self._held, *self._misses)
        sets, slices = int(m[k.SETS]), spec.slices
        self._hashes = hash_of(slices), hash_of(sets, other=sets == slices)
        tie(m, k.SLICE_HASH, *self._hashes)
        self.reserve(64)

    def reserve(self, bursts: int) -> None:
        """Make room for requests of so many bursts."""
        most = bursts * int(self.scalars[k.LINE_BURSTS])
        self._fetched, self._evicted = (np.zeros((most, RUN_WORDS), np.int64) for _ in range(2))
        self._filled, self._awaited = np.zeros((bursts, 2), np.int64), np.zeros(most, np.int64)
        tie(self.scalars, k.FETCHED_RUNS, self._fetched, self._filled, self._evicted, self._awaited)

    def access(self, bursts: Array, first: int, stop: int, is_write: bool) -> Access:
        """Look up bursts[first:stop] for one request; see `cache_lookup.access`."""
        if stop - first > len(self._filled):
            self.reserve(2 * (stop - first))
        m, runs = self.scalars, runs_of(bursts, first, stop, self._burst_bytes)
        self._fetches += 1
        reached = k.access_of(m, runs.reshape(-1), len(runs), is_write, self._fetches)
        return Access(
            first + reached,
            self._fetches,
            bursts_of(self._fetched[: m[k.FETCHED]], self._burst_bytes),
            self._filled[: m[k.FILLED]].copy(),
            bursts_of(self._evicted[: m[k.EVICTED]], self._burst_bytes),
            set(self._awaited[: m[k.AWAITED]].tolist()),
        )

    def fill(self, filled: Array) -> None:
        """Make valid what a fetch brought."""
        k.fill_of(self.scalars, filled.reshape(-1), len(filled))

    def serve(self, bursts: Array, first: int, stop: int, now_fs: int) -> int:
        """Pass the bytes of a request through the slices; return when the last has passed."""
        return self.slices.serve(bursts, first, stop, now_fs)

    def hold(self, base_bytes: int, size_bytes: int) -> None:
        """Put the bursts of a range of addresses into the cache, as if they had just been read."""
        k.hold(self.scalars, base_bytes // self._burst_bytes, -(-(base_bytes + size_bytes) // self._burst_bytes))

    def age(self, base_bytes: int, stores: float) -> None:
        """Fill an empty cache with what a stream from `base_bytes` on has left, of which the part `stores` is dirty."""
        m = self.scalars
        block = int(m[k.SLICES] * m[k.SETS])
        first = -(-base_bytes // (int(m[k.LINE_BYTES]) * block)) * block
        k.age(m, first, round(k.RUN * stores))

    @property
    def busy_fs(self) -> int:
        """For how long the bandwidth of all slices would have been in use."""
        return self.slices.busy_fs

    def traffic(self) -> LevelTraffic:
        """Return the bytes so far."""
        m = self.scalars
        hits, misses, merged, stored = (int(m[i]) for i in (k.HITS, k.MISSES, k.MERGED, k.STORED))
        fetched, written_back = int(m[k.ALL_FETCHED]), int(m[k.ALL_EVICTED])
        masks = self._sets[:, 1]
        dirty = int(np.bitwise_count(masks.view(np.uint64) >> np.uint64(k.DIRTY_SHIFT)).sum())
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
