"""FR-FCFS and FCFS over one read and one write buffer per channel, as in Ramulator 2.1's HBM controllers.

A burst waits in its mode's buffer until its activate issues; then it waits for its column command among the active
ones, one per bank, and its place in the buffer is free. Each tick has a column slot and a row slot (with half ticks,
columns, activates and refreshes on rising edges only). The oldest burst whose next command is ready goes first:
columns of active bursts before those of row hits in the buffer. A due all-bank refresh takes no new burst from
either buffer until it has issued in every pseudo-channel; a per-bank refresh only holds its bank.
Per bank only the oldest burst of each kind can be next; masks of these candidates stand for the buffers, and lower
bounds of the next ready tick for the ticks between, on which nothing can happen.
"""

from __future__ import annotations

from hwmodel.compiled import compiled
from hwmodel.dram.commands import (
    activate,
    apply,
    arrive,
    bank_ready,
    close,
    column,
    finish,
    log,
    pc_of,
    pc_ready,
    record,
    release,
    row_command,
)
from hwmodel.dram.state import (
    ACCEPTED,
    ACT,
    ACT_CANDIDATES,
    ACT_TICKS,
    ACTIVE,
    ACTIVE_ARRIVAL,
    ACTIVE_BANK,
    ACTIVE_BANKS,
    ACTIVE_BURST,
    ACTIVE_FIELDS,
    ACTIVE_OUTCOME,
    ACTIVE_SERIAL,
    ARRIVAL,
    ARRIVES,
    BANK_BURSTS_MASK,
    BANK_CONFLICTS,
    BANK_HITS_MASK,
    BANK_MASK,
    BANK_SHIFT,
    BANKS,
    CHANNEL_BANKS,
    CLOSE_AFTER,
    COALESCED,
    COLUMN_CANDIDATES,
    COLUMN_WAKE,
    CONFLICT,
    CONFLICTS,
    COUNT,
    DEPTH,
    DRAIN_ABOVE,
    DRAIN_BELOW,
    DUE,
    DUE_PC,
    EDGES,
    FAW,
    FAW_PLACE,
    FAW_TICKS,
    FCFS,
    MORE,
    REPLAYING,
    FORWARD,
    FORWARDED,
    FREED,
    FRFCFS_ROW_HIT,
    HIT,
    HITS,
    INBOX_HEAD,
    IS_ACTIVE,
    IS_REFRESHING,
    IS_WRITE,
    LAST_DONE,
    LATENCY_MAX,
    LATENCY_SUM,
    LINK,
    LIVE,
    MERGE,
    MISS,
    MISSES,
    MODE,
    NEVER,
    NONE,
    OPEN_BANKS,
    OPEN_ROW,
    PC_MASKS,
    PER_CHANNEL,
    PLACE,
    POOL_FIELDS,
    PRE,
    PRE_CANDIDATES,
    PREAB,
    PRECHARGE_ALLS,
    PRECHARGES,
    RD,
    READS,
    REFAB,
    REFPB,
    REFRESH,
    REFRESH_ALL_BANK,
    REFRESH_BANK,
    REFRESH_DUE,
    REFRESH_INTERVAL,
    REFRESH_TICKS,
    REFRESHED_UNTIL,
    REFRESHES,
    REFRESHING,
    ROW_FREE,
    ROW_SHIFT,
    ROW_WAKE,
    SCHEDULER,
    SERIAL,
    SLOT_ARRIVAL,
    SLOT_BURST,
    SLOT_FIELDS,
    SLOT_PLACE,
    STARTED,
    TAIL,
    TICK,
    USED_TICK,
    RECORD,
    Channel,
    Row,
    bank_at,
    bank_mask,
    candidates,
    contains,
    insert,
    lowest,
    mode_mask,
    remove,
    row_at,
    slot_at,
    trailing_zeros,
)


@compiled
def _nominate(channel: Channel, mode: int, bank: int) -> None:
    """Find a bank's candidates in a buffer: the oldest hit, and the oldest burst that needs a row command."""
    scalars = channel.memory.scalars
    pc = bank >> scalars[BANK_SHIFT]
    columns = candidates(channel, mode, pc, COLUMN_CANDIDATES)
    activates = candidates(channel, mode, pc, ACT_CANDIDATES)
    precharges = candidates(channel, mode, pc, PRE_CANDIDATES)
    bursts = bank_mask(channel, bank, mode, BANK_BURSTS_MASK)
    for word in range(len(channel.memory.words)):
        others = ~bursts[word]
        columns[word] &= others
        activates[word] &= others
        precharges[word] &= others
    state = bank_at(channel, bank)
    if state[OPEN_ROW] == NONE:
        oldest = lowest(channel, bursts)
        if oldest != NONE and state[IS_REFRESHING] == 0:
            insert(activates, oldest)
        return
    hits = bank_mask(channel, bank, mode, BANK_HITS_MASK)
    hit = lowest(channel, hits)
    if state[IS_REFRESHING]:
        return
    if hit != NONE:
        insert(columns, hit)
    if state[IS_ACTIVE]:
        return
    for word in range(len(channel.memory.words)):
        conflicts = bursts[word] & ~hits[word]
        if conflicts != 0:
            oldest = 64 * word + trailing_zeros(conflicts)
            protected = hit != NONE and scalars[SCHEDULER] == FRFCFS_ROW_HIT
            if protected:
                protected = slot_at(channel, mode, hit)[SLOT_ARRIVAL] <= slot_at(channel, mode, oldest)[SLOT_ARRIVAL]
            if not protected:
                insert(precharges, oldest)
            return


@compiled
def _take(channel: Channel, mode: int, position: int, bank: int) -> None:
    """Take a burst out of its buffer."""
    pc = bank >> channel.memory.scalars[BANK_SHIFT]
    remove(mode_mask(channel, mode, LIVE), position)
    remove(mode_mask(channel, mode, STARTED), position)
    remove(bank_mask(channel, bank, mode, BANK_BURSTS_MASK), position)
    remove(bank_mask(channel, bank, mode, BANK_HITS_MASK), position)
    for mask in range(PC_MASKS):
        remove(candidates(channel, mode, pc, mask), position)
    channel.fields[COUNT + mode] -= 1
    channel.fields[FREED] = 1


@compiled
def _compact(channel: Channel, mode: int) -> None:
    """Move the waiting bursts of a buffer together, in their order, and rebuild its masks."""
    scalars, words = channel.memory.scalars, len(channel.memory.words)
    live, started = mode_mask(channel, mode, LIVE), mode_mask(channel, mode, STARTED)
    for pc in range(scalars[PER_CHANNEL]):
        for mask in range(PC_MASKS):
            row = candidates(channel, mode, pc, mask)
            for word in range(words):
                row[word] = 0
    to = 0
    for word in range(words):
        bits = live[word]
        while bits != 0:
            bank = slot_at(channel, mode, 64 * word + trailing_zeros(bits))[SLOT_PLACE] & BANK_MASK
            bits &= bits - 1
            for mask in range(2):
                row = bank_mask(channel, bank, mode, mask)
                for other in range(words):
                    row[other] = 0
    for word in range(words):
        bits, begun = live[word], started[word]
        live[word], started[word] = 0, 0
        while bits != 0:
            bit = trailing_zeros(bits)
            bits &= bits - 1
            old, new = slot_at(channel, mode, 64 * word + bit), slot_at(channel, mode, to)
            for field in range(SLOT_FIELDS):
                new[field] = old[field]
            bank = new[SLOT_PLACE] & BANK_MASK
            insert(live, to)
            if (begun >> bit) & 1:
                insert(started, to)
            insert(bank_mask(channel, bank, mode, BANK_BURSTS_MASK), to)
            if bank_at(channel, bank)[OPEN_ROW] == new[SLOT_PLACE] >> ROW_SHIFT:
                insert(bank_mask(channel, bank, mode, BANK_HITS_MASK), to)
            to += 1
    channel.fields[TAIL + mode] = to
    for position in range(to):
        bank = slot_at(channel, mode, position)[SLOT_PLACE] & BANK_MASK
        if lowest(channel, bank_mask(channel, bank, mode, BANK_BURSTS_MASK)) == position:
            _nominate(channel, mode, bank)


@compiled
def _row_changed(channel: Channel, bank: int) -> None:
    """A bank's row was opened or closed: find its hits and its candidates."""
    row = bank_at(channel, bank)[OPEN_ROW]
    for mode in range(2):
        bursts = bank_mask(channel, bank, mode, BANK_BURSTS_MASK)
        hits = bank_mask(channel, bank, mode, BANK_HITS_MASK)
        waiting = 0
        for word in range(len(channel.memory.words)):
            bits, found = bursts[word], 0
            waiting |= bits
            if row != NONE:
                while bits != 0:
                    bit = trailing_zeros(bits)
                    bits &= bits - 1
                    if slot_at(channel, mode, 64 * word + bit)[SLOT_PLACE] >> ROW_SHIFT == row:
                        found |= 1 << bit
            hits[word] = found
        if waiting != 0:
            _nominate(channel, mode, bank)


@compiled
def _waits_for(channel: Channel, mode: int, place: int) -> bool:
    """Return whether a burst of that very place waits in a buffer."""
    bursts = bank_mask(channel, place & BANK_MASK, mode, BANK_BURSTS_MASK)
    for word in range(len(channel.memory.words)):
        bits = bursts[word]
        while bits != 0:
            if slot_at(channel, mode, 64 * word + trailing_zeros(bits))[SLOT_PLACE] == place:
                return True
            bits &= bits - 1
    return False


@compiled
def _merge(channel: Channel, index: int, burst: Row, mode: int, tick: int) -> None:
    """A read is served by a waiting write to its place, a write takes the place of the waiting one."""
    fields = channel.fields
    bank = burst[PLACE] & BANK_MASK
    pc = pc_of(channel, bank >> channel.memory.scalars[BANK_SHIFT])
    pc[READS + mode] += 1
    if mode == 0:
        fields[FORWARDED] += 1
        pc[LATENCY_SUM] += tick + 1 - burst[ARRIVAL]
        pc[LATENCY_MAX] = max(pc[LATENCY_MAX], tick + 1 - burst[ARRIVAL])
        fields[LAST_DONE] = max(fields[LAST_DONE], tick + 1)
    else:
        fields[COALESCED] += 1
    log(channel, bank, burst[ARRIVAL], tick + 1, mode, FORWARD)
    release(channel, index, tick + 1)


@compiled
def _accept(channel: Channel, tick: int) -> bool:
    """Take bursts from the inbox, in order, until a buffer is full; return whether the inbox ran empty."""
    memory, fields = channel.memory, channel.fields
    scalars = memory.scalars
    rising = scalars[EDGES] - 1
    fields[FREED] = 0
    fields[ARRIVES] = NEVER
    index = fields[INBOX_HEAD]
    while index != NONE:
        burst = row_at(memory.pool, index * POOL_FIELDS)
        if burst[ARRIVAL] > tick:
            fields[ARRIVES] = burst[ARRIVAL]
            break
        mode, place, following = burst[IS_WRITE], burst[PLACE], burst[LINK]
        if scalars[REPLAYING]:
            burst[ARRIVAL] = tick
        if scalars[MERGE] and fields[COUNT + 1] != 0 and _waits_for(channel, 1, place):
            _merge(channel, index, burst, mode, tick)
            fields[ACCEPTED] += 1
            index = following
            continue
        if fields[COUNT + mode] == scalars[DEPTH + mode]:
            break
        if fields[TAIL + mode] == 64 * len(memory.words):
            _compact(channel, mode)
        position = fields[TAIL + mode]
        fields[TAIL + mode] = position + 1
        fields[COUNT + mode] += 1
        fields[ACCEPTED] += 1
        bank = place & BANK_MASK
        pc, state = bank >> scalars[BANK_SHIFT], bank_at(channel, bank)
        slot = slot_at(channel, mode, position)
        slot[SLOT_PLACE] = place
        slot[SLOT_ARRIVAL] = burst[ARRIVAL]
        slot[SLOT_BURST] = index
        bursts = bank_mask(channel, bank, mode, BANK_BURSTS_MASK)
        first = lowest(channel, bursts) == NONE
        insert(mode_mask(channel, mode, LIVE), position)
        insert(bursts, position)
        arrive(channel, pc, tick)
        if state[OPEN_ROW] == NONE:
            if first and state[IS_REFRESHING] == 0:
                insert(candidates(channel, mode, pc, ACT_CANDIDATES), position)
                at = max(tick + 1, bank_ready(channel, bank, ACT))
                fields[ROW_WAKE] = min(fields[ROW_WAKE], at | rising)
        elif state[OPEN_ROW] == place >> ROW_SHIFT:
            hits = bank_mask(channel, bank, mode, BANK_HITS_MASK)
            first = lowest(channel, hits) == NONE
            insert(hits, position)
            if first:
                _nominate(channel, mode, bank)
                at = max(tick + 1, bank_ready(channel, bank, RD + mode))
                fields[COLUMN_WAKE] = min(fields[COLUMN_WAKE], at | rising)
        elif state[IS_ACTIVE] == 0:
            _nominate(channel, mode, bank)
            at = max(tick + 1, bank_ready(channel, bank, PRE))
            fields[ROW_WAKE] = min(fields[ROW_WAKE], at)
        index = following
    fields[INBOX_HEAD] = index
    return bool(index == NONE)


@compiled
def _choose_mode(channel: Channel, tick: int) -> None:
    """Write drain: enter write mode above a watermark or without reads, leave it below the other with reads."""
    scalars, fields = channel.memory.scalars, channel.fields
    reads, writes = fields[COUNT], fields[COUNT + 1]
    if fields[MODE] == 0:
        change = writes > scalars[DRAIN_ABOVE] or reads == 0
    else:
        change = writes < scalars[DRAIN_BELOW] and reads > 0
    if change:
        fields[MODE] = 1 - fields[MODE]
        fields[COLUMN_WAKE] = min(fields[COLUMN_WAKE], tick | (scalars[EDGES] - 1))
        fields[ROW_WAKE] = min(fields[ROW_WAKE], tick)


@compiled
def _oldest(
    channel: Channel, mode: int, pc: int, mask: int, command: int, tick: int, before: int
) -> tuple[int, int]:
    """Return the oldest candidate, older than `before`, whose command is ready, or NONE; and the next ready tick."""
    wake = NEVER
    found = candidates(channel, mode, pc, mask)
    only = NONE
    if channel.memory.scalars[SCHEDULER] == FCFS:
        only = lowest(channel, mode_mask(channel, mode, LIVE))
    for word in range(len(channel.memory.words)):
        bits = found[word]
        while bits != 0:
            position = 64 * word + trailing_zeros(bits)
            bits &= bits - 1
            if position >= before:
                return NONE, wake
            if only != NONE and position != only:
                continue
            at = bank_ready(channel, slot_at(channel, mode, position)[SLOT_PLACE] & BANK_MASK, command)
            if at <= tick:
                return position, tick
            wake = min(wake, at)
    return NONE, wake


@compiled
def _any(channel: Channel, mode: int, pc: int, mask: int) -> bool:
    return lowest(channel, candidates(channel, mode, pc, mask)) != NONE


@compiled
def _oldest_active(channel: Channel, tick: int) -> tuple[int, int, int]:
    """Return (mode, place among the active bursts) of the oldest that is ready, or NONE; and the next ready tick."""
    scalars, fields = channel.memory.scalars, channel.fields
    best_mode, best, best_arrival, best_serial, wake = 0, NONE, NEVER, NEVER, NEVER
    for mode in range(2):
        row = row_at(channel.active, mode * scalars[CHANNEL_BANKS] * ACTIVE_FIELDS)
        for place in range(fields[ACTIVE + mode]):
            bank = row[ACTIVE_BANK]
            at = max(bank_ready(channel, bank, RD + mode), pc_ready(channel, bank >> scalars[BANK_SHIFT])[RD + mode])
            if at > tick:
                wake = min(wake, at)
            elif row[ACTIVE_ARRIVAL] < best_arrival or (
                row[ACTIVE_ARRIVAL] == best_arrival and row[ACTIVE_SERIAL] < best_serial
            ):
                best_mode, best = mode, place
                best_arrival, best_serial = row[ACTIVE_ARRIVAL], row[ACTIVE_SERIAL]
            row = row_at(row, ACTIVE_FIELDS)
    return best_mode, best, wake


@compiled
def _issue_active(channel: Channel, mode: int, place: int, tick: int) -> None:
    """Issue the column command of an activated burst."""
    scalars, fields = channel.memory.scalars, channel.fields
    row = row_at(channel.active, (mode * scalars[CHANNEL_BANKS] + place) * ACTIVE_FIELDS)
    bank, arrival, outcome, burst = row[ACTIVE_BANK], row[ACTIVE_ARRIVAL], row[ACTIVE_OUTCOME], row[ACTIVE_BURST]
    fields[ACTIVE + mode] -= 1
    for _ in range(fields[ACTIVE + mode] - place):
        for field in range(ACTIVE_FIELDS):
            row[field] = row[ACTIVE_FIELDS + field]
        row = row_at(row, ACTIVE_FIELDS)
    pc = bank >> scalars[BANK_SHIFT]
    column(channel, bank, mode, tick)
    bank_at(channel, bank)[IS_ACTIVE] = 0
    pc_of(channel, pc)[ACTIVE_BANKS] -= 1
    _nominate(channel, 0, bank)
    _nominate(channel, 1, bank)
    done = finish(channel, pc, burst, arrival, mode, tick)
    fields[LAST_DONE] = max(fields[LAST_DONE], tick if mode else done)
    fields[ROW_WAKE] = min(fields[ROW_WAKE], max(tick, bank_ready(channel, bank, PRE)))
    log(channel, bank, arrival, done, mode, outcome)


@compiled
def _issue_hit(channel: Channel, mode: int, position: int, tick: int) -> None:
    """Issue the column command of a row hit in a buffer."""
    scalars, fields = channel.memory.scalars, channel.fields
    slot = slot_at(channel, mode, position)
    bank, arrival, burst = slot[SLOT_PLACE] & BANK_MASK, slot[SLOT_ARRIVAL], slot[SLOT_BURST]
    outcome = CONFLICT if contains(mode_mask(channel, mode, STARTED), position) else HIT
    pc = bank >> scalars[BANK_SHIFT]
    column(channel, bank, mode, tick)
    pc_of(channel, pc)[HITS] += outcome == HIT
    _take(channel, mode, position, bank)
    _nominate(channel, mode, bank)
    done = finish(channel, pc, burst, arrival, mode, tick)
    fields[LAST_DONE] = max(fields[LAST_DONE], tick if mode else done)
    fields[ROW_WAKE] = min(fields[ROW_WAKE], max(tick, bank_ready(channel, bank, PRE)))
    log(channel, bank, arrival, done, mode, outcome)


@compiled
def _column_slot(channel: Channel, tick: int) -> None:
    """Issue at most one column command; set the tick of the next try."""
    scalars, fields = channel.memory.scalars, channel.fields
    rising = scalars[EDGES] - 1
    mode, place, wake = _oldest_active(channel, tick)
    if place != NONE:
        _issue_active(channel, mode, place, tick)
        fields[COLUMN_WAKE] = (tick + 1) | rising
        return
    mode = fields[MODE]
    if fields[DUE] == 0 and not (scalars[SCHEDULER] == FCFS and fields[ACTIVE] + fields[ACTIVE + 1] != 0):
        best = NEVER
        for pc in range(scalars[PER_CHANNEL]):
            floor = pc_ready(channel, pc)[RD + mode]
            if floor > tick:
                if _any(channel, mode, pc, COLUMN_CANDIDATES):
                    wake = min(wake, floor)
                continue
            found, at = _oldest(channel, mode, pc, COLUMN_CANDIDATES, RD + mode, tick, best)
            if found != NONE:
                best = found
            wake = min(wake, at)
        if best != NEVER:
            _issue_hit(channel, mode, best, tick)
            fields[COLUMN_WAKE] = (tick + 1) | rising
            _choose_mode(channel, tick)
            fields[COLUMN_WAKE] = max(fields[COLUMN_WAKE], (tick + 1) | rising)
            return
    fields[COLUMN_WAKE] = wake | rising


@compiled
def _issue_act(channel: Channel, mode: int, position: int, tick: int) -> None:
    """Activate for a burst: it leaves its buffer and is active until its column command."""
    scalars, fields = channel.memory.scalars, channel.fields
    slot = slot_at(channel, mode, position)
    place = slot[SLOT_PLACE]
    bank = place & BANK_MASK
    pc, state = bank >> scalars[BANK_SHIFT], bank_at(channel, bank)
    started = contains(mode_mask(channel, mode, STARTED), position)
    pc_of(channel, pc)[MISSES] += not started
    pc_of(channel, pc)[ACTIVE_BANKS] += 1
    row = row_at(channel.active, (mode * scalars[CHANNEL_BANKS] + fields[ACTIVE + mode]) * ACTIVE_FIELDS)
    fields[ACTIVE + mode] += 1
    row[ACTIVE_BANK] = bank
    row[ACTIVE_ARRIVAL] = slot[SLOT_ARRIVAL]
    row[ACTIVE_SERIAL] = fields[SERIAL]
    row[ACTIVE_BURST] = slot[SLOT_BURST]
    row[ACTIVE_OUTCOME] = CONFLICT if started else MISS
    fields[SERIAL] += 1
    state[IS_ACTIVE] = 1
    _take(channel, mode, position, bank)
    activate(channel, bank, place >> ROW_SHIFT, tick)
    _row_changed(channel, bank)
    fields[ROW_FREE] = tick + scalars[ACT_TICKS]
    ready = min(bank_ready(channel, bank, RD), bank_ready(channel, bank, RD + 1))
    fields[COLUMN_WAKE] = min(fields[COLUMN_WAKE], ready | (scalars[EDGES] - 1))


@compiled
def _issue_pre(channel: Channel, bank: int, tick: int) -> None:
    """Precharge a bank."""
    pc_of(channel, bank >> channel.memory.scalars[BANK_SHIFT])[PRECHARGES] += 1
    close(channel, bank)
    row_command(channel, bank, PRE, tick)
    _row_changed(channel, bank)


@compiled
def _conflict(channel: Channel, mode: int, position: int, tick: int) -> None:
    """Precharge for a burst that needs another row of its bank."""
    bank = slot_at(channel, mode, position)[SLOT_PLACE] & BANK_MASK
    started = mode_mask(channel, mode, STARTED)
    if not contains(started, position):
        insert(started, position)
        pc_of(channel, bank >> channel.memory.scalars[BANK_SHIFT])[CONFLICTS] += 1
        bank_at(channel, bank)[BANK_CONFLICTS] += 1
    _issue_pre(channel, bank, tick)


@compiled
def _refresh_all(channel: Channel, tick: int) -> int:
    """Work towards the refresh that is due first; return NONE if a command issued, or the tick of the next try."""
    scalars, fields = channel.memory.scalars, channel.fields
    pc = fields[DUE_PC]
    state, ready = pc_of(channel, pc), pc_ready(channel, pc)
    rising = scalars[EDGES] - 1
    first = pc << scalars[BANK_SHIFT]
    if state[OPEN_BANKS] != 0:
        if state[ACTIVE_BANKS] != 0:
            return NEVER  # its last column command sets the wake
        if ready[PREAB] > tick:
            return int(ready[PREAB])
        for bank in range(first, first + scalars[BANKS]):
            if bank_at(channel, bank)[OPEN_ROW] != NONE:
                close(channel, bank)
                _row_changed(channel, bank)
        state[PRECHARGE_ALLS] += 1
        row_command(channel, first, PREAB, tick)
        return NONE
    at = max(tick, ready[REFAB]) | rising
    if at > tick:
        return int(at)
    row_command(channel, first, REFAB, tick)
    state[REFRESHES] += 1
    for bank in range(first, first + scalars[BANKS]):
        bank_at(channel, bank)[REFRESHED_UNTIL] = tick + scalars[REFRESH_TICKS]
    fields[DUE] -= 1
    fields[DUE_PC] = pc + 1 if pc + 1 < scalars[PER_CHANNEL] else 0
    if fields[DUE] == 0:
        fields[COLUMN_WAKE] = (tick + 1) | rising
    return NONE


@compiled
def _refresh_one(channel: Channel, tick: int) -> tuple[bool, int]:
    """Work towards the refreshes of single banks that are due; return whether a command issued, and the next try."""
    scalars = channel.memory.scalars
    rising, wake = scalars[EDGES] - 1, NEVER
    for pc in range(scalars[PER_CHANNEL]):
        state, ready = pc_of(channel, pc), pc_ready(channel, pc)
        if state[REFRESHING] == NONE:
            continue
        bank = (pc << scalars[BANK_SHIFT]) + state[REFRESHING]
        own = bank_at(channel, bank)
        if own[OPEN_ROW] != NONE:
            if own[IS_ACTIVE]:
                continue  # its column command sets the wake
            at = max(ready[PRE], bank_ready(channel, bank, PRE))
            if at <= tick:
                _issue_pre(channel, bank, tick)
                return True, tick
        else:
            at = max(tick, ready[REFPB], bank_ready(channel, bank, REFPB)) | rising
            if at <= tick:
                row_command(channel, bank, REFPB, tick)
                state[REFRESHES] += 1
                state[REFRESHING] = NONE
                own[IS_REFRESHING] = 0
                own[REFRESHED_UNTIL] = tick + scalars[REFRESH_TICKS]
                _nominate(channel, 0, bank)
                _nominate(channel, 1, bank)
                return True, tick
        wake = min(wake, at)
    return False, wake


@compiled
def _close_unused(channel: Channel, tick: int) -> int:
    """Close a row that nobody waits for and that nobody has used for a while; return NONE, or the next try."""
    scalars, wake = channel.memory.scalars, NEVER
    for bank in range(scalars[CHANNEL_BANKS]):
        state = bank_at(channel, bank)
        if state[OPEN_ROW] == NONE or state[IS_ACTIVE]:
            continue
        hits = max(
            lowest(channel, bank_mask(channel, bank, 0, BANK_HITS_MASK)),
            lowest(channel, bank_mask(channel, bank, 1, BANK_HITS_MASK)),
        )
        if hits != NONE:
            continue
        at = max(state[USED_TICK] + scalars[CLOSE_AFTER], bank_ready(channel, bank, PRE))
        at = max(at, pc_ready(channel, bank >> scalars[BANK_SHIFT])[PRE])
        if at <= tick:
            _issue_pre(channel, bank, tick)
            return NONE
        wake = min(wake, at)
    return wake


@compiled
def _row_slot(channel: Channel, tick: int) -> None:
    """Issue at most one row command; set the tick of the next try."""
    scalars, fields = channel.memory.scalars, channel.fields
    if fields[ROW_FREE] > tick:
        fields[ROW_WAKE] = fields[ROW_FREE]
        return
    falling = scalars[EDGES] == 2 and tick & 1 == 0
    if fields[DUE] != 0:
        wake = _refresh_all(channel, tick)
        fields[ROW_WAKE] = tick + 1 if wake == NONE else wake
        return
    wake = NEVER
    if scalars[REFRESH] != REFRESH_ALL_BANK:
        issued, wake = _refresh_one(channel, tick)
        if issued:
            fields[ROW_WAKE] = tick + 1
            return
    mode, best, command = fields[MODE], NEVER, ACT
    if not (scalars[SCHEDULER] == FCFS and fields[ACTIVE] + fields[ACTIVE + 1] != 0):
        for pc in range(scalars[PER_CHANNEL]):
            state, ready = pc_of(channel, pc), pc_ready(channel, pc)
            floor = max(ready[ACT], state[FAW + state[FAW_PLACE]] + scalars[FAW_TICKS])
            if falling or floor > tick:
                if _any(channel, mode, pc, ACT_CANDIDATES):
                    wake = min(wake, max(floor, tick + 1) | (scalars[EDGES] - 1))
            else:
                found, at = _oldest(channel, mode, pc, ACT_CANDIDATES, ACT, tick, best)
                if found != NONE:
                    best, command = found, ACT
                wake = min(wake, at | (scalars[EDGES] - 1))
            if ready[PRE] > tick:
                if _any(channel, mode, pc, PRE_CANDIDATES):
                    wake = min(wake, ready[PRE])
            else:
                found, at = _oldest(channel, mode, pc, PRE_CANDIDATES, PRE, tick, best)
                if found != NONE:
                    best, command = found, PRE
                wake = min(wake, at)
    if best != NEVER:
        if command == ACT:
            _issue_act(channel, mode, best, tick)
        else:
            _conflict(channel, mode, best, tick)
        fields[ROW_WAKE] = max(tick + 1, fields[ROW_FREE])
    else:
        if scalars[CLOSE_AFTER] >= 0:
            closing = _close_unused(channel, tick)
            wake = tick + 1 if closing == NONE else min(wake, closing)
        fields[ROW_WAKE] = wake


@compiled
def _refresh_falls_due(channel: Channel, tick: int) -> None:
    """Note the refreshes that are due from this tick on."""
    scalars, fields = channel.memory.scalars, channel.fields
    fields[REFRESH_DUE] += scalars[REFRESH_INTERVAL]
    fields[ROW_WAKE] = min(fields[ROW_WAKE], tick)
    if scalars[REFRESH] == REFRESH_ALL_BANK:
        fields[DUE] += scalars[PER_CHANNEL]
        return
    place = fields[REFRESH_BANK]
    fields[REFRESH_BANK] = place + 1 if place + 1 < scalars[BANKS] else 0
    for pc in range(scalars[PER_CHANNEL]):
        bank = (pc << scalars[BANK_SHIFT]) + place
        pc_of(channel, pc)[REFRESHING] = place
        bank_at(channel, bank)[IS_REFRESHING] = 1
        _nominate(channel, 0, bank)
        _nominate(channel, 1, bank)


@compiled
def next_event(channel: Channel) -> int:
    """Return the earliest tick on which something may happen."""
    fields = channel.fields
    return int(
        min(min(fields[COLUMN_WAKE], fields[ROW_WAKE]), min(fields[REFRESH_DUE], fields[ARRIVES]))
    )


@compiled
def end_tick(channel: Channel, tick: int) -> bool:
    """Accept bursts after the commands of a tick; return whether the source must be asked for more."""
    fields = channel.fields
    starved = False
    if fields[FREED] or fields[ARRIVES] <= tick:
        starved = _accept(channel, tick) and channel.memory.scalars[MORE] == 1
    if not starved and fields[DUE] == 0 and fields[REFRESH_DUE] != tick + 1:
        _choose_mode(channel, tick + 1)
    return starved


@compiled
def issue(channel: Channel, tick: int) -> None:
    """Issue the commands of a tick: a column command, then a row command."""
    fields = channel.fields
    if fields[REFRESH_DUE] <= tick:
        _refresh_falls_due(channel, tick)
    if fields[COLUMN_WAKE] <= tick:
        _column_slot(channel, tick)
    if fields[ROW_WAKE] <= tick:
        _row_slot(channel, tick)
