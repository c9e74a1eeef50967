"""DRAM standards as data: a part file says what a stack consists of, its limits, and where each number is from.

The door to what the memory system is described by: `standard(name)` gives a `Standard`, its `timing(pin_rate)` the
`Timing` in ticks at a data rate, and `rules(timing, organisation)` the distances between commands. Each part is one
YAML file in `parts/`, called as the part is; a new part is a copy of the nearest one with other numbers. The stack ID
of tall stacks is the upper part of the `bank` address field: a bank group is the banks of one stack ID. Columns may
follow each other sooner than their data (tCCDS below tBL, as in HBM2-legacy): the larger of the two holds.
Not modelled: row and column parity, ECC, temperature-dependent refresh, refresh management, self-refresh and
power-down, training, and refreshes of several banks by one per-bank command (LPDDR5X, DDR5).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from hwmodel import units
from hwmodel.dram.organisation import MAX_COUNT, Organisation
from hwmodel.dram.rules import COMMANDS, LEVELS, Rule, rules
from hwmodel.dram.timing import TICKS, Limit, Timing
from hwmodel.yaml_file import read_yaml
from layouts.notation import nearest_first

__all__ = [
    "COMMANDS",
    "HBM3",
    "LEVELS",
    "CommandClock",
    "Limit",
    "Organisation",
    "Rule",
    "Standard",
    "Timing",
    "forget",
    "read_standard",
    "rules",
    "standard",
    "standard_names",
]

PARTS = Path(__file__).parent / "parts"
_CLOCK = ("pin_bits_per_ck", "ticks_per_ck", "act_ticks", "column_ticks")
_KEYS = ("name", "description", "organisation", "clock", "min_pin_rate", "max_pin_rate", "timing", "sources")
# every limit of a part file, by its name there; tRTW may be given as tBTR, the gap between read and write data
_LIMITS = tuple(f"t{name[1:]}" for name in TICKS if name.startswith("n") and name != "nREFIpb")
_UNITS = "CK, or a time such as 15 ns"


@dataclass(frozen=True)
class CommandClock:
    """How commands are clocked: bits of a data pin per CK, ticks per CK, ticks of an activate and of a column."""

    pin_bits_per_ck: int
    ticks_per_ck: int
    act_ticks: int
    column_ticks: int


@dataclass(frozen=True)
class Standard:
    """A part: its organisation, its limits by name (`tRCDRD`, ...), and the data rates that they are for.

    `sources` says for every path ("organisation", "timing.tRAS", ...) where its numbers are from. Raises ValueError
    for limits that are missing, unknown or contradict each other at one of the two ends of the data rates.
    """

    name: str
    description: str
    organisation: Organisation
    clock: CommandClock
    limits: Mapping[str, Limit]
    min_pin_rate_bps: int
    max_pin_rate_bps: int
    sources: Mapping[str, str]

    def __post_init__(self) -> None:
        wanted = [name for name in _LIMITS if name != "tRTW" or "tBTR" not in self.limits]
        for name in self.limits:
            if name not in (*wanted, "tBTR"):
                raise ValueError(f"{self.name}: timing.{name}: unknown; known: {nearest_first(name, wanted, 12)}")
        for name in wanted:
            if name not in self.limits:
                raise ValueError(f"{self.name}: timing.{name}: missing")
        if self.min_pin_rate_bps > self.max_pin_rate_bps:
            raise ValueError(f"{self.name}: min_pin_rate {self.min_pin_rate_bps} b/s is above max_pin_rate")
        burst, o = self.limits["tBL"].ck * self.clock.pin_bits_per_ck, self.organisation
        if burst * o.width_bits != 8 * o.burst_bytes:
            raise ValueError(
                f"{self.name}: timing.tBL: {self.limits['tBL'].ck} CK of {o.width_bits} pins with "
                f"{self.clock.pin_bits_per_ck} bits per CK are not the {o.burst_bytes} B of a burst"
            )
        for rate in (self.min_pin_rate_bps, self.max_pin_rate_bps):
            self._check_row_cycle(rate)
            self.timing(rate)

    def _check_row_cycle(self, pin_rate_bps: int) -> None:
        ck_hz = Fraction(pin_rate_bps, self.clock.pin_bits_per_ck)
        ras, rp, rc = (self.limits[name].exact_ck(ck_hz) for name in ("tRAS", "tRP", "tRC"))
        if ras + rp > rc:
            shown = ", ".join(f"{n} {_shown(v / ck_hz)}" for n, v in (("tRAS", ras), ("tRP", rp), ("tRC", rc)))
            raise ValueError(f"{self.name}: timing: tRAS + tRP is more than tRC: {shown} at {pin_rate_bps} b/s")

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits over all numbers, independent of name, words and sources."""
        limits = {name: [str(limit.ck), limit.time_fs] for name, limit in self.limits.items()}
        rates = [self.min_pin_rate_bps, self.max_pin_rate_bps]
        numbers = [asdict(self.organisation), asdict(self.clock), limits, rates]
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:16]

    def timing(self, pin_rate_bps: int) -> Timing:
        """Return the timing parameters in ticks at a data rate (bits per second and pin).

        Raises ValueError for a rate outside `min_pin_rate_bps` .. `max_pin_rate_bps`.
        """
        if not self.min_pin_rate_bps <= pin_rate_bps <= self.max_pin_rate_bps:
            allowed = f"{self.min_pin_rate_bps} .. {self.max_pin_rate_bps} b/s"
            raise ValueError(f"{self.name}: pin rate {pin_rate_bps} b/s is outside {allowed}")
        per_ck = self.clock.ticks_per_ck
        ck_hz = Fraction(pin_rate_bps, self.clock.pin_bits_per_ck)
        ticks = {f"n{name[1:]}": limit.ticks(ck_hz, per_ck) for name, limit in self.limits.items()}
        ticks["nRC"] = max(ticks["nRC"], ticks["nRAS"] + ticks["nRP"])  # each of the three was rounded up by itself
        if "nBTR" in ticks:
            ticks["nRTW"] = max(1, ticks["nCL"] + ticks["nBL"] + ticks.pop("nBTR") - ticks["nCWL"])
        interval_ck = self.limits["tREFI"].exact_ck(ck_hz)
        ticks["nREFI"] = interval_ck // 1 * per_ck
        ticks["nREFIpb"] = interval_ck // self.organisation.banks * per_ck
        try:
            return Timing(ck_hz * per_ck, per_ck, self.clock.act_ticks, self.clock.column_ticks, **ticks)
        except ValueError as error:
            raise ValueError(f"{self.name} at {pin_rate_bps} b/s: {error}") from None

    def peak_bytes_per_second(self, pin_rate_bps: int) -> Fraction:
        """Return the peak bandwidth of one stack: all data pins at the data rate."""
        o = self.organisation
        return Fraction(o.channels * o.pseudo_channels * o.width_bits * pin_rate_bps, 8)


@cache
def standard_names() -> tuple[str, ...]:
    """Return the names of the shipped parts."""
    return tuple(sorted(path.stem for path in PARTS.glob("*.yaml")))


@cache
def standard(name: str) -> Standard:
    """Return the shipped part of that name, read once until `forget`.

    Raises ValueError with the nearest known names, or where its file calls the part otherwise.
    """
    if name not in standard_names():
        raise ValueError(f"unknown DRAM standard {units.shown(name)}; known: {nearest_first(name, standard_names())}")
    path = PARTS / f"{name}.yaml"
    found = read_standard(path)
    if found.name != name:
        raise ValueError(f"{path}: name: {units.shown(found.name)}; allowed: {name}, as the file is called")
    return found


def forget() -> None:
    """Forget the parts that were read, as a file of them has changed."""
    standard_names.cache_clear()
    standard.cache_clear()


def read_standard(path: Path) -> Standard:
    """Return the part that a YAML file describes; the files in `parts/` are examples.

    A limit is text such as "2 CK" or "15 ns", or a list of both, of which the larger holds. Every number needs a
    source under the path of its own or of what it stands in, or the word `assumed`.
    Raises ValueError in one line: the file, the path of the value, the value, and what is allowed.
    """
    tree = read_yaml(path)
    try:
        return _standard(_mapping(tree, "the file", _KEYS))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _standard(tree: Mapping[str, Any]) -> Standard:
    organisation = _mapping(tree["organisation"], "organisation", [f.name for f in fields(Organisation)])
    for key, value in organisation.items():
        if type(value) is int and value > MAX_COUNT:
            raise ValueError(f"organisation.{key}: {units.shown(value)}; allowed: 1 to {MAX_COUNT}")
    clock = _mapping(tree["clock"], "clock", _CLOCK)
    for key in _CLOCK:
        if type(clock[key]) is not int or clock[key] < 1:
            raise ValueError(f"clock.{key}: {units.shown(clock[key])} must be an integer of at least 1")
    limits, sources = tree["timing"], tree["sources"]
    for key, value in (("timing", limits), ("sources", sources)):
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise ValueError(f"{key}: {units.shown(value)} must be a mapping of names to values")
    read = {name: _limit(name, value) for name, value in limits.items()}
    numbers = [f"{key}.{name}" for key, part in (("organisation", organisation), ("clock", clock)) for name in part]
    check_sources(sources, [*numbers, "min_pin_rate", "max_pin_rate", *(f"timing.{name}" for name in read)])
    return Standard(
        name=str(tree["name"]),
        description=str(tree["description"]),
        organisation=Organisation(**organisation),
        clock=CommandClock(**clock),
        limits=read,
        min_pin_rate_bps=_pin_rate("min_pin_rate", tree["min_pin_rate"]),
        max_pin_rate_bps=_pin_rate("max_pin_rate", tree["max_pin_rate"]),
        sources=sources,
    )


def _mapping(value: object, where: str, keys: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {units.shown(value)} must be a mapping of keys to values")
    for key in value:
        if key not in keys:
            raise ValueError(f"{where}: unknown key {units.shown(key)}; known: {nearest_first(str(key), keys, 12)}")
    for key in keys:
        if key not in value:
            raise ValueError(f"{where}: {key} is missing")
    return value


def _pin_rate(key: str, value: object) -> int:
    try:
        return units.parse(value, "bit rate")
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _limit(name: str, value: object) -> Limit:
    """Read "2 CK", "15 ns" or a list of both."""
    cycles, time_fs = Fraction(0), 0
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        number, _, unit = str(text).strip().partition(" ")
        try:
            if unit.strip() == "CK":
                cycles = Fraction(int(number))
            else:
                time_fs = units.parse(text, "time")
        except ValueError:
            raise ValueError(f"timing.{name}: {units.shown(text)} is no limit: give a count of {_UNITS}") from None
    if cycles < 0 or not (cycles or time_fs):
        raise ValueError(f"timing.{name}: {units.shown(value)} must be more than zero")
    return Limit(cycles, time_fs)


def check_sources(sources: Mapping[str, object], paths: Collection[str], others: Collection[str] = ()) -> None:
    """Raise ValueError where a path, or what it stands in, has no source, or a source is of neither nor of `others`."""
    known = dict.fromkeys([*paths, *others, *(path.partition(".")[0] for path in paths)])
    for path in sources:
        if path not in known:
            raise ValueError(f"sources: unknown {units.shown(path)}; known: {nearest_first(path, known, 12)}")
    for path in paths:
        source = sources.get(path, sources.get(path.partition(".")[0]))
        if not isinstance(source, str) or not source.strip():
            raise ValueError(f"sources: {path} has no source; name one, or write `assumed` and why")


def _shown(seconds: Fraction) -> str:
    return f"{float(seconds * 10**9):.6g} ns"


HBM3 = standard("HBM3")
