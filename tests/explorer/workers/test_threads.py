from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque

import pytest

from explorer.workers.threads import NAME, side_by_side

INTERRUPTED = """
import os, time
from explorer.workers.threads import side_by_side
side_by_side(lambda seconds: (os.write(1, b"begun\\n"), time.sleep(seconds)), [60, 60, 60], weight=float)
"""


def test_results_come_in_the_order_of_the_items_and_the_heaviest_are_run_first() -> None:
    begun: list[int] = []

    def run(item: int) -> str:
        begun.append(item)
        return str(item)

    assert side_by_side(run, [3, 1, 2], weight=float, threads=1) == ["3", "1", "2"]
    assert begun == [3, 2, 1]
    assert side_by_side(run, [], weight=float) == []


def test_as_many_are_run_at_a_time_as_there_are_threads() -> None:
    all_here = threading.Barrier(3, timeout=10)  # nobody goes on before three have come
    assert sorted(side_by_side(lambda _: all_here.wait(), range(3), weight=float, threads=3)) == [0, 1, 2]


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_the_first_error_in_the_order_of_the_items_is_raised_and_later_items_are_left_out(
    kind: type[BaseException],
) -> None:
    begun: list[int] = []

    def run(item: int) -> None:
        begun.append(item)
        if item in (2, 4):
            raise kind(f"item {item}")

    with pytest.raises(kind, match="item 2"):
        side_by_side(run, [1, 2, 3, 4], weight=lambda item: {4: 3, 2: 2}.get(item, 1), threads=1)
    assert begun == [4, 2, 1]


def test_progress_counts_what_has_ended() -> None:
    told: list[int] = []
    side_by_side(abs, [1, 2, 3], weight=float, progress=told.append)
    assert told == [0, 1, 2]


def test_no_thread_is_left_when_the_results_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(deque[int]):
        def popleft(self) -> int:
            if not self:
                time.sleep(0.1)  # a thread's last step, when all results may be there
            return super().popleft()

    monkeypatch.setattr("explorer.workers.threads.deque", Slow)
    assert side_by_side(abs, [-1, 2], weight=float, threads=2) == [1, 2]
    assert NAME not in {thread.name for thread in threading.enumerate()}


def test_who_is_interrupted_waits_for_nobody() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in errors
