"""What an answer depends on beside the question: the simulator's own files, and those that the question names.

Workers elsewhere compare theirs with the driver's before they answer.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from explorer.programs import FLOORS, forget, source_digest
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
    paths = {path for query in queries for path in _named(query) if os.path.isfile(path)}
    return _sources(tuple(sorted(paths)))


def checked(
    asked: Sources, function: Callable[..., Any], arguments: tuple[Any, ...], named_arguments: Mapping[str, Any]
) -> Any:
    """Return what the function answers; AnotherVersion in one line where the sources here are not those `asked` for."""
    here = _sources(tuple(path for path, _ in asked.files))
    if here != asked:
        wrong = ["version of the simulator"] if here.simulator != asked.simulator else []
        wrong += [path for path, digest in asked.files if dict(here.files)[path] != digest]
        raise AnotherVersion(
            f"the worker on {socket.gethostname()} has another {wrong[0]} than the driver; make them equal"
        )
    _read_anew(here)
    return function(*arguments, **named_arguments)


@lru_cache(maxsize=1)
def _read_anew(here: Sources) -> None:
    """Forget what was read of the files before they were as they are: a worker lives longer than a search."""
    forget()


def _named(query: Query) -> list[str]:
    trace = query.batch.trace_path if query.batch is not None else None
    return [path for path in (query.machine, query.model, query.routing, trace) if path is not None]


def _sources(paths: tuple[str, ...]) -> Sources:
    return Sources(source_digest((*FLOORS, "explorer")), tuple((path, _file_digest(path)) for path in paths))


def _file_digest(path: str) -> str:
    try:
        status = os.stat(path)
        return _digest(path, status.st_mtime_ns, status.st_size)
    except OSError:
        return ""


@lru_cache(maxsize=64)
def _digest(path: str, changed_ns: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
