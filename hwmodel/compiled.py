"""The one decorator for compiled functions: numba with an on-disk cache that notices every change of the compiled code.

numba checks only the file of the function that was called, so a change in a function it calls, in another file, would
go on running as it was. Here a cache entry is valid only while all files of this package that speak of
compiled code are what they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import config, njit

# LLVM's third level takes half as long again as the second for code like this, which runs no faster for it.
config.OPT = type(config.OPT)(2)  # type: ignore[attr-defined]


@cache
def _sources() -> str:
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        if b"compiled" in (text := path.read_bytes()):  # functions, and the numbers that they are compiled with
            digest.update(str(path.relative_to(root)).encode() + text)
    return digest.hexdigest()


def compiled(function: Callable[..., Any]) -> Any:
    """Compile `function` when it is first called, without the global interpreter lock, and keep the code on disk."""
    return _cached(njit(cache=True, nogil=True)(function))


def inlined(function: Callable[..., Any]) -> Any:
    """Compile `function` into the compiled functions that call it: for the few lines of a hot loop."""
    return _cached(njit(cache=True, nogil=True, forceinline=True)(function))


def _cached(dispatcher: Any) -> Any:
    file = dispatcher._cache._cache_file
    file._source_stamp = _sources()
    load_index = file._load_index

    def load_readable_index() -> Any:
        try:
            return load_index()
        except (AttributeError, ImportError):  # it names a class that there is no more
            return {}

    file._load_index = load_readable_index
    return dispatcher
