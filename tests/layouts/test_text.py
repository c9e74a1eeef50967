"""The text of chains, XOR strides, axes and tables."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts import E, Layout, Table, X, parse, swizzle
from layouts.stride import Vector, vector

AXES = st.sampled_from([0, 1, 2, "lane", "bank_group"])
PARTS = st.lists(st.tuples(AXES, st.one_of(st.integers(-9, 9), st.integers(0, 9).map(X))), min_size=1, max_size=3)


@st.composite
def chains(draw):
    """Layouts of integer and XOR strides with an offset, followed by stages of every kind."""
    extents = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    strides = [draw(st.one_of(st.integers(0, 9), st.integers(0, 9).map(X))) for _ in extents]
    stage = st.one_of(
        st.builds(swizzle, st.just(1), st.integers(0, 3), st.integers(1, 3)),
        st.builds(lambda n, s, o: Layout((n, 2), (1, s), o), st.integers(1, 5), st.integers(0, 9), st.integers(0, 3)),
        st.lists(st.integers(0, 99), min_size=600, max_size=600).map(Table),
    )
    return Layout(tuple(extents), tuple(strides), draw(st.integers(0, 5)), draw(st.lists(stage, max_size=3)))


@given(chains())
def test_text_and_repr_of_a_chain_read_back(layout):
    names = {"Layout": Layout, "Table": Table, "X": X, "E": E, "Vector": Vector}
    for again in (parse(str(layout)), eval(repr(layout), names)):
        assert (again.shape, again.stride, again.offset) == (layout.shape, layout.stride, layout.offset)
        assert str(again) == str(layout)
        assert again == layout


@given(PARTS, st.integers(1, 6))
def test_text_and_repr_of_steps_along_axes_read_back(parts, extent):
    try:
        step = vector(parts)
    except ValueError:  # an integer and an XOR step along one axis
        return
    layout = Layout(extent, step)
    assert str(parse(str(layout))) == str(layout)
    assert eval(repr(layout), {"Layout": Layout, "X": X, "E": E}) == layout


def test_the_parts_of_a_chain_are_written_in_the_order_of_functions():
    layout = parse("[5,2,7]@1 o (4,3):(1@0,1@1)")
    assert layout((2, 0)) == (2, 5)
    assert parse("(5,1):(1,0) o 7 o (4,2):(1,4)")(3) == (7 + 3) % 5
    assert parse("2 o (5,1):(1,10) o 4:3")(2) == 2 + 6 % 5 + 10 * (6 // 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("S<3,3> o 4:1", "at position 0: expected an integer or '('"),
        ("S<3,3,3>", "expected ':' and the strides of the last layout"),
        ("S<9,60,9> o 4:1", "swizzle S<9,60,9>: allowed are"),
        ("[1,2 o 4:1", "at position 5: expected ']' or ','"),
        ("[1,2] o", "at position 7: expected an integer or '('"),
        ("4:X", "at position 3: expected an integer"),
        ("4:1@", "at position 4: expected an axis"),
        ("4:1@a+2", "expected '@' and an axis"),
        ("(2,2):(1@a,1)", "the stride 1 has no axis, others go along a"),
        ("(2,1):(1,4) o (4,2):(1@a,1@b)", "cannot read the axis 'a'"),
        ("(X2,4):(1,2)", "extents are integers"),
        ("[9,8] o 4:1", "index 3 is outside 0..1"),
        (" o ".join(["2:1"] * 40), "a chain of 39 stages, at most 16 are allowed"),
        ("[" + "1," * 20_000 + "1] o 1:0", "a table has at most 16384 entries in text"),
        ("4:" + "1@a+" * 300 + "1@a", "more than 256 axes in one stride"),
    ],
)
def test_bad_text_is_one_clear_line_at_once(text, message):
    start = time.process_time()
    with pytest.raises(ValueError, match=r"^(layout|stage)") as caught:
        parse(text).table()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 1


@given(st.text(alphabet="()0123456789,:- xSX<>[]@o+ab", max_size=40))
def test_any_text_is_a_layout_or_a_value_error(text):
    try:
        layout = parse(text)
    except ValueError:
        return
    assert str(layout) == str(parse(str(layout)))
