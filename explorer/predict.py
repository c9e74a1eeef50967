"""Predictions: the time of calls from rows of measured kernels, on one machine.

Between `workloads.calls`, which knows what a row consists of, and the engine: of every launch the most promising
schedules are simulated, whole or by windows (`workloads.windows`), and the fastest is taken. Those that are cut alike,
so that an estimate does not tell them apart, are told by their first windows; others are simulated of the best only.
How much of a launch is simulated at most before windows stand for it, the fidelity says; by `estimate` nothing is: the
estimate is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from hwmodel.bounds import lower_bound
from hwmodel.engine import phase_times
from hwmodel.machine import Machine
from hwmodel.program import Program
from workloads import windows
from workloads.calls import Call, Launch, Variant
from workloads.kernels.tuning.roof import Roof
from workloads.traffic import phase_bytes
from workloads.window_lengths import LONG, SHORT, WHOLE, Lengths
from workloads.windows import STORES

SCHEDULES = 2  # of a launch that are simulated at most: the most promising
SIMULATED = ("nothing", "windows", "whole")
WINDOWS = "windows"
LENGTHS = {WINDOWS: SHORT, "auto": LONG, "exact": WHOLE}  # of windows, by fidelity
CLOSE = 1.2  # assumed: schedules whose estimate is more than so many times the least one are not simulated


@dataclass(frozen=True)
class Run:
    """One launch: the schedule taken, its time and its bound, how much was simulated, and what limits it.

    `simulated`: "whole", "windows" or "nothing".
    """

    name: str
    variant: Variant
    time_fs: float
    least_fs: float
    simulated: str
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
    def simulated(self) -> str:
        """How much was simulated of the launch of which least was."""
        return min((run.simulated for run in self.runs), key=SIMULATED.index)

    @property
    def knobs(self) -> str:
        """Kernel and changed knobs of every launch."""
        return "; ".join(f"{run.variant.kernel}({_knobs(run.variant.knobs)})" for run in self.runs)


def predict(call: Call, machine: Machine, schedules: int = SCHEDULES, fidelity: str = WINDOWS) -> Prediction:
    """Return the prediction of a call; `fidelity`: "estimate", or one of LENGTHS.

    Raises `NotModelled` where no schedule of a launch fits the machine.
    """
    if fidelity == "estimate":
        runs = tuple(estimated(launch, machine, call.graph) for launch in call.launches)
    else:
        runs = tuple(fastest(launch, machine, schedules, call.graph, LENGTHS[fidelity]) for launch in call.launches)
    gap = machine.spec.launch.graph or 0 if call.graph else 0
    return Prediction(runs, gap, gap + sum(run.least_fs for run in runs))


def estimated(launch: Launch, machine: Machine, replayed: bool = False) -> Run:
    """Return the most promising schedule of a launch by its estimate; `replayed` as in `Call.graph`.

    Of launches that have none, as passes over rows, the lower bound of their program is taken.
    """
    ((variant, program),) = launch.fitting(machine, 1)
    program, warm = again(program, machine, replayed)
    least, time, limited_by = least_fs(launch, machine, warm), variant.estimate_fs, _needs_most(launch, machine, warm)
    if not time:
        bound = lower_bound(program, machine)
        time, limited_by = bound.total_fs, bound.limited_by
    return Run(launch.name, variant, max(time, least), least, "nothing", limited_by)


def fastest(launch: Launch, machine: Machine, schedules: int, replayed: bool = False, lengths: Lengths = SHORT) -> Run:
    """Return the fastest of the most promising schedules of a launch; `replayed` as in `Call.graph`."""
    fitting = launch.fitting(machine, schedules)
    first, _ = fitting[0]
    alike: dict[float, list[Begun]] = {}
    for variant, program in fitting:
        if variant.estimate_fs <= CLOSE * first.estimate_fs:
            begun = Begun(launch, variant, program, machine, replayed, lengths)
            alike.setdefault(variant.estimate_fs, []).append(begun)
    return min((_best(those).run() for those in alike.values()), key=lambda run: run.time_fs)


def _best(alike: Sequence[Begun]) -> Begun:
    """Return which of some schedules that are cut alike promises most."""
    return min(alike, key=lambda begun: begun.promised_fs) if len(alike) > 1 else alike[0]


def least_fs(launch: Launch, machine: Machine, warm: bool = False) -> float:
    """Return what no schedule of a launch can be faster than; `warm`: its tensors lie in a shared cache."""
    roof = Roof(machine)
    work = roof.least_fs(launch.macs, launch.dtype, 0 if warm else launch.moved_bytes, launch.on_vector)
    return launch.launches * roof.launch_fs + work


def _needs_most(launch: Launch, machine: Machine, warm: bool) -> str:
    """Return what needs longest for a launch, by the names of bounds: its products, or where its bytes lie."""
    roof, memory = Roof(machine), "hbm" if machine.memory == "hbm" else "distributed sram"
    products_fs = roof.least_fs(launch.macs, launch.dtype, 0, launch.on_vector)
    if products_fs > launch.moved_bytes * (roof.shared_fs if warm else roof.memory_fs):
        return "vector" if launch.on_vector else "matrix"
    return "shared cache" if warm else memory


class Begun:
    """One schedule of a launch, simulated as far as it was asked for: window by window, or whole."""

    def __init__(
        self,
        launch: Launch,
        variant: Variant,
        program: Program,
        machine: Machine,
        replayed: bool = False,
        lengths: Lengths = SHORT,
    ) -> None:
        self._launch, self._variant, self._machine = launch, variant, machine
        program, self._warm = again(program, machine, replayed)
        self._plan = windows.plan(program, machine, lengths)
        self._parts: dict[windows.Which, Program] = {}
        self._found: dict[windows.Which, list[int]] = {}

    @property
    def promised_fs(self) -> float:
        """The time if all went on as in the first window: what those cut alike compare by."""
        first = self._plan.windows[0]
        return sum(fs / phase.kept for fs, phase in zip(self._times(first), self._plan.phases, strict=True))

    def run(self) -> Run:
        """Simulate what is left; the time is not below the bound, below which windows may fall."""
        found = {which: self._times(which) for which in self._plan.windows}
        longest = max(found, key=lambda which: sum(found[which]))
        bound, time_fs = lower_bound(self._parts[longest], self._machine), sum(found[longest])
        assert bound.total_fs <= time_fs, f"bound {bound} above makespan {time_fs} fs of {self._plan.program.name}"
        least, time = least_fs(self._launch, self._machine, self._warm), self._plan.time(found)
        is_whole = len(found) == 1
        assert least <= time or not is_whole, f"bound {least} above makespan {time} fs of {self._launch.name}"
        simulated = "whole" if is_whole else "windows"
        return Run(self._launch.name, self._variant, max(time, least), least, simulated, bound.limited_by)

    def _times(self, which: windows.Which) -> list[int]:
        """Return the times of the phases of a window, which is simulated once."""
        if which not in self._found:
            self._parts[which] = self._plan.window(which)
            self._found[which] = [phase.fs for phase in phase_times(self._parts[which], self._machine)]
        return self._found[which]


def again(program: Program, machine: Machine, graph: bool) -> tuple[Program, bool]:
    """Return a program as it is measured, run again and again, and whether it finds all of its tensors in the cache.

    It does in a graph over the same tensors, if they fit a shared cache. A program that stores much, and whose tensors
    do not fit, finds the cache full of what the time before has left there: none of it is read again in time, and what
    was stored must be written to main memory to make room.
    """
    cache = machine.spec.shared_cache
    if cache is None:
        return program, False
    if sum(tensor.size_bytes for tensor in program.tensors) <= cache.distinct_bytes:
        resident: Literal["hbm", "sram", "cache"] | None = "cache" if graph else None
    else:
        loaded, stored = np.sum([phase_bytes(program, phase).sum(axis=1) for phase in program.phases], axis=0)
        part = float(stored / (loaded + stored))
        resident = machine.memory if part > STORES else None
        program = replace(program, earlier_stores=part) if resident else program
    if resident is None:
        return program, False
    tensors = tuple(replace(tensor, resident=resident) for tensor in program.tensors)
    return replace(program, tensors=tensors), resident == "cache"


def _knobs(knobs: Any) -> str:
    changed = ((f.name, getattr(knobs, f.name), f.default) for f in fields(knobs))
    return ", ".join(f"{name}={value}" for name, value, default in changed if value != default)
