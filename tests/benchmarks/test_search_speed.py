"""What a search costs beside its simulations; run with -n0 --benchmark-only.

Targets on two cores: at most 10 ms per point for search and storage; both cores at least 90 % busy with simulations of
50 ms; a space of a million points opened, bounded and certified from the command line in a minute and 2 GB.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from explorer.explore import explore
from explorer.progress import silent
from explorer.storage.folder import rows_frame

MILLION = """
machine: h100-sxm
kernel: decode-attention
model: llama-3.1-8b
batch: {sequences: 4, context: 1024}
knobs:
  layout: ["page kv token head dim", "page kv head token dim", "kv page token head dim", "kv page head token dim"]
  page_size: [8, 16, 32, 64, 128]
  page_order: [shuffled, contiguous]
  tile: [16, 32, 48, 64, 80, 96, 112, 128, 192, 256]
  stages: [1, 2, 3, 4, 6]
  split_tokens: [0, 256, 512, 1024, 1536, 2048, 4096]
  schedule: [static, balanced, dynamic]
  sram_layout: [swizzled, row-major]
  epilogue: [overlapped, exposed]
  machine.hbm.stacks: ["4", "5", "6"]
  machine.noc.latency: ["50 ns", "70 ns"]
budget: {points: 16, batch: 4}
"""


def alone() -> dict[str, str]:
    """The environment of a process that runs this version, with one thread as `rowhit explore` has."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture
def burning(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The evaluators, importable in workers, too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("burning")


@pytest.mark.parametrize("sampler", ["exhaustive", "best-first"])
def test_search_and_storage_take_little_beside_a_simulation(benchmark: Any, tmp_path: Path, sampler: str) -> None:
    command = [sys.executable, str(Path(__file__).parent / "burning.py"), str(tmp_path), sampler]
    said = benchmark.pedantic(subprocess.check_output, (command,), {"env": alone()}, rounds=1, warmup_rounds=0)
    benchmark.extra_info["ms_per_point"] = found = float(said)
    print(f"{sampler}: {found:.2f} ms of a core per point")
    assert found <= 10


def test_two_cores_are_busy_with_simulations_of_50_ms(benchmark: Any, burning: ModuleType, tmp_path: Path) -> None:
    asked = burning.study(200, "best-first")
    benchmark.pedantic(explore, (asked, tmp_path, 2, burning.BURNING, silent), rounds=1, warmup_rounds=0)
    rows = rows_frame(tmp_path)
    span_s = rows["end_s"].max() - rows["begin_s"].min()
    busy = float((rows["end_s"] - rows["begin_s"]).sum() / (2 * span_s))
    benchmark.extra_info["busy"] = busy
    print(f"{len(rows)} points, workers busy {100 * busy:.1f} % of {span_s:.2f} s")
    assert len(rows) == 200
    assert busy >= 0.9


def test_a_space_of_a_million_points_from_the_command_line(benchmark: Any, tmp_path: Path) -> None:
    (tmp_path / "million.yaml").write_text(MILLION)
    command = [sys.executable, "-m", "explorer.cli.app", "explore", "million.yaml", "--json", "--jobs", "2"]

    def run() -> tuple[dict[str, Any], Any]:
        environment = alone() | {"ROWHIT_CACHE": str(tmp_path / "cache")}
        with (tmp_path / "said").open("wb") as said:
            process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=said)
            _, status, used = os.wait4(process.pid, 0)
        assert status == 0
        process.returncode = 0
        return json.loads((tmp_path / "said").read_text()), used

    begin_s = time.perf_counter()
    record, used = benchmark.pedantic(run, rounds=1, warmup_rounds=0)
    taken_s = time.perf_counter() - begin_s
    cpu_s, peak_mib = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    benchmark.extra_info.update(cpu_s=cpu_s, peak_mib=peak_mib)
    print(f"{record['space']} points, gap {record['gap']}: {taken_s:.1f} s, {cpu_s:.1f} CPU-s, {peak_mib:.0f} MiB")
    assert record["space"] > 1_000_000
    assert record["bound_us"] <= record["best"]["time_us"]
    assert taken_s <= 60
    assert peak_mib <= 2048
