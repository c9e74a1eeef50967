"""Accesses per CPU second of replays, against those of Ramulator 2.1 and DRAMsim3; run with -n0 --benchmark-only -s.

Theirs are CPU times of the simulation loops alone, cited with the reference; ours are of everything after reading the
file, the best of three. A ratio means as much as this machine is like theirs. `plain` is without skipping the periods
of regular traffic.
"""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwmodel.dram.config import DramConfig, config_names, load_config
from hwmodel.dram.replay import replay
from hwmodel.dram.traffic import trace

ROUNDS = 3
CONFIGS = [name for name in config_names() if name.startswith(("ram2_", "ds3_"))]
NS_PER_SECOND = 10**9


def cpu_seconds(config: DramConfig, addresses: Any, writes: Any, gap_ticks: int, fast_forward: bool) -> float:
    """Return the least CPU time of a few replays, each on a fresh controller."""
    best = math.inf
    for _ in range(ROUNDS):
        dram = config.dram()
        start = time.process_time()
        replay(dram, trace(addresses, writes), gap_ticks, fast_forward)
        best = min(best, time.process_time() - start)
    return best


def rates(folder: Path, config: DramConfig, rows: list[dict[str, str]]) -> list[tuple[str, float, float, float]]:
    """Return (trace, their accesses per second, ours, ours without skipping) per row."""
    found = []
    for row in rows:
        with np.load(folder / "traces" / f"{row['trace']}.npz", allow_pickle=False) as arrays:
            addresses, writes = arrays["addr"].astype(np.int64), arrays["is_write"]
        gap_ticks = round(float(row["gap_ns"]) * config.timing.tick_hz / NS_PER_SECOND)
        ours = [len(addresses) / cpu_seconds(config, addresses, writes, gap_ticks, fast) for fast in (True, False)]
        found.append((row["trace"], float(row["accesses_per_cpu_s"]), *ours))
    return found


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


@pytest.mark.parametrize("name", CONFIGS)
def test_replay_the_traces_of_the_reference(benchmark: Any, data_dir: Path, name: str) -> None:
    folder = data_dir / "dram"
    rows = [row for row in csv.DictReader((folder / "reference.csv").read_text().splitlines()) if row["config"] == name]
    config = load_config(name)
    rates(folder, config, rows[:1])  # compile
    found = benchmark.pedantic(rates, args=(folder, config, rows), rounds=1)
    print(f"\n{name}: accesses per CPU second")
    for title, theirs, ours, plain in found:
        fast, slow = (f"{rate / 1e6:8.2f} M, {rate / theirs:6.0f} x" for rate in (ours, plain))
        print(f"  {title:30} {fast}; plain {slow}")
    means = [geometric_mean([row[column] / row[1] for row in found]) for column in (2, 3)]
    print(f"  geometric mean {means[0]:.0f} x, plain {means[1]:.0f} x")
    benchmark.extra_info["ratio"], benchmark.extra_info["plain_ratio"] = (round(mean, 1) for mean in means)
    assert means[1] > 1
