from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.dram.checker import check
from hwmodel.dram.controller import CAUSES, Dram, Policy
from hwmodel.dram.standards import HBM3, rules

Maker = Callable[..., Any]
T = HBM3.timing(6_400_000_000)
REFRESHES = ("per-bank", "all-bank", "none")
Bursts = list[tuple[int, int, bool]]  # (gap to the one before, location seed, is a write)


def ticks_of(commands: list[tuple[int, str]], name: str) -> list[int]:
    return [tick for tick, command in commands if command == name]


def test_a_lone_read_activates_reads_after_trcdrd_and_is_done_after_cl_and_the_burst(
    make_memory: Maker,
) -> None:
    memory = make_memory()
    request = memory.read(tick=7, bank=3, row=5)
    requests, done = memory.dram.drain()
    assert memory.dram.commands()[:, [0, 4, 5, 6]].tolist() == [[7, 3, 5, 0], [7 + T.nRCDRD, 3, 5, 3]]
    assert (requests.tolist(), done.tolist()) == ([request], [7 + T.nRCDRD + T.nCL + T.nBL])


def test_a_lone_write_activates_writes_after_trcdwr_and_is_done_after_cwl_and_the_burst(
    make_memory: Maker,
) -> None:
    memory = make_memory()
    memory.write(tick=3)
    _, done = memory.dram.drain()
    assert memory.commands() == [(3, "ACT"), (3 + T.nRCDWR, "WR")]
    assert done.tolist() == [3 + T.nRCDWR + T.nCWL + T.nBL]


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
    memory.read(tick=200)
    memory.read(tick=200, **second)
    first, last = ticks_of(memory.commands(), "RD")[-2:]
    assert (first, last - first) == (200, gap)


def test_second_activate_in_the_same_bank_group_waits_trrd_l(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read(bank=0)
    memory.read(bank=1)
    assert ticks_of(memory.commands(), "ACT") == [0, T.nRRDL]


def test_second_activate_in_another_bank_group_waits_trrd_s(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read(bank_group=0)
    memory.read(bank_group=1)
    assert ticks_of(memory.commands(), "ACT") == [0, T.nRRDS]


def test_fifth_activate_waits_for_the_window_of_four(make_memory: Maker) -> None:
    memory = make_memory()
    for i in range(8):
        memory.read(bank_group=i % 4, bank=i // 4)
    acts = ticks_of(memory.commands(), "ACT")
    assert acts == [0, 4, 8, 12, T.nFAW, T.nFAW + 4, T.nFAW + 8, T.nFAW + 12]


def test_activates_of_two_pseudo_channels_share_the_row_command_bus(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read(pseudo_channel=0)
    memory.read(pseudo_channel=1)
    assert memory.commands() == [(0, "ACT"), (1, "ACT"), (T.nRCDRD, "RD"), (T.nRCDRD + 1, "RD")]


def test_channels_share_no_command_bus(make_memory: Maker) -> None:
    memory = make_memory(channels=2)
    memory.read(channel=0)
    memory.read(channel=1)
    assert sorted(memory.commands()) == [(0, "ACT"), (0, "ACT"), (T.nRCDRD, "RD"), (T.nRCDRD, "RD")]


def test_a_read_conflict_precharges_after_tras_and_activates_after_trc(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read(row=0)
    memory.read(row=1)
    expected = [(0, "ACT"), (T.nRCDRD, "RD"), (T.nRAS, "PRE"), (T.nRC, "ACT"), (T.nRC + T.nRCDRD, "RD")]
    assert memory.commands() == expected


def test_an_open_row_is_precharged_trtp_after_a_late_read_and_activated_trp_later(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read(row=0)
    memory.read(tick=100, row=0)
    memory.read(tick=101, row=1)
    assert memory.commands()[2:4] == [(100, "RD"), (100 + T.nRTP, "PRE")]
    assert memory.commands()[4] == (100 + T.nRTP + T.nRP, "ACT")


def test_a_write_conflict_precharges_after_write_recovery(make_memory: Maker) -> None:
    memory = make_memory()
    memory.write(row=0)
    memory.write(row=1)
    assert ticks_of(memory.commands(), "PRE") == [T.nRCDWR + T.nCWL + T.nBL + T.nWR]


@pytest.mark.parametrize(("group", "extra"), [(0, T.nWTRL), (1, T.nWTRS)])
def test_a_read_after_a_write_waits_twtr_after_the_write_data(make_memory: Maker, group: int, extra: int) -> None:
    memory = make_memory()
    memory.read(bank_group=group)
    memory.write(tick=100)
    memory.write(tick=200)
    memory.read(tick=201, bank_group=group)
    commands = memory.commands()
    assert (ticks_of(commands, "WR")[-1], ticks_of(commands, "RD")[-1]) == (200, 200 + T.nCWL + T.nBL + extra)


def test_a_write_after_a_read_waits_trtw(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read()
    memory.read(tick=100)
    memory.write(tick=101)
    assert ticks_of(memory.commands(), "WR") == [100 + T.nRTW]


def test_a_younger_row_hit_passes_an_older_conflict_but_does_not_keep_the_row_open(
    make_memory: Maker,
) -> None:
    memory = make_memory()
    memory.read(row=0)
    conflict = memory.read(tick=1, row=1)
    hit = memory.read(tick=2, row=0, column=1)
    requests, _ = memory.dram.drain()
    assert requests.tolist().index(hit) < requests.tolist().index(conflict)
    assert ticks_of(memory.commands(), "PRE") == [T.nRAS]


@pytest.mark.parametrize("groups", [(2, 0, 1), (0, 1, 2), (1, 2, 0)])
def test_row_hits_that_are_ready_together_are_served_in_the_order_of_arrival(
    make_memory: Maker, groups: tuple[int, ...]
) -> None:
    memory = make_memory()
    for group in range(3):
        memory.read(bank_group=group)
    for group in groups:
        memory.read(tick=200, bank_group=group)
    memory.dram.drain()
    trace = memory.dram.commands()
    assert tuple(trace[trace[:, 0] >= 200][:, 3]) == groups


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


def test_no_more_younger_hits_than_the_cap_pass_a_burst_for_another_row(make_memory: Maker) -> None:
    memory = make_memory(bypass_cap=3)
    memory.read(row=0)
    memory.read(row=1)
    for column in range(20):
        memory.read(row=0, column=column)
    names = [name for _, name in memory.commands()]
    assert names[:7] == ["ACT", "RD", "RD", "RD", "RD", "PRE", "ACT"]


def test_reads_go_first_until_the_writes_reach_the_high_watermark(make_memory: Maker) -> None:
    few, many = 7, 8  # the high watermark is 8 of 10
    for writes, first in ((few, "RD"), (many, "WR")):
        memory = make_memory(queue_depth=10)
        for i in range(writes):
            memory.write(column=i)
        memory.read(column=31)
        assert next(name for _, name in memory.commands() if name in ("RD", "WR")) == first


def stream(memory: Any, is_write: bool, first: int, count: int) -> None:
    """Offer so many bursts of a stream through rows of one bank per kind, at tick 0."""
    for i in range(first, first + count):
        place = {"bank_group": 2 + is_write, "row": i // 32 % 100, "column": i % 32}
        memory.offer([memory.address(**place)], 0, is_write)


@pytest.mark.parametrize("refresh", ["none", "per-bank"])
def test_a_read_behind_few_of_many_writes_waits_for_one_drain_of_them(make_memory: Maker, refresh: str) -> None:
    latencies = []
    for writes in (200, 2000, 20_000):
        memory = make_memory(refresh=refresh, record_commands=False)
        stream(memory, True, 0, 11)
        read = memory.read()
        stream(memory, True, 11, writes - 11)
        requests, done = memory.dram.drain()
        latencies.append(dict(zip(requests.tolist(), done.tolist(), strict=True))[read])
    assert len(set(latencies)) == 1
    refreshed = T.nRFCpb if refresh == "per-bank" else 0  # the bank of the read is the first to be refreshed
    # a window of writes to one bank group, the rows of the first and of the next, the turnaround and the read
    assert latencies[0] < 64 * T.nCCDL + 2 * T.nRC + 100 + refreshed


def test_after_a_drain_all_reads_that_waited_are_served_before_the_next(make_memory: Maker) -> None:
    memory = make_memory()
    stream(memory, True, 0, 11)
    stream(memory, False, 0, 20)
    stream(memory, True, 11, 289)
    columns = [name for _, name in memory.commands() if name in ("RD", "WR")]
    turns = [(name, len(list(turn))) for name, turn in groupby(columns)]
    drain = 64 - 12 + 1  # from a full window to below the low watermark, 0.2 of 64
    assert turns == [("WR", drain), ("RD", 20), ("WR", 300 - drain)]


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
    assert s.latency_ticks_max == T.nRP + T.nRCDRD + T.nCL + T.nBL


def test_all_bank_refresh_closes_the_banks_and_blocks_them_for_trfc(make_memory: Maker) -> None:
    memory = make_memory(refresh="all-bank")
    memory.read(tick=T.nREFI - 100, row=0)
    memory.read(tick=T.nREFI + 1, row=0)
    commands = memory.dram.drain() and memory.dram.commands()
    first_pc = [(int(c[0]), int(c[6])) for c in commands if c[2] == 0]
    start = T.nREFI + T.nRP
    names = [(T.nREFI, 2), (start, 6), (start + T.nRFC, 0), (start + T.nRFC + T.nRCDRD, 3)]
    assert first_pc[2:6] == names


def test_per_bank_refresh_blocks_only_its_bank(make_memory: Maker) -> None:
    memory = make_memory(refresh="per-bank")
    blocked = memory.read(tick=T.nREFIpb + 1, bank=0)
    free = memory.read(tick=T.nREFIpb + 1, bank_group=1)
    requests, done = memory.dram.drain()
    ticks = dict(zip(requests.tolist(), done.tolist(), strict=True))
    unloaded = T.nRCDRD + T.nCL + T.nBL
    assert ticks[blocked] == T.nREFIpb + T.nRFCpb + unloaded
    # the other bank waits for the gap between a refresh and an activate only
    assert ticks[free] == T.nREFIpb + T.nRREFD + unloaded


@pytest.mark.parametrize("refresh", ["per-bank", "all-bank"])
def test_every_bank_is_refreshed_once_per_refresh_interval(make_memory: Maker, refresh: str) -> None:
    memory = make_memory(refresh=refresh, record_commands=False)
    intervals = 50
    memory.dram.advance(intervals * T.nREFI + T.nRFC)
    per_interval = 1 if refresh == "all-bank" else memory.organisation.banks
    assert memory.dram.statistics().refreshes >= intervals * per_interval * 2
    assert memory.dram.statistics().refreshes <= (intervals * per_interval + 3) * 2


def test_skipping_idle_refreshes_changes_nothing(make_memory: Maker) -> None:
    results = []
    for recorded in (False, True):  # a recorded run skips nothing
        memory = make_memory(refresh="per-bank", record_commands=recorded)
        memory.read(row=1)
        memory.dram.advance(500_000)
        memory.read(tick=500_123, bank=2)
        _, done = memory.dram.advance(1_000_000)
        s = memory.dram.statistics()
        earliest = memory.dram.state.ready.tolist()
        results.append((done.tolist(), s.refreshes, s.precharges, earliest, memory.dram.close(1_000_000).tolist()))
    assert results[0] == results[1]


def locations(seed: int, spread: int) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    sizes = {"pseudo_channel": 2, "bank_group": 4, "bank": 8, "row": 1 + spread, "column": 32}
    return {name: int(rng.integers(size)) for name, size in sizes.items()}


traffic = st.lists(
    st.tuples(st.sampled_from([0, 0, 0, 1, 5, 40, 700]), st.integers(0, 40), st.booleans()),
    min_size=1,
    max_size=150,
)


def run_in_steps(memory: Any, bursts: Bursts, steps: list[int], horizon: int) -> tuple[Any, ...]:
    """Offer bursts, advancing to `steps` in between, never past an arrival that has not been offered yet."""
    tick, pending = 0, sorted(steps)
    numbers: dict[int, int] = {}  # open request -> burst
    done: list[tuple[int, int]] = []
    for i, (gap, seed, is_write) in enumerate(bursts):
        tick += gap
        while pending and pending[0] <= tick:
            collect(memory.dram.advance(pending.pop(0)), numbers, done)
        numbers[memory.offer([memory.address(**locations(seed, 1))], tick, is_write)] = i
    for limit in [*pending, horizon]:
        collect(memory.dram.advance(limit), numbers, done)
    trace = memory.dram.commands()
    s = memory.dram.statistics()
    counts = [np.asarray(getattr(s, name)).tolist() for name in type(s).__dataclass_fields__]
    by_channel = trace[np.argsort(trace[:, 1], kind="stable")].tolist()
    return sorted(done), by_channel, counts, memory.dram.close(horizon + T.nCL + T.nBL).tolist()


def collect(completions: Any, numbers: dict[int, int], done: list[tuple[int, int]]) -> None:
    rows = list(zip(*(part.tolist() for part in completions), strict=True))
    assert rows == sorted(rows, key=lambda row: (row[1], row[0]))
    done += [(numbers.pop(request), tick) for request, tick in rows]


@given(
    bursts=traffic,
    steps=st.lists(st.integers(1, 30_000), max_size=40),
    refresh=st.sampled_from(REFRESHES),
    depth=st.sampled_from([1, 4, 64]),
)
def test_many_small_steps_equal_one_large_step(
    make_memory: Maker, bursts: Bursts, steps: list[int], refresh: str, depth: int
) -> None:
    horizon = 150 * 700 + 40_000
    options = {"refresh": refresh, "queue_depth": depth, "bin_ticks": 1000}
    one = run_in_steps(make_memory(**options), bursts, [], horizon)
    many = run_in_steps(make_memory(**options), bursts, steps, horizon)
    assert one == many


@given(bursts=traffic, refresh=st.sampled_from(REFRESHES), depth=st.sampled_from([1, 4, 64]))
def test_every_burst_is_done_once_no_rule_is_broken_and_the_accounts_add_up(
    make_memory: Maker, bursts: Bursts, refresh: str, depth: int
) -> None:
    memory = make_memory(refresh=refresh, queue_depth=depth, bin_ticks=1000)
    horizon = 150 * 700 + 40_000
    done, _, _, accounts = run_in_steps(memory, bursts, [], horizon)
    s, trace = memory.dram.statistics(), memory.dram.commands()
    assert [burst for burst, _ in done] == list(range(len(bursts)))
    assert memory.dram.idle
    writes = sum(is_write for *_, is_write in bursts)
    assert (s.reads, s.writes) == (len(bursts) - writes, writes)
    assert s.row_hits + s.row_misses + s.row_conflicts == len(bursts)
    assert [int(n) for n in np.bincount(trace[:, 6], minlength=7)[[3, 4, 0]]] == [
        s.reads,
        s.writes,
        s.activates,
    ]
    arrivals = np.cumsum([gap for gap, *_ in bursts])
    assert s.latency_ticks_sum == sum(tick for _, tick in done) - arrivals.sum()
    assert s.bytes_per_bin.sum() == len(bursts) * memory.organisation.burst_bytes == s.bank_bursts.sum() * 32
    assert s.bank_activates.sum() == s.activates
    assert s.bank_conflicts.sum() == s.row_conflicts
    assert np.all(np.sum(accounts, axis=1) == horizon + T.nCL + T.nBL)
    assert np.min(accounts) >= 0
    assert np.array(accounts)[:, CAUSES.index("data")].tolist() == s.pseudo_channel_busy_ticks.tolist()
    assert check(trace, rules(T, memory.organisation), memory.organisation) == []


def test_a_burst_that_arrives_after_a_step_wakes_its_idle_channel(make_memory: Maker) -> None:
    memory = make_memory(refresh="per-bank", record_commands=False)
    request = memory.read(tick=1000)
    memory.dram.advance(500)  # the channel has nothing to do yet
    requests, done = memory.dram.advance(1000 + T.nRFC + T.nREFI)
    assert requests.tolist() == [request]
    assert done[0] >= 1000 + T.nRCDRD + T.nCL + T.nBL


def test_a_request_is_done_with_its_last_burst(make_memory: Maker) -> None:
    memory = make_memory(channels=4)
    addresses = [memory.address(channel=i % 4, row=i // 4) for i in range(16)]
    request = memory.offer(addresses)
    requests, done = memory.dram.drain()
    last = memory.dram.commands()[memory.dram.commands()[:, 6] == 3][:, 0].max()
    assert (requests.tolist(), done.tolist()) == ([request], [last + T.nCL + T.nBL])


def test_the_compiled_decoder_places_bursts_where_the_tables_say(make_memory: Maker) -> None:
    order = ("column", "channel", "stack", "bank_group", "pseudo_channel", "row", "bank")
    hashes = [(1, 0, 5, 3), (1, 0, 5, 7), (3, 1, 5, 0), (2, 0, 4, 2), (4, 2, 6, 1)]
    memory = make_memory(channels=4, stacks=3, order=order, hashes=hashes)
    rng = np.random.default_rng(5)
    addresses = rng.integers(0, memory.capacity_bytes // 32, 200) * 32
    sizes = {"stack": 3} | memory.organisation.field_sizes()
    names = ("stack", "channel", "pseudo_channel", "bank_group", "bank", "row", "column")
    expected = []
    for address in addresses.tolist():
        raw = [address // memory.strides[name] % sizes[name] for name in names]
        field = list(raw)
        for target, bit, source, source_bit in hashes:
            field[target] ^= ((raw[source] >> source_bit) & 1) << bit
        expected.append((field[0] * 4 + field[1], *field[2:6]))
    memory.offer(addresses.tolist())
    memory.dram.drain()
    trace = memory.dram.commands()
    assert sorted(map(tuple, trace[trace[:, 6] == 3][:, 1:6].tolist())) == sorted(expected)


def test_a_completion_is_never_earlier_than_the_lookahead_after_the_start_of_the_step(
    make_memory: Maker,
) -> None:
    memory = make_memory()
    rng = np.random.default_rng(2)
    for i in range(300):
        memory.offer([memory.address(**locations(int(rng.integers(50)), 3))], 0, bool(i % 3 == 0))
    start = 0
    while not memory.dram.idle:
        _, done = memory.dram.advance(start + 10)
        assert all(done >= start + memory.dram.lookahead_ticks)
        assert all(done < start + 10 + T.nCL + T.nBL)
        start += 10


def test_sequential_reads_reach_nine_tenths_of_the_peak_with_per_bank_refresh(make_memory: Maker) -> None:
    order = ("pseudo_channel", "bank_group", "column", "bank", "channel", "stack", "row")
    memory = make_memory(order=order, refresh="per-bank", record_commands=False)
    bursts = 40_000
    memory.dram.reserve(bursts)
    memory.offer(range(0, bursts * 32, 32))
    _, done = memory.dram.drain()
    assert 0.9 < bursts * T.nCCDS / 2 / done[-1] <= 1


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
    ("change", "problem"),
    [
        ({"refresh": "perbank"}, "policy.refresh: unknown 'perbank'; known: per-bank"),
        ({"queue_depth": 0}, "policy.queue_depth: 0"),
        ({"write_low": 0.9}, "write_low 0.9"),
        ({"bypass_cap": 0}, "policy.bypass_cap: 0"),
    ],
)
def test_a_policy_out_of_range_is_refused_with_its_value(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Policy(**change)


def test_an_address_outside_the_capacity_is_refused(make_memory: Maker) -> None:
    memory = make_memory()
    with pytest.raises(ValueError, match="outside the capacity"):
        memory.offer([memory.capacity_bytes])


def test_an_arrival_in_the_past_is_refused(make_memory: Maker) -> None:
    memory = make_memory()
    memory.dram.advance(100)
    with pytest.raises(ValueError, match="before"):
        memory.read(tick=99)


def test_closing_the_account_with_waiting_bursts_or_before_the_last_data_is_refused(
    make_memory: Maker,
) -> None:
    memory = make_memory()
    memory.read()
    with pytest.raises(ValueError, match="1 bursts still wait"):
        memory.dram.close(1000)
    memory.dram.drain()
    with pytest.raises(ValueError, match="makespan 10 "):
        memory.dram.close(10)


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
