"""What a command does to a channel: the rules it sets in motion, rows opened and closed, counts, trace and log.

Shared by the schedulers (`shared_queues`, `bank_queues`), which decide what issues and when. Readiness is data: a
command raises the earliest ticks of all later commands from the rule table.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.dram.state import (
    ACCOUNTED,
    ACT,
    ACT_TICK,
    ACT_TICKS,
    ACTIVATES,
    ARRIVAL,
    ARRIVES,
    AT_BANK,
    AT_BANK_GROUP,
    AT_PSEUDO_CHANNEL,
    AT_SIBLING,
    AT_STACK_ID,
    BANK_ACTIVATES,
    BANK_BURSTS,
    BANK_PC,
    BANK_STRIDE,
    BIN,
    BIN_BYTES,
    BIN_START,
    BIN_TICKS,
    BURST_BYTES,
    BURST_LOG,
    BURST_TICKS,
    BURSTS_LEFT,
    BUS,
    BUSY_SINCE,
    CAUSE,
    CLOSED,
    COLUMN_FREE,
    COLUMN_TICKS,
    COLUMN_WAKE,
    COMMAND_SLOTS,
    COMPLETED,
    COMPLETIONS,
    DATA,
    DELAY,
    DONE,
    FAW,
    FAW_PLACE,
    FAW_TICKS,
    FREE_BURST,
    GROUP_SHIFT,
    IDLE,
    INDEX,
    LAST_MODE,
    LATENCY_MAX,
    LATENCY_SUM,
    LEVEL,
    LINK,
    LOG,
    LOG_FIELDS,
    LOGGED,
    MERGE_OUTCOME,
    MERGED_READS,
    NONE,
    ONE_BUS,
    OPEN_BANKS,
    OPEN_ROW,
    OUTSTANDING,
    PER_CHANNEL,
    PRE,
    PREAB,
    RD,
    READ_TICKS,
    READS,
    RECORD,
    REFAB,
    REFPB,
    REFRESH,
    REFRESH_DUE,
    REFRESH_PER_BANK,
    REFRESH_WAIT,
    REFRESHED_UNTIL,
    REMAINING,
    REQUEST,
    REQUEST_FIELDS,
    REQUESTS,
    ROW_FREE,
    ROW_WAIT,
    ROW_WAKE,
    STACK_ID_SHIFT,
    STACK_IDS,
    STREAK,
    TRACE,
    TRACE_FIELDS,
    TRACED,
    TURNAROUND,
    UNDONE,
    USED_TICK,
    WR,
    bank_at,
    burst_at,
    pc_at,
    ready_at,
)
from hwmodel.intrinsics import LANES, Row, pointer_of, raise_lanes, raise_row, row_at


@inlined
def _raise_bank(m: Row, c: Row, bank: int, command: int, following: int, tick: int) -> None:
    """Let a bank wait for a following command as long as its rules want."""
    ready = row_at(ready_at(c, following), bank)
    ready[0] = max(ready[0], tick + m[DELAY + AT_BANK * LEVEL + command * COMMAND_SLOTS + following])


@inlined
def _raise_banks(m: Row, c: Row, level: int, first: int, count: int, command: int, following: int, tick: int) -> None:
    """Let `count` banks, a power of two, wait for a following command as long as the rules of a level want."""
    ticks = m[DELAY + level * LEVEL + command * COMMAND_SLOTS + following]
    if ticks <= 0:
        return
    block, place = row_at(ready_at(c, following), first & -LANES), first & (LANES - 1)
    if count <= LANES:
        raise_lanes(block, ((1 << count) - 1) << place, tick + ticks)
        return
    for _ in range(count // LANES):
        raise_lanes(block, (1 << LANES) - 1, tick + ticks)
        block = row_at(block, LANES)


@compiled
def _record(m: Row, c: Row, bank: int, row: int, command: int, tick: int) -> None:
    """Append a command to the trace; commands of all banks have bank group and bank -1."""
    entry = row_at(pointer_of(m[TRACE]), m[TRACED] * TRACE_FIELDS)
    m[TRACED] += 1
    pc = bank_at(c, bank)[BANK_PC]
    place = bank - pc * m[BANK_STRIDE]
    group, member = NONE, NONE
    if command != PREAB and command != REFAB:
        group_shift, stack_shift = m[GROUP_SHIFT], m[STACK_ID_SHIFT]
        per_group = 1 << group_shift
        group = (place >> group_shift) & ((1 << (stack_shift - group_shift)) - 1)
        member = (place >> stack_shift) * per_group + (place & (per_group - 1))
    entry[0] = tick
    entry[1] = c[INDEX]
    entry[2] = pc
    entry[3] = group
    entry[4] = member
    entry[5] = row
    entry[6] = command


@inlined
def _group_of(m: Row, bank: int) -> tuple[int, int]:
    """Return the first bank of a bank's group, and how many there are."""
    return bank >> m[GROUP_SHIFT] << m[GROUP_SHIFT], 1 << m[GROUP_SHIFT]


@inlined
def occupy(m: Row, c: Row, bus: int, ticks: int, tick: int) -> None:
    """Note until when a command takes its bus (ROW_FREE, COLUMN_FREE), or the only one."""
    c[bus] = tick + ticks
    if m[ONE_BUS]:
        c[ROW_FREE] = c[COLUMN_FREE] = tick + ticks


@inlined
def activate(m: Row, c: Row, bank: int, row: int, tick: int) -> None:
    """Issue an activate: the row is open from now on."""
    state = bank_at(c, bank)
    pc = pc_at(c, state[BANK_PC])
    state[OPEN_ROW] = row
    state[STREAK] = 0
    state[ACT_TICK] = tick
    state[USED_TICK] = tick
    state[BANK_ACTIVATES] += 1
    pc[OPEN_BANKS] += 1
    pc[ACTIVATES] += 1
    pc[FAW + pc[FAW_PLACE]] = tick
    pc[FAW_PLACE] = (pc[FAW_PLACE] + 1) & 3
    fifth = pc[FAW + pc[FAW_PLACE]] + m[FAW_TICKS]
    occupy(m, c, ROW_FREE, m[ACT_TICKS], tick)
    delay = row_at(m, DELAY + ACT * COMMAND_SLOTS)
    raise_row(pc, row_at(delay, AT_PSEUDO_CHANNEL * LEVEL), tick)
    raise_lanes(pc, 1 << ACT, fifth)
    first, count = _group_of(m, bank)  # before the bank: what is read in lanes must not just have been written alone
    _raise_banks(m, c, AT_BANK_GROUP, first, count, ACT, ACT, tick)
    _raise_bank(m, c, bank, ACT, ACT, tick)
    _raise_bank(m, c, bank, ACT, PRE, tick)
    _raise_bank(m, c, bank, ACT, RD, tick)
    _raise_bank(m, c, bank, ACT, WR, tick)
    if m[REFRESH] == REFRESH_PER_BANK:
        _raise_banks(m, c, AT_BANK_GROUP, first, count, ACT, REFPB, tick)
        _raise_bank(m, c, bank, ACT, REFPB, tick)
    if m[RECORD]:
        _record(m, c, bank, row, ACT, tick)


@inlined
def close(c: Row, bank: int) -> None:
    """Note that a bank's row is closed."""
    state = bank_at(c, bank)
    state[OPEN_ROW] = NONE
    pc = pc_at(c, state[BANK_PC])
    pc[OPEN_BANKS] -= 1
    pc[CLOSED] += 1


@inlined
def row_command(m: Row, c: Row, bank: int, command: int, tick: int) -> None:
    """Issue a precharge or a refresh, of one bank or of all: rules and trace only."""
    state = bank_at(c, bank)
    occupy(m, c, ROW_FREE, 1, tick)
    delay = row_at(m, DELAY + command * COMMAND_SLOTS)
    raise_row(pc_at(c, state[BANK_PC]), row_at(delay, AT_PSEUDO_CHANNEL * LEVEL), tick)
    if command in (PRE, REFPB):
        _raise_bank(m, c, bank, command, ACT, tick)
        if m[REFRESH] == REFRESH_PER_BANK:
            _raise_bank(m, c, bank, command, PRE, tick)
            _raise_bank(m, c, bank, command, REFPB, tick)
    if m[RECORD]:
        _record(m, c, bank, NONE, command, tick)


@inlined
def column(m: Row, c: Row, bank: int, mode: int, tick: int) -> None:
    """Issue a read or a write of the open row."""
    state = bank_at(c, bank)
    pc = pc_at(c, state[BANK_PC])
    if pc[ACCOUNTED] < tick:
        _account(m, pc, state, mode, tick)
    pc[ACCOUNTED] = tick + m[BURST_TICKS]
    pc[CAUSE + DATA] += m[BURST_TICKS]
    pc[LAST_MODE] = mode
    state[STREAK] += 1
    state[USED_TICK] = tick
    state[BANK_BURSTS] += 1
    pc[READS + mode] += 1
    occupy(m, c, COLUMN_FREE, m[COLUMN_TICKS], tick)
    delay = row_at(m, DELAY + (RD + mode) * COMMAND_SLOTS)
    raise_row(pc, row_at(delay, AT_PSEUDO_CHANNEL * LEVEL), tick)
    _raise_bank(m, c, bank, RD + mode, PRE, tick)
    first, count = _group_of(m, bank)
    _raise_banks(m, c, AT_BANK_GROUP, first, count, RD + mode, RD, tick)
    _raise_banks(m, c, AT_BANK_GROUP, first, count, RD + mode, WR, tick)
    if m[STACK_IDS] > 1:
        _raise_stack_ids(m, c, bank, state[BANK_PC], mode, tick)
    if m[RECORD]:
        _record(m, c, bank, state[OPEN_ROW], RD + mode, tick)


@inlined
def _raise_stack_ids(m: Row, c: Row, bank: int, pc: int, mode: int, tick: int) -> None:
    """Let the banks of all stack IDs of a pseudo-channel wait for columns after one of a bank."""
    banks, first = 1 << m[STACK_ID_SHIFT], pc * m[BANK_STRIDE]
    own = bank & -banks
    _raise_banks(m, c, AT_STACK_ID, own, banks, RD + mode, RD, tick)
    _raise_banks(m, c, AT_STACK_ID, own, banks, RD + mode, WR, tick)
    for stack in range(m[STACK_IDS]):
        other = first + (stack << m[STACK_ID_SHIFT])
        if other != own:
            _raise_banks(m, c, AT_SIBLING, other, banks, RD + mode, RD, tick)
            _raise_banks(m, c, AT_SIBLING, other, banks, RD + mode, WR, tick)


@compiled
def _account(m: Row, pc: Row, bank: Row, mode: int, tick: int) -> None:
    """Attribute the time since a pseudo-channel's last data: idle, refresh, row, then turnaround or bus."""
    since = pc[ACCOUNTED]
    activate_to_column = m[DELAY + (AT_BANK * COMMAND_SLOTS + ACT) * COMMAND_SLOTS + RD + mode]
    busy = min(tick, max(since, pc[BUSY_SINCE]))
    refreshed = max(busy, min(tick, bank[REFRESHED_UNTIL]))
    opened = max(refreshed, min(tick, bank[ACT_TICK] + activate_to_column))
    pc[CAUSE + IDLE] += busy - since
    pc[CAUSE + REFRESH_WAIT] += refreshed - busy
    pc[CAUSE + ROW_WAIT] += opened - refreshed
    pc[CAUSE + (BUS if mode == pc[LAST_MODE] else TURNAROUND)] += tick - opened


@inlined
def arrive(pc: Row, tick: int) -> None:
    """Count a burst that waits from now on in its pseudo-channel."""
    if pc[OUTSTANDING] == 0:
        pc[BUSY_SINCE] = tick
    pc[OUTSTANDING] += 1


@inlined
def finish(m: Row, c: Row, bank: int, burst: int, mode: int, tick: int, outcome: int) -> int:
    """Count a burst whose column command issued, complete its request with the last one; return when it is done."""
    pc = pc_at(c, bank_at(c, bank)[BANK_PC])
    pc[OUTSTANDING] -= 1
    done, arrival = tick + m[READ_TICKS + mode], burst_at(m, burst)[ARRIVAL]
    if mode == 0:
        latency = done - arrival
        pc[LATENCY_SUM] += latency
        if latency > pc[LATENCY_MAX]:
            pc[LATENCY_MAX] = latency
    if m[BIN_TICKS]:
        _bin(m, c, done - m[BURST_TICKS])
    if m[LOG]:
        log(m, c, bank, arrival, done, mode, outcome)
    release(m, burst, done)
    return int(done)


@inlined
def _bin(m: Row, c: Row, tick: int) -> None:
    """Count a burst whose first data comes at a tick."""
    if tick < c[BIN_START] or tick >= c[BIN_START] + m[BIN_TICKS]:
        c[BIN] = tick // m[BIN_TICKS]
        c[BIN_START] = c[BIN] * m[BIN_TICKS]
    pointer_of(m[BIN_BYTES])[c[BIN]] += m[BURST_BYTES]


@compiled
def serve_merged(m: Row, c: Row, bank: int, burst: int, arrival: int, mode: int, done: int) -> None:
    """Count a burst that needs no command of its own."""
    pc = pc_at(c, bank_at(c, bank)[BANK_PC])
    pc[READS + mode] += 1
    c[MERGED_READS + mode] += 1
    if mode == 0:
        latency = done - arrival
        pc[LATENCY_SUM] += latency
        pc[LATENCY_MAX] = max(pc[LATENCY_MAX], latency)
    if m[LOG]:
        log(m, c, bank, arrival, done, mode, MERGE_OUTCOME)
    release(m, burst, done)


@inlined
def release(m: Row, burst: int, done: int) -> None:
    """Free a run's row of the pool with its last burst; its request is complete with its last burst."""
    row = burst_at(m, burst)
    if row[REQUEST] >= 0:
        request = row_at(pointer_of(m[REQUESTS]), row[REQUEST] * REQUEST_FIELDS)
        request[DONE] = max(request[DONE], done)
        request[REMAINING] -= 1
        if request[REMAINING] == 0:
            completed = row_at(pointer_of(m[COMPLETIONS]), m[COMPLETED] * 2)
            completed[0] = row[REQUEST]
            completed[1] = request[DONE]
            m[COMPLETED] += 1
    row[UNDONE] -= 1
    if row[UNDONE] == 0:
        row[LINK] = m[FREE_BURST]
        m[FREE_BURST] = burst
    m[BURSTS_LEFT] += 1


@compiled
def log(m: Row, c: Row, bank: int, arrival: int, done: int, mode: int, outcome: int) -> None:
    """Append a burst that is done to the log."""
    entry = row_at(pointer_of(m[BURST_LOG]), m[LOGGED] * LOG_FIELDS)
    m[LOGGED] += 1
    pc = bank_at(c, bank)[BANK_PC]
    entry[0] = arrival
    entry[1] = done
    entry[2] = c[INDEX]
    entry[3] = pc
    entry[4] = bank - pc * m[BANK_STRIDE]
    entry[5] = mode
    entry[6] = outcome


@compiled
def all_closed(m: Row, c: Row) -> bool:
    """Return whether no bank of the channel has an open row."""
    opened = 0
    for pc in range(m[PER_CHANNEL]):
        opened += pc_at(c, pc)[OPEN_BANKS]
    return bool(opened == 0)


@inlined
def next_event(c: Row) -> int:
    """Return the earliest tick on which something may happen in a channel."""
    return int(min(min(c[COLUMN_WAKE], c[ROW_WAKE]), min(c[REFRESH_DUE], c[ARRIVES])))
