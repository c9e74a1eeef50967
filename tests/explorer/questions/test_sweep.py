from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.questions.sweep import MAX_VALUES, Axis, axes_of, axis_of, parse_axis


@given(st.integers(0, 10**6), st.integers(0, 200), st.integers(1, 9))
def test_a_range_is_that_of_python_with_both_ends(first: int, length: int, step: int) -> None:
    last = first + length
    expected = tuple(map(str, range(first, last + 1, step)))
    assert parse_axis(f"context={first}..{last}+{step}").values == expected


@given(st.integers(1, 10**6), st.integers(2, 9), st.integers(0, 12))
def test_factors_multiply_up_to_the_end(first: int, factor: int, powers: int) -> None:
    values = parse_axis(f"batch={first}..{first * factor**powers}*{factor}").values
    assert list(map(int, values)) == [first * factor**power for power in range(powers + 1)]


def test_a_unit_goes_to_every_value_and_comes_back_in_text() -> None:
    axis = parse_axis("cores.sram.capacity=1..4*2 MiB")
    assert axis.values == ("1 MiB", "2 MiB", "4 MiB")
    assert axis.numbers == (1, 2, 4)
    assert axis.text(Decimal(3)) == "3 MiB"
    assert axis.text(Decimal("300")) == "300 MiB"
    assert axis.is_whole


def test_words_and_mixed_units_are_no_numbers() -> None:
    assert parse_axis("layout=page head,head page").numbers is None
    assert parse_axis("noc.latency=20 ns,1 us").numbers is None
    assert not parse_axis("hbm.pin_rate=5.2 Gb/s,6.4 Gb/s").is_whole


def test_values_from_python_are_those_of_the_text() -> None:
    assert axis_of("page_size", range(16, 65, 16)) == parse_axis("page_size=16..64+16")
    assert axis_of("share", [0.5, True, "x"]) == Axis("share", ("0.5", "True", "x"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("page_size", "allowed: PATH=A..B"),
        ("=1..4", "allowed: PATH=A..B"),
        ("a=4..1", "ends before it begins"),
        ("a=1..4+0", "steps from 1"),
        ("a=1..4*1", "factors from 2"),
        ("a=0..4*2", "of numbers from 1"),
        ("a=1..x", "of whole numbers"),
        ("a=1..99999999999999999999999999", "of whole numbers"),
        ("a=1..999999999999999999", f"more than {MAX_VALUES} values"),
        ("a=1,,2", "a value is missing"),
        ("a=1,2,1", "stands there twice"),
        ("a=" + "9..9" * 10_000, "of whole numbers"),
        ("a=1..٤", "of whole numbers"),
    ],
)
def test_what_is_no_axis_is_refused_in_a_short_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="--sweep") as refused:
        parse_axis(text)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 200
    assert "\n" not in str(refused.value)


def test_values_that_are_no_scalars_or_never_end_are_refused() -> None:
    import itertools

    with pytest.raises(ValueError, match="allowed: numbers and texts"):
        axis_of("a", [[1]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=f"more than {MAX_VALUES} values"):
        axis_of("a", itertools.count(1))


def test_two_axes_make_a_grid_and_three_or_the_same_twice_do_not() -> None:
    one, two = parse_axis("a=1,2"), parse_axis("b=1,2")
    assert axes_of([one, two]) == (one, two) == axes_of({"a": [1, 2], "b": "1,2"})
    with pytest.raises(ValueError, match="3 axes"):
        axes_of([one, two, parse_axis("c=1,2")])
    with pytest.raises(ValueError, match="stands there twice"):
        axes_of([parse_axis("hbm.stacks=1,2"), parse_axis("machine.hbm.stacks=1,2")])


def test_a_size_between_two_is_whole_bytes() -> None:
    axis = Axis("cores.sram.capacity", ("1.5 MB", "2 MB"))
    assert axis.text(Decimal("1.75")) == "1.75 MB"
    assert axis.text(Decimal("1.50024414")) == "1500244 B"
