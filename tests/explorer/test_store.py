from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pandas as pd
import pytest

from explorer.explore import explore
from explorer.files import owned, write_atomically
from explorer.progress import silent
from explorer.store import read_details, rows_frame
from explorer.study import Study
from explorer.summary import summarise

HERE = Path(__file__).parent
SCRIPT = """
import sys
from pathlib import Path
from explorer.explore import explore
from explorer.progress import silent
from explorer.study import Study
import fake_evaluator

if __name__ == "__main__":
    study = Study.model_validate_json(Path(sys.argv[1]).read_text())
    explore(study, Path(sys.argv[2]), int(sys.argv[3]), fake_evaluator.EVALUATOR, silent)
"""


def start(study: Study, folder: Path, jobs: int, seconds: float) -> subprocess.Popen[bytes]:
    home = folder.parent
    (home / "study.json").write_text(study.model_dump_json())
    (home / "search.py").write_text(SCRIPT)
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "FAKE_SECONDS": str(seconds),
        "FAKE_LOG": str(home / "simulated"),
    }
    command = [sys.executable, str(home / "search.py"), str(home / "study.json"), str(folder), str(jobs)]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def rows_so_far(folder: Path) -> int:
    return len(list((folder / "points").glob("[0-9]*.parquet")))


def journal_keys(folder: Path, study: Study) -> list[str]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "journal.log")))
    trials = optuna.load_study(study_name=study.name, storage=storage).get_trials()
    return [trial.user_attrs["key"] for trial in trials]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_search_killed_again_and_again_ends_with_the_rows_of_an_undisturbed_one(
    fake: ModuleType, study: Study, tmp_path: Path, jobs: int
) -> None:
    knobs = study.knobs | {"tile": list(range(8, 128, 4))}
    study = Study.model_validate(study.model_dump() | {"knobs": knobs, "budget": {"points": 30, "batch": 4}})
    explore(study, tmp_path / "undisturbed", 1, fake.EVALUATOR, silent)
    whole = rows_frame(tmp_path / "undisturbed")
    folder, moments = tmp_path / "killed", random.Random(jobs)
    kept: list[str] = []
    for after in (1, 6, 14):
        process = start(study, folder, jobs, seconds=0.05)
        deadline = time.monotonic() + 30
        while rows_so_far(folder) < after and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.random() * 0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found = rows_frame(folder)["key"].tolist()
        assert found[: len(kept)] == kept
        kept = found
    assert start(study, folder, jobs, seconds=0).wait(60) == 0
    pd.testing.assert_frame_equal(rows_frame(folder), whole)
    assert journal_keys(folder, study) == whole["key"].tolist()
    times = pd.Series((tmp_path / "simulated").read_text().splitlines()).value_counts()
    assert (times <= 1 + 3).all()
    assert (times > 1).sum() <= 3 * study.budget.batch  # only what was under way at a kill is simulated again


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


def test_the_points_folder_reads_as_one_parquet_data_set(fake: ModuleType, study: Study, tmp_path: Path) -> None:
    explore(study, tmp_path, 1, fake.EVALUATOR, silent)
    (tmp_path / "points" / ".000099.parquet.tmp").write_bytes(b"half a file")
    frame = pd.read_parquet(tmp_path / "points")
    assert sorted(frame["key"]) == sorted(rows_frame(tmp_path)["key"])


@pytest.mark.parametrize(
    "part",
    ["space.parquet", "points/000000.parquet", "points/000001.parquet", "points/000003.parquet", "details/000000.npz"],
)
@pytest.mark.parametrize("damage", [None, b"", b"text\n", b"PAR1 PAR1", b"PK\x03\x04 PK"])
def test_a_damaged_file_is_named_and_a_rerun_without_it_makes_it_anew(
    fake: ModuleType, study: Study, tmp_path: Path, part: str, damage: bytes | None
) -> None:
    whole = explore(study, tmp_path, 1, fake.EVALUATOR, silent).record()
    path = tmp_path / part
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(ValueError, match=re.escape(f"{path}: damaged or missing; remove ")) as caught:
        answer(tmp_path)
    assert "\n" not in str(caught.value)
    path.unlink(missing_ok=True)
    if part.startswith("details"):
        assert "remove points/000000.parquet" in str(caught.value)
        (tmp_path / "points" / "000000.parquet").unlink()
    explore(study, tmp_path, 1, fake.EVALUATOR, silent)
    assert answer(tmp_path) == whole
    assert journal_keys(tmp_path, study) == rows_frame(tmp_path)["key"].tolist()


def answer(folder: Path) -> dict[str, Any]:
    """Read all that a report is made from."""
    summary = summarise(folder)
    read_details(folder, int(summary.baseline["point"]))
    read_details(folder, int(summary.best["point"]))
    return summary.record()


def test_workers_end_when_the_search_is_killed(study: Study, tmp_path: Path) -> None:
    process = start(study, tmp_path / "out", jobs=2, seconds=0.3)
    deadline = time.monotonic() + 30
    while rows_so_far(tmp_path / "out") < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    group = process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 5
    with pytest.raises(ProcessLookupError):  # noqa: PT012
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.05)


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
