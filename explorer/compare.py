"""Two saved runs beside each other: every number with its difference, and what made the time another one.

The account of every kind of unit closes: the times of its causes, of the average unit, add up to the time of the run.
So their differences add up to the difference in time, exactly, in one account after the other: each explains all of it
from where its units stand. Most of them only waited longer for another one, so the account that is told in words is
that of the kind of unit whose own time changed by what comes nearest to the whole difference: its work and what stood
in its own way, all but `WAITING` for others. Of its causes the three largest differences are named, and the rest in
one. That is where the time went, not a proof of what brought it there: reruns say that (`explorer.explain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from explorer.query import Scalar
from explorer.storage.row import all_numbers, nested, unit_name
from explorer.text.tables import percent, row_hit_fraction
from hwmodel.result import Result
from hwmodel.saving import Saved
from hwmodel.units import FS_PER_US

NAMED = 3  # causes in words
WAITING = ("memory", "buffer", "dependency", "no work")  # for others, or for the end
UNITS = {
    "load": "load queue",
    "store": "store queue",
    "matrix": "matrix unit",
    "vector": "vector unit",
    "hbm": "pseudo-channel of HBM",
}
CAUSES = {
    "useful": "work",
    "launch": "launches",
    "no work": "nothing to do",
    "memory": "waiting for memory",
    "buffer": "waiting for free buffers",
    "dependency": "waiting for other units",
    "row": "opening and closing rows",
    "bus": "waiting for the buses",
    "turnaround": "turning the bus around",
    "refresh": "refreshes",
    "SRAM bank conflict": "bank conflicts of the scratchpad",
    "SRAM contention": "others in the scratchpad",
}


@dataclass(frozen=True)
class Difference:
    """A number of two runs, None where a run has none: B less A, and relative to A, None where A is 0."""

    a: Scalar | None
    b: Scalar | None

    @property
    def absolute(self) -> float | int | None:
        if isinstance(self.a, int | float) and isinstance(self.b, int | float):
            return self.b - self.a
        return None

    @property
    def relative(self) -> float | None:
        absolute = self.absolute
        return None if absolute is None or not self.a else absolute / float(self.a)

    def record(self) -> dict[str, Any]:
        """Return the difference as JSON-able values."""
        return {"a": self.a, "b": self.b, "absolute": self.absolute, "relative": self.relative}


@dataclass(frozen=True)
class Comparison:
    """Two runs. `accounts`: per kind of unit and cause, the exact difference in fs of the average unit.

    `told`: the kind of unit whose account explains the difference best.
    """

    a: Saved
    b: Saved
    time_fs: tuple[int, int]
    told: str
    accounts: Mapping[str, Mapping[str, Fraction]]
    numbers: Mapping[str, Difference]

    @property
    def causes(self) -> list[tuple[str, Fraction]]:
        """The causes in the account told that differ, the largest difference first."""
        differing = ((cause, fs) for cause, fs in self.accounts[self.told].items() if fs)
        return sorted(differing, key=lambda entry: (-abs(entry[1]), entry[0]))

    def record(self) -> dict[str, Any]:
        """Return the comparison as JSON-able values; `numbers` are nested as those of a run."""
        accounts = {
            kind: {cause: float(fs / FS_PER_US) for cause, fs in causes.items()}
            for kind, causes in self.accounts.items()
        }
        return {
            "summary": summary(self),
            "a": {"title": self.a.title, "settings": self.a.settings},
            "b": {"title": self.b.title, "settings": self.b.settings},
            "context": context(self),
            "unit": self.told,
            "causes": [{"cause": cause, "difference_us": float(fs / FS_PER_US)} for cause, fs in self.causes],
            "accounts_us": accounts,
            "numbers": nested({name: difference.record() for name, difference in self.numbers.items()}),
        }


def compare(a: Saved, b: Saved) -> Comparison:
    """Return how run B differs from run A. ValueError where one has no result."""
    for name, saved in (("A", a), ("B", b)):
        if saved.result is None:
            raise ValueError(f"{name}: no result in it; allowed: what `rowhit run --save` wrote")
    one, other = a.result, b.result
    assert one is not None
    assert other is not None
    accounts = {
        kind: {
            cause: _of_one_unit(other, kind, cause) - _of_one_unit(one, kind, cause)
            for cause in dict.fromkeys([*one.stalls[kind], *other.stalls[kind]])
        }
        for kind in one.stalls
        if kind in other.stalls
    }
    times = one.makespan_fs, other.makespan_fs
    told = min(accounts, key=lambda kind: abs(times[1] - times[0] - _own(accounts[kind])))
    before, after = _numbers(one), _numbers(other)
    numbers = {name: Difference(before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])}
    return Comparison(a, b, times, told, accounts, numbers)


def summary(found: Comparison) -> str:
    """Return in one sentence how much longer B takes, and the largest causes, which with the rest add up to that."""
    before, after = found.time_fs
    change = after - before
    if not change:
        return f"B takes as long as A: {_microseconds(before)}"
    share = f"{percent(abs(change) / before)} " if before else ""
    faster = "slower" if change > 0 else "faster"
    parts = [f"{CAUSES.get(cause, cause)} {_signed(fs)}" for cause, fs in found.causes[:NAMED]]
    if rest := sum(fs for _, fs in found.causes[NAMED:]):
        parts.append(f"all else {_signed(rest)}")
    times = f"{_signed(change)}, {_microseconds(before)} -> {_microseconds(after)}"
    unit = UNITS.get(found.told, found.told)
    return f"B is {share}{faster} than A ({times}): in the account of the average {unit}, {', '.join(parts)}"


def context(found: Comparison) -> str:
    """Return in one sentence how the lower bound and the traffic of main memory changed."""
    one, other = found.a.result, found.b.result
    assert one is not None
    assert other is not None
    bounds = [f"{_microseconds(run.bound.total_fs)} ({run.bound.limited_by})" for run in (one, other)]
    moved = [run.hbm_read_bytes + run.hbm_write_bytes for run in (one, other)]
    where = f"stays at {bounds[0]}" if bounds[0] == bounds[1] else f"goes from {bounds[0]} to {bounds[1]}"
    parts = [f"the lower bound {where}"]
    if all(moved):
        hits = [row_hit_fraction(run.metrics()) for run in (one, other)]
        parts.append(f"HBM moves {moved[1]:,} B, {moved[1] - moved[0]:+,} B ({_change(moved[1] / moved[0] - 1)})")
        parts.append(f"bursts in open rows go from {percent(hits[0])} to {percent(hits[1])}")
    return ", ".join(parts)


def _change(share: float) -> str:
    return f"{100 * share:+.1f} %"


def _own(causes: Mapping[str, Fraction]) -> Fraction:
    """Return the difference in an account that is not of waiting for others."""
    return sum((fs for cause, fs in causes.items() if cause not in WAITING), Fraction(0))


def _of_one_unit(result: Result, kind: str, cause: str) -> Fraction:
    return Fraction(result.stalls[kind].get(cause, 0), result.units[kind])


def _numbers(result: Result) -> dict[str, Scalar]:
    """Return every number of a run by name, stalls as microseconds of an average unit, and what each resource needs.

    Stalls are rounded to femtoseconds, which times consist of.
    """
    bounds = {f"bounds_us.{name}": fs / FS_PER_US for name, fs in result.bound.by_resource.items()}
    stalls = {
        f"stalls.{kind}.{cause}": round(_of_one_unit(result, kind, cause)) / FS_PER_US
        for kind, causes in result.stalls.items()
        for cause in causes
    }
    numbers = all_numbers(result.metrics()) | stalls | bounds
    return {unit_name(name): value for name, value in numbers.items()}


def _microseconds(fs: int | Fraction) -> str:
    return f"{float(fs / Fraction(FS_PER_US)):,.4g} us"


def _signed(fs: int | Fraction) -> str:
    return f"{float(fs / Fraction(FS_PER_US)):+,.3g} us"
