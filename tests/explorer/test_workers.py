from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

import pytest

from explorer.workers import workers


def interrupt_yourself(value: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return value + 1


def test_workers_leave_ctrl_c_to_the_parent() -> None:
    with workers(2) as executor:
        assert list(executor.map(interrupt_yourself, range(8))) == list(range(1, 9))


def test_ctrl_c_while_a_worker_starts_is_raised_when_it_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = ProcessPoolExecutor.submit
    reached = []

    def interrupted(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        future = submit(*arguments)  # type: ignore[arg-type]
        reached.append(future)
        return future

    monkeypatch.setattr(ProcessPoolExecutor, "submit", interrupted)
    before = signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(KeyboardInterrupt), workers(2) as executor:
        executor.submit(abs, -1)
    assert len(reached) == 1
    assert (signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, ())) == before


def test_workers_can_be_asked_from_any_thread() -> None:
    answers = []
    with workers(2) as executor:
        thread = threading.Thread(target=lambda: answers.extend(executor.map(abs, [-1, -2])))
        thread.start()
        thread.join()
    assert answers == [1, 2]
