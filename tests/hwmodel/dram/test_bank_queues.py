"""The controller with a queue per bank, on HBM2 in legacy mode at 2 Gb/s: a tick is one CK, one nanosecond.

A burst that arrives at tick n is in the buffer at n, moves to its bank's queue in that tick, one burst per tick, and
can get a command from n + 1 on. All commands take one tick, so that distances are those of the data sheet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwmodel.dram.config import load_config
from hwmodel.dram.controller import Dram, Policy
from hwmodel.dram.replay import replay
from hwmodel.dram.replay_result import replay_trace
from hwmodel.dram.standards import standard
from hwmodel.dram.traffic import streams

Maker = Callable[..., Any]
T = standard("HBM2-legacy").timing(2_000_000_000)
READ = T.nCL + T.nBL


@pytest.fixture
def make(make_memory: Maker) -> Maker:
    defaults = {"name": "HBM2-legacy", "scheduler": "per-bank-queues", "refresh": "none"}
    return lambda **options: make_memory(**defaults | options)


def names_of(memory: Any) -> list[str]:
    return [name for _, name in memory.commands()]


def test_a_lone_read_moves_activates_and_reads(make: Maker) -> None:
    memory = make()
    memory.read(tick=7, bank=3, row=5)
    _, done = memory.dram.drain()
    assert memory.commands() == [(8, "ACT"), (8 + T.nRCDRD, "RD")]
    assert done.tolist() == [8 + T.nRCDRD + READ]


def test_one_burst_moves_to_its_banks_queue_per_tick(make: Maker) -> None:
    memory = make()
    for group in range(4):
        memory.read(bank_group=group)
    # the activates are nRRDS apart anyway, and the third and later ones wait for that and not for the move
    assert [tick for tick, name in memory.commands() if name == "ACT"] == [1, 1 + 4, 1 + 8, 1 + 12]


def test_a_row_and_a_column_command_may_share_a_tick_but_no_two_of_a_kind(make: Maker) -> None:
    memory = make()
    memory.read()
    for column in range(8):
        memory.read(tick=100, column=column)
    memory.read(tick=101, bank_group=1)
    commands = memory.commands()
    assert len({tick for tick, name in commands if name == "ACT"}) == 2
    ticks = [tick for tick, _ in commands]
    assert len(set(ticks)) < len(ticks)  # the second activate shares a tick with a read


# the read that opened the row counts, and the hit that is older than the conflict goes first in any case
@pytest.mark.parametrize(("streak", "reads"), [(1, 2), (2, 2), (3, 3), (4, 4), (100, 8)])
def test_after_so_many_hits_in_a_row_the_oldest_burst_gets_its_row(make: Maker, streak: int, reads: int) -> None:
    memory = make(hit_streak=streak)
    for group in range(3):
        memory.read(bank_group=group)
    for column in range(1, 9):  # two other banks that take turns, so that a read of the third comes every 6 ticks: a
        for group in (1, 2):  # precharge is ready before it, nRTP 5 after the last
            memory.read(tick=100, bank_group=group, column=column)
    for column in range(1, 9):
        memory.read(tick=100, row=int(column == 2), column=column)
    memory.dram.drain()
    bank = [int(c[6]) for c in memory.dram.commands() if c[3] == 0]
    assert bank[: bank.index(1)].count(3) == reads


def test_bursts_to_a_bank_whose_queue_is_full_wait_but_do_not_hold_up_those_to_other_banks(make: Maker) -> None:
    memory = make(bank_queue=1)
    for row in range(3):
        memory.read(row=row)
    memory.read(bank_group=1)
    commands = memory.commands()
    acts = [tick for tick, name in commands if name == "ACT"]
    assert acts[:2] == [1, 1 + T.nRRDS]  # the second is of the other bank group, past two bursts that wait


def test_reads_of_the_same_place_share_one_command_and_reads_of_a_waiting_write_need_none(make: Maker) -> None:
    memory = make()
    first, second = memory.read(), memory.read()
    requests, done = memory.dram.drain()
    assert (sorted(requests.tolist()), len(set(done.tolist()))) == ([first, second], 1)
    assert names_of(memory) == ["ACT", "RD"]
    written = make()
    written.write()
    read = written.read()
    requests, done = written.dram.drain()
    assert dict(zip(requests.tolist(), done.tolist(), strict=True))[read] == 1
    assert names_of(written) == ["ACT", "WR"]


def test_a_write_waits_for_an_older_read_of_its_place(make: Maker) -> None:
    memory = make()
    read, write = memory.read(), memory.write()
    requests, done = memory.dram.drain()
    ticks = dict(zip(requests.tolist(), done.tolist(), strict=True))
    assert names_of(memory) == ["ACT", "RD", "WR"]
    assert ticks[write] > ticks[read]


@pytest.mark.parametrize(("writes", "written"), [(8, 0), (9, 9), (32, 32)])
def test_a_replay_ends_with_as_many_writes_undrained_as_the_low_watermark_lets_wait(writes: int, written: int) -> None:
    config = load_config("ds3_hbm2")  # 0.25 of 32
    result, _ = replay_trace(config, np.arange(writes, dtype=np.uint64) * 64, np.ones(writes, bool))
    assert (result.wr, result.ref) == (written, 0)


@pytest.mark.parametrize("write_low", [0.0, 0.25])
def test_in_a_machine_few_writes_are_drained_too_once_no_reads_wait(make: Maker, write_low: float) -> None:
    memory = make(write_low=write_low)
    requests = [memory.write(bank_group=group) for group in range(3)]
    assert sorted(memory.dram.drain()[0].tolist()) == requests
    assert memory.dram.idle


def test_a_refresh_closes_the_open_banks_one_by_one_and_then_takes_trfc(make: Maker) -> None:
    memory = make(refresh="all-bank")
    memory.read(tick=T.nREFI - 60)
    memory.read(tick=T.nREFI - 60, bank_group=1)
    memory.read(tick=T.nREFI + 10, bank=1)
    commands = memory.commands()
    precharged = [tick for tick, name in commands if name == "PRE"]
    refreshed = next(tick for tick, name in commands if name == "REFab")
    assert precharged == [T.nREFI, T.nREFI + 1]
    assert refreshed == T.nREFI + 1 + T.nRP
    assert [tick for tick, name in commands if name == "ACT"][-1] == refreshed + T.nRFC


def test_a_refresh_that_falls_due_with_the_last_data_is_no_part_of_a_replay() -> None:
    config = load_config("ds3_hbm2")

    def commands(interval: int) -> tuple[int, Any]:
        timing, tables = replace(config.timing, nREFI=interval), config.address_map.compiled()
        dram = Dram(timing, config.organisation, 1, tables, config.policy, record_commands=True)
        return replay(dram, streams([0], [4096], [False], 100)), dram.commands().tolist()

    ticks, without = commands(config.timing.nREFI)
    assert config.timing.nRFC <= ticks < config.timing.nREFI
    assert commands(ticks) == (ticks, without)


def test_more_banks_than_there_are_queues_are_refused() -> None:
    part = standard("HBM3")
    organisation = replace(part.organisation, stack_ids=4)
    timing, policy = part.timing(part.max_pin_rate_bps), Policy(scheduler="per-bank-queues", refresh="all-bank")
    tables = np.array([[32, 2, 2, 1]]), np.zeros((0, 4), np.int64)
    with pytest.raises(ValueError, match=r"128 banks per channel; allowed with per-bank queues: 1 \.\. 64"):
        Dram(timing, organisation, 1, tables, policy)


@pytest.mark.parametrize("stride", [64, 33 * 64, -55 * 64])
@pytest.mark.parametrize("interval", [140, 300])
def test_a_burst_whose_row_a_refresh_closes_before_its_turn_counts_once(stride: int, interval: int) -> None:
    config = load_config("ds3_hbm2").with_overrides({"timing.nREFI": interval, "timing.nRFC": 30})
    dram = config.dram(log_bursts=True)
    replay(dram, streams([0], [stride], [False], 4000))
    s = dram.statistics()
    assert s.activates > s.row_misses + s.row_conflicts  # some rows were opened again
    assert s.row_hits + s.row_misses + s.row_conflicts == s.reads == 4000
    outcomes = np.bincount(dram.bursts()[:, 6], minlength=3).tolist()
    assert outcomes == [s.row_hits, s.row_misses, s.row_conflicts]
