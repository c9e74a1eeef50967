"""Exact fast-forward: where traffic repeats, the channel's state repeats too, and whole periods are skipped.

At boundaries (refresh intervals, or whole repetitions of the traffic where there is no refresh) the state of a channel
is written down relative to the tick and to the place in the traffic: bursts by how far back they were accepted,
rows by the burst that opened them, ticks by how far ahead they are. Two boundaries with the same such state, at
places from which the traffic goes on alike, have the same future; so what happened between them happens again, and
any number of such periods is applied at once: counts are added, ticks and rows are moved on. States are compared in
full.

Where traffic goes on alike, `patterns` says. Rows of different runs must not meet while either matters; where they
might, the segment is simulated burst by burst. Exact, and so of little help where states come again late: streams side
by side that want different rows of the same banks at the same time meet every refresh with other bursts waiting (copy
between addresses a multiple of a block apart: HBM2, from the 1,085th refresh interval on every 9,718; HBM3, from the
44,130th on every 6,114). Whatever a state remembers of the past without deciding the future is overwritten within a
period, so that comparing less would find it no more than a period earlier.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.description import by_age, has_deep_buffers, place_of, was_used
from hwmodel.dram.queue_of_bank import PENDING_SHIFT, pending, pending_entry, queued_at
from hwmodel.dram.state import (
    ACCEPTED,
    ACCOUNTED,
    ACT_TICK,
    ACT_WAKE,
    ACTIVE,
    ACTIVE_ARRIVAL,
    ACTIVE_BURST,
    ACTIVE_READY,
    ACTIVE_ROWS,
    ACTIVE_WAKE,
    AGE_TICK,
    ARRIVAL,
    BANK_STRIDE,
    BANKS,
    BUSY_SINCE,
    COLUMN_FREE,
    COLUMN_WAKE,
    COMMAND_SLOTS,
    FAW,
    HIT_WAKE,
    IS_ACTIVE,
    LAST_DONE,
    LIVE,
    MERGED,
    NEVER,
    NONE,
    NOW,
    OPEN_ROW,
    OPENED_BY,
    OPENED_FOR,
    OTHER_WAKE,
    PENDING_ENTRIES,
    PER_BANK_QUEUES,
    PER_CHANNEL,
    PRE_WAKE,
    Q_LIVE,
    Q_READS,
    Q_WAKE,
    READY,
    REFRESH_DUE,
    REFRESHED_UNTIL,
    REQUEST,
    ROW_FREE,
    ROW_SHIFT,
    ROW_WAKE,
    SCHEDULER,
    SLOT_ARRIVAL,
    SLOT_BURST,
    SLOT_PLACE,
    TICK,
    USED_TICK,
    DramState,
    Words,
    active_at,
    bank_at,
    burst_at,
    channel_at,
    memory_of,
    mode_mask,
    pc_at,
    slot_at,
)
from hwmodel.dram.traffic import Accesses
from hwmodel.intrinsics import Row, trailing_zeros

Array = np.ndarray[Any, Any]


@inlined
def _later(row: Row, column: int, ticks: int) -> None:
    if row[column] != NEVER:
        row[column] += ticks


@compiled
def skip(
    state: DramState, accesses: Accesses, segment: int, parts: int, banks: Array, bursts: int, ticks: int, first: int,
    since: int,
) -> None:  # fmt: skip
    """Move the state on by so many bursts of the segment, and ticks; counts are left to the caller.

    The source must go on from the burst after the last one accepted.
    """
    m, words = memory_of(state), state.words
    c = channel_at(m, words, 0)
    c[ACCEPTED] += bursts
    for column in (TICK, COLUMN_WAKE, ROW_WAKE, ROW_FREE, COLUMN_FREE, LAST_DONE, REFRESH_DUE):
        _later(c, column, ticks)
    for column in (ACTIVE_WAKE, HIT_WAKE, ACT_WAKE, PRE_WAKE, OTHER_WAKE):
        _later(c, column, ticks)
    m[NOW] += ticks
    for index in range(m[PER_CHANNEL]):
        pc = pc_at(c, index)
        for command in range(COMMAND_SLOTS):
            pc[command] += ticks
        for place in range(4):
            pc[FAW + place] += ticks
        if was_used(m, c, index, banks, since):
            pc[ACCOUNTED] += ticks
            pc[BUSY_SINCE] += ticks
        for bank in range(index * m[BANK_STRIDE], index * m[BANK_STRIDE] + m[BANKS]):
            row = bank_at(c, bank)
            row[ACT_TICK] += ticks
            row[USED_TICK] += ticks
            row[REFRESHED_UNTIL] += ticks
            if row[OPEN_ROW] != NONE and -2 - row[OPENED_BY] >= first:
                row[OPENED_BY] -= bursts
                row[OPEN_ROW] = place_of(m, accesses, segment, -2 - row[OPENED_BY], parts) >> ROW_SHIFT
    for at in range(READY, ACTIVE_ROWS):
        c[at] += ticks
    is_deep = has_deep_buffers(m, words)
    for mode in range(2):
        for place in by_age(c, words, mode):
            slot = slot_at(c, words, mode, place)
            _move_burst(m, accesses, segment, parts, slot, bursts, ticks)
            slot[SLOT_ARRIVAL] += 0 if is_deep else ticks
        for place in range(c[ACTIVE + mode] if not is_deep else 0):
            row = active_at(c, mode, place)
            _move_activated(m, row[ACTIVE_BURST], bursts, ticks)
            row[ACTIVE_ARRIVAL] += ticks
            row[ACTIVE_READY] += ticks
    if is_deep:
        _skip_activated(m, c, bursts, ticks)
    if m[SCHEDULER] == PER_BANK_QUEUES:
        _skip_queues(m, c, words, accesses, segment, parts, bursts, ticks)


@inlined
def _move_activated(m: Row, burst: int, bursts: int, ticks: int) -> None:
    row = burst_at(m, burst)
    row[REQUEST] -= bursts
    row[ARRIVAL] += ticks


@inlined
def _skip_activated(m: Row, c: Row, bursts: int, ticks: int) -> None:
    """Move the active bursts of deep buffers on; ages stay in their order."""
    c[AGE_TICK] += ticks
    for bank in range(m[PER_CHANNEL] * m[BANK_STRIDE]):
        state = bank_at(c, bank)
        if state[IS_ACTIVE]:
            _move_activated(m, state[OPENED_FOR], bursts, ticks)


@inlined
def _move_burst(m: Row, accesses: Accesses, segment: int, parts: int, slot: Row, bursts: int, ticks: int) -> None:
    burst = burst_at(m, slot[SLOT_BURST])
    burst[REQUEST] -= bursts
    burst[ARRIVAL] += ticks
    slot[SLOT_PLACE] = place_of(m, accesses, segment, -2 - burst[REQUEST], parts)
    merged = burst[MERGED]
    while merged != NONE:
        other = burst_at(m, merged)
        other[REQUEST] -= bursts
        other[ARRIVAL] += ticks
        merged = other[MERGED]


@inlined
def _skip_queues(
    m: Row, c: Row, words: Words, accesses: Accesses, segment: int, parts: int, bursts: int, ticks: int
) -> None:
    """Move the bursts in the queues of banks on, and count the waiting bursts by their new places."""
    for entry in range(PENDING_ENTRIES):
        pending_entry(m, c, entry)[0] = 0
    for mode in range(2):
        live = mode_mask(c, words, mode, LIVE)
        for word in range(len(words)):
            bits = live[word]
            while bits != 0:
                slot = slot_at(c, words, mode, 64 * word + trailing_zeros(bits))
                bits &= bits - 1
                pending(m, c, slot[SLOT_PLACE])[0] += 1 << PENDING_SHIFT * mode
    for bank in range(m[PER_CHANNEL] * m[BANK_STRIDE]):
        state = bank_at(c, bank)
        bits = state[Q_LIVE]
        while bits != 0:
            place = trailing_zeros(bits)
            bits &= bits - 1
            slot = queued_at(m, c, bank, place)
            _move_burst(m, accesses, segment, parts, slot, bursts, ticks)
            slot[SLOT_ARRIVAL] += ticks
            pending(m, c, slot[SLOT_PLACE])[0] += 1 if (state[Q_READS] >> place) & 1 else 1 << PENDING_SHIFT
        _later(state, Q_WAKE, ticks)
