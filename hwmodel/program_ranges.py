"""Which values the amounts of a phase can take: that regions lie in their tensors, and work is not without end.

The second half of `hwmodel.program_check`. Nothing is walked: for every task, an amount lies between its values at the
ends of the loops it stands in, which is exact for one loop and sound for several. What begins at an affine amount and
is clipped (a ragged tail) ends no later than either of the two says. Columns are looked at task by task, all tasks at
once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from hwmodel.expansion import depends_on_running
from hwmodel.program import NONE, QUEUES, Buffer, Expression, Op, Phase, Program, check_indices
from hwmodel.vector import OPERATIONS

Array = np.ndarray[Any, Any]
Interval: TypeAlias = tuple[Any, Any]  # lowest and highest value: of all tasks, or int64[task]
# All assumed: more than can be simulated in a day; sums of femtoseconds stay within 64 bits.
MAX_EXECUTED = 1 << 25  # instructions of a queue in a phase: four times a decode step of 256 x 131,072 tokens
MAX_MOVED = 1 << 48  # elements of all tiles of a queue
MAX_WORK = 1 << 46  # operations of a class, or multiply-accumulates, of a phase
MAX_VALUE = 1 << 61  # of an amount on its way
_UNCLIPPED = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Scope:
    """What stands inside some loops: how often each task that gets there runs it, and where its variables lie."""

    times: Array  # float64[task]
    variables: dict[int, Interval]

    def inside(self, trips: Interval, index: int) -> _Scope:
        """Return the scope of a loop of so many trips, whose index is a variable."""
        highest = np.broadcast_to(trips[1], self.times.shape)
        kept = highest > 0
        variables = {number: (_of(low, kept), _of(high, kept)) for number, (low, high) in self.variables.items()}
        last = highest[kept] - 1
        return _Scope(self.times[kept] * highest[kept], variables | {index: (np.zeros_like(last), last)})


def _of(values: Any, kept: Array) -> Any:
    return values[kept] if isinstance(values, np.ndarray) else values


def check_ranges(program: Program, phase: Phase) -> None:
    """Raise ValueError, naming the instruction, for amounts beyond what they count, or more work than is allowed.

    The numbers in the phase's records must have been checked.
    """
    check_indices(phase)
    for queue, name in enumerate(QUEUES):
        executed = moved = work = 0.0
        for position, scope in _scopes(phase, queue):
            row = phase.queues[queue][position]
            where = f"queue {name}, instruction {position} ({Op(int(row['op'])).name})"
            for number in (*row["wait_value"], *row["slot"], row["accumulate"]):
                if number != NONE:
                    _check_size(phase.expression(int(number)), scope, where)
            executed += float(scope.times.sum())
            if row["op"] in (Op.LOAD, Op.STORE):
                moved += float((scope.times * _tile(program, phase, row, scope, where)).sum())
            else:
                work += float(scope.times.sum()) * _operation(phase, row, scope, where)
            for value, most, what in (
                (executed, MAX_EXECUTED, "instructions"),
                (moved, MAX_MOVED, "elements moved"),
                (work, MAX_WORK, "operations"),
            ):
                if value > most:
                    raise ValueError(f"{where}: {value:.3g} {what} up to here; allowed: up to {most}")


def executions_at_most(phase: Phase) -> float:
    """Return a number of instructions that all queues together run no more of in a phase that has passed the check."""
    scopes = (scope for queue in range(len(QUEUES)) for _, scope in _scopes(phase, queue))
    return float(sum(scope.times.sum() for scope in scopes))


def _scopes(phase: Phase, queue: int) -> Iterator[tuple[int, _Scope]]:
    """Yield every instruction but loops that some task gets to: its position, and its scope."""
    columns = len(phase.columns)
    often = max(MAX_EXECUTED, len(phase.tasks))
    variables: dict[int, Interval] = {1 + i: (phase.tasks[:, i],) * 2 for i in range(columns)}
    running = (1 + columns, *range(3 + columns, phase.expressions.shape[1] - 2, 2))
    scopes = [_Scope(np.ones(len(phase.tasks)), variables | dict.fromkeys(running, (0, often)))]
    for position, row in enumerate(phase.queues[queue]):
        scope = scopes[-1]
        if row["op"] == Op.END:
            scopes.pop()
        elif row["op"] == Op.LOOP:
            where = f"queue {QUEUES[queue]}, instruction {position} (LOOP)"
            trips = _values(phase, int(row["size"][0]), scope, where) if len(scope.times) else (0, 0)
            if len(scope.times) and np.max(trips[1]) > MAX_EXECUTED:
                raise ValueError(f"{where}: {np.max(trips[1])} trips; allowed: up to {MAX_EXECUTED}")
            scopes.append(scope.inside(trips, 2 + columns + 2 * int(row["tile"])))
        elif len(scope.times):
            yield position, scope


def _values(phase: Phase, number: int, scope: _Scope, where: str) -> Interval:
    """Return between which values an amount lies that may not depend on running indices."""
    expression = phase.expression(number)
    if depends_on_running(phase, expression):
        raise ValueError(f"{where}: expression {number} is a size or a place and depends on a running index")
    _check_size(expression, scope, where)
    low, high = _affine(expression, scope)
    if modulo := expression.modulo:
        same = low // modulo == high // modulo
        return np.where(same, low % modulo, 0), np.where(same, high % modulo, modulo - 1)
    return np.minimum(low, expression.maximum), np.minimum(high, expression.maximum)


def _affine(expression: Expression, scope: _Scope) -> Interval:
    """Return between which values an amount lies before it is clipped or taken modulo."""
    low = high = np.full(len(scope.times), expression.constant, np.int64)
    for variable, coefficient in expression.terms:
        lowest, highest = scope.variables[variable]
        first, last = (lowest, highest) if coefficient > 0 else (highest, lowest)
        low, high = low + coefficient * first, high + coefficient * last
    return low, high


def _check_size(expression: Expression, scope: _Scope, where: str) -> None:
    """Raise ValueError for an amount that may leave the 64 bits in which it is computed."""
    largest = abs(expression.constant)
    for variable, coefficient in expression.terms:
        low, high = scope.variables[variable]
        largest += abs(coefficient) * max(abs(int(np.min(low))), abs(int(np.max(high))))
    if largest > MAX_VALUE:
        raise ValueError(f"{where}: an amount of up to {largest}; allowed: up to {MAX_VALUE}")


def _end(start: Expression, extent: Expression, scope: _Scope) -> Any:
    """Return what the end of an interval is at most, for every task."""
    ends = [
        _affine(_sum(one, other), scope)[1] for one in _at_most(start) for other in _at_most(extent)
    ]  # of amounts that are the smaller of two, the sum is the smallest of four
    return np.minimum.reduce(ends)


def _at_most(expression: Expression) -> list[Expression]:
    """Return affine amounts that an amount is never more than."""
    if expression.modulo:
        return [Expression(expression.modulo - 1, (), _UNCLIPPED, 0)]
    clip = [Expression(expression.maximum, (), _UNCLIPPED, 0)] if abs(expression.maximum) <= MAX_VALUE else []
    return [Expression(expression.constant, expression.terms, _UNCLIPPED, 0), *clip]


def _sum(one: Expression, other: Expression) -> Expression:
    terms = dict(one.terms)
    for variable, coefficient in other.terms:
        terms[variable] = terms.get(variable, 0) + coefficient
    return Expression(one.constant + other.constant, tuple(terms.items()), _UNCLIPPED, 0)


def _tile(program: Program, phase: Phase, row: Any, scope: _Scope, where: str) -> Any:
    """Check the regions that a LOAD or a STORE denotes; return how many elements one has at most, for every task."""
    tile = phase.tiles[int(row["tile"])]
    tensor = program.tensors[tile["tensor"]]
    page_axis, position_axis = int(tile["page_axis"]), int(tile["position_axis"])
    extents = []
    for axis, name in enumerate(tensor.layout.axes):
        numbers = int(tile["start"][axis]), int(tile["extent"][axis])
        start, extent = (_values(phase, number, scope, where) for number in numbers)
        end = _end(phase.expression(numbers[0]), phase.expression(numbers[1]), scope)
        size, here = tensor.layout.size(name), f"{where}: tensor {tensor.name}, axis {name}"
        if axis == position_axis:
            first = _values(phase, int(tile["index_start"]), scope, where)
            page_size = 1 if position_axis == page_axis else size
            table = program.tensors[tile["index"]]
            assert table.values is not None
            looks_up = np.broadcast_to(extent[1] > 0, scope.times.shape)  # an empty region needs no entry
            for entry in (first[0] + start[0] // page_size, first[1] + (end - 1) // page_size):
                needed = np.broadcast_to(entry, looks_up.shape)[looks_up]
                if len(needed):
                    _require(f"{here}: index entry", needed, 0, len(table.values) - 1)
            _require(f"{here}: start", start[0], 0, MAX_VALUE)
        elif axis == page_axis:
            _require(f"{here}: extent", extent[0], 1, 1)
            _require(f"{here}: extent", extent[1], 1, 1)
            continue
        else:
            _require(f"{here}: start", start[0], 0, size)
            _require(f"{here}: end", end, 0, size)
        _require(f"{here}: extent", extent[0], 0, MAX_VALUE)
        extents.append(extent[1])
    buffer = phase.buffers[int(row["buffer"][0])]
    rows = np.prod(np.array(extents[:-1], float).reshape(-1, len(scope.times)), axis=0)
    _require(f"{where}: rows of buffer {buffer.name}", rows, 0, buffer.rows)
    _require(f"{where}: columns of buffer {buffer.name}", extents[-1], 0, buffer.columns)
    return rows * extents[-1]


def _require(what: str, values: Any, least: int, most: int) -> None:
    """Raise ValueError for a value of some task that is not in least .. most."""
    low, high = np.min(values), np.max(values)
    if low < least or high > most:
        raise ValueError(f"{what} {int(low if low < least else high)}; allowed: {least} to {most}")


def _operation(phase: Phase, row: Any, scope: _Scope, where: str) -> float:
    """Check the sizes of a MATMUL or a VECTOR; return how many operations it does at most."""
    buffers = [phase.buffers[int(number)] for number in row["buffer"] if number != NONE]
    ranges = [_values(phase, int(number), scope, where) for number in row["size"] if number != NONE]
    least, most = ([int(pick(side)) for side in sides] for pick, sides in _sides(ranges))
    if row["op"] == Op.MATMUL:
        to, a, b = buffers
        m, n, k = most
        for name, size in zip("mnk", least, strict=True):
            _require(f"{where}: {name}", size, 0, MAX_VALUE)
        needed = ((to, m, n), (a, m, k), (b, n, k) if row["transpose_b"] == 1 else (b, k, n))
        for buffer, rows, columns in needed:
            _require(f"{where}: rows of buffer {buffer.name}", rows, 0, buffer.rows)
            _require(f"{where}: columns of buffer {buffer.name}", columns, 0, buffer.columns)
        return float(m) * n * k
    return max(_vector(phase.functions[int(row["function"])], buffers, sizes, where) for sizes in (least, most))


def _sides(ranges: list[Interval]) -> tuple[Any, Any]:
    return (np.min, [low for low, _ in ranges]), (np.max, [high for _, high in ranges])


def _vector(function: str, buffers: list[Buffer], sizes: list[int], where: str) -> float:
    """Ask an operation what it makes of sizes; return how many operations it does."""
    operation = OPERATIONS[function]
    if operation.counts and len(sizes) not in operation.counts:
        allowed = " or ".join(map(str, operation.counts))
        raise ValueError(f"{where}: {function} of sizes {sizes}; allowed: {allowed} of them")
    try:
        touches, work = operation.touches(buffers, *sizes), operation.work(buffers, *sizes)
    except (TypeError, IndexError, ValueError, ArithmeticError) as error:  # they count on what the assembler was given
        raise ValueError(f"{where}: {function} of {len(buffers)} operands and sizes {sizes}: {error}") from None
    for touch in touches:
        if touch.operand >= len(buffers):
            raise ValueError(f"{where}: {function} of {len(buffers)} operands; allowed: from {touch.operand + 1}")
        buffer = buffers[touch.operand]
        _require(f"{where}: rows of buffer {buffer.name}", touch.rows, -MAX_VALUE, buffer.rows)
        _require(f"{where}: columns of buffer {buffer.name}", touch.columns, -MAX_VALUE, buffer.columns)
    return float(max(work.alu, work.exp, work.reduce, work.convert, 0))
