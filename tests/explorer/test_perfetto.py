"""Traces are read back and checked against the rules of the Trace Event Format and of its importers.

Perfetto's own trace processor is not a dependency. What it needs of a JSON trace, and what is checked here: slices of a
thread that do not overlap in whole nanoseconds, flows whose ends stand right behind a slice of their thread, a start
before its end, numbers of threads that are no process's, and counters with numbers only.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter as Count
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from explorer import perfetto
from hwmodel import reference
from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Program
from hwmodel.recorder import Recorder, record
from hwmodel.result import Ledger, Result
from hwmodel.spec import load_machine
from hwmodel.timeline import Timeline
from workloads.kernels import decode_attention as attention
from workloads.kernels import gemm

Rowhit = Callable[..., CompletedProcess[str]]
Event = dict[str, Any]
PLENTY = 10**9
GEMM = ("timeline", "--machine", "npu-hbm3", "--kernel", "gemm", "--m", "64", "--n", "256", "--k", "128")


class Keeping(Recorder):
    """Keeps the accounts that the units have of their time."""

    def __init__(self, program: Program, machine: Machine) -> None:
        super().__init__(program, machine)
        self.kept: dict[tuple[int, int], Ledger] = {}

    def ledger(self, core: int, queue: int) -> Ledger:
        self.kept[core, queue] = super().ledger(core, queue)
        return self.kept[core, queue]


def program_of(machine: Machine) -> Program:
    if machine.spec.name == "h100-sxm":
        problem = attention.Problem(8, 2, 64, "bf16", (200, 37, 90))
        return attention.compile(problem, attention.Knobs(split_tokens=64), machine, 0)
    return gemm.compile(gemm.Problem(200, 500, 300, "bf16"), gemm.Knobs(tile_m=64), machine, 0)


def run_of(name: str) -> tuple[Result, Timeline]:
    machine = Machine(load_machine(name))
    return record(program_of(machine), machine)


@pytest.fixture(scope="module", params=["h100-sxm", "npu-hbm3"])
def run(request: pytest.FixtureRequest) -> tuple[Result, Timeline]:
    """A run of several phases with a shared cache, then one without either."""
    return run_of(request.param)


@pytest.fixture(scope="module")
def product() -> Timeline:
    return run_of("npu-hbm3")[1]


def whole(timeline: Timeline) -> tuple[int, int]:
    return 0, timeline.makespan_fs


def written(
    path: Path, timeline: Timeline, window: tuple[int, int] | None = None, most_bytes: int = PLENTY
) -> list[Event]:
    """Write a trace, read it back, and check what every trace must keep to."""
    about = perfetto.write(path, timeline, window or whole(timeline), most_bytes)
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    assert len(text) == about.size_bytes <= most_bytes
    trace = json.loads(text)
    assert next(iter(trace)) == "traceEvents"
    events: list[Event] = trace["traceEvents"]
    assert Count(event["ph"] for event in events) == about.events
    check(events)
    return events


def check(events: list[Event]) -> None:
    """Check the rules of the format, in the order in which an importer reads: by time, else as they stand."""
    processes = {event["pid"] for event in events}
    threads = defaultdict(set)
    for event in events:
        threads[event["tid"]].add(event["pid"])
    assert 0 not in processes
    assert all(len(pids) == 1 for pids in threads.values())
    assert not processes & threads.keys()
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    assert named == threads.keys()
    timed = [event for event in events if event["ph"] != "M"]
    assert all(one["ts"] <= other["ts"] for one, other in pairwise(timed))
    ends: dict[int, int] = {}  # of the last slice by thread, in ns
    latest: dict[int, Event] = {}
    started: dict[int, Event] = {}
    for event in timed:
        begin = round(event["ts"] * 1000)
        assert begin / 1000 == event["ts"]
        if event["ph"] == "X":
            assert begin >= ends.get(event["tid"], 0)
            ends[event["tid"]] = begin + round(event["dur"] * 1000)
            assert event["args"]["from_fs"] // 10**6 == begin
            assert event["args"]["to_fs"] // 10**6 == ends[event["tid"]]
            latest[event["tid"]] = event
        elif event["ph"] == "s":
            assert event["ts"] == latest[event["tid"]]["ts"]
            assert event["id"] not in started
            started[event["id"]] = latest[event["tid"]]
        elif event["ph"] == "f":
            assert (event["ts"], event["bp"]) == (latest[event["tid"]]["ts"], "e")
            source = started.pop(event["id"])
            assert source["args"]["done_fs"] <= latest[event["tid"]]["args"]["from_fs"]
        else:
            assert event["ph"] == "C"
            assert all(type(value) in (int, float) for value in event["args"].values())
    assert not started


def slices(events: list[Event]) -> list[Event]:
    return [event for event in events if event["ph"] == "X" and event["cat"] not in ("phase", "path")]


def units(events: list[Event]) -> dict[int, str]:
    return {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}


def busy_fs(events: list[Event]) -> Count[str]:
    found: Count[str] = Count()
    for event in slices(events):
        found[units(events)[event["tid"]]] += event["args"].get("busy_fs", 0)
    return found


def moved_bytes(events: list[Event], name: str) -> int:
    steps = [event for event in events if event["ph"] == "C" and event["name"] == name]
    return round(
        sum(one["args"]["value"] * round((other["ts"] - one["ts"]) * 1000) for one, other in pairwise(steps))
    )  # GB/s x ns


def test_what_is_read_back_is_the_useful_time_of_every_unit_and_the_bytes_moved(
    run: tuple[Result, Timeline], tmp_path: Path
) -> None:
    result, timeline = run
    events = written(tmp_path / "a.json", timeline)
    assert busy_fs(events) == {kind: result.stalls[kind]["useful"] for kind in QUEUES}
    waits = Count[str]()
    for event in slices(events):
        if event["cat"] == "wait":
            waits[event["args"]["cause"]] += event["args"]["to_fs"] - event["args"]["from_fs"]
    causes = {cause for kind in QUEUES for cause in result.stalls[kind]} - {"useful", "launch", "no work"}
    assert waits == {cause: sum(result.stalls[kind].get(cause, 0) for kind in QUEUES) for cause in causes}
    assert moved_bytes(events, "HBM GB/s") == result.hbm_read_bytes + result.hbm_write_bytes
    assert moved_bytes(events, "network GB/s") == result.levels["network"].asked
    assert sum(event["ph"] == "f" for event in events) == len(timeline.links)


@pytest.mark.parametrize("most_bytes", [PLENTY, 150_000])
@pytest.mark.parametrize("name", ["h100-sxm", "npu-hbm3"])
def test_the_busy_time_of_every_track_is_in_the_account_of_its_unit(name: str, most_bytes: int, tmp_path: Path) -> None:
    machine = Machine(load_machine(name))
    recorder = Keeping(program_of(machine), machine)
    timeline = recorder.finish(reference.simulate(program_of(machine), machine, observer=recorder))
    events = written(tmp_path / "a.json", timeline, most_bytes=most_bytes)
    cores = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    tracks = {
        event["tid"]: (cores[event["pid"]], event["args"]["name"]) for event in events if event["name"] == "thread_name"
    }
    found: Count[tuple[str, str]] = Count()
    for event in slices(events):
        found[tracks[event["tid"]]] += event["args"].get("busy_fs", 0)
    useful = {(f"core {c}", QUEUES[q]): ledger.causes.get("useful", 0) for (c, q), ledger in recorder.kept.items()}
    assert found == Count(useful)
    assert any(event["ph"] == "s" for event in events) == (most_bytes == PLENTY)


@pytest.mark.parametrize(
    ("name", "share"), [("h100-sxm", 0.8), ("h100-sxm", 0.4), ("npu-hbm3", 0.8), ("npu-hbm3", 0.3), ("npu-hbm3", 0.1)]
)
def test_a_smaller_trace_has_the_same_busy_time_and_bytes(tmp_path: Path, name: str, share: float) -> None:
    result, timeline = run_of(name)
    path = tmp_path / "a.json"
    full = written(path, timeline)
    most_bytes = int(path.stat().st_size * share)
    events = written(path, timeline, most_bytes=most_bytes)
    assert not any(event["ph"] in "sf" for event in events)
    assert path.stat().st_size <= most_bytes
    assert busy_fs(events) == busy_fs(full)
    waits = [sum(event["args"]["wait_fs"].values()) for event in slices(events) if "wait_fs" in event["args"]]
    if share < 0.5:
        assert len(slices(events)) < len(slices(full))
        assert sum(waits) == sum(
            event["args"]["to_fs"] - event["args"]["from_fs"] for event in slices(full) if event["cat"] == "wait"
        )
    assert moved_bytes(events, "HBM GB/s") == result.hbm_read_bytes + result.hbm_write_bytes


def test_a_trace_that_no_bins_make_small_enough_is_refused_with_the_least_size(
    product: Timeline, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"^--max-mb: 0.001 MB; allowed: at least 0\.\d+ MB for this run$") as error:
        written(tmp_path / "a.json", product, most_bytes=1000)
    assert list(tmp_path.iterdir()) == []
    least = float(str(error.value).split("at least ")[1].split(" MB")[0])
    written(tmp_path / "a.json", product, most_bytes=round(least * 1e6) + 1000)


def test_a_trace_has_flows_and_the_path_where_there_is_room_for_them(product: Timeline, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert written(path, product) == written(path, product, most_bytes=path.stat().st_size)
    fewer = written(path, product, most_bytes=path.stat().st_size - 1)
    full = written(path, product)
    (path_tid,) = [tid for tid, name in units(full).items() if name == "critical path"]
    assert fewer == [event for event in full if event["ph"] not in "sf" and event["tid"] != path_tid]
    steps = [event["args"] for event in full if event["ph"] == "X" and event["tid"] == path_tid]
    assert [step["from_fs"] for step in steps] == [0, *(step["to_fs"] for step in steps[:-1])]
    assert steps[-1]["to_fs"] == product.makespan_fs


def test_a_window_shows_what_it_overlaps_and_counts_from_their_value_there(product: Timeline, tmp_path: Path) -> None:
    full = written(tmp_path / "a.json", product)
    middle = product.makespan_fs * 3 // 4
    window = middle, middle + product.makespan_fs // 10
    events = written(tmp_path / "b.json", product, window)
    shown = [event["args"] for event in events if event["ph"] == "X"]
    assert shown == [
        event["args"]
        for event in full
        if event["ph"] == "X" and event["args"]["from_fs"] < window[1] and event["args"]["to_fs"] > window[0]
    ]
    assert 0 < len(shown) < sum(event["ph"] == "X" for event in full)
    for steps in product.counts:
        points = list(zip(steps.times_fs, steps.values, strict=True))
        first = [0, *(value for time_fs, value in points if time_fs <= window[0])][-1]
        expected = [(window[0], first), *(point for point in points if window[0] < point[0] <= window[1])]
        pid = perfetto.RUN + 1 + steps.core
        found = [event for event in events if (event["pid"], event["name"]) == (pid, steps.name)]
        assert [(round(e["ts"] * 1000), e["args"]["value"]) for e in found] == [(t // 10**6, v) for t, v in expected]


def test_gz_is_the_same_text_and_equal_runs_give_equal_bytes(product: Timeline, tmp_path: Path) -> None:
    for name in ("a.json", "b.json", "a.json.gz", "c.json.gz"):
        perfetto.write(tmp_path / name, product if name[0] != "c" else run_of("npu-hbm3")[1], whole(product), PLENTY)
    a, b, compressed, again = ((tmp_path / n).read_bytes() for n in ("a.json", "b.json", "a.json.gz", "c.json.gz"))
    assert a == b == gzip.decompress(compressed)
    assert compressed == again
    assert len(compressed) < len(a) / 4


def test_bins_mean_what_was_there(product: Timeline, tmp_path: Path) -> None:
    """A count's integral stays, so that its mean over the run does."""
    path = tmp_path / "a.json"
    full = written(path, product)
    small = written(path, product, most_bytes=path.stat().st_size // 6)

    def integral(events: list[Event]) -> float:
        steps = [e for e in events if e["ph"] == "C" and e["name"] == "requests in flight"]
        return sum(one["args"]["value"] * (other["ts"] - one["ts"]) for one, other in pairwise(steps))

    assert len(small) < len(full)
    ends_ns = len([e for e in full if e["ph"] == "C" and e["name"] == "requests in flight"])
    assert abs(integral(small) - integral(full)) <= ends_ns * 48 * 16 / 1000  # every step is rounded to a nanosecond


def test_the_command_writes_a_trace_and_says_what_it_did(rowhit: Rowhit, tmp_path: Path) -> None:
    done = rowhit(*GEMM, "--out", "a.json.gz", "--from", "1", "--to", "1.5", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "gemm · m = 64 · n = 256 · k = 128 · npu-hbm3"
    assert lines[2].startswith("simulated by the reference, whose times are the engine's; 1 to 1.5 of 1.6")
    assert lines[4] == "shown: everything"
    check(json.loads(gzip.decompress((tmp_path / "a.json.gz").read_bytes()))["traceEvents"])
    done = rowhit(*GEMM, "--out", "a.json", "--max-mb", "0.02", cwd=tmp_path)
    assert "\nshown: to stay below 0.02 MB: no flows" in done.stdout
    assert (tmp_path / "a.json").stat().st_size <= 20_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.json.gz"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "a.json", "--pictures", "/dev/null"), "--pictures: /dev/null: /dev/null is no folder; allowed: "),
        (("--out", "no/a.json"), "--out: no/a.json: allowed: a file in a folder that is there"),
        (("--out", "a.json", "--max-mb", "0"), "--max-mb: 0; allowed: above 0"),
        (("--out", "a.json", "--max-mb", "nan"), "--max-mb: nan; allowed: above 0"),
        (("--out", "a.json", "--from", "1", "--to", "0.5"), "--from 1 --to 0.5: allowed: a window that ends after it"),
        (("--out", "a.json", "--from", "1", "--to", "1"), "--from 1 --to 1: allowed: a window that ends after it"),
        (("--out", "a.json", "--from", "5", "--to", "6"), "--from 5 --to 6: allowed: a window that begins before the"),
        (("--out", "a.json", "--from", "5"), "--from 5: allowed: a window that begins before the run's end, 1.68"),
        (("--out", "a.json", "--max-mb", "0.001"), "--max-mb: 0.001 MB; allowed: at least 0.0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    rowhit: Rowhit, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = rowhit(*GEMM, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"rowhit: {message}")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
