"""Simulations beside each other in this process: compiled code of the engine holds no lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

NAME = "simulation"  # of every such thread

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(
    function: Callable[[T], R],
    items: Sequence[T],
    weight: Callable[[T], float],
    threads: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[R]:
    """Return `function` of every item, in their order; as many at a time as there are cores, the heaviest first.

    `progress` is told how many have ended. Raises the error of the first item that has one, when those before it have
    ended. Who is interrupted waits for nobody.
    """
    waiting = deque(sorted(range(len(items)), key=lambda number: -weight(items[number])))
    ended: SimpleQueue[tuple[int, R | None, BaseException | None]] = SimpleQueue()
    failed = [len(items)]  # the first item that has an error, so far

    def work() -> None:
        while True:
            try:
                number = waiting.popleft()
            except IndexError:
                return
            try:
                ended.put((number, function(items[number]) if number < failed[0] else None, None))
            except BaseException as error:  # raised where all are waited for
                failed[0] = min(failed[0], number)
                ended.put((number, None, error))

    count = min(len(items), threads or _cores())
    found, workers = [], [Thread(target=work, name=NAME, daemon=True) for _ in range(count)]
    try:
        for worker in workers:
            worker.start()
        for done in range(len(items)):
            progress(done)
            found.append(ended.get())
    except BaseException:
        waiting.clear()
        raise
    for worker in workers:  # which have nothing left to do
        worker.join()
    found.sort(key=lambda entry: entry[0])
    for _, _, error in found:
        if error is not None:
            raise error
    return [value for _, value, _ in found]  # type: ignore[misc]


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
