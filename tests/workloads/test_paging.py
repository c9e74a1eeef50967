from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.paging import MAX_PAGES, PageTable, contiguous, shuffled

contexts_strategy = st.lists(st.integers(1, 300), min_size=1, max_size=12)
page_sizes = st.integers(1, 400)


def int32(*values: int) -> Any:
    return np.array(values, dtype=np.int32)


def int64(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


@given(contexts_strategy, page_sizes, st.integers(0, 2**32 - 1))
def test_every_token_has_one_slot_and_no_page_is_spare(contexts: list[int], page_size: int, seed: int) -> None:
    for table in (
        contiguous(contexts, page_size),
        shuffled(contexts, page_size, np.random.default_rng(seed)),
    ):
        assert len(table.first_page) == len(contexts) + 1
        owners = set()
        for sequence, context in enumerate(contexts):
            pages = table.pages[table.first_page[sequence] : table.first_page[sequence + 1]]
            slots = {(int(pages[token // page_size]), token % page_size) for token in range(context)}
            assert len(slots) == context
            assert {page for page, _ in slots} == set(pages.tolist())
            assert owners.isdisjoint(pages.tolist())
            owners |= set(pages.tolist())
        assert owners == set(range(table.pool_pages))


@given(contexts_strategy, page_sizes)
def test_contiguous_pages_lie_in_the_order_of_sequences_and_tokens(contexts: list[int], page_size: int) -> None:
    order = contiguous(contexts, page_size).pages.tolist()
    assert all(after == before + 1 for before, after in pairwise(order))
    assert order[0] == 0


@given(contexts_strategy, page_sizes, st.integers(0, 2**32 - 1))
def test_shuffling_moves_pages_but_not_the_rows(contexts: list[int], page_size: int, seed: int) -> None:
    ordered = contiguous(contexts, page_size)
    moved, again = (shuffled(contexts, page_size, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(moved.first_page, ordered.first_page)
    assert moved.pool_pages == ordered.pool_pages
    assert np.array_equal(moved.pages, again.pages)


def test_every_permutation_of_a_small_pool_is_equally_likely() -> None:
    rng = np.random.default_rng(2)
    seen: dict[tuple[int, ...], int] = {}
    for _ in range(6000):
        order = tuple(shuffled([1, 2], 1, rng).pages.tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 6
    assert all(850 < count < 1150 for count in seen.values())  # 1,000 expected, standard deviation 29


def test_a_sequence_that_fills_its_last_page_takes_no_further_page() -> None:
    assert contiguous([16, 17, 15], 16).first_page.tolist() == [0, 1, 3, 4]


def test_a_page_larger_than_any_sequence_is_allowed() -> None:
    assert contiguous([3, 1], 10**12).pages.tolist() == [0, 1]


def test_arrays_are_read_only_copies() -> None:
    mine = int32(1, 0)
    table = PageTable(4, mine, int64(0, 2), 2)
    mine[0] = 0
    assert table.pages.tolist() == [1, 0]
    assert (table.pages.dtype, table.first_page.dtype) == (np.int32, np.int64)
    with pytest.raises(ValueError, match="read-only"):
        table.pages[0] = 0


def test_a_pool_may_be_larger_than_the_table() -> None:
    assert PageTable(4, int32(9, 3), int64(0, 1, 2), 10).pages.tolist() == [9, 3]


@pytest.mark.parametrize(
    ("page_size", "pages", "first_page", "pool_pages", "message"),
    [
        (0, int32(0), int64(0, 1), 1, "page_size is 0; allowed: an integer from 1"),
        (-16, int32(0), int64(0, 1), 1, "page_size is -16"),
        (16.0, int32(0), int64(0, 1), 1, "page_size is 16.0"),
        (16, int32(0), int64(0, 1), 0, "pool_pages is 0"),
        (16, int32(0), int64(0, 1), MAX_PAGES + 1, "pool_pages is 268435457"),
        (16, int64(0), int64(0, 1), 1, r"pages is int64 \(1,\); allowed: one axis of int32"),
        (16, int32(0), int32(0, 1), 1, r"first_page is int32 \(2,\); allowed: one axis of int64"),
        (16, int32(0).reshape(1, 1), int64(0, 1), 1, r"pages is int32 \(1, 1\)"),
        (16, int32(0, 1), int64(0, 1), 2, r"first_page has ends \[0, 1\]; allowed: 0 and 2"),
        (16, int32(0), int64(1, 1), 1, r"first_page has ends \[1, 1\]"),
        (16, int32(), int64(0), 1, r"first_page has ends \[0, 0\]"),
        (16, int32(), int64(), 1, r"first_page has ends \[\]"),
        (16, int32(0, 1), int64(0, 1, 1, 2), 2, r"first_page of sequence 1 and the next are \[1, 1\]"),
        (16, int32(0, 1), int64(0, 3, 2), 4, r"first_page of sequence 1 and the next are \[3, 2\]"),
        (16, int32(0, 2), int64(0, 2), 2, r"pages\[1\] is 2; allowed: 0 to 1"),
        (16, int32(0, -1), int64(0, 2), 2, r"pages\[1\] is -1; allowed: 0 to 1"),
        (16, int32(4, 1, 1), int64(0, 2, 3), 5, "page 1 stands in pages more than once"),
    ],
)
def test_a_table_that_is_no_table_is_refused(
    page_size: Any, pages: Any, first_page: Any, pool_pages: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PageTable(page_size, pages, first_page, pool_pages)


@pytest.mark.parametrize(
    ("contexts", "page_size", "message"),
    [
        ([], 16, "sequences is 0"),
        ([5, 0], 16, "sequence 1: context is 0"),
        ([5], 0, "page_size is 0"),
        ([5], True, "page_size is True"),
        ([10**7] * 27, 1, "the number of pages is 270000000; allowed: an integer from 1 to 268435456"),
    ],
)
def test_lengths_and_page_sizes_out_of_range_are_refused(contexts: list[int], page_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contiguous(contexts, page_size)
    with pytest.raises(ValueError, match=message):
        shuffled(contexts, page_size, np.random.default_rng(0))
