"""The state of a channel in a replay, written down relative to the tick and to the place in the traffic.

Bursts by how far back they were accepted, rows by the burst that opened them, ticks by how far ahead they are: two
boundaries at which the same is written down have the same future where the traffic goes on alike (`fast_forward`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.intake import decode
from hwmodel.dram.queue_of_bank import queued_at
from hwmodel.dram.state import (
    ACCEPTED,
    ACCOUNTED,
    ACT,
    ACT_TICK,
    ACTIVE,
    ACTIVE_ARRIVAL,
    ACTIVE_BANKS,
    ACTIVE_BURST,
    ACTIVE_KEYS,
    ACTIVE_READY,
    ACTIVE_SERIAL,
    ARRIVAL,
    AT_BANK,
    BANK_PC,
    BANK_STRIDE,
    BANKS,
    BURST_BYTES,
    BUSY_SINCE,
    CAPACITY,
    CHANNEL_BANKS,
    CLOSE_AFTER,
    COLUMN_FREE,
    COLUMN_KEYS,
    COMMAND_SLOTS,
    COUNT,
    DELAY,
    DRAINING,
    DUE,
    DUE_PC,
    FAW,
    FAW_PLACE,
    FAW_TICKS,
    FREED,
    HIT_STREAK,
    IS_ACTIVE,
    IS_REFRESHING,
    KEY_BANK_BITS,
    LAST_BANK,
    LAST_MODE,
    LIVE,
    MERGED,
    MODE,
    NEVER,
    NEXT_BANK,
    NONE,
    OPEN_BANKS,
    OPEN_ROW,
    OPENED_BY,
    OPENED_FOR,
    OUTSTANDING,
    OWED,
    PER_BANK_QUEUES,
    PER_CHANNEL,
    PLACE_MASK,
    PRE,
    Q_COUNT,
    Q_LIVE,
    Q_READS,
    Q_STARTED,
    QUEUED,
    RD,
    REFPB,
    REFRESH_DUE,
    REFRESHED_UNTIL,
    REFRESHING,
    REQUEST,
    RISING,
    ROW_FREE,
    ROW_SHIFT,
    SCHEDULER,
    SERIAL,
    SERIAL_MASK,
    SLOT_ARRIVAL,
    SLOT_BURST,
    STARTED,
    STREAK,
    USED_TICK,
    WR,
    DramState,
    Words,
    active_at,
    bank_at,
    burst_at,
    channel_at,
    contains,
    has_key,
    keys_at,
    memory_of,
    mode_mask,
    pc_at,
    ready_at,
    slot_at,
)
from hwmodel.dram.traffic import FIRST, STREAMS, Accesses, access_at
from hwmodel.intrinsics import Row, trailing_zeros

Array = np.ndarray[Any, Any]

STALE = -7  # a row that no burst of the segment can hit


@inlined
def _index_of(m: Row, burst: int) -> int:
    """Return which burst of the traffic a row of the pool stands for."""
    return int(-2 - burst_at(m, burst)[REQUEST])


@inlined
def _ahead(value: int, tick: int) -> int:
    """Return how far ahead a tick is; all past ones are alike."""
    return int(max(value - tick, 0))


@inlined
def place_of(m: Row, accesses: Accesses, segment: int, index: int, parts: int) -> int:
    """Return the place of a burst of a segment."""
    first = accesses.segments[segment, FIRST]
    address, _ = access_at(accesses, segment, index // parts - first)
    return int(decode(m, (address + index % parts * m[BURST_BYTES]) % m[CAPACITY]) & PLACE_MASK)


@compiled
def describe(
    state: DramState, accesses: Accesses, segment: int, unit: int, parts: int, banks: Array, tick: int, since: int,
    out: Array,
) -> tuple[int, int]:  # fmt: skip
    """Write the state of the only channel, relative to a tick and to the bursts accepted, to `out`.

    `unit`: bursts after which the segment repeats; `banks`: which it touches; `since`: pseudo-channels that it does not
    touch and that had no data from then on count as unused.
    Returns (length, how far back the oldest burst that matters lies); length 0 if bursts before the segment matter.
    """
    m, words = memory_of(state), state.words
    c = channel_at(m, words, 0)
    position, first = c[ACCEPTED], accesses.segments[segment, FIRST] * parts
    out[0], out[1], out[2], out[3], out[4] = c[MODE], c[COUNT], c[COUNT + 1], c[ACTIVE], c[ACTIVE + 1]
    out[5], out[6], out[7], out[8] = c[DUE], c[DUE_PC], c[FREED], c[LAST_BANK]
    out[9] = c[REFRESH_DUE] - tick if c[REFRESH_DUE] != NEVER else NEVER
    out[10], out[11] = _ahead(c[ROW_FREE], tick), _ahead(c[COLUMN_FREE], tick)
    out[12], out[13], out[14] = c[QUEUED], c[DRAINING], tick & m[RISING]
    at = 15
    for index in range(m[PER_CHANNEL]):
        at = _describe_pc(m, c, index, banks, tick, since, out, at)
    oldest = position
    for index in range(m[PER_CHANNEL]):
        for bank in range(index * m[BANK_STRIDE], index * m[BANK_STRIDE] + m[BANKS]):
            at, opened = _describe_bank(m, c, bank, tick, first, position, banks[bank], out, at)
            if opened == NONE:
                return 0, 0
            if opened != position:
                out[at], out[at + 1], out[at + 2] = _describe_row(m, accesses, segment, unit, parts, position, opened)
                at += 3
            oldest = min(oldest, opened)
    for mode in range(2):
        at, waiting = _describe_waiting(m, c, words, mode, tick, position, out, at)
        oldest = min(oldest, waiting)
    if m[SCHEDULER] == PER_BANK_QUEUES:
        at, waiting = _describe_queues(m, c, tick, position, out, at)
        oldest = min(oldest, waiting)
    return (at, position - oldest) if oldest >= first else (0, 0)


@compiled
def was_used(m: Row, c: Row, index: int, banks: Array, since: int) -> bool:
    """Return whether a pseudo-channel's account goes on: it has bursts, had some lately, or the segment touches it."""
    pc = pc_at(c, index)
    if pc[OUTSTANDING] != 0 or pc[ACCOUNTED] >= since:
        return True
    first = index * m[BANK_STRIDE]
    return bool(banks[first : first + m[BANKS]].any())


@inlined
def _describe_pc(m: Row, c: Row, index: int, banks: Array, tick: int, since: int, out: Array, at: int) -> int:
    pc = pc_at(c, index)
    for command in range(COMMAND_SLOTS):
        out[at + command] = _ahead(pc[command], tick)
    at += COMMAND_SLOTS
    for place in range(4):
        out[at + place] = _ahead(pc[FAW + ((pc[FAW_PLACE] + place) & 3)] + m[FAW_TICKS], tick)
    out[at + 4], out[at + 5], out[at + 6] = pc[OPEN_BANKS], pc[ACTIVE_BANKS], pc[REFRESHING]
    out[at + 7], out[at + 8] = pc[OUTSTANDING], pc[LAST_MODE]
    out[at + 11], out[at + 12] = pc[OWED], pc[NEXT_BANK]
    is_used = was_used(m, c, index, banks, since)
    out[at + 9] = pc[ACCOUNTED] - tick if is_used else STALE
    out[at + 10] = max(pc[BUSY_SINCE], pc[ACCOUNTED]) - tick if is_used else STALE
    at += 13
    return at


@inlined
def _describe_bank(
    m: Row, c: Row, bank: int, tick: int, first: int, position: int, is_touched: bool, out: Array, at: int
) -> tuple[int, int]:
    """Return the next place of `out`, and the burst that opened the bank's row, or NONE if that is not comparable."""
    state = bank_at(c, bank)
    pc = pc_at(c, state[BANK_PC])
    for command in (ACT, PRE, RD, WR, REFPB):
        out[at] = _ahead(ready_at(c, command)[bank], tick)
        at += 1
    opened, row = position, NONE
    if state[OPEN_ROW] != NONE:
        opened, row = -2 - state[OPENED_BY], 0
        if opened >= first:
            pass
        elif is_touched:
            return at, NONE
        else:
            opened, row = position, STALE
    out[at], out[at + 1], out[at + 2] = row, state[IS_ACTIVE], state[IS_REFRESHING]
    out[at + 3] = min(state[STREAK], m[HIT_STREAK]) if row >= 0 and m[SCHEDULER] == PER_BANK_QUEUES else 0
    out[at + 4] = _ahead(state[USED_TICK] + m[CLOSE_AFTER], tick) if row != NONE and m[CLOSE_AFTER] >= 0 else 0
    opens = m[DELAY + (AT_BANK * COMMAND_SLOTS + ACT) * COMMAND_SLOTS + RD]
    opens = max(opens, m[DELAY + (AT_BANK * COMMAND_SLOTS + ACT) * COMMAND_SLOTS + WR])
    past = tick if pc[ACCOUNTED] > tick else pc[ACCOUNTED]  # later than that, causes of waiting depend on it
    out[at + 5] = max(state[ACT_TICK], past - opens) - past if is_touched else 0
    out[at + 6] = max(state[REFRESHED_UNTIL], past) - past if is_touched else 0
    return at + 7, opened


@inlined
def _describe_row(
    m: Row, accesses: Accesses, segment: int, unit: int, parts: int, position: int, opened: int
) -> tuple[int, int, int]:
    """Return which row a burst opened: its stream, how many repetitions ago, and how far into the repetition."""
    streams = accesses.segments[segment, STREAMS]
    first = accesses.segments[segment, FIRST] * parts
    stream = opened // parts % streams
    begin = first + (opened - first) // unit * unit + stream * parts
    rows = place_of(m, accesses, segment, opened, parts) >> ROW_SHIFT
    rows -= place_of(m, accesses, segment, begin, parts) >> ROW_SHIFT
    return stream, (position - first) // unit - (opened - first) // unit, rows


@inlined
def _describe_waiting(
    m: Row, c: Row, words: Words, mode: int, tick: int, position: int, out: Array, at: int
) -> tuple[int, int]:
    """Describe a buffer and the active bursts of its mode; return the next place of `out` and the oldest burst."""
    oldest, started = position, mode_mask(c, words, mode, STARTED)
    for place in by_age(c, words, mode):
        slot = slot_at(c, words, mode, place)
        at, index = _describe_burst(m, slot, int(contains(started, words, place)), tick, position, out, at)
        oldest = min(oldest, index)
    if has_deep_buffers(m, words):
        at, oldest = _describe_activated(m, c, mode, tick, position, oldest, out, at)
        return at, oldest
    for place in range(c[ACTIVE + mode]):
        row = active_at(c, mode, place)
        index = _index_of(m, row[ACTIVE_BURST])
        out[at], out[at + 1] = position - index, row[ACTIVE_ARRIVAL] - tick
        out[at + 2], out[at + 3] = row[ACTIVE_SERIAL] - c[SERIAL], _ahead(row[ACTIVE_READY], tick)
        at += 4
        oldest = min(oldest, index)
    return at, oldest


@inlined
def has_deep_buffers(m: Row, words: Words) -> bool:
    """Return whether the bursts of a bank are lists."""
    return bool(len(words) > 1 and m[SCHEDULER] != PER_BANK_QUEUES)


@compiled
def by_age(c: Row, words: Words, mode: int) -> Array:
    """Return the positions of the waiting bursts of a buffer, oldest first; each of a replay has one to itself."""
    live, count = mode_mask(c, words, mode, LIVE), 0
    places = np.empty(64 * len(words), np.int64)
    for word in range(len(words)):
        bits = live[word]
        while bits != 0:
            place = 64 * word + trailing_zeros(bits)
            bits &= bits - 1
            arrival, at = slot_at(c, words, mode, place)[SLOT_ARRIVAL], count
            while at > 0 and slot_at(c, words, mode, places[at - 1])[SLOT_ARRIVAL] > arrival:
                places[at] = places[at - 1]
                at -= 1
            places[at] = place
            count += 1
    return places[:count]


@inlined
def _describe_activated(
    m: Row, c: Row, mode: int, tick: int, position: int, oldest: int, out: Array, at: int
) -> tuple[int, int]:
    """Describe the active bursts of a deep buffer, by bank; return the next place of `out` and the oldest burst."""
    for bank in range(m[PER_CHANNEL] * m[BANK_STRIDE]):
        if has_key(c, ACTIVE_KEYS, mode, bank):
            index, key = _index_of(m, bank_at(c, bank)[OPENED_FOR]), keys_at(c, COLUMN_KEYS, mode)[bank]
            out[at], out[at + 1] = bank, position - index
            out[at + 2] = burst_at(m, bank_at(c, bank)[OPENED_FOR])[ARRIVAL] - tick
            out[at + 3] = _activated_before(c, key)
            at += 4
            oldest = min(oldest, index)
    return at, oldest


@compiled
def _activated_before(c: Row, key: int) -> int:
    """Return how many active bursts were activated before the one with a key."""
    count, serial = 0, (key >> KEY_BANK_BITS) & SERIAL_MASK
    for mode in range(2):
        keys = keys_at(c, COLUMN_KEYS, mode)
        for bank in range(CHANNEL_BANKS):
            count += has_key(c, ACTIVE_KEYS, mode, bank) and (keys[bank] >> KEY_BANK_BITS) & SERIAL_MASK < serial
    return count


@inlined
def _describe_burst(m: Row, slot: Row, note: int, tick: int, position: int, out: Array, at: int) -> tuple[int, int]:
    """Describe a waiting burst and those merged with it; return the next place of `out` and the oldest of them."""
    oldest, burst = position, slot[SLOT_BURST]
    while burst != NONE:
        row = burst_at(m, burst)
        index = _index_of(m, burst)
        out[at], out[at + 1], out[at + 2] = position - index, row[ARRIVAL] - tick, note
        at += 3
        note = STALE
        oldest = min(oldest, index)
        burst = row[MERGED]
    return at, oldest


@inlined
def _describe_queues(m: Row, c: Row, tick: int, position: int, out: Array, at: int) -> tuple[int, int]:
    """Describe the queues of all banks; return the next place of `out` and the oldest burst."""
    oldest = position
    for bank in range(m[PER_CHANNEL] * m[BANK_STRIDE]):
        state = bank_at(c, bank)
        bits = state[Q_LIVE]
        while bits != 0:
            place = trailing_zeros(bits)
            bits &= bits - 1
            is_read = (state[Q_READS] >> place) & 1
            note = 2 * is_read + ((state[Q_STARTED] >> place) & 1)
            slot = queued_at(m, c, bank, place)
            at, index = _describe_burst(m, slot, note, tick, position, out, at)
            oldest = min(oldest, index)
        out[at] = state[Q_COUNT]
        at += 1
    return at, oldest
