"""Programs without walking their loops: an instruction's executions as arrays, over tasks and iterations.

Between `program` and those who only add up: the time's lower bound and the energy. Sizes may depend on the task and on
loop indices, not on running indices, which only an executor knows; which core runs a task does not matter here.

Large programs have many tasks that differ in where their tiles lie, and few that differ in sizes: `alike` says which
tasks cost the same, `regions` leaves out what tasks and iterations repeat. What is left comes in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hwmodel.program import NONE, Expression, Instruction, Op, Phase, Program
from hwmodel.vector import costed

Array = np.ndarray[Any, Any]
MAX_KEY = 2.0**62  # numbers beyond it may not fit 64 bits
MAX_PART = 1 << 17  # assumed: executions that are looked at together: their variables take some 30 MB
MAX_TABLE = 1 << 20  # assumed: distinct sizes are looked up in a table of 8 MiB at most, sorted beyond


def executions(phase: Phase, queue: int, tasks: Array | None = None) -> Iterator[tuple[Instruction, Array, Array]]:
    """Yield every instruction with the tasks it runs for and its variables: int64[n], int64[n, variables].

    Of `tasks` int64[tasks, columns], where not of all that the phase has. The tasks are in order; n is at most
    `MAX_PART`, and an instruction that is executed more often comes several times. Running indices stay zero:
    `evaluate` refuses sizes that depend on them.
    """
    yield from _of_tasks(phase, phase.decoded[queue], phase.tasks if tasks is None else tasks)


def alike(phase: Phase, queue: int) -> tuple[Array, Array]:
    """Return tasks that stand for all in a queue's costs and trips, and for every task which of them it is like.

    int64[kinds, columns], int64[tasks]. Whether matmuls accumulate is counted among the sizes.
    """
    read: set[Expression] = set()
    for instruction in phase.decoded[queue]:
        read.update(costed(instruction))
        if instruction.accumulate is not None:
            read.add(instruction.accumulate)
        if instruction.op in (Op.LOAD, Op.STORE):
            read.update(_expressions(phase, phase.tiles[instruction.tile]["extent"]))
    return _kinds(phase, read)


def regions(phase: Phase, queue: int) -> Iterator[tuple[Instruction, Array]]:
    """Yield every load and store with variables int64[n, variables] that give each of its regions at least once.

    As `executions` does, but most of what other tasks and iterations repeat is left out.
    """
    loops: list[Instruction] = []
    for instruction in phase.decoded[queue]:
        if instruction.op is Op.LOOP:
            loops.append(instruction)
        elif instruction.op is Op.END:
            loops.pop()
        elif instruction.op in (Op.LOAD, Op.STORE):
            tile = phase.tiles[instruction.tile]
            read = set(_expressions(phase, [*tile["start"], *tile["extent"], tile["index_start"]]))
            stream, ends = [instruction], []
            for loop in reversed(loops):
                (trips,) = loop.sizes
                once = replace(trips, maximum=min(1, trips.maximum))
                needed = any(_index(phase, loop.loop) in _variables(expression) for expression in read)
                stream.insert(0, loop if needed else replace(loop, sizes=(once,)))
                ends.append(replace(loop, op=Op.END))
                read.add(trips if needed else once)
            for _, _, variables in _of_tasks(phase, stream + ends, _kinds(phase, read)[0]):
                yield instruction, variables


def _of_tasks(phase: Phase, stream: Sequence[Instruction], tasks: Array) -> Iterator[tuple[Instruction, Array, Array]]:
    """Yield what `executions` does of a stream of instructions."""
    columns = len(phase.columns)
    for begin in range(0, max(1, len(tasks)), MAX_PART):
        part = tasks[begin : begin + MAX_PART]
        variables = np.zeros((len(part), phase.expressions.shape[1] - 2), np.int64)
        variables[:, 0], variables[:, 1 : 1 + columns] = 1, part
        yield from _inside(phase, stream, np.arange(begin, begin + len(part)), variables)


def _inside(
    phase: Phase, stream: Sequence[Instruction], task: Array, variables: Array
) -> Iterator[tuple[Instruction, Array, Array]]:
    """Yield the executions of a loop's instructions in some iterations, those of loops in it part by part."""
    position = 0
    while position < len(stream):
        instruction = stream[position]
        if instruction.op is Op.LOOP:
            loop = instruction.loop
            begin = position + 1
            position = next(n for n in range(begin, len(stream)) if stream[n].op is Op.END and stream[n].loop == loop)
            for rows, index in _iterations(evaluate(phase, instruction.sizes[0], variables)):
                inner = variables[rows]
                inner[:, _index(phase, loop)] = index
                yield from _inside(phase, stream[begin:position], task[rows], inner)
        else:
            yield instruction, task, variables
        position += 1


def _iterations(trips: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the rows that iterations belong to, and their indices, int64[n] each; at least once, if with none."""
    ends = np.cumsum(np.maximum(trips, 0))
    total = int(ends[-1]) if len(ends) else 0
    for begin in range(0, max(1, total), MAX_PART):
        number = np.arange(begin, min(begin + MAX_PART, total))
        rows = np.searchsorted(ends, number, side="right")
        yield rows, number - (ends[rows] - np.maximum(trips[rows], 0))


def _expressions(phase: Phase, numbers: Any) -> list[Expression]:
    return [phase.expression(int(number)) for number in numbers if number != NONE]


def _kinds(phase: Phase, expressions: Iterable[Expression]) -> tuple[Array, Array]:
    """Return tasks that stand for all in some expressions, and for every task which of them it is like.

    Tasks are alike where those expressions that read no loop have equal values, and the columns of the others, too.
    """
    columns = set(range(1, 1 + len(phase.columns)))
    values, read = [], set()
    for expression in set(expressions):
        if _variables(expression) <= columns:
            if expression.terms:  # else it is the same for all
                values.append(_value(expression, phase.tasks, first=1))
        else:
            read |= _variables(expression) & columns
    values += [phase.tasks[:, column - 1] for column in sorted(read)]
    first, which = grouped(np.stack(values, axis=1) if values else phase.tasks[:, :0])
    return phase.tasks[first], which


def _variables(expression: Expression) -> set[int]:
    return {variable for variable, _ in expression.terms}


def _index(phase: Phase, loop: int) -> int:
    """Return which variable is the index of a loop."""
    return 2 + len(phase.columns) + 2 * loop


def evaluate(phase: Phase, expression: Expression, variables: Array) -> Array:
    """Return the value of a size for every row of `variables`; ValueError where it depends on a running index."""
    if depends_on_running(phase, expression):
        raise ValueError(f"phase {phase.name}: a size or a trip count depends on a running index")
    return _value(expression, variables)


def _value(expression: Expression, variables: Array, first: int = 0) -> Array:
    """Return the value of an expression for every row of variables, of which the columns begin with the `first`."""
    value = np.full(len(variables), expression.constant, np.int64)
    for variable, coefficient in expression.terms:
        value += coefficient * variables[:, variable - first]
    return value % expression.modulo if expression.modulo else np.minimum(value, expression.maximum)


def depends_on_running(phase: Phase, expression: Expression) -> bool:
    """Return whether an expression reads how many tasks or iterations its queue has begun."""
    running = {1 + len(phase.columns), *range(3 + len(phase.columns), phase.expressions.shape[1] - 2, 2)}
    return not running.isdisjoint(variable for variable, _ in expression.terms)


def adding(phase: Phase, expression: Expression, variables: Array, *, if_unknown: bool) -> Array:
    """Return whether each execution of a matmul adds to its destination; `if_unknown`: where only an executor knows."""
    if depends_on_running(phase, expression):
        return np.full(len(variables), if_unknown)
    adds: Array = evaluate(phase, expression, variables) != 0
    return adds


def add_by(total: Array, task: Array, values: Array) -> None:
    """Add `values` to the `total` of their tasks; `task` is sorted."""
    if len(task):
        begins = np.flatnonzero(np.append(True, task[1:] != task[:-1]))
        total[task[begins]] += np.add.reduceat(values, begins)


def per_distinct(sizes: Array, cost: Callable[..., int]) -> Array:
    """Return cost(*row) for every row of `sizes`, evaluating each distinct row once."""
    first, which = grouped(sizes)
    return np.array([cost(*map(int, sizes[row])) for row in first], np.int64)[which]


def counted(sizes: Array, times: Array) -> list[tuple[tuple[int, ...], int]]:
    """Return every distinct row of `sizes` and how often it counts: the sum of its `times`."""
    first, which = grouped(sizes)
    sums = np.zeros(len(first), np.int64)
    np.add.at(sums, which, times)
    return [(tuple(sizes[row].tolist()), n) for row, n in zip(first, sums.tolist(), strict=True)]


def grouped(sizes: Array) -> tuple[Array, Array]:
    """Return the number of some row of each distinct one, and for every row of `sizes` which of these equals it.

    The distinct rows are in order. `np.unique` of rows says the same, but takes many times as long.
    """
    if len(sizes) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    keys, numbers = np.zeros(len(sizes), np.int64), 1.0  # rows as numbers of mixed radix: most columns are narrow
    for column in sizes.T:  # one by one: quicker than all at once, which are few
        low = int(column.min())
        span = int(column.max()) - low + 1
        keys, numbers = keys * span + (column - low), numbers * span
    if numbers > MAX_TABLE:
        rows = keys if numbers < MAX_KEY else sizes
        keys = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    table = np.full(int(keys.max()) + 1, NONE, np.int64)
    table[keys] = np.arange(len(keys))
    distinct = np.flatnonzero(table != NONE)
    first = table[distinct]
    table[distinct] = np.arange(len(distinct))
    return first, table[keys]


def tile_bytes(program: Program, phase: Phase, instruction: Instruction, variables: Array) -> Array:
    """Return the bytes of the elements that a LOAD or a STORE asks for, for every row of `variables`."""
    tile = phase.tiles[instruction.tile]
    tensor = program.tensors[tile["tensor"]]
    size = np.full(len(variables), tensor.element_bytes, np.int64)
    for extent in tile["extent"]:
        if extent != NONE:
            size *= evaluate(phase, phase.expression(extent), variables)
    return size


def tile_pages(program: Program, phase: Phase, instruction: Instruction, variables: Array) -> Array:
    """Return how many pages such a tile touches at least, for every row of `variables`; nought without a page table."""
    tile = phase.tiles[instruction.tile]
    if tile["index"] == NONE:
        return np.zeros(len(variables), np.int64)
    position, layout = int(tile["position_axis"]), program.tensors[tile["tensor"]].layout
    page_size = 1 if tile["page_axis"] == position else layout.size(layout.axes[position])
    return -(-evaluate(phase, phase.expression(tile["extent"][position]), variables) // page_size)
