"""Programs without walking their loops: an instruction's executions as arrays, over tasks and iterations.

Between `program` and those who only add up: the time's lower bound and the energy. Sizes may depend on the task and on
loop indices, not on running indices, which only an executor knows; which core runs a task does not matter here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hwmodel.program import NONE, Expression, Instruction, Op, Phase, Program

Array = np.ndarray[Any, Any]
MAX_KEY = 2.0**62  # numbers beyond it may not fit 64 bits
MAX_TABLE = 1 << 20  # assumed: distinct sizes are looked up in a table of 8 MiB at most, sorted beyond


def executions(phase: Phase, queue: int) -> Iterator[tuple[Instruction, Array, Array]]:
    """Yield every instruction with the tasks it runs for and its variables: int64[n], int64[n, variables].

    Running indices stay zero: `evaluate` refuses sizes that depend on them.
    """
    columns = len(phase.columns)
    variables = np.zeros((len(phase.tasks), phase.expressions.shape[1] - 2), np.int64)
    variables[:, 0], variables[:, 1 : 1 + columns] = 1, phase.tasks
    stack = [(np.arange(len(phase.tasks)), variables)]
    for instruction in phase.decoded[queue]:
        task, variables = stack[-1]
        if instruction.op is Op.LOOP:
            trips = np.maximum(evaluate(phase, instruction.sizes[0], variables), 0)
            rows = np.repeat(np.arange(len(task)), trips)
            inner = variables[rows]
            first = np.repeat(np.cumsum(trips) - trips, trips)
            inner[:, 2 + columns + 2 * instruction.loop] = np.arange(len(rows)) - first
            stack.append((task[rows], inner))
        elif instruction.op is Op.END:
            stack.pop()
        else:
            yield instruction, task, variables


def evaluate(phase: Phase, expression: Expression, variables: Array) -> Array:
    """Return the value of a size for every row of `variables`; ValueError where it depends on a running index."""
    if depends_on_running(phase, expression):
        raise ValueError(f"phase {phase.name}: a size or a trip count depends on a running index")
    value = np.full(len(variables), expression.constant, np.int64)
    for variable, coefficient in expression.terms:
        value += coefficient * variables[:, variable]
    return value % expression.modulo if expression.modulo else np.minimum(value, expression.maximum)


def depends_on_running(phase: Phase, expression: Expression) -> bool:
    """Return whether an expression reads how many tasks or iterations its queue has begun."""
    running = {1 + len(phase.columns), *range(3 + len(phase.columns), phase.expressions.shape[1] - 2, 2)}
    return not running.isdisjoint(variable for variable, _ in expression.terms)


def sum_by(task: Array, values: Array, tasks: int) -> Array:
    """Return the sum of `values` for every task; `task` is sorted."""
    total: Array = np.append(0, np.cumsum(values))
    edges = np.searchsorted(task, np.arange(tasks + 1))
    sums: Array = total[edges[1:]] - total[edges[:-1]]
    return sums


def per_distinct(sizes: Array, cost: Callable[..., int]) -> Array:
    """Return cost(*row) for every row of `sizes`, evaluating each distinct row once."""
    first, which = _grouped(sizes)
    return np.array([cost(*map(int, sizes[row])) for row in first], np.int64)[which]


def counted(sizes: Array) -> list[tuple[tuple[int, ...], int]]:
    """Return every distinct row of `sizes` and how often it stands there."""
    first, which = _grouped(sizes)
    times = np.bincount(which, minlength=len(first)).tolist()
    return [(tuple(sizes[row].tolist()), n) for row, n in zip(first, times, strict=True)]


def _grouped(sizes: Array) -> tuple[Array, Array]:
    """Return the number of some row of each distinct one, and for every row of `sizes` which of these equals it."""
    if len(sizes) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    low = sizes.min(axis=0)
    spans = sizes.max(axis=0) - low + 1
    keys = np.zeros(len(sizes), np.int64)  # rows as numbers of mixed radix: most columns are constant or narrow
    for column, span in enumerate(spans):
        keys = keys * span + (sizes[:, column] - low[column])
    numbers = float(np.prod(spans.astype(float)))
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
