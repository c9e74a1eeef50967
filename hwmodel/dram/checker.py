"""An independent judge of DRAM command traces: knows the rules and the organisation, no controller.

Reads a trace as `Dram.commands` records it (or as anybody else writes one) and reports each command that
comes too early for a rule, and each that the state of its bank does not allow: columns to a row that is not
open, activates of an open bank, refreshes of open banks. Peak bandwidth is a rule as well (a burst's data
occupies the bus for nBL).
Commands of one tick are judged in trace order. Everything is vectorised: one pass per rule over the sorted
trace.
Not judged: whether refreshes come often enough, and precharges of a closed bank, which JEDEC allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.dram.standards import COMMANDS, LEVELS, Organisation, Rule

Array = np.ndarray[Any, Any]
_ACT, _PRE, _PREAB, _RD, _WR, _REFPB, _REFAB = range(len(COMMANDS))
_WHOLE = (_PREAB, _REFAB)  # commands of all banks of a pseudo-channel
_PC_LEVEL, _BANK_LEVEL = LEVELS.index("pseudo_channel"), LEVELS.index("bank")
_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Command:
    """One command of a trace, with its place in it; bank group, bank and row are -1 where meaningless."""

    index: int
    tick: int
    channel: int
    pseudo_channel: int
    bank_group: int
    bank: int
    row: int
    name: str


@dataclass(frozen=True)
class Violation:
    """`command` is `missing_ticks` early after `previous` for `rule`; without: bank state forbids it."""

    problem: str
    command: Command
    previous: Command | None = None
    rule: Rule | None = None
    missing_ticks: int = 0


def check(commands: Array, rules: Sequence[Rule], organisation: Organisation) -> list[Violation]:
    """Return every violation in a trace, in rule order, then time order; empty if it is legal.

    `commands`: int64[n, 7] of (tick, channel, pseudo_channel, bank_group, bank, row, command), in any order
    of channels; commands of one tick and channel in the order in which they count.
    Raises ValueError for a trace of another shape, or with a command or a bank that does not exist.
    """
    trace = np.asarray(commands, np.int64)
    _check_trace(trace, organisation)
    order = np.lexsort((np.arange(len(trace)), trace[:, 0]))
    nodes = _nodes(trace, organisation)
    sorted_by_level = [order[np.argsort(node[order], kind="stable")] for node in nodes]
    violations = []
    for rule in rules:
        violations += _check_rule(trace, nodes, sorted_by_level, rule)
    return violations + _check_state(trace, nodes, sorted_by_level)


def _check_trace(trace: Array, organisation: Organisation) -> None:
    if trace.ndim != 2 or trace.shape[1] != 7:
        raise ValueError(f"trace: shape {trace.shape}; must be (n, 7)")
    o = organisation
    whole = np.isin(trace[:, 6], _WHOLE)
    limits = (
        ("channel", 1, _FAR, 0),
        ("pseudo_channel", 2, o.pseudo_channels, 0),
        ("bank_group", 3, o.bank_groups, -1),
        ("bank", 4, o.stack_ids * o.banks_per_group, -1),
        ("command", 6, len(COMMANDS), 0),
    )
    for name, column, size, whole_low in limits:
        low = np.where(whole, whole_low, 0)
        wrong = np.flatnonzero((trace[:, column] < low) | (trace[:, column] >= size))
        if len(wrong):
            raise ValueError(f"trace: command {wrong[0]}: {name} {trace[wrong[0], column]} is outside 0 .. {size - 1}")


def _nodes(trace: Array, organisation: Organisation) -> list[Array]:
    """Return every command's node at every level; commands of all banks have -1 below the pseudo-channel."""
    o = organisation
    channel, pseudo_channel, group, bank = trace[:, 1], trace[:, 2], trace[:, 3], trace[:, 4]
    pc = channel * o.pseudo_channels + pseudo_channel
    stack_id = pc * o.stack_ids + bank // o.banks_per_group
    bank_group = stack_id * o.bank_groups + group
    single = bank_group * o.banks_per_group + bank % o.banks_per_group
    whole = np.isin(trace[:, 6], _WHOLE)
    return [channel, pc, *(np.where(whole, -1, node) for node in (stack_id, bank_group, single))]


def _before(is_previous: Array, window: int = 1) -> Array:
    """Return for every place the place of the `window`-th last previous command before it, or -1."""
    places = np.flatnonzero(is_previous)
    counts = np.cumsum(is_previous) - is_previous - window
    found = np.full(len(is_previous), -1)
    enough = counts >= 0
    found[enough] = places[counts[enough]]
    return found


def _check_rule(trace: Array, nodes: list[Array], sorted_by_level: list[Array], rule: Rule) -> list[Violation]:
    level = LEVELS.index(rule.level)
    order = sorted_by_level[_PC_LEVEL if rule.sibling else level]
    code, node = trace[order, 6], nodes[level][order]
    is_previous = np.isin(code, [COMMANDS.index(name) for name in rule.previous]) & (node >= 0)
    previous = _before(is_previous, rule.window)
    if rule.sibling:
        previous = _other_node(is_previous, previous, node)
        node = nodes[_PC_LEVEL][order]
    following = np.flatnonzero(np.isin(code, [COMMANDS.index(name) for name in rule.following]) & (previous >= 0))
    previous = previous[following]
    tick = trace[order, 0]
    missing = rule.ticks - (tick[following] - tick[previous])
    early = np.flatnonzero((missing > 0) & (node[following] == node[previous]) & (node[following] >= 0))
    return [
        Violation(
            f"{'/'.join(rule.following)} {missing[i]} ticks too early after {'/'.join(rule.previous)}",
            _command(trace, order[following[i]]),
            _command(trace, order[previous[i]]),
            rule,
            int(missing[i]),
        )
        for i in early
    ]


def _other_node(is_previous: Array, previous: Array, node: Array) -> Array:
    """Return for every place the last previous command at another node than its own, or -1."""
    places = np.flatnonzero(is_previous)
    changes = np.diff(node[places], prepend=-1) != 0
    run_start = np.maximum.accumulate(np.where(changes, np.arange(len(places)), 0))
    before_run = np.full(len(node), -1)
    before_run[places] = np.where(run_start > 0, places[run_start - 1], -1)
    same = (previous >= 0) & (node[previous] == node)
    return np.where(same, before_run[previous], previous)


def _check_state(trace: Array, nodes: list[Array], sorted_by_level: list[Array]) -> list[Violation]:
    """Judge rows and banks: an activate opens a bank until the next precharge of the bank or of all banks."""
    position = np.empty(len(trace), np.int64)  # a total order of the commands of a pseudo-channel
    position[sorted_by_level[_PC_LEVEL]] = np.arange(len(trace))
    order = sorted_by_level[_BANK_LEVEL]
    order = order[nodes[_BANK_LEVEL][order] >= 0]
    code, bank = trace[order, 6], nodes[_BANK_LEVEL][order]
    opened = _same_node(_before(code == _ACT), bank)
    closed = _same_node(_before(code == _PRE), bank)
    closed_at = np.where(closed >= 0, position[order[closed]], -1)
    closed_at = np.maximum(closed_at, _last_whole_precharge(trace, nodes, sorted_by_level)[order])
    is_open = (opened >= 0) & (position[order[opened]] > closed_at)
    column = (code == _RD) | (code == _WR)
    wrong_row = column & is_open & (trace[order[opened], 5] != trace[order, 5])
    problems = (
        ("column command to a closed bank", column & ~is_open),
        ("column command to another row than the open one", wrong_row),
        ("activate of an open bank", (code == _ACT) & is_open),
        ("refresh of an open bank", (code == _REFPB) & is_open),
    )
    found = [(text, order[i]) for text, where in problems for i in np.flatnonzero(where)]
    found += [("refresh with open banks", i) for i in _refreshes_of_open(trace, nodes, sorted_by_level)]
    return [Violation(text, _command(trace, i)) for text, i in found]


def _same_node(previous: Array, node: Array) -> Array:
    return np.where((previous >= 0) & (node[previous] == node), previous, -1)


def _last_whole_precharge(trace: Array, nodes: list[Array], sorted_by_level: list[Array]) -> Array:
    """Return for every command the position, in pseudo-channel order, of the last PREab, or -1."""
    order = sorted_by_level[_PC_LEVEL]
    last = np.empty(len(trace), np.int64)
    last[order] = _same_node(_before(trace[order, 6] == _PREAB), nodes[_PC_LEVEL][order])
    return last


def _refreshes_of_open(trace: Array, nodes: list[Array], sorted_by_level: list[Array]) -> Array:
    """Return the all-bank refreshes before which some bank of the pseudo-channel was left open."""
    order = sorted_by_level[_PC_LEVEL]
    code, pc, bank = trace[order, 6], nodes[_PC_LEVEL][order], nodes[_BANK_LEVEL][order]
    activates, refreshes = np.flatnonzero(code == _ACT), np.flatnonzero(code == _REFAB)
    if not len(activates) or not len(refreshes):
        return order[:0]
    whole = np.append(np.flatnonzero(code == _PREAB), len(order))
    next_whole = whole[np.searchsorted(whole, activates)]
    closing = np.minimum(next_whole, _next_precharge(code, bank, activates))
    starts = np.searchsorted(pc, pc[refreshes])  # the first command of the pseudo-channel
    opened = np.searchsorted(activates, refreshes) - np.searchsorted(activates, starts)
    closing_sorted = np.sort(np.where(closing < _pc_end(pc, activates), closing, len(order)))
    closed = np.searchsorted(closing_sorted, refreshes) - np.searchsorted(closing_sorted, starts)
    return order[refreshes[(opened > closed)]]


def _pc_end(pc: Array, places: Array) -> Array:
    return np.searchsorted(pc, pc[places], side="right")


def _next_precharge(code: Array, bank: Array, activates: Array) -> Array:
    """Return for every activate the place of the next precharge of its bank, or a place past the end."""
    places = np.flatnonzero(code == _PRE)
    end = len(code)
    keys = bank[places] * (end + 1) + places
    by_key = np.argsort(keys)
    keys, places = np.append(keys[by_key], _FAR), np.append(places[by_key], end)
    found = np.searchsorted(keys, bank[activates] * (end + 1) + activates)
    same = np.append(bank[places[:-1]], -1)[found] == bank[activates]
    return np.where(same, places[found], end)


def _command(trace: Array, index: int) -> Command:
    tick, channel, pseudo_channel, bank_group, bank, row, code = (int(value) for value in trace[index])
    return Command(int(index), tick, channel, pseudo_channel, bank_group, bank, row, COMMANDS[code])
