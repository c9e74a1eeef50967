"""The compiled channel controller: every burst scheduled, nothing done on ticks without an event.

Between `intake`, which fills the inboxes, and the executors, which call `run` and read completions.
Each tick of a channel on which something happens, in this order: arrivals enter the scheduling windows and
refreshes fall due; one column command issues; one row command issues; freed window places are refilled (for
the next tick).
Readiness is data: after a command, `_apply` raises the earliest ticks of all later commands from the rule
table.
Per bank there is one list of waiting reads and one of waiting writes in arrival order; bit masks name the
banks that have work, so that the cost of a command does not depend on the depth of the queues.
Not modelled: forwarding or ordering between reads and writes of one address.
"""

from __future__ import annotations

import numpy as np

from hwmodel.compiled import compiled
from hwmodel.dram.intake import fill
from hwmodel.dram.schedule import find_hit, listed_at, plan_column, plan_row, start_refresh, unlist_hit
from hwmodel.dram.state import (
    ACCOUNTED,
    ACT,
    ACT_TICK,
    ACTIVATES,
    ADMITTED,
    AGE,
    ARRIVAL,
    ASLEEP,
    AT_BANK,
    AT_BANK_GROUP,
    AT_CHANNEL,
    AT_PSEUDO_CHANNEL,
    AT_SIBLING,
    AT_STACK_ID,
    BANK_ACTIVATES,
    BANK_BURSTS,
    BANK_CONFLICTS,
    BANKS,
    BIN_TICKS,
    BINS,
    BINS_FULL,
    BLOCKED,
    BURST_BYTES,
    BURST_TICKS,
    BURSTS_LEFT,
    BUS,
    BUSY_SINCE,
    BYPASS_CAP,
    BYPASSED,
    CAPPED,
    CAUSE,
    CHANNEL_FIELDS,
    CHANNELS,
    COLUMN_AGE,
    COLUMN_BANK,
    COLUMN_STALE,
    COLUMN_TICK,
    COMMAND_SLOTS,
    COMPLETED,
    CONFLICTS,
    COUNT,
    DATA,
    DONE,
    FAW,
    FAW_PLACE,
    FINISHED,
    FIRST_CHANNEL_NODE,
    FREE_REQUEST,
    FREE_RUN,
    GROUP_SHIFT,
    HEAD,
    HEAD_HIT,
    HIT_BEFORE,
    HIT_KEYS,
    HIT_RUN,
    HITS,
    IDLE,
    LAST_MODE,
    LATENCY_MAX,
    LATENCY_SUM,
    LINK,
    MAX_BANKS,
    MISSES,
    MODE,
    NEVER,
    NEXT_ARRIVAL,
    NODES,
    NONE,
    NOW,
    OPEN,
    OPEN_ROW,
    OUTSIDE,
    PC_FIELDS,
    PENDING,
    PER_CHANNEL,
    PLACE_BITS,
    PRE,
    PREAB,
    PRECHARGES,
    RD,
    READ_TICKS,
    READS,
    RECORD,
    REFAB,
    REFRESH_BANK,
    REFRESH_DUE,
    REFRESH_INTERVAL,
    REFRESH_TICKS,
    REFRESH_WAIT,
    REFRESHED_UNTIL,
    REFRESHES,
    REMAINING,
    REQUEST,
    REQUEST_FIELDS,
    REQUESTS_LEFT,
    ROW,
    ROW_AGE,
    ROW_BANK,
    ROW_COMMAND,
    ROW_STALE,
    ROW_TICK,
    ROW_WAIT,
    STACK_ID_SHIFT,
    STACK_IDS,
    STARTED,
    TAIL,
    TRACE_FIELDS,
    TRACE_FULL,
    TRACE_ROWS,
    TRACED,
    TURN_LEFT,
    TURNAROUND,
    WAITING,
    WAKE,
    WRITE_TICKS,
    DramState,
    Memory,
    Row,
    bank_at,
    memory_of,
    raise_row,
    row_at,
    run_at,
)


@compiled
def _apply(memory: Memory, pc_index: int, channel_ready: Row, place: int, command: int, tick: int) -> None:
    """Raise the earliest ticks of all commands that the rules place after this one."""
    scalars = memory.scalars
    pc_ready = row_at(memory.ready, pc_index * scalars[NODES] * COMMAND_SLOTS)
    plane = COMMAND_SLOTS * COMMAND_SLOTS
    delay = row_at(memory.delay, command * COMMAND_SLOTS)  # of the first level; the others follow by planes
    raise_row(channel_ready, row_at(delay, AT_CHANNEL * plane), tick)
    raise_row(pc_ready, row_at(delay, AT_PSEUDO_CHANNEL * plane), tick)
    if command in (PREAB, REFAB):
        return
    stack_id = place >> scalars[STACK_ID_SHIFT]
    group = place >> scalars[GROUP_SHIFT]
    stack_ready = row_at(pc_ready, COMMAND_SLOTS)
    group_ready = row_at(stack_ready, (scalars[STACK_IDS] + group) * COMMAND_SLOTS)
    bank_ready = row_at(pc_ready, (scalars[NODES] - scalars[BANKS] + place) * COMMAND_SLOTS)
    for other in range(scalars[STACK_IDS]):
        level = AT_STACK_ID if other == stack_id else AT_SIBLING
        raise_row(row_at(stack_ready, other * COMMAND_SLOTS), row_at(delay, level * plane), tick)
    raise_row(group_ready, row_at(delay, AT_BANK_GROUP * plane), tick)
    raise_row(bank_ready, row_at(delay, AT_BANK * plane), tick)


@compiled
def _record(memory: Memory, pc_index: int, place: int, row: int, command: int, tick: int) -> None:
    """Append a command to the trace; commands of all banks have bank group and bank -1."""
    scalars = memory.scalars
    entry = row_at(memory.trace, scalars[TRACED] * TRACE_FIELDS)
    scalars[TRACED] += 1
    group, bank = NONE, NONE
    if command not in (PREAB, REFAB):
        group_shift, stack_shift = scalars[GROUP_SHIFT], scalars[STACK_ID_SHIFT]
        per_group = 1 << group_shift
        group = (place >> group_shift) & ((1 << (stack_shift - group_shift)) - 1)
        bank = (place >> stack_shift) * per_group + (place & (per_group - 1))
    entry[0] = tick
    entry[1] = pc_index // scalars[PER_CHANNEL]
    entry[2] = pc_index % scalars[PER_CHANNEL]
    entry[3] = group
    entry[4] = bank
    entry[5] = row
    entry[6] = command


@compiled
def _account(scalars: Row, pc: Row, bank: Row, ready_row: int, mode: int, tick: int) -> None:
    """Attribute the time since a pseudo-channel's last data: idle, refresh, row, then turnaround or bus."""
    since = pc[ACCOUNTED]
    pc[ACCOUNTED] = tick + scalars[BURST_TICKS]
    pc[CAUSE + DATA] += scalars[BURST_TICKS]
    if since < tick:
        busy = max(since, pc[BUSY_SINCE])
        refreshed = max(busy, min(tick, bank[REFRESHED_UNTIL]))
        opened = max(refreshed, min(tick, ready_row))
        pc[CAUSE + IDLE] += busy - since
        pc[CAUSE + REFRESH_WAIT] += refreshed - busy
        pc[CAUSE + ROW_WAIT] += opened - refreshed
        pc[CAUSE + (BUS if mode == pc[LAST_MODE] else TURNAROUND)] += tick - opened
    pc[LAST_MODE] = mode


@compiled
def _finish(memory: Memory, pc: Row, index: int, mode: int, tick: int) -> None:
    """Count a burst whose column command issued, complete its request with the last one, free its run likewise."""
    scalars = memory.scalars
    run = run_at(memory, index)
    request = row_at(memory.requests, run[REQUEST] * REQUEST_FIELDS)
    done = tick + (scalars[WRITE_TICKS] if mode else scalars[READ_TICKS])
    latency = done - run[ARRIVAL]
    pc[LATENCY_SUM] += latency
    pc[LATENCY_MAX] = max(pc[LATENCY_MAX], latency)
    pc[READS + mode] += 1
    if scalars[BIN_TICKS]:
        memory.bins[(done - scalars[BURST_TICKS]) // scalars[BIN_TICKS]] += scalars[BURST_BYTES]
    request[DONE] = max(request[DONE], done)
    request[REMAINING] -= 1
    if request[REMAINING] == 0:
        completed = row_at(memory.completed, scalars[COMPLETED] * 2)
        completed[0] = run[REQUEST]
        completed[1] = request[DONE]
        scalars[COMPLETED] += 1
    if run[ADMITTED] + run[OUTSIDE] == 0:
        run[LINK] = scalars[FREE_RUN]
        scalars[FREE_RUN] = index
    scalars[BURSTS_LEFT] += 1
    scalars[WAITING] -= 1


@compiled
def _take_hit(memory: Memory, pc: Row, bank: Row, place: int, mode: int) -> int:
    """Remove the oldest hit from its bank's list, find the next one, and return the run of the burst."""
    index, before, bit = bank[HIT_RUN + mode], bank[HIT_BEFORE + mode], 1 << place
    run = run_at(memory, index)
    run[ADMITTED] -= 1
    run[AGE] += 1
    if before == NONE:
        pc[HITS] += 1 - ((pc[STARTED + mode] >> place) & 1)
        pc[STARTED + mode] &= ~bit
        bank[BYPASSED] = 0
        pc[CAPPED] &= ~bit
    else:
        pc[HITS] += 1
        bank[BYPASSED] += 1
        if bank[BYPASSED] >= memory.scalars[BYPASS_CAP]:
            pc[CAPPED] |= bit
    if run[ADMITTED] > 0:
        row_at(pc, HIT_KEYS + mode * MAX_BANKS)[listed_at(pc, place, mode)] += 1 << PLACE_BITS
        return int(index)
    unlist_hit(pc, place, mode)
    hit = run[LINK]
    if hit == NONE:
        bank[TAIL + mode] = before
    if before == NONE:
        bank[HEAD + mode] = hit
    else:
        run_at(memory, before)[LINK] = hit
    find_hit(memory, pc, bank, place, mode, before, hit)
    if bank[HEAD + mode] == NONE:
        pc[PENDING + mode] &= ~bit
    return int(index)


@compiled
def _issue_column(memory: Memory, pc_index: int, pc: Row, channel_ready: Row, tick: int) -> None:
    scalars = memory.scalars
    place, mode = pc[COLUMN_BANK], pc[MODE]
    bank, bit = bank_at(memory, pc_index, place), 1 << place
    command = RD + mode
    index = _take_hit(memory, pc, bank, place, mode)
    if pc[PENDING + mode] & ~pc[HEAD_HIT + mode] & bit:
        pc[ROW_STALE] = 1
    pc[COLUMN_STALE] = 1
    pc[COUNT + mode] -= 1
    pc[TURN_LEFT] -= mode == 0 or pc[COUNT] > 0  # writes count while reads wait
    bank[BANK_BURSTS] += 1
    activate_to_column = memory.delay[(AT_BANK * COMMAND_SLOTS + ACT) * COMMAND_SLOTS + command]
    _account(scalars, pc, bank, bank[ACT_TICK] + activate_to_column, mode, tick)
    _apply(memory, pc_index, channel_ready, place, command, tick)
    if scalars[RECORD]:
        _record(memory, pc_index, place, bank[OPEN_ROW], command, tick)
    _finish(memory, pc, index, mode, tick)


@compiled
def _open(memory: Memory, pc: Row, bank: Row, place: int, row: int) -> None:
    """Open a row: find the oldest hits of the bank."""
    bank[OPEN_ROW] = row
    pc[OPEN] |= 1 << place
    for mode in range(2):
        find_hit(memory, pc, bank, place, mode, NONE, bank[HEAD + mode])


@compiled
def _close(pc: Row, bank: Row, place: int) -> None:
    """Close a bank: it has no hits any more."""
    bit = 1 << place
    bank[OPEN_ROW] = NONE
    bank[BYPASSED] = 0
    pc[OPEN] &= ~bit
    pc[CAPPED] &= ~bit
    for mode in range(2):
        if bank[HIT_RUN + mode] != NONE:
            bank[HIT_RUN + mode] = NONE
            unlist_hit(pc, place, mode)
        pc[HEAD_HIT + mode] &= ~bit
    pc[PRECHARGES] += 1


@compiled
def _issue_row(memory: Memory, pc_index: int, pc: Row, channel_ready: Row, tick: int) -> None:
    scalars = memory.scalars
    place, command = pc[ROW_BANK], pc[ROW_COMMAND]
    bank, bit, row = bank_at(memory, pc_index, place), 1 << place, NONE
    started = STARTED + pc[MODE]  # the banks whose oldest burst has had its first command
    if command == ACT:
        row = run_at(memory, bank[HEAD + pc[MODE]])[ROW]
        _open(memory, pc, bank, place, row)
        pc[MISSES] += (pc[started] & bit) == 0
        pc[started] |= bit
        pc[ACTIVATES] += 1
        pc[FAW + pc[FAW_PLACE]] = tick
        pc[FAW_PLACE] = (pc[FAW_PLACE] + 1) & 3
        bank[ACT_TICK] = tick
        bank[BANK_ACTIVATES] += 1
    elif command == PRE:
        _close(pc, bank, place)
        if pc[ROW_AGE] != NONE and (pc[started] & bit) == 0:  # for a burst, not for a refresh
            pc[CONFLICTS] += 1
            bank[BANK_CONFLICTS] += 1
            pc[started] |= bit
    elif command == PREAB:
        for other in range(scalars[BANKS]):
            if (pc[OPEN] >> other) & 1:
                _close(pc, bank_at(memory, pc_index, other), other)
    else:
        for other in range(scalars[BANKS]):
            if (pc[BLOCKED] >> other) & 1:
                bank_at(memory, pc_index, other)[REFRESHED_UNTIL] = tick + scalars[REFRESH_TICKS]
        pc[BLOCKED] = 0
        pc[REFRESHES] += 1
    pc[COLUMN_STALE] = 1
    pc[ROW_STALE] = 1
    _apply(memory, pc_index, channel_ready, place, command, tick)
    if scalars[RECORD]:
        _record(memory, pc_index, place, row, command, tick)


@compiled
def _skip_refreshes(memory: Memory, pcs: Row, until: int) -> int:
    """Skip refreshes of a channel without bursts and open rows; return the ticks skipped.

    Such refreshes issue when due, and the last round over all banks, which replaces all state, is kept.
    """
    scalars = memory.scalars
    interval, banks = scalars[REFRESH_INTERVAL], scalars[BANKS]
    rounds = NEVER
    for i in range(scalars[PER_CHANNEL]):
        pc = row_at(pcs, i * PC_FIELDS)
        rounds = min(rounds, (min(until, pc[NEXT_ARRIVAL]) - pc[REFRESH_DUE]) // interval - banks - 2)
    if rounds <= 0:
        return 0
    for i in range(scalars[PER_CHANNEL]):
        pc = row_at(pcs, i * PC_FIELDS)
        pc[REFRESH_DUE] += rounds * interval
        pc[REFRESH_BANK] = (pc[REFRESH_BANK] + rounds) % banks
        pc[REFRESHES] += rounds
    return int(rounds * interval)


@compiled
def _run_channel(memory: Memory, channel: int, until: int) -> int:
    """Process one channel's ticks before `until`; it may sleep then, if it has no burst and no open row."""
    scalars = memory.scalars
    per_channel, recorded, bin_ticks = scalars[PER_CHANNEL], scalars[RECORD], scalars[BIN_TICKS]
    first = channel * per_channel
    pcs = row_at(memory.pcs, first * PC_FIELDS)
    ready = row_at(memory.ready, (scalars[FIRST_CHANNEL_NODE] + channel) * COMMAND_SLOTS)
    wakes = row_at(memory.channels, channel * CHANNEL_FIELDS)
    tick = wakes[WAKE]
    status = FINISHED
    while tick < until:
        if recorded and scalars[TRACED] + 2 > scalars[TRACE_ROWS]:
            status = TRACE_FULL
            break
        if bin_ticks and (tick + scalars[READ_TICKS]) // bin_ticks >= scalars[BINS]:
            status = BINS_FULL
            break
        chosen, age = NONE, NEVER
        for i in range(per_channel):
            pc = row_at(pcs, i * PC_FIELDS)
            if pc[NEXT_ARRIVAL] <= tick:
                fill(memory, first + i, pc, tick)
            if pc[REFRESH_DUE] <= tick and pc[BLOCKED] == 0:
                start_refresh(memory, first + i, pc, tick)
            if pc[COLUMN_STALE]:
                plan_column(memory, first + i, pc, ready, tick)
            if pc[COLUMN_TICK] <= tick and pc[COLUMN_AGE] < age:
                chosen, age = i, pc[COLUMN_AGE]
        served = chosen
        if served != NONE:
            _issue_column(memory, first + served, row_at(pcs, served * PC_FIELDS), ready, tick)
        chosen, age = NONE, NEVER
        for i in range(per_channel):
            pc = row_at(pcs, i * PC_FIELDS)
            if pc[ROW_STALE]:
                plan_row(memory, first + i, pc, ready, tick)
            if pc[ROW_TICK] <= tick and pc[ROW_AGE] < age:
                chosen, age = i, pc[ROW_AGE]
        if chosen != NONE:
            _issue_row(memory, first + chosen, row_at(pcs, chosen * PC_FIELDS), ready, tick)
        if served != NONE:
            fill(memory, first + served, row_at(pcs, served * PC_FIELDS), tick)
        wake, arrival, work = NEVER, NEVER, 0
        for i in range(per_channel):
            pc = row_at(pcs, i * PC_FIELDS)
            work |= pc[COUNT] | pc[COUNT + 1] | pc[OPEN] | pc[BLOCKED]
            if pc[COLUMN_STALE] or pc[COLUMN_TICK] < max(tick + 1, ready[RD + pc[MODE]]):
                plan_column(memory, first + i, pc, ready, tick + 1)
            if pc[ROW_STALE] or pc[ROW_TICK] < max(tick + 1, ready[pc[ROW_COMMAND]]):
                plan_row(memory, first + i, pc, ready, tick + 1)
            wake = min(wake, min(pc[COLUMN_TICK], pc[ROW_TICK]))
            arrival = min(arrival, pc[NEXT_ARRIVAL])
            if pc[BLOCKED] == 0:
                wake = min(wake, pc[REFRESH_DUE])
        wake = min(wake, arrival)
        if work == 0 and not recorded:
            wake += _skip_refreshes(memory, pcs, until)
        tick = max(wake, tick + 1)
        wakes[ASLEEP] = 1 if work == 0 and arrival == NEVER and wake >= until else 0
    wakes[WAKE] = tick
    return status


@compiled
def _release(state: DramState) -> None:
    """Recycle the requests that the last run completed."""
    scalars, requests = state.scalars, state.requests
    for i in range(scalars[COMPLETED]):
        request = state.completed[i, 0]
        requests[request, DONE] = scalars[FREE_REQUEST]
        scalars[FREE_REQUEST] = request
        scalars[REQUESTS_LEFT] += 1
    scalars[COMPLETED] = 0


@compiled
def _sort_completed(state: DramState) -> None:
    """Sort completions by (tick, request)."""
    completed = state.completed[: state.scalars[COMPLETED]]
    completed[:] = completed[np.argsort(completed[:, 0], kind="mergesort")]
    completed[:] = completed[np.argsort(completed[:, 1], kind="mergesort")]


@compiled
def run(state: DramState, until: int, resume: int) -> int:
    """Run every channel up to (not including) a tick; `state.completed[:scalars[COMPLETED]]` are completions.

    Returns FINISHED, or TRACE_FULL or BINS_FULL: that array must grow before running again with `resume` 1.
    """
    scalars = state.scalars
    if not resume:
        _release(state)
    memory = memory_of(state)
    for channel in range(scalars[CHANNELS]):
        wakes = row_at(memory.channels, channel * CHANNEL_FIELDS)
        if wakes[WAKE] < until and not wakes[ASLEEP]:
            status = _run_channel(memory, channel, until)
            if status != FINISHED:
                return int(status)
    scalars[NOW] = max(scalars[NOW], until)
    if scalars[COMPLETED] > 1:
        _sort_completed(state)
    return FINISHED


@compiled
def next_tick(state: DramState) -> int:
    """Return the earliest tick at which a channel with bursts or open rows can act; 2**62 if none."""
    tick = NEVER
    for channel in range(state.scalars[CHANNELS]):
        if not state.channels[channel, ASLEEP]:
            tick = min(tick, state.channels[channel, WAKE])
    return tick
