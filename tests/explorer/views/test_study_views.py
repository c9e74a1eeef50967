from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer.views import (
    capacity,
    energy,
    gap,
    knobs,
    memory_use,
    parallel,
    refused,
    roofline,
    studies,
    versus,
    workloads,
)
from explorer.views.study_data import StudyData


@pytest.fixture
def study() -> StudyData:
    return synthetic.data()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=6, max_size=20), st.integers(2, 3))
def test_a_knob_that_says_everything_explains_all_and_one_value_nothing(values: list[float], groups: int) -> None:
    labels = pd.Series([str(place % groups) for place in range(len(values))])
    share = knobs.share_explained(labels, np.array(values))
    assert 0 <= share <= 1
    of_the_label = labels.map(float).to_numpy(float)
    assert knobs.share_explained(labels, of_the_label) == pytest.approx(1)
    assert knobs.share_explained(pd.Series(["a"] * len(values)), np.array(values)) == 0


def test_the_knob_that_moves_the_time_most_is_named_first(study: StudyData) -> None:
    table = knobs.IMPORTANCE.table(study)
    times = np.log(study.done["time_us"].to_numpy())
    by_hand = {}
    for knob in study.knobs:
        means = [times[(study.done[knob] == value).to_numpy()] for value in study.done[knob].unique()]
        within = sum(((part - part.mean()) ** 2).sum() for part in means) / (len(times) - len(means))
        by_hand[knob] = max(0, 1 - within / times.var(ddof=1))
    assert dict(zip(table.importance["knob"], table.importance["share"], strict=True)) == pytest.approx(by_hand)
    first = max(by_hand, key=lambda name: by_hand[name])
    assert knobs.importance_text(table).startswith(f"{first} alone explains")


def test_the_response_draws_the_best_of_every_value_and_says_it(study: StudyData) -> None:
    table = knobs.RESPONSE.table(study)
    figure = knobs.response_figure(table)
    best = {trace.x: trace for trace in figure.data if trace.name == "best of each"}
    assert len(best) == len(study.knobs)
    tile = next(list(trace.y) for trace in best.values() if list(trace.x) == ["16", "32", "64"])
    assert tile == [study.done[study.done["tile"] == value]["time_us"].min() for value in (16, 32, 64)]
    assert f"tile: 64 is best ({tile[2]:.1f} us), 16" in knobs.response_text(table)


def test_the_map_of_two_knobs_has_the_best_of_every_pair(study: StudyData) -> None:
    table = knobs.PAIR.table(study)
    first, second = table.knobs[:2]
    heat = knobs.pair_figure(table).data[0]
    for row, y in enumerate(heat.y):
        for column, x in enumerate(heat.x):
            of = study.done[(study.done[first].astype(str) == x) & (study.done[second].astype(str) == y)]
            assert heat.z[row][column] == of["time_us"].min()


def pairs(*times: tuple[str, str, float]) -> str:
    """Return what is said of times by values of a and b; the first is the baseline."""
    done = pd.DataFrame(times, columns=["a", "b", "time_us"])
    return knobs.pair_text(knobs.Knobs(done, ("a", "b"), ("time_us",), pd.DataFrame()))


def test_of_two_knobs_only_pairs_that_were_simulated_are_compared_and_ties_are_none() -> None:
    tie = (("x", "1", 5.0), ("y", "1", 5.0))
    assert "whatever b is, a y is best." in pairs(*tie, ("x", "2", 9.0), ("y", "2", 7.0))
    assert "which a is best depends on b." in pairs(("x", "1", 5), ("y", "1", 6), ("x", "2", 9), ("y", "2", 7))
    assert "a makes no difference." in pairs(*tie, ("x", "2", 7.0), ("y", "2", 7.0))
    assert "a y is best, where all were simulated; 1 of 4" in pairs(("x", "1", 5.0), ("y", "1", 4.0), ("x", "2", 9.0))
    assert "with no b all a were simulated; 2 of 4" in pairs(("x", "1", 5.0), ("y", "2", 5.0))


def test_lines_of_a_knob_stay_around_the_place_of_its_value(study: StudyData) -> None:
    figure = parallel.figure(parallel.VIEW.table(study))
    for dimension in figure.data[0].dimensions:
        if dimension.ticktext is not None and dimension.label in study.knobs:
            places = np.rint(dimension.values).astype(int)
            assert [dimension.ticktext[place] for place in places] == [str(v) for v in study.done[dimension.label]]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 99)), min_size=1, max_size=20))
def test_the_staircase_is_the_least_traffic_of_all_that_take_no_more(points: list[tuple[int, int]]) -> None:
    table = capacity.staircase([c for c, _ in points], [t for _, t in points])
    for row in table.itertuples():
        allowed = [t for c, t in points if (c, t) <= (row.capacity_bytes, row.traffic_bytes)]
        assert row.least_bytes == min(allowed)
    assert table["is_baseline"].sum() == 1


def test_capacity_is_read_with_its_unit_and_said(study: StudyData) -> None:
    table = capacity.VIEW.table(study)
    assert sorted(set(table["capacity_bytes"])) == [64 * 1024, 128 * 1024, 256 * 1024]
    moved = study.done["hbm_read_bytes"] + study.done["hbm_write_bytes"]
    assert set(table["traffic_bytes"]) == set(moved.astype(int))
    assert f"least found ({int(moved.min()):,} bytes)" in capacity.text(table)


def test_points_with_the_machine_s_own_capacity_are_left_out_as_the_baseline_may_be(study: StudyData) -> None:
    rows = study.rows.copy()
    rows.loc[0, "machine.cores.sram.capacity"] = None
    others = replace(study, rows=rows)
    table = capacity.VIEW.table(others)
    assert len(table) == len(study.done) - 1
    assert not table["is_baseline"].any()
    assert [trace.name for trace in capacity.figure(table).data] == ["simulated", "least with so much"]
    assert capacity.VIEW.table(study)["is_baseline"].sum() == 1


def test_more_than_the_largest_capacity_tried_is_not_said_to_be_in_vain() -> None:
    assert "more does not pay" in capacity.text(capacity.staircase([1024, 2048, 4096], [900, 500, 500]))
    assert "what more would save was not tried" in capacity.text(capacity.staircase([1024, 2048], [900, 500]))


def test_the_slowdown_of_a_layout_is_against_the_best_of_each_workload(study: StudyData) -> None:
    table = workloads.SLOWDOWN.table(study)
    assert table.knob == "layout"
    assert (table.matrix.min() == 1).all()
    short = study.done.groupby("layout")["mix.short.time_us"].min()
    assert table.matrix.loc["head page", "short"] == short["head page"] / short["page head"]
    assert "2 are each the best of some workload" in workloads.slowdown_text(table)


def test_layouts_that_tie_are_each_the_best_and_one_is_the_best_of_all() -> None:
    matrix = pd.DataFrame({"short": [1.0, 1.0], "long": [1.2, 1.0]}, index=["x", "y"])
    assert "one is the best of every workload" in workloads.slowdown_text(workloads.Slowdown("layout", matrix, "x"))


def test_what_one_study_alone_tried_still_counts_as_the_best_of_its_workload(study: StudyData) -> None:
    other = synthetic.data("other")
    without = study.cut((study.rows["layout"] == "page head") & (study.rows["tile"] < 64))
    table = studies.SHARED.table([without, other])
    assert (table.knob, list(table.matrix.index)) == ("tile", ["16", "32"])
    times = other.done.groupby("tile")["time_us"].min()
    assert list(table.matrix["other"]) == [times[16] / times[64], times[32] / times[64]]


def test_ranks_of_a_study_of_energy_are_those_of_energies() -> None:
    study = synthetic.data(objective="energy_pj")
    energies = {f"mix.{name}.energy_pj": study.rows["energy_pj"] * part for name, part in (("short", -1), ("long", 1))}
    table = workloads.RANKS.table(replace(study, rows=study.rows.assign(**energies)))
    assert (table.ranks["only long"] == table.ranks["the mix"]).all()
    assert not (table.ranks["only short"] == table.ranks["the mix"]).all()


def test_pictures_of_the_best_are_not_those_of_one_that_is_filtered_away(study: StudyData) -> None:
    kept = study.cut(study.rows["point"] != study.best["point"])
    assert list(kept.details) == ["Baseline"]
    assert memory_use.BANKS[1].of(kept).text == "Not shown: what its banks carried was not read."
    assert study.cut(study.rows["point"] > 2).details == study.details


def test_ranks_are_those_of_every_mix(study: StudyData) -> None:
    table = workloads.RANKS.table(study)
    for name, column in (("the mix", "time_us"), ("only short", "mix.short.time_us")):
        for design, rank in table.ranks[name].items():
            value = study.done.set_index("point").loc[int(design.split()[1]), column]
            assert rank == 1 + (study.done[column] < value).sum()


def test_the_roof_is_the_ridge_and_the_diagonal(study: StudyData) -> None:
    table = roofline.VIEW.table(study)
    done = study.done
    expected = (done["utilisation.matrix"] / done["hbm_bandwidth_fraction"]).to_numpy()
    assert list(table["intensity"]) == pytest.approx(list(expected))
    assert list(table["roof"]) == pytest.approx(list(np.minimum(1, expected)))
    assert (table["busy"] <= table["roof"] + 1e-12).all()


def test_the_gap_counts_every_point_once_and_names_the_worst(study: StudyData) -> None:
    table = gap.VIEW.table(study)
    assert sum(gap.figure(table).data[0].y) == len(study.done)
    assert list(table["ratio"]) == pytest.approx([1.25] * len(study.done))
    assert "1.25 times their bounds in the median" in gap.text(table)


def test_reasons_that_differ_in_a_number_are_one(study: StudyData) -> None:
    table = refused.VIEW.table(study)
    assert list(table["reason"]) == ["needs N B of scratchpad"]
    assert list(table["points"]) == [2]
    assert refused.text(table).startswith(
        "2 points of 21 (9.5 %) cannot run or break a constraint, for 1 reason. Most often: needs 10 B"
    )


def test_the_waterfall_leads_from_one_time_to_the_other(study: StudyData) -> None:
    table = versus.VIEW.table(study)
    assert sum(table.causes["difference_us"]) == pytest.approx(table.times_us[1] - table.times_us[0])
    bars = versus.figure(table).data[0]
    assert sum(bars.y[:-1]) == pytest.approx(study.best["time_us"])
    numbers = table.numbers.set_index("name")
    assert numbers.loc["hbm_read_bytes", "b"] == study.best["hbm_read_bytes"]
    assert "point" not in numbers.index


def test_energy_is_stacked_to_its_total(study: StudyData) -> None:
    table = energy.VIEW.table(study)
    bars = energy.figure(table).data
    for place, row in enumerate((study.baseline, study.best)):
        assert sum(bar.y[place] for bar in bars) == pytest.approx(row["energy_pj"])


def test_edges_of_the_map_of_banks_are_its_sums() -> None:
    counts = np.arange(8).reshape(2, 4)
    figure = memory_use.banks_figure(("Best", counts, counts, 20))
    heat, banks, channels = figure.data
    assert (heat.zmin, heat.zmax) == (0, 20)
    assert [list(row) for row in heat.z] == counts.tolist()
    assert list(banks.y) == counts.sum(axis=0).tolist()
    assert list(channels.x) == counts.sum(axis=1).tolist()
    assert memory_use.banks_text(("Best", counts, counts, 20)) == (
        "Best: 28 row activates over 8 banks; the busiest has 2.00 times the mean; 28 row conflicts."
    )


def test_the_bandwidth_is_drawn_in_gigabytes_per_second() -> None:
    baseline = pd.DataFrame({"time_us": [0.0, 1.0], "bytes_per_second": [1e12, 5e11]})
    frames = {"Baseline": baseline, "Best found": baseline / 2}
    figure = memory_use.bandwidth_figure(frames)
    assert list(figure.data[0].y) == [1000.0, 500.0]
    assert figure.layout.yaxis.title.text == "HBM bandwidth [GB/s]"
    assert "1,000.0 GB/s (baseline) and 500.0 GB/s" in memory_use.bandwidth_text(frames)


def test_a_setting_that_the_baseline_does_not_have_is_a_group_of_its_own() -> None:
    values = np.array([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])
    assert knobs.share_explained(pd.Series([None, None, "4", "4", "5", "5"]), values) == pytest.approx(1)
