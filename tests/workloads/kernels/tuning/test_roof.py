"""Estimates of phases: what the last wave, memory's latency and its channels do to them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads.kernels.tuning.roof import Items, Roof, _turn_fs, kept_busy

NPU, TPU, H100 = (Roof(Machine(load_machine(name))) for name in ("npu-hbm3", "tpu-v6e", "h100-sxm"))
MOVED = Items(16, 10, 1000, "bf16", 10**5, 0, 8)  # main memory is what a phase of these waits for


def busy_fs(roof: Roof, items: Items) -> float:
    return roof.phase_fs(items) - roof.phase_fs(replace(items, tiles=0))


def test_a_last_wave_of_few_cores_has_main_memory_to_itself() -> None:
    one, full, more = (busy_fs(NPU, replace(MOVED, count=count)) for count in (1, 16, 17))
    assert more == pytest.approx(full + one, rel=1e-6)
    assert one == pytest.approx(MOVED.tiles * MOVED.tile_bytes * NPU.port_fs, rel=1e-6)


def test_the_same_bytes_in_finer_tiles_take_as_long_where_main_memory_is_full() -> None:
    coarse, fine = (replace(MOVED, count=count, tile_bytes=bytes_) for count, bytes_ in ((16, 4 * 10**5), (64, 10**5)))
    assert busy_fs(NPU, coarse) == pytest.approx(busy_fs(NPU, fine), rel=1e-6)
    idle = replace(coarse, count=8)  # half the cores, and half the bytes: what each core takes in decides
    assert busy_fs(NPU, idle) > busy_fs(NPU, coarse) / 2


def test_one_core_has_the_bandwidth_of_the_channels_it_meets_and_many_cores_lose_little() -> None:
    alone = replace(MOVED, count=1, tile_bytes=10**7)
    assert busy_fs(TPU, replace(alone, channels=0.25)) == pytest.approx(4 * busy_fs(TPU, alone), rel=0.01)
    assert busy_fs(NPU, MOVED) < busy_fs(NPU, replace(MOVED, channels=0.25)) < 1.25 * busy_fs(NPU, MOVED)


@pytest.mark.parametrize("change", [{"stages": 1}, {"requests": 100}])
def test_latency_limits_what_few_stages_or_few_requests_in_flight_let_through(change: dict[str, int]) -> None:
    items = Items(132, 10, 1000, "bf16", 4096, 0, 4)
    assert busy_fs(H100, replace(items, **change)) > 2 * busy_fs(H100, items)


def test_stages_that_circulate_are_limited_by_latency_when_few_and_by_the_station_when_many() -> None:
    assert _turn_fs(100, 50, 1) == 150
    turns = [_turn_fs(100, 50, customers) for customers in range(1, 64)]
    assert turns == sorted(turns, reverse=True)
    assert turns[-1] == pytest.approx(50, rel=0.01)
    assert all(turn >= max(50, 150 / (at + 1)) for at, turn in enumerate(turns))


def test_two_stations_in_line_are_busier_with_more_room_and_when_one_is_faster() -> None:
    assert kept_busy(1, 2) == pytest.approx(2 / 3)
    assert kept_busy(1 - 1e-9, 2) == pytest.approx(2 / 3)
    assert kept_busy(1, 2) < kept_busy(1, 8) < kept_busy(0.5, 8) < 1
    assert kept_busy(0, 1) == 1


def test_what_comes_unevenly_takes_longer_with_few_stages() -> None:
    even = replace(MOVED, count=16, macs=10**6)
    assert busy_fs(NPU, replace(even, takes_turns=True, stages=2)) > busy_fs(NPU, replace(even, takes_turns=True))
    assert busy_fs(NPU, replace(even, takes_turns=True)) > busy_fs(NPU, even)
