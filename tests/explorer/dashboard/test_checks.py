from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from explorer.workers import SerialExecutor

pytest.importorskip("dash", reason="needs the extra `dashboard`")

from explorer.dashboard.app import Dashboard
from explorer.dashboard.checks import UPDATE


@pytest.fixture(scope="module")
def client(reported: Path) -> Any:
    return Dashboard([reported], SerialExecutor(), lambda trace: None).application().server.test_client()


TICK = {
    "output": "version.data",
    "outputs": {"id": "version", "property": "data"},
    "inputs": [{"id": "clock", "property": "n_intervals", "value": 1}],
    "state": [{"id": "version", "property": "data", "value": 0}],
    "changedPropIds": ["clock.n_intervals"],
}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[",
        "{}",
        "[]",
        "7",
        *(json.dumps(TICK | part) for part in ({"output": "x.y"}, {"outputs": 1}, {"inputs": {}}, {"inputs": [[7]]})),
        *(json.dumps(TICK | part) for part in ({"state": 1}, {"changedPropIds": [1]}, {"output": ["version.data"]})),
    ],
)
def test_a_body_that_updates_nothing_is_a_bad_request(client: Any, body: str) -> None:
    answer = client.post(UPDATE, data=body, content_type="application/json")
    assert (answer.status_code, answer.text) == (400, "rowhit dashboard: no update of a page\n")


def test_an_update_of_a_page_is_answered(client: Any) -> None:
    assert client.post(UPDATE, json=TICK).status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/0/nothing", "/1/answer", "/0/point/x", "/favicon", "/compare/"])
def test_an_address_without_a_page_is_not_found(client: Any, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.text.startswith("rowhit dashboard: ")


@pytest.mark.parametrize("path", ["/", "/compare", "/0/answer", "/0/what-if", "/0/point/3", "/_dash-layout"])
def test_a_page_and_what_it_is_made_of_are_found(client: Any, path: str) -> None:
    assert client.get(path).status_code == 200
