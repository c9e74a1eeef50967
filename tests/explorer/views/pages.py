"""A page as a test reads it: scripts, links and text, and what its figures were made from."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.names: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        self.names.append(tag)
        for name, value in attrs:
            if name == "src":
                (self.scripts if tag == "script" else self.links).append(value or "")
            if name == "href":
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if not self._in_script:
            self.text.append(data)


def figures(text: str) -> dict[str, list[dict[str, Any]]]:
    """Return the traces of every figure on a page by the figure's name."""
    found = {}
    decoder = json.JSONDecoder()
    for match in re.finditer(r'Plotly\.newPlot\(\s*"([^"]+)",\s*', text):
        found[match[1]] = decoder.raw_decode(text, match.end())[0]
    return found
