"""Tables of predictions: a CSV of measured kernels in, the same rows with predicted times out, as Parquet.

A row that cannot be modelled keeps its place and gets a reason. Rows of one operator, shape and types are one call,
which is predicted once. Rows are independent, so the number of worker processes changes nothing.
"""

from __future__ import annotations

import io
import lzma
import re
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from explorer.files import write_atomically
from explorer.names import nearest, unknown
from explorer.programs import machine_of
from explorer.progress import Progress, silent
from explorer.workers import workers
from explorer.workers.sources import digests, read_anew
from hwmodel.units import FS_PER_US
from workloads.calls import NotModelled, Row, call_of
from workloads.calls.call import NAMES, SIZES

UNREADABLE = (
    pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeDecodeError, EOFError, ImportError,
    zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip
FIDELITIES = ("windows", "auto", "exact", "estimate")
MAX_ROWS = 1_000_000  # assumed: a table beyond it is taken for a slip
ADDED = ("predicted_us", "bound_us", "limited_by", "knobs", "simulated", "reason")
CARRIED = (
    "latency_us",
    "source",
    "device",
    "fw_version",
    "gpus",
    "msg_bytes",
    "page_size",
    "flops",
    "bytes",
    "achieved_tflops",
    "achieved_gbps",
)  # columns of measurements that no call depends on
MAX_NAMED = 12  # columns of a warning
NAMED_BY_KERNEL = ("elementwise", "fp8_absmax")  # whose `kernel` says what they do
Overrides = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Answer:
    """What is added to a row: numbers and words, or the reason why there are none."""

    predicted_us: float | None = None
    bound_us: float | None = None
    limited_by: str | None = None
    knobs: str | None = None
    simulated: str | None = None  # "whole", "windows" where some launch was too long to be run whole, or "nothing"
    reason: str | None = None


def read_rows(path: Path) -> pd.DataFrame:
    """Read a CSV, compressed or not. Raises ValueError naming what it lacks: the column `op`, rows, or their number."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of rows that are longer than the heading
            table = pd.read_csv(path, low_memory=False, nrows=MAX_ROWS + 1, index_col=False)
    except (*UNREADABLE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the file, not of what is compressed in it
            raise
        raise ValueError(f"{path}: is no CSV table: {' '.join(str(error).split())}") from None
    if "op" not in table.columns:
        raise ValueError(f"{path}: has no column op; it has {', '.join(map(str, table.columns[:12]))}")
    if twice := _doubled(path, table):
        raise ValueError(f"{path}: has the column {twice} twice")
    if len(table) > MAX_ROWS:
        raise ValueError(f"{path}: has more than {MAX_ROWS} rows")
    if taken := [name for name in ADDED if name in table.columns]:
        raise ValueError(f"{path}: has a column {taken[0]} already, which the prediction would add")
    return table


def _doubled(path: Path, table: pd.DataFrame) -> str:
    """Return a column that the heading of a table's file names twice, which pandas reads as m and m.1; "" without."""
    numbered = (re.fullmatch(r"(.+)\.[0-9]+", str(name)) for name in table.columns)
    found = [match[1] for match in numbered if match and match[1] in table.columns]
    if not found:
        return ""
    try:
        heading = pd.read_csv(path, header=None, nrows=1, dtype=str, index_col=False).iloc[0].tolist()
    except UNREADABLE:  # of a pipe, which can be read once
        return found[0]
    return next((name for name in found if heading.count(name) > 1), "")


def passed_over(table: pd.DataFrame) -> str:
    """Return in one line which columns of a table are not known, with the nearest of those that are; nothing if none.

    Columns that no call depends on but that tables of measurements have are known.
    """
    known = (*NAMES, *SIZES, *CARRIED)
    wrong = [str(name) for name in table.columns if name not in known]
    if not wrong:
        return ""
    near = {name: nearest(name.strip(), known, 1) for name in wrong[:MAX_NAMED]}
    named = [f"{name!r}" + (f" (did you mean {meant[0]!r}?)" if meant else "") for name, meant in near.items()]
    more = f" and {len(wrong) - len(named)} more" if len(wrong) > len(named) else ""
    many = len(wrong) > 1
    shown = f"{'columns' if many else 'column'} {', '.join(named)}{more}"
    return f"{shown} {'are not known and were' if many else 'is not known and was'} passed over"


def rows_of(table: pd.DataFrame) -> list[Row | Answer]:
    """Return the rows of a table; for one with a size that is no whole number the answer that says so."""
    names = [name for name in NAMES if name in table.columns]
    sizes = [name for name in SIZES if name in table.columns]
    return [_row(record, names, sizes) for record in table[names + sizes].to_dict("records")]


def _row(record: Mapping[Any, Any], names: Sequence[str], sizes: Sequence[str]) -> Row | Answer:
    numbers = {}
    for name in sizes:
        value = record[name]
        if pd.isna(value):
            continue
        try:
            numbers[name] = int(value)
        except (ValueError, OverflowError):
            return Answer(reason=f"{name} is {value!r}; allowed: whole numbers")
        if numbers[name] != float(value):
            return Answer(reason=f"{name} is {value!r}; allowed: whole numbers")
    return Row({name: str(record[name]) for name in names if not pd.isna(record[name])}, numbers)


def predict_rows(
    rows: Sequence[Row | Answer],
    machine: str,
    overrides: Overrides = (),
    *,
    fidelity: str = "windows",
    jobs: int = 1,
    progress: Progress = silent,
) -> list[Answer]:
    """Return the answers to rows on a machine, in their order, by `jobs` processes.

    `fidelity`: one of FIDELITIES. Raises ValueError for another one, or for a machine that cannot
    be run.
    """
    if fidelity not in FIDELITIES:
        raise ValueError(f"fidelity: {unknown('fidelity', fidelity, FIDELITIES)}")
    read_anew(digests([machine]))
    machine_of(machine, overrides)
    keys = [row if isinstance(row, Answer) else _key(row) for row in rows]
    distinct = {key: row for key, row in zip(keys, rows, strict=True) if isinstance(row, Row)}
    answers: dict[Any, Answer] = {}
    progress("predict", 0, len(distinct))
    with workers(jobs) as pool:
        tasks = ((machine, overrides, row, fidelity) for row in distinct.values())
        for key, answer in zip(distinct, pool.map(_answer, tasks), strict=True):
            answers[key] = answer
            progress("predict", len(answers), len(distinct))
    return [key if isinstance(key, Answer) else answers[key] for key in keys]


def _key(row: Row) -> tuple[Any, ...]:
    kept = [name for name in row.names if name not in ("framework", "kernel") or row.op in NAMED_BY_KERNEL]
    named = tuple((name, row.names[name]) for name in sorted(kept))
    return named, tuple(sorted(row.sizes.items()))


def _answer(task: tuple[str, Overrides, Row, str]) -> Answer:
    """Predict one row, in a worker."""
    from explorer.predict import predict

    name, overrides, row, fidelity = task
    machine = machine_of(name, overrides)
    try:
        found = predict(call_of(row, machine), machine, fidelity=fidelity)
    except NotModelled as error:
        return Answer(reason=str(error))
    except (ValueError, ArithmeticError, MemoryError) as error:  # one row's fault is not that of the others
        return Answer(reason=f"{row.op}: {' '.join(str(error).split()) or type(error).__name__}")
    return Answer(
        predicted_us=found.time_fs / FS_PER_US,
        bound_us=found.bound_fs / FS_PER_US,
        limited_by=found.limited_by,
        knobs=found.knobs,
        simulated=found.simulated,
    )


def with_answers(table: pd.DataFrame, answers: Sequence[Answer]) -> pd.DataFrame:
    """Return a table with the columns that predictions add."""
    columns = {name: pd.Series([getattr(answer, name) for answer in answers], dtype=_dtype(name)) for name in ADDED}
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(columns)], axis=1)


def _dtype(name: str) -> str:
    return "float64" if name.endswith("_us") else "string"


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write a table as one Parquet file, whole or not at all; columns of mixed types as text."""
    plain = table.copy()
    for name in plain.columns:
        if plain[name].dtype == object:
            plain[name] = plain[name].astype("string")
    data = io.BytesIO()
    plain.to_parquet(data, index=False)
    write_atomically(path, data.getvalue())


def summary(answers: Sequence[Answer], table: pd.DataFrame) -> Iterator[str]:
    """Yield lines: how many rows are modelled, and the reasons of the others with their number, most frequent first."""
    if not answers:
        yield "the table has no rows, only a heading"
        return
    modelled = sum(answer.reason is None for answer in answers)
    yield f"{modelled} of {len(answers)} rows modelled"
    reasons = pd.Series([answer.reason for answer in answers if answer.reason is not None], dtype="string")
    for reason, count in reasons.value_counts(sort=True).head(20).items():
        yield f"{count:>7}  {reason}"
    if "latency_us" in table.columns and modelled:
        found = with_answers(table, answers)
        error = (found["predicted_us"] / found["latency_us"] - 1).abs().dropna()
        if len(error):
            yield f"median error against latency_us {100 * error.median():.1f} % of {len(error)} rows, all libraries"
