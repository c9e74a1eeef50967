"""A command queue per bank, served round robin, as in DRAMsim3.

Each tick moves one burst from the read or the write buffer of the channel into its bank's queue (the oldest whose
queue has room), after the commands of the tick: the first queue, from the bank after the last one served, with a
command that is ready; in a queue the first burst whose next command is ready. A precharge waits until no burst of
the queue hits the open row, or the row has served its streak of hits. A row command and a column command may issue
in the same tick. Writes are drained in bulk: as many as waited when the drain began. An all-bank refresh that is due
stops all other commands of its channel. Reads of one place are merged, writes too; reads of a waiting write are
served at once. Limit: 64 banks per channel, one bit of a mask each.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.commands import (
    act_ready,
    activate,
    arrive,
    close,
    column,
    column_ready,
    finish,
    row_command,
    serve_merged,
)
from hwmodel.dram.positions import make_room
from hwmodel.dram.source import lacks_room, pull
from hwmodel.dram.state import (
    ACCEPTED,
    ACT,
    ALL_BURSTS,
    ARRIVAL,
    ARRIVES,
    BANK_CONFLICTS,
    BANK_MASK,
    BANK_PC,
    BANK_STRIDE,
    BANKS,
    CLOSED_BANKS,
    COLUMN_FREE,
    COLUMN_WAKE,
    CONFLICT,
    CONFLICT_BANKS,
    CONFLICTS,
    COUNT,
    DEPTH,
    DRAIN_ABOVE,
    DRAIN_BELOW,
    DRAINING,
    DUE,
    DUE_PC,
    FAW,
    FAW_PLACE,
    FAW_TICKS,
    FREED,
    FULL_BANKS,
    HELD,
    HIT,
    HIT_STREAK,
    HITS,
    INBOX_HEAD,
    INDEX,
    IS_WRITE,
    LAST_BANK,
    LAST_DONE,
    LINK,
    LIVE,
    MAX_QUEUES,
    MERGED,
    MISS,
    MISSES,
    NEVER,
    NONE,
    ONE_BUS,
    OPEN_BANKS,
    OPEN_ROW,
    OPENED_BY,
    PENDING_ENTRIES,
    PER_CHANNEL,
    PLACE,
    PRE,
    PRECHARGES,
    Q_COUNT,
    Q_HITS,
    Q_LIVE,
    Q_READS,
    Q_STARTED,
    Q_TAIL,
    Q_WAKE,
    QUEUE_DEPTH,
    QUEUE_POSITIONS,
    QUEUE_STATE,
    QUEUE_WORDS,
    QUEUED,
    RD,
    READ_BANKS,
    REFAB,
    REFRESH_DUE,
    REFRESH_INTERVAL,
    REFRESH_TICKS,
    REFRESHED_UNTIL,
    REFRESHES,
    REPLAYING,
    REQUEST,
    RISING,
    ROW_FREE,
    ROW_SHIFT,
    ROW_WAKE,
    SLOT_ARRIVAL,
    SLOT_BURST,
    SLOT_FIELDS,
    SLOT_PLACE,
    SOURCE_LEFT,
    STREAK,
    TAIL,
    WR,
    WRITE_BANKS,
    Row,
    Words,
    bank_at,
    bank_mask,
    burst_at,
    insert,
    mode_mask,
    pc_at,
    pointer_of,
    remove,
    rotate_right,
    row_at,
    slot_at,
    trailing_zeros,
)

PENDING_SHIFT = 32
GOLDEN = -7046029254386353131  # 2**64 divided by the golden ratio, odd: Knuth's multiplicative hashing


@inlined
def _queues(m: Row, c: Row) -> Row:
    return row_at(pointer_of(m[QUEUE_STATE]), c[INDEX] * QUEUE_WORDS)


@inlined
def queued_at(m: Row, c: Row, bank: int, position: int) -> Row:
    """Return the row of a position of a bank's queue."""
    return row_at(_queues(m, c), (bank * QUEUE_POSITIONS + position) * SLOT_FIELDS)


@inlined
def pending_entry(m: Row, c: Row, entry: int) -> Row:
    """Return an entry of the table of the waiting bursts."""
    first = MAX_QUEUES * QUEUE_POSITIONS * SLOT_FIELDS
    return row_at(_queues(m, c), first + entry)


@inlined
def pending(m: Row, c: Row, place: int) -> Row:
    """Return the counts of the waiting reads and, shifted by PENDING_SHIFT, writes whose places hash as this one."""
    return pending_entry(m, c, ((place * GOLDEN) >> 53) & (PENDING_ENTRIES - 1))


@inlined
def _classify(m: Row, c: Row, bank: int) -> None:
    """Note what a bank's queue may need next."""
    state, bit = bank_at(c, bank), 1 << bank
    state[Q_WAKE] = NEVER if state[Q_LIVE] == 0 else 0
    c[CLOSED_BANKS] &= ~bit
    c[READ_BANKS] &= ~bit
    c[WRITE_BANKS] &= ~bit
    c[CONFLICT_BANKS] &= ~bit
    live, hits = state[Q_LIVE], state[Q_HITS]
    if live == 0:
        return
    if state[OPEN_ROW] == NONE:
        c[CLOSED_BANKS] |= bit
        return
    if hits & state[Q_READS] != 0:
        c[READ_BANKS] |= bit
    if hits & ~state[Q_READS] != 0:
        c[WRITE_BANKS] |= bit
    if live & -live & hits == 0 and (hits == 0 or state[STREAK] >= m[HIT_STREAK]):
        c[CONFLICT_BANKS] |= bit


@compiled
def _held_back(m: Row, c: Row, bank: int, position: int) -> bool:
    """Return whether a write must wait for an earlier read of its place."""
    state = bank_at(c, bank)
    earlier = state[Q_HITS] & state[Q_READS] & ((1 << position) - 1)
    place = queued_at(m, c, bank, position)[SLOT_PLACE]
    while earlier != 0:
        if queued_at(m, c, bank, trailing_zeros(earlier))[SLOT_PLACE] == place:
            return True
        earlier &= earlier - 1
    return False


@compiled
def _first_in_queue(m: Row, c: Row, bank: int, tick: int) -> tuple[int, int, int]:
    """Return (command, position) of a bank's first burst whose command is ready, or NONE; and the next ready tick."""
    state = bank_at(c, bank)
    pc = pc_at(c, state[BANK_PC])
    live, hits, wake = state[Q_LIVE], state[Q_HITS], NEVER
    if state[OPEN_ROW] == NONE:
        at = max(pc[ACT], pc[FAW + pc[FAW_PLACE]] + m[FAW_TICKS], act_ready(c, bank), c[ROW_FREE], tick) | m[RISING]
        return (ACT if at <= tick else NONE), trailing_zeros(live), at
    if (c[CONFLICT_BANKS] >> bank) & 1:
        at = max(pc[PRE], state[PRE], c[ROW_FREE])
        if at <= tick:
            return PRE, trailing_zeros(live), at
        wake = at
    reads, writes = hits & state[Q_READS], hits & ~state[Q_READS]
    if reads != 0:
        at = max(pc[RD], column_ready(c, bank, RD), c[COLUMN_FREE], tick) | m[RISING]
        if at > tick:
            reads, wake = 0, min(wake, at)
    if writes != 0:
        at = max(pc[WR], column_ready(c, bank, WR), c[COLUMN_FREE], tick) | m[RISING]
        if at > tick:
            writes, wake = 0, min(wake, at)
        while writes != 0 and _held_back(m, c, bank, trailing_zeros(writes)):
            writes &= writes - 1
        if writes != 0 and (reads == 0 or trailing_zeros(writes) < trailing_zeros(reads)):
            return WR, trailing_zeros(writes), tick
    if reads != 0:
        return RD, trailing_zeros(reads), tick
    return NONE, 0, wake


@inlined
def _first_ready(m: Row, c: Row, tick: int) -> tuple[int, int, int, int]:
    """Return (command, bank, position) of the first ready one, round robin, or NONE; and the next ready tick."""
    closed, reads = c[CLOSED_BANKS], c[READ_BANKS]
    writes, conflicts = c[WRITE_BANKS], c[CONFLICT_BANKS]
    wake = NEVER
    if m[PER_CHANNEL] == 1:  # what no bank can have yet is not asked for bank by bank
        pc = pc_at(c, 0)
        floor = max(pc[ACT], pc[FAW + pc[FAW_PLACE]] + m[FAW_TICKS])
        if closed != 0 and floor > tick:
            closed, wake = 0, min(wake, floor)
        if reads != 0 and pc[RD] > tick:
            reads, wake = 0, min(wake, pc[RD])
        if writes != 0 and pc[WR] > tick:
            writes, wake = 0, min(wake, pc[WR])
    banks = closed | reads | writes | conflicts
    first = (c[LAST_BANK] + 1) & 63
    bits = rotate_right(banks, first)
    while bits != 0:
        bank = (first + trailing_zeros(bits)) & 63
        bits &= bits - 1
        state = bank_at(c, bank)
        if state[Q_WAKE] <= tick:
            command, position, state[Q_WAKE] = _first_in_queue(m, c, bank, tick)
            if command != NONE:
                return command, bank, position, tick
        wake = min(wake, state[Q_WAKE])
    return NONE, 0, 0, wake


@inlined
def _row_changed(m: Row, c: Row, bank: int) -> None:
    """A bank's row was opened or closed: find its hits."""
    state = bank_at(c, bank)
    row, hits, bits = state[OPEN_ROW], 0, state[Q_LIVE]
    while bits != 0 and row != NONE:
        position = trailing_zeros(bits)
        bits &= bits - 1
        if queued_at(m, c, bank, position)[SLOT_PLACE] >> ROW_SHIFT == row:
            hits |= 1 << position
    state[Q_HITS] = hits
    _classify(m, c, bank)


@compiled
def _release_held(c: Row, words: Words, bank: int) -> None:
    """A bank's queue has room again: its bursts in the buffers may move."""
    c[FULL_BANKS] &= ~(1 << bank)
    for mode in range(2):
        held, bursts = mode_mask(c, words, mode, HELD), bank_mask(c, words, bank, mode, ALL_BURSTS)
        for word in range(len(words)):
            held[word] &= ~bursts[word]


@inlined
def _issue_column(m: Row, c: Row, words: Words, bank: int, mode: int, position: int, tick: int) -> None:
    """Issue the column command of a burst; merged ones are done with it."""
    state, slot, bit = bank_at(c, bank), queued_at(m, c, bank, position), 1 << position
    place, burst = slot[SLOT_PLACE], slot[SLOT_BURST]
    is_hit = state[STREAK] > 0
    column(m, c, bank, mode, tick)
    pc_at(c, state[BANK_PC])[HITS] += is_hit
    outcome = HIT if is_hit else (CONFLICT if state[Q_STARTED] & bit else MISS)
    state[Q_LIVE] &= ~bit
    state[Q_HITS] &= ~bit
    state[Q_READS] &= ~bit
    state[Q_STARTED] &= ~bit
    state[Q_COUNT] -= 1
    c[QUEUED] -= 1
    if (c[FULL_BANKS] >> bank) & 1:
        _release_held(c, words, bank)
        c[ROW_WAKE] = tick
    elif c[QUEUED] == 0:  # a drain may begin
        c[ROW_WAKE] = tick
    if mode == 0 and state[Q_HITS] & state[Q_READS] != 0 and state[Q_LIVE] & -state[Q_LIVE] & state[Q_HITS] != 0:
        state[Q_WAKE] = 0  # another read comes next, and no conflict is the oldest: its class is what it was
    else:
        _classify(m, c, bank)
    pending(m, c, place)[0] -= 1 << PENDING_SHIFT * mode
    merged = burst_at(m, burst)[MERGED]
    done = finish(m, c, bank, burst, mode, tick, outcome)
    while merged != NONE:
        row = burst_at(m, merged)
        following = row[MERGED]
        serve_merged(m, c, bank, merged, row[ARRIVAL], mode, done)
        merged = following
    c[LAST_DONE] = max(c[LAST_DONE], tick + 1 if mode else done + 1)


@compiled
def _issue(m: Row, c: Row, words: Words, command: int, bank: int, position: int, tick: int) -> None:
    state = bank_at(c, bank)
    bit = 1 << position
    if command == ACT:
        pc_at(c, state[BANK_PC])[MISSES] += state[Q_STARTED] & bit == 0
        slot = queued_at(m, c, bank, position)
        activate(m, c, bank, slot[SLOT_PLACE] >> ROW_SHIFT, tick)
        state[OPENED_BY] = burst_at(m, slot[SLOT_BURST])[REQUEST]
        _row_changed(m, c, bank)
    elif command == PRE:
        if state[Q_STARTED] & bit == 0:
            state[Q_STARTED] |= bit
            pc_at(c, state[BANK_PC])[CONFLICTS] += 1
            state[BANK_CONFLICTS] += 1
        _precharge(m, c, bank, tick)
    else:
        _issue_column(m, c, words, bank, command - RD, position, tick)


@compiled
def _precharge(m: Row, c: Row, bank: int, tick: int) -> None:
    pc_at(c, bank_at(c, bank)[BANK_PC])[PRECHARGES] += 1
    close(c, bank)
    row_command(m, c, bank, PRE, tick)
    _row_changed(m, c, bank)


@compiled
def _refresh(m: Row, c: Row, tick: int) -> int:
    """Work towards the refresh that is due: close its banks in their order, then refresh; return the next try."""
    index = c[DUE_PC]
    pc, first = pc_at(c, index), index * m[BANK_STRIDE]
    if pc[OPEN_BANKS] != 0:
        wake = NEVER
        for bank in range(first, first + m[BANKS]):
            if bank_at(c, bank)[OPEN_ROW] != NONE:
                at = max(pc[PRE], bank_at(c, bank)[PRE], c[ROW_FREE])
                if at <= tick:
                    _precharge(m, c, bank, tick)
                    return tick + 1
                wake = min(wake, at)
        return int(wake)
    at = max(pc[REFAB], c[ROW_FREE], tick)
    for bank in range(first, first + m[BANKS]):
        at = max(at, bank_at(c, bank)[REFAB])
    at |= m[RISING]
    if at > tick:
        return int(at)
    row_command(m, c, first, REFAB, tick)
    pc[REFRESHES] += 1
    for bank in range(first, first + m[BANKS]):
        bank_at(c, bank)[REFRESHED_UNTIL] = tick + m[REFRESH_TICKS]
    c[DUE] -= 1
    c[DUE_PC] = index + 1 if index + 1 < m[PER_CHANNEL] else 0
    return tick + 1


@compiled
def _has_pending(m: Row, c: Row, words: Words, mode: int, place: int) -> int:
    """Return the pool row of a waiting burst of that very place, or NONE."""
    if (pending(m, c, place)[0] >> PENDING_SHIFT * mode) & ((1 << PENDING_SHIFT) - 1) == 0:
        return NONE
    bank = place & BANK_MASK
    bursts = bank_mask(c, words, bank, mode, ALL_BURSTS)
    for word in range(len(words)):
        bits = bursts[word]
        while bits != 0:
            slot = slot_at(c, words, mode, 64 * word + trailing_zeros(bits))
            bits &= bits - 1
            if slot[SLOT_PLACE] == place:
                return int(slot[SLOT_BURST])
    state = bank_at(c, bank)
    bits = state[Q_LIVE] & (~state[Q_READS] if mode else state[Q_READS])
    while bits != 0:
        slot = queued_at(m, c, bank, trailing_zeros(bits))
        bits &= bits - 1
        if slot[SLOT_PLACE] == place:
            return int(slot[SLOT_BURST])
    return NONE


@inlined
def _movable(c: Row, words: Words, mode: int) -> int:
    """Return the oldest position of a buffer whose bank's queue has room, or NONE."""
    live, held = mode_mask(c, words, mode, LIVE), mode_mask(c, words, mode, HELD)
    for word in range(len(words)):
        bits = live[word] & ~held[word]
        if bits != 0:
            return int(64 * word + trailing_zeros(bits))
    return NONE


@compiled
def _make_room(m: Row, c: Row, bank: int) -> None:
    """Move a queue's bursts together, in their order."""
    state = bank_at(c, bank)
    bits, reads, started, to = state[Q_LIVE], 0, 0, 0
    while bits != 0:
        position = trailing_zeros(bits)
        bits &= bits - 1
        old, new = queued_at(m, c, bank, position), queued_at(m, c, bank, to)
        for field in range(SLOT_FIELDS):
            new[field] = old[field]
        reads |= ((state[Q_READS] >> position) & 1) << to
        started |= ((state[Q_STARTED] >> position) & 1) << to
        to += 1
    state[Q_LIVE] = (1 << to) - 1
    state[Q_READS] = reads
    state[Q_STARTED] = started
    state[Q_TAIL] = to
    _row_changed(m, c, bank)


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
        _make_room(m, c, bank)
    to = state[Q_TAIL]
    before = state[Q_LIVE]
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
        _classify(m, c, bank)
        _, _, state[Q_WAKE] = _first_in_queue(m, c, bank, tick + 1)
        c[COLUMN_WAKE] = min(c[COLUMN_WAKE], max(state[Q_WAKE], tick + 1))


@inlined
def _schedule(m: Row, c: Row, words: Words, tick: int) -> bool:
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
    if mode == 1 and _has_pending(m, c, words, 0, slot_at(c, words, 1, position)[SLOT_PLACE]) != NONE:
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
def _accept(m: Row, c: Row, words: Words, tick: int) -> bool:
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
    may_merge = pending(m, c, place)[0] != 0
    merges = may_merge and _has_pending(m, c, words, 1, place) != NONE
    if mode == 1 or merges:
        c[LAST_DONE] = max(c[LAST_DONE], tick + 2)
    if merges:
        serve_merged(m, c, bank, index, burst[ARRIVAL], mode, tick + 1)
        return
    other = _has_pending(m, c, words, 0, place) if may_merge and mode == 0 else NONE
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
    pending(m, c, place)[0] += 1 << PENDING_SHIFT * mode
    arrive(pc_at(c, bank_at(c, bank)[BANK_PC]), tick)


@inlined
def end_tick(m: Row, c: Row, words: Words, tick: int) -> bool:
    """Accept bursts after a tick, for the next one; return whether arrays must grow first."""
    if c[FREED] or c[ARRIVES] <= tick:
        return bool(_accept(m, c, words, tick + 1))
    return False


@inlined
def _issue_commands(m: Row, c: Row, words: Words, tick: int) -> int:
    """Issue a command, and a second one of the other kind with it; return the tick of the next try.

    The turn passes to the bank of the second command found, issued or not, and the search for it does not see the bus
    of the first, as in DRAMsim3.
    """
    row_free, column_free = c[ROW_FREE], c[COLUMN_FREE]
    command, bank, position, wake = _first_ready(m, c, tick)
    if command == NONE:
        return int(wake)
    c[LAST_BANK] = bank
    _issue(m, c, words, command, bank, position, tick)
    row_after, column_after = c[ROW_FREE], c[COLUMN_FREE]
    c[ROW_FREE], c[COLUMN_FREE] = row_free, column_free
    second, bank, position, wake = _first_ready(m, c, tick)
    c[ROW_FREE], c[COLUMN_FREE] = row_after, column_after
    if second != NONE:
        c[LAST_BANK] = bank
        if (second >= RD) != (command >= RD) and m[ONE_BUS] == 0:
            _issue(m, c, words, second, bank, position, tick)
        return tick + 1
    return int(max(wake, tick + 1))


@inlined
def issue(m: Row, c: Row, words: Words, tick: int) -> None:
    """Issue the commands of a tick, then move a burst."""
    if c[REFRESH_DUE] <= tick:
        c[REFRESH_DUE] += m[REFRESH_INTERVAL]
        c[DUE] += m[PER_CHANNEL]
        c[COLUMN_WAKE] = tick
    if c[COLUMN_WAKE] <= tick:
        if c[DUE] != 0:
            c[COLUMN_WAKE] = _refresh(m, c, tick)
        else:
            c[COLUMN_WAKE] = _issue_commands(m, c, words, tick)
    if c[ROW_WAKE] <= tick:
        c[ROW_WAKE] = tick + 1 if _schedule(m, c, words, tick) else NEVER


@compiled
def is_done(m: Row, c: Row) -> bool:
    """Return whether nothing will happen any more but refreshes; a few writes may be left waiting for a drain."""
    if c[INBOX_HEAD] != NONE or c[QUEUED] + c[COUNT] + c[DRAINING] != 0:
        return False
    waits_for_more = c[COUNT + 1] == 0 or (c[COUNT + 1] <= m[DRAIN_BELOW] and c[COUNT + 1] < m[DRAIN_ABOVE])
    return bool(waits_for_more and m[SOURCE_LEFT] == 0)
