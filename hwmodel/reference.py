"""The reference model: a program's time, with SimPy processes, one class per component.

The readable definition of the machine. A core is four queue processes around one scratchpad, which all of them use
(`hwmodel.sram`); the two DMA queues cut tiles into memory requests with a bounded number in flight
(`hwmodel.dma_engine`); requests cross the network, the shared cache where there is one, and the compiled DRAM channels
(`hwmodel.dram`), which schedule every burst. Time is an integer count of femtoseconds; ties are broken by the order of
scheduling, so equal inputs give equal results.

The channels run ahead of SimPy's clock exactly as far as no event can still send them a request: a request needs
`memory_request_fs` to arrive, and nothing unknown can come back before a burst's zero-load latency has passed.

Not modelled: cache capacity, network links; stores to HBM do not occupy the shared cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from heapq import heappop, heappush
from typing import Any

import simpy

from hwmodel.compiled import compiled
from hwmodel.descriptors import Tiles
from hwmodel.dma import Regions
from hwmodel.dma_engine import DmaEngine, Process, Request, Tile
from hwmodel.dram.controller import Dram, Policy, enqueue_bursts, open_request
from hwmodel.dram.state import BURSTS_LEFT, REQUESTS_LEFT, DramState
from hwmodel.machine import Machine
from hwmodel.noc import Server
from hwmodel.operands import Operands
from hwmodel.program import QUEUES, Instruction, Phase, Program, task_lists, walk
from hwmodel.result import Ledger, PhaseTime, Result, SramUse, Traffic, make_result
from hwmodel.sram import SharedSram
from hwmodel.sram_access import NOTHING

BIN_FS = 10**9  # bandwidth over time is kept in bins of a microsecond


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
        if is_write:
            self.at(done_fs - self._env.now, request.engine.complete, request)
        else:
            request.engine.receive(request, done_fs)

    def at(self, delay_fs: int, callback: Callable[[Any], None], value: Any = None) -> None:
        """Call back after a time, with an event that carries the value."""
        event = Call(self._env)
        event.callbacks, event._ok, event._value = [callback], True, value
        self._env.schedule(event, delay=delay_fs)


class PhaseParts:
    """What the cores of a phase share: its decoded tiles and costs, and the books."""

    def __init__(
        self, program: Program, phase: Phase, machine: Machine, memory: MemorySide, traffic: Traffic, sram_use: SramUse
    ) -> None:
        self.phase = phase
        self.machine = machine
        self.memory = memory
        self.traffic = traffic
        self.sram_use = sram_use
        dma = machine.spec.cores.dma
        self.regions = Regions(program, phase, machine.organisation.burst_bytes, dma.min_transfer)
        self.tiles = Tiles(program, phase, machine)
        self.operands = Operands(machine, phase)


class Core:
    """One core during one phase: a process per queue, around one scratchpad."""

    def __init__(self, env: Clock, parts: PhaseParts) -> None:
        self.env = env
        self.machine = parts.machine
        self.memory = parts.memory
        self.sram_use = parts.sram_use
        self.counters = CounterBank(env, len(parts.phase.counters))
        self.sram = SharedSram()
        self._parts = parts
        self._phase = parts.phase
        self._causes = [counter.cause for counter in parts.phase.counters]

    def queue(self, number: int, tasks: Iterator[int], ledger: Ledger) -> Process:
        """Return the process of one queue; the ledger attributes every femtosecond of it."""
        return (self._transfer if QUEUES[number] in ("load", "store") else self._compute)(number, tasks, ledger)

    def _transfer(self, number: int, tasks: Iterator[int], ledger: Ledger) -> Process:
        """A DMA queue: work out each tile's bursts and requests, wait for its counters, issue it."""
        parts, name = self._parts, QUEUES[number]
        is_store = name == "store"
        engine = DmaEngine(self, number, is_store)
        for instruction, variables in walk(self._phase, number, tasks):
            region = parts.regions.region(instruction.tile, variables)
            bursts = parts.regions.bursts(region, is_store)
            cost = parts.tiles.cost(region, instruction.operands[0][0], is_store)
            stops = engine.cut(bursts)
            in_cache = parts.traffic.count(name, region, len(bursts), len(stops), cost)
            self.sram_use.count(number, cost, *((cost.sram, NOTHING) if is_store else (NOTHING, cost.sram)))
            for event, cause in self._waits(instruction, variables):
                yield event
                ledger.spend(cause, self.env.now)
            yield from engine.issue(Tile(instruction.signals, bursts, stops, cost, in_cache), ledger)
        yield from engine.drain(ledger)

    def _compute(self, number: int, tasks: Iterator[int], ledger: Ledger) -> Process:
        """The matrix or the vector queue: wait for the counters, compute, add to counters.

        An instruction is done when its unit and the scratchpad both are.
        """
        env, sram, operands = self.env, self.sram, self._parts.operands
        for instruction, variables in walk(self._phase, number, tasks):
            cost = operands.cost(instruction, tuple([size(variables) for size in instruction.sizes]))
            for event, cause in self._waits(instruction, variables):
                yield event
                ledger.spend(cause, env.now)
            start_fs = env.now
            work = sram.ask(number, start_fs, cost.sram_fs)
            yield env.timeout(cost.useful_fs)
            ledger.spend("useful", env.now)
            if cost.sram_fs:
                while left := sram.left(number, work, env.now):
                    yield env.timeout(left)
                self.sram_use.count(number, cost, cost.read, cost.written)
                if env.now > start_fs + cost.useful_fs:
                    ledger.spend("SRAM bank conflict", start_fs + cost.alone_fs)
                    ledger.spend("SRAM contention", env.now)
                    self.sram_use.wait(number, env.now - start_fs - cost.alone_fs)
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
    tables = machine.address_map.compiled()
    policy = Policy(refresh=machine.spec.hbm.refresh, queue_depth=machine.spec.hbm.queue_depth)
    bin_ticks = machine.fs_to_ticks(BIN_FS)
    dram = Dram(machine.timing, machine.organisation, machine.spec.hbm.stacks, tables, policy, bin_ticks=bin_ticks)
    memory = MemorySide(env, machine, dram)
    cores = machine.spec.cores.count
    ledgers = [[Ledger() for _ in QUEUES] for _ in range(cores)]
    traffic = Traffic(program, machine.organisation.burst_bytes)
    sram_use = SramUse()
    times = []
    for phase in program.phases:
        start = env.now
        parts = PhaseParts(program, phase, machine, memory, traffic, sram_use)
        finished = env.process(_run_phase(env, parts, ledgers))
        memory.run()
        if not finished.triggered:
            raise RuntimeError(f"phase {phase.name} of {program.name} deadlocks: a queue waits for a counter for ever")
        times.append(PhaseTime(phase.name, env.now - start))
    books = ledgers, traffic, sram_use
    return make_result(program, machine, env.now, times, *books, dram, memory.cache_busy_fs, bin_ticks)


def _run_phase(env: Clock, parts: PhaseParts, ledgers: list[list[Ledger]]) -> Process:
    yield env.timeout(parts.machine.spec.launch.latency)
    processes = []
    shares = _shares(parts.phase, len(ledgers))
    for core_ledgers, share in zip(ledgers, shares, strict=True):
        core = Core(env, parts)
        for number, ledger in enumerate(core_ledgers):
            ledger.spend("launch", env.now)
            processes.append(env.process(core.queue(number, share(), ledger)))
    yield env.all_of(processes)
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
