"""The slots of `shared_queues` over short buffers: which burst gets the column command, and which the row command.

The oldest candidate is the lowest bit of a mask; what needs a row that is being opened waits in the order of activates.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.buffers import precharge
from hwmodel.dram.commands import activate, column, finish
from hwmodel.dram.room import MAX_PCS
from hwmodel.dram.shared_queues import column_issued, issue_in_slots
from hwmodel.dram.short_buffers import has_hits, nominate_open, row_opened, take
from hwmodel.dram.state import (
    ACT,
    ACT_CANDIDATES,
    ACT_WAKE,
    ACTIVE,
    ACTIVE_ARRIVAL,
    ACTIVE_BANK,
    ACTIVE_BANKS,
    ACTIVE_BURST,
    ACTIVE_FIELDS,
    ACTIVE_FIRST,
    ACTIVE_FRONT,
    ACTIVE_OUTCOME,
    ACTIVE_PC,
    ACTIVE_READY,
    ACTIVE_SERIAL,
    ACTIVE_WAKE,
    AT_BANK,
    BANK_CONFLICTS,
    BANK_MASK,
    BANK_PC,
    COLUMN_CANDIDATES,
    COLUMN_FREE,
    COLUMN_WAKE,
    COMMAND_SLOTS,
    CONFLICT,
    CONFLICTS,
    DELAY,
    DUE,
    FCFS,
    HIT,
    HIT_WAKE,
    HITS,
    IS_ACTIVE,
    LEVEL,
    LIVE,
    MISS,
    MISSES,
    MODE,
    NEVER,
    NONE,
    OPENED_BY,
    PRE,
    PRE_CANDIDATES,
    PRE_WAKE,
    RD,
    REQUEST,
    RISING,
    ROW_HITS,
    ROW_SHIFT,
    SCHEDULER,
    SERIAL,
    SLOT_ARRIVAL,
    SLOT_BURST,
    SLOT_PLACE,
    STARTED,
    Words,
    active_at,
    bank_at,
    bank_mask,
    burst_at,
    candidates,
    contains,
    insert,
    mode_mask,
    pc_at,
    ready_at,
    slot_at,
)
from hwmodel.dram.waking import act_floors, choose_mode, column_floors, pre_floors, wake_column
from hwmodel.intrinsics import Row, row_at, trailing_zeros


@inlined
def _in_turn(m: Row, c: Row, words: Words, mode: int, found: int) -> int:
    """Return those of some candidates that may be next: all, but under FCFS only the oldest burst."""
    if m[SCHEDULER] == FCFS:
        live = mode_mask(c, words, mode, 0)[LIVE]
        found &= live & -live if c[ACTIVE] + c[ACTIVE + 1] == 0 else 0
    return int(found)


@inlined
def _allowed_hits(m: Row, c: Row, words: Words, mode: int, floors: tuple[int, int], tick: int) -> int:
    """Return the row hits that may be next, in the pseudo-channels whose floor has come."""
    found = 0
    for pc in range(MAX_PCS):
        if floors[pc] <= tick:
            found |= candidates(c, words, mode, pc, 0)[COLUMN_CANDIDATES]
    return int(_in_turn(m, c, words, mode, found))


@inlined
def _hit_floor(c: Row, words: Words, mode: int, floors: tuple[int, int], after: int) -> int:
    """Return the lower floor of the pseudo-channels with row hits that lies after a tick, or NEVER."""
    floor = NEVER
    for pc in range(MAX_PCS):
        if floors[pc] > after and candidates(c, words, mode, pc, 0)[COLUMN_CANDIDATES] != 0:
            floor = min(floor, floors[pc])
    return floor


@inlined
def _allowed_rows(m: Row, c: Row, words: Words, mode: int, kind: int, floors: tuple[int, int], tick: int) -> int:
    """Return candidates for a kind of row command as `_allowed_hits` does, without branches that nobody foresees."""
    found = 0
    for pc in range(MAX_PCS):
        those = candidates(c, words, mode, pc, 0)[kind]
        found |= those if floors[pc] <= tick else 0
    return int(_in_turn(m, c, words, mode, found))


@inlined
def _row_floor(c: Row, words: Words, mode: int, kind: int, floors: tuple[int, int], after: int) -> int:
    """Return a floor of a kind of row command as `_hit_floor` does, without branches that nobody foresees."""
    floor = NEVER
    for pc in range(MAX_PCS):
        waits = (candidates(c, words, mode, pc, 0)[kind] != 0) & (floors[pc] > after)
        floor = min(floor, floors[pc] if waits else NEVER)
    return floor


@inlined
def _first_ready(c: Row, words: Words, mode: int, command: int, found: int, tick: int) -> tuple[int, int]:
    """Return the first of some positions whose bank's command is ready, or NONE; and the next ready tick."""
    ready, wake = ready_at(c, command), NEVER
    while found != 0:
        position = trailing_zeros(found)
        found &= found - 1
        at = ready[slot_at(c, words, mode, position)[SLOT_PLACE] & BANK_MASK]
        if at <= tick:
            return position, tick
        wake = min(wake, at)
    return NONE, wake


@inlined
def _oldest_active(m: Row, c: Row, tick: int) -> tuple[int, int, int]:
    """Return (mode, place among the active bursts) of the oldest that is ready, or NONE; and the next ready tick.

    They stand in the order of their activates, and so of the ticks at which their banks are ready.
    """
    best_mode, best, best_arrival, best_serial, wake = 0, NONE, NEVER, NEVER, NEVER
    for mode in range(2):
        if c[ACTIVE + mode] == 0:
            continue
        row = active_at(c, mode, 0)
        floors = pc_at(c, 0)[RD + mode], pc_at(c, 1)[RD + mode]
        for place in range(c[ACTIVE + mode]):
            if row[ACTIVE_READY] > tick:
                wake = min(wake, row[ACTIVE_READY])
                break
            at = floors[1] if row[ACTIVE_PC] else floors[0]
            if at <= tick:
                at = ready_at(c, RD + mode)[row[ACTIVE_BANK]]
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
            floor = min(pc_at(c, 0)[RD + mode], pc_at(c, 1)[RD + mode])
            wake = min(wake, max(floor, active_at(c, mode, 0)[ACTIVE_READY]))
    return int(max(wake, tick + 1))


@inlined
def _issue_active(m: Row, c: Row, words: Words, mode: int, place: int, tick: int) -> None:
    """Issue the column command of an activated burst."""
    row = active_at(c, mode, place)
    bank, outcome, burst = row[ACTIVE_BANK], row[ACTIVE_OUTCOME], row[ACTIVE_BURST]
    for _ in range(place):
        row = row_at(row, -ACTIVE_FIELDS)
        for field in range(ACTIVE_FIELDS):
            row[ACTIVE_FIELDS + field] = row[field]
    c[ACTIVE + mode] -= 1
    c[ACTIVE_FIRST + mode] += 1
    state = bank_at(c, bank)
    column(m, c, bank, mode, tick)
    state[IS_ACTIVE] = 0
    pc_at(c, state[BANK_PC])[ACTIVE_BANKS] -= 1
    conflicts = False
    for other in range(2):  # precharges were held back
        conflicts |= nominate_open(m, c, words, other, bank) and other == c[MODE]
    done = finish(m, c, bank, burst, mode, tick, outcome)
    column_issued(m, c, bank, mode, done, conflicts, tick)


@inlined
def _issue_hit(m: Row, c: Row, words: Words, mode: int, position: int, tick: int) -> None:
    """Issue the column command of a row hit in a buffer."""
    slot = slot_at(c, words, mode, position)
    bank, burst = slot[SLOT_PLACE] & BANK_MASK, slot[SLOT_BURST]
    outcome = CONFLICT if contains(mode_mask(c, words, mode, STARTED), words, position) else HIT
    column(m, c, bank, mode, tick)
    pc_at(c, bank_at(c, bank)[BANK_PC])[HITS] += outcome == HIT
    take(c, words, mode, position, bank, COLUMN_CANDIDATES)
    bank_mask(c, words, bank, mode, 0)[ROW_HITS] &= ~(1 << position)
    conflicts = nominate_open(m, c, words, mode, bank)
    done = finish(m, c, bank, burst, mode, tick, outcome)
    column_issued(m, c, bank, mode, done, conflicts, tick)


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
    if not issued and c[DUE] == 0 and c[HIT_WAKE] <= tick:
        position, c[HIT_WAKE] = _oldest_hit(m, c, words, tick)
        if position != NONE:
            _issue_hit(m, c, words, c[MODE], position, tick)
            c[HIT_WAKE] = _next_hit(m, c, words, tick)
            choose_mode(m, c, tick)
    wake = min(c[ACTIVE_WAKE], c[HIT_WAKE]) if c[DUE] == 0 else c[ACTIVE_WAKE]
    c[COLUMN_WAKE] = max(wake, c[COLUMN_FREE], tick + 1) | m[RISING]


@inlined
def _oldest_hit(m: Row, c: Row, words: Words, tick: int) -> tuple[int, int]:
    """Return the position of the oldest row hit that is ready, or NONE; and the next ready tick."""
    mode = c[MODE]
    floors = column_floors(c, mode)
    hits = _allowed_hits(m, c, words, mode, floors, tick)
    position, wake = _first_ready(c, words, mode, RD + mode, hits, tick)
    if position == NONE:
        wake = min(wake, _hit_floor(c, words, mode, floors, tick))
    return position, wake


@inlined
def _next_hit(m: Row, c: Row, words: Words, tick: int) -> int:
    """Return a lower bound of the tick after this one at which a row hit is ready."""
    mode = c[MODE]
    floor = _hit_floor(c, words, mode, column_floors(c, mode), NONE)
    return int(max(floor, tick + 1) | m[RISING])


@compiled
def _move_to_front(c: Row, mode: int) -> None:
    """Move the active bursts of a mode to the first places."""
    old = active_at(c, mode, 0)
    c[ACTIVE_FIRST + mode] = 0
    new = active_at(c, mode, 0)
    for i in range(c[ACTIVE + mode] * ACTIVE_FIELDS):
        new[i] = old[i]


@inlined
def _issue_act(m: Row, c: Row, words: Words, mode: int, position: int, tick: int) -> None:
    """Activate for a burst: it leaves its buffer and is active until its column command."""
    slot = slot_at(c, words, mode, position)
    place = slot[SLOT_PLACE]
    bank = place & BANK_MASK
    state = bank_at(c, bank)
    pc = pc_at(c, state[BANK_PC])
    started = contains(mode_mask(c, words, mode, STARTED), words, position)
    pc[MISSES] += not started
    pc[ACTIVE_BANKS] += 1
    take(c, words, mode, position, bank, ACT_CANDIDATES)
    activate(m, c, bank, place >> ROW_SHIFT, tick)
    state[IS_ACTIVE] = 1
    if c[ACTIVE_FIRST + mode] >= max(ACTIVE_FRONT, c[ACTIVE + mode]):
        _move_to_front(c, mode)
    row = active_at(c, mode, c[ACTIVE + mode])
    c[ACTIVE + mode] += 1
    row[ACTIVE_BANK] = bank
    row[ACTIVE_ARRIVAL] = slot[SLOT_ARRIVAL]
    row[ACTIVE_SERIAL] = c[SERIAL]
    row[ACTIVE_BURST] = slot[SLOT_BURST]
    row[ACTIVE_OUTCOME] = CONFLICT if started else MISS
    row[ACTIVE_READY] = tick + m[DELAY + AT_BANK * LEVEL + ACT * COMMAND_SLOTS + RD + mode]  # in the order of activates
    row[ACTIVE_PC] = state[BANK_PC]
    state[OPENED_BY] = burst_at(m, slot[SLOT_BURST])[REQUEST]
    c[SERIAL] += 1
    row_opened(c, words, bank)
    wake_column(c, ACTIVE_WAKE, ready_at(c, RD + mode)[bank] | m[RISING])
    if has_hits(c, words, c[MODE], bank):
        wake_column(c, HIT_WAKE, ready_at(c, RD + c[MODE])[bank] | m[RISING])


@inlined
def _conflict(m: Row, c: Row, words: Words, mode: int, position: int, tick: int) -> None:
    """Precharge for a burst that needs another row of its bank."""
    bank = slot_at(c, words, mode, position)[SLOT_PLACE] & BANK_MASK
    started = mode_mask(c, words, mode, STARTED)
    if not contains(started, words, position):
        insert(started, words, position)
        pc_at(c, bank_at(c, bank)[BANK_PC])[CONFLICTS] += 1
        bank_at(c, bank)[BANK_CONFLICTS] += 1
    precharge(m, c, words, bank, tick)


@inlined
def _open_or_close(m: Row, c: Row, words: Words, tick: int) -> bool:
    """Issue the activate or precharge of the oldest burst for which one is ready; return whether there was one."""
    position, command = _oldest_opener(m, c, words, tick)
    if position == NEVER:
        return False
    if command == ACT:
        _issue_act(m, c, words, c[MODE], position, tick)
        c[ACT_WAKE] = _next_act(m, c, words, tick)
    else:
        _conflict(m, c, words, c[MODE], position, tick)
    return True


@inlined
def _oldest_opener(m: Row, c: Row, words: Words, tick: int) -> tuple[int, int]:
    """Return (position, command) of the oldest burst whose row command is ready, or NEVER; set the wakes."""
    position, command = NEVER, ACT
    if c[ACT_WAKE] <= tick:
        found, c[ACT_WAKE] = _oldest_act(m, c, words, tick)
        if found != NONE:
            position = found
    if c[PRE_WAKE] <= tick:
        found, c[PRE_WAKE] = _oldest_conflict(m, c, words, tick, position)
        if found != NONE:
            position, command = found, PRE
    return position, command


@inlined
def _oldest_act(m: Row, c: Row, words: Words, tick: int) -> tuple[int, int]:
    """Return the position of the oldest burst whose activate is ready, or NONE; and the next ready tick."""
    mode, floors = c[MODE], act_floors(c)
    if m[RISING] > tick & 1:  # activates issue on rising edges only
        return NONE, tick + 1
    acts = _allowed_rows(m, c, words, mode, ACT_CANDIDATES, floors, tick)
    position, wake = _first_ready(c, words, mode, ACT, acts, tick)
    if position == NONE:
        wake = min(wake, _row_floor(c, words, mode, ACT_CANDIDATES, floors, tick)) | m[RISING]
    return position, wake


@inlined
def _next_act(m: Row, c: Row, words: Words, tick: int) -> int:
    """Return a lower bound of the tick after this one at which an activate is ready."""
    floor = _row_floor(c, words, c[MODE], ACT_CANDIDATES, act_floors(c), NONE)
    return int(max(floor, tick + 1) | m[RISING])


@inlined
def _oldest_conflict(m: Row, c: Row, words: Words, tick: int, before: int) -> tuple[int, int]:
    """Return the position, below `before`, of the oldest burst whose precharge is ready, or NONE; and the next try.

    That is of the others, since it will issue; those from `before` on may be ready at once.
    """
    mode, floors, ready, oldest = c[MODE], pre_floors(c), ready_at(c, PRE), NONE
    found = _allowed_rows(m, c, words, mode, PRE_CANDIDATES, floors, tick)
    older = found & ((1 << before) - 1) if before != NEVER else found
    wake = NEVER if older == found else tick
    while older != 0:
        position = trailing_zeros(older)
        older &= older - 1
        at = ready[slot_at(c, words, mode, position)[SLOT_PLACE] & BANK_MASK]
        if at > tick:
            wake = min(wake, at)
        elif oldest != NONE:
            return oldest, tick
        else:
            oldest = position
    return oldest, int(min(wake, _row_floor(c, words, mode, PRE_CANDIDATES, floors, tick)))


@inlined
def issue(m: Row, c: Row, words: Words, tick: int) -> None:
    """Issue the commands of a tick from short buffers."""
    issue_in_slots(m, c, words, tick, _column_slot, _open_or_close)
