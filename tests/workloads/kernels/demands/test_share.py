from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.kernels.demands.share import Share, share_of
from workloads.schedule import SCHEDULES, schedule


@settings(max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 3))
def test_no_dealing_leaves_the_busiest_core_less(costs: list[int], cores: int) -> None:
    """Against all ways of dealing the items."""
    kinds, items = np.unique(costs, return_counts=True)
    best = min(
        max(sum(cost for cost, mine in zip(costs, dealt, strict=True) if mine == core) for core in range(cores))
        for dealt in product(range(cores), repeat=len(costs))
    )
    least = int(Share(items, cores).busiest(kinds))
    assert max(max(costs), -(-sum(costs) // cores)) <= least <= best


def test_items_that_share_no_core_evenly_meet_on_one() -> None:
    assert int(Share(np.array([5]), 4).busiest(np.array([7]))) == 14
    assert int(Share(np.array([8, 1]), 4).busiest(np.array([7, 1]))) == 15  # beside 2 of the 8 on every core


@pytest.mark.parametrize("how", SCHEDULES)
@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=40), cores=st.integers(1, 6))
def test_a_schedule_has_no_core_busier_than_said(how: str, sizes: list[int], cores: int) -> None:
    (kinds,), share = share_of([np.array(sizes)], np.array(sizes), how, cores)
    order = schedule(how, np.array(sizes), cores)
    busiest = int(share.busiest(kinds))
    if order.dynamic:
        assert busiest <= -(-sum(sizes) // cores) + max(sizes)  # no list schedule takes longer (Graham 1966)
        return
    loads = [sum(sizes[i] for i in order.order[order.start[core] : order.start[core + 1]]) for core in range(cores)]
    assert busiest == max(loads)
