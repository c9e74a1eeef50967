"""A headless Chromium for tests: pages with everything that went wrong in them, and the numbers of their figures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage"]
WAIT_MS = 120_000
DRAWN = """[...document.querySelectorAll('.plotly-graph-div, .js-plotly-plot')].every(
    div => div._fullData && div._fullData.length > 0 && div.querySelector('.main-svg'))"""
TRACES = """name => document.getElementById(name)._fullData.map(
    trace => ({name: trace.name, type: trace.type, x: Array.from(trace.x || []), y: Array.from(trace.y || [])}))"""


class Tab:
    """A page of the browser, with everything that went wrong in it and every address it asked for."""

    def __init__(self, page: Any) -> None:
        self.page, self.wrong, self.asked = page, [], []
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, where: str) -> None:
        self.page.goto(where)
        self.page.wait_for_function(DRAWN)

    def listed(self, name: str) -> list[dict[str, Any]]:
        """Return name, type, x and y of every trace of a figure, as the browser has them."""
        return list(self.page.evaluate(TRACES, name))

    def traces(self, name: str) -> dict[str, dict[str, Any]]:
        return {trace["name"]: trace for trace in self.listed(name)}


@contextmanager
def chromium() -> Iterator[Any]:
    """Give a browser; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
    if CHROMIUM is None:
        pytest.skip("no chromium or chromium-browser on the path: apt install chromium")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()
