"""One key per function: across integer strides, XOR strides, and chains of stages."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts import (
    E,
    Layout,
    NamedLayout,
    Table,
    X,
    composition,
    filter_zeros_and_ones,
    logical_product,
    parse,
    right_inverse,
    swizzle,
    tile_to_shape,
)
from layouts import canonical as canonical_module


def values(layout):
    """The function, by calls: independent of keys, tables and bulk evaluation."""
    return [layout(i) for i in range(layout.size)]


@st.composite
def pieces(draw):
    """A layout of integer, XOR or mixed strides with an offset."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    kind = draw(st.sampled_from(["int", "xor", "mixed"]))
    integers, xors = st.integers(-3, 9), st.integers(0, 15).map(X)
    steps = {"int": integers, "xor": xors, "mixed": st.one_of(st.integers(0, 9), xors)}[kind]
    offset = draw(st.sampled_from([0, 3, 30])) + (60 if kind == "int" else 0)  # negative strides stay above 0
    return Layout(shape, tuple(draw(steps) for _ in shape), offset)


@st.composite
def chains(draw):
    """A layout with up to two stages behind it."""
    stage = st.one_of(
        st.builds(lambda n, s: Layout((n, 1), (1, s)), st.integers(1, 6), st.integers(0, 9)),
        st.builds(swizzle, st.integers(1, 2), st.integers(0, 2), st.integers(2, 3)),
        st.permutations(range(300)).map(Table),
    )
    return draw(pieces()).then(*draw(st.lists(stage, max_size=2)))


@given(chains(), chains())
def test_layouts_are_equal_exactly_when_their_values_are(a, b):
    try:
        same = values(a) == values(b)
    except ValueError:  # a table that is too short
        return
    assert (a == b) == same
    assert not same or hash(a) == hash(b)


@given(chains())
def test_bulk_table_and_calls_agree(layout):
    try:
        expected = values(layout)
    except ValueError:
        return
    assert layout.table().tolist() == expected
    assert layout.offsets(list(range(layout.size))).tolist() == expected
    assert layout.cosize == max(expected) - min(expected) + 1


def test_xor_strides_that_share_no_bit_are_integer_strides():
    assert Layout((4, 8), (X(8), X(1))) == Layout((4, 8), (8, 1))
    assert Layout((4, 8), (X(8), X(8))) != Layout((4, 8), (8, 8))
    assert Layout(8, -1, 7) == Layout(8, 1).then(Layout((8, 1), (1, 8), 0)).then(parse("7 o 8:-1"))


def test_the_same_swizzle_as_a_stage_and_as_strides_is_one_value():
    chain = parse("Sw<3,3,3> o 0 o (64,64):(64,1)")
    strides = Layout(((8, 8), 64), ((X(64 + 8), 512), 1))
    bits = Layout((2,) * 12, tuple(X(chain(1 << k)) for k in range(12)))
    assert chain == strides == bits
    assert len({chain, strides, bits}) == 1
    assert chain != parse("Sw<2,3,3> o 0 o (64,64):(64,1)")


def test_a_padded_tiled_matrix_of_any_size_is_a_floor_sum():
    # 32 x 200 in tiles of 8 x 128: the tiles of a row go on to 256 columns.
    tiled = Layout((32, 200), (E(0), E(1))).then(Layout(((8, 4), (128, 2)), ((128, 2048), (1, 1024))))
    assert tiled.key == (6400, ((1, 128), (8, 1024), (32, -8191), (4096, 896)))
    assert tiled((9, 130)) == (9 // 8) * 2048 + (130 // 128) * 1024 + (9 % 8) * 128 + 130 % 128
    huge = Layout((32_000, 200_000), (E(0), E(1))).then(Layout(((8, 4000), (128, 1563)), ((128, 1600512), (1, 1024))))
    assert huge.key[1][0] == (1, 128)


def test_tiles_that_divide_no_extent_have_one_key_per_function_at_any_size():
    def tiled(rows, columns, tile):
        inner = Layout((rows, columns), (E(0), E(1)))
        down, across = -(-rows // tile), -(-columns // 128)
        return inner.then(Layout(((tile, down), (128, across)), ((128, 128 * tile * across), (1, 128 * tile)), 5))

    small, large = tiled(13, 200, 8), tiled(41_003, 50_000, 8)
    assert small.table().tolist() == values(small)
    assert small.cosize == max(values(small)) - min(values(small)) + 1
    assert large != tiled(41_003, 50_000, 16)
    coarse = Layout((41_003, 250, 200), (E(0), E(1), E(1) * 250)).then(*large.stages)  # the columns in two digits
    assert large == coarse
    assert large.cosize == large(41_002, 49_999) - 5 + 1 == coarse.cosize
    assert large.offsets([large.size - 1, 7]).tolist() == [large(large.size - 1), large(7)]


def test_what_has_no_closed_form_is_decided_by_its_values_up_to_a_size(monkeypatch):
    shuffled = Layout(6).then(Table([3, 1, 4, 0, 5, 2]))
    again = Layout((2, 3)).then(Layout((6, 1)), Table([3, 1, 4, 0, 5, 2]))
    assert shuffled == again
    assert Layout(6).then(Table([0, 2, 4, 6, 8, 10])) == Layout(6, 2)
    assert Layout(4).then(Table([0, 3, 5, 6])) == Layout((2, 2), (X(3), X(5)))
    monkeypatch.setattr(canonical_module, "MAX_ENUMERATED", 1)
    assert Layout(6).then(Table([0, 2, 4, 6, 8, 10])) != Layout(6, 2)  # spelt differently: nothing is claimed
    assert Layout(6).then(Table([0, 2, 4, 6, 8, 10])) == Layout(6).then(Table([0, 2, 4, 6, 8, 10]))


def test_keys_are_complete_over_all_small_xor_layouts():
    family = [Layout((2, 2, 2), tuple(map(X, v)), c) for v in itertools.product(range(8), repeat=3) for c in (0, 5)]
    assert len({layout.key for layout in family}) == len({tuple(values(layout)) for layout in family})


@given(st.lists(st.integers(1, 6), min_size=2, max_size=3), st.data())
def test_coordinates_are_read_mode_by_mode(extents, data):
    inner = Layout(tuple(extents), tuple(E(k) for k in range(len(extents))))
    tiles = [data.draw(st.integers(1, 4)) for _ in extents]
    strides = [(data.draw(st.integers(0, 9)), data.draw(st.integers(0, 99))) for _ in extents]
    outer = Layout(tuple((tile, 9) for tile in tiles), tuple(strides))
    chain = inner.then(outer)
    for i, point in enumerate(itertools.product(*(range(e) for e in reversed(extents)))):
        coordinate = tuple(reversed(point))
        expected = sum(c % t * a + c // t * b for c, t, (a, b) in zip(coordinate, tiles, strides, strict=True))
        assert chain(i) == chain(coordinate) == expected
    assert chain.table().tolist() == values(chain)
    assert chain.coordinate_offsets(*([e - 1] for e in extents)).tolist() == [chain(chain.size - 1)]


def test_a_stage_that_is_no_swizzle_is_not_written_as_one():
    for stage in (Layout((8, 8), (1, X(9))), Layout((8, (8, 1)), (1, (X(9), 64)))):
        layout = Layout(128).then(stage)
        assert "S<" not in str(layout)
        assert parse(str(layout)) == layout
    open_end, closed = Layout((8, 8), (1, X(9))), swizzle(3, 0, 3)
    assert Layout((128, 3 * 2**18)).then(open_end) != Layout((128, 3 * 2**18)).then(closed)
    coordinates = Layout((8, 8, 3 * 2**19), (E(0), E(1), E(1) * 8))
    assert coordinates.then(Layout((8, (8, 1)), (1, (X(9), 64)))) != coordinates.then(
        Layout(((8, 8), 1), ((1, X(9)), 64))
    )


def test_values_on_the_way_through_a_chain_do_not_overflow():
    for chain in (
        Layout(6).then(Layout((2, 1), (2**62, 2**62)), Layout((7, 1), (1, 0))),
        Layout(5, 2**63 - 1).then(Layout((3, 1), (1, 0))),
        Layout((8, 3), (X(2**62), 1)),
    ):
        for call in (chain.table, lambda chain=chain: chain.offsets([0])):
            with pytest.raises(ValueError, match="do not fit 64 bits"):
                call()
        assert chain == chain
    with pytest.raises(ValueError, match=r"1208925819614629174706176 indices do not fit 64 bits"):
        Layout((2**40, 2**40), (1, 1)).coordinate_offsets([1], [2**39])


def test_an_identity_stage_changes_no_key():
    tiled = Layout((5, 6), (E(0), E(1))).then(Layout(((4, 2), (4, 2)), ((1, 16), (4, 32))))
    assert tiled == tiled.then(Layout((2, 1), (1, 2)))
    assert tiled == Layout((5, 6), (1, 8)).then(Layout((4, 2, 4, 2), (1, 16, 4, 32)))
    assert tiled == Layout(30).then(Table(tiled.table()))
    assert NamedLayout(("a",), Layout(4, X(16))) == NamedLayout(("a",), Layout(4, 16))
    assert NamedLayout(("a", "b"), Layout((2, 4))) != NamedLayout(("a", "b"), Layout((4, 2)))
    assert NamedLayout(("a",), Layout(4)).offset(a=1) == 1


def test_a_table_may_end_a_chain_of_coordinates():
    paged = Layout((2, 2), (E(0), E(1))).then(Table([1, 0], 1))
    assert [part.tolist() for part in paged.table()] == [[0, 1, 0, 1], [1, 1, 0, 0]]
    assert paged == Layout((2, 2), (E(0), E(1) * -1), E(1))
    assert Layout((2, 1), (E(0), 0)).then(Table([7], 1))((1, 0)) == (1, 7)
    assert Layout(4, E(1)).table()[0].tolist() == [0, 0, 0, 0]
    assert Layout((2, 3), (E(0), E(1))).is_f2 is False
    assert Layout((2, 4), (E(0), E(1))).is_f2


def test_empty_layouts_stay_empty_or_are_refused():
    empty = Layout((3, 0), (1, 2))
    assert filter_zeros_and_ones(empty).size == 0
    assert Layout(0).then(Table([1, 2])).table().tolist() == []
    for call in (
        lambda: composition(empty, Layout(0)),
        lambda: right_inverse(empty),
        lambda: tile_to_shape(Layout((0, 3)), (0, 3)),
    ):
        with pytest.raises(ValueError, match=r"empty|does not divide"):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: X(3) * -1, "a step of -1 is negative"),
        (lambda: parse("(2,1):(1,X3) o -2 o 4:1")(0), "a step of -1 is negative"),
        (lambda: parse("(2,1):(1,X3) o -2 o 4:1").table(), "a step of -1 may reach it"),
        (lambda: logical_product(Layout(2), Layout((2, 2), (X(1), X(3)))), "other than integer strides"),
        (lambda: Layout((2, 2), (E(0), 3)), "the stride 3 has no axis"),
        (lambda: Layout(4, X(-1)), "XOR stride: -1 is negative"),
        (lambda: Layout(4, 1, X(1)), "offset X1: an offset is an integer"),
        (lambda: Layout(4).then("x"), "stage 'x': a Layout or a Table is needed"),
        (lambda: Layout(4, E("a")).then(Layout(4)), "cannot read the axis 'a'"),
        (lambda: Layout(4).then(Table([1, 2], 0)), "cannot read a result with the axes None"),
        (lambda: Table([]), "a non-empty list of integers is needed"),
        (lambda: Layout((2, 2), (E("a"), E("b"))).cosize, r"has the axes a, b; ask along\(axis\)"),
        (lambda: Layout((2, 2), (E("a"), E("b"))).along("c"), "there is no axis 'c', its axes are a, b"),
        (lambda: Layout(6, 1).then(Table([1, 2, 3])).table(), r"index 5 is outside 0\.\.2"),
        (lambda: E("not a name"), "a name of letters, digits and _ is needed"),
        (lambda: E(64), r"numbered axes are 0\.\.63"),
        (lambda: Layout(3, X(1)).bits, "is not linear over F2"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
