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

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.commands import (
    act_ready,
    activate,
    arrive,
    close,
    column,
    column_ready,
    finish,
    refresh_ready,
    row_command,
    serve_merged,
)
from hwmodel.dram.source import lacks_room, pull
from hwmodel.dram.state import (
    ACCEPTED,
    ACT,
    ACT_CANDIDATES,
    ACT_WAKE,
    ACTIVE,
    ACTIVE_ARRIVAL,
    ACTIVE_BANK,
    ACTIVE_BANKS,
    ACTIVE_BURST,
    ACTIVE_FIELDS,
    ACTIVE_OUTCOME,
    ACTIVE_READY,
    ACTIVE_ROWS,
    ACTIVE_SERIAL,
    ACTIVE_WAKE,
    ALL_BURSTS,
    ARRIVAL,
    ARRIVES,
    BANK_CONFLICTS,
    BANK_MASK,
    BANK_MASKS,
    BANK_PC,
    BANK_STRIDE,
    BANKS,
    CHANNEL_BANKS,
    CLOSE_AFTER,
    COLUMN_CANDIDATES,
    COLUMN_FREE,
    COLUMN_SHIFT,
    COLUMN_WAKE,
    CONFLICT,
    CONFLICTS,
    COUNT,
    DEPTH,
    DRAIN_ABOVE,
    DRAIN_BELOW,
    DUE,
    DUE_PC,
    FAW,
    FAW_PLACE,
    FAW_TICKS,
    FCFS,
    FREED,
    FRFCFS_ROW_HIT,
    HIT,
    HIT_WAKE,
    HITS,
    INBOX_HEAD,
    IS_ACTIVE,
    IS_REFRESHING,
    IS_WRITE,
    LAST_DONE,
    LINK,
    LIVE,
    MERGE,
    MISS,
    MISSES,
    MODE,
    NEVER,
    NEXT_BANK,
    NONE,
    OPEN_BANKS,
    OPEN_ROW,
    OPENED_BY,
    OTHER_WAKE,
    OUTSIDE,
    OWED,
    PC_MASKS,
    PER_CHANNEL,
    PLACE,
    PRE,
    PRE_CANDIDATES,
    PRE_WAKE,
    PREAB,
    PRECHARGE_ALLS,
    PRECHARGES,
    RD,
    REFAB,
    REFPB,
    REFRESH,
    REFRESH_ALL_BANK,
    REFRESH_DUE,
    REFRESH_INTERVAL,
    REFRESH_PER_BANK,
    REFRESH_TICKS,
    REFRESHED_UNTIL,
    REFRESHES,
    REFRESHING,
    REPLAYING,
    REQUEST,
    RISING,
    ROW_FREE,
    ROW_HITS,
    ROW_SHIFT,
    ROW_WAKE,
    SCHEDULER,
    SERIAL,
    SLOT_ARRIVAL,
    SLOT_BURST,
    SLOT_FIELDS,
    SLOT_PLACE,
    STARTED,
    STOP_AT,
    TAIL,
    USED_TICK,
    Row,
    Words,
    bank_at,
    bank_mask,
    burst_at,
    candidates,
    contains,
    insert,
    lowest,
    mode_mask,
    pc_at,
    row_at,
    slot_at,
    trailing_zeros,
)


@inlined
def _nominate(m: Row, c: Row, words: Words, mode: int, bank: int) -> None:
    """Find a bank's candidates in a buffer: the oldest hit, and the oldest burst that needs a row command."""
    state = bank_at(c, bank)
    masks = candidates(c, words, mode, state[BANK_PC], 0)
    bursts = bank_mask(c, words, bank, mode, ALL_BURSTS)
    for word in range(len(words)):
        others = ~bursts[word]
        masks[COLUMN_CANDIDATES * len(words) + word] &= others
        masks[ACT_CANDIDATES * len(words) + word] &= others
        masks[PRE_CANDIDATES * len(words) + word] &= others
    if state[IS_REFRESHING]:
        return
    if state[OPEN_ROW] == NONE:
        oldest = lowest(bursts, words)
        if oldest != NONE:
            insert(row_at(masks, ACT_CANDIDATES * len(words)), oldest)
        return
    hits = row_at(bursts, ROW_HITS * len(words))
    hit = lowest(hits, words)
    if hit != NONE:
        insert(row_at(masks, COLUMN_CANDIDATES * len(words)), hit)
    if state[IS_ACTIVE]:
        return
    for word in range(len(words)):
        conflicts = bursts[word] & ~hits[word]
        if conflicts != 0:
            oldest = 64 * word + trailing_zeros(conflicts)
            if hit == NONE or m[SCHEDULER] != FRFCFS_ROW_HIT or _younger(c, words, mode, hit, oldest):
                insert(row_at(masks, PRE_CANDIDATES * len(words)), oldest)
            return


@inlined
def _has_conflict(c: Row, words: Words, mode: int, bank: int) -> bool:
    """Return whether a burst of an open bank waits for another row."""
    bursts = bank_mask(c, words, bank, mode, ALL_BURSTS)
    hits = row_at(bursts, ROW_HITS * len(words))
    found = 0
    for word in range(len(words)):
        found |= bursts[word] & ~hits[word]
    return bool(found != 0)


@inlined
def _next_hit(m: Row, c: Row, words: Words, mode: int, bank: int) -> None:
    """Find a bank's candidates after its oldest hit has changed."""
    if _has_conflict(c, words, mode, bank):
        _nominate(m, c, words, mode, bank)
        return
    state, hit = bank_at(c, bank), lowest(bank_mask(c, words, bank, mode, ROW_HITS), words)
    if hit != NONE and state[IS_REFRESHING] == 0:
        insert(candidates(c, words, mode, state[BANK_PC], COLUMN_CANDIDATES), hit)


@inlined
def _wake_row(c: Row, wake: int, tick: int) -> None:
    """A row command may be possible from a tick on."""
    c[wake] = min(c[wake], tick)
    c[ROW_WAKE] = min(c[ROW_WAKE], tick)


@inlined
def _wake_column(c: Row, wake: int, tick: int) -> None:
    """A column command may be possible from a tick on."""
    c[wake] = min(c[wake], tick)
    c[COLUMN_WAKE] = min(c[COLUMN_WAKE], tick)


@compiled
def _wake_all(m: Row, c: Row, tick: int) -> None:
    """Any command may be possible from a tick on."""
    for pc in range(m[PER_CHANNEL]):
        _wake_column(c, HIT_WAKE + pc, tick | m[RISING])
        _wake_row(c, ACT_WAKE + pc, tick)
        _wake_row(c, PRE_WAKE + pc, tick)


@inlined
def _younger(c: Row, words: Words, mode: int, position: int, other: int) -> bool:
    """Return whether a burst arrived after another one."""
    return bool(slot_at(c, words, mode, position)[SLOT_ARRIVAL] > slot_at(c, words, mode, other)[SLOT_ARRIVAL])


@inlined
def _take(c: Row, words: Words, mode: int, position: int, bank: int) -> None:
    """Take a burst out of its buffer."""
    others, word = ~(1 << (position & 63)), position >> 6
    masks = mode_mask(c, words, mode, 0)
    masks[LIVE * len(words) + word] &= others
    masks[STARTED * len(words) + word] &= others
    masks = bank_mask(c, words, bank, mode, 0)
    masks[ALL_BURSTS * len(words) + word] &= others
    masks[ROW_HITS * len(words) + word] &= others
    masks = candidates(c, words, mode, bank_at(c, bank)[BANK_PC], 0)
    for mask in range(PC_MASKS):
        masks[mask * len(words) + word] &= others
    c[COUNT + mode] -= 1
    c[FREED] = 1


@compiled
def _compact(m: Row, c: Row, words: Words, mode: int) -> None:
    """Move the waiting bursts of a buffer together, in their order, and rebuild its masks."""
    live, started = mode_mask(c, words, mode, LIVE), mode_mask(c, words, mode, STARTED)
    for pc in range(m[PER_CHANNEL]):
        masks = candidates(c, words, mode, pc, 0)
        for word in range(PC_MASKS * len(words)):
            masks[word] = 0
    for word in range(len(words)):
        bits = live[word]
        while bits != 0:
            bank = slot_at(c, words, mode, 64 * word + trailing_zeros(bits))[SLOT_PLACE] & BANK_MASK
            bits &= bits - 1
            masks = bank_mask(c, words, bank, mode, 0)
            for other in range(BANK_MASKS * len(words)):
                masks[other] = 0
    to = 0
    for word in range(len(words)):
        bits, begun = live[word], started[word]
        live[word], started[word] = 0, 0
        while bits != 0:
            bit = trailing_zeros(bits)
            bits &= bits - 1
            old, new = slot_at(c, words, mode, 64 * word + bit), slot_at(c, words, mode, to)
            for field in range(SLOT_FIELDS):
                new[field] = old[field]
            bank = new[SLOT_PLACE] & BANK_MASK
            insert(live, to)
            if (begun >> bit) & 1:
                insert(started, to)
            insert(bank_mask(c, words, bank, mode, ALL_BURSTS), to)
            if bank_at(c, bank)[OPEN_ROW] == new[SLOT_PLACE] >> ROW_SHIFT:
                insert(bank_mask(c, words, bank, mode, ROW_HITS), to)
            to += 1
    c[TAIL + mode] = to
    for position in range(to):
        bank = slot_at(c, words, mode, position)[SLOT_PLACE] & BANK_MASK
        if lowest(bank_mask(c, words, bank, mode, ALL_BURSTS), words) == position:
            _nominate(m, c, words, mode, bank)


@compiled
def _row_changed(m: Row, c: Row, words: Words, bank: int) -> None:
    """A bank's row was opened or closed: find its hits and its candidates."""
    row = bank_at(c, bank)[OPEN_ROW]
    for mode in range(2):
        bursts = bank_mask(c, words, bank, mode, ALL_BURSTS)
        hits = row_at(bursts, ROW_HITS * len(words))
        waiting = 0
        for word in range(len(words)):
            bits, found = bursts[word], 0
            waiting |= bits
            if row != NONE:
                while bits != 0:
                    bit = trailing_zeros(bits)
                    bits &= bits - 1
                    if slot_at(c, words, mode, 64 * word + bit)[SLOT_PLACE] >> ROW_SHIFT == row:
                        found |= 1 << bit
            hits[word] = found
        if waiting != 0:
            _nominate(m, c, words, mode, bank)


@compiled
def _waits_for(c: Row, words: Words, mode: int, place: int) -> bool:
    """Return whether a burst of that very place waits in a buffer."""
    bursts = bank_mask(c, words, place & BANK_MASK, mode, ALL_BURSTS)
    for word in range(len(words)):
        bits = bursts[word]
        while bits != 0:
            if slot_at(c, words, mode, 64 * word + trailing_zeros(bits))[SLOT_PLACE] == place:
                return True
            bits &= bits - 1
    return False


@inlined
def _put(m: Row, c: Row, words: Words, mode: int, index: int, tick: int) -> None:
    """Put the next burst of a run into its buffer, which has room; it may be next from the next tick on."""
    burst = burst_at(m, index)
    if c[TAIL + mode] == 64 * len(words):
        _compact(m, c, words, mode)
    position = c[TAIL + mode]
    c[TAIL + mode] = position + 1
    c[COUNT + mode] += 1
    place = burst[PLACE]
    bank = place & BANK_MASK
    state = bank_at(c, bank)
    slot = slot_at(c, words, mode, position)
    slot[SLOT_PLACE] = place
    slot[SLOT_ARRIVAL] = tick
    slot[SLOT_BURST] = index
    bursts = bank_mask(c, words, bank, mode, ALL_BURSTS)
    first = lowest(bursts, words) == NONE
    insert(mode_mask(c, words, mode, LIVE), position)
    insert(bursts, position)
    arrive(pc_at(c, state[BANK_PC]), tick)
    if state[OPEN_ROW] == NONE:
        if first and state[IS_REFRESHING] == 0:
            insert(candidates(c, words, mode, state[BANK_PC], ACT_CANDIDATES), position)
            at = max(tick + 1, act_ready(c, bank), _act_floor(m, pc_at(c, state[BANK_PC])))
            _wake_row(c, ACT_WAKE + state[BANK_PC], at | m[RISING])
    elif state[OPEN_ROW] == place >> ROW_SHIFT:
        hits = row_at(bursts, ROW_HITS * len(words))
        first = lowest(hits, words) == NONE
        insert(hits, position)
        if first:
            _nominate(m, c, words, mode, bank)
            _wake_column(c, HIT_WAKE + state[BANK_PC], max(tick + 1, column_ready(c, bank, RD + mode)) | m[RISING])
    elif state[IS_ACTIVE] == 0:
        _nominate(m, c, words, mode, bank)
        _wake_row(c, PRE_WAKE + state[BANK_PC], max(tick + 1, state[PRE], pc_at(c, state[BANK_PC])[PRE]))


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
            c[ARRIVES] = burst[ARRIVAL]
            break
        mode, following = burst[IS_WRITE], burst[LINK]
        merges = c[COUNT + 1] != 0 and m[MERGE] and _waits_for(c, words, 1, burst[PLACE])
        if not merges and c[COUNT + mode] == m[DEPTH + mode]:
            break
        if m[REPLAYING]:
            burst[ARRIVAL] = tick
        burst[OUTSIDE] -= 1
        if merges:
            if mode == 0:
                c[LAST_DONE] = max(c[LAST_DONE], tick + 1)
            bank, arrival, is_last = burst[PLACE] & BANK_MASK, burst[ARRIVAL], burst[OUTSIDE] == 0
            burst[PLACE] += 1 << COLUMN_SHIFT
            serve_merged(m, c, bank, index, arrival, mode, tick + 1)
        else:
            is_last = burst[OUTSIDE] == 0
            _put(m, c, words, mode, index, tick)
            burst[PLACE] += 1 << COLUMN_SHIFT
        c[ACCEPTED] += 1
        if is_last:
            index = following if following != NONE else pull(m)
    c[INBOX_HEAD] = index
    return bool(lacks_room(m, c, tick))


@inlined
def _choose_mode(m: Row, c: Row, tick: int) -> None:
    """Write drain: enter write mode above a watermark or without reads, leave it below the other with reads."""
    reads, writes = c[COUNT], c[COUNT + 1]
    begins = c[MODE] == 0 and (writes > m[DRAIN_ABOVE] or reads == 0)
    if begins or (c[MODE] == 1 and writes < m[DRAIN_BELOW] and reads > 0):
        c[MODE] = 1 - c[MODE]
        _wake_all(m, c, tick)


@inlined
def _only(m: Row, c: Row, words: Words, mode: int) -> int:
    """Return the only position of a buffer that may be next, where bursts go strictly in order, or NONE."""
    return lowest(mode_mask(c, words, mode, LIVE), words) if m[SCHEDULER] == FCFS else NONE


@inlined
def _stands_in_line(m: Row, c: Row) -> bool:
    """Return whether bursts go strictly in order and one is under way."""
    return bool(m[SCHEDULER] == FCFS and c[ACTIVE] + c[ACTIVE + 1] != 0)


@inlined
def _oldest(
    c: Row, words: Words, mode: int, pc: int, command: int, tick: int, before: int, only: int
) -> tuple[int, int]:
    """Return the oldest candidate, older than `before`, whose command is ready, or NONE; and the next ready tick."""
    wake = NEVER
    kind = ACT_CANDIDATES if command == ACT else (PRE_CANDIDATES if command == PRE else COLUMN_CANDIDATES)
    found = candidates(c, words, mode, pc, kind)
    for word in range(len(words)):
        bits = found[word]
        while bits != 0:
            position = 64 * word + trailing_zeros(bits)
            bits &= bits - 1
            if position >= before:
                return NONE, tick
            if only != NONE and position != only:
                continue
            bank = slot_at(c, words, mode, position)[SLOT_PLACE] & BANK_MASK
            if command == ACT:
                at = act_ready(c, bank)
            elif command == PRE:
                at = bank_at(c, bank)[PRE]
            else:
                at = column_ready(c, bank, command)
            if at <= tick:
                return position, tick
            wake = min(wake, at)
    return NONE, wake


@inlined
def _any(c: Row, words: Words, mode: int, pc: int, mask: int) -> bool:
    return bool(lowest(candidates(c, words, mode, pc, mask), words) != NONE)


@inlined
def _oldest_active(m: Row, c: Row, tick: int) -> tuple[int, int, int]:
    """Return (mode, place among the active bursts) of the oldest that is ready, or NONE; and the next ready tick.

    They stand in the order of their activates, and so of the ticks at which their banks are ready.
    """
    best_mode, best, best_arrival, best_serial, wake = 0, NONE, NEVER, NEVER, NEVER
    for mode in range(2):
        row = row_at(c, ACTIVE_ROWS + mode * (CHANNEL_BANKS * ACTIVE_FIELDS))
        for place in range(c[ACTIVE + mode]):
            if row[ACTIVE_READY] > tick:
                wake = min(wake, row[ACTIVE_READY])
                break
            bank = row[ACTIVE_BANK]
            at = max(column_ready(c, bank, RD + mode), pc_at(c, bank_at(c, bank)[BANK_PC])[RD + mode])
            if at > tick:
                wake = min(wake, at)
            elif row[ACTIVE_ARRIVAL] < best_arrival or (
                row[ACTIVE_ARRIVAL] == best_arrival and row[ACTIVE_SERIAL] < best_serial
            ):
                best_mode, best = mode, place
                best_arrival, best_serial = row[ACTIVE_ARRIVAL], row[ACTIVE_SERIAL]
            row = row_at(row, ACTIVE_FIELDS)
    return best_mode, best, wake


@inlined
def _next_active(c: Row, tick: int) -> int:
    """Return a lower bound of the tick after this one at which an active burst is ready."""
    wake = NEVER
    for mode in range(2):
        if c[ACTIVE + mode] != 0:
            wake = min(wake, row_at(c, ACTIVE_ROWS + mode * (CHANNEL_BANKS * ACTIVE_FIELDS))[ACTIVE_READY])
    return int(max(wake, tick + 1))


@inlined
def _act_floor(m: Row, pc: Row) -> int:
    """Return the earliest tick of an activate that the rules of a pseudo-channel allow."""
    return int(max(pc[ACT], pc[FAW + pc[FAW_PLACE]] + m[FAW_TICKS]))


@inlined
def _column_issued(m: Row, c: Row, words: Words, bank: int, mode: int, done: int, tick: int) -> None:
    """Note when the last burst is done, and that the bank's row may be closed."""
    c[LAST_DONE] = max(c[LAST_DONE], tick if mode else done)
    state = bank_at(c, bank)
    pc, at = state[BANK_PC], max(tick, state[PRE], pc_at(c, state[BANK_PC])[PRE])
    if _has_conflict(c, words, c[MODE], bank):
        _wake_row(c, PRE_WAKE + pc, at)
    if c[DUE] != 0 or state[IS_REFRESHING] or m[CLOSE_AFTER] >= 0:
        _wake_row(c, OTHER_WAKE, at)
    if m[SCHEDULER] == FCFS:
        _wake_all(m, c, tick)


@inlined
def _issue_active(m: Row, c: Row, words: Words, mode: int, place: int, tick: int) -> None:
    """Issue the column command of an activated burst."""
    row = row_at(c, ACTIVE_ROWS + (mode * CHANNEL_BANKS + place) * ACTIVE_FIELDS)
    bank, outcome, burst = row[ACTIVE_BANK], row[ACTIVE_OUTCOME], row[ACTIVE_BURST]
    c[ACTIVE + mode] -= 1
    for _ in range(c[ACTIVE + mode] - place):
        for field in range(ACTIVE_FIELDS):
            row[field] = row[ACTIVE_FIELDS + field]
        row = row_at(row, ACTIVE_FIELDS)
    state = bank_at(c, bank)
    column(m, c, bank, mode, tick)
    state[IS_ACTIVE] = 0
    pc_at(c, state[BANK_PC])[ACTIVE_BANKS] -= 1
    for other in range(2):
        if _has_conflict(c, words, other, bank):  # its precharge was held back
            _nominate(m, c, words, other, bank)
    done = finish(m, c, bank, burst, mode, tick, outcome)
    _column_issued(m, c, words, bank, mode, done, tick)


@inlined
def _issue_hit(m: Row, c: Row, words: Words, mode: int, position: int, tick: int) -> None:
    """Issue the column command of a row hit in a buffer."""
    slot = slot_at(c, words, mode, position)
    bank, burst = slot[SLOT_PLACE] & BANK_MASK, slot[SLOT_BURST]
    outcome = CONFLICT if contains(mode_mask(c, words, mode, STARTED), position) else HIT
    column(m, c, bank, mode, tick)
    pc_at(c, bank_at(c, bank)[BANK_PC])[HITS] += outcome == HIT
    _take(c, words, mode, position, bank)
    _next_hit(m, c, words, mode, bank)
    done = finish(m, c, bank, burst, mode, tick, outcome)
    _column_issued(m, c, words, bank, mode, done, tick)


@inlined
def _column_slot(m: Row, c: Row, words: Words, tick: int) -> None:
    """Issue at most one column command; set the tick of the next try."""
    if c[COLUMN_FREE] > tick:
        c[COLUMN_WAKE] = c[COLUMN_FREE]
        return
    issued = False
    if c[ACTIVE_WAKE] <= tick:
        mode, place, wake = _oldest_active(m, c, tick)
        if place != NONE:
            _issue_active(m, c, words, mode, place, tick)
            issued, wake = True, _next_active(c, tick)
        c[ACTIVE_WAKE] = wake | m[RISING]
    if not issued and c[DUE] == 0 and not _stands_in_line(m, c):
        best = _oldest_hit(m, c, words, tick)
        if best != NEVER:
            _issue_hit(m, c, words, c[MODE], best, tick)
            _choose_mode(m, c, tick)
    wake = c[ACTIVE_WAKE]
    if c[DUE] == 0:
        for pc in range(m[PER_CHANNEL]):
            wake = min(wake, c[HIT_WAKE + pc])
    c[COLUMN_WAKE] = max(wake, c[COLUMN_FREE], tick + 1) | m[RISING]


@inlined
def _oldest_hit(m: Row, c: Row, words: Words, tick: int) -> int:
    """Return the position of the oldest row hit that is ready, or NEVER; set the wakes of the others."""
    mode, best = c[MODE], NEVER
    only = _only(m, c, words, mode)
    for pc in range(m[PER_CHANNEL]):
        if c[HIT_WAKE + pc] > tick:
            continue
        wake = pc_at(c, pc)[RD + mode]
        if wake <= tick:
            found, wake = _oldest(c, words, mode, pc, RD + mode, tick, best, only)
            if found != NONE:
                best = found
        elif not _any(c, words, mode, pc, COLUMN_CANDIDATES):
            wake = NEVER
        c[HIT_WAKE + pc] = wake
    return best


@inlined
def _issue_act(m: Row, c: Row, words: Words, mode: int, position: int, tick: int) -> None:
    """Activate for a burst: it leaves its buffer and is active until its column command."""
    slot = slot_at(c, words, mode, position)
    place = slot[SLOT_PLACE]
    bank = place & BANK_MASK
    state = bank_at(c, bank)
    pc = pc_at(c, state[BANK_PC])
    started = contains(mode_mask(c, words, mode, STARTED), position)
    pc[MISSES] += not started
    pc[ACTIVE_BANKS] += 1
    _take(c, words, mode, position, bank)
    activate(m, c, bank, place >> ROW_SHIFT, tick)
    state[IS_ACTIVE] = 1
    row = row_at(c, ACTIVE_ROWS + (mode * CHANNEL_BANKS + c[ACTIVE + mode]) * ACTIVE_FIELDS)
    c[ACTIVE + mode] += 1
    row[ACTIVE_BANK] = bank
    row[ACTIVE_ARRIVAL] = slot[SLOT_ARRIVAL]
    row[ACTIVE_SERIAL] = c[SERIAL]
    row[ACTIVE_BURST] = slot[SLOT_BURST]
    row[ACTIVE_OUTCOME] = CONFLICT if started else MISS
    row[ACTIVE_READY] = state[RD + mode]
    state[OPENED_BY] = burst_at(m, slot[SLOT_BURST])[REQUEST]
    c[SERIAL] += 1
    c[ACT_WAKE + state[BANK_PC]] = _act_floor(m, pc) | m[RISING]
    _row_changed(m, c, words, bank)
    _wake_column(c, ACTIVE_WAKE, state[RD + mode] | m[RISING])
    if lowest(bank_mask(c, words, bank, c[MODE], ROW_HITS), words) != NONE:
        _wake_column(c, HIT_WAKE + state[BANK_PC], state[RD + c[MODE]] | m[RISING])


@inlined
def _issue_pre(m: Row, c: Row, words: Words, bank: int, tick: int) -> None:
    """Precharge a bank."""
    pc_at(c, bank_at(c, bank)[BANK_PC])[PRECHARGES] += 1
    close(c, bank)
    row_command(m, c, bank, PRE, tick)
    _row_changed(m, c, words, bank)
    if lowest(bank_mask(c, words, bank, c[MODE], ALL_BURSTS), words) != NONE:
        pc = bank_at(c, bank)[BANK_PC]
        at = max(tick + 1, act_ready(c, bank), _act_floor(m, pc_at(c, pc)))
        _wake_row(c, ACT_WAKE + pc, at | m[RISING])


@inlined
def _conflict(m: Row, c: Row, words: Words, mode: int, position: int, tick: int) -> None:
    """Precharge for a burst that needs another row of its bank."""
    bank = slot_at(c, words, mode, position)[SLOT_PLACE] & BANK_MASK
    started = mode_mask(c, words, mode, STARTED)
    if not contains(started, position):
        insert(started, position)
        pc_at(c, bank_at(c, bank)[BANK_PC])[CONFLICTS] += 1
        bank_at(c, bank)[BANK_CONFLICTS] += 1
    _issue_pre(m, c, words, bank, tick)


@compiled
def _refresh_all(m: Row, c: Row, words: Words, tick: int) -> int:
    """Work towards the refresh that is due first; return NONE if a command issued, or the tick of the next try."""
    index = c[DUE_PC]
    pc, first = pc_at(c, index), index * m[BANK_STRIDE]
    if pc[OPEN_BANKS] != 0:
        if pc[ACTIVE_BANKS] != 0:
            return NEVER  # its last column command sets the wake
        if pc[PREAB] > tick:
            return int(pc[PREAB])
        for bank in range(first, first + m[BANKS]):
            if bank_at(c, bank)[OPEN_ROW] != NONE:
                close(c, bank)
                _row_changed(m, c, words, bank)
        pc[PRECHARGE_ALLS] += 1
        row_command(m, c, first, PREAB, tick)
        return NONE
    at = max(tick, pc[REFAB]) | m[RISING]
    if at > tick:
        return int(at)
    row_command(m, c, first, REFAB, tick)
    pc[REFRESHES] += 1
    for bank in range(first, first + m[BANKS]):
        bank_at(c, bank)[REFRESHED_UNTIL] = tick + m[REFRESH_TICKS]
    c[DUE] -= 1
    c[DUE_PC] = index + 1 if index + 1 < m[PER_CHANNEL] else 0
    if c[DUE] == 0:
        _wake_all(m, c, tick + 1)
    return NONE


@compiled
def _hold_for_refresh(m: Row, c: Row, words: Words, index: int) -> None:
    """Take no new bursts of the next bank of a pseudo-channel until it has been refreshed."""
    pc = pc_at(c, index)
    place = pc[NEXT_BANK]
    pc[NEXT_BANK] = place + 1 if place + 1 < m[BANKS] else 0
    pc[REFRESHING] = place
    bank = index * m[BANK_STRIDE] + place
    bank_at(c, bank)[IS_REFRESHING] = 1
    _nominate(m, c, words, 0, bank)
    _nominate(m, c, words, 1, bank)


@compiled
def _refresh_one(m: Row, c: Row, words: Words, tick: int) -> tuple[bool, int]:
    """Work towards the refreshes of single banks that are due; return whether a command issued, and the next try."""
    wake = NEVER
    for index in range(m[PER_CHANNEL]):
        pc = pc_at(c, index)
        if pc[REFRESHING] == NONE:
            continue
        bank = index * m[BANK_STRIDE] + pc[REFRESHING]
        own = bank_at(c, bank)
        if own[OPEN_ROW] != NONE:
            if own[IS_ACTIVE]:
                continue  # its column command sets the wake
            at = max(pc[PRE], own[PRE])
            if at <= tick:
                _issue_pre(m, c, words, bank, tick)
                return True, tick
        else:
            at = max(tick, pc[REFPB], refresh_ready(c, bank)) | m[RISING]
            if at <= tick:
                row_command(m, c, bank, REFPB, tick)
                pc[REFRESHES] += 1
                pc[REFRESHING] = NONE
                pc[OWED] -= 1
                own[IS_REFRESHING] = 0
                if pc[OWED] > 0:
                    _hold_for_refresh(m, c, words, index)
                own[REFRESHED_UNTIL] = tick + m[REFRESH_TICKS]
                _nominate(m, c, words, 0, bank)
                _nominate(m, c, words, 1, bank)
                _wake_row(c, ACT_WAKE + index, max(tick + 1, own[ACT]) | m[RISING])
                return True, tick
        wake = min(wake, at)
    return False, wake


@compiled
def _close_unused(m: Row, c: Row, words: Words, tick: int) -> int:
    """Close a row that nobody waits for and that nobody has used for a while; return NONE, or the next try."""
    wake = NEVER
    for index in range(m[PER_CHANNEL]):
        pc = pc_at(c, index)
        if pc[OPEN_BANKS] == 0:
            continue
        for bank in range(index * m[BANK_STRIDE], index * m[BANK_STRIDE] + m[BANKS]):
            state = bank_at(c, bank)
            if state[OPEN_ROW] == NONE or state[IS_ACTIVE]:
                continue
            if (
                max(
                    lowest(bank_mask(c, words, bank, 0, ROW_HITS), words),
                    lowest(bank_mask(c, words, bank, 1, ROW_HITS), words),
                )
                != NONE
            ):
                continue
            at = max(state[USED_TICK] + m[CLOSE_AFTER], state[PRE], pc[PRE])
            if at <= tick:
                _issue_pre(m, c, words, bank, tick)
                return NONE
            wake = min(wake, at)
    return wake


@inlined
def _row_slot(m: Row, c: Row, words: Words, tick: int) -> None:
    """Issue at most one row command; set the tick of the next try."""
    if c[ROW_FREE] > tick:
        c[ROW_WAKE] = c[ROW_FREE]
        return
    issued = False
    if c[OTHER_WAKE] <= tick:
        issued = _other_row_command(m, c, words, tick)
    if c[DUE] != 0:
        c[ROW_WAKE] = c[OTHER_WAKE]
        return
    if not issued and not _stands_in_line(m, c):
        best, command = _oldest_row(m, c, words, tick)
        if best != NEVER:
            if command == ACT:
                _issue_act(m, c, words, c[MODE], best, tick)
            else:
                _conflict(m, c, words, c[MODE], best, tick)
            issued = True
    if not issued and m[CLOSE_AFTER] >= 0:
        closing = _close_unused(m, c, words, tick)
        c[OTHER_WAKE] = min(c[OTHER_WAKE], tick + 1 if closing == NONE else closing)
    wake = c[OTHER_WAKE]
    for pc in range(m[PER_CHANNEL]):
        wake = min(wake, c[ACT_WAKE + pc], c[PRE_WAKE + pc])
    c[ROW_WAKE] = max(wake, tick + 1, c[ROW_FREE])


@compiled
def _other_row_command(m: Row, c: Row, words: Words, tick: int) -> bool:
    """Issue a row command for a refresh, if one is due and ready; set the tick of the next try."""
    if c[DUE] != 0:
        wake = _refresh_all(m, c, words, tick)
        c[OTHER_WAKE] = tick + 1 if wake == NONE else wake
        return bool(wake == NONE)
    if m[REFRESH] == REFRESH_PER_BANK:
        issued, wake = _refresh_one(m, c, words, tick)
        c[OTHER_WAKE] = tick + 1 if issued else wake
        return bool(issued)
    c[OTHER_WAKE] = NEVER
    return False


@inlined
def _oldest_row(m: Row, c: Row, words: Words, tick: int) -> tuple[int, int]:
    """Return (position, command) of the oldest burst whose activate or precharge is ready, or NEVER; set the wakes."""
    mode, rising = c[MODE], m[RISING]
    only, best, command = _only(m, c, words, mode), NEVER, ACT
    for index in range(m[PER_CHANNEL]):
        pc = pc_at(c, index)
        if c[ACT_WAKE + index] <= tick:
            wake = max(_act_floor(m, pc), tick + (rising > tick & 1)) | rising
            if wake <= tick:
                found, wake = _oldest(c, words, mode, index, ACT, tick, best, only)
                if found != NONE:
                    best, command = found, ACT
                wake |= rising
            elif not _any(c, words, mode, index, ACT_CANDIDATES):
                wake = NEVER
            c[ACT_WAKE + index] = wake
        if c[PRE_WAKE + index] <= tick:
            wake = pc[PRE]
            if wake <= tick:
                found, wake = _oldest(c, words, mode, index, PRE, tick, best, only)
                if found != NONE:
                    best, command = found, PRE
            elif not _any(c, words, mode, index, PRE_CANDIDATES):
                wake = NEVER
            c[PRE_WAKE + index] = wake
    return best, command


@compiled
def _refresh_falls_due(m: Row, c: Row, words: Words, tick: int) -> None:
    """Note the refreshes that are due from this tick on."""
    c[REFRESH_DUE] += m[REFRESH_INTERVAL]
    _wake_row(c, OTHER_WAKE, tick)
    if m[REFRESH] == REFRESH_ALL_BANK:
        c[DUE] += m[PER_CHANNEL]
        return
    for index in range(m[PER_CHANNEL]):
        pc = pc_at(c, index)
        pc[OWED] += 1
        if pc[REFRESHING] == NONE:
            _hold_for_refresh(m, c, words, index)


@inlined
def end_tick(m: Row, c: Row, words: Words, tick: int) -> bool:
    """Accept bursts after the commands of a tick; return whether arrays must grow first.

    A channel that stops there has not chosen its mode: more bursts may come at the same tick.
    """
    no_room = False
    if c[FREED] or c[ARRIVES] <= tick:
        no_room = _accept(m, c, words, tick)
    if not no_room and c[ACCEPTED] < m[STOP_AT] and c[DUE] == 0 and c[REFRESH_DUE] != tick + 1:
        _choose_mode(m, c, tick + 1)
    return no_room


@inlined
def issue(m: Row, c: Row, words: Words, tick: int) -> None:
    """Issue the commands of a tick: a column command, then a row command."""
    if c[REFRESH_DUE] <= tick:
        _refresh_falls_due(m, c, words, tick)
    if c[COLUMN_WAKE] <= tick:
        _column_slot(m, c, words, tick)
    if c[ROW_WAKE] <= tick:
        _row_slot(m, c, words, tick)


@inlined
def is_done(m: Row, c: Row) -> bool:
    """Return whether nothing will happen any more but refreshes."""
    return bool(c[INBOX_HEAD] == NONE and c[COUNT] + c[COUNT + 1] + c[ACTIVE] + c[ACTIVE + 1] == 0)
