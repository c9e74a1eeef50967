"""The slots of `shared_queues` over deep buffers: which burst gets the column command, and which the row command.

The oldest burst whose command is ready is the least key of those banks whose earliest tick has come; the keys of bursts
that their banks were activated for are lower than all others.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.buffers import precharge
from hwmodel.dram.commands import activate, column, finish
from hwmodel.dram.deep_buffers import nominate_column, nominate_row, oldest_of, row_opened, take_first
from hwmodel.dram.room import MAX_BANKS
from hwmodel.dram.shared_queues import column_issued, issue_in_slots
from hwmodel.dram.state import (
    ACT,
    ACT_KEYS,
    ACT_WAKE,
    ACTIVE,
    ACTIVE_BANKS,
    ACTIVE_KEYS,
    AGE_SHIFT,
    BANK_CONFLICTS,
    BANK_PC,
    BANK_SHIFT,
    CHANNEL_BANKS,
    COLUMN_FREE,
    COLUMN_KEYS,
    COLUMN_WAKE,
    CONFLICT,
    CONFLICTS,
    DUE,
    FCFS,
    FIRST_KEY,
    HIT,
    HIT_FIRST,
    HITS,
    IS_ACTIVE,
    KEY_BANK_BITS,
    KEY_BANK_MASK,
    MISS,
    MISSES,
    MODE,
    NEVER,
    NONE,
    OPENED_AS,
    OPENED_BY,
    OPENED_FOR,
    OPENED_IN,
    OTHER_FIRST,
    PRE,
    PRE_KEYS,
    PRE_WAKE,
    RD,
    REQUEST,
    RISING,
    ROW_SHIFT,
    SCHEDULER,
    SERIAL,
    SERIAL_BITS,
    SERIAL_MASK,
    SLOT_AGE,
    SLOT_PLACE,
    STARTED,
    Words,
    bank_at,
    banks_with,
    burst_at,
    contains,
    drop_key,
    has_key,
    insert,
    keys_at,
    mode_mask,
    pc_at,
    ready_at,
    set_key,
    slot_at,
)
from hwmodel.dram.waking import act_floors, choose_mode, column_floors, pre_floors, wake_column
from hwmodel.intrinsics import Row, first_ready, oldest_ready, row_at, shift_right


@inlined
def _oldest(
    c: Row, kind: int, banks: Row, command: int, mode: int, floors: tuple[int, int], tick: int
) -> tuple[int, int]:
    """Return the key of the oldest burst of a buffer whose command is ready, or NEVER; and the next ready tick.

    `banks`: masks of those that are asked. `floors`: the earliest ticks that the rules of the pseudo-channels allow.
    """
    if min(floors[0], floors[1]) <= tick:  # mostly of one pseudo-channel, which one is hard to predict
        oldest = _oldest_of_pc(c, kind, banks, command, mode, shift_right(tick - floors[0], 63), tick)
        if max(floors[0], floors[1]) <= tick:
            oldest = min(oldest, _oldest_of_pc(c, kind, banks, command, mode, 1, tick))
        if oldest != NEVER:
            return oldest, tick
    return NEVER, _next_ready(c, banks, command, floors)


@inlined
def _oldest_of_pc(c: Row, kind: int, banks: Row, command: int, mode: int, pc: int, tick: int) -> int:
    """Return the key of the oldest burst of a pseudo-channel whose bank is ready for the command, or NEVER."""
    first = pc << BANK_SHIFT
    ready, keys = row_at(ready_at(c, command), first), row_at(keys_at(c, kind, mode), first)
    return int(oldest_ready(ready, keys, banks[pc], tick))


@inlined
def _next_ready(c: Row, banks: Row, command: int, floors: tuple[int, int]) -> int:
    """Return the first tick at which a command of the banks in masks is ready, or NEVER."""
    ready = ready_at(c, command)
    first = max(floors[0], first_ready(ready, banks[0]))
    return int(min(first, max(floors[1], first_ready(row_at(ready, MAX_BANKS), banks[1]))))


@compiled
def _in_turn(
    c: Row, words: Words, kind: int, command: int, mode: int, floors: tuple[int, int], tick: int
) -> tuple[int, int]:
    """Return the key of the oldest burst of all of a buffer if its command is ready, or NEVER; and when it is.

    Nothing while a burst is under way.
    """
    key = oldest_of(c, words, mode) if c[ACTIVE] + c[ACTIVE + 1] == 0 else NEVER
    bank = key & KEY_BANK_MASK
    if key == NEVER or not has_key(c, kind, mode, bank) or keys_at(c, kind, mode)[bank] != key:
        return NEVER, NEVER
    at = max(ready_at(c, command)[bank], floors[1] if bank >= MAX_BANKS else floors[0])
    return (key if at <= tick else NEVER), at


@inlined
def _least_floor(banks: Row, floors: tuple[int, int]) -> int:
    """Return the lower floor of the pseudo-channels of which a mask has banks."""
    floor = floors[0] if banks[0] != 0 else NEVER
    return int(min(floor, floors[1]) if banks[1] != 0 else floor)


@inlined
def _column_slot(m: Row, c: Row, words: Words, tick: int) -> None:
    """Issue at most one column command; set the tick of the next try."""
    if c[COLUMN_FREE] > tick:
        c[COLUMN_WAKE] = c[COLUMN_FREE]
        return
    mode, key, wake = _oldest_column(m, c, words, tick)
    if key < 0:
        _issue_active(m, c, words, mode, key & KEY_BANK_MASK, tick)
    elif key != NEVER:
        _issue_hit(m, c, words, mode, key & KEY_BANK_MASK, tick)
        choose_mode(m, c, tick)
    if key != NEVER:
        mode = c[MODE]
        wake = _least_floor(banks_with(c, COLUMN_KEYS, mode), column_floors(c, mode))
        if c[ACTIVE + 1 - mode] != 0:
            wake = min(wake, _least_floor(banks_with(c, ACTIVE_KEYS, 1 - mode), column_floors(c, 1 - mode)))
    c[COLUMN_WAKE] = max(wake, c[COLUMN_FREE], tick + 1) | m[RISING]


@inlined
def _oldest_column(m: Row, c: Row, words: Words, tick: int) -> tuple[int, int, int]:
    """Return (mode, key) of the oldest burst whose column command is ready, or NEVER; and the next ready tick.

    Active bursts of both modes go before the hits of the buffer; those wait for a due refresh of all banks.
    """
    mode, other = c[MODE], 1 - c[MODE]
    hits = c[DUE] == 0 and m[SCHEDULER] != FCFS
    banks, floors = banks_with(c, COLUMN_KEYS if hits else ACTIVE_KEYS, mode), column_floors(c, mode)
    key, wake = _oldest(c, COLUMN_KEYS, banks, RD + mode, mode, floors, tick)
    if m[SCHEDULER] == FCFS and key == NEVER and c[DUE] == 0:
        key, at = _in_turn(c, words, COLUMN_KEYS, RD + mode, mode, floors, tick)
        wake = min(wake, at)
    if c[ACTIVE + other] != 0:
        banks, floors = banks_with(c, ACTIVE_KEYS, other), column_floors(c, other)
        active, at = _oldest(c, COLUMN_KEYS, banks, RD + other, other, floors, tick)
        wake = min(wake, at)
        if active < key:
            mode, key = other, active
    return mode, key, wake


@inlined
def _issue_active(m: Row, c: Row, words: Words, mode: int, bank: int, tick: int) -> None:
    """Issue the column command of an activated burst."""
    state = bank_at(c, bank)
    c[ACTIVE + mode] -= 1
    pc_at(c, state[BANK_PC])[ACTIVE_BANKS] -= 1
    column(m, c, bank, mode, tick)
    state[IS_ACTIVE] = 0
    drop_key(c, ACTIVE_KEYS, mode, bank)
    nominate_column(c, words, mode, bank)
    for other in range(2):
        if state[OTHER_FIRST + other] != NONE:  # precharges were held back
            nominate_row(m, c, words, other, bank)
    done = finish(m, c, bank, state[OPENED_FOR], mode, tick, state[OPENED_AS])
    column_issued(m, c, bank, mode, done, has_key(c, PRE_KEYS, c[MODE], bank), tick)


@inlined
def _issue_hit(m: Row, c: Row, words: Words, mode: int, bank: int, tick: int) -> None:
    """Issue the column command of a row hit in a buffer."""
    started = mode_mask(c, words, mode, STARTED)
    outcome = CONFLICT if contains(started, words, bank_at(c, bank)[HIT_FIRST + mode]) else HIT
    column(m, c, bank, mode, tick)
    pc_at(c, bank_at(c, bank)[BANK_PC])[HITS] += outcome == HIT
    run = take_first(c, words, mode, bank, HIT_FIRST)
    nominate_column(c, words, mode, bank)
    if bank_at(c, bank)[OTHER_FIRST + mode] != NONE:
        nominate_row(m, c, words, mode, bank)
    done = finish(m, c, bank, run, mode, tick, outcome)
    column_issued(m, c, bank, mode, done, has_key(c, PRE_KEYS, c[MODE], bank), tick)


@compiled
def _renumber(c: Row) -> None:
    """Give the active bursts the lowest numbers, in the order of their activates."""
    last = -1
    for number in range(c[ACTIVE] + c[ACTIVE + 1]):
        bank, mode = _activated_after(c, last)
        key = row_at(keys_at(c, COLUMN_KEYS, mode), bank)
        last = _serial(key[0])
        key[0] += (number - last) << KEY_BANK_BITS
    c[SERIAL] = c[ACTIVE] + c[ACTIVE + 1]


@inlined
def _serial(key: int) -> int:
    """Return the number of an active burst in the order of activates."""
    return key >> KEY_BANK_BITS & SERIAL_MASK


@inlined
def _activated_after(c: Row, serial: int) -> tuple[int, int]:
    """Return (bank, mode) of the active burst whose number comes next after one."""
    found, found_mode, least = NONE, 0, NEVER
    for mode in range(2):
        keys = keys_at(c, COLUMN_KEYS, mode)
        for bank in range(CHANNEL_BANKS):
            if has_key(c, ACTIVE_KEYS, mode, bank) and serial < _serial(keys[bank]) < least:
                found, found_mode, least = bank, mode, _serial(keys[bank])
    return found, found_mode


@inlined
def _issue_act(m: Row, c: Row, words: Words, mode: int, bank: int, tick: int) -> None:
    """Activate for a burst: it leaves its buffer and is active until its column command."""
    if c[SERIAL] == 1 << SERIAL_BITS:
        _renumber(c)
    state = bank_at(c, bank)
    pc = pc_at(c, state[BANK_PC])
    first = state[OTHER_FIRST + mode]
    started, slot = contains(mode_mask(c, words, mode, STARTED), words, first), slot_at(c, words, mode, first)
    row, rank = slot[SLOT_PLACE] >> ROW_SHIFT, slot[SLOT_AGE] >> AGE_SHIFT
    run = take_first(c, words, mode, bank, OTHER_FIRST)
    drop_key(c, ACT_KEYS, mode, bank)
    pc[MISSES] += not started
    pc[ACTIVE_BANKS] += 1
    c[ACTIVE + mode] += 1
    activate(m, c, bank, row, tick)
    order = rank << SERIAL_BITS | c[SERIAL]
    c[SERIAL] += 1
    set_key(c, COLUMN_KEYS, mode, bank, FIRST_KEY + (order << KEY_BANK_BITS | bank))
    banks_with(c, ACTIVE_KEYS, mode)[bank >> BANK_SHIFT] |= 1 << (bank & (MAX_BANKS - 1))
    state[IS_ACTIVE], state[OPENED_IN] = 1, mode
    state[OPENED_FOR] = run
    state[OPENED_AS] = CONFLICT if started else MISS
    state[OPENED_BY] = burst_at(m, run)[REQUEST]
    row_opened(m, c, words, bank)
    wake_column(c, COLUMN_WAKE, ready_at(c, RD + mode)[bank] | m[RISING])
    if has_key(c, COLUMN_KEYS, c[MODE], bank):
        wake_column(c, COLUMN_WAKE, ready_at(c, RD + c[MODE])[bank] | m[RISING])


@inlined
def _conflict(m: Row, c: Row, words: Words, mode: int, bank: int, tick: int) -> None:
    """Precharge for a burst that needs another row of its bank."""
    started, state = mode_mask(c, words, mode, STARTED), bank_at(c, bank)
    if not contains(started, words, state[OTHER_FIRST + mode]):
        insert(started, words, state[OTHER_FIRST + mode])
        pc_at(c, state[BANK_PC])[CONFLICTS] += 1
        state[BANK_CONFLICTS] += 1
    precharge(m, c, words, bank, tick)


@inlined
def _open_or_close(m: Row, c: Row, words: Words, tick: int) -> bool:
    """Issue the activate or precharge of the oldest burst for which one is ready; return whether there was one."""
    mode = c[MODE]
    act = pre = NEVER
    if c[ACT_WAKE] <= tick:
        act = _oldest_act(m, c, words, mode, tick)
    if c[PRE_WAKE] <= tick:
        pre = _oldest_conflict(m, c, words, mode, tick)
    if act < pre:
        _issue_act(m, c, words, mode, act & KEY_BANK_MASK, tick)
        c[ACT_WAKE] = max(_next_ready(c, banks_with(c, ACT_KEYS, mode), ACT, act_floors(c)), tick + 1) | m[RISING]
    elif pre != NEVER:
        _conflict(m, c, words, mode, pre & KEY_BANK_MASK, tick)
        c[PRE_WAKE] = max(_next_ready(c, banks_with(c, PRE_KEYS, mode), PRE, pre_floors(c)), tick + 1)
    return bool(act != pre)


@inlined
def _oldest_act(m: Row, c: Row, words: Words, mode: int, tick: int) -> int:
    """Return the key of the oldest burst whose activate is ready; if there is none, NEVER, and set the next try."""
    if m[RISING] > tick & 1:  # activates issue on rising edges only
        c[ACT_WAKE] = tick + 1
        return NEVER
    floors = act_floors(c)
    if m[SCHEDULER] == FCFS:
        key, wake = _in_turn(c, words, ACT_KEYS, ACT, mode, floors, tick)
    else:
        key, wake = _oldest(c, ACT_KEYS, banks_with(c, ACT_KEYS, mode), ACT, mode, floors, tick)
    c[ACT_WAKE] = wake | m[RISING] if key == NEVER else tick
    return int(key)


@inlined
def _oldest_conflict(m: Row, c: Row, words: Words, mode: int, tick: int) -> int:
    """Return the key of the oldest burst whose precharge is ready; if there is none, NEVER, and set the next try."""
    floors = pre_floors(c)
    if m[SCHEDULER] == FCFS:
        key, wake = _in_turn(c, words, PRE_KEYS, PRE, mode, floors, tick)
    else:
        key, wake = _oldest(c, PRE_KEYS, banks_with(c, PRE_KEYS, mode), PRE, mode, floors, tick)
    c[PRE_WAKE] = wake if key == NEVER else tick
    return int(key)


@inlined
def issue(m: Row, c: Row, words: Words, tick: int) -> None:
    """Issue the commands of a tick: a column command, then a row command."""
    issue_in_slots(m, c, words, tick, _column_slot, _open_or_close)
