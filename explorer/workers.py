"""Where evaluations run: in this process, or in a pool of processes that do not outlive it.

The search hands over functions and values and takes answers back in the order asked, so that the number of
workers cannot change a result. Workers leave Ctrl-C to the parent from their first instruction on, and end when
the parent is gone, however it went.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any, TypeVar

from explorer.query import Query

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer for a query that cannot be run."""

    reason: str


def attempt(function: Callable[[Query], _Answer], query: Query) -> _Answer | Refused:
    """Return `function(query)`, or `Refused` with the reason when it raises ValueError."""
    try:
        return function(query)
    except ValueError as error:
        return Refused(" ".join(str(error).split()))


class SerialExecutor(Executor):
    """An executor of one worker: this process. `map` computes each answer when it is taken."""

    def submit(self, fn: Callable[..., _Answer], /, *args: Any, **kwargs: Any) -> Future[_Answer]:
        future: Future[_Answer] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def map(
        self, fn: Callable[..., _Answer], *iterables: Iterable[Any], timeout: float | None = None, **_: Any
    ) -> Iterator[_Answer]:
        return map(fn, *iterables)


@contextmanager
def _interrupt_held() -> Iterator[None]:
    """Hold Ctrl-C back inside the block and raise it after; a process started inside never gets it.

    A worker whose start is interrupted half-way, or that is itself interrupted before it can say what to do
    with a signal, would end with a traceback. Blocking alone is not enough for this process: a signal that
    another of its threads takes interrupts the main one all the same.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread is ever interrupted
        yield
        return
    interrupts: list[int] = []
    resource_tracker.ensure_running()  # its start would lift the block
    handler = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, handler)
    if interrupts:
        signal.raise_signal(signal.SIGINT)


class _Pool(ProcessPoolExecutor):
    """A pool of processes that starts them, one when there is work for it, out of the reach of Ctrl-C."""

    def submit(self, fn: Callable[..., _Answer], /, *args: Any, **kwargs: Any) -> Future[_Answer]:
        with _interrupt_held():
            return super().submit(fn, *args, **kwargs)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # also where another thread than the main one started it
    gc.set_threshold(100_000, 20, 20)  # a simulation makes many small objects and hardly any garbage cycles
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


@contextmanager
def workers(jobs: int) -> Iterator[Executor]:
    """Give an executor of `jobs` workers; work that has not begun is dropped when the block is left."""
    if jobs == 1:
        yield SerialExecutor()
        return
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = _Pool(jobs, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    except BrokenExecutor:
        raise ChildProcessError("a worker process died (out of memory?); run again to continue") from None
    except BaseException:  # an interruption among them: what is running is not waited for
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    pool.shutdown()
