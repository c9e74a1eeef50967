"""The bursts that wait in deep buffers: who they are, and who may be next.

Those of a bank are two lists, oldest first: of its open row, and all others. Per bank only the first of each can be
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
    COLUMN_WAKE,
    COUNT,
    FREED,
    FRFCFS_ROW_HIT,
    HIT_FIRST,
    IS_ACTIVE,
    IS_REFRESHING,
    KEY_BANK_BITS,
    LIVE,
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
    Row,
    Words,
    bank_at,
    burst_at,
    drop_key,
    mode_mask,
    pc_at,
    ready_at,
    row_at,
    set_key,
    slot_at,
    trailing_zeros,
    word_of,
)
from hwmodel.dram.waking import act_floor, wake_column, wake_row


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
    """Put a burst behind those of a list, whose ends are (first, _, last)."""
    slot_at(c, words, mode, position)[SLOT_NEXT] = NONE
    if ends[0] == NONE:
        ends[0] = position
    else:
        slot_at(c, words, mode, ends[2])[SLOT_NEXT] = position
    ends[2] = position


@inlined
def take_first(c: Row, words: Words, mode: int, bank: int, first: int) -> int:
    """Take the first burst of a list of a bank (HIT_FIRST, OTHER_FIRST) out of its buffer; return its position."""
    ends = row_at(bank_at(c, bank), first + mode)
    position = ends[0]
    ends[0] = slot_at(c, words, mode, position)[SLOT_NEXT]
    others, word = ~(1 << (position & 63)), word_of(words, position)
    masks = mode_mask(c, words, mode, 0)
    masks[LIVE * len(words) + word] &= others
    masks[STARTED * len(words) + word] &= others
    c[COUNT + mode] -= 1
    c[FREED] = c[RECOUNTED] = 1
    return int(position)


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
        if slot[SLOT_PLACE] == place:
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
def put(m: Row, c: Row, words: Words, mode: int, index: int, tick: int) -> None:
    """Put the next burst of a run into its buffer, which has room; it may be next from the next tick on."""
    place = burst_at(m, index)[PLACE]
    bank, position = place & BANK_MASK, _free_position(c, words, mode)
    state, slot = bank_at(c, bank), slot_at(c, words, mode, position)
    pc = pc_at(c, state[BANK_PC])
    c[COUNT + mode] += 1
    c[RECOUNTED] = 1
    c[AGE] = c[AGE] + 1 if c[AGE_TICK] == tick else ((c[AGE] >> AGE_SHIFT) + 1) << AGE_SHIFT
    c[AGE_TICK] = tick
    slot[SLOT_PLACE], slot[SLOT_AGE], slot[SLOT_BURST] = place, c[AGE], index
    is_hit = state[OPEN_ROW] == place >> ROW_SHIFT
    ends = row_at(state, (HIT_FIRST if is_hit else OTHER_FIRST) + mode)
    is_first = ends[0] == NONE
    _append(c, words, mode, ends, position)
    arrive(pc, tick)
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
