"""The compiled loop over all events of a phase: cores and the memory side in the order of time and of scheduling.

`run` goes on until Python must help: DRAM advances, a table grows, a cost is worked out. The memory side is
`hwmodel.trips`, which takes turns with the events of the cores as it does with SimPy's in `hwmodel.memory_side`.
"""

from __future__ import annotations

from hwmodel import trips as k
from hwmodel.compiled import compiled, inlined
from hwmodel.dma import tile_runs
from hwmodel.engine.costs import tile_at
from hwmodel.engine.dma import arrive, complete, cut, is_through, leave, send_back, submit
from hwmodel.engine.events import pop, push, spend, upcoming
from hwmodel.engine.queues import engine_of, resume
from hwmodel.engine.state import (
    ADVANCE,
    ARRIVE,
    AT_RUN,
    BACK_FS,
    BURST_BYTES,
    C_LAUNCH,
    C_NO_WORK,
    COMPLETE,
    COST,
    CURRENT,
    DEPART_FS,
    DEPART_ORDER,
    DEPARTS,
    DONE,
    E_TIME,
    ELEMENT_BYTES,
    ENGINES_PER_CORE,
    EVENT_COUNT,
    EVENTS,
    EXTENT,
    FALLS_QUIET,
    FILLED,
    FREE_TRIP_COUNT,
    FREE_TRIPS,
    FULL,
    GO_BACK,
    HAS_CACHE,
    INDEX_START,
    LEAVE,
    LONGER_TILE,
    MEASURE,
    MEASURED,
    MORE_TRIPS,
    NEXT_FS,
    NONE,
    NOW,
    PAGE_AXIS,
    PAGE_SIZE,
    PHASE_DONE,
    PHASE_ENDS,
    POSITION_AXIS,
    QUEUE_COUNT,
    QUEUES_ENDED,
    R_BURSTS,
    R_ENGINE,
    R_LOCAL,
    R_RUNS,
    RESUME,
    RUN_COUNT,
    SEND,
    SKIPPED,
    START,
    STARTED,
    STATE,
    STOPS,
    T_DESCRIPTORS,
    T_INDICES,
    T_TIMES,
    TABLE_AT,
    TENSOR,
    TILE_COST_FIELDS,
    TILE_COSTS,
    TILE_ROOM,
    TOTAL,
    TRAFFIC,
    TRAFFIC_FIELDS,
    TRANSFER_BURSTS,
    TRIP_REQUEST,
    WANTED,
    WANTS,
    engine_at,
    queue_at,
    request_at,
    request_runs_at,
    table,
    tile_runs_at,
    variables_at,
)
from hwmodel.engine.walk import value_of
from hwmodel.intrinsics import Row, pointer, row_at
from hwmodel.limits import MAX_AXES
from hwmodel.runs import BEGIN, BURSTS, RUN_WORDS, Array


@compiled
def run(
    scalars: Array, memory: Array, bases: Array, extents: Array, strides: Array, orders: Array, indices: Array,
    starts: Array, counts: Array,
) -> int:  # fmt: skip
    """Go on with a phase; return why Python must help, or `DONE`.

    `memory` are the scalars of `trips.run`; `bases` to `orders` the tensors' layouts, [tensor, axis, digit]; `indices`
    the contents of all index tensors; `starts`, `counts` room for a tile's.
    """
    m, t = pointer(scalars), pointer(memory)
    while True:
        while m[CURRENT] != NONE or m[STARTED] < m[QUEUE_COUNT]:
            if m[FREE_TRIP_COUNT] == 0:
                return MORE_TRIPS
            if m[CURRENT] == NONE:
                m[CURRENT] = m[STARTED]
                m[STARTED] += 1
                spend(m, m[CURRENT], C_LAUNCH, m[NOW])
            number = m[CURRENT]
            m[CURRENT] = NONE
            if m[WANTS] == MEASURE:
                if not _measure(m, number, bases, extents, strides, orders, indices, starts, counts):
                    m[CURRENT] = number
                    return LONGER_TILE
                m[WANTS] = NONE
            resume(m, number)
            _depart(m, t)
            if m[WANTS] != NONE and m[WANTS] != MEASURE:
                return int(m[WANTS])
        if m[FREE_TRIP_COUNT] == 0:
            return MORE_TRIPS
        if m[EVENT_COUNT] != 0 and table(m, EVENTS)[E_TIME] < m[NEXT_FS]:
            _step(m, t)
            _depart(m, t)
            continue
        time_fs, order = upcoming(m)
        status, answers, m[NEXT_FS] = k.run(t, time_fs, order)
        if answers != 0:
            _deliver(m, t, answers)
        elif status == k.ADVANCE:
            return ADVANCE
        elif status == k.STEP:
            if m[EVENT_COUNT] == 0:
                return DONE
            _step(m, t)
            _depart(m, t)
        if status == k.FULL:
            return FULL


@compiled
def _step(m: Row, t: Row) -> None:
    """Let the next event happen; `t` are the scalars of `trips`."""
    m[NOW], kind, what = pop(m)
    if kind == RESUME:
        m[CURRENT] = what
    elif kind == FILLED:
        if is_through(m, what, FILLED):
            complete(m, what)
    elif kind == SEND:
        if is_through(m, what, SEND):
            submit(m, what)
    elif kind == LEAVE:
        leave(m, what)
    elif kind == COMPLETE:
        complete(m, what)
    elif kind == GO_BACK:
        send_back(m, what, m[NOW])
    elif kind == ARRIVE:
        arrive(m, what, m[NOW])
    elif kind == QUEUES_ENDED:
        push(m, m[NOW], PHASE_ENDS, 0)
    elif kind == FALLS_QUIET:
        push(m, m[NOW], PHASE_ENDS, 1)
    elif what == 0 and t[k.WRITE_BACKS] != 0:  # a phase ends when what it drove out of the cache is in memory
        t[k.QUIET] = 1
    else:
        m[PHASE_DONE] = 1
        for number in range(m[QUEUE_COUNT]):
            spend(m, number, C_NO_WORK, m[NOW])


@inlined
def _depart(m: Row, t: Row) -> None:
    """Hand the request that has just left its core, if one has, to the memory side."""
    number = m[DEPARTS]
    if number == NONE:
        return
    m[DEPARTS] = NONE
    m[FREE_TRIP_COUNT] -= 1
    trip = table(m, FREE_TRIPS)[m[FREE_TRIP_COUNT]]
    table(m, TRIP_REQUEST)[trip] = number
    row = request_at(m, number)
    is_write = row[R_ENGINE] % ENGINES_PER_CORE == 1
    asked = request_runs_at(m, number), row[R_RUNS], row[R_BURSTS]
    k.arrive(t, trip, *asked, is_write, m[DEPART_FS], m[DEPART_ORDER])
    m[NEXT_FS] = min(m[NEXT_FS], m[DEPART_FS])


@compiled
def _deliver(m: Row, t: Row, count: int) -> None:
    """Send back what main memory or the cache has answered."""
    t[k.ANSWERS] = 0
    for i in range(count):
        answer = k.answer_at(t, i)
        trip, came, served = answer[0], answer[1], answer[2]
        if trip == NONE:
            push(m, came, FALLS_QUIET, 0)
            continue
        table(m, FREE_TRIPS)[m[FREE_TRIP_COUNT]] = trip
        m[FREE_TRIP_COUNT] += 1
        number = table(m, TRIP_REQUEST)[trip]
        if k.trip_at(t, trip)[k.IS_WRITE] != 0:
            local = request_at(m, number)[R_LOCAL] != 0
            push(m, served if local else served + m[BACK_FS], COMPLETE, number)
        elif m[HAS_CACHE]:  # its slices may have served one that came later before
            push(m, served, GO_BACK, number)
        else:
            send_back(m, number, served)


@compiled
def _measure(
    m: Row, number: int, bases: Array, extents: Array, strides: Array, orders: Array, indices: Array, starts: Array,
    counts: Array,
) -> bool:  # fmt: skip
    """Find the runs and requests of a queue's tile, and count them; return whether there was room for them."""
    tile, variables, engine = tile_at(m, number), variables_at(m, number), engine_of(number)
    is_store, tensor, elements = engine % ENGINES_PER_CORE, tile[TENSOR], 1
    for axis in range(MAX_AXES):
        starts[axis] = value_of(m, tile[START + axis], variables) if tile[START + axis] != NONE else 0
        counts[axis] = value_of(m, tile[EXTENT + axis], variables) if tile[EXTENT + axis] != NONE else 1
        elements *= counts[axis]
    transfer = 1 if is_store else m[TRANSFER_BURSTS]
    found = tile_runs(
        bases[tensor], tile[ELEMENT_BYTES], m[BURST_BYTES] * transfer, extents[tensor], strides[tensor], orders[tensor],
        starts, counts, tile[PAGE_AXIS], tile[POSITION_AXIS], tile[PAGE_SIZE], indices,
        tile[TABLE_AT] + value_of(m, tile[INDEX_START], variables),
    )  # fmt: skip
    if len(found) > m[TILE_ROOM]:
        m[WANTED] = len(found)
        return False
    runs, e, total = tile_runs_at(m, engine), engine_at(m, engine), 0
    for i in range(len(found)):
        run = row_at(runs, i * RUN_WORDS)
        run[BEGIN], run[BURSTS] = found[i, BEGIN], found[i, BURSTS] * transfer
        total += run[BURSTS]
    e[TOTAL], e[RUN_COUNT], e[STOPS], at, skipped = total, len(found), 0, 0, 0
    while at < e[RUN_COUNT]:
        _, at, skipped = cut(m, runs, e[RUN_COUNT], at, skipped)
        e[STOPS] += 1
    e[AT_RUN] = e[SKIPPED] = 0
    _count(m, number, is_store, tensor, elements * tile[ELEMENT_BYTES])
    queue_at(m, number)[STATE] = MEASURED
    return True


@inlined
def _count(m: Row, number: int, is_store: int, tensor: int, useful_bytes: int) -> None:
    """Count a tile in the traffic of its tensor."""
    e = engine_at(m, engine_of(number))
    cost = row_at(table(m, TILE_COSTS), queue_at(m, number)[COST] * TILE_COST_FIELDS)
    cost[T_TIMES] += 1
    entry = row_at(table(m, TRAFFIC), (ENGINES_PER_CORE * tensor + is_store) * TRAFFIC_FIELDS)
    entry[0] += useful_bytes
    entry[1] += e[TOTAL] * m[BURST_BYTES]
    entry[2] += cost[T_DESCRIPTORS]
    entry[3] += cost[T_INDICES]
    entry[4] += e[STOPS]
