"""A results folder: the study it belongs to, its space, and a row for every evaluated point.

    study.json          the study, its digest, where its file lay, the digests of what it names, the columns that are
                        settings
    space.parquet       every distinct point with its lower bound, and what cannot run and why
    points.parquet      the rows in the order asked, as far as they are packed; rows.jsonl has those after them
    details/000000.npz  bandwidth over time and bank counts of the baseline and of every point that was once the best
    journal.log         the same rows as an Optuna journal

Each file is written whole or not at all, or line by line, and a row only after its details, so that a process killed
at any moment leaves a folder that can be read and continued. A folder is never shared by two studies or two
processes. A file that is damaged all the same is named; nothing is guessed from the rest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.evaluate import Outcome
from explorer.files import LOCK, owned, remove_temporaries, write_atomically
from explorer.interruption import uninterrupted
from explorer.space.table import COMBINATIONS, combinations, space_parquet
from explorer.storage.details import Details, pack, read_pictures
from explorer.storage.journal import Journal
from explorer.storage.postgres import SharedLog, SharedStudy
from explorer.storage.postgres_url import parse_url
from explorer.storage.row import Row, Status
from explorer.storage.row_file import FIELDS, PACKED, RowFile, damaged, read_parquet, read_rows
from explorer.study.objective import OBJECTIVES
from explorer.study.study import Study

if TYPE_CHECKING:
    import pandas as pd

    from explorer.space.space import Space

STUDY, SPACE = "study.json", "space.parquet"
_SPACE_FIELDS = {"key": str, "bound_us": float, "reason": str}
_ASKED = ("machine", "model", "batch", "routing")  # those of `inputs` that say what was asked
_DETAILED = "details"  # a column of what is stored alone: whether there is a file of details


@dataclass(frozen=True)
class Identity:
    """What a results folder belongs to: the study, and the digests of everything it names."""

    study: Study
    inputs: Mapping[str, str]
    settings: tuple[str, ...]  # the columns of a row that say what was asked, searched knobs first
    title: str

    def record(self, folder: Path) -> dict[str, Any]:
        """Return the content of `study.json` in a results folder, from which the path of the study's file starts."""
        file = self.study.file  # maybe a link: paths in it start where the link lies
        lies = None if file is None else os.path.relpath(file.parent.resolve() / file.name, folder.resolve())
        return {
            "study": self.study.model_dump(),
            "study_hash": self.study.hash,
            "study_file": lies,
            "inputs": dict(self.inputs),
            "settings": list(self.settings),
            "title": self.title,
        }


def read_identity(folder: Path) -> Identity:
    """Return what the results folder belongs to; ValueError when it is not a results folder."""
    try:
        return _identity(json.loads((folder / STUDY).read_bytes()), folder, folder / STUDY)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder}: no results folder: it has no {STUDY}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{folder / STUDY}: damaged; remove the folder or choose another") from None


def _identity(record: Any, folder: Path, where: object) -> Identity:
    try:
        study = Study.model_validate(record["study"])
        if (file := record.get("study_file")) is not None:
            study = study.read_from(Path(os.path.normpath(folder.resolve() / file)))
        inputs, settings, title = dict(record["inputs"]), list(record["settings"]), record["title"]
        if not all(isinstance(text, str) for text in (*inputs.values(), *settings, title)):
            raise TypeError
        return Identity(study, inputs, tuple(settings), title)
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{where}: damaged") from None


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
    difference = _difference(_plain(identity), _plain(read_identity(folder)))
    if difference:
        raise ValueError(f"{folder}: belongs to another study: {difference}; choose another folder with --out")


def check_inputs(folder: Path, identity: Identity, inputs: Mapping[str, str]) -> None:
    """Raise ValueError unless what the study of `folder` names is what it was when its results were computed.

    `inputs`: the digests of it now. The simulator may be another one, and lengths may come from elsewhere.
    """
    there = {name: digest for name, digest in identity.inputs.items() if name.rpartition(".")[2] in _ASKED}
    difference = _difference({name: inputs.get(name) for name in there}, there, "inputs")
    if difference:
        restored = f"make it what it was, or explore the study again with another --out than {folder}"
        raise ValueError(f"{folder}: belongs to another study: {difference}; {restored}")


def _plain(identity: Identity) -> dict[str, Any]:
    plain = json.loads(json.dumps({"study": identity.study.model_dump(), "inputs": dict(identity.inputs)}))
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
    path = folder / SPACE
    if not path.exists():
        return {}
    table = read_parquet(path, _SPACE_FIELDS).select(list(_SPACE_FIELDS)).to_pylist()
    known = {row["key"]: row["reason"] or row["bound_us"] for row in table if row["key"]}
    if None in known.values():
        raise damaged(path)
    return known


class Store:
    """The rows of one results folder; a `search.Log`. With `shared`, they are in a database, too.

    Ctrl-C waits until what is being stored is.
    """

    def __init__(self, folder: Path, identity: Identity, shared: SharedStudy | None = None) -> None:
        self._folder, self._settings, self._study = folder, set(identity.settings), identity.study
        self._shared = shared if isinstance(shared, SharedLog) else None
        self._file = RowFile(folder)
        kept = [record for record in self._file.records if not record[_DETAILED] or self._details(record["point"])]
        self._rows = {row.key: row for row in (self._row(record, folder / PACKED) for record in kept)}
        if shared is not None:
            self._take(shared)
        rows = sorted(self._rows.values(), key=lambda row: row.point)
        in_order = [row for place, row in enumerate(rows) if row.point == place]  # up to a missing one
        self._journal = Journal(folder / "journal.log", identity.study, in_order)
        for row in in_order:
            self._share(row)

    def recall(self, key: str) -> Row | None:
        """Return the stored row of a point, None where there is none."""
        return self._rows.get(key)

    def append(self, row: Row, outcome: Outcome | None, best: bool) -> None:
        """Take the next row in the order asked; store it, with the details of the best so far, if it is not stored."""
        with uninterrupted():
            if row.key not in self._rows:
                self._keep(row, pack(outcome) if best and outcome is not None else None)
            self._journal.append(row)
            self._share(row)

    def keep_space(self, space: Space, again: bool = False) -> None:
        """Store the space, unless it is there; `again`: with what a search has found out about it since."""
        path = self._folder / SPACE
        with uninterrupted():
            if again or not path.exists():
                write_atomically(path, space_parquet(space))
            if self._shared is not None:
                self._shared.keep_space(path.read_bytes(), again)

    def close(self) -> None:
        """Bring all that is kept into its final form."""
        with uninterrupted():
            self._file.close()
            self._journal.flush()

    def _keep(self, row: Row, details: bytes | None) -> None:
        if details is not None:
            write_atomically(_details_path(self._folder, row.point), details)
        self._file.append(row.record() | {_DETAILED: details is not None})
        self._rows[row.key] = row

    def _details(self, point: int) -> bytes | None:
        path = _details_path(self._folder, point)
        return path.read_bytes() if path.exists() else None

    def _take(self, shared: SharedStudy) -> None:
        """Keep what is in a database and not here."""
        space = shared.space()
        if space is not None and not (self._folder / SPACE).exists():
            write_atomically(self._folder / SPACE, space)
        for record, details in shared.rows():
            row = self._row(record, shared.where)
            if row.key not in self._rows:
                self._keep(row, details)

    def _row(self, record: Mapping[str, Any], where: object) -> Row:
        """Return the row of a record; ValueError saying where it stands unless a search can read it."""
        try:
            if any(type(record[name]) is not kind for name, kind in FIELDS.items() if name != _DETAILED):
                raise TypeError
            row = _row(record, self._settings)
            for name in self._study.objectives:
                row.value(OBJECTIVES[name])
                row.bound(OBJECTIVES[name])
        except (KeyError, TypeError, ValueError):
            raise damaged(where) from None
        return row

    def _share(self, row: Row) -> None:
        if self._shared is not None:
            self._shared.append(row, self._details(row.point))


@contextmanager
def opened(folder: Path, identity: Identity, storage: str | None = None) -> Iterator[Store]:
    """Own the results folder inside the block, creating it where it is not there yet.

    `storage`: the URL of a PostgreSQL database that has, or gets, the same rows in a study of the folder's name.
    Raises ValueError when either belongs to another study or another process, and OSError when it cannot be
    written.
    """
    with (
        _joined(storage, folder, identity) as shared,  # first, so that without it no folder is made
        _owned(folder, identity),
        _store(folder, identity, shared) as store,
    ):
        yield store


def restore(folder: Path, storage: str) -> None:
    """Make the results folder from the study of its name in a database, or add what it lacks.

    Raises ValueError where there is no such study, or the folder belongs to another.
    """
    with closing(SharedStudy(parse_url(storage), folder.resolve().name)) as shared:
        record = shared.identity()
        if record is None:
            raise ValueError(f"{shared.where}: there is none of that name")
        identity = _identity(record, folder, shared.where)
        with _owned(folder, identity):
            here = read_identity(folder) if (folder / STUDY).exists() else identity  # knows where its study lies
            with _store(folder, here, shared):
                pass


@contextmanager
def _owned(folder: Path, identity: Identity) -> Iterator[None]:
    check_belongs(folder, identity)
    folder.mkdir(parents=True, exist_ok=True)
    with owned(folder):
        remove_temporaries(folder)
        yield


@contextmanager
def _store(folder: Path, identity: Identity, shared: SharedStudy | None) -> Iterator[Store]:
    content = json.dumps(identity.record(folder), indent=1, ensure_ascii=False).encode()
    path = folder / STUDY
    if not path.exists() or path.read_bytes() != content:  # first, so that from now on the folder is known for
        write_atomically(path, content)  # what it is, and where the study lies now
    (folder / "details").mkdir(exist_ok=True)
    with closing(Store(folder, identity, shared)) as store:
        yield store


@contextmanager
def _joined(storage: str | None, folder: Path, identity: Identity) -> Iterator[SharedLog | None]:
    """Own the study of the folder's name in a database inside the block, where one is named."""
    if storage is None:
        yield None
        return
    shared = SharedLog(parse_url(storage), folder.resolve().name, identity.study)
    with closing(shared):
        there = shared.identity()
        if there is None:
            shared.keep_identity(identity.record(folder) | {"study_file": None})  # it lies beside one folder of many
        elif difference := _difference(_plain(identity), _plain(_identity(there, folder, shared.where))):
            raise ValueError(f"{shared.where}: belongs to another study: {difference}; choose another name with --out")
        yield shared


def _row(record: Mapping[str, Any], settings: set[str]) -> Row:
    return Row(
        record["point"],
        record["batch"],
        record["key"],
        {name: value for name, value in record.items() if name in settings},
        Status(record["status"]),
        record["bound_us"],
        record["reason"],
        {name: value for name, value in record.items() if name not in settings and name not in FIELDS},
    )


def rows_frame(folder: Path) -> pd.DataFrame:
    """Return all rows of a results folder in the order asked, whole numbers as nullable integers."""
    table = read_rows(folder)
    if table is None:
        raise ValueError(f"{folder}: no point was evaluated there yet")
    return _frame(table.drop_columns([_DETAILED]))


def space_frame(folder: Path) -> pd.DataFrame:
    """Return the space of a results folder: settings, key, bounds, reason; one row per distinct point.

    `attrs` say how many `combinations` it has, where the folder says so.
    """
    table = read_parquet(folder / SPACE, _SPACE_FIELDS)
    frame = _frame(table)
    frame.attrs[COMBINATIONS] = combinations(table)
    return frame


def _frame(table: Any) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return frame


def _details_path(folder: Path, point: int) -> Path:
    return folder / "details" / f"{point:06d}.npz"


def read_details(folder: Path, point: int) -> Details:
    """Return the details of the `point`-th row: the baseline, or one that was the best when simulated."""
    import pandas as pd

    path = _details_path(folder, point)
    try:
        bandwidth, banks = read_pictures(path)
    except (OSError, ValueError):
        raise damaged(path) from None
    return Details(pd.DataFrame(bandwidth), banks)
