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

from hwmodel.compiled import compiled
from hwmodel.dram.commands import (
    activate,
    arrive,
    bank_ready,
    close,
    column,
    finish,
    log,
    pc_of,
    pc_ready,
    release,
    row_command,
)
from hwmodel.dram.state import (
    ACCEPTED,
    ACT,
    ARRIVAL,
    ARRIVES,
    BANK_BURSTS_MASK,
    BANK_CONFLICTS,
    BANK_MASK,
    BANK_SHIFT,
    BANKS,
    CHANNEL_BANKS,
    CLOSED_BANKS,
    COALESCED,
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
    MORE,
    REPLAYING,
    FORWARD,
    FORWARDED,
    FREED,
    FULL_BANKS,
    HELD,
    HIT,
    HIT_STREAK,
    HITS,
    INBOX_HEAD,
    IS_WRITE,
    LAST_BANK,
    LAST_DONE,
    LATENCY_MAX,
    LATENCY_SUM,
    LINK,
    LIVE,
    MERGED,
    MISS,
    MISSES,
    NEVER,
    NONE,
    OPEN_BANKS,
    OPEN_ROW,
    PENDING_ENTRIES,
    PER_CHANNEL,
    PLACE,
    POOL_FIELDS,
    PRE,
    PRECHARGES,
    Q_COUNT,
    Q_HITS,
    Q_LIVE,
    Q_READS,
    Q_STARTED,
    Q_TAIL,
    QUEUE_DEPTH,
    QUEUE_POSITIONS,
    QUEUED,
    RD,
    READ_BANKS,
    READ_TICKS,
    READS,
    REFAB,
    REFRESH_DUE,
    REFRESH_INTERVAL,
    REFRESH_TICKS,
    REFRESHED_UNTIL,
    REFRESHES,
    ROW_SHIFT,
    ROW_WAKE,
    SLOT_ARRIVAL,
    SLOT_BURST,
    SLOT_FIELDS,
    SLOT_PLACE,
    STREAK,
    TAIL,
    WRITE_BANKS,
    Channel,
    Row,
    bank_at,
    bank_mask,
    insert,
    mode_mask,
    remove,
    row_at,
    slot_at,
    trailing_zeros,
)


@compiled
def _queued_at(channel: Channel, bank: int, position: int) -> Row:
    return row_at(channel.queues, (bank * QUEUE_POSITIONS + position) * SLOT_FIELDS)


@compiled
def _pending(channel: Channel, mode: int, place: int) -> Row:
    """Return the count of the waiting bursts whose places hash as this one does."""
    key = (place ^ (place >> 10) ^ (place >> 21) ^ (place >> 32)) & (PENDING_ENTRIES - 1)
    return row_at(channel.pending, mode * PENDING_ENTRIES + key)


@compiled
def _classify(channel: Channel, bank: int) -> None:
    """Note what a bank's queue may need next."""
    fields, state, bit = channel.fields, bank_at(channel, bank), 1 << bank
    fields[CLOSED_BANKS] &= ~bit
    fields[READ_BANKS] &= ~bit
    fields[WRITE_BANKS] &= ~bit
    fields[CONFLICT_BANKS] &= ~bit
    live, hits = state[Q_LIVE], state[Q_HITS]
    if live == 0:
        return
    if state[OPEN_ROW] == NONE:
        fields[CLOSED_BANKS] |= bit
        return
    if hits & state[Q_READS] != 0:
        fields[READ_BANKS] |= bit
    if hits & ~state[Q_READS] != 0:
        fields[WRITE_BANKS] |= bit
    if live & -live & hits == 0 and (hits == 0 or state[STREAK] >= channel.memory.scalars[HIT_STREAK]):
        fields[CONFLICT_BANKS] |= bit


@compiled
def _held_back(channel: Channel, bank: int, position: int) -> bool:
    """Return whether a write must wait for an earlier read of its place."""
    state = bank_at(channel, bank)
    earlier = state[Q_HITS] & state[Q_READS] & ((1 << position) - 1)
    place = _queued_at(channel, bank, position)[SLOT_PLACE]
    while earlier != 0:
        if _queued_at(channel, bank, trailing_zeros(earlier))[SLOT_PLACE] == place:
            return True
        earlier &= earlier - 1
    return False


@compiled
def _first_in_queue(channel: Channel, bank: int, tick: int) -> tuple[int, int, int]:
    """Return (command, position) of a bank's first burst whose command is ready, or NONE; and the next ready tick."""
    scalars, state = channel.memory.scalars, bank_at(channel, bank)
    ready = pc_ready(channel, bank >> scalars[BANK_SHIFT])
    live, hits, wake = state[Q_LIVE], state[Q_HITS], NEVER
    if state[OPEN_ROW] == NONE:
        fields = pc_of(channel, bank >> scalars[BANK_SHIFT])
        at = max(ready[ACT], fields[FAW + fields[FAW_PLACE]] + scalars[FAW_TICKS], bank_ready(channel, bank, ACT))
        return (ACT if at <= tick else NONE), trailing_zeros(live), at
    if (channel.fields[CONFLICT_BANKS] >> bank) & 1:
        at = max(ready[PRE], bank_ready(channel, bank, PRE))
        if at <= tick:
            return PRE, trailing_zeros(live), at
        wake = at
    reads, writes = hits & state[Q_READS], hits & ~state[Q_READS]
    read_at = max(ready[RD], bank_ready(channel, bank, RD)) if reads != 0 else NEVER
    write_at = max(ready[RD + 1], bank_ready(channel, bank, RD + 1)) if writes != 0 else NEVER
    wake = min(wake, read_at)
    if write_at <= tick:
        while writes != 0 and _held_back(channel, bank, trailing_zeros(writes)):
            writes &= writes - 1
    elif writes != 0:
        wake = min(wake, write_at)
        writes = 0
    if read_at > tick:
        reads = 0
    if reads == 0 and writes == 0:
        return NONE, 0, wake
    if writes == 0 or (reads != 0 and trailing_zeros(reads) < trailing_zeros(writes)):
        return RD, trailing_zeros(reads), tick
    return RD + 1, trailing_zeros(writes), tick


@compiled
def _first_ready(channel: Channel, tick: int) -> tuple[int, int, int, int]:
    """Return (command, bank, position) of the first ready one, round robin, or NONE; and the next ready tick."""
    scalars, fields = channel.memory.scalars, channel.fields
    closed, reads = fields[CLOSED_BANKS], fields[READ_BANKS]
    writes, conflicts = fields[WRITE_BANKS], fields[CONFLICT_BANKS]
    wake = NEVER
    if scalars[PER_CHANNEL] == 1:  # what no bank can have yet is not asked for bank by bank
        pc, ready = pc_of(channel, 0), pc_ready(channel, 0)
        floor = max(ready[ACT], pc[FAW + pc[FAW_PLACE]] + scalars[FAW_TICKS])
        if closed != 0 and floor > tick:
            closed, wake = 0, min(wake, floor)
        if reads != 0 and ready[RD] > tick:
            reads, wake = 0, min(wake, ready[RD])
        if writes != 0 and ready[RD + 1] > tick:
            writes, wake = 0, min(wake, ready[RD + 1])
    banks = closed | reads | writes | conflicts
    first = fields[LAST_BANK] + 1
    upper = banks & (-1 << first) if first < 64 else 0
    for turn in range(2):
        bits = upper if turn == 0 else banks & ~upper
        while bits != 0:
            bank = trailing_zeros(bits)
            bits &= bits - 1
            command, position, at = _first_in_queue(channel, bank, tick)
            if command != NONE:
                return command, bank, position, tick
            wake = min(wake, at)
    return NONE, 0, 0, wake


@compiled
def _row_changed(channel: Channel, bank: int) -> None:
    """A bank's row was opened or closed: find its hits."""
    state = bank_at(channel, bank)
    row, hits, bits = state[OPEN_ROW], 0, state[Q_LIVE]
    while bits != 0 and row != NONE:
        position = trailing_zeros(bits)
        bits &= bits - 1
        if _queued_at(channel, bank, position)[SLOT_PLACE] >> ROW_SHIFT == row:
            hits |= 1 << position
    state[Q_HITS] = hits
    _classify(channel, bank)


@compiled
def _release_held(channel: Channel, bank: int) -> None:
    """A bank's queue has room again: its bursts in the buffers may move."""
    channel.fields[FULL_BANKS] &= ~(1 << bank)
    for mode in range(2):
        held, bursts = mode_mask(channel, mode, HELD), bank_mask(channel, bank, mode, BANK_BURSTS_MASK)
        for word in range(len(channel.memory.words)):
            held[word] &= ~bursts[word]


@compiled
def _issue_column(channel: Channel, bank: int, mode: int, position: int, tick: int) -> None:
    scalars, fields, state = channel.memory.scalars, channel.fields, bank_at(channel, bank)
    slot, bit = _queued_at(channel, bank, position), 1 << position
    place, arrival, burst = slot[SLOT_PLACE], slot[SLOT_ARRIVAL], slot[SLOT_BURST]
    pc = bank >> scalars[BANK_SHIFT]
    is_hit = state[STREAK] > 0
    column(channel, bank, mode, tick)
    pc_of(channel, pc)[HITS] += is_hit
    outcome = HIT if is_hit else (CONFLICT if state[Q_STARTED] & bit else MISS)
    state[Q_LIVE] &= ~bit
    state[Q_HITS] &= ~bit
    state[Q_READS] &= ~bit
    state[Q_STARTED] &= ~bit
    state[Q_COUNT] -= 1
    fields[QUEUED] -= 1
    if (fields[FULL_BANKS] >> bank) & 1:
        _release_held(channel, bank)
    _classify(channel, bank)
    _pending(channel, mode, place)[0] -= 1
    merged = row_at(channel.memory.pool, burst * POOL_FIELDS)[MERGED]
    done = finish(channel, pc, burst, arrival, mode, tick)
    log(channel, bank, arrival, done, mode, outcome)
    while merged != NONE:
        row = row_at(channel.memory.pool, merged * POOL_FIELDS)
        following, arrived = row[MERGED], row[ARRIVAL]
        _served(channel, pc, bank, merged, arrived, done, mode)
        merged = following
    fields[LAST_DONE] = max(fields[LAST_DONE], tick + 1 if mode else done + 1)


@compiled
def _served(channel: Channel, pc: int, bank: int, burst: int, arrival: int, done: int, mode: int) -> None:
    """Count a burst that needs no command of its own."""
    fields = pc_of(channel, pc)
    fields[READS + mode] += 1
    if mode == 0:
        fields[LATENCY_SUM] += done - arrival
        fields[LATENCY_MAX] = max(fields[LATENCY_MAX], done - arrival)
        channel.fields[FORWARDED] += 1
    else:
        channel.fields[COALESCED] += 1
    log(channel, bank, arrival, done, mode, FORWARD)
    release(channel, burst, done)


@compiled
def _issue(channel: Channel, command: int, bank: int, position: int, tick: int) -> None:
    scalars, state = channel.memory.scalars, bank_at(channel, bank)
    bit = 1 << position
    if command == ACT:
        pc_of(channel, bank >> scalars[BANK_SHIFT])[MISSES] += state[Q_STARTED] & bit == 0
        activate(channel, bank, _queued_at(channel, bank, position)[SLOT_PLACE] >> ROW_SHIFT, tick)
        _row_changed(channel, bank)
    elif command == PRE:
        if state[Q_STARTED] & bit == 0:
            state[Q_STARTED] |= bit
            pc_of(channel, bank >> scalars[BANK_SHIFT])[CONFLICTS] += 1
            state[BANK_CONFLICTS] += 1
        _precharge(channel, bank, tick)
    else:
        _issue_column(channel, bank, command - RD, position, tick)


@compiled
def _precharge(channel: Channel, bank: int, tick: int) -> None:
    pc_of(channel, bank >> channel.memory.scalars[BANK_SHIFT])[PRECHARGES] += 1
    close(channel, bank)
    row_command(channel, bank, PRE, tick)
    _row_changed(channel, bank)


@compiled
def _refresh(channel: Channel, tick: int) -> int:
    """Work towards the refresh that is due: close its banks in their order, then refresh; return the next try."""
    scalars, fields = channel.memory.scalars, channel.fields
    pc = fields[DUE_PC]
    state, ready = pc_of(channel, pc), pc_ready(channel, pc)
    first = pc << scalars[BANK_SHIFT]
    if state[OPEN_BANKS] != 0:
        wake = NEVER
        for bank in range(first, first + scalars[BANKS]):
            if bank_at(channel, bank)[OPEN_ROW] != NONE:
                at = max(ready[PRE], bank_ready(channel, bank, PRE))
                if at <= tick:
                    _precharge(channel, bank, tick)
                    return tick + 1
                wake = min(wake, at)
        return int(wake)
    at = int(ready[REFAB])
    for bank in range(first, first + scalars[BANKS]):
        at = max(at, bank_ready(channel, bank, REFAB))
    if at > tick:
        return at
    row_command(channel, first, REFAB, tick)
    state[REFRESHES] += 1
    for bank in range(first, first + scalars[BANKS]):
        bank_at(channel, bank)[REFRESHED_UNTIL] = tick + scalars[REFRESH_TICKS]
    fields[DUE] -= 1
    fields[DUE_PC] = pc + 1 if pc + 1 < scalars[PER_CHANNEL] else 0
    return tick + 1


@compiled
def _has_pending(channel: Channel, mode: int, place: int) -> int:
    """Return the pool row of a waiting burst of that very place, or NONE."""
    if _pending(channel, mode, place)[0] == 0:
        return NONE
    bank = place & BANK_MASK
    bursts = bank_mask(channel, bank, mode, BANK_BURSTS_MASK)
    for word in range(len(channel.memory.words)):
        bits = bursts[word]
        while bits != 0:
            slot = slot_at(channel, mode, 64 * word + trailing_zeros(bits))
            bits &= bits - 1
            if slot[SLOT_PLACE] == place:
                return int(slot[SLOT_BURST])
    state = bank_at(channel, bank)
    bits = state[Q_LIVE] & (~state[Q_READS] if mode else state[Q_READS])
    while bits != 0:
        slot = _queued_at(channel, bank, trailing_zeros(bits))
        bits &= bits - 1
        if slot[SLOT_PLACE] == place:
            return int(slot[SLOT_BURST])
    return NONE


@compiled
def _movable(channel: Channel, mode: int) -> int:
    """Return the oldest position of a buffer whose bank's queue has room, or NONE."""
    live, held = mode_mask(channel, mode, LIVE), mode_mask(channel, mode, HELD)
    for word in range(len(channel.memory.words)):
        bits = live[word] & ~held[word]
        if bits != 0:
            return int(64 * word + trailing_zeros(bits))
    return NONE


@compiled
def _make_room(channel: Channel, bank: int) -> None:
    """Move a queue's bursts together, in their order."""
    state = bank_at(channel, bank)
    bits, reads, started, to = state[Q_LIVE], 0, 0, 0
    while bits != 0:
        position = trailing_zeros(bits)
        bits &= bits - 1
        old, new = _queued_at(channel, bank, position), _queued_at(channel, bank, to)
        for field in range(SLOT_FIELDS):
            new[field] = old[field]
        reads |= ((state[Q_READS] >> position) & 1) << to
        started |= ((state[Q_STARTED] >> position) & 1) << to
        to += 1
    state[Q_LIVE] = (1 << to) - 1
    state[Q_READS] = reads
    state[Q_STARTED] = started
    state[Q_TAIL] = to
    _row_changed(channel, bank)


@compiled
def _move(channel: Channel, mode: int, position: int) -> None:
    """Move a burst from its buffer to its bank's queue."""
    scalars, fields = channel.memory.scalars, channel.fields
    slot = slot_at(channel, mode, position)
    place = slot[SLOT_PLACE]
    bank = place & BANK_MASK
    state = bank_at(channel, bank)
    remove(mode_mask(channel, mode, LIVE), position)
    remove(bank_mask(channel, bank, mode, BANK_BURSTS_MASK), position)
    fields[COUNT + mode] -= 1
    fields[FREED] = 1
    if state[Q_TAIL] == QUEUE_POSITIONS - 1:  # the last bit is the sign
        _make_room(channel, bank)
    to = state[Q_TAIL]
    queued, bit = _queued_at(channel, bank, to), 1 << to
    for field in range(SLOT_FIELDS):
        queued[field] = slot[field]
    state[Q_TAIL] = to + 1
    state[Q_COUNT] += 1
    state[Q_LIVE] |= bit
    if mode == 0:
        state[Q_READS] |= bit
    if state[OPEN_ROW] == place >> ROW_SHIFT:
        state[Q_HITS] |= bit
    fields[QUEUED] += 1
    if state[Q_COUNT] == scalars[QUEUE_DEPTH]:
        fields[FULL_BANKS] |= 1 << bank
        for other in range(2):
            held, bursts = mode_mask(channel, other, HELD), bank_mask(channel, bank, other, BANK_BURSTS_MASK)
            for word in range(len(channel.memory.words)):
                held[word] |= bursts[word]
    _classify(channel, bank)


@compiled
def _schedule(channel: Channel) -> bool:
    """Move at most one burst into its bank's queue; return whether one was moved.

    Where a drain is called off because of a waiting read and nothing else is under way, reads move instead: upstream
    such a channel stands still for ever.
    """
    scalars, fields = channel.memory.scalars, channel.fields
    if fields[DRAINING] == 0:
        writes = fields[COUNT + 1]
        full = writes >= scalars[DRAIN_ABOVE]
        if full or (writes > scalars[DRAIN_BELOW] and fields[QUEUED] == 0):
            fields[DRAINING] = writes
    mode = 1 if fields[DRAINING] > 0 else 0
    position = _movable(channel, mode)
    if position == NONE:
        return False
    if mode == 1 and _has_pending(channel, 0, slot_at(channel, 1, position)[SLOT_PLACE]) != NONE:
        fields[DRAINING] = 0
        if fields[QUEUED] != 0:
            return False
        mode, position = 0, _movable(channel, 0)
        if position == NONE:
            return False
    fields[DRAINING] -= mode
    _move(channel, mode, position)
    return True


@compiled
def _compact(channel: Channel, mode: int) -> None:
    """Move the waiting bursts of a buffer together, in their order, and rebuild its masks."""
    words = len(channel.memory.words)
    live, held = mode_mask(channel, mode, LIVE), mode_mask(channel, mode, HELD)
    for bank in range(channel.memory.scalars[CHANNEL_BANKS]):
        row = bank_mask(channel, bank, mode, BANK_BURSTS_MASK)
        for word in range(words):
            row[word] = 0
    to = 0
    for word in range(words):
        bits, kept = live[word], held[word]
        live[word], held[word] = 0, 0
        while bits != 0:
            bit = trailing_zeros(bits)
            bits &= bits - 1
            old, new = slot_at(channel, mode, 64 * word + bit), slot_at(channel, mode, to)
            for field in range(SLOT_FIELDS):
                new[field] = old[field]
            insert(live, to)
            if (kept >> bit) & 1:
                insert(held, to)
            insert(bank_mask(channel, new[SLOT_PLACE] & BANK_MASK, mode, BANK_BURSTS_MASK), to)
            to += 1
    channel.fields[TAIL + mode] = to


@compiled
def _accept(channel: Channel, tick: int) -> bool:
    """Take bursts from the inbox, in order, until a buffer is full; return whether the inbox ran empty."""
    memory, fields = channel.memory, channel.fields
    scalars = memory.scalars
    fields[FREED] = 0
    fields[ARRIVES] = NEVER
    index = fields[INBOX_HEAD]
    while index != NONE:
        burst = row_at(memory.pool, index * POOL_FIELDS)
        if burst[ARRIVAL] > tick:
            fields[ARRIVES] = burst[ARRIVAL] - 1
            break
        mode, place, following = burst[IS_WRITE], burst[PLACE], burst[LINK]
        if fields[COUNT + mode] == scalars[DEPTH + mode]:
            break
        if scalars[REPLAYING]:
            burst[ARRIVAL] = tick
        fields[ACCEPTED] += 1
        bank = place & BANK_MASK
        pc = bank >> scalars[BANK_SHIFT]
        if mode:
            fields[LAST_DONE] = max(fields[LAST_DONE], tick + 2)
        if _has_pending(channel, 1, place) != NONE:
            if mode == 0:
                fields[LAST_DONE] = max(fields[LAST_DONE], tick + 2)
            _served(channel, pc, bank, index, burst[ARRIVAL], tick + 1, mode)
            index = following
            continue
        other = _has_pending(channel, 0, place) if mode == 0 else NONE
        if other != NONE:
            first = row_at(memory.pool, other * POOL_FIELDS)
            burst[MERGED] = first[MERGED]
            first[MERGED] = index
            index = following
            continue
        if fields[TAIL + mode] == 64 * len(memory.words):
            _compact(channel, mode)
        position = fields[TAIL + mode]
        fields[TAIL + mode] = position + 1
        fields[COUNT + mode] += 1
        slot = slot_at(channel, mode, position)
        slot[SLOT_PLACE] = place
        slot[SLOT_ARRIVAL] = burst[ARRIVAL]
        slot[SLOT_BURST] = index
        insert(mode_mask(channel, mode, LIVE), position)
        insert(bank_mask(channel, bank, mode, BANK_BURSTS_MASK), position)
        if (fields[FULL_BANKS] >> bank) & 1:
            insert(mode_mask(channel, mode, HELD), position)
        _pending(channel, mode, place)[0] += 1
        arrive(channel, pc, tick)
        fields[ROW_WAKE] = min(fields[ROW_WAKE], tick)  # it may move in the next tick
        index = following
    fields[INBOX_HEAD] = index
    return bool(index == NONE)


@compiled
def next_event(channel: Channel) -> int:
    """Return the earliest tick on which something may happen. COLUMN_WAKE is for commands, ROW_WAKE for moves."""
    fields = channel.fields
    return int(
        min(min(fields[COLUMN_WAKE], fields[ROW_WAKE]), min(fields[REFRESH_DUE], fields[ARRIVES]))
    )


@compiled
def end_tick(channel: Channel, tick: int) -> bool:
    """Accept bursts after a tick, for the next one; return whether the source must be asked for more."""
    fields = channel.fields
    if fields[FREED] or fields[ARRIVES] <= tick:
        return _accept(channel, tick + 1) and channel.memory.scalars[MORE] == 1
    return False


@compiled
def issue(channel: Channel, tick: int) -> None:
    """Issue the commands of a tick, then move a burst."""
    scalars, fields = channel.memory.scalars, channel.fields
    if fields[REFRESH_DUE] <= tick:
        fields[REFRESH_DUE] += scalars[REFRESH_INTERVAL]
        fields[DUE] += scalars[PER_CHANNEL]
        fields[COLUMN_WAKE] = tick
    if fields[COLUMN_WAKE] <= tick:
        if fields[DUE] != 0:
            fields[COLUMN_WAKE] = _refresh(channel, tick)
        else:
            command, bank, position, wake = _first_ready(channel, tick)
            if command == NONE:
                fields[COLUMN_WAKE] = wake
            else:
                _issue(channel, command, bank, position, tick)
                fields[LAST_BANK] = bank
                second, bank, position, wake = _first_ready(channel, tick)
                if second != NONE:
                    fields[LAST_BANK] = bank
                    if (second >= RD) != (command >= RD):
                        _issue(channel, second, bank, position, tick)
                fields[COLUMN_WAKE] = tick + 1
                fields[ROW_WAKE] = min(fields[ROW_WAKE], tick)
    if fields[ROW_WAKE] <= tick:
        if _schedule(channel):
            fields[ROW_WAKE] = tick + 1
            fields[COLUMN_WAKE] = min(fields[COLUMN_WAKE], tick + 1)
        else:
            fields[ROW_WAKE] = NEVER


@compiled
def is_done(channel: Channel) -> bool:
    """Return whether nothing will happen any more but refreshes; a few writes may be left waiting for a drain."""
    scalars, fields = channel.memory.scalars, channel.fields
    if fields[INBOX_HEAD] != NONE or fields[QUEUED] + fields[COUNT] + fields[DRAINING] != 0:
        return False
    return bool(fields[COUNT + 1] <= scalars[DRAIN_BELOW] and scalars[MORE] == 0)
