"""What holds for the picture of every view."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from explorer.views.look import shielded
from explorer.views.view import Picture, View

WITHOUT_AXES = ("table", "parcoords", "icicle")


def named(views: Sequence[View]) -> Any:
    return pytest.mark.parametrize("view", views, ids=[view.name for view in views])


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from numbers(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from numbers(part)


def check(picture: Picture) -> None:
    assert picture.figure is not None, picture.text
    assert picture.text.endswith((".", "scratchpad"))
    assert "nan" not in picture.text
    plain = shielded(picture.figure)
    assert not [value for value in numbers(plain["data"]) if math.isnan(value)]
    assert plain["data"]
    if plain["data"][0]["type"] not in WITHOUT_AXES:
        axes = [part for name, part in plain["layout"].items() if name.startswith(("xaxis", "yaxis"))]
        hidden = all(axis.get("visible") is False for axis in axes)
        assert hidden or any(axis.get("title", {}).get("text") for axis in axes)
