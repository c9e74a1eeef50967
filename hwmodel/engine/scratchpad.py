"""The scratchpad of a core as its queues share it: `hwmodel.sram.SharedSram`, compiled."""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.engine.state import (
    ASKED,
    BROUGHT,
    LATER,
    LATER_COUNT,
    LATER_FIELDS,
    LATER_ROOM,
    LEFT,
    SCRATCH_LEFT,
    SCRATCHPAD_FIELDS,
    SCRATCHPADS,
    SP_NOW,
    table,
)
from hwmodel.intrinsics import Row, row_at
from hwmodel.sram import PARTS


@inlined
def _scratchpad_at(m: Row, core: int) -> Row:
    return row_at(table(m, SCRATCHPADS), core * SCRATCHPAD_FIELDS)


@compiled
def ask(m: Row, core: int, user: int, start_fs: int, work_fs: int) -> int:
    """Bring work that begins at a time; return its number. See `hwmodel.sram`."""
    pad = _scratchpad_at(m, core)
    work = work_fs * PARTS
    pad[ASKED + user] += work
    if work != 0:
        later = row_at(table(m, LATER), core * m[LATER_ROOM] * LATER_FIELDS)
        at = pad[LATER_COUNT]
        while at > 0 and later[(at - 1) * LATER_FIELDS] < start_fs:  # the first to begin stands last
            for field in range(LATER_FIELDS):
                later[at * LATER_FIELDS + field] = later[(at - 1) * LATER_FIELDS + field]
            at -= 1
        later[at * LATER_FIELDS] = start_fs
        later[at * LATER_FIELDS + 1] = user
        later[at * LATER_FIELDS + 2] = work
        pad[LATER_COUNT] += 1
    return int(pad[ASKED + user])


@compiled
def left(m: Row, core: int, user: int, number: int, now_fs: int) -> int:
    """Return how long the work of that number still takes if nobody else brings any. See `hwmodel.sram`."""
    pad = _scratchpad_at(m, core)
    _advance(m, pad, core, now_fs)
    needed = pad[LEFT + user] - pad[BROUGHT + user] + number
    if needed <= 0:
        return 0
    rest, time = row_at(pad, SCRATCH_LEFT), 0
    for other in range(4):
        rest[other] = pad[LEFT + other]
    rest[user] = needed
    while rest[user] != 0:
        time += _serve(rest, needed)
    return time


@compiled
def _advance(m: Row, pad: Row, core: int, now_fs: int) -> None:
    later = row_at(table(m, LATER), core * m[LATER_ROOM] * LATER_FIELDS)
    while True:
        while pad[LATER_COUNT] != 0:
            first = row_at(later, (pad[LATER_COUNT] - 1) * LATER_FIELDS)
            if first[0] > pad[SP_NOW]:
                break
            pad[LEFT + first[1]] += first[2]
            pad[BROUGHT + first[1]] += first[2]
            pad[LATER_COUNT] -= 1
        if pad[SP_NOW] >= now_fs:
            return
        until = now_fs
        if pad[LATER_COUNT] != 0:
            until = min(until, later[(pad[LATER_COUNT] - 1) * LATER_FIELDS])
        pad[SP_NOW] += _serve(row_at(pad, LEFT), until - pad[SP_NOW])


@compiled
def _serve(left_over: Row, most: int) -> int:
    """Serve those that have work left evenly until one is done or `most` femtoseconds are over; return the time."""
    active, least = 0, 0
    for user in range(4):
        work = left_over[user]
        if work != 0:
            least = work if active == 0 else min(least, work)
            active += 1
    if active == 0:
        return most
    time = min(most, -(-least * active // PARTS))
    share = time * PARTS // active
    for user in range(4):
        if left_over[user] != 0:
            left_over[user] = max(0, left_over[user] - share)
    return time
