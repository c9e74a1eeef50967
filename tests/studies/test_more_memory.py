from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from workloads import scheduled


@pytest.fixture(scope="module")
def study(load_study: Callable[[str], ModuleType]) -> ModuleType:
    return load_study("more_memory")


def test_memories_have_the_peaks_of_their_stacks(study: ModuleType) -> None:
    peaks = {name: float(study.machine_with(name).hbm_peak_bytes_per_second) for name in study.MEMORIES}
    assert peaks["8 x HBM3"] == 2 * peaks["4 x HBM3"] == 2 * 4 * 1024 * 6.4e9 / 8
    assert peaks["4 x HBM4"] == peaks["4 x HBM4, wide ports"] == 4 * 2048 * 8e9 / 8


@pytest.mark.slow
def test_more_memory_does_not_change_what_is_moved(study: ModuleType) -> None:
    work = scheduled.decode((64, 64))
    rows = [study.measure(study.Case(name, "decode", "tiny", 1, work)) for name in ("4 x HBM3", "8 x HBM3")]
    assert rows[0]["moved_bytes"] == rows[1]["moved_bytes"]
    assert rows[1]["time_us"] <= rows[0]["time_us"]


@pytest.mark.parametrize("faster", [True, False])
def test_the_answer_turns_round_with_the_table(study: ModuleType, faster: bool) -> None:
    rows = [
        {
            "work": "decode", "memory": name, "time_us": 1000.0 if name == study.BASE else 500.0 if faster else 1500.0,
            "peak_tb_per_s": 1.0, "moved_tb_per_s": 0.5, "moved_bytes": 10 if faster or name == study.BASE else 15,
            "time_limited_by_hbm": 0.25, "most_time_limited_by": "noc",
        }
        for name in study.MEMORIES
    ]  # fmt: skip
    first, second = study.sentences(rows)
    assert "4 x HBM3 takes 1.00 ms, 25 % of it in kernels that HBM bounds, and moves 50 % of what its peak" in first
    assert ("(moving 50 % of that, in bytes 50.0 % more)" in first) != faster
    assert first.count("50.0 % less") == (len(study.MEMORIES) - 1 if faster else 0)
    assert first.count("50.0 % more (moving") == (0 if faster else len(study.MEMORIES) - 1)
    assert (f"with the fastest, {study.BASE}," in second) != faster
    assert "in those that noc bounds" in second
