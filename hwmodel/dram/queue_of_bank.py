"""The command queue of one bank, as in DRAMsim3: what waits in it, and which of its bursts may be next.

A queue holds reads and writes together, in the order in which they came: its positions are bits of masks, the lowest
bit the oldest. Whatever changes its row or its bursts classifies the bank anew, so that the channel has four masks of
banks that need an activate, a read, a write or a precharge. A precharge waits until no burst of the queue hits the
open row, or the row has served its streak of hits; a write waits behind an earlier read of its place.
Counts of the waiting bursts by hashed place say quickly that none of a place waits.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.room import MAX_QUEUES
from hwmodel.dram.state import (
    ACT,
    ALL_BURSTS,
    BANK_MASK,
    BANK_PC,
    CLOSED_BANKS,
    COLUMN_FREE,
    COLUMN_SHIFT,
    CONFLICT_BANKS,
    HIT_STREAK,
    INDEX,
    NEVER,
    NONE,
    OPEN_ROW,
    PENDING_ENTRIES,
    PRE,
    Q_HITS,
    Q_LIVE,
    Q_READS,
    Q_STARTED,
    Q_TAIL,
    Q_WAKE,
    QUEUE_POSITIONS,
    QUEUE_STATE,
    QUEUE_WORDS,
    RD,
    READ_BANKS,
    RISING,
    ROW_FREE,
    ROW_SHIFT,
    SLOT_BURST,
    SLOT_FIELDS,
    SLOT_PLACE,
    STREAK,
    WR,
    WRITE_BANKS,
    Words,
    bank_at,
    bank_mask,
    pc_at,
    ready_at,
    slot_at,
)
from hwmodel.intrinsics import Row, pointer_of, row_at, trailing_zeros

PENDING_SHIFT = 32
BANK_SPACING = 32  # assumed: bursts in a row, for hashes; any number will do
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
    """Return the counts of the waiting reads and, shifted by PENDING_SHIFT, writes whose places hash as this one.

    Neighbours in a row hash to neighbours, since they come together, and rows to anywhere.
    """
    column, bank, row = place >> COLUMN_SHIFT, place & BANK_MASK, place >> ROW_SHIFT
    return pending_entry(m, c, (column + bank * BANK_SPACING + (row * GOLDEN >> 55)) & (PENDING_ENTRIES - 1))


@compiled
def find_pending(m: Row, c: Row, words: Words, mode: int, place: int) -> int:
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
def classify(m: Row, c: Row, bank: int) -> None:
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


@inlined
def first_in_queue(m: Row, c: Row, bank: int, tick: int) -> tuple[int, int, int]:
    """Return (command, position) of a bank's first burst whose command is ready, or NONE; and the next ready tick."""
    state = bank_at(c, bank)
    pc = pc_at(c, state[BANK_PC])
    live, hits, wake = state[Q_LIVE], state[Q_HITS], NEVER
    if state[OPEN_ROW] == NONE:
        at = max(pc[ACT], ready_at(c, ACT)[bank], c[ROW_FREE], tick) | m[RISING]
        return (ACT if at <= tick else NONE), trailing_zeros(live), at
    if (c[CONFLICT_BANKS] >> bank) & 1:
        at = max(pc[PRE], ready_at(c, PRE)[bank], c[ROW_FREE])
        if at <= tick:
            return PRE, trailing_zeros(live), at
        wake = at
    reads, writes = hits & state[Q_READS], hits & ~state[Q_READS]
    if reads != 0:
        at = max(pc[RD], ready_at(c, RD)[bank], c[COLUMN_FREE], tick) | m[RISING]
        if at > tick:
            reads, wake = 0, min(wake, at)
    if writes != 0:
        at = max(pc[WR], ready_at(c, WR)[bank], c[COLUMN_FREE], tick) | m[RISING]
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
def row_changed(m: Row, c: Row, bank: int) -> None:
    """A bank's row was opened or closed: find its hits."""
    state = bank_at(c, bank)
    row, hits, bits = state[OPEN_ROW], 0, state[Q_LIVE]
    while bits != 0 and row != NONE:
        position = trailing_zeros(bits)
        bits &= bits - 1
        if queued_at(m, c, bank, position)[SLOT_PLACE] >> ROW_SHIFT == row:
            hits |= 1 << position
    state[Q_HITS] = hits
    classify(m, c, bank)


@compiled
def close_gaps(m: Row, c: Row, bank: int) -> None:
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
    row_changed(m, c, bank)
