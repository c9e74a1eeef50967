"""Events in the order of time and of scheduling, counters, and the accounts of queues, compiled."""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.engine.state import (
    CAUSES,
    COUNTER_CAUSES,
    COUNTER_COUNT,
    COUNTERS,
    E_KIND,
    E_ORDER,
    E_TIME,
    E_WHAT,
    EVENT_COUNT,
    EVENT_FIELDS,
    EVENTS,
    INSTRUCTION,
    IS_REGISTERED,
    LEDGER,
    MARK_FS,
    NEVER,
    NONE,
    NOW,
    ORDER,
    QUEUES_PER_CORE,
    REGISTERED,
    RESUME,
    SEQUENCE,
    SIGNAL,
    TARGET,
    WAIT,
    WAIT_COUNTER,
    WAIT_VALUE,
    WAITS_FOR,
    instruction_at,
    queue_at,
    table,
    variables_at,
)
from hwmodel.engine.walk import value_of
from hwmodel.intrinsics import Row, row_at
from hwmodel.limits import MAX_SIGNALS, MAX_WAITS


@inlined
def _event_at(m: Row, place: int) -> Row:
    return row_at(table(m, EVENTS), place * EVENT_FIELDS)


@inlined
def _copy(to: Row, row: Row) -> None:
    for field in range(EVENT_FIELDS):
        to[field] = row[field]


@compiled
def push(m: Row, time_fs: int, kind: int, what: int) -> None:
    """Schedule an event."""
    at, order = m[EVENT_COUNT], m[ORDER]
    m[EVENT_COUNT] += 1
    m[ORDER] += 1
    while at > 0:  # its order is the highest, so that it stands behind those of its time
        above = _event_at(m, (at - 1) >> 1)
        if above[E_TIME] <= time_fs:
            break
        _copy(_event_at(m, at), above)
        at = (at - 1) >> 1
    row = _event_at(m, at)
    row[E_TIME], row[E_ORDER], row[E_KIND], row[E_WHAT] = time_fs, order, kind, what


@inlined
def _is_before(row: Row, other: Row) -> bool:
    return bool(row[E_TIME] < other[E_TIME] or (row[E_TIME] == other[E_TIME] and row[E_ORDER] < other[E_ORDER]))


@compiled
def pop(m: Row) -> tuple[int, int, int]:
    """Remove the next event; return its time, its kind and what it is about."""
    first = _event_at(m, 0)
    time_fs, kind, what = first[E_TIME], first[E_KIND], first[E_WHAT]
    m[EVENT_COUNT] -= 1
    last = m[EVENT_COUNT]
    moved = _event_at(m, last)
    at, below = 0, 1
    while below < last:
        row = _event_at(m, below)
        if below + 1 < last and _is_before(_event_at(m, below + 1), row):
            below += 1
            row = _event_at(m, below)
        if not _is_before(row, moved):
            break
        _copy(_event_at(m, at), row)
        at, below = below, 2 * below + 1
    if at != last:
        _copy(_event_at(m, at), moved)
    return int(time_fs), int(kind), int(what)


@inlined
def upcoming(m: Row) -> tuple[int, int]:
    """Return the time of the next event and its place in the order of scheduling."""
    if m[EVENT_COUNT] == 0:
        return NEVER, NEVER
    row = _event_at(m, 0)
    return int(row[E_TIME]), int(row[E_ORDER])


@compiled
def spend(m: Row, number: int, cause: int, now_fs: int) -> None:
    """Attribute a queue's time since the last call to a cause."""
    queue = queue_at(m, number)
    if now_fs > queue[MARK_FS]:
        row_at(table(m, LEDGER), number * len(CAUSES))[cause] += now_fs - queue[MARK_FS]
        queue[MARK_FS] = now_fs


@compiled
def signal(m: Row, core: int, instruction: int) -> None:
    """Add to the counters that an instruction signals; wake who waited for them, in the order in which they came."""
    row, counters = instruction_at(m, instruction), row_at(table(m, COUNTERS), core * m[COUNTER_COUNT])
    for i in range(MAX_SIGNALS):
        counter = row[SIGNAL + i]
        if counter == NONE:
            continue
        counters[counter] += 1
        while True:
            found = _first_waiting(m, core, counter, counters[counter])
            if found == NONE:
                break
            queue_at(m, found)[IS_REGISTERED] = 0
            push(m, m[NOW], RESUME, found)


@inlined
def _first_waiting(m: Row, core: int, counter: int, value: int) -> int:
    found, earliest = NONE, NEVER
    for number in range(core * QUEUES_PER_CORE, (core + 1) * QUEUES_PER_CORE):
        queue = queue_at(m, number)
        waits = queue[IS_REGISTERED] and queue[WAITS_FOR] == counter and queue[TARGET] <= value
        if waits and queue[SEQUENCE] < earliest:
            found, earliest = number, queue[SEQUENCE]
    return found


@compiled
def must_wait(m: Row, number: int) -> bool:
    """Return whether a queue has to wait for a counter of its instruction; it is resumed when that is there."""
    queue = queue_at(m, number)
    core, row = number // QUEUES_PER_CORE, instruction_at(m, queue[INSTRUCTION])
    counters = row_at(table(m, COUNTERS), core * m[COUNTER_COUNT])
    if queue[WAITS_FOR] != NONE:
        spend(m, number, table(m, COUNTER_CAUSES)[queue[WAITS_FOR]], m[NOW])
        queue[WAITS_FOR] = NONE
        queue[WAIT] += 1
    while queue[WAIT] < MAX_WAITS:
        counter = row[WAIT_COUNTER + queue[WAIT]]
        if counter != NONE:
            target = value_of(m, row[WAIT_VALUE + queue[WAIT]], variables_at(m, number))
            if counters[counter] < target:
                queue[WAITS_FOR], queue[TARGET], queue[IS_REGISTERED] = counter, target, 1
                queue[SEQUENCE] = m[REGISTERED]
                m[REGISTERED] += 1
                return True
        queue[WAIT] += 1
    return False
