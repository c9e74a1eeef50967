"""The memory side of the reference model: network, shared cache and HBM, between the DMA engines and the DRAM channels.

Takes requests from the engines and calls back when they are complete. The channels run ahead of SimPy's clock exactly
as far as no event can still send them a request: a request needs `memory_request_fs` to arrive, and nothing unknown can
come back before a burst's zero-load latency has passed.

Not modelled: cache capacity, network links; stores to HBM do not occupy the shared cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from heapq import heappop, heappush
from typing import Any, Protocol

import simpy

from hwmodel.compiled import compiled
from hwmodel.dram.controller import Dram, enqueue_bursts, open_request
from hwmodel.dram.state import BURSTS_LEFT, REQUESTS_LEFT, DramState
from hwmodel.machine import Machine
from hwmodel.noc import Server


@compiled
def _submit(state: DramState, bursts: Any, first: int, stop: int, is_write: bool, tick: int) -> int:
    """Open a request and enqueue its bursts; return its number, or -1 where there is no room."""
    if min(state.scalars[BURSTS_LEFT], state.scalars[REQUESTS_LEFT]) < stop - first:
        return -1
    request: int = open_request(state, stop - first)
    enqueue_bursts(state, bursts, first, stop, request, is_write, tick)
    return request


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


class Engine(Protocol):
    """What sends requests: its port takes the data of loads, and it is told when a request is complete."""

    port: Server

    def complete(self, event: simpy.Event) -> None: ...


@dataclass(slots=True)
class Request:
    """One memory request of a descriptor."""

    engine: Engine
    descriptor: Any
    size_bytes: int


class MemorySide:
    """Network, shared cache and HBM: takes requests from the DMA engines and calls back when they are complete."""

    def __init__(self, env: Clock, machine: Machine, dram: Dram) -> None:
        self._env = env
        self._machine = machine
        self._dram = dram
        self._cache = Server()
        self._has_cache = machine.spec.shared_cache is not None
        self._back_fs = machine.spec.noc.latency
        self._there_fs = machine.memory_request_fs
        self._cache_fs = cache(machine.cache_fs)
        self._port_fs = cache(machine.port_fs)
        self._submitted = 0
        self._in_dram: dict[int, tuple[int, Request, bool]] = {}  # by number: place in the order of submission, ...
        self._done: list[tuple[int, int, Request, bool]] = []  # left DRAM: a heap by time and order of submission
        self._safe_fs = 0  # no completion that is still unknown can be earlier
        self._zero_load_ticks = dram.lookahead_ticks

    @property
    def cache_busy_fs(self) -> int:
        return self._cache.busy_fs

    def submit(self, request: Request, bursts: Any, first: int, stop: int, is_write: bool, in_cache: bool) -> None:
        """Send a request from its core now; bursts[first:stop] are its addresses."""
        if in_cache:
            self.at(self._back_fs, lambda _: self._served(self._env.now, request, is_write, False))
            return
        tick = self._machine.fs_to_ticks(self._env.now + self._there_fs)
        if not self._in_dram:
            self._safe_fs = max(self._safe_fs, self._machine.ticks_to_fs(tick + self._zero_load_ticks))
        number = _submit(self._dram.state, bursts, first, stop, is_write, tick)
        if number < 0:
            self._dram.reserve(stop - first)
            number = _submit(self._dram.state, bursts, first, stop, is_write, tick)
        self._in_dram[number] = (self._submitted, request, is_write)
        self._submitted += 1

    def run(self) -> None:
        """Run all events, letting the DRAM channels go ahead between them.

        What leaves DRAM at the time of another event goes first, in the order of submission. So nothing happens at a
        time at which something may still leave DRAM: a write is done sooner after its command than a read.
        """
        env, done = self._env, self._done
        while True:
            upcoming = env.peek()
            leaving = bool(done) and done[0][0] <= upcoming
            if self._in_dram and (done[0][0] if leaving else upcoming) >= self._safe_fs:
                reaction_fs = self._safe_fs + self._back_fs
                self._advance((int(upcoming) if upcoming < reaction_fs else reaction_fs) + self._there_fs)
            elif leaving:
                done_fs, _, request, is_write = heappop(done)
                self._served(done_fs, request, is_write, True)
            elif upcoming == simpy.core.Infinity:
                return
            else:
                env.step()

    def _advance(self, limit_fs: int) -> None:
        limit = self._machine.fs_to_ticks(limit_fs)
        numbers, ticks = self._dram.advance(limit)
        self._safe_fs = self._machine.ticks_to_fs(limit + self._zero_load_ticks)
        for number, tick in zip(numbers.tolist(), ticks.tolist(), strict=True):
            heappush(self._done, (self._machine.ticks_to_fs(tick), *self._in_dram.pop(number)))

    def _served(self, now_fs: int, request: Request, is_write: bool, from_dram: bool) -> None:
        """The shared cache has the request's data, or the memory has taken it: send data or acknowledgement back."""
        passes_cache = self._has_cache and not (is_write and from_dram)
        done_fs = self._cache.serve(now_fs, self._cache_fs(request.size_bytes)) if passes_cache else now_fs
        done_fs += self._back_fs
        if not is_write:
            done_fs = request.engine.port.serve(done_fs, self._port_fs(request.size_bytes))
        self.at(done_fs - self._env.now, request.engine.complete, request)

    def at(self, delay_fs: int, callback: Callable[[Any], None], value: Any = None) -> None:
        """Call back after a time, with an event that carries the value."""
        event = Call(self._env)
        event.callbacks, event._ok, event._value = [callback], True, value
        self._env.schedule(event, delay=delay_fs)
