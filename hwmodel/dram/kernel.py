"""The compiled event loop of all channels: nothing is done on ticks without an event.

Between `intake` and `source`, which give the channels their bursts, and the executors and replays, which call
`run_short`, `run_deep` or `run_banked` and read completions. A channel's scheduler is one of two families,
`shared_queues`, whose slots differ with the depth of its buffers, and `bank_queues`. All have the same three entries:
the commands of a tick, the acceptance of bursts after it, and whether anything is left to do.
"""

from __future__ import annotations

from typing import Any

from hwmodel.compiled import compiled, inlined
from hwmodel.dram import bank_queues, deep_queues, shared_queues, short_queues
from hwmodel.dram.commands import (
    all_closed,
    next_event,
)
from hwmodel.dram.policy import Policy
from hwmodel.dram.source import next_channel, spreads, taken
from hwmodel.dram.state import (
    ACCEPTED,
    ARRIVES,
    ASLEEP,
    BANKS,
    BIN_TICKS,
    BINS,
    BINS_FULL,
    CHANNELS,
    COMPLETED,
    DONE,
    DUE,
    FINISHED,
    FREE_REQUEST,
    INBOX_HEAD,
    LAST_DONE,
    NEVER,
    NEXT_BANK,
    NO_ROOM,
    NONE,
    NOW,
    OUTSTANDING,
    PER_CHANNEL,
    READ_TICKS,
    RECORD,
    REFRESH,
    REFRESH_DUE,
    REFRESH_INTERVAL,
    REFRESH_NONE,
    REFRESH_PER_BANK,
    REFRESHES,
    REFRESHING,
    REQUESTS_LEFT,
    STOP_AT,
    STOPPED,
    TICK,
    TRACE_FULL,
    TRACE_ROWS,
    TRACED,
    DramState,
    Words,
    channel_at,
    memory_of,
    pc_at,
)
from hwmodel.intrinsics import Row


@compiled
def _is_quiet(m: Row, c: Row) -> bool:
    """Return whether nothing but refreshes can happen."""
    if c[DUE] != 0:
        return False
    for pc in range(m[PER_CHANNEL]):
        state = pc_at(c, pc)
        if state[OUTSTANDING] != 0 or state[REFRESHING] != NONE:
            return False
    return bool(all_closed(m, c))


@compiled
def _skip_refreshes(m: Row, c: Row, until: int) -> None:
    """Skip refreshes of a quiet channel that issue when due; the last round, which replaces all state, is kept."""
    if m[REFRESH] == REFRESH_NONE or m[RECORD] or until == NEVER:
        return
    period = m[BANKS] if m[REFRESH] == REFRESH_PER_BANK else 1
    intervals = (until - c[REFRESH_DUE]) // m[REFRESH_INTERVAL] - period - 1
    if intervals <= 0 or not _is_quiet(m, c):
        return
    c[REFRESH_DUE] += intervals * m[REFRESH_INTERVAL]
    if m[REFRESH] == REFRESH_PER_BANK:
        for pc in range(m[PER_CHANNEL]):
            pc_at(c, pc)[NEXT_BANK] = (pc_at(c, pc)[NEXT_BANK] + intervals) % m[BANKS]
    for pc in range(m[PER_CHANNEL]):
        pc_at(c, pc)[REFRESHES] += intervals


@compiled
def _next_awake(m: Row, words: Words, index: int) -> int:
    """Return the first channel from `index` on that is awake, or how many there are."""
    while index < m[CHANNELS] and channel_at(m, words, index)[ASLEEP] != 0:
        index += 1
    return index


@inlined
def _first_without_bins(m: Row) -> int:
    """Return the first tick whose reads may be done beyond the time bins there are."""
    return int(m[BINS] * m[BIN_TICKS] - m[READ_TICKS]) if m[BIN_TICKS] else NEVER


@inlined
def _run(state: DramState, until: int, resume: int, issue: Any, end_tick: Any, is_done: Any) -> int:
    """Process the ticks before `until` of every channel that is awake; return what must be done before going on."""
    m, words = memory_of(state), state.words
    if resume == 0:
        _recycle(state)
    records, without_bins, following = m[RECORD], _first_without_bins(m), 0
    while True:
        spread = spreads(m)
        index = next_channel(m, words) if spread else _next_awake(m, words, following)
        if index == NONE:
            return NO_ROOM
        if index == m[CHANNELS]:
            break
        c = channel_at(m, words, index)
        _skip_refreshes(m, c, min(until, c[ARRIVES]))
        tick = c[TICK]
        while tick < until:  # at rest it stands at a tick that may not be over: more bursts may come at it
            if end_tick(m, c, words, tick):
                return NO_ROOM
            if c[ACCEPTED] >= m[STOP_AT]:
                if not spread:
                    return STOPPED
                taken(m, c)
                break
            tick = next_event(c)
            if tick >= until or (tick >= c[LAST_DONE] and until == NEVER and is_done(m, c)):
                break
            if tick >= without_bins:
                return BINS_FULL
            if records and m[TRACED] + 2 > m[TRACE_ROWS]:  # a tick has two commands
                return TRACE_FULL
            issue(m, c, words, tick)
            c[TICK] = tick
        if not spread:
            c[ASLEEP] = 1 if c[INBOX_HEAD] == NONE and _is_quiet(m, c) else 0
            following = index + 1
    if until != NEVER:
        m[NOW] = max(m[NOW], until)
    return FINISHED


@compiled
def run_short(state: DramState, until: int, resume: int) -> int:
    """Run channels of `shared_queues` with short buffers, as `_run` does."""
    return int(_run(state, until, resume, short_queues.issue, shared_queues.end_tick, shared_queues.is_done))


@compiled
def run_deep(state: DramState, until: int, resume: int) -> int:
    """Run channels of `shared_queues` with deep buffers, as `_run` does."""
    return int(_run(state, until, resume, deep_queues.issue, shared_queues.end_tick, shared_queues.is_done))


@compiled
def run_banked(state: DramState, until: int, resume: int) -> int:
    """Run channels of `bank_queues`, as `_run` does."""
    return int(_run(state, until, resume, bank_queues.issue, bank_queues.end_tick, bank_queues.is_done))


def run_of(policy: Policy) -> Any:
    """Return which of the three runs the channels of a policy."""
    if policy.scheduler == "per-bank-queues":
        return run_banked
    return run_deep if policy.mask_words > 1 else run_short


@compiled
def _recycle(state: DramState) -> None:
    """Free the requests whose completion the last call reported."""
    scalars = state.scalars
    for i in range(scalars[COMPLETED]):
        request = state.completed[i, 0]
        state.requests[request, DONE] = scalars[FREE_REQUEST]
        scalars[FREE_REQUEST] = request
    scalars[REQUESTS_LEFT] += scalars[COMPLETED]
    scalars[COMPLETED] = 0


@compiled
def next_tick(state: DramState) -> int:
    """Return a lower bound of the next tick at which a channel that is awake acts; 2**62 if there is none."""
    m, tick = memory_of(state), NEVER
    for index in range(m[CHANNELS]):
        c = channel_at(m, state.words, index)
        if c[ASLEEP] == 0:
            tick = min(tick, next_event(c))
    return tick
