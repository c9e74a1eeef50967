"""Fusion: two phases become one that hands a tensor over in the scratchpad, tile by tile.

A pass over compiled programs. Where one phase stores the tiles of a tensor that the next one loads, with the same tasks
on the same cores, the store and the load are left out: what reads the tile reads the block that it was written to. That
saves the bytes of the tensor both ways and one launch, and takes the buffers of both phases at once.

What keeps it right: a block is read when the first phase has said that it is there, and written again when the second
has said that it is done with it. These two counters, and that they count tiles one by one, `handover` finds in what the
cores execute. A store that is left out gives its signals to the one before it, which is complete earlier; without one,
whoever waited for it waits until the tile has been used. A load likewise. Every other instruction keeps its place among
those of its phase and queue. Loops of one queue that go round equally often become one, so that the
phases take turns tile by tile; whether any queue would wait for ever is tried out before the phase is returned.

Not fused: phases that share another tensor which one of them stores, dynamic schedules, tiles that differ, tensors
behind an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwmodel.assembler import block
from hwmodel.expansion import evaluate
from hwmodel.machine import Machine
from hwmodel.program import NONE, QUEUES, Buffer, Counter, Op, Phase, Program, Tensor, task_lists, variable_count
from workloads.buffers import allocate
from workloads.handover import Side, check_progress, consumed, produced
from workloads.streams import LOAD, STORE, Line, Row, Space, instructions, read, shifted, touched, write
from workloads.values import flat

Array = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Fusion:
    """A program with one phase less, and what that saves: bytes asked of memory, and the time of a launch."""

    program: Program
    tensor: str
    saved_bytes: int
    saved_launch_fs: int


def fuse(program: Program, number: int, machine: Machine) -> Fusion:
    """Return the program with phases `number` and `number` + 1 as one; the tensor between them is not stored any more.

    Raises ValueError saying why where that cannot be done, or where the buffers of both do not fit the scratchpad.
    """
    if not 0 <= number < len(program.phases) - 1:
        raise ValueError(f"phase {number}: program {program.name} has {len(program.phases)}; the last has no next one")
    a, b = program.phases[number : number + 2]
    stored, loaded = _handed(program.tensors, a, b)
    _check_unused(program, {number, number + 1}, stored)
    shares = _shares(a, b, machine.spec.cores.count)
    made, used = produced(a, stored, shares), consumed(b, loaded, shares)
    _check_type(program.tensors[stored], a, made)
    if made.regions != used.regions:
        raise ValueError(f"phases {a.name} and {b.name} cut {program.tensors[stored].name} into different tiles")
    fused = _fused(_Pair(a, b, made, used, machine), shares)
    machine.require_fit(fused)
    axes = len(program.tensors[stored].layout.axes)
    elements = sum(int(np.prod(region[axes:])) for core in made.regions for region in core)
    phases = (*program.phases[:number], fused, *program.phases[number + 2 :])
    return Fusion(
        _without(replace(program, phases=phases), {stored, loaded}),
        program.tensors[stored].name,
        2 * elements * program.tensors[stored].element_bytes,
        machine.spec.launch.latency,
    )


def _check_type(tensor: Tensor, a: Phase, made: Side) -> None:
    """Raise ValueError where the store would have rounded."""
    buffer = a.buffers[made.buffer]
    if buffer.dtype != tensor.dtype:
        raise ValueError(
            f"phase {a.name}: buffer {buffer.name} is {buffer.dtype}, tensor {tensor.name} that it is stored to "
            f"{tensor.dtype}"
        )


def _meet(one: Tensor, other: Tensor) -> bool:
    return one.base_bytes < other.base_bytes + other.size_bytes and other.base_bytes < one.base_bytes + one.size_bytes


def _handed(tensors: Sequence[Tensor], a: Phase, b: Phase) -> tuple[int, int]:
    """Return the tensor that `a` stores and `b` loads, by the numbers that both give it.

    Raises ValueError unless there is one such, and nothing else that one stores and the other touches.
    """
    moved = [(touched(phase, LOAD), touched(phase, STORE)) for phase in (a, b)]
    (a_loads, a_stores), (b_loads, b_stores) = moved
    pairs = [(s, t) for s in sorted(a_stores) for t in sorted(b_loads) if _meet(tensors[s], tensors[t])]
    if len(pairs) != 1:
        raise ValueError(f"phases {a.name} and {b.name}: {len(pairs)} tensors go from one to the other; allowed: one")
    for one, other in ((a_loads | a_stores, b_stores), ({pairs[0][0]}, a_loads)):
        both = [tensors[s].name for s in sorted(one) for t in sorted(other) if _meet(tensors[s], tensors[t])]
        if both:
            raise ValueError(
                f"phases {a.name} and {b.name}: {both[0]} is also used before it is stored, or stored again"
            )
    first, second = (tensors[number] for number in pairs[0])
    sizes = [[t.layout.size(axis) for axis in t.layout.axes] for t in (first, second)]
    same = (first.base_bytes, first.dtype, flat(first.layout).key) == (
        second.base_bytes,
        second.dtype,
        flat(second.layout).key,
    )
    if not same or sizes[0] != sizes[1]:
        raise ValueError(f"phases {a.name} and {b.name}: {first.name} and {second.name} are not one tensor to both")
    return pairs[0]


def _shares(a: Phase, b: Phase, cores: int) -> list[list[int]]:
    """Return the tasks of every core, the same of both phases."""
    if a.schedule.dynamic or b.schedule.dynamic:
        raise ValueError(f"phases {a.name} and {b.name}: a dynamic schedule cannot be fused")
    equal = np.array_equal(a.schedule.order, b.schedule.order) and np.array_equal(a.schedule.start, b.schedule.start)
    if len(a.tasks) != len(b.tasks) or not equal:
        raise ValueError(f"phases {a.name} and {b.name} deal different tasks to the cores")
    return [list(tasks) for tasks in task_lists(a.schedule, cores)]


@dataclass(frozen=True)
class _Pair:
    """Two phases that are to become one. Counters and buffers of `b` are numbered behind those of `a`."""

    a: Phase
    b: Phase
    made: Side
    used: Side
    machine: Machine

    @property
    def name(self) -> str:
        return f"{self.a.name} + {self.b.name}"

    @property
    def ready(self) -> int:
        return self.made.counter

    @property
    def free(self) -> int:
        return len(self.a.counters) + self.used.counter


def _fused(pair: _Pair, shares: list[list[int]]) -> Phase:
    """Return the phase, with loops taken together where that goes, else with the phases' loops one after another."""
    together = [_loop_pair(pair.a, pair.b, queue) for queue in range(len(QUEUES))]
    apart: list[tuple[int, int] | None] = [None] * len(QUEUES)
    for loops in (together, apart):
        phase = _merged(pair, loops)
        try:
            check_progress(phase, shares)
        except ValueError:
            if loops is apart:
                raise
        else:
            return phase
    raise AssertionError("unreachable")


def _loop_pair(a: Phase, b: Phase, queue: int) -> tuple[int, int] | None:
    """Return the first loop of a queue in either phase, if both go round equally often for every task."""
    trips = []
    numbers = []
    for phase in (a, b):
        found = next((i for i in phase.decoded[queue] if i.op is Op.LOOP), None)
        if found is None:
            return None
        variables = np.zeros((len(phase.tasks), variable_count(len(phase.columns))), np.int64)
        variables[:, 0], variables[:, 1 : 1 + len(phase.columns)] = 1, phase.tasks
        trips.append(evaluate(phase, found.sizes[0], variables))
        numbers.append(found.loop)
    return (numbers[0], numbers[1]) if np.array_equal(trips[0], trips[1]) else None


def _merged(pair: _Pair, together: Sequence[tuple[int, int] | None]) -> Phase:
    names, tasks, columns = _columns(pair.a, pair.b)
    buffers, numbers = _buffers(pair)
    first, second = [], []
    for queue, loops in enumerate(together):
        taken = [i.loop for i in pair.a.decoded[queue] if i.op is Op.LOOP]
        others = [i.loop for i in pair.b.decoded[queue] if i.op is Op.LOOP and (loops is None or i.loop != loops[1])]
        places = {loop: len(taken) + i for i, loop in enumerate(others)} | ({loops[1]: loops[0]} if loops else {})
        width = len(names)
        first.append(read(pair.a, queue, Space(tuple(range(len(pair.a.columns))), width, {i: i for i in taken})))
        second.append(read(pair.b, queue, Space(columns, width, places)))
    for line in (line for lines in second for line in instructions(lines)):
        line.waits = [(counter + len(pair.a.counters), value) for counter, value in line.waits]
        line.signals = [counter + len(pair.a.counters) for counter in line.signals]
        line.operands = [(numbers[buffer], slot) for buffer, slot in line.operands]
    _hand_over(pair, first, second)
    streams = [_one_stream(*lines) for lines in zip(first, second, together, strict=True)]
    counters = _counters(pair, streams)
    return write(pair.name, names, tasks, pair.a.schedule, streams, buffers, counters)


def _columns(a: Phase, b: Phase) -> tuple[tuple[str, ...], Array, tuple[int, ...]]:
    """Return the columns of both task tables, equal ones once, the table, and where those of `b` are."""
    names, columns, places = list(a.columns), list(a.tasks.T), []
    for name, column in zip(b.columns, b.tasks.T, strict=True):
        if name in a.columns and np.array_equal(columns[a.columns.index(name)], column):
            places.append(a.columns.index(name))
        else:
            places.append(len(names))
            names.append(f"{b.name} {name}" if name in names else name)
            columns.append(column)
    tasks = np.ascontiguousarray(np.stack(columns, axis=1)) if columns else a.tasks
    return tuple(names), tasks, tuple(places)


def _buffers(pair: _Pair) -> tuple[tuple[Buffer, ...], list[int]]:
    """Return the buffers of both, with one for what is handed over, and the numbers of those of `b`."""
    made, used = pair.a.buffers[pair.made.buffer], pair.b.buffers[pair.used.buffer]
    requests, numbers = list(pair.a.buffers), []
    requests[pair.made.buffer] = _common(pair.name, made, used)
    names = {buffer.name for buffer in requests}
    for number, buffer in enumerate(pair.b.buffers):
        if number == pair.used.buffer:
            numbers.append(pair.made.buffer)
        else:
            numbers.append(len(requests))
            name = f"{pair.b.name} {buffer.name}" if buffer.name in names else buffer.name
            requests.append(replace(buffer, name=name))
    blocks = [block(r.name, r.rows, r.columns, r.dtype, r.slots, r.layout) for r in requests]
    return allocate(blocks, pair.machine), numbers


def _common(name: str, made: Buffer, used: Buffer) -> Buffer:
    """Return the buffer that is both. Raises ValueError where their types, slots or shapes do not go together."""
    for what in ("dtype", "slots"):
        one, other = getattr(made, what), getattr(used, what)
        if one != other:
            raise ValueError(f"phase {name}: buffers {made.name} and {used.name} have {what} {one} and {other}")
    layout = used.layout if used.layout is not None else made.layout
    if layout is not None and (made.rows, made.columns) != (used.rows, used.columns):
        raise ValueError(f"phase {name}: buffers {made.name} and {used.name} have a layout and different shapes")
    rows, columns = max(made.rows, used.rows), max(made.columns, used.columns)
    return replace(made, rows=rows, columns=columns, layout=layout)


def _hand_over(pair: _Pair, first: list[list[Line]], second: list[list[Line]]) -> None:
    """Take the store and the load out, and make writer and reader of a block wait for each other."""
    shared, slots = pair.made.buffer, pair.a.buffers[pair.made.buffer].slots
    for streams, side, counter, by in ((first, pair.made, pair.free, 1 - slots), (second, pair.used, pair.ready, 1)):
        queue, position = side.user
        user = next(line for line in instructions(streams[queue]) if line.position == position)
        number = next(slot for buffer, slot in user.operands if buffer == shared)
        _leave_out(streams, side.transfer, counter, pair.name)
        _wait(user, counter, shifted(number, by))


def _wait(line: Line, counter: int, value: Row) -> None:
    if (counter, value) not in line.waits:
        line.waits.append((counter, value))


def _leave_out(streams: list[list[Line]], transfer: tuple[int, int], instead: int, name: str) -> None:
    """Take a store or a load out: the one behind it waits in its place, the one before it signals in its place.

    Where there is none before it in its body, those who wait for it wait for the counter `instead`.
    """
    queue, position = transfer
    body, index = _find(streams[queue], position)
    line = body.pop(index)
    if index < len(body) and body[index].op is not Op.LOOP:
        for counter, value in line.waits:
            _wait(body[index], counter, value)
    if index > 0 and body[index - 1].op is not Op.LOOP:
        body[index - 1].signals += line.signals
        return
    rest = [other for lines in streams for other in instructions(lines)]
    if any(set(line.signals) & set(other.signals) for other in rest):
        raise ValueError(f"phase {name}: others signal what the transfer that is left out signals")
    if any(other.position < position and not other.signals for other in instructions(streams[queue])):
        raise ValueError(f"phase {name}: the transfer that is left out may speak for one that signals nothing")
    for other in rest:
        other.waits = [(instead if counter in line.signals else counter, value) for counter, value in other.waits]


def _find(lines: list[Line], position: int) -> tuple[list[Line], int]:
    """Return the body in which the instruction of this position stands, and where in it."""
    for index, line in enumerate(lines):
        if line.op is not Op.LOOP:
            if line.position == position:
                return lines, index
        elif any(inner.position == position for inner in instructions(line.body)):
            return _find(line.body, position)
    raise AssertionError(f"no instruction at position {position}")


def _one_stream(first: list[Line], second: list[Line], together: tuple[int, int] | None) -> list[Line]:
    """Return the lines of `first`, then those of `second`; with loops taken together, those around them likewise."""
    if together is None:
        return [*first, *second]
    at, there = (next(i for i, line in enumerate(lines) if line.op is Op.LOOP) for lines in (first, second))
    loop = replace(first[at], body=[*first[at].body, *second[there].body])
    return [*first[:at], *second[:there], loop, *first[at + 1 :], *second[there + 1 :]]


def _counters(pair: _Pair, streams: list[list[Line]]) -> tuple[Counter, ...]:
    """Number the counters that are still in use one after another; return them."""
    lines = [line for stream in streams for line in instructions(stream)]
    used = sorted({counter for line in lines for counter in (*line.signals, *(number for number, _ in line.waits))})
    for line in lines:
        line.waits = [(used.index(counter), value) for counter, value in line.waits]
        line.signals = [used.index(counter) for counter in line.signals]
    own = {counter.name for counter in pair.a.counters}
    behind = [replace(c, name=f"{pair.b.name} {c.name}") if c.name in own else c for c in pair.b.counters]
    counters = (*pair.a.counters, *behind)
    return tuple(counters[number] for number in used)


def _check_unused(program: Program, fused: set[int], tensor: int) -> None:
    """Raise ValueError if a phase that is not fused touches a tensor that is not stored any more."""
    for number, phase in enumerate(program.phases):
        if number not in fused:
            used = touched(phase, LOAD) | touched(phase, STORE)
            if any(_meet(program.tensors[tensor], program.tensors[other]) for other in used):
                raise ValueError(f"tensor {program.tensors[tensor].name} is also used by phase {phase.name}")


def _without(program: Program, gone: set[int]) -> Program:
    """Return the program without tensors that no phase touches."""
    left = [number for number in range(len(program.tensors)) if number not in gone]
    place = np.full(len(program.tensors), NONE, np.int32)
    place[left] = np.arange(len(left))
    phases = []
    for phase in program.phases:
        tiles = phase.tiles.copy()
        tiles["tensor"] = place[tiles["tensor"]]
        tiles["index"] = np.where(tiles["index"] == NONE, NONE, place[tiles["index"]])
        phases.append(replace(phase, tiles=tiles))
    return replace(program, tensors=tuple(program.tensors[number] for number in left), phases=tuple(phases))
