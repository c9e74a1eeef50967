from __future__ import annotations

from typing import Any

import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer.dashboard.cut import Cut, apply, cut_knobs, cut_metrics, read_cut, values_of
from explorer.views import history

STUDY = synthetic.data()
KNOBS = cut_knobs(STUDY)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_what_passes_are_the_rows_that_pass_and_the_baseline(data: st.DataObject) -> None:
    chosen = {
        place: tuple(data.draw(st.lists(st.integers(0, len(values_of(STUDY, knob)) - 1), max_size=2)))
        for place, knob in enumerate(KNOBS)
    }
    low, high = sorted(data.draw(st.tuples(st.floats(300, 500), st.floats(300, 500))))
    kept = apply(STUDY, Cut(chosen, {0: (low, high)}))
    expected = {0}
    for row in STUDY.rows.to_dict("records"):
        by_knob = all(
            not places or row[knob] in [values_of(STUDY, knob)[p] for p in places]
            for knob, places in zip(KNOBS, chosen.values(), strict=True)
        )
        if by_knob and (row["status"] != "simulated" or low <= row["time_us"] <= high):
            expected.add(row["point"])
    assert set(kept.rows["point"]) == expected


def test_figures_and_sentences_speak_of_the_points_that_pass() -> None:
    place = KNOBS.index("tile")
    kept = apply(STUDY, Cut({place: (values_of(STUDY, "tile").index(64),)}))
    traces = {trace.name: trace for trace in history.VIEW.of(kept).figure.data}
    assert len(traces["simulated"].x) == 7
    assert "7 points, 7 simulated" in history.VIEW.of(kept).text  # the one pruned has another tile


def test_metrics_to_cut_are_the_objectives_first() -> None:
    assert cut_metrics(STUDY)[0] == "time_us"


@pytest.mark.parametrize("sent", [None, "x", {"a": 1}, [None], ["<script>"], [True], [1.5], [[1]], [10**9]])
def test_what_a_browser_should_not_send_lets_everything_through(sent: Any) -> None:
    kept = apply(STUDY, read_cut({0: sent, 99: sent}, {0: sent, 99: sent}))
    assert len(kept.rows) == len(STUDY.rows)
