"""Every shipped part beside the figures of its datasheet: peaks recomputed from its numbers, within 1 %."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwmodel.description import MachineSpec
from hwmodel.machine import Machine
from hwmodel.spec import load_machine, machine_names

DEVICES = {  # in kernels/devices.json
    "a100-pcie-40gb": "a100_pcie_40gb",
    "a100-pcie-80gb": "a100_pcie_80gb",
    "a100-sxm": "a100_sxm",
    "a100-sxm-40gb": "a100_sxm_40gb",
    "b200-sxm": "b200_sxm",
    "b300-sxm": "b300_sxm",
    "gb200": "gb200",
    "gh200": "gh200_96gb_hbm3",
    "h100-pcie": "h100_pcie",
    "h100-sxm": "h100_sxm",
    "h20": "h20",
    "h200-sxm": "h200_sxm",
    "h800-sxm": "h800_sxm",
    "mi100": "mi100",
    "mi300a": "mi300a",
    "mi300x": "mi300x",
    "mi355x": "mi355x",
    "tpu-v5e": "tpu_v5e",
    "tpu-v6e": "tpu_v6e",
    "v100-pcie": "v100_pcie_32gb",
}
DTYPES = {"fp16": "fp16", "bf16": "bf16", "fp8": "fp8_e4m3", "int8": "int8", "tf32": "fp32", "fp4": "fp4_scaled"}
# Figures that contradict others of the same sheet: in their place, what those give.
CONTRADICTED = {
    ("h20", "fp32"): 78 * 256 * 1.98e-3,  # not 44 TFLOP/s, which 78 SM would reach at 2.2 GHz
    ("b300-sxm", "fp32"): 148 * 256 * 1.92e-3,  # not 75 TFLOP/s, which 148 SM would reach at 1.98 GHz
    ("mi355x", "gbs"): 8192,  # 8192 bits of 8 Gb/s each, which the sheet rounds to 8 TB/s
}
CAPACITIES = {  # GiB of the stacks, and GB as sold, of which a part may be kept from programs: datasheets
    "a100-pcie-40gb": (40, 40),
    "a100-pcie-80gb": (80, 80),
    "a100-sxm": (80, 80),
    "a100-sxm-40gb": (40, 40),
    "b200-sxm": (192, 180),
    "b300-sxm": (288, 270),
    "gb200": (192, 186),
    "gh200": (96, 96),
    "h100-pcie": (80, 80),
    "h100-sxm": (80, 80),
    "h20": (96, 96),
    "h200-sxm": (144, 141),
    "h800-sxm": (80, 80),
    "mi100": (32, 32),
    "mi300a": (128, 128),
    "mi300x": (192, 192),
    "mi355x": (288, 288),
    "tpu-v5e": (16, 16),
    "tpu-v6e": (32, 32),
    "v100-pcie": (32, 32),
}
NAMES = sorted(DEVICES)


@pytest.fixture
def sheet(data_file: Callable[[str], Path]) -> Callable[[str], dict[str, Any]]:
    """Return a function that gives the datasheet of a shipped machine."""
    sheets = json.loads(data_file("kernels/devices.json").read_text())
    return lambda name: sheets[DEVICES[name]]


def matrix_teraops(spec: MachineSpec, dtype: str) -> float:
    """Return the dense peak of the matrix units, in 10**12 operations per second."""
    return 2 * spec.cores.count * spec.cores.clock * spec.cores.matrix.rate(dtype).macs_per_cycle / 1e12


def test_every_part_that_is_sold_has_a_datasheet_and_a_capacity() -> None:
    sold = {name for name in machine_names() if not name.startswith("npu-")}
    assert set(DEVICES) == set(CAPACITIES) == {n for n in sold if not load_machine(n).hbm.standard.startswith("GDDR")}


@pytest.mark.parametrize("name", NAMES)
def test_the_matrix_units_reach_the_rates_of_the_datasheet(name: str, sheet: Callable[[str], dict[str, Any]]) -> None:
    spec, peaks = load_machine(name), sheet(name)["peak"]
    figures = {DTYPES[dtype]: figure for dtype, figure in peaks.items() if dtype in DTYPES}
    assert figures
    assert {dtype: matrix_teraops(spec, dtype) for dtype in figures} == pytest.approx(figures, rel=0.01)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("tpu-")])
def test_the_vector_units_reach_the_fp32_rate_of_the_datasheet_at_its_highest_clock(
    name: str, sheet: Callable[[str], dict[str, Any]]
) -> None:
    spec, found = load_machine(name), sheet(name)
    boost = found["boost_mhz"] * 1e6
    assert spec.cores.clock <= boost
    figure = CONTRADICTED.get((name, "fp32"), found["peak"]["fp32"])
    assert 2 * spec.cores.count * spec.cores.vector.alu * boost / 1e12 == pytest.approx(figure, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_memory_has_the_bandwidth_of_the_datasheet(name: str, sheet: Callable[[str], dict[str, Any]]) -> None:
    figure = CONTRADICTED.get((name, "gbs"), sheet(name)["gbs"])
    peak = Machine(load_machine(name)).hbm_peak_bytes_per_second
    assert float(peak) / 1e9 == pytest.approx(figure, rel=0.01)


@pytest.mark.parametrize("key", CONTRADICTED)
def test_a_figure_that_others_contradict_is_off_by_more_than_is_allowed(
    key: tuple[str, str], sheet: Callable[[str], dict[str, Any]]
) -> None:
    name, what = key
    figures = {"gbs": sheet(name)["gbs"], "fp32": sheet(name)["peak"]["fp32"]}
    assert figures[what] != pytest.approx(CONTRADICTED[key], rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_memory_has_the_capacity_of_the_datasheet(name: str) -> None:
    gibibytes, sold = CAPACITIES[name]
    assert Machine(load_machine(name)).memory_capacity_bytes == gibibytes * 2**30
    assert sold * 10**9 <= gibibytes * 2**30 < 1.2 * sold * 10**9


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("tpu-")])
def test_cores_stacks_and_caches_are_those_of_the_datasheet(name: str, sheet: Callable[[str], dict[str, Any]]) -> None:
    spec, found = load_machine(name), sheet(name)
    assert spec.cores.count == found["sm"]
    assert spec.hbm is not None
    assert spec.hbm.stacks == found["stacks"]
    assert 1024 * spec.hbm.stacks == found["bus_bits"]
    assert spec.shared_cache is not None
    assert spec.shared_cache.capacity == found.get("l3_mb", found["l2_mb"]) * 2**20
    if "max_smem_kb" in found:  # of which one block may use all but 1 KiB
        assert spec.cores.sram.capacity == (found["max_smem_kb"] - 1) * 2**10


def test_h100_reaches_the_flops_bandwidth_and_capacity_of_its_datasheet() -> None:
    machine = Machine(load_machine("h100-sxm"))
    cores = machine.spec.cores
    peak_flops = 2 * cores.matrix.macs_per_cycle * cores.clock * cores.count
    assert peak_flops == pytest.approx(989.4e12, rel=1e-3)  # dense bf16
    assert float(machine.hbm_peak_bytes_per_second) == pytest.approx(3352e9, rel=1e-3)
    assert machine.address_map.capacity_bytes == 80 * 2**30 == 5 * 16 * 2**30
    assert machine.spec.hbm.stacks == 5
    assert machine.spec.cores.count == 132


PUBLISHED = {  # dense 16-bit TFLOP/s, other rates by type, GB/s, bytes of the shared cache: datasheets, documentation
    "a100-sxm": (312, {"int8": 624, "fp32": 156}, 2039, 40 * 2**20),
    "h100-sxm": (989.4, {"fp8_e4m3": 1978.9, "int8": 1978.9, "fp32": 494.7}, 3352, 50 * 2**20),
    "h200-sxm": (989.4, {"fp8_e4m3": 1978.9, "int8": 1978.9, "fp32": 494.7}, 4800, 50 * 2**20),
    "b200-sxm": (2250, {"fp8_e4m3": 4500, "int8": 4500, "fp8_scaled": 4500, "fp4_scaled": 9000}, 7700, 126 * 2**20),
    "mi300x": (1307.4, {"fp8_e4m3": 2614.9, "int8": 2614.9, "fp32": 163.4}, 5325, 256 * 2**20),
    "tpu-v5e": (197, {"int8": 394}, 819, 0),
    "tpu-v6e": (918, {"int8": 1836}, 1640, 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_part_reaches_the_rates_the_bandwidth_and_the_cache_that_are_published(name: str) -> None:
    flops, others, gigabytes, cache_bytes = PUBLISHED[name]
    spec = load_machine(name)
    per_mac = 2 * spec.cores.clock * spec.cores.count / 1e12
    assert spec.cores.matrix.macs_per_cycle * per_mac == pytest.approx(flops, rel=1e-3)
    for dtype, teraops in others.items():
        assert spec.cores.matrix.rate(dtype).macs_per_cycle * per_mac == pytest.approx(teraops, rel=1e-3)
    assert (spec.shared_cache.capacity if spec.shared_cache else 0) == cache_bytes
    assert spec.hbm is not None
    pins = 1024 * spec.hbm.stacks  # of HBM2 to HBM3E
    assert pins * spec.hbm.pin_rate / 8e9 == pytest.approx(gigabytes, rel=2e-3)


@pytest.mark.parametrize("name", [name for name in machine_names() if name.endswith("-sxm")])
def test_nvidias_matrix_units_multiply_tf32_at_half_the_rate_of_16_bits(name: str) -> None:
    unit = load_machine(name).cores.matrix
    assert 2 * unit.rate("fp32").macs_per_cycle == unit.macs_per_cycle


def test_types_without_a_rate_of_their_own_have_that_of_16_bits() -> None:
    for name in machine_names():
        unit = load_machine(name).cores.matrix
        for dtype in ("bf16", "fp16") if unit.bf16 is None else ("fp16",):
            assert unit.rate(dtype).macs_per_cycle == unit.macs_per_cycle
            assert unit.rate(dtype).sustained_percent == unit.sustained_percent
    assert load_machine("npu-hbm3").cores.matrix.rate("int8").macs_per_cycle == 8192
    assert [load_machine("mi100").cores.matrix.rate(dtype).macs_per_cycle for dtype in ("fp16", "bf16")] == [512, 256]
    assert load_machine("h100-sxm").cores.matrix.fp8_scaled is None  # block scales are not the unit's business
