from __future__ import annotations

import numpy as np
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer.pareto import front, hypervolume
from explorer.views import convergence, pareto
from explorer.views.study_data import StudyData

VALUES = st.lists(st.tuples(*[st.integers(1, 12)] * 3), min_size=1, max_size=25)


def beaten(value: tuple[int, ...], others: list[tuple[int, ...]]) -> bool:
    return any(o != value and all(a <= b for a, b in zip(o, value, strict=True)) for o in others)


@settings(max_examples=30, deadline=None)
@given(VALUES)
def test_what_is_behind_the_front_is_on_it_when_it_has_shrunk_by_that_share(
    values: list[tuple[int, ...]],
) -> None:
    array = np.array(values, float)
    best = array[front(array)]
    behind = pareto.excess(array, best)
    for value, share in zip(array, behind, strict=True):
        shrunk = value / (1 + share)
        assert not (best < shrunk * (1 - 1e-9)).all(axis=1).any()  # none is better in all
        if share:
            assert (best <= shrunk * (1 + 1e-9)).all(axis=1).any()  # and it was not shrunk too far


@settings(max_examples=30, deadline=None)
@given(VALUES)
def test_the_share_dominated_never_falls_and_is_that_of_all_points(values: list[tuple[int, ...]]) -> None:
    unit = np.array(values, float) / 13
    found = convergence.shares(unit)
    assert found == sorted(found)
    assert found[-1] == pytest.approx(hypervolume(unit, np.ones(3)))


def test_the_figure_has_every_point_the_front_the_baseline_and_the_best() -> None:
    data = synthetic.data()
    table = pareto.front_of(data.done, ("time_us", "energy_pj"), "time_us", data.settings)
    traces = {trace.name: trace for trace in pareto.figure(table).data}
    assert list(traces["simulated"].x) == list(data.done["time_us"])
    assert list(traces["baseline"].y) == [data.done["energy_pj"].iloc[0]]
    assert list(traces["best found"].x) == [data.done["time_us"].min()]
    drawn = set(zip(traces["Pareto front"].x, traces["Pareto front"].y, strict=True))
    values = [tuple(v) for v in data.done[["time_us", "energy_pj"]].to_numpy().tolist()]
    assert drawn == {value for value in values if not beaten(value, values)}


def test_the_list_names_the_baseline_first_and_the_nearest_designs_after_it() -> None:
    data: StudyData = synthetic.data()
    table = pareto.front_of(data.done, ("time_us",), "time_us", data.settings)
    rows = pareto.knees(table)
    assert rows["point"].iloc[0] == 0
    assert list(rows["excess"].iloc[1:]) == sorted(rows["excess"].iloc[1:])
    assert (rows["excess"].iloc[1:] <= pareto.NEAR).all()
    cells = pareto.list_figure(table).data[0].cells.values
    assert list(cells[0]) == [str(point) for point in rows["point"]]


def test_seeds_of_one_sampler_are_one_line_with_a_band() -> None:
    studies = [synthetic.data(f"s{seed}", seed=seed, sampler="tpe") for seed in (1, 2)] + [
        synthetic.data("r", sampler="random")
    ]
    studies[1] = StudyData("s2", studies[1].identity, studies[1].rows.iloc[::-1], studies[1].space)
    table = convergence.convergence(studies)
    assert table.studies == {"tpe": 2, "random": 1}
    lines = table.lines[table.lines["line"] == "tpe"]
    assert (lines["low"] <= lines["middle"]).all()
    assert (lines["middle"] <= lines["high"]).all()
    assert (lines["low"] < lines["high"]).any()
    assert "tpe (median of 2 seeds) ends at 100.0 %" in convergence.text(table)
