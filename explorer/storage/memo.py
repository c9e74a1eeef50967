"""Simulations that were done before, by anybody on this computer: outcomes on disk, found by what they depend on.

A file is named by a digest of the point's key (machine, problem, what its knobs mean, seed) and of the simulator's own
sources, so that a change of either finds nothing. It holds a checksum, the numbers as JSON and the pictures as arrays,
and an answer from it is the same to the last bit. A file that is damaged is none, and is written anew. Any number of
processes may read and write: files are whole or absent, and those not used for longest go where there are too many.
A folder that cannot be written is no reason to fail: then nothing is remembered.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from explorer.evaluate import Outcome
from explorer.interruption import uninterrupted
from explorer.programs import FLOORS, source_digest
from explorer.storage.details import pack, unpack

MAX_BYTES = 1 << 30  # of all files; assumed: some 100,000 simulations
_FOLDERS = 256  # by the first two digits of the name, each with its share of the bytes
MAX_FILE_BYTES = 1 << 26
_MAGIC = b"rowhit outcome 1\n"
_DIGEST = hashlib.sha256().digest_size


def cache_folder() -> Path:
    """Return where simulations are remembered: ROWHIT_CACHE, or `rowhit` in the user's cache folder."""
    if chosen := os.environ.get("ROWHIT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rowhit"


class Memo:
    """Outcomes by key, in a folder of at most about `max_bytes`."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._share_bytes = folder / "outcomes", max_bytes // _FOLDERS
        self._simulator = source_digest((*FLOORS, "explorer"))

    def recall(self, key: str) -> Outcome | None:
        """Return the outcome kept for `key`, None where there is none, or a damaged one."""
        path = self._path(key)
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                return None
            outcome = _read(path.read_bytes())
            os.utime(path)
        except (OSError, ValueError, RecursionError):
            return None
        return outcome

    def keep(self, key: str, outcome: Outcome) -> None:
        """Keep an outcome, and let others go where there are too many; Ctrl-C waits for that."""
        with uninterrupted():
            self._keep(key, outcome)

    def _keep(self, key: str, outcome: Outcome) -> None:
        data = _written(outcome)
        if len(data) > MAX_FILE_BYTES:
            return
        with suppress(OSError):
            path = self._path(key)
            _place(path, data)
            _shrink(path.parent, self._share_bytes)

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(f"{self._simulator}\n{key}".encode()).hexdigest()
        return self._folder / name[:2] / name[2:]


def _shrink(folder: Path, max_bytes: int) -> None:
    """Remove the files that were not used for longest while there are more than `max_bytes`."""
    found = []
    for entry in os.scandir(folder):
        with suppress(OSError):  # another process removed it
            found.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
    excess = sum(size for _, size, _ in found) - max_bytes
    for _, size, path in sorted(found):
        if excess <= 0:
            break
        with suppress(FileNotFoundError):
            os.unlink(path)
        excess -= size


def _place(path: Path, data: bytes) -> None:
    """Write a file that is whole or absent, also where others write it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _written(outcome: Outcome) -> bytes:
    numbers = json.dumps(dict(outcome.metrics)).encode()
    body = len(numbers).to_bytes(8) + numbers + pack(outcome)
    return _MAGIC + hashlib.sha256(body).digest() + body


def _read(data: bytes) -> Outcome:
    """Return the outcome in a file; ValueError unless it is whole."""
    start = len(_MAGIC) + _DIGEST
    body = data[start:]
    if data[: len(_MAGIC)] != _MAGIC or data[len(_MAGIC) : start] != hashlib.sha256(body).digest():
        raise ValueError("damaged")
    end = 8 + int.from_bytes(body[:8])
    metrics = json.loads(body[8:end])
    if not isinstance(metrics, dict):
        raise ValueError("damaged")
    bandwidth, banks = unpack(body[end:])
    return Outcome(metrics, bandwidth, banks)
