"""What an answer depends on beside the question: the simulator's own files, and those that the question names.

Workers elsewhere compare theirs with the driver's before they answer. What a process keeps of a file is kept while the
file's content is the same: every search and every question begins with `read_anew`, and reads a file once. The same
holds for the descriptions beside the simulator's code, such as DRAM parts, which a question need not name.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from explorer.programs import FLOORS, files_under, forget, source_digest
from explorer.query import Query


@dataclass(frozen=True)
class Sources:
    """Digests of the simulator, and of files by path; a file that is not there has none."""

    simulator: str
    files: tuple[tuple[str, str], ...]


class AnotherVersion(OSError):
    """A worker has other files than the driver."""


def sources(queries: Iterable[Query] = ()) -> Sources:
    """Return the sources of this process, with the files that queries name."""
    return Sources(_simulator(), digests(files_of(queries)))


def files_of(queries: Iterable[Query]) -> list[str]:
    """Return the paths of the files that queries name."""
    return sorted({path for query in queries for path in _named(query) if os.path.isfile(path)})


def digests(paths: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return the digests of the contents of files by path; of one that cannot be read the empty one."""
    return tuple((path, _file_digest(path)) for path in paths)


_read: dict[str, str] = {}  # by path: the digest of the content that may be kept


def read_anew(found: Iterable[tuple[str, str]]) -> None:
    """Forget what was read of files where one has not the content that it had; a process lives longer than a search.

    `found`: files by path with their digests; beside them the simulator's own descriptions are looked at.
    """
    now = (*found, ("descriptions", _descriptions()))
    changed = {path: digest for path, digest in now if _read.get(path) != digest}
    if changed:
        _read.update(changed)
        forget()


def checked(
    asked: Sources, function: Callable[..., Any], arguments: tuple[Any, ...], named_arguments: Mapping[str, Any]
) -> Any:
    """Return what the function answers; AnotherVersion in one line where the sources here are not those `asked` for."""
    files = digests(path for path, _ in asked.files)
    read_anew(files)
    here = Sources(_simulator(), files)
    if here != asked:
        wrong = ["version of the simulator"] if here.simulator != asked.simulator else []
        wrong += [path for path, digest in asked.files if dict(here.files)[path] != digest]
        raise AnotherVersion(
            f"the worker on {socket.gethostname()} has another {wrong[0]} than the driver; make them equal"
        )
    return function(*arguments, **named_arguments)


def _named(query: Query) -> list[str]:
    trace = query.batch.trace_path if query.batch is not None else None
    model = query.model and (os.path.join(query.model, "config.json") if os.path.isdir(query.model) else query.model)
    return [path for path in (query.machine, model, query.routing, trace) if path]


def _simulator() -> str:
    return source_digest((*FLOORS, "explorer"))


def _descriptions() -> str:
    """Return what the simulator's description files are and hold."""
    return repr(digests(map(str, files_under(FLOORS, ".yaml"))))


def _file_digest(path: str) -> str:
    try:
        status = os.stat(path)
        return _digest(path, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
    except OSError:
        return ""


@lru_cache(maxsize=1024)
def _digest(path: str, *state: int) -> str:
    """Return the digest of a file in a state: which it is, when it was changed, its size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
