"""The controller against Ramulator 2.1 and DRAMsim3: counts of whole traces, and commands one by one."""

from __future__ import annotations

import csv
import gzip
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwmodel.dram.command_trace import read_commands
from hwmodel.dram.config import CONFIGS, DramConfig, config_names, load_config
from hwmodel.dram.replay_result import replay_trace
from hwmodel.dram.rules import COMMANDS

ROOT = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("ROWHIT_DATA") or ROOT.parent / "shared" / "data") / "dram"
with_data = pytest.mark.skipif(
    not (FOLDER / "reference.csv").is_file(), reason=f"no reference data at {FOLDER}; set ROWHIT_DATA"
)
KEYS = (
    "ticks", "time_ns", "bandwidth_fraction", "row_hits", "row_misses", "row_conflicts", "act", "pre", "rd", "wr",
    "ref", "avg_read_latency_ns", "forwarded_reads", "coalesced_writes", "held_writes", "gap_ticks",
    "simulated_gap_ns",
)  # fmt: skip
# queues of another length are compiled for themselves, which takes a minute: these rows run with the oracles
COMPILED_APART = "ram2_hbm3_rh128"
COMMAND_FILES = [
    (config, trace)
    for config in ("ram2_hbm3_rh32", "ram2_hbm2_rh32", "ds3_hbm2")
    for trace in ("a_seq_read_0", "c_stride_2p7", "d_rand_read_0", "e_rand_rw21_0")
]
COMMAND_FILE_ACCESSES = 1500


def reference_rows() -> list[dict[str, str]]:
    path = FOLDER / "reference.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []


def cases() -> list[Any]:
    rows = reference_rows()
    marks = [(pytest.mark.oracle,) * (row["config"] == COMPILED_APART) for row in rows]
    names = [f"{row['config']} {row['trace']}" for row in rows]
    params = [pytest.param(row, marks=mark, id=name) for row, mark, name in zip(rows, marks, names, strict=True)]
    return params or [pytest.param({}, marks=with_data)]


@cache
def accesses(name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with np.load(FOLDER / "traces" / f"{name}.npz", allow_pickle=False) as arrays:
        return arrays["addr"], arrays["is_write"]


@with_data
def test_the_reference_has_all_the_rows_that_are_compared() -> None:
    rows = {(row["config"], row["trace"]) for row in reference_rows()}
    assert len(rows) == 117
    assert {config for config, _ in rows} <= set(config_names())


@pytest.mark.parametrize("row", cases())
def test_a_trace_takes_the_ticks_commands_and_latencies_of_the_reference(row: dict[str, str]) -> None:
    addresses, writes = accesses(row["trace"])
    gap_fs = round(float(row["gap_ns"]) * 1_000_000)
    result, _ = replay_trace(load_config(row["config"]), addresses, writes, gap_fs=gap_fs)
    counts = ("ticks", "rd", "wr", "act", "ref", "row_hits", "row_misses", "row_conflicts")
    cited = {name: int(row[name]) for name in counts if row[name]}  # DRAMsim3 counts hits only
    assert len(cited) >= 5
    if row["pre_single"]:
        cited["pre"] = int(row["pre_single"]) + int(row["pre_all"] or 0)
    cited["held_writes"] = int(row["residual_writes"] or 0)
    if row["config"].startswith("ram2"):  # DRAMsim3's are not in the table
        cited |= {"forwarded_reads": int(row["fwd_reads"]), "coalesced_writes": int(row["coalesced_writes"])}
    assert {name: getattr(result, name) for name in cited} == cited
    assert result.time_ns == float(row["time_ns"])
    assert abs(result.avg_read_latency_ns - float(row["avg_read_latency_ns"])) < 6e-4  # cited with three decimals
    assert abs(result.bandwidth_fraction - float(row["bw_frac_peak"])) < 6e-6  # with five


@with_data
@pytest.mark.parametrize(("config", "trace"), COMMAND_FILES)
def test_every_command_is_that_of_the_reference(config: str, trace: str) -> None:
    chosen = load_config(config)
    with gzip.open(FOLDER / "commands" / f"{config}.{trace}.csv.gz", "rt") as lines:
        cited = np.concatenate(list(read_commands(lines, chosen.organisation)))
    addresses, writes = (array[:COMMAND_FILE_ACCESSES] for array in accesses(trace))
    _, dram = replay_trace(chosen, addresses, writes, record_commands=True)
    cited[cited[:, 6] == COMMANDS.index("PRE"), 5] = -1  # they write the row of the request, or of the bank
    assert dram.commands().tolist() == cited.tolist()


@with_data
@pytest.mark.parametrize("config", [name for name in config_names() if name.startswith(("ram2", "ds3"))])
def test_a_shipped_configuration_has_the_ticks_and_the_queues_of_the_cited_one(config: str) -> None:
    cited = json.loads((FOLDER / "configs.json").read_text())[config]
    ours = load_config(config)
    assert 10**9 / ours.timing.tick_hz == cited["tick_ns"]
    assert ours.organisation.capacity_bytes == cited["organisation"]["capacity_bytes"]
    assert float(ours.peak_bytes_per_second) / 1e9 == cited["peak"]["GBps"]
    queues = cited["queues"]
    assert ours.policy.read_queue == queues.get("read_buffer", queues.get("trans_queue_size_reads"))
    assert ours.policy.write_queue == queues["write_buffer"]


def test_a_result_has_the_promised_keys_and_latencies_only_with_a_log() -> None:
    config, addresses = load_config("ram2_hbm3_rh32"), np.arange(4, dtype=np.uint64) * 64
    plain, _ = replay_trace(config, addresses, np.zeros(4, bool))
    assert tuple(plain.record()) == KEYS
    logged, _ = replay_trace(config, addresses, np.zeros(4, bool), log_bursts=True)
    extra = logged.record().keys() - plain.record().keys()
    assert extra == {"p50_read_latency_ns", "p99_read_latency_ns", "max_read_latency_ns"}
    assert {key: value for key, value in logged.record().items() if key in KEYS} == plain.record()


def test_two_bursts_of_one_access_take_an_activate_each_under_the_xor_map() -> None:
    config = load_config("ram2_hbm3_rh32")
    result, dram = replay_trace(config, np.zeros(1, np.uint64), np.zeros(1, bool), record_commands=True)
    t = config.timing
    # the XOR puts the two bursts into different pseudo-channels. The first activate starts at the first rising edge,
    # tick 1; the second when the row bus is free, after act_ticks 3, at the next rising edge: tick 5, not 4.
    # ACT to RD is nRCDRD 62 + 3 - 2 = 63 ticks, to the next rising edge 64.
    assert [(row[0], COMMANDS[row[6]]) for row in dram.commands().tolist()] == [
        (1, "ACT"), (5, "ACT"), (65, "RD"), (69, "RD"),
    ]  # fmt: skip
    assert result.ticks == 69 + t.nCL + t.nBL
    assert result.avg_read_latency_ns == (65 + 69 + 2 * (t.nCL + t.nBL)) / 2 * 0.3125


def test_a_read_of_a_waiting_write_is_forwarded_and_a_second_write_to_it_coalesced() -> None:
    config = load_config("ram2_hbm3_rh32")
    addresses, writes = np.zeros(3, np.uint64), np.array([True, False, True])
    result, _ = replay_trace(config, addresses, writes)
    assert (result.forwarded_reads, result.coalesced_writes, result.rd, result.wr) == (2, 2, 0, 2)
    assert result.avg_read_latency_ns == 0.3125  # done the tick after


@pytest.mark.parametrize("scheduler", ["shared", "per-bank"])
def test_as_many_bursts_may_merge_in_a_tick_as_wait(scheduler: str) -> None:
    config = load_config("ram2_hbm3_rh32" if scheduler == "shared" else "ds3_hbm2")
    writes = np.zeros(20_000, bool)
    writes[0] = True
    result, dram = replay_trace(config, np.zeros(20_000, np.uint64), writes, log_bursts=True)
    assert result.forwarded_reads + result.rd == 19_999 * 64 // config.organisation.burst_bytes
    assert np.count_nonzero(dram.bursts()[:, 5] == 0) == result.forwarded_reads + result.rd


def test_a_gap_is_rounded_up_to_ticks_and_spaces_the_accesses() -> None:
    config = load_config("ds3_hbm2")  # ticks of 1 ns
    addresses, writes = np.arange(10, dtype=np.uint64) * 64, np.zeros(10, bool)
    _, dram = replay_trace(config, addresses, writes, gap_fs=99_100_000, log_bursts=True)
    assert dram.bursts()[:, 0].tolist() == [100 * i for i in range(10)]


@pytest.mark.parametrize(
    ("addresses", "writes", "options", "problem"),
    [
        ([0, 96], [False, True], {}, r"trace: addr\[1\] 96; allowed: multiples of the access of 64 B"),
        ([0, 1 << 30], [False, True], {}, r"trace: addr\[1\] 1073741824; allowed: 0 .. 1073741823, the capacity of "),
        ([2**64 - 64], [False], {}, r"trace: addr\[0\] 18446744073709551552; allowed: 0 .. "),
        ([0, 64], [False], {}, r"trace: 2 addr, is_write \[1\]; allowed: as many of both"),
        ([], [], {}, "trace: no accesses; at least 1 is needed"),
        ([0], [False], {"access_bytes": 48}, "access of 48 B; allowed: multiples of a burst of HBM3, 32 B"),
        ([0], [False], {"access_bytes": 0}, "access of 0 B"),
        ([0] * 2, [False] * 2, {"gap_fs": 10**26}, "gap of 1e.20 ns; allowed for 2 accesses: 0 .. "),
        ([0], [False], {"gap_fs": -1}, "gap of -1e-06 ns"),
    ],
)
def test_a_trace_that_does_not_fit_is_refused_with_the_index_and_the_value(
    addresses: list[int], writes: list[bool], options: dict[str, int], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        replay_trace(load_config("ram2_hbm3_rh32"), np.array(addresses, np.uint64), np.array(writes, bool), **options)


def test_signed_addresses_below_zero_and_tables_are_refused() -> None:
    config = load_config("ram2_hbm3_rh32")
    with pytest.raises(ValueError, match=r"addr\[1\] -64"):
        replay_trace(config, np.array([0, -64]), np.zeros(2, bool))
    with pytest.raises(ValueError, match=r"addr int64\[1, 2\]"):
        replay_trace(config, np.zeros((1, 2), np.int64), np.zeros((1, 2), bool))
    with pytest.raises(ValueError, match="addr float64"):
        replay_trace(config, np.zeros(1), np.zeros(1, bool))


def with_channels(folder: Path, name: str, channels: int, before: str) -> DramConfig:
    """Return a shipped configuration with more channels, their address bits below those of a field."""
    text = (CONFIGS / f"{name}.yaml").read_text().replace("channels: 1", f"channels: {channels}")
    path = folder / f"{name}_{channels}.yaml"
    path.write_text(text.replace(f'"{before}"', f'"channel", "{before}"', 1))
    return load_config(str(path))


@with_data
@pytest.mark.parametrize(
    ("name", "channels", "before", "trace", "ticks"),  # the ticks of whole stacks are in the reference's README
    [
        ("ram2_hbm3_rh32", 16, "column:2", "a_seq_read_0", 39_725),
        ("ram2_hbm3_rh32", 16, "column:2", "d_rand_read_0", 56_187),
        ("ram2_hbm3_rh32", 16, "column:2", "f_kv4k_0", 49_275),
        ("ds3_hbm2", 8, "bank", "a_seq_read_0", 35_627),
        ("ds3_hbm2", 8, "bank", "d_rand_read_0", 63_344),
        ("ds3_hbm2", 8, "bank", "f_kv4k_0", 49_459),
    ],
)
def test_a_whole_stack_takes_the_ticks_of_the_reference(
    tmp_path: Path, name: str, channels: int, before: str, trace: str, ticks: int
) -> None:
    config = with_channels(tmp_path, name, channels, before)
    result, _ = replay_trace(config, *accesses(trace))
    assert result.ticks == ticks
    assert 0 < result.bandwidth_fraction <= 1


@pytest.mark.parametrize(("name", "before"), [("ram2_hbm3_rh32", "column:2"), ("ds3_hbm2", "bank")])
def test_a_channel_among_idle_ones_works_as_it_does_alone(tmp_path: Path, name: str, before: str) -> None:
    config = with_channels(tmp_path, name, 4, before)
    rng = np.random.default_rng(4)
    alone, size = load_config(name), config.organisation.burst_bytes
    places = rng.integers(0, 1 << 12, 3000) * size
    writes = rng.random(3000) < 0.3
    low = size * (1 if before == "column:2" else 32)  # the channel's address bits begin here
    spread = places // low * (4 * low) + places % low
    one, _ = replay_trace(alone, places, writes, access_bytes=size, gap_fs=2_000_000)
    four, dram = replay_trace(config, spread, writes, access_bytes=size, gap_fs=2_000_000)
    assert four.ref > one.ref > 0  # idle channels are refreshed as well
    expected = one.record() | {"ref": four.ref, "bandwidth_fraction": one.bandwidth_fraction / 4}
    assert four.record() == pytest.approx(expected)
    assert dram.statistics().pseudo_channel_bursts[len(dram.statistics().pseudo_channel_bursts) // 4 :].sum() == 0
