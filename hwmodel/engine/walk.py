"""A queue's way through its instructions: tasks, loops, expressions. `program.walk`, compiled."""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.engine.state import (
    BEGUN,
    COEFFICIENTS,
    COLUMNS,
    CORE_TASKS,
    CURSOR,
    END_OP,
    EXPRESSIONS,
    FIRST,
    IS_DYNAMIC,
    LENGTH,
    LOOP,
    LOOP_OP,
    MAXIMUM,
    MODULO,
    NEXT_TASK,
    NONE,
    OP,
    ORDER_COUNT,
    PARTNER,
    POSITION,
    QUEUES_PER_CORE,
    REMAINING,
    SIZE,
    TASK_AT,
    TASK_ORDER,
    TASK_START,
    TASKS,
    VARIABLE_COUNT,
    instruction_at,
    queue_at,
    table,
    variables_at,
)
from hwmodel.intrinsics import Row, row_at
from hwmodel.limits import MAX_LOOPS


@inlined
def value_of(m: Row, number: int, variables: Row) -> int:
    """Return the value of an expression."""
    row = row_at(table(m, EXPRESSIONS), number * (COEFFICIENTS + m[VARIABLE_COUNT]))
    value = 0
    for i in range(m[VARIABLE_COUNT]):
        value += row[COEFFICIENTS + i] * variables[i]
    if row[MODULO] != 0:
        return int(value % row[MODULO])
    return int(min(value, row[MAXIMUM]))


@compiled
def _next_task(m: Row, number: int) -> int:
    """Return the next task of a queue, or NONE; with a dynamic schedule the first queue that needs one takes it."""
    queue, core = queue_at(m, number), number // QUEUES_PER_CORE
    order = table(m, TASK_ORDER)
    if not m[IS_DYNAMIC]:
        start = table(m, TASK_START)
        at = start[core] + queue[TASK_AT]
        if at >= start[core + 1]:
            return NONE
        queue[TASK_AT] += 1
        return int(order[at])
    following, ends = table(m, NEXT_TASK), row_at(table(m, CORE_TASKS), 2 * core)  # first and last place of the core
    place = ends[0] if queue[TASK_AT] == NONE else following[queue[TASK_AT]]
    if place == NONE:
        if m[CURSOR] == m[ORDER_COUNT]:
            return NONE
        place = m[CURSOR]
        m[CURSOR] += 1
        if ends[0] == NONE:
            ends[0] = place
        else:
            following[ends[1]] = place
        ends[1] = place
    queue[TASK_AT] = place
    return int(order[place])


@compiled
def fetch(m: Row, number: int) -> int:
    """Return the next instruction of a queue, with its variables set; NONE when it has none left."""
    queue, variables = queue_at(m, number), variables_at(m, number)
    if queue[LENGTH] == 0:
        return NONE
    first_loop = 2 + m[COLUMNS]
    while True:
        if queue[POSITION] >= queue[LENGTH]:
            task = _next_task(m, number)
            if task == NONE:
                return NONE
            row = row_at(table(m, TASKS), task * m[COLUMNS])
            for column in range(m[COLUMNS]):
                variables[1 + column] = row[column]
            variables[1 + m[COLUMNS]] = queue[BEGUN]
            queue[BEGUN] += 1
            queue[POSITION] = 0
            for loop in range(MAX_LOOPS):
                queue[REMAINING + loop] = 0
        at = queue[FIRST] + queue[POSITION]
        instruction = instruction_at(m, at)
        queue[POSITION] += 1
        loop = instruction[LOOP]
        if instruction[OP] == LOOP_OP:
            trips = value_of(m, instruction[SIZE], variables)
            queue[REMAINING + loop] = trips
            variables[first_loop + 2 * loop] = 0
            if trips <= 0:
                _leave_loop(m, queue, loop)
        elif instruction[OP] == END_OP:
            variables[first_loop + 2 * loop] += 1
            variables[first_loop + 2 * loop + 1] += 1
            queue[REMAINING + loop] -= 1
            if queue[REMAINING + loop] > 0:
                queue[POSITION] = instruction[PARTNER] + 1
        else:
            return int(at)


@inlined
def _leave_loop(m: Row, queue: Row, loop: int) -> None:
    """Go on behind the end of a loop that is not entered."""
    while True:
        instruction = instruction_at(m, queue[FIRST] + queue[POSITION])
        queue[POSITION] += 1
        if instruction[OP] == END_OP and instruction[LOOP] == loop:
            return
