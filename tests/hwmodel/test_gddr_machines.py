"""Machines with GDDR memory against the published figures of their parts, and their memory of many small packages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.machine import Machine
from hwmodel.spec import load_machine

GIB = 1 << 30
DEVICES = {  # machine: its name among the devices, bytes of memory and of shared memory per block (datasheets)
    "t4": ("t4", 16 * GIB, 64 << 10),
    "a40": ("a40", 48 * GIB, 99 << 10),
    "l4": ("l4", 24 * GIB, 99 << 10),
    "l40": ("l40", 48 * GIB, 99 << 10),
    "l40s": ("l40s", 48 * GIB, 99 << 10),
    "rtx-4090": ("rtx4090", 24 * GIB, 99 << 10),
    "rtx-pro-6000-server": ("rtx_pro_6000_server", 96 * GIB, 99 << 10),
}
RATES = {"fp16": "fp16", "bf16": "bf16", "fp8": "fp8_e4m3", "int8": "int8", "tf32": "fp32", "fp4": "fp4_scaled"}
by_name = pytest.mark.parametrize("name", DEVICES)
MACHINES = {name: Machine(load_machine(name)) for name in DEVICES}


@pytest.fixture(scope="module")
def devices(data_file: Callable[[str], Path]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data_file("kernels/devices.json").read_text())
    return found


def teraflops(name: str, macs_per_cycle: int) -> float:
    cores = load_machine(name).cores
    return 2 * macs_per_cycle * cores.clock * cores.count / 1e12


@by_name
def test_matrix_rates_are_the_published_dense_ones(name: str, devices: dict[str, Any]) -> None:
    peak = devices[DEVICES[name][0]]["peak"]
    if name == "l40s":  # its 16-bit rate is published at a lower clock than all others, its fp8 rate is twice this one
        assert peak["fp8"] / peak["fp16"] > 2.02
        peak = peak | dict.fromkeys(("fp16", "bf16"), peak["fp8"] / 2)
    unit = load_machine(name).cores.matrix
    for dtype in peak.keys() & RATES.keys():
        rate = teraflops(name, unit.rate(RATES[dtype]).macs_per_cycle)
        assert rate == pytest.approx(peak[dtype], rel=0.01), dtype


@by_name
def test_the_vector_unit_has_the_published_fp32_rate(name: str, devices: dict[str, Any]) -> None:
    published = devices[DEVICES[name][0]]["peak"]["fp32"]
    assert teraflops(name, load_machine(name).cores.vector.alu) == pytest.approx(published, rel=0.01)


@by_name
def test_memory_and_caches_are_those_of_the_part(name: str, devices: dict[str, Any]) -> None:
    device, capacity, shared = DEVICES[name]
    published, machine = devices[device], MACHINES[name]
    spec = machine.spec
    assert float(machine.hbm_peak_bytes_per_second) / 1e9 == pytest.approx(published["gbs"], rel=0.01)
    assert 32 * spec.hbm.stacks == published["bus_bits"]
    assert spec.hbm.pin_rate / 1e9 == published["gbps_pin"]
    assert spec.hbm.standard == published["hbm"]
    assert machine.memory_capacity_bytes == capacity
    assert spec.shared_cache.capacity == published["l2_mb"] << 20
    assert spec.cores.count == published["sm"]
    assert spec.cores.sram.capacity == shared < published["smem_l1_kb_per_sm"] << 10


def test_tensor_cores_without_a_type_leave_it_to_the_cuda_cores() -> None:
    cores = load_machine("t4").cores  # no TF32 before compute capability 8.0
    assert cores.matrix.rate("fp32").macs_per_cycle == cores.vector.alu


@by_name
@given(data=st.data())
def test_an_address_map_over_any_number_of_packages_gives_every_address_a_place_of_its_own(
    name: str, data: st.DataObject
) -> None:
    address_map = MACHINES[name].address_map
    bursts = data.draw(st.lists(st.integers(0, address_map.capacity_bytes // 32 - 1), min_size=1, max_size=50))
    addresses = 32 * np.array(bursts, np.int64)
    assert np.array_equal(address_map.encode(*address_map.decode(addresses)), addresses)


@by_name
def test_consecutive_bytes_use_all_channels_alike_and_256_of_a_row(name: str) -> None:
    machine = MACHINES[name]
    turn = 256 * machine.pseudo_channels
    first = 5 * GIB // turn * turn
    place = machine.address_map.decode(np.arange(first, first + 16 * turn, 32))
    channel = place.stack * machine.organisation.channels + place.channel
    assert np.array_equal(np.bincount(channel), np.full(machine.pseudo_channels, 16 * 256 // 32))
    rows = np.stack((channel, place.bank_group, place.bank, place.row), axis=1).reshape(-1, 8, 4)
    assert (rows == rows[:, :1]).all()


@pytest.mark.parametrize("packages", [5, 6, 8, 12])
def test_a_machine_may_have_any_number_of_packages(packages: int) -> None:
    machine = Machine(load_machine("t4").with_overrides({"hbm.stacks": packages}))
    rows = machine.address_map.decode(np.arange(256 * packages) * 24576)
    counts = np.bincount(rows.stack * 2 + rows.channel, minlength=2 * packages)
    assert counts.max() < 1.3 * 128


def test_a_rate_that_the_memory_does_not_have_is_refused_with_its_path() -> None:
    with pytest.raises(ValueError, match=r"machine l40: hbm\.pin_rate: GDDR6: pin rate 28000000000 b/s is outside"):
        Machine(load_machine("l40").with_overrides({"hbm.pin_rate": "28 Gb/s"}))
