"""Reading .npz archives that others wrote: the one bounded reader, for traces, recorded routings and saved runs.

The file may be hostile: nothing in it is executed or unpickled, and an array is read only after its type and shape have
been found to be allowed, no further than they say. Every error is one line with the file and the array.
What is written here is the same to the byte for the same arrays and texts, wherever zlib is the same.
"""

from __future__ import annotations

import io
import itertools
import lzma
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

Array = np.ndarray[Any, Any]
COMPRESSION = 1  # of zlib: the fastest, within 1 % of the smallest on a page table of two million pages
MOST_NAMED = 3  # arrays in an error
MAX_HEADER = 4096  # bytes; assumed: some thirty times what numpy.save writes
_HEADER = re.compile(
    rb"\{'descr': '([<>|=][A-Za-z][0-9]{0,6})', 'fortran_order': (True|False), "
    rb"'shape': \(([0-9]{0,18}(?:, ?[0-9]{0,18}){0,8})\), \} *\n"
)
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError, KeyError, ValueError
)  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """An array that an archive has, unless it is optional: its types, most and least values in all, and axes."""

    name: str
    types: tuple[str, ...]
    most: int
    axes: int = 1
    optional: bool = False
    least: int = 1


def read_npz(path: Path, wanted: Sequence[Wanted], most_bytes: int | None = None) -> dict[str, Array]:
    """Return the wanted arrays by name, in this machine's byte order; an optional one that is not there is left out.

    `most_bytes`: of all that the archive holds, once it is read. ValueError for a file that is none or holds more, or
    an array that is missing, too short, too large or of another type; OSError for one that cannot be opened.
    """
    _require_regular(path)
    names = [array.name for array in wanted if not array.optional]
    if len(names) > MOST_NAMED:
        names[MOST_NAMED:] = [f"{len(names) - MOST_NAMED} more"]
    with readable(path, f"no .npz file of {' and '.join(names)}"), zipfile.ZipFile(path) as archive:
        whole = sum(entry.file_size for entry in archive.infolist())
        if most_bytes is not None and whole > most_bytes:
            raise ValueError(f"{path}: {whole} B in it; allowed: up to {most_bytes} B")
        there = set(archive.namelist())
        chosen = [array for array in wanted if not array.optional or f"{array.name}.npy" in there]
        return {array.name: _array(archive, path, array, chosen) for array in chosen}


def read_text(path: Path, name: str, most_bytes: int, otherwise: str) -> str:
    """Return the text `name` of an archive; errors as of `read_npz`, for a file that is none with `otherwise`."""
    _require_regular(path)
    with readable(path, otherwise), zipfile.ZipFile(path) as archive:
        if name not in archive.namelist():
            raise ValueError(f"no {name} in it")
        with archive.open(name) as file:
            data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"{path}: {name}: more than {most_bytes} B; allowed: up to that")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {name}: byte {error.start} is no UTF-8") from None


def archive_bytes(arrays: Mapping[str, Array], texts: Mapping[str, str]) -> bytes:
    """Return the bytes of an archive of arrays, as `read_npz` reads them, and texts by their full names.

    Compressed, in order of names, with one date for all of it.
    """
    members = {name: text.encode() for name, text in texts.items()}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
        members[f"{name}.npy"] = buffer.getvalue()
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # whatever the system
            archive.writestr(entry, members[name], zipfile.ZIP_DEFLATED, COMPRESSION)
    return whole.getvalue()


def _require_regular(path: Path) -> None:
    if path.exists() and not path.is_dir() and not path.is_file():  # a device may be without end
        raise ValueError(f"{path}: not a regular file")


@contextmanager
def readable(path: Path, otherwise: str) -> Iterator[None]:
    """Turn what broken archives raise into one line about the file; errors that name it already pass."""
    try:
        yield
    except _UNREADABLE as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: {otherwise}: {' '.join(str(error).split())[:200] or type(error).__name__}") from None
    except OSError as error:  # gzip's own have no number and no file
        if error.filename is not None:
            raise
        raise ValueError(f"{path}: {otherwise}: {error.strerror or error}") from None


def _array(archive: zipfile.ZipFile, path: Path, wanted: Wanted, chosen: Sequence[Wanted]) -> Array:
    """Return one array of the archive, read no further than its type and size allow."""
    name = wanted.name
    if f"{name}.npy" not in archive.namelist():
        names = (entry.removesuffix(".npy")[:40] for entry in itertools.islice(archive.namelist(), 8))
        there = ", ".join(entry if entry.isprintable() else ascii(entry) for entry in names)
        needed = ", ".join(array.name for array in itertools.islice(chosen, 8))
        raise ValueError(f"{path}: no array {name}; it has {there or 'none'}, needed are {needed}")
    with archive.open(f"{name}.npy") as file:
        dtype, columns_first, shape = _header(file.read(10), file)
        if dtype.name not in wanted.types:
            raise ValueError(f"{path}: {name}: {dtype}; allowed: {', '.join(wanted.types)}")
        count = math.prod(shape)
        if len(shape) != wanted.axes or not wanted.least <= count <= wanted.most:
            kind = "one list" if wanted.axes == 1 else f"{wanted.axes} axes"
            raise ValueError(
                f"{path}: {name}: shape {shape}; allowed: {kind} of {wanted.least} .. {wanted.most} values"
            )
        data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise ValueError(f"{path}: {name}: ends after {len(data) // dtype.itemsize} of {count} values")
    if dtype == np.bool_ and (wrong := np.frombuffer(data, np.uint8) > 1).any():  # readers count on 0 and 1
        first = int(wrong.argmax())
        raise ValueError(f"{path}: {name}[{first}]: byte {data[first]}; allowed: 0 or 1")
    values = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)
    return values.reshape(shape, order="F" if columns_first else "C")


def _header(start: bytes, file: IO[bytes]) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    """Return type, whether columns come first, and shape of a .npy file of version 1.0.

    NumPy's own reader raises anything on broken ones.
    """
    if start[:8] != b"\x93NUMPY\x01\x00" or len(start) < 10:
        raise ValueError("not a .npy file of version 1.0")
    header = file.read(min(MAX_HEADER, int.from_bytes(start[8:], "little")))
    match = _HEADER.fullmatch(header)
    if match is None:
        raise ValueError("a .npy file without the header that numpy.save writes")
    try:
        dtype = np.dtype(match[1].decode())
    except TypeError:
        raise ValueError(f"unknown type {match[1].decode()!r} of values") from None
    return dtype, match[2] == b"True", tuple(int(size) for size in match[3].split(b",") if size.strip())
