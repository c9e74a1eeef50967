"""How closely a query is answered: by a whole run, by windows of it, or by its lower bound alone.

- `exact`: every burst is simulated.
- `windows`: phases of up to 32 MiB are run whole; of a longer one a few tiles and items of every core are simulated,
  and its time follows from theirs (`workloads.windows`). `window_error` knows how far that is from whole runs.
- `auto`: the same, with phases of up to 512 MiB run whole, which takes some seconds, and longer windows of others.
  Designs are compared like this by default: windows may turn the order of those that are close.
  Where windows tell clearly less than the lower bound of the program, more is simulated: as by `auto`, and then all of
  it, unless that takes long.
- `bound`: nothing is simulated.

A whole run gives all numbers; windows give the time, and the bounds, which are always those of the whole program: where
another number is compared, `for_objective` has every burst simulated.
Answers are kept in this process by the key of their query: what is asked again costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from explorer import evaluate, programs
from explorer.evaluate import Metric
from explorer.names import unknown
from explorer.query import Query
from explorer.study.objective import BOUNDED, COSTS, TIME, Objective
from explorer.workers.threads import side_by_side
from workloads.window_lengths import LONG, MEDIUM

if TYPE_CHECKING:
    from workloads.windows import Plan, Which

FIDELITIES = ("auto", "exact", "windows", "bound")
DEFAULT = "auto"  # of questions that are asked to compare
BELOW = 0.01  # assumed: of a bound, by which windows may fall below it, so that it is taken for the time
MOST_BYTES = 2 << 30  # assumed: of a program that is run whole because windows fall short: some ten seconds
LENGTHS = {"windows": MEDIUM, "auto": LONG}
CLOSER = {"windows": "auto", "auto": "exact"}


@dataclass(frozen=True)
class Measured:
    """The numbers of one query, as `Result.metrics` names them, and `how` they came about.

    `how`: "whole", "windows" or "bound". `part`: of the program's tiles, which were simulated. `fidelity`: at which
    windows were chosen.
    """

    metrics: Mapping[str, Metric]
    how: str
    part: float = 1.0
    fidelity: str = ""


def check(fidelity: str) -> str:
    """Return a fidelity; ValueError for an unknown one."""
    if fidelity not in FIDELITIES:
        raise ValueError(f"fidelity: {unknown('fidelity', fidelity, FIDELITIES)}")
    return fidelity


def for_objective(fidelity: str, objective: Objective) -> str:
    """Return the fidelity at which an objective can be had; ValueError where the one asked for does not give it."""
    known = objective == TIME or objective.metric in COSTS
    is_bounded = objective.metric in BOUNDED
    if check(fidelity) == "windows" and not known:
        allowed = "exact, auto, bound" if is_bounded else "exact, auto"
        raise ValueError(f"fidelity: windows give the time, and {objective.metric} is asked; allowed: {allowed}")
    if fidelity == "bound" and not is_bounded:
        raise ValueError(f"fidelity: {objective.metric} has no bound but 0; allowed: exact, auto")
    return fidelity if known or fidelity != "auto" else "exact"


@dataclass(frozen=True)
class _Asked:
    """A query that is equal to another with the same content behind it: files may change under their names."""

    key: str
    query: Query = field(compare=False)


def measure(query: Query, fidelity: str = DEFAULT) -> Measured:
    """Return the numbers of a query. Raises ValueError for one that cannot be run."""
    return _measure(_Asked(programs.key(query), query), check(fidelity))


@lru_cache(maxsize=1024)
def _measure(asked: _Asked, fidelity: str) -> Measured:
    query = asked.query
    if fidelity == "exact":
        return Measured(evaluate.simulate(query).metrics, "whole")
    program, machine = programs.program_on(query)
    if fidelity == "bound":
        return Measured(_bounds(program, machine), "bound", 0.0)
    from workloads import windows
    from workloads.traffic import program_bytes

    plan = windows.plan(program, machine, LENGTHS[fidelity])
    if len(plan.windows) == 1:
        return Measured(evaluate.simulate(query).metrics, "whole")
    bounds, time_us = _bounds(program, machine), _time_us(plan, machine)
    least_us = float(bounds["bound_us"])  # type: ignore[arg-type]
    if time_us < (1 - BELOW) * least_us and (fidelity == "windows" or program_bytes(program) <= MOST_BYTES):
        return _measure(asked, CLOSER[fidelity])
    return Measured({"time_us": max(time_us, least_us)} | bounds, "windows", _part(plan), fidelity)


def _bounds(program: Any, machine: Any) -> dict[str, Metric]:
    """Return what is known of a whole program without running it."""
    from hwmodel.bounds import lower_bound
    from hwmodel.energy import least
    from hwmodel.units import FJ_PER_PJ, FS_PER_US

    bound = lower_bound(program, machine)
    energy = least(program, machine, bound)
    return {
        "bound_us": int(bound.total_fs) / FS_PER_US,
        "limited_by": bound.limited_by,
        "energy_bound_pj": None if energy is None else energy.total_fj / FJ_PER_PJ,
        "program_hash": program.hash,
        "machine_hash": machine.spec.hash,
    }


def _time_us(plan: Plan, machine: Any) -> float:
    """Return the time of a program from its windows, which are run beside each other."""
    from hwmodel.engine import phase_times
    from hwmodel.units import FS_PER_US

    def times(which: Which) -> list[float]:
        return [phase.fs for phase in phase_times(plan.window(which), machine)]

    evaluate.announce()
    found = dict(zip(plan.windows, side_by_side(times, plan.windows, weight=sum), strict=True))
    return plan.time(found) / FS_PER_US


def _part(plan: Plan) -> float:
    """Return what part of a program's tiles its windows have, about."""
    tiles = [phase.waves.whole * phase.tiles.whole for phase in plan.phases]
    parts = [1.0 if phase.is_whole else min(1.0, phase.part) for phase in plan.phases]
    return sum(count * part for count, part in zip(tiles, parts, strict=True)) / max(sum(tiles), 1)
