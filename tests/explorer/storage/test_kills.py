from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import optuna
import pandas as pd
import pytest

from explorer.explore import explore
from explorer.progress import silent
from explorer.storage.folder import restore, rows_frame
from explorer.study.study import Study

HERE = Path(__file__).parents[1]
SCRIPT = """
import sys
from pathlib import Path
from explorer.explore import explore
from explorer.progress import silent
from explorer.storage.row_file import RowFile
from explorer.study.study import Study
import fake_evaluator

if __name__ == "__main__":
    study = Study.model_validate_json(Path(sys.argv[1]).read_text())
    where = dict(argument.split("=", 1) for argument in sys.argv[4:])
    explore(study, Path(sys.argv[2]), int(sys.argv[3]), fake_evaluator.EVALUATOR, silent, **where)
"""


def start(study: Study, folder: Path, jobs: int, seconds: float, **where: str) -> subprocess.Popen[bytes]:
    home = folder.parent
    home.mkdir(exist_ok=True)
    (home / "study.json").write_text(study.model_dump_json())
    (home / "search.py").write_text(SCRIPT)
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "FAKE_SECONDS": str(seconds),
        "FAKE_LOG": str(home / "simulated"),
    }
    command = [sys.executable, str(home / "search.py"), str(home / "study.json"), str(folder), str(jobs)]
    command += [f"{name}={value}" for name, value in where.items()]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def rows_so_far(folder: Path) -> int:
    try:
        return len(rows_frame(folder))
    except ValueError:  # none yet
        return 0


def journal_keys(folder: Path, study: Study) -> list[str]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "journal.log")))
    trials = optuna.load_study(study_name=study.name, storage=storage).get_trials()
    return [trial.user_attrs["key"] for trial in trials]


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_search_killed_again_and_again_ends_with_the_rows_of_an_undisturbed_one(
    fake: ModuleType, study: Study, tmp_path: Path, jobs: int
) -> None:
    knobs = study.knobs | {"tile": list(range(8, 128, 4))}
    study = Study.model_validate(study.model_dump() | {"knobs": knobs, "budget": {"points": 30, "batch": 4}})
    explore(study, tmp_path / "undisturbed", 1, fake.EVALUATOR, silent)
    whole = rows_frame(tmp_path / "undisturbed")
    folder, moments = tmp_path / "killed", random.Random(jobs)
    kept: list[str] = []
    for after in (1, 12):
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
    assert (times <= 1 + 2).all()
    assert (times > 1).sum() <= 2 * study.budget.batch  # only what was under way at a kill is simulated again


def workers_of(driver: int) -> list[int]:
    """Return the worker processes of a driver, none when it is gone."""
    found = []
    for children in Path(f"/proc/{driver}/task").glob("*/children"):
        try:
            for child in children.read_text().split():
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
        except OSError:  # it ended meanwhile
            continue
    return found


def kill_one(process: subprocess.Popen[bytes], dice: random.Random) -> str:
    """Kill the driver, or one of its workers where it has any; return which it was, "" for neither."""
    late = dice.random() < 0.8  # otherwise perhaps before it has any
    while late and process.poll() is None and not workers_of(process.pid):
        time.sleep(0.01)
    time.sleep(dice.random())
    victims = [process.pid, *workers_of(process.pid)]
    victim = dice.choice(victims)
    if process.poll() is not None:
        return ""
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return ""
    return "driver" if victim == process.pid else "worker"


@pytest.mark.parametrize(
    "kills", [pytest.param(10, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.nightly)]
)
def test_drivers_and_workers_killed_at_random_moments_leave_the_rows_of_an_undisturbed_search(
    fake: ModuleType, study: Study, tmp_path: Path, kills: int
) -> None:
    changes = {"knobs": study.knobs | {"tile": list(range(8, 128, 2))}, "budget": {"points": 60, "batch": 4}}
    study = Study.model_validate(study.model_dump() | changes | {"sampler": "random"})
    explore(study, tmp_path / "undisturbed", 1, fake.EVALUATOR, silent)
    whole = rows_frame(tmp_path / "undisturbed")
    dice, killed, rounds = random.Random(kills), [""], 0
    while sum(map(bool, killed)) < kills:
        rounds += 1
        folder = tmp_path / str(rounds)
        kept: list[str] = []
        while True:
            process = start(study, folder, 2, seconds=0.1)
            while process.poll() is None and killed[-1] != "driver" and sum(map(bool, killed)) < kills:
                killed.append(kill_one(process, dice))
            killed.append("")
            status = process.wait(300)
            kept = check_readable(folder, study, kept, whole)
            if status == 0:
                break
        assert (folder / "points.parquet").read_bytes() == (tmp_path / "undisturbed" / "points.parquet").read_bytes()
        assert journal_keys(folder, study) == whole["key"].tolist()
    print({victim: killed.count(victim) for victim in ("driver", "worker")}, "kills in", rounds, "searches")


@pytest.mark.postgres
def test_drivers_killed_on_two_computers_in_turn_leave_the_rows_of_an_undisturbed_search_in_the_database(
    fake: ModuleType, study: Study, tmp_path: Path, database: str
) -> None:
    changes = {"knobs": study.knobs | {"tile": list(range(8, 128, 2))}, "budget": {"points": 60, "batch": 4}}
    study = Study.model_validate(study.model_dump() | changes | {"sampler": "random"})
    explore(study, tmp_path / "undisturbed", 1, fake.EVALUATOR, silent)
    dice = random.Random(1)
    for turn in range(6):
        process = start(study, tmp_path / ("here", "there")[turn % 2] / "in-turn", 2, seconds=0.3, storage=database)
        while process.poll() is None and not workers_of(process.pid):
            time.sleep(0.01)
        time.sleep(1 + dice.random())
        process.kill()
        process.wait()
        time.sleep(0.5)  # until the server has noticed
    for home in ("there", "here"):
        assert start(study, tmp_path / home / "in-turn", 2, seconds=0, storage=database).wait(300) == 0
    restore(tmp_path / "elsewhere" / "in-turn", database)
    whole = (tmp_path / "undisturbed" / "points.parquet").read_bytes()
    for home in ("here", "there", "elsewhere"):
        assert (tmp_path / home / "in-turn" / "points.parquet").read_bytes() == whole


def check_readable(folder: Path, study: Study, kept: list[str], whole: pd.DataFrame) -> list[str]:
    """Check that all files of a folder can be read after a kill and that no row is lost or wrong; return the keys."""
    if not rows_so_far(folder):
        assert kept == []
        return []
    found = rows_frame(folder)
    assert found["key"].tolist()[: len(kept)] == kept
    assert found["key"].is_unique
    for column in ("key", "status", "time_us", "bound_us"):
        pd.testing.assert_series_equal(found[column], whole[column][: len(found)])
    assert journal_keys(folder, study) == found["key"].tolist()[: len(journal_keys(folder, study))]
    if (folder / "points.parquet").exists():
        pd.read_parquet(folder / "points.parquet")
    pd.read_parquet(folder / "space.parquet")
    return list(found["key"])


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
