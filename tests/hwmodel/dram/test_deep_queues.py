"""Deep buffers against short ones: the same policy with other data structures must do the same to the tick.

`Policy.mask_words` decides which a channel has; with two words any of the policies runs on deep ones.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from regular_traffic import FIELDS, Memory, outcome, policies, random_memory, random_traffic

from hwmodel.dram import state as k
from hwmodel.dram.config import load_config
from hwmodel.dram.controller import Dram, enqueue_bursts
from hwmodel.dram.policy import MAX_QUEUE, Policy
from hwmodel.dram.replay_result import replay_trace
from hwmodel.dram.trace import MAX_TICK

POLICIES = [policy for policy in policies() if policy[0] != "per-bank-queues"]
Array = np.ndarray[Any, Any]
TWO_WORDS = property(lambda policy: 2)


def differences(seed: int, fast_forward: bool) -> list[str]:
    """Return the names of what differs between short and deep buffers, for random traffic on a random memory."""
    rng = np.random.default_rng(seed)
    memory = random_memory(rng, POLICIES[seed % len(POLICIES)], 42)
    traffic = random_traffic(rng, memory)
    short, _ = outcome(memory, traffic, fast_forward=False)
    with mock.patch.object(Policy, "mask_words", TWO_WORDS):
        deep, _ = outcome(memory, traffic, fast_forward)
    return [name for name in short if short[name] != deep[name]]


@pytest.mark.slow
def test_deep_buffers_do_what_short_ones_do_under_every_policy() -> None:
    assert {seed: names for seed in range(2 * len(POLICIES)) if (names := differences(seed, False))} == {}


@pytest.mark.slow
def test_deep_buffers_are_fast_forwarded_to_what_short_ones_do() -> None:
    seeds = range(100_000, 100_000 + len(POLICIES))
    assert {seed: names for seed in seeds if (names := differences(seed, True))} == {}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_of_two_thousand_replays_none_differs_on_deep_buffers(part: int) -> None:
    seeds = range(200_000 + 500 * part, 200_000 + 500 * (part + 1))
    assert {seed: names for seed in seeds if (names := differences(seed, seed % 2 == 0))} == {}


def commands(policy: Policy, writes: int, serial: int = 0, first_tick: int = 0) -> list[Array]:
    """Return the commands and bursts of a channel under 3,000 random bursts, so many in ten of them writes.

    `serial` is the number that the first activate gets. Beside them what stands before the keys, and nothing touches.
    """
    config = load_config("ram2_hbm3_rh32")
    tables = config.address_map.compiled()
    dram = Dram(config.timing, config.organisation, 1, tables, policy, record_commands=True, log_bursts=True)
    dram.state.channels[:, k.SERIAL] = serial
    rng = np.random.default_rng(writes)
    dram.reserve(3_000)
    for number in range(3_000):
        address, is_write = int(rng.integers(1 << 12)) * 64, bool(rng.integers(10) < writes)
        dram.enqueue(address, dram.open_request(1), is_write, first_tick + number // 3)
    dram.drain()
    unused = dram.state.channels[:, k.READY + k.COMMAND_SLOTS * k.CHANNEL_BANKS - 1]
    return [dram.commands(), dram.bursts(), unused]


@pytest.mark.parametrize("writes", [0, 4, 10])
@pytest.mark.parametrize("scheduler", ["fr-fcfs", "fr-fcfs-row-hit", "fcfs"])
def test_every_command_comes_at_the_same_tick(scheduler: str, writes: int) -> None:
    policy = replace(load_config("ram2_hbm3_rh32").policy, scheduler=scheduler, refresh="per-bank")
    short = commands(policy, writes)
    with mock.patch.object(Policy, "mask_words", TWO_WORDS):
        deep = commands(policy, writes)
    assert all(np.array_equal(one, other) for one, other in zip(short, deep, strict=True))


@pytest.mark.parametrize("activates", [1, 7, 20])
def test_the_order_of_activates_survives_their_numbers_running_out(activates: int) -> None:
    policy = load_config("ram2_hbm3_rh32").policy
    with mock.patch.object(Policy, "mask_words", TWO_WORDS):
        before, after = (commands(policy, 4, serial) for serial in (0, (1 << k.SERIAL_BITS) - activates))
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_what_comes_as_late_as_a_trace_may_have_it_is_served_in_the_same_order() -> None:
    policy = replace(load_config("ram2_hbm3_rh32").policy, refresh="none")
    with mock.patch.object(Policy, "mask_words", TWO_WORDS):
        (early, *_), (late, *_) = (commands(policy, 4, first_tick=tick) for tick in (1, MAX_TICK - 1_000_000 + 1))
    assert np.array_equal(early[:, 1:], late[:, 1:])
    assert len(set(late[:, 0] - early[:, 0])) == 1


def test_as_many_ages_as_bursts_arrive_in_a_tick_fit() -> None:
    assert 2 * MAX_QUEUE <= 1 << k.AGE_SHIFT


def served(policy: Policy, seed: int, as_runs: bool) -> tuple[list[Array], Dram]:
    """Return the commands, bursts and completions of a channel with rows of 128 bursts, and the channel.

    It gets runs at random, to three rows of two banks, so that they meet; as runs or burst by burst.
    """
    config, rng = load_config("ram2_hbm3_rh32"), np.random.default_rng(seed)
    organisation = replace(config.organisation, channels=1, row_bytes=128 * config.organisation.burst_bytes)
    sizes, stride, strides = organisation.field_sizes(), organisation.burst_bytes, {}
    for name in ("column", "bank_group", "pseudo_channel", "bank", "row"):
        strides[name] = stride
        stride *= sizes[name]
    digits = tuple((stride, sizes[name], FIELDS.index(name), 1) for name, stride in strides.items())
    memory = Memory(config.timing, organisation, digits, (), policy)
    with mock.patch.object(Policy, "mask_words", TWO_WORDS):
        dram, tick = memory.dram(record_commands=True, log_bursts=True), 0
        for _ in range(100):
            tick += int(rng.choice([0, 0, 1, 7, 300]))
            first, bursts = rng.integers(1, 100, 2).tolist() if rng.random() < 0.5 else rng.integers(1, 8, 2).tolist()
            start = (
                first * organisation.burst_bytes + rng.integers(3) * strides["row"] + rng.integers(2) * strides["bank"]
            )
            addresses = start + np.arange(bursts) * organisation.burst_bytes
            dram.reserve(bursts)
            request, is_write = dram.open_request(bursts), int(rng.random() < 0.4)
            for some in [addresses] if as_runs else np.split(addresses, bursts):
                enqueue_bursts(dram.state, some, 0, len(some), request, is_write, tick)
        done = dram.drain()
    return [dram.commands(), dram.bursts(), *done], dram


@pytest.mark.slow
@pytest.mark.parametrize("queue", [3, 42, 128])
@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("chosen", POLICIES)
def test_bursts_of_a_run_that_share_a_position_are_served_as_those_that_do_not(
    chosen: tuple[str, str, str], merge: bool, queue: int
) -> None:
    scheduler, row, refresh = chosen
    timeout = 100 if row == "timeout" else 0
    policy = Policy(scheduler, row, timeout, refresh, read_queue=queue, write_queue=queue, merge=merge)
    (shared, one), (apart, other) = (served(policy, queue + merge, as_runs) for as_runs in (True, False))
    assert all(np.array_equal(*pair) for pair in zip(shared, apart, strict=True))
    counts, expected = one.statistics(), other.statistics()
    assert all(np.array_equal(getattr(counts, field.name), getattr(expected, field.name)) for field in fields(counts))
    assert bool(counts.merged_reads + counts.merged_writes) == merge


def test_banks_in_the_upper_half_of_a_mask_are_served_as_by_short_buffers() -> None:
    config = load_config("hbm3e").with_overrides({"organisation.stack_ids": 4})
    assert config.organisation.banks == 64
    rng = np.random.default_rng(5)
    addresses = rng.integers(config.organisation.capacity_bytes // 64, size=3_000) * 64
    asked = config, addresses, rng.integers(3, size=3_000) == 0
    short, memory = replay_trace(*asked, record_commands=True)
    with mock.patch.object(Policy, "mask_words", TWO_WORDS):
        deep, other = replay_trace(*asked, record_commands=True)
    assert short == deep
    assert np.array_equal(memory.commands(), other.commands())
    assert (other.statistics().bank_bursts > 0).all()
