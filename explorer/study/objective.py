"""What a study makes small: numbers of a run or of its machine, with the columns of their lower bounds and the words.

The names in `OBJECTIVES` are those that a study file takes; search, certificate, tables and figures read the rest here.
Smaller is better for each of them. Costs of the machine (all scratchpads, HBM stacks) are known before anything runs,
so that their bounds are their values. Nothing bounds the bytes of scratchpads yet but 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from explorer.query import Scalar

_OCTETS = ("", "k", "M", "G", "T", "P")
_JOULES = ("f", "p", "n", "u", "m", "", "k", "M", "G")


def microseconds(time_us: float) -> str:
    """Return a time in us with one decimal, below 10 us with three."""
    return f"{time_us:.1f} us" if time_us >= 10 else f"{time_us:.3f} us"


def at_least(time_us: float) -> str:
    """Return a time in us with the decimals of `microseconds`, rounded down so that `no faster than` stays true."""
    step = 10 if time_us >= 10 else 1000
    return microseconds(math.floor(step * time_us) / step)


def joules(energy_pj: float) -> str:
    """Return an energy with four digits and the prefix that fits: 1.35 mJ."""
    scaled, prefix = _prefixed(energy_pj)
    return f"{scaled:.4g} {prefix}J"


def at_least_joules(energy_pj: float) -> str:
    """Return an energy with the prefix and the digits of `joules`, rounded down so that `at least` stays true."""
    scaled, prefix = _prefixed(energy_pj)
    step = 10 ** max(0, 4 - len(str(int(scaled))))
    return f"{math.floor(step * scaled) / step:.4g} {prefix}J"


def _prefixed(energy_pj: float) -> tuple[float, str]:
    energy_fj = 1000 * energy_pj
    step = max(0, min((len(str(int(energy_fj))) - 1) // 3, len(_JOULES) - 1))
    return energy_fj / 1000**step, _JOULES[step]


@dataclass(frozen=True)
class Objective:
    """`metric` and `bound` are columns of rows; `shown` and `at_least` write one of their numbers."""

    metric: str
    bound: str
    noun: str  # what the number is
    better: str  # what a point with less of it is
    axis: str  # with the unit
    shown: Callable[[float], str]
    at_least: Callable[[float], str]


def octets(count: float) -> str:
    """Return a number of bytes with the prefix that fits: 172.3 MB."""
    step = max(0, min((len(str(int(count))) - 1) // 3, len(_OCTETS) - 1))
    return f"{count / 1000**step:.4g} {_OCTETS[step]}B"


def at_least_octets(count: float) -> str:
    """Return bytes in full, so that `at least` stays true."""
    return f"{math.floor(count):,} B"


def stacks(count: float) -> str:
    """Return a number of stacks, a mean of them with its fraction."""
    return f"{count:g} stack{'' if count == 1 else 's'}"


TIME = Objective("time_us", "bound_us", "time", "faster", "time [us]", microseconds, at_least)
ENERGY = Objective("energy_pj", "energy_bound_pj", "energy", "cheaper", "energy [pJ]", joules, at_least_joules)
_BYTES = octets, at_least_octets
OBJECTIVES = {
    objective.metric: objective
    for objective in (
        TIME,
        ENERGY,
        Objective("hbm_bytes", "hbm_bound_bytes", "HBM traffic", "thriftier", "HBM traffic [B]", *_BYTES),
        Objective("sram_bytes", "sram_bound_bytes", "SRAM traffic", "thriftier", "SRAM traffic [B]", *_BYTES),
        Objective(
            "sram_capacity_bytes", "sram_capacity_bound_bytes", "SRAM", "smaller", "SRAM of all cores [B]", *_BYTES
        ),
        Objective("hbm_stacks", "hbm_stacks_bound", "HBM stacks", "smaller", "HBM stacks", stacks, stacks),
    )
}
COSTS = ("sram_capacity_bytes", "hbm_stacks")  # of the machine alone
BOUNDED = ("time_us", "energy_pj", "hbm_bytes", *COSTS)  # by more than 0


def with_traffic(metrics: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return flat numbers of a run and the sums that are objectives: bytes of main memory, and of all scratchpads."""
    found = dict(metrics)
    if "hbm_read_bytes" in metrics:
        found["hbm_bytes"] = metrics["hbm_read_bytes"] + metrics.get("hbm_write_bytes", 0)  # type: ignore[operator]
    parts = [int(n) for name, n in metrics.items() if name.startswith("sram.") and name.endswith(_SRAM_BYTES)]
    return found | ({"sram_bytes": sum(parts)} if parts else {})


_SRAM_BYTES = (".read_bytes", ".written_bytes")
