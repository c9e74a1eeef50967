"""The source of a replay, on the compiled side: the bursts of `traffic`, one by one, as the channels take them.

A single channel pulls its bursts itself. Of several, the one whose turn it is runs until it has taken its burst; the
others stand where they were, since only what they are offered, and when, could reach them.
A cursor stands on the next burst: its segment, run and access. Bursts that follow each other differ in few address
bits, and the place of an address is a XOR over its bits (where `state.LINEAR` says so): only what differs is decoded.
"""

from __future__ import annotations

import numpy as np

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.intake import decode
from hwmodel.dram.state import (
    ACCEPTED,
    ARRIVAL,
    ARRIVES,
    ASLEEP,
    BURST_BYTES,
    BURSTS_LEFT,
    CAPACITY,
    CHANNEL_SHIFT,
    CHANNELS,
    FREE_BURST,
    INBOX_HEAD,
    IS_WRITE,
    LINEAR,
    LINK,
    LOG,
    LOG_ROWS,
    LOGGED,
    MERGED,
    NEVER,
    NONE,
    OUTSIDE,
    PER_BANK_QUEUES,
    PLACE,
    PLACE_MASK,
    REQUEST,
    SCHEDULER,
    SOURCE_ADDRESS,
    SOURCE_AT,
    SOURCE_CHANNEL,
    SOURCE_GAP,
    SOURCE_INDEX,
    SOURCE_LEFT,
    SOURCE_NOW,
    SOURCE_PART,
    SOURCE_PARTS,
    SOURCE_PLACE,
    SOURCE_RUN,
    SOURCE_RUNS,
    SOURCE_SEGMENT,
    SOURCE_SEGMENTS,
    SOURCE_STEP,
    SOURCE_STREAM,
    STOP_AT,
    TICK,
    UNDONE,
    DramState,
    Row,
    Words,
    burst_at,
    channel_at,
    memory_of,
    number_of,
    pointer,
    pointer_of,
    row_at,
    waiting,
)
from hwmodel.dram.traffic import (
    ACCESSES,
    DIRECTION,
    FIRST,
    LENGTH,
    RUN_FIELDS,
    RUNS,
    SEGMENT_FIELDS,
    START,
    STREAMS,
    STRIDE,
    Accesses,
)


@compiled
def seek(state: DramState, accesses: Accesses, burst: int, parts: int, gap: int) -> None:
    """Let the source go on from a burst of the traffic.

    Each access is `parts` bursts, offered from tick `gap` times its number on. The arrays of the traffic must outlive
    the run.
    """
    m = memory_of(state)
    c = channel_at(m, state.words, 0)
    index = c[INBOX_HEAD]
    if index != NONE:
        row = burst_at(m, index)
        row[LINK] = m[FREE_BURST]
        m[FREE_BURST] = index
        m[BURSTS_LEFT] += 1
        c[INBOX_HEAD] = NONE
    segments = accesses.segments
    access = burst // parts
    m[SOURCE_SEGMENTS], m[SOURCE_RUNS] = number_of(pointer(segments)), number_of(pointer(accesses.runs))
    m[SOURCE_PARTS], m[SOURCE_GAP], m[SOURCE_INDEX] = parts, gap, burst
    last = len(segments) - 1
    m[SOURCE_LEFT] = (segments[last, FIRST] + segments[last, ACCESSES]) * parts - burst
    if m[SOURCE_LEFT] > 0:
        if m[CHANNELS] == 1:
            c[ARRIVES] = access * gap - (m[SCHEDULER] == PER_BANK_QUEUES)  # it may get a command at that very tick
        m[SOURCE_SEGMENT] = segment = np.searchsorted(segments[:, FIRST], access, side="right") - 1
        step, m[SOURCE_STREAM] = divmod(access - segments[segment, FIRST], segments[segment, STREAMS])
        run, m[SOURCE_STEP] = divmod(step, segments[segment, LENGTH])
        m[SOURCE_RUN] = segments[segment, RUNS] + run * segments[segment, STREAMS]
        m[SOURCE_AT], m[SOURCE_PART] = access, burst % parts
        m[SOURCE_ADDRESS] = m[SOURCE_PLACE] = 0


@inlined
def pull(m: Row) -> int:
    """Return the next burst of the traffic for the only channel, or NONE, as `_next_burst` does."""
    return _next_burst(m) if m[CHANNELS] == 1 else NONE


@compiled
def next_channel(m: Row, words: Words) -> int:
    """Return which of several channels must take a burst next, which is in its inbox, or NONE where there is no room.

    The channel stops when it has taken it; then `taken` must be called.
    """
    if m[SOURCE_CHANNEL] == NONE:
        index = _next_burst(m)
        if index == NONE:
            return NONE
        m[SOURCE_CHANNEL] = m[SOURCE_PLACE] >> CHANNEL_SHIFT
        burst, c = burst_at(m, index), channel_at(m, words, m[SOURCE_CHANNEL])
        burst[ARRIVAL] = max(burst[ARRIVAL], m[SOURCE_NOW])
        c[INBOX_HEAD] = index
        c[ARRIVES] = burst[ARRIVAL] - (m[SCHEDULER] == PER_BANK_QUEUES)
        c[ASLEEP] = 0
        m[STOP_AT] = c[ACCEPTED] + 1
    return int(m[SOURCE_CHANNEL])


@inlined
def taken(m: Row, c: Row) -> None:
    """Note that a channel has taken the burst of `next_channel`, at its present tick."""
    m[SOURCE_CHANNEL] = NONE
    m[SOURCE_NOW] = c[TICK] + (m[SCHEDULER] == PER_BANK_QUEUES)
    m[STOP_AT] = NEVER


@inlined
def spreads(m: Row) -> bool:
    """Return whether the source has bursts left for several channels."""
    return bool(m[CHANNELS] != 1 and (m[SOURCE_LEFT] != 0 or m[SOURCE_CHANNEL] != NONE))


@inlined
def _next_burst(m: Row) -> int:
    """Return the next burst of the traffic as a row of the pool, or NONE at its end or where there is no room.

    There is room if a row of the pool is free, and one of the log for every burst that waits.
    """
    index = m[FREE_BURST]
    if m[SOURCE_LEFT] == 0 or index == NONE or (m[LOG] and m[LOGGED] + waiting(m) >= m[LOG_ROWS]):
        return NONE
    run = row_at(pointer_of(m[SOURCE_RUNS]), (m[SOURCE_RUN] + m[SOURCE_STREAM]) * RUN_FIELDS)
    address = run[START] + m[SOURCE_STEP] * run[STRIDE] + m[SOURCE_PART] * m[BURST_BYTES]
    if address < 0 or address >= m[CAPACITY]:
        address %= m[CAPACITY]
    if m[LINEAR]:
        m[SOURCE_PLACE] ^= decode(m, address ^ m[SOURCE_ADDRESS])
        m[SOURCE_ADDRESS] = address
    else:
        m[SOURCE_PLACE] = decode(m, address)
    burst = burst_at(m, index)
    m[FREE_BURST] = burst[LINK]
    m[BURSTS_LEFT] -= 1
    burst[LINK] = burst[MERGED] = NONE
    burst[PLACE] = m[SOURCE_PLACE] & PLACE_MASK
    burst[ARRIVAL] = m[SOURCE_AT] * m[SOURCE_GAP]
    burst[REQUEST] = -2 - m[SOURCE_INDEX]
    burst[IS_WRITE] = run[DIRECTION]
    burst[OUTSIDE] = burst[UNDONE] = 1
    m[SOURCE_INDEX] += 1
    m[SOURCE_LEFT] -= 1
    m[SOURCE_PART] += 1
    if m[SOURCE_PART] == m[SOURCE_PARTS]:
        m[SOURCE_PART] = 0
        _next_access(m)
    return int(index)


@inlined
def _next_access(m: Row) -> None:
    segment = row_at(pointer_of(m[SOURCE_SEGMENTS]), m[SOURCE_SEGMENT] * SEGMENT_FIELDS)
    m[SOURCE_AT] += 1
    m[SOURCE_STREAM] += 1
    if m[SOURCE_STREAM] < segment[STREAMS]:
        return
    m[SOURCE_STREAM] = 0
    m[SOURCE_STEP] += 1
    if m[SOURCE_STEP] < segment[LENGTH]:
        return
    m[SOURCE_STEP] = 0
    m[SOURCE_RUN] += segment[STREAMS]
    if m[SOURCE_AT] == segment[FIRST] + segment[ACCESSES]:
        _next_segment(m)


@compiled
def _next_segment(m: Row) -> None:
    m[SOURCE_SEGMENT] += 1
    if m[SOURCE_LEFT] != 0:
        m[SOURCE_RUN] = row_at(pointer_of(m[SOURCE_SEGMENTS]), m[SOURCE_SEGMENT] * SEGMENT_FIELDS)[RUNS]


@inlined
def lacks_room(m: Row, c: Row, tick: int) -> bool:
    """Return whether the source could not go on for want of room; the channel asks again at this tick."""
    if m[CHANNELS] != 1 or c[INBOX_HEAD] != NONE or m[SOURCE_LEFT] == 0:
        return False
    c[ARRIVES] = tick
    return True
