"""The DMA engines' requests, from the engine through port, scratchpad and translation, and back: compiled.

`hwmodel.dma_engine`, `hwmodel.tlb` and the core's side of `hwmodel.memory_side`, step by step in the same order.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.engine.events import push, signal
from hwmodel.engine.scratchpad import ask, left
from hwmodel.engine.state import (
    ALONE_FREE_FS,
    ARRIVE,
    ASKED_BYTES,
    AT_RUN,
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
    MAX_RUNS,
    NEVER,
    NONE,
    NOW,
    ORDER,
    OUTSTANDING,
    PAGE_CLOCK,
    PAGE_COUNT,
    PAGE_FIELDS,
    PAGES,
    PER_REQUEST,
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
    R_RUNS,
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
    RUN_COUNT,
    SEND,
    SKIPPED,
    THERE_FREE_FS,
    TLB_ENTRIES,
    TLB_MISS_FS,
    TLB_PAGE_BYTES,
    UNTRANSLATED_BYTES,
    WAITED,
    engine_at,
    request_at,
    request_runs_at,
    table,
    tile_runs_at,
)
from hwmodel.intrinsics import Row, row_at
from hwmodel.runs import BEGIN, BURSTS, RUN_WORDS


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


@inlined
def cut(m: Row, runs: Row, count: int, at: int, skipped: int) -> tuple[int, int, int]:
    """Return the bursts of the request that begins `skipped` bursts into run `at`, and where the next one begins.

    See `dma.cut_requests`.
    """
    bursts, pieces = 0, 0
    while at < count and pieces < m[MAX_RUNS] and bursts < m[PER_REQUEST]:
        left = row_at(runs, at * RUN_WORDS)[BURSTS] - skipped
        taken = min(left, m[PER_REQUEST] - bursts)
        bursts, pieces = bursts + taken, pieces + 1
        at, skipped = (at + 1, 0) if taken == left else (at, skipped + taken)
    return bursts, at, skipped


@compiled
def new_request(m: Row, engine: int) -> int:
    """Return a request for what comes next of the engine's tile, the last one it issued."""
    number, e, runs = m[FREE_REQUEST], engine_at(m, engine), tile_runs_at(m, engine)
    row, to, pieces = request_at(m, number), request_runs_at(m, number), 0
    at, skipped = e[AT_RUN], e[SKIPPED]
    bursts, e[AT_RUN], e[SKIPPED] = cut(m, runs, e[RUN_COUNT], at, skipped)
    while at < e[AT_RUN] or (at == e[AT_RUN] and skipped < e[SKIPPED]):
        run, piece = row_at(runs, at * RUN_WORDS), row_at(to, pieces * RUN_WORDS)
        piece[BEGIN] = run[BEGIN] + skipped * m[BURST_BYTES]
        piece[BURSTS] = (e[SKIPPED] if at == e[AT_RUN] else run[BURSTS]) - skipped
        at, skipped, pieces = at + 1, 0, pieces + 1
    m[FREE_REQUEST] = row[R_NEXT]
    row[R_ENGINE], row[R_TILE], row[R_BURSTS], row[R_RUNS] = engine, e[RING_TAIL] - 1, bursts, pieces
    row[R_CONFLICT_FS], row[R_CONTENTION_FS] = 0, 0
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


@inlined
def _next_unit(m: Row, address: int, unit: int, unit_bytes: int) -> int:
    """Return the first burst behind `address` that does not begin in a unit of so many bytes."""
    return int(address + max(1, -(-((unit + 1) * unit_bytes - address) // m[BURST_BYTES])) * m[BURST_BYTES])


@compiled
def _is_local(m: Row, number: int) -> bool:
    """Tell whether a request lies in the slice of its own core; slices have their lines in turn."""
    row, runs, line_bytes = request_at(m, number), request_runs_at(m, number), m[LOCAL_LINE_BYTES]
    core, cores = _core_of(row[R_ENGINE]), m[QUEUE_COUNT] // QUEUES_PER_CORE
    for piece in range(row[R_RUNS]):
        run = row_at(runs, piece * RUN_WORDS)
        address, end = run[BEGIN], run[BEGIN] + run[BURSTS] * m[BURST_BYTES]
        while address < end:
            line = address // line_bytes
            if line % cores != core:
                return False
            address = _next_unit(m, address, line, line_bytes)
    return True


@compiled
def _translation_fs(m: Row, number: int) -> int:
    """Look up the pages of a request; return for how long it waits."""
    row, runs, now = request_at(m, number), request_runs_at(m, number), m[NOW]
    e, last, ready = engine_at(m, row[R_ENGINE]), NONE, now
    pages = row_at(table(m, PAGES), row[R_ENGINE] * m[TLB_ENTRIES] * PAGE_FIELDS)
    for piece in range(row[R_RUNS]):
        run = row_at(runs, piece * RUN_WORDS)
        address, end = run[BEGIN], run[BEGIN] + run[BURSTS] * m[BURST_BYTES]
        while address < end:
            page = address // m[TLB_PAGE_BYTES]
            if page != last:
                ready = max(ready, _known_page(m, e, pages, page, now)[1])
            last, address = page, _next_unit(m, address, page, m[TLB_PAGE_BYTES])
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
def issue(m: Row, engine: int, number: int) -> None:
    """Send a new request."""
    engine_at(m, engine)[OUTSTANDING] += 1
    if engine % ENGINES_PER_CORE == 1:  # the data leaves through the port while the engine issues the next request
        pass_port(m, number, m[NOW])
        push(m, request_at(m, number)[R_PORT_DONE_FS], SEND, number)
    else:
        submit(m, number)
