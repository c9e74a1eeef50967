"""Predictions: the time of calls from rows of measured kernels, on one machine.

Between `workloads.calls`, which knows what a row consists of, and the engine: of every launch the most promising
schedules are simulated, whole or by windows (`workloads.windows`), and the fastest is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from hwmodel.bounds import lower_bound
from hwmodel.engine import phase_times
from hwmodel.machine import Machine
from hwmodel.program import Program
from workloads import windows
from workloads.calls import Call, Launch, Variant
from workloads.kernels.tuning.roof import Roof

SCHEDULES = 2  # of a launch that are simulated at most: the most promising
CLOSE = 1.2  # assumed: schedules whose estimate is more than so many times the least one are not simulated


@dataclass(frozen=True)
class Run:
    """One launch: the schedule taken, its time and its bound, whether it was run whole, and what limits it."""

    name: str
    variant: Variant
    time_fs: float
    least_fs: float
    whole: bool
    limited_by: str


@dataclass(frozen=True)
class Prediction:
    """A call: its launches, and the time no schedule could be faster than."""

    runs: tuple[Run, ...]
    gap_fs: int
    bound_fs: float

    @property
    def time_fs(self) -> float:
        return self.gap_fs + sum(run.time_fs for run in self.runs)

    @property
    def limited_by(self) -> str:
        """The resource that limits the longest launch."""
        return max(self.runs, key=lambda run: run.time_fs).limited_by

    @property
    def knobs(self) -> str:
        """Kernel and changed knobs of every launch."""
        return "; ".join(f"{run.variant.kernel}({_knobs(run.variant.knobs)})" for run in self.runs)


def predict(call: Call, machine: Machine, schedules: int = SCHEDULES) -> Prediction:
    """Return the prediction of a call. Raises `NotModelled` where no schedule of a launch fits the machine."""
    runs = tuple(fastest(launch, machine, schedules, call.graph) for launch in call.launches)
    gap = machine.spec.launch.graph or 0 if call.graph else 0
    return Prediction(runs, gap, gap + sum(run.least_fs for run in runs))


def fastest(launch: Launch, machine: Machine, schedules: int, replayed: bool = False) -> Run:
    """Return the fastest of the most promising schedules of a launch; `replayed` as in `Call.graph`."""
    fitting = launch.fitting(machine, schedules)
    first, _ = fitting[0]
    runs = [
        run(launch, variant, program, machine, replayed)
        for variant, program in fitting
        if variant.estimate_fs <= CLOSE * first.estimate_fs
    ]
    return min(runs, key=lambda found: found.time_fs)


def least_fs(launch: Launch, machine: Machine, warm: bool = False) -> float:
    """Return what no schedule of a launch can be faster than; `warm`: its tensors lie in a shared cache."""
    roof = Roof(machine)
    work = roof.least_fs(launch.macs, launch.dtype, 0 if warm else launch.moved_bytes, launch.on_vector)
    return launch.launches * roof.launch_fs + work


def run(launch: Launch, variant: Variant, program: Program, machine: Machine, replayed: bool = False) -> Run:
    """Simulate one schedule, whole or by windows; its time is not below its bound, below which windows may fall."""
    warm = replayed and fits_cache(program, machine)
    if warm:
        tensors = tuple(replace(tensor, resident="cache") for tensor in program.tensors)
        program = replace(program, tensors=tensors)
    plan = windows.plan(program, machine)
    parts = {which: plan.window(which) for which in plan.windows}
    found = {which: [phase.fs for phase in phase_times(part, machine)] for which, part in parts.items()}
    longest = max(found, key=lambda which: sum(found[which]))
    bound, time_fs = lower_bound(parts[longest], machine), sum(found[longest])
    assert bound.total_fs <= time_fs, f"bound {bound} above makespan {time_fs} fs of {program.name}"
    least = least_fs(launch, machine, warm)
    return Run(launch.name, variant, max(plan.time(found), least), least, len(found) == 1, bound.limited_by)


def fits_cache(program: Program, machine: Machine) -> bool:
    """Return whether all tensors of a program fit the machine's shared cache together."""
    cache = machine.spec.shared_cache
    return cache is not None and sum(tensor.size_bytes for tensor in program.tensors) <= cache.capacity


def _knobs(knobs: Any) -> str:
    changed = ((f.name, getattr(knobs, f.name), f.default) for f in fields(knobs))
    return ", ".join(f"{name}={value}" for name, value, default in changed if value != default)
