"""More banks, bandwidth or deeper queues do not slow traffic down, but for what a greedy order leaves to chance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from regular_traffic import FIELDS, Memory

from hwmodel.dram.policy import Policy
from hwmodel.dram.replay import replay
from hwmodel.dram.standards import HBM3, Organisation
from hwmodel.dram.traffic import Traffic, streams, trace

ALLOWED = 1.02  # a greedy scheduler may lose a little by having more to choose from
KINDS = ("sequential", "strided", "random", "mixed")
SCHEDULERS = ("fr-fcfs", "fr-fcfs-row-hit", "fcfs", "per-bank-queues")


def traffic_of(kind: str) -> Traffic:
    rng = np.random.default_rng(11)
    if kind == "sequential":
        return streams([0], [64], [False], 20_000)
    if kind == "strided":
        return streams([0], [64 * 33], [False], 20_000)
    addresses = rng.integers(0, 1 << 18, 10_000) * 64
    return trace(addresses, rng.random(10_000) < (0.33 if kind == "mixed" else 0.0))


def time_of(kind: str, scheduler: str, *, queue: int = 16, rate_gbps: int = 6, groups: int = 4) -> float:
    """Return how long traffic takes, in seconds."""
    o = Organisation(1, 2, 1, groups, 4, 16384, 1024, 32, 32)
    stride, digits = o.burst_bytes, []
    for name in ("pseudo_channel", "bank_group", "column", "bank", "row"):
        digits.append((stride, o.field_sizes()[name], FIELDS.index(name), 1))
        stride *= o.field_sizes()[name]
    timing = HBM3.timing(rate_gbps * 10**9)
    policy = Policy(scheduler=scheduler, refresh="all-bank", read_queue=queue, write_queue=queue)
    ticks = replay(Memory(timing, o, tuple(digits), (), policy).dram(), traffic_of(kind))
    return float(ticks / timing.tick_hz)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("kind", KINDS)
def test_deeper_queues_are_never_slower(kind: str, scheduler: str) -> None:
    times = [time_of(kind, scheduler, queue=queue) for queue in (4, 8, 16, 32)]
    assert all(after <= before * ALLOWED for before, after in itertools.pairwise(times)), times


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_data_rate_is_never_slower(kind: str, scheduler: str) -> None:
    times = [time_of(kind, scheduler, rate_gbps=rate) for rate in (2, 4, 6)]
    assert all(after <= before * ALLOWED for before, after in itertools.pairwise(times)), times


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("kind", KINDS)
def test_more_banks_are_never_slower(kind: str, scheduler: str) -> None:
    times = [time_of(kind, scheduler, groups=groups) for groups in (2, 4, 8)]
    assert all(after <= before * ALLOWED for before, after in itertools.pairwise(times)), times
