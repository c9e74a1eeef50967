"""The bursts that wait in deep buffers: who they are, and who may be next.

Neighbouring bursts of a run, of which each came next after the one before it, are a train: they stand at one position.
No other burst is older than one of them and younger than another; so the age of the first one, which is the next one to
leave, orders them among all others.

Trains of a bank are two lists, oldest first: of its open row, and all others. Per bank only the first of each can be
next. Their keys stand for the buffers; whatever changes a bank's row or its lists finds its keys again, and wakes the
slot in which they may issue.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.commands import arrive
from hwmodel.dram.state import (
    ACT,
    ACT_KEYS,
    ACT_WAKE,
    AGE,
    AGE_SHIFT,
    AGE_TICK,
    BANK_MASK,
    BANK_PC,
    CHANNEL_BANKS,
    COLUMN_KEYS,
    COLUMN_SHIFT,
    COLUMN_WAKE,
    COUNT,
    FREED,
    FRFCFS_ROW_HIT,
    HIT_FIRST,
    IS_ACTIVE,
    IS_REFRESHING,
    KEY_BANK_BITS,
    LIVE,
    MAX_TRAIN,
    NEVER,
    NONE,
    OPEN_ROW,
    OPENED_IN,
    OTHER_FIRST,
    PLACE,
    PRE,
    PRE_KEYS,
    PRE_WAKE,
    RD,
    RECOUNTED,
    RISING,
    ROW_SHIFT,
    SCHEDULER,
    SLOT_AGE,
    SLOT_BURST,
    SLOT_NEXT,
    SLOT_PLACE,
    STARTED,
    TAIL,
    Words,
    bank_at,
    burst_at,
    drop_key,
    mode_mask,
    pc_at,
    ready_at,
    remove,
    set_key,
    slot_at,
    train_at,
)
from hwmodel.dram.waking import act_floor, wake_column, wake_row
from hwmodel.intrinsics import Row, row_at, trailing_zeros


@inlined
def _key(c: Row, words: Words, mode: int, position: int, bank: int) -> int:
    """Return the key of a waiting burst of a bank."""
    return int(slot_at(c, words, mode, position)[SLOT_AGE] << KEY_BANK_BITS | bank)


@inlined
def nominate(m: Row, c: Row, words: Words, mode: int, bank: int) -> None:
    """Find which bursts of a bank in a buffer may get a command.

    A burst that a bank was activated for goes before all others of its row, and no row is closed before it.
    """
    nominate_column(c, words, mode, bank)
    nominate_row(m, c, words, mode, bank)


@inlined
def nominate_column(c: Row, words: Words, mode: int, bank: int) -> None:
    """Find which burst of a bank in a buffer may get a column command: the active one, or the oldest hit."""
    state = bank_at(c, bank)
    hit = state[HIT_FIRST + mode]
    if state[IS_ACTIVE] and state[OPENED_IN] == mode:
        return
    if hit != NONE and state[IS_REFRESHING] == 0:
        set_key(c, COLUMN_KEYS, mode, bank, _key(c, words, mode, hit, bank))
    else:
        drop_key(c, COLUMN_KEYS, mode, bank)


@inlined
def nominate_row(m: Row, c: Row, words: Words, mode: int, bank: int) -> None:
    """Find which burst of a bank in a buffer may get an activate, or a precharge: the oldest that needs another row."""
    state = bank_at(c, bank)
    hit, other = state[HIT_FIRST + mode], state[OTHER_FIRST + mode]
    drop_key(c, ACT_KEYS, mode, bank)
    drop_key(c, PRE_KEYS, mode, bank)
    if other == NONE or state[IS_REFRESHING]:
        return
    if state[OPEN_ROW] == NONE:
        set_key(c, ACT_KEYS, mode, bank, _key(c, words, mode, other, bank))
    elif state[IS_ACTIVE] == 0 and _may_close(m, c, words, mode, hit, other):
        set_key(c, PRE_KEYS, mode, bank, _key(c, words, mode, other, bank))


@inlined
def _may_close(m: Row, c: Row, words: Words, mode: int, hit: int, other: int) -> bool:
    """Return whether the oldest hit of a row does not keep it open for the oldest burst that needs another one."""
    if hit == NONE or m[SCHEDULER] != FRFCFS_ROW_HIT:
        return True
    arrival = slot_at(c, words, mode, other)[SLOT_AGE] >> AGE_SHIFT
    return bool(slot_at(c, words, mode, hit)[SLOT_AGE] >> AGE_SHIFT > arrival)


@inlined
def _append(c: Row, words: Words, mode: int, ends: Row, position: int) -> None:
    """Put a train behind those of a list, whose ends are (first, _, last)."""
    slot_at(c, words, mode, position)[SLOT_NEXT] = NONE
    if ends[0] == NONE:
        ends[0] = position
    else:
        slot_at(c, words, mode, ends[2])[SLOT_NEXT] = position
    ends[2] = position


@inlined
def take_first(c: Row, words: Words, mode: int, bank: int, first: int) -> int:
    """Take the first burst of a list of a bank (HIT_FIRST, OTHER_FIRST) out of its buffer; return its run."""
    ends = row_at(bank_at(c, bank), first + mode)
    position = ends[0]
    slot, train = slot_at(c, words, mode, position), train_at(c, words, mode, position)
    run = slot[SLOT_BURST]
    remove(mode_mask(c, words, mode, STARTED), words, position)
    c[COUNT + mode] -= 1
    c[FREED] = c[RECOUNTED] = 1
    if train[0] == 1:
        ends[0] = slot[SLOT_NEXT]
        slot[SLOT_BURST] = NONE
        remove(mode_mask(c, words, mode, LIVE), words, position)
    else:
        slot[SLOT_PLACE] += 1 << COLUMN_SHIFT
        slot[SLOT_AGE] = _following(slot[SLOT_AGE], train[0] & 1)
        train[0] >>= 1
    return int(run)


@inlined
def _following(age: int, is_later: int) -> int:
    """Return the age that comes next, at the same tick or at a later one."""
    return ((age >> AGE_SHIFT) + 1) << AGE_SHIFT if is_later else age + 1


@compiled
def row_opened(m: Row, c: Row, words: Words, bank: int) -> None:
    """A bank's row was opened: find its hits."""
    state = bank_at(c, bank)
    row = state[OPEN_ROW]
    for mode in range(2):
        hits, others = row_at(state, HIT_FIRST + mode), row_at(state, OTHER_FIRST + mode)
        position = others[0]
        if position == NONE:
            continue
        others[0] = NONE
        while position != NONE:
            slot = slot_at(c, words, mode, position)
            following = slot[SLOT_NEXT]
            _append(c, words, mode, hits if slot[SLOT_PLACE] >> ROW_SHIFT == row else others, position)
            position = following
        nominate(m, c, words, mode, bank)


@compiled
def row_closed(m: Row, c: Row, words: Words, bank: int) -> None:
    """A bank's row was closed: what waited for it is among the others again."""
    state = bank_at(c, bank)
    for mode in range(2):
        hits, others = row_at(state, HIT_FIRST + mode), row_at(state, OTHER_FIRST + mode)
        if hits[0] == NONE and others[0] == NONE:
            continue
        if hits[0] != NONE:
            one, other = hits[0], others[0]
            hits[0] = others[0] = NONE
            while one != NONE or other != NONE:
                if other == NONE or (one != NONE and _is_older(c, words, mode, one, other)):
                    one, other = other, one
                following = slot_at(c, words, mode, other)[SLOT_NEXT]
                _append(c, words, mode, others, other)
                other = following
        nominate(m, c, words, mode, bank)


@inlined
def _is_older(c: Row, words: Words, mode: int, position: int, other: int) -> bool:
    return bool(slot_at(c, words, mode, position)[SLOT_AGE] < slot_at(c, words, mode, other)[SLOT_AGE])


@compiled
def waits_for(c: Row, words: Words, mode: int, place: int) -> bool:
    """Return whether a burst of that very place waits in a buffer."""
    state = bank_at(c, place & BANK_MASK)
    is_hit = state[OPEN_ROW] == place >> ROW_SHIFT
    position = state[HIT_FIRST + mode] if is_hit else state[OTHER_FIRST + mode]
    while position != NONE:
        slot = slot_at(c, words, mode, position)
        behind = (place - slot[SLOT_PLACE]) >> COLUMN_SHIFT
        if 0 <= behind < MAX_TRAIN and train_at(c, words, mode, position)[0] >> behind != 0:
            return True
        position = slot[SLOT_NEXT]
    return False


@inlined
def oldest_of(c: Row, words: Words, mode: int) -> int:
    """Return the key of the oldest burst of a buffer, or NEVER."""
    oldest = NEVER
    for bank in range(CHANNEL_BANKS):
        state = bank_at(c, bank)
        for first in (state[HIT_FIRST + mode], state[OTHER_FIRST + mode]):
            if first != NONE:
                oldest = min(oldest, _key(c, words, mode, first, bank))
    return oldest


@inlined
def _free_position(c: Row, words: Words, mode: int) -> int:
    live = mode_mask(c, words, mode, LIVE)
    for word in range(len(words)):
        if live[word] != -1:
            position = trailing_zeros(~live[word])
            live[word] |= 1 << position
            return int(64 * word + position)
    return NONE


@inlined
def _extends(c: Row, words: Words, mode: int, run: int, place: int, is_later: int) -> bool:
    """Let a burst of a run join the one that came last, if that waits and is its neighbour; return whether it did."""
    position = c[TAIL + mode]
    slot, train = slot_at(c, words, mode, position), train_at(c, words, mode, position)
    if slot[SLOT_BURST] != run:
        return False
    behind = ((place - slot[SLOT_PLACE]) >> COLUMN_SHIFT) - 1
    if behind >= MAX_TRAIN - 1 or train[0] >> behind != 1:
        return False
    train[0] += (1 + is_later) << behind
    return True


@inlined
def put(m: Row, c: Row, words: Words, mode: int, index: int, tick: int) -> None:
    """Put the next burst of a run into its buffer, which has room; it may be next from the next tick on."""
    place = burst_at(m, index)[PLACE]
    bank = place & BANK_MASK
    state = bank_at(c, bank)
    pc = pc_at(c, state[BANK_PC])
    is_later = 1 if c[AGE_TICK] != tick else 0
    c[COUNT + mode] += 1
    c[RECOUNTED] = 1
    c[AGE] = _following(c[AGE], is_later)
    c[AGE_TICK] = tick
    arrive(pc, tick)
    if _extends(c, words, mode, index, place, is_later):
        return
    position = c[TAIL + mode] = _free_position(c, words, mode)
    slot = slot_at(c, words, mode, position)
    slot[SLOT_PLACE], slot[SLOT_AGE], slot[SLOT_BURST] = place, c[AGE], index
    train_at(c, words, mode, position)[0] = 1
    is_hit = state[OPEN_ROW] == place >> ROW_SHIFT
    ends = row_at(state, (HIT_FIRST if is_hit else OTHER_FIRST) + mode)
    is_first = ends[0] == NONE
    _append(c, words, mode, ends, position)
    if not is_first:
        return
    if is_hit:
        nominate_column(c, words, mode, bank)
    nominate_row(m, c, words, mode, bank)
    if state[OPEN_ROW] == NONE:
        wake_row(c, ACT_WAKE, max(tick + 1, ready_at(c, ACT)[bank], act_floor(pc)) | m[RISING])
    elif is_hit:
        wake_column(c, COLUMN_WAKE, max(tick + 1, ready_at(c, RD + mode)[bank]) | m[RISING])
    else:
        wake_row(c, PRE_WAKE, max(tick + 1, ready_at(c, PRE)[bank], pc[PRE]))


@inlined
def has_bursts(c: Row, words: Words, mode: int, bank: int) -> bool:
    """Return whether a burst for a bank waits in a buffer."""
    state = bank_at(c, bank)
    return bool(state[HIT_FIRST + mode] != NONE or state[OTHER_FIRST + mode] != NONE)


@inlined
def has_hits(c: Row, words: Words, mode: int, bank: int) -> bool:
    """Return whether a burst for a bank's open row waits in a buffer."""
    return bool(bank_at(c, bank)[HIT_FIRST + mode] != NONE)
