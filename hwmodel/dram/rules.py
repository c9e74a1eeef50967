"""The table of timing rules: how far apart two commands start at least, from the timing and the organisation.

One formula for all standards. Data sheets count from the end of one command to the end of the next, so the distance
between two starts is the value of the data sheet, plus the length of the earlier command, less that of the later.
The controller obeys the table, the checker judges traces by it, and the edges of the command clock stand in it too.
Not modelled: auto-precharge, refresh management, per-bank refreshes inside the window of four activates, the
preamble commands of LPDDR5X and GDDR7 clocks, self-refresh and power-down.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from hwmodel.dram.organisation import Organisation
from hwmodel.dram.timing import Timing

COMMANDS = ("ACT", "PRE", "PREab", "RD", "WR", "REFpb", "REFab")  # numbered by place; the checker is compiled with it
LEVELS = ("channel", "pseudo_channel", "stack_id", "bank_group", "bank")

ROW = ("ACT", "PRE", "PREab", "REFpb", "REFab")
COLUMN = ("RD", "WR")
Entry = tuple[str, str, tuple[str, ...], tuple[str, ...], int]  # name, level, previous, following, data sheet's value


@dataclass(frozen=True)
class Rule:
    """`following` comes at least `ticks` after the `window`-th last of `previous` at one node of `level`.

    With `sibling` the two are at different nodes of the level, under the same pseudo-channel. Without `previous` the
    rule is about the command clock: `following` starts only at ticks that leave 1 when divided by `ticks`.
    """

    name: str
    level: str
    previous: tuple[str, ...]
    following: tuple[str, ...]
    ticks: int
    window: int = 1
    sibling: bool = False


def rules(timing: Timing, organisation: Organisation) -> tuple[Rule, ...]:
    """Return every timing rule between commands, in ticks, start to start. Refreshes need closed banks.

    Source: the constraint tables of Ramulator 2.1 (HBM2, HBM3, HBM4, GDDR7, LPDDR5, DDR5). Beyond its HBM3 table: the
    command buses also for commands of one tick; precharges and refreshes of a pseudo-channel or bank under refresh;
    a per-bank refresh after the precharge of all banks; activate to per-bank refresh within a bank group, which
    it has for HBM4.
    """
    entries = _columns(timing, organisation) + _rows(timing) + _refreshes(timing)
    length = _lengths(timing)
    table = [*_buses(timing, organisation)]
    for name, level, previous, following, value in entries:
        for earlier, later in product(_by_length(previous, length), _by_length(following, length)):
            ticks = value + length[earlier[0]] - length[later[0]]
            table.append(Rule(name, level, earlier, later, ticks))
    table.append(Rule("tFAW", "pseudo_channel", ("ACT",), ("ACT",), timing.nFAW, window=4))
    if organisation.stack_ids > 1:
        table.append(Rule("tCCD_R", "stack_id", ("RD",), ("RD",), timing.nCCDR, sibling=True))
    return tuple(rule for rule in table if rule.ticks > 0)


def _lengths(timing: Timing) -> dict[str, int]:
    """Return how many ticks each command takes on its bus."""
    columns = dict.fromkeys(COLUMN, timing.column_ticks)
    return dict.fromkeys(COMMANDS, 1) | columns | {"ACT": timing.act_ticks}


def _by_length(commands: tuple[str, ...], length: dict[str, int]) -> list[tuple[str, ...]]:
    """Return the commands in groups of one length."""
    sizes = sorted({length[name] for name in commands})
    return [tuple(name for name in commands if length[name] == size) for size in sizes]


def _buses(timing: Timing, organisation: Organisation) -> list[Rule]:
    """Return what the command buses of a channel allow: one command at a time, starting at an edge of the clock."""
    length = _lengths(timing)
    buses = {"row bus": ROW, "column bus": COLUMN} if organisation.command_buses == 2 else {"command bus": COMMANDS}
    table = [
        Rule(name, "channel", earlier, commands, length[earlier[0]])
        for name, commands in buses.items()
        for earlier in _by_length(commands, length)
    ]
    if timing.ticks_per_ck > 1:
        rising = tuple(name for name in COMMANDS if name not in ("PRE", "PREab"))
        table.append(Rule("rising edge", "channel", (), rising, timing.ticks_per_ck))
    return table


def _columns(t: Timing, organisation: Organisation) -> list[Entry]:
    write_end = t.nCWL + t.nBL
    near = "stack_id" if organisation.stack_ids > 1 else "pseudo_channel"
    return [
        ("data bus", "pseudo_channel", COLUMN, COLUMN, t.nBL),
        ("tCCD_S", near, ("RD",), ("RD",), t.nCCDS),
        ("tCCD_S", near, ("WR",), ("WR",), t.nCCDS),
        ("tCCD_L", "bank_group", ("RD",), ("RD",), t.nCCDL),
        ("tCCD_L_WR", "bank_group", ("WR",), ("WR",), t.nCCDLW),
        ("tRTW", "pseudo_channel", ("RD",), ("WR",), t.nRTW),
        ("tWTR_S", "pseudo_channel", ("WR",), ("RD",), write_end + t.nWTRS),
        ("tWTR_L", "bank_group", ("WR",), ("RD",), write_end + t.nWTRL),
    ]


def _rows(t: Timing) -> list[Entry]:
    written = t.nCWL + t.nBL + t.nWR
    # at one tick, which is what a precharge takes on its bus, the bus says it all
    apart = [("tPPD", "pseudo_channel", ("PRE", "PREab"), ("PRE", "PREab"), t.nPPD)] if t.nPPD > 1 else []
    return [
        *apart,
        ("tRRD_S", "pseudo_channel", ("ACT",), ("ACT",), t.nRRDS),
        ("tRRD_L", "bank_group", ("ACT",), ("ACT",), t.nRRDL),
        ("tRCDRD", "bank", ("ACT",), ("RD",), t.nRCDRD),
        ("tRCDWR", "bank", ("ACT",), ("WR",), t.nRCDWR),
        ("tRAS", "bank", ("ACT",), ("PRE",), t.nRAS),
        ("tRC", "bank", ("ACT",), ("ACT",), t.nRC),
        ("tRP", "bank", ("PRE",), ("ACT",), t.nRP),
        ("tRTP", "bank", ("RD",), ("PRE",), t.nRTP),
        ("tWR", "bank", ("WR",), ("PRE",), written),
        ("tRAS", "pseudo_channel", ("ACT",), ("PREab",), t.nRAS),
        ("tRPab", "pseudo_channel", ("PREab",), ("ACT",), t.nRPab),
        ("tRTP", "pseudo_channel", ("RD",), ("PREab",), t.nRTP),
        ("tWR", "pseudo_channel", ("WR",), ("PREab",), written),
    ]


def _refreshes(t: Timing) -> list[Entry]:
    return [
        ("tRC", "pseudo_channel", ("ACT",), ("REFab",), t.nRC),
        ("tRP", "pseudo_channel", ("PRE",), ("REFab",), t.nRP),
        ("tRPab", "pseudo_channel", ("PREab",), ("REFab",), t.nRPab),
        ("tRFC", "pseudo_channel", ("REFab",), ROW, t.nRFC),
        ("tRC", "bank", ("ACT",), ("REFpb",), t.nRC),
        ("tRP", "bank", ("PRE",), ("REFpb",), t.nRP),
        ("tRPab", "pseudo_channel", ("PREab",), ("REFpb",), t.nRPab),
        ("tRFCpb", "bank", ("REFpb",), ("ACT", "PRE", "REFpb"), t.nRFCpb),
        ("tRFCpb", "pseudo_channel", ("REFpb",), ("PREab", "REFab"), t.nRFCpb),
        ("tRREFD", "pseudo_channel", ("REFpb",), ("ACT", "REFpb"), t.nRREFD),
        ("tRRD_S", "pseudo_channel", ("ACT",), ("REFpb",), t.nRRDS),
        ("tRRD_L", "bank_group", ("ACT",), ("REFpb",), t.nRRDL),
    ]
