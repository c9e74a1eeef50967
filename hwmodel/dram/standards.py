"""DRAM standards as data: organisation, timing parameters, and the table of timing rules that they imply.

Stands below everything else in the memory system: the controller obeys the table, the checker judges command
traces by it, the bounds read the same `Timing`. One tick is one command clock cycle (CK), a quarter of the
pin rate. Analogue limits are kept in picoseconds and become ticks at a data rate (minima round up, refresh
intervals down); clocked ones are ticks at every rate. The stack ID of tall stacks is the upper part of the
`bank` address field: a bank group is four banks of one stack ID.
Not modelled: row and column parity, ECC, temperature-dependent refresh, refresh management, self-refresh and
power-down, training. An activate takes one slot of the row command bus like every other row command (in HBM3
an activate takes 1.5 CK and a precharge 0.5 CK, so a pair of them takes the same two).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction

from layouts.notation import nearest_first

PS_PER_SECOND = 10**12
CK_PER_PIN_BITS = 4  # JESD238: a data pin carries 4 bits per CK

COMMANDS = ("ACT", "PRE", "PREab", "RD", "WR", "REFpb", "REFab")  # a command's number is its place here
LEVELS = ("channel", "pseudo_channel", "stack_id", "bank_group", "bank")


@dataclass(frozen=True)
class Organisation:
    """What one stack consists of. `rows` per bank gives the capacity."""

    channels: int
    pseudo_channels: int  # per channel, sharing its two command buses
    stack_ids: int  # rank-like: dies that share the data bus of a pseudo-channel
    bank_groups: int  # per stack ID
    banks_per_group: int
    rows: int
    row_bytes: int
    burst_bytes: int
    width_bits: int  # data pins of a pseudo-channel

    @property
    def columns(self) -> int:
        """Bursts per row."""
        return self.row_bytes // self.burst_bytes

    @property
    def banks(self) -> int:
        """Banks per pseudo-channel, over all stack IDs."""
        return self.stack_ids * self.bank_groups * self.banks_per_group

    @property
    def capacity_bytes(self) -> int:
        """Bytes per stack."""
        return self.channels * self.pseudo_channels * self.banks * self.rows * self.row_bytes

    def field_sizes(self) -> dict[str, int]:
        """Return the size of every address field below the stack; `bank` = (stack ID, bank of the group)."""
        return {
            "channel": self.channels,
            "pseudo_channel": self.pseudo_channels,
            "bank_group": self.bank_groups,
            "bank": self.stack_ids * self.banks_per_group,
            "row": self.rows,
            "column": self.columns,
        }


@dataclass(frozen=True)
class AnalogueTiming:
    """Limits that are times, in picoseconds."""

    tRCDRD: int
    tRCDWR: int
    tRP: int
    tRAS: int
    tRC: int
    tWR: int
    tRTP: int
    tRRDS: int
    tRRDL: int
    tFAW: int
    tWTRS: int
    tWTRL: int
    tRFC: int
    tRFCpb: int
    tRREFD: int
    tREFI: int


@dataclass(frozen=True)
class ClockedTiming:
    """Limits that are counts of CK at every data rate."""

    nBL: int
    nCL: int
    nCWL: int
    nCCDS: int
    nCCDL: int
    nCCDR: int
    nRTW: int
    nPPD: int


@dataclass(frozen=True)
class Timing:
    """All timing parameters at one data rate, in ticks of one CK; `tick_hz` is exact."""

    tick_hz: Fraction
    nBL: int  # data of one burst
    nCL: int  # read to data
    nCWL: int  # write to data
    nCCDS: int  # column to column, other bank group
    nCCDL: int  # column to column, same bank group
    nCCDR: int  # read to read, other stack ID
    nRTW: int  # read to write
    nPPD: int  # precharge to precharge
    nRCDRD: int  # activate to read
    nRCDWR: int  # activate to write
    nRP: int  # precharge to activate
    nRAS: int  # activate to precharge
    nRC: int  # activate to activate, same bank
    nWR: int  # end of write data to precharge
    nRTP: int  # read to precharge
    nRRDS: int  # activate to activate, other bank group
    nRRDL: int  # activate to activate, same bank group
    nFAW: int  # window of four activates
    nWTRS: int  # end of write data to read, other bank group
    nWTRL: int  # end of write data to read, same bank group
    nRFC: int  # all-bank refresh
    nRFCpb: int  # per-bank refresh
    nRREFD: int  # per-bank refresh to per-bank refresh or activate elsewhere
    nREFI: int  # all-bank refresh interval
    nREFIpb: int  # per-bank refresh interval


@dataclass(frozen=True)
class Rule:
    """`following` comes at least `ticks` after the `window`-th last of `previous` at one node of `level`.

    With `sibling` the two are at different nodes of the level, under the same pseudo-channel.
    """

    level: str
    previous: tuple[str, ...]
    following: tuple[str, ...]
    ticks: int
    window: int = 1
    sibling: bool = False


@dataclass(frozen=True)
class Standard:
    """A DRAM standard: its organisation and its timing parameters with the highest data rate they are for."""

    name: str
    organisation: Organisation
    analogue_ps: AnalogueTiming
    clocked: ClockedTiming
    min_pin_rate_bps: int
    max_pin_rate_bps: int

    def timing(self, pin_rate_bps: int) -> Timing:
        """Return the timing parameters in ticks at a data rate (bits per second and pin).

        Raises ValueError for a rate outside `min_pin_rate_bps` .. `max_pin_rate_bps`.
        """
        if not self.min_pin_rate_bps <= pin_rate_bps <= self.max_pin_rate_bps:
            allowed = f"{self.min_pin_rate_bps} .. {self.max_pin_rate_bps} b/s"
            raise ValueError(f"{self.name}: pin rate {pin_rate_bps} b/s is outside {allowed}")
        tick_hz = Fraction(pin_rate_bps, CK_PER_PIN_BITS)
        ps = asdict(self.analogue_ps)
        interval_ps = ps.pop("tREFI")
        ticks = {f"n{name[1:]}": _ticks_up(value, tick_hz) for name, value in ps.items()}
        return Timing(
            tick_hz=tick_hz,
            nREFI=_ticks_down(interval_ps, 1, tick_hz),
            nREFIpb=_ticks_down(interval_ps, self.organisation.banks, tick_hz),
            **asdict(self.clocked),
            **ticks,
        )

    def peak_bytes_per_second(self, pin_rate_bps: int) -> Fraction:
        """Return the peak bandwidth of one stack: all data pins at the data rate."""
        o = self.organisation
        return Fraction(o.channels * o.pseudo_channels * o.width_bits * pin_rate_bps, 8)


def _ticks_up(duration_ps: int, tick_hz: Fraction) -> int:
    return -(-duration_ps * tick_hz.numerator // (tick_hz.denominator * PS_PER_SECOND))


def _ticks_down(duration_ps: int, parts: int, tick_hz: Fraction) -> int:
    return duration_ps * tick_hz.numerator // (tick_hz.denominator * PS_PER_SECOND * parts)


def rules(timing: Timing, organisation: Organisation) -> tuple[Rule, ...]:
    """Return every timing rule between commands, in ticks, command to command.

    Source: the constraint table of Ramulator 2.1's HBM3 model, in CK. Refreshes need closed banks.
    """
    t = timing
    row = ("ACT", "PRE", "PREab", "REFpb", "REFab")
    column = ("RD", "WR")
    close = ("PRE", "PREab")
    write_end = t.nCWL + t.nBL
    table = [
        # command buses: one row command and one column command per CK and channel
        Rule("channel", row, row, 1),
        Rule("channel", column, column, 1),
        # data bus
        Rule("pseudo_channel", column, column, t.nBL),
        Rule("pseudo_channel", ("RD",), ("RD",), t.nCCDS),
        Rule("pseudo_channel", ("WR",), ("WR",), t.nCCDS),
        Rule("bank_group", ("RD",), ("RD",), t.nCCDL),
        Rule("bank_group", ("WR",), ("WR",), t.nCCDL),
        Rule("stack_id", ("RD",), ("RD",), t.nCCDR, sibling=True),
        # turnaround
        Rule("pseudo_channel", ("RD",), ("WR",), t.nRTW),
        Rule("pseudo_channel", ("WR",), ("RD",), write_end + t.nWTRS),
        Rule("bank_group", ("WR",), ("RD",), write_end + t.nWTRL),
        # activates: power
        Rule("pseudo_channel", ("ACT",), ("ACT",), t.nRRDS),
        Rule("bank_group", ("ACT",), ("ACT",), t.nRRDL),
        Rule("pseudo_channel", ("ACT",), ("ACT",), t.nFAW, window=4),
        # the row cycle of a bank
        Rule("bank", ("ACT",), ("RD",), t.nRCDRD),
        Rule("bank", ("ACT",), ("WR",), t.nRCDWR),
        Rule("bank", ("ACT",), ("PRE",), t.nRAS),
        Rule("bank", ("ACT",), ("ACT",), t.nRC),
        Rule("bank", ("PRE",), ("ACT",), t.nRP),
        Rule("bank", ("RD",), ("PRE",), t.nRTP),
        Rule("bank", ("WR",), ("PRE",), write_end + t.nWR),
        Rule("pseudo_channel", close, close, t.nPPD),
        Rule("pseudo_channel", ("ACT",), ("PREab",), t.nRAS),
        Rule("pseudo_channel", ("RD",), ("PREab",), t.nRTP),
        Rule("pseudo_channel", ("WR",), ("PREab",), write_end + t.nWR),
        Rule("pseudo_channel", ("PREab",), ("ACT",), t.nRP),
        # all-bank refresh
        Rule("pseudo_channel", ("ACT",), ("REFab",), t.nRC),
        Rule("pseudo_channel", close, ("REFab",), t.nRP),
        Rule("pseudo_channel", ("REFab",), ("ACT", "PRE", "PREab", "REFab", "REFpb"), t.nRFC),
        # per-bank refresh
        Rule("bank", ("ACT",), ("REFpb",), t.nRC),
        Rule("bank", ("PRE",), ("REFpb",), t.nRP),
        Rule("pseudo_channel", ("PREab",), ("REFpb",), t.nRP),
        Rule("bank", ("REFpb",), ("ACT", "REFpb"), t.nRFCpb),
        Rule("pseudo_channel", ("REFpb",), ("REFab",), t.nRFCpb),
        Rule("pseudo_channel", ("REFpb",), ("REFpb", "ACT"), t.nRREFD),
        Rule("pseudo_channel", ("ACT",), ("REFpb",), t.nRRDL),
    ]
    return tuple(rule for rule in table if organisation.stack_ids > 1 or rule.level != "stack_id")


# Ramulator 2.1: timing preset HBM3_6400Mbps (CK of 0.625 ns), organisation preset HBM3_16Gb_8hi
HBM3 = Standard(
    name="HBM3",
    organisation=Organisation(
        channels=16,
        pseudo_channels=2,
        stack_ids=2,
        bank_groups=4,
        banks_per_group=4,
        rows=16384,
        row_bytes=1024,
        burst_bytes=32,
        width_bits=32,
    ),
    analogue_ps=AnalogueTiming(
        tRCDRD=19_375,
        tRCDWR=9_375,
        tRP=16_250,
        tRAS=28_125,
        tRC=45_000,
        tWR=20_625,
        tRTP=5_625,
        tRRDS=2_500,
        tRRDL=3_125,
        tFAW=15_000,
        tWTRS=4_375,
        tWTRL=6_250,
        tRFC=350_000,
        tRFCpb=200_000,
        tRREFD=5_000,
        tREFI=3_900_000,
    ),
    clocked=ClockedTiming(nBL=2, nCL=20, nCWL=10, nCCDS=2, nCCDL=4, nCCDR=3, nRTW=20, nPPD=2),
    min_pin_rate_bps=1_000_000_000,  # JESD235: the data rate of the first HBM; slower, refreshes leave no time
    max_pin_rate_bps=6_400_000_000,  # JESD238: the highest data rate of HBM3
)

STANDARDS = {standard.name: standard for standard in (HBM3,)}


def standard(name: str) -> Standard:
    """Return the standard of that name; raises ValueError with the nearest known names."""
    if name not in STANDARDS:
        raise ValueError(f"unknown DRAM standard {name!r}; known: {nearest_first(name, STANDARDS)}")
    return STANDARDS[name]
