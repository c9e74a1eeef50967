"""CuTe's three spellings: each reads back to an equal layout, and bad text is one clear line."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts import Layout, Table, X, parse, swizzle
from layouts.interop import cute


@st.composite
def swizzled(draw):
    """A nested integer layout, possibly with an offset and a swizzle behind it."""
    shape = draw(
        st.recursive(st.integers(1, 6), lambda n: st.lists(n, min_size=1, max_size=3).map(tuple), max_leaves=4)
    )

    def fill(node):
        return draw(st.integers(0, 40)) if isinstance(node, int) else tuple(map(fill, node))

    bits = draw(st.integers(0, 3))
    stage = (swizzle(bits, draw(st.integers(0, 4)), draw(st.integers(bits, 4))),) if bits else ()
    return Layout(shape, fill(shape), draw(st.integers(0, 9)), stage)


@given(swizzled(), st.sampled_from(cute.STYLES))
def test_what_is_written_reads_back(layout, style):
    again = cute.read(cute.write(layout, style))
    assert again == layout
    assert again.shape == layout.shape


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Layout<Shape<_8,Shape<_2,_4>>, Stride<_64,Stride<_1,_2>>>{}", "(8,(2,4)):(64,(1,2))"),
        ("ComposedLayout<Swizzle<3,4,3>, _0, Layout<Shape<_8,_64>,Stride<_64,_1>>>", "S<3,4,3> o 0 o (8,64):(64,1)"),
        ("make_layout(make_shape(8, Int<64>{}), make_stride(_64{}, 1))", "(8,64):(64,1)"),
        ("cute::make_layout(cute::make_shape(cute::Int<8>{}, 4))", "(8,4):(1,8)"),
        ("cute.make_layout((8, (2, 4)), stride=(64, (1, 2)))", "(8,(2,4)):(64,(1,2))"),
        ("cute.make_layout((8,), stride=(1,))", "(8):(1)"),
        ("Sw<3,4,3> o smem_ptr[16b](unset) o (_8,_64):(_64,_1)", "S<3,4,3> o 0 o (8,64):(64,1)"),
        ("composition(Swizzle<3,4,3>{}, Layout<Shape<_8,_64>,Stride<_64,_1>>{})", "S<3,4,3> o 0 o (8,64):(64,1)"),
        ("make_layout(make_shape(8,64), LayoutRight{})", "(8,64):(64,1)"),
        ("make_layout(Shape<_8,_64>{}, GenColMajor{})", "(8,64):(1,8)"),
        ("make_composed_layout(make_swizzle(3, 3, 3), 0, make_layout((64, 64), stride=(64, 1)))",
         "S<3,3,3> o 0 o (64,64):(64,1)"),
        ("Sw<3,4,3> o _0 o (_8,_64):(_64,_1)", "S<3,4,3> o 0 o (8,64):(64,1)"),
    ],
)  # fmt: skip
def test_each_spelling_is_read(text, expected):
    assert str(cute.read(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("make_layout(make_layout(8))", "at position 12: expected an integer, _8, Int<8> or a tuple, found 'm'"),
        ("make_layout(1" + "0" * 30 + ")", "an integer of 31 digits does not fit 64 bits"),
        ("Layout<Shape<_8,_2>", "at position 19: expected '>', found the end of the text"),
        ("make_composed_layout(make_swizzle(1,2),0,make_layout(8))", "at position 37: expected ','"),
        ("Layout<Shape _8>", "at position 13: expected '(' or '<'"),
        ("make_layout((8,2),stride=(1))", "do not nest alike"),
        ("Layout<" * 20_000, "140000 characters, at most 65536 are allowed"),
        ("make_layout(" + "(" * 60_000, "tuples nest deeper than 32 levels"),
    ],
)
def test_bad_text_is_one_clear_line_at_once(text, message):
    start = time.process_time()
    with pytest.raises(ValueError, match=r"^CuTe text") as caught:
        cute.read(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("layout", "style", "words"),
    [
        (Layout((8, 8), (X(9), 8)), "cpp", "XOR stride X9"),
        (parse("(4,2):(1@m,1@n)"), "python", "step along axes"),
        (Layout(4).then(Table([3, 1, 2, 0])), "cpp", "no table"),
        (Layout(4).then(swizzle(1, 0, 1), swizzle(1, 1, 1)), "python", "composes two layouts, here are 3"),
        (Layout(4), "rust", "allowed are text, cpp, python"),
    ],
)
def test_what_cute_cannot_express_is_named(layout, style, words):
    with pytest.raises(ValueError, match=words):
        cute.write(layout, style)
