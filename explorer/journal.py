"""The search as an Optuna journal file: one trial per row, for whoever reads it with Optuna or its dashboard.

The rows are the truth and the journal follows them, a second behind: on opening, a line torn by a kill is cut off,
missing trials are added, and a journal that does not agree with the rows is written anew. Trials stand in the order of
the points: rows behind a missing one wait until it is made anew.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer import trials
from explorer.row import Row
from explorer.row_file import SYNC_SECONDS
from explorer.study import Study

if TYPE_CHECKING:
    import optuna


class Journal:
    """Appends trials to the journal file at `path`, which agrees from the start with `rows`, in order from point 0."""

    def __init__(self, path: Path, study: Study, rows: Sequence[Row]) -> None:
        self._study = study
        _repair(path)
        present = _keys(path, study.name, len(study.objectives))
        if present is None or present != [row.key for row in rows[: len(present)]]:
            path.unlink(missing_ok=True)
            present = []
        self._log = _open(path, study.name, len(study.objectives))
        self._length = len(present)
        self._waiting = list(rows[len(present) :])
        self.flush()

    def append(self, row: Row) -> None:
        """Add the trial of the next row, unless it is there."""
        if row.point == self._length + len(self._waiting):
            self._waiting.append(row)
        if time.monotonic() > self._flushed + SYNC_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the trials that wait."""
        for row in self._waiting:
            self._log.add_trial(trials.trial(row, self._study))
        self._length += len(self._waiting)
        self._waiting.clear()
        self._flushed = time.monotonic()


def _repair(path: Path) -> None:
    """Cut an unfinished last line off, and remove the lock of a process that is gone."""
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.exists():
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)


def _keys(path: Path, name: str, objectives: int) -> list[object] | None:
    """Return the keys of the trials in the journal, None when it is no journal any more."""
    try:
        return [trial.user_attrs.get("key") for trial in _open(path, name, objectives).get_trials(deepcopy=False)]
    except (OSError, MemoryError):
        raise
    except Exception:  # Optuna replays the lines unchecked: what a damaged one raises can be anything
        return None


def _open(path: Path, name: str, objectives: int) -> optuna.Study:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    class OwnedFile(JournalFileBackend):
        """A journal in a folder that one process owns and whose rows are the truth: no waiting for lock and disk."""

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(file, text.encode())  # a line of a reader that adds one, such as a note, stays whole
            finally:
                os.close(file)

    return trials.opened(JournalStorage(OwnedFile(str(path))), name, objectives)
