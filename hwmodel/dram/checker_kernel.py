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

from hwmodel.compiled import compiled, inlined
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
def _wrong_field(sizes: Array, channel_tick: Array, trace: Array, i: int) -> int:
    """Return the column in which command `i` is out of range, BACKWARDS if its tick is, or -1."""
    row, code = trace[i], trace[i, COMMAND]
    if code < 0 or code >= len(COMMANDS):
        return COMMAND
    if row[CHANNEL] < 0 or row[CHANNEL] >= sizes[CHANNELS]:
        return CHANNEL
    if row[PSEUDO_CHANNEL] < 0 or row[PSEUDO_CHANNEL] >= sizes[PCS]:
        return PSEUDO_CHANNEL
    lowest = -1 if code in (PREAB, REFAB) else 0
    if row[BANK_GROUP] < lowest or row[BANK_GROUP] >= sizes[GROUPS]:
        return BANK_GROUP
    if row[BANK] < lowest or row[BANK] >= sizes[IDS] * sizes[BANKS]:
        return BANK
    if code in (ACT, RD, WR) and (row[ROW] < 0 or row[ROW] >= sizes[ROWS]):
        return ROW
    return BACKWARDS if row[TICK] < channel_tick[row[CHANNEL]] else -1


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
    row[PREVIOUS_NODE], row[PREVIOUS_CODE], row[PREVIOUS_TICK] = (
        slot[RING_NODE],
        state.pairs[rule[PAIRS]],
        slot[RING_TICK],
    )
    row[PREVIOUS_INDEX], row[PREVIOUS_ROW] = slot[RING_INDEX], slot[RING_ROW]


@compiled
def _last(last_tick: Array, pairs: Array, first: int, end: int, node: int) -> int:
    """Return the tick of the last of the commands pairs[first:end] at a node."""
    last = NEVER
    for p in range(first, end):
        last = max(last, last_tick[node, pairs[p]])
    return last


@compiled
def _siblings(last_tick: Array, pairs: Array, table: Array, r: int, first: int, ids: int, own: int) -> tuple[int, int]:
    """Return (tick, node) of the last of rule `r`'s previous commands at the nodes from `first` on but `own`."""
    last, node = NEVER, -1
    for other in range(first, first + ids):
        at = _last(last_tick, pairs, table[r, PAIRS], table[r, PAIRS_END], other)
        if other != own and at > last:
            last, node = at, other
    return last, node


@compiled
def _change_bank(open_row: Array, open_banks: Array, code: int, row: int, bank: int, pc: int) -> int:
    """Change the state of the bank that a command is for; return the problem that the state is, or 0."""
    is_open = open_row[bank] >= 0
    if code in (RD, WR):
        return 0 if open_row[bank] == row else OTHER_ROW if is_open else CLOSED_BANK
    if code == ACT:
        open_banks[pc] += not is_open
        open_row[bank] = row
        return OPEN_BANK if is_open else 0
    if code == PRE:
        open_banks[pc] -= is_open
        open_row[bank] = -1
        return 0
    return REFRESH_OPEN if is_open else 0


@compiled
def _change_banks(open_row: Array, open_banks: Array, code: int, first: int, banks: int, pc: int) -> int:
    """Change the states of the banks of a pseudo-channel; return the problem that they are, or 0."""
    if open_banks[pc] == 0:
        return 0
    if code == REFAB:
        return REFRESH_OPEN_BANKS
    open_row[first : first + banks] = -1
    open_banks[pc] = 0
    return 0


@compiled
def _refresh(state: CheckerState, first: int, banks: int, tick: int) -> int:
    """Count a refresh of banks; return how many ticks it came after the last tick at which one of them had to."""
    interval, postponed = state.sizes[INTERVAL], state.sizes[POSTPONED]
    latest = 0
    for bank in range(first, first + banks):
        late = tick - (state.refreshed[bank] + 1 + postponed) * interval
        state.refreshed[bank] += 1
        if late > 0:
            state.refreshed[bank] = tick // interval - postponed  # reported once, then forgiven
            latest = max(latest, late)
    return latest


@compiled
def _remember_in_rings(state: CheckerState, index: int, row: Array, nodes: Array, lowest: int) -> None:
    for ring in range(len(state.ring_of)):
        level = state.ring_of[ring, 0]
        if level <= lowest and state.ring_of[ring, 1] >> row[COMMAND] & 1:
            count = state.ring_count[ring, nodes[level]]
            slot = state.rings[ring, nodes[level], count % state.ring_of[ring, 2]]
            slot[RING_TICK], slot[RING_NODE], slot[RING_INDEX], slot[RING_ROW] = (
                row[TICK],
                nodes[lowest],
                index,
                row[ROW],
            )
            state.ring_count[ring, nodes[level]] = count + 1


@inlined
def _find_nodes(sizes: Array, trace: Array, i: int, stack_id: int, lowest: int, nodes: Array) -> None:
    """Write the nodes of command `i` into `nodes`, its channel first; where it is for all banks, the first of them."""
    pcs, ids, groups, banks = sizes[PCS], sizes[IDS], sizes[GROUPS], sizes[BANKS]
    group = stack_id * groups + (trace[i, BANK_GROUP] if lowest == 4 else 0)
    nodes[0] = trace[i, CHANNEL] * sizes[NODES]
    nodes[1] = nodes[0] + 1 + trace[i, PSEUDO_CHANNEL]
    nodes[2] = nodes[0] + 1 + pcs + stack_id
    nodes[3] = nodes[0] + 1 + pcs * (1 + ids) + group
    nodes[4] = nodes[0] + 1 + pcs * (1 + ids * (1 + groups)) + group * banks
    if lowest == 4:
        nodes[4] += trace[i, BANK] % banks


@inlined
def _change(open_row: Array, open_banks: Array, code: int, row: int, nodes: Array, all_banks: int) -> int:
    """Change the state of a command's bank, or of all; return what is wrong with it, a number below 0, if anything."""
    if code in (PREAB, REFAB):
        return int(_change_banks(open_row, open_banks, code, nodes[4], all_banks, nodes[1]))
    return int(_change_bank(open_row, open_banks, code, row, nodes[4], nodes[1]))


@compiled
def _codes_in_rings(ring_of: Array) -> int:
    """Return the commands that some ring keeps, as a bit mask."""
    codes = 0
    for ring in range(len(ring_of)):
        codes |= ring_of[ring, 1]
    return codes


@inlined
def _remember(
    last_tick: Array,
    last_node: Array,
    own_index: Array,
    own_row: Array,
    nodes: Array,
    lowest: int,
    code: int,
    tick: int,
    index: int,
    row: int,
) -> None:
    """Note a command at all its nodes as the last of its kind."""
    for level in range(lowest + 1):
        last_tick[nodes[level], code] = tick
        last_node[nodes[level], code] = nodes[lowest]
    own_index[nodes[lowest], code], own_row[nodes[lowest], code] = index, row


@compiled
def check_commands(state: CheckerState, trace: Array, start: int, first_index: int, found: Array) -> tuple[int, int]:
    """Judge a trace from command `start` on, writing findings into `found` (sizes[COUNT] of them).

    Returns (the next command, DONE), (it, FULL) when `found` may not hold the next command's findings, or (the
    command, a column of the trace) for a command that cannot be: BACKWARDS where its tick is before the channel's last.
    What every command needs stands here or is inlined: a call that takes the whole state costs as much as the rules.
    """
    sizes, table, rule_start, pairs = state.sizes, state.rules, state.rule_start, state.pairs
    channel_tick, last_tick, last_node = state.channel_tick, state.last_tick, state.last_node
    own_index, own_row, open_row, open_banks = state.own_index, state.own_row, state.open_row, state.open_banks
    ring_count, rings, ring_codes = state.ring_count, state.rings, _codes_in_rings(state.ring_of)
    ids, banks, all_banks = sizes[IDS], sizes[BANKS], sizes[IDS] * sizes[GROUPS] * sizes[BANKS]
    room = len(found) - len(table) - 3
    nodes = np.empty(5, np.int64)
    for i in range(start, len(trace)):
        if sizes[COUNT] > room:
            return i, FULL
        wrong = _wrong_field(sizes, channel_tick, trace, i)
        if wrong >= 0:
            return i, wrong
        tick, pc, code = trace[i, TICK], trace[i, PSEUDO_CHANNEL], trace[i, COMMAND]
        channel_tick[trace[i, CHANNEL]] = tick
        index, row = first_index + i, trace[i, ROW]
        lowest = 1 if code in (PREAB, REFAB) else 4
        stack_id = pc * ids + (trace[i, BANK] // banks if lowest == 4 else 0)
        _find_nodes(sizes, trace, i, stack_id, lowest, nodes)

        for r in range(rule_start[code], rule_start[code + 1]):
            kind, level, ticks = table[r, KIND], table[r, LEVEL], table[r, TICKS]
            if level > lowest:
                continue
            if kind == PLAIN:
                last = _last(last_tick, pairs, table[r, PAIRS], table[r, PAIRS_END], nodes[level])
                if tick - last < ticks:
                    _report_pair(state, found, index, table[r], nodes[level], tick, last)
            elif kind == CLOCK:
                if tick % ticks != 1:
                    _report(state, found, index, table[r, RULE], ticks - (tick - 1) % ticks)
            elif kind == WINDOW:
                ring, size = table[r, RING], table[r, WINDOW_SIZE]
                count = ring_count[ring, nodes[level]]
                if count >= size and tick - rings[ring, nodes[level], count % size, RING_TICK] < ticks:
                    _report_ring(state, found, index, table[r], rings[ring, nodes[level], count % size], tick)
            else:
                last, node = _siblings(last_tick, pairs, table, r, nodes[2] - stack_id % ids, ids, nodes[2])
                if tick - last < ticks:
                    _report_pair(state, found, index, table[r], node, tick, last)

        problem = _change(open_row, open_banks, code, row, nodes, all_banks)
        if problem < 0:
            _report(state, found, index, problem, 0)
        if sizes[INTERVAL] > 0 and code in (REFPB, REFAB):
            late = _refresh(state, nodes[4], all_banks if code == REFAB else 1, tick)
            if late > 0:
                _report(state, found, index, REFRESH_LATE, late)

        _remember(last_tick, last_node, own_index, own_row, nodes, lowest, code, tick, index, row)
        if ring_codes >> code & 1:
            _remember_in_rings(state, index, trace[i], nodes, lowest)
    return len(trace), DONE
