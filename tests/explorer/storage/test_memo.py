from __future__ import annotations

import os
import pickle
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType

import numpy as np
import pytest

from explorer.evaluate import Outcome
from explorer.query import Query
from explorer.storage.details import pack
from explorer.storage.memo import Memo, cache_folder


def outcome_of(fake: ModuleType, tile: int) -> Outcome:
    outcome = fake.simulate(Query("nowhere", "fake").with_knob("tile", tile))
    assert isinstance(outcome, Outcome)
    return outcome


def same(a: Outcome, b: Outcome) -> bool:
    return repr(a.metrics) == repr(b.metrics) and pack(a) == pack(b)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_an_outcome_comes_back_to_the_last_bit_in_another_process_too(fake: ModuleType, tmp_path: Path) -> None:
    outcome = outcome_of(fake, 64)
    Memo(tmp_path).keep("key", outcome)
    found = Memo(tmp_path).recall("key")
    assert found is not None
    assert same(found, outcome)
    assert found.metrics == outcome.metrics
    assert {name: array.dtype for name, array in found.banks.items()} == {n: a.dtype for n, a in outcome.banks.items()}
    assert Memo(tmp_path).recall("another") is None


def test_another_simulator_finds_nothing(fake: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Memo(tmp_path).keep("key", outcome_of(fake, 64))
    monkeypatch.setattr("explorer.storage.memo.source_digest", lambda floors: "another")
    assert Memo(tmp_path).recall("key") is None


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_none_and_is_written_anew(fake: ModuleType, tmp_path: Path, seed: int) -> None:
    memo, outcome, dice = Memo(tmp_path), outcome_of(fake, 64), random.Random(seed)
    memo.keep("key", outcome)
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    place = dice.randrange(len(data))
    if seed % 3 == 0:
        data = data[:place]
    elif seed % 3 == 1:
        data[place] ^= 1 << dice.randrange(8)
    else:
        data[place:place] = dice.randbytes(3)
    path.write_bytes(data)
    assert memo.recall("key") is None
    memo.keep("key", outcome)
    found = memo.recall("key")
    assert found is not None
    assert same(found, outcome)


def test_no_file_runs_code(fake: ModuleType, tmp_path: Path) -> None:
    memo = Memo(tmp_path)
    memo.keep("key", outcome_of(fake, 64))
    (path,) = files(tmp_path)
    path.write_bytes(pickle.dumps(outcome_of(fake, 64)))
    assert memo.recall("key") is None
    objects = outcome_of(fake, 64)
    memo.keep("other", replace(objects, banks=dict(objects.banks) | {"bursts": np.array([print], dtype=object)}))
    assert memo.recall("other") is None


def test_what_was_not_used_for_longest_goes_where_there_is_too_much(fake: ModuleType, tmp_path: Path) -> None:
    outcome, memo = outcome_of(fake, 64), Memo(tmp_path)
    folder = memo._path("0").parent
    keys = [key for key in map(str, range(1, 10_000)) if memo._path(key).parent == folder]
    memo.keep("0", outcome)
    limit = 3 * memo._path("0").stat().st_size
    memo = Memo(tmp_path, max_bytes=256 * limit)  # a share for each of 256 folders
    for key in keys:
        assert memo.recall("0") is not None  # used again and again
        memo.keep(key, outcome)
        assert sum(path.stat().st_size for path in files(tmp_path)) <= limit
        for path in files(tmp_path):
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))  # a second passes
    left = [key for key in ["0", *keys] if memo.recall(key) is not None]
    assert left == ["0", *keys[-2:]]


def test_writers_at_the_same_time_leave_whole_files(fake: ModuleType, tmp_path: Path) -> None:
    outcomes = [outcome_of(fake, tile) for tile in (16, 32, 64, 96)]
    failures: list[str] = []

    def work(seed: int) -> None:
        dice, memo = random.Random(seed), Memo(tmp_path, max_bytes=256 * 2000)
        for _ in range(60):
            number = dice.randrange(400)
            memo.keep(str(number), outcomes[number % 4])
            number = dice.randrange(400)
            found = memo.recall(str(number))
            if found is not None and not same(found, outcomes[number % 4]):
                failures.append(str(number))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert any(Memo(tmp_path).recall(str(number)) for number in range(400))
    assert all(len(path.name) == 62 for path in files(tmp_path))


def test_who_is_interrupted_keeps_what_was_being_written(
    fake: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packed(outcome: Outcome) -> bytes:
        signal.raise_signal(signal.SIGINT)
        return pack(outcome)

    monkeypatch.setattr("explorer.storage.memo.pack", packed)
    memo, outcome = Memo(tmp_path), outcome_of(fake, 64)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            memo.keep("key", outcome)
    finally:
        signal.signal(signal.SIGINT, before)
    found = memo.recall("key")
    assert found is not None
    assert same(found, outcome)


def test_a_folder_that_cannot_be_written_remembers_nothing_and_fails_nowhere(fake: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memo = Memo(tmp_path / "file")
    memo.keep("key", outcome_of(fake, 64))
    assert memo.recall("key") is None


@pytest.mark.slow
def test_another_study_of_the_same_points_gets_the_same_bytes_without_simulating(
    rowhit: Callable[..., CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.yaml").write_text(
        "machine: npu-hbm3\nkernel: gemm\noptions: {m: 128, n: 256, k: 256}\n"
        "knobs: {stages: [2, 3], tile_k: [64, 128]}\nbudget: {points: 4, batch: 2}\n"
    )

    def explore(name: str, *more: str) -> None:
        arguments = ("explore", "small.yaml", "--jobs", "1", "--out", name, *more)
        done = rowhit(*arguments, cwd=tmp_path, ROWHIT_CACHE=str(tmp_path / "cache"))
        assert done.returncode == 0, done.stderr

    explore("first")
    with monkeypatch.context() as patch:
        patch.setattr("hwmodel.engine.simulate", None)  # whoever calls it fails
        explore("second")
    explore("third", "--no-memo")
    for part in ("points.parquet", "details/000000.npz"):
        assert len({(tmp_path / name / part).read_bytes() for name in ("first", "second", "third")}) == 1
    assert len(files(tmp_path / "cache")) == 4


def test_the_folder_is_the_users_cache_or_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for name in ("ROWHIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == Path("/home/someone/.cache/rowhit")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/rowhit")
    monkeypatch.setenv("ROWHIT_CACHE", "/mine")
    assert cache_folder() == Path("/mine")
