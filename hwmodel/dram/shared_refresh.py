"""Row commands that no burst asks for, under FR-FCFS and FCFS: refreshes, and rows closed after a while without use.

A refresh of a single bank that is due keeps new bursts from its bank and goes before other row commands when it is
ready. Activates of other banks may make it wait (each keeps it away for a while), until its pseudo-channel owes
`MOST_OWED` of them: then no bank of it is activated before one has been made up for.
"""

from __future__ import annotations

from hwmodel.compiled import compiled
from hwmodel.dram.buffers import has_hits, nominate, precharge, row_closed
from hwmodel.dram.commands import close, row_command
from hwmodel.dram.state import (
    ACT,
    ACT_WAKE,
    ACTIVE_BANKS,
    BANK_STRIDE,
    BANKS,
    CLOSE_AFTER,
    DUE,
    DUE_PC,
    IS_ACTIVE,
    IS_REFRESHING,
    MOST_OWED,
    NEVER,
    NEXT_BANK,
    NONE,
    OPEN_BANKS,
    OPEN_ROW,
    OTHER_WAKE,
    OWED,
    PER_CHANNEL,
    PRE,
    PREAB,
    PRECHARGE_ALLS,
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
    RISING,
    USED_TICK,
    Words,
    bank_at,
    pc_at,
    ready_at,
)
from hwmodel.dram.waking import wake_all, wake_row
from hwmodel.intrinsics import Row


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
                row_closed(m, c, words, bank)
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
        wake_all(m, c, tick + 1)
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
    nominate(m, c, words, 0, bank)
    nominate(m, c, words, 1, bank)


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
            at = max(pc[PRE], ready_at(c, PRE)[bank])
            if at <= tick:
                precharge(m, c, words, bank, tick)
                return True, tick
        else:
            at = max(tick, pc[REFPB], ready_at(c, REFPB)[bank]) | m[RISING]
            if at <= tick:
                row_command(m, c, bank, REFPB, tick)
                pc[REFRESHES] += 1
                pc[REFRESHING] = NONE
                if pc[OWED] == MOST_OWED:
                    wake_row(c, ACT_WAKE, tick + 1)
                pc[OWED] -= 1
                own[IS_REFRESHING] = 0
                if pc[OWED] > 0:
                    _hold_for_refresh(m, c, words, index)
                own[REFRESHED_UNTIL] = tick + m[REFRESH_TICKS]
                nominate(m, c, words, 0, bank)
                nominate(m, c, words, 1, bank)
                wake_row(c, ACT_WAKE, max(tick + 1, ready_at(c, ACT)[bank]) | m[RISING])
                return True, tick
        wake = min(wake, at)
    return False, wake


@compiled
def close_unused(m: Row, c: Row, words: Words, tick: int) -> int:
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
            if has_hits(c, words, 0, bank) or has_hits(c, words, 1, bank):
                continue
            at = max(state[USED_TICK] + m[CLOSE_AFTER], ready_at(c, PRE)[bank], pc[PRE])
            if at <= tick:
                precharge(m, c, words, bank, tick)
                return NONE
            wake = min(wake, at)
    return wake


@compiled
def other_row_command(m: Row, c: Row, words: Words, tick: int) -> bool:
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


@compiled
def refresh_falls_due(m: Row, c: Row, words: Words, tick: int) -> None:
    """Note the refreshes that are due from this tick on."""
    c[REFRESH_DUE] += m[REFRESH_INTERVAL]
    wake_row(c, OTHER_WAKE, tick)
    if m[REFRESH] == REFRESH_ALL_BANK:
        c[DUE] += m[PER_CHANNEL]
        return
    for index in range(m[PER_CHANNEL]):
        pc = pc_at(c, index)
        pc[OWED] += 1
        if pc[REFRESHING] == NONE:
            _hold_for_refresh(m, c, words, index)
