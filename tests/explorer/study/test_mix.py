from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_evaluator import Table

from explorer.explore import explore
from explorer.progress import silent
from explorer.storage.folder import rows_frame
from explorer.study.mix import Risk, aggregate, aggregate_bounds, title_of
from explorer.study.study import Study

numbers = st.floats(0, 1e12, allow_subnormal=False)  # below them, sums of parts are no longer exact to 1e-9
risks = st.one_of(st.sampled_from([Risk(), Risk("worst")]), st.floats(0.01, 1.0).map(lambda share: Risk("cvar", share)))
mixes = st.integers(1, 5).flatmap(
    lambda n: st.tuples(
        st.lists(numbers, min_size=n, max_size=n),
        st.lists(st.floats(0, 1), min_size=n, max_size=n),
        st.lists(st.floats(0.1, 10), min_size=n, max_size=n),
    )
)


@given(mixes, risks)
def test_the_risk_of_bounds_is_a_bound_of_the_risk(
    mix: tuple[list[float], list[float], list[float]], risk: Risk
) -> None:
    values, parts, weights = mix
    bounds = [value * part for value, part in zip(values, parts, strict=True)]
    assert aggregate_bounds(bounds, weights, risk) <= aggregate(values, weights, risk)


@given(mixes, st.floats(0.01, 1))
def test_the_cvar_lies_between_the_mean_and_the_worst(
    mix: tuple[list[float], list[float], list[float]], share: float
) -> None:
    values, _, weights = mix
    cvar = float(aggregate(values, weights, Risk("cvar", share)))
    assert float(aggregate(values, weights, Risk())) <= cvar * (1 + 1e-9)
    assert cvar <= max(values) * (1 + 1e-9)
    assert aggregate(values, weights, Risk("cvar", 1.0)) == pytest.approx(float(aggregate(values, weights, Risk())))


def test_the_cvar_is_the_mean_of_the_worst_part() -> None:
    assert aggregate([1, 2, 3, 4], [1, 1, 1, 1], Risk("cvar", 0.25)) == 4
    assert aggregate([1, 2, 3, 4], [1, 1, 1, 1], Risk("cvar", 0.5)) == 3.5
    assert aggregate([4, 1], [1, 3], Risk("cvar", 0.5)) == pytest.approx((4 * 0.25 + 1 * 0.25) / 0.5)
    assert aggregate([[1, 5], [7, 3]], [3, 1], Risk()).tolist() == [2, 6]


MIX = {
    "chat": {"batch": {"sequences": 1, "context": 8}, "weight": 3},
    "long": {"batch": {"sequences": 2, "context": 8}},
}


@given(st.integers(0, 500), st.sampled_from(["mean", "worst", {"cvar": 0.5}]))
@settings(max_examples=4, deadline=None)
def test_a_search_over_a_mix_finds_the_point_of_least_risk_and_keeps_each_workload(seed: int, risk: object) -> None:
    table = Table((3, 3, 2), seed=seed)
    study = table.study(mix=MIX, risk=risk, budget={"points": 100, "batch": 2})
    with tempfile.TemporaryDirectory() as name:
        summary = explore(study, Path(name), 1, table.evaluator, silent)
        rows = rows_frame(Path(name))
    both = np.stack([table.times, 2 * table.times], axis=-1)
    risky = aggregate(both, [3, 1], study.over)
    assert summary.certificate.best == pytest.approx(float(risky.min()))
    assert summary.certificate.bound <= float(risky.min())
    done = rows[rows["status"] == "simulated"]
    assert (done["mix.long.time_us"] == 2 * done["mix.chat.time_us"]).all()
    assert (done["mix.long.bound_us"] <= done["mix.long.time_us"]).all()
    parts = done[["mix.chat.time_us", "mix.long.time_us"]].to_numpy(float)
    assert np.allclose(done["time_us"].to_numpy(float), aggregate(parts, [3, 1], study.over))
    assert (done["bound_us"] <= done["time_us"]).all()


def test_the_title_of_a_mix_says_of_each_workload_what_is_its_own() -> None:
    titles = ["gemm · m = 8 · k = 4 · npu", "gemm · m = 9 · k = 4 · npu"]
    assert (
        title_of(titles, ("few", "many"), Risk("worst"))
        == "gemm · k = 4 · npu · worst of the mix few (m = 8), many (m = 9)"
    )
    assert title_of(titles[:1] * 2, ("a", "b"), Risk()) == "gemm · m = 8 · k = 4 · npu · mean of the mix a, b"


def test_a_workload_takes_from_the_study_what_it_does_not_give(tmp_path: Path) -> None:
    table = Table((2, 2, 2))
    batch = {"sequences": 4, "context": 8}
    study = table.study(mix={"own": {"batch": {"sequences": 2, "context": 8}}, "studys": {}}, batch=batch)
    explore(study, tmp_path, 1, table.evaluator, silent)
    rows = rows_frame(tmp_path)
    pd.testing.assert_series_equal(rows["mix.studys.time_us"], 2 * rows["mix.own.time_us"], check_names=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"risk": "worst"}, "risk: there is no 'mix' of workloads"),
        ({"mix": MIX, "risk": {"cvar": 1}}, "less than 1"),
        ({"mix": {"a": {"weight": 0}}}, "greater than 0"),
        ({"mix": {"a/b": {}}}, "mix"),
        ({"objective": "speed"}, "unknown objective 'speed'"),
        ({"objectives": ["time_us", "time_us"]}, "stands there twice"),
        ({"objective": "time_us", "objectives": ["energy_pj"]}, "give one of 'objective' and 'objectives'"),
        ({"target": 2}, " 2; allowed: a percentage such as 2 %"),
        ({"target": "fast"}, "'fast'; allowed: a percentage such as 2 %"),
    ],
)
def test_a_wrong_mix_objective_or_target_is_refused(fields: dict[str, object], message: str) -> None:
    base = {"name": "s", "machine": "m", "kernel": "k", "knobs": {"a": [1]}}
    with pytest.raises(ValueError, match=message):
        Study.model_validate(base | fields)


def test_several_objectives_and_one_are_written_back_as_they_came() -> None:
    base = {"name": "s", "machine": "m", "kernel": "k", "knobs": {"a": [1]}}
    for fields in ({"objective": "energy_pj"}, {"objectives": ["energy_pj", "hbm_stacks"]}):
        study = Study.model_validate(base | fields)
        assert Study.model_validate(study.model_dump()) == study
        assert study.objective == "energy_pj"
        assert ("objectives" in study.model_dump()) == ("objectives" in fields)
