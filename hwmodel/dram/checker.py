"""An independent judge of DRAM command traces: knows the rules and the organisation, no controller.

Reads a trace as `Dram.commands` records it, or anybody else's that `command_trace` reads, and reports each command
that comes too early for a rule, starts at the wrong edge of the command clock, or that the state of its bank does not
allow: columns to a row that is not open, activates of an open bank, refreshes of open banks. On request it also
reports refreshes that come too late. Peak bandwidth is a rule as well (a burst's data occupies the bus for nBL).
`Checker` takes a trace in parts, of any length in bounded memory; `check` takes a whole one.
Not judged: precharges of a closed bank, which standards allow, and refreshes far ahead of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwmodel.dram import checker_kernel as k
from hwmodel.dram.organisation import Organisation
from hwmodel.dram.rules import COMMANDS, LEVELS, Rule

Array = np.ndarray[Any, Any]
MAX_CHANNELS = 1 << 12  # assumed: more than any machine has; a channel beyond is a mistake in the trace
_PROBLEMS = {
    k.CLOSED_BANK: "column command to a closed bank",
    k.OTHER_ROW: "column command to another row than the open one",
    k.OPEN_BANK: "activate of an open bank",
    k.REFRESH_OPEN: "refresh of an open bank",
    k.REFRESH_OPEN_BANKS: "refresh with open banks",
}
_COLUMNS = ("tick", "channel", "pseudo_channel", "bank_group", "bank", "row", "command")
_FINDINGS = 4096  # read out at a time


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
    """`command` is `missing_ticks` early after `previous` for `rule`.

    Without `previous` the rule is about the clock edge, `missing_ticks` before the next. Without `rule` the state of
    the bank forbids the command; a refresh that comes too late, or (with index -1) never came, is `missing_ticks` late.
    """

    problem: str
    command: Command
    previous: Command | None = None
    rule: Rule | None = None
    missing_ticks: int = 0


class Checker:
    """Judges one trace, part after part.

    With `refresh_interval_ticks` (`Timing.nREFI`) every bank has to be refreshed once per interval, counted from tick
    0, by a refresh of its own or of all banks, at most `postponed_refreshes` intervals late (eight in JESD238).
    Raises ValueError for a rule that no trace can be judged by.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        organisation: Organisation,
        *,
        refresh_interval_ticks: int = 0,
        postponed_refreshes: int = 8,
    ) -> None:
        if refresh_interval_ticks < 0 or postponed_refreshes < 0:
            values = f"refresh_interval_ticks {refresh_interval_ticks}, postponed_refreshes {postponed_refreshes}"
            raise ValueError(f"checker: {values}: must not be negative")
        self.rules, self.organisation = tuple(rules), organisation
        self.commands = 0  # judged so far
        self._found = np.zeros((_FINDINGS + len(self.rules) * len(COMMANDS), k.FOUND_FIELDS), np.int64)
        self._state = _state(self.rules, organisation, refresh_interval_ticks, postponed_refreshes)

    def feed(self, commands: Array) -> list[Violation]:
        """Judge the next part of the trace; return its violations in the order of its commands, each in rule order.

        `commands`: int64[n, 7] of (tick, channel, pseudo_channel, bank_group, bank, row, command). The ticks of a
        channel never decrease, over all parts; commands of one tick and channel stand in the order in which they count.
        Raises ValueError for another shape, a command or a place that does not exist, or a tick that goes back; then
        the checker is of no further use.
        """
        trace = _checked(commands)
        channels = int(trace[:, k.CHANNEL].max(initial=-1)) + 1
        if channels > MAX_CHANNELS:
            place = int((trace[:, k.CHANNEL] >= MAX_CHANNELS).argmax())
            raise ValueError(self._refusal(trace, place, k.CHANNEL))
        self._state = _grown(self._state, channels)
        violations: list[Violation] = []
        place, end = 0, k.FULL
        while end == k.FULL:
            self._state.sizes[k.COUNT] = 0
            place, end = k.check_commands(self._state, trace, place, self.commands, self._found)
            found = self._found[: self._state.sizes[k.COUNT]].tolist()
            violations += [self._violation(trace, row) for row in found]
        if end != k.DONE:
            raise ValueError(self._refusal(trace, int(place), int(end)))
        self.commands += len(trace)
        return violations

    def finish(self, end_tick: int) -> list[Violation]:
        """Return, per pseudo-channel of the channels seen, the refresh that is the most overdue at `end_tick`."""
        sizes = self._state.sizes
        if not sizes[k.INTERVAL]:
            return []
        o, violations = self.organisation, []
        refreshed = self._banks(self._state.refreshed).reshape(-1, o.banks)
        for place in np.flatnonzero((self._state.channel_tick != k.NEVER).repeat(o.pseudo_channels)):
            late = end_tick - (refreshed[place] + 1 + sizes[k.POSTPONED]) * sizes[k.INTERVAL]
            if late.max() > 0:
                worst, ticks = int(late.argmax()), int(late.max())
                problem = f"refresh overdue by {ticks} ticks, in {np.count_nonzero(late > 0)} banks"
                missing = self._place(self._first_bank(int(place)) + worst, -1, end_tick, -1, "REFpb")
                violations.append(Violation(problem, missing, missing_ticks=ticks))
        return violations

    def _banks(self, values: Array) -> Array:
        """Return what belongs to banks, of the values of all nodes."""
        o = self.organisation
        nodes = values.reshape(-1, int(self._state.sizes[k.NODES]))
        return nodes[:, -o.pseudo_channels * o.banks :].reshape(-1)

    def _first_bank(self, pseudo_channel: int) -> int:
        """Return the node of the first bank of a pseudo-channel; the banks are a channel's last nodes."""
        channel, pc = divmod(pseudo_channel, self.organisation.pseudo_channels)
        after = (self.organisation.pseudo_channels - pc) * self.organisation.banks
        return (channel + 1) * int(self._state.sizes[k.NODES]) - after

    def _violation(self, trace: Array, row: list[int]) -> Violation:
        what, missing = row[k.WHAT], row[k.MISSING]
        command = _command(trace, row[k.WHERE] - self.commands, row[k.WHERE])
        if what == k.REFRESH_LATE:
            return Violation(f"refresh {missing} ticks too late", command, missing_ticks=missing)
        if what < 0:
            return Violation(_PROBLEMS[what], command)
        rule = self.rules[what]
        node, code, tick, index, open_row = row[k.PREVIOUS_NODE :]
        if node < 0:
            problem = f"{rule.name}: {command.name} at tick {command.tick}, not at an edge that it may start at"
            return Violation(problem, command, None, rule, missing)
        previous = self._place(node, index, tick, open_row, COMMANDS[code])
        problem = f"{rule.name}: {command.name} {missing} ticks too early after {previous.name}"
        return Violation(problem, command, previous, rule, missing)

    def _place(self, node: int, index: int, tick: int, row: int, name: str) -> Command:
        """Return a command for a node, which is a bank or a pseudo-channel."""
        o = self.organisation
        channel, place = divmod(node, int(self._state.sizes[k.NODES]))
        if place <= o.pseudo_channels:
            return Command(index, tick, channel, place - 1, -1, -1, -1, name)
        place -= int(self._state.sizes[k.NODES]) - o.pseudo_channels * o.banks
        place, bank = divmod(place, o.banks_per_group)
        place, group = divmod(place, o.bank_groups)
        pc, stack_id = divmod(place, o.stack_ids)
        return Command(index, tick, channel, pc, group, stack_id * o.banks_per_group + bank, row, name)

    def _refusal(self, trace: Array, place: int, column: int) -> str:
        where = f"trace: command {self.commands + place}"
        if column == k.BACKWARDS:
            last = self._state.channel_tick[trace[place, k.CHANNEL]]
            return f"{where}: tick {trace[place, k.TICK]} comes after tick {last} of the same channel"
        o = self.organisation
        sizes = {
            k.CHANNEL: MAX_CHANNELS,
            k.PSEUDO_CHANNEL: o.pseudo_channels,
            k.BANK_GROUP: o.bank_groups,
            k.BANK: o.stack_ids * o.banks_per_group,
            k.ROW: o.rows,
            k.COMMAND: len(COMMANDS),
        }
        return f"{where}: {_COLUMNS[column]} {trace[place, column]} is outside 0 .. {sizes[column] - 1}"


def check(
    commands: Array,
    rules: Sequence[Rule],
    organisation: Organisation,
    *,
    refresh_interval_ticks: int = 0,
    postponed_refreshes: int = 8,
) -> list[Violation]:
    """Return every violation in a whole trace, in the order of time; empty if it is legal.

    `commands` as for `Checker.feed`, but in any order; those of one tick and channel in the order in which they count.
    Refreshes are judged, up to the last command, as `Checker` does. Raises ValueError as it does.
    """
    checker = Checker(
        rules,
        organisation,
        refresh_interval_ticks=refresh_interval_ticks,
        postponed_refreshes=postponed_refreshes,
    )
    trace = _checked(commands)
    order = np.argsort(trace[:, k.TICK], kind="stable")
    violations = checker.feed(trace[order])
    violations = [
        replace(v, command=_moved(v.command, order), previous=v.previous and _moved(v.previous, order))
        for v in violations
    ]
    return violations + checker.finish(int(trace[:, k.TICK].max(initial=0)))


def _moved(command: Command, order: Array) -> Command:
    return replace(command, index=int(order[command.index]))


def _checked(commands: Array) -> Array:
    trace = np.ascontiguousarray(commands, np.int64)
    if trace.ndim != 2 or trace.shape[1] != len(_COLUMNS):
        raise ValueError(f"trace: shape {trace.shape}; must be (n, {len(_COLUMNS)})")
    return trace


def _command(trace: Array, place: int, index: int) -> Command:
    tick, channel, pseudo_channel, bank_group, bank, row, code = (int(value) for value in trace[place])
    return Command(index, tick, channel, pseudo_channel, bank_group, bank, row, COMMANDS[code])


def _state(rules: tuple[Rule, ...], o: Organisation, interval: int, postponed: int) -> k.CheckerState:
    """Return the state before the first command, with the rules sorted by what they are about."""
    by_following: list[list[tuple[int, ...]]] = [[] for _ in COMMANDS]
    pairs: list[int] = []
    rings: list[tuple[int, int, int]] = []
    for number, rule in enumerate(rules):
        _check_rule(number, rule)
        previous = [COMMANDS.index(name) for name in rule.previous]
        kind = k.WINDOW if rule.window > 1 else k.SIBLING if rule.sibling else k.PLAIN if previous else k.CLOCK
        if kind == k.WINDOW:
            rings.append((LEVELS.index(rule.level), sum(1 << code for code in previous), rule.window))
        entry = (number, kind, LEVELS.index(rule.level), rule.ticks, rule.window, len(rings) - 1, len(pairs))
        pairs += previous
        for name in rule.following:
            by_following[COMMANDS.index(name)].append((*entry, len(pairs)))
    sizes = np.zeros(k.SIZES, np.int64)
    places = o.pseudo_channels, o.stack_ids, o.bank_groups, o.banks_per_group, o.rows
    nodes = 1 + o.pseudo_channels * (1 + o.stack_ids * (1 + o.bank_groups * (1 + o.banks_per_group)))
    sizes[[k.PCS, k.IDS, k.GROUPS, k.BANKS, k.ROWS]] = places
    sizes[[k.NODES, k.INTERVAL, k.POSTPONED]] = nodes, interval, postponed
    table = [entry for entries in by_following for entry in entries]
    longest = max((window for _, _, window in rings), default=0)
    return k.CheckerState(
        sizes=sizes,
        rules=np.array(table, np.int64).reshape(-1, k.RULE_FIELDS),
        rule_start=np.cumsum([0, *map(len, by_following)]),
        pairs=np.array(pairs, np.int64),
        ring_of=np.array(rings, np.int64).reshape(-1, 3),
        last_tick=np.zeros((0, len(COMMANDS)), np.int64),
        last_node=np.zeros((0, len(COMMANDS)), np.int64),
        own_index=np.zeros((0, len(COMMANDS)), np.int64),
        own_row=np.zeros((0, len(COMMANDS)), np.int64),
        open_row=np.zeros(0, np.int64),
        open_banks=np.zeros(0, np.int64),
        refreshed=np.zeros(0, np.int64),
        channel_tick=np.zeros(0, np.int64),
        rings=np.zeros((len(rings), 0, longest, k.RING_FIELDS), np.int64),
        ring_count=np.zeros((len(rings), 0), np.int64),
    )


def _check_rule(number: int, rule: Rule) -> None:
    unknown = [name for name in (*rule.previous, *rule.following) if name not in COMMANDS]
    if unknown or rule.level not in LEVELS:
        raise ValueError(f"rule {number} ({rule.name}): unknown {(unknown or [rule.level])[0]!r}")
    if rule.ticks < 1 or rule.window < 1 or not rule.following:
        raise ValueError(f"rule {number} ({rule.name}): ticks, window and following commands must be at least 1")
    if rule.sibling and (rule.window > 1 or rule.level != "stack_id" or not rule.previous):
        raise ValueError(f"rule {number} ({rule.name}): only stack IDs have siblings, without a window")
    if rule.window > 1 and len(rule.previous) != 1:
        raise ValueError(f"rule {number} ({rule.name}): a window is of one command, not of {rule.previous}")


def _grown(state: k.CheckerState, channels: int) -> k.CheckerState:
    """Return the state with room for so many channels."""
    added = channels - int(state.sizes[k.CHANNELS])
    if added <= 0:
        return state
    nodes = added * int(state.sizes[k.NODES])
    state.sizes[k.CHANNELS] = channels
    fill = {"last_tick": k.NEVER, "open_row": -1}
    grown = {
        name: np.pad(
            getattr(state, name),
            [(0, nodes)] + [(0, 0)] * (getattr(state, name).ndim - 1),
            constant_values=fill.get(name, 0),
        )
        for name in ("last_tick", "last_node", "own_index", "own_row", "open_row", "open_banks", "refreshed")
    }
    return state._replace(
        **grown,
        channel_tick=np.pad(state.channel_tick, (0, added), constant_values=k.NEVER),
        rings=np.pad(state.rings, [(0, 0), (0, nodes), (0, 0), (0, 0)]),
        ring_count=np.pad(state.ring_count, [(0, 0), (0, nodes)]),
    )
