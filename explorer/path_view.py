"""The critical path of a run as a table: what the chain that sets its makespan consists of.

Steps of one phase, unit, cause and instruction are a line; lines stand in the order of their first steps, and their
times add up to that of the run exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from explorer.tables import align, percent
from hwmodel.critical_path import IN_MEMORY, LAUNCH, WRITE_BACK, Step, critical_path
from hwmodel.program import QUEUES
from hwmodel.timeline import PhaseSpan, Timeline
from hwmodel.units import FS_PER_US

_OF_NO_UNIT = {LAUNCH: "launch", WRITE_BACK: "the cache writes back"}


@dataclass(frozen=True)
class PathLine:
    """Steps that are alike: `unit` is empty for launches and write-backs; `longest_fs` the longest of `steps` steps."""

    phase: str
    unit: str
    what: str
    steps: int
    time_fs: int
    longest_fs: int

    def record(self) -> Mapping[str, Any]:
        """Return the line as JSON-able values."""
        return {
            "phase": self.phase,
            "unit": self.unit,
            "what": self.what,
            "steps": self.steps,
            "time_us": self.time_fs / FS_PER_US,
            "longest_us": self.longest_fs / FS_PER_US,
        }


def path_lines(timeline: Timeline) -> list[PathLine]:
    """Return the lines of a run's critical path."""
    found: dict[tuple[str, str, str], list[int]] = {}
    phases = iter(timeline.phases)
    phase = next(phases)
    for step in critical_path(timeline):
        while step.to_fs > phase.to_fs:
            phase = next(phases)
        found.setdefault(_alike(timeline, phase, step), []).append(step.to_fs - step.from_fs)
    return [PathLine(*alike, len(times), sum(times), max(times)) for alike, times in found.items()]


def path_text(timeline: Timeline) -> str:
    """Return the table of a run's critical path, and what its lines are shares of."""
    rows = [("  phase", "unit", "what", "steps", "us", "longest", "share", "")]
    rows += [
        (
            f"  {line.phase}",
            line.unit,
            line.what,
            str(line.steps),
            f"{line.time_fs / FS_PER_US:.3f}",
            f"{line.longest_fs / FS_PER_US:.3f}",
            percent(line.time_fs / timeline.makespan_fs),
            "",
        )
        for line in path_lines(timeline)
    ]
    return "critical path: what followed one another without a gap, us\n" + align(rows, left=3)


def _alike(timeline: Timeline, phase: PhaseSpan, step: Step) -> tuple[str, str, str]:
    if step.execution < 0:
        return phase.name, "", _OF_NO_UNIT[step.cause]
    name, unit = timeline.executions[step.execution].name, QUEUES[step.queue]
    if step.cause == IN_MEMORY:
        return phase.name, unit, f"{name}: its request is in memory"
    return phase.name, unit, name if step.cause == "useful" else f"{name}: {step.cause}"
