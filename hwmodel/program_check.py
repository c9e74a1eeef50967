"""Whether numbers that somebody else wrote make a program: what the executors count on without looking.

Between a file (`hwmodel.saving`) and the executors. A program that the assembler wrote passes; of any other every
number is looked at before compiled code reads it: records, loops, schedules and tensors here, the values that amounts
can take in `hwmodel.program_ranges`. Stricter than need be where that is simpler: tensors may not overlap, and a loop
has a number of its own in its queue.

Not checked: whether a queue waits for ever, and whether a machine has a rate for a type, both of which the executors
say, and what buffers hold.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from hwmodel.limits import MAX_AXES, MAX_LOOPS
from hwmodel.machine import Machine
from hwmodel.program import NONE, QUEUES, Op, Phase, Program, Tensor, task_lists
from hwmodel.program_ranges import check_ranges
from hwmodel.vector import OPERATIONS
from layouts import is_injective

Array = np.ndarray[Any, Any]
# All assumed: far more than any program has that can be simulated.
MAX_TENSORS, MAX_PHASES, MAX_STREAM = 1024, 256, 4096
MAX_TABLE = 1 << 27  # values of a table
MAX_BLOCK = 1 << 24  # elements of a block of a buffer
MAX_ADDRESS = 1 << 50
MAX_CACHED_BYTES = 1 << 32  # of all tensors that a cache is to hold from the start
MAX_DIGITS = 16  # extents of a tensor's layout

_OF_QUEUE = {"load": Op.LOAD, "store": Op.STORE, "matrix": Op.MATMUL, "vector": Op.VECTOR}
_OPERANDS = {Op.LOOP: 0, Op.END: 0, Op.LOAD: 1, Op.STORE: 1, Op.MATMUL: 3}
_SIZES = {Op.LOOP: 1, Op.END: 0, Op.LOAD: 0, Op.STORE: 0, Op.MATMUL: 3}


def check_program(program: Program) -> None:
    """Raise ValueError, in one line with the place, the value and what is allowed, for what is no program."""
    if not program.tensors or not program.phases:
        raise ValueError(
            f"program {program.name}: {len(program.tensors)} tensors and {len(program.phases)} phases; allowed: from 1"
        )
    for tensor in program.tensors:
        _check_tensor(tensor)
    _check_apart(program.tensors)
    for phase in program.phases:
        try:
            _check_tasks(phase)
            _check_buffers(phase)
            for queue in QUEUES:
                _check_stream(program, phase, queue)
            check_ranges(program, phase)
        except ValueError as error:
            where = f"phase {phase.name}: "
            raise ValueError(f"{where}{str(error).removeprefix(where)}") from None


def check_fits(program: Program, machine: Machine) -> None:
    """Raise ValueError where a program that others wrote cannot run on a machine, by its size or its cores."""
    for phase in program.phases:
        machine.require_fit(phase)
        if not phase.schedule.dynamic:
            task_lists(phase.schedule, machine.spec.cores.count)
    for tensor in program.tensors:
        end, room = tensor.base_bytes + tensor.size_bytes, machine.memory_capacity_bytes
        if end > room:
            raise ValueError(f"tensor {tensor.name}: ends at {end} B; {machine.spec.name} has {room} B of memory")


def _check_tensor(tensor: Tensor) -> None:
    where, layout = f"tensor {tensor.name}", tensor.layout.layout
    digits = layout.leaves()
    if not 1 <= len(tensor.layout.axes) <= MAX_AXES or len(digits) > MAX_DIGITS:
        raise ValueError(f"{where}: {layout}; allowed: 1 to {MAX_AXES} axes of up to {MAX_DIGITS} extents in all")
    for extent, stride in digits:
        if type(stride) is not int or extent < 1 or stride < 0 or extent * stride > MAX_ADDRESS:
            raise ValueError(f"{where}: {layout}; allowed: extents from 1, strides from 0, within {MAX_ADDRESS} B")
    if not 0 <= tensor.base_bytes <= MAX_ADDRESS or tensor.base_bytes + tensor.size_bytes > MAX_ADDRESS:
        raise ValueError(f"{where}: begins at {tensor.base_bytes} B; allowed: addresses from 0 to {MAX_ADDRESS}")
    if not is_injective(layout):
        raise ValueError(f"{where}: {layout} puts two elements in one place")
    contents = tensor.values
    if contents is not None and (tensor.dtype != "int32" or contents.shape != (layout.size,)):
        raise ValueError(
            f"{where}: contents of {contents.size} int32 for {layout.size} elements of {tensor.dtype}; allowed: one "
            "int32 for each"
        )


def _check_apart(tensors: tuple[Tensor, ...]) -> None:
    ranges = sorted((t.base_bytes, t.base_bytes + t.size_bytes, t.name) for t in tensors)
    for (_, end, name), (start, _, other) in pairwise(ranges):
        if start < end:
            raise ValueError(f"tensor {other}: begins at {start} B; allowed: from {end} B, where {name} ends")
    cached = sum(tensor.size_bytes for tensor in tensors if tensor.resident == "cache")
    if cached > MAX_CACHED_BYTES:
        raise ValueError(f"tensors in the cache: {cached} B; allowed: up to {MAX_CACHED_BYTES} B in all")


def _check_tasks(phase: Phase) -> None:
    order, start, tasks = phase.schedule.order, phase.schedule.start, len(phase.tasks)
    if len(order) != tasks or not np.array_equal(np.sort(order), np.arange(tasks)):
        raise ValueError(f"schedule: an order of {len(order)} tasks; allowed: each of 0 to {tasks - 1} once")
    if len(start) and (len(start) < 2 or start[0] != 0 or start[-1] != tasks or (np.diff(start) < 0).any()):
        raise ValueError(f"schedule: the cores' tasks start at {start[:8].tolist()}...; allowed: 0 rising to {tasks}")
    if len(set(phase.columns)) < len(phase.columns):
        raise ValueError(f"columns {', '.join(phase.columns)}: a name stands there twice")


def _check_buffers(phase: Phase) -> None:
    for buffer in phase.buffers:
        block_bytes = buffer.placement.cosize * buffer.element_bytes
        if buffer.pitch_bytes < block_bytes:
            raise ValueError(
                f"buffer {buffer.name}: blocks {buffer.pitch_bytes} B apart; allowed: from {block_bytes} B, their size"
            )
    for function in phase.functions:
        if function not in OPERATIONS:
            raise ValueError(f"unknown function {function!r}; known: {', '.join(OPERATIONS)}")
    modulo = phase.expressions[:, 1]
    if (modulo < 0).any():
        raise ValueError(f"expression {int((modulo < 0).argmax())}: modulo {modulo.min()}; allowed: from 0")


def _check_stream(program: Program, phase: Phase, queue: str) -> None:
    """Check the records of one queue, one by one, and that its loops are nested."""
    stream = phase.queues[QUEUES.index(queue)]
    open_loops: list[tuple[int, int]] = []  # number, position
    seen: set[int] = set()
    for position, row in enumerate(stream):
        where = f"queue {queue}, instruction {position}"
        allowed = Op.LOOP, Op.END, _OF_QUEUE[queue]
        if row["op"] not in allowed:
            raise _wrong(where, "op", row["op"], ", ".join(f"{op} ({op.name})" for op in allowed))
        op = Op(int(row["op"]))
        where += f" ({op.name})"
        _check_numbers(phase, row, op, where)
        if op in (Op.LOAD, Op.STORE):
            _check_tile(program, phase, int(row["tile"]), where)
        elif op is Op.LOOP:
            if row["tile"] in seen:
                raise _wrong(where, "loop", row["tile"], "a number that no other loop of the queue has")
            seen.add(int(row["tile"]))
            open_loops.append((int(row["tile"]), position))
        elif op is Op.END and (not open_loops or open_loops.pop() != (row["tile"], row["function"])):
            raise _wrong(
                where, "loop", f"{row['tile']} from {row['function']}", "the innermost that is open, and where"
            )
    if open_loops:
        raise ValueError(f"queue {queue}, instruction {open_loops[-1][1]} (LOOP): has no end")
    if len(stream) > MAX_STREAM:
        raise ValueError(f"queue {queue}: {len(stream)} instructions; allowed: up to {MAX_STREAM}")


def _check_numbers(phase: Phase, row: Any, op: Op, where: str) -> None:
    """Check every field of an instruction against what it numbers."""
    computes = op in (Op.MATMUL, Op.VECTOR)
    moves = op in (Op.LOAD, Op.STORE)
    counts = {"counters": len(phase.counters), "expressions": len(phase.expressions)}
    _pairs(row, "wait_counter", "wait_value", counts["counters"], counts["expressions"], where)
    _within(row, "signal", counts["counters"], where, may_lack=True)
    _pairs(row, "buffer", "slot", len(phase.buffers), counts["expressions"], where)
    _within(row, "size", counts["expressions"], where, may_lack=True)
    for name, needed in (("buffer", _OPERANDS.get(op)), ("size", _SIZES.get(op))):
        there = row[name] != NONE
        if not (needed is None or there.sum() == needed) or not there[: there.sum()].all():
            raise _wrong(where, name, row[name].tolist(), f"{needed if needed is not None else 'some'}, then -1")
    if not computes and not moves and (row["wait_counter"].max() != NONE or row["signal"].max() != NONE):
        raise _wrong(where, "wait_counter", row["wait_counter"].tolist(), "-1: loops neither wait nor signal")
    _within(row, "tile", MAX_LOOPS if op in (Op.LOOP, Op.END) else len(phase.tiles) if moves else 0, where)
    if op is not Op.END:
        _within(row, "function", len(phase.functions) if op is Op.VECTOR else 0, where)
    _within(row, "accumulate", counts["expressions"] if op is Op.MATMUL else 0, where)
    _within(row, "transpose_b", 2 if op is Op.MATMUL else 0, where)
    if not np.isfinite(row["scalar"]):
        raise _wrong(where, "scalar", row["scalar"], "a finite number")
    for number, slot in zip(row["buffer"], row["slot"], strict=True):
        if number != NONE and not 1 <= phase.expressions[slot][1] <= phase.buffers[number].slots:
            buffer, modulo = phase.buffers[number], phase.expressions[slot][1]
            raise _wrong(where, f"slot of {buffer.name}, modulo", modulo, f"1 to {buffer.slots}")


def _pairs(row: Any, number: str, value: str, most: int, expressions: int, where: str) -> None:
    """Check numbers that may lack, each with an expression that lacks where they do."""
    _within(row, number, most, where, may_lack=True)
    _within(row, value, expressions, where, may_lack=True)
    if ((row[number] == NONE) != (row[value] == NONE)).any():
        raise _wrong(where, value, row[value].tolist(), f"one for each {number} of {row[number].tolist()}, else -1")


def _within(row: Any, name: str, count: int, where: str, may_lack: bool = False) -> None:
    """Check that all values of a field are in 0 .. count - 1; NONE is another where they may lack, or count is 0."""
    values = np.atleast_1d(row[name])
    least = NONE if may_lack or count == 0 else 0
    wrong = (values < least) | (values >= count)
    if wrong.any():
        raise _wrong(where, name, values[wrong][0], f"{least} to {count - 1}" if count > 0 else "-1")


def _check_tile(program: Program, phase: Phase, number: int, where: str) -> None:
    """Check a tile's numbers: of its tensor, of an expression for every axis, of what is looked up."""
    tile, expressions = phase.tiles[number], len(phase.expressions)
    where += f", tile {number}"
    _within(tile, "tensor", len(program.tensors), where)
    tensor = program.tensors[tile["tensor"]]
    axes = len(tensor.layout.axes)
    for name in ("start", "extent"):
        used, rest = tile[name][:axes], tile[name][axes:]
        if ((used < 0) | (used >= expressions)).any() or (rest != NONE).any():
            raise _wrong(where, name, tile[name].tolist(), f"{axes} of 0 to {expressions - 1}, then -1")
    _within(tile, "index_start", expressions, where)
    _within(tile, "index", len(program.tensors), where, may_lack=True)
    looks_up = tile["index"] != NONE
    for name in ("page_axis", "position_axis"):
        _within(tile, name, axes if looks_up else 0, where)
    if looks_up:
        table = program.tensors[tile["index"]]
        pages = tensor.layout.size(tensor.layout.axes[tile["page_axis"]])
        if table.values is None:
            raise _wrong(where, "index", tile["index"], "a tensor with contents")
        if (wrong := (table.values < 0) | (table.values >= pages)).any():
            first = int(wrong.argmax())
            raise _wrong(f"tensor {table.name}", f"entry {first}", table.values[first], f"0 to {pages - 1}")


def _wrong(where: str, name: str, value: Any, allowed: str) -> ValueError:
    return ValueError(f"{where}: {name} {value}; allowed: {allowed}")
