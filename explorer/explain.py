"""Why a run takes as long as it does: the same program on machines with one obstacle less, each really run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from explorer.progress import Progress, silent
from hwmodel.ideal import IDEALS, idealised
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.result import Result


@dataclass(frozen=True)
class Gain:
    """A rerun without one obstacle. `name`: of the idealisation; `time_us`: its makespan."""

    name: str
    title: str
    time_us: float


@dataclass(frozen=True)
class Explanation:
    """A run, and what it would gain: `gains` with the largest first. Times in microseconds."""

    result: Result
    gains: tuple[Gain, ...]

    @property
    def time_us(self) -> float:
        return self.result.time_us

    def record(self) -> dict[str, Any]:
        """Return the explanation as JSON-able values; `change` is relative, -0.1 is 10 % less time."""
        return {
            "time_us": self.time_us,
            "without": {
                gain.name: {"meaning": gain.title, "time_us": gain.time_us, "change": gain.time_us / self.time_us - 1}
                for gain in self.gains
            },
        }


def runs(machine: Machine) -> int:
    """Return how often `explain` runs a program on a machine."""
    return 1 + sum(ideal.applies(machine) for ideal in IDEALS.values())


def explain(
    program: Program, machine: Machine, run: Callable[[Program, Machine], Result], progress: Progress = silent
) -> Explanation:
    """Run a program on a machine and on each of its idealisations.

    A program compiled for the machine runs on all: they differ in times only, not in what fits.
    """
    ideals = [(name, ideal) for name, ideal in IDEALS.items() if ideal.applies(machine)]
    progress("reruns", 0, len(ideals) + 1)
    result = run(program, machine)
    gains = []
    for done, (name, ideal) in enumerate(ideals, start=1):
        progress("reruns", done, len(ideals) + 1)
        gains.append(Gain(name, ideal.title, run(program, idealised(machine, [name])).time_us))
    return Explanation(result, tuple(sorted(gains, key=lambda gain: (gain.time_us, gain.name))))
