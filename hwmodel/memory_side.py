"""The memory side of the reference model: network, translation, shared cache and main memory, behind the DMA engines.

A request leaves its core, waits for its page's translation where there is a TLB, and crosses the network to the shared
cache, or straight to main memory. The cache (`cache`) says what to fetch and what to write back, and the request waits
for all of it; what finds no outstanding miss free waits at the head of a line. Data goes back through the cache's
slices, the network and the core's port. Only a request's last byte counts: parts that came sooner wait for it.

DRAM channels run ahead of SimPy's clock exactly as far as no event can still send them a burst: from an event or an
answer to main memory it takes at least the last leg of the way, and nothing unknown can come back before a burst's
zero-load latency has passed.

Not modelled: links of the network; what `cache`, `tlb` and `noc` name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Protocol

import simpy

from hwmodel.cache import Access, SharedCache
from hwmodel.dram.controller import Dram
from hwmodel.machine import Machine
from hwmodel.main_memory import SramMemory, submit
from hwmodel.noc import Cut, Multicast
from hwmodel.tlb import Tlb
from hwmodel.traffic import LevelTraffic


class Call(simpy.Event):
    """An event that has its outcome from the start and calls back when its time comes."""

    def __init__(self, env: Clock) -> None:
        self.env = env


class Clock(simpy.Environment):
    """SimPy's environment, whose time is here an integer count of femtoseconds."""

    _now: int

    @property
    def now(self) -> int:
        return self._now


def _succeed(event: simpy.Event) -> None:
    """Let the event succeed that another one carries."""
    event.value.succeed()  # type: ignore[union-attr]


class Engine(Protocol):
    """What sends requests: takes the data of loads at its port, and is told when a store is complete."""

    def receive(self, request: Any, now_fs: int) -> None: ...

    def complete(self, event: simpy.Event) -> None: ...


class Request(Protocol):
    """What the memory side knows of a request."""

    @property
    def engine(self) -> Engine: ...

    @property
    def size_bytes(self) -> int: ...


@dataclass(slots=True, eq=False)
class Trip:
    """A request on its way through the memory side; bursts[first:stop] are its addresses."""

    request: Request
    bursts: Any
    first: int
    stop: int
    is_write: bool
    looked_up: int = 0  # position up to which the cache has looked bursts up
    missing: int = 0  # fetches that have not come yet
    followers: list[Trip] = field(default_factory=list)  # equal loads that get their data with this one's

    @property
    def size_bytes(self) -> int:
        return self.request.size_bytes


class MemorySide:
    """Takes requests from the DMA engines and calls back when they are complete.

    `dram` holds the channels of a machine that has HBM, and is None otherwise.
    """

    def __init__(self, env: Clock, machine: Machine, dram: Dram | None) -> None:
        spec = machine.spec
        self._env, self._machine, self._dram = env, machine, dram
        self._tlb_spec = spec.tlb
        self._cache = SharedCache(spec.shared_cache, machine.burst_bytes) if spec.shared_cache else None
        self._sram = SramMemory(spec.distributed_sram) if spec.distributed_sram else None
        self._tlbs: dict[Engine, Tlb] = {}
        self._multicast, self._there, self._back = Multicast(spec.noc), Cut(spec.noc), Cut(spec.noc)
        self._back_fs = spec.noc.latency
        self._last_leg_fs = spec.shared_cache.miss_latency if spec.shared_cache else spec.noc.latency
        self._blocked: deque[Trip] = deque()  # in the cache, waiting for a free miss
        self._waiting: dict[int, list[Trip]] = {}  # by fetch
        self._write_backs = 0
        self._quiet: simpy.Event | None = None
        self._submitted = 0
        self._in_dram: dict[int, tuple[int, Any]] = {}  # by number: place in the order of submission, and whose
        self._done: list[tuple[int, int, Any]] = []  # left main memory: a heap by time and order of submission
        self._safe_fs = 0  # no completion that is still unknown can be earlier
        self._asked_bytes = self._untranslated_bytes = 0

    @property
    def cache_busy_fs(self) -> int:
        return self._cache.busy_fs if self._cache else 0

    def hold(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Put ranges of addresses (first byte, bytes) into the shared cache, as if they had just been read."""
        if self._cache:
            for base_bytes, size_bytes in ranges:
                self._cache.hold(base_bytes, size_bytes)

    def submit(self, request: Request, bursts: Any, first: int, stop: int, is_write: bool) -> None:
        """Send a request from its core now; bursts[first:stop] are its addresses."""
        trip = Trip(request, bursts, first, stop, is_write)
        self._asked_bytes += trip.size_bytes
        if self._tlb_spec is None:
            self._leave_now(trip)
            return
        tlb = self._tlbs.get(request.engine)
        if tlb is None:
            tlb = self._tlbs[request.engine] = Tlb(self._tlb_spec)
        delay_fs = tlb.delay_fs(bursts, first, stop, self._env.now)
        if delay_fs:
            self._untranslated_bytes += trip.size_bytes
            self.at(delay_fs, self._leave, trip)
        else:
            self._leave_now(trip)

    def _leave(self, event: simpy.Event) -> None:
        trip: Trip = event.value  # type: ignore[assignment]
        self._leave_now(trip)

    def _leave_now(self, trip: Trip) -> None:
        """Send a translated request into the network, unless it joins another."""
        now_fs = self._env.now
        if not trip.is_write and self._multicast.join(trip, now_fs):
            return
        crossed_fs = self._there.cross(now_fs, trip.size_bytes) if trip.is_write else now_fs
        if self._cache:
            self.at(crossed_fs + self._back_fs - now_fs, self._arrive, trip)
        elif crossed_fs > now_fs:
            self.at(crossed_fs - now_fs, self._crossed, trip)
        else:
            self._to_memory(now_fs, trip.bursts, trip.first, trip.stop, trip.is_write, trip)

    def _crossed(self, event: simpy.Event) -> None:
        trip: Trip = event.value  # type: ignore[assignment]
        self._to_memory(self._env.now, trip.bursts, trip.first, trip.stop, trip.is_write, trip)

    def _arrive(self, event: simpy.Event) -> None:
        """The request that the event carries reaches the cache."""
        trip: Trip = event.value  # type: ignore[assignment]
        trip.looked_up = trip.first
        if self._blocked or not self._look_up(self._env.now, trip):
            self._blocked.append(trip)

    def _look_up(self, now_fs: int, trip: Trip) -> bool:
        """Look a request up and send what it needs to memory; return False where it has to wait for a free miss."""
        assert self._cache is not None
        found = self._cache.access(trip.bursts, trip.looked_up, trip.stop, trip.is_write)
        trip.looked_up = found.reached
        if len(found.evicted):
            self._write_backs += 1
            self._to_memory(now_fs, found.evicted, 0, len(found.evicted), True, None)
        if len(found.fetched):
            self._to_memory(now_fs, found.fetched, 0, len(found.fetched), False, found)
            self._waiting[found.fetch] = [trip]
            trip.missing += 1
        for fetch in found.awaited:
            self._waiting[fetch].append(trip)
        trip.missing += len(found.awaited)
        if found.reached < trip.stop:
            return False
        if trip.missing == 0:
            self._served(now_fs, trip)
        return True

    def _filled(self, now_fs: int, found: Access) -> None:
        """A fetch has come: serve who waited only for it, then look up again who waits for a free miss."""
        assert self._cache is not None
        self._cache.fill(found.filled)
        for trip in self._waiting.pop(found.fetch):
            trip.missing -= 1
            if trip.missing == 0 and trip.looked_up == trip.stop:
                self._served(now_fs, trip)
        while self._blocked and self._look_up(now_fs, self._blocked[0]):
            self._blocked.popleft()

    def _to_memory(self, now_fs: int, bursts: Any, first: int, stop: int, is_write: bool, whose: Any) -> None:
        """Send bursts on the last leg to main memory: of a request, of a fetch (`Access`) or written back (None)."""
        if self._sram is not None:
            done_fs = self._sram.serve(bursts, first, stop, now_fs + self._last_leg_fs)
            heappush(self._done, (done_fs, self._submitted, whose))
        else:
            assert self._dram is not None
            tick = self._machine.fs_to_ticks(now_fs + self._last_leg_fs)
            if not self._in_dram:
                known_fs = self._machine.ticks_to_fs(tick + self._dram.lookahead_ticks)
                self._safe_fs = max(self._safe_fs, known_fs)
            self._in_dram[submit(self._dram, bursts, first, stop, is_write, tick)] = self._submitted, whose
        self._submitted += 1

    def run(self) -> None:
        """Run all events, letting the DRAM channels go ahead between them.

        What leaves memory at the time of another event goes first, in the order of submission. So nothing happens at a
        time at which something may still leave DRAM: a write is done sooner after its command than a read.
        """
        env, done = self._env, self._done
        reaction_fs = 0 if self._cache else self._back_fs  # from an answer to what it sends to memory
        while True:
            upcoming = env.peek()
            leaving = bool(done) and done[0][0] <= upcoming
            if self._in_dram and (done[0][0] if leaving else upcoming) >= self._safe_fs:
                reacted_fs = self._safe_fs + reaction_fs
                self._advance((int(upcoming) if upcoming < reacted_fs else reacted_fs) + self._last_leg_fs)
            elif leaving:
                done_fs, _, whose = heappop(done)
                self._left(done_fs, whose)
            elif upcoming == simpy.core.Infinity:
                return
            else:
                env.step()

    def _advance(self, limit_fs: int) -> None:
        assert self._dram is not None
        limit = self._machine.fs_to_ticks(limit_fs)
        numbers, ticks = self._dram.advance(limit)
        self._safe_fs = self._machine.ticks_to_fs(limit + self._dram.lookahead_ticks)
        for number, tick in zip(numbers.tolist(), ticks.tolist(), strict=True):
            heappush(self._done, (self._machine.ticks_to_fs(tick), *self._in_dram.pop(number)))

    def _left(self, done_fs: int, whose: Any) -> None:
        """Main memory has done something at a time, not before the last event's: a request, a fetch, a write-back."""
        if isinstance(whose, Trip):
            self._served(done_fs, whose)
        elif whose is not None:
            self._filled(done_fs, whose)
        else:
            self._write_backs -= 1
            if self._quiet is not None and not self._write_backs:
                quiet, self._quiet = self._quiet, None
                self.at(done_fs - self._env.now, _succeed, quiet)

    def _served(self, now_fs: int, trip: Trip) -> None:
        """The request's data is there, or its place for data: send data or acknowledgement back."""
        done_fs = now_fs
        if self._cache:
            done_fs = self._cache.serve(trip.bursts, trip.first, trip.stop, now_fs)
        if trip.is_write:
            self.at(done_fs + self._back_fs - self._env.now, trip.request.engine.complete, trip.request)
            return
        self._multicast.close(trip)
        there_fs = self._back.cross(done_fs, trip.size_bytes) + self._back_fs
        for receiver in (trip, *trip.followers):
            receiver.request.engine.receive(receiver.request, there_fs)

    def quiet(self) -> simpy.Event | None:
        """Return an event at which the last write-back is done; None if none is under way."""
        if not self._write_backs:
            return None
        self._quiet = self._env.event()
        return self._quiet

    def at(self, delay_fs: int, callback: Callable[[Any], None], value: Any = None) -> None:
        """Call back after a time, with an event that carries the value."""
        event = Call(self._env)
        event.callbacks, event._ok, event._value = [callback], True, value
        self._env.schedule(event, delay=delay_fs)

    def levels(self) -> dict[str, LevelTraffic]:
        """Return the bytes of every level of memory so far but those of DRAM, whose statistics have more."""
        asked, joined = self._asked_bytes, self._multicast.merged_bytes
        levels = {"network": LevelTraffic(asked=asked, merged=joined, fetched=asked - joined)}
        if self._tlb_spec:
            missed = self._untranslated_bytes
            levels["tlb"] = LevelTraffic(asked=asked, hit=asked - missed, missed=missed)
        if self._cache:
            levels["shared cache"] = self._cache.traffic()
        if self._sram:
            moved = self._sram.moved_bytes
            levels["distributed sram"] = LevelTraffic(asked=moved, hit=moved)
        return levels
