"""Nested integer tuples: checks and their text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts.shape import MAX_DEPTH, as_int_tuple, compact_strides, leaves, to_text
from layouts.text import Reader, nested

NESTED = st.recursive(
    st.integers(-(10**6), 10**6),
    lambda inner: st.lists(inner, min_size=1, max_size=4).map(tuple),
    max_leaves=12,
)


@given(NESTED)
def test_text_of_a_nested_tuple_reads_back(value):
    reader = Reader(to_text(value))
    assert nested(reader, reader.integer) == value
    reader.end()


@given(NESTED)
def test_leaves_are_the_integers_of_the_python_spelling_in_order(value):
    digits = "".join(ch if ch in "-0123456789" else " " for ch in repr(value))
    assert leaves(value) == tuple(int(word) for word in digits.split())


def test_compact_strides_count_with_the_leftmost_leaf_fastest():
    assert compact_strides(((2, 3), 4)) == ((1, 2), 6)


@pytest.mark.parametrize("value", [2.0, "4", None, True, (2, (3, 1.5))])
def test_anything_but_integers_is_refused(value):
    with pytest.raises(ValueError, match=r"^shape: .* is not an integer$"):
        as_int_tuple(value, "shape")


def test_an_integer_beyond_64_bits_is_refused_by_its_length():
    with pytest.raises(ValueError, match="an integer of 3322 bits does not fit 64 bits"):
        as_int_tuple(10**1000 - 1, "stride")


def test_an_empty_tuple_is_refused():
    with pytest.raises(ValueError, match="a tuple of 0 elements, allowed are 1 to 256"):
        as_int_tuple((2, ()), "shape")


def test_nesting_is_bounded():
    value: object = 1
    for _ in range(5000):
        value = (value,)
    with pytest.raises(ValueError, match=f"deeper than {MAX_DEPTH} levels"):
        as_int_tuple(value, "shape")


def test_the_number_of_leaves_is_bounded():
    with pytest.raises(ValueError, match="400 leaves, at most 256 are allowed"):
        as_int_tuple(((1,) * 200, (1,) * 200), "shape")
