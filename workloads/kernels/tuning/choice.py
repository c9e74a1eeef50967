"""Schedules to choose from: knobs of a template, and what an estimate in closed form says of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

CLOSE = 1.01  # assumed: estimates so many times the least one do not tell which is best


@dataclass(frozen=True)
class Choice:
    """Knobs and the estimate of their time. Of each `family` the best should be looked at: estimates compare within."""

    knobs: Any
    estimate_fs: float
    family: str = ""


def ranked(choices: Iterable[Choice]) -> tuple[Choice, ...]:
    """Return choices, the smallest estimate first."""
    return tuple(sorted(choices, key=lambda choice: choice.estimate_fs))
