"""Pages in a headless Chromium: they draw without an error and a network, and show the numbers of the rows."""

from __future__ import annotations

import io
import math
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
import synthetic
from in_browser import DRAWN, Tab

from explorer.explore import explore
from explorer.page import page as page_of
from explorer.page import sections
from explorer.points_table import points_table
from explorer.progress import silent
from explorer.query import Query
from explorer.report import write_comparison, write_report
from explorer.run_page import write_run
from explorer.store import rows_frame
from explorer.study import Study
from explorer.views import index, study_data
from explorer.views.run_data import of_query
from explorer.views.view import drawn

pytestmark = pytest.mark.browser
GEMM: dict[str, Any] = {
    "name": "gemm-64",
    "machine": "npu-hbm3",
    "kernel": "gemm",
    "options": {"m": 64, "n": 64, "k": 64},
    "knobs": {"tile_k": [16, 32, 64], "schedule": ["static", "dynamic"]},
    "budget": {"points": 4},
}


def close(found: list[float], expected: list[float]) -> bool:
    return len(found) == len(expected) and all(math.isclose(a, b) for a, b in zip(found, expected, strict=True))


def test_every_page_of_a_report_draws_the_rows_from_a_file(
    fake: ModuleType, study: Study, tmp_path: Path, tab: Tab
) -> None:
    explore(study, tmp_path, 1, fake.EVALUATOR, silent)
    first = write_report(tmp_path)
    done = rows_frame(tmp_path).query("status == 'simulated'")
    figures = 0
    for path in sorted(tmp_path.glob("*.html")):
        tab.open(path.as_uri())
        figures += tab.page.locator(".js-plotly-plot").count()
        assert "Provenance" in tab.page.inner_text("body")
    tab.open(first.as_uri())
    history = tab.traces("history")
    assert close(history["simulated"]["y"], list(done["time_us"]))
    assert close(tab.traces("traffic")["simulated"]["x"], list(map(float, done["hbm_read_bytes"])))
    assert figures >= 12
    assert tab.wrong == []
    assert all(address.startswith(("file:", "data:", "blob:")) for address in tab.asked)


def test_every_view_of_studies_is_drawn(tmp_path: Path, tab: Tab) -> None:
    from plotly.offline import get_plotlyjs

    data = synthetic.data(objectives=("time_us", "energy_pj"))
    views = [view for part in index.STUDY.values() for view in part]
    body = sections(
        [
            *drawn(views, data),
            *drawn(
                index.STUDIES, [data, synthetic.data("other", sampler="random", objectives=("time_us", "energy_pj"))]
            ),
        ]
    )
    (tmp_path / "all.html").write_text(page_of("all", body, script=get_plotlyjs()), encoding="utf-8")
    tab.open((tmp_path / "all.html").as_uri())
    assert tab.page.locator(".js-plotly-plot").count() == len(views) + len(index.STUDIES)
    assert close(tab.traces("pareto")["simulated"]["y"], list(data.done["energy_pj"]))
    assert tab.wrong == []


def test_every_view_of_a_run_is_drawn(tmp_path: Path, tab: Tab) -> None:
    run = of_query(Query("npu-hbm3", "gemm", options=(("m", 64), ("n", 64), ("k", 64))))
    tab.open(write_run(tmp_path, run, Path("trace.json"), "knobs").as_uri())
    assert tab.page.locator(".js-plotly-plot").count() == len(index.RUN)
    bars = next(iter(tab.traces("speed").values()))
    assert close(bars["x"][1:], [100 * share for share in run.metrics["utilisation"].values()])
    assert tab.wrong == []


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>", '<img src=x onerror="alert(1)">', "$x$"])
def test_hostile_names_run_nothing_and_are_shown_as_they_are(tmp_path: Path, tab: Tab, name: str) -> None:
    from plotly.offline import get_plotlyjs

    data = synthetic.data(name)
    rows = data.rows.replace({"layout": {"page head": name}})
    hostile = study_data.StudyData(name, data.identity, rows, data.space, data.details)
    views = [view for part in index.STUDY.values() for view in part]
    body = [*sections(drawn(views, hostile)), points_table(rows, ["layout"], [hostile.objective])]
    (tmp_path / "page.html").write_text(page_of(name, body, script=get_plotlyjs()), encoding="utf-8")
    tab.open((tmp_path / "page.html").as_uri())
    assert name in tab.page.inner_text("h1")
    assert name in tab.page.evaluate("document.getElementById('response').textContent")
    assert tab.page.locator("img").count() == 0
    assert tab.wrong == []


def test_several_studies_are_compared_offline(fake: ModuleType, study: Study, tmp_path: Path, tab: Tab) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(folders):
        explore(study.with_seed(seed), folder, 1, fake.EVALUATOR, silent)
    tab.open(write_comparison(folders, tmp_path / "report").as_uri())
    best = [float(rows_frame(folder)["time_us"].min()) for folder in folders]
    assert close(tab.traces("found")["best found"]["y"], best)
    tab.page.get_by_text("fake-study (2)", exact=True).first.click()
    tab.page.wait_for_function(DRAWN)
    assert tab.page.inner_text("h1") == "fake-study (2)"
    assert tab.wrong == []


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A dashboard of a study of real simulations."""
    pytest.importorskip("dash", reason="needs the extra `dashboard`")
    from explorer.dashboard.server import in_thread, serving
    from explorer.evaluate import EVALUATOR

    folder = tmp_path_factory.mktemp("served")
    explore(Study.model_validate(GEMM), folder, 1, EVALUATOR, silent)
    with serving([folder], lambda trace: None, "127.0.0.1", 0) as server, in_thread(server) as address:
        yield address, folder


def test_a_filter_of_the_dashboard_changes_a_figure(served: tuple[str, Path], tab: Tab) -> None:
    address, folder = served
    done = rows_frame(folder).query("status == 'simulated'")
    tab.page.goto(f"{address}/0/answer")
    tab.page.wait_for_selector("#figure-history .main-svg")
    assert "4 of 4 points pass" in tab.page.inner_text("#passing")
    inside = "document.querySelector('#figure-history .js-plotly-plot')"
    values = tab.page.evaluate(f"Array.from({inside}._fullData.find(t => t.name === 'simulated').y)")
    assert close(values, list(done["time_us"]))
    tab.page.locator(".filters button").nth(1).click()
    tab.page.locator("[role=option]:has-text('dynamic')").first.click()
    tab.page.keyboard.press("Escape")
    kept = done[(done["schedule"] == "dynamic") | (done["point"] == 0)]
    tab.page.wait_for_function(f"document.getElementById('passing').innerText.startsWith('{len(kept)} of 4')")
    tab.page.wait_for_function(
        f"{inside} && {inside}._fullData.find(t => t.name === 'simulated').y.length === {len(kept)}"
    )
    values = tab.page.evaluate(f"Array.from({inside}._fullData.find(t => t.name === 'simulated').y)")
    assert close(values, list(kept["time_us"]))
    assert tab.wrong == []
    assert all(asked.startswith((address, "data:", "blob:")) for asked in tab.asked)


def test_what_is_moved_on_the_what_if_page_is_simulated(served: tuple[str, Path], tab: Tab) -> None:
    from explorer import evaluate
    from explorer.dashboard.question import query_of
    from explorer.objective import microseconds

    address, _ = served
    study = Study.model_validate(GEMM)
    tab.page.goto(f"{address}/0/what-if")
    tab.page.wait_for_selector("#what-if")
    tab.page.locator("#more").fill("hbm.stacks=1")
    tab.page.locator("#more").press("Enter")
    metrics = evaluate.simulate(query_of(study, {}, more="hbm.stacks=1")).metrics
    tab.page.wait_for_function(
        f"document.getElementById('what-if').innerText.includes('{microseconds(metrics['time_us'])}')"
    )
    tab.page.locator("#more").fill("hbm.stacks=many")
    tab.page.locator("#more").press("Enter")
    tab.page.wait_for_function("document.getElementById('said')?.innerText.includes('hbm.stacks')")
    assert tab.wrong == []


def test_a_point_is_recorded_again(served: tuple[str, Path], tab: Tab) -> None:
    address, _ = served
    tab.page.goto(f"{address}/0/point/1")
    tab.page.locator("#record").click()
    tab.page.wait_for_selector("#figure-recorded-units .main-svg")
    assert tab.wrong == []


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_a_foreign_page_is_refused(served: tuple[str, Path], headers: dict[str, str]) -> None:
    address, _ = served
    update = urllib.request.Request(f"{address}/_dash-update-component", b"{}", headers, method="POST")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(update, timeout=60)


def test_points_that_are_added_while_it_is_shown_appear(served: tuple[str, Path], tab: Tab) -> None:
    address, folder = served
    path = folder / "points.parquet"
    kept = path.read_bytes()
    pq.write_table(pq.read_table(io.BytesIO(kept)).slice(0, 3), path)
    tab.page.goto(f"{address}/0/points")
    tab.page.wait_for_function("document.getElementById('passing')?.innerText.startsWith('3 of 3')")
    path.write_bytes(kept)
    tab.page.wait_for_function("document.getElementById('passing').innerText.startsWith('4 of 4')")
    assert tab.wrong == []
