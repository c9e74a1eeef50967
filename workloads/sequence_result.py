"""What a call takes: the time of every step and of all of them, and a table for people.

The runs of a step are one program at the same addresses, so one of them is simulated. Each begins on an idle machine
whose memory is at rest, as after the one before has drained; what an earlier step has left in a shared cache is what
the tensors of its template say that resides there. Every phase of a step pays the machine's launch; `call_fs` is what a
call pays once before its first step, such as the launch of a graph.

Not modelled: kernels that begin while the one before still runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from hwmodel.engine import simulate
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.result import Result
from hwmodel.units import FS_PER_US
from workloads.sequence import Call

Apply: TypeAlias = Callable[[Callable[[Program], Result], Sequence[Program]], Iterable[Result]]


@dataclass(frozen=True)
class Line:
    """A step of a call: how many runs it has, and the result of one."""

    name: str
    kernel: str
    count: int
    launch_fs: int  # of one run, part of its time
    result: Result

    @property
    def total_fs(self) -> int:
        return self.count * self.result.makespan_fs

    @property
    def moved_bytes(self) -> int:
        """What main memory moves in one run, in whole bursts."""
        levels = self.result.levels
        return (levels.get("hbm") or levels["distributed sram"]).asked


@dataclass(frozen=True)
class CallResult:
    """Lines in the order of the steps."""

    lines: tuple[Line, ...]
    call_fs: int

    @property
    def total_fs(self) -> int:
        return self.call_fs + sum(line.total_fs for line in self.lines)

    @property
    def launch_fs(self) -> int:
        """What of the total is launches, of kernels and of the call."""
        return self.call_fs + sum(line.count * line.launch_fs for line in self.lines)

    @property
    def moved_bytes(self) -> int:
        return sum(line.count * line.moved_bytes for line in self.lines)

    def text(self) -> str:
        """Return the table, a line per step, and the total."""
        rows = [("step", "kernel", "runs", "us each", "bound us", "us", "share", "bytes", "limited by")]
        for line in self.lines:
            each, total = line.result.time_us, line.total_fs / FS_PER_US
            share = f"{100 * line.total_fs / self.total_fs:.1f} %"
            moved, limit = f"{line.count * line.moved_bytes:,}", line.result.bound.limited_by
            bound = f"{line.result.bound.total_fs / FS_PER_US:.2f}"
            numbers = (str(line.count), f"{each:.2f}", bound, f"{total:.2f}", share, moved)
            rows.append((line.name, line.kernel, *numbers, limit))
        if self.call_fs:
            share = f"{100 * self.call_fs / self.total_fs:.1f} %"
            rows.append(("launch of the call", "", "1", "", "", f"{self.call_fs / FS_PER_US:.2f}", share, "", ""))
        runs = str(sum(line.count for line in self.lines))
        bound_fs = self.call_fs + sum(line.count * line.result.bound.total_fs for line in self.lines)
        whole = (f"{bound_fs / FS_PER_US:.2f}", f"{self.total_fs / FS_PER_US:.2f}", "", f"{self.moved_bytes:,}")
        rows.append(("total", "", runs, "", *whole, ""))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join("   ".join(map(_cell, range(len(row)), row, widths)).rstrip() for row in rows)


def _cell(column: int, text: str, width: int) -> str:
    return text.rjust(width) if 2 <= column <= 7 else text.ljust(width)


def simulate_call(
    call: Call,
    machine: Machine,
    call_fs: int = 0,
    run: Callable[[Program, Machine], Result] = simulate,
    apply: Apply = map,
    *,
    every_run: bool = False,
) -> CallResult:
    """Return what the call takes on the machine: of every step one run is simulated by `run`, or with `every_run` all.

    `apply(function, programs)` returns what the function returns of each, in their order, as `map` does. Raises
    AssertionError where two runs of a step differ, which they never do.
    """
    counts = [step.count if every_run else 1 for step in call.steps]
    runs = [step.program for step, count in zip(call.steps, counts, strict=True) for _ in range(count)]
    found = iter(apply(lambda program: run(program, machine), runs))
    launch_fs = machine.spec.launch.latency
    lines = [
        Line(step.name, step.kernel, step.count, len(step.program.phases) * launch_fs, _one_of(islice(found, count)))
        for step, count in zip(call.steps, counts, strict=True)
    ]
    return CallResult(tuple(lines), call_fs)


def _one_of(results: Iterable[Result]) -> Result:
    first, *others = results
    for other in others:
        assert other.metrics() == first.metrics(), f"runs of {first.program} differ"
    return first
