"""Times of single transfers and matmuls, worked out by hand from the numbers of the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hwmodel.assembler import PhaseAssembler, Region, Slot
from hwmodel.dram.standards import Timing
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.reference import simulate

NO_REFRESH = {"hbm.controller.refresh": "none"}

MachineMaker = Callable[..., Machine]


@pytest.fixture
def load_program(make_program: Any, placed: Any) -> Callable[..., Program]:
    """Return a maker of programs whose first core loads (or stores) so many elements in one descriptor."""

    def make(count: int, launches: int = 1, cores: int = 16, queue: str = "load") -> Program:
        def write(p: PhaseAssembler) -> None:
            (buffer,) = p.add_buffers(placed(("b", 1, count, "bf16", 1)))
            move = p.load if queue == "load" else p.store
            move(Slot(buffer, p.begun), Region(0, {"x": (0, count)}))

        return make_program(write, launches=launches, cores=cores)  # type: ignore[no-any-return]

    return make


def read_done(timing: Timing, arrival: int) -> int:
    """Return when a burst that finds its bank closed is read. Commands begin with a rising edge of CK: odd ticks."""
    activate = arrival + (arrival + 1) % 2
    read = activate + timing.nRCDRD + timing.act_ticks - timing.column_ticks
    return read + (read + 1) % 2 + timing.nCL + timing.nBL


def test_a_single_burst_takes_the_zero_load_latency_of_the_npu(load_program: Any, make_machine: MachineMaker) -> None:
    result = simulate(load_program(16), make_machine("npu-hbm3", NO_REFRESH))
    timing = make_machine("npu-hbm3").timing
    core, tick = 10**15 / 1.5e9, 312_500  # fs: 1.5 GHz, and an eighth of 6.4 Gb/s
    there = 10**9 + -int(-(16 + 8) * core // 1) + 40 * 10**6  # launch, issue of a descriptor and a request, network
    data = read_done(timing, -(-there // tick))
    back = 40 * 10**6 + -int(-core // 1)  # network, one cycle of a port of 256 B
    assert result.makespan_fs == data * tick + back
    assert (result.dram.row_misses, result.dram.activates, result.dram.reads) == (1, 1, 1)


def test_a_single_burst_takes_the_zero_load_latency_of_the_h100(load_program: Any, make_machine: MachineMaker) -> None:
    machine = make_machine("h100-sxm", NO_REFRESH)
    result = simulate(load_program(16, cores=132), machine)
    timing = machine.timing
    tick_hz = 5_237_500_000 // 2
    dma = machine.spec.cores.dma
    cycles_fs = [-(-n * 10**15 // 1_830_000_000) for n in (dma.issue_cycles + dma.request_cycles, 1)]
    there = 1_500_000_000 + cycles_fs[0] + 34_800_000 + 70_800_000 + 129_800_000  # launch, issue, tlb, network, miss
    ticks = read_done(timing, -(-there * tick_hz // 10**15))
    cache = -(-80 * 32 * 10**15 // 9_770_000_000_000)  # one of 80 slices
    assert result.makespan_fs == -(-ticks * 10**15 // tick_hz) + cache + 70_800_000 + cycles_fs[1]
    assert result.cache_busy_fs == cache // 80


def test_calibration_check_an_unloaded_h100_answers_in_the_latency_that_was_measured(
    load_program: Any, make_machine: MachineMaker
) -> None:
    """308.8 ns from request to data (RRZE-HPC gpu-benches, gpu-latency, GH200), of which `miss_latency` is the rest.

    It was measured with every page in the TLB. A request also waits for the next CK, and a burst takes one cycle
    of the port and its time in a slice of the cache.
    """
    machine = make_machine("h100-sxm", NO_REFRESH)
    result = simulate(load_program(16, cores=132), machine)
    dma = machine.spec.cores.dma
    issue_fs = machine.core_fs(dma.issue_cycles + dma.request_cycles)
    slice_fs = 80 * 32 * 10**15 // 9_770_000_000_000
    allowance_fs = machine.ticks_to_fs(2) + machine.core_fs(1) + slice_fs
    walk_fs = 34_800_000
    assert result.makespan_fs - 1_500_000_000 - issue_fs - walk_fs == pytest.approx(308.8e6, abs=allowance_fs)


def test_a_single_matmul_takes_its_padded_multiplications(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    machine = make_machine("npu-hbm3")

    def duration_cycles(m: int, n: int, k: int) -> int:
        def write(p: PhaseAssembler) -> None:
            c, a, b = p.add_buffers(placed(("c", m, n, "fp32", 1), ("a", m, k, "bf16", 1), ("b", n, k, "bf16", 1)))
            p.matmul(Slot(c, p.begun), Slot(a, p.begun), Slot(b, p.begun), (m, n, k), transpose_b=True)

        result = simulate(make_program(write), machine)
        fs = result.stalls["matrix"]["useful"]
        cycles = fs * 1_500_000_000 // 10**15
        assert fs == -(-cycles * 10**15 // 1_500_000_000)
        return cycles

    # blocks of 16 x 16 x 32, 8192 multiply-accumulates a cycle; a fragment of 16 x 32 operand elements a cycle
    assert duration_cycles(100, 70, 130) == 112 * 80 * 160 // 8192
    assert duration_cycles(128, 128, 128) == 128 * 128 * 128 // 8192
    assert duration_cycles(1, 128, 128) == 4 + 8 * 4  # fragments of a and of b; padded product: 32
    assert duration_cycles(1, 1, 1) == 2


def test_the_launch_latency_adds_exactly_per_phase(load_program: Any, make_machine: MachineMaker) -> None:
    times = {}
    for launches in (1, 3):
        for latency in (1, 2, 4):  # microseconds: whole ticks of 625 ps
            machine = make_machine("npu-hbm3", NO_REFRESH | {"launch.latency": f"{latency} us"})
            times[launches, latency] = simulate(load_program(100_000, launches), machine).makespan_fs
    for launches in (1, 3):
        assert times[launches, 2] - times[launches, 1] == launches * 10**9
        assert times[launches, 4] - times[launches, 2] == launches * 2 * 10**9


@pytest.mark.parametrize("queue", ["load", "store"])
def test_a_narrow_port_sets_the_time(load_program: Any, make_machine: MachineMaker, queue: str) -> None:
    count = 200_000
    zero_load_fs = 10**9 + 200 * 10**6  # launch; a request and its first data take less than 200 ns
    for width in (8, 4, 2, 1):
        machine = make_machine("npu-hbm3", {"noc.port_bytes_per_cycle": width})
        port_fs = -(-2 * count * 10**15 // (width * 1_500_000_000))
        time_fs = simulate(load_program(count, queue=queue), machine).makespan_fs
        assert 10**9 + port_fs <= time_fs <= zero_load_fs + port_fs


@pytest.mark.parametrize("queue", ["load", "store"])
def test_an_engine_is_useful_while_it_issues_and_waits_while_its_port_is_busy(
    load_program: Any, make_machine: MachineMaker, queue: str
) -> None:
    requests = 40
    machine = make_machine("npu-hbm3", {"noc.port_bytes_per_cycle": 8, "cores.dma.max_outstanding": 4})
    result = simulate(load_program(requests * 2048, queue=queue), machine)
    issue_fs = machine.core_fs(16 + 8) + (requests - 1) * machine.core_fs(8)  # a descriptor, and each request
    assert result.stalls[queue]["useful"] == issue_fs
    busy_fs = result.makespan_fs - machine.spec.launch.latency
    assert result.stalls[queue]["memory"] == busy_fs - issue_fs
    assert busy_fs >= requests * machine.core_fs(4096 // 8)


def test_a_store_engine_issues_while_its_data_leaves_through_the_port(
    load_program: Any, make_machine: MachineMaker
) -> None:
    """Issue and port take the same time: one behind the other they would take twice as long as side by side."""
    requests = 100
    machine = make_machine("npu-hbm3", {"noc.port_bytes_per_cycle": 64, "cores.dma.request_cycles": 64})
    result = simulate(load_program(requests * 2048, queue="store"), machine)
    busy_fs = result.makespan_fs - machine.spec.launch.latency
    assert requests * machine.core_fs(64) < busy_fs < requests * machine.core_fs(64) + 300 * 10**6


def test_one_request_in_flight_pays_the_latency_of_every_request(load_program: Any, make_machine: MachineMaker) -> None:
    requests = 50
    machine = make_machine("npu-hbm3", NO_REFRESH | {"cores.dma.max_outstanding": 1})
    result = simulate(load_program(requests * 2048), machine)
    timing = machine.timing
    least = 2 * 40 * 10**6 + (timing.nCL + timing.nBL) * 625_000 + 16 * 666_666  # network twice, read, 4 KiB of port
    most = least + (timing.nRCDRD + timing.nRP + 64 + 2) * 625_000 + 33 * 666_667  # a row, the request's bursts, issue
    assert requests * least <= result.makespan_fs - 10**9 <= requests * most
    waiting = result.stalls["load"]["memory"]
    assert waiting > 0.8 * (result.makespan_fs - 10**9)
