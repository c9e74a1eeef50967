from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from itertools import islice
from math import gcd
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hwmodel.machine import Machine
from hwmodel.spec import load_machine

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies/memory_plateaus.py"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("memory_plateaus", STUDY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["memory_plateaus"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def h100() -> Machine:
    return Machine(load_machine("h100-sxm"))


def test_without_measurements_it_says_so_in_one_line_and_fails(tmp_path: Path) -> None:
    environment = os.environ | {"ROWHIT_DATA": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(STUDY)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert "set ROWHIT_DATA" in done.stdout
    assert done.stderr == ""


def test_the_blocks_of_all_cores_read_every_byte_of_the_footprint_once_in_a_round(study: ModuleType) -> None:
    machine = Machine(load_machine("npu-hbm3"))
    cores, footprint = machine.spec.cores.count, 2 * 16 * 32 * 16384
    per_turn = 2 * 32 * 16384 // machine.spec.cores.dma.request_bytes
    read = []
    for core in range(cores):
        requests = study.block_requests(machine, core, footprint)
        begun = int(np.random.default_rng(core).integers(32)) * per_turn // 32
        read += [a for bursts in islice(requests, per_turn - begun, 2 * per_turn - begun) for a in bursts.tolist()]
    assert sorted(read) == list(range(0, footprint, 32))


@pytest.mark.parametrize("element_bytes", [4, 8])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 6, 7, 8, 16, 31, 32, 33, 48])
def test_lanes_a_stride_apart_meet_in_as_many_banks_as_the_greatest_common_divisor_leaves(
    study: ModuleType, stride: int, element_bytes: int
) -> None:
    words = element_bytes // 4
    # even and odd words of elements of 8 bytes never meet; of each, 32 lanes fall on 16 banks or fewer
    expected = 32 * words // min(32, words * (32 // words // gcd(stride, 32 // words)))
    assert study.stride_wavefronts(stride, element_bytes) == expected


def test_a_footprint_in_the_cache_streams_at_its_bandwidth_and_a_large_one_at_that_of_hbm(
    study: ModuleType, h100: Machine
) -> None:
    short = 16 << 20
    assert study.bandwidth(h100, 8 << 20, short) == pytest.approx(9.77e12, rel=0.07)
    streamed = study.bandwidth(h100, 1 << 30, short)
    assert 0.7 * 3352e9 < streamed < 3352e9
    assert study.hbm_bandwidth(h100, 1 << 30, short) == pytest.approx(streamed, rel=0.1)


def test_a_chased_pointer_takes_the_latency_of_the_level_that_holds_the_footprint(
    study: ModuleType, h100: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "CHASED", 128)
    hit, miss, walk = (study.latency_ns(h100, size << 20) for size in (8, 100, 1000))
    assert hit == pytest.approx(141.6, abs=2)  # noc.latency, twice
    assert miss - hit == pytest.approx(
        130.5 + 37, abs=15
    )  # the way to memory, activate and read; some wait for refresh
    assert walk - miss == pytest.approx(36, rel=0.4)  # most loads walk


def test_the_plateaus_are_those_that_were_measured(study: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    if not study.DATA.is_dir():
        pytest.skip(f"no measurements in {study.DATA}: set ROWHIT_DATA")
    latencies = study.measured_latencies("gh200")
    machine = Machine(load_machine("h100-sxm"))
    monkeypatch.setattr(study, "CHASED", 256)
    for kb in (6_886, 64_550, 307_886):
        assert study.latency_ns(machine, kb * 1024) == pytest.approx(latencies[kb], rel=0.07)
    with (study.DATA / "l1_stride_bytes_per_cycle.csv").open(newline="") as rows:
        for row in csv.DictReader(rows):
            stride, size = int(row["stride_elems_or_block_width"]), {"float": 4, "double": 8}[row["dtype"]]
            if row["pattern"] == "stride" and row["device"] == "a100" and stride and stride & (stride - 1) == 0:
                allowed = 32 * size / study.stride_wavefronts(stride, size)
                assert float(row["bytes_per_cycle_per_SM"]) == pytest.approx(allowed, rel=0.1)
