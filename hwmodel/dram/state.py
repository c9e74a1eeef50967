"""The arrays on which the compiled controller works, their columns by name, and typed access to their rows.

Everything is int64 in a dozen flat arrays (`DramState`), so that compiled code of other components can hold
it too. Compiled functions take plain pointers to rows (`pc[READS]`, `bank[OPEN_ROW]`), free of reference counts,
which would cost more than the scheduling itself. Nothing here knows about time or policy.

A waiting burst has a position in one of its channel's two buffers (reads, writes). Positions are given out in the
order of acceptance, so that sets of bursts are bit masks in which the lowest bit is the oldest; when they run out,
the waiting bursts move together. A mask is `len(memory.words)` words of 64 bits: the length of that tuple is known
when the code is compiled, so loops over words cost nothing for queues of usual depth.
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
# Planes of `delay`: rule levels, then the rules between stack IDs
AT_CHANNEL, AT_PSEUDO_CHANNEL, AT_STACK_ID, AT_BANK_GROUP, AT_BANK, AT_SIBLING = range(6)
# Causes of a pseudo-channel's time
CAUSES = ("data", "row", "bus", "turnaround", "refresh", "idle")
DATA, ROW_WAIT, BUS, TURNAROUND, REFRESH_WAIT, IDLE = range(len(CAUSES))
# Schedulers, row policies, refresh policies: places in controller.SCHEDULERS, ROW_POLICIES, REFRESH_POLICIES
FRFCFS, FRFCFS_ROW_HIT, FCFS, PER_BANK_QUEUES = range(4)
REFRESH_PER_BANK, REFRESH_ALL_BANK, REFRESH_NONE = range(3)

# A burst's place: bank of its channel, column, row, channel in one number
BANK_BITS, COLUMN_BITS, ROW_BITS = 10, 16, 24
COLUMN_SHIFT, ROW_SHIFT = BANK_BITS, BANK_BITS + COLUMN_BITS
CHANNEL_SHIFT = ROW_SHIFT + ROW_BITS
PLACE_MASK = (1 << CHANNEL_SHIFT) - 1
BANK_MASK = (1 << BANK_BITS) - 1

# Columns of the arrays. A pair (read, write) takes two columns, indexed by the mode; `_n` continues a column.
# fmt: off
# `scalars`: constants, then counters, then the scratch of the address decoder, then the table of bank places
(CHANNELS, PER_CHANNEL, NODES, STACK_IDS, STACK_ID_SHIFT, GROUP_SHIFT, BANKS, BANK_SHIFT, CHANNEL_BANKS,
 CHANNEL_FIELD, BANK_FIELD, DEPTH, _1, DRAIN_ABOVE, DRAIN_BELOW, SCHEDULER, MERGE, CLOSE_AFTER, REFRESH,
 REFRESH_INTERVAL, REFRESH_TICKS, HIT_STREAK, QUEUE_DEPTH, EDGES, ACT_TICKS, FAW_TICKS, READ_TICKS, WRITE_TICKS,
 BURST_TICKS, BURST_BYTES, RECORD, LOG, BIN_TICKS, DIGITS, HASHES, CAPACITY, LINEAR, LEVELS_OF, _2, _3, _4, _5, _6,
 _7, _8, TRACE_ROWS, LOG_ROWS, BINS, REPLAYING, MORE, FREE_BURST, BURSTS_LEFT, FREE_REQUEST, REQUESTS_LEFT, LAST_ARRIVAL,
 NOW, COMPLETED, TRACED, LOGGED, WAITING, STOP_AT, SCRATCH) = range(62)
PLACES = SCRATCH + 14
# `pool`: one row per burst that has not left its buffer; MERGED links reads that wait for the same data
LINK, PLACE, ARRIVAL, REQUEST, IS_WRITE, MERGED, POOL_FIELDS = range(7)
# `requests`
REMAINING, DONE, REQUEST_FIELDS = range(3)
# `channels`. Wakes are lower bounds of the next event; TICK is the last tick whose commands have issued
(TICK, ASLEEP, COLUMN_WAKE, ROW_WAKE, ARRIVES, INBOX_HEAD, INBOX_TAIL, MODE, COUNT, _1, TAIL, _2, ACTIVE, _3, SERIAL,
 DUE, DUE_PC, REFRESH_DUE, REFRESH_BANK, ROW_FREE, FREED, ACCEPTED, FORWARDED, COALESCED, LAST_DONE, LAST_BANK,
 QUEUED, DRAINING, FULL_BANKS, CLOSED_BANKS, READ_BANKS, WRITE_BANKS, CONFLICT_BANKS, CHANNEL_FIELDS) = range(34)
# `pcs`: one row per pseudo-channel. FAW is a ring of the last four activates; REFRESHING is a bank's place, or NONE
(OPEN_BANKS, ACTIVE_BANKS, REFRESHING, FAW_PLACE, FAW, _1, _2, _3, OUTSTANDING, BUSY_SINCE, ACCOUNTED, LAST_MODE,
 CAUSE, _4, _5, _6, _7, _8, READS, WRITES, HITS, MISSES, CONFLICTS, ACTIVATES, PRECHARGES, PRECHARGE_ALLS, CLOSED,
 REFRESHES, LATENCY_SUM, LATENCY_MAX, PC_FIELDS) = range(31)
# `banks`. Q_ columns are of a bank's own queue: masks of its positions
(OPEN_ROW, IS_ACTIVE, IS_REFRESHING, ACT_TICK, USED_TICK, STREAK, REFRESHED_UNTIL, BANK_ACTIVATES, BANK_CONFLICTS,
 BANK_BURSTS, Q_TAIL, Q_COUNT, Q_LIVE, Q_HITS, Q_READS, Q_STARTED, BANK_FIELDS) = range(17)
# `waiting`: one row per position of a buffer; `active`: per activated burst that waits for its column command
SLOT_PLACE, SLOT_ARRIVAL, SLOT_BURST, SLOT_FIELDS = range(4)
ACTIVE_BANK, ACTIVE_ARRIVAL, ACTIVE_SERIAL, ACTIVE_BURST, ACTIVE_OUTCOME, ACTIVE_FIELDS = range(6)
# `masks`: per channel and mode, LIVE, STARTED (first command issued) and HELD (its bank's queue is full); per pseudo-channel and mode, the candidates for a column command,
# an activate, a precharge; `bank_masks`: per bank and mode, all bursts and the row hits
LIVE, STARTED, HELD, MODE_MASKS = range(4)
COLUMN_CANDIDATES, ACT_CANDIDATES, PRE_CANDIDATES, PC_MASKS = range(4)
BANK_BURSTS_MASK, BANK_HITS_MASK, BANK_MASKS = range(3)
QUEUE_POSITIONS, PENDING_ENTRIES = 64, 1024
# `address_map`: digits, then hashes
DIGIT_SHIFT, DIGIT_STEP, DIGIT_MASK, DIGIT_MODULUS, DIGIT_FIELD, DIGIT_MULTIPLIER, MAP_FIELDS = range(7)
HASH_TARGET, HASH_TARGET_BIT, HASH_SOURCE, HASH_SOURCE_BIT = range(4)
# `trace`: tick, channel (over all stacks), pseudo_channel, bank_group, bank, row, command
TRACE_FIELDS = 7
# `log`: arrival tick, done tick, channel, pseudo_channel, bank (of the pseudo-channel), is_write, outcome
LOG_FIELDS = 7
HIT, MISS, CONFLICT, FORWARD = range(4)
# fmt: on

FINISHED, TRACE_FULL, LOG_FULL, BINS_FULL, STARVED, STOPPED = range(6)  # what `run` returns


class DramState(NamedTuple):
    """All channels of a machine as int64 arrays; the columns are named by the constants of this module."""

    scalars: Array
    delay: Array  # [level, previous command, following command], ticks
    address_map: Array
    linear: Array  # [byte of the address, its value]: place of a burst, to be XORed
    pool: Array
    requests: Array
    completed: Array  # [request, done tick] of the last `run`
    channels: Array
    pcs: Array
    banks: Array
    waiting: Array  # [channel, mode, position]
    active: Array  # [channel, mode, place in the order of activation]
    masks: Array  # [channel, mode, (LIVE, STARTED, candidates of every pseudo-channel), word]
    bank_masks: Array  # [channel, bank, mode, mask, word]
    queues: Array  # [channel, bank, position]: bursts in the queues of banks
    pending: Array  # [channel, mode, hash of the place]: how many bursts wait
    ready: Array  # [node, command]: the earliest tick that the rules allow
    bins: Array  # bytes per time bin
    trace: Array
    log: Array
    words: tuple[int, ...]  # as long as a mask has words


class Memory(NamedTuple):
    """The arrays of a `DramState` as pointers to their first values."""

    scalars: Row
    delay: Row
    address_map: Row
    linear: Row
    pool: Row
    requests: Row
    completed: Row
    channels: Row
    pcs: Row
    banks: Row
    waiting: Row
    active: Row
    masks: Row
    bank_masks: Row
    queues: Row
    pending: Row
    ready: Row
    bins: Row
    trace: Row
    log: Row
    words: tuple[int, ...]


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
        pointer(state.linear),
        pointer(state.pool),
        pointer(state.requests),
        pointer(state.completed),
        pointer(state.channels),
        pointer(state.pcs),
        pointer(state.banks),
        pointer(state.waiting),
        pointer(state.active),
        pointer(state.masks),
        pointer(state.bank_masks),
        pointer(state.queues),
        pointer(state.pending),
        pointer(state.ready),
        pointer(state.bins),
        pointer(state.trace),
        pointer(state.log),
        state.words,
    )


class Channel(NamedTuple):
    """One channel's part of the memory, as pointers."""

    memory: Memory
    index: int
    fields: Row
    pcs: Row
    banks: Row
    waiting: Row
    active: Row
    masks: Row
    bank_masks: Row
    queues: Row
    pending: Row
    ready: Row


@compiled
def channel_of(memory: Memory, index: int) -> Channel:
    """Return the pointers of a channel."""
    scalars, words = memory.scalars, len(memory.words)
    pcs, banks = scalars[PER_CHANNEL], scalars[CHANNEL_BANKS]
    first_pc = index * pcs
    return Channel(
        memory,
        index,
        row_at(memory.channels, index * CHANNEL_FIELDS),
        row_at(memory.pcs, first_pc * PC_FIELDS),
        row_at(memory.banks, index * banks * BANK_FIELDS),
        row_at(memory.waiting, index * 2 * 64 * words * SLOT_FIELDS),
        row_at(memory.active, index * 2 * banks * ACTIVE_FIELDS),
        row_at(memory.masks, index * 2 * (MODE_MASKS + pcs * PC_MASKS) * words),
        row_at(memory.bank_masks, index * banks * 2 * BANK_MASKS * words),
        row_at(memory.queues, index * banks * QUEUE_POSITIONS * SLOT_FIELDS),
        row_at(memory.pending, index * 2 * PENDING_ENTRIES),
        row_at(memory.ready, first_pc * scalars[NODES] * COMMAND_SLOTS),
    )


@compiled
def slot_at(channel: Channel, mode: int, position: int) -> Row:
    """Return the row of a position of a buffer."""
    return row_at(channel.waiting, (mode * 64 * len(channel.memory.words) + position) * SLOT_FIELDS)


@compiled
def bank_at(channel: Channel, bank: int) -> Row:
    """Return the row of a bank of the channel."""
    return row_at(channel.banks, bank * BANK_FIELDS)


@compiled
def mode_mask(channel: Channel, mode: int, mask: int) -> Row:
    """Return a mask of a buffer."""
    scalars = channel.memory.scalars
    return row_at(
        channel.masks, (mode * (MODE_MASKS + scalars[PER_CHANNEL] * PC_MASKS) + mask) * len(channel.memory.words)
    )


@compiled
def candidates(channel: Channel, mode: int, pc: int, mask: int) -> Row:
    """Return the mask of the positions of a buffer that may get a command in a pseudo-channel."""
    return mode_mask(channel, mode, MODE_MASKS + pc * PC_MASKS + mask)


@compiled
def bank_mask(channel: Channel, bank: int, mode: int, mask: int) -> Row:
    """Return the mask of a bank's bursts, or of its row hits, in a buffer."""
    return row_at(channel.bank_masks, ((bank * 2 + mode) * BANK_MASKS + mask) * len(channel.memory.words))


@compiled
def lowest(channel: Channel, mask: Row) -> int:
    """Return the lowest position in a mask, or NONE."""
    for word in range(len(channel.memory.words)):
        if mask[word] != 0:
            return 64 * word + int(trailing_zeros(mask[word]))
    return NONE


@compiled
def insert(mask: Row, position: int) -> None:
    mask[position >> 6] |= 1 << (position & 63)


@compiled
def remove(mask: Row, position: int) -> None:
    mask[position >> 6] &= ~(1 << (position & 63))


@compiled
def contains(mask: Row, position: int) -> bool:
    return bool((mask[position >> 6] >> (position & 63)) & 1)
