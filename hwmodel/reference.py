"""The reference model: a program's time, with SimPy processes, one class per component.

The readable definition of the machine. A core is four queue processes; the two DMA queues split descriptors into memory
requests with a bounded number in flight; requests go to the memory side (`memory_side`), whose compiled DRAM
channels (`hwmodel.dram`) schedule every burst. Time is an integer count of femtoseconds; ties are
broken by the order of scheduling, so equal inputs give equal results.

Not modelled: scratchpad bank conflicts and contention between units, and what `memory_side` names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import simpy

from hwmodel.bounds import compute_fs
from hwmodel.dma import Regions
from hwmodel.dram.controller import Dram, Policy
from hwmodel.machine import Machine
from hwmodel.memory_side import Clock, MemorySide
from hwmodel.noc import Server
from hwmodel.program import QUEUES, Instruction, Phase, Program, task_lists, walk
from hwmodel.result import BIN_FS, Ledger, PhaseTime, Result, Traffic, make_result

Process = Generator[simpy.Event, Any, None]


class CounterBank:
    """The counters of one core: waiters are woken in the order in which they came."""

    def __init__(self, env: Clock, count: int) -> None:
        self._env = env
        self._values = [0] * count
        self._waiting: list[list[tuple[int, simpy.Event]]] = [[] for _ in range(count)]

    def reached(self, counter: int, value: int) -> bool:
        return self._values[counter] >= value

    def when(self, counter: int, value: int) -> simpy.Event:
        event = self._env.event()
        self._waiting[counter].append((value, event))
        return event

    def add(self, counters: tuple[int, ...]) -> None:
        for counter in counters:
            self._values[counter] += 1
            waiting = self._waiting[counter]
            if waiting:
                ready = [event for value, event in waiting if value <= self._values[counter]]
                self._waiting[counter] = [w for w in waiting if w[0] > self._values[counter]]
                for event in ready:
                    event.succeed()


@dataclass(slots=True)
class Descriptor:
    """One tile in flight: signals are given when it and all descriptors before it are complete."""

    remaining: int
    signals: tuple[int, ...]


@dataclass(slots=True)
class Request:
    """One memory request of a descriptor."""

    engine: DmaEngine
    descriptor: Descriptor
    size_bytes: int


class DmaEngine:
    """The load or the store engine of one core: issues and completes in order, with bounded requests in flight."""

    def __init__(self, core: Core, is_write: bool) -> None:
        machine = core.machine
        self._core = core
        self._is_write = is_write
        self._dma = machine.spec.cores.dma
        self._burst_bytes = machine.burst_bytes
        self._per_request = self._dma.request_bytes // self._burst_bytes
        self._core_fs = cache(machine.core_fs)
        self._port_fs = cache(machine.port_fs)
        self.port = Server()
        self._outstanding = 0
        self._in_order: deque[Descriptor] = deque()
        self._resume: simpy.Event | None = None

    def issue(self, instruction: Instruction, bursts: Any, pages: int, in_cache: bool, ledger: Ledger) -> Process:
        """Split a descriptor into requests and send them."""
        core, dma, burst_bytes, per_request = self._core, self._dma, self._burst_bytes, self._per_request
        descriptor = Descriptor(-(-len(bursts) // per_request), instruction.signals)
        self._in_order.append(descriptor)
        self._retire()  # an empty tile is complete at once
        cycles = dma.issue_cycles + pages * dma.index_cycles
        for first in range(0, len(bursts), per_request):
            yield core.env.timeout(self._core_fs(cycles + dma.request_cycles))
            ledger.spend("useful", core.env.now)
            cycles = 0
            while self._outstanding >= dma.max_outstanding:
                yield self._wait()
                ledger.spend("memory", core.env.now)
            stop = min(first + per_request, len(bursts))
            request = Request(self, descriptor, (stop - first) * burst_bytes)
            self._outstanding += 1
            message = request, bursts, first, stop, self._is_write, in_cache
            if self._is_write:  # the data leaves through the port while the engine issues the next request
                now = core.env.now
                core.memory.at(self.port.serve(now, self._port_fs(request.size_bytes)) - now, self._send, message)
            else:
                core.memory.submit(*message)

    def _send(self, event: simpy.Event) -> None:
        """Send the request that the event carries, whose data has left the core."""
        self._core.memory.submit(*event.value)  # type: ignore[misc]

    def receive(self, request: Request, now_fs: int) -> None:
        """The data of a load reaches the core's port at a time that is now or soon."""
        done_fs = self.port.serve(now_fs, self._port_fs(request.size_bytes))
        self._core.memory.at(done_fs - self._core.env.now, self.complete, request)

    def drain(self, ledger: Ledger) -> Process:
        """Wait until everything in flight is complete."""
        while self._outstanding:
            yield self._wait()
            ledger.spend("memory", self._core.env.now)

    def complete(self, event: simpy.Event) -> None:
        """The request that the event carries is complete: free its place; signal descriptors now complete in order."""
        self._outstanding -= 1
        descriptor: Descriptor = event.value.descriptor  # type: ignore[union-attr]
        descriptor.remaining -= 1
        if not descriptor.remaining:
            self._retire()
        if self._resume is not None:
            resume, self._resume = self._resume, None
            resume.succeed()

    def _retire(self) -> None:
        while self._in_order and self._in_order[0].remaining == 0:
            self._core.counters.add(self._in_order.popleft().signals)

    def _wait(self) -> simpy.Event:
        self._resume = self._core.env.event()
        return self._resume


class Core:
    """One core during one phase: a process per queue."""

    def __init__(
        self,
        env: Clock,
        machine: Machine,
        memory: MemorySide,
        phase: Phase,
        regions: Regions,
        traffic: Traffic,
        durations_fs: dict[tuple[int, tuple[int, ...]], int],
    ) -> None:
        self.env = env
        self.machine = machine
        self.memory = memory
        self.counters = CounterBank(env, len(phase.counters))
        self._phase = phase
        self._regions = regions
        self._traffic = traffic
        self._durations_fs = durations_fs  # of the phase: by instruction and sizes
        self._causes = [counter.cause for counter in phase.counters]

    def queue(self, number: int, tasks: Iterator[int], ledger: Ledger) -> Process:
        """Return the process of one queue; the ledger attributes every femtosecond of it."""
        return (self._transfer if QUEUES[number] in ("load", "store") else self._compute)(number, tasks, ledger)

    def _transfer(self, number: int, tasks: Iterator[int], ledger: Ledger) -> Process:
        """A DMA queue: work out each descriptor's bursts, wait for its counters, issue it."""
        engine = DmaEngine(self, QUEUES[number] == "store")
        for instruction, variables in walk(self._phase, number, tasks):
            region = self._regions.region(instruction.tile, variables)
            bursts = self._regions.bursts(region)
            in_cache = self._traffic.count(QUEUES[number], region, len(bursts))
            for event, cause in self._waits(instruction, variables):
                yield event
                ledger.spend(cause, self.env.now)
            yield from engine.issue(instruction, bursts, region.pages, in_cache, ledger)
        yield from engine.drain(ledger)

    def _compute(self, number: int, tasks: Iterator[int], ledger: Ledger) -> Process:
        """The matrix or the vector queue: wait for the counters, compute, add to counters."""
        env, durations_fs = self.env, self._durations_fs
        for instruction, variables in walk(self._phase, number, tasks):
            key = id(instruction), tuple([size(variables) for size in instruction.sizes])
            if key not in durations_fs:
                durations_fs[key] = compute_fs(self.machine, self._phase, instruction, key[1])
            for event, cause in self._waits(instruction, variables):
                yield event
                ledger.spend(cause, env.now)
            yield env.timeout(durations_fs[key])
            ledger.spend("useful", env.now)
            self.counters.add(instruction.signals)

    def _waits(self, instruction: Instruction, variables: list[int]) -> Iterator[tuple[simpy.Event, str]]:
        """Yield an event and its cause for every counter that is not there yet when its turn comes."""
        counters = self.counters
        for counter, value in instruction.waits:
            target = value(variables)
            if not counters.reached(counter, target):
                yield counters.when(counter, target), self._causes[counter]


def simulate(program: Program, machine: Machine) -> Result:
    """Run `program` on `machine` and return its `Result`. Raises ValueError if a phase does not fit the scratchpad."""
    for phase in program.phases:
        machine.require_fit(phase)
    env = Clock()
    dram = make_dram(machine) if machine.memory == "hbm" else None
    memory = MemorySide(env, machine, dram)
    memory.hold((tensor.base_bytes, tensor.size_bytes) for tensor in program.tensors if tensor.resident == "cache")
    cores = machine.spec.cores.count
    ledgers = [[Ledger() for _ in QUEUES] for _ in range(cores)]
    traffic = Traffic(program, machine.burst_bytes)
    times = []
    for phase in program.phases:
        start = env.now
        finished = env.process(_run_phase(env, program, phase, machine, memory, ledgers, traffic))
        memory.run()
        if not finished.triggered:
            raise RuntimeError(f"phase {phase.name} of {program.name} deadlocks: a queue waits for a counter for ever")
        times.append(PhaseTime(phase.name, env.now - start))
    return make_result(program, machine, env.now, times, ledgers, traffic, dram, memory.cache_busy_fs, memory.levels())


def make_dram(machine: Machine) -> Dram:
    """Return the DRAM channels of a machine with HBM."""
    hbm = machine.hbm
    depth = hbm.spec.queue_depth
    policy = Policy(refresh=hbm.spec.refresh, read_queue=depth, write_queue=depth)
    tables, bin_ticks = hbm.address_map.compiled(), machine.fs_to_ticks(BIN_FS)
    return Dram(hbm.timing, hbm.organisation, hbm.spec.stacks, tables, policy, bin_ticks=bin_ticks)


def _run_phase(
    env: Clock,
    program: Program,
    phase: Phase,
    machine: Machine,
    memory: MemorySide,
    ledgers: list[list[Ledger]],
    traffic: Traffic,
) -> Process:
    yield env.timeout(machine.spec.launch.latency)
    regions = Regions(program, phase, machine.burst_bytes)
    processes = []
    durations_fs: dict[tuple[int, tuple[int, ...]], int] = {}
    shares = _shares(phase, len(ledgers))
    for core_ledgers, share in zip(ledgers, shares, strict=True):
        core = Core(env, machine, memory, phase, regions, traffic, durations_fs)
        for number, ledger in enumerate(core_ledgers):
            ledger.spend("launch", env.now)
            processes.append(env.process(core.queue(number, share(), ledger)))
    yield env.all_of(processes)
    if (quiet := memory.quiet()) is not None:  # a phase ends when what it drove out of the cache is in memory
        yield quiet
    for core_ledgers in ledgers:
        for ledger in core_ledgers:
            ledger.spend("no work", env.now)


def _shares(phase: Phase, cores: int) -> list[Any]:
    """Return, for every core, a function that gives an iterator over the tasks which the core runs."""
    if not phase.schedule.dynamic:
        return [lambda tasks=tasks: iter(tasks) for tasks in task_lists(phase.schedule, cores)]
    waiting = iter(phase.schedule.order.tolist())
    taken: list[list[int]] = [[] for _ in range(cores)]

    def share(mine: list[int]) -> Iterator[int]:
        position = 0
        while True:
            if position == len(mine):
                task = next(waiting, None)
                if task is None:
                    return
                mine.append(task)
            yield mine[position]
            position += 1

    return [lambda mine=mine: share(mine) for mine in taken]
