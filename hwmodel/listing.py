"""A program as text: tensors, buffers with their layouts, counters, and the instruction streams of every phase.

For people, and for comparing two programs line by line; nothing reads it back. Expressions are written over the task's
columns, `begun` (tasks that the queue has begun before), and `i0`, `i1`, ... (index of a loop) and `n0`, `n1`, ... (its
running index). An operand is buffer[slot].

`facts` gives the same as values, for other programs to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hwmodel.assembler import UNCLIPPED
from hwmodel.limits import MAX_LOOPS
from hwmodel.machine import Machine
from hwmodel.program import NONE, QUEUES, Buffer, Expression, Instruction, Op, Phase, Program, variable_count


def listing(program: Program) -> str:
    """Return the text of a program, with its hash."""
    lines = [f"program {program.name} {program.hash}"]
    for tensor in program.tensors:
        lines.append(
            f"  tensor {tensor.name}: {tensor.dtype} {tensor.layout.text}, {tensor.resident} at {tensor.base_bytes}"
        )
    for phase in program.phases:
        lines += _phase(program, phase)
    return "\n".join(lines)


def buffer_map(phase: Phase, machine: Machine) -> str:
    """Return which bytes each buffer of a phase takes, lowest address first, and what is left of a scratchpad.

    Buffers in accumulators of the matrix unit's own are marked; they take none of the scratchpad.
    """
    apart = _in_accumulators(phase, machine)
    numbers = sorted(range(len(phase.buffers)), key=lambda number: phase.buffers[number].address)
    width = len(str(phase.sram_bytes))
    lines = [f"scratchpad of phase {phase.name}"]
    for number in numbers:
        buffer = phase.buffers[number]
        lines.append(
            f"  {buffer.address:>{width}} to {buffer.address + buffer.size_bytes:>{width}}  {buffer.name}: "
            f"{buffer.slots} x {buffer.pitch_bytes} B{', in accumulators' if number in apart else ''}"
        )
    room = _room(phase, machine)
    lines.append(
        f"  high-water mark {room['high_water_bytes']} B, {room['free_bytes']} B of {room['capacity_bytes']} B free"
    )
    if apart:
        lines.append(f"  accumulators {room['accumulator_bytes']} B")
    return "\n".join(lines)


def _in_accumulators(phase: Phase, machine: Machine) -> frozenset[int]:
    return phase.products if machine.spec.cores.matrix.accumulators == "own" else frozenset()


def _room(phase: Phase, machine: Machine) -> dict[str, int]:
    capacity = machine.spec.cores.sram.capacity
    used, products = phase.split_bytes(machine.spec.cores.matrix.accumulators == "own")
    return {
        "capacity_bytes": capacity,
        "high_water_bytes": used,
        "free_bytes": capacity - used,
        "accumulator_bytes": products,
    }


def facts(program: Program, machine: Machine) -> dict[str, Any]:
    """Return a program as JSON-able values, with the map of the scratchpad of a core in every phase."""
    tensors = [
        {
            "name": tensor.name,
            "dtype": tensor.dtype,
            "layout": tensor.layout.text,
            "resident": tensor.resident,
            "base_bytes": tensor.base_bytes,
            "size_bytes": tensor.size_bytes,
        }
        for tensor in program.tensors
    ]
    return {
        "program": program.name,
        "hash": program.hash,
        "size_bytes": size_bytes(program),
        "instructions": instructions(program),
        "tensors": tensors,
        "phases": [_phase_facts(program, phase, machine) for phase in program.phases],
    }


def size_bytes(program: Program) -> int:
    """Return what the arrays of a program take: instructions, expressions, tiles, tasks, schedules, index tensors."""
    arrays: list[Any] = [tensor.values for tensor in program.tensors if tensor.values is not None]
    for phase in program.phases:
        arrays += [phase.tasks, phase.schedule.order, phase.schedule.start, *phase.queues, phase.expressions]
        arrays.append(phase.tiles)
    return sum(int(array.nbytes) for array in arrays)


def instructions(program: Program) -> int:
    """Return how many instructions the streams of a program hold, the ends of loops not counted."""
    return sum(
        instruction.op is not Op.END for phase in program.phases for stream in phase.decoded for instruction in stream
    )


def _phase_facts(program: Program, phase: Phase, machine: Machine) -> dict[str, Any]:
    apart = _in_accumulators(phase, machine)
    buffers = [
        {
            "name": buffer.name,
            "slots": buffer.slots,
            "rows": buffer.rows,
            "columns": buffer.columns,
            "dtype": buffer.dtype,
            "layout": _layout(buffer),
            "address": buffer.address,
            "end": buffer.address + buffer.size_bytes,
            "pitch_bytes": buffer.pitch_bytes,
            "in_accumulators": number in apart,
        }
        for number, buffer in enumerate(phase.buffers)
    ]
    return {
        "name": phase.name,
        "tasks": len(phase.tasks),
        "columns": list(phase.columns),
        "schedule": _dealt(phase),
        "scratchpad": _room(phase, machine),
        "buffers": buffers,
        "counters": {counter.name: counter.cause for counter in phase.counters},
        "queues": {name: list(_stream(program, phase, number)) for number, name in enumerate(QUEUES)},
    }


def _phase(program: Program, phase: Phase) -> Iterator[str]:
    yield f"phase {phase.name}: {len(phase.tasks)} tasks of ({', '.join(phase.columns)}), {_dealt(phase)}"
    for buffer in phase.buffers:
        yield f"  buffer {buffer.name}: {_buffer(buffer)}"
    for counter in phase.counters:
        yield f"  counter {counter.name}: {counter.cause}"
    for number, name in enumerate(QUEUES):
        yield f"  {name}"
        yield from ("    " + line for line in _stream(program, phase, number))


def _dealt(phase: Phase) -> str:
    return "dynamic" if phase.schedule.dynamic else f"dealt to {len(phase.schedule.start) - 1} cores"


def _stream(program: Program, phase: Phase, queue: int) -> Iterator[str]:
    """Yield the instructions of a queue, those in a loop further in."""
    depth = 0
    for instruction in phase.decoded[queue]:
        depth -= instruction.op is Op.END
        yield "  " * depth + _instruction(program, phase, instruction)
        depth += instruction.op is Op.LOOP


def _layout(buffer: Buffer) -> str:
    return "row-major" if buffer.layout is None else str(buffer.layout)


def _buffer(buffer: Buffer) -> str:
    size = f"{buffer.slots} x {buffer.rows} x {buffer.columns} {buffer.dtype}"
    return f"{size}, {_layout(buffer)}, at {buffer.address} every {buffer.pitch_bytes}"


def _instruction(program: Program, phase: Phase, instruction: Instruction) -> str:
    if instruction.op is Op.LOOP:
        return f"loop i{instruction.loop} < {_expression(phase, instruction.sizes[0])}"
    if instruction.op is Op.END:
        return "end"
    operands = [f"{phase.buffers[number].name}[{_expression(phase, slot)}]" for number, slot in instruction.operands]
    words = [instruction.function or instruction.op.name.lower(), ", ".join(operands)]
    if instruction.sizes:
        words.append("size (" + ", ".join(_expression(phase, size) for size in instruction.sizes) + ")")
    if instruction.op in (Op.LOAD, Op.STORE):
        words.append(_tile(program, phase, instruction.tile))
    words += ["transposed b"] if instruction.transpose_b else []
    if instruction.accumulate is not None:
        words.append(f"accumulate {_expression(phase, instruction.accumulate)}")
    for counter, value in instruction.waits:
        words.append(f"wait {phase.counters[counter].name} >= {_expression(phase, value)}")
    words += [f"signal {phase.counters[counter].name}" for counter in instruction.signals]
    return "; ".join([" ".join(words[:2]), *words[2:]])


def _tile(program: Program, phase: Phase, number: int) -> str:
    tile = phase.tiles[number]
    tensor = program.tensors[tile["tensor"]]
    parts = []
    for axis, name in enumerate(tensor.layout.axes):
        start, extent = (_expression(phase, phase.expression(tile[field][axis])) for field in ("start", "extent"))
        parts.append(f"{name} {start} + {extent}")
    text = f"{tensor.name}({', '.join(parts)})"
    if tile["index"] != NONE:
        axis = tensor.layout.axes[tile["page_axis"]]
        first = _expression(phase, phase.expression(tile["index_start"]))
        text += f" {axis} by {program.tensors[tile['index']].name} from {first}"
    return text


def _expression(phase: Phase, expression: Expression) -> str:
    columns = len(phase.columns)
    names = ["1", *phase.columns, "begun"] + [f"{kind}{loop}" for loop in range(MAX_LOOPS) for kind in "in"]
    assert len(names) == variable_count(columns)
    parts = [f"{coefficient} {names[variable]}" for variable, coefficient in expression.terms]
    if expression.constant or not parts:
        parts.append(str(expression.constant))
    text = " + ".join(parts).replace("+ -", "- ")
    if expression.modulo:
        return f"({text}) mod {expression.modulo}"
    return f"min({text}, {expression.maximum})" if expression.maximum != UNCLIPPED else text
