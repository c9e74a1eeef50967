"""The DMA engines' requests, from the engine through port, scratchpad and translation, and back: compiled.

`hwmodel.dma_engine`, `hwmodel.tlb` and the core's side of `hwmodel.memory_side`, step by step in the same order.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.state import Row, row_at
from hwmodel.engine.events import push, signal
from hwmodel.engine.scratchpad import ask, left
from hwmodel.engine.state import (
    ALONE_FREE_FS,
    ARRIVE,
    ASKED_BYTES,
    BACK_FREE_FS,
    BACK_FS,
    BURST_BYTES,
    CUT_FS,
    DEPART_FS,
    DEPART_ORDER,
    DEPARTS,
    ENGINES_PER_CORE,
    FILLED,
    FREE_REQUEST,
    HAS_CACHE,
    HAS_CUT,
    LATE_CONFLICT_FS,
    LATE_CONTENTION_FS,
    LEAVE,
    LOCAL_BYTES,
    LOCAL_LINE_BYTES,
    NEVER,
    NONE,
    NOW,
    ORDER,
    OUTSTANDING,
    PAGE_CLOCK,
    PAGE_COUNT,
    PAGE_FIELDS,
    PAGES,
    PORT_FREE_FS,
    PORT_FS,
    QUEUE_COUNT,
    QUEUES_PER_CORE,
    R_ALONE_FS,
    R_BURSTS,
    R_CONFLICT_FS,
    R_CONTENTION_FS,
    R_ENGINE,
    R_LOCAL,
    R_NEXT,
    R_PORT_DONE_FS,
    R_SRAM_FS,
    R_TILE,
    R_WORK,
    RESUME,
    RESUMES,
    RING_FIELDS,
    RING_HEAD,
    RING_ROOM,
    RING_TAIL,
    RINGS,
    SEND,
    THERE_FREE_FS,
    TLB_ENTRIES,
    TLB_MISS_FS,
    TLB_PAGE_BYTES,
    UNTRANSLATED_BYTES,
    WAITED,
    engine_at,
    request_at,
    request_bursts_at,
    table,
    tile_bursts_at,
)


@inlined
def _core_of(engine: int) -> int:
    return engine // ENGINES_PER_CORE


@inlined
def _queue_of(engine: int) -> int:
    return engine // ENGINES_PER_CORE * QUEUES_PER_CORE + engine % ENGINES_PER_CORE


@inlined
def ring_at(m: Row, engine: int, tile: int) -> Row:
    """Return the row of a tile in flight, by its number in the order of issue."""
    return row_at(table(m, RINGS), (engine * m[RING_ROOM] + tile % m[RING_ROOM]) * RING_FIELDS)


@compiled
def retire(m: Row, engine: int) -> None:
    """Signal the tiles that are complete, in order."""
    e = engine_at(m, engine)
    while e[RING_HEAD] != e[RING_TAIL]:
        row = ring_at(m, engine, e[RING_HEAD])
        if row[0] != 0:
            return
        e[RING_HEAD] += 1
        signal(m, _core_of(engine), row[1])


@compiled
def new_request(m: Row, engine: int, first: int, stop: int, sram_fs: int) -> int:
    """Return a request for bursts[first:stop] of the engine's tile, the last one it issued."""
    number = m[FREE_REQUEST]
    row, bursts, to = request_at(m, number), tile_bursts_at(m, engine), request_bursts_at(m, number)
    m[FREE_REQUEST] = row[R_NEXT]
    row[R_ENGINE], row[R_TILE], row[R_BURSTS] = engine, engine_at(m, engine)[RING_TAIL] - 1, stop - first
    row[R_SRAM_FS], row[R_CONFLICT_FS], row[R_CONTENTION_FS] = sram_fs, 0, 0
    for at in range(first, stop):
        to[at - first] = bursts[at]
    return int(number)


@compiled
def pass_port(m: Row, number: int, now_fs: int) -> None:
    """Let a request's data through port and scratchpad, which work on it at the same time."""
    row = request_at(m, number)
    engine = row[R_ENGINE]
    e, duration = engine_at(m, engine), table(m, PORT_FS)[row[R_BURSTS]]
    e[PORT_FREE_FS] = row[R_PORT_DONE_FS] = max(now_fs, e[PORT_FREE_FS]) + duration
    start = row[R_PORT_DONE_FS] - duration
    row[R_WORK] = ask(m, _core_of(engine), engine % ENGINES_PER_CORE, start, row[R_SRAM_FS])
    e[ALONE_FREE_FS] = row[R_ALONE_FS] = max(start, e[ALONE_FREE_FS]) + row[R_SRAM_FS]


@compiled
def is_through(m: Row, number: int, again: int) -> bool:
    """Tell whether the scratchpad is done with a request that has passed the port; if not, ask again when it is."""
    row, now = request_at(m, number), m[NOW]
    engine = row[R_ENGINE]
    user = engine % ENGINES_PER_CORE
    rest = left(m, _core_of(engine), user, row[R_WORK], now)
    if rest != 0:
        push(m, now + rest, again, number)
        return False
    if now > row[R_PORT_DONE_FS]:
        row[R_CONFLICT_FS] = max(0, row[R_ALONE_FS] - row[R_PORT_DONE_FS])
        row[R_CONTENTION_FS] = now - row[R_PORT_DONE_FS] - row[R_CONFLICT_FS]
        table(m, WAITED)[user] += row[R_CONTENTION_FS]
    return True


@compiled
def complete(m: Row, number: int) -> None:
    """A request is complete: free its place, signal tiles now complete in order, let the engine go on."""
    row = request_at(m, number)
    engine = row[R_ENGINE]
    e = engine_at(m, engine)
    e[OUTSTANDING] -= 1
    e[LATE_CONFLICT_FS], e[LATE_CONTENTION_FS] = row[R_CONFLICT_FS], row[R_CONTENTION_FS]
    tile = ring_at(m, engine, row[R_TILE])
    tile[0] -= 1
    if tile[0] == 0:
        retire(m, engine)
    if e[RESUMES] != 0:
        e[RESUMES] = 0
        push(m, m[NOW], RESUME, _queue_of(engine))
    row[R_NEXT] = m[FREE_REQUEST]
    m[FREE_REQUEST] = number


@compiled
def submit(m: Row, number: int) -> None:
    """Send a request from its core now, when its pages are known."""
    row = request_at(m, number)
    m[ASKED_BYTES] += row[R_BURSTS] * m[BURST_BYTES]
    row[R_LOCAL] = m[LOCAL_LINE_BYTES] != 0 and _is_local(m, number)
    m[LOCAL_BYTES] += row[R_LOCAL] * row[R_BURSTS] * m[BURST_BYTES]
    delay = _translation_fs(m, number) if m[TLB_ENTRIES] != 0 else 0
    if delay != 0:
        m[UNTRANSLATED_BYTES] += row[R_BURSTS] * m[BURST_BYTES]
        push(m, m[NOW] + delay, LEAVE, number)
    else:
        leave(m, number)


@compiled
def _is_local(m: Row, number: int) -> bool:
    """Tell whether a request lies in the slice of its own core; slices have their lines in turn."""
    row, bursts = request_at(m, number), request_bursts_at(m, number)
    core, cores = _core_of(row[R_ENGINE]), m[QUEUE_COUNT] // QUEUES_PER_CORE
    elsewhere = 0
    for at in range(row[R_BURSTS]):
        elsewhere += bursts[at] // m[LOCAL_LINE_BYTES] % cores != core
    return elsewhere == 0


@compiled
def _translation_fs(m: Row, number: int) -> int:
    """Look up the pages of a request; return for how long it waits."""
    row, bursts, now = request_at(m, number), request_bursts_at(m, number), m[NOW]
    e, last, ready = engine_at(m, row[R_ENGINE]), NONE, now
    pages = row_at(table(m, PAGES), row[R_ENGINE] * m[TLB_ENTRIES] * PAGE_FIELDS)
    for at in range(row[R_BURSTS]):
        page = bursts[at] // m[TLB_PAGE_BYTES]
        if page == last:
            continue
        last = page
        entry = _known_page(m, e, pages, page, now)
        ready = max(ready, entry[1])
    return int(ready - now)


@inlined
def _known_page(m: Row, e: Row, pages: Row, page: int, now: int) -> Row:
    """Return the entry of a page; of one that is not known, in place of the one used longest ago."""
    e[PAGE_CLOCK] += 1
    oldest, used = 0, NEVER
    for place in range(e[PAGE_COUNT]):
        entry = row_at(pages, place * PAGE_FIELDS)
        if entry[0] == page:
            entry[2] = e[PAGE_CLOCK]
            return entry
        if entry[2] < used:
            oldest, used = place, entry[2]
    if e[PAGE_COUNT] < m[TLB_ENTRIES]:
        oldest = e[PAGE_COUNT]
        e[PAGE_COUNT] += 1
    entry = row_at(pages, oldest * PAGE_FIELDS)
    entry[0], entry[1], entry[2] = page, now + m[TLB_MISS_FS], e[PAGE_CLOCK]
    return entry


@compiled
def leave(m: Row, number: int) -> None:
    """Send a translated request into the network; `run` hands it to the memory side."""
    row, now = request_at(m, number), m[NOW]
    arrival = now
    if row[R_LOCAL] == 0:
        if row[R_ENGINE] % ENGINES_PER_CORE == 1 and m[HAS_CUT]:
            arrival = m[THERE_FREE_FS] = max(now, m[THERE_FREE_FS]) + table(m, CUT_FS)[row[R_BURSTS]]
        if m[HAS_CACHE] or m[LOCAL_LINE_BYTES]:
            arrival += m[BACK_FS]
    order = m[ORDER]
    m[ORDER] += 1
    if arrival == now and not m[HAS_CACHE]:  # before all else of this time
        order -= NEVER
    m[DEPARTS], m[DEPART_FS], m[DEPART_ORDER] = number, arrival, order


@compiled
def send_back(m: Row, number: int, now_fs: int) -> None:
    """Send a load's data, which is there now or soon, to the core that asked for it."""
    row, there = request_at(m, number), now_fs
    if row[R_LOCAL] == 0:
        if m[HAS_CUT]:
            there = m[BACK_FREE_FS] = max(now_fs, m[BACK_FREE_FS]) + table(m, CUT_FS)[row[R_BURSTS]]
        there += m[BACK_FS]
    if m[LOCAL_LINE_BYTES]:  # data that stays beside its core may be at the port before
        push(m, there, ARRIVE, number)
    else:
        arrive(m, number, there)


@compiled
def arrive(m: Row, number: int, there_fs: int) -> None:
    """A load's data is at its core's port, now or soon."""
    pass_port(m, number, there_fs)
    push(m, request_at(m, number)[R_PORT_DONE_FS], FILLED, number)


@compiled
def issue(m: Row, engine: int, first: int, stop: int, sram_fs: int) -> None:
    """Send bursts[first:stop] of the engine's tile as one request."""
    number = new_request(m, engine, first, stop, sram_fs)
    engine_at(m, engine)[OUTSTANDING] += 1
    if engine % ENGINES_PER_CORE == 1:  # the data leaves through the port while the engine issues the next request
        pass_port(m, number, m[NOW])
        push(m, request_at(m, number)[R_PORT_DONE_FS], SEND, number)
    else:
        submit(m, number)
