"""Azure's trace of LLM inference (2023): a CSV file with the columns TIMESTAMP, ContextTokens, GeneratedTokens.

Published with Patel et al. 2024 (Splitwise, arXiv:2311.18677). It says nothing of what the prompts share.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from workloads.traces.table import MAX_TOKENS, RequestTable
from workloads.traces.text import TOKENS_ALLOWED, read_text, refuse

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
NAME = "Azure LLM inference trace 2023, conversation"

_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,9}))?", re.ASCII)
_EPOCH = datetime(1970, 1, 1)


def read_azure(path: Path) -> RequestTable:
    """Return the requests of a file, plain or gzip. Raises ValueError naming file, line, field, value, allowed."""
    rows: list[tuple[int, int, int]] = []
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        header = next(reader, [])
        columns = [_column(header, name, path) for name in COLUMNS]
        for row in reader:
            where = f"{path}: line {reader.line_num}"
            time, context, generated = (row[column] if column < len(row) else "" for column in columns)
            arrival = _time(time, where, rows[-1][0] if rows else None)
            rows.append((arrival, _tokens(context, COLUMNS[1], where), _tokens(generated, COLUMNS[2], where)))
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: not CSV: {error}") from None
    if not rows:
        raise ValueError(f"{path}: no request below the header; a trace has at least one")
    table = np.array(rows, dtype=np.int64)
    return RequestTable(f"{NAME}: {path.name}", table[:, 0] - table[0, 0], table[:, 1], table[:, 2])


def _column(header: Sequence[str], name: str, path: Path) -> int:
    if name not in header:
        raise ValueError(f"{path}: line 1: no column {name}; the file has {', '.join(header)[:200]!r}")
    return header.index(name)


def _time(text: str, where: str, before: int | None) -> int:
    """Return nanoseconds since 1970."""
    match = _TIME.fullmatch(text)
    try:
        seconds = (datetime.fromisoformat(match[1]) - _EPOCH).total_seconds() if match else None
    except ValueError:
        seconds = None
    if match is None or seconds is None or seconds < 0:
        raise refuse(where, COLUMNS[0], text, "a time as in 2023-11-16 18:15:46.6805900")
    found = int(seconds) * 10**9 + int((match[2] or "").ljust(9, "0"))
    if before is not None and found < before:
        raise refuse(where, COLUMNS[0], text, "a time not before that of the line above")
    return found


def _tokens(text: str, name: str, where: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 8 and 1 <= int(text) <= MAX_TOKENS:
        return int(text)
    raise refuse(where, name, text, TOKENS_ALLOWED)
