"""Layouts in words and as text grids."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layouts import E, Layout, NamedLayout, Table, X, named, parse, swizzle
from layouts.explain import explain, grid


def lines(layout):
    return explain(layout).split("\n")


def test_every_mode_has_a_line_of_its_own():
    told = lines(parse("((2,4),8):((1,16),2)"))
    assert told == [
        "((2,4),8):((1,16),2): 64 elements in a span of 64",
        "  mode 0: 8 coordinates: 2 at stride 1, contiguous; "
        "then 4 at stride 16, packed on the span 16 of smaller strides",
        "  mode 1: 8 coordinates: 8 at stride 2, packed on the span 2 of smaller strides",
    ]


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout((10, 8), (12, 1)), "10 at stride 12, a gap of 4 behind every 8"),
        (Layout((4, 4), (1, 2)), "4 at stride 2, less than the span 4 of smaller strides"),
        (Layout((4, 4), (-1, 4)), "4 at stride -1, backwards, contiguous"),
        (Layout((4, 4), (1, 0)), "4 at stride 0, all at one place"),
        (Layout((4, 1)), "mode 1: 1 coordinate: always at 0"),
        (Layout((0, 4)), "mode 0: 0 coordinates: empty"),
        (Layout(4, 1, 5), "all of it starts at 5"),
        (Layout(4, X(9)), "4 by XOR: its bit j flips bits j and 3+j"),
        (Layout((2, 2), (X(6), 1)), "2 by XOR: flips bits 1 and 2"),
        (Layout((4, 8), (E("lane") * 4, E("m"))), "4 at stride 4 along lane"),
        (Layout((4, 8), (E("lane") * 4, E("m"))), "32 elements, sent to lane, m"),
        (Layout(4, X(5) * E("m")), "flips bits j and 2+j of m"),
        (Layout(4096).then(swizzle(3, 3, 3)), "swizzle S<3,3,3>: bits 6..8 are XORed into bits 3..5; blocks of 8 stay"),
        (Layout(4096).then(swizzle(1, 4, -3)), "bit 4 are XORed into bit 7"),
        (Layout(256).then(Layout((64, 1), (1, 68))), "padding: behind every 64, 4 are left free"),
        (Layout(256).then(Layout((5, 1), (1, 0))), "the remainder by 5"),
        (Layout(256).then(Layout((7, 1), (0, 3))), "the value divided by 7, rounded down, times 3"),
        (Layout(256).then(Layout(1, 3)), "the value times 3"),
        (Layout(3).then(Table([5, 2, 7])), "a table of 3 entries takes the place of the value: 5, 2, 7"),
        (Layout(9).then(Table(list(range(9)))), "0, 1, 2, 3, 4, 5, 6, 7, ..."),
        (
            Layout((12, 4), (E(0), E(1))).then(Layout(((4, 4), 4), ((1, 64), 4))),
            "coordinate 0 is read as a digit of 4 times 1 then the rest times 64; coordinate 1 is read as the rest",
        ),
        (
            Layout((3, 2), (E(0), E(1))).then(Table([2, 0, 1], 0), Layout((3, 2), (2, 1))),
            "the place of coordinate 0: 2, 0, 1",
        ),
    ],
)
def test_what_a_layout_does_is_said_in_words(layout, words):
    assert words in explain(layout)
    assert len(lines(layout)) == 1 + layout.rank + (layout.offset != 0) + len(layout.stages)


def test_named_axes_are_called_by_their_names():
    kv = named("page kv head token//8 dim token%8", {"page": 4, "kv": 2, "head": 4, "token": 16, "dim": 64})
    told = lines(kv)
    assert told[0].startswith("page kv head token//8 dim token%8: 32768 elements")
    assert "  token: 16 coordinates: 8 at stride 1, contiguous; then 2 at stride 512, packed" in told[4]


def test_long_layouts_are_told_in_short_lines_and_at_once():
    table = Layout(5000).then(Table(list(range(5000))))
    assert all(len(line) <= 400 for line in lines(table))
    unknown = Layout((2**20, 3 * 2**20), (3, 2**22)).then(swizzle(3, 3, 3), Layout((5, 1), (1, 7)))
    assert lines(unknown)[0].endswith("elements")


def numbers(text):
    """The values of a text grid by row and column, without the labels."""
    body = text.split("-+-")[1].split("\n")[1:]
    return [line.split("|")[1].split() for line in body if "|" in line]


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(1, 6), st.integers(1, 7)), st.tuples(st.integers(-9, 40), st.integers(-9, 40)))
def test_the_grid_holds_the_offsets(shape, stride):
    found = numbers(grid(Layout(shape, stride)))
    assert found == [[str(i * stride[0] + j * stride[1]) for j in range(shape[1])] for i in range(shape[0])]


def test_the_grid_is_aligned_and_labelled():
    assert grid(Layout((2, 3), (30, 7))) == (
        "       | mode 1\nmode 0 |  0  1  2\n-------+---------\n     0 |  0  7 14\n     1 | 30 37 44"
    )


def test_the_grid_takes_any_rank_and_cuts_with_a_note():
    kv = named("token//2 head dim token%2", {"head": 3, "token": 4, "dim": 5})
    found = numbers(grid(kv))
    for head, token, dim in itertools.product(range(3), range(4), range(5)):
        assert found[head * 4 + token][dim] == str(kv.offset(head=head, token=token, dim=dim))
    assert numbers(grid(kv, rows=["dim"]))[4][11] == str(kv.offset(head=2, token=3, dim=4))
    cut = grid(Layout((2**30, 2**31), (2**31, 1)), most_rows=3, most_columns=2)
    assert cut.endswith(f"cut: the first 3 of {2**30} rows and 2 of {2**31} columns are shown")
    assert numbers(cut)[2] == [str(2**32), str(2**32 + 1)]
    lines_of_16 = numbers(grid(Layout(37, 2)))
    assert [int(n) for line in lines_of_16 for n in line] == list(range(0, 74, 2))
    assert numbers(grid(Layout((2, 2), (E("a"), E("b") * 3))))[1] == ["1,0", "1,3"]
    assert grid(NamedLayout(("x",), Layout((1,)))) != ""
    with pytest.raises(ValueError, match="rows: there is no mode 7"):
        grid(Layout((2, 2)), rows=[7])
