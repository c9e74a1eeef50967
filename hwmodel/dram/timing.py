"""Timing parameters of a DRAM: as limits, as a data sheet gives them, and as ticks at one data rate.

A limit is a count of CK (command clock cycles), a time, or both, of which the larger holds. At a data rate it becomes
whole CK (minima round up, refresh intervals down), then ticks. A tick is one CK, or half of one where row commands use
both clock edges (HBM3 and later). `Timing` is what everything else in the memory system reads; `rules` turns it into
the distances between commands. Its values are those of the data sheets, which count from the end of a command:
how many ticks a command itself takes stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

from hwmodel.units import FS_PER_SECOND
from layouts.notation import nearest_first

MAX_TICKS = 1 << 31  # assumed: some hundred thousand refresh intervals; beyond, a unit is wrong


@dataclass(frozen=True)
class Limit:
    """At least `ck` cycles of the command clock and at least `time_fs`."""

    ck: Fraction = Fraction(0)
    time_fs: int = 0

    def exact_ck(self, ck_hz: Fraction) -> Fraction:
        """Return the limit in cycles of a command clock, not rounded."""
        return max(self.ck, self.time_fs * ck_hz / FS_PER_SECOND)

    def ticks(self, ck_hz: Fraction, ticks_per_ck: int) -> int:
        """Return the limit in ticks: times round up to whole CK, counts of CK to whole ticks."""
        by_time = -(-self.time_fs * ck_hz // FS_PER_SECOND) * ticks_per_ck
        return int(max(by_time, -(-self.ck * ticks_per_ck // 1)))


@dataclass(frozen=True)
class Timing:
    """All timing parameters at one data rate, in ticks; `tick_hz` is exact.

    Raises ValueError in one line for a value that is no positive integer, and for values that contradict each other.
    """

    tick_hz: Fraction
    ticks_per_ck: int  # 2: commands but precharges start on the rising edge of CK only, the odd ticks
    act_ticks: int  # length of an activate on the command bus
    column_ticks: int  # length of a read or write on the command bus; all other commands take one tick
    nBL: int  # data of one burst
    nCL: int  # read to data
    nCWL: int  # write to data
    nCCDS: int  # column to column, other bank group
    nCCDL: int  # read to read, same bank group
    nCCDLW: int  # write to write, same bank group
    nCCDR: int  # read to read, other stack ID
    nRTW: int  # read to write
    nPPD: int  # precharge to precharge
    nRCDRD: int  # activate to read
    nRCDWR: int  # activate to write
    nRP: int  # precharge of a bank to activate
    nRPab: int  # precharge of all banks to activate
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

    def __post_init__(self) -> None:
        if not isinstance(self.tick_hz, int | Fraction) or isinstance(self.tick_hz, bool) or self.tick_hz <= 0:
            raise ValueError(f"timing: tick_hz {self.tick_hz!r} must be a positive integer or fraction")
        for name in TICKS:
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MAX_TICKS:
                raise ValueError(f"timing: {name} {value!r} must be an integer of 1 .. {MAX_TICKS}")
        if self.ticks_per_ck > 2:
            raise ValueError(f"timing: ticks_per_ck {self.ticks_per_ck} must be 1 or 2")
        if self.nRAS + self.nRP > self.nRC:
            raise ValueError(f"timing: nRAS {self.nRAS} + nRP {self.nRP} is more than nRC {self.nRC}")
        if self.nRTW < self.nCL + self.nBL - self.nCWL:
            parts = f"nCL {self.nCL} + nBL {self.nBL} - nCWL {self.nCWL}"
            raise ValueError(f"timing: nRTW {self.nRTW} is less than {parts}: data of reads and writes would overlap")
        for greater, smaller in _ORDER:
            if getattr(self, greater) < getattr(self, smaller):
                values = f"{greater} {getattr(self, greater)} is less than {smaller} {getattr(self, smaller)}"
                raise ValueError(f"timing: {values}; it must be at least as much")

    @classmethod
    def from_ticks(cls, table: Mapping[str, Any]) -> Timing:
        """Return the timing that a table of all fields gives, the `n..` values in ticks.

        Raises ValueError naming a missing or an unknown field, or as the class does.
        """
        for name in table:
            if name not in FIELDS:
                raise ValueError(f"timing: unknown field {name!r}; known: {nearest_first(str(name), FIELDS, 12)}")
        for name in FIELDS:
            if name not in table:
                raise ValueError(f"timing: {name} is missing")
        return cls(**table)

    def without_rows(self) -> Timing:
        """Return the timing with what opening and closing a row takes set to a tick each, two for both."""
        short: dict[str, Any] = dict.fromkeys(ROW_TIMES, 1)
        return replace(self, **short, nRC=2)

    @property
    def burst_interval_ticks(self) -> int:
        """The least distance of two columns of a pseudo-channel, whatever their banks."""
        return max(self.nBL, self.nCCDS)

    @property
    def activate_to_column_ticks(self) -> int:
        """The least distance from the start of an activate to the start of a column command of its row."""
        return max(0, min(self.nRCDRD, self.nRCDWR) + self.act_ticks - self.column_ticks)


FIELDS = tuple(field.name for field in fields(Timing))
ROW_TIMES = ("nRCDRD", "nRCDWR", "nRP", "nRPab", "nRAS", "nWR", "nRTP", "nRRDS", "nRRDL", "nFAW")
TICKS = FIELDS[1:]
# the first must be at least as much as the second
_ORDER = (
    ("nCCDL", "nCCDS"),
    ("nCCDLW", "nCCDS"),
    ("nRPab", "nRP"),
    ("nRRDL", "nRRDS"),
    ("nFAW", "nRRDS"),
    ("nWTRL", "nWTRS"),
    ("nREFI", "nRFC"),
    ("nREFIpb", "nRREFD"),
    ("nRAS", "nRCDRD"),
    ("nRAS", "nRCDWR"),
)
