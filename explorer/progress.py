"""How far a long command is: a callable that a computation calls, and a bar that shows it.

Computations take a `Progress` and know nothing of terminals. The bar is on stderr, and only when that is a
terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol

COMPILING = "compiling the simulator, up to 30 s of one core, once on this computer"


class Progress(Protocol):
    """Called as `progress(stage, done, total)`, with `done` growing from 0 to `total` within a stage."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


@cache
def announce_compiling() -> None:
    """From now on say in a line on stderr that the simulator is compiled, the first time that this happens.

    Loads numba: to be called where a simulation is about to. Says nothing where stderr is no terminal.
    """
    if not sys.stderr.isatty():
        return
    from numba.core import event

    class Announcement(event.Listener):
        said = False

        def on_start(self, event: object) -> None:
            if not self.said:
                print(COMPILING, file=sys.stderr)
            self.said = True

        def on_end(self, event: object) -> None:
            pass

    event.register("numba:compile", Announcement())  # type: ignore[no-untyped-call]


def silent(stage: str, done: int, total: int) -> None:
    """Show nothing."""


def renamed(progress: Progress, name: str) -> Progress:
    """Return what tells `progress` of a stage under another name."""

    def told(stage: str, done: int, total: int) -> None:
        progress(name, done, total)

    return told


@contextmanager
def bar(wanted: bool) -> Iterator[Progress]:
    """Give a progress bar with the remaining time, or `silent` where no terminal can show it."""
    if not (wanted and sys.stderr.isatty()):
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as shown:
        tasks: dict[str, int] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = int(shown.add_task(stage, total=total))
            shown.update(shown.task_ids[tasks[stage]], completed=done, total=total)

        yield update
