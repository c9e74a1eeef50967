from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from checks import check, named

from explorer import evaluate
from explorer.query import Query
from explorer.storage.row import flatten
from explorer.views import in_flight, index, layout_picture, residency, speed, time_tree, units, versus
from explorer.views.run_data import RunData, of_query, of_row
from hwmodel.program import QUEUES
from layouts import FIELDS

SIZES = (("m", 64), ("n", 64), ("k", 64))


@pytest.fixture(scope="module")
def run() -> RunData:
    return of_query(Query("npu-hbm3", "gemm", options=SIZES))


@named(list(index.RUN))
def test_every_view_of_a_recorded_run_is_drawn(view: Any, run: RunData) -> None:
    check(view.of(run))


@named(list(index.RUNS))
def test_every_view_of_two_runs_is_drawn(view: Any, run: RunData) -> None:
    other = of_row("fewer stacks", dict(flatten(run.metrics)) | {"time_us": run.metrics["time_us"] * 2})
    check(view.of((run, other)))


def test_a_row_of_a_store_gives_what_was_not_recorded_but_for_what_was(run: RunData) -> None:
    row = of_row("row", {**flatten(run.metrics), "bound_us": run.metrics["bound_us"]})
    left = {view.name for view in index.RUN if view.of(row).figure is None}
    assert left == {"units", "in-flight", "latency", "residency", "balance", "banks", "layout"}
    assert speed.VIEW.of(row).text == speed.VIEW.of(run).text


def test_the_speed_of_light_is_the_utilisation(run: RunData) -> None:
    table = speed.VIEW.table(run)
    shares = dict(zip(table["part"], table["share"], strict=True))
    assert shares.pop(speed.BOUND_NAME) == run.metrics["bound_us"] / run.metrics["time_us"]
    assert shares == run.metrics["utilisation"]
    assert list(speed.figure(table).data[0].x[1:]) == [100 * share for share in shares.values()]


def test_phases_of_one_name_are_one(run: RunData) -> None:
    assert run.timeline is not None
    (*before, last) = run.timeline.phases
    middle_fs = (last.launched_fs + last.to_fs) // 2
    halves = replace(last, to_fs=middle_fs), replace(last, from_fs=middle_fs, launched_fs=middle_fs)
    cut = replace(run, timeline=replace(run.timeline, phases=(*before, *halves)))
    whole, parts = (dict(time_tree.VIEW.table(each).itertuples(index=False)) for each in (run, cut))
    assert parts == pytest.approx(whole)


def test_requests_on_their_way_are_averaged_over_the_time_when_there_are_any() -> None:
    steps = pd.DataFrame({"time_us": [0.0, 1.0, 3.0, 4.0], "value": [2.0, 0.0, 4.0, 0.0]})
    assert "x: 3.0 on average while there are any, 4.0 in" in in_flight.in_flight_text({"x": steps})


@pytest.mark.parametrize("recorded", [True, False])
def test_the_causes_of_every_unit_add_up_to_the_time_of_the_run(run: RunData, recorded: bool) -> None:
    data = run if recorded else RunData("row", run.metrics)
    by_unit: dict[str, float] = defaultdict(float)
    useful: dict[str, float] = defaultdict(float)
    for path, time_us in time_tree.VIEW.table(data).itertuples(index=False):
        unit = path[1] if recorded else path[0]
        by_unit[unit] += time_us
        useful[unit] += time_us * (path[-1] == "useful")
    for unit in QUEUES:
        assert by_unit[unit] == pytest.approx(run.metrics["time_us"])
        assert useful[unit] / by_unit[unit] == pytest.approx(run.metrics["utilisation"][unit])


def test_the_width_of_a_node_is_that_of_its_children(run: RunData) -> None:
    drawn = time_tree.figure(time_tree.VIEW.table(run)).data[0]
    below: dict[str, float] = defaultdict(float)
    for parent, value in zip(drawn.parents, drawn.values, strict=True):
        below[parent] += value
    for name, value in zip(drawn.ids, drawn.values, strict=True):
        assert below.get(name, value) == pytest.approx(value)


def test_units_are_busy_as_long_one_by_one_as_in_bins(run: RunData) -> None:
    table = units.VIEW.table(run)
    occupied = units.occupancy(table).sum(axis=1) * table.whole_us / units.BINS
    for lane, busy_us in zip(table.lanes, occupied, strict=True):
        part = table.spans[table.spans["lane"] == lane]
        assert busy_us == pytest.approx((part["to_us"] - part["from_us"]).sum())
    total = (table.spans["to_us"] - table.spans["from_us"]).groupby(table.spans["unit"]).sum()
    cores = run.recorded().cores
    for unit, share in run.metrics["utilisation"].items():
        if unit in QUEUES and share:
            assert total[unit] / cores / run.metrics["time_us"] == pytest.approx(share)


def test_more_intervals_than_a_browser_takes_are_drawn_as_shares(run: RunData, monkeypatch: pytest.MonkeyPatch) -> None:
    table = units.VIEW.table(run)
    assert {trace.type for trace in units.figure(table).data} == {"bar"}
    monkeypatch.setattr(units, "MAX_BARS", len(table.spans) - 1)
    assert [trace.type for trace in units.figure(table).data] == ["heatmap"]
    assert f"shares of {units.BINS} bins" in units.text(table)


def test_blocks_that_are_held_together_take_what_the_recorder_counted(run: RunData) -> None:
    table = residency.VIEW.table(run)
    assert table.high_bytes <= (table.capacity_bytes or 0)
    assert (table.blocks["to_us"] > table.blocks["from_us"]).all()
    assert table.blocks["to_us"].max() <= run.metrics["time_us"]
    for _, part in table.blocks.sort_values("from_us").groupby("block"):
        assert (part["from_us"].to_numpy()[1:] >= part["to_us"].to_numpy()[:-1] - 1e-9).all()


def test_a_cell_of_a_layout_lies_where_the_address_map_says(run: RunData) -> None:
    table = layout_picture.VIEW.table(run)
    assert run.memory is not None
    assert run.memory.address_map is not None
    tensor = next(each for each in run.memory.tensors if each.name == table.name)
    sizes = dict(zip(FIELDS, run.memory.address_map.sizes, strict=True))
    for row, column in ((0, 0), (1, 2), (len(table.rows) - 1, len(table.columns) - 1)):
        named = dict(zip(tensor.layout.axes, (int(table.rows[row]), int(table.columns[column])), strict=True))
        offset = int(tensor.layout.offset(**named))
        assert table.offsets[row, column] == offset
        place = run.memory.address_map.decode(np.array([offset * tensor.element_bytes + tensor.base_bytes]))
        channel = int(place.stack[0]) * sizes["channel"] + int(place.channel[0])
        expected = channel * sizes["pseudo_channel"] + int(place.pseudo_channel[0])
        assert table.numbers[row, column] == expected


def test_the_difference_of_two_runs_is_explained_to_the_last_part() -> None:
    queries = (Query("npu-hbm3", "gemm", options=SIZES, machine_overrides=o) for o in ((), (("hbm.stacks", "1"),)))
    runs = [evaluate.simulate(query).metrics for query in queries]
    table = versus.versus(("a", "b"), *(dict(flatten(metrics)) for metrics in runs))
    assert table.times_us[1] > table.times_us[0]
    assert sum(table.causes["difference_us"]) == pytest.approx(table.times_us[1] - table.times_us[0])
