"""Replays that skip periods of the channel's state against replays that skip nothing: everything must be the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from regular_traffic import FIELDS, Memory, outcome, policies, random_memory, random_traffic

from hwmodel.dram import boundaries
from hwmodel.dram.config import load_config
from hwmodel.dram.replay import replay
from hwmodel.dram.traffic import Traffic, gather, streams, trace

POLICIES = policies()
MANY = 10_000  # streams and gathers of the slow run
PARTS = 20


def differences(memory: Memory, traffic: Traffic) -> tuple[list[str], bool]:
    """Return the names of what differs, and whether a period was found and skipped."""
    plain, never = outcome(memory, traffic, fast_forward=False)
    fast, skipped = outcome(memory, traffic, fast_forward=True)
    assert never == 0
    assert plain.keys() == fast.keys()
    return [name for name in plain if plain[name] != fast[name]], skipped > 0


def compared(seeds: range, deepest: int = 42) -> tuple[dict[int, list[str]], int]:
    """Return what differs by seed, and how many of the replays skipped something."""
    wrong, found = {}, 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        memory = random_memory(rng, POLICIES[seed % len(POLICIES)], deepest)
        names, skipped = differences(memory, random_traffic(rng, memory))
        found += skipped
        if names:
            wrong[seed] = names
    return wrong, found


def test_under_every_policy_a_fast_forwarded_replay_is_the_plain_one() -> None:
    seeds = range(2 * len(POLICIES))
    wrong, found = compared(seeds)
    assert wrong == {}
    assert 5 * found >= 2 * len(seeds)  # otherwise this would compare nothing


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_of_ten_thousand_replays_none_is_changed_by_the_fast_forward(part: int) -> None:
    seeds = range(1000 + part * (MANY // PARTS), 1000 + (part + 1) * (MANY // PARTS))
    wrong, found = compared(seeds)
    assert wrong == {}
    assert 5 * found >= 2 * len(seeds)  # otherwise this would compare nothing


@pytest.mark.slow
def test_deep_queues_are_fast_forwarded_exactly() -> None:
    wrong, found = compared(range(500_000, 500_300), deepest=128)
    assert wrong == {}
    assert 5 * found >= 2 * 300


def shipped(name: str, **policy: object) -> Memory:
    """Return a shipped configuration as a memory, its policy changed by name."""
    config = load_config(name).with_overrides({f"policy.{key}": value for key, value in policy.items()})
    digits, hashes = config.address_map.compiled()
    tables = [tuple(map(tuple, table.tolist())) for table in (digits, hashes)]
    return Memory(config.timing, config.organisation, tables[0], tables[1], config.policy)


def test_a_pseudo_channel_that_rests_for_whole_refresh_intervals_keeps_its_account() -> None:
    """Used in every period, but not in the interval before its end: its time was counted twice."""
    memory = shipped("ram2_hbm3_rh32", scheduler="fcfs", read_queue=4)
    organisation = replace(memory.organisation, bank_groups=2, banks_per_group=2, stack_ids=1)
    sizes, stride, digits = organisation.field_sizes(), organisation.burst_bytes, []
    for name in ("column", "bank_group", "bank", "pseudo_channel", "row"):
        digits.append((stride, sizes[name], FIELDS.index(name), 1))
        stride *= sizes[name]
    # half a block, 128 bursts nCCDL 8 apart, takes longer than two refresh intervals
    timing = replace(memory.timing, nREFI=400, nRFC=60)
    memory = replace(memory, timing=timing, organisation=organisation, digits=tuple(digits), hashes=())
    assert differences(memory, streams([0], [64], [False], 40_000)) == ([], True)


def test_bursts_that_merge_with_the_last_one_do_not_run_past_the_end() -> None:
    """Merged bursts need no data bus, so that any number of them fits in a refresh interval."""
    memory = shipped("ram2_hbm3_rh32", refresh="per-bank")
    assert differences(memory, streams([0], [0], [True], 20_000))[0] == []
    assert differences(memory, streams([0, 64], [0, 0], [True, False], 20_000))[0] == []


@pytest.mark.parametrize("refresh", ["none", "all-bank"])
def test_reads_without_end_that_wait_for_the_same_data_find_room(refresh: str) -> None:
    memory = shipped("ds3_hbm2", refresh=refresh)
    names, _ = differences(memory, streams([0], [0], [False], 60_000))
    assert names == []


def test_traffic_without_accesses_takes_no_time() -> None:
    memory = shipped("ram2_hbm3_rh32")
    plain, _ = outcome(memory, trace(np.zeros(0, np.int64), np.zeros(0, np.bool_)), fast_forward=False)
    fast, _ = outcome(memory, trace(np.zeros(0, np.int64), np.zeros(0, np.bool_)), fast_forward=True)
    assert plain == fast
    assert (plain["ticks"], plain["refreshes"], plain["reads"]) == (0, 0, 0)


def test_addresses_go_round_at_the_capacity() -> None:
    memory = shipped("ram2_hbm3_rh32")
    capacity = memory.organisation.capacity_bytes
    across = streams([capacity - 64 * 20_000], [64], [False], 40_000)
    below = streams([64 * 20_000], [-64], [True], 40_000)
    assert differences(memory, across)[0] == []
    assert differences(memory, below)[0] == []


def test_a_gather_that_goes_round_meets_its_earlier_rows_again() -> None:
    """Pairs of runs in one block, one of them a capacity further on, behind many that never meet."""
    memory = shipped("ram2_hbm3_rh32_noref")
    places = np.arange(60)
    starts = 2 * places * memory.block_bytes
    starts[41::2] = starts[40:-1:2] + memory.organisation.capacity_bytes
    assert differences(memory, gather(starts, memory.block_bytes)) == ([], False)
    below = differences(memory, gather(2 * places * memory.block_bytes, memory.block_bytes))
    assert below == ([], True)


@pytest.mark.parametrize("is_write", [False, True])
def test_traffic_goes_on_elsewhere_in_a_block_behind_a_capacity_of_no_whole_blocks(is_write: bool) -> None:
    """3,000 rows, of which the fifth bit is hashed, so that 32 make a block: the last block has 24."""
    memory = shipped("ram2_hbm3_rh32_noref", scheduler="fcfs")
    burst_bytes = memory.organisation.burst_bytes
    organisation = replace(
        memory.organisation, bank_groups=2, banks_per_group=2, stack_ids=1, rows=3000, row_bytes=2 * burst_bytes
    )
    digits, stride = [], burst_bytes
    for name in ("bank", "bank_group", "pseudo_channel", "column", "row"):
        size = organisation.field_sizes()[name]
        digits.append((stride, size, FIELDS.index(name), 1))
        stride *= size
    hashes = ((FIELDS.index("bank_group"), 0, FIELDS.index("row"), 4),)
    memory = replace(memory, organisation=organisation, digits=tuple(digits), hashes=hashes)
    block = 32 * memory.block_bytes
    inside = streams([0], [64], [is_write], organisation.capacity_bytes // 64)
    assert differences(memory, inside) == ([], True)
    assert differences(memory, streams([0], [-block // 64], [is_write], 12_000)) == ([], False)


def test_a_gather_whose_runs_come_again_soon_is_replayed_exactly() -> None:
    memory = shipped("ram2_hbm3_rh32_noref")
    starts = np.tile(np.arange(5), 12) * memory.block_bytes
    assert differences(memory, gather(starts, memory.block_bytes))[0] == []


@pytest.mark.parametrize(
    ("traffic", "gap", "problem"),
    [
        (streams([0], [16], [False], 4, access_bytes=16), 0, "replay: accesses of 16 B; allowed: multiples of a burst"),
        (streams([0], [64], [False], 4), -1, "replay: gap of -1 ticks; allowed: 0 or more"),
    ],
)
def test_a_replay_that_cannot_be_is_refused(traffic: Traffic, gap: int, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        replay(shipped("ram2_hbm3_rh32").dram(), traffic, gap)


def test_every_scheduler_finds_periods() -> None:
    found: Counter[str] = Counter()
    for scheduler in ("fr-fcfs-row-hit", "fr-fcfs", "fcfs"):
        memory = shipped("ram2_hbm3_rh32_noref", scheduler=scheduler)
        names, skipped = differences(memory, streams([0], [64], [False], 40_000))
        assert names == []
        found[scheduler] += skipped
    memory = shipped("ds3_hbm2", refresh="none")
    names, skipped = differences(memory, streams([0], [64], [False], 40_000))
    assert names == []
    assert [*found.values(), skipped] == [1, 1, 1, True]


@pytest.mark.parametrize("writes", [[False, True], [False, False, True]])
def test_streams_that_meet_in_other_rows_of_the_same_banks_are_fast_forwarded_when_their_state_comes_again(
    writes: list[bool],
) -> None:
    """A copy and a triad of HBM2: 114 and 340 refresh intervals until a state comes again."""
    memory = shipped("ram2_hbm2_rh32")
    starts = [i * (1 << 28) + i * 33 * 64 for i in range(len(writes))]
    assert differences(memory, streams(starts, [64] * len(writes), writes, 750_000 // len(writes))) == ([], True)


def test_states_that_do_not_come_again_are_written_down_ever_more_seldom() -> None:
    memory, written = shipped("ram2_hbm3_rh32"), 0

    def counted(*arguments: Any) -> Any:
        nonlocal written
        written += 1
        return describe(*arguments)

    describe = boundaries.describe
    with mock.patch.object(boundaries, "describe", counted):
        ticks = replay(memory.dram(), streams([0, 1 << 29], [64, 64], [False, True], 300_000))
    intervals = ticks // memory.timing.nREFI
    assert intervals > 500
    assert written < 0.1 * intervals
