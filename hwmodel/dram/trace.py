"""What a memory did, kept to be looked at: its commands and its bursts as two tables, and what follows from them.

Behind the controller, before every picture: `Dram.commands()` gives the commands, whoever offered the bursts knows
when they arrived and were done. Counts, queue depths and latencies are exact and in ticks; nothing is binned away that
a caller did not ask for. The tick of a burst's column command follows from its done tick (a burst is done with its last
data), so that a burst and its command find each other.
Not kept: which request or tensor a burst belonged to, and data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.dram.standards import COMMANDS, Organisation, Timing

Array = np.ndarray[Any, Any]

COMMAND_COLUMNS = ("tick", "channel", "pseudo_channel", "bank_group", "bank", "row", "command")
BURST_COLUMNS = ("arrival_tick", "done_tick", "channel", "pseudo_channel", "bank", "is_write", "outcome")
LOCATED_COLUMNS = (*BURST_COLUMNS, "row", "column")  # where the location is known too
OUTCOMES = ("hit", "miss", "conflict")  # an outcome's number is its place here
HIT, MISS, CONFLICT = range(3)
MAX_TICK = 1 << 48  # a day; pseudo-channel and tick together fit an int64
COUNTED = ("conflicts", "activates", "hits", "misses", "bursts")  # what `count_per_bank` can count


@dataclass(frozen=True, eq=False)
class DramTrace:
    """The commands and the bursts of one run.

    `commands`: int64[n, 7], columns `COMMAND_COLUMNS`, in any order, as `Dram.commands()` gives them.
    `bursts`: int64[n, 7] or [n, 9], columns `BURST_COLUMNS` or `LOCATED_COLUMNS`, in any order; channels over all
    stacks; `bank` is the place in the pseudo-channel, (stack ID, bank group, bank) as in `DramStatistics`
    (`bank_places` finds it); `is_write` 0 or 1; `outcome` a place in `OUTCOMES`; row and column -1 where not known.
    Either table may be empty: what needs it is then empty too.
    Raises ValueError for tables that do not fit the organisation, with the first row that does not.
    """

    commands: Array
    bursts: Array
    timing: Timing
    organisation: Organisation
    stacks: int = 1

    def __post_init__(self) -> None:
        if self.stacks < 1:
            raise ValueError(f"trace.stacks: {self.stacks} must be at least 1")
        _check_shape("commands", self.commands, (len(COMMAND_COLUMNS),))
        _check_shape("bursts", self.bursts, (len(BURST_COLUMNS), len(LOCATED_COLUMNS)))
        o = self.organisation
        channels, many = self.stacks * o.channels, MAX_TICK
        banks = o.stack_ids * o.banks_per_group
        sizes = (many, channels, o.pseudo_channels, o.bank_groups, banks, o.rows, len(COMMANDS))
        _check_ranges("commands", COMMAND_COLUMNS, self.commands, (0, 0, 0, -1, -1, -1, 0), sizes)
        located = (many, many, channels, o.pseudo_channels, o.banks, 2, len(OUTCOMES), o.rows, o.columns)
        _check_ranges("bursts", LOCATED_COLUMNS, self.bursts, (0, 0, 0, 0, 0, 0, 0, -1, -1), located)
        early = np.flatnonzero(self.issue_ticks < self.bursts[:, 0])
        if len(early):
            first = int(early[0])
            arrival, done = self.bursts[first, :2].tolist()
            kind = "write" if self.bursts[first, 5] else "read"
            least = arrival + int(self.bursts[first, 1] - self.issue_ticks[first])
            raise ValueError(
                f"trace.bursts: row {first}: done_tick {done} of a {kind} that arrived at {arrival}; "
                f"at least {least} is needed"
            )

    @property
    def pseudo_channels(self) -> int:
        """Pseudo-channels of all stacks, numbered channel by channel."""
        return self.stacks * self.organisation.channels * self.organisation.pseudo_channels

    @property
    def tick_ns(self) -> float:
        """The length of a tick in nanoseconds, for display."""
        return float(1_000_000_000 / self.timing.tick_hz)

    @property
    def issue_ticks(self) -> Array:
        """The tick of each burst's column command, int64[bursts]."""
        t = self.timing
        data_after = np.array([t.nCL + t.nBL, t.nCWL + t.nBL], np.int64)
        return np.asarray(self.bursts[:, 1] - data_after[self.bursts[:, 5]])

    @property
    def latency_ticks(self) -> Array:
        """Ticks from each burst's arrival to its last data, int64[bursts]."""
        return np.asarray(self.bursts[:, 1] - self.bursts[:, 0])

    @property
    def burst_pseudo_channels(self) -> Array:
        """The pseudo-channel of each burst, over all stacks, int64[bursts]."""
        return np.asarray(self.bursts[:, 2] * self.organisation.pseudo_channels + self.bursts[:, 3])

    @property
    def command_pseudo_channels(self) -> Array:
        """The pseudo-channel of each command, over all stacks, int64[commands]."""
        return np.asarray(self.commands[:, 1] * self.organisation.pseudo_channels + self.commands[:, 2])

    @property
    def command_banks(self) -> Array:
        """The place of each command's bank in its pseudo-channel, -1 for a command to all of them, int64[commands]."""
        return bank_places(self.commands[:, 3], self.commands[:, 4], self.organisation)

    @property
    def span(self) -> tuple[int, int]:
        """From the first arrival to the tick after the last done tick; without bursts, of the commands; else (0, 0)."""
        if len(self.bursts):
            return int(self.bursts[:, 0].min()), int(self.bursts[:, 1].max()) + 1
        ticks = self.commands[:, 0]
        return (int(ticks.min()), int(ticks.max()) + 1) if len(ticks) else (0, 0)


def bank_places(bank_group: Array, bank: Array, organisation: Organisation) -> Array:
    """Return places in the pseudo-channel, int64[n], from bank group and bank as in addresses; -1 without either."""
    stack_id, in_group = np.divmod(bank, organisation.banks_per_group)
    places = (stack_id * organisation.bank_groups + bank_group) * organisation.banks_per_group + in_group
    return np.where((bank_group < 0) | (bank < 0), -1, places)


def commands_named(prefix: str) -> Array:
    """Return the numbers of the commands whose name starts with `prefix`: RD, WR, ACT, PRE, REF; int64[k]."""
    return np.array([number for number, name in enumerate(COMMANDS) if name.startswith(prefix)], np.int64)


def queue_steps(trace: DramTrace, is_write: bool, pseudo_channel: int | None = None) -> tuple[Array, Array]:
    """Return (ticks, depths), int64[n] each: from each tick on, so many bursts have arrived and are not yet issued.

    Of all pseudo-channels, or of one. Bursts that wait outside the controller's queue count too. Ticks rise strictly;
    before the first one the depth is 0, and the last depth is 0. Raises ValueError for an unknown pseudo-channel.
    """
    chosen = trace.bursts[:, 5] == int(is_write)
    if pseudo_channel is not None:
        _check_pseudo_channel(trace, pseudo_channel)
        chosen &= trace.burst_pseudo_channels == pseudo_channel
    arrivals, issues = np.sort(trace.bursts[chosen, 0]), np.sort(trace.issue_ticks[chosen])
    ticks = np.sort(np.concatenate([arrivals, issues]), kind="stable")  # merges; faster than np.unique
    first = np.ones(len(ticks), bool)
    first[1:] = ticks[1:] > ticks[:-1]
    ticks = ticks[first]
    depths = np.searchsorted(arrivals, ticks, "right") - np.searchsorted(issues, ticks, "right")
    return ticks, depths.astype(np.int64)


def count_per_bank(trace: DramTrace, counted: str) -> tuple[Array, Array]:
    """Return (banks, ticks), int64[n] each: where and when each of the `counted` happened.

    Banks are numbered pseudo-channel by pseudo-channel. `counted` is one of `COUNTED`; activates happen when they
    issue, bursts (and hits, misses, conflicts: bursts by what their bank needed first) at their column command.
    """
    if counted not in COUNTED:
        raise ValueError(f"counted: unknown {counted!r}; known: {', '.join(COUNTED)}")
    banks = trace.organisation.banks
    if counted == "activates":
        chosen = np.isin(trace.commands[:, 6], commands_named("ACT"))
        places = trace.command_pseudo_channels * banks + trace.command_banks
        return places[chosen], trace.commands[chosen, 0]
    places = trace.burst_pseudo_channels * banks + trace.bursts[:, 4]
    if counted == "bursts":
        return places, trace.issue_ticks
    chosen = trace.bursts[:, 6] == {"hits": HIT, "misses": MISS, "conflicts": CONFLICT}[counted]
    return places[chosen], trace.issue_ticks[chosen]


def bytes_moved(trace: DramTrace, level: str = "pseudo_channel") -> Array:
    """Return the bytes of the bursts of each pseudo-channel, or of each channel: int64[level]."""
    sizes = {"pseudo_channel": 1, "channel": trace.organisation.pseudo_channels}
    if level not in sizes:
        raise ValueError(f"level: unknown {level!r}; known: {', '.join(sizes)}")
    bursts = np.bincount(trace.burst_pseudo_channels, minlength=trace.pseudo_channels)
    return np.asarray(bursts.reshape(-1, sizes[level]).sum(axis=1) * trace.organisation.burst_bytes, np.int64)


def nearest_rank(sorted_values: Array, per_mille: int) -> int:
    """Return the least of the values that `per_mille` thousandths of them do not exceed; ValueError without values."""
    if not len(sorted_values):
        raise ValueError("nearest_rank: no values; at least one is needed")
    if not 0 < per_mille <= 1000:
        raise ValueError(f"nearest_rank: {per_mille} per mille; allowed: 1 .. 1000")
    return int(sorted_values[-(-per_mille * len(sorted_values) // 1000) - 1])


def _check_pseudo_channel(trace: DramTrace, pseudo_channel: int) -> None:
    if not 0 <= pseudo_channel < trace.pseudo_channels:
        raise ValueError(f"pseudo_channel: {pseudo_channel}; allowed: 0 .. {trace.pseudo_channels - 1}")


def _check_shape(name: str, table: Array, widths: tuple[int, ...]) -> None:
    if table.ndim != 2 or table.shape[1] not in widths or table.dtype != np.int64:
        allowed = " or ".join(f"[n, {width}]" for width in widths)
        raise ValueError(f"trace.{name}: {table.dtype}{list(table.shape)}; allowed: int64{allowed}")


def _check_ranges(
    name: str, columns: tuple[str, ...], table: Array, lowest: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    for place in range(table.shape[1]):
        values = table[:, place]
        wrong = np.flatnonzero((values < lowest[place]) | (values >= sizes[place]))
        if len(wrong):
            found, limits = int(values[wrong[0]]), f"{lowest[place]} .. {sizes[place] - 1}"
            raise ValueError(f"trace.{name}: row {int(wrong[0])}: {columns[place]} {found}; allowed: {limits}")
