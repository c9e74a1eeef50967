from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from explorer.workers.threads import beside

INTERRUPTED = """
import time
from explorer.workers.threads import beside
beside(lambda seconds: (print("begun", flush=True), time.sleep(seconds)), [60, 60, 60], weight=float)
"""


def test_results_come_in_the_order_of_the_items_and_the_heaviest_are_run_first() -> None:
    begun: list[int] = []

    def run(item: int) -> str:
        begun.append(item)
        return str(item)

    assert beside(run, [3, 1, 2], weight=float, threads=1) == ["3", "1", "2"]
    assert begun == [3, 2, 1]
    assert beside(run, [], weight=float) == []


def test_as_many_are_run_at_a_time_as_there_are_threads() -> None:
    all_here = threading.Barrier(3, timeout=10)  # nobody goes on before three have come
    assert sorted(beside(lambda _: all_here.wait(), range(3), weight=float, threads=3)) == [0, 1, 2]


def test_the_first_error_in_the_order_of_the_items_is_raised_after_all_have_ended() -> None:
    ended: list[int] = []

    def run(item: int) -> None:
        ended.append(item)
        if item != 2:
            raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 1"):
        beside(run, [1, 2, 3], weight=float, threads=2)
    assert sorted(ended) == [1, 2, 3]


def test_progress_counts_what_has_ended() -> None:
    told: list[int] = []
    beside(abs, [1, 2, 3], weight=float, progress=told.append)
    assert told == [0, 1, 2]


def test_who_is_interrupted_waits_for_nobody() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in errors
