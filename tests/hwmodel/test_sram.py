from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.sram import SharedSram

Job = tuple[int, int]  # start, work


def ends(jobs: dict[int, list[Job]]) -> dict[int, list[int]]:
    """Return when each job of each user is done, asking as the units do."""
    sram = SharedSram()
    asked = sorted((start, user, place) for user, own in jobs.items() for place, (start, _) in enumerate(own))
    numbers = {(user, place): sram.ask(user, start, jobs[user][place][1]) for start, user, place in asked}
    waiting = {key: jobs[key[0]][key[1]][0] for key in numbers}  # when each asks next
    done: dict[tuple[int, int], int] = {}
    while waiting:
        key = min(waiting, key=lambda k: (waiting[k], k))
        now = waiting[key]
        left = sram.left(key[0], numbers[key], now)
        if left:
            waiting[key] = now + left
        else:
            done[key] = now
            del waiting[key]
    return {user: [done[user, place] for place in range(len(own))] for user, own in jobs.items()}


def shared_exactly(jobs: dict[int, list[Job]]) -> dict[int, list[Fraction]]:
    """Return the same with fractions, going from event to event over all jobs."""
    queues = {user: [[start, Fraction(work), i] for i, (start, work) in enumerate(own)] for user, own in jobs.items()}
    done = {user: [Fraction(0)] * len(own) for user, own in jobs.items()}
    now = Fraction(0)
    while any(queues.values()):
        active = [user for user, queue in queues.items() if queue and queue[0][0] <= now]
        coming = [queue[0][0] for queue in queues.values() if queue and queue[0][0] > now]
        steps = [queues[user][0][1] * len(active) for user in active] + [start - now for start in coming]
        step = min(steps)
        now += step
        for user in active:
            queues[user][0][1] -= step / len(active)
            if queues[user][0][1] == 0:
                done[user][queues[user].pop(0)[2]] = now
    return done


@st.composite
def loads(draw: st.DrawFn) -> dict[int, list[Job]]:
    users = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
    found = {}
    for user in users:
        gaps = draw(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 60)), min_size=1, max_size=5))
        start, own = 0, []
        for gap, work in gaps:
            start += gap
            own.append((start, work))
        found[user] = own
    return found


@settings(max_examples=150)
@given(loads())
def test_shares_are_those_of_an_exact_fluid_to_a_femtosecond_per_end(jobs: dict[int, list[Job]]) -> None:
    exact, found = shared_exactly(jobs), ends(jobs)
    most = sum(map(len, jobs.values()))
    for user, own in found.items():
        for end, true in zip(own, exact[user], strict=True):
            assert 0 <= end - true < most + 1


@settings(max_examples=100)
@given(loads())
def test_nobody_is_faster_than_alone_and_all_are_done_when_their_sum_is(jobs: dict[int, list[Job]]) -> None:
    found = ends(jobs)
    for user, own in jobs.items():
        alone = ends({user: own})[user]
        assert all(end >= least for end, least in zip(found[user], alone, strict=True))
        assert alone[-1] >= sum(work for _, work in own)
    together = {user: [(0, work) for _, work in own] for user, own in jobs.items()}
    total = sum(work for own in jobs.values() for _, work in own)
    last = max(max(own) for own in ends(together).values())
    assert total <= last < total + sum(map(len, jobs.values())) + 1  # work-conserving


def test_two_equal_works_take_twice_as_long_and_a_third_that_comes_late_shares_the_rest() -> None:
    assert ends({0: [(0, 300)], 1: [(0, 300)]}) == {0: [600], 1: [600]}
    assert ends({0: [(0, 300)], 1: [(0, 300)], 2: [(300, 100)]}) == {0: [650 + 50], 1: [700], 2: [600]}


def test_a_user_with_little_work_leaves_the_rest_to_the_others() -> None:
    assert ends({0: [(0, 1000)], 3: [(100, 10)]}) == {0: [1010], 3: [120]}


def test_work_of_nothing_is_done_at_once() -> None:
    sram = SharedSram()
    number = sram.ask(2, 50, 0)
    assert sram.left(2, number, 50) == 0
