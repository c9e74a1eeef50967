"""TVM's index maps, their inverses and tile layouts do what TVM says of them."""

import itertools
import json
import os
import re
import time
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layouts import E, Layout, Table, X
from layouts.interop import tvm
from layouts.interop.tvm import IndexMap, read_index_map
from layouts.interop.tvm_tile import ComposeLayout, Iter, TileLayout, read_tile, tile_of
from layouts.swizzles import swizzle

DATA = Path(os.environ.get("ROWHIT_DATA") or Path(__file__).parents[3] / "../shared/data") / "layouts"
needs_cases = pytest.mark.skipif(not DATA.exists(), reason="the conformance cases are not here")


def cases(name):
    return json.loads((DATA / f"{name}.json").read_text())


def attempt(function, *arguments):
    """Return (result, "") or (None, what the ValueError says)."""
    try:
        return function(*arguments), ""
    except ValueError as error:
        return None, str(error)


def padded(value, count):
    """The results of a call: a layout does not say that its last results are always 0."""
    found = value if isinstance(value, tuple) else (value,)
    return [*found, *[0] * (count - len(found))]


# Index maps


@st.composite
def digit_maps(draw):
    """A one-to-one map, as coordinates cut into digits that are shuffled and joined: (names, results, shape)."""
    shape, digits = [], []
    for k in range(draw(st.integers(1, 3))):
        cuts = draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=3))
        low = 1
        for cut in cuts:
            digits.append((k, low, cut))
            low *= cut
        shape.append(low)
    order = draw(st.permutations(digits))
    ends = [place for place in range(1, len(order)) if draw(st.booleans())]
    groups = [order[a:b] for a, b in itertools.pairwise([0, *ends, len(order)])]
    results = []
    for group in groups:
        result, weight = [], 1
        for k, low, cut in group:
            result.append(f"i{k} // {low} % {cut} * {weight}")
            weight *= cut
        results.append(" + ".join(reversed(result)))
    return [f"i{k}" for k in range(len(shape))], results, tuple(shape)


@settings(max_examples=40, deadline=None)
@given(digit_maps())
def test_an_inverse_undoes_its_map(case):
    names, results, shape = case
    index_map = read_index_map(f"lambda {', '.join(names)}: [{', '.join(results)}]")
    physical = index_map.map_shape(shape)
    assert prod(physical) == prod(shape)
    inverse = index_map.inverse(shape)
    layout, offsets = index_map.layout(shape), index_map.offset_layout(shape)
    back = index_map.inverse_layout(shape)
    for point in np.ndindex(*shape):
        place = index_map.map_indices(*point)
        assert inverse.map_indices(*place) == point
        assert tuple(padded(layout(*point), len(results))) == place
        assert padded(back(*place), len(shape)) == list(point)
        assert offsets(*point) == np.ravel_multi_index(place, physical)
    assert inverse.map_shape(physical) == shape
    assert read_index_map(str(inverse)).layout(physical) == inverse.layout(physical)


@settings(max_examples=40, deadline=None)
@given(digit_maps(), st.data())
def test_a_padded_inverse_knows_which_elements_are_padding(case, data):
    names, results, shape = case
    smaller = tuple(data.draw(st.integers(max(1, extent - 3), extent)) for extent in shape)
    index_map = read_index_map(f"lambda {', '.join(names)}: ({', '.join(results)},)")
    found, refusal = attempt(index_map.non_surjective_inverse, smaller)
    if refusal:
        assert "no inverse" in refusal
        return
    used = {}
    for point in np.ndindex(*smaller):
        used[index_map.map_indices(*point)] = point
    condition = re.sub(r"\bFalse\b", "0", found.predicate)
    for place in np.ndindex(*found.physical_shape):
        assert bool(found.is_padding(*place)) == (place not in used)
        assert bool(eval(condition, {}, dict(zip(found.map.names, place, strict=True)))) == (place not in used)
        if place in used:
            assert found.map.map_indices(*place) == used[place]


def test_an_index_map_is_read_in_both_spellings_and_written_again():
    listed = read_index_map("lambda i, j: [i // 16, j, i % 16]")
    called = read_index_map("T.index_map(lambda v_0, v_1: (v_0 // T.int64(16), v_1, v_0 % T.int64(16)))")
    assert listed.results == called.results
    assert listed.map_shape((64, 40)) == (4, 40, 16)
    assert tvm.read("lambda i, j: [i // 16, j, i % 16]", (64, 40))(37, 5) == (2, 5, 5)
    assert str(listed.inverse((64, 40))) == "T.index_map(lambda axis0, j, axis2: (axis0 * 16 + axis2, j))"
    assert str(called) == "T.index_map(lambda v_0, v_1: (v_0 // 16, v_1, v_0 % 16))"
    for body in ("(i + j) * 2", "((i + j) * 2)", "((i + j) * 2,)", "[(i + j) * 2]", "(((i + j)) * 2,)"):
        assert read_index_map(f"lambda i, j: {body}").map_indices(3, 4) == (14,)


def test_division_is_that_of_python():
    index_map = read_index_map("lambda i: (i // -3, i % -3, (i - 9) // 4, -(i - 9) % 4)")
    for i in range(12):
        assert index_map.map_indices(i) == (i // -3, i % -3, (i - 9) // 4, -(i - 9) % 4)
        assert index_map.layout((12,))(i) == (i // -3, i % -3, (i - 9) // 4, -(i - 9) % 4)


def test_a_reshape_has_an_inverse_and_a_map_without_digits_a_table():
    reshape = read_index_map("lambda i, j: ((i * 10 + j) // 4, (i * 10 + j) % 4)")
    assert reshape.inverse((6, 10)).map_indices(*reshape.map_indices(3, 7)) == (3, 7)
    shuffle = read_index_map("lambda i: (i * 5 % 7,)")
    back = shuffle.inverse_layout((7,))
    assert [back(i * 5 % 7) for i in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="no inverse"):
        shuffle.inverse((7,))


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("lambda i: i // 4", (8,), "is lost"),
        ("lambda i: (i % 4, i % 2)", (8,), "there twice"),
        ("lambda i, j: i + j", (4, 8), "no inverse"),
        ("lambda i: (i // 2, i % 2)", (5,), r"onto over the shape \(6,\), not over \(5,\)"),
        ("lambda i: i + 3", (5,), "offset 3"),
        ("lambda i: i - 3", (5,), "reaches -3"),
        ("lambda i, j: i", (5, 1), None),
        ("lambda i, j: i", (5, 2), "coordinate 1 is lost"),
        ("lambda i: i", (5, 2), "1 variables over the shape"),
    ],
)
def test_a_map_without_an_inverse_says_why(text, shape, message):
    if message is None:
        assert read_index_map(text).inverse(shape).map_indices(3) == (3, 0)
        return
    with pytest.raises(ValueError, match=message) as refused:
        read_index_map(text).inverse(shape)
    assert len(str(refused.value)) < 300


# Tile layouts


@st.composite
def tiles(draw, axes=("m",)):
    extents = draw(st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=1, max_size=4))
    order = draw(st.permutations(range(len(extents))))
    steps = {k: prod(extents[j] for j in order[place + 1 :]) for place, k in enumerate(order)}
    shard = tuple(Iter(extent, steps[k], draw(st.sampled_from(axes))) for k, extent in enumerate(extents))
    offset = tuple((axis, draw(st.integers(0, 9))) for axis in axes if draw(st.booleans()))
    return TileLayout(shard, (), offset)


def place(tile, point):
    """The place of a coordinate of the shards, summed by hand."""
    found = dict.fromkeys(tile.axes, 0) | dict(tile.offset)
    for item, digit in zip(tile.shard, point, strict=True):
        found[item.axis] += item.stride * digit
    return found


def without_zeros(values):
    return {axis: value for axis, value in values.items() if value}


@settings(max_examples=40, deadline=None)
@given(tiles(axes=("m", "laneid")))
def test_a_tile_layout_adds_up_its_shards_and_comes_back_from_its_text(tile):
    assert read_tile(str(tile)) == tile
    whole = tvm.read(str(tile))
    assert whole == tile.layout()
    short = tile.canonicalize()
    for index, point in enumerate(np.ndindex(*tile.shape)):
        expected = without_zeros(place(tile, point))
        assert without_zeros(tile.apply(*point)) == expected
        assert without_zeros(tile.apply(index)) == expected
        assert without_zeros(short.apply(*point, shape=tile.shape)) == expected
    assert tvm.read(tvm.write(whole), tile.shape) == whole


@settings(max_examples=40, deadline=None)
@given(tiles(), st.data())
def test_tiling_repeats_the_inner_layout_at_multiples_of_its_span(tile, data):
    inner = TileLayout(tile.shard)
    counts = [data.draw(st.integers(1, 3)) for _ in tile.shape]
    outer = TileLayout(tuple(Iter(n, prod(counts[k + 1 :])) for k, n in enumerate(counts)))
    found = inner.tile(outer, counts, inner.shape)
    assert found == found.canonicalize()
    shape = [n * extent for n, extent in zip(counts, inner.shape, strict=True)]
    layout = found.layout(shape)
    for point in np.ndindex(*shape):
        around = np.ravel_multi_index([i // n for i, n in zip(point, inner.shape, strict=True)], counts)
        within = place(inner, [i % n for i, n in zip(point, inner.shape, strict=True)])["m"]
        assert layout(*point) == around * inner.span() + within


def test_every_part_of_a_tile_layout_is_read():
    text = "T.TileLayout(T.S[(8, 2):(4 @ Axis.laneid, 1)] + T.R[2:4 @ Axis.warpid] + 5 @ Axis.warpid + 3)"
    tile = read_tile(text)
    assert tile == TileLayout((Iter(8, 4, "laneid"), Iter(2, 1)), (Iter(2, 4, "warpid"),), (("warpid", 5), ("m", 3)))
    assert str(tile) == "T.TileLayout(T.S[(8, 2):(4@laneid, 1)] + T.R[2:4@warpid] + 5@warpid + 3)"
    assert tile.apply(6, 1) == {"laneid": 24, "m": 4, "warpid": 5}
    assert tile.span("warpid") == 5
    assert read_tile("TileLayout(S[4, 8])") == read_tile("T.TileLayout(T.S[(4, 8):(8, 1)])")
    assert read_tile("T.TileLayout(T.S[(512,)])").shape == (512,)
    assert tvm.read("S[(8, 2):(4@laneid, 1)]") == Layout((8, 2), (E("laneid") * 4, E("m")))
    with pytest.raises(ValueError, match=r"the replica R\[2:4@warpid\] gives an element several places"):
        tvm.read(text)
    assert tvm.read("T.TileLayout(T.S[(8, 2):(4@laneid, 1)])") == Layout((8, 2), (E("laneid") * 4, E("m")))


def test_a_shape_regroups_shards_or_is_refused():
    text = "T.ComposeLayout(3, 3, 3, T.TileLayout(T.S[32768:1]))"
    assert tvm.read(text, (4, 128, 64)) == Layout((4, 128, 64), (8192, 64, 1)).then(swizzle(3, 3, 3))
    assert tvm.read("T.TileLayout(T.S[(4, 6):(1, 4)])", (2, 2, 6)) == Layout((2, 2, 6), (2, 1, 4))
    assert tvm.read("T.TileLayout(T.S[(4, 6):(1, 4)])", (24,)) == Layout(((6, 4),), ((4, 1),))
    for shape, message in [((3, 8), "does not fit"), ((24, 2), "does not fit"), ((12,), "has 24 elements")]:
        with pytest.raises(ValueError, match=message):
            tvm.read("T.TileLayout(T.S[(4, 6):(1, 4)])", shape)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.booleans(), tiles())
def test_a_composition_is_the_swizzle_of_cute(per_element, swizzle_len, more, inner, tile):
    found = ComposeLayout(per_element, swizzle_len, swizzle_len + more, TileLayout(tile.shard), inner)
    assert read_tile(str(found)) == found
    layout = tvm.read(str(found))
    mask, shift = (1 << swizzle_len) - 1, swizzle_len + more
    for point in np.ndindex(*tile.shape):
        offset = place(TileLayout(tile.shard), point)["m"]
        high = offset >> per_element
        high ^= (high >> shift & mask) if inner else (high & mask) << shift
        assert layout(*point) == (high << per_element) + offset % (1 << per_element)
    assert tvm.read(tvm.write(layout), tile.shape) == layout


def test_a_swizzle_that_is_spelt_as_xor_strides_is_found():
    assert tvm.write(Layout((8, 8), (1, X(9)))) == "T.ComposeLayout(0, 3, 3, T.TileLayout(T.S[(8, 8):(1, 8)]))"
    pipelined = Layout((3, 64, 64), (4096, 64, 1)).then(swizzle(3, 3, 3))
    assert tile_of(pipelined) == ComposeLayout(3, 3, 3, TileLayout((Iter(3, 4096), Iter(64, 64), Iter(64, 1))))
    assert tvm.write(Layout((64, 5)).then(Layout((16, 1), (1, 20)))) == "T.TileLayout(T.S[(4, 16, 5):(20, 1, 80)])"


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout((8, 8), (1, X(0b1011))), "XOR stride"),
        (Layout(8).then(Table([0, 2, 1, 3, 4, 7, 6, 5])), "table"),
        (Layout((4, 4), (E("lane"), X(3) * E("lane"))), "XOR stride"),
        (Layout((4, 4), (E("lane") + E("m"), E("m"))), "along one axis"),
        (Layout(4, E("m")), "place in memory"),
    ],
)
def test_what_tvm_cannot_express_is_named(layout, message):
    with pytest.raises(ValueError, match=message) as refused:
        tvm.write(layout)
    assert len(str(refused.value)) < 300


def test_padding_is_written_as_an_index_map():
    padded_rows = Layout(100).then(Layout((64, 1), (1, 68)))
    assert tvm.write(padded_rows) == "T.index_map(lambda i0: (i0 // 64 * 68 + i0 % 64,))"
    assert tvm.read(tvm.write(padded_rows), (100,)) == padded_rows
    assert tvm.write(Layout((4, 6), (E(1), E(0)))) == "T.index_map(lambda i0, i1: (i1, i0))"


HOSTILE = [
    ("lambda i: " + "(" * 10_000, "nest deeper"),
    ("lambda i: [" + "i," * 10_000, "more than 64 results"),
    ("lambda i: i ^ 3", "expected the end"),
    ("lambda i: i / 2", "expected the end"),
    ("lambda i: T.max(i, 3)", "unknown name 'T.max'"),
    ("lambda i, i: i", "another variable"),
    ("lambda: 3", "no variables"),
    ("lambda i: i % 0", "divisor 0"),
    ("T.index_map(lambda i: (i, i)", "expected '[)]'"),
    ("T.TileLayout(T.R[2:1])", "expected one T.S"),
    ("T.TileLayout(T.S[" + "(" * 5000, "expected an integer"),
    ("T.TileLayout(T.S[(8, 2):(1,)])", "1 strides for 2 extents"),
    ("T.TileLayout(T.S[(" + "2, " * 500 + "2)])", "more than 64"),
    ("T.TileLayout(T.S[0:1])", "at least 1"),
    ("T.TileLayout(T.S[8:1] + 1@lane + 2@lane)", "a second offset along lane"),
    ("T.ComposeLayout(3, 3, 2, T.TileLayout(T.S[8:1]))", "swizzle_len 3"),
    ("T.ComposeLayout(3, 3, 3, T.TileLayout(T.S[8:1@laneid]))", "the axis 'laneid'"),
    ("T.ComposeLayout(3, 70, 90, T.TileLayout(T.S[8:1]))", "62 bits"),
    ("[" * 1_000_000, "at most 65536"),
]


@pytest.mark.parametrize(("text", "message"), HOSTILE, ids=[text[:30] for text, _ in HOSTILE])
def test_bad_text_is_refused_in_one_short_line(text, message):
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=message) as refused:
        tvm.read(text, (8,))
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)
    assert time.perf_counter() - begin < 2


# Conformance


def plain(text):
    """Text without TVM's casts."""
    return re.sub(r"T\.(?:int64|bool)\((\w+)\)", r"\1", text)


@needs_cases
def test_index_maps_and_their_inverses_are_those_of_tvm():
    same_text = 0
    for case in cases("tvm_index_map"):
        shape, physical = case["shape"], case["map_shape"]
        index_map = read_index_map(case["text"])
        source = read_index_map(f"lambda {', '.join(case['params'])}: [{', '.join(case['expr'])}]")
        assert list(index_map.map_shape(shape)) == physical
        layout = index_map.layout(shape)
        inverse, expected = index_map.inverse(shape), read_index_map(case["inverse_text"])
        for point, mapped, back in zip(case["idx"], case["mapped"], case["inverse_check"], strict=True):
            assert list(index_map.map_indices(*point)) == list(source.map_indices(*point)) == mapped
            assert padded(layout(*point), len(physical)) == mapped
            assert list(inverse.map_indices(*mapped)) == list(expected.map_indices(*mapped)) == back
        grid = np.unravel_index(np.arange(prod(physical))[:: max(1, prod(physical) // 2000)], physical)
        for ours, theirs in zip(inverse.map_indices(*grid), expected.map_indices(*grid), strict=True):
            assert np.array_equal(np.broadcast_to(ours, grid[0].shape), np.broadcast_to(theirs, grid[0].shape))
        same_text += str(inverse) == plain(case["inverse_text"])
    assert same_text > 200  # the others name or simplify differently


@needs_cases
def test_padded_inverses_are_those_of_tvm():
    for case in cases("tvm_index_map"):
        shape = case["nonsurj"]["shape"]
        if "error" in case["nonsurj"]:
            continue
        found = read_index_map(case["text"]).non_surjective_inverse(shape)
        expected = read_index_map(case["nonsurj"]["inverse_text"])
        size = prod(found.physical_shape)
        grid = np.unravel_index(np.arange(size)[:: max(1, size // 2000)], found.physical_shape)
        for ours, theirs in zip(found.map.map_indices(*grid), expected.map_indices(*grid), strict=True):
            assert np.array_equal(np.broadcast_to(ours, grid[0].shape), np.broadcast_to(theirs, grid[0].shape))
        condition = compile(plain(case["nonsurj"]["padding_predicate"]), "predicate", "eval")
        ours = np.broadcast_to(found.is_padding(*grid), grid[0].shape)
        for place, padding in zip(zip(*grid, strict=True), ours, strict=True):
            assert bool(eval(condition, {}, dict(zip(expected.names, place, strict=True)))) == padding


@needs_cases
def test_tile_layouts_are_those_of_tvm():
    for case in cases("tvm_tirx_tile_layout"):
        if "error" in case:
            continue
        found = read_tile(case["text"])
        assert str(found) == case["text"]
        tile = found if isinstance(found, TileLayout) else found.tile
        assert [list(tile.shape), [item.stride for item in tile.shard]] == [case["shape"], case["strides"]]
        shape = case["shape"]
        layout = tvm.read(case["text"])
        if case["op"] == "tirx_canonicalize":
            assert str(tile.canonicalize()) == case["canonical"]
            assert tvm.read(case["canonical"], shape) == layout
        elif case["op"] == "tirx_tile_by_rowmajor_outer":
            counts = case["outer"]
            outer = TileLayout(tuple(Iter(n, prod(counts[k + 1 :])) for k, n in enumerate(counts)))
            assert str(tile.tile(outer, counts, shape)) == case["result"]
            layout = tvm.read(case["result"], [a * b for a, b in zip(counts, shape, strict=True)])
        elif isinstance(found, ComposeLayout):
            assert found.swizzle_inner == case["swizzle_inner"]
            assert (found.per_element, found.swizzle_len, found.atom_len) == (
                case["per_element"],
                case["swizzle_len"],
                case["atom_len"],
            )
        assert [layout(*point) for point in case["idx"]] == case["m"]
        assert isinstance(tile_of(layout), TileLayout | ComposeLayout)


def test_an_index_map_can_be_built_from_parts():
    i, j = read_index_map("lambda i, j: (i + j * 4, j)").results
    assert IndexMap(("i", "j"), (j, i)).map_indices(1, 2) == (2, 9)
