"""The reference model: a program's time, with SimPy processes, one class per component.

The readable definition of the machine. A core is four queue processes around one scratchpad, which all of them use
(`hwmodel.sram`); the two DMA queues cut tiles into memory requests with a bounded number in flight
(`hwmodel.dma_engine`); requests go to the memory side (`hwmodel.memory_side`), whose compiled DRAM channels
(`hwmodel.dram`) schedule every burst. Time is an integer count of femtoseconds; ties are broken by the order of
scheduling, so equal inputs give equal results. A script may put components of its own in place of some
(`hwmodel.components`). An observer (`hwmodel.observer`) may watch a run.

Not modelled: what the components name.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import simpy

from hwmodel.compiled import is_kept
from hwmodel.components import Components
from hwmodel.descriptors import Tiles
from hwmodel.dma import Regions, cut_requests
from hwmodel.dma_engine import Process, Tile
from hwmodel.dram.controller import Dram
from hwmodel.dram.kernel import run_of
from hwmodel.machine import Machine
from hwmodel.main_memory import SEND_FIELDS, DramMemory
from hwmodel.memory_side import Clock, MemorySide
from hwmodel.observer import Observer
from hwmodel.operands import Operands
from hwmodel.program import QUEUES, Instruction, Phase, Program, task_lists, walk
from hwmodel.result import BIN_FS, Ledger, PhaseTime, Result, SramUse, Traffic, make_result
from hwmodel.runs import RUN_WORDS
from hwmodel.sram_access import NOTHING

STANDARD = Components()


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


class PhaseParts:
    """What the cores of a phase share: its decoded tiles and costs, the books, and who watches."""

    def __init__(
        self,
        program: Program,
        phase: Phase,
        machine: Machine,
        components: Components,
        memory: MemorySide,
        traffic: Traffic,
        sram_use: SramUse,
        observer: Observer | None,
    ) -> None:
        self.phase = phase
        self.machine = machine
        self.components = components
        self.memory = memory
        self.traffic = traffic
        self.sram_use = sram_use
        self.observer = observer
        dma = machine.spec.cores.dma
        self.regions = Regions(program, phase, machine.burst_bytes, dma.min_transfer)
        self.tiles = Tiles(program, phase, machine)
        self.operands = Operands(machine, phase)


class Core:
    """One core during one phase: a process per queue, around one scratchpad."""

    def __init__(self, env: Clock, parts: PhaseParts, number: int) -> None:
        self.env = env
        self.number = number
        self.machine = parts.machine
        self.memory = parts.memory
        self.sram_use = parts.sram_use
        self.observer = parts.observer
        self.counters = CounterBank(env, len(parts.phase.counters))
        self.sram = parts.components.scratchpad()
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
        engine = parts.components.dma_engine(self, number, is_store)
        for instruction, variables in walk(self._phase, number, tasks):
            region = parts.regions.region(instruction.tile, variables)
            bursts = parts.regions.bursts(region, is_store)
            cost = parts.tiles.cost(region, instruction.operands[0][0], is_store)
            stops = engine.cut(bursts)
            parts.traffic.count(name, region, len(bursts), len(stops), cost)
            self.sram_use.count(number, cost, *((cost.sram, NOTHING) if is_store else (NOTHING, cost.sram)))
            if self.observer:
                self.observer.turn(self.number, number, instruction, variables, region)
            for event, cause in self._waits(instruction, variables):
                yield event
                ledger.spend(cause, self.env.now)
            yield from engine.issue(Tile(instruction.signals, bursts, stops, cost), ledger)
        yield from engine.drain(ledger)

    def _compute(self, number: int, tasks: Iterator[int], ledger: Ledger) -> Process:
        """The matrix or the vector queue: wait for the counters, compute, add to counters.

        An instruction is done when its unit and the scratchpad both are.
        """
        env, sram, operands = self.env, self.sram, self._parts.operands
        for instruction, variables in walk(self._phase, number, tasks):
            cost = operands.executed(instruction, variables)
            if self.observer:
                self.observer.turn(self.number, number, instruction, variables, None)
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
            if self.observer:
                self.observer.complete(self.number, number, env.now)
            self.counters.add(instruction.signals)

    def _waits(self, instruction: Instruction, variables: list[int]) -> Iterator[tuple[simpy.Event, str]]:
        """Yield an event and its cause for every counter that is not there yet when its turn comes."""
        counters = self.counters
        for counter, value in instruction.waits:
            target = value(variables)
            if not counters.reached(counter, target):
                yield counters.when(counter, target), self._causes[counter]


def simulate(
    program: Program, machine: Machine, components: Components = STANDARD, observer: Observer | None = None
) -> Result:
    """Run `program` on `machine`, made of these components, and return its `Result`, which names those of one's own.

    An observer is told of the run, and changes nothing. Raises ValueError if a phase does not fit the
    scratchpad, or deals its tasks to another number of cores.
    """
    for phase in program.phases:
        machine.require_fit(phase)
    env = Clock()
    dram = make_dram(machine, log_bursts=observer is not None) if machine.memory == "hbm" else None
    memory = components.memory_side(env, machine, dram)
    memory.begin(program)
    cores = machine.spec.cores.count
    ledger = observer.ledger if observer else lambda core, queue: Ledger()
    ledgers = [[ledger(core, queue) for queue in range(len(QUEUES))] for core in range(cores)]
    traffic = Traffic(program, machine.burst_bytes)
    sram_use = SramUse()
    times = []
    for phase in program.phases:
        start = env.now
        parts = PhaseParts(program, phase, machine, components, memory, traffic, sram_use, observer)
        finished = env.process(_run_phase(env, parts, ledgers))
        memory.run()
        if not finished.triggered:
            raise RuntimeError(f"phase {phase.name} of {program.name} deadlocks: a queue waits for a counter for ever")
        times.append(PhaseTime(phase.name, env.now - start))
    books = ledgers, traffic, sram_use
    moved = dram, memory.cache_busy_fs, memory.levels()
    result = make_result(program, machine, env.now, times, *books, *moved, components.own)
    if observer and dram:
        observer.bursts(dram.bursts())
    return result


def make_dram(machine: Machine, log_bursts: bool = False) -> Dram:
    """Return the DRAM channels of a machine with HBM; `log_bursts` keeps one row per burst."""
    hbm = machine.hbm
    tables, bin_ticks = hbm.address_map.compiled(), machine.fs_to_ticks(BIN_FS)
    described = hbm.timing, hbm.organisation, hbm.spec.stacks, tables, hbm.policy
    return Dram(*described, bin_ticks=bin_ticks, log_bursts=log_bursts)


def compile_dram(machine: Machine) -> None:
    """Compile the DRAM channels of a machine, or load them from the disk; `simulate` does so when it needs them."""
    if machine.memory == "hbm":
        memory = DramMemory(make_dram(machine))
        memory.submit(np.zeros((0, SEND_FIELDS), np.int64), np.zeros((0, RUN_WORDS), np.int64))
        memory.dram.advance(1)


def is_dram_compiled(machine: Machine) -> bool:
    """Return whether code for the DRAM channels of a machine is on the disk, most likely, or none is needed."""
    if machine.memory != "hbm":
        return True
    return is_kept(run_of(machine.hbm.policy))


def compile_others(program: Program, machine: Machine) -> None:
    """Compile nearly all else that `simulate` needs for a program, or load it from the disk."""
    MemorySide(Clock(), machine, None).run()
    dma, phase = machine.spec.cores.dma, program.phases[0]
    regions = Regions(program, phase, machine.burst_bytes, dma.min_transfer)
    for instruction, variables in islice(walk(phase, QUEUES.index("load"), [0]), 1):
        bursts = regions.bursts(regions.region(instruction.tile, variables))
        cut_requests(bursts, machine.burst_bytes, len(bursts), dma.max_runs)


def _run_phase(env: Clock, parts: PhaseParts, ledgers: list[list[Ledger]]) -> Process:
    yield env.timeout(parts.machine.spec.launch.latency)
    if parts.observer:
        parts.observer.begin(parts.phase, env.now)
    processes = []
    shares = _shares(parts.phase, len(ledgers))
    for place, (core_ledgers, share) in enumerate(zip(ledgers, shares, strict=True)):
        core = Core(env, parts, place)
        for number, ledger in enumerate(core_ledgers):
            ledger.spend("launch", env.now)
            processes.append(env.process(core.queue(number, share(), ledger)))
    yield env.all_of(processes)
    if (quiet := parts.memory.quiet()) is not None:  # a phase ends when what it drove out of the cache is in memory
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
