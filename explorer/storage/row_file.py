"""The rows of a results folder on disk: one Parquet file, and the lines that came after it.

    points.parquet   all rows up to the last time they were packed, in order
    rows.jsonl       one line of JSON per row since then, in the order kept, with a checksum at its end

Keeping a row is one write at the end of a file; the disk is waited for once a second. When there are as many lines
as rows packed, and at the end of a run, everything is packed and the lines begin anew. A process killed at any moment
leaves both files readable: an unfinished last line is none, and of two records of one point the later counts. A line
that is damaged all the same is named to readers; the owner of the folder drops it, so that its row is made anew.
"""

from __future__ import annotations

import io
import json
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from explorer.files import write_atomically
from explorer.query import Scalar

Record = Mapping[str, Scalar | None]
PACKED, LINES = "points.parquet", "rows.jsonl"
SYNC_SECONDS = 1.0  # assumed: what is lost when the computer itself fails, and made anew by a rerun
FEW_LINES = 1024  # assumed: read in a fraction of a second
FIELDS: Mapping[str, type] = {  # of every record, never missing
    "point": int,
    "batch": int,
    "key": str,
    "status": str,
    "bound_us": float,
    "reason": str,
    "details": bool,
}
_KINDS = {int: "int64", str: "string", float: "double", bool: "bool"}
_MAX_WHOLE = 1 << 63  # columns have 64 bits
_CRC = b', "crc": "'


class RowFile:
    """Keeps records, dicts of scalars with their `point`, in a folder that this process owns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        table, text = _packed(folder), _text(folder)
        old = [] if table is None else [_present(record) for record in table.to_pylist()]
        lines, wrong = _records(text)
        self._records = {record["point"]: record for record in [*old, *lines]}
        self._packed, self._lines = len(old), len(lines)
        if wrong or not text.endswith(b"\n"):
            write_atomically(folder / LINES, b"".join(map(_line, lines)))
        if lines:
            _of_one_type(self.records, folder / LINES)
        self._file: BinaryIO | None = None  # of lines, from the first that is kept
        self._synced = 0.0

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records in the order of the points."""
        return [self._records[point] for point in sorted(self._records)]

    def append(self, record: Record) -> None:
        """Keep one more record."""
        self._file = self._file or (self._folder / LINES).open("ab", buffering=0)
        self._file.write(_line(record))
        self._records[int(record["point"] or 0)] = dict(record)
        self._lines += 1
        if time.monotonic() > self._synced + SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()
        if self._lines >= max(FEW_LINES, self._packed):
            self._pack()

    def close(self) -> None:
        """Pack what is there, and let go of the files."""
        if self._lines:
            self._pack()
        self._let_go()

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _pack(self) -> None:
        write_atomically(self._folder / PACKED, parquet(self.records))
        self._let_go()
        write_atomically(self._folder / LINES, b"")  # another file: who reads the old one reads it to its end
        self._packed, self._lines = len(self._records), 0


def read_rows(folder: Path) -> Any:
    """Return all rows as an Arrow table in the order of the points, None without any; another may be writing them.

    Raises ValueError naming the file that is damaged or lacks a row.
    """
    import pyarrow as pa

    lines, wrong = _records(_text(folder))  # before what is packed, because lines are packed before they are dropped
    if wrong:
        raise ValueError(f"{folder / LINES}: line {wrong} is damaged; run the study again, which makes it anew")
    packed = _packed(folder)
    known = set() if packed is None else set(packed["point"].to_pylist())
    later = {record["point"]: record for record in lines if record["point"] not in known}
    if packed is None and not later:
        return None
    where = folder / (LINES if packed is None else PACKED)
    tables = ([] if packed is None else [packed]) + ([_of_one_type([*later.values()], where)] if later else [])
    try:
        table = pa.concat_tables(tables, promote_options="permissive").sort_by("point")
    except pa.ArrowException:  # a text where another row has a number
        raise damaged(where) from None
    if table["point"].to_pylist() != list(range(len(table))):
        raise damaged(where)
    return table


def damaged(path: object) -> ValueError:
    """Return the error for a file that a rerun of the study makes anew."""
    return ValueError(f"{path}: damaged or missing; remove it and run the study again, which makes it anew")


def parquet(records: Sequence[Record]) -> bytes:
    """Return records as a Parquet file, each column at its first appearance."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(_table(records), buffer)
    return buffer.getvalue()


def read_parquet(path: Path, fields: Mapping[str, type]) -> Any:
    """Return the Arrow table in a Parquet file; ValueError naming the file unless it has `fields` of their types."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()))  # Arrow opens a path twice: not always the same file
    except (OSError, pa.ArrowException):  # damaged data is either of them
        raise damaged(path) from None
    kinds = {field.name: str(field.type) for field in table.schema}
    if any(kinds.get(name) != _KINDS[kind] for name, kind in fields.items()):
        raise damaged(path)
    return table


def _table(records: Sequence[Record]) -> Any:
    import pyarrow as pa

    columns = dict.fromkeys(name for record in records for name in record)
    return pa.table({name: [record.get(name) for record in records] for name in columns})


def _of_one_type(records: Sequence[Record], where: Path) -> Any:
    """Return a table of records; ValueError where a column has texts and numbers."""
    import pyarrow as pa

    try:
        return _table(records)
    except pa.ArrowException:
        raise damaged(where) from None


def _present(record: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a table without the columns that only other rows have."""
    return {name: value for name, value in record.items() if value is not None}


def _line(record: Record) -> bytes:
    text = json.dumps(record, ensure_ascii=False, default=lambda number: number.item()).encode()  # NumPy's, too
    return text[:-1] + _CRC + b'%08x"}\n' % zlib.crc32(text)


def _packed(folder: Path) -> Any:
    """Return the table of packed rows, None without any; ValueError naming the file unless all have their fields."""
    path = folder / PACKED
    if not path.exists():
        return None
    table = read_parquet(path, FIELDS)
    if any(table[name].null_count for name in FIELDS):
        raise damaged(path)
    return table


def _text(folder: Path) -> bytes:
    try:
        return (folder / LINES).read_bytes()
    except FileNotFoundError:
        return b""


def _records(text: bytes) -> tuple[list[dict[str, Any]], int]:
    """Return the records of all whole lines, and the number of the first damaged one, 0 without any."""
    records = [_record(line) for line in text.split(b"\n")[:-1]]
    wrong = next((place for place, record in enumerate(records, start=1) if record is None), 0)
    return [record for record in records if record is not None], wrong


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record in a line, None unless its checksum holds, and it has its fields and else scalars alone."""
    text, _, checksum = line.rpartition(_CRC)
    if checksum != b'%08x"}' % zlib.crc32(text + b"}"):
        return None
    try:
        record = json.loads(text + b"}")
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or any(type(record.get(name)) is not kind for name, kind in FIELDS.items()):
        return None
    return record if all(map(_fits, record.values())) else None


def _fits(value: Any) -> bool:
    """Tell whether a value can stand in a column."""
    return isinstance(value, Scalar) and not (isinstance(value, int) and abs(value) >= _MAX_WHOLE)
