from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hwmodel.machine import Machine
from hwmodel.spec import load_machine, machine_names

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies/memory_plateaus.py"
OTHER_HASHES = ("npu", "tpu", "h100-pcie")  # banks are not hashed, or not by all bits of rows, as their files say
GPUS = [name for name in machine_names() if not name.startswith(OTHER_HASHES)]


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


def test_the_resident_blocks_of_a_dot_read_half_of_both_arrays_before_they_begin_anew(study: ModuleType) -> None:
    machine = Machine(load_machine("npu-hbm3"))
    array, block = study.DOT_ARRAY_BYTES, study.DOT_BLOCK_BYTES
    requests = array // machine.spec.cores.dma.request_bytes // machine.spec.cores.count  # half of two arrays
    read = [
        int(bursts[0])
        for core in range(machine.spec.cores.count)
        for bursts in islice(study.dot_requests(machine, core), requests)
    ]
    grid = 4 * machine.spec.cores.count * block
    assert len(set(read)) == len(read)
    assert {start // array for start in read} == {0, 1}
    assert all(start % array % grid < grid // 2 for start in read)


def test_the_tiles_of_all_cores_read_every_byte_of_their_rows_once(study: ModuleType) -> None:
    machine = Machine(load_machine("a40"))
    cores, pitch = machine.spec.cores.count, 1280
    requests = pitch // 128 * 128 * 128 // machine.spec.cores.dma.request_bytes
    read = [a for core in range(cores) for b in islice(study.tile_requests(machine, core, pitch), requests) for a in b]
    assert sorted(read) == list(range(0, cores * 128 * pitch, 32))


@pytest.mark.slow
def test_copies_reach_what_was_measured_on_three_gpus(study: ModuleType) -> None:
    off = {name: study.copy_bandwidth(Machine(load_machine(name))) / 1e9 / there - 1 for name, there in study.COPIES}
    assert {name: part for name, part in off.items() if abs(part) > 0.05} == {}


def slow_pitches(study: ModuleType, name: str, pitches: Sequence[int]) -> dict[int, float]:
    """Return the pitches at which tiles arrive at less than 0.9 of the rate of pieces at random, and that part."""
    machine = Machine(load_machine(name))
    gathered = study.gather_bandwidth(machine)
    parts = {pitch: study.tile_bandwidth(machine, pitch) / gathered for pitch in pitches}
    return {pitch: part for pitch, part in parts.items() if part < 0.9}


@pytest.mark.parametrize(
    ("name", "pitches"), [("a100-sxm", (10240, 16384)), ("a40", (8192, 10240)), ("h200-sxm", (51200,))]
)
def test_tiles_of_weights_are_read_as_fast_as_pieces_at_random(
    study: ModuleType, name: str, pitches: tuple[int, ...]
) -> None:
    assert slow_pitches(study, name, pitches) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", GPUS)
def test_no_pitch_of_weights_is_slow_on_any_gpu(study: ModuleType, name: str) -> None:
    whole = [pitch for pitch in study.PITCHES if pitch % study.TILE_BYTES == 0]
    assert len(whole) >= len(study.PITCHES) - 1  # rows of 2880 bytes cut every other piece in two
    assert slow_pitches(study, name, whole) == {}


def test_without_hashes_of_banks_the_same_tiles_are_slow(study: ModuleType) -> None:
    spec = load_machine("a100-sxm").with_overrides({"hbm.address_map.hashes": ["stack += bank[1:0] bank_group[1:0]"]})
    machine = Machine(spec)
    assert study.tile_bandwidth(machine, 10240) < 0.5 * study.gather_bandwidth(machine)


@pytest.mark.parametrize(
    ("stride", "element_bytes", "expected"), [(0, 4, 128), (0, 8, 128), (1, 4, 128), (2, 8, 64), (64, 4, 4), (32, 8, 8)]
)
def test_where_banks_decide_a_stride_gets_the_bytes_that_its_conflicts_leave(
    study: ModuleType, stride: int, element_bytes: int, expected: int
) -> None:
    elements = study.strided(stride)
    cost = study.l1_loads(Machine(load_machine("a100-sxm")), elements, element_bytes)
    assert len(elements) * element_bytes == expected * cost.cycles


@pytest.mark.slow
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
    assert walk - miss == pytest.approx(34.8, rel=0.4)  # most loads walk


@pytest.fixture
def measurements(data_file: Callable[[str], Path]) -> None:
    data_file("kernels/layout_effects")


@pytest.mark.usefixtures("measurements")
def test_every_footprint_of_the_study_was_measured(study: ModuleType) -> None:
    for device in study.BANDWIDTHS:
        assert set(device.footprints_kb) <= set(study.measured("l2_bandwidth_vs_footprint.csv", device.name, "GBps"))
    for device in study.LATENCIES:
        assert set(device.footprints_kb) <= set(study.measured_latencies(device.name))


@pytest.mark.usefixtures("measurements")
@pytest.mark.parametrize(
    ("name", "device", "footprints_kb"),
    [
        ("h100-sxm", "gh200", (6_886, 64_550, 307_886)),
        ("a40", "a40", (2_086, 26_372, 307_886)),
        ("l40", "l40", (16_856, 86_992, 307_886)),
    ],
)
def test_the_plateaus_are_those_that_were_measured(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, device: str, footprints_kb: tuple[int, ...]
) -> None:
    latencies = study.measured_latencies(device)
    machine = Machine(load_machine(name))
    monkeypatch.setattr(study, "CHASED", 256)
    for kb in footprints_kb:
        assert study.latency_ns(machine, kb * 1024) == pytest.approx(latencies[kb], rel=0.07)


@pytest.mark.slow
@pytest.mark.usefixtures("measurements")
def test_the_bandwidth_of_hbm_is_the_one_measured_with_the_refreshes_of_the_machine(study: ModuleType) -> None:
    for device in study.BANDWIDTHS:
        kb = device.footprints_kb[-1]
        there = study.measured("l2_bandwidth_vs_footprint.csv", device.name, "GBps")[kb]
        here = study.hbm_bandwidth(Machine(load_machine(device.machine)), kb * 1024, 128 << 20) / 1e9
        assert here == pytest.approx(there, rel=study.PLATEAU_TOLERANCE), device.machine


@pytest.mark.usefixtures("measurements")
def test_all_but_three_of_the_measured_l1_loads_are_within_the_tolerance(
    study: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    study.print_strides()
    lines = capsys.readouterr().out.splitlines()
    assert sum(int(line.split(" of ")[1].split()[0]) for line in lines if "tags decide" in line) == 144
    off = {line.split("L1 ")[1].split("  ")[0] for line in lines if line.endswith("OFF")}
    assert off == {"float stride 3", "float stride 5", "double block 2"}


@pytest.mark.parametrize(
    ("name", "device"),
    [("t4", ""), ("l4", ""), ("a40", "a40"), ("l40", "l40"), ("rtx-4090", ""), ("rtx-pro-6000-server", "")],
)
def test_a_long_read_of_gddr_comes_close_to_the_peak_and_to_what_is_measured(
    study: ModuleType, data_file: Callable[[str], Path], name: str, device: str
) -> None:
    machine = Machine(load_machine(name))
    peak = float(machine.hbm_peak_bytes_per_second)
    read = study.hbm_bandwidth(machine, 1 << 30, 160 << 20)
    cores = machine.spec.cores
    in_flight = cores.count * cores.dma.max_outstanding * study.PIECE_BYTES  # had begun before what is counted
    assert 0.75 * peak < read <= peak * (1 + in_flight / (120 << 20))
    if device:
        devices = json.loads(data_file("kernels/devices.json").read_text())
        measured = devices[device]["stream_max_measured_gbs"]["stream_read"] * 1e9
        assert read == pytest.approx(measured, rel=study.PLATEAU_TOLERANCE)
