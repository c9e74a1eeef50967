"""One worker: this process.

It works when an answer is taken, not before, so that what is kept after each answer is kept before the next is begun.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeVar

_Answer = TypeVar("_Answer")


class _Later(Future[_Answer]):
    def __init__(self, work: Callable[[], _Answer]) -> None:
        super().__init__()
        self._work = work

    def result(self, timeout: float | None = None) -> _Answer:
        self._do()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._do()
        return super().exception(timeout)

    def _do(self) -> None:
        if not self.done():
            try:
                self.set_result(self._work())
            except Exception as error:
                self.set_exception(error)


class SerialExecutor(Executor):
    """An executor whose futures are answered when their result is taken."""

    def submit(self, fn: Callable[..., _Answer], /, *args: Any, **kwargs: Any) -> Future[_Answer]:
        return _Later(partial(fn, *args, **kwargs))
