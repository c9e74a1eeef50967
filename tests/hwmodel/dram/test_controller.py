"""Commands of an HBM3 channel at 6.4 Gb/s, tick by tick, as the rules give them by hand.

A tick is half a CK. Commands but precharges start at rising edges, the odd ticks; a burst that arrives at tick n can
get a command from n + 1 on. An activate takes three ticks, a column command two, all others one, so from start to
start an activate is 3 - 2 ticks further from a column, and 3 - 1 further from a precharge, than the data sheet says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest

from hwmodel.dram.controller import Dram, Policy
from hwmodel.dram.standards import HBM3

Maker = Callable[..., Any]
T = HBM3.timing(6_400_000_000)
READ, WRITE = T.nCL + T.nBL, T.nCWL + T.nBL  # from the command to the end of the data: 44 and 24 ticks
ACT_RD, ACT_WR = 64, 32  # nRCDRD 62 + 3 - 2 = 63 and nRCDWR 30 + 3 - 2 = 31, to the next rising edge
ACT_PRE = 92  # nRAS 90 + 3 - 1
RD_PRE, WR_PRE = 19, 91  # nRTP 18 + 2 - 1; nCWL 20 + nBL 4 + nWR 66 + 2 - 1
PRE_ACT = 50  # nRP 52 + 1 - 3
ACT_ACT = 144  # nRC


def ticks_of(commands: list[tuple[int, str]], name: str) -> list[int]:
    return [tick for tick, command in commands if command == name]


def done_by_request(memory: Any) -> dict[int, int]:
    requests, done = memory.dram.drain()
    return dict(zip(requests.tolist(), done.tolist(), strict=True))


def test_a_lone_read_activates_reads_after_trcdrd_and_is_done_after_cl_and_the_burst(make_memory: Maker) -> None:
    memory = make_memory()
    request = memory.read(tick=7, bank=3, row=5)
    requests, done = memory.dram.drain()
    # arrived at 7, so from 8 on, so at the edge 9
    assert memory.dram.commands()[:, [0, 4, 5, 6]].tolist() == [[9, 3, 5, 0], [9 + ACT_RD, 3, 5, 3]]
    assert (requests.tolist(), done.tolist()) == ([request], [9 + ACT_RD + READ])


def test_a_lone_write_activates_writes_after_trcdwr_and_is_done_after_cwl_and_the_burst(make_memory: Maker) -> None:
    memory = make_memory()
    memory.write(tick=3)
    _, done = memory.dram.drain()
    assert memory.commands() == [(5, "ACT"), (5 + ACT_WR, "WR")]
    assert done.tolist() == [5 + ACT_WR + WRITE]


@pytest.mark.parametrize(
    ("second", "gap"),
    [({"column": 1}, T.nCCDL), ({"bank": 1}, T.nCCDL), ({"bank_group": 1}, T.nCCDS), ({"bank": 4}, T.nCCDR)],
    ids=["same row", "same bank group", "other bank group", "other stack ID"],
)
def test_reads_of_open_rows_wait_the_column_interval_of_their_distance(
    make_memory: Maker, second: dict[str, int], gap: int
) -> None:
    memory = make_memory()
    memory.read()
    memory.read(**second)
    memory.read(tick=400)
    memory.read(tick=400, **second)
    first, last = ticks_of(memory.commands(), "RD")[-2:]
    assert (first, last - first) == (401, gap)


def test_second_activate_in_the_same_bank_group_waits_trrd_l(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read(bank=0)
    memory.read(bank=1)
    assert ticks_of(memory.commands(), "ACT") == [1, 1 + T.nRRDL]


def test_second_activate_in_another_bank_group_waits_trrd_s(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read(bank_group=0)
    memory.read(bank_group=1)
    assert ticks_of(memory.commands(), "ACT") == [1, 1 + T.nRRDS]


def test_fifth_activate_waits_for_the_window_of_four(make_memory: Maker) -> None:
    memory = make_memory()
    for i in range(8):
        memory.read(bank_group=i % 4, bank=i // 4)
    four = [1, 9, 17, 25]  # nRRDS apart
    assert ticks_of(memory.commands(), "ACT") == four + [tick + T.nFAW for tick in four]


def test_activates_of_two_pseudo_channels_share_the_row_command_bus(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read(pseudo_channel=0)
    memory.read(pseudo_channel=1)
    # an activate takes three ticks of the bus, and the next edge after them is 1 + 4
    assert memory.commands() == [(1, "ACT"), (5, "ACT"), (1 + ACT_RD, "RD"), (5 + ACT_RD, "RD")]


def test_channels_share_no_command_bus(make_memory: Maker) -> None:
    memory = make_memory(channels=2)
    memory.read(channel=0)
    memory.read(channel=1)
    assert sorted(memory.commands()) == [(1, "ACT"), (1, "ACT"), (1 + ACT_RD, "RD"), (1 + ACT_RD, "RD")]


def test_a_read_conflict_precharges_after_tras_and_activates_after_trc(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read(row=0)
    memory.read(row=1)
    again = 1 + ACT_ACT  # nRC holds up more than the precharge at 93 + 50
    expected = [(1, "ACT"), (1 + ACT_RD, "RD"), (1 + ACT_PRE, "PRE"), (again, "ACT"), (again + ACT_RD, "RD")]
    assert memory.commands() == expected


def test_an_open_row_is_precharged_trtp_after_a_late_read_and_activated_trp_later(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read(row=0)
    memory.read(tick=200, row=0)
    memory.read(tick=201, row=1)
    # the precharge may start at a falling edge, 220; the activate at the next edge after 220 + 50
    assert memory.commands()[2:5] == [(201, "RD"), (201 + RD_PRE, "PRE"), (201 + RD_PRE + PRE_ACT + 1, "ACT")]


def test_a_write_conflict_precharges_after_write_recovery(make_memory: Maker) -> None:
    memory = make_memory()
    memory.write(row=0)
    memory.write(row=1)
    assert ticks_of(memory.commands(), "PRE") == [1 + ACT_WR + WR_PRE]


@pytest.mark.parametrize(("group", "extra"), [(0, T.nWTRL), (1, T.nWTRS)])
def test_a_read_after_a_write_waits_twtr_after_the_write_data(make_memory: Maker, group: int, extra: int) -> None:
    memory = make_memory()
    memory.read(bank_group=group)
    memory.write(tick=300)
    memory.write(tick=500)
    memory.read(tick=501, bank_group=group)
    commands = memory.commands()
    assert (ticks_of(commands, "WR")[-1], ticks_of(commands, "RD")[-1]) == (501, 501 + WRITE + extra)


def test_a_write_after_a_read_waits_trtw(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read()
    memory.read(tick=300)
    memory.write(tick=301)
    assert ticks_of(memory.commands(), "WR") == [301 + T.nRTW]


def test_a_younger_row_hit_passes_an_older_conflict_but_does_not_keep_the_row_open(make_memory: Maker) -> None:
    memory = make_memory(scheduler="fr-fcfs-row-hit")
    memory.read(row=0)
    conflict = memory.read(tick=1, row=1)
    hit = memory.read(tick=2, row=0, column=1)
    done = done_by_request(memory)
    assert done[hit] < done[conflict]
    assert ticks_of(memory.commands(), "PRE") == [1 + ACT_PRE]


@pytest.mark.parametrize(("scheduler", "kept"), [("fr-fcfs-row-hit", True), ("fr-fcfs", False)])
def test_an_older_row_hit_that_cannot_go_yet_keeps_its_row_open_only_where_the_scheduler_says_so(
    make_memory: Maker, scheduler: str, kept: bool
) -> None:
    memory = make_memory(scheduler=scheduler)
    for bank in (1, 0):
        memory.read(bank=bank)
    for bank in (1, 0):  # the hits of bank 0 wait for those of bank 1, in the same bank group
        for column in range(12):
            memory.read(tick=400, bank=bank, column=column)
    memory.read(tick=401, bank=0, row=1)
    memory.dram.drain()
    commands = [(int(c[6]), int(c[4])) for c in memory.dram.commands()]
    before = commands[: commands.index((1, 0))]
    assert before.count((3, 0)) == (1 + 12 if kept else 1)


@pytest.mark.parametrize("groups", [(2, 0, 1), (0, 1, 2), (1, 2, 0)])
def test_row_hits_that_are_ready_together_are_served_in_the_order_of_arrival(
    make_memory: Maker, groups: tuple[int, ...]
) -> None:
    memory = make_memory()
    for group in range(3):
        memory.read(bank_group=group)
    for group in groups:
        memory.read(tick=400, bank_group=group)
    memory.dram.drain()
    trace = memory.dram.commands()
    assert tuple(trace[trace[:, 0] >= 400][:, 3]) == groups


@pytest.mark.parametrize("groups", [(2, 0, 1), (0, 1, 2), (1, 2, 0)])
def test_rows_that_can_be_opened_together_are_opened_in_the_order_of_arrival(
    make_memory: Maker, groups: tuple[int, ...]
) -> None:
    memory = make_memory()
    for group in groups:
        memory.read(bank_group=group)
    memory.dram.drain()
    trace = memory.dram.commands()
    assert tuple(trace[trace[:, 6] == 0][:, 3]) == groups


def test_strict_order_serves_bursts_one_after_the_other_whatever_their_banks(make_memory: Maker) -> None:
    memory = make_memory(scheduler="fcfs")
    requests = [memory.read(bank_group=group, row=row) for group, row in ((0, 0), (0, 1), (1, 0), (0, 1))]
    done = done_by_request(memory)
    assert sorted(done, key=done.__getitem__) == requests
    names = [name for _, name in memory.commands()]
    assert names == ["ACT", "RD", "PRE", "ACT", "RD", "ACT", "RD", "RD"]


@pytest.mark.parametrize(
    ("writes", "turns"),
    [(25, [("RD", 20), ("WR", 25)]), (26, [("RD", 1), ("WR", 20), ("RD", 19), ("WR", 6)])],
    ids=["at most 0.8 of 32", "more: down to less than 0.2 of 32"],
)
def test_reads_go_first_until_the_writes_pass_the_high_watermark(
    make_memory: Maker, writes: int, turns: list[tuple[str, int]]
) -> None:
    memory = make_memory()
    memory.read()
    memory.write(bank_group=1)
    memory.offer([memory.address(column=i) for i in range(20)], 400)
    memory.offer([memory.address(bank_group=1, column=i) for i in range(writes)], 401, is_write=True)
    columns = [name for tick, name in memory.commands() if tick > 400 and name in ("RD", "WR")]
    assert [(name, len(list(turn))) for name, turn in groupby(columns)] == turns


def test_without_reads_in_the_queue_writes_are_drained(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read()  # leaves the queue with its activate
    memory.write(bank_group=1)
    assert [name for _, name in memory.commands()] == ["ACT", "ACT", "WR", "RD"]


def test_a_read_of_a_waiting_write_is_served_from_it_in_a_tick_without_a_command(make_memory: Maker) -> None:
    memory = make_memory()
    memory.write()
    read = memory.read()
    second = memory.write()
    done = done_by_request(memory)
    assert (done[read], done[second]) == (1, 1)
    s = memory.dram.statistics()
    assert (s.merged_reads, s.merged_writes, s.reads, s.writes) == (1, 1, 1, 2)
    assert [name for _, name in memory.commands()] == ["ACT", "WR"]
    alone = make_memory(merge=False)
    for _ in range(2):
        alone.write()
    alone.read()
    assert sorted(name for _, name in alone.commands()) == ["ACT", "RD", "WR", "WR"]


@pytest.mark.parametrize("queue", [1, 4])
def test_a_full_queue_holds_up_the_bursts_behind_it_also_those_of_the_other_kind(
    make_memory: Maker, queue: int
) -> None:
    memory = make_memory(queue=queue)
    for row in range(3):
        memory.write(row=row)
    memory.read(bank_group=1)
    memory.dram.drain()
    begun = next(int(c[0]) for c in memory.dram.commands() if c[3] == 1)
    second_write = 1 + ACT_WR + WR_PRE + PRE_ACT + 1  # 175: its activate makes room for the third one, and the read
    assert begun > second_write if queue == 1 else begun == 1


@pytest.mark.parametrize(("row_policy", "timeout", "at"), [("closed", 0, 93), ("timeout", 100, 165)])
def test_a_row_that_nobody_waits_for_is_closed_at_once_or_after_the_timeout(
    make_memory: Maker, row_policy: str, timeout: int, at: int
) -> None:
    memory = make_memory(row_policy=row_policy, timeout_ticks=timeout)
    memory.read()
    memory.dram.advance(1000)
    # closed at once: nRAS after the activate at 1; with a timeout: so many ticks after the read at 65
    assert ticks_of(memory.commands(), "PRE") == [at]
    hit = make_memory(row_policy=row_policy, timeout_ticks=timeout)
    hit.read()
    hit.read(tick=50, column=1)
    hit.dram.advance(1000)
    assert ticks_of(hit.commands(), "PRE") == [max(1 + ACT_PRE, 73 + max(RD_PRE, timeout))]


def test_the_first_command_of_each_burst_makes_it_hit_miss_or_conflict(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read(row=0)  # miss
    memory.read(tick=500, row=0)  # hit
    memory.read(tick=1000, row=1)  # conflict
    memory.read(tick=1500, row=1)  # hit
    memory.dram.drain()
    s = memory.dram.statistics()
    assert (s.row_hits, s.row_misses, s.row_conflicts, s.activates, s.precharges) == (2, 1, 1, 2, 1)
    assert (s.bank_activates[0, 0], s.bank_conflicts[0, 0], s.bank_bursts[0, 0]) == (2, 1, 4)
    # arrived at 1000: precharge at 1001, activate at 1051, read at 1115
    assert s.latency_ticks_max == 1 + PRE_ACT + ACT_RD + READ


def test_all_bank_refresh_closes_the_banks_and_blocks_them_for_trfc(make_memory: Maker) -> None:
    memory = make_memory(refresh="all-bank")
    memory.read(tick=T.nREFI - 100, row=0)
    memory.read(tick=T.nREFI + 1, row=0)
    memory.dram.drain()
    commands = memory.dram.commands()
    first_pc = [(int(c[0]), int(c[6])) for c in commands if c[2] == 0]
    start = T.nREFI + T.nRP + 1  # PREab at the falling edge, the refresh at the edge after nRP
    blocked = start + T.nRFC + 1 - T.act_ticks
    assert first_pc[2:6] == [(T.nREFI, 2), (start, 6), (blocked, 0), (blocked + ACT_RD, 3)]
    # the other pseudo-channel, all of whose banks are closed, follows on the shared row bus at the next edge
    assert [(int(c[0]), int(c[6])) for c in commands if c[2] == 1] == [(start + 2, 6)]


def test_while_an_all_bank_refresh_waits_no_burst_of_either_pseudo_channel_is_begun(make_memory: Maker) -> None:
    memory = make_memory(refresh="all-bank")
    memory.read(tick=T.nREFI - 100)
    memory.read(tick=T.nREFI, pseudo_channel=1)
    memory.dram.drain()
    commands = memory.dram.commands()
    begun = [int(c[0]) for c in commands if c[2] == 1 and c[6] == 0]
    refreshed = [int(c[0]) for c in commands if c[6] == 6]
    assert begun[0] > max(refreshed)


def test_per_bank_refresh_blocks_only_its_bank(make_memory: Maker) -> None:
    memory = make_memory(refresh="per-bank")
    due = T.nREFIpb + 1  # the edge after tick 390
    blocked = memory.read(tick=due, bank=0)
    free = memory.read(tick=due, bank_group=1)
    ticks = done_by_request(memory)
    unloaded = ACT_RD + READ
    assert ticks[blocked] == due + T.nRFCpb + 1 - T.act_ticks + unloaded
    # the other bank waits for the gap between a refresh and an activate only
    assert ticks[free] == due + T.nRREFD + 1 - T.act_ticks + unloaded


@pytest.mark.parametrize("refresh", ["per-bank", "all-bank"])
def test_every_bank_is_refreshed_once_per_refresh_interval(make_memory: Maker, refresh: str) -> None:
    memory = make_memory(refresh=refresh, record_commands=False)
    intervals = 50
    memory.dram.advance(intervals * T.nREFI + T.nRFC)
    per_interval = 1 if refresh == "all-bank" else memory.organisation.banks
    assert memory.dram.statistics().refreshes >= intervals * per_interval * 2
    assert memory.dram.statistics().refreshes <= (intervals * per_interval + 3) * 2


@pytest.mark.parametrize("refresh", ["per-bank", "all-bank"])
def test_skipping_idle_refreshes_changes_nothing(make_memory: Maker, refresh: str) -> None:
    results = []
    for recorded in (False, True):  # a recorded run skips nothing
        memory = make_memory(refresh=refresh, record_commands=recorded)
        memory.read(row=1)
        memory.dram.advance(500_000)
        memory.read(tick=500_123, bank=2)
        memory.read(tick=501_000, bank_group=1)
        _, done = memory.dram.advance(1_000_000)
        s = memory.dram.statistics()
        results.append((done.tolist(), s.refreshes, s.precharges, memory.dram.close(1_000_000).tolist()))
    assert results[0] == results[1]


# Of 128 bursts in four rows, 512 ticks, the queue sees 16 of a pseudo-channel ahead, 64 ticks, and four new rows take
# longer than that: some 50 ticks are lost. Refreshes of all banks take 1120 of 12480 ticks more. One of a single bank,
# 640 ticks every 390, holds up a stream that uses 4 of 32 banks at a time: at most a fifth of the time.
@pytest.mark.parametrize(("refresh", "least"), [("none", 0.89), ("all-bank", 0.81), ("per-bank", 0.71)])
def test_sequential_reads_come_close_to_the_peak(make_memory: Maker, refresh: str, least: float) -> None:
    order = ("pseudo_channel", "bank_group", "column", "bank", "channel", "stack", "row")
    memory = make_memory(order=order, refresh=refresh, record_commands=False)
    bursts = 40_000
    memory.dram.reserve(bursts)
    memory.offer(range(0, bursts * 32, 32))
    _, done = memory.dram.drain()
    assert least < bursts * T.nCCDS / 2 / done[-1] <= 1


def test_random_reads_are_bound_by_the_window_of_four_activates(make_memory: Maker) -> None:
    memory = make_memory(record_commands=False)
    bursts = 20_000
    memory.dram.reserve(bursts)
    rng = np.random.default_rng(3)
    memory.offer((rng.integers(0, memory.capacity_bytes // 32, bursts) * 32).tolist())
    _, done = memory.dram.drain()
    activates = memory.dram.statistics().activates / 2  # per pseudo-channel
    assert 0.8 < activates * T.nFAW / 4 / done[-1] <= 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"refresh": "perbank"}, "policy.refresh: unknown 'perbank'; known: per-bank"),
        ({"scheduler": "frfcfs"}, "policy.scheduler: unknown 'frfcfs'; known: fr-fcfs"),
        ({"read_queue": 0}, "policy.read_queue: 0"),
        ({"bank_queue": 33}, "policy.bank_queue: 33 is outside 1 .. 32"),
        ({"write_low": 0.9}, "write_low 0.9"),
        ({"hit_streak": 0}, "policy.hit_streak: 0"),
        ({"row_policy": "closed", "timeout_ticks": 5}, "policy.timeout_ticks: 5 with row policy 'closed'"),
        ({"scheduler": "per-bank-queues"}, "policy.refresh: 'per-bank' does not go with per-bank queues"),
    ],
)
def test_a_policy_out_of_range_is_refused_with_its_value(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Policy(**change)


@pytest.mark.parametrize(
    ("digits", "problem"),
    [
        ([(32, 64, 6, 1)], "column reaches 63, but there are 32"),
        ([(32, 3, 6, 1), (64, 3, 5, 1), (96, 2, 4, 1)], "divisor 96"),
    ],
)
def test_address_map_tables_that_do_not_fit_are_refused(digits: list[Any], problem: str) -> None:
    tables = np.array(digits, np.int64), np.zeros((0, 4), np.int64)
    with pytest.raises(ValueError, match=problem):
        Dram(T, replace(HBM3.organisation, channels=1), 1, tables, Policy())
