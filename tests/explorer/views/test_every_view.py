from __future__ import annotations

from dataclasses import replace

import pytest
import synthetic
from checks import check, named

from explorer.views import index
from explorer.views.look import shielded
from explorer.views.study_data import StudyData
from explorer.views.view import Picture, View

STUDY = [view for views in index.STUDY.values() for view in views]


HOSTILE = '<a href="http://x">&lt;'


@pytest.fixture(scope="module")
def study() -> StudyData:
    """A study that has everything, and a name of a layout that is markup."""
    data = synthetic.data("<b>x</b>", objectives=("time_us", "energy_pj"))
    return replace(data, rows=data.rows.replace({"layout": {"page head": HOSTILE}}))


@pytest.fixture(scope="module")
def pictures(study: StudyData) -> dict[str, Picture]:
    return {view.name: view.of(study) for view in STUDY}


@named(STUDY)
def test_every_view_of_a_study_that_has_everything_is_drawn(view: View, pictures: dict[str, Picture]) -> None:
    check(pictures[view.name])


@named(list(index.STUDIES))
def test_every_view_of_several_studies_is_drawn(view: View, study: StudyData) -> None:
    other = synthetic.data("other", sampler="random", objectives=("time_us", "energy_pj"))
    check(view.of([study, replace(other, rows=study.rows)]))


def test_the_names_of_views_are_unique_on_their_pages() -> None:
    for views in (*index.STUDY.values(), index.RUN, index.STUDIES, index.RUNS):
        names = [view.name for view in views]
        assert len(set(names)) == len(names)


def test_every_view_of_the_list_is_there() -> None:
    codes = {view.code for view in (*STUDY, *index.RUN, *index.STUDIES)}
    assert codes == {*(f"S{n}" for n in range(1, 14)), *(f"R{n}" for n in range(1, 11))}  # S14 is the footer


def test_what_a_study_does_not_have_is_left_out_with_the_reason() -> None:
    lean = synthetic.data()
    columns = [name for name in lean.rows if not str(name).startswith(("mix.", "utilisation.", "stalls."))]
    lean = StudyData("lean", lean.identity, lean.rows[columns], lean.space.assign(reason=""), {})
    reasons = {picture.view.name: picture.text for picture in (view.of(lean) for view in STUDY) if not picture.figure}
    assert reasons["pareto"] == "Not shown: the study has one objective, so its front is one point, the best found."
    assert reasons["slowdown"] == "Not shown: the study has one workload, not a mix."
    assert {"hypervolume", "ranks", "roofline", "versus", "banks-best", "refused"} <= reasons.keys()
    assert all(reason.startswith("Not shown: ") and reason.endswith(".") for reason in reasons.values())


BASELINE_DRAWN = ("history", "traffic", "pareto", "response", "pair", "capacity", "ranks", "slowdown", "roofline")


@pytest.mark.parametrize("name", BASELINE_DRAWN)
def test_the_baseline_is_always_drawn(name: str, pictures: dict[str, Picture]) -> None:
    assert "baseline" in str(shielded(pictures[name].figure))


def test_no_text_of_the_data_is_read_as_markup(pictures: dict[str, Picture]) -> None:
    for picture in pictures.values():
        assert "<a" not in str(shielded(picture.figure))
    drawn = shielded(pictures["response"].figure)
    assert '&lt;a href="http://x">&amp;lt;' in str(drawn["data"])


def test_many_points_are_left_to_the_graphics_card(study: StudyData) -> None:
    import pandas as pd

    many = pd.concat([study.rows.head(18)] * 600, ignore_index=True)
    many["point"] = range(len(many))
    grown = StudyData("many", study.identity, many, study.space, study.details)
    for name in ("history", "pareto", "roofline"):
        view = next(view for view in STUDY if view.name == name)
        assert "scattergl" in {trace.type for trace in view.of(grown).figure.data}
