"""What a command does to a channel: the rules it sets in motion, rows opened and closed, counts, trace and log.

Shared by the schedulers (`shared_queues`, `bank_queues`), which decide what issues and when. Readiness is data: a
command raises the earliest ticks of all later commands from the rule table.
"""

from __future__ import annotations

from hwmodel.compiled import compiled
from hwmodel.dram.state import (
    ACCOUNTED,
    ACT,
    ACT_TICK,
    ACTIVATES,
    AT_BANK,
    AT_BANK_GROUP,
    AT_PSEUDO_CHANNEL,
    AT_SIBLING,
    AT_STACK_ID,
    BANK_ACTIVATES,
    BANK_BURSTS,
    BANK_SHIFT,
    BANKS,
    BIN_TICKS,
    BURST_BYTES,
    BURST_TICKS,
    BURSTS_LEFT,
    BUS,
    BUSY_SINCE,
    CAUSE,
    CLOSED,
    COMMAND_SLOTS,
    COMPLETED,
    DATA,
    DONE,
    FAW,
    FAW_PLACE,
    FREE_BURST,
    GROUP_SHIFT,
    IDLE,
    LAST_MODE,
    LATENCY_MAX,
    LATENCY_SUM,
    LINK,
    LOG,
    LOG_FIELDS,
    LOGGED,
    NODES,
    NONE,
    OPEN_BANKS,
    OPEN_ROW,
    OUTSTANDING,
    PC_FIELDS,
    PER_CHANNEL,
    POOL_FIELDS,
    PREAB,
    RD,
    READ_TICKS,
    READS,
    RECORD,
    REFAB,
    REFRESH_WAIT,
    REFRESHED_UNTIL,
    REMAINING,
    REQUEST,
    REQUEST_FIELDS,
    ROW_WAIT,
    STACK_ID_SHIFT,
    STACK_IDS,
    STREAK,
    TRACE_FIELDS,
    TRACED,
    TURNAROUND,
    USED_TICK,
    WAITING,
    WRITE_TICKS,
    Channel,
    Row,
    bank_at,
    raise_row,
    row_at,
)


@compiled
def pc_of(channel: Channel, pc: int) -> Row:
    """Return the row of a pseudo-channel."""
    return row_at(channel.pcs, pc * PC_FIELDS)


@compiled
def pc_ready(channel: Channel, pc: int) -> Row:
    """Return the earliest ticks that the rules of a pseudo-channel allow, by command."""
    return row_at(channel.ready, pc * channel.memory.scalars[NODES] * COMMAND_SLOTS)


@compiled
def bank_ready(channel: Channel, bank: int, command: int) -> int:
    """Return the earliest tick that the rules of a bank, its bank group and its stack ID allow."""
    scalars = channel.memory.scalars
    pc = bank >> scalars[BANK_SHIFT]
    place = bank & ((1 << scalars[BANK_SHIFT]) - 1)
    stack_ready = row_at(channel.ready, (pc * scalars[NODES] + 1) * COMMAND_SLOTS + command)
    group_ready = row_at(stack_ready, scalars[STACK_IDS] * COMMAND_SLOTS)
    own_ready = row_at(stack_ready, (scalars[NODES] - 1 - scalars[BANKS]) * COMMAND_SLOTS)
    return int(
        max(
            own_ready[place * COMMAND_SLOTS],
            group_ready[(place >> scalars[GROUP_SHIFT]) * COMMAND_SLOTS],
            stack_ready[(place >> scalars[STACK_ID_SHIFT]) * COMMAND_SLOTS],
        )
    )


@compiled
def apply(channel: Channel, pc: int, place: int, command: int, tick: int) -> None:
    """Raise the earliest ticks of all commands that the rules place after this one."""
    scalars = channel.memory.scalars
    ready = pc_ready(channel, pc)
    plane = COMMAND_SLOTS * COMMAND_SLOTS
    delay = row_at(channel.memory.delay, command * COMMAND_SLOTS)  # of the first level; the others follow by planes
    raise_row(ready, row_at(delay, AT_PSEUDO_CHANNEL * plane), tick)
    if command == PREAB or command == REFAB:
        return
    stack_ids = scalars[STACK_IDS]
    stack_ready = row_at(ready, COMMAND_SLOTS)
    if command == RD or command == RD + 1:
        if stack_ids > 1:
            stack_id = place >> scalars[STACK_ID_SHIFT]
            for other in range(stack_ids):
                level = AT_STACK_ID if other == stack_id else AT_SIBLING
                raise_row(row_at(stack_ready, other * COMMAND_SLOTS), row_at(delay, level * plane), tick)
        else:
            raise_row(stack_ready, row_at(delay, AT_STACK_ID * plane), tick)
    group = place >> scalars[GROUP_SHIFT]
    raise_row(row_at(stack_ready, (stack_ids + group) * COMMAND_SLOTS), row_at(delay, AT_BANK_GROUP * plane), tick)
    own_ready = row_at(ready, (scalars[NODES] - scalars[BANKS] + place) * COMMAND_SLOTS)
    raise_row(own_ready, row_at(delay, AT_BANK * plane), tick)


@compiled
def record(channel: Channel, pc: int, place: int, row: int, command: int, tick: int) -> None:
    """Append a command to the trace; commands of all banks have bank group and bank -1."""
    scalars = channel.memory.scalars
    entry = row_at(channel.memory.trace, scalars[TRACED] * TRACE_FIELDS)
    scalars[TRACED] += 1
    group, bank = NONE, NONE
    if command != PREAB and command != REFAB:
        group_shift, stack_shift = scalars[GROUP_SHIFT], scalars[STACK_ID_SHIFT]
        per_group = 1 << group_shift
        group = (place >> group_shift) & ((1 << (stack_shift - group_shift)) - 1)
        bank = (place >> stack_shift) * per_group + (place & (per_group - 1))
    entry[0] = tick
    entry[1] = channel.index
    entry[2] = pc
    entry[3] = group
    entry[4] = bank
    entry[5] = row
    entry[6] = command


@compiled
def activate(channel: Channel, bank: int, row: int, tick: int) -> None:
    """Issue an activate: the row is open from now on."""
    scalars = channel.memory.scalars
    pc, place = bank >> scalars[BANK_SHIFT], bank & ((1 << scalars[BANK_SHIFT]) - 1)
    fields, state = pc_of(channel, pc), bank_at(channel, bank)
    state[OPEN_ROW] = row
    state[STREAK] = 0
    state[ACT_TICK] = tick
    state[USED_TICK] = tick
    state[BANK_ACTIVATES] += 1
    fields[OPEN_BANKS] += 1
    fields[ACTIVATES] += 1
    fields[FAW + fields[FAW_PLACE]] = tick
    fields[FAW_PLACE] = (fields[FAW_PLACE] + 1) & 3
    apply(channel, pc, place, ACT, tick)
    if scalars[RECORD]:
        record(channel, pc, place, row, ACT, tick)


@compiled
def close(channel: Channel, bank: int) -> None:
    """Note that a bank's row is closed."""
    bank_at(channel, bank)[OPEN_ROW] = NONE
    fields = pc_of(channel, bank >> channel.memory.scalars[BANK_SHIFT])
    fields[OPEN_BANKS] -= 1
    fields[CLOSED] += 1


@compiled
def row_command(channel: Channel, bank: int, command: int, tick: int) -> None:
    """Issue a precharge or a refresh: rules and trace only."""
    scalars = channel.memory.scalars
    pc, place = bank >> scalars[BANK_SHIFT], bank & ((1 << scalars[BANK_SHIFT]) - 1)
    apply(channel, pc, place, command, tick)
    if scalars[RECORD]:
        record(channel, pc, place, NONE, command, tick)


@compiled
def column(channel: Channel, bank: int, mode: int, tick: int) -> None:
    """Issue a read or a write of the open row."""
    scalars = channel.memory.scalars
    pc, place = bank >> scalars[BANK_SHIFT], bank & ((1 << scalars[BANK_SHIFT]) - 1)
    fields, state = pc_of(channel, pc), bank_at(channel, bank)
    _account(channel, fields, state, mode, tick)
    state[STREAK] += 1
    state[USED_TICK] = tick
    state[BANK_BURSTS] += 1
    fields[READS + mode] += 1
    apply(channel, pc, place, RD + mode, tick)
    if scalars[RECORD]:
        record(channel, pc, place, state[OPEN_ROW], RD + mode, tick)


@compiled
def _account(channel: Channel, pc: Row, bank: Row, mode: int, tick: int) -> None:
    """Attribute the time since a pseudo-channel's last data: idle, refresh, row, then turnaround or bus."""
    scalars = channel.memory.scalars
    since = pc[ACCOUNTED]
    pc[ACCOUNTED] = tick + scalars[BURST_TICKS]
    pc[CAUSE + DATA] += scalars[BURST_TICKS]
    if since < tick:
        activate_to_column = channel.memory.delay[(AT_BANK * COMMAND_SLOTS + ACT) * COMMAND_SLOTS + RD + mode]
        busy = min(tick, max(since, pc[BUSY_SINCE]))
        refreshed = max(busy, min(tick, bank[REFRESHED_UNTIL]))
        opened = max(refreshed, min(tick, bank[ACT_TICK] + activate_to_column))
        pc[CAUSE + IDLE] += busy - since
        pc[CAUSE + REFRESH_WAIT] += refreshed - busy
        pc[CAUSE + ROW_WAIT] += opened - refreshed
        pc[CAUSE + (BUS if mode == pc[LAST_MODE] else TURNAROUND)] += tick - opened
    pc[LAST_MODE] = mode


@compiled
def arrive(channel: Channel, pc: int, tick: int) -> None:
    """Count a burst that waits from now on in its pseudo-channel."""
    fields = pc_of(channel, pc)
    if fields[OUTSTANDING] == 0:
        fields[BUSY_SINCE] = tick
    fields[OUTSTANDING] += 1


@compiled
def finish(channel: Channel, pc: int, burst: int, arrival: int, mode: int, tick: int) -> int:
    """Count a burst whose column command issued, complete its request with the last one; return when it is done."""
    scalars = channel.memory.scalars
    fields = pc_of(channel, pc)
    fields[OUTSTANDING] -= 1
    done = tick + (scalars[WRITE_TICKS] if mode else scalars[READ_TICKS])
    if mode == 0:
        latency = done - arrival
        fields[LATENCY_SUM] += latency
        fields[LATENCY_MAX] = max(fields[LATENCY_MAX], latency)
    if scalars[BIN_TICKS]:
        channel.memory.bins[(done - scalars[BURST_TICKS]) // scalars[BIN_TICKS]] += scalars[BURST_BYTES]
    release(channel, burst, done)
    return int(done)


@compiled
def release(channel: Channel, burst: int, done: int) -> None:
    """Free a burst's row of the pool; its request is complete with its last burst."""
    memory = channel.memory
    scalars = memory.scalars
    row = row_at(memory.pool, burst * POOL_FIELDS)
    if row[REQUEST] >= 0:
        request = row_at(memory.requests, row[REQUEST] * REQUEST_FIELDS)
        request[DONE] = max(request[DONE], done)
        request[REMAINING] -= 1
        if request[REMAINING] == 0:
            completed = row_at(memory.completed, scalars[COMPLETED] * 2)
            completed[0] = row[REQUEST]
            completed[1] = request[DONE]
            scalars[COMPLETED] += 1
    row[LINK] = scalars[FREE_BURST]
    scalars[FREE_BURST] = burst
    scalars[BURSTS_LEFT] += 1
    scalars[WAITING] -= 1


@compiled
def log(channel: Channel, bank: int, arrival: int, done: int, mode: int, outcome: int) -> None:
    """Append a burst that is done to the log, where one is kept."""
    scalars = channel.memory.scalars
    if scalars[LOG]:
        entry = row_at(channel.memory.log, scalars[LOGGED] * LOG_FIELDS)
        scalars[LOGGED] += 1
        entry[0] = arrival
        entry[1] = done
        entry[2] = channel.index
        entry[3] = bank >> scalars[BANK_SHIFT]
        entry[4] = bank & ((1 << scalars[BANK_SHIFT]) - 1)
        entry[5] = mode
        entry[6] = outcome


@compiled
def all_pcs_closed(channel: Channel) -> bool:
    """Return whether no bank of the channel has an open row."""
    for pc in range(channel.memory.scalars[PER_CHANNEL]):
        if pc_of(channel, pc)[OPEN_BANKS] != 0:
            return False
    return True
