from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType

import pandas as pd
import pytest
import services

from explorer.explore import explore
from explorer.postgres_url import parse_url
from explorer.progress import Progress, silent
from explorer.store import read_identity, restore, rows_frame
from explorer.study import Study
from explorer.summary import summarise

SECRET = services.SECRET


def stopping(after: int) -> Progress:
    """A progress that interrupts the search at a number of points."""

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "points" and done == after:
            raise KeyboardInterrupt

    return progress


def files(folder: Path) -> dict[str, bytes]:
    """All of a results folder but the journal, which has times of day, and the lock."""
    parts = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("journal.log", "lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in parts}


@pytest.mark.postgres
def test_a_study_is_continued_on_another_computer_from_the_database_alone(
    fake: ModuleType, study: Study, tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "continued"
    explore(study, tmp_path / "undisturbed", 1, fake.EVALUATOR, silent)
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "simulated"))
    with pytest.raises(KeyboardInterrupt):
        explore(study, tmp_path / "here" / name, 1, fake.EVALUATOR, stopping(3), storage=database)
    with pytest.raises(KeyboardInterrupt):
        explore(study, tmp_path / "there" / name, 1, fake.EVALUATOR, stopping(6), storage=database)
    explore(study, tmp_path / "here" / name, 1, fake.EVALUATOR, silent, storage=database)
    simulated = (tmp_path / "simulated").read_text().splitlines()
    assert len(simulated) == len(set(simulated))
    assert files(tmp_path / "here" / name) == files(tmp_path / "undisturbed")
    restore(tmp_path / "elsewhere" / name, database)
    assert files(tmp_path / "elsewhere" / name) == files(tmp_path / "undisturbed")
    assert summarise(tmp_path / "elsewhere" / name) == summarise(tmp_path / "undisturbed")


@pytest.mark.postgres
def test_optuna_reads_from_the_database_what_it_reads_from_the_journal(
    fake: ModuleType, study: Study, tmp_path: Path, database: str
) -> None:
    import optuna

    study = Study.model_validate(study.model_dump() | {"baseline": {"tile": 8}, "sampler": "random"})
    folder = tmp_path / "read-by-optuna"
    explore(study, folder, 1, fake.EVALUATOR, silent, storage=database)
    in_file = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "journal.log")))
    here = optuna.load_study(study_name=study.name, storage=in_file).get_trials()
    storage = optuna.storages.RDBStorage(parse_url(database).sqlalchemy_url())
    there = optuna.load_study(study_name=folder.name, storage=storage).get_trials()
    storage.engine.dispose()
    assert len(here) == len(rows_frame(folder))
    for a, b in zip(here, there, strict=True):
        assert (a.number, a.state, a.values, a.params, a.distributions) == (
            b.number,
            b.state,
            b.values,
            b.params,
            b.distributions,
        )
        assert a.user_attrs.items() <= b.user_attrs.items()
    assert {trial.state.name for trial in there} == {"COMPLETE", "PRUNED"}


@pytest.mark.postgres
def test_a_second_run_is_refused_while_the_first_one_writes_and_let_in_when_it_was_killed(
    fake: ModuleType, study: Study, tmp_path: Path, database: str
) -> None:
    program = """
import sys, time
from pathlib import Path
from explorer.store import opened, read_identity
if __name__ == "__main__":
    with opened(Path(sys.argv[2]), read_identity(Path(sys.argv[1])), sys.argv[3]):
        print("in", flush=True)
        time.sleep(60)
"""
    explore(study, tmp_path / "first", 1, fake.EVALUATOR, silent)
    (tmp_path / "hold.py").write_text(program)
    folders = [str(tmp_path / "first"), str(tmp_path / "a" / "locked")]
    holder = subprocess.Popen([sys.executable, str(tmp_path / "hold.py"), *folders, database], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"in\n"
        with pytest.raises(ValueError, match=r"study locked: another run is writing there now"):
            explore(study, tmp_path / "b" / "locked", 1, fake.EVALUATOR, silent, storage=database)
        os.kill(holder.pid, signal.SIGKILL)
    time.sleep(0.5)
    explore(study, tmp_path / "b" / "locked", 1, fake.EVALUATOR, silent, storage=database)
    assert files(tmp_path / "b" / "locked") == files(tmp_path / "first")


@pytest.mark.postgres
def test_a_lost_connection_ends_the_run_in_a_line_and_the_same_command_continues(
    fake: ModuleType, study: Study, tmp_path: Path, database: str
) -> None:
    explore(study, tmp_path / "undisturbed", 1, fake.EVALUATOR, silent)
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = user"

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "points" and done == 5:
            with parse_url(database).connect() as connection:
                connection.execute(ended)  # type: ignore[call-overload]

    folder = tmp_path / "lost"
    with pytest.raises(ConnectionError, match=r"^--storage postgresql://127.0.0.1:\d+/postgres: ") as caught:
        explore(study, folder, 1, fake.EVALUATOR, progress, storage=database)
    assert "\n" not in str(caught.value)
    assert len(rows_frame(folder)) >= 5
    explore(study, folder, 1, fake.EVALUATOR, silent, storage=database)
    assert files(folder) == files(tmp_path / "undisturbed")
    restore(tmp_path / "other" / "lost", database)
    assert files(tmp_path / "other" / "lost") == files(tmp_path / "undisturbed")


@pytest.mark.postgres
def test_without_the_database_nothing_is_begun(fake: ModuleType, study: Study, tmp_path: Path, database: str) -> None:
    with pytest.raises(ConnectionError, match="password authentication failed"):
        explore(study, tmp_path / "out", 1, fake.EVALUATOR, silent, storage=database.replace(SECRET, "wrong"))
    assert not (tmp_path / "out").exists()


@pytest.mark.postgres
def test_another_study_of_the_same_name_is_refused(
    fake: ModuleType, study: Study, tmp_path: Path, database: str
) -> None:
    import optuna

    explore(study, tmp_path / "a" / "taken", 1, fake.EVALUATOR, silent, storage=database)
    with pytest.raises(ValueError, match=r"study taken: belongs to another study: study.seed is 7 here and 0 there"):
        explore(study.with_seed(7), tmp_path / "b" / "taken", 1, fake.EVALUATOR, silent, storage=database)
    storage = optuna.storages.RDBStorage(parse_url(database).sqlalchemy_url())
    foreign = optuna.create_study(study_name="foreign", storage=storage)
    foreign.add_trial(optuna.trial.create_trial(value=1.0))
    storage.engine.dispose()
    with pytest.raises(ValueError, match=r"study foreign: not one of rowhit's; choose another name"):
        explore(study, tmp_path / "foreign", 1, fake.EVALUATOR, silent, storage=database)
    with pytest.raises(ValueError, match=r"study nowhere: there is none of that name"):
        restore(tmp_path / "nowhere", database)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: url.replace(SECRET, "wrong"), "password authentication failed"),
        (lambda url: url.removesuffix("postgres") + "nodatabase", 'database "nodatabase" does not exist'),
        (lambda url: url.replace(url.rsplit(":", 1)[1].split("/")[0], "1"), "refused"),
        (lambda url: url.replace("127.0.0.1", "nohost.invalid"), "nohost.invalid"),
    ],
)
def test_a_database_that_cannot_be_reached_is_one_line_without_the_password(
    rowhit: Callable[..., CompletedProcess[str]], tmp_path: Path, database: str, change: Callable[[str], str], said: str
) -> None:
    answer = rowhit("report", "results/x", "--storage", change(database), cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("rowhit: --storage postgresql://")
    assert answer.stderr.count("\n") == 1
    assert said in answer.stderr
    assert not (tmp_path / "results").exists()
    for part in (services.PASSWORD, SECRET, "wrong", "sesame"):
        assert part not in answer.stderr


@pytest.mark.postgres
@pytest.mark.slow
def test_a_study_from_the_command_line_leaves_no_password_anywhere(
    rowhit: Callable[..., CompletedProcess[str]], tmp_path: Path, database: str
) -> None:
    (tmp_path / "small.yaml").write_text(
        "machine: npu-hbm3\nkernel: gemm\noptions: {m: 128, n: 256, k: 256}\n"
        "knobs: {stages: [2, 3], tile_k: [64, 128]}\nbudget: {points: 4, batch: 2}\n"
    )
    first = rowhit("explore", "small.yaml", "--storage", database, "--jobs", "1", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    again = rowhit("report", "other/small", "--storage", database, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(rows_frame(tmp_path / "results" / "small"), rows_frame(tmp_path / "other" / "small"))
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for text in (first.stdout, first.stderr, again.stdout, again.stderr, written.decode(errors="replace")):
        assert services.PASSWORD not in text
        assert SECRET not in text
    assert read_identity(tmp_path / "other" / "small").study.name == "small"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sqlite:///secret", "it does not begin with postgresql://"),
        ("secret", "it does not begin with postgresql://"),
        ("postgresql://me:secret@/", "host and database are needed"),
        ("postgresql://me:secret@host", "host and database are needed"),
        ("postgresql://me:se/cret@host/db", "host or port cannot be read"),
        ("postgresql://me:12/secret@host/db", "write / ? # and @ of a password as"),
        ("postgresql://me:secret#x@host/db", "host or port cannot be read"),
        ("postgresql://me:12#secret@host/db", "write / ? # and @ of a password as"),
        ("postgresql://me:secret@host:99999/db", "host or port cannot be read"),
        ("postgresql://me:secret@host/db?password=secret", "an option that is not allowed"),
        ("postgresql://me:secret@[host/db", "host or port cannot be read"),
        ("postgresql://me@host/db?options=secret", "an option that is not allowed"),
    ],
)
def test_a_url_that_is_none_is_said_to_be_wrong_without_being_repeated(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"^--storage: .*; allowed: postgresql://user@host:port/database$") as caught:
        parse_url(text)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:p%40ss@host:5433/db", "postgresql://host:5433/db"),
        ("postgres://host/db?sslmode=require", "postgresql://host/db"),
        ("postgresql://me:p@ss@[::1]:5433/db", "postgresql://[::1]:5433/db"),
        ("postgresql://me@/db?host=/run/postgresql", "postgresql:///db"),
    ],
)
def test_a_database_is_shown_without_user_and_password(text: str, shown: str) -> None:
    database = parse_url(text)
    assert str(database) == shown
    assert database.name == "db"
    assert database.password in ("p@ss", None)
    assert "p@ss" not in repr(database)
