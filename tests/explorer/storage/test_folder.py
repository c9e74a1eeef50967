from __future__ import annotations

import os
import re
import shutil
import threading
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pandas as pd
import pytest

from explorer.explore import explore
from explorer.files import owned, write_atomically
from explorer.progress import silent
from explorer.storage.folder import read_details, rows_frame
from explorer.storage.row_file import RowFile
from explorer.study.study import Study
from explorer.summary import summarise


def journal_keys(folder: Path, study: Study) -> list[str]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "journal.log")))
    trials = optuna.load_study(study_name=study.name, storage=storage).get_trials()
    return [trial.user_attrs["key"] for trial in trials]


def test_a_finished_search_run_again_simulates_nothing(
    fake: ModuleType, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = explore(study, tmp_path / "out", 1, fake.EVALUATOR, silent)
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "simulated"))
    assert explore(study, tmp_path / "out", 1, fake.EVALUATOR, silent).record() == first.record()
    assert not (tmp_path / "simulated").exists()


@pytest.mark.parametrize("damage", ["torn", "lost", "foreign", "number", "list", "operation", "binary"])
def test_a_journal_that_a_kill_left_torn_or_behind_is_made_to_agree_with_the_rows(
    fake: ModuleType, study: Study, tmp_path: Path, damage: str
) -> None:
    explore(study, tmp_path, 1, fake.EVALUATOR, silent)
    journal = tmp_path / "journal.log"
    data = journal.read_bytes()
    lines = data.splitlines(keepends=True)
    damages = {
        "torn": data[:-20],
        "lost": b"".join(lines[:3]),
        "foreign": b"not a journal\n",
        "number": b"1\n",
        "list": b"[]\n" + data,
        "operation": data + b'{"op_code": 4, "worker_id": "w"}\n',
        "binary": b"\xff\x00\n",
    }
    journal.write_bytes(damages[damage])
    (tmp_path / "journal.log.lock").symlink_to(journal)  # as a killed process leaves it
    explore(study, tmp_path, 1, fake.EVALUATOR, silent)
    assert journal_keys(tmp_path, study) == rows_frame(tmp_path)["key"].tolist()


def test_a_finished_study_is_one_parquet_file_and_a_running_one_lines_of_json_after_it(
    fake: ModuleType, study: Study, tmp_path: Path
) -> None:
    explore(study, tmp_path, 1, fake.EVALUATOR, silent)
    frame = rows_frame(tmp_path)
    assert pd.read_parquet(tmp_path / "points.parquet")["key"].tolist() == frame["key"].tolist()
    assert (tmp_path / "rows.jsonl").read_bytes() == b""
    packed, rows = (tmp_path / "points.parquet").read_bytes(), RowFile(tmp_path)
    rows.append(rows.records[-1] | {"point": len(frame)})
    line = (tmp_path / "rows.jsonl").read_bytes()
    rows.close()
    (tmp_path / "points.parquet").write_bytes(packed)
    (tmp_path / "rows.jsonl").write_bytes(line)  # as a killed process leaves it
    lines = pd.read_json(tmp_path / "rows.jsonl", lines=True)
    assert lines["point"].tolist() == [len(frame)]
    assert rows_frame(tmp_path)["key"].tolist() == [*frame["key"], frame["key"].iloc[-1]]
    assert rows_frame(tmp_path).columns.tolist() == frame.columns.tolist()


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("space.parquet", None),
        ("space.parquet", b"PAR1 PAR1"),
        ("points.parquet", None),
        ("points.parquet", b""),
        ("points.parquet", b"PAR1 PAR1"),
        ("details/000000.npz", None),
        ("details/000000.npz", b"PK\x03\x04 PK"),
    ],
)
def test_a_damaged_file_is_named_and_a_rerun_without_it_makes_it_anew(
    fake: ModuleType, study: Study, tmp_path: Path, part: str, damage: bytes | None
) -> None:
    whole = explore(study, tmp_path, 1, fake.EVALUATOR, silent).record()
    path = tmp_path / part
    path.unlink() if damage is None else path.write_bytes(damage)
    lost = damage is None and part == "points.parquet"
    said = f"{tmp_path}: no point was evaluated there yet" if lost else f"{path}: damaged or missing; remove "
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        answer(tmp_path)
    assert "\n" not in str(caught.value)
    path.unlink(missing_ok=True)
    explore(study, tmp_path, 1, fake.EVALUATOR, silent)
    assert answer(tmp_path) == whole
    assert journal_keys(tmp_path, study) == rows_frame(tmp_path)["key"].tolist()


@pytest.fixture
def unpacked(fake: ModuleType, study: Study, tmp_path: Path) -> Path:
    """A results folder as a kill leaves it: every row in a line, none packed."""
    explore(study, tmp_path / "packed", 1, fake.EVALUATOR, silent)
    source = RowFile(tmp_path / "packed")
    shutil.copytree(tmp_path / "packed", tmp_path / "out", ignore=shutil.ignore_patterns("points.parquet"))
    rows = RowFile(tmp_path / "out")
    for record in source.records:
        rows.append(record)
    lines = (tmp_path / "out" / "rows.jsonl").read_bytes()
    rows.close()
    source.close()
    (tmp_path / "out" / "points.parquet").unlink()
    (tmp_path / "out" / "rows.jsonl").write_bytes(lines)
    return tmp_path / "out"


@pytest.mark.parametrize("cut", [1, 2, 40, 10**4])
def test_a_line_that_a_kill_left_unfinished_is_no_row(fake: ModuleType, study: Study, unpacked: Path, cut: int) -> None:
    path = unpacked / "rows.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][: max(0, len(lines[5]) - cut)])
    assert len(rows_frame(unpacked)) == 5
    explore(study, unpacked, 1, fake.EVALUATOR, silent)
    pd.testing.assert_frame_equal(rows_frame(unpacked), rows_frame(unpacked.parent / "packed"))


@pytest.mark.parametrize("line", [0, 3, -1])
def test_a_damaged_line_is_named_and_its_row_made_anew(
    fake: ModuleType, study: Study, unpacked: Path, line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = unpacked / "rows.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"head", b"heap", 1)
    path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=rf"rows.jsonl: line {line % len(lines) + 1} is damaged; run the study again"):
        rows_frame(unpacked)
    monkeypatch.setenv("FAKE_LOG", str(unpacked.parent / "simulated"))
    explore(study, unpacked, 1, fake.EVALUATOR, silent)
    assert len((unpacked.parent / "simulated").read_text().splitlines()) == 1
    pd.testing.assert_frame_equal(rows_frame(unpacked), rows_frame(unpacked.parent / "packed"))


@pytest.mark.parametrize("text", ['{"point": 0}', '{"point": {}}', "[" * 10**5, "1", '{"point": "0"}', ""])
def test_a_line_from_elsewhere_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    data = text.encode()
    (tmp_path / "rows.jsonl").write_bytes(data[:-1] + b', "crc": "%08x"}\n' % zlib.crc32(data))
    with pytest.raises(ValueError, match=r"rows.jsonl: .*damaged") as caught:
        rows_frame(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_reader_sees_every_row_while_they_are_packed_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("explorer.storage.row_file.FEW_LINES", 3)
    record = {"point": 0, "batch": 0, "key": "", "status": "pruned", "bound_us": 1.5, "reason": "", "details": False}
    written, ended = [0], threading.Event()

    def write() -> None:
        rows = RowFile(tmp_path)
        for point in range(60):
            rows.append(record | {"point": point, "key": str(point)})
            written[0] = point + 1
        rows.close()
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not ended.is_set() or not seen:
        before = written[0]
        if before:
            seen.append(len(rows_frame(tmp_path)))
            assert before <= seen[-1]
    writer.join()
    assert rows_frame(tmp_path)["key"].tolist() == [str(point) for point in range(60)]


def answer(folder: Path) -> dict[str, Any]:
    """Read all that a report is made from."""
    summary = summarise(folder)
    read_details(folder, int(summary.baseline["point"]))
    read_details(folder, int(summary.best["point"]))
    return summary.record()


def test_a_folder_of_another_study_is_refused_and_left_as_it_was(
    fake: ModuleType, study: Study, tmp_path: Path
) -> None:
    explore(study, tmp_path, 1, fake.EVALUATOR, silent)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"belongs to another study: study.seed is 7 here and 0 there"):
        explore(study.with_seed(7), tmp_path, 1, fake.EVALUATOR, silent)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_things_in_it_is_refused(fake: ModuleType, study: Study, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"not empty and no results folder \(it has thesis.tex\)"):
        explore(study, tmp_path, 1, fake.EVALUATOR, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_a_kill_left_before_its_first_file_is_taken(
    fake: ModuleType, study: Study, tmp_path: Path
) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / ".study.json.tmp").write_text('{"stu')
    summary = explore(study, tmp_path, 1, fake.EVALUATOR, silent)
    assert len(rows_frame(tmp_path)) == summary.points
    assert not (tmp_path / ".study.json.tmp").exists()


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    with owned(tmp_path), pytest.raises(ValueError, match="another run is writing"), owned(tmp_path):
        pass
    with owned(tmp_path):
        pass


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
