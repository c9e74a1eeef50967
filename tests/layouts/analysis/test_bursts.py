"""Runs, alignment and touched granules against sets of bytes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts import E, Layout, Table, X, parse, swizzle
from layouts.analysis.buffer import MAX_RUNS, Buffer, cyclic_sums, intervals
from layouts.analysis.bursts import Runs, affine_gcd, contiguous_runs, touched

STRIDED = st.lists(st.tuples(st.integers(1, 5), st.integers(-12, 40)), min_size=1, max_size=4).map(
    lambda modes: Layout(tuple(s for s, _ in modes), tuple(d for _, d in modes))
)
XORED = st.lists(st.integers(0, 63), min_size=1, max_size=6).map(
    lambda bits: Layout((2,) * len(bits), tuple(map(X, bits)))
)
TABLES = st.lists(st.integers(0, 20), min_size=1, max_size=24).map(lambda v: Layout(len(v)).then(Table(v)))
SMALL = st.one_of(STRIDED, XORED, TABLES)
WITH_RUNS = st.builds(
    lambda run, rest, start: Layout((run, *rest.shape), (1, *rest.stride), start),
    st.integers(1, 6),
    STRIDED,
    st.integers(-9, 30),
)


def bytes_by_hand(buffer):
    return {
        buffer.base + buffer.element_bytes * offset + k
        for offset in buffer.layout.table().tolist()
        for k in range(buffer.element_bytes)
    }


def runs_by_hand(values):
    size = len(values)
    length = max(
        n
        for n in range(1, size + 1)
        if size % n == 0 and all(values[i] == values[i - i % n] + i % n for i in range(size))
    )
    return Runs(length, size // length, math.gcd(*values[::length]))


@given(st.one_of(SMALL, WITH_RUNS))
def test_runs_are_the_longest_equal_blocks_that_count_up(layout):
    assert contiguous_runs(layout) == runs_by_hand(layout.table().tolist())


@given(st.integers(0, 63), st.lists(st.integers(0, 63), min_size=1, max_size=6))
def test_runs_of_xor_layouts_with_a_constant(zero, bits):
    layout = Layout((2,) * len(bits) + (2,), (*map(X, bits), X(zero))).then(Layout(1, 1))
    half = Layout((2,) * len(bits), tuple(map(X, bits)))
    values = [zero ^ value for value in half.table().tolist()]
    table = Layout(len(values)).then(Table(values))
    assert contiguous_runs(table) == runs_by_hand(values)
    assert contiguous_runs(layout) == runs_by_hand(layout.table().tolist())


@given(st.integers(0, 255), st.lists(st.integers(0, 255), max_size=6))
def test_the_divisor_of_an_affine_space_is_that_of_its_numbers(zero, bits):
    values = [zero]
    for bit in bits:
        values += [value ^ bit for value in values]
    assert affine_gcd(zero, tuple(bits)) == math.gcd(*values)


def test_runs_of_known_layouts():
    assert contiguous_runs(Layout(128)) == Runs(128, 1, 0)
    assert contiguous_runs(Layout((64, 128), (1, 72))) == Runs(64, 128, 72)
    assert contiguous_runs(parse("S<3,3,3> o 0 o (64,128):(1,64)")) == Runs(8, 1024, 8)
    assert contiguous_runs(Layout((64, 128), (128, 1))) == Runs(1, 8192, 1)
    assert contiguous_runs(Layout((64, 128), (128, 1)).then(Layout(1, 4))) == Runs(1, 8192, 4)
    assert contiguous_runs(Layout((2**40, 2**20), (1, 2**41))) == Runs(2**40, 2**20, 2**41)


@given(SMALL, st.integers(1, 5), st.integers(-20, 40), st.integers(1, 20))
def test_touched_granules_are_those_of_the_bytes(layout, element_bytes, base, granule):
    buffer = Buffer(layout, element_bytes, base)
    bytes_ = bytes_by_hand(buffer)
    found = touched(buffer, granule)
    assert found.useful_bytes == len(bytes_)
    assert found.granules == len({byte // granule for byte in bytes_})
    assert found.fetched_bytes == found.granules * granule
    assert found.over_fetch == found.fetched_bytes / len(bytes_) >= 1


@given(XORED, st.integers(0, 3), st.integers(0, 63), st.integers(0, 6))
def test_touched_granules_of_xor_layouts_are_a_rank(layout, element, base, granule):
    buffer = Buffer(layout, 1 << element, base << element)
    found = touched(buffer, 1 << granule)
    assert found.granules == len({byte >> granule for byte in bytes_by_hand(buffer)})
    if base == 0:
        assert found.form == "rank"


def test_a_tile_of_rows_fetches_the_ends_of_its_bursts():
    # 3 rows of 40 bytes, 100 bytes apart: bytes 8..47, 108..147 and 208..247, in bursts of 32.
    rows = Buffer(Layout((40, 3), (1, 100)), 1, 8)
    assert touched(rows, 32).granules == 2 + 2 + 2
    assert touched(rows, 32).over_fetch == 192 / 120
    assert touched(Buffer(Layout((16, 2), (1, 24)), 1), 32).granules == 2  # both rows reach the burst 0


def test_a_part_of_a_tensor_is_a_tile():
    tensor = Buffer(Layout((128, 64), (64, 1)), 2)
    columns = tensor.tile(Layout((128, 8), (1, 128)))
    rows = tensor.tile(Layout((8, 64), (E(0), E(1))))
    assert (touched(columns, 64).granules, touched(columns, 64).over_fetch) == (128, 4)
    assert (touched(rows, 64).granules, touched(rows, 64).over_fetch) == (16, 1)
    assert touched(tensor, 1024).granules == 16
    with pytest.raises(ValueError, match=r"coordinate 0: reaches 128, allowed are 0\.\.127"):
        tensor.tile(Layout((129, 64), (E(0), E(1))))


def test_large_buffers_need_no_table():
    cache = Buffer(Layout((128, 2**20, 80), (1, 144, 2**31)), 2, 16)
    found = touched(cache, 32)
    assert found.form == "residues"
    assert found.useful_bytes == 2**20 * 80 * 256
    # rows of 256 bytes every 288 from byte 16 on: half a burst at each end, none shared.
    assert found.granules == 2**20 * 80 * 9
    with pytest.raises(ValueError, match="too many to look at"):
        touched(Buffer(Layout((2**13, 2**12), (2, 3)), 2), 32)
    assert MAX_RUNS < 2**25


def test_a_swizzle_within_a_burst_touches_nothing_more():
    tile = Buffer(Layout((64, 64), (1, 64)).then(swizzle(3, 3, 3)), 2)
    assert touched(tile, 128).granules == 64
    assert touched(tile.tile(Layout((8, 64), (1, 64))), 32).granules == 64


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: touched(Buffer(Layout(4), 2), 0), r"granule_bytes is 0, allowed are 1\.\."),
        (lambda: Buffer(Layout(4), 0), r"element_bytes is 0, allowed are 1\.\."),
        (lambda: Buffer(Layout(4, E(0)), 2), "needs one offset"),
        (lambda: contiguous_runs(Layout(4, E(0))), "ask for the runs along one of them"),
        (lambda: Buffer(Layout(4), 2).tile(Layout(5)), r"reaches 4, allowed are 0\.\.3"),
    ],
)
def test_a_wrong_question_is_an_error_of_one_line(action, message):
    with pytest.raises(ValueError, match=message) as caught:
        action()
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(-30, 30), st.integers(0, 40))
def test_cyclic_sums_add_up_steps_around_the_ring(values, step, count):
    n = len(values)
    expected = [sum(values[(r + x * step) % n] for x in range(count)) for r in range(n)]
    assert cyclic_sums(np.array(values), step, count).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), min_size=1, max_size=8))
def test_intervals_are_disjoint_and_cover_the_same_numbers(pairs):
    first = np.array([a for a, _ in pairs])
    low, high = intervals(first, first + np.array([n for _, n in pairs]))
    covered = [x for a, b in zip(low.tolist(), high.tolist(), strict=True) for x in range(a, b)]
    assert covered == sorted({a + k for a, n in pairs for k in range(n)})
    assert all(b < a for b, a in zip(high.tolist(), low.tolist()[1:], strict=False))
