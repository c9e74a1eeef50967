"""How long one core takes alone: its four queues wait for each other, memory answers each request as soon as it can.

Beside the bounds of resources, which know no order, this is the bound of dependencies: what must be loaded before it is
multiplied, multiplied before it is stored, and stored before its buffer is free. Every instruction takes its least
time, and none starts sooner for another one taking longer, so that no run is shorter than this. Counters that several
queues add to are not waited for.

Not in it: other cores, misses, conflicts, requests that wait for a place, and what the scratchpad's users take from
each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hwmodel.bound_costs import answer_fs, first_request_fs, issue_fs
from hwmodel.machine import Machine
from hwmodel.operands import Operands
from hwmodel.program import NONE, QUEUES, Instruction, Op, Phase, Program, walk

MOST_STEPS = 1 << 12  # assumed: instructions of a phase that are walked, in some fifteen milliseconds


@dataclass
class _Queue:
    """A queue: what it still has to execute, and when it is free. `next` waits for its counters."""

    steps: Iterator[tuple[Instruction, list[int]]]
    free_fs: int = 0
    port_fs: int = 0  # when the port has passed what came before, of a DMA engine
    done_fs: int = 0  # when all before it is complete
    next: tuple[Instruction, list[int]] | None = None


@dataclass
class _Core:
    """The counters of a core: when each was added to, in order; of those that one queue adds to."""

    own: set[int]
    added_fs: dict[int, list[int]] = field(default_factory=dict)

    def ready_fs(self, instruction: Instruction, variables: list[int]) -> int | None:
        """Return when an instruction's counters are there, None while that is not known."""
        ready = 0
        for counter, value in instruction.waits:
            needed = value(variables)
            if needed <= 0 or counter not in self.own:
                continue
            times = self.added_fs.get(counter, [])
            if len(times) < needed:
                return None
            ready = max(ready, times[needed - 1])
        return ready


def lone_core_fs(program: Program, phase: Phase, machine: Machine, operands: Operands, tasks: list[int]) -> int:
    """Return the least time in which a core executes `tasks` of a phase, from the launch on.

    Nought where its queues wait for what never comes: `program` may have been written by hand.
    """
    costs = _Costs(program, phase, machine, operands)
    adders: dict[int, set[int]] = {}
    for number in range(len(QUEUES)):
        for instruction in phase.decoded[number]:
            for counter in instruction.signals:
                adders.setdefault(counter, set()).add(number)
    core = _Core({counter for counter, queues in adders.items() if len(queues) == 1})
    queues = [_Queue(walk(phase, number, tasks)) for number in range(len(QUEUES))]
    while sum(_advance(queue, core, costs) for queue in queues):
        pass
    if any(queue.next is not None for queue in queues):
        return 0
    return max(queue.done_fs for queue in queues)


def _advance(queue: _Queue, core: _Core, costs: _Costs) -> bool:
    """Execute what a queue can; return whether that was anything."""
    some = False
    while True:
        if queue.next is None:
            queue.next = next(queue.steps, None)
            if queue.next is None:
                return some
        instruction, variables = queue.next
        ready = core.ready_fs(instruction, variables)
        if ready is None:
            return some
        costs.execute(queue, instruction, variables, max(ready, queue.free_fs))
        for counter in instruction.signals:
            core.added_fs.setdefault(counter, []).append(queue.done_fs)
        queue.next, some = None, True


class _Costs:
    """The least times of a phase's instructions, each distinct one worked out once."""

    def __init__(self, program: Program, phase: Phase, machine: Machine, operands: Operands) -> None:
        self._machine, self._operands = machine, operands
        self._known: dict[tuple[int, ...], tuple[int, int]] = {}
        self._request_fs, self._answer_fs = first_request_fs(machine), answer_fs(machine)
        self._back_fs = 2 * machine.least_network_fs  # of a store's answer
        self._tiles = [_size_of(program, phase, number) for number in range(len(phase.tiles))]

    def execute(self, queue: _Queue, instruction: Instruction, variables: list[int], start_fs: int) -> None:
        """Let a queue execute an instruction that starts at a time."""
        if instruction.op in (Op.LOAD, Op.STORE):
            self._move(queue, instruction, variables, start_fs)
            return
        queue.free_fs = queue.done_fs = start_fs + self._operands.executed(instruction, variables).alone_fs

    def _move(self, queue: _Queue, instruction: Instruction, variables: list[int], start_fs: int) -> None:
        size_bytes, pages = self._tiles[instruction.tile](variables)
        queue.free_fs = start_fs
        if size_bytes == 0:
            queue.done_fs = max(queue.done_fs, start_fs)
            return
        key = size_bytes, pages
        if key not in self._known:
            self._known[key] = issue_fs(self._machine, size_bytes, pages), self._machine.port_fs(size_bytes)
        issue, port = self._known[key]
        queue.free_fs = start_fs + issue
        first, answered = start_fs + self._request_fs, self._back_fs
        if instruction.op is Op.LOAD:  # its data passes the port when it is back, a store's before it is sent
            first, answered = first + self._answer_fs, 0
        queue.port_fs = max(queue.port_fs, first) + port
        queue.done_fs = max(queue.done_fs, queue.port_fs + answered)


def _size_of(program: Program, phase: Phase, number: int) -> Callable[[list[int]], tuple[int, int]]:
    """Return what says how many bytes a tile has, and how many pages it touches at least."""
    tile = phase.tiles[number]
    tensor = program.tensors[tile["tensor"]]
    extents = [phase.expression(extent) for extent in tile["extent"].tolist() if extent != NONE]
    position, page_size = None, 1
    if tile["index"] != NONE:
        axis = int(tile["position_axis"])
        position = phase.expression(tile["extent"][axis])
        page_size = 1 if tile["page_axis"] == axis else tensor.layout.size(tensor.layout.axes[axis])

    def size(variables: list[int]) -> tuple[int, int]:
        size_bytes = tensor.element_bytes
        for extent in extents:
            size_bytes *= extent(variables)
        return size_bytes, 0 if position is None else -(-position(variables) // page_size)

    return size
