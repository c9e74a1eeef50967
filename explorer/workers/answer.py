"""What a worker answers: a value, why a query cannot be run, or nothing, because it died."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from explorer.query import Query

_Answer = TypeVar("_Answer")

LOSSES = 3  # after so many workers that died of it, or at it, work is given to no further one; assumed


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer for a query that cannot be run."""

    reason: str


class WorkerDied(ChildProcessError):
    """The end of work that was lost with its worker again and again."""


def attempt(function: Callable[[Query], _Answer], query: Query) -> _Answer | Refused:
    """Return `function(query)`, or `Refused` with the reason when it raises ValueError."""
    try:
        return function(query)
    except ValueError as error:
        return Refused(" ".join(str(error).split()))


def named(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """Return in a line what a worker is asked for."""
    if isinstance(function, partial):
        return named(function.func, (*function.args, *arguments))
    if function is attempt:
        return named(arguments[0], arguments[1:])
    texts = (_settings(value) if isinstance(value, Query) else str(value) for value in arguments)
    return f"{getattr(function, '__name__', function)}({', '.join(texts)})"


def _settings(query: Query) -> str:
    return f"{query.kernel}: " + ", ".join(f"{name}={value}" for name, value in query.settings().items())
