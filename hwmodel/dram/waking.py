"""When a channel of shared buffers may act next, and in which mode: lower bounds that events bring nearer."""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.state import (
    ACT,
    ACT_WAKE,
    COLUMN_WAKE,
    COUNT,
    DRAIN_ABOVE,
    DRAIN_BELOW,
    HIT_WAKE,
    MODE,
    MOST_OWED,
    NEVER,
    OWED,
    PRE,
    PRE_WAKE,
    RD,
    RISING,
    ROW_WAKE,
    pc_at,
)
from hwmodel.intrinsics import Row


@inlined
def wake_row(c: Row, wake: int, tick: int) -> None:
    """A row command may be possible from a tick on."""
    c[wake] = min(c[wake], tick)
    c[ROW_WAKE] = min(c[ROW_WAKE], tick)


@inlined
def wake_column(c: Row, wake: int, tick: int) -> None:
    """A column command may be possible from a tick on."""
    c[wake] = min(c[wake], tick)
    c[COLUMN_WAKE] = min(c[COLUMN_WAKE], tick)


@compiled
def wake_all(m: Row, c: Row, tick: int) -> None:
    """Any command may be possible from a tick on."""
    wake_column(c, HIT_WAKE, tick | m[RISING])
    wake_row(c, ACT_WAKE, tick)
    wake_row(c, PRE_WAKE, tick)


@inlined
def choose_mode(m: Row, c: Row, tick: int) -> None:
    """Write drain: enter write mode above a watermark or without reads, leave it below the other with reads."""
    reads, writes = c[COUNT], c[COUNT + 1]
    begins = c[MODE] == 0 and (writes > m[DRAIN_ABOVE] or reads == 0)
    if begins or (c[MODE] == 1 and writes < m[DRAIN_BELOW] and reads > 0):
        c[MODE] = 1 - c[MODE]
        wake_all(m, c, tick)


@inlined
def act_floor(pc: Row) -> int:
    """Return the earliest tick of an activate that the rules of a pseudo-channel allow; while it owes most, NEVER."""
    if pc[OWED] >= MOST_OWED:
        return NEVER
    return int(pc[ACT])


@inlined
def column_floors(c: Row, mode: int) -> tuple[int, int]:
    """Return the earliest ticks of a column command that the rules of the two pseudo-channels allow."""
    return pc_at(c, 0)[RD + mode], pc_at(c, 1)[RD + mode]


@inlined
def act_floors(c: Row) -> tuple[int, int]:
    """Return the earliest ticks of an activate that the rules of the two pseudo-channels allow."""
    return act_floor(pc_at(c, 0)), act_floor(pc_at(c, 1))


@inlined
def pre_floors(c: Row) -> tuple[int, int]:
    """Return the earliest ticks of a precharge that the rules of the two pseudo-channels allow."""
    return pc_at(c, 0)[PRE], pc_at(c, 1)[PRE]
