"""MLIR's affine maps, memrefs, packs and views mean what they say, and MLIR and IREE agree."""

import hashlib
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
from layouts.interop import mlir
from layouts.interop.mlir import MemRef, Pack

DATA = Path(os.environ.get("ROWHIT_DATA") or Path(__file__).parents[3] / "../shared/data") / "layouts"
needs_cases = pytest.mark.skipif(not DATA.exists(), reason="the conformance cases are not here")


def cases(name: str) -> list[dict]:
    return json.loads((DATA / f"{name}.json").read_text())


# Types


def test_a_memref_is_a_layout_to_offsets_whatever_way_it_is_written():
    strided = mlir.read("memref<4x16xf32, strided<[32, 1], offset: 3>>")
    assert strided == Layout((4, 16), (32, 1), 3)
    assert mlir.read("memref<4x16xf32, affine_map<(i, j) -> (i * 32 + j + 3)>, 1>") == strided
    assert mlir.read("strided<[32, 1], offset: 3>", (4, 16)) == strided
    assert mlir.read("affine_map<(d0, d1)[] -> (3 + 32 * d0 + d1)>", (4, 16)) == strided
    assert mlir.read("memref<4x16xvector<4xf32>, #gpu.address_space<workgroup>>") == Layout((4, 16), (16, 1))
    assert mlir.read("memref<bf16>") == Layout(1, 0)


def test_a_memref_with_several_results_is_the_row_major_array_of_its_normalised_shape():
    tiled = mlir.read("memref<64x130xf32, affine_map<(i, j) -> (j floordiv 16, i, j mod 16)>>")
    assert mlir.normalized_shape("affine_map<(i, j) -> (j floordiv 16, i, j mod 16)>", (64, 130)) == (9, 64, 16)
    for i, j in [(0, 0), (1, 0), (0, 15), (0, 16), (63, 129), (17, 100)]:
        assert tiled(i, j) == (j // 16 * 64 + i) * 16 + j % 16


def test_a_bare_map_keeps_its_results_apart():
    found = mlir.read("affine_map<(i, j) -> (j floordiv 16, i, j mod 16)>", (64, 130))
    assert found(5, 100) == (6, 5, 4)
    assert mlir.write_map(found) == "affine_map<(d0, d1) -> (d1 floordiv 16, d0, d1 mod 16)>"
    bare = mlir.read_map("(i, j) -> (j floordiv 16 * 2, -i)")
    assert str(bare) == "affine_map<(i, j) -> ((j floordiv 16) * 2, i * -1)>"


def test_plain_strides_are_written_as_strided_and_the_rest_as_a_map():
    assert mlir.write(Layout((4, (2, 8)), (16, (1, 2)), 3)) == "memref<4x16xf32, strided<[16, 1], offset: 3>>"
    assert mlir.write(Layout((1, 5), (7, 2)), "bf16") == "memref<1x5xbf16, strided<[7, 2]>>"
    assert mlir.write(Layout((4, (2, 8)), (2, (1, 8)))) == (
        "memref<4x16xf32, affine_map<(d0, d1) -> ((d1 floordiv 2) * 8 + d0 * 2 + d1 mod 2)>>"
    )
    padded = Layout(100).then(Layout((64, 1), (1, 68)))
    assert mlir.write(padded) == "memref<100xf32, affine_map<(d0) -> ((d0 floordiv 64) * 68 + d0 mod 64)>>"


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout((8, 8), (1, X(9))), "XOR stride X9"),
        (Layout(8).then(Table([0, 2, 1, 3, 4, 7, 6, 5])), "table"),
        (Layout((4, 4), (E(0), E(1))), "axes 0, 1"),
        (Layout((4, 4), (E("lane"), E("m"))), "axes lane, m"),
    ],
)
def test_what_a_memref_cannot_express_is_named(layout, message):
    with pytest.raises(ValueError, match=message):
        mlir.write(layout)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_written_reads_back_equal(data):
    mode = st.lists(st.tuples(st.integers(1, 5), st.integers(-20, 40)), min_size=1, max_size=3)
    modes = data.draw(st.lists(mode, min_size=1, max_size=3))
    layout = Layout(
        tuple(tuple(extent for extent, _ in mode) for mode in modes),
        tuple(tuple(stride for _, stride in mode) for mode in modes),
        data.draw(st.integers(-9, 9)),
    )
    if data.draw(st.booleans()):
        block = data.draw(st.integers(1, 9))
        layout = layout.then(Layout((block, 1), (data.draw(st.integers(-3, 3)), data.draw(st.integers(-9, 20)))))
    assert mlir.read(mlir.write(layout)) == layout


HOSTILE = [
    ("memref<4x?xf32>", "at position 9: '[?]' is known at run time only"),
    ("memref<4xf32, strided<[1], offset: ?>>", "run time"),
    ("memref<4xf32, strided<[1, 2]>>", "2 strides for 1 dimensions"),
    ("memref<0x4xf32>", "extents are at least 1"),
    ("memref<" + "9" * 30 + "xf32>", "19 digits"),
    ("memref<" + "2x" * 400 + "f32>", "more than 256"),
    ("memref<4x", "expected an extent or an element type"),
    ("affine_map<(d0)[s0] -> (d0 + s0)>", "symbol 's0' has no value"),
    ("affine_map<(d0) -> (d1)>", "unknown name 'd1'"),
    ("affine_map<(d0, d0) -> (d0)>", "repeated"),
    ("affine_map<(d0) -> ()>", "without results"),
    ("affine_map<(d0) -> (" + "(" * 10_000, "nest deeper"),
    ("affine_map<(d0) -> (" + "d0," * 10_000, "more than 64 results"),
    ("#map", "expected memref"),
    ("(" * 1_000_000, "at most 65536"),
    ("linalg.pack %a inner_dims_pos = [0]", "expected inner_tiles"),
]


@pytest.mark.parametrize(("text", "message"), HOSTILE, ids=[message[-18:] for _, message in HOSTILE])
def test_bad_text_is_refused_in_one_short_line(text, message):
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=message) as refused:
        mlir.read(text, (8,) if "affine" in text else None)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)
    assert time.perf_counter() - begin < 2


def test_a_map_needs_a_shape_and_a_memref_has_its_own():
    with pytest.raises(ValueError, match="give one"):
        mlir.read("affine_map<(d0) -> (d0)>")
    with pytest.raises(ValueError, match="over the shape"):
        mlir.read("affine_map<(d0) -> (d0)>", (4, 4))
    with pytest.raises(ValueError, match="not that of the memref"):
        mlir.read("memref<4xf32>", (5,))
    with pytest.raises(ValueError, match="reaches -1"):
        mlir.normalized_shape("(d0) -> (d0 - 1)", (4,))


# Packs


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_pack_is_padding_reshaping_and_transposing(data):
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    rank = len(shape)
    pos = data.draw(st.permutations(range(rank)))[: data.draw(st.integers(0, rank))]
    tiles = [data.draw(st.integers(1, 5)) for _ in pos]
    perm = data.draw(st.permutations(range(rank)))
    pack = Pack(tuple(shape), tuple(pos), tuple(tiles), tuple(perm))
    source = np.arange(prod(shape)).reshape(shape)
    tile_of = [dict(zip(pos, tiles, strict=True)).get(k, 1) for k in range(rank)]
    counts = [-(-n // t) for n, t in zip(shape, tile_of, strict=True)]
    whole = np.full([n * t for n, t in zip(counts, tile_of, strict=True)], -1)
    whole[tuple(slice(0, n) for n in shape)] = source
    split = whole.reshape([size for pair in zip(counts, tile_of, strict=True) for size in pair])
    places = [*pos, *(k for k in range(rank) if k not in pos)]
    packed = split.transpose([2 * k for k in perm] + [2 * k + 1 for k in places])
    assert packed.shape[: rank + len(pos)] == pack.packed_shape
    flat = packed.reshape(-1)
    assert [flat[pack.layout(*point)] for point in np.ndindex(*shape)] == list(range(prod(shape)))
    assert pack.padded == (-1 in flat)
    assert mlir.read_pack(str(pack)) == pack
    assert mlir.read(str(pack)) == mlir.pack(shape, pos, tiles, perm)


def test_a_pack_is_checked_against_its_result_type():
    text = "%0 = tensor.pack %a padding_value(%c : i32) inner_dims_pos = [0, 1] inner_tiles = [16, 3] "
    text += "into %b : {} -> {}"
    assert mlir.read_pack(text.format("tensor<20x20xi32>", "tensor<2x7x16x3xi32>")).padded
    with pytest.raises(ValueError, match=r"the packed shape is \(2, 7, 16, 3\)"):
        mlir.read_pack(text.format("tensor<20x20xi32>", "tensor<2x6x16x3xi32>"))
    for arguments, message in [
        (((4,), (0, 0), (2, 2)), "distinct"),
        (((4,), (0,), (0,)), "at least 1"),
        (((4,), (0,), ()), "0 inner tiles for 1"),
        (((4, 4), (0,), (2,), (0,)), "no order"),
    ]:
        with pytest.raises(ValueError, match=message):
            Pack(*arguments)


# Views


@st.composite
def memrefs(draw):
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    if draw(st.booleans()):
        order = draw(st.permutations(range(len(shape))))
        gap = draw(st.sampled_from([1, 1, 2]))
        strides = [gap * prod(shape[j] for j in order[order.index(k) + 1 :]) for k in range(len(shape))]
    else:
        strides = [draw(st.integers(0, 50)) for _ in shape]
    return MemRef(shape, "f32", tuple(strides), draw(st.integers(0, 20)))


@settings(max_examples=60, deadline=None)
@given(memrefs(), st.data())
def test_a_transposition_and_a_subview_keep_every_element_in_its_place(source, data):
    rank = len(source.shape)
    order = data.draw(st.permutations(range(rank)))
    turned = mlir.transpose(source, order)
    for point in np.ndindex(*turned.shape):
        back = tuple(point[order.index(k)] for k in range(rank))
        assert turned.layout(*point) == source.layout(*back)
    offsets = [data.draw(st.integers(0, n - 1)) for n in source.shape]
    steps = [data.draw(st.integers(1, 3)) for _ in source.shape]
    sizes = [data.draw(st.integers(1, -(-(n - o) // s))) for n, o, s in zip(source.shape, offsets, steps, strict=True)]
    part = mlir.subview(source, offsets, sizes, steps)
    for point in np.ndindex(*sizes):
        inside = tuple(o + p * s for o, p, s in zip(offsets, point, steps, strict=True))
        assert part.layout(*point) == source.layout(*inside)


def groups_of(rank: int, data: st.DataObject) -> list[list[int]]:
    cuts = [k for k in range(1, rank) if data.draw(st.booleans())]
    return [list(range(a, b)) for a, b in itertools.pairwise([0, *cuts, rank])]


@settings(max_examples=120, deadline=None)
@given(memrefs(), st.data())
def test_dimensions_collapse_exactly_where_their_elements_lie_like_one_dimension(source, data):
    groups = groups_of(len(source.shape), data)
    shape = [prod(source.shape[k] for k in group) for group in groups]
    table = np.array([source.layout(*point) for point in np.ndindex(*source.shape)]).reshape(shape)
    steps = [np.diff(table, axis=k) for k in range(len(shape))]
    is_strided = all(step.size == 0 or step.min() == step.max() for step in steps)
    if not is_strided:
        with pytest.raises(ValueError, match="not contiguous"):
            mlir.collapse_shape(source, groups)
        return
    collapsed = mlir.collapse_shape(source, groups)
    assert [collapsed.layout(*point) for point in np.ndindex(*shape)] == list(table.ravel())
    expanded = mlir.expand_shape(collapsed, groups, source.shape)
    assert [expanded.layout(*point) for point in np.ndindex(*source.shape)] == list(table.ravel())
    text = (
        f"memref.collapse_shape %m {groups} : {source} into {collapsed}",
        f"memref.expand_shape %m {groups} output_shape {list(source.shape)} : {collapsed} into {expanded}",
    )
    assert [mlir.verify(part).accepted for part in text] == [True, True]


def test_the_verifier_compares_types_as_they_are_written():
    view = "memref.{} : {} {} {}"
    plain, strided = "memref<4x6xf32>", "memref<4x6xf32, strided<[6, 1]>>"
    collapse = "collapse_shape %m [[0, 1]]"
    assert mlir.verify(view.format(collapse, plain, "into", "memref<24xf32>")).accepted
    assert not mlir.verify(view.format(collapse, strided, "into", "memref<24xf32>")).accepted
    assert mlir.verify(view.format(collapse, strided, "into", "memref<24xf32, strided<[1]>>")).accepted
    turn = "transpose %m (a, b) -> (b, a)"
    assert mlir.verify(view.format(turn, plain, "to", "memref<6x4xf32, strided<[1, 6]>>")).accepted
    found = mlir.verify(view.format(turn, plain, "to", "memref<6x4xf32>"))
    assert not found.accepted
    assert str(found.expected) == "memref<6x4xf32, strided<[1, 6]>>"
    part = "subview %m[1, 0] [1, 6] [1, 1]"
    assert mlir.verify(view.format(part, plain, "to", "memref<6xf32, strided<[1], offset: 6>>")).accepted
    assert not mlir.verify(view.format(part, plain, "to", "memref<6xf32, strided<[1]>>")).accepted
    assert not mlir.verify(view.format(part, plain, "to", "memref<6xf64, strided<[1], offset: 6>>")).accepted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memref.cast %m : memref<4xf32> to memref<4xf32>", "expected memref.subview"),
        ("memref.transpose %m (a, b) -> (a + b) : memref<4xf32> to memref<4xf32>", "permutation"),
        ("memref.subview %m[0][4] : memref<4xf32> to memref<4xf32>", r"expected '\['"),
        ("memref.collapse_shape %m [" + "[0]," * 5000, "more than 256 groups"),
        ("memref.expand_shape %m [[0]] : memref<4xf32> into memref<4xf32>", "expected output_shape"),
    ],
)
def test_a_text_that_is_no_view_is_refused(text, message):
    with pytest.raises(ValueError, match=message) as refused:
        mlir.verify(text)
    assert len(str(refused.value)) < 300


# Conformance


@needs_cases
def test_affine_maps_give_the_offsets_that_mlir_folds():
    for case in cases("mlir_affine"):
        layout = mlir.read(case["map"], case["shape"])
        again = mlir.read(mlir.write(layout))
        assert [layout(*point) for point in case["idx"]] == case["offsets"]
        assert [again(*point) for point in case["idx"]] == case["offsets"]
        if layout.size <= 1 << 14:
            assert again == layout


@needs_cases
def test_normalised_shapes_are_those_of_mlir():
    for case in cases("mlir_normalize_memrefs"):
        assert mlir.normalized_shape(case["map"], case["shape"]) == tuple(case["physical_shape"])


@needs_cases
def test_packs_hold_what_iree_packs():
    for case in cases("mlir_linalg_pack"):
        lists = [tuple(case[key]) for key in ("shape", "inner_dims_pos", "inner_tiles", "outer_dims_perm")]
        pack = Pack(*lists)
        assert pack.packed_shape == tuple(case["dest_shape"])
        assert pack.padded == case["padded"]
        if "error" in case:
            continue
        points = np.meshgrid(*map(np.arange, pack.shape), indexing="ij", sparse=True)
        packed = np.full(prod(pack.packed_shape), -1, dtype="<i4")
        packed[pack.layout.coordinate_offsets(*points).ravel()] = np.arange(prod(pack.shape))
        assert hashlib.sha256(packed.tobytes()).hexdigest() == case["sha256_i32"]
        assert [[place, packed[place]] for place, _ in case["probe"]] == case["probe"]
        assert packed.tolist() == case.get("packed_source_index", packed.tolist())


@needs_cases
def test_views_are_accepted_where_mlir_accepts_them():
    for case in cases("mlir_views"):
        found = mlir.verify(case["mlir"])
        assert found.accepted == case["accepted"], case["mlir"]
        source, result = (
            MemRef(tuple(case[key]["shape"]), "f32", tuple(case[key]["strides"]), case[key]["offset"])
            for key in ("src", "result")
        )
        arguments = {
            "subview": ["offsets", "sizes", "steps"],
            "transpose": ["perm"],
            "collapse_shape": ["reassociation"],
            "expand_shape": ["reassociation"],
        }[case["op"]]
        given = [case[key] for key in arguments] + ([result.shape] if case["op"] == "expand_shape" else [])
        view = getattr(mlir, case["op"])
        if found.expected is None:
            assert "non-contiguous" in case["diagnostic"]
            with pytest.raises(ValueError, match="not contiguous"):
                view(source, *given)
            continue
        assert view(source, *given) == found.expected
        assert (found.expected == result) == case["accepted"]
        named = re.search(r"expected [a-z ]*type to be '(memref<[^']*>)'", case.get("diagnostic", ""))
        assert named is None or mlir.read_memref(named[1]) == found.expected
