from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwmodel.dram.controller import Dram, Policy
from hwmodel.dram.standards import COMMANDS, HBM3

Maker = Callable[..., Any]
T = HBM3.timing(6_400_000_000)
LENGTH = {"ACT": T.act_ticks, "RD": T.column_ticks, "WR": T.column_ticks, "PRE": 1, "PREab": 1, "REFpb": 1, "REFab": 1}


def ticks_of(commands: list[tuple[int, str]], name: str) -> list[int]:
    return [tick for tick, command in commands if command == name]


def rising(tick: int) -> int:
    """The first rising edge of CK at or after a tick: all commands but precharges start at odd ticks."""
    return tick | 1


def apart(first: str, ticks: int, second: str) -> int:
    """Start to start of two commands whose data sheet's distance counts from the end of both."""
    return ticks + LENGTH[first] - LENGTH[second]


ACT_RD, ACT_WR = apart("ACT", T.nRCDRD, "RD"), apart("ACT", T.nRCDWR, "WR")
ACT_PRE, PRE_ACT = apart("ACT", T.nRAS, "PRE"), apart("PRE", T.nRP, "ACT")
FIRST = rising(1)  # a burst that arrives at tick 0 is accepted then, and gets its first command from tick 1 on


@pytest.mark.parametrize("arrival", [0, 7, 8])
def test_a_lone_read_takes_the_zero_load_latency(make_memory: Maker, arrival: int) -> None:
    """Accepted in its tick, activated at the next rising edge after it, read nRCDRD later, data nCL and nBL later."""
    memory = make_memory()
    request = memory.read(tick=arrival, bank=3, row=5)
    requests, done = memory.dram.drain()
    act = rising(arrival + 1)
    read = rising(act + ACT_RD)
    assert memory.dram.commands()[:, [0, 4, 5, 6]].tolist() == [[act, 3, 5, 0], [read, 3, 5, 3]]
    assert (requests.tolist(), done.tolist()) == ([request], [read + T.nCL + T.nBL])
    assert memory.dram.statistics().latency_ticks_sum == read + T.nCL + T.nBL - arrival


def test_a_lone_write_activates_writes_after_trcdwr_and_is_done_after_cwl_and_the_burst(make_memory: Maker) -> None:
    memory = make_memory()
    memory.write(tick=3)
    _, done = memory.dram.drain()
    act = rising(4)
    assert memory.commands() == [(act, "ACT"), (rising(act + ACT_WR), "WR")]
    assert done.tolist() == [rising(act + ACT_WR) + T.nCWL + T.nBL]


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
    memory.read(tick=500)
    memory.read(tick=500, **second)
    first, last = ticks_of(memory.commands(), "RD")[-2:]
    assert (first, last - first) == (501, gap)


@pytest.mark.parametrize(("second", "gap"), [({"bank": 1}, T.nRRDL), ({"bank_group": 1}, T.nRRDS)])
def test_a_second_activate_waits_trrd_of_its_distance(make_memory: Maker, second: dict[str, int], gap: int) -> None:
    memory = make_memory()
    memory.read()
    memory.read(**second)
    assert ticks_of(memory.commands(), "ACT") == [FIRST, FIRST + gap]


def test_fifth_activate_waits_for_the_window_of_four(make_memory: Maker) -> None:
    memory = make_memory()
    for i in range(8):
        memory.read(bank_group=i % 4, bank=i // 4)
    four = [FIRST + i * T.nRRDS for i in range(4)]
    assert ticks_of(memory.commands(), "ACT") == four + [tick + T.nFAW for tick in four]


def test_activates_of_two_pseudo_channels_share_the_row_command_bus(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read(pseudo_channel=0)
    memory.read(pseudo_channel=1)
    second = rising(FIRST + T.act_ticks)
    reads = [(rising(tick + ACT_RD), "RD") for tick in (FIRST, second)]
    assert memory.commands() == [(FIRST, "ACT"), (second, "ACT"), *reads]


def test_channels_share_no_command_bus(make_memory: Maker) -> None:
    memory = make_memory(channels=2)
    memory.read(channel=0)
    memory.read(channel=1)
    assert sorted(memory.commands()) == [(FIRST, "ACT")] * 2 + [(rising(FIRST + ACT_RD), "RD")] * 2


def test_a_read_conflict_precharges_after_tras_and_activates_after_trc(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read(row=0)
    memory.read(row=1)
    precharge = FIRST + ACT_PRE
    again = rising(max(FIRST + T.nRC, precharge + PRE_ACT))
    read, last = rising(FIRST + ACT_RD), rising(again + ACT_RD)
    assert memory.commands() == [(FIRST, "ACT"), (read, "RD"), (precharge, "PRE"), (again, "ACT"), (last, "RD")]


def test_an_open_row_is_precharged_trtp_after_a_late_read_and_activated_trp_later(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read(row=0)
    memory.read(tick=200, row=0)
    memory.read(tick=201, row=1)
    precharge = 201 + apart("RD", T.nRTP, "PRE")
    assert memory.commands()[2:5] == [(201, "RD"), (precharge, "PRE"), (rising(precharge + PRE_ACT), "ACT")]


def test_a_write_conflict_precharges_after_write_recovery(make_memory: Maker) -> None:
    memory = make_memory()
    memory.write(row=0)
    memory.write(row=1)
    recovered = rising(FIRST + ACT_WR) + apart("WR", T.nCWL + T.nBL + T.nWR, "PRE")
    assert ticks_of(memory.commands(), "PRE") == [max(recovered, FIRST + ACT_PRE)]


@pytest.mark.parametrize(("group", "extra"), [(0, T.nWTRL), (1, T.nWTRS)])
def test_a_read_after_a_write_waits_twtr_after_the_write_data(make_memory: Maker, group: int, extra: int) -> None:
    memory = make_memory()
    memory.read(bank_group=group)
    memory.write(tick=200)
    memory.write(tick=400)
    memory.read(tick=401, bank_group=group, column=1)
    commands = memory.commands()
    assert (ticks_of(commands, "WR")[-1], ticks_of(commands, "RD")[-1]) == (401, 401 + T.nCWL + T.nBL + extra)


def test_a_write_after_a_read_waits_trtw(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read()
    memory.read(tick=200)
    memory.write(tick=201, column=1)
    assert ticks_of(memory.commands(), "WR") == [201 + T.nRTW]


@pytest.mark.parametrize(("scheduler", "passes"), [("fr-fcfs", True), ("fr-fcfs-row-hit", True), ("fcfs", False)])
def test_a_younger_row_hit_passes_an_older_conflict_unless_bursts_go_in_order(
    make_memory: Maker, scheduler: str, passes: bool
) -> None:
    memory = make_memory(scheduler=scheduler)
    memory.read(row=0)
    conflict = memory.read(tick=1, row=1)
    hit = memory.read(tick=2, row=0, column=1)
    requests, _ = memory.dram.drain()
    assert (requests.tolist().index(hit) < requests.tolist().index(conflict)) == passes


@pytest.mark.parametrize("groups", [(2, 0, 1), (0, 1, 2), (1, 2, 0)])
def test_row_hits_and_activates_that_are_ready_together_go_in_the_order_of_arrival(
    make_memory: Maker, groups: tuple[int, ...]
) -> None:
    memory = make_memory()
    for group in groups:
        memory.read(bank_group=group)
    for group in groups[::-1]:
        memory.read(tick=500, bank_group=group)
    memory.dram.drain()
    trace = memory.dram.commands()
    assert tuple(trace[trace[:, 6] == 0][:, 3]) == groups
    assert tuple(trace[trace[:, 0] >= 500][:, 3]) == groups[::-1]


@pytest.mark.parametrize(("writes", "first"), [(8, "RD"), (9, "WR")])
def test_reads_go_first_unless_more_writes_wait_than_the_high_watermark(
    make_memory: Maker, writes: int, first: str
) -> None:
    memory = make_memory(read_queue=10, write_queue=10)  # the high watermark is 8 of 10
    memory.read(bank_group=1)
    for i in range(writes):
        memory.write(column=i)
    memory.dram.drain()
    opened = memory.dram.commands()[0]
    assert (opened[3], opened[6]) == ({"RD": 1, "WR": 0}[first], 0)


def test_a_drain_ends_below_the_low_watermark_when_reads_wait(make_memory: Maker) -> None:
    memory = make_memory(read_queue=10, write_queue=10)  # from 10 writes down to 1, below 2 of 10
    memory.read(column=31)
    for i in range(10):
        memory.write(column=i)
    names = [name for _, name in memory.commands() if name in ("RD", "WR")]
    assert names == ["WR"] * 9 + ["RD", "WR"]


@pytest.mark.parametrize(("policy", "ticks"), [("closed", 0), ("timeout", 50)])
def test_a_row_that_nobody_waits_for_is_closed_after_its_timeout(make_memory: Maker, policy: str, ticks: int) -> None:
    memory = make_memory(row_policy=policy, timeout_ticks=ticks)
    memory.read()
    memory.dram.advance(1000)
    read = rising(FIRST + ACT_RD)
    precharge = max(FIRST + ACT_PRE, read + apart("RD", T.nRTP, "PRE"), read + ticks)
    assert ticks_of(memory.commands(), "PRE") == [precharge]


def test_a_row_whose_timeout_ends_with_an_activate_elsewhere_is_closed_when_the_bus_is_free(make_memory: Maker) -> None:
    memory = make_memory(row_policy="timeout", timeout_ticks=50)
    memory.read()
    precharge = rising(FIRST + ACT_RD) + 50
    for row in range(2):  # the second one waits all the while
        memory.read(tick=precharge - 20, bank_group=2, row=row)
    memory.read(tick=precharge - 1, bank_group=1)
    memory.dram.advance(precharge + 50)
    assert ticks_of(memory.commands(), "ACT")[:3] == [FIRST, rising(precharge - 19), precharge]
    assert ticks_of(memory.commands(), "PRE")[0] == precharge + T.act_ticks


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
    precharge = 1001  # the tick after its arrival
    assert s.latency_ticks_max == rising(rising(precharge + PRE_ACT) + ACT_RD) + T.nCL + T.nBL - 1000


def test_all_bank_refresh_closes_the_banks_and_blocks_them_for_trfc(make_memory: Maker) -> None:
    memory = make_memory(refresh="all-bank")
    memory.read(tick=T.nREFI - 300, row=0)
    memory.read(tick=T.nREFI + 1, row=0)
    memory.dram.drain()
    first_pc = [(int(c[0]), int(c[6])) for c in memory.dram.commands() if c[2] == 0]
    start = rising(T.nREFI + T.nRPab)  # both take one tick
    act = rising(start + apart("REFab", T.nRFC, "ACT"))
    # the other pseudo-channel has its refresh in between, on the same bus
    assert first_pc[2:4] == [(T.nREFI, 2), (start, 6)]
    assert first_pc[4] == (act, 0)


def test_per_bank_refresh_blocks_only_its_bank(make_memory: Maker) -> None:
    memory = make_memory(refresh="per-bank")
    blocked = memory.read(tick=T.nREFIpb + 1, bank=0)
    free = memory.read(tick=T.nREFIpb + 1, bank_group=1)
    requests, done = memory.dram.drain()
    ticks = dict(zip(requests.tolist(), done.tolist(), strict=True))
    refresh = rising(T.nREFIpb)
    act = rising(refresh + apart("REFpb", T.nRFCpb, "ACT"))
    assert ticks[blocked] == rising(act + ACT_RD) + T.nCL + T.nBL
    # the other bank waits for the gap between a refresh and an activate only
    act = rising(refresh + apart("REFpb", T.nRREFD, "ACT"))
    assert ticks[free] == rising(act + ACT_RD) + T.nCL + T.nBL


@pytest.mark.parametrize("refresh", ["per-bank", "all-bank"])
def test_every_bank_is_refreshed_once_per_refresh_interval(make_memory: Maker, refresh: str) -> None:
    memory = make_memory(refresh=refresh, record_commands=False)
    intervals = 50
    memory.dram.advance(intervals * T.nREFI + T.nRFC)
    per_interval = 1 if refresh == "all-bank" else memory.organisation.banks
    assert memory.dram.statistics().refreshes >= intervals * per_interval * 2
    assert memory.dram.statistics().refreshes <= (intervals * per_interval + 3) * 2


@pytest.mark.parametrize("scheduler", ["fr-fcfs-row-hit", "fr-fcfs"])
@pytest.mark.parametrize("divisor", [8, 10, 13])
def test_a_pseudo_channel_never_owes_many_more_refreshes_than_go_before_its_activates(
    make_memory: Maker, scheduler: str, divisor: int
) -> None:
    """Every read opens a row, and every activate keeps refreshes away for longer than the next activate."""
    most, bursts = 8, 6_000
    timing = replace(T, nREFIpb=T.nREFIpb // divisor // T.ticks_per_ck * T.ticks_per_ck)
    memory = make_memory(refresh="per-bank", scheduler=scheduler, timing=timing)
    memory.dram.reserve(bursts)
    rng = np.random.default_rng(7)
    memory.offer((rng.integers(0, memory.capacity_bytes // 32, bursts) * 32).tolist())
    memory.dram.drain()
    trace = memory.dram.commands()
    last = int(trace[trace[:, 6] == COMMANDS.index("RD"), 0].max())
    assert last > 1000 * timing.nREFIpb
    closing = T.nRAS + memory.organisation.banks * (T.nRP + T.ticks_per_ck)  # meanwhile more refreshes fall due
    for pc in range(memory.organisation.pseudo_channels):
        of_pc = trace[trace[:, 2] == pc]
        issued = of_pc[of_pc[:, 6] == COMMANDS.index("REFpb"), 0]
        due = timing.nREFIpb * np.arange(1, last // timing.nREFIpb + 1)
        owed = np.arange(1, len(due) + 1) - np.searchsorted(issued, due)
        assert most <= owed.max() <= most + closing // timing.nREFIpb


def test_skipping_idle_refreshes_changes_nothing(make_memory: Maker) -> None:
    results = []
    for recorded in (False, True):  # a recorded run skips nothing
        memory = make_memory(refresh="per-bank", record_commands=recorded)
        memory.read(row=1)
        memory.dram.advance(500_000)
        memory.read(tick=500_123, bank=2)
        _, done = memory.dram.advance(1_000_000)
        s = memory.dram.statistics()
        results.append((done.tolist(), s.refreshes, s.precharges, memory.dram.close(1_000_000).tolist()))
    assert results[0] == results[1]


def test_sequential_reads_lose_no_more_than_the_refreshes_of_the_banks_in_use(make_memory: Maker) -> None:
    order = ("pseudo_channel", "bank_group", "column", "bank", "channel", "stack", "row")
    memory = make_memory(order=order, refresh="per-bank", record_commands=False)
    bursts = 40_000
    memory.dram.reserve(bursts)
    memory.offer(range(0, bursts * 32, 32))
    _, done = memory.dram.drain()
    in_use = 4  # one bank of each group at a time; each is refreshed once in nREFI, and nobody else is served meanwhile
    assert 1 - in_use * T.nRFCpb / T.nREFI < bursts * T.nCCDS / 2 / done[-1] <= 1


def test_random_reads_are_bound_by_the_window_of_four_activates(make_memory: Maker) -> None:
    memory = make_memory(record_commands=False)
    bursts = 20_000
    memory.dram.reserve(bursts)
    rng = np.random.default_rng(3)
    memory.offer((rng.integers(0, memory.capacity_bytes // 32, bursts) * 32).tolist())
    _, done = memory.dram.drain()
    activates = memory.dram.statistics().activates / 2  # per pseudo-channel
    assert 0.95 < activates * T.nFAW / 4 / done[-1] <= 1


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
