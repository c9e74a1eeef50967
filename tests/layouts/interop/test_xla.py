"""XLA's tiled layouts place elements as padding, reshaping and transposing do, and as XLA and Mosaic do."""

import json
import os
import time
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layouts import E, Layout, Table, X
from layouts.interop import mlir, xla
from layouts.interop.xla import COMBINE, Shape, Tiling

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


def tiled(array, tiles, fill=-1):
    """The array after every tile, by NumPy: pad the innermost dimensions, split them, move the places last."""
    for tile in tiles:
        outer = array.ndim - len(tile)
        inner = array.shape[outer:]
        padding = [(0, 0)] * outer + [(0, -n % t) for n, t in zip(inner, tile, strict=True)]
        array = np.pad(array, padding, constant_values=fill)
        pairs = [size for n, t in zip(array.shape[outer:], tile, strict=True) for size in (n // t, t)]
        array = array.reshape(*array.shape[:outer], *pairs)
        counts = [outer + 2 * k for k in range(len(tile))]
        array = array.transpose([*range(outer), *counts, *(k + 1 for k in counts)])
    return array


@st.composite
def shapes(draw):
    dims = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    order = tuple(draw(st.permutations(range(len(dims)))))
    extents = st.sampled_from([1, 2, 3, 4, 5, 8])
    first = draw(st.lists(extents, min_size=1, max_size=len(dims)))
    second = draw(st.lists(extents, min_size=1, max_size=len(dims)))
    tiles = draw(st.sampled_from([(), (first,), (first, second)]))
    return Shape("bf16", dims, order, tuple(map(tuple, tiles)))


@settings(max_examples=80, deadline=None)
@given(shapes())
def test_a_tiled_layout_is_padding_reshaping_and_transposing(shape):
    physical = np.arange(prod(shape.dims)).reshape(shape.dims).transpose(shape.minor_to_major[::-1])
    memory = tiled(physical, shape.tiles)
    assert memory.shape == shape.physical_shape
    assert memory.size == shape.padded_elements == xla.padded_elements(str(shape))
    layout = xla.read(str(shape))
    flat = memory.ravel()
    assert [flat[layout(*point)] for point in np.ndindex(*shape.dims)] == list(range(prod(shape.dims)))


@settings(max_examples=60, deadline=None)
@given(shapes(), st.data())
def test_nested_tiles_are_written_so_that_they_read_back_equal(shape, data):
    if shape.tiles:
        first = shape.tiles[0]
        second = tuple(data.draw(st.sampled_from([t for t in (1, 2, 3, 4) if n % t == 0])) for n in first)
        shape = Shape("bf16", shape.dims, shape.minor_to_major, (first, second))
    text, refusal = attempt(xla.write, shape.layout, "bf16")
    if refusal:  # tiles of dimensions of one element leave gaps that the search may not explain
        assert 1 in shape.dims
    else:
        assert xla.read(text) == shape.layout


@settings(max_examples=60, deadline=None)
@given(shapes())
def test_other_tiles_are_written_right_or_refused(shape):
    text, refusal = attempt(xla.write, shape.layout, "bf16")
    if refusal:
        assert "XLA" in refusal
        assert len(shape.tiles) == 2
    else:
        assert xla.read(text) == shape.layout


def test_the_usual_layouts_are_written_as_they_are_read():
    for text in [
        "f32[3,5]{1,0}",
        "f32[3,5]{0,1}",
        "f32[20,256]{1,0:T(8,128)}",
        "bf16[64,512]{1,0:T(8,128)(2,1)}",
        "s8[64,200]{1,0:T(32,128)(4,1)}",
        "f32[4,20,256]{2,0,1:T(8,128)}",
        "bf16[4096]{0:T(1024)(128)(2,1)}",
        "f32[2,3,4,5]{3,1,2,0}",
    ]:
        assert str(xla.read_shape(text)) == text
        assert xla.read(xla.write(xla.read(text))) == xla.read(text)
    assert xla.write(xla.read("bf16[64,512]{1,0:T(8,128)(2,1)}"), "bf16") == "bf16[64,512]{1,0:T(8,128)(2,1)}"
    assert xla.write(xla.read("s8[64,200]{1,0:T(32,128)(4,1)}"), "s8") == "s8[64,200]{1,0:T(32,128)(4,1)}"
    assert xla.write(xla.read("bf16[4096]{0:T(1024)(128)(2,1)}"), "bf16") == "bf16[4096]{0:T(128)(2,1)}"
    assert xla.write(Layout((3, 5), (1, 3))) == "f32[3,5]{0,1}"


def test_a_figure_of_the_documentation():
    """F32[3,5] in tiles of 2x2: row 2 starts the second row of tiles; 24 elements with the padding."""
    layout = xla.read("f32[3,5]{1,0:T(2,2)}")
    assert [layout(0, k) for k in range(5)] == [0, 1, 4, 5, 8]
    assert [layout(1, 0), layout(2, 0), layout(2, 4)] == [2, 12, 20]
    assert xla.padded_elements("f32[3,5]{1,0:T(2,2)}") == 24


def test_what_stands_beside_the_tiles_is_read():
    assert xla.read("f32[]") == Layout(1, 0)
    assert xla.read("f32[3,5]") == xla.read("f32[3,5]{}") == xla.read("f32[3,5]{1,0}")
    assert xla.read("s4[8,128]{1,0:T(8,128)(2,1)E(4)S(1)}") == xla.read("s4[8,128]{1,0:T(8,128)(2,1)}")
    assert xla.padded_elements("f32[]{:T(128)}") == 128
    assert xla.padded_elements("f32[100]{0:T(128)L(512)}") == 512
    joined = Shape("f32", (2, 3, 5), (2, 1, 0), ((COMBINE, 4),))
    assert str(joined) == "f32[2,3,5]{2,1,0:T(*,4)}"
    assert xla.read(str(joined)) == joined.layout == Layout((2, 3, 5), (16, 5, 1))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout((4, 4), (1, 0)), "dimension 1: elements 1 apart share an offset"),
        (Layout((4, 4), (1, 2)), "stride 2 of dimension 1 above 4 elements of dimension 0"),
        (Layout((4, 4), (4, -1)), "stride -1 of dimension 1"),
        (Layout((4, 4), (4, 1), 3), "offset 3"),
        (Layout((4, 4), (1, X(5))), "XOR stride X5"),
        (Layout(8).then(Table([0, 2, 1, 3, 4, 7, 6, 5])), "table"),
        (Layout((4, 4), (E(0), E(1))), "axes 0, 1"),
        (Layout((6, 5), (1, 10)).then(Layout((7, 1), (1, 11))), "XLA"),
        (mlir.read("affine_map<(i, j) -> ((i * 7 + j) floordiv 3)>", (5, 7)), "quotient of anything but one dimension"),
    ],
)
def test_what_xla_cannot_express_is_named(layout, message):
    with pytest.raises(ValueError, match=message) as refused:
        xla.write(layout)
    assert len(str(refused.value)) < 300


HOSTILE = [
    ("bf16[3,5]{1,0:T(8,128)(2,1}", "expected ','"),
    ("bf16[3,5]{1,1}", "no order of the dimensions"),
    ("bf16[3,5]{0}", "no order of the dimensions"),
    ("bf16[3,0]{1,0}", "at least 1"),
    ("bf16[<=3]", "expected an integer"),
    ("bf16[3]{0:T(0)}", "at least 1"),
    ("bf16[3,4]{1,0:T(2,*)}", "before another one"),
    ("bf16[3]{0:T(2)T(2)}", "at most once"),
    ("bf16[3]{0:X(2)}", "expected T"),
    ("bf16[3]{0:T" + "(2)" * 100 + "}", "more than 8 tiles"),
    ("bf16[" + "1," * 400 + "1]", "more than 256"),
    ("bf16[" + "9" * 30 + "]", "19 digits"),
    ("bf16[3]{0:L(0)}", "at least 1"),
    ("[" * 1_000_000, "at most 65536"),
    ("{{{{", "expected an element type"),
]


@pytest.mark.parametrize(("text", "message"), HOSTILE, ids=[text[:24] for text, _ in HOSTILE])
def test_bad_text_is_refused_in_one_short_line(text, message):
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=message) as refused:
        xla.read(text)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)
    assert time.perf_counter() - begin < 2


# Mosaic GPU


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_tiling_moves_shapes_strides_and_indices_together(data):
    tiles, shape = [], [data.draw(st.integers(1, 3)) for _ in range(data.draw(st.integers(1, 3)))]
    inner = shape
    for _ in range(data.draw(st.integers(0, 2))):
        rank = data.draw(st.integers(1, len(shape)))
        tile = [data.draw(st.sampled_from([1, 2, 3])) for _ in range(rank)]
        tiles.insert(0, tile)
        inner = inner[: len(inner) - rank] + [n * t for n, t in zip(inner[len(inner) - rank :], tile, strict=True)]
    tiling = Tiling(tuple(map(tuple, tiles)))
    shape = [n * 6 for n in shape]
    whole, refusal = attempt(tiling.tile_shape, shape)
    if refusal:
        assert "does not divide" in refusal
        return
    array = np.arange(prod(shape)).reshape(shape)
    memory = tiled(array, tiles)
    assert whole == memory.shape
    assert tiling.untile_shape(whole) == tuple(shape)
    strides = tiling.tile_strides([prod(shape[k + 1 :]) for k in range(len(shape))])
    assert np.array_equal(np.lib.stride_tricks.as_strided(array, whole, [s * array.itemsize for s in strides]), memory)
    for point in list(np.ndindex(*shape))[::7]:
        place = tiling.tile_indices(point)
        assert memory[place] == array[point]
        assert tiling.untile_indices(place) == point
        assert memory.ravel()[tiling.layout(shape)(*point)] == array[point]


def test_a_tiling_refuses_what_its_tiles_do_not_divide():
    with pytest.raises(ValueError, match=r"tile \(8,128\) does not divide the extents \(20,128\)"):
        Tiling(((8, 128),)).tile_shape((20, 128))
    with pytest.raises(ValueError, match="more dimensions than the 1"):
        Tiling(((8, 128),)).tile_shape((128,))
    with pytest.raises(ValueError, match="not those of the tile"):
        Tiling(((8, 128),)).untile_shape((2, 1, 8, 64))
    with pytest.raises(ValueError, match="at least 1"):
        Tiling(((0,),))


# Conformance


@needs_cases
def test_tiled_layouts_are_those_of_xla():
    for case in cases("xla_tiled"):
        shape = xla.read_shape(case["shape"])
        assert str(shape) == case["xla_parse"]
        assert (list(shape.dims), list(shape.minor_to_major)) == (case["dims"], case["minor_to_major"])
        assert [list(tile) for tile in shape.tiles] == case["tiles"]
        assert shape.padded_elements == case["padded_elements"]
        layout = shape.layout
        assert [layout(*point) for point in case["idx"]] == case["offsets"]
        major_first = case["minor_to_major"][::-1]
        physical = mlir.read_map(case["affine_map"])
        for point in case["idx"]:
            assert physical.results[0](*(point[k] for k in major_first)) == layout(*point)
        rank = len(case["dims"])
        counts = Shape("f32", tuple(case["dims"][k] for k in major_first), tuple(range(rank))[::-1], shape.tiles[:1])
        steps = [prod(counts.physical_shape[k + 1 : rank]) for k in range(rank)]
        assert steps == case["tile_strides"]
        again = xla.read(xla.write(layout, shape.element))
        assert [again(*point) for point in case["idx"]] == case["offsets"]
        if case["mosaic_gpu_tiling_agrees"] and case["minor_to_major"] == list(range(rank))[::-1]:
            assert Tiling(shape.tiles).layout(shape.dims)(*case["idx"][0]) == case["offsets"][0]


@needs_cases
def test_tilings_are_those_of_mosaic_gpu():
    for case in cases("mosaic_gpu_tiling"):
        tiling = Tiling(tuple(map(tuple, case["tiles"])))
        shape = case["shape"]
        assert list(tiling.tile_shape(shape)) == case["tiled_shape"]
        assert list(tiling.untile_shape(case["tiled_shape"])) == case["untile_shape"]
        row_major = [prod(shape[k + 1 :]) for k in range(len(shape))]
        assert list(tiling.tile_strides(row_major)) == case["tiled_strides_of_rowmajor"]
        layout = tiling.layout(shape)
        for point, place in zip(case["idx"], case["tiled_idx"], strict=True):
            assert list(tiling.tile_indices(point)) == place
            assert list(tiling.untile_indices(place)) == point
            assert layout(*point) == np.ravel_multi_index(place, case["tiled_shape"])
