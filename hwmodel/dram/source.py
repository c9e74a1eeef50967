"""The source of a replay, on the compiled side: the bursts of `traffic`, one by one, as the channels take them.

A single channel pulls its bursts itself. Of several, the one whose turn it is runs until it has taken its burst; the
others stand where they were, since only what they are offered, and when, could reach them.
A cursor stands on the next burst: its segment, run and access; it hands out a few at a time. Bursts that follow each
other differ in few address bits, and the place of an address is a XOR over its bits (where `state.LINEAR` says so):
only what differs is decoded.
"""

from __future__ import annotations

import numpy as np

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.intake import decode, decode_linear
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
    LINEAR_MAP,
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
    Words,
    burst_at,
    channel_at,
    memory_of,
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
from hwmodel.intrinsics import Row, number_of, pointer, pointer_of, row_at

DRAWN = 16  # bursts; enough that what the cursor needs is read and written for many of them


@compiled
def seek(state: DramState, accesses: Accesses, burst: int, parts: int, gap: int) -> None:
    """Let the source go on from a burst of the traffic.

    Each access is `parts` bursts, offered from tick `gap` times its number on. The arrays of the traffic must outlive
    the run.
    """
    m = memory_of(state)
    c = channel_at(m, state.words, 0)
    while c[INBOX_HEAD] != NONE:
        index = c[INBOX_HEAD]
        row = burst_at(m, index)
        c[INBOX_HEAD] = row[LINK]
        row[LINK] = m[FREE_BURST]
        m[FREE_BURST] = index
        m[BURSTS_LEFT] += 1
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
        m[SOURCE_PART] = burst % parts
        m[SOURCE_ADDRESS] = m[SOURCE_PLACE] = 0


@inlined
def pull(m: Row) -> int:
    """Return the next bursts of the traffic for the only channel, as `_draw` does."""
    return _draw(m, DRAWN) if m[CHANNELS] == 1 else NONE


@compiled
def next_channel(m: Row, words: Words) -> int:
    """Return which of several channels must take a burst next, which is in its inbox, or NONE where there is no room.

    The channel stops when it has taken it; then `taken` must be called.
    """
    if m[SOURCE_CHANNEL] == NONE:
        index = _draw(m, 1)
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


@compiled
def _draw(m: Row, most: int) -> int:
    """Take up to so many next bursts of the traffic into rows of the pool, in order; return the first one's, or NONE.

    They end with the traffic, and where there is no room: a row of the pool for each, and one of the log for every
    burst that waits.
    """
    count = min(most, m[SOURCE_LEFT], m[BURSTS_LEFT])
    if m[LOG]:
        count = min(count, m[LOG_ROWS] - m[LOGGED] - waiting(m))
    if count <= 0:
        return NONE
    runs, segment = pointer_of(m[SOURCE_RUNS]), _segment(m)
    streams, length = segment[STREAMS], segment[LENGTH]
    row, step, stream, part = m[SOURCE_RUN], m[SOURCE_STEP], m[SOURCE_STREAM], m[SOURCE_PART]
    place, decoded, index = m[SOURCE_PLACE], m[SOURCE_ADDRESS], m[SOURCE_INDEX]
    linear, table, capacity, burst_bytes = m[LINEAR], pointer_of(m[LINEAR_MAP]), m[CAPACITY], m[BURST_BYTES]
    parts, gap = m[SOURCE_PARTS], m[SOURCE_GAP]
    first = following = m[FREE_BURST]
    burst = burst_at(m, first)
    for _ in range(count):
        burst = burst_at(m, following)
        following = burst[LINK]
        run = row_at(runs, (row + stream) * RUN_FIELDS)
        address = run[START] + step * run[STRIDE] + part * burst_bytes
        if address < 0 or address >= capacity:
            address %= capacity
        if linear:
            place ^= decode_linear(table, address ^ decoded)
            decoded = address
        else:
            place = decode(m, address)
        burst[MERGED] = NONE
        burst[OUTSIDE] = burst[UNDONE] = 1
        burst[PLACE] = place & PLACE_MASK
        burst[ARRIVAL] = index // parts * gap if gap else 0
        burst[REQUEST] = -2 - index
        burst[IS_WRITE] = run[DIRECTION]
        index += 1
        part += 1
        if part < parts:
            continue
        part = 0
        stream += 1
        if stream < streams:
            continue
        stream = 0
        step += 1
        if step < length:
            continue
        step = 0
        row += streams
        if index == (segment[FIRST] + segment[ACCESSES]) * parts and index < m[SOURCE_INDEX] + m[SOURCE_LEFT]:
            m[SOURCE_SEGMENT] += 1
            segment = _segment(m)
            row, streams, length = segment[RUNS], segment[STREAMS], segment[LENGTH]
    burst[LINK] = NONE
    m[FREE_BURST] = following
    m[BURSTS_LEFT] -= count
    m[SOURCE_LEFT] -= count
    m[SOURCE_RUN], m[SOURCE_STEP], m[SOURCE_STREAM], m[SOURCE_PART] = row, step, stream, part
    m[SOURCE_PLACE], m[SOURCE_ADDRESS], m[SOURCE_INDEX] = place, decoded, index
    return int(first)


@inlined
def _segment(m: Row) -> Row:
    return row_at(pointer_of(m[SOURCE_SEGMENTS]), m[SOURCE_SEGMENT] * SEGMENT_FIELDS)


@inlined
def lacks_room(m: Row, c: Row, tick: int) -> bool:
    """Return whether the source could not go on for want of room; the channel asks again at this tick."""
    if m[CHANNELS] != 1 or c[INBOX_HEAD] != NONE or m[SOURCE_LEFT] == 0:
        return False
    c[ARRIVES] = tick
    return True
