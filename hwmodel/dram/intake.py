"""From an address to a scheduling window: the decoder, the entry points for requests and bursts, the inboxes.

Called by the executors, also from compiled code, for every burst; the channels (`kernel`) take it from there.
A request is a number that stands for a count of bursts; it is complete when the last of them is done.
Neighbouring bursts of a request in one row travel as a run, a single row of the pool. This is storage only: ages,
windows and commands count bursts, and a run may lie partly in the window, partly still in the inbox.
Not modelled: back-pressure (inboxes are unbounded; whoever enqueues limits what it has outstanding).
"""

from __future__ import annotations

from hwmodel.compiled import compiled
from hwmodel.dram.schedule import choose_mode, list_hit
from hwmodel.dram.state import (
    ADMITTED,
    AGE,
    ARRIVAL,
    ASLEEP,
    BANK_FIELD,
    BANK_LIST,
    BLOCK_SHIFT,
    BURSTS_LEFT,
    BUSY_SINCE,
    CAPACITY,
    CHANNEL_FIELD,
    CHANNEL_FIELDS,
    COLUMN_STALE,
    COUNT,
    DIGIT_FIELD,
    DIGIT_MASK,
    DIGIT_MODULUS,
    DIGIT_MULTIPLIER,
    DIGIT_SHIFT,
    DIGIT_STEP,
    DIGITS,
    DONE,
    ENTERING,
    FREE_REQUEST,
    FREE_RUN,
    HASH_SOURCE,
    HASH_SOURCE_BIT,
    HASH_TARGET,
    HASH_TARGET_BIT,
    HASHES,
    HEAD,
    HEAD_HIT,
    HIT_BEFORE,
    HIT_RUN,
    INBOX_HEAD,
    INBOX_TAIL,
    LAST_ARRIVAL,
    LINK,
    MAP_FIELDS,
    NEVER,
    NEXT_ARRIVAL,
    NONE,
    NOW,
    OPEN_ROW,
    OUTSIDE,
    PC_FIELDS,
    PENDING,
    PER_CHANNEL,
    PLACES,
    QUEUE_DEPTH,
    REMAINING,
    REQUEST,
    REQUESTS_LEFT,
    ROW,
    ROW_STALE,
    SCRATCH,
    SEQUENCE,
    TAIL,
    WAITING,
    WAKE,
    Array,
    DramState,
    Memory,
    Row,
    bank_at,
    link_of,
    memory_of,
    row_at,
    run_at,
)


@compiled
def open_request(state: DramState, bursts: int) -> int:
    """Return a new request, complete when that many bursts are done; room must have been reserved."""
    scalars, requests = state.scalars, state.requests
    if bursts < 1:
        raise ValueError("open_request: bursts must be at least 1")
    if scalars[REQUESTS_LEFT] == 0:
        raise ValueError("open_request: no room; reserve bursts before opening requests for them")
    request = scalars[FREE_REQUEST]
    scalars[FREE_REQUEST] = requests[request, DONE]
    scalars[REQUESTS_LEFT] -= 1
    requests[request, REMAINING] = bursts
    requests[request, DONE] = 0
    return int(request)


@compiled
def _decode(scalars: Row, table: Row, address: int) -> Row:
    """Return the row of an address's fields, hashed (it lies in the scratch)."""
    raw = row_at(scalars, SCRATCH)
    for field in range(7):
        raw[field] = 0
    rest = address
    digit = table
    for _ in range(scalars[DIGITS]):
        rest = rest >> digit[DIGIT_SHIFT] if digit[DIGIT_SHIFT] >= 0 else rest // digit[DIGIT_STEP]
        value = rest & digit[DIGIT_MASK] if digit[DIGIT_MASK] >= 0 else rest % digit[DIGIT_MODULUS]
        raw[digit[DIGIT_FIELD]] += value * digit[DIGIT_MULTIPLIER]
        digit = row_at(digit, MAP_FIELDS)
    fields = row_at(raw, 7)
    for field in range(7):
        fields[field] = raw[field]
    entry = digit
    for _ in range(scalars[HASHES]):
        bit = (raw[entry[HASH_SOURCE]] >> entry[HASH_SOURCE_BIT]) & 1
        fields[entry[HASH_TARGET]] ^= bit << entry[HASH_TARGET_BIT]
        entry = row_at(entry, MAP_FIELDS)
    return fields


@compiled
def _require_room(scalars: Row, bursts: int, tick: int) -> None:
    """Refuse arrivals out of order and bursts for which there is no room."""
    if tick < scalars[LAST_ARRIVAL] or tick < scalars[NOW]:
        raise ValueError("enqueue: tick before an earlier arrival or before the tick that was run to")
    if scalars[BURSTS_LEFT] < bursts:
        raise ValueError("enqueue: no room; reserve bursts first")
    scalars[LAST_ARRIVAL] = tick


@compiled
def enqueue_bursts(
    state: DramState, addresses: Array, first: int, stop: int, request: int, is_write: int, tick: int
) -> None:
    """Offer the bursts at addresses[first:stop], in this order, at a tick; their channels' inboxes take them.

    Ticks must not decrease from call to call nor lie before a tick already run to; room must be reserved.
    """
    memory = memory_of(state)
    scalars = memory.scalars
    _require_room(scalars, stop - first, tick)
    shift = scalars[BLOCK_SHIFT]
    at = first
    while at < stop:
        address = addresses[at]
        start = at
        at += 1
        while at < stop and addresses[at] >> shift == address >> shift:
            at += 1
        _offer(memory, address, at - start, request, 1 if is_write else 0, tick)


@compiled
def enqueue(state: DramState, address: int, request: int, is_write: int, tick: int) -> None:
    """Offer one burst, as `enqueue_bursts` does."""
    memory = memory_of(state)
    _require_room(memory.scalars, 1, tick)
    _offer(memory, address, 1, request, 1 if is_write else 0, tick)


@compiled
def _offer(memory: Memory, address: int, bursts: int, request: int, mode: int, tick: int) -> None:
    """Append a run to the inbox of its pseudo-channel."""
    scalars = memory.scalars
    if address < 0 or address >= scalars[CAPACITY]:
        raise ValueError("enqueue: address outside the capacity of the address map")
    stack, channel, pseudo_channel, group, bank, row = 0, 1, 2, 3, 4, 5
    field = _decode(scalars, memory.address_map, address)
    channel_index = field[stack] * scalars[CHANNEL_FIELD] + field[channel]
    pc = row_at(memory.pcs, (channel_index * scalars[PER_CHANNEL] + field[pseudo_channel]) * PC_FIELDS)
    index = scalars[FREE_RUN]
    run = run_at(memory, index)
    scalars[FREE_RUN] = run[LINK]
    scalars[BURSTS_LEFT] -= bursts
    scalars[WAITING] += bursts
    run[AGE] = scalars[SEQUENCE]
    scalars[SEQUENCE] += bursts
    run[ARRIVAL] = tick
    run[LINK] = NONE
    run[REQUEST] = request
    run[ROW] = field[row]
    run[BANK_LIST] = 2 * scalars[PLACES + field[group] * scalars[BANK_FIELD] + field[bank]] + mode
    run[ADMITTED] = 0
    run[OUTSIDE] = bursts
    if pc[ENTERING] != NONE:
        if pc[INBOX_HEAD] == NONE:
            pc[INBOX_HEAD] = index
        else:
            run_at(memory, pc[INBOX_TAIL])[LINK] = index
        pc[INBOX_TAIL] = index
        return
    pc[ENTERING] = index
    if pc[COUNT + mode] < scalars[QUEUE_DEPTH]:
        pc[NEXT_ARRIVAL] = min(pc[NEXT_ARRIVAL], tick)
        wake = row_at(memory.channels, channel_index * CHANNEL_FIELDS)
        wake[WAKE] = min(wake[WAKE], tick)
        wake[ASLEEP] = 0


@compiled
def _append(memory: Memory, pc_index: int, pc: Row, index: int) -> None:
    """Put a run at the end of its bank's list."""
    run = run_at(memory, index)
    place, mode = run[BANK_LIST] >> 1, run[BANK_LIST] & 1
    bank, bit = bank_at(memory, pc_index, place), 1 << place
    last = bank[TAIL + mode]
    bank[TAIL + mode] = index
    if last == NONE:
        bank[HEAD + mode] = index
        pc[PENDING + mode] |= bit
        pc[ROW_STALE] = 1
    else:
        run_at(memory, last)[LINK] = index
    if bank[HIT_RUN + mode] == NONE and bank[OPEN_ROW] == run[ROW]:
        bank[HIT_RUN + mode] = index
        bank[HIT_BEFORE + mode] = last
        list_hit(pc, place, mode, run[AGE])
        if last == NONE:
            pc[HEAD_HIT + mode] |= bit
        pc[COLUMN_STALE] = 1


@compiled
def fill(memory: Memory, pc_index: int, pc: Row, tick: int) -> None:
    """Move arrived bursts from the inbox into the windows, in order, until one finds its window full."""
    depth = memory.scalars[QUEUE_DEPTH]
    pc[NEXT_ARRIVAL] = NEVER
    while pc[ENTERING] != NONE:
        run = run_at(memory, pc[ENTERING])
        mode = run[BANK_LIST] & 1
        room = depth - pc[COUNT + mode]
        if room == 0:
            break
        if run[ARRIVAL] > tick:
            pc[NEXT_ARRIVAL] = run[ARRIVAL]
            break
        if pc[COUNT] + pc[COUNT + 1] == 0:
            pc[BUSY_SINCE] = tick
        if run[ADMITTED] == 0:
            _append(memory, pc_index, pc, pc[ENTERING])
        admitted = min(room, run[OUTSIDE])
        run[ADMITTED] += admitted
        run[OUTSIDE] -= admitted
        pc[COUNT + mode] += admitted
        if run[OUTSIDE] == 0:
            following = pc[INBOX_HEAD]
            pc[ENTERING] = following
            if following != NONE:
                pc[INBOX_HEAD] = link_of(memory, following)
                run_at(memory, following)[LINK] = NONE
    choose_mode(memory, pc_index, pc, tick)
