"""Scheduling policies, one compiled function each: what a pseudo-channel would do next, and when.

Called by `kernel` whenever something that they depend on has changed. A plan is a command with the first tick
at which the rules allow it; it holds until the pseudo-channel changes. FR-FCFS with open rows: row hits are
served oldest first as they become ready; in each bank the oldest burst decides about the row, and younger
hits do not keep it open.
Write drain by two watermarks and turns of bounded length; refreshes on time, as one mechanism with a mask of
the banks that are refreshed together.
Not modelled: prediction of row reuse, postponed refreshes, priorities between requesters.
"""

from __future__ import annotations

from hwmodel.compiled import compiled
from hwmodel.dram.state import (
    ACT,
    AGE,
    BANK_FIELDS,
    BANKS,
    BLOCKED,
    CAPPED,
    COLUMN_AGE,
    COLUMN_BANK,
    COLUMN_STALE,
    COLUMN_TICK,
    COMMAND_SLOTS,
    COUNT,
    FAW,
    FAW_PLACE,
    FAW_TICKS,
    GROUP_SHIFT,
    HEAD,
    HEAD_HIT,
    HIT,
    HIT_BEFORE,
    HIT_KEYS,
    HIT_RUN,
    LISTED,
    MAX_BANKS,
    MODE,
    NEVER,
    NODES,
    NONE,
    OPEN,
    OPEN_ROW,
    PENDING,
    PLACE_BITS,
    PRE,
    PREAB,
    RD,
    REFAB,
    REFPB,
    REFRESH_ALL,
    REFRESH_BANK,
    REFRESH_DUE,
    REFRESH_INTERVAL,
    REFRESHED_UNTIL,
    ROW,
    ROW_AGE,
    ROW_BANK,
    ROW_COMMAND,
    ROW_STALE,
    ROW_TICK,
    STACK_ID_SHIFT,
    STACK_IDS,
    TURN_LEFT,
    WRITE_HIGH,
    WRITE_LOW,
    Memory,
    Row,
    bank_at,
    link_of,
    row_at,
    run_at,
    trailing_zeros,
)


@compiled
def choose_mode(memory: Memory, pc_index: int, pc: Row, tick: int) -> None:
    """Write drain: enter write mode at the high watermark or without reads, leave it below the low one.

    Neither waits without limit for a stream of the other. While reads wait, a drain serves no more writes than would
    bring the queue below the low watermark if none arrived; then as many reads as waited are served before the next.
    A refresh is no reason to wait: while it holds all banks that have reads, writes go on.
    """
    scalars = memory.scalars
    reads, writes = pc[COUNT], pc[COUNT + 1]
    if pc[MODE] == 0:
        change = writes >= scalars[WRITE_HIGH] and (pc[TURN_LEFT] <= 0 or not _can_read(memory, pc_index, pc, tick))
        change = change or (reads == 0 and writes > 0)
    else:
        change = writes < scalars[WRITE_LOW] or (pc[TURN_LEFT] <= 0 and _can_read(memory, pc_index, pc, tick))
        change = change and reads > 0
    if change:
        pc[TURN_LEFT] = reads if pc[MODE] else max(writes, scalars[WRITE_HIGH]) - scalars[WRITE_LOW] + 1
        pc[MODE] = 1 - pc[MODE]
        pc[COLUMN_STALE] = 1
        pc[ROW_STALE] = 1


@compiled
def _can_read(memory: Memory, pc_index: int, pc: Row, tick: int) -> bool:
    """Return whether a read waits for a bank that is not being refreshed."""
    candidates = pc[PENDING] & ~pc[BLOCKED]
    while candidates != 0:
        if bank_at(memory, pc_index, trailing_zeros(candidates))[REFRESHED_UNTIL] <= tick:
            return True
        candidates &= candidates - 1
    return False


@compiled
def start_refresh(memory: Memory, pc_index: int, pc: Row, tick: int) -> None:
    """A refresh falls due: its banks take no other command until it has issued."""
    scalars = memory.scalars
    if scalars[REFRESH_ALL]:
        pc[BLOCKED] = -1
    else:
        pc[BLOCKED] = 1 << pc[REFRESH_BANK]
        pc[REFRESH_BANK] += 1
        if pc[REFRESH_BANK] == scalars[BANKS]:
            pc[REFRESH_BANK] = 0
    pc[REFRESH_DUE] += scalars[REFRESH_INTERVAL]
    pc[COLUMN_STALE] = 1
    pc[ROW_STALE] = 1
    choose_mode(memory, pc_index, pc, tick)


@compiled
def list_hit(pc: Row, place: int, mode: int, age: int) -> None:
    """Enter a bank into the list of banks with a hit, which is in the order of the ages of their oldest hits."""
    keys, key = row_at(pc, HIT_KEYS + mode * MAX_BANKS), (age << PLACE_BITS) | place
    at = pc[LISTED + mode]
    while at > 0 and keys[at - 1] > key:
        keys[at] = keys[at - 1]
        at -= 1
    keys[at] = key
    pc[LISTED + mode] += 1
    pc[HIT + mode] |= 1 << place


@compiled
def listed_at(pc: Row, place: int, mode: int) -> int:
    """Return the position of a bank in the list of banks with a hit."""
    keys, at = row_at(pc, HIT_KEYS + mode * MAX_BANKS), 0
    while keys[at] & (MAX_BANKS - 1) != place:
        at += 1
    return at


@compiled
def unlist_hit(pc: Row, place: int, mode: int) -> None:
    """Take a bank off the list of banks with a hit."""
    keys = row_at(pc, HIT_KEYS + mode * MAX_BANKS)
    pc[LISTED + mode] -= 1
    for at in range(listed_at(pc, place, mode), pc[LISTED + mode]):
        keys[at] = keys[at + 1]
    pc[HIT + mode] &= ~(1 << place)


@compiled
def find_hit(memory: Memory, pc: Row, bank: Row, place: int, mode: int, before: int, hit: int) -> None:
    """Find the oldest hit of a bank, from run `hit` on, which follows `before` in the list."""
    while hit != NONE and run_at(memory, hit)[ROW] != bank[OPEN_ROW]:
        before = hit
        hit = link_of(memory, hit)
    bank[HIT_RUN + mode] = hit
    bank[HIT_BEFORE + mode] = before
    if hit != NONE:
        list_hit(pc, place, mode, run_at(memory, hit)[AGE])
    if hit != NONE and before == NONE:
        pc[HEAD_HIT + mode] |= 1 << place
    else:
        pc[HEAD_HIT + mode] &= ~(1 << place)


@compiled
def plan_column(memory: Memory, pc_index: int, pc: Row, channel_ready: Row, tick: int) -> None:
    """Find the next column command: the row hit ready first, from `tick` on; among equals the oldest."""
    scalars = memory.scalars
    mode = pc[MODE]
    candidates = pc[HIT + mode] & ~pc[BLOCKED] & ~(pc[CAPPED] & ~pc[HEAD_HIT + mode])
    best_tick, best_bank, best_age = NEVER, 0, NEVER
    if candidates != 0:
        command = RD + mode
        pc_ready = row_at(memory.ready, pc_index * scalars[NODES] * COMMAND_SLOTS + command)
        stack_ready = row_at(pc_ready, COMMAND_SLOTS)
        group_ready = row_at(stack_ready, scalars[STACK_IDS] * COMMAND_SLOTS)
        bank_ready = row_at(pc_ready, (scalars[NODES] - scalars[BANKS]) * COMMAND_SLOTS)
        stack_shift, group_shift = scalars[STACK_ID_SHIFT], scalars[GROUP_SHIFT]
        floor = max(tick, channel_ready[command], pc_ready[0])
        keys = row_at(pc, HIT_KEYS + mode * MAX_BANKS)
        for i in range(pc[LISTED + mode]):
            place = keys[i] & (MAX_BANKS - 1)
            if not (candidates >> place) & 1:
                continue
            at = max(floor, bank_ready[place * COMMAND_SLOTS])
            at = max(at, group_ready[(place >> group_shift) * COMMAND_SLOTS])
            at = max(at, stack_ready[(place >> stack_shift) * COMMAND_SLOTS])
            if at < best_tick:
                best_tick, best_bank, best_age = at, place, keys[i] >> PLACE_BITS
                if at == floor:
                    break
    pc[COLUMN_TICK] = best_tick
    pc[COLUMN_BANK] = best_bank
    pc[COLUMN_AGE] = best_age
    pc[COLUMN_STALE] = 0


@compiled
def plan_row(memory: Memory, pc_index: int, pc: Row, channel_ready: Row, tick: int) -> None:
    """Find the next row command: for a refresh that is due, or for the oldest burst of a bank, if no hit."""
    scalars = memory.scalars
    mode = pc[MODE]
    blocked, opened = pc[BLOCKED], pc[OPEN]
    best_tick, best_bank, best_age, best_command = NEVER, 0, NEVER, ACT
    pc_ready = row_at(memory.ready, pc_index * scalars[NODES] * COMMAND_SLOTS)
    bank_ready = row_at(pc_ready, (scalars[NODES] - scalars[BANKS]) * COMMAND_SLOTS)
    if blocked != 0:
        best_age = NONE  # before any burst
        if scalars[REFRESH_ALL]:
            best_command = PREAB if opened != 0 else REFAB
            best_tick = max(tick, channel_ready[best_command], pc_ready[best_command])
        else:
            best_bank = trailing_zeros(blocked)
            best_command = PRE if opened & blocked != 0 else REFPB
            best_tick = max(tick, channel_ready[best_command], pc_ready[best_command])
            best_tick = max(best_tick, bank_ready[best_bank * COMMAND_SLOTS + best_command])
    candidates = pc[PENDING + mode] & ~pc[HEAD_HIT + mode] & ~blocked
    if candidates != 0:
        group_ready = row_at(pc_ready, (1 + scalars[STACK_IDS]) * COMMAND_SLOTS)
        group_shift = scalars[GROUP_SHIFT]
        first_bank = bank_at(memory, pc_index, 0)
        activate = max(tick, channel_ready[ACT], pc_ready[ACT])
        activate = max(activate, pc[FAW + pc[FAW_PLACE]] + scalars[FAW_TICKS])
        precharge = max(tick, channel_ready[PRE], pc_ready[PRE])
        while candidates != 0:
            place = trailing_zeros(candidates)
            candidates &= candidates - 1
            if (opened >> place) & 1:
                command = PRE
                at = max(precharge, bank_ready[place * COMMAND_SLOTS + PRE])
            else:
                command = ACT
                at = max(activate, bank_ready[place * COMMAND_SLOTS + ACT])
                at = max(at, group_ready[(place >> group_shift) * COMMAND_SLOTS + ACT])
            if at <= best_tick:
                age = run_at(memory, first_bank[place * BANK_FIELDS + HEAD + mode])[AGE]
                if at < best_tick or age < best_age:
                    best_tick, best_bank, best_age, best_command = at, place, age, command
    pc[ROW_TICK] = best_tick
    pc[ROW_BANK] = best_bank
    pc[ROW_AGE] = best_age
    pc[ROW_COMMAND] = best_command
    pc[ROW_STALE] = 0
