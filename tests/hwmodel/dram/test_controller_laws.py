"""What holds for every controller, however composed: no burst is lost, no rule broken, no tick unaccounted for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.dram.checker import check
from hwmodel.dram.controller import CAUSES
from hwmodel.dram.standards import rules, standard_names

Maker = Callable[..., Any]
REFRESHES = ("per-bank", "all-bank", "none")
SHARED = ("fr-fcfs-row-hit", "fr-fcfs", "fcfs")
QUEUES = (1, 4, 32)
Bursts = list[tuple[int, int, bool]]  # (gap to the one before, location seed, is a write)
HORIZON = 150 * 700 + 60_000

policies = st.one_of(
    st.fixed_dictionaries(
        {
            "scheduler": st.sampled_from(SHARED),
            "refresh": st.sampled_from(REFRESHES),
            "queue": st.sampled_from(QUEUES),
            "merge": st.booleans(),
        }
    ).flatmap(
        lambda policy: st.sampled_from(
            (
                policy | {"row_policy": "open"},
                policy | {"row_policy": "closed"},
                policy | {"row_policy": "timeout", "timeout_ticks": 100},
            )
        )
    ),
    st.fixed_dictionaries(
        {
            "scheduler": st.just("per-bank-queues"),
            "refresh": st.sampled_from(("all-bank", "none")),
            "queue": st.sampled_from(QUEUES),
            "bank_queue": st.sampled_from((1, 8)),
            "hit_streak": st.sampled_from((1, 4)),
            "write_low": st.sampled_from((0.0, 0.25)),
        }
    ),
)
traffic = st.lists(
    st.tuples(st.sampled_from([0, 0, 0, 1, 5, 40, 700]), st.integers(0, 40), st.booleans()), min_size=1, max_size=150
)


def location(memory: Any, seed: int, rows: int = 2) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    sizes = memory.organisation.field_sizes() | {"channel": 1, "row": rows}
    return {name: int(rng.integers(size)) for name, size in sizes.items()}


def run_in_steps(memory: Any, bursts: Bursts, steps: list[int]) -> tuple[Any, ...]:
    """Offer bursts, advancing to `steps` in between, never past an arrival that has not been offered yet."""
    tick, pending = 0, sorted(steps)
    numbers: dict[int, int] = {}  # open request -> burst
    done: list[tuple[int, int]] = []
    for i, (gap, seed, is_write) in enumerate(bursts):
        tick += gap
        while pending and pending[0] <= tick:
            collect(memory.dram.advance(pending.pop(0)), numbers, done)
        numbers[memory.offer([memory.address(**location(memory, seed))], tick, is_write)] = i
    for limit in [*pending, HORIZON]:
        collect(memory.dram.advance(limit), numbers, done)
    trace = memory.dram.commands()
    s = memory.dram.statistics()
    counts = [np.asarray(getattr(s, name)).tolist() for name in type(s).__dataclass_fields__]
    by_channel = trace[np.argsort(trace[:, 1], kind="stable")].tolist()
    return sorted(done), by_channel, counts, memory.dram.close(HORIZON + 1000).tolist()


def collect(completions: Any, numbers: dict[int, int], done: list[tuple[int, int]]) -> None:
    rows = list(zip(*(part.tolist() for part in completions), strict=True))
    assert rows == sorted(rows, key=lambda row: (row[1], row[0]))
    done += [(numbers.pop(request), tick) for request, tick in rows]


@given(bursts=traffic, steps=st.lists(st.integers(0, 30_000), max_size=40), policy=policies)
def test_many_small_steps_equal_one_large_step(
    make_memory: Maker, bursts: Bursts, steps: list[int], policy: dict[str, Any]
) -> None:
    one = run_in_steps(make_memory(bin_ticks=1000, **policy), bursts, [])
    many = run_in_steps(make_memory(bin_ticks=1000, **policy), bursts, steps)
    assert one == many


@given(bursts=traffic, policy=policies)
def test_bursts_of_a_tick_that_was_run_to_are_taken_together(
    make_memory: Maker, bursts: Bursts, policy: dict[str, Any]
) -> None:
    """`advance` ends before its tick, the first one too: what is enqueued at it later waits beside what was already."""
    together = run_in_steps(make_memory(bin_ticks=1000, **policy), bursts, [])
    arrivals = np.cumsum([gap for gap, *_ in bursts]).tolist()
    memory = make_memory(bin_ticks=1000, **policy)
    offer = memory.offer

    def run_then_offer(addresses: list[int], tick: int, is_write: bool) -> int:
        request: int = offer(addresses, tick, is_write)
        memory.dram.statistics()
        return request

    memory.offer = run_then_offer
    assert run_in_steps(memory, bursts, arrivals) == together


def test_a_write_that_was_run_to_its_tick_does_not_go_before_a_read_of_the_same_tick(make_memory: Maker) -> None:
    def commands(in_steps: bool) -> list[tuple[int, str]]:
        memory = make_memory(write_low=0.0, refresh="none")
        memory.write(0, row=1)
        if in_steps:
            memory.dram.advance(0)
            memory.dram.advance(0)
        memory.read(0, row=2)
        found: list[tuple[int, str]] = memory.commands()
        return found

    together = commands(in_steps=False)
    assert [name for _, name in together][1] == "RD"
    assert commands(in_steps=True) == together


def test_what_completes_while_statistics_are_read_is_returned_by_the_next_step(make_memory: Maker) -> None:
    def waiting_write_and_read() -> tuple[Any, int]:
        memory = make_memory(scheduler="per-bank-queues", refresh="none", write_low=0.25)
        memory.write(5)
        memory.dram.advance(5)
        return memory, memory.read(5)  # served by the write

    memory, read = waiting_write_and_read()
    assert memory.dram.statistics().merged_reads == memory.dram.statistics().merged_reads == 1
    requests, ticks = memory.dram.advance(6)
    assert (requests.tolist(), ticks.tolist()) == ([read], [6])
    assert [part.tolist() for part in memory.dram.advance(7)] == [[], []]
    memory, read = waiting_write_and_read()
    memory.dram.commands()
    assert read in memory.dram.drain()[0].tolist()


@given(bursts=traffic, policy=policies, name=st.sampled_from(standard_names()))
def test_every_burst_is_done_once_no_rule_is_broken_and_the_accounts_add_up(
    make_memory: Maker, bursts: Bursts, policy: dict[str, Any], name: str
) -> None:
    memory = make_memory(name=name, bin_ticks=1000, log_bursts=True, **policy)
    done, _, _, accounts = run_in_steps(memory, bursts, [])
    s, trace, log = memory.dram.statistics(), memory.dram.commands(), memory.dram.bursts()
    assert check(trace, rules(memory.timing, memory.organisation), memory.organisation) == []
    assert [burst for burst, _ in done] == list(range(len(bursts)))
    assert memory.dram.idle
    writes = sum(is_write for *_, is_write in bursts)
    assert (s.reads, s.writes, len(log)) == (len(bursts) - writes, writes, len(bursts))
    merged = s.merged_reads + s.merged_writes
    assert s.row_hits + s.row_misses + s.row_conflicts == len(bursts) - merged
    assert [int(n) for n in np.bincount(trace[:, 6], minlength=7)] == [
        s.activates,
        s.precharge_commands,
        s.precharge_all_commands,
        s.reads - s.merged_reads,
        s.writes - s.merged_writes,
        *((s.refreshes, 0) if policy["refresh"] == "per-bank" else (0, s.refreshes)),
    ]
    arrivals = np.cumsum([gap for gap, *_ in bursts])
    latencies = [tick - arrivals[burst] for burst, tick in done if not bursts[burst][2]]
    assert (s.latency_ticks_sum, s.latency_ticks_max) == (sum(latencies), max(latencies, default=0))
    served = len(bursts) - merged
    burst_bytes = memory.organisation.burst_bytes
    assert s.bytes_per_bin.sum() == served * burst_bytes == s.bank_bursts.sum() * burst_bytes
    assert s.bank_activates.sum() == s.activates
    assert s.bank_conflicts.sum() == s.row_conflicts
    assert np.all(np.sum(accounts, axis=1) == HORIZON + 1000)
    assert np.min(accounts) >= 0
    assert np.array(accounts)[:, CAUSES.index("data")].sum() == served * memory.timing.nBL
    acts = trace[trace[:, 6] == 0]
    for bank in np.unique(acts[:, 2:5], axis=0):  # without the rule table, which the checker and the controller share
        assert np.all(np.diff(acts[(acts[:, 2:5] == bank).all(axis=1), 0]) >= memory.timing.nRC)


@pytest.mark.parametrize("name", standard_names())
@pytest.mark.parametrize(
    "policy",
    [
        *({"scheduler": scheduler, "refresh": refresh} for scheduler in SHARED for refresh in REFRESHES),
        {"row_policy": "closed", "refresh": "per-bank", "merge": False},
        {"row_policy": "timeout", "timeout_ticks": 100, "refresh": "all-bank"},
        {"scheduler": "per-bank-queues", "refresh": "all-bank"},
    ],
    ids=lambda policy: " ".join(str(value) for value in policy.values()),
)
def test_no_composition_breaks_a_rule_of_any_standard(make_memory: Maker, policy: dict[str, Any], name: str) -> None:
    memory = make_memory(name=name, **policy)
    rng = np.random.default_rng(3)
    tick = 0
    for seed in range(400):
        tick += int(rng.choice([0, 0, 0, 2, 9, 60]))
        memory.offer([memory.address(**location(memory, seed, rows=3))], tick, bool(rng.random() < 0.4))
    memory.dram.drain()
    interval = memory.timing.nREFI if policy["refresh"] != "none" else 0
    table = rules(memory.timing, memory.organisation)
    assert check(memory.dram.commands(), table, memory.organisation, refresh_interval_ticks=interval) == []


@pytest.mark.parametrize(
    ("scheduler", "refresh"),
    [*((scheduler, "all-bank") for scheduler in (*SHARED, "per-bank-queues")), ("fr-fcfs-row-hit", "per-bank")],
)
def test_a_burst_that_arrives_after_a_step_wakes_its_idle_channel(
    make_memory: Maker, scheduler: str, refresh: str
) -> None:
    memory = make_memory(refresh=refresh, scheduler=scheduler, record_commands=False)
    t = memory.timing
    request = memory.read(tick=1000)
    memory.dram.advance(500)  # the channel has nothing to do yet
    requests, done = memory.dram.advance(1000 + t.nRFC + t.nREFI)
    assert requests.tolist() == [request]
    late = 4 if refresh == "all-bank" else t.nRFCpb  # a refresh of single banks may be under way
    assert 1000 + t.nRCDRD + t.nCL + t.nBL <= done[0] <= 1000 + t.nRCDRD + t.nCL + t.nBL + late


def test_a_request_is_done_with_its_last_burst(make_memory: Maker) -> None:
    memory = make_memory(channels=4)
    addresses = [memory.address(channel=i % 4, row=i // 4) for i in range(16)]
    request = memory.offer(addresses)
    requests, done = memory.dram.drain()
    last = memory.dram.commands()[memory.dram.commands()[:, 6] == 3][:, 0].max()
    assert (requests.tolist(), done.tolist()) == ([request], [last + memory.timing.nCL + memory.timing.nBL])


def test_the_compiled_decoder_places_bursts_where_the_tables_say(make_memory: Maker) -> None:
    order = ("column", "channel", "stack", "bank_group", "pseudo_channel", "row", "bank")
    hashes = [(1, 0, 5, 3), (1, 0, 5, 7), (3, 1, 5, 0), (2, 0, 4, 2), (4, 2, 6, 1)]
    for stacks in (3, 4):  # powers of two are decoded by another way
        turns = [(0, 0, 5, 1, 1, 3), (0, 0, 4, 0, 2, 3)] if stacks == 3 else []
        memory = make_memory(channels=4, stacks=stacks, order=order, hashes=[*hashes, *turns])
        rng = np.random.default_rng(5)
        addresses = rng.integers(0, memory.capacity_bytes // 32, 200) * 32
        sizes = {"stack": stacks} | memory.organisation.field_sizes()
        names = ("stack", "channel", "pseudo_channel", "bank_group", "bank", "row", "column")
        expected = []
        for address in addresses.tolist():
            raw = [address // memory.strides[name] % sizes[name] for name in names]
            field = list(raw)
            for target, bit, source, source_bit in hashes:
                field[target] ^= ((raw[source] >> source_bit) & 1) << bit
            for _, _, source, source_bit, weight, size in turns:
                field[0] = (field[0] + weight * ((raw[source] >> source_bit) & 1)) % size
            expected.append((field[0] * 4 + field[1], *field[2:6]))
        memory.offer(addresses.tolist())
        memory.dram.drain()
        trace = memory.dram.commands()
        assert sorted(map(tuple, trace[trace[:, 6] == 3][:, 1:6].tolist())) == sorted(expected)


@pytest.mark.parametrize(
    "policy",
    [{"merge": False}, {"merge": True}, {"scheduler": "per-bank-queues"}],
    ids=["shared queues", "with merging", "bank queues"],
)
def test_a_completion_is_never_earlier_than_the_lookahead_after_the_start_of_the_step(
    make_memory: Maker, policy: dict[str, Any]
) -> None:
    memory = make_memory(**policy)
    rng = np.random.default_rng(2)
    for i in range(300):
        memory.offer([memory.address(**location(memory, int(rng.integers(50)), 4))], 0, bool(i % 3 == 0))
    start = 0
    t = memory.timing
    while not memory.dram.idle:
        _, done = memory.dram.advance(start + 10)
        assert all(done >= start + memory.dram.lookahead_ticks)
        assert all(done < start + 10 + t.nCL + t.nBL)
        start += 10


def test_an_address_outside_the_capacity_is_refused(make_memory: Maker) -> None:
    memory = make_memory()
    with pytest.raises(ValueError, match="outside the capacity"):
        memory.offer([memory.capacity_bytes])


def test_an_arrival_in_the_past_is_refused(make_memory: Maker) -> None:
    memory = make_memory()
    memory.dram.advance(100)
    with pytest.raises(ValueError, match="before"):
        memory.read(tick=99)


def test_closing_the_account_with_waiting_bursts_or_before_the_last_data_is_refused(make_memory: Maker) -> None:
    memory = make_memory()
    memory.read()
    with pytest.raises(ValueError, match="1 bursts still wait"):
        memory.dram.close(1000)
    memory.dram.drain()
    with pytest.raises(ValueError, match="makespan 10 "):
        memory.dram.close(10)
