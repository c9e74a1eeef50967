"""The layout as a function, its canonical key and its text."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts.bulk import as_index_array
from layouts.layout import Layout
from layouts.text import parse


def walk(shape, stride):
    """Offsets of all coordinates by the definition, leftmost mode fastest (independent of the module)."""
    if isinstance(shape, int):
        return [i * stride for i in range(shape)]
    modes = [walk(s, d) for s, d in zip(shape, stride, strict=True)]
    return [sum(parts) for parts in itertools.product(*reversed(modes))]


@st.composite
def layouts(draw):
    shape = draw(
        st.recursive(
            st.integers(1, 5),
            lambda inner: st.lists(inner, min_size=1, max_size=3).map(tuple),
            max_leaves=4,
        )
    )

    def fill(node):
        return draw(st.integers(-9, 40)) if isinstance(node, int) else tuple(fill(item) for item in node)

    return Layout(shape, fill(shape))


@given(layouts())
def test_table_and_calls_and_bulk_offsets_follow_the_definition(layout):
    expected = walk(layout.shape, layout.stride)
    assert layout.size == len(expected)
    assert layout.table().tolist() == expected
    assert [layout(i) for i in range(layout.size)] == expected
    assert layout.offsets(np.arange(layout.size)).tolist() == expected


@given(layouts())
def test_cosize_is_the_span_of_the_offsets(layout):
    offsets = walk(layout.shape, layout.stride)
    assert layout.cosize == max(offsets) - min(offsets) + 1


def test_the_cute_documentation_example():
    # CuTe layout algebra documentation: ((2,2),2):((4,1),2) sends ((1,0),1) to 4 + 2.
    layout = Layout(((2, 2), 2), ((4, 1), 2))
    assert layout.table().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert layout((1, 0), 1) == 6
    assert layout(((1, 0), 1)) == 6


def test_an_integer_stands_for_the_coordinate_of_a_nested_mode():
    layout = parse("((2,4),8):((1,16),2)")
    for i, j in itertools.product(range(8), range(8)):
        assert layout(i, j) == layout((i % 2, i // 2), j) == layout(i + 8 * j)


def test_layout_without_stride_numbers_its_coordinates():
    assert Layout(((2, 3), 4)).table().tolist() == list(range(24))


@given(layouts(), layouts())
def test_layouts_are_equal_exactly_when_their_tables_are(a, b):
    assert (a == b) == (walk(a.shape, a.stride) == walk(b.shape, b.stride))
    if a == b:
        assert hash(a) == hash(b)


def test_equality_is_exact_over_a_complete_family_of_small_layouts():
    shapes = [(8,), (2, 4), (4, 2), (2, 2, 2), (1, 8)]
    family = [Layout(s, d) for s in shapes for d in itertools.product(range(5), repeat=len(s))]
    assert len({layout.key for layout in family}) == len({tuple(walk(f.shape, f.stride)) for f in family})
    assert len({(f.key, tuple(walk(f.shape, f.stride))) for f in family}) == len({f.key for f in family})


@given(layouts())
def test_text_and_repr_read_back(layout):
    again = parse(str(layout))
    assert (again.shape, again.stride) == (layout.shape, layout.stride)
    evaluated = eval(repr(layout), {"Layout": Layout})
    assert (evaluated.shape, evaluated.stride) == (layout.shape, layout.stride)


def test_white_space_in_the_text_is_free():
    assert str(parse(" ( (2 , 4), 8 )\n: ((1,16),2) ")) == "((2,4),8):((1,16),2)"


def test_modes_are_the_top_level_parts():
    layout = parse("((2,4),8):((1,16),2)")
    assert layout.rank == 2
    assert [str(layout.mode(k)) for k in range(2)] == ["(2,4):(1,16)", "8:2"]
    assert str(Layout(8).mode(0)) == "8:1"
    assert layout.leaves() == ((2, 1), (4, 16), (8, 2))
    with pytest.raises(ValueError, match=r"there is no mode 2, modes are 0\.\.1"):
        layout.mode(2)


@given(layouts(), st.integers(0, 3))
def test_bulk_offsets_keep_the_shape_and_take_any_integer_type(layout, seed):
    rng = np.random.default_rng(seed)
    for dtype in (np.uint8, np.int16, np.uint64):
        indices = rng.integers(0, min(layout.size, 256), size=(2, 3)).astype(dtype)
        result = layout.offsets(indices)
        assert result.dtype == np.int64
        assert result.tolist() == [[layout(int(i)) for i in line] for line in indices]


def test_bulk_offsets_agree_with_single_ones_across_blocks_and_beyond_32_bits():
    rng = np.random.default_rng(7)
    for layout in (
        Layout((1000, (7, 300)), (1, (2_100_000, 1000))),
        Layout((100_000, 100_000), (-300_000, 3)),
        Layout((2**20, 2**20, 2**20), (2**40, 2**20, 1)),
        Layout((3, 2**40), (2**61, -7)),
    ):
        indices = rng.integers(0, layout.size, size=150_001)
        result = layout.offsets(indices)
        for place in (0, 65_535, 65_536, 131_072, 150_000):
            assert result[place] == layout(int(indices[place]))
        assert np.array_equal(result[:500], [layout(int(i)) for i in indices[:500]])


def test_a_call_with_arrays_gives_arrays():
    layout = parse("((2,4),8):((1,16),2)")
    assert layout(np.arange(64)).tolist() == layout.table().tolist()
    rows, columns = np.arange(8)[:, None], np.arange(8)
    assert layout(rows, columns).tolist() == [[layout(i, j) for j in range(8)] for i in range(8)]
    assert layout(rows, 3).tolist() == [[layout(i, 3)] for i in range(8)]


def test_offsets_of_no_index_are_no_offsets():
    assert Layout(8).offsets([]).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Layout(64)(64), r"layout 64:1, coordinate 64: 64 is outside 0\.\.63"),
        (lambda: Layout((4, 8))(4, 0), r"layout \(4,8\):\(1,4\), coordinate \(4,0\): 4 is outside 0\.\.3"),
        (lambda: Layout((4, 8))((1, 2), 0), r"\(1,2\) is not a coordinate of the shape 4"),
        (lambda: Layout((4, 8))(1, 2, 3), r"\(1,2,3\) is not a coordinate of the shape \(4,8\)"),
        (lambda: Layout((4, 8)).offsets([3, -1]), r"index -1 is outside 0\.\.31"),
        (lambda: Layout((4, 8)).offsets([3, 32]), r"index 32 is outside 0\.\.31"),
        (lambda: Layout((4, 8)).offsets([0.5]), "indices of type float64 are not integers"),
        (lambda: Layout((4, -2)), r"shape \(4,-2\): extent -2 is not allowed, extents are at least 0"),
        (lambda: Layout((4, 8), (1, (2, 3))), r"shape \(4,8\) and stride \(1,\(2,3\)\) do not nest alike"),
        (lambda: Layout((4, 8), 1), "do not nest alike"),
        (lambda: Layout(2**40).table(), "a table of 1099511627776 offsets, at most 2147483648 are allowed"),
        (lambda: Layout((3, 2), (2**62, 1)).table(), r"offsets 0\.\.9223372036854775809 do not fit 64 bits"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at position 0: expected an integer or '(', found the end of the text"),
        ("(2,4", "at position 4: expected ',' or ')', found the end of the text"),
        ("(2,4):(1,2) x", "at position 12: expected the end of the text, found 'x'"),
        ("(2,4)", "at position 5: expected ':' between shape and stride"),
        ("(2,,4):(1,2)", "at position 3: expected an integer or '(', found ','"),
        ("(2 4):(1,2)", "at position 3: expected ',' or ')', found '4'"),
        ("():()", "at position 1: expected an integer or '(', found ')'"),
        ("__import__('os'):1", "at position 0: expected an integer or '(', found '_'"),
        ("\u0664:1", "at position 0: expected an integer or '('"),
        ("9" * 20 + ":1", "at position 0: an integer has at most 19 digits"),
        ("9" * 19 + ":1", "does not fit 64 bits"),
        ("(" * 33 + "1", "at position 32: tuples nest deeper than 32 levels"),
        ("(" * 70_000, "70000 characters, at most 65536 are allowed"),
        ("(2,4):(1,(2,3))", "do not nest alike"),
        ("(2,-3):(1,2)", "extent -3 is not allowed"),
    ],
)
def test_hostile_text_is_one_clear_error(text, message):
    with pytest.raises(ValueError, match=r"^layout text") as caught:
        parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.text(alphabet="()0123456789,:- x", max_size=40))
def test_any_text_is_a_layout_or_a_value_error(text):
    try:
        layout = parse(text)
    except ValueError:
        return
    assert str(layout) == str(parse(str(layout)))


def test_index_arrays_may_be_single_numbers():
    assert as_index_array(3, 4, "x").shape == ()
