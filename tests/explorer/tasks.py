"""What workers are given in tests: tasks that kill, refuse or fail, found by name in every process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from explorer.query import Query


def die(times: int, log: Path, value: int) -> int:
    """Kill the worker at the first `times` calls."""
    with log.open("a") as file:
        file.write(f"{value}\n")
    if log.read_text().splitlines().count(str(value)) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return value + 1


def refuse(query: Query) -> int:
    raise ValueError(f"{query.kernel}\n  cannot run")


def fail(query: Query) -> int:
    raise RuntimeError(f"the simulator failed at {query.kernel}")
