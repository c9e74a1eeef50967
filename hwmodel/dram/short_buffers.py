"""The bursts that wait in short buffers: who they are, and who may be next.

Per bank only the oldest burst of each kind can be next. Masks of these candidates stand for the buffers; whatever
changes a bank's row or its bursts looks for its candidates again, and wakes the slot in which they may issue.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.commands import arrive
from hwmodel.dram.positions import make_room
from hwmodel.dram.state import (
    ACT,
    ACT_CANDIDATES,
    ACT_WAKE,
    ALL_BURSTS,
    BANK_MASK,
    BANK_PC,
    COLUMN_CANDIDATES,
    COUNT,
    FREED,
    FRFCFS_ROW_HIT,
    HIT_WAKE,
    IS_ACTIVE,
    IS_REFRESHING,
    LIVE,
    NONE,
    OPEN_ROW,
    PLACE,
    PRE,
    PRE_CANDIDATES,
    PRE_WAKE,
    RD,
    RECOUNTED,
    RISING,
    ROW_HITS,
    ROW_SHIFT,
    SCHEDULER,
    SLOT_ARRIVAL,
    SLOT_BURST,
    SLOT_PLACE,
    STARTED,
    TAIL,
    Row,
    Words,
    bank_at,
    bank_mask,
    burst_at,
    candidates,
    insert,
    lowest,
    mode_mask,
    pc_at,
    ready_at,
    row_at,
    slot_at,
    trailing_zeros,
    word_of,
)
from hwmodel.dram.waking import act_floor, wake_column, wake_row


@inlined
def nominate(m: Row, c: Row, words: Words, mode: int, bank: int) -> None:
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
            insert(row_at(masks, ACT_CANDIDATES * len(words)), words, oldest)
        return
    hits = row_at(bursts, ROW_HITS * len(words))
    hit = lowest(hits, words)
    if hit != NONE:
        insert(row_at(masks, COLUMN_CANDIDATES * len(words)), words, hit)
    if state[IS_ACTIVE]:
        return
    for word in range(len(words)):
        conflicts = bursts[word] & ~hits[word]
        if conflicts != 0:
            oldest = 64 * word + trailing_zeros(conflicts)
            if _may_close(m, c, words, mode, hit, oldest):
                insert(row_at(masks, PRE_CANDIDATES * len(words)), words, oldest)
            return


@inlined
def nominate_open(m: Row, c: Row, words: Words, mode: int, bank: int) -> bool:
    """Add the candidates of an open bank whose column command issued; return whether a burst waits for another row.

    Those there were stay candidates: nothing came that could hold them back.
    """
    state = bank_at(c, bank)
    masks = candidates(c, words, mode, state[BANK_PC], 0)
    bursts = bank_mask(c, words, bank, mode, ALL_BURSTS)
    hits = row_at(bursts, ROW_HITS * len(words))
    hit, oldest = lowest(hits, words), NONE
    for word in range(len(words)):
        conflicts = bursts[word] & ~hits[word]
        if conflicts != 0:
            oldest = 64 * word + trailing_zeros(conflicts)
            break
    if state[IS_REFRESHING] == 0:
        if hit != NONE:
            insert(row_at(masks, COLUMN_CANDIDATES * len(words)), words, hit)
        if oldest != NONE and state[IS_ACTIVE] == 0 and _may_close(m, c, words, mode, hit, oldest):
            insert(row_at(masks, PRE_CANDIDATES * len(words)), words, oldest)
    return bool(oldest != NONE)


@inlined
def _may_close(m: Row, c: Row, words: Words, mode: int, hit: int, oldest: int) -> bool:
    """Return whether the oldest hit of a row does not keep it open for the oldest burst that needs another one."""
    return bool(hit == NONE or m[SCHEDULER] != FRFCFS_ROW_HIT or _younger(c, words, mode, hit, oldest))


@inlined
def _younger(c: Row, words: Words, mode: int, position: int, other: int) -> bool:
    """Return whether a burst arrived after another one."""
    return bool(slot_at(c, words, mode, position)[SLOT_ARRIVAL] > slot_at(c, words, mode, other)[SLOT_ARRIVAL])


@inlined
def take(c: Row, words: Words, mode: int, position: int, bank: int, candidate: int) -> None:
    """Take a burst out of its buffer, and out of the candidates of a kind, which it was one of."""
    others, word = ~(1 << (position & 63)), word_of(words, position)
    masks = mode_mask(c, words, mode, 0)
    masks[LIVE * len(words) + word] &= others
    masks[STARTED * len(words) + word] &= others
    bank_mask(c, words, bank, mode, ALL_BURSTS)[word] &= others
    candidates(c, words, mode, bank_at(c, bank)[BANK_PC], candidate)[word] &= others
    c[COUNT + mode] -= 1
    c[FREED] = c[RECOUNTED] = 1


@compiled
def row_changed(m: Row, c: Row, words: Words, bank: int) -> None:
    """A bank's row was opened or closed: find its hits and its candidates."""
    row = bank_at(c, bank)[OPEN_ROW]
    for mode in range(2):
        bursts = bank_mask(c, words, bank, mode, ALL_BURSTS)
        if lowest(bursts, words) == NONE:
            continue
        hits = row_at(bursts, ROW_HITS * len(words))
        for word in range(len(words)):
            bits, found = bursts[word], 0
            if row != NONE:
                while bits != 0:
                    bit = trailing_zeros(bits)
                    bits &= bits - 1
                    if slot_at(c, words, mode, 64 * word + bit)[SLOT_PLACE] >> ROW_SHIFT == row:
                        found |= 1 << bit
            hits[word] = found
        nominate(m, c, words, mode, bank)


@compiled
def waits_for(c: Row, words: Words, mode: int, place: int) -> bool:
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
def put(m: Row, c: Row, words: Words, mode: int, index: int, tick: int) -> None:
    """Put the next burst of a run into its buffer, which has room; it may be next from the next tick on."""
    burst = burst_at(m, index)
    if c[TAIL + mode] == 64 * len(words):
        make_room(m, c, words, mode)
    position = c[TAIL + mode]
    c[TAIL + mode] = position + 1
    c[COUNT + mode] += 1
    c[RECOUNTED] = 1
    place = burst[PLACE]
    bank = place & BANK_MASK
    state = bank_at(c, bank)
    slot = slot_at(c, words, mode, position)
    slot[SLOT_PLACE] = place
    slot[SLOT_ARRIVAL] = tick
    slot[SLOT_BURST] = index
    bursts = bank_mask(c, words, bank, mode, ALL_BURSTS)
    first = lowest(bursts, words) == NONE
    insert(mode_mask(c, words, mode, LIVE), words, position)
    insert(bursts, words, position)
    arrive(pc_at(c, state[BANK_PC]), tick)
    if state[OPEN_ROW] == NONE:
        if first and state[IS_REFRESHING] == 0:
            insert(candidates(c, words, mode, state[BANK_PC], ACT_CANDIDATES), words, position)
            at = max(tick + 1, ready_at(c, ACT)[bank], act_floor(m, pc_at(c, state[BANK_PC])))
            wake_row(c, ACT_WAKE, at | m[RISING])
    elif state[OPEN_ROW] == place >> ROW_SHIFT:
        hits = row_at(bursts, ROW_HITS * len(words))
        first = lowest(hits, words) == NONE
        insert(hits, words, position)
        if first:
            nominate(m, c, words, mode, bank)
            wake_column(c, HIT_WAKE, max(tick + 1, ready_at(c, RD + mode)[bank]) | m[RISING])
    elif state[IS_ACTIVE] == 0:
        nominate_open(m, c, words, mode, bank)
        wake_row(c, PRE_WAKE, max(tick + 1, ready_at(c, PRE)[bank], pc_at(c, state[BANK_PC])[PRE]))


@inlined
def has_bursts(c: Row, words: Words, mode: int, bank: int) -> bool:
    """Return whether a burst for a bank waits in a buffer."""
    return bool(lowest(bank_mask(c, words, bank, mode, ALL_BURSTS), words) != NONE)


@inlined
def has_hits(c: Row, words: Words, mode: int, bank: int) -> bool:
    """Return whether a burst for a bank's open row waits in a buffer."""
    return bool(lowest(bank_mask(c, words, bank, mode, ROW_HITS), words) != NONE)
