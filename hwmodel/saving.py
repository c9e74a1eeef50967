"""A program and what became of it, in one file: `archive` makes its bytes, `load` reads them.

An archive of arrays with one JSON text beside them (`hwmodel.npz_file`): `saved_program` says what of a program stands
where, `typed_json` what of a result. Nothing in it is executed or unpickled, and equal values give equal bytes, so
that a file that is read and saved again does not change.

The reader takes nothing on trust: every number is checked, so that what it returns can run on either engine. It is not
known to it whether a result is the program's: only that it was made of a program with its hash, and that its accounts
close.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwmodel.npz_file import Wanted, archive_bytes, read_npz, read_text
from hwmodel.program import QUEUES, Program
from hwmodel.program_check import MAX_TABLE, check_program
from hwmodel.result import Result
from hwmodel.saved_program import plain_program, program_of, tables_of
from hwmodel.typed_json import array_paths, check_keys, parse_json, plain, text, typed, wrong

Array = np.ndarray[Any, Any]
VERSION = 1
FORMAT = "rowhit run"
HEADER = "run.json"
MAX_HEADER_BYTES = 1 << 24  # assumed: a program of all kernels of a model has some 100 kB
MAX_FILE_BYTES = 1 << 31  # assumed: of all arrays, once they are read
_RESULT_ARRAYS = array_paths(Result, "result")
_KEYS = ("format", "version", "title", "settings", "program", "result")


@dataclass(frozen=True, eq=False)
class Saved:
    """What a file holds: a program, its result, or both, and in words and by name what it is of."""

    program: Program | None
    result: Result | None
    title: str = ""
    settings: dict[str, str] = field(default_factory=dict)  # knobs, by name


def archive(saved: Saved) -> bytes:
    """Return the bytes of the file that holds `saved`. ValueError for a program that no file can hold."""
    arrays: dict[str, Array] = {}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "title": saved.title,
        "settings": saved.settings,
        "program": None if saved.program is None else plain_program(saved.program, arrays),
        "result": plain(saved.result, "result", arrays),
    }
    content = json.dumps(header, indent=1, ensure_ascii=False, allow_nan=False)
    return archive_bytes(arrays, {HEADER: content + "\n"})


def load(path: Path) -> Saved:
    """Return what a file holds, checked. ValueError in one line for a file that is none or broken; OSError likewise."""
    content = read_text(path, HEADER, MAX_HEADER_BYTES, "no saved run")
    try:
        header = _header(parse_json(content, HEADER))
        tables = {} if header["program"] is None else tables_of(header["program"])
        if header["result"] is not None:
            tables |= dict.fromkeys(_RESULT_ARRAYS, ("int64", MAX_TABLE))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    wanted = [Wanted(name, (kind,), most, least=0) for name, (kind, most) in tables.items()]
    arrays = read_npz(path, wanted, MAX_FILE_BYTES)
    try:
        return _saved(header, arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _header(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError(f"{HEADER}: not the description of a {FORMAT}")
    if value.get("version") != VERSION:
        raise wrong("version", value.get("version"), str(VERSION))
    check_keys(value, _KEYS, HEADER)
    return value


def _saved(header: dict[str, Any], arrays: dict[str, Array]) -> Saved:
    program = result = None
    if header["program"] is not None:
        program = program_of(header["program"], arrays)
        check_program(program)
    if header["result"] is not None:
        result = typed(Result, header["result"], "result", arrays)
        _check_result(result)
    if program is not None and result is not None and program.hash != result.program_hash:
        raise wrong("result.program_hash", result.program_hash, f"{program.hash}, that of the program in the file")
    settings = typed(dict[str, str], header["settings"], "settings", {})
    return Saved(program, result, text(header["title"], "title"), settings)


def _check_result(result: Result) -> None:
    """Raise ValueError for a result whose accounts do not close, or that `metrics` cannot show."""
    for path, value, least in (
        ("makespan_fs", result.makespan_fs, 0),
        ("bin_fs", result.bin_fs, 1),
        ("burst_bytes", result.burst_bytes, 1),
    ):
        if value < least:
            raise wrong(f"result.{path}", value, f"at least {least}")
    if result.stalls.keys() != result.units.keys() or not set(QUEUES) <= result.units.keys():
        raise wrong("result.units", list(result.units), f"those of the stalls, and {', '.join(QUEUES)}")
    for kind, causes in result.stalls.items():
        whole_fs = result.makespan_fs * result.units[kind]
        if result.units[kind] < 1 or min(causes.values(), default=0) < 0 or sum(causes.values()) != whole_fs:
            raise wrong(f"result.stalls.{kind}", causes, f"times from 0 that add up to {whole_fs} fs, of some units")
    moved_bytes = result.hbm_read_bytes + result.hbm_write_bytes
    if moved_bytes and (result.makespan_fs == 0 or result.hbm_peak_bytes_per_second <= 0):
        raise wrong("result.hbm_peak_bytes_per_second", result.hbm_peak_bytes_per_second, "more than 0, in some time")
