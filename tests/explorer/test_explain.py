from __future__ import annotations

from explorer import evaluate
from explorer.explain import Explanation
from explorer.query import Query
from explorer.run_view import explanation_text


def explained() -> Explanation:
    query = Query("npu-hbm3", "gemm", options=(("m", 64), ("n", 256), ("k", 512)))
    return evaluate.explanation(query)


def test_without_its_launch_a_run_is_shorter_by_the_launch() -> None:
    record = explained().record()
    assert abs(record["time_us"] - record["without"]["launch"]["time_us"] - 1.0) < 1e-9  # npu-hbm3 launches in 1 us


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
