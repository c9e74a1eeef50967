from __future__ import annotations

import math

import pytest

from explorer.workers import workers
from studies import search_quality
from studies.search_quality import CONFIDENCE, Truth, judge, measure, median_interval, report, samplers, search

SMALL = {
    "machine": "npu-hbm3",
    "kernel": "gemm",
    "options": {"m": 32, "n": 64, "k": 64},
    "knobs": {"tile_m": [16, 32], "tile_n": [16, 32, 64], "tile_k": [32, 64], "stages": [1, 2]},
}


@pytest.fixture(scope="module")
def truth() -> Truth:
    with pytest.MonkeyPatch.context() as patch, workers(1) as executor:
        patch.setattr(search_quality, "SPACES", {"small": SMALL})
        return measure("small", executor)


def test_all_samplers_of_a_default_install_are_compared() -> None:
    assert {"exhaustive", "random", "best-first", "tpe", "nsga2", "nsga3"} <= set(samplers())
    assert not {"auto", "gp"} & set(samplers())


@pytest.mark.parametrize("sampler", ["exhaustive", "random", "best-first", "tpe", "nsga2", "nsga3"])
def test_a_search_that_is_long_enough_finds_the_optimum_and_the_same_seed_the_same_points(
    truth: Truth, sampler: str
) -> None:
    found = search(truth, sampler, ["time_us"], seed=3, points=len(truth.table))
    assert min(found)[0] == truth.table[:, 0].min()
    assert found == search(truth, sampler, ["time_us"], seed=3, points=len(truth.table))


def test_what_is_judged_is_a_share_of_the_truth(truth: Truth) -> None:
    judged = judge(truth, "tpe", 0)
    assert 0 < judged["found"] <= 1
    assert judged["regret 10 %"] <= judged["regret 5 %"]
    assert 0 <= judged["hypervolume"] <= 1
    page = report({"small": truth}, {("small", name): [judged] * 3 for name in ("best-first", "tpe")})
    assert f"## small: {len(truth.table)} points" in page
    assert page.count("\n| tpe |") == 1


@pytest.mark.parametrize("count", [1, 6, 20, 37, 100])
def test_the_interval_of_the_median_is_the_narrowest_of_ranks_that_is_sure_enough(count: int) -> None:
    first, last = median_interval(range(count))
    assert first + last == count - 1

    def confidence(first: int) -> float:
        """How likely more than `first` of the numbers, and no more than all but so many, lie below the median."""
        return sum(math.comb(count, below) for below in range(first + 1, count - first)) / 2**count

    assert confidence(int(first)) >= CONFIDENCE or first == 0
    assert confidence(int(first) + 1) < CONFIDENCE
