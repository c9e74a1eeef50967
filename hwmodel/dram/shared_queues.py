"""FR-FCFS and FCFS over one read and one write buffer per channel, as in Ramulator 2.1's HBM controllers.

A burst waits in its mode's buffer until its activate issues; then it waits for its column command among the active
ones, one per bank, and its place in the buffer is free. Each tick has a column slot and a row slot (with half ticks,
columns, activates and refreshes on rising edges only). The oldest burst whose next command is ready goes first:
columns of active bursts before those of row hits in the buffer. A due all-bank refresh takes no new burst from
either buffer until it has issued in every pseudo-channel; a per-bank refresh only holds its bank.
Which burst a slot takes, `short_queues` and `deep_queues` say, by how many may wait; lower bounds of the next ready
tick stand for the ticks between, on which nothing can happen.
"""

from __future__ import annotations

from typing import Any

from hwmodel.compiled import inlined
from hwmodel.dram.buffers import accept
from hwmodel.dram.shared_refresh import close_unused, other_row_command, refresh_falls_due
from hwmodel.dram.state import (
    ACCEPTED,
    ACT_WAKE,
    ACTIVE,
    ARRIVES,
    BANK_PC,
    CLOSE_AFTER,
    COLUMN_WAKE,
    COUNT,
    DUE,
    FCFS,
    FREED,
    INBOX_HEAD,
    IS_REFRESHING,
    LAST_DONE,
    NONE,
    OTHER_WAKE,
    PRE,
    PRE_WAKE,
    RECOUNTED,
    REFRESH_DUE,
    ROW_FREE,
    ROW_WAKE,
    SCHEDULER,
    STOP_AT,
    Words,
    bank_at,
    pc_at,
    ready_at,
)
from hwmodel.dram.waking import choose_mode, wake_all, wake_row
from hwmodel.intrinsics import Row


@inlined
def column_issued(m: Row, c: Row, bank: int, mode: int, done: int, conflicts: bool, tick: int) -> None:
    """Note when the last burst is done, and that the row may be closed: for a conflict, or for none.

    `conflicts`: whether the oldest burst that waits for another row of the bank may be served.
    """
    c[LAST_DONE] = max(c[LAST_DONE], tick if mode else done)
    state = bank_at(c, bank)
    at = max(tick, ready_at(c, PRE)[bank], pc_at(c, state[BANK_PC])[PRE])
    if conflicts:
        wake_row(c, PRE_WAKE, at)
    if c[DUE] != 0 or state[IS_REFRESHING] or m[CLOSE_AFTER] >= 0:
        wake_row(c, OTHER_WAKE, at)
    if m[SCHEDULER] == FCFS:
        wake_all(m, c, tick)


@inlined
def _row_slot(m: Row, c: Row, words: Words, tick: int, open_or_close: Any) -> None:
    """Issue at most one row command; set the tick of the next try."""
    if c[ROW_FREE] > tick:
        c[ROW_WAKE] = c[ROW_FREE]
        return
    issued = False
    if c[OTHER_WAKE] <= tick:
        issued = other_row_command(m, c, words, tick)
    if c[DUE] != 0:
        c[ROW_WAKE] = c[OTHER_WAKE]
        return
    if not issued:
        issued = open_or_close(m, c, words, tick)
    if m[CLOSE_AFTER] >= 0:
        closing = NONE if issued else close_unused(m, c, words, tick)
        c[OTHER_WAKE] = min(c[OTHER_WAKE], tick + 1 if closing == NONE else closing)
    c[ROW_WAKE] = max(min(c[OTHER_WAKE], min(c[ACT_WAKE], c[PRE_WAKE])), tick + 1, c[ROW_FREE])


@inlined
def issue_in_slots(m: Row, c: Row, words: Words, tick: int, column_slot: Any, open_or_close: Any) -> None:
    """Issue the commands of a tick: a column command, then a row command, as the two functions choose them."""
    if c[REFRESH_DUE] <= tick:
        refresh_falls_due(m, c, words, tick)
    if c[COLUMN_WAKE] <= tick:
        column_slot(m, c, words, tick)
    if c[ROW_WAKE] <= tick:
        _row_slot(m, c, words, tick, open_or_close)


@inlined
def end_tick(m: Row, c: Row, words: Words, tick: int) -> bool:
    """Accept bursts after the commands of a tick; return whether arrays must grow first.

    A channel that stops there has not chosen its mode: more bursts may come at the same tick.
    """
    no_room = False
    if c[FREED] or c[ARRIVES] <= tick:
        no_room = accept(m, c, words, tick)
    if c[RECOUNTED] and not no_room and c[ACCEPTED] < m[STOP_AT] and c[DUE] == 0 and c[REFRESH_DUE] != tick + 1:
        c[RECOUNTED] = 0
        choose_mode(m, c, tick + 1)
    return no_room


@inlined
def is_done(m: Row, c: Row) -> bool:
    """Return whether nothing will happen any more but refreshes."""
    return bool(c[INBOX_HEAD] == NONE and c[COUNT] + c[COUNT + 1] + c[ACTIVE] + c[ACTIVE + 1] == 0)
