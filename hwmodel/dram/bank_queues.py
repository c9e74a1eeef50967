"""A command queue per bank, served round robin, as in DRAMsim3.

Each tick issues from the first queue, from the bank after the last one served, with a command that is ready
(`queue_of_bank`), then moves one burst from the buffers of the channel into its bank's queue (`bank_buffers`). A row
command and a column command may issue in the same tick. An all-bank refresh that is due stops all other commands of
its channel. Limit: 64 banks per channel, one bit of a mask each.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.bank_buffers import accept, release_held, schedule
from hwmodel.dram.commands import activate, close, column, finish, row_command, serve_merged
from hwmodel.dram.queue_of_bank import PENDING_SHIFT, classify, first_in_queue, pending, queued_at, row_changed
from hwmodel.dram.state import (
    ACT,
    ARRIVAL,
    ARRIVES,
    BANK_CONFLICTS,
    BANK_PC,
    BANK_STRIDE,
    BANKS,
    CLOSED_BANKS,
    COLUMN_FREE,
    COLUMN_WAKE,
    CONFLICT,
    CONFLICT_BANKS,
    CONFLICTS,
    COUNT,
    DRAIN_ABOVE,
    DRAIN_BELOW,
    DRAINING,
    DUE,
    DUE_PC,
    FREED,
    FULL_BANKS,
    HIT,
    HITS,
    INBOX_HEAD,
    LAST_BANK,
    LAST_DONE,
    MERGED,
    MISS,
    MISSES,
    NEVER,
    NONE,
    ONE_BUS,
    OPEN_BANKS,
    OPEN_ROW,
    OPENED_BY,
    PER_CHANNEL,
    PRE,
    PRECHARGES,
    Q_COUNT,
    Q_HITS,
    Q_LIVE,
    Q_READS,
    Q_STARTED,
    Q_WAKE,
    QUEUED,
    RD,
    READ_BANKS,
    REFAB,
    REFRESH_DUE,
    REFRESH_INTERVAL,
    REFRESH_TICKS,
    REFRESHED_UNTIL,
    REFRESHES,
    REQUEST,
    RISING,
    ROW_FREE,
    ROW_SHIFT,
    ROW_WAKE,
    SLOT_BURST,
    SLOT_PLACE,
    SOURCE_LEFT,
    STREAK,
    WR,
    WRITE_BANKS,
    Words,
    bank_at,
    burst_at,
    pc_at,
    ready_at,
)
from hwmodel.intrinsics import Row, rotate_right, trailing_zeros


@inlined
def _first_ready(m: Row, c: Row, tick: int) -> tuple[int, int, int, int]:
    """Return (command, bank, position) of the first ready one, round robin, or NONE; and the next ready tick."""
    closed, reads = c[CLOSED_BANKS], c[READ_BANKS]
    writes, conflicts = c[WRITE_BANKS], c[CONFLICT_BANKS]
    wake = NEVER
    if m[PER_CHANNEL] == 1:  # what no bank can have yet is not asked for bank by bank
        pc = pc_at(c, 0)
        if closed != 0 and pc[ACT] > tick:
            closed, wake = 0, min(wake, pc[ACT])
        if reads != 0 and pc[RD] > tick:
            reads, wake = 0, min(wake, pc[RD])
        if writes != 0 and pc[WR] > tick:
            writes, wake = 0, min(wake, pc[WR])
    banks = closed | reads | writes | conflicts
    first = (c[LAST_BANK] + 1) & 63
    bits = rotate_right(banks, first)
    while bits != 0:
        bank = (first + trailing_zeros(bits)) & 63
        bits &= bits - 1
        state = bank_at(c, bank)
        if state[Q_WAKE] <= tick:
            command, position, state[Q_WAKE] = first_in_queue(m, c, bank, tick)
            if command != NONE:
                return command, bank, position, tick
        wake = min(wake, state[Q_WAKE])
    return NONE, 0, 0, wake


@inlined
def _issue_column(m: Row, c: Row, words: Words, bank: int, mode: int, position: int, tick: int) -> None:
    """Issue the column command of a burst, which counts now, however often refreshes closed its row before it.

    Merged bursts are done with it.
    """
    state, slot, bit = bank_at(c, bank), queued_at(m, c, bank, position), 1 << position
    place, burst = slot[SLOT_PLACE], slot[SLOT_BURST]
    is_hit = state[STREAK] > 0
    column(m, c, bank, mode, tick)
    outcome = HIT if is_hit else (CONFLICT if state[Q_STARTED] & bit else MISS)
    pc = pc_at(c, state[BANK_PC])
    pc[HITS] += outcome == HIT
    pc[MISSES] += outcome == MISS
    pc[CONFLICTS] += outcome == CONFLICT
    state[BANK_CONFLICTS] += outcome == CONFLICT
    state[Q_LIVE] &= ~bit
    state[Q_HITS] &= ~bit
    state[Q_READS] &= ~bit
    state[Q_STARTED] &= ~bit
    state[Q_COUNT] -= 1
    c[QUEUED] -= 1
    if (c[FULL_BANKS] >> bank) & 1:
        release_held(c, words, bank)
        c[ROW_WAKE] = tick
    elif c[QUEUED] == 0:  # a drain may begin
        c[ROW_WAKE] = tick
    if mode == 0 and state[Q_HITS] & state[Q_READS] != 0 and state[Q_LIVE] & -state[Q_LIVE] & state[Q_HITS] != 0:
        state[Q_WAKE] = 0  # another read comes next, and no conflict is the oldest: its class is what it was
    else:
        classify(m, c, bank)
    pending(m, c, place)[0] -= 1 << PENDING_SHIFT * mode
    merged = burst_at(m, burst)[MERGED]
    done = finish(m, c, bank, burst, mode, tick, outcome)
    while merged != NONE:
        row = burst_at(m, merged)
        following = row[MERGED]
        serve_merged(m, c, bank, merged, row[ARRIVAL], mode, done)
        merged = following
    c[LAST_DONE] = max(c[LAST_DONE], tick + 1 if mode else done + 1)


@compiled
def _issue(m: Row, c: Row, words: Words, command: int, bank: int, position: int, tick: int) -> None:
    state = bank_at(c, bank)
    bit = 1 << position
    if command == ACT:
        slot = queued_at(m, c, bank, position)
        activate(m, c, bank, slot[SLOT_PLACE] >> ROW_SHIFT, tick)
        state[OPENED_BY] = burst_at(m, slot[SLOT_BURST])[REQUEST]
        row_changed(m, c, bank)
    elif command == PRE:
        state[Q_STARTED] |= bit
        _precharge(m, c, bank, tick)
    else:
        _issue_column(m, c, words, bank, command - RD, position, tick)


@compiled
def _precharge(m: Row, c: Row, bank: int, tick: int) -> None:
    pc_at(c, bank_at(c, bank)[BANK_PC])[PRECHARGES] += 1
    close(c, bank)
    row_command(m, c, bank, PRE, tick)
    row_changed(m, c, bank)


@compiled
def _refresh(m: Row, c: Row, tick: int) -> int:
    """Work towards the refresh that is due: close its banks in their order, then refresh; return the next try."""
    index = c[DUE_PC]
    pc, first = pc_at(c, index), index * m[BANK_STRIDE]
    if pc[OPEN_BANKS] != 0:
        wake = NEVER
        for bank in range(first, first + m[BANKS]):
            if bank_at(c, bank)[OPEN_ROW] != NONE:
                at = max(pc[PRE], ready_at(c, PRE)[bank], c[ROW_FREE])
                if at <= tick:
                    _precharge(m, c, bank, tick)
                    return tick + 1
                wake = min(wake, at)
        return int(wake)
    at = max(pc[REFAB], c[ROW_FREE], tick) | m[RISING]
    if at > tick:
        return int(at)
    row_command(m, c, first, REFAB, tick)
    pc[REFRESHES] += 1
    for bank in range(first, first + m[BANKS]):
        bank_at(c, bank)[REFRESHED_UNTIL] = tick + m[REFRESH_TICKS]
    c[DUE] -= 1
    c[DUE_PC] = index + 1 if index + 1 < m[PER_CHANNEL] else 0
    return tick + 1


@inlined
def _issue_commands(m: Row, c: Row, words: Words, tick: int) -> int:
    """Issue a command, and a second one of the other kind with it; return the tick of the next try.

    The turn passes to the bank of the second command found, issued or not, and the search for it does not see the bus
    of the first, as in DRAMsim3.
    """
    row_free, column_free = c[ROW_FREE], c[COLUMN_FREE]
    command, bank, position, wake = _first_ready(m, c, tick)
    if command == NONE:
        return int(wake)
    c[LAST_BANK] = bank
    if command >= RD:  # by far the most
        _issue_column(m, c, words, bank, command - RD, position, tick)
    else:
        _issue(m, c, words, command, bank, position, tick)
    row_after, column_after = c[ROW_FREE], c[COLUMN_FREE]
    c[ROW_FREE], c[COLUMN_FREE] = row_free, column_free
    second, bank, position, wake = _first_ready(m, c, tick)
    c[ROW_FREE], c[COLUMN_FREE] = row_after, column_after
    if second != NONE:
        c[LAST_BANK] = bank
        if (second >= RD) != (command >= RD) and m[ONE_BUS] == 0:
            _issue(m, c, words, second, bank, position, tick)
        return tick + 1
    return int(max(wake, tick + 1))


@inlined
def end_tick(m: Row, c: Row, words: Words, tick: int) -> bool:
    """Accept bursts after a tick, for the next one; return whether arrays must grow first."""
    if c[FREED] or c[ARRIVES] <= tick:
        return bool(accept(m, c, words, tick + 1))
    return False


@inlined
def issue(m: Row, c: Row, words: Words, tick: int) -> None:
    """Issue the commands of a tick, then move a burst."""
    if c[REFRESH_DUE] <= tick:
        c[REFRESH_DUE] += m[REFRESH_INTERVAL]
        c[DUE] += m[PER_CHANNEL]
        c[COLUMN_WAKE] = tick
    if c[COLUMN_WAKE] <= tick:
        if c[DUE] != 0:
            c[COLUMN_WAKE] = _refresh(m, c, tick)
        else:
            c[COLUMN_WAKE] = _issue_commands(m, c, words, tick)
    if c[ROW_WAKE] <= tick:
        c[ROW_WAKE] = tick + 1 if schedule(m, c, words, tick) else NEVER


@compiled
def is_done(m: Row, c: Row) -> bool:
    """Return whether nothing will happen any more but refreshes; a few writes may be left waiting for a drain."""
    if c[INBOX_HEAD] != NONE or c[QUEUED] + c[COUNT] + c[DRAINING] != 0:
        return False
    waits_for_more = c[COUNT + 1] == 0 or (c[COUNT + 1] <= m[DRAIN_BELOW] and c[COUNT + 1] < m[DRAIN_ABOVE])
    return bool(waits_for_more and m[SOURCE_LEFT] == 0)
