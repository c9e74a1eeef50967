"""A program as text: tensors, buffers with their layouts, counters, and the instruction streams of every phase.

For people, and for comparing two programs line by line; nothing reads it back. Expressions are written over the task's
columns, `begun` (tasks that the queue has begun before), and `i0`, `i1`, ... (index of a loop) and `n0`, `n1`, ... (its
running index). An operand is buffer[slot].
"""

from __future__ import annotations

from collections.abc import Iterator

from hwmodel.assembler import UNCLIPPED
from hwmodel.program import MAX_LOOPS, NONE, QUEUES, Buffer, Expression, Instruction, Op, Phase, Program, variable_count


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


def _phase(program: Program, phase: Phase) -> Iterator[str]:
    dealt = "dynamic" if phase.schedule.dynamic else f"dealt to {len(phase.schedule.start) - 1} cores"
    yield f"phase {phase.name}: {len(phase.tasks)} tasks of ({', '.join(phase.columns)}), {dealt}"
    for buffer in phase.buffers:
        yield f"  buffer {buffer.name}: {_buffer(buffer)}"
    for counter in phase.counters:
        yield f"  counter {counter.name}: {counter.cause}"
    for name, stream in zip(QUEUES, phase.decoded, strict=True):
        yield f"  {name}"
        depth = 2
        for instruction in stream:
            depth -= instruction.op is Op.END
            yield "  " * depth + _instruction(program, phase, instruction)
            depth += instruction.op is Op.LOOP


def _buffer(buffer: Buffer) -> str:
    layout = "row-major" if buffer.layout is None else str(buffer.layout)
    size = f"{buffer.slots} x {buffer.rows} x {buffer.columns} {buffer.dtype}"
    return f"{size}, {layout}, at {buffer.address} every {buffer.pitch_bytes}"


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
