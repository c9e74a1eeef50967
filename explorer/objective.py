"""What a study makes small: one number of a run, with the column of its lower bound and the words for it.

`time_us` and `energy_pj` are the names that a study file takes; search, certificate, tables and figures read the rest
here. Smaller is better for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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


TIME = Objective("time_us", "bound_us", "time", "faster", "time [us]", microseconds, at_least)
ENERGY = Objective("energy_pj", "energy_bound_pj", "energy", "cheaper", "energy [pJ]", joules, at_least_joules)
OBJECTIVES = {objective.metric: objective for objective in (TIME, ENERGY)}
