"""Results folders that others wrote: whatever stands in them is read, or refused in one line that names the file."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from explorer.explore import explore
from explorer.progress import silent
from explorer.storage.details import read_pictures, unpack
from explorer.storage.folder import rows_frame
from explorer.study.study import Study
from explorer.summary import summarise

Change = Callable[[Path], object]
STUDY = Study.model_validate(
    {"name": "small", "machine": "nowhere", "kernel": "fake", "knobs": {"tile": [16, 32]}, "budget": {"points": 3}}
)
ROW = {"point": 2, "batch": 0, "key": "k", "status": "pruned", "bound_us": 1.0, "reason": "", "details": False}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A results folder of a small study."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        import fake_evaluator

        folder = tmp_path_factory.mktemp("finished") / "out"
        explore(STUDY, folder, 1, fake_evaluator.EVALUATOR, silent)
        yield folder


def column(file: str, name: str, value: Any = None, *, drop: bool = False) -> Change:
    def change(folder: Path) -> None:
        table = pq.read_table(folder / file)
        place = table.column_names.index(name)
        there = table.drop_columns([name])
        pq.write_table(
            there if drop else there.add_column(place, name, [pa.array([value] * len(table))]), folder / file
        )

    return change


def line(**fields: Any) -> Change:
    text = json.dumps(ROW | fields).encode()
    return lambda folder: (folder / "rows.jsonl").write_bytes(text[:-1] + b', "crc": "%08x"}\n' % zlib.crc32(text))


def identity(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "study.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


CHANGES: dict[str, Change] = {
    **{f"without {name}": column("points.parquet", name, drop=True) for name in ("key", "details", "time_us", "tile")},
    **{f"null {name}": column("points.parquet", name) for name in ("point", "status", "time_us")},
    **{f"another {name}": column("points.parquet", name, "x") for name in ("bound_us", "time_us")},
    "key of numbers": column("points.parquet", "key", 5),
    "no status": column("points.parquet", "status", "evil"),
    "one point": column("points.parquet", "point", 0),
    **{f"space without {name}": column("space.parquet", name, drop=True) for name in ("key",)},
    **{f"space of {name}": column("space.parquet", name, "5") for name in ("bound_us",)},
    **{f"space, null {name}": column("space.parquet", name) for name in ("key", "bound_us", "reason")},
    "large point": line(point=10**30),
    "negative point": line(point=-1),
    "true point": line(point=True),
    "later point": line(point=7),
    "line of texts": line(batch="x", key=3),
    "text for a number": line(cycles="many"),
    "large number": line(cycles=10**30),
    "inputs": identity(inputs=3),
    "inputs of numbers": identity(inputs={"machine": 1}),
    "settings of tables": identity(settings=[{}]),
    "title": identity(title=None),
    "study": identity(study=3),
    "deep": lambda folder: (folder / "study.json").write_text("[" * 10**5),
}


def said(ask: Callable[[], object]) -> str:
    """Return what the error says, nothing without one."""
    try:
        ask()
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", CHANGES)
def test_what_stands_in_a_results_folder_is_read_or_refused_in_one_line(
    fake: ModuleType, finished: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished, folder)
    CHANGES[name](folder)
    for ask in (summarise, rows_frame, lambda there: explore(STUDY, there, 1, fake.EVALUATOR, silent)):
        error = said(lambda ask=ask: ask(folder))  # type: ignore[misc]
        assert "\n" not in error
        assert not error or str(folder) in error or "results of small: " in error or "stored rows" in error


def header(shape: str, dtype: str = "<f8") -> bytes:
    """An array of eight bytes that says to have another shape and type."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(8)


@pytest.mark.parametrize("member", [header("(1 << 40,)"), header(f"({1 << 40},)"), header("(1,)", "|O"), b"no array"])
def test_pictures_that_say_to_be_larger_than_they_are_are_damaged(member: bytes) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name in ("bandwidth/time_us", "bandwidth/bytes_per_second", "banks/activates"):
            archive.writestr(f"{name}.npy", header("(1,)"))
        archive.writestr("banks/conflicts.npy", member)
    with pytest.raises(ValueError, match=r"^damaged details$"):
        unpack(whole.getvalue())


def test_a_file_of_pictures_without_end_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explorer.storage.details.MAX_BYTES", 1 << 10)
    (tmp_path / "000000.npz").write_bytes(bytes(1 << 11))
    with pytest.raises(ValueError, match="details without end"):
        read_pictures(tmp_path / "000000.npz")


def test_pictures_that_are_larger_than_they_look_are_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"bandwidth/time_us": np.zeros(1), "bandwidth/bytes_per_second": np.zeros(1)}
    arrays |= {"banks/activates": np.zeros(1 << 16), "banks/conflicts": np.zeros(1)}
    whole = io.BytesIO()
    np.savez_compressed(whole, **arrays)  # type: ignore[arg-type]
    assert len(unpack(whole.getvalue())[1]["activates"]) == 1 << 16
    monkeypatch.setattr("explorer.storage.details.MAX_BYTES", 1 << 19)
    with pytest.raises(ValueError, match="damaged details"):
        unpack(whole.getvalue())
