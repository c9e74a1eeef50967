from __future__ import annotations

import numpy as np

from workloads.allocator import FirstFit
from workloads.prefix_cache import ROOT, PrefixCache


def path_of(cache: PrefixCache, *blocks: int) -> list[int]:
    """Compute blocks of two pages each that are not there yet; return their nodes, each with one owner."""
    path: list[int] = []
    for block in blocks:
        node = cache.insert(path[-1] if path else ROOT, block, cache.take(2))
        assert node is not None
        path.append(node)
    return path


def test_blocks_without_owners_stay_until_pages_are_short_and_the_last_of_a_prompt_goes_first() -> None:
    cache = PrefixCache(FirstFit(6))
    path = path_of(cache, 7, 8)
    cache.disown(path)
    assert cache.available == 6
    assert cache.take(2).tolist() == [4, 5]
    assert cache.match([7, 8]) == path
    assert cache.take(1).tolist() == [2]
    assert cache.match([7, 8]) == path[:1]
    assert cache.available == 3


def test_what_was_used_last_goes_last() -> None:
    cache = PrefixCache(FirstFit(4))
    first, second = path_of(cache, 1), path_of(cache, 2)
    cache.disown(first)
    cache.disown(second)
    cache.own(first)
    cache.disown(first)
    cache.take(1)
    assert cache.match([1]) == first
    assert cache.match([2]) == []


def test_a_block_with_an_owner_is_not_available() -> None:
    cache = PrefixCache(FirstFit(4))
    path = path_of(cache, 1)
    cache.own(path)
    cache.disown(path)
    assert cache.available == 2
    assert cache.unowned_pages(path) == 0
    cache.disown(path)
    assert (cache.available, cache.unowned_pages(path)) == (4, 2)
    assert cache.pages(path) == [0, 1]


def test_a_block_that_is_there_is_not_made_again() -> None:
    cache = PrefixCache(FirstFit(4))
    path_of(cache, 1)
    pages = cache.take(2)
    assert cache.insert(ROOT, 1, pages) is None
    cache.give(np.array(pages))
    assert cache.available == 2
