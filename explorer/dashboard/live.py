"""Results folders as they are now: read again when something in them changed, without taking their lock.

Files of a results folder appear whole or grow by whole rows, so that a reader beside a running study sees fewer rows,
never wrong ones.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from explorer.views.study_data import StudyData, named, read

_PARTS = ("*", "details/*")
_OWN = ("report", "plotly", ".")  # what a report writes is no news


class Live:
    """The studies in some folders; `version` grows when one of them changed."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders, self.names = tuple(folders), tuple(named(folders))
        self.version = 0
        self._seen: dict[Path, object] = {}
        self._studies: dict[Path, StudyData | str] = {}
        self._lock = threading.Lock()  # requests come in threads

    def refresh(self) -> int:
        """Read again what changed, and return the version."""
        with self._lock:
            for folder, name in zip(self.folders, self.names, strict=True):
                state = _state(folder)
                if self._seen.get(folder) == state:
                    continue
                try:
                    self._studies[folder] = read(folder, name)
                except (ValueError, OSError) as error:  # no point yet, or written at this moment
                    if isinstance(self._studies.get(folder), StudyData):
                        continue
                    self._studies[folder] = " ".join(str(error).split())
                self._seen[folder] = state
                self.version += 1
            return self.version

    def study(self, place: int) -> StudyData:
        """Return a study as it was last read; ValueError with the reason where it has nothing to show."""
        if not 0 <= place < len(self.folders):
            raise ValueError(f"no study {place}; there are {len(self.folders)}")
        if not self._seen:
            self.refresh()
        found = self._studies[self.folders[place]]
        if isinstance(found, str):
            raise ValueError(found)
        return found

    def studies(self) -> list[StudyData]:
        """Return all that have something to show."""
        if not self._seen:
            self.refresh()
        found = (self._studies[folder] for folder in self.folders)
        return [study for study in found if isinstance(study, StudyData)]


def _state(folder: Path) -> object:
    """Return what changes when a results folder does."""
    state = []
    for path in sorted(path for pattern in _PARTS for path in folder.glob(pattern)):
        if path.name.startswith(_OWN):
            continue
        try:
            facts = path.stat()
        except OSError:  # gone between the two looks
            continue
        state.append((path.name, facts.st_mtime_ns, facts.st_size))
    return state
