"""Files that are whole or absent, and a folder that one process owns at a time.

A file is written under a hidden temporary name of its own, flushed to the disk and renamed, also where two write it at
once; a process killed in between leaves only a temporary file, which readers of the folder do not see. In a folder that
is owned the next owner removes it; elsewhere it stays, as another writer may be at it still.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LOCK = "lock"
_TEMPORARY = ".tmp"


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that at any moment the file is the old one or the new one."""
    try:
        with written_atomically(path) as file:
            file.write(data)
    except OSError as error:  # it names the temporary file, or none
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def require_place(path: Path, option: str, *read: Path) -> None:
    """Raise ValueError, naming the option, unless a file can stand at `path`, which is none of those that are read."""
    if not path.parent.is_dir() or (path.exists() and not path.is_file()):  # a folder, or /dev/null
        raise ValueError(f"{option}: {path}: allowed: a file in a folder that is there")
    if any(path.resolve() == other.resolve() for other in read):
        raise ValueError(f"{option}: {path}: is the file that is read; allowed: another one")


def require_folder(path: Path, option: str) -> None:
    """Raise ValueError, naming the option, unless `path` is a folder or one can be made there."""
    there = next(part for part in (path, *path.absolute().parents) if part.exists())
    if not there.is_dir():
        raise ValueError(
            f"{option}: {path}: {there} is no folder; allowed: a folder, which is made where it is missing"
        )


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """Write to a file, piece by piece, that takes the place of `path` at the end of the block, unless that fails."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_TEMPORARY}")
    try:
        file = temporary.open("xb")  # follows no link
    except OSError as error:  # it names the temporary file
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process left unfinished under `folder`."""
    for path in folder.rglob(f".*{_TEMPORARY}"):
        path.unlink()


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own `folder` inside the block; ValueError when another process does. The lock ends with the process."""
    with (folder / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another run is writing there now") from None
        yield
