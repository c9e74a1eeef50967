from __future__ import annotations

import re
from typing import Any

import pytest

from explorer import evaluate, long_run, programs
from explorer.explain import runs
from explorer.query import Query


def program(**sizes: int) -> Any:
    return programs.program_on(Query("h100-sxm", "gemm", options=tuple(sorted(sizes.items()))))[0]


def test_a_long_run_says_what_it_moves_and_what_answers_sooner() -> None:
    line = long_run.warning(program(m=16384, n=16384, k=65536))
    tiles = (16384 // 128) ** 2
    moved = tiles * 2 * 128 * 65536 * 2 + 16384 * 16384 * 2  # both operands of every tile, and the result
    assert f"loads and stores {moved / 1e9:,.1f} GB, every burst is simulated" in line
    minutes = re.search(r": (\d+) minutes at", line)
    assert minutes is not None
    assert int(minutes[1]) == round(moved / long_run.BYTES_PER_S / 60)
    assert "whatif" in line
    assert "--fidelity windows" in line
    assert "\n" not in line


def test_a_short_run_says_nothing_and_many_of_it_do() -> None:
    short = program(m=2048, n=2048, k=4096)  # half a gigabyte
    assert long_run.warning(short) == ""
    assert "12 runs load and store 0.5 GB each" in long_run.warning(short, 12)


def test_the_limit_is_the_time_at_the_assumed_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    small = program(m=256, n=256, k=256)
    moved = 4 * 2 * 128 * 256 * 2 + 256 * 256 * 2
    monkeypatch.setattr(long_run, "BYTES_PER_S", moved / long_run.LONG_S)
    assert long_run.warning(small) == ""
    monkeypatch.setattr(long_run, "BYTES_PER_S", moved / long_run.LONG_S * 0.99)
    assert long_run.warning(small) != ""


def test_who_runs_a_program_is_told_before_how_often() -> None:
    query = Query("npu-hbm3", "gemm", options=(("k", 64), ("m", 64), ("n", 64)))
    told: list[tuple[str, int]] = []
    steps: list[int] = []

    def before(found: Any, count: int) -> None:
        assert not steps
        told.append((found.hash, count))

    def progress(stage: str, done: int, total: int) -> None:
        steps.append(total)

    found, machine = programs.program_on(query)
    evaluate.explanation(query, "compiled", progress, before)
    assert steps[0] == runs(machine)
    steps.clear()
    saved = evaluate.saved_run(query, "compiled", before)
    assert saved.program is not None
    assert told == [(found.hash, runs(machine)), (found.hash, 1)]
