"""The compiled pass of the checker: one command after another against the rules, with bounded state.

Works on the arrays of `CheckerState`, which `checker` owns, fills with the rule table and reads the findings out of.
The nodes of a channel (itself, its pseudo-channels, stack IDs, bank groups and banks) stand one after another; each
keeps the tick of the last command of every kind at it, which is all that most rules need. The rules with a window keep
a ring of the last commands. What a finding says about the earlier command is stored at the place it was for: its bank,
or its pseudo-channel if it was for all banks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwmodel.compiled import compiled
from hwmodel.dram.rules import COMMANDS

Array = np.ndarray[Any, Any]

ACT, PRE, PREAB, RD, WR, REFPB, REFAB = range(len(COMMANDS))
NEVER = -(1 << 62)
# columns of a trace
TICK, CHANNEL, PSEUDO_CHANNEL, BANK_GROUP, BANK, ROW, COMMAND = range(7)
# kinds of rules
PLAIN, SIBLING, WINDOW, CLOCK = range(4)
# columns of `rules`: the rules about one following command stand together, from rule_start[command] on
RULE, KIND, LEVEL, TICKS, WINDOW_SIZE, RING, PAIRS, PAIRS_END, RULE_FIELDS = range(9)
# places in `sizes`
PCS, IDS, GROUPS, BANKS, ROWS, NODES, CHANNELS, INTERVAL, POSTPONED, COUNT, SIZES = range(11)
# columns of `found`; `WHAT` is a rule's place in the table or one of the problems below
WHERE, WHAT, MISSING, PREVIOUS_NODE, PREVIOUS_CODE, PREVIOUS_TICK, PREVIOUS_INDEX, PREVIOUS_ROW, FOUND_FIELDS = range(9)
CLOSED_BANK, OTHER_ROW, OPEN_BANK, REFRESH_OPEN, REFRESH_OPEN_BANKS, REFRESH_LATE = range(-6, 0)
# columns of `rings`
RING_TICK, RING_NODE, RING_INDEX, RING_ROW, RING_FIELDS = range(5)
# how a pass ends: done, no room for findings, or a command that cannot be (by its column), or goes back in time
DONE, FULL, BACKWARDS = -1, -2, TICK


class CheckerState(NamedTuple):
    sizes: Array  # [SIZES]
    rules: Array  # [rule and following command, RULE_FIELDS]
    rule_start: Array  # [command + 1]
    pairs: Array  # [..]: the previous commands of each rule
    ring_of: Array  # [ring, 3]: level, previous command as a bit mask, length
    last_tick: Array  # [node, command]
    last_node: Array  # [node, command]: the bank, or pseudo-channel, of that command
    own_index: Array  # [node, command]: of the last one for exactly this node
    own_row: Array  # [node, command]
    open_row: Array  # [node]: -1 where closed
    open_banks: Array  # [node]: per pseudo-channel
    refreshed: Array  # [node]: refreshes of the bank so far
    channel_tick: Array  # [channel]
    rings: Array  # [ring, node, slot, RING_FIELDS]
    ring_count: Array  # [ring, node]


@compiled
def node_of(sizes: Array, level: int, channel: int, pc: int, stack_id: int, group: int, bank: int) -> int:
    """Return the number of a node: level 0 is the channel, 4 the bank."""
    base = channel * sizes[NODES]
    pcs, ids, groups, banks = sizes[PCS], sizes[IDS], sizes[GROUPS], sizes[BANKS]
    if level == 0:
        return base
    if level == 1:
        return base + 1 + pc
    if level == 2:
        return base + 1 + pcs + pc * ids + stack_id
    if level == 3:
        return base + 1 + pcs + pcs * ids + (pc * ids + stack_id) * groups + group
    return base + 1 + pcs + pcs * ids + pcs * ids * groups + ((pc * ids + stack_id) * groups + group) * banks + bank


@compiled
def _wrong_field(sizes: Array, row: Array) -> int:
    """Return the column of a command that is out of range, or -1."""
    code = row[COMMAND]
    if code < 0 or code >= len(COMMANDS):
        return COMMAND
    if row[CHANNEL] < 0 or row[CHANNEL] >= sizes[CHANNELS]:
        return CHANNEL
    if row[PSEUDO_CHANNEL] < 0 or row[PSEUDO_CHANNEL] >= sizes[PCS]:
        return PSEUDO_CHANNEL
    lowest = -1 if code == PREAB or code == REFAB else 0
    if row[BANK_GROUP] < lowest or row[BANK_GROUP] >= sizes[GROUPS]:
        return BANK_GROUP
    if row[BANK] < lowest or row[BANK] >= sizes[IDS] * sizes[BANKS]:
        return BANK
    if (code == ACT or code == RD or code == WR) and (row[ROW] < 0 or row[ROW] >= sizes[ROWS]):
        return ROW
    return -1


@compiled
def _report(state: CheckerState, found: Array, index: int, what: int, missing: int) -> None:
    row = found[state.sizes[COUNT]]
    state.sizes[COUNT] += 1
    row[WHERE], row[WHAT], row[MISSING], row[PREVIOUS_NODE] = index, what, missing, -1


@compiled
def _report_pair(state: CheckerState, found: Array, index: int, rule: Array, node: int, tick: int, last: int) -> None:
    """Report a rule with the latest of the previous commands at `node` that came at tick `last`."""
    best, place, command = -1, -1, -1
    for p in range(rule[PAIRS], rule[PAIRS_END]):
        code = state.pairs[p]
        if state.last_tick[node, code] == last:
            at = state.last_node[node, code]
            if state.own_index[at, code] > best:
                best, place, command = state.own_index[at, code], at, code
    _report(state, found, index, rule[RULE], rule[TICKS] - (tick - last))
    row = found[state.sizes[COUNT] - 1]
    row[PREVIOUS_NODE], row[PREVIOUS_CODE], row[PREVIOUS_TICK] = place, command, last
    row[PREVIOUS_INDEX], row[PREVIOUS_ROW] = best, state.own_row[place, command]


@compiled
def _report_ring(state: CheckerState, found: Array, index: int, rule: Array, slot: Array, tick: int) -> None:
    _report(state, found, index, rule[RULE], rule[TICKS] - (tick - slot[RING_TICK]))
    row = found[state.sizes[COUNT] - 1]
    row[PREVIOUS_NODE], row[PREVIOUS_CODE], row[PREVIOUS_TICK] = slot[RING_NODE], state.pairs[rule[PAIRS]], slot[0]
    row[PREVIOUS_INDEX], row[PREVIOUS_ROW] = slot[RING_INDEX], slot[RING_ROW]


@compiled
def _last(state: CheckerState, rule: Array, node: int) -> int:
    """Return the tick of the last of a rule's previous commands at a node."""
    last = NEVER
    for p in range(rule[PAIRS], rule[PAIRS_END]):
        last = max(last, state.last_tick[node, state.pairs[p]])
    return last


@compiled
def _check_siblings(state: CheckerState, found: Array, index: int, rule: Array, nodes: Array, tick: int) -> None:
    """Judge against the latest of the previous commands at the other stack IDs of the pseudo-channel."""
    ids = state.sizes[IDS]
    first = nodes[2] - (nodes[2] - nodes[0] - 1 - state.sizes[PCS]) % ids
    last, node = NEVER, -1
    for other in range(first, first + ids):
        at = _last(state, rule, other)
        if other != nodes[2] and at > last:
            last, node = at, other
    if tick - last < rule[TICKS]:
        _report_pair(state, found, index, rule, node, tick, last)


@compiled
def _check_rules(state: CheckerState, found: Array, index: int, code: int, tick: int, nodes: Array, lowest: int) -> None:
    """Judge one command by every rule that it can come too early for; `lowest` is the lowest level it belongs to."""
    for r in range(state.rule_start[code], state.rule_start[code + 1]):
        rule = state.rules[r]
        kind, level = rule[KIND], rule[LEVEL]
        if kind == CLOCK:
            if tick % rule[TICKS] != 1:
                _report(state, found, index, rule[RULE], rule[TICKS] - (tick - 1) % rule[TICKS])
        elif level > lowest:
            continue
        elif kind == PLAIN:
            last = _last(state, rule, nodes[level])
            if tick - last < rule[TICKS]:
                _report_pair(state, found, index, rule, nodes[level], tick, last)
        elif kind == WINDOW:
            count = state.ring_count[rule[RING], nodes[level]]
            slot = state.rings[rule[RING], nodes[level], count % rule[WINDOW_SIZE]]
            if count >= rule[WINDOW_SIZE] and tick - slot[RING_TICK] < rule[TICKS]:
                _report_ring(state, found, index, rule, slot, tick)
        else:
            _check_siblings(state, found, index, rule, nodes, tick)


@compiled
def _refresh_bank(state: CheckerState, bank: int, tick: int) -> int:
    """Count a refresh of a bank; return how many ticks it came after the last tick at which it had to."""
    interval, postponed = state.sizes[INTERVAL], state.sizes[POSTPONED]
    late = tick - (state.refreshed[bank] + 1 + postponed) * interval
    state.refreshed[bank] += 1
    if late > 0:
        state.refreshed[bank] = tick // interval - postponed  # reported once, then forgiven
    return late


@compiled
def _check_bank(state: CheckerState, found: Array, index: int, row: Array, bank: int, pc: int) -> None:
    """Judge one command for one bank by the state of the bank, and change the state."""
    code = row[COMMAND]
    is_open = state.open_row[bank] >= 0
    if code == RD or code == WR:
        if not is_open:
            _report(state, found, index, CLOSED_BANK, 0)
        elif state.open_row[bank] != row[ROW]:
            _report(state, found, index, OTHER_ROW, 0)
    elif code == ACT:
        if is_open:
            _report(state, found, index, OPEN_BANK, 0)
        else:
            state.open_banks[pc] += 1
        state.open_row[bank] = row[ROW]
    elif code == PRE:
        state.open_banks[pc] -= is_open
        state.open_row[bank] = -1
    else:
        if is_open:
            _report(state, found, index, REFRESH_OPEN, 0)
        if state.sizes[INTERVAL] > 0:
            late = _refresh_bank(state, bank, row[TICK])
            if late > 0:
                _report(state, found, index, REFRESH_LATE, late)


@compiled
def _check_whole(state: CheckerState, found: Array, index: int, row: Array, pc: int) -> None:
    """Judge a command for all banks of a pseudo-channel, and change their states."""
    sizes = state.sizes
    banks = sizes[IDS] * sizes[GROUPS] * sizes[BANKS]
    first = node_of(sizes, 4, row[CHANNEL], row[PSEUDO_CHANNEL], 0, 0, 0)
    if row[COMMAND] == PREAB:
        if state.open_banks[pc] > 0:
            state.open_row[first : first + banks] = -1
            state.open_banks[pc] = 0
        return
    if state.open_banks[pc] > 0:
        _report(state, found, index, REFRESH_OPEN_BANKS, 0)
    if sizes[INTERVAL] > 0:
        latest = 0
        for bank in range(first, first + banks):
            latest = max(latest, _refresh_bank(state, bank, row[TICK]))
        if latest > 0:
            _report(state, found, index, REFRESH_LATE, latest)


@compiled
def _remember(state: CheckerState, index: int, row: Array, nodes: Array, lowest: int) -> None:
    code, place = row[COMMAND], nodes[lowest]
    for level in range(lowest + 1):
        state.last_tick[nodes[level], code] = row[TICK]
        state.last_node[nodes[level], code] = place
    state.own_index[place, code], state.own_row[place, code] = index, row[ROW]
    for ring in range(len(state.ring_of)):
        level = state.ring_of[ring, 0]
        if level <= lowest and state.ring_of[ring, 1] >> code & 1:
            count = state.ring_count[ring, nodes[level]]
            slot = state.rings[ring, nodes[level], count % state.ring_of[ring, 2]]
            slot[RING_TICK], slot[RING_NODE], slot[RING_INDEX], slot[RING_ROW] = row[TICK], place, index, row[ROW]
            state.ring_count[ring, nodes[level]] = count + 1


@compiled
def check_commands(state: CheckerState, trace: Array, start: int, first_index: int, found: Array) -> tuple[int, int]:
    """Judge a trace from command `start` on, writing findings into `found` (sizes[COUNT] of them).

    Returns (the next command, DONE), (it, FULL) when `found` may not hold the next command's findings, or (the
    command, a column of the trace) for a command that cannot be: BACKWARDS where its tick is before the channel's last.
    """
    sizes = state.sizes
    room = len(found) - len(state.rules) - 3
    nodes = np.empty(5, np.int64)
    for i in range(start, len(trace)):
        if sizes[COUNT] > room:
            return i, FULL
        row = trace[i]
        wrong = _wrong_field(sizes, row)
        if wrong >= 0:
            return i, wrong
        channel, pc, code, tick = row[CHANNEL], row[PSEUDO_CHANNEL], row[COMMAND], row[TICK]
        if tick < state.channel_tick[channel]:
            return i, BACKWARDS
        state.channel_tick[channel] = tick
        lowest = 1 if code == PREAB or code == REFAB else 4
        stack_id, bank = row[BANK] // sizes[BANKS], row[BANK] % sizes[BANKS]
        for level in range(lowest + 1):
            nodes[level] = node_of(sizes, level, channel, pc, stack_id, row[BANK_GROUP], bank)
        index = first_index + i
        _check_rules(state, found, index, code, tick, nodes, lowest)
        if lowest == 4:
            _check_bank(state, found, index, row, nodes[4], nodes[1])
        else:
            _check_whole(state, found, index, row, nodes[1])
        _remember(state, index, row, nodes, lowest)
    return len(trace), DONE
