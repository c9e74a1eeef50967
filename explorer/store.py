"""A results folder: the study it belongs to, its space, and one Parquet file per evaluated point.

    study.json             the study, its digest, the digests of what it names, the columns that are settings
    space.parquet          every distinct point with its lower bound, and what cannot run and why
    points/000000.parquet  one row per point, in the order asked; the folder reads as one Parquet data set
    details/000000.npz     bandwidth over time and bank counts of the baseline and of every point that was
                           once the best
    journal.log            the same rows as an Optuna journal

Each file is written whole or not at all, and a row only after its details, so that a process killed at any
moment leaves a folder that can be read and continued. A folder is never shared by two studies or two
processes. A file that is damaged all the same is named; nothing is guessed from the rest.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.evaluate import Outcome
from explorer.files import LOCK, owned, remove_temporaries, write_atomically
from explorer.journal import Journal
from explorer.query import Scalar
from explorer.row import Row, Status
from explorer.space_table import space_parquet
from explorer.study import Study

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from explorer.space import Space

STUDY = "study.json"
_SPACE_COLUMNS = ("key", "bound_us", "reason")
_ROW_COLUMNS = ("point", "batch", "key", "status", "bound_us", "reason")


@dataclass(frozen=True)
class Identity:
    """What a results folder belongs to: the study, and the digests of everything it names."""

    study: Study
    inputs: Mapping[str, str]
    settings: tuple[str, ...]  # the columns of a row that say what was asked, searched knobs first
    title: str

    def record(self) -> dict[str, Any]:
        """Return the content of `study.json`."""
        return {
            "study": self.study.model_dump(),
            "study_hash": self.study.hash,
            "inputs": dict(self.inputs),
            "settings": list(self.settings),
            "title": self.title,
        }


def read_identity(folder: Path) -> Identity:
    """Return what the results folder belongs to; ValueError when it is not a results folder."""
    try:
        found = json.loads((folder / STUDY).read_bytes())
        study = Study.model_validate(found["study"])
        return Identity(study, found["inputs"], tuple(found["settings"]), found["title"])
    except FileNotFoundError:
        raise ValueError(f"{folder}: no results folder: it has no {STUDY}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / STUDY}: damaged; remove the folder or choose another") from None


def check_belongs(folder: Path, identity: Identity) -> None:
    """Raise ValueError when `folder` is in use for anything but this study."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder}: is a file, a results folder is needed")
    if not (folder / STUDY).exists():
        others = sorted(path.name for path in folder.iterdir() if path.name != LOCK and path.name[0] != ".")
        if others:
            raise ValueError(f"{folder}: not empty and no results folder (it has {others[0]}); choose another")
        return
    there = _plain(read_identity(folder).record())
    difference = _difference(_plain(identity.record()), there)
    if difference:
        raise ValueError(f"{folder}: belongs to another study: {difference}; choose another folder with --out")


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps({"study": record["study"], "inputs": record["inputs"]}))
    return dict(plain)


def _difference(here: Any, there: Any, path: str = "") -> str:
    """Return the first place where two records differ, in words; empty when they are equal."""
    if here == there:
        return ""
    if isinstance(here, dict) and isinstance(there, dict):
        for key in [*here, *(key for key in there if key not in here)]:
            found = _difference(here.get(key), there.get(key), f"{path}.{key}".lstrip("."))
            if found:
                return found
    return f"{path} is {here!r} here and {there!r} there"


def known_bounds(folder: Path) -> dict[str, float | str]:
    """Return what an earlier run found about the space by key: a bound, or the reason for none."""
    path = folder / "space.parquet"
    if not path.exists():
        return {}
    table = _read_table(path, _SPACE_COLUMNS).select(_SPACE_COLUMNS).to_pylist()
    return {row["key"]: row["reason"] or row["bound_us"] for row in table if row["key"]}


class Store:
    """The rows of one results folder; a `search.Log`."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        self._folder = folder
        self._rows = {row.key: row for row in _read_rows(folder, identity.settings)}
        in_order = [row for place, row in enumerate(self._rows.values()) if row.point == place]  # up to a missing one
        self._journal = Journal(folder / "journal.log", identity.study, in_order)

    def recall(self, key: str) -> Row | None:
        """Return the stored row of a point, None where there is none."""
        return self._rows.get(key)

    def append(self, row: Row, outcome: Outcome | None, best: bool) -> None:
        """Take the next row in the order asked; store it, with the details of the best so far, if it is not stored."""
        if row.key not in self._rows:
            if best and outcome is not None:
                write_atomically(self._folder / "details" / f"{row.point:06d}.npz", _pack(outcome))
            write_atomically(self._folder / "points" / f"{row.point:06d}.parquet", _parquet([row.record()]))
            self._rows[row.key] = row
        self._journal.append(row)

    def keep_space(self, space: Space, again: bool = False) -> None:
        """Store the space, unless it is there; `again`: with what a search has found out about it since."""
        path = self._folder / "space.parquet"
        if again or not path.exists():
            write_atomically(path, space_parquet(space))


@contextmanager
def opened(folder: Path, identity: Identity) -> Iterator[Store]:
    """Own the results folder inside the block, creating it where it is not there yet.

    Raises ValueError when it belongs to another study or another process, and OSError when it cannot be
    written.
    """
    check_belongs(folder, identity)
    folder.mkdir(parents=True, exist_ok=True)
    with owned(folder):
        remove_temporaries(folder)
        if not (folder / STUDY).exists():  # first, so that from now on the folder is known for what it is
            text = json.dumps(identity.record(), indent=1, ensure_ascii=False)
            write_atomically(folder / STUDY, text.encode())
        for part in ("points", "details"):
            (folder / part).mkdir(exist_ok=True)
        yield Store(folder, identity)


def _parquet(records: Iterable[Mapping[str, Scalar | None]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(records)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in columns})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _damaged(path: Path, remove: str = "it") -> ValueError:
    return ValueError(f"{path}: damaged or missing; remove {remove} and run the study again, which makes it anew")


def _read_table(path: Path, columns: Sequence[str]) -> Any:
    """Return the table in a Parquet file; ValueError naming the file unless it has `columns`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):  # damaged data is either of them
        raise _damaged(path) from None
    if not set(columns) <= set(table.column_names):
        raise _damaged(path)
    return table


def _tables(folder: Path) -> Any:
    import pyarrow as pa

    paths = sorted((folder / "points").glob("[0-9]*.parquet"))
    tables = [_read_table(path, _ROW_COLUMNS) for path in paths]
    return pa.concat_tables(tables, promote_options="permissive") if tables else None


def _read_rows(folder: Path, settings: Iterable[str]) -> list[Row]:
    table = _tables(folder)
    if table is None:
        return []
    names = set(settings)
    return [_row({k: v for k, v in record.items() if v is not None}, names) for record in table.to_pylist()]


def _row(record: dict[str, Any], settings: set[str]) -> Row:
    return Row(
        record["point"],
        record["batch"],
        record["key"],
        {name: value for name, value in record.items() if name in settings},
        Status(record["status"]),
        record["bound_us"],
        record["reason"],
        {name: value for name, value in record.items() if name not in settings and name not in _ROW_COLUMNS},
    )


def rows_frame(folder: Path) -> pd.DataFrame:
    """Return all rows of a results folder in the order asked, whole numbers as nullable integers."""
    table = _tables(folder)
    if table is None:
        raise ValueError(f"{folder}: no point was evaluated there yet")
    frame = _frame(table).sort_values("point", ignore_index=True)
    for place, point in enumerate(frame["point"]):
        if place != point:
            raise _damaged(folder / "points" / f"{place:06d}.parquet")
    return frame


def space_frame(folder: Path) -> pd.DataFrame:
    """Return the space of a results folder: settings, key, bounds, reason; one row per distinct point."""
    return _frame(_read_table(folder / "space.parquet", _SPACE_COLUMNS))


def _frame(table: Any) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return frame


def _pack(outcome: Outcome) -> bytes:
    import numpy as np

    arrays = {f"bandwidth/{name}": array for name, array in outcome.bandwidth.items()}
    arrays |= {f"banks/{name}": array for name, array in outcome.banks.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


_DETAILS = ("bandwidth/time_us", "bandwidth/bytes_per_second", "banks/activates", "banks/conflicts")


@dataclass(frozen=True)
class Details:
    """The pictures of one simulated point; see `evaluate.Outcome`."""

    bandwidth: pd.DataFrame
    banks: Mapping[str, np.ndarray]


def read_details(folder: Path, point: int) -> Details:
    """Return the details of the `point`-th row: the baseline, or one that was the best when simulated."""
    import numpy as np
    import pandas as pd

    path = folder / "details" / f"{point:06d}.npz"
    try:
        with np.load(io.BytesIO(path.read_bytes())) as arrays:
            parts = {name: arrays[name] for name in (*_DETAILS, *arrays.files)}
    except (OSError, EOFError, ValueError, TypeError, LookupError, zipfile.BadZipFile, zlib.error):
        raise _damaged(path, f"points/{point:06d}.parquet") from None  # with its row goes what a rerun skips
    bandwidth = {name.split("/")[1]: array for name, array in parts.items() if name.startswith("bandwidth/")}
    banks = {name.split("/")[1]: array for name, array in parts.items() if name.startswith("banks/")}
    return Details(pd.DataFrame(bandwidth), banks)
