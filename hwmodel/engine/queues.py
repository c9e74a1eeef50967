"""The queues of the cores as machines of states between events: `hwmodel.reference.Core`, compiled."""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.engine.costs import operation_cost, tile_cost
from hwmodel.engine.dma import issue, new_request, retire, ring_at
from hwmodel.engine.events import must_wait, push, signal, spend
from hwmodel.engine.scratchpad import ask, left
from hwmodel.engine.state import (
    C_ALONE_FS,
    C_CONFLICT,
    C_CONTENTION,
    C_MEMORY,
    C_SRAM_FS,
    C_TIMES,
    C_USEFUL,
    C_USEFUL_FS,
    COST,
    COST_FIELDS,
    COSTING,
    CURRENT,
    DRAIN,
    ENDED,
    ENGINES_PER_CORE,
    FETCH,
    INSTRUCTION,
    IS_WOKEN,
    ISSUED,
    LATE_CONFLICT_FS,
    LATE_CONTENTION_FS,
    LONGER_RING,
    MATRIX,
    MAX_OUTSTANDING,
    MEASURE,
    MEASURED,
    NONE,
    NOW,
    OPERATION_COST,
    OPERATION_COSTS,
    OUTSTANDING,
    OVER,
    QUEUE_COUNT,
    QUEUES_ENDED,
    QUEUES_PER_CORE,
    R_BURSTS,
    R_SRAM_FS,
    REQUEST_FS,
    RESUME,
    RESUMES,
    RING_HEAD,
    RING_ROOM,
    RING_TAIL,
    ROOM,
    SCRATCHPAD,
    SENT,
    START_FS,
    STATE,
    STOPS,
    T_FIRST_FS,
    T_SRAM_FS,
    TILE_COST,
    TILE_COST_FIELDS,
    TILE_COSTS,
    TOTAL,
    USEFUL,
    WAIT,
    WAITED,
    WAITING,
    WANTS,
    WORK,
    engine_at,
    queue_at,
    request_at,
    table,
)
from hwmodel.engine.walk import fetch
from hwmodel.intrinsics import Row, row_at


@inlined
def engine_of(number: int) -> int:
    """Return the DMA engine of a load or store queue."""
    return number // QUEUES_PER_CORE * ENGINES_PER_CORE + number % QUEUES_PER_CORE


@compiled
def resume(m: Row, number: int) -> None:
    """Let a queue go on until it waits for something, wants something of `run`, or is over."""
    if number % QUEUES_PER_CORE >= MATRIX:
        _compute(m, number)
    else:
        _transfer(m, number)


@inlined
def _want(m: Row, number: int, what: int) -> None:
    m[WANTS], m[CURRENT] = what, number


@compiled
def _end(m: Row, number: int) -> None:
    queue_at(m, number)[STATE] = OVER
    m[ENDED] += 1
    if m[ENDED] == m[QUEUE_COUNT]:
        push(m, m[NOW], QUEUES_ENDED, 0)


@compiled
def _compute(m: Row, number: int) -> None:
    """The matrix or the vector queue. An instruction is done when its unit and the scratchpad both are."""
    queue, core, user = queue_at(m, number), number // QUEUES_PER_CORE, number % QUEUES_PER_CORE
    while True:
        if queue[STATE] == FETCH:
            queue[INSTRUCTION] = fetch(m, number)
            if queue[INSTRUCTION] == NONE:
                _end(m, number)
                return
            queue[STATE] = COSTING
        elif queue[STATE] == COSTING:
            queue[COST] = operation_cost(m, number)
            if queue[COST] == NONE:
                _want(m, number, OPERATION_COST)
                return
            queue[WAIT], queue[STATE] = 0, WAITING
        cost = row_at(table(m, OPERATION_COSTS), queue[COST] * COST_FIELDS)
        if queue[STATE] == WAITING:
            if must_wait(m, number):
                return
            queue[START_FS], queue[STATE] = m[NOW], USEFUL
            queue[WORK] = ask(m, core, user, m[NOW], cost[C_SRAM_FS])
            push(m, m[NOW] + cost[C_USEFUL_FS], RESUME, number)
            return
        if queue[STATE] == USEFUL:
            spend(m, number, C_USEFUL, m[NOW])
            queue[STATE] = SCRATCHPAD
        if queue[STATE] == SCRATCHPAD:
            if cost[C_SRAM_FS] != 0:
                rest = left(m, core, user, queue[WORK], m[NOW])
                if rest != 0:
                    push(m, m[NOW] + rest, RESUME, number)
                    return
                cost[C_TIMES] += 1
                _account(m, number, queue[START_FS], cost)
            queue[STATE] = FETCH
            signal(m, core, queue[INSTRUCTION])


@inlined
def _account(m: Row, number: int, start_fs: int, cost: Row) -> None:
    """Attribute what the scratchpad took longer than the unit."""
    if m[NOW] > start_fs + cost[C_USEFUL_FS]:
        spend(m, number, C_CONFLICT, start_fs + cost[C_ALONE_FS])
        spend(m, number, C_CONTENTION, m[NOW])
        table(m, WAITED)[number % QUEUES_PER_CORE] += m[NOW] - start_fs - cost[C_ALONE_FS]


@compiled
def _transfer(m: Row, number: int) -> None:
    """The load or the store queue: what `hwmodel.reference` and `hwmodel.dma_engine` do between events."""
    queue, engine = queue_at(m, number), engine_of(number)
    e = engine_at(m, engine)
    while True:
        if queue[STATE] == FETCH:
            queue[INSTRUCTION] = fetch(m, number)
            queue[STATE] = DRAIN if queue[INSTRUCTION] == NONE else COSTING
        elif queue[STATE] == COSTING:
            queue[COST] = tile_cost(m, number)
            _want(m, number, TILE_COST if queue[COST] == NONE else MEASURE)
            return
        elif queue[STATE] == MEASURED:
            if e[RING_TAIL] - e[RING_HEAD] == m[RING_ROOM]:
                _want(m, number, LONGER_RING)
                return
            queue[WAIT], queue[STATE] = 0, WAITING
        elif queue[STATE] == WAITING:
            if must_wait(m, number):
                return
            if _begin(m, number, engine):
                queue[STATE] = ISSUED
                return
            queue[STATE] = FETCH
        elif queue[STATE] == ISSUED:
            spend(m, number, C_USEFUL, m[NOW])
            queue[STATE] = ROOM
        else:  # ROOM or DRAIN
            if queue[IS_WOKEN]:
                queue[IS_WOKEN] = 0
                _account_wait(m, number, e)
            if e[OUTSTANDING] >= (m[MAX_OUTSTANDING] if queue[STATE] == ROOM else 1):
                e[RESUMES] = queue[IS_WOKEN] = 1
                return
            if queue[STATE] == DRAIN:
                _end(m, number)
                return
            more = _issue_next(m, number, engine)
            queue[STATE] = ISSUED if more else FETCH
            if more:
                return


@inlined
def _begin(m: Row, number: int, engine: int) -> bool:
    """Put a tile behind those in flight; return whether there is something to issue."""
    queue, e = queue_at(m, number), engine_at(m, engine)
    row = ring_at(m, engine, e[RING_TAIL])
    row[0], row[1] = e[STOPS], queue[INSTRUCTION]
    e[RING_TAIL] += 1
    retire(m, engine)  # an empty tile is complete at once
    e[SENT] = 0
    if e[TOTAL] == 0:
        return False
    cost = row_at(table(m, TILE_COSTS), queue[COST] * TILE_COST_FIELDS)
    push(m, m[NOW] + cost[T_FIRST_FS], RESUME, number)
    return True


@inlined
def _issue_next(m: Row, number: int, engine: int) -> bool:
    """Issue the next request of a tile; return whether another one follows."""
    queue, e = queue_at(m, number), engine_at(m, engine)
    cost = row_at(table(m, TILE_COSTS), queue[COST] * TILE_COST_FIELDS)
    request, first = new_request(m, engine), e[SENT]
    row = request_at(m, request)
    stop = first + row[R_BURSTS]
    row[R_SRAM_FS] = cost[T_SRAM_FS] * stop // e[TOTAL] - cost[T_SRAM_FS] * first // e[TOTAL]
    e[SENT] = stop
    issue(m, engine, request)
    if stop == e[TOTAL]:
        return False
    push(m, m[NOW] + m[REQUEST_FS], RESUME, number)
    return True


@inlined
def _account_wait(m: Row, number: int, e: Row) -> None:
    """Attribute waiting for a request: what the scratchpad delayed it by is the scratchpad's, the rest memory's."""
    now, conflict, contention = m[NOW], e[LATE_CONFLICT_FS], e[LATE_CONTENTION_FS]
    if conflict != 0 or contention != 0:
        spend(m, number, C_MEMORY, now - conflict - contention)
        spend(m, number, C_CONFLICT, now - contention)
        spend(m, number, C_CONTENTION, now)
    spend(m, number, C_MEMORY, now)
