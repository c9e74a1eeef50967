"""The memory side of the reference model: network, translation, shared cache and main memory, behind the DMA engines.

A request leaves its core, waits for its page's translation where there is a TLB, and crosses the network to the shared
cache, or straight to main memory. What happens to it there is compiled (`trips`): the cache says what to fetch and what
to write back, and the request waits for all of it; what finds no outstanding miss free waits at the head of a line.
Data goes back through the cache's slices, the network and the core's port. Only a request's last byte counts: parts
that came sooner wait for it.

Compiled code and SimPy take turns in the order of time and of scheduling, as if all were SimPy's events. DRAM channels
run ahead of this clock exactly as far as no event can still send them a burst: from an event or an
answer to main memory it takes at least the last leg of the way, and nothing unknown can come back before a burst's
zero-load latency has passed.

Not modelled: links of the network; what `cache`, `tlb` and `noc` name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import simpy

from hwmodel import trips as k
from hwmodel.cache import SharedCache
from hwmodel.dram.controller import Dram
from hwmodel.free_memory import free_place
from hwmodel.machine import Machine
from hwmodel.main_memory import TICK, DramMemory, SramMemory
from hwmodel.noc import Cut, Multicast
from hwmodel.program import Program
from hwmodel.runs import RUN_WORDS, tie
from hwmodel.tlb import Tlb
from hwmodel.traffic import LevelTraffic

FIRST_WIDTH = 1024  # bursts of a request that there is room for from the start: a limit of 1 GiB may never be reached


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

    def upcoming(self) -> tuple[int, int]:
        """Return the time of the next event and its place in the order of scheduling; urgent ones come first."""
        if not self._queue:
            return k.NEVER, k.NEVER
        time_fs, priority, order, _ = self._queue[0]
        return int(time_fs), order if priority == simpy.events.NORMAL else k.NONE

    def place(self) -> int:
        """Return the place in the order of scheduling that an event would have now."""
        return next(self._eid)


def _succeed(event: simpy.Event) -> None:
    """Let the event succeed that another one carries."""
    event.value.succeed()  # type: ignore[union-attr]


class Engine(Protocol):
    """What sends requests: takes the data of loads at its port, and is told when a store is complete."""

    @property
    def core(self) -> int: ...

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
    is_local: bool = False  # it stays beside its core
    followers: list[Trip] = field(default_factory=list)  # equal loads that get their data with this one's

    @property
    def size_bytes(self) -> int:
        return self.request.size_bytes


class MemorySide:
    """Takes requests from the DMA engines and calls back when they are complete.

    `dram` holds the channels of a machine that has HBM, and is None otherwise. A memory side of one's own replaces what
    it does otherwise: `begin`, `enter`, `answer`, `quiet` and `levels`.
    """

    def __init__(self, env: Clock, machine: Machine, dram: Dram | None) -> None:
        spec = machine.spec
        self.env, self.machine, self._dram = env, machine, dram
        self._tlb_spec = spec.tlb
        self._cache = None
        if spec.shared_cache:
            self._cache = SharedCache(spec.shared_cache, machine.burst_bytes, machine.memory_capacity_bytes)
        self._memory = DramMemory(dram) if dram else None
        self._sram = SramMemory(spec.distributed_sram) if spec.distributed_sram else None
        self._tlbs: dict[Engine, Tlb] = {}
        self._multicast, self._there, self._back = Multicast(spec.noc), Cut(spec.noc), Cut(spec.noc)
        self._back_fs = spec.noc.latency
        self._mixes = machine.is_local  # some requests cross the network and some do not
        self._quiet: simpy.Event | None = None
        self._under_way: list[Trip | None] = []  # by number
        self._free: list[int] = []  # numbers
        self._next_fs = k.NEVER  # nothing happens to those before
        self._asked_bytes = self._untranslated_bytes = self._local_bytes = 0
        cache = spec.shared_cache
        self._trips = k.trips_of(cache.line // machine.burst_bytes if cache else 1)
        self._widen(min(spec.cores.dma.request_bytes // machine.burst_bytes, FIRST_WIDTH))
        scalars = self._trips.scalars
        if self._cache:
            tie(scalars, k.CACHE, self._cache.scalars, self._cache.slices.scalars)
        if self._sram:
            tie(scalars, k.SRAM, self._sram.slices.scalars)
        scalars[k.HAS_CACHE], scalars[k.HAS_DRAM] = cache is not None, dram is not None
        scalars[k.BACK_FS] = machine.least_network_fs
        scalars[k.LAST_LEG_FS] = cache.miss_latency if cache else machine.least_network_fs
        scalars[k.REACTION_FS] = 0 if cache else spec.noc.latency
        scalars[k.LOOKAHEAD_FS] = int(dram.lookahead_ticks * machine.tick_fs) if dram else 0
        scalars[k.SRAM_FS] = self._sram.latency_fs if self._sram else 0

    @property
    def scalars(self) -> Any:
        """What `trips.run` works on."""
        return self._trips.scalars

    @property
    def cache_busy_fs(self) -> int:
        return self._cache.busy_fs if self._cache else 0

    def hold(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Put ranges of addresses (first byte, bytes) into the shared cache, as if they had just been read."""
        if self._cache:
            for base_bytes, size_bytes in ranges:
                self._cache.hold(base_bytes, size_bytes)

    def begin(self, program: Program) -> None:
        """Put into the shared cache what a program says it finds there."""
        cache = self.machine.spec.shared_cache
        if self._cache and cache and program.earlier_stores is not None:
            one_way, memory_bytes = cache.distinct_bytes // cache.ways, self.machine.memory_capacity_bytes
            others = free_place(program, cache.distinct_bytes, one_way, memory_bytes)
            self._cache.age(others, program.earlier_stores)
        self.hold((t.base_bytes, t.size_bytes) for t in program.tensors if t.resident == "cache")

    def submit(self, request: Request, bursts: Any, first: int, stop: int, is_write: bool) -> None:
        """Send a request from its core now; bursts[first:stop] are its addresses."""
        trip = Trip(request, bursts, first, stop, is_write)
        self._asked_bytes += trip.size_bytes
        if self._mixes and self._sram and self._sram.holds(request.engine.core, bursts[first:stop]):
            trip.is_local = True
            self._local_bytes += trip.size_bytes
        if self._tlb_spec is None:
            self._leave_now(trip)
            return
        tlb = self._tlbs.get(request.engine)
        if tlb is None:
            tlb = self._tlbs[request.engine] = Tlb(self._tlb_spec)
        delay_fs = tlb.delay_fs(bursts, first, stop, self.env.now)
        if delay_fs:
            self._untranslated_bytes += trip.size_bytes
            self.at(delay_fs, self._leave, trip)
        else:
            self._leave_now(trip)

    def _leave(self, event: simpy.Event) -> None:
        trip: Trip = event.value  # type: ignore[assignment]
        self._leave_now(trip)

    def _leave_now(self, trip: Trip) -> None:
        """Send a translated request into the network, unless it joins another or stays where it is."""
        crossed_fs = now_fs = self.env.now
        if not trip.is_local:
            if not trip.is_write and self._multicast.join(trip, now_fs):
                return
            if trip.is_write:
                crossed_fs = self._there.cross(now_fs, trip.size_bytes)
        self.enter(trip, crossed_fs)

    def enter(self, trip: Trip, crossed_fs: int) -> None:
        """Let a request go on to the shared cache or to main memory that crosses the network's middle at a time."""
        arrival_fs, now_fs = crossed_fs, self.env.now
        if not trip.is_local and (self._cache or self._mixes):
            arrival_fs += self._back_fs
        order = self.env.place()
        if arrival_fs == now_fs and not self._cache:  # before all else of this time
            order -= k.NEVER
        if not self._free:
            self._make_trips()
        if trip.stop - trip.first > self._trips.runs.shape[1]:
            self._widen(2 * (trip.stop - trip.first))
        number = self._free.pop()
        self._under_way[number] = trip
        bounds = trip.first, trip.stop, self.machine.burst_bytes
        k.enter(self.scalars, number, trip.bursts, self._runs, bounds, trip.is_write, arrival_fs, order)
        self._next_fs = min(self._next_fs, arrival_fs)

    def _make_trips(self) -> None:
        old, new = self.more_trips()
        self._under_way += [None] * (new - old)
        self._free += range(new - 1, old - 1, -1)

    def more_trips(self) -> tuple[int, int]:
        """Make room for as many trips again, and some; return how many there were and are."""
        old = len(self._trips.trips)
        self._trips = k.with_trips(self._trips, old + 64)
        return old, len(self._trips.trips)

    def _widen(self, bursts: int) -> None:
        """Make room for requests of so many bursts."""
        self._trips = k.with_width(self._trips, bursts)
        self._runs = np.zeros(bursts * RUN_WORDS, np.int64)  # of the request that comes next
        if self._cache:
            self._cache.reserve(bursts)

    def run(self) -> None:
        """Run all events, letting the DRAM channels go ahead between them."""
        env = self.env
        queue = env._queue
        while True:
            while queue and queue[0][0] < self._next_fs:
                env.step()
            status, answers, self._next_fs = k.run_until(self.scalars, *env.upcoming())
            if answers:
                self._deliver(answers)
            elif status == k.ADVANCE:
                self.advance(self.limit_fs)
            elif status == k.STEP:
                if not queue:
                    return
                env.step()
            if status == k.FULL:
                self.make_room()

    def make_room(self) -> None:
        """Let main memory take what is on the way to it, and make room for what may come."""
        self._send()
        self._trips = k.with_room(self._trips)

    def _send(self) -> None:
        """Offer to DRAM what is on the last leg of its way."""
        t = self._trips
        count = int(t.scalars[k.SENDS])
        if self._memory and count:
            sends = t.sends[:count]
            sends[:, TICK] = self.machine.ticks_of(sends[:, TICK])
            self._memory.submit(sends, t.sent)
            t.scalars[k.SENDS] = t.scalars[k.SENT] = 0

    def _deliver(self, count: int) -> None:
        """Send back what main memory or the cache has answered."""
        t = self._trips
        t.scalars[k.ANSWERS] = 0
        for answer in t.answers[:count].tolist():
            self._answer(*answer)

    @property
    def limit_fs(self) -> int:
        """How far `trips.run` asked the DRAM channels to advance."""
        return int(self._trips.scalars[k.LIMIT_FS])

    def advance(self, limit_fs: int) -> None:
        """Let the DRAM channels go ahead."""
        assert self._memory is not None
        self._send()
        limit, dram, scalars = self.machine.fs_to_ticks(limit_fs), self._memory.dram, self._trips.scalars
        numbers, ticks = dram.advance(limit)
        scalars[k.SAFE_FS] = self.machine.ticks_to_fs(limit + dram.lookahead_ticks)
        k.note(scalars, self._memory.submissions, numbers, self.machine.times_of(ticks))

    def _answer(self, number: int, came_fs: int, served_fs: int) -> None:
        """A request's data was there at a time, or its place for data, and has passed the cache: send an answer back.

        `NONE` for a number says that no write-back is under way any more.
        """
        if number == k.NONE:
            assert self._quiet is not None
            quiet, self._quiet = self._quiet, None
            self.at(came_fs - self.env.now, _succeed, quiet)
            return
        trip = self._under_way[number]
        assert trip is not None
        self._free.append(number)
        self.answer(trip, served_fs)

    def answer(self, trip: Trip, served_fs: int) -> None:
        """Send a load's data back, or word that a store is complete, which leaves cache or memory at a time.

        Loads are answered in the order of time.
        """
        if trip.is_write:
            back_fs = 0 if trip.is_local else self._back_fs
            self.at(served_fs + back_fs - self.env.now, trip.request.engine.complete, trip.request)
            return
        self._multicast.close(trip)
        if self._cache:  # its slices may have served one that came later before
            self.at(served_fs - self.env.now, self._go_back, (trip, served_fs))
        elif trip.is_local:
            self.at(served_fs - self.env.now, self._arrive, trip)
        else:
            self._send_back(trip, served_fs)

    def _go_back(self, event: simpy.Event) -> None:
        self._send_back(*event.value)  # type: ignore[misc]

    def _send_back(self, trip: Trip, now_fs: int) -> None:
        """Send a load's data, which is there now or soon, to those that asked for it; in order of time."""
        there_fs = self._back.cross(now_fs, trip.size_bytes) + self._back_fs
        if self._mixes:  # data that stays beside its core may be at the port before
            self.at(there_fs - self.env.now, self._arrive, trip)
        else:
            self._receive(trip, there_fs)

    def _arrive(self, event: simpy.Event) -> None:
        self._receive(event.value, self.env.now)  # type: ignore[arg-type]

    def _receive(self, trip: Trip, there_fs: int) -> None:
        for receiver in (trip, *trip.followers):
            receiver.request.engine.receive(receiver.request, there_fs)

    def quiet(self) -> simpy.Event | None:
        """Return an event at which the last write-back is done; None if none is under way."""
        scalars = self._trips.scalars
        if not scalars[k.WRITE_BACKS]:
            return None
        scalars[k.QUIET] = 1
        self._quiet = self.env.event()
        return self._quiet

    def at(self, delay_fs: int, callback: Callable[[Any], None], value: Any = None) -> None:
        """Call back after a time, with an event that carries the value."""
        event = Call(self.env)
        event.callbacks, event._ok, event._value = [callback], True, value
        self.env.schedule(event, delay=delay_fs)

    def count(self, asked_bytes: int, untranslated_bytes: int, local_bytes: int) -> None:
        """Count bytes of requests that came another way than `submit`.

        Of those the ones that waited for a page, and the ones that stayed beside their cores.
        """
        self._asked_bytes += asked_bytes
        self._untranslated_bytes += untranslated_bytes
        self._local_bytes += local_bytes

    def levels(self) -> dict[str, LevelTraffic]:
        """Return the bytes of every level of memory so far but those of DRAM, whose statistics have more."""
        asked, local, joined = self._asked_bytes, self._local_bytes, self._multicast.merged_bytes
        levels = {"network": LevelTraffic(asked=asked, hit=local, merged=joined, fetched=asked - local - joined)}
        if self._tlb_spec:
            missed = self._untranslated_bytes
            levels["tlb"] = LevelTraffic(asked=asked, hit=asked - missed, missed=missed)
        if self._cache:
            levels["shared cache"] = self._cache.traffic()
        if self._sram:
            moved = self._sram.moved_bytes
            levels["distributed sram"] = LevelTraffic(asked=moved, hit=moved)
        return levels
