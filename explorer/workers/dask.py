"""The workers of a Dask cluster, on as many computers as it has.

Only functions and values travel, and answers back. A worker first checks that it runs this version of the simulator
and has the same files that a query names: otherwise an answer would be another one. The work of a worker that dies is
given to another by the scheduler, and waits where none is left, which is said after a while; without the scheduler, the
search ends. Dask runs whatever it is sent, so a cluster belongs into a network of its own.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from explorer.extras import missing
from explorer.query import Query
from explorer.workers.address import check_address
from explorer.workers.answer import WorkerDied, named
from explorer.workers.sources import checked, sources

_Answer = TypeVar("_Answer")

_SECONDS = 30  # until a scheduler that does not answer, or has no worker, is given up; assumed
_LONELY = 30  # until it is said that all workers are gone; assumed
_LOOK = 5  # between two looks whether there are workers; assumed


class DaskExecutor(Executor):
    """An executor that asks the scheduler at `address`, such as tcp://host:8786, on behalf of `queries`."""

    def __init__(self, address: str, queries: Iterable[Query] = ()) -> None:
        check_address(address)
        try:
            from distributed import Client
        except ImportError:
            raise missing("--cluster", "Dask", "cluster") from None
        for name in ("distributed", "tornado.application"):  # their traces say less than the line that follows
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._where, self._sources = f"--cluster {address}", sources(queries)
        self._lock = threading.Lock()
        self._asked: dict[Any, Future[Any]] = {}
        self._client: Any
        try:
            self._client = Client(address, timeout=_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise ConnectionError(f"{self._where}: no scheduler answers: {_line(error)}") from None
        try:
            self._client.wait_for_workers(1, timeout=_SECONDS)
        except TimeoutError:
            self._client.close()
            raise ConnectionError(
                f"{self._where}: the scheduler has no worker, and none came within {_SECONDS} s"
            ) from None
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="watcher", daemon=True).start()

    def submit(self, fn: Callable[..., _Answer], /, *args: Any, **kwargs: Any) -> Future[_Answer]:
        answer: Future[_Answer] = Future()
        name = named(fn, args)
        asked: Any = self._client.submit(checked, self._sources, fn, args, kwargs, pure=False)
        with self._lock:
            self._asked[asked] = answer  # without a reference, Dask forgets it
        asked.add_done_callback(lambda asked: self._settle(asked, name))
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; without `wait`, whatever it does for us."""
        self._ended.set()
        with self._lock:
            asked = dict(self._asked)
        if cancel_futures or not wait:
            self._client.cancel([future for future in asked if not future.done()], force=True)
        self._client.close()

    def _watch(self) -> None:
        """Say in a line on stderr that work waits for workers, once until some come back."""
        seen, said = time.monotonic(), False
        while not self._ended.wait(_LOOK):
            if not self._is_lonely():
                seen, said = time.monotonic(), False
            elif not said and time.monotonic() - seen >= _LONELY:
                print(f"rowhit: {self._where}: no worker is left; going on when one comes back", file=sys.stderr)
                said = True

    def _is_lonely(self) -> bool:
        """Tell whether work waits and the scheduler has no worker."""
        with self._lock:
            if not self._asked:
                return False
        try:
            return not self._client.nthreads()
        except Exception:  # no scheduler, or no client any more: what waits is told by itself
            return False

    def _settle(self, asked: Any, name: str) -> None:
        """Hand the answer over, or say in a line what became of it."""
        with self._lock:
            answer = self._asked.pop(asked)
        if not answer.set_running_or_notify_cancel():
            return
        try:
            answer.set_result(asked.result())
        except Exception as error:
            answer.set_exception(self._failure(error, name))

    def _failure(self, error: Exception, name: str) -> Exception:
        from concurrent.futures import CancelledError

        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            return WorkerDied(f"{name}: every worker that was given it died; run again to continue, or leave it out")
        if isinstance(error, CancelledError):
            return ConnectionError(f"{self._where}: the scheduler is gone; run again to continue")
        if isinstance(error, ImportError) or "deserializ" in str(error):
            return ConnectionError(
                f"{self._where}: a worker cannot load rowhit; install this version there: {_line(error)}"
            )
        return error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
