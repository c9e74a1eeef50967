"""Triton's layouts against tables and the definitions of its encodings."""

import random
from itertools import product as pairs
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layouts import E, Layout, NamedLayout, Table, X, f2, parse
from layouts.interop import triton
from layouts.interop.triton import LinearMap, from_bases, read, write

BLOCKED = "#ttg.blocked<{sizePerThread = [1, 4], threadsPerWarp = [8, 4], warpsPerCTA = [4, 1], order = [1, 0]}>"
SWIZZLED = "#ttg.swizzled_shared<{vec = 8, perPhase = 1, maxPhase = 8, order = [1, 0]}>"
NVMMA = "#ttg.nvmma_shared<{swizzlingByteWidth = 128, transposed = false, elementBitWidth = 16}>"
LINEAR = "#ttg.linear<{register = [[0, 1]], lane = [[0, 2], [0, 4], [1, 0]], warp = [[2, 0]], block = []}>"
PADDED = "#ttg.padded_shared<[4:+2, 16:+4] {order = [1, 0], shape = [16, 4]}>"


@st.composite
def linear_maps(
    draw: st.DrawFn, inputs: tuple[str, ...] = ("register", "lane"), sizes: Any = None, most: int = 4
) -> LinearMap:
    results = sizes or {"dim0": draw(st.sampled_from([1, 2, 8])), "dim1": draw(st.sampled_from([1, 4]))}
    basis = st.tuples(*(st.integers(0, size - 1) for size in results.values()))
    return from_bases({name: draw(st.lists(basis, max_size=most)) for name in inputs}, results)


@st.composite
def invertible_maps(draw: st.DrawFn) -> LinearMap:
    """A random product of elementary steps, from an offset to three dimensions."""
    sizes = {0: draw(st.sampled_from([1, 2, 4])), 1: draw(st.sampled_from([1, 8])), 2: draw(st.sampled_from([1, 4]))}
    columns = [1 << k for k in range(f2.width(sizes.values()))]
    rng = random.Random(draw(st.integers(0, 2**32)))
    for _ in range(12):
        if len(columns) > 1:
            k, other = rng.sample(range(len(columns)), 2)
            columns[k] ^= columns[other]
    return from_bases({"offset": [f2.split(column, sizes.values()) for column in columns]}, sizes)


def points(linear: NamedLayout) -> list[dict[str, int]]:
    return [dict(zip(linear.axes, at, strict=True)) for at in pairs(*(range(linear.size(a)) for a in linear.axes))]


def values(linear: NamedLayout) -> list[dict[Any, int]]:
    return [triton.apply(linear, point) for point in points(linear)]


# --- named linear maps ---------------------------------------------------------------------------------------------


@given(linear_maps())
def test_apply_adds_the_bases_of_the_bits_by_xor(linear: LinearMap) -> None:
    units = {
        (name, k): triton.apply(linear, {n: (1 << k) * (n == name) for n in linear.axes})
        for name in linear.axes
        for k in range(f2.log2(linear.size(name)))
    }
    for point in points(linear):
        expected = {axis: 0 for axis, _ in linear.results}
        for (name, k), unit in units.items():
            if point[name] >> k & 1:
                expected = {axis: part ^ unit[axis] for axis, part in expected.items()}
        assert triton.apply(linear, point) == expected


def test_bases_are_what_the_bits_move_and_sizes_are_kept() -> None:
    linear = from_bases({"offset": [(0, 1), (2, 3)], "block": []}, {"dim0": 8, "dim1": 4})
    assert [tuple(value.values()) for value in values(linear)] == [(0, 0), (0, 1), (2, 3), (2, 2)]
    assert linear.results == (("dim0", 8), ("dim1", 4))
    assert linear == NamedLayout(("offset",), Layout(((2, 2),), ((E("dim1"), E("dim0") * X(2) + E("dim1") * X(3)),)))


@given(linear_maps(sizes={"dim0": 4, "dim1": 2}), linear_maps(inputs=("dim1", "dim0")))
@settings(max_examples=30)
def test_compose_reads_the_first_map_first(first: LinearMap, second: LinearMap) -> None:
    if second.size("dim0") < 4 or second.size("dim1") < 2:
        with pytest.raises(ValueError, match="the first map gives dim0=4, dim1=2"):
            triton.compose(first, second)
        return
    both = triton.compose(first, second)
    assert values(both) == [triton.apply(second, middle) for middle in values(first)]  # type: ignore[arg-type]
    assert both.axes == first.axes
    assert both.results == second.results


@given(invertible_maps())
@settings(max_examples=30)
def test_the_inverse_undoes_a_map_in_both_directions(linear: LinearMap) -> None:
    back = triton.invert(linear)
    for point, result in zip(points(linear), values(linear), strict=True):
        assert triton.apply(back, {f"dim{axis}": part for axis, part in result.items()}) == point
    assert triton.invert(back).size("offset") == linear.size("offset")
    assert values(triton.compose(linear, back)) == points(linear)


@given(linear_maps())
@settings(max_examples=30)
def test_the_pseudo_inverse_is_undone_by_the_map_that_is_onto(linear: LinearMap) -> None:
    reached = {tuple(value.values()) for value in values(linear)}
    wanted = set(pairs(*(range(size) for _, size in linear.results)))
    if reached != wanted:
        with pytest.raises(ValueError, match="not in the image"):
            triton.pseudo_invert(linear)
        with pytest.raises(ValueError, match=r"not one to one|not in the image"):
            triton.invert(linear)
    else:
        back = triton.pseudo_invert(linear)
        assert values(triton.compose(back, linear)) == points(back)


@given(linear_maps(sizes={"dim0": 4, "dim1": 2}), linear_maps(inputs=("lane", "warp"), sizes={"dim1": 2, "dim0": 4}))
@settings(max_examples=30)
def test_a_conversion_leads_to_the_same_element(first: LinearMap, second: LinearMap) -> None:
    reached = [tuple(sorted(value.items())) for value in values(second)]
    if {tuple(sorted(value.items())) for value in values(first)} <= set(reached):
        found = triton.invert_and_compose(first, second)
        assert values(triton.compose(found, second)) == values(first)
    else:
        with pytest.raises(ValueError, match="not in the image"):
            triton.invert_and_compose(first, second)


def test_a_conversion_leaves_inputs_alone_that_both_maps_have() -> None:
    first = from_bases({"lane": [(1,)], "warp": [(0,), (0,)]}, {"dim0": 2})
    second = from_bases({"register": [(1,)], "warp": [(0,), (0,)]}, {"dim0": 2})
    found = triton.invert_and_compose(first, second)
    assert triton.apply(found, {"lane": 1, "warp": 2}) == {"register": 1, "warp": 2}


@given(linear_maps(most=2), linear_maps(inputs=("warp", "lane"), most=2))
@settings(max_examples=30)
def test_a_product_works_on_the_bits_above_those_of_the_map_before(low: LinearMap, high: LinearMap) -> None:
    both = triton.product(low, high)
    shared = low.size("lane")
    for point, value in zip(points(both), values(both), strict=True):
        below = triton.apply(low, {"register": point["register"], "lane": point["lane"] % shared})
        above = triton.apply(high, {"warp": point["warp"], "lane": point["lane"] // shared})
        assert value == {axis: below[axis] + size * above[axis] for axis, size in low.results}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_bases({"lane": [(1,)]}, {"dim0": 3}), "size of dim0: 3 is not a power of two"),
        (lambda: from_bases({"lane": [(4,)]}, {"dim0": 4}), "vector 0 has 4, outside"),
        (lambda: from_bases({"lane": [(1, 1)]}, {"dim0": 4}), "2 numbers, expected 1"),
        (lambda: from_bases({"lane": [(0,)] * 63}, {"dim0": 4}), "at most 62 input bits"),
        (lambda: from_bases({}, {"dim0": 4}), "has inputs and results"),
        (lambda: triton.apply(from_bases({"lane": [(1,)]}, {"dim0": 2}), {"lane": 2}), "outside 0..1"),
        (lambda: triton.apply(from_bases({"lane": [(1,)]}, {"dim0": 2}), {"lan": 1}), "unknown axis 'lan'"),
        (lambda: triton.invert(NamedLayout(("lane",), Layout(((4,),), ((3,),)))), "plain numbers"),
        (lambda: triton.invert(NamedLayout(("lane",), Layout(((4,),), ((E("m") * 3,),)))), "not linear over F2"),
        (lambda: triton.invert(NamedLayout(("lane",), Layout(((6,),), ((E("m"),),)))), "not linear|power of two"),
    ],
)
def test_named_maps_refuse_what_is_no_linear_map(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- encodings -----------------------------------------------------------------------------------------------------


def test_the_swizzled_tile_of_tensor_cores_is_the_swizzle_of_cute() -> None:
    assert triton.nvmma_shared(128, 16, (64, 64)) == parse("Sw<3,3,3> o 0 o (64,64):(64,1)")
    assert triton.nvmma_shared(64, 16, (64, 32)) == parse("Sw<2,3,3> o 0 o (64,32):(32,1)")
    assert triton.nvmma_shared(32, 16, (64, 16)) == parse("Sw<1,3,3> o 0 o (64,16):(16,1)")
    assert triton.nvmma_shared(128, 8, (64, 128)) == parse("Sw<3,4,3> o 0 o (64,128):(128,1)")
    assert triton.nvmma_shared(0, 16, (64, 64)) == Layout((64, 64), (64, 1))


def test_a_wider_tile_is_boxes_of_the_swizzle_width_one_behind_the_other() -> None:
    assert triton.nvmma_shared(128, 16, (64, 128)) == parse("Sw<3,3,3> o 0 o (64,(64,2)):(64,(1,4096))")
    assert triton.nvmma_shared(128, 32, (512, 64)) == parse("Sw<3,2,3> o 0 o (512,(32,2)):(32,(1,16384))")


@given(st.sampled_from([0, 32, 64, 128]), st.sampled_from([8, 16, 32]))
@settings(max_examples=30)
def test_a_transposed_tile_swaps_its_dimensions(swizzle: int, bits: int) -> None:
    plain = triton.nvmma_shared(swizzle, bits, (32, 128))
    turned = triton.nvmma_shared(swizzle, bits, (128, 32), True)
    assert all(plain(i, j) == turned(j, i) for i, j in pairs(range(0, 32, 3), range(128)))


@given(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3), st.permutations([0, 1]))
@settings(max_examples=30)
def test_a_swizzle_moves_groups_by_the_phase_of_their_row(v: int, p: int, m: int, order: list[int]) -> None:
    vec, per_phase, max_phase = 1 << v, 1 << p, 1 << m
    shape = (16, 64) if order == [1, 0] else (64, 16)
    layout = triton.swizzled_shared(vec, per_phase, max_phase, order, shape)
    for row, column in pairs(range(16), range(64)):
        group = column // vec ^ row // per_phase % max_phase
        at = (row, column) if order == [1, 0] else (column, row)
        assert layout(at) == row * 64 + group * vec + column % vec


@st.composite
def tilings(draw: st.DrawFn) -> tuple[list[list[int]], list[int], list[int]]:
    counts = [[draw(st.sampled_from([1, 2])) for _ in range(2)] for _ in range(3)]
    repeats = [draw(st.sampled_from([1, 2])) for _ in range(2)]
    return counts, repeats, draw(st.permutations([0, 1]))


def place(index: int, extents: list[int], order: list[int]) -> list[int]:
    at = [0, 0]
    for d in order:
        index, at[d] = divmod(index, extents[d])
    return at


@given(tilings())
@settings(max_examples=30)
def test_a_blocked_layout_tiles_threads_into_warps_and_repeats(case: Any) -> None:
    (threads, lanes, warps), repeats, order = case
    tile = [a * b * c for a, b, c in zip(threads, lanes, warps, strict=True)]
    shape = [t * r for t, r in zip(tile, repeats, strict=True)]
    linear = triton.blocked(threads, lanes, warps, order, shape)
    size = threads[0] * threads[1]
    for point, value in zip(points(linear), values(linear), strict=True):
        r = point["register"]
        lane, warp = place(point["lane"], lanes, order), place(point["warp"], warps, order)
        inner, again = place(r % size, threads, order), place(r // size, repeats, order)
        expected = [inner[d] + threads[d] * (lane[d] + lanes[d] * (warp[d] + warps[d] * again[d])) for d in range(2)]
        assert [value[0], value[1]] == expected


def test_a_tensor_below_the_tile_is_held_by_several_lanes_and_warps() -> None:
    linear = triton.blocked([1, 4], [8, 4], [4, 1], [1, 0], [8, 8])
    assert [linear.size(name) for name in triton.HARDWARE] == [4, 32, 4, 1]
    assert triton.apply(linear, {"register": 3, "lane": 31, "warp": 3, "block": 0}) == {0: 7, 1: 7}
    assert triton.apply(linear, {"register": 0, "lane": 2, "warp": 1, "block": 0}) == {0: 0, 1: 0}


def test_blocks_of_a_cluster_share_the_tensor() -> None:
    linear = triton.blocked([1, 4], [8, 4], [4, 1], [0, 1], [128, 128], [[1, 0], [0, 1]])
    assert triton.apply(linear, {"register": 0, "lane": 0, "warp": 0, "block": 3}) == {0: 64, 1: 64}
    assert linear.size("register") == 32


def test_a_linear_encoding_repeats_in_registers_and_shrinks_by_copies() -> None:
    larger = read(LINEAR, (8, 8))
    assert isinstance(larger, LinearMap)
    assert triton.apply(larger, {"register": 2, "lane": 0, "warp": 0, "block": 0}) == {0: 4, 1: 0}
    smaller = read(LINEAR, (4, 1))
    assert isinstance(smaller, LinearMap)
    assert [smaller.size(name) for name in triton.HARDWARE] == [1, 8, 2, 1]


def test_padding_stands_behind_every_interval() -> None:
    layout = triton.padded_shared([[4, 2], [16, 4]], [[0, 1], [0, 2], [2, 0], [1, 0], [4, 0], [8, 0]], [16, 4])
    for row, column in pairs(range(16), range(4)):
        order = row & ~3 | (row & 1) << 1 | row >> 1 & 1  # rows 1 and 2 change places
        offset = order * 4 + column
        assert layout(row, column) == offset + offset // 4 * 2 + offset // 16 * 4
    assert read(PADDED) == Layout((16, 4), (6, 1)).then(Layout((24, 1), (1, 28)))


def test_shared_bases_are_read_from_coordinates_to_offset() -> None:
    assert read("[[0, 1], [0, 2], [1, 0]]") == Layout((2, 4), (4, 1))
    layout = read("#ttg.shared_linear<{offset = [[0, 1], [0, 2], [1, 1], [2, 2]]}, alignment = 16>")
    assert isinstance(layout, Layout)
    assert layout == Layout((4, 4), (X(5), 1))
    forward = from_bases({"offset": [[0, 1], [0, 2], [1, 1], [2, 2]]}, {0: 4, 1: 4})
    for offset in range(16):
        at = triton.apply(forward, {"offset": offset})
        assert layout(at[0], at[1]) == offset


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: triton.shared_linear([[0, 1], [0, 2], [0, 3]]), "rank 2 has no inverse, see from_bases"),
        (lambda: triton.shared_linear([[0, 1]], (2, 2)), "1 bits to 2 bits"),
        (lambda: triton.swizzled_shared(3, 1, 8, [1, 0], (8, 8)), "3 is not a power of two"),
        (lambda: triton.swizzled_shared(8, 1, 8, [1, 0], (8, 48)), "shape: 48 is not a power of two"),
        (lambda: triton.nvmma_shared(48, 16, (64, 64)), "48 bytes of swizzle"),
        (lambda: triton.nvmma_shared(128, 16, (64, 32)), "no 8 rows of 64 contiguous elements"),
        (lambda: triton.nvmma_shared(128, 16, (4, 64)), "no 8 rows"),
        (lambda: triton.nvmma_shared(64, 16, (64,)), "no 8 rows"),
        (lambda: triton.nvmma_shared(0, 16, (4, 8, 8), True), "2 dimensions"),
        (lambda: triton.blocked([1], [32], [4], [0], (64, 64)), "each of 0..1|expected 2"),
        (lambda: triton.blocked([1, 3], [8, 4], [4, 1], [1, 0], (64, 64)), "register counts: 3"),
        (lambda: triton.distributed_linear({"lanes": [[1]]}), "unknown input lanes"),
        (lambda: triton.distributed_linear({"lane": [[1]]}, (4, 4)), "bases of 1 dimensions"),
        (lambda: triton.padded_shared([[4, 2], [4, 4]], [[1], [2]], (4,)), "each interval stands once"),
    ],
)
def test_encodings_refuse_what_triton_would_not_take(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shape", "expected"),
    [
        (f"!ttg.memdesc<64x64xf16, {SWIZZLED}, #ttg.shared_memory, mutable>", None, (128, 16)),
        (f"!ttg.memdesc<64x64xf16, {NVMMA}, #smem>", None, (128, 16)),
        (f"#s = {NVMMA}\n#smem = #ttg.shared_memory\n!ttg.memdesc<64x64xf16, #s, #smem, mutable>", None, (128, 16)),
        (NVMMA, (64, 64), (128, 16)),
        ("SwizzledSharedLayout(vec=8, per_phase=1, max_phase=8, order=[1, 0])", (64, 64), (128, 16)),
        ("ttgl.NVMMASharedLayout(128, 16, rank=2, transposed=False, cga_layout=[])", [64, 64], (128, 16)),
    ],
)
def test_one_tile_has_many_spellings(text: str, shape: Any, expected: tuple[int, int]) -> None:
    assert read(text, shape) == triton.nvmma_shared(*expected, (64, 64))


def test_distributed_types_and_constructors_say_the_same() -> None:
    expected = triton.blocked([1, 4], [8, 4], [4, 1], [1, 0], (64, 64))
    assert read(f"tensor<64x64xf16, {BLOCKED}>") == expected
    assert read(f"tensor<64x64x!tt.ptr<f16>, {BLOCKED}>") == expected
    assert read("BlockedLayout([1, 4], [8, 4], warps_per_cta=[4, 1], order=[1, 0])", (64, 64)) == expected
    gluon = "DistributedLinearLayout([[0, 1]], [[0, 2], [0, 4], [1, 0]], [[2, 0]], [], shape=[4, 8])"
    assert read(gluon) == read(LINEAR)


def test_buffers_stand_one_behind_the_other() -> None:
    tile = triton.nvmma_shared(128, 16, (64, 128))
    layout = read(f"!ttg.memdesc<3x64x64xf16, {NVMMA}, #smem, mutable, 3x64x128>")
    assert isinstance(layout, Layout)
    assert layout.rank == 3
    assert all(layout(b, i, j) == b * 8192 + tile(i, j) for b, i, j in pairs(range(3), range(0, 64, 5), range(64)))


@given(invertible_maps())
def test_a_memory_layout_is_read_back_as_it_was_written(linear: LinearMap) -> None:
    sizes = [size for _, size in linear.results]
    layout = triton.shared_linear(
        [list(triton.apply(linear, {"offset": 1 << k}).values()) for k in range(f2.width(sizes))], sizes
    )
    assert read(write(layout)) == layout


@given(linear_maps(inputs=triton.HARDWARE[:3], sizes={0: 8, 1: 4}))
def test_a_distributed_layout_is_read_back_as_it_was_written(linear: LinearMap) -> None:
    again = read(write(linear))
    assert again == linear
    assert isinstance(again, LinearMap)
    assert write(again) == write(linear) or not any(any(value.values()) for value in values(linear))


def test_written_text_is_the_one_of_triton() -> None:
    assert write(Layout((2, 4), (4, 1))) == "#ttg.shared_linear<{offset = [[0, 1], [0, 2], [1, 0]]}, alignment = 16>"
    linear = read(LINEAR)
    assert write(linear) == LINEAR
    named = NamedLayout(("lane",), Layout(((2, 2),), ((E(1), E(1) * 2),)))
    assert write(named) == "#ttg.linear<{register = [], lane = [[0, 1], [0, 2]], warp = [], block = []}>"


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout((3, 4), (4, 1)), "extent of mode 0: 3 is not a power of two"),
        (Layout((4, 4), (5, 1)), "padding, a remainder, a carry"),
        (Layout((4, 4), (8, 1)), "padding or gaps"),
        (Layout((4, 4), (0, 1)), "share an offset"),
        (Layout((4, 4), (4, 1), offset=16), "an offset"),
        (Layout((4, 4), (E(0), E(1))), "axes"),
        (Layout(4, 1).then(Table([3, 1, 2, 0])), "a table"),
        (triton.padded_shared([[4, 4]], [[1], [2], [4]], (8,)), "padding"),
        (NamedLayout(("offset",), Layout(((2,),), ((E(0),),))), "not 'offset'"),
    ],
)
def test_writing_names_what_cannot_be_said(layout: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(layout)


HOSTILE = [
    *["", "#", "[", "[[", "[[]]", "[[1", "[[-1]]", "[[1]]]", "tensor", "tensor<", "tensor<64x64xf16>", "BlockedLayout"],
    *["[" * 10**6, "[" * 10**4, "#a = " * 9000, "tensor<" * 9000, "[[0,1" * 9000, "\0" * 60_000, "x" * 60_000],
    *["[[1" + "0" * 40 + "]]", "[[" + "9" * 18 + "]]", "\u0661" * 100, "#ttg." + "é" * 300, LINEAR + " x"],
    *["#ttg.linear<{register = [" + "[1]," * 9000 + "]}>", "".join(f"#a{k} = [[1]] " for k in range(4000)) + "#b"],
    *["#ttg.linear<{register = [3]}>", "#ttg.linear<{lane = [[1], [1, 2]]}>", "#ttg.shared_linear<{offset = 5}>"],
    *[f"tensor<{size}xf16, {BLOCKED}>" for size in ("2x" * 16 + "2", f"{10**18}x2", "64x48", "64")],
    *[f"!ttg.memdesc<{size}xf16, {NVMMA}>" for size in ("0x64x64", "64", f"64x64xf16, {NVMMA}, 32x64>, 64")],
    *["!ttg.memdesc<64x64xf16, #ttg.shared_linear<{offset = 5}>>", "#ttg.nvidia_mma<{versionMajor = 2}>"],
    *[NVMMA, BLOCKED, NVMMA.replace("false", "3"), BLOCKED.replace("order", "sizePerThread")],
    *[SWIZZLED.replace("vec", "vex"), PADDED.replace("4:+2", "4:2"), "BlockedLayout([1],[32],[4],[0],[],3)"],
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_bad_text_is_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(ValueError, match="Triton layout") as caught:
        read(text)
    message = str(caught.value)
    assert len(message) < 300
    assert "\n" not in message


@given(
    st.sampled_from([f"tensor<64x64xf16, {BLOCKED}>", f"!ttg.memdesc<2x64x64xf16, {NVMMA}, #smem>", LINEAR, PADDED]),
    st.integers(0, 130),
    st.integers(0, 4),
    st.text("[]{}<>(),=:+#x019ab ", max_size=4),
)
def test_damaged_text_is_read_or_refused_with_a_value_error(text: str, at: int, cut: int, put: str) -> None:
    message = ""
    try:
        read(text[:at] + put + text[at + cut :])
    except ValueError as error:
        message = str(error)
    assert len(message) < 300


def test_errors_give_the_position_and_the_allowed_names() -> None:
    with pytest.raises(ValueError, match="at position 15: the field order_ is unknown, allowed are order, "):
        read("#ttg.blocked<{ order_ = [1]}>")
    with pytest.raises(ValueError, match=r"at position 0: expected an encoding, such as #ttg\.blocked"):
        read("#ttg.blockd<{}>")
    with pytest.raises(ValueError, match="the field 'max_phase' is missing"):
        read("SwizzledSharedLayout(8, 1, order=[1, 0])", (64, 64))
    with pytest.raises(ValueError, match=r"the type has the shape \[64, 64\]"):
        read(f"tensor<64x64xf16, {BLOCKED}>", (64, 32))


# --- bank conflicts ------------------------------------------------------------------------------------------------


def test_reading_a_column_serialises_a_warp_unless_the_rows_are_swizzled() -> None:
    column = triton.blocked([1, 1], [32, 1], [1, 4], [0, 1], (32, 32))
    plain = Layout((32, 32), (32, 1))
    assert triton.shared_bank_conflicts(column, plain, 32) == 31
    assert triton.shared_bank_conflicts(column, triton.swizzled_shared(1, 1, 32, [1, 0], (32, 32)), 32) == 0
    assert triton.shared_bank_conflicts(column, Layout((32, 32), (1, 32)), 32) == 0


def test_bank_conflicts_need_one_shape_and_linear_layouts() -> None:
    column = triton.blocked([1, 1], [32, 1], [1, 4], [0, 1], (32, 32))
    with pytest.raises(ValueError, match="outside the shape"):
        triton.shared_bank_conflicts(column, Layout((32, 16), (16, 1)), 32)
    with pytest.raises(ValueError, match="not linear over F2"):
        triton.shared_bank_conflicts(column, Layout((32, 32), (33, 1)), 32)
    with pytest.raises(ValueError, match="unknown axis 'lane'"):
        triton.shared_bank_conflicts(from_bases({"register": [[1]]}, {0: 2}), Layout((2,), (1,)), 32)
