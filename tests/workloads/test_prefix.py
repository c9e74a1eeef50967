from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.prefix import Prefixes, groups
from workloads.traces import RequestTable

prompts = st.lists(st.lists(st.integers(0, 2), max_size=4), min_size=1, max_size=6)


def whole(*blocks: list[int], block_tokens: int = 10) -> Prefixes:
    """Prompts that fill all their blocks."""
    rows = tuple(map(tuple, blocks))
    return Prefixes(block_tokens, rows, tuple(len(row) * block_tokens for row in rows))


def partitions(count: int) -> list[list[list[int]]]:
    """Every way to put sequences into groups."""
    labels = {
        tuple(dict(zip(dict.fromkeys(p), range(count), strict=False))[x] for x in p)
        for p in product(range(count), repeat=count)
    }
    return [[[s for s in range(count) if p[s] == label] for label in set(p)] for p in labels]


def test_two_prompts_share_their_leading_blocks_and_no_more_than_either_has() -> None:
    prefixes = Prefixes(10, ((1, 2, 3), (1, 2, 4), (1, 2), (2,), ()), (25, 30, 13, 10, 0))
    assert prefixes.shared_tokens(0, 1) == 20
    assert prefixes.shared_tokens(0, 2) == 13
    assert prefixes.shared_tokens(0, 3) == prefixes.shared_tokens(0, 4) == 0
    assert prefixes.shared_tokens(0, 0) == 25


def test_equal_blocks_after_different_ones_are_not_shared() -> None:
    prefixes = whole([1, 5, 6], [2, 5, 6])
    assert prefixes.shared_tokens(0, 1) == 0
    assert not set(prefixes.paths()[0].tolist()) & set(prefixes.paths()[1].tolist())


def test_a_group_reads_its_common_start_once() -> None:
    found = groups(whole([0, 1, 2], [0, 1, 3], [0, 7], [5]))
    assert found == ((20, (0, 1)), (0, (2,)), (0, (3,)))
    assert groups(whole([0, 1], [0, 2], [0, 3])) == ((10, (0, 1, 2)),)


def test_a_page_of_the_common_start_is_shared_only_if_it_is_full() -> None:
    prefixes = whole([0, 1], [0, 1])
    assert groups(prefixes, granule=16) == ((16, (0, 1)),)
    assert groups(prefixes, granule=21) == ((0, (0,)), (0, (1,)))
    assert groups(prefixes, granule=4, most_tokens=(15, 40)) == ((12, (0, 1)),)


@given(prompts)
def test_every_sequence_is_in_one_group_and_shares_what_the_group_shares(blocks: list[list[int]]) -> None:
    prefixes = whole(*blocks)
    found = groups(prefixes)
    assert sorted(member for group in found for member in group.members) == list(range(len(blocks)))
    for shared, members in found:
        pairs = [prefixes.shared_tokens(members[0], member) for member in members]
        assert all(pair >= shared for pair in pairs)
        assert shared or len(members) == 1


@given(st.lists(st.lists(st.integers(0, 1), max_size=3), min_size=1, max_size=5))
def test_no_other_grouping_saves_more(blocks: list[list[int]]) -> None:
    prefixes = whole(*blocks)
    saved = sum(shared * (len(members) - 1) for shared, members in groups(prefixes))
    best = 0
    for partition in partitions(len(blocks)):
        best = max(
            best,
            sum(min(prefixes.shared_tokens(g[0], s) for s in g) * (len(g) - 1) for g in partition),
        )
    assert saved == best


@pytest.mark.parametrize(
    ("size", "blocks", "tokens", "message"),
    [
        (0, ((1,),), (1,), "block_tokens is 0"),
        (4, ((1,),), (1, 1), "blocks of 1 sequences, tokens of 2"),
        (4, ((1,), (1,)), (4, 5), "sequence 1 has 1 blocks; allowed: 2 for its 5 prompt tokens"),
        (4, ((1,),), (-1,), "sequence 0 has 1 blocks; allowed: 0 for its -1"),
    ],
)
def test_prefixes_that_are_none_are_refused(
    size: int, blocks: tuple[tuple[int, ...], ...], tokens: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Prefixes(size, blocks, tokens)


def test_a_trace_without_blocks_has_no_prefixes() -> None:
    with pytest.raises(ValueError, match="by hand: does not tell the blocks of its prompts"):
        Prefixes.of(RequestTable("by hand", [0], [5], [2]), [0])  # type: ignore[arg-type]


def test_groups_of_no_page_size_are_refused() -> None:
    with pytest.raises(ValueError, match="granule is 0; allowed: an integer of at least 1"):
        groups(whole([1]), granule=0)
