from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer.space.grid import Grid
from explorer.study.knobs import Knob, read_knob
from explorer.study.study import Study
from layouts.notation import named

BASE = {"name": "s", "machine": "m", "kernel": "k"}


@pytest.mark.parametrize(
    ("written", "choices"),
    [
        ([1, 2], (1, 2)),
        ({"choices": ["a", "b"]}, ("a", "b")),
        ({"from": 16, "to": 256, "times": 2}, (16, 32, 64, 128, 256)),
        ({"from": 16, "to": 100, "times": 2}, (16, 32, 64)),
        ({"from": 2, "to": 8, "step": 1}, (2, 3, 4, 5, 6, 7, 8)),
        ({"from": 0.1, "to": 0.5, "step": 0.1}, (0.1, 0.2, 0.3, 0.4, 0.5)),
        ({"from": 128, "to": 512, "times": 2, "unit": "KiB"}, ("128 KiB", "256 KiB", "512 KiB")),
    ],
)
def test_a_knob_stands_for_its_choices(written: Any, choices: tuple[object, ...]) -> None:
    assert read_knob("tile", written).choices == choices


def test_a_space_of_layouts_is_a_knob_of_texts_that_a_kernel_reads() -> None:
    sizes = {"page": 1, "kv": 2, "token": 16, "head": 8, "dim": 128}
    layouts = {"sizes": sizes, "max_digits": 1, "outer": ["page"], "innermost": "dim", "run_bytes": 64}
    texts = read_knob("layout", {"layouts": layouts}).choices
    assert "page kv token head dim" in texts
    assert len(texts) == len(set(texts)) == 6
    assert len({named(str(text), sizes).key for text in texts}) == 6
    drawn = read_knob("layout", {"layouts": {"sizes": sizes, "sample": 5, "seed": 1}}).choices
    assert len(drawn) == 5
    assert drawn == read_knob("layout", {"layouts": {"sizes": sizes, "sample": 5, "seed": 1}}).choices


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (16, "a list of choices, or a mapping"),
        ({}, "give one of choices, from, layouts"),
        ({"choices": [1], "from": 1, "to": 2, "step": 1}, "give one of choices, from, layouts"),
        ({"choices": [1], "step": 1}, "step goes with from"),
        ({"form": 1}, "unknown key 'form': did you mean 'from'?"),
        ({"choices": [[1], 2]}, "[1]: a number, a text, true or false is needed"),
        ({"choices": [float("nan")]}, "a number, a text"),
        ({"from": 1, "to": 4}, "a range is {from: a, to: b, times: t} or"),
        ({"from": 4, "to": 1, "step": 1}, "from 4 is above to 1"),
        ({"from": 1, "to": 4, "times": 1}, "times 1: the range from 1 would not end"),
        ({"from": 0, "to": 4, "times": 2}, "times 2: the range from 0 would not end"),
        ({"from": 1, "to": 4, "step": -1}, "step -1: the range from 1 would not end"),
        ({"from": 0, "to": 1e15, "step": 1}, "more than 65536 choices"),
        ({"from": 1, "to": 1e300, "times": 2}, "to 1e+300: a number is needed"),
        ({"from": 1, "to": True, "times": 2}, "to True: a number is needed"),
        ({"from": 1, "to": 2, "step": 1, "unit": "; rm"}, "unit ; rm: a unit such as KiB"),
        ({"layouts": {}}, "layouts: a mapping with the sizes"),
        ({"layouts": {"sizes": {"m": 0}}}, "layouts: axis m has size 0"),
        ({"layouts": {"sizes": {"m": "x"}}}, "layouts: size of axis m"),
        ({"layouts": {"sizes": {"m": 4}, "size": 1}}, "layouts: unknown key 'size': did you mean 'sizes'?"),
        ({"layouts": {"sizes": {"a": 2**30, "b": 2**30}}}, "give sample: how many of them"),
        ({"choices": [1], "when": [2]}, "when: a mapping of other knobs"),
        ({"choices": [1], "when": {"other": []}}, "when: other: give at least one value"),
    ],
)
def test_a_wrong_knob_is_refused_with_what_is_allowed(written: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_knob("tile", written)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"a": [1, 2], "b": {"choices": [1], "when": {"c": 1}}}, "b: when: unknown knob 'c'"),
        ({"a": {"choices": [1], "when": {"b": 1}}, "b": [1, 2]}, "a: when: unknown knob 'b'"),
        ({"a": [1, 2], "b": {"choices": [1], "when": {"a": 3}}}, "b: when: a: 3 is none of its choices"),
        ({"a": [1], "machine.x": {"choices": [1], "when": {"a": 1}}}, "machine.x: when: a number of the machine"),
    ],
)
def test_a_condition_names_a_knob_before_and_one_of_its_choices(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Study.model_validate(BASE | {"knobs": knobs})


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    knobs: list[Knob] = []
    for name in "abcd"[: draw(st.integers(1, 4))]:
        choices = tuple(range(draw(st.integers(1, 4))))
        when = ()
        if knobs and draw(st.booleans()):
            other = draw(st.sampled_from(knobs))
            when = ((other.name, tuple(draw(st.sets(st.sampled_from(other.choices), min_size=1)))),)
        knobs.append(Knob(name, choices, when))
    return Grid(tuple(knobs), dict.fromkeys("abcd", draw(st.sampled_from([0, 9]))))


@settings(max_examples=25)
@given(grids())
def test_combinations_count_every_choice_once_and_conditions_keep_defaults(grid: Grid) -> None:
    everything = np.arange(grid.size)
    assert (grid.index(grid.digits(everything)) == everything).all()
    columns = grid.columns(everything)
    for index in everything.tolist():
        values = grid.values(index)
        assert values == {name: column[index] for name, column in columns.items()}
        for knob, digit in zip(grid.knobs, grid.digits(everything)[index], strict=True):
            holds = all(values[other] in allowed for other, allowed in knob.when)
            assert values[knob.name] == (knob.choices[digit] if holds else grid.held[knob.name])


@settings(max_examples=25)
@given(grids())
def test_the_first_of_equal_combinations_stands_for_all_that_conditions_make_equal(grid: Grid) -> None:
    everything = np.arange(grid.size)
    levels = grid.levels(everything)
    firsts: dict[tuple[int, ...], int] = {}
    for index in everything.tolist():
        firsts.setdefault(tuple(levels[index].tolist()), index)
    assert grid.first(everything).tolist() == [firsts[tuple(levels[index].tolist())] for index in everything.tolist()]


@settings(max_examples=25)
@given(grids(), st.data())
def test_a_combination_is_found_by_its_values(grid: Grid, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, grid.size - 1))
    found = grid.find(grid.values(index))
    assert found is not None
    assert grid.values(found) == grid.values(index)
    assert found == grid.first(np.array([found]))[0]
    assert grid.find(grid.values(index) | {grid.knobs[-1].name: 77}) is None


@pytest.mark.parametrize("value", [10**19, -(10**19), pytest.param(10**5000, id="long"), float("nan"), float("inf")])
def test_a_number_that_no_array_holds_is_refused_wherever_it_stands(value: float) -> None:
    study: dict[str, Any] = {"name": "x", "machine": "m", "kernel": "k", "knobs": {"a": [1, 2]}}
    for place in ({"knobs": {"a": [1, value]}}, {"fixed": {"b": value}}, {"baseline": {"a": value}}):
        with pytest.raises(ValueError, match=r"whole number of \d+ bits; allowed|needed"):
            Study.model_validate(study | place)
