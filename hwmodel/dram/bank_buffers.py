"""The read and the write buffer of a channel in front of its banks' queues, as in DRAMsim3.

Bursts of the inbox enter a buffer while it has room. Reads of one place are merged, writes too; reads of a waiting
write are served at once. Each tick moves one burst into its bank's queue: the oldest whose queue has room. Writes
are drained in bulk: as many as waited when the drain began.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.commands import arrive, serve_merged
from hwmodel.dram.positions import make_room
from hwmodel.dram.queue_of_bank import (
    PENDING_SHIFT,
    classify,
    close_gaps,
    find_pending,
    first_in_queue,
    pending,
    queued_at,
)
from hwmodel.dram.source import lacks_room, pull
from hwmodel.dram.state import (
    ACCEPTED,
    ALL_BURSTS,
    ARRIVAL,
    ARRIVES,
    BANK_MASK,
    BANK_PC,
    COLUMN_WAKE,
    COUNT,
    DEPTH,
    DRAIN_ABOVE,
    DRAIN_BELOW,
    DRAINING,
    FREED,
    FULL_BANKS,
    HELD,
    INBOX_HEAD,
    IS_WRITE,
    LAST_DONE,
    LINK,
    LIVE,
    MERGED,
    NEVER,
    NONE,
    OPEN_ROW,
    PLACE,
    Q_COUNT,
    Q_HITS,
    Q_LIVE,
    Q_READS,
    Q_TAIL,
    Q_WAKE,
    QUEUE_DEPTH,
    QUEUE_POSITIONS,
    QUEUED,
    REPLAYING,
    ROW_SHIFT,
    ROW_WAKE,
    SLOT_ARRIVAL,
    SLOT_BURST,
    SLOT_FIELDS,
    SLOT_PLACE,
    TAIL,
    Words,
    bank_at,
    bank_mask,
    burst_at,
    insert,
    mode_mask,
    pc_at,
    remove,
    slot_at,
)
from hwmodel.intrinsics import Row, trailing_zeros


@compiled
def release_held(c: Row, words: Words, bank: int) -> None:
    """A bank's queue has room again: its bursts in the buffers may move."""
    c[FULL_BANKS] &= ~(1 << bank)
    for mode in range(2):
        held, bursts = mode_mask(c, words, mode, HELD), bank_mask(c, words, bank, mode, ALL_BURSTS)
        for word in range(len(words)):
            held[word] &= ~bursts[word]


@inlined
def _movable(c: Row, words: Words, mode: int) -> int:
    """Return the oldest position of a buffer whose bank's queue has room, or NONE."""
    live, held = mode_mask(c, words, mode, LIVE), mode_mask(c, words, mode, HELD)
    for word in range(len(words)):
        bits = live[word] & ~held[word]
        if bits != 0:
            return int(64 * word + trailing_zeros(bits))
    return NONE


@inlined
def _move(m: Row, c: Row, words: Words, mode: int, position: int, tick: int) -> None:
    """Move a burst from its buffer to its bank's queue; behind others of its kind it changes nothing for the bank."""
    slot = slot_at(c, words, mode, position)
    place = slot[SLOT_PLACE]
    bank = place & BANK_MASK
    state = bank_at(c, bank)
    remove(mode_mask(c, words, mode, LIVE), words, position)
    remove(bank_mask(c, words, bank, mode, ALL_BURSTS), words, position)
    c[COUNT + mode] -= 1
    c[FREED] = 1
    if state[Q_TAIL] == QUEUE_POSITIONS - 1:  # the last bit is the sign
        close_gaps(m, c, bank)
    before = state[Q_LIVE]
    to = state[Q_TAIL] if before != 0 else 0
    queued, bit = queued_at(m, c, bank, to), 1 << to
    for field in range(SLOT_FIELDS):
        queued[field] = slot[field]
    state[Q_TAIL] = to + 1
    state[Q_COUNT] += 1
    state[Q_LIVE] |= bit
    if mode == 0:
        state[Q_READS] |= bit
    if state[OPEN_ROW] == place >> ROW_SHIFT:
        reads = state[Q_HITS] & state[Q_READS]
        before = reads if mode == 0 else (state[Q_HITS] if reads == 0 else 0)  # reads may hold back only some writes
        state[Q_HITS] |= bit
    c[QUEUED] += 1
    if state[Q_COUNT] == m[QUEUE_DEPTH]:
        c[FULL_BANKS] |= 1 << bank
        for other in range(2):
            held, bursts = mode_mask(c, words, other, HELD), bank_mask(c, words, bank, other, ALL_BURSTS)
            for word in range(len(words)):
                held[word] |= bursts[word]
    if before == 0:
        classify(m, c, bank)
        _, _, state[Q_WAKE] = first_in_queue(m, c, bank, tick + 1)
        c[COLUMN_WAKE] = min(c[COLUMN_WAKE], max(state[Q_WAKE], tick + 1))


@inlined
def schedule(m: Row, c: Row, words: Words, tick: int) -> bool:
    """Move at most one burst into its bank's queue; return whether one may move in the next tick.

    Where a drain is called off because of a waiting read and nothing else is under way, reads move instead: upstream
    such a channel stands still for ever.
    """
    if c[DRAINING] == 0:
        writes = c[COUNT + 1]
        full = writes >= m[DRAIN_ABOVE]
        rest = writes > m[DRAIN_BELOW] or (m[REPLAYING] == 0 and writes > 0 and c[COUNT] == 0)
        if full or (rest and c[QUEUED] == 0):
            c[DRAINING] = writes
    mode = 1 if c[DRAINING] > 0 else 0
    position = _movable(c, words, mode)
    if position == NONE:
        return False
    if mode == 1 and find_pending(m, c, words, 0, slot_at(c, words, 1, position)[SLOT_PLACE]) != NONE:
        c[DRAINING] = 0
        begins_again = c[COUNT + 1] >= m[DRAIN_ABOVE] or c[COUNT + 1] > m[DRAIN_BELOW]
        if c[QUEUED] != 0 or not begins_again:
            return True  # nothing moves in this tick; something may in the next
        mode, position = 0, _movable(c, words, 0)
        if position == NONE:
            return False
    c[DRAINING] -= mode
    _move(m, c, words, mode, position, tick)
    may_drain = mode == 1 or c[COUNT + 1] >= m[DRAIN_ABOVE]
    return bool(may_drain or _movable(c, words, 0) != NONE)


@inlined
def accept(m: Row, c: Row, words: Words, tick: int) -> bool:
    """Take bursts from the inbox, in order, until a buffer is full; return whether arrays must grow first."""
    c[FREED] = 0
    c[ARRIVES] = NEVER
    index = c[INBOX_HEAD]
    if index == NONE:
        index = pull(m)
    while index != NONE:
        burst = burst_at(m, index)
        if burst[ARRIVAL] > tick:
            c[ARRIVES] = burst[ARRIVAL] - 1
            break
        mode, following = burst[IS_WRITE], burst[LINK]
        if c[COUNT + mode] == m[DEPTH + mode]:
            break
        if m[REPLAYING]:
            burst[ARRIVAL] = tick
        c[ACCEPTED] += 1
        _put(m, c, words, mode, index, tick)
        index = following if following != NONE else pull(m)
    c[INBOX_HEAD] = index
    return bool(lacks_room(m, c, tick - 1))


@inlined
def _put(m: Row, c: Row, words: Words, mode: int, index: int, tick: int) -> None:
    """Put a burst of the pool into its buffer, or join it to one of its place that waits."""
    burst = burst_at(m, index)
    place = burst[PLACE]
    bank = place & BANK_MASK
    alike = pending(m, c, place)
    may_merge = alike[0] != 0
    merges = may_merge and find_pending(m, c, words, 1, place) != NONE
    if mode == 1 or merges:
        c[LAST_DONE] = max(c[LAST_DONE], tick + 2)
    if merges:
        serve_merged(m, c, bank, index, burst[ARRIVAL], mode, tick + 1)
        return
    other = find_pending(m, c, words, 0, place) if may_merge and mode == 0 else NONE
    if other != NONE:
        first = burst_at(m, other)
        burst[MERGED] = first[MERGED]
        first[MERGED] = index
        return
    if c[TAIL + mode] == 64 * len(words):
        make_room(m, c, words, mode)
    position = c[TAIL + mode]
    c[TAIL + mode] = position + 1
    c[COUNT + mode] += 1
    slot = slot_at(c, words, mode, position)
    slot[SLOT_PLACE] = place
    slot[SLOT_ARRIVAL] = tick
    slot[SLOT_BURST] = index
    insert(mode_mask(c, words, mode, LIVE), words, position)
    insert(bank_mask(c, words, bank, mode, ALL_BURSTS), words, position)
    is_held = (c[FULL_BANKS] >> bank) & 1
    if is_held:
        insert(mode_mask(c, words, mode, HELD), words, position)
    if not is_held or (mode == 1 and c[COUNT + 1] >= m[DRAIN_ABOVE]):  # it may move in this tick, or a drain begin
        c[ROW_WAKE] = min(c[ROW_WAKE], tick)
    alike[0] += 1 << PENDING_SHIFT * mode
    arrive(pc_at(c, bank_at(c, bank)[BANK_PC]), tick)
