from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tasks import die, fail, refuse

from explorer.query import Query
from explorer.workers import Refused, WorkerDied, attempt, workers
from explorer.workers.local import LocalExecutor

STARTS = "with workers(2) as executor: print(*executor.map(abs, range(-3, 0)))\n"


def interrupt_yourself(value: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return value + 1


def interrupts() -> tuple[bool, bool]:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(
        signal.SIGINT
    ) == signal.SIG_IGN


def nothing_that_travels(value: int) -> object:
    return threading.Lock()


def test_workers_leave_ctrl_c_to_the_parent() -> None:
    with workers(2) as executor:
        assert list(executor.map(interrupt_yourself, range(8))) == list(range(1, 9))
        assert executor.submit(interrupts).result() == (True, True)


def test_ctrl_c_while_a_worker_starts_ends_the_wait_and_all_workers() -> None:
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), workers(2) as executor:  # noqa: PT012
        future = executor.submit(time.sleep, 60)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        future.result()
    assert time.monotonic() - begun < 30


def test_workers_can_be_asked_from_any_thread() -> None:
    answers = []
    with workers(2) as executor:
        thread = threading.Thread(target=lambda: answers.extend(executor.map(abs, [-1, -2])))
        thread.start()
        thread.join()
    assert answers == [1, 2]


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_query_is_refused_for_is_its_answer_and_a_failure_is_raised(jobs: int) -> None:
    with workers(jobs) as executor:
        query = Query("nowhere", "fake")
        assert executor.submit(attempt, refuse, query).result() == Refused("fake cannot run")
        with pytest.raises(RuntimeError, match="the simulator failed at fake"):
            executor.submit(attempt, fail, query).result()
        assert executor.submit(abs, -1).result() == 1


def test_an_answer_that_cannot_travel_is_a_failure_of_its_task_alone() -> None:
    with workers(2) as executor:
        with pytest.raises(TypeError, match="pickle"):
            executor.submit(nothing_that_travels, 0).result()
        assert executor.submit(abs, -1).result() == 1


def test_work_of_a_worker_that_dies_is_given_to_another_and_answers_keep_their_order(tmp_path: Path) -> None:
    with workers(2) as executor:
        futures = [executor.submit(die, value % 3, tmp_path / "calls", value) for value in range(9)]
        assert [future.result() for future in futures] == list(range(1, 10))
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sorted(calls) == sorted(str(value) for value in range(9) for _ in range(value % 3 + 1))


def test_work_that_workers_die_of_is_named_in_a_line_and_the_rest_is_done(tmp_path: Path) -> None:
    with workers(2) as executor:
        deadly = executor.submit(die, 99, tmp_path / "calls", 7)
        others = [executor.submit(abs, -value) for value in range(6)]
        assert [future.result() for future in others] == list(range(6))
        with pytest.raises(WorkerDied, match=r"die\(99, .*, 7\): 3 worker processes died at it, .* signal 9") as caught:
            deadly.result()
    assert "\n" not in str(caught.value)
    assert (tmp_path / "calls").read_text().splitlines() == ["7"] * 3


def test_a_query_that_workers_die_of_is_named_by_its_settings() -> None:
    from explorer.workers.answer import named

    query = Query("nowhere", "fake").with_knob("tile", 64).with_knob("machine.hbm.stacks", 4)
    assert named(attempt, (refuse, query)) == "refuse(fake: tile=64, machine.hbm.stacks=4)"


def test_an_error_ends_what_is_running_and_drops_what_has_not_begun(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError), workers(2) as executor:  # noqa: PT012
        futures = [executor.submit(time.sleep, 60) for _ in range(5)]
        raise ZeroDivisionError
    assert time.monotonic() - begun < 30
    assert sum(future.cancelled() for future in futures) >= 3


def run_script(path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run a script until it and all that it started have ended, which its output has then, too."""
    path.write_text(f"from explorer.workers import workers\n{text}")
    folder = Path(__file__).resolve().parents[3]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, path], env=environment, cwd=path.parent, capture_output=True, text=True, timeout=60
    )


def test_a_script_that_starts_workers_as_it_is_imported_ends_with_a_line_that_says_where_to_put_them(
    tmp_path: Path,
) -> None:
    ended = run_script(tmp_path / "unguarded.py", STARTS)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[-1].endswith('put what starts them under `if __name__ == "__main__":`')
    assert ended.stderr.count("Traceback") == 1
    ended = run_script(tmp_path / "guarded.py", f'if __name__ == "__main__":\n    {STARTS}')
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "3 2 1\n", "")


def test_a_script_that_passes_over_errors_ends_too_when_it_starts_workers_as_it_is_imported(tmp_path: Path) -> None:
    ended = run_script(
        tmp_path / "careless.py", f"try:\n    {STARTS}except Exception as error:\n    print(error)\nprint('on')\n"
    )
    assert ended.returncode == 0
    assert [line[-12:] for line in ended.stdout.splitlines()] == ['"__main__":`', "on"]


def test_a_failure_where_work_is_dealt_answers_all_work_and_ends_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: LocalExecutor, worker: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(LocalExecutor, "_take_answer", fail)
    begun = time.monotonic()
    with workers(2) as executor:
        futures = [executor.submit(abs, -1), *(executor.submit(time.sleep, 60) for _ in range(3))]
        for future in futures:
            with pytest.raises(ZeroDivisionError):
                future.result(timeout=30)
        with pytest.raises(ZeroDivisionError):
            executor.submit(abs, -1)
    assert time.monotonic() - begun < 30


def test_any_failure_to_start_a_worker_is_the_answer_of_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: LocalExecutor) -> None:
        raise RuntimeError("no process")

    monkeypatch.setattr(LocalExecutor, "_start", fail)
    with workers(2) as executor:
        for future in [executor.submit(abs, -1) for _ in range(3)]:
            with pytest.raises(RuntimeError, match="no process"):
                future.result(timeout=30)
