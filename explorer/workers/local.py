"""Processes beside this one, each with a pipe of its own.

A thread deals the work out, one piece to a worker at a time, so that it is known what a worker that dies had: that
goes to another, and a worker is started in its place. Ctrl-C is the parent's alone, from a worker's first instruction
on, and workers end when the parent is gone, however it went. A new process first runs the script that it was started
from; a script that starts workers there, too, is ended with a line that says so.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from explorer.workers.answer import LOSSES, WorkerDied, named

_Answer = TypeVar("_Answer")

_BEGINNING, _NAME = "beginning rowhit worker", "rowhit worker"  # of a process, until it takes work and then
_UNGUARDED = 113  # a worker's exit status where the script starts workers as it is run again; assumed: no other ends so


@dataclass(eq=False)
class _Task:
    name: str
    work: bytes
    future: Future[Any]
    losses: int = 0


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection[Any, Any]
    task: _Task | None = None


class LocalExecutor(Executor):
    """An executor of up to `jobs` processes, started when there is work for them."""

    def __init__(self, jobs: int) -> None:
        if multiprocessing.current_process().name == _BEGINNING:
            raise SystemExit(_UNGUARDED)  # without a word: the parent says why
        self._jobs = jobs
        self._tasks: deque[_Task] = deque()
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()  # over the tasks, and whether more of them come
        self._open, self._stopped, self._ended = True, False, False
        self._failure: BaseException | None = None  # of the dealer, who answers nothing more
        self._hear, self._bell = os.pipe()
        os.set_blocking(self._bell, False)
        resource_tracker.ensure_running()  # its start would let Ctrl-C through to the thread
        self._dealer = threading.Thread(target=self._deal, name="dealer", daemon=True)
        self._dealer.start()

    def submit(self, fn: Callable[..., _Answer], /, *args: Any, **kwargs: Any) -> Future[_Answer]:
        task = _Task(named(fn, args), pickle.dumps((fn, args, kwargs)), Future())
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if not self._open:
                raise RuntimeError("work for workers that have ended")
            self._tasks.append(task)
        self._ring()
        return task.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; without `wait`, end the workers whatever they do."""
        with self._lock:
            self._open, self._stopped = False, self._stopped or not wait
            if cancel_futures:
                while self._tasks:
                    self._tasks.pop().future.cancel()
        self._ring()
        self._dealer.join()

    def _ring(self) -> None:
        with self._lock, suppress(BlockingIOError):  # it rings already
            if not self._ended:
                os.write(self._bell, b"!")

    def _deal(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what starts here never gets it
        try:
            self._deal_out()
        except BaseException as error:  # raised where answers are waited for
            self._fail(error)
        for worker in self._workers:
            self._end(worker)
        with self._lock:
            self._ended = True
            os.close(self._hear)
            os.close(self._bell)

    def _deal_out(self) -> None:
        while self._goes_on():
            self._give_work()
            for ready in wait([self._hear, *(worker.pipe for worker in self._workers)]):
                if ready == self._hear:
                    os.read(self._hear, 1 << 16)
                else:
                    self._take_answer(next(worker for worker in self._workers if worker.pipe is ready))

    def _fail(self, error: BaseException) -> None:
        """Answer all that was asked for with an error, and take no more."""
        with self._lock:
            self._open, self._stopped, self._failure = False, True, error
            asked = [*self._tasks, *(worker.task for worker in self._workers if worker.task is not None)]
            self._tasks.clear()
        for task in asked:
            if task.future.running() or task.future.set_running_or_notify_cancel():
                task.future.set_exception(error)

    def _goes_on(self) -> bool:
        with self._lock:
            return self._open or (not self._stopped and bool(self._tasks or any(w.task for w in self._workers)))

    def _give_work(self) -> None:
        """Give each idle worker, and each that may still be started, a task."""
        while sum(worker.task is not None for worker in self._workers) < self._jobs:
            with self._lock:
                if not self._tasks:
                    return
                task = self._tasks.popleft()
            if task.losses or task.future.set_running_or_notify_cancel():
                try:
                    worker = next((w for w in self._workers if w.task is None), None) or self._start()
                except Exception as error:
                    task.future.set_exception(error)
                    continue
                worker.task = task
                with suppress(OSError):  # it died meanwhile, which its pipe says next
                    worker.pipe.send_bytes(task.work)

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, name=_BEGINNING, args=(theirs,), daemon=True)
        process.start()
        theirs.close()  # so that the pipe ends with the worker
        self._workers.append(_Worker(process, ours))
        return self._workers[-1]

    def _take_answer(self, worker: _Worker) -> None:
        try:
            data = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            self._lose(worker)
            return
        task, worker.task = worker.task, None
        assert task is not None
        try:
            succeeded, answer = pickle.loads(data)  # of a process of ours
        except Exception as error:
            succeeded, answer = False, error
        task.future.set_result(answer) if succeeded else task.future.set_exception(answer)

    def _lose(self, worker: _Worker) -> None:
        """Give the task of a worker that died to another, unless it is the task that workers die of.

        Raises WorkerDied where every other worker would die, too.
        """
        self._end(worker)
        if worker.process.exitcode == _UNGUARDED:
            raise WorkerDied(
                "a worker process runs the script again as it begins, and the script starts workers there, too; put "
                'what starts them under `if __name__ == "__main__":`'
            ) from None
        self._workers.remove(worker)
        task = worker.task
        if task is None:
            return
        task.losses += 1
        if task.losses < LOSSES:
            with self._lock:
                self._tasks.appendleft(task)
        else:
            task.future.set_exception(
                WorkerDied(
                    f"{task.name}: {LOSSES} worker processes died at it, the last {_end_of(worker.process)}; run again "
                    "to continue, or leave it out"
                )
            )

    def _end(self, worker: _Worker) -> None:
        worker.pipe.close()  # which ends one that is idle
        if worker.task is not None or self._stopped:
            worker.process.terminate()
        worker.process.join()


def _end_of(process: SpawnProcess) -> str:
    code = process.exitcode or 0
    return f"by signal {-code} (9: out of memory?)" if code < 0 else f"with status {code}"


def _work(pipe: Connection[Any, Any]) -> None:
    """Answer one task after another, until nobody is there to ask."""
    multiprocessing.current_process().name = _NAME
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(100_000, 20, 20)  # a simulation makes many small objects and hardly any garbage cycles
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(_answer(pipe.recv_bytes()))


def _answer(work: bytes) -> bytes:
    try:
        function, arguments, named_arguments = pickle.loads(work)
        return pickle.dumps((True, function(*arguments, **named_arguments)))
    except Exception as error:
        error.add_note(traceback.format_exc())
        try:
            return pickle.dumps((False, error))
        except Exception:  # what it holds cannot go through a pipe
            return pickle.dumps((False, RuntimeError(traceback.format_exc())))


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
