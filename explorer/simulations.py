"""The simulations of a search: each query once, wherever the answer comes from.

It stands between `search` and an executor, of which only `submit` is used. An answer comes from the memo of earlier
runs, from a simulation of the same key that is under way, or from a worker. Which of them it is changes no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Protocol

from explorer.evaluate import Outcome
from explorer.query import Query
from explorer.workers import Refused, attempt

Answer = Outcome | Refused


class Outcomes(Protocol):
    """Outcomes of simulations by the key of their query."""

    def recall(self, key: str) -> Outcome | None:
        """Return the outcome of a query that was simulated before, None where there is none."""

    def keep(self, key: str, outcome: Outcome) -> None:
        """Keep the outcome of a query."""


class Forgetful:
    """A memo that keeps nothing."""

    def recall(self, key: str) -> Outcome | None:
        return None

    def keep(self, key: str, outcome: Outcome) -> None:
        pass


class Simulations:
    """Simulates by `simulate` in `executor`; what is under way is shared by all who ask for it."""

    def __init__(self, simulate: Callable[[Query], Outcome], executor: Executor, memo: Outcomes) -> None:
        self._simulate, self._executor, self._memo = simulate, executor, memo
        self._known: dict[str, Answer] = {}
        self._running: dict[str, Future[Answer]] = {}
        self._asked: dict[str, int] = {}  # how many will still take the answer

    def start(self, key: str, query: Query) -> None:
        """Begin to find the answer to a query, which `answer` takes once for every start."""
        self._asked[key] = self._asked.get(key, 0) + 1
        if self._asked[key] > 1:
            return
        outcome = self._memo.recall(key)
        if outcome is not None:
            self._known[key] = outcome
        else:
            self._running[key] = self._executor.submit(attempt, self._simulate, query)

    def answer(self, key: str) -> Answer:
        """Return the answer to a query that was started, when it is there."""
        if key in self._running:
            answer = self._running.pop(key).result()
            self._known[key] = answer
            if isinstance(answer, Outcome):
                self._memo.keep(key, answer)
        answer = self._known[key]
        self._asked[key] -= 1
        if not self._asked[key]:
            del self._asked[key], self._known[key]
        return answer
