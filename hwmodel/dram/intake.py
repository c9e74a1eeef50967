"""From an address to a channel's inbox: the decoder, and the entry points for requests and bursts.

Called by the executors, also from compiled code, for every burst; the schedulers take it from the inbox when it has
arrived and their buffers have room. A request is a number that stands for a count of bursts; it is complete when
the last of them is done.
Neighbouring bursts of a request in one row travel as a run, a single row of the pool.
Inboxes are unbounded and in order: a burst that finds its buffer full holds up those behind it, as a source that
offers bursts one by one would.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.state import (
    ADDRESS_MAP,
    ARRIVAL,
    ARRIVES,
    ASLEEP,
    BANK_FIELD,
    BANK_STRIDE,
    BLOCK_SHIFT,
    BURST_BYTES,
    BURSTS_LEFT,
    CAPACITY,
    CHANNEL_FIELD,
    CHANNEL_SHIFT,
    COLUMN_SHIFT,
    DIGIT_FIELD,
    DIGIT_MASK,
    DIGIT_MODULUS,
    DIGIT_MULTIPLIER,
    DIGIT_SHIFT,
    DIGIT_STEP,
    DIGITS,
    DONE,
    FOLD,
    FOLD_SHIFT,
    FOLD_UNIT,
    FREE_BURST,
    FREE_REQUEST,
    HASH_SOURCE,
    HASH_SOURCE_BIT,
    HASH_TARGET,
    HASH_TARGET_BIT,
    HASHES,
    INBOX_HEAD,
    INBOX_TAIL,
    IS_WRITE,
    LAST_ARRIVAL,
    LINEAR,
    LINEAR_MAP,
    LINK,
    MAP_FIELDS,
    MERGED,
    NONE,
    NOW,
    OUTSIDE,
    PER_BANK_QUEUES,
    PLACE,
    PLACE_MASK,
    PLACES,
    REMAINING,
    REQUEST,
    REQUESTS_LEFT,
    ROW_SHIFT,
    SCHEDULER,
    SCRATCH,
    TURN_SIZE,
    TURN_WEIGHT,
    TURNS,
    UNDONE,
    Array,
    DramState,
    Words,
    burst_at,
    channel_at,
    memory_of,
)
from hwmodel.intrinsics import Row, pointer_of, row_at


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
def _decode_digits(m: Row, address: int) -> int:
    """Return the place of an address, digit by digit, then hash by hash."""
    raw = row_at(m, SCRATCH)
    for field in range(7):
        raw[field] = 0
    rest = address
    digit = pointer_of(m[ADDRESS_MAP])
    for _ in range(m[DIGITS]):
        rest = rest >> digit[DIGIT_SHIFT] if digit[DIGIT_SHIFT] >= 0 else rest // digit[DIGIT_STEP]
        value = rest & digit[DIGIT_MASK] if digit[DIGIT_MASK] >= 0 else rest % digit[DIGIT_MODULUS]
        raw[digit[DIGIT_FIELD]] += value * digit[DIGIT_MULTIPLIER]
        digit = row_at(digit, MAP_FIELDS)
    fields = row_at(raw, 7)
    for field in range(7):
        fields[field] = raw[field]
    entry = digit
    for _ in range(m[HASHES]):
        bit = (raw[entry[HASH_SOURCE]] >> entry[HASH_SOURCE_BIT]) & 1
        if entry[TURN_SIZE] == 0:
            fields[entry[HASH_TARGET]] ^= bit << entry[HASH_TARGET_BIT]
        else:
            turned = fields[entry[HASH_TARGET]] + bit * entry[TURN_WEIGHT]
            fields[entry[HASH_TARGET]] = turned - entry[TURN_SIZE] if turned >= entry[TURN_SIZE] else turned
        entry = row_at(entry, MAP_FIELDS)
    stack, channel, pseudo_channel, group, bank, row, column = 0, 1, 2, 3, 4, 5, 6
    place = m[PLACES + fields[group] * m[BANK_FIELD] + fields[bank]]
    place += fields[pseudo_channel] * m[BANK_STRIDE]
    index = fields[stack] * m[CHANNEL_FIELD] + fields[channel]
    return int(place | fields[column] << COLUMN_SHIFT | fields[row] << ROW_SHIFT | index << CHANNEL_SHIFT)


@compiled
def _decode_folded(m: Row, address: int) -> int:
    """Return the place of an address, byte by byte but for one digit, which the other bits turn."""
    shift, modulus = m[FOLD_SHIFT], m[FOLD]
    above = address >> shift
    quotient = above // modulus
    rest = (address & ((1 << shift) - 1)) | quotient << shift
    place, turned, table = 0, above - quotient * modulus, pointer_of(m[LINEAR_MAP])
    while rest != 0:
        byte = rest & 255
        place ^= table[byte]
        turned += table[TURNS * 256 + byte]
        table = row_at(table, 256)
        rest >>= 8
    return int(place + (turned % modulus * m[FOLD_UNIT] << CHANNEL_SHIFT))


@inlined
def decode(m: Row, address: int) -> int:
    """Return the place of an address: bank of its channel, column, row, channel in one number."""
    if m[LINEAR] == 0:
        return int(_decode_folded(m, address) if m[FOLD] else _decode_digits(m, address))
    return int(decode_linear(pointer_of(m[LINEAR_MAP]), address))


@inlined
def decode_linear(table: Row, address: int) -> int:
    """Return the place of an address, or the difference of two places, from the table of a map that is LINEAR."""
    place, rest = 0, address
    while rest != 0:
        place ^= table[rest & 255]
        table = row_at(table, 256)
        rest >>= 8
    return place


@compiled
def _require_room(m: Row, bursts: int, tick: int) -> None:
    """Refuse arrivals out of order and bursts for which there is no room."""
    if tick < m[LAST_ARRIVAL] or tick < m[NOW]:
        raise ValueError("enqueue: tick before an earlier arrival or before the tick that was run to")
    if m[BURSTS_LEFT] < bursts:
        raise ValueError("enqueue: no room; reserve bursts first")
    m[LAST_ARRIVAL] = tick


@compiled
def enqueue_bursts(
    state: DramState, addresses: Array, first: int, stop: int, request: int, is_write: int, tick: int
) -> None:
    """Offer the bursts at addresses[first:stop], in this order, at a tick; their channels' inboxes take them.

    Ticks must not decrease from call to call nor lie before a tick already run to; room must be reserved.
    """
    m = memory_of(state)
    _require_room(m, stop - first, tick)
    shift, step = m[BLOCK_SHIFT], m[BURST_BYTES]
    at = first
    while at < stop:
        start, address = at, addresses[at]
        at += 1
        while at < stop and addresses[at] == addresses[at - 1] + step and addresses[at] >> shift == address >> shift:
            at += 1
        offer(m, state.words, address, at - start, request, 1 if is_write else 0, tick)


@compiled
def enqueue_runs(state: DramState, runs: Array, first: int, stop: int, request: int, is_write: int, tick: int) -> None:
    """Offer the neighbouring bursts of runs[first:stop] = (address, how many), as `enqueue_bursts` does."""
    m = memory_of(state)
    total = 0
    for at in range(first, stop):
        total += runs[at, 1]
    _require_room(m, total, tick)
    shift, step = m[BLOCK_SHIFT], m[BURST_BYTES]
    for at in range(first, stop):
        address, left = runs[at, 0], runs[at, 1]
        while left > 0:
            bursts = min(left, (((address >> shift) + 1 << shift) - address + step - 1) // step)
            offer(m, state.words, address, bursts, request, 1 if is_write else 0, tick)
            address, left = address + bursts * step, left - bursts


@compiled
def enqueue(state: DramState, address: int, request: int, is_write: int, tick: int) -> None:
    """Offer one burst, as `enqueue_bursts` does."""
    m = memory_of(state)
    _require_room(m, 1, tick)
    offer(m, state.words, address, 1, request, 1 if is_write else 0, tick)


@inlined
def offer(m: Row, words: Words, address: int, bursts: int, request: int, mode: int, tick: int) -> None:
    """Append a run of bursts in one row to the inbox of its channel; room must have been checked."""
    if address < 0 or address >= m[CAPACITY]:
        raise ValueError("enqueue: address outside the capacity of the address map")
    place = decode(m, address)
    channel = channel_at(m, words, place >> CHANNEL_SHIFT)
    index = m[FREE_BURST]
    burst = burst_at(m, index)
    m[FREE_BURST] = burst[LINK]
    m[BURSTS_LEFT] -= bursts
    burst[LINK] = NONE
    burst[PLACE] = place & PLACE_MASK
    burst[ARRIVAL] = tick
    burst[REQUEST] = request
    burst[IS_WRITE] = mode
    burst[MERGED] = NONE
    burst[OUTSIDE] = burst[UNDONE] = bursts
    if channel[INBOX_HEAD] == NONE:
        channel[INBOX_HEAD] = index
        channel[ARRIVES] = tick - (m[SCHEDULER] == PER_BANK_QUEUES)  # it may get a command at that very tick
        channel[ASLEEP] = 0
    else:
        burst_at(m, channel[INBOX_TAIL])[LINK] = index
    channel[INBOX_TAIL] = index


@compiled
def place_of(state: DramState, address: int) -> int:
    """Return the place of an address, from Python."""
    return int(decode(memory_of(state), address))
