from __future__ import annotations

import pytest

from explorer import evaluate
from explorer.explain import Explanation
from explorer.query import Query
from explorer.text.run import explanation_text
from hwmodel.spec import load_machine
from hwmodel.units import FS_PER_US


def explained(machine: str = "npu-hbm3") -> Explanation:
    query = Query(machine, "gemm", options=(("m", 64), ("n", 256), ("k", 512)))
    return evaluate.explanation(query)


def test_without_its_launch_a_run_on_a_machine_without_refreshes_is_shorter_by_the_launch() -> None:
    record = explained("npu-sram").record()
    launch_us = load_machine("npu-sram").launch.latency / FS_PER_US
    assert record["time_us"] - record["without"]["launch"]["time_us"] == pytest.approx(launch_us, abs=1e-9)


def test_changes_are_relative_to_the_run_and_the_largest_gain_stands_first() -> None:
    record = explained().record()
    changes = [gain["change"] for gain in record["without"].values()]
    assert changes == sorted(changes)
    for gain in record["without"].values():
        assert gain["change"] == gain["time_us"] / record["time_us"] - 1


def test_obstacles_that_a_machine_does_not_have_are_left_out() -> None:
    assert "tlb" not in explained().record()["without"]


def test_the_text_says_stalls_and_gains() -> None:
    text = explanation_text(explained())
    assert "stalls, us of one unit" in text
    assert "launches that take no time" in text


def test_progress_counts_the_run_and_every_rerun() -> None:
    said: list[tuple[str, int, int]] = []
    query = Query("npu-sram", "gemm", options=(("m", 64), ("n", 256), ("k", 512)))
    found = evaluate.explanation(query, progress=lambda *step: said.append(step))
    runs = len(found.gains) + 1
    assert said == [("reruns", done, runs) for done in range(runs)]
