"""The DMA engines of a core: the load and the store engine, which move tiles between memory and scratchpad.

An engine issues descriptors in order and completes them in order. It cuts each into memory requests, of which a bounded
number is in flight. The data of a load meets the scratchpad as it comes through the core's port, the data of a store as
it leaves, and a request is through when port and scratchpad both are done with it. `hwmodel.dma` says which bursts a
tile touches, `hwmodel.descriptors` how many descriptors and scratchpad accesses it takes.

Not modelled: fetching descriptors and indices, and priorities between requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import simpy

from hwmodel.descriptors import TileCost
from hwmodel.dma import cut_requests
from hwmodel.noc import Server
from hwmodel.result import Ledger

if TYPE_CHECKING:
    from hwmodel.reference import Core

Process = Generator[simpy.Event, Any, None]


@dataclass(slots=True)
class Descriptor:
    """One tile in flight: signals are given when it and all tiles before it are complete."""

    remaining: int
    signals: tuple[int, ...]


@dataclass(slots=True)
class Request:
    """One memory request of a tile; `sram_fs` is the time of its scratchpad accesses alone."""

    engine: DmaEngine
    descriptor: Descriptor
    number: int  # in the order of issue
    size_bytes: int
    sram_fs: int
    sram_work: int = 0  # its number in the scratchpad
    port_done_fs: int = 0
    sram_alone_fs: int = 0  # when its accesses would be done without other units
    late_fs: tuple[int, int] = (0, 0)  # behind the port: by conflicts of its engine's accesses, by other units


@dataclass(slots=True)
class Tile:
    """A tile as it is issued: its bursts, where each memory request of them stops, and its costs."""

    signals: tuple[int, ...]
    bursts: Any
    stops: list[int]
    cost: TileCost


class DmaEngine:
    """The load or the store engine of one core: issues and completes in order, with bounded requests in flight."""

    def __init__(self, core: Core, number: int, is_write: bool) -> None:
        machine = core.machine
        self._core = core
        self.core = core.number
        self._number = number
        self._is_write = is_write
        self._dma = machine.spec.cores.dma
        self._burst_bytes = machine.burst_bytes
        self._per_request = self._dma.request_bytes // self._burst_bytes
        self._core_fs = cache(machine.core_fs)
        self._port_fs = cache(machine.port_fs)
        self.port = Server()
        self._alone = Server()  # the scratchpad, without other units
        self._late_fs = (0, 0)  # of the request that completed last
        self._issued = self._outstanding = 0
        self._in_order: deque[Descriptor] = deque()
        self._resume: simpy.Event | None = None

    def cut(self, bursts: Any) -> list[int]:
        """Return where each memory request of a list of bursts stops."""
        stops: list[int] = cut_requests(bursts, self._burst_bytes, self._per_request, self._dma.max_runs).tolist()
        return stops

    def issue(self, tile: Tile, ledger: Ledger) -> Process:
        """Send the requests of a tile."""
        core, dma, cost = self._core, self._dma, tile.cost
        descriptor = Descriptor(len(tile.stops), tile.signals)
        self._in_order.append(descriptor)
        self._retire()  # an empty tile is complete at once
        cycles = cost.descriptors * dma.issue_cycles + cost.indices * dma.index_cycles + cost.turned
        sram_fs = core.machine.sram_fs(cost.sram.wavefronts)
        total = len(tile.bursts)
        first = 0
        for stop in tile.stops:
            yield core.env.timeout(self._core_fs(cycles + dma.request_cycles))
            ledger.spend("useful", core.env.now)
            cycles = 0
            while self._outstanding >= dma.max_outstanding:
                yield from self._wait(ledger)
            share_fs = sram_fs * stop // total - sram_fs * first // total
            request = Request(self, descriptor, self._issued, (stop - first) * self._burst_bytes, share_fs)
            self._issued += 1
            self._outstanding += 1
            if core.observer:
                core.observer.request(self.core, self._number, core.env.now)
            message = request, tile.bursts, first, stop, self._is_write
            first = stop
            if self._is_write:  # the data leaves through the port while the engine issues the next request
                self._pass(request, core.env.now)
                core.memory.at(request.port_done_fs - core.env.now, self._send, message)
            else:
                core.memory.submit(*message)

    def receive(self, request: Request, now_fs: int) -> None:
        """The data of a load is at the core's port, now or soon; data arrives in order of time."""
        self._pass(request, now_fs)
        self._core.memory.at(request.port_done_fs - self._core.env.now, self._filled, request)

    def drain(self, ledger: Ledger) -> Process:
        """Wait until everything in flight is complete."""
        while self._outstanding:
            yield from self._wait(ledger)

    def complete(self, event: simpy.Event) -> None:
        """The request that the event carries is complete: free its place; signal tiles now complete in order."""
        request: Request = event.value  # type: ignore[assignment]
        self._outstanding -= 1
        if self._core.observer:
            now_fs = self._core.env.now
            self._core.observer.answer(self.core, self._number, request.number, request.size_bytes, now_fs)
        self._late_fs = request.late_fs
        descriptor = request.descriptor
        descriptor.remaining -= 1
        if not descriptor.remaining:
            self._retire()
        if self._resume is not None:
            resume, self._resume = self._resume, None
            resume.succeed()

    def _pass(self, request: Request, now_fs: int) -> None:
        """Let the request's data through port and scratchpad, which work on it at the same time."""
        duration_fs = self._port_fs(request.size_bytes)
        request.port_done_fs = self.port.serve(now_fs, duration_fs)
        start_fs = request.port_done_fs - duration_fs
        request.sram_work = self._core.sram.ask(self._number, start_fs, request.sram_fs)
        request.sram_alone_fs = self._alone.serve(start_fs, request.sram_fs)

    def _filled(self, event: simpy.Event) -> None:
        if self._is_through(event, event.value, self._filled):  # type: ignore[arg-type]
            self.complete(event)

    def _send(self, event: simpy.Event) -> None:
        """Send the request that the event carries, once its data has left the core."""
        if self._is_through(event, event.value[0], self._send):  # type: ignore[index]
            self._core.memory.submit(*event.value)  # type: ignore[misc]

    def _is_through(self, event: simpy.Event, request: Request, again: Any) -> bool:
        """Tell whether the scratchpad is done with a request that has passed the port; if not, ask again when it is."""
        core = self._core
        now = core.env.now
        left = core.sram.left(self._number, request.sram_work, now)
        if left:
            core.memory.at(left, again, event.value)
            return False
        if now > request.port_done_fs:
            conflict_fs = max(0, request.sram_alone_fs - request.port_done_fs)
            request.late_fs = conflict_fs, now - request.port_done_fs - conflict_fs
            core.sram_use.wait(self._number, request.late_fs[1])
        return True

    def _retire(self) -> None:
        while self._in_order and self._in_order[0].remaining == 0:
            if self._core.observer:
                self._core.observer.complete(self.core, self._number, self._core.env.now)
            self._core.counters.add(self._in_order.popleft().signals)

    def _wait(self, ledger: Ledger) -> Process:
        """Wait for a request to complete. What the scratchpad delayed it by is the scratchpad's, the rest memory's."""
        self._resume = self._core.env.event()
        yield self._resume
        now = self._core.env.now
        if self._late_fs != (0, 0):
            conflict_fs, contention_fs = self._late_fs
            ledger.spend("memory", now - conflict_fs - contention_fs)
            ledger.spend("SRAM bank conflict", now - contention_fs)
            ledger.spend("SRAM contention", now)
        ledger.spend("memory", now)
