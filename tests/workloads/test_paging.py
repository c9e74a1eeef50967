from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.page_orders import MAX_PAGES, PAGE_ORDERS
from workloads.paging import (
    PageTable,
    contiguous,
    fragmentation,
    page_table,
    pool_pages,
    shuffled,
)
from workloads.prefix import Prefixes

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
        (16, int32(4, 4), int64(0, 1, 2), 5, "page 4 stands in pages more than once; allowed: once, or in `shared`"),
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


@pytest.mark.parametrize(
    ("pages", "first_page", "shared", "message"),
    [
        (int32(4, 1, 4, 2), int64(0, 2, 4), int64(1), r"shared is int64 \(1,\); allowed: int64, per sequence 0 to its"),
        (int32(4, 1, 4, 2), int64(0, 2, 4), int32(1, 1), "shared is int32"),
        (int32(4, 1, 4, 2), int64(0, 2, 4), int64(3, 1), "per sequence 0 to its pages"),
        (int32(4, 1, 4, 2), int64(0, 2, 4), int64(-1, 1), "per sequence 0 to its pages"),
        (int32(4, 1, 4, 2), int64(0, 2, 4), int64(1, 0), "page 4 stands in pages more than once"),
        (int32(4, 1, 4, 2), int64(0, 2, 4), int64(2, 1), "page 1 is said to be shared, but has one owner"),
        (int32(4, 1, 1, 4), int64(0, 2, 4), int64(2, 2), "page 1 has owners with other pages before it"),
        (int32(4, 1, 3, 1), int64(0, 2, 4), int64(2, 2), "page 4 is said to be shared, but has one owner"),
        (int32(4, 1, 3, 1, 4, 3), int64(0, 2, 4, 5, 6), int64(2, 2, 1, 1), "page 1 has owners with other pages before"),
        (int32(4, 4), int64(0, 2), int64(2), "page 4 has owners with other pages before it; they must begin alike"),
    ],
)
def test_sharing_that_is_no_common_beginning_is_refused(pages: Any, first_page: Any, shared: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PageTable(16, pages, first_page, 5, shared)


def test_a_table_with_several_owners_says_so_and_has_them() -> None:
    table = PageTable(16, int32(4, 0, 1, 4, 0, 2, 4, 3), int64(0, 3, 6, 8), 5, int64(2, 2, 1))
    assert table.shared_pages.tolist() == [2, 2, 1]
    assert table.row(1).tolist() == [4, 0, 2]


prompts = st.lists(st.tuples(st.lists(st.integers(0, 1), max_size=4), st.integers(1, 40)), min_size=1, max_size=8)


def batch_of(drawn: list[tuple[list[int], int]], block_tokens: int) -> tuple[list[int], Prefixes]:
    """Contexts and prefixes of sequences with full prompt blocks and some generated tokens."""
    blocks = tuple(tuple(path) for path, _ in drawn)
    prefixes = Prefixes(block_tokens, blocks, tuple(len(path) * block_tokens for path in blocks))
    return [prefixes.tokens[s] + generated for s, (_, generated) in enumerate(drawn)], prefixes


@given(prompts, st.integers(1, 20), st.integers(1, 30), st.sampled_from(PAGE_ORDERS), st.integers(0, 99))
def test_in_every_order_sequences_share_exactly_the_full_pages_of_their_common_prompts(
    drawn: list[tuple[list[int], int]], page_size: int, block_tokens: int, order: str, seed: int
) -> None:
    contexts, prefixes = batch_of(drawn, block_tokens)
    pool = pool_pages(order, contexts, page_size, prefixes)
    table = page_table(
        order, contexts, page_size, np.random.default_rng(seed), prefixes=prefixes, colours=[p % 3 for p in range(pool)]
    )
    assert table.pool_pages == pool
    assert np.diff(table.first_page).tolist() == [-(-context // page_size) for context in contexts]
    for one in range(len(contexts)):
        for other in range(one):
            expected = prefixes.shared_tokens(one, other) // page_size
            assert np.intersect1d(table.row(one), table.row(other)).size == expected
            assert np.array_equal(table.row(one)[:expected], table.row(other)[:expected])


@pytest.mark.parametrize("order", PAGE_ORDERS)
def test_an_order_without_prefixes_shares_nothing_and_depends_on_the_generator_alone(order: str) -> None:
    contexts = [100, 3, 250, 16, 77]
    colours = np.arange(pool_pages(order, contexts, 8)) % 4
    tables = [page_table(order, contexts, 8, np.random.default_rng(seed), colours=colours) for seed in (1, 1)]
    assert not tables[0].shared_pages.any()
    assert len(np.unique(tables[0].pages)) == len(tables[0].pages)
    assert np.array_equal(tables[0].pages, tables[1].pages)


def test_churn_breaks_up_pages_but_less_than_a_shuffle() -> None:
    contexts = [int(length) for length in np.random.default_rng(3).integers(100, 4000, 48)]
    runs = {
        order: fragmentation(page_table(order, contexts, 16, np.random.default_rng(5))).mean_run
        for order in ("contiguous", "first-fit", "oldest-first", "newest-first", "shuffled")
    }
    assert runs["contiguous"] == sum(-(-context // 16) for context in contexts) / 48  # a run per sequence
    assert runs["shuffled"] < 1.05
    for order in ("first-fit", "oldest-first", "newest-first"):
        assert 1.1 < runs[order] < runs["contiguous"] / 5


def test_a_churned_pool_has_free_pages_and_the_others_have_none() -> None:
    contexts = [700] * 10
    assert pool_pages("shuffled", contexts, 10) == pool_pages("coloured", contexts, 10) == 700
    assert pool_pages("first-fit", contexts, 10) == 800


def test_fragmentation_counts_steps_within_sequences_only() -> None:
    table = PageTable(4, int32(5, 6, 7, 1, 8, 9, 3), int64(0, 3, 4, 7), 10)
    # Steps 5-6, 6-7, 8-9, 9-3: three of four go to the next number; runs 5-7, 1, 8-9, 3.
    assert fragmentation(table) == (7 / 4, 3 / 4)
    assert fragmentation(PageTable(4, int32(2), int64(0, 1), 3)) == (1.0, 1.0)
    assert fragmentation(PageTable(4, int32(2, 3), int64(0, 1, 2), 4)) == (1.0, 1.0)


@pytest.mark.parametrize("sequences", [1, 2, 3, 4, 6, 8])
def test_coloured_pages_that_follow_each_other_or_are_read_together_differ_in_colour(sequences: int) -> None:
    colours = np.repeat(np.arange(8), sequences)  # page numbers in order would meet one colour again and again
    table = page_table("coloured", [8 * 16] * sequences, 16, np.random.default_rng(0), colours=colours)
    picked = colours[table.pages].reshape(sequences, 8)
    assert (np.diff(picked, axis=1) != 0).all()
    for position in range(8):
        assert len(set(picked[:, position].tolist())) == sequences


def test_with_enough_pages_of_every_colour_the_wanted_one_is_given() -> None:
    colours = np.repeat(np.arange(4), 40)  # a contiguous table would read one colour after the other
    contexts = [16 * 10] * 16
    table = page_table("coloured", contexts, 16, np.random.default_rng(0), colours=colours)
    picked = colours[table.pages].reshape(16, 10)
    assert (picked[:, 1:] != picked[:, :-1]).all()
    for position in range(10):
        assert np.bincount(picked[:, position], minlength=4).tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize(
    ("order", "colours", "message"),
    [
        ("coloured", None, "the order coloured needs the colours of the pages"),
        ("coloured", [0, 1], "2 colours; allowed: one for each of at least 3 pages"),
        ("shufled", None, "unknown order 'shufled'; known: shuffled, "),
    ],
)
def test_an_order_that_cannot_be_made_is_refused(order: str, colours: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"page table: {message}"):
        page_table(order, [40], 16, np.random.default_rng(0), colours=colours)


def test_prefixes_of_another_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="prefixes of 1 sequences; allowed: 2"):
        page_table("contiguous", [40, 40], 16, np.random.default_rng(0), prefixes=Prefixes(4, ((),), (0,)))
