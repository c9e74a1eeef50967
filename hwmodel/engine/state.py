"""The compiled engine's state as int64 tables: their columns, and how compiled code reaches them.

Between `tables`, which writes a phase down, and the compiled files of this folder, which run it. Compiled functions
take one pointer, to the scalars, which hold the addresses of all other tables.
"""

from __future__ import annotations

from hwmodel.compiled import inlined
from hwmodel.intrinsics import Row, pointer_of, row_at
from hwmodel.limits import MAX_AXES, MAX_LOOPS, MAX_SIGNALS, MAX_SIZES, MAX_WAITS
from hwmodel.runs import RUN_WORDS

NONE, NEVER = -1, 2**62
LOAD, STORE, MATRIX, VECTOR = range(4)  # queues, as in `program.QUEUES`
QUEUES_PER_CORE, ENGINES_PER_CORE = 4, 2

# Tables, whose addresses lie in the scalars under these numbers
TABLES = (
    "instructions", "expressions", "tiles", "tasks", "task_order", "task_start", "next_task", "core_tasks", "queues",
    "variables", "counters", "counter_causes", "scratchpads", "later", "engines", "rings", "requests",
    "request_runs", "events", "pages", "operation_keys", "operation_costs", "tile_keys", "tile_costs", "ledger",
    "port_fs", "cut_fs", "trip_request", "free_trips", "tile_runs", "traffic", "waited",
)  # fmt: skip
(
    INSTRUCTIONS, EXPRESSIONS, TILES, TASKS, TASK_ORDER, TASK_START, NEXT_TASK, CORE_TASKS, QUEUES, VARIABLES, COUNTERS,
    COUNTER_CAUSES, SCRATCHPADS, LATER, ENGINES, RINGS, REQUESTS, REQUEST_RUNS, EVENTS, PAGES, OPERATION_KEYS,
    OPERATION_COSTS, TILE_KEYS, TILE_COSTS, LEDGER, PORT_FS, CUT_FS, TRIP_REQUEST, FREE_TRIPS, TILE_RUNS, TRAFFIC,
    WAITED,
) = range(len(TABLES))  # fmt: skip

# Further scalars. CURRENT: the queue that goes on first; WANTS: what `run` returns for, WANTED: how much of it.
# DEPARTS: a request that has just left its core, for the memory side. LOCAL_LINE_BYTES: 0 where slices are nobody's.
(
    NOW, ORDER, NEXT_FS, EVENT_COUNT, CURRENT, STARTED, ENDED, QUEUE_COUNT, BURST_BYTES, PER_REQUEST, MAX_RUNS,
    MAX_OUTSTANDING, REQUEST_FS, HAS_CACHE, BACK_FS, TLB_ENTRIES, TLB_PAGE_BYTES, TLB_MISS_FS, HAS_CUT, THERE_FREE_FS,
    BACK_FREE_FS, ASKED_BYTES, UNTRANSLATED_BYTES, FREE_TRIP_COUNT, FREE_REQUEST, COLUMNS, VARIABLE_COUNT,
    COUNTER_COUNT, IS_DYNAMIC, CURSOR, ORDER_COUNT, RING_ROOM, LATER_ROOM, TILE_ROOM, OPERATION_MASK, TILE_MASK, WANTS,
    WANTED, DEPARTS, DEPART_FS, DEPART_ORDER, REGISTERED, TRANSFER_BURSTS, PHASE_DONE, LOCAL_LINE_BYTES, LOCAL_BYTES,
    RUN_ROOM, KEY,
) = range(len(TABLES), len(TABLES) + 48)  # fmt: skip
KEY_FIELDS = 16
SCALARS = KEY + KEY_FIELDS

# Why `run` returns to Python
ADVANCE, FULL, DONE, OPERATION_COST, TILE_COST, LONGER_TILE, MORE_TRIPS, LONGER_RING = range(8)
MEASURE = 8  # handled by `run` itself: the bursts of a tile

# An instruction; sizes and values are numbers of expressions
OP, WAIT_COUNTER, WAIT_VALUE = 0, 1, 1 + MAX_WAITS
SIGNAL = WAIT_VALUE + MAX_WAITS
SIZE = SIGNAL + MAX_SIGNALS
TILE, LOOP, PARTNER, ADDS, INSTRUCTION_FIELDS = range(SIZE + MAX_SIZES, SIZE + MAX_SIZES + 5)
LOOP_OP, END_OP = 0, 1
# An expression: maximum, modulo, coefficients
MAXIMUM, MODULO, COEFFICIENTS = range(3)
# A tile; PERIOD is nought where a start does not matter for the cost
TENSOR, START, EXTENT, PERIOD = 0, 1, 1 + MAX_AXES, 1 + 2 * MAX_AXES
(
    PAGE_AXIS, POSITION_AXIS, PAGE_SIZE, INDEX_START, TABLE_AT, ELEMENT_BYTES, TILE_FIELDS,
) = range(1 + 3 * MAX_AXES, 8 + 3 * MAX_AXES)  # fmt: skip
# A queue
(
    FIRST, LENGTH, POSITION, TASK_AT, BEGUN, STATE, INSTRUCTION, WAIT, WAITS_FOR, TARGET, SEQUENCE, IS_REGISTERED, COST,
    START_FS, WORK, IS_WOKEN, MARK_FS, REMAINING,
) = range(18)  # fmt: skip
QUEUE_FIELDS = REMAINING + MAX_LOOPS
FETCH, COSTING, MEASURED, WAITING, USEFUL, SCRATCHPAD, ISSUED, ROOM, DRAIN, OVER = range(10)
# A core's scratchpad; LEFT, BROUGHT and ASKED by queue
SP_NOW, LATER_COUNT, LEFT, BROUGHT, ASKED, SCRATCH_LEFT = 0, 1, 2, 6, 10, 14
SCRATCHPAD_FIELDS = 18
LATER_FIELDS = 3  # start, queue, work
# A DMA engine; of its tile RUN_COUNT runs, of which it is at SKIPPED bursts of run AT_RUN
(
    PORT_FREE_FS, ALONE_FREE_FS, LATE_CONFLICT_FS, LATE_CONTENTION_FS, OUTSTANDING, RESUMES, TOTAL, SENT, STOPS,
    RING_HEAD, RING_TAIL, PAGE_COUNT, PAGE_CLOCK, RUN_COUNT, AT_RUN, SKIPPED,
) = range(16)  # fmt: skip
ENGINE_FIELDS = 16
RING_FIELDS = 2  # requests still to come, the instruction
(
    R_ENGINE, R_TILE, R_BURSTS, R_SRAM_FS, R_WORK, R_PORT_DONE_FS, R_ALONE_FS, R_CONFLICT_FS, R_CONTENTION_FS, R_LOCAL,
    R_NEXT, R_RUNS,
) = range(12)  # fmt: skip
REQUEST_FIELDS = 12
E_TIME, E_ORDER, E_KIND, E_WHAT = range(4)
EVENT_FIELDS = 4
RESUME, SEND, LEAVE, FILLED, COMPLETE, GO_BACK, ARRIVE, QUEUES_ENDED, PHASE_ENDS, FALLS_QUIET = range(10)
PAGE_FIELDS = 3  # page, known from, last used
C_USEFUL_FS, C_SRAM_FS, C_ALONE_FS, C_TIMES = range(4)  # of an operation
COST_FIELDS = 4
T_FIRST_FS, T_SRAM_FS, T_DESCRIPTORS, T_INDICES, T_TIMES = range(5)  # of a tile
TILE_COST_FIELDS = 5
OPERATION_KEY_FIELDS, TILE_KEY_FIELDS = 2 + MAX_SIZES, 2 + 2 * MAX_AXES
CAUSES = (
    "useful", "launch", "no work", "memory", "buffer", "dependency", "SRAM bank conflict", "SRAM contention",
)  # fmt: skip
(C_USEFUL, C_LAUNCH, C_NO_WORK, C_MEMORY, C_BUFFER, C_DEPENDENCY, C_CONFLICT, C_CONTENTION) = range(len(CAUSES))
TRAFFIC_FIELDS = 5  # useful bytes, fetched bytes, descriptors, indices, requests


@inlined
def table(m: Row, number: int) -> Row:
    """Return the pointer to a table."""
    return pointer_of(m[number])


@inlined
def queue_at(m: Row, number: int) -> Row:
    return row_at(table(m, QUEUES), number * QUEUE_FIELDS)


@inlined
def variables_at(m: Row, number: int) -> Row:
    return row_at(table(m, VARIABLES), number * m[VARIABLE_COUNT])


@inlined
def instruction_at(m: Row, number: int) -> Row:
    return row_at(table(m, INSTRUCTIONS), number * INSTRUCTION_FIELDS)


@inlined
def engine_at(m: Row, number: int) -> Row:
    """Return a DMA engine: those of core c are 2 c (load) and 2 c + 1 (store)."""
    return row_at(table(m, ENGINES), number * ENGINE_FIELDS)


@inlined
def request_at(m: Row, number: int) -> Row:
    return row_at(table(m, REQUESTS), number * REQUEST_FIELDS)


@inlined
def request_runs_at(m: Row, number: int) -> Row:
    return row_at(table(m, REQUEST_RUNS), number * m[RUN_ROOM] * RUN_WORDS)


@inlined
def tile_runs_at(m: Row, engine: int) -> Row:
    return row_at(table(m, TILE_RUNS), engine * m[TILE_ROOM] * RUN_WORDS)
