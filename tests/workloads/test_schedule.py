from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.program import task_lists
from workloads.schedule import SCHEDULES, beside, schedule

Costs = st.lists(st.integers(1, 1000), min_size=1, max_size=60)


def loads(name: str, costs: list[int], cores: int) -> list[int]:
    return [sum(costs[task] for task in share) for share in task_lists(schedule(name, np.array(costs), cores), cores)]


@given(Costs, st.integers(1, 70), st.sampled_from(SCHEDULES))
def test_every_task_is_scheduled_once(costs: list[int], cores: int, name: str) -> None:
    result = schedule(name, np.array(costs), cores)
    assert sorted(result.order.tolist()) == list(range(len(costs)))
    assert result.dynamic == (name == "dynamic")
    if not result.dynamic:
        assert len(result.start) == cores + 1
        assert sorted(task for share in task_lists(result, cores) for task in share) == list(range(len(costs)))


@given(Costs, st.integers(1, 70))
def test_static_deals_tasks_round_in_order(costs: list[int], cores: int) -> None:
    shares = [list(share) for share in task_lists(schedule("static", np.array(costs), cores), cores)]
    assert all(task % cores == core for core, share in enumerate(shares) for task in share)
    assert all(share == sorted(share) for share in shares)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(1, 3))
def test_balanced_is_within_four_thirds_of_the_optimum(costs: list[int], cores: int) -> None:
    """Graham (1969): largest processing time first is at most 4/3 - 1/(3 cores) times the shortest makespan."""
    optimum = min(
        max(np.bincount(cores_of, weights=costs, minlength=cores))
        for cores_of in product(range(cores), repeat=len(costs))
    )
    assert max(loads("balanced", costs, cores)) * 3 * cores <= (4 * cores - 1) * optimum


@given(Costs, st.integers(1, 70))
def test_balanced_is_no_worse_than_the_guarantees_of_list_scheduling_and_of_static(
    costs: list[int], cores: int
) -> None:
    """Static is one of the schedules whose best is within the bound; it can be better than balanced, but by no more."""
    heaviest = max(loads("balanced", costs, cores))
    assert heaviest * 3 * cores <= (4 * cores - 1) * max(loads("static", costs, cores))
    assert heaviest * cores <= sum(costs) + (cores - 1) * max(costs)
    assert heaviest >= max(max(costs), -(-sum(costs) // cores))


def test_balanced_evens_out_what_static_does_not() -> None:
    costs = [8, 1, 8, 1, 8, 1]
    assert loads("static", costs, 2) == [24, 3]
    assert sorted(loads("balanced", costs, 2)) == [11, 16]


@given(Costs)
def test_dynamic_hands_out_the_largest_first_and_equal_ones_in_order(costs: list[int]) -> None:
    order = schedule("dynamic", np.array(costs), 4).order.tolist()
    assert order == sorted(range(len(costs)), key=lambda task: (-costs[task], task))


def test_an_unknown_schedule_is_refused_with_the_known_ones_nearest_first() -> None:
    with pytest.raises(ValueError, match="schedule: unknown 'balance'; known: balanced, "):
        schedule("balance", np.ones(3), 2)


@given(st.lists(st.integers(0, 6), max_size=40))
def test_items_beside_their_cores_are_run_there_in_their_order(core: list[int]) -> None:
    found = beside(np.array(core, np.int64), 7)
    assert len(found.start) == 8
    for number in range(7):
        mine = found.order[found.start[number] : found.start[number + 1]].tolist()
        assert mine == [item for item, owner in enumerate(core) if owner == number]
