"""The arrays on which the compiled controller works, their columns by name, and typed access to their rows.

Everything is int64 in a dozen flat arrays (`DramState`), so that compiled code of other components can hold
it too. Compiled functions take plain pointers to rows (`pc[READS]`, `bank[OPEN_ROW]`; `hwmodel.intrinsics`). Nothing
here knows about time or policy.

A waiting burst has a position in one of its channel's two buffers (reads, writes); sets of positions are bit masks of
`len(state.words)` words of 64 bits. The length of that tuple is known when the code is compiled.

In short buffers positions are given out in the order of acceptance, so that in a mask the lowest bit is the oldest;
when they run out, the waiting bursts move together. In deep ones, whose masks have several words, neighbouring bursts
of a run share a position, the positions of a bank are lists, and what is asked of all banks stands in rows over them:
for each kind of command and buffer the key of the burst that would get it (`KEYS`), which is lower the older the burst
is. Masks (`BANKS_WITH`) say which banks have one. So the oldest burst that is ready is a minimum over a row, eight
banks at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.room import BANK_BITS, COLUMN_BITS, MAX_BANKS, MAX_PCS, MAX_QUEUES, ROW_BITS
from hwmodel.intrinsics import HIGHEST, LANES, Row, number_of, pointer, pointer_of, row_at, trailing_zeros, write_lane

Array = np.ndarray[Any, Any]
Words = Any  # the tuple of `DramState.words`

NEVER = HIGHEST
LONG_AGO = -(1 << 40)
NONE = -1

# Command numbers: places in rules.COMMANDS
ACT, PRE, PREAB, RD, WR, REFPB, REFAB = range(7)
COMMAND_SLOTS = LANES
LEVEL = COMMAND_SLOTS * COMMAND_SLOTS  # of a plane of the delays
# Planes of `delay`: rule levels, then the rules between stack IDs
AT_CHANNEL, AT_PSEUDO_CHANNEL, AT_STACK_ID, AT_BANK_GROUP, AT_BANK, AT_SIBLING = range(6)
# Causes of a pseudo-channel's time
CAUSES = ("data", "row", "bus", "turnaround", "refresh", "idle")
DATA, ROW_WAIT, BUS, TURNAROUND, REFRESH_WAIT, IDLE = range(len(CAUSES))
# Schedulers, refresh policies: places in policy.SCHEDULERS, REFRESH_POLICIES
FRFCFS, FRFCFS_ROW_HIT, FCFS, PER_BANK_QUEUES = range(4)
REFRESH_PER_BANK, REFRESH_ALL_BANK, REFRESH_NONE = range(3)

# Of a burst's place, see `room`
COLUMN_SHIFT, ROW_SHIFT = BANK_BITS, BANK_BITS + COLUMN_BITS
CHANNEL_SHIFT = ROW_SHIFT + ROW_BITS
PLACE_MASK = (1 << CHANNEL_SHIFT) - 1
BANK_MASK = (1 << BANK_BITS) - 1

# Columns of the arrays. A pair (read, write) takes two columns, indexed by the mode; `_n` continues a column.
# fmt: off
# `scalars`: constants, counters, addresses of arrays, the cursor of `source`, scratch of the address decoder, `delay`,
# table of bank places
(CHANNELS, PER_CHANNEL, STACK_IDS, STACK_ID_SHIFT, GROUP_SHIFT, BANKS, CHANNEL_FIELD, BANK_FIELD, DEPTH,
 _1, DRAIN_ABOVE, DRAIN_BELOW, SCHEDULER, MERGE, CLOSE_AFTER, REFRESH, REFRESH_INTERVAL, REFRESH_TICKS,
 HIT_STREAK, QUEUE_DEPTH, RISING, ACT_TICKS, COLUMN_TICKS, ONE_BUS, FAW_TICKS, READ_TICKS, _2,
 BURST_TICKS, BURST_BYTES, RECORD, LOG, BIN_TICKS, DIGITS, HASHES, CAPACITY, LINEAR, BLOCK_SHIFT,
 TRACE_ROWS, LOG_ROWS, BINS, REPLAYING, STOP_AT, FREE_BURST, BURSTS_LEFT, FREE_REQUEST,
 REQUESTS_LEFT, LAST_ARRIVAL, NOW, COMPLETED, TRACED, LOGGED, POOL_ROWS, ADDRESS_MAP, LINEAR_MAP, POOL,
 REQUESTS, COMPLETIONS, CHANNEL_STATE, QUEUE_STATE, BIN_BYTES, TRACE, BURST_LOG, BANK_STRIDE, SOURCE_SEGMENTS,
 SOURCE_RUNS, SOURCE_PARTS, SOURCE_GAP, SOURCE_INDEX, SOURCE_LEFT, SOURCE_SEGMENT, SOURCE_RUN, SOURCE_STEP,
 SOURCE_STREAM, SOURCE_PART, SOURCE_ADDRESS, SOURCE_PLACE, SOURCE_CHANNEL, SOURCE_NOW,
 FOLD, FOLD_SHIFT, FOLD_UNIT, SCRATCH) = range(82)
DELAY = SCRATCH + 14  # [level, previous command, following command], ticks
PLACES = DELAY + 6 * COMMAND_SLOTS * COMMAND_SLOTS
# `pool`: one row per run of neighbouring bursts of a request in one row of a bank. PLACE is that of the first one still
# OUTSIDE the buffers; MERGED links reads that wait for the same data
LINK, MERGED, OUTSIDE, UNDONE, PLACE, ARRIVAL, REQUEST, IS_WRITE = range(8)
POOL_FIELDS = 8  # a cache line
# `requests`
REMAINING, DONE, REQUEST_FIELDS = range(3)
# A channel. Wakes are lower bounds of the next event; TICK is the last tick whose commands have issued. COLUMN_WAKE
# and ROW_WAKE sum up those of active bursts and row hits, and of activates, precharges and the other row commands.
# RECOUNTED: whether COUNT changed since the mode was chosen. BIN: the time bin met last, which began at BIN_START. AGE
# is the last one given out, at AGE_TICK.
(INDEX, TICK, ASLEEP, COLUMN_WAKE, ROW_WAKE, ARRIVES, INBOX_HEAD, INBOX_TAIL, MODE, COUNT, _1, TAIL, _2,
 ACTIVE, _3, SERIAL, DUE, DUE_PC, REFRESH_DUE, ROW_FREE, COLUMN_FREE, FREED, ACCEPTED, MERGED_READS, _4,
 LAST_DONE, LAST_BANK, QUEUED, DRAINING, FULL_BANKS, CLOSED_BANKS, READ_BANKS, WRITE_BANKS,
 CONFLICT_BANKS, ACTIVE_WAKE, HIT_WAKE, ACT_WAKE, PRE_WAKE, OTHER_WAKE, ACTIVE_FIRST, _5,
 RECOUNTED, BIN_START, BIN, AGE, AGE_TICK) = range(46)
BANKS_WITH = 48  # [kind of key, mode, pseudo-channel], and of active bursts: masks of the banks that have one
CHANNEL_FIELDS = 64
# A pseudo-channel. FAW is a ring of the last four activates; REFRESHING is a bank's place, or NONE, of
# the OWED refreshes of single banks the oldest.
(PC_READY, _1, _2, _3, _4, _5, _6, _7, OPEN_BANKS, ACTIVE_BANKS, REFRESHING, FAW_PLACE, FAW, _8, _9,
 _10, OUTSTANDING, BUSY_SINCE, ACCOUNTED, LAST_MODE, CAUSE, _11, _12, _13, _14, _15, READS, WRITES,
 HITS, MISSES, CONFLICTS, ACTIVATES, PRECHARGES, PRECHARGE_ALLS, CLOSED, REFRESHES, LATENCY_SUM,
 LATENCY_MAX, OWED, NEXT_BANK) = range(40)
PC_FIELDS = 40
# A bank. OPENED_ columns are of the burst that it was activated for (its request, pool row, outcome, mode). With deep
# buffers, HIT_ and OTHER_ are ends of the lists of its waiting bursts of a mode, oldest first: of the open row, and all
# others. In their place a bank's own queue has Q_ columns: masks of its positions; a lower bound of its next command.
(OPEN_ROW, IS_ACTIVE, IS_REFRESHING, BANK_PC, ACT_TICK, USED_TICK, REFRESHED_UNTIL, OPENED_BY,
 BANK_ACTIVATES, BANK_CONFLICTS, BANK_BURSTS, STREAK, OPENED_FOR, OPENED_AS, OPENED_IN, _1,
 HIT_FIRST, _2, HIT_LAST, _3, OTHER_FIRST, _4, OTHER_LAST, _5) = range(24)
Q_TAIL, Q_COUNT, Q_LIVE, Q_HITS, Q_READS, Q_STARTED, Q_WAKE = range(HIT_FIRST, HIT_FIRST + 7)
BANK_FIELDS = 24
# A position. Ages, in the place of arrivals, order the bursts of a deep buffer: (how many ticks before had arrivals,
# how many there were before in the same tick). There, place and age are those of the first burst.
SLOT_PLACE, SLOT_ARRIVAL, SLOT_BURST, SLOT_NEXT = range(4)
SLOT_AGE = SLOT_ARRIVAL
SLOT_FIELDS = 4
AGE_SHIFT = 13  # of two buffers of `policy.MAX_QUEUE`, as many may arrive in a tick
MAX_TRAIN = 62  # bursts at a position of a deep buffer: their bits fit an int64 below its sign
# An activated burst that waits for its column command; they stand in the order of their activates, the oldest at
# ACTIVE_FIRST.
ACTIVE_BANK, ACTIVE_ARRIVAL, ACTIVE_SERIAL, ACTIVE_BURST, ACTIVE_OUTCOME, ACTIVE_READY, ACTIVE_PC = range(7)
ACTIVE_FIELDS = 8
# Masks: of a buffer the waiting bursts, those whose first command issued, those whose bank's queue is full; of a
# pseudo-channel and buffer the candidates for a column command, an activate, a precharge; of a bank and buffer all
# bursts and the row hits.
LIVE, STARTED, HELD, MODE_MASKS = range(4)
COLUMN_CANDIDATES, ACT_CANDIDATES, PRE_CANDIDATES, PC_MASKS = range(4)
ALL_BURSTS, ROW_HITS, BANK_MASKS = range(3)
# By position of a deep buffer, in the place of candidates and of the banks' masks: its bursts. The highest bit that is
# set is at the number of bursts behind the first one; each below it says whether one of those came at a later tick than
# the one before it.
TRAINS = MODE_MASKS
# Kinds of keys: of a column command, an activate, a precharge. A key is an age and a bank of the channel. Those of
# active bursts are negative, so that they go first: (upper part of the age, order of their activates) and a bank.
COLUMN_KEYS, ACT_KEYS, PRE_KEYS, KEY_KINDS = range(4)
ACTIVE_KEYS = KEY_KINDS  # those of column keys that are active bursts'
KEY_BANK_BITS, SERIAL_BITS = 7, 14
KEY_BANK_MASK, SERIAL_MASK = (1 << KEY_BANK_BITS) - 1, (1 << SERIAL_BITS) - 1
FIRST_KEY = -(1 << 62)
QUEUE_POSITIONS, PENDING_ENTRIES = 64, 512
# Refreshes of single banks that a pseudo-channel may owe before they go before its activates. JESD238 lets eight
# refreshes wait, and so does AMD's HBM controller (PG313, Refresh, deficit mode); those are of all banks, so that no
# bank here is later than there.
MOST_OWED = 8
# Sizes that are compiled in, and the offsets of a channel's parts
BANK_SHIFT = MAX_BANKS.bit_length() - 1
CHANNEL_BANKS = MAX_PCS * MAX_BANKS
PCS = CHANNEL_FIELDS
BANK_ROWS = PCS + MAX_PCS * PC_FIELDS
READY = BANK_ROWS + CHANNEL_BANKS * BANK_FIELDS  # [command, bank], ticks; what the pseudo-channel wants comes to it
ACTIVE_ROWS = KEYS = READY + COMMAND_SLOTS * CHANNEL_BANKS  # in short and in deep buffers
ACTIVE_PLACES = 2 * CHANNEL_BANKS  # twice as many as there can be, so that they need not move with every one
ACTIVE_FRONT = 32  # of the places, from which they move to the first ones: so few stay in the cache
SLOTS = ACTIVE_ROWS + 2 * ACTIVE_PLACES * ACTIVE_FIELDS
QUEUE_WORDS = MAX_QUEUES * QUEUE_POSITIONS * SLOT_FIELDS + PENDING_ENTRIES
BUFFER_MASKS = -(-(MODE_MASKS + MAX_PCS * PC_MASKS + CHANNEL_BANKS * BANK_MASKS) // 4) * 4  # in whole lines of a cache
WORDS_PER_MASK_WORD = 2 * 64 * SLOT_FIELDS + 2 * BUFFER_MASKS
# `address_map`: digits, then hashes
DIGIT_SHIFT, DIGIT_STEP, DIGIT_MASK, DIGIT_MODULUS, DIGIT_FIELD, DIGIT_MULTIPLIER, MAP_FIELDS = range(7)
HASH_TARGET, HASH_TARGET_BIT, HASH_SOURCE, HASH_SOURCE_BIT, TURN_WEIGHT, TURN_SIZE = range(6)
TURNS = 8  # address bytes
# `trace`: tick, channel (over all stacks), pseudo_channel, bank_group, bank, row, command
TRACE_FIELDS = 7
ROW_FIELD = 5  # of an address
# `log`: arrival tick, done tick, channel, pseudo_channel, bank (of the pseudo-channel), is_write, outcome
LOG_FIELDS = 7
HIT, MISS, CONFLICT, MERGE_OUTCOME = range(4)
# fmt: on

FINISHED, TRACE_FULL, BINS_FULL, NO_ROOM, STOPPED = range(5)  # what `run` returns


class DramState(NamedTuple):
    """All channels of a machine as int64 arrays; the columns are named by the constants of this module."""

    scalars: Array
    address_map: Array
    linear: Array  # [byte of the address, its value]: places to be XORed; from row TURNS on turns to be added
    pool: Array
    requests: Array
    completed: Array  # [request, done tick] of the last `run`
    channels: Array  # [channel, word]: everything that belongs to a channel, see the offsets above
    queues: Array  # [channel, word]: the queues of banks, and counts of the waiting bursts by hashed place
    bins: Array  # bytes per time bin
    trace: Array
    log: Array
    words: tuple[int, ...]  # as long as a mask has words


@compiled
def memory_of(state: DramState) -> Row:
    """Return the pointer to the scalars, which hold the addresses of the other arrays from now on.

    They are valid until an array is replaced.
    """
    m = pointer(state.scalars)
    m[POOL_ROWS] = len(state.pool)
    m[ADDRESS_MAP] = number_of(pointer(state.address_map))
    m[LINEAR_MAP] = number_of(pointer(state.linear))
    m[POOL] = number_of(pointer(state.pool))
    m[REQUESTS] = number_of(pointer(state.requests))
    m[COMPLETIONS] = number_of(pointer(state.completed))
    m[CHANNEL_STATE] = number_of(pointer(state.channels))
    m[QUEUE_STATE] = number_of(pointer(state.queues))
    m[BIN_BYTES] = number_of(pointer(state.bins))
    m[TRACE] = number_of(pointer(state.trace))
    m[BURST_LOG] = number_of(pointer(state.log))
    return m


@inlined
def channel_at(m: Row, words: Words, index: int) -> Row:
    """Return the pointer to a channel."""
    return row_at(pointer_of(m[CHANNEL_STATE]), index * (SLOTS + len(words) * WORDS_PER_MASK_WORD))


@inlined
def burst_at(m: Row, index: int) -> Row:
    """Return the row of a burst in the pool."""
    return row_at(pointer_of(m[POOL]), index * POOL_FIELDS)


@inlined
def waiting(m: Row) -> int:
    """Return how many bursts are in the pool."""
    return int(m[POOL_ROWS] - m[BURSTS_LEFT])


@inlined
def slot_at(c: Row, words: Words, mode: int, position: int) -> Row:
    """Return the row of a position of a buffer."""
    return row_at(c, SLOTS + (mode * 64 * len(words) + position) * SLOT_FIELDS)


@inlined
def pc_at(c: Row, pc: int) -> Row:
    """Return the row of a pseudo-channel."""
    return row_at(c, PCS + pc * PC_FIELDS)


@inlined
def bank_at(c: Row, bank: int) -> Row:
    """Return the row of a bank of the channel."""
    return row_at(c, BANK_ROWS + bank * BANK_FIELDS)


@inlined
def ready_at(c: Row, command: int) -> Row:
    """Return the earliest ticks of a command by bank of the channel; the pseudo-channel may ask for more."""
    return row_at(c, READY + command * CHANNEL_BANKS)


@inlined
def keys_at(c: Row, kind: int, mode: int) -> Row:
    """Return the row of the keys of a kind of command, by bank of the channel."""
    return row_at(c, KEYS + (2 * kind + mode) * CHANNEL_BANKS)


@inlined
def banks_with(c: Row, kind: int, mode: int) -> Row:
    """Return the masks, by pseudo-channel, of the banks that have a key of a kind."""
    return row_at(c, BANKS_WITH + (2 * kind + mode) * MAX_PCS)


@inlined
def has_key(c: Row, kind: int, mode: int, bank: int) -> bool:
    """Return whether a bank of the channel has a key of a kind."""
    return bool((banks_with(c, kind, mode)[bank >> BANK_SHIFT] >> (bank & (MAX_BANKS - 1))) & 1)


@inlined
def set_key(c: Row, kind: int, mode: int, bank: int, key: int) -> None:
    """Give a bank of the channel a key."""
    write_lane(keys_at(c, kind, mode), bank, key)
    banks_with(c, kind, mode)[bank >> BANK_SHIFT] |= 1 << (bank & (MAX_BANKS - 1))


@inlined
def drop_key(c: Row, kind: int, mode: int, bank: int) -> None:
    """Take a key of a bank away, if it has one."""
    banks_with(c, kind, mode)[bank >> BANK_SHIFT] &= ~(1 << (bank & (MAX_BANKS - 1)))


@inlined
def active_at(c: Row, mode: int, place: int) -> Row:
    """Return the row of an active burst, by its place in their order."""
    return row_at(c, ACTIVE_ROWS + (mode * ACTIVE_PLACES + c[ACTIVE_FIRST + mode] + place) * ACTIVE_FIELDS)


@inlined
def mode_mask(c: Row, words: Words, mode: int, mask: int) -> Row:
    """Return a mask of a buffer."""
    return row_at(c, SLOTS + (2 * 64 * SLOT_FIELDS + mode * BUFFER_MASKS + mask) * len(words))


@inlined
def train_at(c: Row, words: Words, mode: int, position: int) -> Row:
    """Return the row that begins with the bursts at a position of a deep buffer."""
    return row_at(mode_mask(c, words, mode, TRAINS), position)


@inlined
def candidates(c: Row, words: Words, mode: int, pc: int, mask: int) -> Row:
    """Return the mask of the positions of a buffer that may get a command in a pseudo-channel."""
    return mode_mask(c, words, mode, MODE_MASKS + pc * PC_MASKS + mask)


@inlined
def bank_mask(c: Row, words: Words, bank: int, mode: int, mask: int) -> Row:
    """Return the mask of a bank's bursts, or of its row hits, in a buffer."""
    return mode_mask(c, words, mode, MODE_MASKS + MAX_PCS * PC_MASKS + bank * BANK_MASKS + mask)


@inlined
def lowest(mask: Row, words: Words) -> int:
    """Return the lowest position in a mask, or NONE."""
    for word in range(len(words)):
        if mask[word] != 0:
            return 64 * word + int(trailing_zeros(mask[word]))
    return NONE


@inlined
def word_of(words: Words, position: int) -> int:
    """Return which word of a mask has the bit of a position."""
    return position >> 6 if len(words) > 1 else 0


@inlined
def insert(mask: Row, words: Words, position: int) -> None:
    """Put a position into a mask."""
    mask[word_of(words, position)] |= 1 << (position & 63)


@inlined
def remove(mask: Row, words: Words, position: int) -> None:
    """Take a position out of a mask."""
    mask[word_of(words, position)] &= ~(1 << (position & 63))


@inlined
def contains(mask: Row, words: Words, position: int) -> bool:
    """Return whether a position is in a mask."""
    return bool((mask[word_of(words, position)] >> (position & 63)) & 1)
