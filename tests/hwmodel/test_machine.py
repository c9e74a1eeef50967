from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodel import description, matrix
from hwmodel.dram.standards import PARTS, read_standard, standard
from hwmodel.machine import Machine
from hwmodel.noc import Server
from hwmodel.spec import load_machine


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ticks=st.integers(0, 10**12))
def test_ticks_become_femtoseconds_rounded_up_and_back(machine: Machine, ticks: int) -> None:
    exact = ticks * Fraction(2 * 10**15, machine.spec.hbm.pin_rate)  # a pin of HBM3 carries two bits in half a CK
    assert exact <= machine.ticks_to_fs(ticks) < exact + 1
    assert machine.fs_to_ticks(int(exact)) == ticks  # rounded down, the same tick is the first not before it


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(time_fs=st.integers(0, 10**15))
def test_the_tick_of_a_time_is_the_first_not_before_it(machine: Machine, time_fs: int) -> None:
    tick = machine.fs_to_ticks(time_fs)
    assert tick * machine.tick_fs >= time_fs > (tick - 1) * machine.tick_fs
    assert machine.ticks_of(np.array([time_fs])).tolist() == [tick]
    assert machine.times_of(np.array([tick])).tolist() == [machine.ticks_to_fs(tick)]


def test_a_port_takes_whole_cycles(machine: Machine) -> None:
    width = machine.spec.noc.port_bytes_per_cycle
    assert machine.port_fs(0) == 0
    assert machine.port_fs(1) == machine.port_fs(width) == machine.core_fs(1)
    assert machine.port_fs(width + 1) == machine.core_fs(2)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=20))
def test_a_server_works_first_come_first_served_without_a_pause_while_jobs_wait(jobs: list[tuple[int, int]]) -> None:
    server = Server()
    offers = list(accumulate(gap for gap, _ in jobs))
    ends = [server.serve(offer, duration) for offer, (_, duration) in zip(offers, jobs, strict=True)]
    starts = [end - duration for end, (_, duration) in zip(ends, jobs, strict=True)]
    assert all(start >= offer for start, offer in zip(starts, offers, strict=True))
    assert all(start >= before for before, start in pairwise([0, *starts]))  # in order, and no two at a time:
    assert all(start >= end for end, start in zip(ends, starts[1:], strict=False))
    assert all(start in (offer, end) for end, start, offer in zip([0, *ends], starts, offers, strict=False))
    assert server.busy_fs == sum(duration for _, duration in jobs)
    assert server.free_fs == max(ends, default=0)


def test_refreshes_that_leave_no_time_for_bursts_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tree = yaml.safe_load((PARTS / "HBM3.yaml").read_text())
    tree["timing"]["tREFI"] = "400 ns"
    (tmp_path / "often.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.setattr(description, "standard", lambda name: read_standard(tmp_path / "often.yaml"))
    spec = load_machine("npu-hbm3")
    assert Machine(spec).timing.nREFIpb == 40  # of single banks, there is time
    with pytest.raises(
        ValueError, match=r"^machine npu-hbm3: hbm\.standard: HBM3 at 6400000000 b/s: nREFI: 1280 ticks "
    ):
        Machine(spec.with_overrides({"hbm.controller.refresh": "all-bank"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2048}, "8192 channels of all stacks; allowed: 1 .. 4096"),
        ({"pseudo_channels": 4}, "4 pseudo_channels per channel; allowed: 1 .. 2"),
        ({"banks_per_group": 32}, "256 banks per pseudo-channel; allowed: 1 .. 64"),
    ],
)
def test_a_part_that_the_controller_has_no_room_for_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, int], message: str
) -> None:
    spec, hbm3 = load_machine("npu-hbm3"), standard("HBM3")
    large = replace(hbm3, organisation=replace(hbm3.organisation, **changes))
    monkeypatch.setattr(description, "standard", lambda name: large)
    with pytest.raises(ValueError, match=f"^machine npu-hbm3: hbm\\.standard: HBM3: organisation: {message}$"):
        Machine(spec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cores.dma.min_transfer": "48 B"}, "cores.dma.min_transfer: 48 B; allowed: at most one burst of 32 B, or a"),
        ({"cores.dma.min_transfer": "8 KiB"}, "a multiple of it up to 4096 B, a request or 65536 B"),
        ({"cores.dma.min_transfer": "1 GiB", "cores.dma.request_bytes": "1 GiB"}, "a multiple of it up to 65536 B"),
        ({"cores.dma.write_bytes": "2 KiB"}, "cores.dma.write_bytes: 2048 B is more than one row of banks, 1024 B"),
        ({"cores.sram.banks": 100_000}, "cores.sram.banks: 100000; allowed: 1 to 65536"),
        ({"cores.sram.bank_width": "1 MiB"}, "cores.sram.bank_width: 1048576 B; allowed: 1 B to 65536 B"),
        ({"cores.sram.write_granule": "3 B"}, "cores.sram.write_granule: 3 B does not divide the bank width, 16 B"),
    ],
)
def test_parts_of_a_core_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"machine npu-hbm3: .*{message}"):
        Machine(load_machine("npu-hbm3").with_overrides(changes))


sizes = st.integers(1, 300)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(m=sizes, n=sizes, k=sizes)
def test_a_matmul_is_never_faster_than_its_multiplications(machine: Machine, m: int, n: int, k: int) -> None:
    unit = machine.spec.cores.matrix
    cycles = matrix.cycles(unit, m, n, k)
    sustained = Fraction(unit.macs_per_cycle * (unit.sustained_percent or 100), 100)
    assert cycles * sustained >= m * n * k
    assert cycles <= matrix.cycles(unit, m + 1, n + 1, k + 1)
    whole = matrix.cycles(unit, unit.m * m, unit.n * n, unit.k * k)
    assert whole == -(-unit.m * m * unit.n * n * unit.k * k // sustained)  # whole blocks waste nothing


def test_a_product_takes_the_rate_of_its_type_and_the_part_of_it_that_lasts() -> None:
    unit = load_machine("h100-sxm").cores.matrix
    sizes = 64 * 100, 8 * 100, 16 * 100
    macs = sizes[0] * sizes[1] * sizes[2]
    cycles = {dtype: matrix.cycles(unit, *sizes, dtype) for dtype in ("bf16", "fp8_e4m3", "int8", "fp32")}
    assert cycles == {
        "bf16": -(-100 * macs // (78 * 2048)),
        "fp8_e4m3": -(-100 * macs // (68 * 4096)),
        "int8": -(-macs // 4096),
        "fp32": -(-macs // 1024),
    }


def test_npu_has_four_stacks_of_hbm3_at_its_highest_rate() -> None:
    machine = Machine(load_machine("npu-hbm3"))
    assert machine.hbm_peak_bytes_per_second == 4 * 819_200_000_000  # 1024 pins at 6.4 Gb/s each
    cores = machine.spec.cores
    peak_flops = 2 * cores.matrix.macs_per_cycle * cores.clock * cores.count
    assert peak_flops == pytest.approx(393e12, rel=1e-3)  # as its source line says


def test_the_peak_is_that_of_all_data_pins(machine: Machine) -> None:
    pins = machine.spec.hbm.stacks * 1024  # JESD238: 16 channels of 64 bits per stack
    assert machine.hbm_peak_bytes_per_second * 8 == pins * machine.spec.hbm.pin_rate
