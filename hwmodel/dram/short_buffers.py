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
    Words,
    bank_at,
    bank_mask,
    burst_at,
    candidates,
    mode_mask,
    pc_at,
    ready_at,
    slot_at,
)
from hwmodel.dram.waking import act_floor, wake_column, wake_row
from hwmodel.intrinsics import Row, trailing_zeros


@inlined
def nominate(m: Row, c: Row, words: Words, mode: int, bank: int) -> None:
    """Find a bank's candidates in a buffer: the oldest hit, and the oldest burst that needs a row command."""
    state = bank_at(c, bank)
    masks = candidates(c, words, mode, state[BANK_PC], 0)
    bursts = bank_mask(c, words, bank, mode, 0)
    waiting = bursts[ALL_BURSTS]
    masks[COLUMN_CANDIDATES] &= ~waiting
    masks[ACT_CANDIDATES] &= ~waiting
    masks[PRE_CANDIDATES] &= ~waiting
    if state[IS_REFRESHING]:
        return
    if state[OPEN_ROW] == NONE:
        masks[ACT_CANDIDATES] |= waiting & -waiting
        return
    _nominate_open(m, c, words, mode, masks, bursts[ROW_HITS], waiting & ~bursts[ROW_HITS], state[IS_ACTIVE] == 0)


@inlined
def nominate_open(m: Row, c: Row, words: Words, mode: int, bank: int) -> bool:
    """Add the candidates of an open bank whose column command issued; return whether a burst waits for another row.

    Those there were stay candidates: nothing came that could hold them back.
    """
    state, bursts = bank_at(c, bank), bank_mask(c, words, bank, mode, 0)
    conflicts = bursts[ALL_BURSTS] & ~bursts[ROW_HITS]
    if state[IS_REFRESHING] == 0:
        masks = candidates(c, words, mode, state[BANK_PC], 0)
        _nominate_open(m, c, words, mode, masks, bursts[ROW_HITS], conflicts, state[IS_ACTIVE] == 0)
    return bool(conflicts != 0)


@inlined
def _nominate_open(
    m: Row, c: Row, words: Words, mode: int, masks: Row, hits: int, conflicts: int, may_close: bool
) -> None:
    """Add the oldest hit of an open bank, and the oldest burst for another row if the bank may be closed for it."""
    masks[COLUMN_CANDIDATES] |= hits & -hits
    if conflicts != 0 and may_close and _protects_none(m, c, words, mode, hits, conflicts):
        masks[PRE_CANDIDATES] |= conflicts & -conflicts


@inlined
def _protects_none(m: Row, c: Row, words: Words, mode: int, hits: int, conflicts: int) -> bool:
    """Return whether no hit of a row keeps it open for the oldest burst that needs another one: all came after that."""
    if hits == 0 or m[SCHEDULER] != FRFCFS_ROW_HIT:
        return True
    arrival = slot_at(c, words, mode, trailing_zeros(conflicts))[SLOT_ARRIVAL]
    return bool(slot_at(c, words, mode, trailing_zeros(hits))[SLOT_ARRIVAL] > arrival)


@inlined
def take(c: Row, words: Words, mode: int, position: int, bank: int, candidate: int) -> None:
    """Take a burst out of its buffer, and out of the candidates of a kind, which it was one of."""
    others, masks = ~(1 << position), mode_mask(c, words, mode, 0)
    masks[LIVE] &= others
    masks[STARTED] &= others
    bank_mask(c, words, bank, mode, 0)[ALL_BURSTS] &= others
    candidates(c, words, mode, bank_at(c, bank)[BANK_PC], 0)[candidate] &= others
    c[COUNT + mode] -= 1
    c[FREED] = c[RECOUNTED] = 1


@inlined
def row_opened(c: Row, words: Words, bank: int) -> None:
    """A bank's row was opened, for an active burst: find the hits among those that wait; they may be next."""
    state = bank_at(c, bank)
    row = state[OPEN_ROW]
    for mode in range(2):
        bursts, hits = bank_mask(c, words, bank, mode, 0), 0
        waiting = bits = bursts[ALL_BURSTS]
        while bits != 0:
            position = trailing_zeros(bits)
            bits &= bits - 1
            hits |= (slot_at(c, words, mode, position)[SLOT_PLACE] >> ROW_SHIFT == row) << position
        bursts[ROW_HITS] = hits
        masks = candidates(c, words, mode, state[BANK_PC], 0)
        masks[ACT_CANDIDATES] &= ~waiting
        masks[COLUMN_CANDIDATES] |= hits & -hits


@inlined
def row_closed(c: Row, words: Words, bank: int) -> None:
    """A bank's row was closed: nothing hits it any more, and the oldest burst needs an activate."""
    state = bank_at(c, bank)
    for mode in range(2):
        bursts = bank_mask(c, words, bank, mode, 0)
        waiting = bursts[ALL_BURSTS]
        bursts[ROW_HITS] = 0
        masks = candidates(c, words, mode, state[BANK_PC], 0)
        masks[COLUMN_CANDIDATES] &= ~waiting
        masks[PRE_CANDIDATES] &= ~waiting
        if not state[IS_REFRESHING]:
            masks[ACT_CANDIDATES] |= waiting & -waiting


@compiled
def waits_for(c: Row, words: Words, mode: int, place: int) -> bool:
    """Return whether a burst of that very place waits in a buffer."""
    bits = bank_mask(c, words, place & BANK_MASK, mode, 0)[ALL_BURSTS]
    while bits != 0:
        if slot_at(c, words, mode, trailing_zeros(bits))[SLOT_PLACE] == place:
            return True
        bits &= bits - 1
    return False


@inlined
def put(m: Row, c: Row, words: Words, mode: int, index: int, tick: int) -> None:
    """Put the next burst of a run into its buffer, which has room; it may be next from the next tick on."""
    burst = burst_at(m, index)
    if c[TAIL + mode] == 64:
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
    bursts, bit = bank_mask(c, words, bank, mode, 0), 1 << position
    is_first, conflicts = bursts[ALL_BURSTS] == 0, bursts[ALL_BURSTS] & ~bursts[ROW_HITS]
    mode_mask(c, words, mode, 0)[LIVE] |= bit
    bursts[ALL_BURSTS] |= bit
    arrive(pc_at(c, state[BANK_PC]), tick)
    if state[OPEN_ROW] == NONE:
        if is_first and state[IS_REFRESHING] == 0:
            candidates(c, words, mode, state[BANK_PC], 0)[ACT_CANDIDATES] |= bit
            at = max(tick + 1, ready_at(c, ACT)[bank], act_floor(pc_at(c, state[BANK_PC])))
            wake_row(c, ACT_WAKE, at | m[RISING])
    elif state[OPEN_ROW] == place >> ROW_SHIFT:
        is_first = bursts[ROW_HITS] == 0
        bursts[ROW_HITS] |= bit
        if is_first:
            nominate(m, c, words, mode, bank)
            wake_column(c, HIT_WAKE, max(tick + 1, ready_at(c, RD + mode)[bank]) | m[RISING])
    elif state[IS_ACTIVE] == 0 and conflicts == 0:
        nominate_open(m, c, words, mode, bank)
        wake_row(c, PRE_WAKE, max(tick + 1, ready_at(c, PRE)[bank], pc_at(c, state[BANK_PC])[PRE]))


@inlined
def has_bursts(c: Row, words: Words, mode: int, bank: int) -> bool:
    """Return whether a burst for a bank waits in a buffer."""
    return bool(bank_mask(c, words, bank, mode, 0)[ALL_BURSTS] != 0)


@inlined
def has_hits(c: Row, words: Words, mode: int, bank: int) -> bool:
    """Return whether a burst for a bank's open row waits in a buffer."""
    return bool(bank_mask(c, words, bank, mode, 0)[ROW_HITS] != 0)
