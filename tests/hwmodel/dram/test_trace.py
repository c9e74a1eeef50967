from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.dram.standards import COMMANDS, HBM3
from hwmodel.dram.trace import (
    COUNTED,
    OUTCOMES,
    DramTrace,
    bank_places,
    bytes_moved,
    commands_named,
    count_per_bank,
    nearest_rank,
    queue_steps,
)

T = HBM3.timing(6_400_000_000)
SMALL = replace(HBM3.organisation, channels=2)
Row = tuple[int, ...]
NO_COMMANDS = np.zeros((0, 7), np.int64)
AFTER = (T.nCL + T.nBL, T.nCWL + T.nBL)  # from the column command of a read, a write, to its last data


def trace_of(bursts: list[Row], commands: list[Row] = []) -> DramTrace:  # noqa: B006
    """Of bursts (arrival, wait, channel, pseudo-channel, bank, is_write, outcome), `wait` until the column command."""
    rows = [(at, at + wait + AFTER[rest[3]], *rest) for at, wait, *rest in bursts]
    return DramTrace(np.array(commands, np.int64).reshape(-1, 7), np.array(rows, np.int64).reshape(-1, 7), T, SMALL)


BURST = st.tuples(
    st.integers(0, 60), st.integers(0, 40), st.integers(0, 1), st.integers(0, 1), st.integers(0, 31),
    st.integers(0, 1), st.integers(0, 2),
)  # fmt: skip
BURSTS = st.lists(BURST, max_size=30)


@given(BURSTS, st.booleans(), st.sampled_from([None, 0, 3]))
def test_the_depth_of_a_queue_is_the_bursts_between_arrival_and_column_command(
    bursts: list[Row], is_write: bool, pseudo_channel: int | None
) -> None:
    ticks, depths = queue_steps(trace_of(bursts), is_write, pseudo_channel)
    of = [b for b in bursts if b[5] == is_write and pseudo_channel in (None, 2 * b[2] + b[3])]
    for tick in range(102):
        waiting = sum(arrival <= tick < arrival + wait for arrival, wait, *_ in of)
        before = int(np.searchsorted(ticks, tick, "right")) - 1
        assert (int(depths[before]) if before >= 0 else 0) == waiting
    assert np.all(np.diff(ticks) > 0)
    assert not len(depths) or depths[-1] == 0


@given(BURSTS)
def test_the_area_below_a_queue_is_the_sum_of_all_waits(bursts: list[Row]) -> None:
    trace = trace_of(bursts)
    area = 0
    for is_write in (False, True):
        ticks, depths = queue_steps(trace, is_write)
        area += int((depths[:-1] * np.diff(ticks)).sum())
    assert area == sum(wait for _, wait, *_ in bursts)


@given(BURSTS)
def test_every_burst_is_counted_once_in_its_bank_by_its_outcome(bursts: list[Row]) -> None:
    trace = trace_of(bursts)
    expected = Counter(((2 * c + p) * 32 + bank, at + wait, outcome) for at, wait, c, p, bank, _, outcome in bursts)
    found: Counter[Any] = Counter()
    for name, outcome in (("hits", 0), ("misses", 1), ("conflicts", 2)):
        banks, ticks = count_per_bank(trace, name)
        found.update((bank, tick, outcome) for bank, tick in zip(banks.tolist(), ticks.tolist(), strict=True))
    assert found == expected
    assert len(count_per_bank(trace, "bursts")[0]) == len(bursts)


@given(BURSTS)
def test_bytes_are_those_of_the_bursts_of_each_pseudo_channel_and_channel(bursts: list[Row]) -> None:
    trace = trace_of(bursts)
    counts = Counter((b[2], b[3]) for b in bursts)
    assert bytes_moved(trace).tolist() == [32 * counts[c, p] for c in range(2) for p in range(2)]
    assert bytes_moved(trace, "channel").tolist() == [32 * (counts[c, 0] + counts[c, 1]) for c in range(2)]


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=40), st.integers(1, 1000))
def test_the_nearest_rank_is_the_least_value_that_enough_values_do_not_exceed(values: list[int], part: int) -> None:
    enough = (v for v in sorted(values) if 1000 * sum(w <= v for w in values) >= part * len(values))
    assert nearest_rank(np.sort(values), part) == next(enough)


def test_bank_places_are_those_of_the_controllers_counts(make_memory: Callable[..., Any]) -> None:
    for group in range(4):
        for bank in range(8):
            memory = make_memory()
            memory.read(bank_group=group, bank=bank, row=3)
            memory.dram.drain()
            counted = np.flatnonzero(memory.dram.statistics().bank_bursts[0])
            assert bank_places(np.array([group]), np.array([bank]), memory.organisation).tolist() == counted.tolist()
    assert bank_places(np.array([-1]), np.array([-1]), SMALL).tolist() == [-1]


@pytest.mark.parametrize("refresh", ["none", "per-bank"])
def test_the_bursts_of_a_run_find_their_column_commands(make_memory: Callable[..., Any], refresh: str) -> None:
    memory, rng = make_memory(channels=2, refresh=refresh, merge=False), np.random.default_rng(3)
    offered = {}
    for tick in np.sort(rng.integers(0, 900, 400)).tolist():
        place = {"channel": 2, "pseudo_channel": 2, "bank_group": 4, "bank": 8, "row": 3, "column": 32}
        at = {name: int(rng.integers(size)) for name, size in place.items()}
        is_write = int(rng.integers(4) == 0)
        offered[memory.offer([memory.address(**at)], tick, bool(is_write))] = (tick, at, is_write)
    rows = []
    for request, done in zip(*(part.tolist() for part in memory.dram.drain()), strict=True):
        tick, at, is_write = offered[request]
        place = bank_places(np.array([at["bank_group"]]), np.array([at["bank"]]), memory.organisation)
        where = (at["channel"], at["pseudo_channel"], int(place[0]))
        rows.append((tick, done, *where, is_write, 0, at["row"], at["column"]))
    trace = DramTrace(memory.dram.commands(), np.array(rows, np.int64), memory.timing, memory.organisation)
    columns = np.isin(trace.commands[:, 6], commands_named("RD").tolist() + commands_named("WR").tolist())
    issued = zip(
        trace.commands[columns, 0].tolist(), trace.command_pseudo_channels[columns].tolist(),
        trace.command_banks[columns].tolist(), trace.commands[columns, 5].tolist(), strict=True,
    )  # fmt: skip
    banks, rows_of = trace.bursts[:, 4].tolist(), trace.bursts[:, 7].tolist()
    wanted = (trace.issue_ticks.tolist(), trace.burst_pseudo_channels.tolist(), banks, rows_of)
    assert sorted(issued) == sorted(zip(*wanted, strict=True))
    statistics = memory.dram.statistics()
    assert np.bincount(count_per_bank(trace, "activates")[0], minlength=128).tolist() == (
        statistics.bank_activates.ravel().tolist()
    )
    assert int(trace.latency_ticks[trace.bursts[:, 5] == 0].sum()) == statistics.latency_ticks_sum  # of reads


def test_a_trace_of_nothing_has_nothing() -> None:
    trace = trace_of([])
    assert trace.span == (0, 0)
    for name in COUNTED:
        assert [part.tolist() for part in count_per_bank(trace, name)] == [[], []]
    assert [part.tolist() for part in queue_steps(trace, False)] == [[], []]
    assert bytes_moved(trace).tolist() == [0, 0, 0, 0]


def test_names_of_commands_are_found_by_their_beginning() -> None:
    assert [COMMANDS[number] for number in commands_named("REF")] == ["REFpb", "REFab"]
    assert [COMMANDS[number] for number in commands_named("PRE")] == ["PRE", "PREab"]
    assert OUTCOMES == ("hit", "miss", "conflict")


GOOD = (5, 99, 1, 1, 31, 0, 2)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (2, 2, r"trace.bursts: row 1: channel 2; allowed: 0 \.\. 1$"),
        (3, -1, r"trace.bursts: row 1: pseudo_channel -1; allowed: 0 \.\. 1$"),
        (4, 32, r"trace.bursts: row 1: bank 32; allowed: 0 \.\. 31$"),
        (5, 2, r"trace.bursts: row 1: is_write 2; allowed: 0 \.\. 1$"),
        (6, 3, r"trace.bursts: row 1: outcome 3; allowed: 0 \.\. 2$"),
        (1, 48, r"trace.bursts: row 1: done_tick 48 of a read that arrived at 5; at least 49 is needed$"),
    ],
)
def test_a_burst_that_cannot_be_is_named(column: int, value: int, message: str) -> None:
    wrong = list(GOOD)
    wrong[column] = value
    with pytest.raises(ValueError, match=message):
        DramTrace(NO_COMMANDS, np.array([GOOD, wrong], np.int64), T, SMALL)


def test_tables_of_another_shape_or_type_are_refused() -> None:
    bursts = np.array([GOOD], np.int64)
    with pytest.raises(ValueError, match=r"trace.commands: int64\[0, 6\]; allowed: int64\[n, 7\]$"):
        DramTrace(np.zeros((0, 6), np.int64), bursts, T, SMALL)
    with pytest.raises(ValueError, match=r"trace.bursts: float64\[1, 7\]; allowed: int64\[n, 7\] or \[n, 9\]$"):
        DramTrace(NO_COMMANDS, bursts.astype(np.float64), T, SMALL)
    with pytest.raises(ValueError, match=r"trace.commands: row 0: command 7; allowed: 0 \.\. 6$"):
        DramTrace(np.array([[0, 0, 0, 0, 0, 0, 7]]), bursts, T, SMALL)


def test_questions_that_a_trace_does_not_have_are_refused() -> None:
    trace = trace_of([])
    with pytest.raises(ValueError, match=r"counted: unknown 'conflict'; known: conflicts, activates"):
        count_per_bank(trace, "conflict")
    with pytest.raises(ValueError, match=r"level: unknown 'bank'; known: pseudo_channel, channel$"):
        bytes_moved(trace, "bank")
    with pytest.raises(ValueError, match=r"pseudo_channel: 4; allowed: 0 \.\. 3$"):
        queue_steps(trace, False, 4)
    with pytest.raises(ValueError, match="no values"):
        nearest_rank(np.zeros(0, np.int64), 500)
    with pytest.raises(ValueError, match=r"0 per mille; allowed: 1 \.\. 1000$"):
        nearest_rank(np.zeros(1, np.int64), 0)
