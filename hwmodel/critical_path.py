"""The chain that sets a run's makespan: which instructions, requests and launches followed one another without a gap.

From a `Timeline`, walked backwards from the end of each phase. What a unit does is on the path while it works; where it
waited for a counter, the path goes on with the instruction that raised it; where a DMA engine waited for a request, or
a tile was complete with one, with that request, and before it with the engine that issued it. The steps follow one
another and add up to the makespan exactly. Of several that end at one time the one that was released last is taken.

Not told apart: where in network, caches and banks a request spent its time, and which requests of other cores it waited
for there.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from typing import NamedTuple

from hwmodel.program import QUEUES
from hwmodel.timeline import USEFUL, PhaseSpan, Request, Span, Timeline

IN_MEMORY = "in memory"  # a request is on its way
LAUNCH = "launch"
WRITE_BACK = "write-back"  # what a phase drove out of a shared cache is on its way to memory
WAITS = ("memory", "buffer", "dependency")  # causes of spans that another unit's or a request's end has ended
COMPUTE = ("matrix", "vector")
NONE = -1


class Step(NamedTuple):
    """A part of the path. `cause`: of the unit's span, or one of those above; `execution` -1 for those of no unit.

    `core` and `queue` say whose it is, -1 for those of no unit.
    """

    core: int
    queue: int
    cause: str
    execution: int
    from_fs: int
    to_fs: int


def critical_path(timeline: Timeline) -> tuple[Step, ...]:
    """Return the path, in order of time. Its steps add up to `timeline.makespan_fs`."""
    walker = _Walker(timeline)
    steps: list[Step] = []
    for phase in timeline.phases:
        steps.append(Step(NONE, NONE, LAUNCH, NONE, phase.from_fs, phase.launched_fs))
        steps += reversed(walker.back(phase))
    return tuple(step for step in steps if step.to_fs > step.from_fs)


class _Walker:
    """Goes back from a time and a unit, by what is known of each: spans and requests by their ends, and releases."""

    def __init__(self, timeline: Timeline) -> None:
        self._executions = timeline.executions
        self._spans: dict[tuple[int, int], list[Span]] = defaultdict(list)
        for span in timeline.spans:
            self._spans[span.core, span.queue].append(span)
        self._ends = {unit: [span.to_fs for span in spans] for unit, spans in self._spans.items()}
        self._answered: dict[tuple[int, int, int], Request] = {}  # of several at a time the one that was complete last
        for request in timeline.requests:
            self._answered[request.core, request.queue, request.to_fs] = request
        self._releases: dict[int, list[int]] = defaultdict(list)
        for by, released in timeline.releases:
            self._releases[released].append(by)

    def back(self, phase: PhaseSpan) -> list[Step]:
        """Return the steps of a phase after its launch, the last first."""
        core, queue, now_fs = self._last(phase)
        steps = [Step(NONE, NONE, WRITE_BACK, NONE, now_fs, phase.to_fs)]
        while now_fs > phase.launched_fs:
            step, (core, queue) = self._before(core, queue, now_fs)
            steps.append(step)
            assert step.from_fs < now_fs or step.to_fs == now_fs
            now_fs = step.from_fs
        return steps

    def _last(self, phase: PhaseSpan) -> tuple[int, int, int]:
        """Return the unit whose work of a phase ends last, and when."""
        last = (NONE, NONE, phase.launched_fs)
        for unit, ends in self._ends.items():
            at = bisect_right(ends, phase.to_fs) - 1
            if at >= 0 and ends[at] > last[2]:
                last = (*unit, ends[at])
        return last

    def _before(self, core: int, queue: int, now_fs: int) -> tuple[Step, tuple[int, int]]:
        """Return what made a unit come as far as a time, and the unit with which the path goes on before it."""
        span = self._before_now(core, queue, now_fs)
        by = self._released(span) if span.cause in WAITS else NONE
        if by == NONE and (span.cause == USEFUL or QUEUES[queue] in COMPUTE):
            return Step(core, queue, span.cause, span.execution, span.from_fs, now_fs), (core, queue)
        if by == NONE:  # an engine waits for a request, and in the end for what the scratchpad delays it by
            return self._request(core, queue, now_fs)
        raiser = self._executions[by]
        if (raiser.core, raiser.queue, now_fs) in self._answered:
            return self._request(raiser.core, raiser.queue, now_fs)
        return self._before(raiser.core, raiser.queue, now_fs)

    def _before_now(self, core: int, queue: int, now_fs: int) -> Span:
        """Return the span in which a unit came as far as a time: an engine issues requests in the middle of one."""
        unit = core, queue
        return self._spans[unit][bisect_left(self._ends[unit], now_fs)]

    def _released(self, span: Span) -> int:
        """Return the execution whose counter ended a wait, or NONE where the unit did not wait for one."""
        found = [by for by in self._releases[span.execution] if self._executions[by].done_fs == span.to_fs]
        return max(found, default=NONE)

    def _request(self, core: int, queue: int, now_fs: int) -> tuple[Step, tuple[int, int]]:
        request = self._answered[core, queue, now_fs]
        return Step(core, queue, IN_MEMORY, request.execution, request.from_fs, now_fs), (core, queue)
