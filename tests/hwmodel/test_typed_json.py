"""Values come back as they were annotated, and anything else is refused by its path."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.typed_json import array_paths, parse_json, plain, typed

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Inner:
    size: int
    share: float


@dataclass(frozen=True)
class Outer:
    name: str
    parts: tuple[Inner, ...]
    table: dict[str, dict[str, int]]
    maybe: Inner | None
    counts: Array


INNER = st.builds(Inner, st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False))
NAMES = st.text("abc -", max_size=4)
COUNTS = st.dictionaries(NAMES, st.integers(-9, 9))
SHAPES = st.sampled_from([(0,), (4,), (2, 2), (1, 4), (0, 3)])


@given(
    NAMES,
    st.lists(INNER),
    st.dictionaries(NAMES, st.dictionaries(NAMES, st.integers(-9, 9))),
    st.none() | INNER,
    SHAPES,
)
def test_a_value_comes_back_through_the_text_of_it(
    name: str, parts: list[Inner], table: dict[str, Any], maybe: Inner | None, shape: tuple[int, ...]
) -> None:
    value = Outer(name, tuple(parts), table, maybe, np.arange(np.prod(shape), dtype=np.int64).reshape(shape))
    arrays: dict[str, Array] = {}
    text = json.dumps(plain(value, "it", arrays))
    assert tuple(arrays) == array_paths(Outer, "it") == ("it.counts",)
    found = typed(Outer, parse_json(text, "text"), "it", arrays)
    assert (found.name, found.parts, found.table, found.maybe) == (name, tuple(parts), table, maybe)
    np.testing.assert_array_equal(found.counts, value.counts)
    assert found.counts.shape == shape


GOOD = {"name": "n", "parts": [{"size": 1, "share": 0.5}], "table": {}, "maybe": None, "counts": [2]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "it.name: 1; allowed: a printable text"),
        ({"name": "a\nb"}, "it.name: 'a\\nb'; allowed: a printable text"),
        ({"more": 1}, "it: ['counts', 'maybe', 'more', 'name', 'parts', 'table']; allowed: the keys name, parts"),
        ({"parts": {}}, "it.parts: {}; allowed: a list"),
        ({"parts": [1]}, "it.parts[0]: 1; allowed: a table"),
        ({"parts": [{"size": True, "share": 0.5}]}, "it.parts[0].size: True; allowed: an integer"),
        ({"parts": [{"size": 2**101, "share": 0.5}]}, "it.parts[0].size: 2535"),
        ({"parts": [{"size": 1, "share": 1}]}, "it.parts[0].share: 1; allowed: a finite number with a decimal point"),
        ({"table": {"a": 1}}, "it.table.a: 1; allowed: a table"),
        ({"counts": [3]}, "it.counts: [3]; allowed: a shape of 2 values"),
        ({"counts": [-1, -2]}, "it.counts: -1; allowed: an integer from 0"),
    ],
)
def test_another_value_is_refused_by_its_path(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        typed(Outer, GOOD | change, "it", {"it.counts": np.zeros(2, np.int64)})
    assert str(caught.value).startswith(message)
