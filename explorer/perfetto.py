"""A timeline as trace events that ui.perfetto.dev and chrome://tracing open, cut to a window and to a size.

A pure function from `hwmodel.timeline.Timeline` to events of the Trace Event Format, and their JSON: a process per core
with a thread per unit, `X` slices for what a unit did (category "busy") and what it waited for (category "wait"), a
pair of `s` and `f` events for each link, `C` events for counts, and a process for the run: its phases, its critical
path, and what all cores share. Events stand in order of time, a slice before the flows that begin or end in it. Viewers
keep whole nanoseconds, so that is what `ts` and `dur` have, both ends rounded down; `args` have the femtoseconds.

Too large a trace first loses its flows and the path; then the slices of a unit that begin in one bin become one, which
has the sum of their busy time and of their waits, and counts become their means over a bin.

Not shown: idle units (gaps), single requests and DRAM commands (`rowhit dram replay` draws those), links along counters
of free buffers, instructions that take no time, and blocks of a scratchpad that units compute; a load's slice is the
time its engine issues, and `done_fs` when the data is there.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from explorer.files import written_atomically
from hwmodel.critical_path import critical_path
from hwmodel.program import QUEUES
from hwmodel.timeline import USEFUL, Span, Steps, Timeline, round_fs
from hwmodel.units import FS_PER_US

FS_PER_NS = 10**6
_PHASES = 100_000  # the thread of the phases, before those of the units
_PATH = _PHASES + 1  # the thread of the critical path
RUN = 1  # the process of the run; core c is process RUN + 1 + c, as 0 is nobody's
MOST_MB = 100_000  # more is a slip of the unit
_EVENT_BYTES = 200  # about what a slice takes
_FINER = 8  # the first bins are so many times finer than events of that size would allow

Event = dict[str, Any]
Placed = tuple[int, list[Event]]  # events that stand together, and their femtosecond


@dataclass(frozen=True)
class Detail:
    """What a trace leaves out: flows and the critical path, and the slices within a bin; `bin_fs` 0 is without bins."""

    flows: bool = True
    bin_fs: int = 0

    def text(self, most: str) -> str:
        """Say it, `most` being the size that was allowed."""
        without = f"to stay below {most}: no flows and no critical path"
        if self.bin_fs:
            bins = f"{self.bin_fs // FS_PER_NS} ns"
            return f"{without}, slices that begin in the same {bins} are one, counts are means"
        return "everything" if self.flows else without


@dataclass(frozen=True)
class Written:
    """What was written: how many events of each kind, the bytes of the JSON text, and what it leaves out."""

    events: dict[str, int]
    size_bytes: int
    detail: Detail


def events(timeline: Timeline, window: tuple[int, int], detail: Detail) -> Iterator[Event]:
    """Yield the events of a trace of what overlaps the window of femtoseconds (from, to); see the module."""
    placed = [*_phases(timeline, window), *_slices(timeline, window, detail), *_counts(timeline, window, detail)]
    placed += _path(timeline, window) if detail.flows else ()
    placed.sort(key=lambda each: each[0])
    yield from _names(timeline)
    if detail.flows:
        yield {"ph": "M", "name": "thread_name", "pid": RUN, "tid": _PATH, "args": {"name": "critical path"}}
    for _, together in placed:
        yield from together


def _lines(shown: Iterator[Event], about: Event) -> Iterator[bytes]:
    """Yield the JSON text of a trace, an event per line."""
    before = '{"traceEvents":['
    for event in shown:
        yield f"{before}{json.dumps(event, separators=(',', ':'))}\n".encode()
        before = ","
    yield f'],"displayTimeUnit":"ns","otherData":{json.dumps(about)}}}\n'.encode()


def _about(timeline: Timeline, window: tuple[int, int], detail: Detail) -> Event:
    return {
        "program": timeline.program,
        "machine": timeline.machine,
        "program_hash": timeline.program_hash,
        "machine_hash": timeline.machine_hash,
        "makespan_fs": timeline.makespan_fs,
        "window_fs": window,
        "flows": detail.flows,
        "bin_fs": detail.bin_fs,
    }


def write(path: Path, timeline: Timeline, window: tuple[int, int], most_bytes: int) -> Written:
    """Write a trace whose JSON is at most `most_bytes` long, whole or not at all; gzipped where `path` ends in .gz.

    Raises ValueError where not even one slice per unit would fit.
    """
    detail = fitting(timeline, window, most_bytes)
    counts: dict[str, int] = defaultdict(int)

    def counted() -> Iterator[Event]:
        for event in events(timeline, window, detail):
            counts[event["ph"]] += 1
            yield event

    size_bytes = 0
    with written_atomically(path) as file:
        out = gzip.GzipFile("", "wb", 6, file, mtime=0) if path.suffix == ".gz" else file
        for line in _lines(counted(), _about(timeline, window, detail)):
            size_bytes += out.write(line)
        if out is not file:
            out.close()
    return Written(dict(counts), size_bytes, detail)


def window_fs(timeline: Timeline, from_us: float, to_us: float | None) -> tuple[int, int]:
    """Return a window of microseconds in femtoseconds; ValueError where it is empty, or begins after the run."""
    if to_us is not None and not from_us < to_us:
        raise ValueError(f"--from {from_us:g} --to {to_us:g}: allowed: a window that ends after it begins")
    end_us = timeline.makespan_fs / FS_PER_US
    until_us = end_us if to_us is None else min(end_us, to_us)
    if not from_us < until_us:
        asked = f"--from {from_us:g}" + ("" if to_us is None else f" --to {to_us:g}")
        raise ValueError(f"{asked}: allowed: a window that begins before the run's end, {end_us:g} us")
    return round(from_us * FS_PER_US), timeline.makespan_fs if until_us == end_us else round(until_us * FS_PER_US)


def text(path: Path, timeline: Timeline, window: tuple[int, int], written: Written, max_mb: float) -> str:
    """Say what was written, in a few lines."""
    named = {"X": "slices", "s": "flows", "C": "values of counters"}
    events = ", ".join(f"{written.events.get(kind, 0):,} {name}" for kind, name in named.items())
    shown = f"{window[0] / FS_PER_US:g} to {window[1] / FS_PER_US:g} of {timeline.makespan_fs / FS_PER_US:g} us"
    return "\n".join(
        [
            f"simulated by the reference, whose times are the engine's; {shown}",
            f"{path}: {written.size_bytes / 1e6:.3g} MB of JSON: {events}",
            f"shown: {written.detail.text(f'{max_mb:g} MB')}",
            "open it in ui.perfetto.dev, which reads it in the browser",
        ]
    )


def fitting(timeline: Timeline, window: tuple[int, int], most_bytes: int) -> Detail:
    """Return the most detail that `most_bytes` have room for; ValueError where there is none."""
    from_fs, to_fs = window
    units = len({(span.core, span.queue) for span in timeline.spans}) + len(timeline.counts)
    finest_fs = (to_fs - from_fs) * _EVENT_BYTES * max(1, units) // (_FINER * most_bytes)
    for detail in (Detail(), Detail(False), *_coarser(finest_fs, timeline.makespan_fs)):
        if _size_bytes(timeline, window, detail, most_bytes) <= most_bytes:
            return detail
    least = _size_bytes(timeline, window, detail, MOST_MB * 1_000_000) / 1e6
    raise ValueError(f"--max-mb: {most_bytes / 1e6:g} MB; allowed: at least {least:.3f} MB for this run")


def _size_bytes(timeline: Timeline, window: tuple[int, int], detail: Detail, most_bytes: int) -> int:
    """Return the size of a trace, or one above `most_bytes`."""
    size_bytes = 0
    for line in _lines(events(timeline, window, detail), _about(timeline, window, detail)):
        size_bytes += len(line)
        if size_bytes > most_bytes:
            break
    return size_bytes


def _coarser(finest_fs: int, makespan_fs: int) -> Iterator[Detail]:
    """Yield details with bins that grow until one holds the run."""
    bin_fs = round_fs(finest_fs)
    while True:
        yield Detail(False, bin_fs)
        if bin_fs > makespan_fs:
            return
        bin_fs = round_fs(bin_fs + 1)


def _us(time_fs: int) -> float:
    return time_fs // FS_PER_NS / 1000


def _pid(core: int) -> int:
    return RUN + 1 + core


def _tid(core: int, queue: int) -> int:
    """Return the number of a unit's thread, which is no other thread's and no process's."""
    return _PHASES + _pid(core) * len(QUEUES) + queue


def _names(timeline: Timeline) -> Iterator[Event]:
    def name(kind: str, pid: int, tid: int, text: str) -> Event:
        return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": text}}

    def order(kind: str, pid: int, tid: int, place: int) -> Event:
        return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"sort_index": place}}

    yield name("process_name", RUN, _PHASES, f"{timeline.program} on {timeline.machine}")
    yield order("process_sort_index", RUN, _PHASES, RUN)
    yield name("thread_name", RUN, _PHASES, "phases")
    units = sorted({(span.core, span.queue) for span in timeline.spans})
    for core, of_core in groupby(units, key=lambda unit: unit[0]):
        numbers = [queue for _, queue in of_core]
        first = _tid(core, numbers[0])
        yield name("process_name", _pid(core), first, f"core {core}")
        yield order("process_sort_index", _pid(core), first, _pid(core))
        for queue in numbers:
            yield name("thread_name", _pid(core), _tid(core, queue), QUEUES[queue])
            yield order("thread_sort_index", _pid(core), _tid(core, queue), queue)


def _slice(pid: int, tid: int, from_fs: int, to_fs: int, name: str, category: str, args: Event) -> Event:
    begin = _us(from_fs)
    duration = (to_fs // FS_PER_NS - from_fs // FS_PER_NS) / 1000
    known = {"ph": "X", "pid": pid, "tid": tid, "ts": begin, "dur": duration, "name": name, "cat": category}
    return known | {"args": {"from_fs": from_fs, "to_fs": to_fs} | args}


def _phases(timeline: Timeline, window: tuple[int, int]) -> Iterator[Placed]:
    for phase in timeline.phases:
        for name, from_fs, to_fs in (
            ("launch", phase.from_fs, phase.launched_fs),
            (phase.name, phase.launched_fs, phase.to_fs),
        ):
            if from_fs < to_fs and _overlaps(from_fs, to_fs, window):
                yield from_fs, [_slice(RUN, _PHASES, from_fs, to_fs, name, "phase", {})]


def _path(timeline: Timeline, window: tuple[int, int]) -> Iterator[Placed]:
    for step in critical_path(timeline):
        if _overlaps(step.from_fs, step.to_fs, window):
            unit = f"core {step.core} {QUEUES[step.queue]}" if step.execution >= 0 else ""
            name = timeline.executions[step.execution].name if step.execution >= 0 else step.cause
            args = {"unit": unit, "cause": step.cause}
            yield step.from_fs, [_slice(RUN, _PATH, step.from_fs, step.to_fs, f"{unit} {name}".strip(), "path", args)]


def _overlaps(from_fs: int, to_fs: int, window: tuple[int, int]) -> bool:
    return from_fs < window[1] and to_fs > window[0]


def _slices(timeline: Timeline, window: tuple[int, int], detail: Detail) -> Iterator[Placed]:
    shown = [span for span in timeline.spans if _overlaps(span.from_fs, span.to_fs, window)]
    if detail.bin_fs:
        for _, spans in groupby(shown, key=lambda span: (span.core, span.queue, span.from_fs // detail.bin_fs)):
            together = list(spans)
            yield together[0].from_fs, [_merged(together)]
        return
    flows = _flows(timeline, shown) if detail.flows else {}
    for place, span in enumerate(shown):
        yield span.from_fs, [_span(timeline, span), *flows.get(place, ())]


def _span(timeline: Timeline, span: Span) -> Event:
    where = _pid(span.core), _tid(span.core, span.queue), span.from_fs, span.to_fs
    if span.cause != USEFUL:
        return _slice(*where, f"wait: {span.cause}", "wait", {"cause": span.cause})
    execution = timeline.executions[span.execution]
    args = {"blocks": " ".join(execution.blocks), "of": execution.of, "done_fs": execution.done_fs}
    return _slice(*where, execution.name, "busy", args | {"busy_fs": span.to_fs - span.from_fs})


def _merged(spans: list[Span]) -> Event:
    """Return the slices of a bin as one: busy where any of them is, with the time of each cause."""
    causes: dict[str, int] = defaultdict(int)
    for span in spans:
        causes[span.cause] += span.to_fs - span.from_fs
    busy_fs = causes.pop(USEFUL, 0)
    from_fs, to_fs = spans[0].from_fs, spans[-1].to_fs
    where = _pid(spans[0].core), _tid(spans[0].core, spans[0].queue), from_fs, to_fs
    args = {"slices": len(spans), "busy_fs": busy_fs} | ({"wait_fs": causes} if causes else {})
    name = f"busy {100 * busy_fs // (to_fs - from_fs)} %" if busy_fs else f"wait: {max(causes, key=causes.__getitem__)}"
    return _slice(*where, name, "busy" if busy_fs else "wait", args)


def _flows(timeline: Timeline, shown: list[Span]) -> dict[int, list[Event]]:
    """Return the ends of the links by slice: from the last useful one of an instruction to the first of another."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for place, span in enumerate(shown):
        if span.cause == USEFUL:
            first.setdefault(span.execution, place)
            last[span.execution] = place
    found: dict[int, list[Event]] = defaultdict(list)
    for number, (source, target) in enumerate(timeline.links, start=1):
        if source in last and target in first:
            found[last[source]].append(_end("s", number, shown[last[source]]))
            found[first[target]].append(_end("f", number, shown[first[target]]))
    return found


def _end(kind: str, number: int, span: Span) -> Event:
    where = {"pid": _pid(span.core), "tid": _tid(span.core, span.queue), "ts": _us(span.from_fs)}
    event = {"ph": kind, "id": number, "name": "data", "cat": "flow"} | where
    return event | ({"bp": "e"} if kind == "f" else {})  # in the slice around it, not the next one


def _counts(timeline: Timeline, window: tuple[int, int], detail: Detail) -> Iterator[Placed]:
    end_fs = timeline.makespan_fs
    if window[1] == end_fs:  # a bin may end after the run
        window = window[0], 2 * end_fs
    threads = {span.core: _tid(span.core, span.queue) for span in reversed(timeline.spans)}
    for steps in timeline.counts:
        pid, tid = (RUN, _PHASES) if steps.core < 0 else (_pid(steps.core), threads[steps.core])
        points: Iterable[tuple[int, float]] = zip(steps.times_fs, steps.values, strict=True)
        if detail.bin_fs and steps.times_fs:
            points = _means(steps, detail.bin_fs)
        for time_fs, value in _inside(points, window):
            where = {"ph": "C", "pid": pid, "tid": tid, "ts": _us(time_fs), "name": steps.name}
            yield time_fs, [where | {"args": {"value": value}}]


def _inside(points: Iterable[tuple[int, float]], window: tuple[int, int]) -> Iterator[tuple[int, float]]:
    """Yield the steps within a window, and first the value with which it begins."""
    value: float = 0
    pending = True
    for time_fs, after in points:
        if time_fs > window[0] and pending:
            pending = False
            yield window[0], value
        if time_fs > window[0] and time_fs <= window[1]:
            yield time_fs, after
        value = after
    if pending:
        yield window[0], value


def _means(steps: Steps, bin_fs: int) -> Iterator[tuple[int, float]]:
    """Yield the mean of a count, whose last value is 0, in every bin where it differs from the bin before."""
    sums: dict[int, float] = defaultdict(float)
    for from_fs, to_fs, value in zip(steps.times_fs, steps.times_fs[1:], steps.values, strict=False):
        while value and from_fs < to_fs:
            number = from_fs // bin_fs
            until_fs = min(to_fs, (number + 1) * bin_fs)
            sums[number] += value * (until_fs - from_fs)
            from_fs = until_fs
    before = 0.0
    for number in sorted({*sums, *(number + 1 for number in sums)}):
        mean = sums.get(number, 0) / bin_fs
        if mean != before:
            yield number * bin_fs, mean
        before = mean
