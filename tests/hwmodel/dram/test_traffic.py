"""Traffic written down as runs expands to the accesses it says, and runs are found in traces."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.dram.traffic import ACCESSES, FIRST, LENGTH, LONG_RUN, STREAMS, Traffic, gather, streams, trace

Accesses = list[tuple[int, bool]]
Stream = tuple[int, int, bool]  # start, stride, is a write
stream = st.tuples(st.integers(0, 1 << 36), st.integers(-(1 << 20), 1 << 20), st.booleans())


def accesses(traffic: Traffic) -> Accesses:
    addresses, writes = traffic.expand()
    return list(zip(addresses.tolist(), writes.tolist(), strict=True))


def side_by_side(given_streams: list[Stream], length: int) -> Accesses:
    return [(start + j * stride, write) for j in range(length) for start, stride, write in given_streams]


def traced(rows: Accesses) -> Traffic:
    return trace(np.array([a for a, _ in rows], np.int64), np.array([w for _, w in rows], np.bool_))


def shapes(traffic: Traffic) -> list[tuple[int, int, int]]:
    """Return (accesses, streams side by side, length of a run) of every segment."""
    return [tuple(row) for row in traffic.accesses.segments[:, [ACCESSES, STREAMS, LENGTH]].tolist()]


@given(given_streams=st.lists(stream, min_size=1, max_size=5), length=st.integers(1, 50))
def test_streams_side_by_side_take_turns(given_streams: list[Stream], length: int) -> None:
    starts, strides, writes = zip(*given_streams, strict=True)
    assert accesses(streams(starts, strides, writes, length)) == side_by_side(given_streams, length)


@given(
    starts=st.lists(st.integers(0, 1 << 36), min_size=1, max_size=20),
    per_run=st.integers(1, 20),
    size=st.sampled_from([32, 64, 128]),
    is_write=st.booleans(),
)
def test_a_gather_reads_its_runs_one_after_the_other(
    starts: list[int], per_run: int, size: int, is_write: bool
) -> None:
    found = accesses(gather(np.array(starts), per_run * size, is_write, size))
    assert found == [(start + i * size, is_write) for start in starts for i in range(per_run)]


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), streams_each=st.lists(stream, min_size=6, max_size=6)
)
def test_traffic_after_traffic_is_one_after_the_other(lengths: list[int], streams_each: list[Stream]) -> None:
    parts = [streams([a], [s], [w], n) for n, (a, s, w) in zip(lengths, streams_each, strict=False)]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.then(part)
    assert accesses(whole) == list(chain.from_iterable(accesses(part) for part in parts))
    assert whole.count == sum(lengths)
    assert whole.accesses.segments[:, FIRST].tolist() == np.cumsum([0, *lengths[:-1]]).tolist()


piece = st.one_of(
    st.tuples(st.lists(stream, min_size=1, max_size=3), st.sampled_from([1, 2, 700, LONG_RUN - 1, LONG_RUN, 3000])),
    st.tuples(st.lists(stream, min_size=1, max_size=40), st.just(1)),
)


@given(pieces=st.lists(piece, max_size=4))
def test_a_trace_expands_to_itself(pieces: list[tuple[list[Stream], int]]) -> None:
    rows = list(chain.from_iterable(side_by_side(part, length) for part, length in pieces))
    assert accesses(traced(rows)) == rows


@given(
    chosen=st.lists(stream, min_size=1, max_size=3, unique_by=lambda s: s[1]),
    length=st.integers(LONG_RUN, LONG_RUN + 50),
    before=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_long_streams_side_by_side_are_found_as_one_segment(
    chosen: list[Stream], length: int, before: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scattered = [(int(a), False) for a in rng.integers(1 << 40, 1 << 41, 2 * before)]
    rows = [*scattered[:before], *side_by_side(chosen, length), *scattered[before:]]
    found = shapes(traced(rows))
    least = len(chosen) * (length - 2)  # a stream may join what happens to lie on its line
    assert any(accesses >= least and side == len(chosen) for accesses, side, _ in found), found
    assert sum(accesses for accesses, side, run in found if run == 1) <= 2 * before + 2 * len(chosen)


def test_a_single_stream_is_not_taken_for_several_side_by_side() -> None:
    assert shapes(traced(side_by_side([(0, 64, False)], 6 * LONG_RUN))) == [(6 * LONG_RUN, 1, 6 * LONG_RUN)]


@pytest.mark.parametrize("length", [LONG_RUN - 1, LONG_RUN])
def test_a_run_is_long_from_the_named_number_of_accesses_on(length: int) -> None:
    rows = side_by_side([(1 << 30, -128, True)], length)
    expected = (length, 1, length) if length >= LONG_RUN else (length, 1, 1)
    assert shapes(traced(rows)) == [expected]


def test_a_stream_that_turns_from_reading_to_writing_is_two_runs() -> None:
    rows = side_by_side([(0, 64, False)], 3000) + side_by_side([(3000 * 64, 64, True)], 3000)
    traffic = traced(rows)
    assert accesses(traffic) == rows
    assert [accesses for accesses, side, run in shapes(traffic) if run > 1] == [3000, 3000]


def test_an_empty_trace_has_no_accesses() -> None:
    traffic = traced([])
    assert (traffic.count, accesses(traffic)) == (0, [])


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: streams([0], [64, 64], [False], 5), "streams: 1 starts, 2 strides, 1 directions"),
        (lambda: streams([], [], [], 5), "streams: 0 starts"),
        (lambda: gather(np.zeros(1), 96), "gather: runs of 96 B; allowed: multiples of an access of 64 B"),
        (lambda: gather(np.zeros(1), 0), "gather: runs of 0 B"),
        (lambda: gather(np.zeros(1), 64).then(gather(np.zeros(1), 64, access_bytes=32)), "64 B and of 32 B"),
        (lambda: streams([0], [64], [False], -1), "streams: length -1; allowed: 0 or more"),
    ],
)
def test_wrong_traffic_is_refused_with_its_values(call: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        call()


@given(
    pages=st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 40)), max_size=6), scale=st.sampled_from([1, 3, 64])
)
def test_pages_in_order_are_one_run_and_read_as_they_were_given(pages: list[tuple[int, int]], scale: int) -> None:
    numbers = [first + i for first, count in pages for i in range(count * scale)]
    found = gather(np.array(numbers, np.int64) * 4096, 4096)
    assert accesses(found) == [(number * 4096 + i * 64, False) for number in numbers for i in range(64)]


def test_pages_in_order_with_breaks_are_long_runs() -> None:
    tiled = np.tile(np.arange(256), 3) * 4096
    assert shapes(gather(tiled, 4096)) == [(3 * 256 * 64, 1, 256 * 64)]
    broken = np.concatenate([[9], np.arange(100, 164), [7, 3], np.arange(500, 565)]) * 4096
    assert shapes(gather(broken, 4096)) == [(64, 1, 64), (4096, 1, 4096), (128, 1, 64), (4160, 1, 4160)]
