"""The arrays on which the compiled controller works, their columns by name, and typed access to their rows.

Everything is int64 in a dozen flat arrays (`DramState`), so that compiled code of other components can hold
it too.
Compiled functions take plain pointers to rows (`pc[MODE]`, `bank[HEAD]`), free of reference counts, which
would cost more than the scheduling itself. Nothing here knows about time or policy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from hwmodel.compiled import compiled

Array = np.ndarray[Any, Any]
Row = Any  # a pointer to the first of a row's int64 values

NEVER = 1 << 62
LONG_AGO = -(1 << 40)
NONE = -1

# Command numbers: places in standards.COMMANDS
ACT, PRE, PREAB, RD, WR, REFPB, REFAB = range(7)
COMMAND_SLOTS = 8
MAX_BANKS = 64  # per pseudo-channel: one bit of a mask each
PLACE_BITS = 6  # of a hit's key: (age << PLACE_BITS) | bank
# Planes of `delay`: rule levels, then the rules between stack IDs
AT_CHANNEL, AT_PSEUDO_CHANNEL, AT_STACK_ID, AT_BANK_GROUP, AT_BANK, AT_SIBLING = range(6)
# Causes of a pseudo-channel's time
CAUSES = ("data", "row", "bus", "turnaround", "refresh", "idle")
DATA, ROW_WAIT, BUS, TURNAROUND, REFRESH_WAIT, IDLE = range(len(CAUSES))

# Columns of the arrays. A pair (read, write) takes two columns, indexed by the mode; `_n` continues a column.
# fmt: off
# `scalars`: constants, then counters, then the scratch of the address decoder, then the table of bank places
(CHANNELS, PER_CHANNEL, NODES, STACK_IDS, STACK_ID_SHIFT, GROUP_SHIFT, BANKS, FIRST_CHANNEL_NODE,
 QUEUE_DEPTH, WRITE_HIGH, WRITE_LOW, BYPASS_CAP, REFRESH_INTERVAL, REFRESH_ALL, REFRESH_TICKS, FAW_TICKS,
 READ_TICKS, WRITE_TICKS, BURST_TICKS, BURST_BYTES, RECORD, BIN_TICKS, DIGITS, HASHES, CAPACITY, BANK_FIELD,
 CHANNEL_FIELD, BLOCK_SHIFT, TRACE_ROWS, BINS, FREE_RUN, BURSTS_LEFT, FREE_REQUEST, REQUESTS_LEFT, SEQUENCE,
 LAST_ARRIVAL, NOW, COMPLETED, TRACED, WAITING, SCRATCH) = range(41)
PLACES = SCRATCH + 14
# `pool`: one row per run; AGE is that of its oldest waiting burst, BANK_LIST 2 * bank + mode
AGE, ARRIVAL, LINK, REQUEST, ROW, BANK_LIST, ADMITTED, OUTSIDE, RUN_FIELDS = range(9)
# `requests`
REMAINING, DONE, REQUEST_FIELDS = range(3)
# `channels`
WAKE, ASLEEP, CHANNEL_FIELDS = range(3)
# `pcs`: one row per pseudo-channel; TURN_LEFT is how many more bursts of its mode it serves before the other's turn
(MODE, COUNT, _1, PENDING, _2, HIT, _3, HEAD_HIT, _4, OPEN, CAPPED, BLOCKED, REFRESH_DUE, REFRESH_BANK,
 COLUMN_TICK, COLUMN_BANK, COLUMN_AGE, ROW_TICK, ROW_BANK, ROW_COMMAND, ROW_AGE, COLUMN_STALE, ROW_STALE,
 NEXT_ARRIVAL, ENTERING, INBOX_HEAD, INBOX_TAIL, STARTED, _13, FAW_PLACE, FAW, _5, _6, _7, BUSY_SINCE,
 ACCOUNTED, LAST_MODE, CAUSE,
 _8, _9, _10, _11, _12, READS, WRITES, HITS, MISSES, CONFLICTS, ACTIVATES, PRECHARGES, REFRESHES,
 LATENCY_SUM, LATENCY_MAX, TURN_LEFT, LISTED, _14, HIT_KEYS) = range(57)
PC_FIELDS = HIT_KEYS + 2 * MAX_BANKS
# `banks`
(OPEN_ROW, HEAD, _1, TAIL, _2, HIT_RUN, _3, HIT_BEFORE, _4, BYPASSED, ACT_TICK, REFRESHED_UNTIL,
 BANK_ACTIVATES, BANK_CONFLICTS, BANK_BURSTS, BANK_FIELDS) = range(16)
# `address_map`: digits, then hashes
DIGIT_SHIFT, DIGIT_STEP, DIGIT_MASK, DIGIT_MODULUS, DIGIT_FIELD, DIGIT_MULTIPLIER, MAP_FIELDS = range(7)
HASH_TARGET, HASH_TARGET_BIT, HASH_SOURCE, HASH_SOURCE_BIT = range(4)
# `trace`: tick, channel (over all stacks), pseudo_channel, bank_group, bank, row, command
TRACE_FIELDS = 7
# fmt: on

FINISHED, TRACE_FULL, BINS_FULL = range(3)  # what `run` returns


class DramState(NamedTuple):
    """All channels of a machine as int64 arrays; the columns are named by the constants of this module."""

    scalars: Array
    delay: Array  # [level, previous command, following command], ticks
    address_map: Array
    pool: Array  # runs: neighbouring bursts of a request that go to one row
    requests: Array
    completed: Array  # [request, done tick] of the last `run`
    channels: Array
    pcs: Array
    banks: Array
    ready: Array  # [node, command]: the earliest tick that the rules allow
    bins: Array  # bytes per time bin
    trace: Array


class Memory(NamedTuple):
    """The arrays of a `DramState` as pointers to their first values."""

    scalars: Row
    delay: Row
    address_map: Row
    pool: Row
    requests: Row
    completed: Row
    channels: Row
    pcs: Row
    banks: Row
    ready: Row
    bins: Row
    trace: Row


def _count_trailing_zeros(_context: Any, _value: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


def _pointer_to_array(_context: Any, array: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return _POINTER(array), generate


def _raise_row(_context: Any, _row: Any, _after: Any, _tick: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        lanes = ir.VectorType(ir.IntType(64), COMMAND_SLOTS)
        row, after = (builder.bitcast(argument, lanes.as_pointer()) for argument in arguments[:2])
        lane = ir.Constant(ir.IntType(32), 0)
        one = builder.insert_element(ir.Constant(lanes, ir.Undefined), arguments[2], lane)
        ticks = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), COMMAND_SLOTS), None))
        old, new = builder.load(row, align=8), builder.add(ticks, builder.load(after, align=8))
        builder.store(builder.select(builder.icmp_signed(">", old, new), old, new), row, align=8)
        return context.get_dummy_value()

    return types.void(_POINTER, _POINTER, types.int64), generate


def _advance_pointer(_context: Any, _pointer: Any, _offset: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return _POINTER(_POINTER, types.int64), generate


_make_pointer_type: Any = types.CPointer
_POINTER = _make_pointer_type(types.int64)
trailing_zeros: Any = intrinsic(_count_trailing_zeros)  # of an int64 that is not zero
pointer: Any = intrinsic(_pointer_to_array)  # to the first value of an int64 array, which must outlive it
raise_row: Any = intrinsic(_raise_row)  # row[i] = max(row[i], tick + after[i]) for all command slots at once
row_at: Any = intrinsic(_advance_pointer)  # the pointer a number of values further on


@compiled
def memory_of(state: DramState) -> Memory:
    """Return the pointers of a state, valid until an array is replaced."""
    return Memory(
        pointer(state.scalars),
        pointer(state.delay),
        pointer(state.address_map),
        pointer(state.pool),
        pointer(state.requests),
        pointer(state.completed),
        pointer(state.channels),
        pointer(state.pcs),
        pointer(state.banks),
        pointer(state.ready),
        pointer(state.bins),
        pointer(state.trace),
    )


@compiled
def run_at(memory: Memory, run: int) -> Row:
    """Return the row of a run."""
    return row_at(memory.pool, run * RUN_FIELDS)


@compiled
def link_of(memory: Memory, run: int) -> int:
    """Return the run that follows in the list."""
    return int(run_at(memory, run)[LINK])


@compiled
def bank_at(memory: Memory, pc_index: int, place: int) -> Row:
    """Return the row of a bank of a pseudo-channel."""
    return row_at(memory.banks, (pc_index * memory.scalars[BANKS] + place) * BANK_FIELDS)
