from __future__ import annotations

import os
import pickle
import random
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from explorer.details import pack
from explorer.evaluate import Outcome
from explorer.memo import Memo, cache_folder
from explorer.query import Query


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
    monkeypatch.setattr("explorer.memo.source_digest", lambda floors: "another")
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


def test_what_was_not_used_for_longest_goes_when_there_is_too_much(fake: ModuleType, tmp_path: Path) -> None:
    outcome = outcome_of(fake, 64)
    Memo(tmp_path).keep("0", outcome)
    size = sum(path.stat().st_size for path in files(tmp_path))
    memo = Memo(tmp_path, max_bytes=10 * size + 1)
    for number in range(1, 40):
        assert memo.recall("0") is not None  # used again and again
        memo.keep(str(number), outcome)
        for path in files(tmp_path):
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))  # a second passes
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 10 * size + 1
    assert memo.recall("0") is not None
    assert memo.recall("39") is not None
    assert memo.recall("1") is None


def test_writers_at_the_same_time_leave_whole_files(fake: ModuleType, tmp_path: Path) -> None:
    outcomes = [outcome_of(fake, tile) for tile in (16, 32, 64, 96)]
    failures: list[str] = []

    def work(seed: int) -> None:
        dice, memo = random.Random(seed), Memo(tmp_path, max_bytes=60_000)
        for _ in range(60):
            number = dice.randrange(40)
            memo.keep(str(number), outcomes[number % 4])
            number = dice.randrange(40)
            found = memo.recall(str(number))
            if found is not None and not same(found, outcomes[number % 4]):
                failures.append(str(number))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert any(Memo(tmp_path).recall(str(number)) for number in range(40))
    assert all(len(path.name) == 62 for path in files(tmp_path))


def test_a_folder_that_cannot_be_written_remembers_nothing_and_fails_nowhere(fake: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memo = Memo(tmp_path / "file")
    memo.keep("key", outcome_of(fake, 64))
    assert memo.recall("key") is None


def test_the_folder_is_the_users_cache_or_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for name in ("ROWHIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == Path("/home/someone/.cache/rowhit")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/rowhit")
    monkeypatch.setenv("ROWHIT_CACHE", "/mine")
    assert cache_folder() == Path("/mine")
