"""Predictions: the time of calls from rows of measured kernels, on one machine.

Between `workloads.calls`, which knows what a row consists of, and the engine: of every launch the most promising
schedules are simulated, whole or by windows (`workloads.windows`), and the fastest is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from hwmodel.bounds import lower_bound
from hwmodel.engine import simulate
from hwmodel.machine import Machine
from workloads import windows
from workloads.calls import Call, Launch, Variant
from workloads.calls.roof import Roof
from workloads.windows import WINDOWS

SCHEDULES = 2  # of a launch that are simulated: the most promising


@dataclass(frozen=True)
class Run:
    """One launch: the schedule taken, its time, whether it was run whole, and what limits it."""

    name: str
    variant: Variant
    time_fs: float
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
    runs = tuple(fastest(launch, machine, schedules) for launch in call.launches)
    gap = machine.spec.launch.graph or 0 if call.graph else 0
    return Prediction(runs, gap, gap + sum(least_fs(launch, machine) for launch in call.launches))


def fastest(launch: Launch, machine: Machine, schedules: int) -> Run:
    """Return the fastest of the most promising schedules of a launch."""
    fitting = launch.fitting(machine, schedules)
    least = least_fs(launch, machine)  # which windows may fall below
    runs = [run(launch.name, variant, program, machine, least) for variant, program in fitting]
    return min(runs, key=lambda found: found.time_fs)


def least_fs(launch: Launch, machine: Machine) -> float:
    """Return what no schedule of a launch can be faster than."""
    roof = Roof(machine)
    work = roof.least_fs(launch.macs, launch.dtype, launch.moved_bytes, launch.on_vector)
    return launch.launches * roof.launch_fs + work


def run(name: str, variant: Variant, program: Any, machine: Machine, least: float = 0.0) -> Run:
    """Simulate one schedule, whole or by windows; its time is not below `least`."""
    plan = windows.plan(program, machine.spec.cores.count)
    times = {which: [phase.fs for phase in simulate(plan.window(which), machine).phases] for which in plan.windows}
    limited_by = lower_bound(plan.window(WINDOWS[0]), machine).limited_by
    return Run(name, variant, max(plan.time(times), least), len(times) == 1, limited_by)


def _knobs(knobs: Any) -> str:
    changed = ((f.name, getattr(knobs, f.name), f.default) for f in fields(knobs))
    return ", ".join(f"{name}={value}" for name, value, default in changed if value != default)
