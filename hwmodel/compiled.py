"""The decorators for compiled functions: numba with an on-disk cache that notices every change of the compiled code.

Called from Python, a function is an entry, whose code is kept on disk with all that it calls; called from compiled
code, a part of entries (`hwmodel.compiled_part`), which is compiled anew by each process that compiles one.

numba checks only the file of the function that was called, so a change in a function it calls, in another file, would
go on running as it was. Here a cache entry is valid only while all files of this package that speak of
compiled code are what they were.

Of several processes that need a function at once, one compiles it and the others wait and load it. numba
would let each compile, and of two that save one function for different types at once, one could find the
other's code under its name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numba
import numba.np.linalg
from numba import config, njit
from numba.core.compiler_lock import global_compiler_lock
from numba.core.runtime.nrt import rtsys

# Parts are made, and entries loaded, with functions of numba that are not public: with other versions that is left to
# numba, which takes longer and has the same results.
IS_KNOWN = numba.__version__.startswith("0.68.")
if IS_KNOWN:
    from hwmodel.compiled_part import part


_ensure_blas = numba.np.linalg.ensure_blas


def _no_blas() -> None:
    numba.np.linalg.ensure_blas = _ensure_blas
    raise ImportError


# numba asks once, before its first function, whether scipy has a BLAS to call; importing that takes as long as numba
# itself. Without it compiled inner products of `np.correlate` are loops.
numba.np.linalg.ensure_blas = _no_blas

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
    entry = _cached(njit(cache=True, nogil=True)(function))
    return _with_part(entry, function, forceinline=False) if IS_KNOWN else entry


def inlined(function: Callable[..., Any]) -> Any:
    """Compile `function` into the compiled functions that call it: for the few lines of a hot loop."""
    if not IS_KNOWN:
        return _cached(njit(cache=True, nogil=True, forceinline=True)(function))
    return _with_part(njit(nogil=True)(function), function, forceinline=True)


def is_kept(entry: Any) -> bool:
    """Return whether code of an entry, as it is now, is on disk."""
    return bool(entry._cache._cache_file._load_index())


def _with_part(entry: Any, function: Callable[..., Any], *, forceinline: bool) -> Any:
    """Let compiled code that calls the entry find the part in its place, which is made when code is first compiled."""
    entry.inner = inner = cache(lambda: part(function, forceinline=forceinline))
    entry.get_call_template = lambda *arguments: inner().get_call_template(*arguments)
    entry.get_overload = lambda *arguments: inner().get_overload(*arguments)
    return entry


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
    if IS_KNOWN:
        dispatcher._cache.load_overload = partial(_load, dispatcher._cache)
    compile_or_load, index = dispatcher.compile, Path(file._index_path)

    def compile_alone(signature: Any) -> Any:
        with global_compiler_lock, _alone(index):
            return compile_or_load(signature)

    dispatcher.compile = compile_alone
    return dispatcher


def _load(kept: Any, signature: Any, context: Any) -> Any:
    """Load code of an entry, for which numba would first learn all that it could compile: its memory is enough."""
    rtsys.initialize(context)
    return kept._load_overload(signature, context)


@contextmanager
def _alone(index: Path) -> Iterator[None]:
    """Keep other processes from compiling or loading the function with this index file.

    What an entry calls is compiled with it, so who holds one waits for no other.
    """
    file, byte = _locks(index.parent), crc32(index.name.encode())
    fcntl.lockf(file, fcntl.LOCK_EX, 1, byte)
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)


@cache
def _locks(folder: Path) -> int:
    """Return the open file whose bytes are the locks of functions kept in a folder; closing it would let go of all."""
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder / "compiling.lock", os.O_WRONLY | os.O_CREAT, 0o666)
