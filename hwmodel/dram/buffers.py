"""The read and the write buffer of a channel under FR-FCFS and FCFS, short or deep: bursts come in, rows are closed.

How the bursts that wait are kept depends on how many there may be: masks of one word have positions in the order of
acceptance (`short_buffers`), longer ones lists by bank (`deep_buffers`). To the tick, both choose the same bursts.
"""

from __future__ import annotations

from hwmodel.compiled import inlined
from hwmodel.dram import deep_buffers, short_buffers
from hwmodel.dram.commands import close, row_command, serve_merged
from hwmodel.dram.source import lacks_room, pull
from hwmodel.dram.state import (
    ACCEPTED,
    ACT,
    ACT_WAKE,
    ARRIVAL,
    ARRIVES,
    BANK_MASK,
    BANK_PC,
    COLUMN_SHIFT,
    COUNT,
    DEPTH,
    FREED,
    INBOX_HEAD,
    IS_WRITE,
    LAST_DONE,
    LINK,
    MERGE,
    MODE,
    NEVER,
    NONE,
    OUTSIDE,
    PLACE,
    PRE,
    PRECHARGES,
    REPLAYING,
    RISING,
    Words,
    bank_at,
    burst_at,
    pc_at,
    ready_at,
)
from hwmodel.dram.waking import act_floor, wake_row
from hwmodel.intrinsics import Row, prefetch_to_write


@inlined
def nominate(m: Row, c: Row, words: Words, mode: int, bank: int) -> None:
    """Find which bursts of a bank in a buffer may get a command."""
    if len(words) == 1:
        short_buffers.nominate(m, c, words, mode, bank)
    else:
        deep_buffers.nominate(m, c, words, mode, bank)


@inlined
def row_closed(m: Row, c: Row, words: Words, bank: int) -> None:
    """A bank's row was closed: find which bursts may get a command."""
    if len(words) == 1:
        short_buffers.row_closed(c, words, bank)
    else:
        deep_buffers.row_closed(m, c, words, bank)


@inlined
def has_bursts(c: Row, words: Words, mode: int, bank: int) -> bool:
    """Return whether a burst for a bank waits in a buffer."""
    if len(words) == 1:
        return bool(short_buffers.has_bursts(c, words, mode, bank))
    return bool(deep_buffers.has_bursts(c, words, mode, bank))


@inlined
def has_hits(c: Row, words: Words, mode: int, bank: int) -> bool:
    """Return whether a burst for a bank's open row waits in a buffer."""
    if len(words) == 1:
        return bool(short_buffers.has_hits(c, words, mode, bank))
    return bool(deep_buffers.has_hits(c, words, mode, bank))


@inlined
def _waits_for(c: Row, words: Words, mode: int, place: int) -> bool:
    """Return whether a burst of that very place waits in a buffer."""
    if len(words) == 1:
        return bool(short_buffers.waits_for(c, words, mode, place))
    return bool(deep_buffers.waits_for(c, words, mode, place))


@inlined
def _put(m: Row, c: Row, words: Words, mode: int, index: int, tick: int) -> None:
    """Put the next burst of a run into its buffer, which has room; it may be next from the next tick on."""
    if len(words) == 1:
        short_buffers.put(m, c, words, mode, index, tick)
    else:
        deep_buffers.put(m, c, words, mode, index, tick)


@inlined
def accept(m: Row, c: Row, words: Words, tick: int) -> bool:
    """Take bursts from the inbox, in order, until a buffer is full; return whether arrays must grow first."""
    c[FREED] = 0
    c[ARRIVES] = NEVER
    index = c[INBOX_HEAD]
    if index == NONE:
        index = pull(m)
    while index != NONE:
        burst = burst_at(m, index)
        if burst[ARRIVAL] > tick:
            c[ARRIVES] = burst[ARRIVAL]
            break
        mode, following = burst[IS_WRITE], burst[LINK]
        if following != NONE:
            prefetch_to_write(burst_at(m, following))
        merges = c[COUNT + 1] != 0 and m[MERGE] and _waits_for(c, words, 1, burst[PLACE])
        if not merges and c[COUNT + mode] == m[DEPTH + mode]:
            break
        if m[REPLAYING]:
            burst[ARRIVAL] = tick
        burst[OUTSIDE] -= 1
        if merges:
            if mode == 0:
                c[LAST_DONE] = max(c[LAST_DONE], tick + 1)
            bank, arrival, is_last = burst[PLACE] & BANK_MASK, burst[ARRIVAL], burst[OUTSIDE] == 0
            burst[PLACE] += 1 << COLUMN_SHIFT
            serve_merged(m, c, bank, index, arrival, mode, tick + 1)
        else:
            is_last = burst[OUTSIDE] == 0
            _put(m, c, words, mode, index, tick)
            burst[PLACE] += 1 << COLUMN_SHIFT
        c[ACCEPTED] += 1
        if is_last:
            index = following if following != NONE else pull(m)
    c[INBOX_HEAD] = index
    return bool(lacks_room(m, c, tick))


@inlined
def precharge(m: Row, c: Row, words: Words, bank: int, tick: int) -> None:
    """Precharge a bank."""
    pc_at(c, bank_at(c, bank)[BANK_PC])[PRECHARGES] += 1
    close(c, bank)
    row_command(m, c, bank, PRE, tick)
    row_closed(m, c, words, bank)
    if has_bursts(c, words, c[MODE], bank):
        pc = bank_at(c, bank)[BANK_PC]
        at = max(tick + 1, ready_at(c, ACT)[bank], act_floor(pc_at(c, pc)))
        wake_row(c, ACT_WAKE, at | m[RISING])
