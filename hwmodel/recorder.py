"""The observer that records a timeline: runs a program on the reference and keeps what every unit did when.

Between `reference` and `timeline`. A unit's account tells of its intervals as they pass; the rest follows at the end:
a link leads from an instruction that raised a counter to the first one of each queue that needed it, along counters of
data (those of free buffers lead back, and are left out); a release from the one that raised a counter of either kind as
far as another needed it; a block of the scratchpad holds data from the completion of
a load to its last use.

Not recorded: what `timeline` names.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from hwmodel import reference
from hwmodel.dma import Region
from hwmodel.dram.state import MERGE_OUTCOME
from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Instruction, Phase, Program
from hwmodel.result import Ledger, Result
from hwmodel.timeline import (
    USEFUL,
    Execution,
    PhaseSpan,
    Request,
    Span,
    Steps,
    Timeline,
    bandwidth,
    held,
    stepped,
    waiting,
)

_IDLE = ("launch", "no work")  # not kept: between spans


class _Account(Ledger):
    """A ledger that notes its intervals; those of one cause that follow one another in an instruction are one."""

    def __init__(self, core: int, queue: int) -> None:
        super().__init__()
        self._unit = core, queue
        self.execution = 0  # set before the first interval that is kept
        self.spans: list[Span] = []

    def spend(self, cause: str, now_fs: int) -> None:
        from_fs = self.mark_fs
        super().spend(cause, now_fs)
        if now_fs <= from_fs or cause in _IDLE:
            return
        if self.spans:
            last = self.spans[-1]
            if (last.cause, last.to_fs, last.execution) == (cause, from_fs, self.execution):
                self.spans[-1] = last._replace(to_fs=now_fs)
                return
        self.spans.append(Span(*self._unit, cause, from_fs, now_fs, self.execution))


@dataclass
class _PhaseBook:
    """What was recorded of one phase, per core."""

    phase: Phase
    launched_fs: int
    raised: dict[tuple[int, int], list[int]] = field(default_factory=lambda: defaultdict(list))  # (core, counter)
    awaited: dict[tuple[int, int, int], int] = field(default_factory=dict)  # (core, queue, counter): up to which value
    wanted: list[tuple[int, int, int, int, int]] = field(default_factory=list)  # core, counter, first, stop, by whom
    requests: dict[tuple[int, int], list[tuple[int, int]]] = field(  # (core, queue): (by whom, when)
        default_factory=lambda: defaultdict(list)
    )
    uses: dict[tuple[int, int, int], list[int]] = field(default_factory=lambda: defaultdict(list))  # a core's block


class Recorder:
    """Observes one run of a program; see `hwmodel.observer`."""

    def __init__(self, program: Program, machine: Machine) -> None:
        self._program, self._machine = program, machine
        self._accounts: dict[tuple[int, int], _Account] = {}
        self._books: list[_PhaseBook] = []
        self._executions: list[Execution] = []
        self._signals: list[tuple[int, ...]] = []
        self._pending: dict[tuple[int, int], deque[int]] = defaultdict(deque)
        self._requests: list[Request] = []
        self._sizes_bytes: list[int] = []  # of the requests
        self._log: Any = None

    def ledger(self, core: int, queue: int) -> Ledger:
        account = self._accounts[core, queue] = _Account(core, queue)
        return account

    def begin(self, phase: Phase, now_fs: int) -> None:
        self._books.append(_PhaseBook(phase, now_fs))

    def turn(
        self, core: int, queue: int, instruction: Instruction, variables: list[int], region: Region | None
    ) -> None:
        book, number = self._books[-1], len(self._executions)
        self._accounts[core, queue].execution = number
        self._pending[core, queue].append(number)
        self._signals.append(instruction.signals)
        self._executions.append(self._described(core, queue, instruction, variables, region))
        for buffer, slot in instruction.operands:
            book.uses[core, buffer, slot(variables)].append(number)
        for counter, value in instruction.waits:
            reached, target = book.awaited.get((core, queue, counter), 0), value(variables)
            if target > reached:
                book.wanted.append((core, counter, reached, target, number))
                book.awaited[core, queue, counter] = target

    def complete(self, core: int, queue: int, now_fs: int) -> None:
        number = self._pending[core, queue].popleft()
        self._executions[number] = replace(self._executions[number], done_fs=now_fs)
        for counter in self._signals[number]:
            self._books[-1].raised[core, counter].append(number)

    def request(self, core: int, queue: int, now_fs: int) -> None:
        self._books[-1].requests[core, queue].append((self._accounts[core, queue].execution, now_fs))

    def answer(self, core: int, queue: int, number: int, size_bytes: int, now_fs: int) -> None:
        execution, sent_fs = self._books[-1].requests[core, queue][number]
        self._requests.append(Request(core, queue, execution, sent_fs, now_fs))
        self._sizes_bytes.append(size_bytes)

    def bursts(self, log: Any) -> None:
        self._log = log[log[:, 6] != MERGE_OUTCOME]

    def finish(self, result: Result) -> Timeline:
        """Return the timeline of the run, whose result this is."""
        spans = [account.spans for _, account in sorted(self._accounts.items())]
        return Timeline(
            result.program,
            result.machine,
            result.program_hash,
            result.machine_hash,
            result.makespan_fs,
            self._machine.spec.cores.count,
            self._phases(result),
            tuple(self._executions),
            tuple(span for of_unit in spans for span in of_unit),
            tuple(link for book in self._books for link in _links(book)),
            tuple(release for book in self._books for release in _releases(book)),
            tuple(self._requests),
            (
                *self._memory(result.makespan_fs),
                *self._in_flight(result.makespan_fs),
                *self._occupied(self._phases(result), spans),
            ),
        )

    def _described(
        self, core: int, queue: int, instruction: Instruction, variables: list[int], region: Region | None
    ) -> Execution:
        buffers = [self._books[-1].phase.buffers[number].name for number, _ in instruction.operands]
        slots = [slot(variables) for _, slot in instruction.operands]
        blocks = tuple(f"{name}[{slot}]" for name, slot in zip(buffers, slots, strict=True))
        if region is None:
            sizes = " x ".join(str(size(variables)) for size in instruction.sizes)
            what = instruction.function or "matmul"
            return Execution(core, queue, f"{what} {buffers[0]}", blocks, sizes, 0)
        tensor = self._program.tensors[region.tensor]
        axes = zip(tensor.layout.axes, region.starts, region.extents, strict=True)
        parts = ", ".join(f"{axis} {start} + {extent}" for axis, start, extent in axes)
        if region.pages:
            parts += f", by index from {region.first_page}"
        return Execution(core, queue, f"{instruction.op.name.lower()} {tensor.name}", blocks, parts, 0)

    def _phases(self, result: Result) -> tuple[PhaseSpan, ...]:
        found, from_fs = [], 0
        for book, phase in zip(self._books, result.phases, strict=True):
            found.append(PhaseSpan(phase.name, from_fs, book.launched_fs, from_fs + phase.fs))
            from_fs += phase.fs
        return tuple(found)

    def _memory(self, makespan_fs: int) -> Iterator[Steps]:
        """Yield what the cores' requests moved, and what the stacks of HBM moved: all of them, and each."""
        answered_fs = [request.to_fs for request in self._requests]
        yield bandwidth("network GB/s", answered_fs, self._sizes_bytes, makespan_fs)
        if self._log is None:
            return
        machine, n_bl = self._machine, self._machine.timing.nBL
        arrived_fs, done_fs = ([machine.ticks_to_fs(t) for t in self._log[:, column].tolist()] for column in (0, 1))
        yield waiting("HBM bursts waiting", arrived_fs, done_fs, makespan_fs)
        times_fs = [machine.ticks_to_fs(tick - n_bl) for tick in self._log[:, 1].tolist()]
        yield bandwidth("HBM GB/s", times_fs, [machine.burst_bytes] * len(times_fs), makespan_fs)
        stacks = (self._log[:, 2] // machine.organisation.channels).tolist()
        of_stack: dict[int, list[int]] = defaultdict(list)
        for stack, time_fs in zip(stacks, times_fs, strict=True):
            of_stack[stack].append(time_fs)
        for stack, its_fs in sorted(of_stack.items()):
            sizes = [machine.burst_bytes] * len(its_fs)
            yield bandwidth(f"HBM stack {stack} GB/s", its_fs, sizes, makespan_fs)

    def _in_flight(self, makespan_fs: int) -> Iterator[Steps]:
        """Yield the memory requests in flight, of all cores and of each engine."""
        of_engine: dict[tuple[int, int], list[Request]] = defaultdict(list)
        for request in self._requests:
            of_engine[request.core, request.queue].append(request)
        yield _waiting("requests in flight", self._requests, makespan_fs)
        for (core, queue), requests in sorted(of_engine.items()):
            yield replace(_waiting(f"{QUEUES[queue]} requests in flight", requests, makespan_fs), core=core)

    def _occupied(self, phases: tuple[PhaseSpan, ...], spans: list[list[Span]]) -> Iterator[Steps]:
        """Yield the bytes of each core's scratchpad in blocks with data that was loaded and is still to be used."""
        begun = {span.execution: span.from_fs for unit in spans for span in reversed(unit) if span.cause == USEFUL}
        changes: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for book, phase in zip(self._books, phases, strict=True):
            for (core, buffer, _), numbers in book.uses.items():
                loads = [n for n in numbers if self._executions[n].queue == QUEUES.index("load")]
                if not loads:
                    continue
                fills = [self._executions[n].done_fs for n in loads]
                others = sorted(set(numbers) - set(loads))
                used = [(begun[n], self._executions[n].done_fs) for n in others if n in begun]
                size_bytes = book.phase.buffers[buffer].pitch_bytes
                for from_fs, to_fs in held(fills, used, phase.to_fs):
                    changes[core] += [(from_fs, size_bytes), (to_fs, -size_bytes)]
        for core, of_core in sorted(changes.items()):
            yield stepped(core, "scratchpad bytes", sorted(of_core))


def _waiting(name: str, requests: list[Request], makespan_fs: int) -> Steps:
    return waiting(name, [r.from_fs for r in requests], [r.to_fs for r in requests], makespan_fs)


def _links(book: _PhaseBook) -> Iterator[tuple[int, int]]:
    for core, counter, first, stop, waiter in book.wanted:
        if book.phase.counters[counter].cause != "buffer":
            for number in book.raised[core, counter][first:stop]:
                yield number, waiter


def _releases(book: _PhaseBook) -> Iterator[tuple[int, int]]:
    for core, counter, _, stop, waiter in book.wanted:
        yield book.raised[core, counter][stop - 1], waiter


def record(program: Program, machine: Machine) -> tuple[Result, Timeline]:
    """Run a program on the reference; return its result and its timeline. Raises what `reference.simulate` does."""
    recorder = Recorder(program, machine)
    result = reference.simulate(program, machine, observer=recorder)
    return result, recorder.finish(result)
