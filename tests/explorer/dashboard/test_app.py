from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from explorer.storage.folder import rows_frame
from explorer.workers import SerialExecutor

pytest.importorskip("dash", reason="needs the extra `dashboard`")

from explorer.dashboard.app import At, Dashboard, at

HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def results(reported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a machine of a hostile name, to be looked at only."""
    folder = Path(shutil.copytree(reported, tmp_path_factory.mktemp("hostile") / "out"))
    record = json.loads((folder / "study.json").read_text())
    record["study"]["machine"] = HOSTILE
    (folder / "study.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def dashboard(results: Path) -> Dashboard:
    return Dashboard([results], SerialExecutor(), lambda trace: None)


def content(dashboard: Dashboard, path: str, knobs: Any = (), ranges: Any = ()) -> Any:
    ids = [{"type": "knob", "index": place} for place in range(len(knobs))]
    spans = [{"type": "range", "index": place} for place in range(len(ranges))]
    low_high = [0.0] * len(ranges), [1e9] * len(ranges)
    return dashboard.content(path, 0, list(knobs), list(ranges), ids, spans, *low_high, None)[0]


def figure(parts: Any, name: str) -> dict[str, Any]:
    plain = json.loads(json.dumps(parts, default=lambda part: part.to_plotly_json()))
    found: list[dict[str, Any]] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if value.get("id") == f"figure-{name}":
                found.append(value["figure"])
            for part in value.values():
                look(part)
        elif isinstance(value, list):
            for part in value:
                look(part)

    look(plain)
    return found[0]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", At(0, "answer")),
        ("/compare", At(-1, "compare")),
        ("/1/point/12", At(1, "point", 12)),
        ("/0/what-if", At(0, "what-if")),
    ],
)
def test_an_address_is_a_page(path: str, expected: At) -> None:
    assert at(path) == expected


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/0/nothing", "/0/point/x", "/-1/answer", "/0/answer/../..", "/%2e%2e/", 7]
)
def test_what_is_no_page_is_said_and_nothing_is_opened(dashboard: Dashboard, path: Any) -> None:
    with pytest.raises(ValueError, match="there is no such page"):
        at(path)
    assert "there is no such page" in str(content(dashboard, path))


def test_the_figures_of_a_page_are_the_rows(dashboard: Dashboard, results: Path) -> None:
    done = rows_frame(results).query("status == 'simulated'")
    traces = {trace["name"]: trace for trace in figure(content(dashboard, "/0/answer"), "history")["data"]}
    assert traces["simulated"]["y"] == list(done["time_us"])


def test_a_knob_that_is_filtered_filters_figures_and_table(dashboard: Dashboard, results: Path) -> None:
    layouts = sorted(rows_frame(results)["layout"].unique())
    shown = content(dashboard, "/0/answer", knobs=[[layouts.index("head page")]])
    rows = rows_frame(results).query("status == 'simulated'")
    kept = rows[(rows["layout"] == "head page") | (rows["point"] == 0)]
    traces = {trace["name"]: trace for trace in figure(shown, "history")["data"]}
    assert traces["simulated"]["x"] == list(kept["point"])
    table = content(dashboard, "/0/points", knobs=[[layouts.index("head page")]])
    assert f"of {len(rows_frame(results))} points pass the filters" in str(table)


@pytest.mark.parametrize("page", ["answer", "settings", "machine", "trust", "points", "point/0", "point/1"])
def test_every_page_is_there_and_reads_nothing_as_markup(dashboard: Dashboard, page: str) -> None:
    parts = content(dashboard, f"/0/{page}")
    text = json.dumps(parts, default=lambda part: part.to_plotly_json())
    assert "DangerouslySetInnerHTML" not in text
    assert "Provenance" in text


def test_a_point_that_is_not_there_is_said(dashboard: Dashboard) -> None:
    assert "there is no point 999" in str(content(dashboard, "/0/point/999"))


def test_a_kernel_that_nobody_knows_is_said_on_the_what_if_page(dashboard: Dashboard) -> None:
    said = dashboard.answer([0, 0, 0], "", "/0/what-if")
    assert "unknown kernel 'fake'" in str(said)


def test_dash_takes_the_application(dashboard: Dashboard) -> None:
    client = dashboard.application().server.test_client()
    assert client.get("/").status_code == 200
    layout = client.get("/_dash-layout").get_json()
    assert layout["props"]["children"][0]["props"]["id"] == "at"
