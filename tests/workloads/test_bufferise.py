from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads import packing
from workloads.bufferise import Allocation, Request, bufferise

ROW = 128
PROMISE = 0.05  # above the lower bound, at alignments of one row
MANY = 10_000  # programs of the nightly run
Sizes = st.one_of(
    st.integers(1, 200 * ROW),
    st.integers(0, 8).map(lambda power: ROW << power),
    st.sampled_from([3, 5, 8, 13]).map(lambda rows: rows * ROW),
)


@st.composite
def programs(draw: st.DrawFn, most: int = 40, alignments: tuple[int, ...] = (1,)) -> list[Request]:
    """Up to `most` requests, in use for spans of up to 30 steps: some short, some long, some from end to end."""
    steps = draw(st.integers(1, 30))
    longest = draw(st.sampled_from([1, 4, steps]))
    requests = []
    for number in range(draw(st.integers(1, most))):
        first = draw(st.integers(0, steps - 1))
        last = min(steps - 1, first + draw(st.integers(0, longest - 1)))
        size, slots = draw(Sizes), draw(st.sampled_from([1, 1, 1, 2, 4]))
        requests.append(Request(f"r{number}", size, slots, draw(st.sampled_from(alignments)), first, last))
    return requests


def check(requests: list[Request], found: Allocation) -> None:
    """Compare with the definition: blocks begin where they may, and no two of one step have a row in common."""
    blocks = []
    for request, placed in zip(requests, found.placed, strict=True):
        assert placed.request == request
        for slot in range(request.slots):
            start = placed.address + slot * placed.pitch_bytes
            assert start % (request.alignment * ROW) == 0
            last_row = (start + request.size_bytes - 1) // ROW
            blocks.append((start // ROW, last_row, request.first, request.last))
    low, high, first, last = np.array(blocks).T
    rows = (low[:, None] <= high) & (low <= high[:, None])
    steps = (first[:, None] <= last) & (first <= last[:, None])
    assert (rows & steps).sum() == len(blocks)  # each meets itself alone
    assert found.high_water_bytes == (high.max() + 1) * ROW
    assert found.live_bytes <= found.bound_bytes <= found.high_water_bytes


def check_promise(requests: list[Request]) -> None:
    found = bufferise(requests, ROW)
    check(requests, found)
    assert found.high_water_bytes <= (1 + PROMISE) * found.bound_bytes
    assert found == bufferise(requests, ROW)


@settings(max_examples=40)
@given(programs())
def test_blocks_in_use_together_lie_apart_and_within_five_per_cent_of_the_bound(requests: list[Request]) -> None:
    check_promise(requests)


@pytest.mark.nightly
@settings(max_examples=MANY)
@given(programs())
def test_many_programs_come_within_five_per_cent_of_the_bound(requests: list[Request]) -> None:
    check_promise(requests)


@settings(max_examples=40)
@given(programs(most=20, alignments=(1, 1, 2, 8)))
def test_blocks_start_where_their_alignment_says(requests: list[Request]) -> None:
    check(requests, bufferise(requests, ROW))


def least_height(requests: list[Request]) -> int:
    """Return the least height of any placement: first fit in every order finds it."""
    items = [(-(-r.size_bytes // ROW), r.alignment, r.first, r.last) for r in requests]
    best = -1
    for order in permutations(range(len(items))):
        starts: dict[int, int] = {}
        for i in order:
            rows, alignment, first, last = items[i]
            start = 0
            while any(
                start < starts[j] + items[j][0]
                and starts[j] < start + rows
                and first <= items[j][3]
                and items[j][2] <= last
                for j in starts
            ):
                start += alignment
            starts[i] = start
        height = max(start + items[i][0] for i, start in starts.items())
        best = height if best < 0 else min(best, height)
    return best


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from([1, 1, 2, 4]), st.integers(0, 5), st.integers(0, 3)),
        min_size=1,
        max_size=6,
    )
)
def test_a_few_blocks_are_placed_as_low_as_any_order_places_them(drawn: list[tuple[int, int, int, int]]) -> None:
    requests = [Request(f"r{i}", rows * ROW, 1, a, first, first + n) for i, (rows, a, first, n) in enumerate(drawn)]
    found = bufferise(requests, ROW)
    least = least_height(requests) * ROW
    assert found.high_water_bytes == least
    assert found.bound_bytes <= least


def test_a_search_proves_what_is_in_use_at_once_cannot_show() -> None:
    """At step 4 four blocks of 2, 3, 2 and 1 rows fit 8 rows, at any other step too, but not all in one placement."""
    sizes = ((2, 2, 4, 5), (3, 2, 2, 4), (2, 1, 4, 5), (1, 2, 3, 5))
    requests = [Request(f"r{i}", rows * ROW, 1, a, first, last) for i, (rows, a, first, last) in enumerate(sizes)]
    found = bufferise(requests, ROW)
    assert (found.live_bytes, found.bound_bytes, found.proof) == (8 * ROW, 9 * ROW, "search")
    assert least_height(requests) == 9


def test_blocks_that_are_never_in_use_together_share_their_bytes() -> None:
    found = bufferise([Request("a", 1000, 2, first=0, last=3), Request("b", 2000, first=4, last=5)], ROW)
    assert [placed.address for placed in found.placed] == [0, 0]
    assert (found.high_water_bytes, found.live_bytes, found.fragmentation) == (2048, 2048, 0.0)


def test_the_gap_that_one_block_leaves_is_fragmentation() -> None:
    requests = [Request("a", ROW, alignment=4), Request("b", ROW, alignment=4)]
    found = bufferise(requests, ROW)
    assert (found.high_water_bytes, found.live_bytes, found.bound_bytes) == (5 * ROW, 2 * ROW, 5 * ROW)
    assert found.fragmentation == pytest.approx(3 / 5)


def test_the_map_reads_from_the_lowest_address_up() -> None:
    found = bufferise([Request("k", 1000, 2, first=0, last=3), Request("out", 100, first=3, last=4)], ROW)
    assert found.text(4096).splitlines() == [
        "         0 to 2048       k: 2 x 1000 B every 1024, steps 0 to 3",
        "      2048 to 2176       out: 1 x 100 B every 128, steps 3 to 4",
        "high-water mark 2176 B, 1920 B of 4096 free; at least 2176 B (in use at once); fragmentation 0.0 %",
    ]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"size_bytes": 0}, "request x: size_bytes is 0; allowed: from 1"),
        ({"size_bytes": 8, "slots": 0}, "request x: slots is 0; allowed: from 1"),
        ({"size_bytes": 8, "alignment": 3}, "request x: alignment is 3 rows; allowed: powers of two"),
        ({"size_bytes": 8, "first": 2, "last": 1}, "request x: in use from step 2 to 1; allowed: a last step"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(request_: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Request("x", **request_)


def test_the_bound_counts_padding_between_aligned_items_but_not_behind_the_last() -> None:
    items = [packing.Item(3, 4, 0, 0), packing.Item(3, 4, 0, 0), packing.Item(1, 1, 0, 0)]
    assert packing.lower_bound(items) == 7
    assert packing.pack(items).bound == 7
    assert packing.live_rows(items) == 7
