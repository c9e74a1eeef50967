"""Injectivity and overlap against sets of values."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from layouts import E, Layout, Table, X, parse, swizzle
from layouts.analysis.buffer import Buffer
from layouts.analysis.overlap import overlap
from layouts.injective import is_injective

STRIDED = st.lists(st.tuples(st.integers(1, 5), st.integers(-12, 40)), min_size=1, max_size=4).map(
    lambda modes: Layout(tuple(s for s, _ in modes), tuple(d for _, d in modes))
)
XORED = st.lists(st.integers(0, 63), min_size=1, max_size=5).map(
    lambda bits: Layout((2,) * len(bits), tuple(map(X, bits)))
)
TABLES = st.lists(st.integers(0, 60), min_size=1, max_size=8).map(lambda v: Layout(len(v)).then(Table(v)))
PADDED = st.builds(
    lambda layout, interval, pad: layout.then(Layout((interval, 1), (1, interval + pad))),
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 20)), min_size=1, max_size=3).map(
        lambda modes: Layout(tuple(s for s, _ in modes), tuple(d for _, d in modes))
    ),
    st.integers(1, 8),
    st.integers(0, 3),
)
ANY = st.one_of(STRIDED, XORED, TABLES, PADDED, PADDED.map(lambda layout: layout.then(swizzle(2, 0, 3))))
COORDINATES = st.one_of(
    st.lists(st.tuples(st.integers(1, 4), st.integers(-4, 8), st.integers(-4, 8)), min_size=1, max_size=4).map(
        lambda m: Layout(tuple(s for s, _, _ in m), tuple(E(0) * a + E("lane") * b for _, a, b in m), E(0) + E("lane"))
    ),
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=6).map(
        lambda m: Layout((2,) * len(m), tuple(E(0) * X(a) + E(1) * X(b) for a, b in m))
    ),
)


def bytes_of(buffer):
    return {
        buffer.base + buffer.element_bytes * offset + k
        for offset in buffer.layout.table().tolist()
        for k in range(buffer.element_bytes)
    }


@given(ANY)
def test_injective_means_no_two_indices_share_an_offset(layout):
    assert is_injective(layout) == (len(set(layout.table().tolist())) == layout.size)


@given(COORDINATES)
def test_injective_along_axes_means_no_two_indices_share_all_coordinates(layout):
    if layout.axes is None:
        return
    values = [layout(i) for i in range(layout.size)]
    seen = {tuple(sorted(v.items(), key=str)) if isinstance(v, dict) else v for v in values}
    assert is_injective(layout) == (len(seen) == layout.size)


def test_injectivity_of_large_layouts_needs_no_table():
    assert is_injective(parse("S<3,3,3> o 0 o (1073741824,64):(64,1)"))
    assert is_injective(Layout((2**20, 2**20)).then(Layout((64, 1), (1, 72))))
    assert not is_injective(Layout((2**20, 2**20)).then(Layout((64, 1), (1, 0))))
    assert is_injective(Layout((2**20, 2**20), (E(0), E(1))))
    assert is_injective(Layout((2**20, 2**20), (E("lane") * X(1), E("bank") * X(1))))
    assert not is_injective(Layout((2**20, 2**20), (E("lane"), E("lane") * 3 + E("bank") * 0)))
    with pytest.raises(ValueError, match="too many to look at"):
        is_injective(Layout((2**13, 2**12), (4096, 1)).then(Layout((72, 1), (1, 80)), swizzle(3, 3, 3)))


@given(ANY, ANY, st.integers(1, 4), st.integers(1, 4), st.integers(-150, 150))
@example(Layout(4, 4), Layout(4, 4), 2, 2, 2)
def test_buffers_overlap_where_their_bytes_meet(a, b, bytes_a, bytes_b, base):
    first, second = Buffer(a, bytes_a, 7), Buffer(b, bytes_b, base)
    expected = bool(bytes_of(first) & bytes_of(second))
    assert overlap(first, second) == overlap(second, first) == expected


@given(XORED, XORED, st.integers(0, 63))
def test_xor_buffers_overlap_where_their_difference_is_in_the_span(a, b, base):
    first, second = Buffer(a, 2), Buffer(b, 4, base * 4)
    assert overlap(first, second) == bool(bytes_of(first) & bytes_of(second))


def test_interleaved_buffers_need_no_table():
    even, odd = Buffer(Layout(2**40, 2), 4), Buffer(Layout(2**40, 2), 4, 4)
    assert not overlap(even, odd)
    assert overlap(even, Buffer(Layout(2**40, 3), 4, 4))
    # Keys of 128 bf16 and their scale of 4 bytes, side by side in records of 260 bytes.
    keys, scales = Buffer(Layout((128, 2**30), (1, 130)), 2), Buffer(Layout(2**30, 65), 4, 256)
    assert not overlap(keys, scales)
    assert overlap(keys, Buffer(Layout(2**30, 65), 8, 256))
    nested = Layout((2**10, 2**10, 2**10), (6, 6 * 2**11, 6 * 2**22))
    assert not overlap(Buffer(nested, 1), Buffer(nested, 1, 3))
    assert overlap(Buffer(nested, 1), Buffer(nested, 1, 6 * (1 + 2**11 + 5 * 2**22)))


def test_what_no_bound_decides_is_refused():
    odd = Layout((2**13, 2**12), (4096, 1)).then(Layout((72, 1), (1, 80)), swizzle(3, 3, 3))
    with pytest.raises(ValueError, match="too many to look at"):
        overlap(Buffer(odd, 1), Buffer(odd, 1, 2))
