"""The compiled event loop of all channels: nothing is done on ticks without an event.

Between `intake`, which fills the inboxes, and the executors, which call `run` and read completions. A channel's
scheduler is one of two families, `shared_queues` and `bank_queues`, with the same three entries: the next event, the
commands of a tick, the acceptance of bursts after it.
"""

from __future__ import annotations

from hwmodel.compiled import compiled
from hwmodel.dram import bank_queues, shared_queues
from hwmodel.dram.commands import all_pcs_closed, pc_of
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
    LOG,
    LOG_FULL,
    LOG_ROWS,
    LOGGED,
    NEVER,
    NONE,
    NOW,
    OUTSTANDING,
    PER_BANK_QUEUES,
    PER_CHANNEL,
    READ_TICKS,
    RECORD,
    REFRESH,
    REFRESH_BANK,
    REFRESH_DUE,
    REFRESH_INTERVAL,
    REFRESH_NONE,
    REFRESH_PER_BANK,
    REFRESHES,
    REFRESHING,
    REQUESTS_LEFT,
    SCHEDULER,
    STARVED,
    STOP_AT,
    STOPPED,
    TICK,
    TRACE_FULL,
    TRACE_ROWS,
    TRACED,
    WAITING,
    Channel,
    DramState,
    channel_of,
    memory_of,
)

shared_event, shared_issue, shared_end = shared_queues.next_event, shared_queues.issue, shared_queues.end_tick
banked_event, banked_issue, banked_end = bank_queues.next_event, bank_queues.issue, bank_queues.end_tick
banked_done = bank_queues.is_done


@compiled
def _is_quiet(channel: Channel) -> bool:
    """Return whether nothing but refreshes can happen."""
    fields = channel.fields
    if fields[DUE] != 0:
        return False
    for pc in range(channel.memory.scalars[PER_CHANNEL]):
        state = pc_of(channel, pc)
        if state[OUTSTANDING] != 0 or state[REFRESHING] != NONE:
            return False
    return all_pcs_closed(channel)


@compiled
def _skip_refreshes(channel: Channel, until: int) -> None:
    """Skip refreshes of a quiet channel that issue when due; the last round, which replaces all state, is kept."""
    scalars, fields = channel.memory.scalars, channel.fields
    if scalars[REFRESH] == REFRESH_NONE or scalars[RECORD]:
        return
    period = scalars[BANKS] if scalars[REFRESH] == REFRESH_PER_BANK else 1
    intervals = (until - fields[REFRESH_DUE]) // scalars[REFRESH_INTERVAL] - period - 1
    if intervals <= 0:
        return
    fields[REFRESH_DUE] += intervals * scalars[REFRESH_INTERVAL]
    if scalars[REFRESH] == REFRESH_PER_BANK:
        fields[REFRESH_BANK] = (fields[REFRESH_BANK] + intervals) % scalars[BANKS]
    for pc in range(scalars[PER_CHANNEL]):
        pc_of(channel, pc)[REFRESHES] += intervals


@compiled
def _run_shared(channel: Channel, until: int) -> int:
    """Process one channel's ticks before `until`."""
    scalars, fields = channel.memory.scalars, channel.fields
    recorded = scalars[RECORD] | scalars[LOG] | scalars[BIN_TICKS]
    tick = fields[TICK]
    while True:
        if shared_end(channel, tick):
            return STARVED
        if fields[ACCEPTED] >= scalars[STOP_AT]:
            return STOPPED
        if until == NEVER and scalars[WAITING] == 0:
            return FINISHED
        tick = shared_event(channel)
        if tick >= until:
            return FINISHED
        if recorded:
            status = _missing_room(channel, tick)
            if status != FINISHED:
                return status
        shared_issue(channel, tick)
        fields[TICK] = tick


@compiled
def _run_banked(channel: Channel, until: int) -> int:
    """Process one channel's ticks before `until`."""
    scalars, fields = channel.memory.scalars, channel.fields
    recorded = scalars[RECORD] | scalars[LOG] | scalars[BIN_TICKS]
    tick = fields[TICK]
    while True:
        if banked_end(channel, tick):
            return STARVED
        if fields[ACCEPTED] >= scalars[STOP_AT]:
            return STOPPED
        if until == NEVER and banked_done(channel):
            return FINISHED
        tick = banked_event(channel)
        if tick >= until:
            return FINISHED
        if recorded:
            status = _missing_room(channel, tick)
            if status != FINISHED:
                return status
        banked_issue(channel, tick)
        fields[TICK] = tick


@compiled
def _missing_room(channel: Channel, tick: int) -> int:
    """Return what must grow before the next tick; a tick has two commands, and a merged burst for each waiting one."""
    scalars = channel.memory.scalars
    if scalars[RECORD] and scalars[TRACED] + 2 > scalars[TRACE_ROWS]:
        return TRACE_FULL
    if scalars[LOG] and scalars[LOGGED] + scalars[LOG_ROWS] // 2 > scalars[LOG_ROWS]:
        return LOG_FULL
    if scalars[BIN_TICKS] and (tick + scalars[READ_TICKS]) // scalars[BIN_TICKS] >= scalars[BINS]:
        return BINS_FULL
    return FINISHED


@compiled
def run(state: DramState, until: int, resume: int) -> int:
    """Process the ticks before `until` of every channel that is awake; return what must be done before going on."""
    memory = memory_of(state)
    scalars = memory.scalars
    if resume == 0:
        _recycle(state)
    for index in range(scalars[CHANNELS]):
        channel = channel_of(memory, index)
        fields = channel.fields
        if fields[ASLEEP]:
            continue
        if _is_quiet(channel):
            _skip_refreshes(channel, min(until, fields[ARRIVES]))
        if scalars[SCHEDULER] == PER_BANK_QUEUES:
            status = _run_banked(channel, until)
        else:
            status = _run_shared(channel, until)
        if status != FINISHED:
            return int(status)
        fields[ASLEEP] = 1 if fields[INBOX_HEAD] == NONE and _is_quiet(channel) else 0
    scalars[NOW] = max(scalars[NOW], until)
    return FINISHED


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
    """Return the earliest tick at which a channel that is awake can act; 2**62 if there is none."""
    memory = memory_of(state)
    tick = NEVER
    for index in range(memory.scalars[CHANNELS]):
        channel = channel_of(memory, index)
        if channel.fields[ASLEEP] == 0:
            if memory.scalars[SCHEDULER] == PER_BANK_QUEUES:
                tick = min(tick, banked_event(channel))
            else:
                tick = min(tick, shared_event(channel))
    return tick
