"""A view: a question, and three pure functions that answer it from data: its table, its figure, its text.

`table` raises `NotShown` with the reason where the data does not have what the question asks for; a page then shows
that reason in the place of the figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go


class NotShown(Exception):
    """Data does not have what a view asks for; the message says what is missing."""


@dataclass(frozen=True)
class Picture:
    """A view of some data; `figure` is None where it cannot be drawn, and `text` says why."""

    view: View
    text: str
    figure: go.Figure | None


@dataclass(frozen=True)
class View:
    """`code` as in the list of views (S1, R4), `name` unique on a page, `title` above the text."""

    code: str
    name: str
    title: str
    table: Callable[[Any], Any]
    text: Callable[[Any], str]
    figure: Callable[[Any], go.Figure]

    def of(self, data: Any) -> Picture:
        """Return the picture of some data."""
        try:
            table = self.table(data)
        except NotShown as reason:
            return Picture(self, f"Not shown: {reason}.", None)
        return Picture(self, self.text(table), self.figure(table))


def drawn(views: Iterable[View], data: Any) -> Iterator[Picture]:
    """Yield the pictures of some data, in the order of the views."""
    for view in views:
        yield view.of(data)
