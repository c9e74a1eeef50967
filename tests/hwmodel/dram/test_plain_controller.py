"""The compiled controller against the plain one, and the plain one against the simulators that it describes."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled_configurations import CHANNEL_BYTES, compiled_memory, figures_of_compiled, outcome_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_configurations import plain
from plain_controller import Burst, Controller, Outcome, Place, bursts_of, replay

from hwmodel.dram.replay import replay as replay_traffic
from hwmodel.dram.traffic import trace

RAM2 = ("rh32", "fr32", "rh32_robaracoch", "rh32_noref", "rh128")
CONFIGS = (*(f"ram2_hbm3_{name}" for name in RAM2), "ram2_hbm2_rh32", "ds3_hbm2", "ds3_hbm2_bankintl")
TRACED = [
    (config, trace)
    for config in ("ram2_hbm3_rh32", "ram2_hbm2_rh32", "ds3_hbm2")
    for trace in ("a_seq_read_0", "c_stride_2p7", "d_rand_read_0", "e_rand_rw21_0")
]
WHOLE = [  # the shorter traces: some 300 000 ticks each
    *((config, "c_stride_2p1") for config in ("ram2_hbm3_rh32", "ram2_hbm3_rh32_noref", "ram2_hbm2_rh32", "ds3_hbm2")),
    ("ram2_hbm3_fr32", "c_stride_2p3"),
    ("ram2_hbm3_rh32_robaracoch", "c_stride_2p3"),
    ("ram2_hbm3_rh128", "f_kv4k_0"),
    ("ram2_hbm2_rh32", "e_rand_rw21_0"),
    ("ds3_hbm2_bankintl", "c_stride_2p3"),
    ("ds3_hbm2", "b_seq_write_0"),
]
WORDS = {"activate": "ACT", "precharge": "PREpb", "read": "RD", "write": "WR", "refresh": "REFab"}
PER_COLUMN = {"act": "ACT", "pre_single": "PREpb", "pre_all": "PREab", "rd": "RD", "wr": "WR", "ref": "REFab"}
MOST_TICKS = 2_000_000  # a livelock is an error, not a test that never ends
MANY = 600  # examples per configuration in the nightly run
# deeper queues are compiled anew: half a minute that the default run does not have
QUICK = [pytest.param(name, marks=pytest.mark.slow) if name.endswith("rh128") else name for name in CONFIGS]


@pytest.fixture(scope="session")
def configs(data_file: Callable[[str], Path]) -> Any:
    return json.loads(data_file("dram/configs.json").read_text())


def rows_of(outcome: Outcome) -> list[tuple[Any, ...]]:
    """Return the commands with -1 for what does not apply, as traces have them."""
    rows = []
    for tick, name, place in outcome.commands:
        where = (*place[1:4], place.row if name != "PREpb" else -1) if place.bank is not None else (-1,) * 4
        rows.append((tick, name, place.pc, *where))
    return rows


# the plain controllers against the simulators


def reference_commands(path: Path) -> Iterator[tuple[Any, ...]]:
    with gzip.open(path, "rt") as lines:
        for row in csv.DictReader(lines):
            name = WORDS.get(row["command"], row["command"])
            fields = {key.lower(): int(value) for key, value in row.items() if key not in ("command",) and value}
            where = [fields.get(key, 0) for key in ("sid", "bankgroup", "bank", "row")]
            if name.endswith("ab"):
                where = [-1] * 4
            elif name == "PREpb":
                where[3] = -1
            yield (fields["clock"], name, fields.get("pseudochannel", 0), *where)


def accesses(data_dir: Path, trace: str, most: int | None = None) -> list[tuple[int, bool]]:
    with np.load(data_dir / "dram" / "traces" / f"{trace}.npz") as data:
        return list(zip(data["addr"][:most].tolist(), data["is_write"][:most].tolist(), strict=True))


@pytest.mark.parametrize(("config", "trace"), TRACED)
def test_the_first_commands_are_the_simulators_own(configs: Any, data_dir: Path, config: str, trace: str) -> None:
    controller, burst_bytes = plain(config, configs[config]), configs[config]["organisation"]["burst_bytes"]
    bursts, position = bursts_of(accesses(data_dir, trace, 1500), burst_bytes), 0
    for _ in range(600):
        while controller.offer(bursts[position].address, bursts[position].is_write):
            position += 1
        controller.tick()
    got = rows_of(controller.outcome)
    expected = reference_commands(data_dir / "dram" / "commands" / f"{config}.{trace}.csv.gz")
    assert len(got) > 100
    assert got == [next(expected) for _ in got]


@pytest.mark.slow
@pytest.mark.parametrize(("config", "trace"), TRACED)
def test_all_commands_of_1500_accesses_are_the_simulators_own(
    configs: Any, data_dir: Path, config: str, trace: str
) -> None:
    bursts = bursts_of(accesses(data_dir, trace, 1500), configs[config]["organisation"]["burst_bytes"])
    got = rows_of(replay(plain(config, configs[config]), bursts, MOST_TICKS))
    assert got == list(reference_commands(data_dir / "dram" / "commands" / f"{config}.{trace}.csv.gz"))


@pytest.mark.nightly
@pytest.mark.parametrize(("config", "trace"), WHOLE)
def test_a_whole_trace_gives_the_simulators_figures(configs: Any, data_dir: Path, config: str, trace: str) -> None:
    bursts = bursts_of(accesses(data_dir, trace), configs[config]["organisation"]["burst_bytes"])
    outcome = replay(plain(config, configs[config]), bursts)
    with (data_dir / "dram" / "reference.csv").open() as lines:
        expected = next(r for r in csv.DictReader(lines) if (r["config"], r["trace"]) == (config, trace))
    got: dict[str, float] = {column: outcome.counts[name] for column, name in PER_COLUMN.items()}
    got |= {name: getattr(outcome, name) for name in ("ticks", "row_hits", "row_misses", "row_conflicts")}
    got |= {"last_read_tick": outcome.last_read_tick, "residual_writes": outcome.residual_writes}
    got |= {"fwd_reads": outcome.forwarded, "coalesced_writes": outcome.coalesced}
    got |= {"max_read_latency_ticks": max(outcome.latencies, default=0)}
    got |= {"avg_read_latency_ticks": round(sum(outcome.latencies) / max(1, len(outcome.latencies)), 4)}
    assert got == {name: float(expected[name]) if expected[name] else value for name, value in got.items()}


# the compiled controller against the plain ones


def assert_same(config: Any, controller: Controller, bursts: list[Burst]) -> None:
    """Compare ticks, every count and every command; the first command that differs is shown."""
    outcome = replay(controller, bursts, MOST_TICKS)
    expected, commands = figures_of(controller, outcome), rows_of(outcome)
    got, got_commands = outcome_of(compiled_memory(config, controller.settings), bursts)
    pairs = enumerate(zip(commands, got_commands, strict=False))
    first = next((f"command {i}: expected {e}, got {g}" for i, (e, g) in pairs if e != g), "")
    assert not first, first
    assert {name: got[name] for name in expected} == expected
    assert got_commands == commands


def figures_of(controller: Controller, outcome: Outcome) -> dict[str, int]:
    counts, latencies = outcome.counts, outcome.latencies
    figures = {name: counts[name] for name in PER_COLUMN.values()}
    figures |= {"ticks": outcome.ticks, "latency_ticks_sum": sum(latencies)}
    figures |= {"latency_ticks_max": max(latencies, default=0), "row_hits": outcome.row_hits}
    figures |= {"merged_reads": outcome.forwarded + outcome.merged, "merged_writes": outcome.coalesced}
    if hasattr(controller.settings, "protect_hits"):  # DRAMsim3 does not tell misses from conflicts
        figures |= {"row_misses": outcome.row_misses, "row_conflicts": outcome.row_conflicts}
    return figures


@st.composite
def scattered(draw: Any, most: int) -> list[tuple[int, int, bool]]:
    """(pause, address, is write) on few rows and few of the bits below them: hot rows, hot banks, duplicates."""
    rows = draw(st.lists(st.integers(0, (1 << 14) - 1), min_size=1, max_size=5))
    below = draw(st.lists(st.integers(0, (1 << 10) - 1), min_size=1, max_size=40))
    pauses = st.sampled_from([0] * draw(st.sampled_from([1, 10, 60])) + [1, 2, 40, 300])
    entry = st.tuples(pauses, st.sampled_from(rows), st.sampled_from(below), draw(st.sampled_from(MIXES)))
    return [(pause, (row << 10 | low) * 64, w) for pause, row, low, w in draw(st.lists(entry, max_size=most))]


@st.composite
def streams(draw: Any, most: int) -> list[tuple[int, int, bool]]:
    """Interleaved strided streams, all of one kind, or every nth access a write."""
    starts = draw(st.lists(st.integers(0, (1 << 24) - 1), min_size=1, max_size=4))
    stride, n = draw(st.sampled_from([1, 2, 7, 16, 128, 512, 1024, -1])), draw(st.integers(0, most))
    nth, pause = draw(st.sampled_from([1, 2, 3, 10, 1 << 30])), draw(st.sampled_from([0, 0, 0, 1, 5, 60]))
    places = [starts[i % len(starts)] + i // len(starts) * stride for i in range(n)]
    return [(pause, place % (1 << 24) * 64, i % nth == 0) for i, place in enumerate(places)]


MIXES = (st.just(False), st.just(True), st.booleans(), st.sampled_from([True, False, False, False, False]))


@st.composite
def mixes(draw: Any, most: int) -> list[tuple[int, int, bool]]:
    parts = draw(st.lists(st.one_of(scattered(most), streams(most)), min_size=1, max_size=3))
    return [entry for part in parts for entry in part][:most]


def bursts_with_pauses(entries: list[tuple[int, int, bool]], burst_bytes: int) -> list[Burst]:
    bursts, tick = [], 0
    for pause, address, is_write in entries:
        tick += pause
        bursts += [Burst(tick, address + part, is_write) for part in range(0, 64, burst_bytes)]
    return bursts


def varied(name: str, interval: int, deepest: int) -> st.SearchStrategy[dict[str, Any]]:
    """Settings other than the configuration's: depths, drain marks, and refreshes so often that they meet traffic."""
    depths = st.sampled_from([n for n in (1, 2, 3, 5, 8, 16, 31, 32, 33, 64, 100, 128) if n <= deepest])
    changes = {
        "read_capacity": depths,
        "write_capacity": depths,
        "refresh_interval": st.integers(interval // 8, interval),
    }
    if name.startswith("ram2"):
        marks = [(0.2, 0.8), (0.1, 0.5), (0.25, 0.25), (0.6, 0.9), (0.5, 1.0)]
        low_high = st.sampled_from(marks).map(lambda pair: {"low": pair[0], "high": pair[1]})
        choices = st.fixed_dictionaries({}, optional=changes | {"protect_hits": st.booleans()})
        return st.builds(lambda a, b: a | b, choices, low_high)
    few = {"queue_depth": st.sampled_from([1, 2, 4, 8, 32]), "hit_streak": st.sampled_from([1, 2, 4, 100])}
    choices = st.fixed_dictionaries({"stands_still": st.just(False)}, optional=changes | few)
    # the writes that may wait for ever: a quarter of the buffer, as upstream
    return choices.map(lambda c: c | {"idle_drain_above": c.get("write_capacity", 32) // 4})


def compare_random_mixes(configs: Any, name: str, data: Any, most: int, deepest: int) -> None:
    config = configs[name]
    interval = config["timing_ticks"]["nREFI"] if "timing_ticks" in config else config["timing_ck"]["tREFI"]
    controller = plain(name, config, **data.draw(varied(name, interval, deepest)))
    entries = data.draw(mixes(most))
    assert_same(config, controller, bursts_with_pauses(entries, config["organisation"]["burst_bytes"]))


@pytest.mark.parametrize("name", QUICK)
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_mixes_get_the_same_commands_from_both(configs: Any, name: str, data: Any) -> None:
    compare_random_mixes(configs, name, data, most=50, deepest=32)


def compare_several_channels(configs: Any, name: str, data: Any, most: int, deepest: int) -> None:
    """Compare ticks and counts of a source that offers bursts to four channels, each as fast as they are taken."""
    config, channels = configs[name], 4
    interval = config["timing_ticks"]["nREFI"] if "timing_ticks" in config else config["timing_ck"]["tREFI"]
    changes, burst_bytes = data.draw(varied(name, interval, deepest)), config["organisation"]["burst_bytes"]
    controllers = [plain(name, config, **changes) for _ in range(channels)]
    entries = data.draw(mixes(most))
    where = data.draw(st.lists(st.integers(0, channels - 1), min_size=len(entries), max_size=len(entries)))
    bursts = [
        (channel, address + part, is_write)
        for (_, address, is_write), channel in zip(entries, where, strict=True)
        for part in range(0, 64, burst_bytes)
    ]
    position, ticks = 0, 0
    while position < len(bursts) or not all(controller.drained() for controller in controllers):
        while position < len(bursts) and controllers[bursts[position][0]].offer(*bursts[position][1:]):
            position += 1
        assert ticks < MOST_TICKS
        ticks += 1
        for controller in controllers:
            controller.tick()
    addresses = np.array([channel * CHANNEL_BYTES + address for channel, address, _ in bursts], np.int64)
    traffic = trace(addresses, np.array([is_write for *_, is_write in bursts], np.bool_), burst_bytes)
    dram = compiled_memory(config, controllers[0].settings, channels)
    assert replay_traffic(dram, traffic) == ticks
    expected: Counter[str] = Counter()
    for controller in controllers:
        figures = figures_of(controller, controller.outcome)
        expected.update({key: value for key, value in figures.items() if key not in ("ticks", "latency_ticks_max")})
    assert {key: value for key, value in figures_of_compiled(dram).items() if key in expected} == dict(expected)


@pytest.mark.parametrize("name", QUICK)
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_several_channels_take_from_one_source_what_plain_ones_take(configs: Any, name: str, data: Any) -> None:
    compare_several_channels(configs, name, data, most=50, deepest=32)


@pytest.mark.nightly
@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=MANY // 4, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_many_longer_mixes_over_several_channels(configs: Any, name: str, data: Any) -> None:
    compare_several_channels(configs, name, data, most=300, deepest=128)


@pytest.mark.nightly
@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=MANY, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_many_longer_mixes_get_the_same_commands_from_both(configs: Any, name: str, data: Any) -> None:
    compare_random_mixes(configs, name, data, most=300, deepest=128)


@pytest.mark.parametrize(
    "accesses", [[], [(0, False)], [(0, True)], [(64, False), (64, False)], [(64, True), (64, False)]]
)
@pytest.mark.parametrize("name", QUICK)
def test_no_one_and_two_accesses(configs: Any, name: str, accesses: list[tuple[int, bool]]) -> None:
    config = configs[name]
    assert_same(config, plain(name, config), bursts_of(accesses, config["organisation"]["burst_bytes"]))


def ds3_address(row: int, group: int, bank: int, column: int) -> int:
    return row << 15 | group << 13 | bank << 11 | column << 6


def called_off(queued: list[int]) -> list[Burst]:
    """Return a drain of 9 writes that meets a waiting read of the same address after the writes to `queued` columns."""
    opened = [Burst(0, ds3_address(5, 0, 0, 0), False)] if len(queued) == 1 else []
    shared = ds3_address(5, 0, 1, 3)
    others = [ds3_address(7, 1, i % 4, i) for i in range(8 - len(queued))]
    writes = [*(ds3_address(5, 0, 0, column) for column in queued), shared, *others]
    return [*opened, Burst(200, shared, False), *(Burst(200, address, True) for address in writes)]


@pytest.mark.parametrize(
    ("queued", "tick"),
    [
        ([1], 203),  # WR at 201; the drain is called off at 201, the read moves at 202
        ([1, 2], 207),  # called off at 202 behind the ACT at 201; ACT to ACT of a bank group: 6
    ],
)
def test_a_read_moves_in_the_cycle_after_a_drain_that_was_called_off(
    configs: Any, queued: list[int], tick: int
) -> None:
    config = configs["ds3_hbm2"]
    controller = plain("ds3_hbm2", config)
    assert_same(config, controller, called_off(queued))
    activates = [(c.tick, c.place) for c in controller.outcome.commands if c.name == "ACT"]
    assert activates[-1] == (tick, Place(0, 0, 0, 1, 5, 3))


def test_a_full_write_buffer_over_a_waiting_read_of_its_address_does_not_stand_still(configs: Any) -> None:
    """DRAMsim3 begins and calls off the same drain for ever; here the read moves when nothing else is under way."""
    config, capacity = configs["ds3_hbm2"], 2
    bursts = [Burst(0, 64, False), Burst(0, 64, True), Burst(0, 128, True), Burst(0, 192, True)]
    changes = {"write_capacity": capacity, "idle_drain_above": 0}
    with pytest.raises(RuntimeError, match="not drained after 5000 ticks: 1 bursts"):
        replay(plain("ds3_hbm2", config, **changes), bursts, 5000)
    assert_same(config, plain("ds3_hbm2", config, stands_still=False, **changes), bursts)


def test_a_write_that_fills_its_buffer_is_written_though_it_might_wait(configs: Any) -> None:
    config = configs["ds3_hbm2"]
    controller = plain("ds3_hbm2", config, write_capacity=1, idle_drain_above=1)
    assert_same(config, controller, [Burst(0, 64, True)])
    assert [(c.tick, c.name) for c in controller.outcome.commands] == [(1, "ACT"), (15, "WR")]
