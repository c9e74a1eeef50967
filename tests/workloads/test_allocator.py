from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.allocator import ALLOCATORS, Coloured, FirstFit, FirstRun, FreePages, NewestFirst, OldestFirst

EVERY: dict[str, Callable[[int], FreePages]] = {
    **ALLOCATORS,
    "coloured": lambda pages: Coloured([page * 7 % 5 for page in range(pages)]),
}


@pytest.mark.parametrize("name", EVERY)
@given(st.data())
def test_no_page_has_two_holders_and_none_is_lost(name: str, data: st.DataObject) -> None:
    pool = data.draw(st.integers(1, 30))
    free = EVERY[name](pool)
    held: list[list[int]] = []
    for _ in range(data.draw(st.integers(0, 12))):
        if held and data.draw(st.booleans()):
            back = held.pop(data.draw(st.integers(0, len(held) - 1)))
            free.give(np.array(back, dtype=np.int32))
        else:
            wanted = data.draw(st.integers(0, pool))
            if free.fits(wanted):
                held.append(free.take(wanted).tolist())
            else:
                with pytest.raises(ValueError, match=r"allocator: .*asked for"):
                    free.take(wanted)
        used = [page for pages in held for page in pages]
        assert len(set(used)) == len(used)
        assert all(0 <= page < pool for page in used)
        assert free.count == pool - len(used)
    for pages in held:
        free.give(np.array(pages, dtype=np.int32))
    assert sorted(free.take(pool).tolist()) == list(range(pool))


@pytest.mark.parametrize("name", EVERY)
def test_a_page_cannot_be_given_back_twice(name: str) -> None:
    free = EVERY[name](8)
    pages = free.take(3)
    free.give(pages)
    with pytest.raises(ValueError, match=r"page \d is given back, but is free already"):
        free.give(pages[:1])


def after_two_came_back(free: FreePages) -> list[int]:
    """Take 0-1, 2-3, 4-5 of 8; give back 0-1, then 4-5; take five."""
    first, _, third = (free.take(2) for _ in range(3))
    free.give(first)
    free.give(third)
    return free.take(5).tolist()


def test_first_fit_takes_the_lowest_pages() -> None:
    assert after_two_came_back(FirstFit(8)) == [0, 1, 4, 5, 6]


def test_oldest_first_takes_what_has_been_free_for_longest() -> None:
    assert after_two_came_back(OldestFirst(8)) == [6, 7, 1, 0, 5]


def test_newest_first_takes_what_came_back_last() -> None:
    assert after_two_came_back(NewestFirst(8)) == [4, 5, 0, 1, 6]


def test_a_run_is_not_made_of_pieces() -> None:
    free = FirstRun(8)
    first, _, third = (free.take(2) for _ in range(3))
    free.give(first)
    free.give(third)
    assert free.count == 6
    assert not free.fits(5)
    with pytest.raises(ValueError, match="a run of 5 pages is asked for; 6 are free, in runs of at most 4"):
        free.take(5)
    assert free.take(3).tolist() == [4, 5, 6]
    assert free.take(2).tolist() == [0, 1]


def test_colours_are_dealt_in_a_circle_and_the_fullest_stands_in_for_an_empty_one() -> None:
    free = Coloured([5, 5, 5, 9, 2, 2])
    assert free.colours == 3
    assert free.take(4).tolist() == [4, 0, 3, 5]  # colours 2, 5, 9, 2
    assert free.take_wanted([2]).tolist() == [1]  # colour 9 has none left, colour 5 has two
    assert free.take_wanted([0]).tolist() == [2]
    with pytest.raises(ValueError, match="1 pages are asked for; free of 6: 0"):
        free.take_wanted([0])
