from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodel import reference
from hwmodel.assembler import PhaseAssembler, Region, Slot
from hwmodel.bounds import lower_bound
from hwmodel.dram.controller import Dram
from hwmodel.dram.standards import COMMANDS
from hwmodel.dram.state import NOW
from hwmodel.machine import Machine
from hwmodel.memory_side import MemorySide
from hwmodel.program import QUEUES, Program
from hwmodel.reference import simulate
from hwmodel.result import Result
from workloads.kernels import decode_attention as attention
from workloads.kernels import gemm

NO_REFRESH = {"hbm.controller.refresh": "none"}
PROBLEM = attention.Problem(8, 2, 64, "bf16", (200, 37, 90))

MachineMaker = Callable[..., Machine]


def attend(machine: Machine, problem: attention.Problem = PROBLEM, **knobs: Any) -> Result:
    return simulate(attention.compile(problem, attention.Knobs(**knobs), machine, 0), machine)


def multiply(machine: Machine, m: int, n: int, k: int, **knobs: Any) -> Result:
    return simulate(gemm.compile(gemm.Problem(m, n, k, "bf16"), gemm.Knobs(**knobs), machine, 0), machine)


@st.composite
def programs(draw: st.DrawFn) -> Callable[[Machine], Program]:
    """Draw a small kernel with its knobs, to be compiled for a machine."""
    schedule = draw(st.sampled_from(["static", "balanced", "dynamic"]))
    stages = draw(st.integers(1, 4))
    sram_layout = draw(st.sampled_from(["swizzled", "row-major"]))
    if draw(st.booleans()):
        heads = draw(st.integers(1, 3))
        contexts = tuple(draw(st.lists(st.integers(1, 150), min_size=1, max_size=4)))
        problem = attention.Problem(heads * draw(st.integers(1, 4)), heads, 64, "bf16", contexts)
        layout = draw(
            st.sampled_from(["page kv token head dim", "page kv head dim//8 token dim%8", "page kv head dim token"])
        )
        knobs = attention.Knobs(
            layout,
            draw(st.sampled_from([1, 7, 16])),
            draw(st.sampled_from(["contiguous", "shuffled"])),
            draw(st.sampled_from([16, 33, 64])),
            stages,
            draw(st.sampled_from([0, 40])),
            schedule,
            sram_layout,
        )
        return lambda machine: attention.compile(problem, knobs, machine, 0)
    m, n, k = (draw(st.integers(1, 200)) for _ in range(3))
    layouts = draw(st.sampled_from([("m k", "n k", "m n"), ("k m", "k n", "n m")]))
    tile = st.sampled_from([32, 64])
    tiles = (draw(tile), draw(tile), draw(tile))
    split = draw(st.integers(1, 3))
    product = gemm.Knobs(*layouts, *tiles, stages, split, schedule, sram_layout)
    return lambda machine: gemm.compile(gemm.Problem(m, n, k, "bf16"), product, machine, 0)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    make=programs(),
    refresh=st.sampled_from(["per-bank", "all-bank", "none"]),
    stacks=st.integers(1, 3),
    core=st.sampled_from(
        [
            {},
            {"cores.sram.ports": 2, "cores.matrix.accumulators": "scratchpad"},
            {"cores.sram.banks": 16, "cores.dma.write_bytes": "32 B", "cores.dma.gather": False},
            {"cores.dma.max_runs": 1, "cores.dma.min_transfer": "128 B", "cores.dma.dimensions": 1},
            {"hbm.controller.merge": True},
        ]
    ),
)
def test_laws_of_every_run(
    machine: Machine,
    make: Callable[[Machine], Program],
    refresh: str,
    stacks: int,
    core: dict[str, object],
    make_machine: MachineMaker,
) -> None:
    here = make_machine(machine.spec.name, {"hbm.controller.refresh": refresh, "hbm.stacks": stacks} | core)
    program = make(here)
    result = simulate(program, here)
    cores, clock = here.spec.cores.count, here.spec.cores.clock
    # the bound holds, for the whole and per resource
    assert 0 < lower_bound(program, here).total_fs <= result.makespan_fs
    assert result.bound.limited_by in result.bound.by_resource
    # every unit's time has one cause
    for kind, units in (*((queue, cores) for queue in QUEUES), ("hbm", stacks * 16 * 2)):
        assert sum(result.stalls[kind].values()) == result.makespan_fs * units
        assert min(result.stalls[kind].values()) >= 0
    assert sum(phase.fs for phase in result.phases) == result.makespan_fs
    assert (result.cycles - 1) * 10**15 < result.makespan_fs * clock <= result.cycles * 10**15
    # every byte asked for is moved, in whole bursts, and every burst is counted once everywhere
    for tensor in result.traffic:
        assert tensor.load_fetched_bytes >= tensor.load_useful_bytes
        assert tensor.store_written_bytes >= tensor.store_useful_bytes
    dram = result.dram
    cache = result.levels.get("shared cache")
    if cache is None:
        assert result.hbm_read_bytes >= result.hbm_useful_bytes
    else:
        assert cache.hit + cache.missed + cache.merged == sum(t.load_fetched_bytes for t in result.traffic)
        assert result.hbm_read_bytes == cache.fetched >= cache.missed
        assert result.hbm_write_bytes == cache.written_back <= cache.stored - cache.dirty
    merged = dram.merged_reads + dram.merged_writes
    assert dram.row_hits + dram.row_misses + dram.row_conflicts + merged == dram.reads + dram.writes
    assert dram.bank_bursts.sum() == dram.pseudo_channel_bursts.sum() == dram.reads + dram.writes
    interval_ticks = {"per-bank": here.timing.nREFIpb, "all-bank": here.timing.nREFI, "none": 1 << 62}[refresh]
    due = int(result.makespan_fs / here.tick_fs) // interval_ticks
    assert dram.refreshes == due * stacks * 16 * 2
    assert dram.bytes_per_bin.sum() == result.hbm_read_bytes + result.hbm_write_bytes
    # the scratchpads hold what was loaded and stored, and what units waited for each other is in their accounts
    loaded, stored = (sum(getattr(t, f"{way}_useful_bytes") for t in result.traffic) for way in ("load", "store"))
    assert (result.sram["load"].written_bytes, result.sram["store"].read_bytes) == (loaded, stored)
    for unit in ("matrix", "vector"):
        contention = result.stalls[unit].get("SRAM contention", 0) * clock / 10**15
        assert contention <= result.sram[unit].contention_cycles < contention + 1
    assert 0 <= result.hbm_bandwidth_fraction <= 1
    assert all(0 <= used <= 1 for used in result.utilisation.values())


def test_bandwidth_over_time_adds_up_to_the_bytes_moved(machine: Machine) -> None:
    result = attend(machine)
    columns = result.bandwidth()
    assert len(columns["time_us"]) == len(columns["bytes_per_second"]) == -(-result.makespan_fs // result.bin_fs)
    moved = sum(columns["bytes_per_second"]) * result.bin_fs / 1e15
    assert moved == pytest.approx(result.hbm_read_bytes + result.hbm_write_bytes)


def test_equal_inputs_give_equal_results(machine: Machine) -> None:
    first, second = (attend(machine, schedule="dynamic", split_tokens=64) for _ in range(2))
    assert first.metrics() == second.metrics()
    assert list(first.stalls["load"]) == list(second.stalls["load"])
    np.testing.assert_array_equal(first.dram.bank_activates, second.dram.bank_activates)


def test_the_useful_bytes_of_attention_are_the_kv_cache_by_hand(make_machine: MachineMaker) -> None:
    result = attend(make_machine("h100-sxm"))
    assert result.hbm_useful_bytes == 2 * 2 * 64 * 2 * (200 + 37 + 90)  # K and V, heads, head_dim, bf16, tokens
    traffic = {tensor.name: tensor for tensor in result.traffic}
    assert traffic["q"].load_useful_bytes == traffic["out"].store_useful_bytes == 3 * 8 * 64 * 2
    assert result.hbm_write_bytes == 0  # results stay in the cache
    assert result.hbm_read_bytes == result.hbm_useful_bytes  # rows of 128 B fill bursts of 32 B


def test_a_machine_without_cache_moves_queries_and_results_too(make_machine: MachineMaker) -> None:
    result = attend(make_machine("npu-hbm3"))
    assert result.hbm_useful_bytes == 2 * 2 * 64 * 2 * 327 + 3 * 8 * 64 * 2
    assert result.hbm_write_bytes == 3 * 8 * 64 * 2


def test_tokens_across_bursts_are_over_fetched(make_machine: MachineMaker) -> None:
    machine = make_machine("h100-sxm")
    row_major, transposed = (attend(machine, layout=x) for x in ("page kv token head dim", "page kv head dim token"))
    assert transposed.hbm_useful_bytes == row_major.hbm_useful_bytes
    # pages of 16 tokens, one burst per page and dim, also for the last page of 5 and of 10 tokens and of 8
    pages = 13 + 3 + 6
    assert transposed.hbm_read_bytes == pages * 2 * 2 * 64 * 32


def test_a_gemm_reads_every_operand_tile_once_per_use(make_machine: MachineMaker) -> None:
    machine = make_machine("npu-hbm3")
    result = multiply(machine, 128, 96, 64, tile_m=64, tile_n=32, tile_k=32)
    traffic = {tensor.name: tensor for tensor in result.traffic}
    assert traffic["a"].load_useful_bytes == 128 * 64 * 2 * (96 // 32)
    assert traffic["b"].load_useful_bytes == 96 * 64 * 2 * (128 // 64)
    assert traffic["c"].store_useful_bytes == 128 * 96 * 2


@pytest.mark.parametrize("schedule", ["static", "balanced", "dynamic"])
@pytest.mark.parametrize("cores", [1, 2, 5, 16])
def test_every_schedule_runs_every_task_once(schedule: str, cores: int, make_machine: MachineMaker) -> None:
    machine = make_machine("npu-hbm3", {"cores.count": cores})
    result = attend(machine, schedule=schedule, split_tokens=64)
    traffic = {tensor.name: tensor for tensor in result.traffic}
    parts = 2 * (4 + 1 + 2)
    assert traffic["partial"].store_useful_bytes == parts * 4 * (64 + 1) * 4
    assert traffic["partial"].load_useful_bytes == traffic["partial"].store_useful_bytes
    assert traffic["out"].store_useful_bytes == 3 * 8 * 64 * 2
    assert traffic["kv"].load_useful_bytes == 2 * 2 * 64 * 2 * 327


KERNELS = {
    "attention": lambda machine: attend(machine, stages=4),
    "split attention": lambda machine: attend(machine, split_tokens=48),
    "gemm": lambda machine: multiply(machine, 300, 200, 256, tile_m=64, tile_n=64),
    "split gemm": lambda machine: multiply(machine, 100, 60, 500, tile_m=64, tile_n=64, split_k=3),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("hbm.stacks", (1, 2, 4, 8)),
        ("cores.dma.max_outstanding", (1, 2, 4, 16)),
        ("noc.port_bytes_per_cycle", (16, 64, 256)),
    ],
)
def test_more_of_a_resource_is_never_slower(
    machine: Machine, kernel: str, path: str, values: tuple[int, ...], make_machine: MachineMaker
) -> None:
    """A run that leaves HBM idle gains no bandwidth from more stacks, but may wait for one more row to be opened.

    More requests in flight reach HBM and the scratchpad in another order, which may be worse by a percent.
    """
    results = [KERNELS[kernel](make_machine(machine.spec.name, {path: value})) for value in values]
    for fewer, more in pairwise(results):
        opens_more = path == "hbm.stacks" and fewer.hbm_bandwidth_fraction < 0.15
        slack_fs = machine.ticks_to_fs(machine.timing.nRCDRD) if opens_more else 0
        slack_fs += fewer.makespan_fs // 100 if path == "cores.dma.max_outstanding" else 0
        assert more.makespan_fs <= fewer.makespan_fs + slack_fs


BLOCKING_CACHE = {
    "shared_cache.partitions": 1,
    "shared_cache.capacity": "160 KiB",
    "shared_cache.outstanding_misses": 40,
}
LAST_LEG_OF_NOUGHT = {"shared_cache.miss_latency": "0 s", "noc.multicast_window": "100 ns", "noc.bisection": "1 TB/s"}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("npu-hbm3", {}),
        ("npu-hbm3", {"noc.multicast_window": "100 ns", "noc.bisection": "1 TB/s"}),
        ("h100-sxm", {}),
        ("h100-sxm", BLOCKING_CACHE),
        ("h100-sxm", BLOCKING_CACHE | LAST_LEG_OF_NOUGHT),
    ],
)
def test_time_does_not_depend_on_how_far_the_channels_run_ahead(
    name: str, changes: dict[str, object], kernel: str, make_machine: MachineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = make_machine(name, changes)
    normal = KERNELS[kernel](machine)
    advance = MemorySide.advance
    done_tick = steps = 0

    def one_tick(self: MemorySide, limit_fs: int) -> None:
        nonlocal steps, done_tick
        steps += 1
        done_tick = min(max(done_tick + 1, machine.fs_to_ticks(self.env.now)), machine.fs_to_ticks(limit_fs))
        advance(self, int(done_tick * machine.tick_fs))  # rounded down, so that it is this tick

    monkeypatch.setattr(MemorySide, "advance", one_tick)
    stepped = KERNELS[kernel](machine)
    assert stepped.metrics() == normal.metrics()
    np.testing.assert_array_equal(stepped.dram.bank_bursts, normal.dram.bank_bursts)
    assert steps > 100


def test_a_program_that_deadlocks_is_an_error_that_names_its_phase(
    make_machine: MachineMaker, shift_wait: Any, list_waits: Any
) -> None:
    machine = make_machine("npu-hbm3")
    program = attention.compile(PROBLEM, attention.Knobs(), machine, 0)
    queue, position, which, _ = next(wait for wait in list_waits(program) if wait[3] == "memory")
    with pytest.raises(RuntimeError, match="phase attend of decode-attention deadlocks"):
        simulate(shift_wait(program, queue, position, which, 1000), machine)


def test_a_phase_that_does_not_fit_says_by_how_many_bytes_and_which_buffers(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    def write(p: PhaseAssembler) -> None:
        p.add_buffers(placed(("tiles", 1024, 512, "bf16", 2), ("sum", 4, 8, "fp32", 1)))

    with pytest.raises(
        ValueError, match="phase only needs 2097280 B of scratchpad, 128 B more than the 2097152 B"
    ) as error:
        simulate(make_program(write), make_machine("npu-hbm3"))
    assert "buffers: tiles 2 x 1048576 B, sum 1 x 128 B" in str(error.value)


@pytest.mark.parametrize("cores", [2, 17])
def test_a_program_for_another_number_of_cores_is_refused(
    make_program: Any, make_machine: MachineMaker, cores: int
) -> None:
    program = make_program(lambda p: None, cores=16)
    with pytest.raises(ValueError, match=f"^the tasks are dealt to 16 cores, and the machine has {cores}$"):
        simulate(program, make_machine("npu-hbm3", {"cores.count": cores}))


@pytest.mark.parametrize("name", ["npu-hbm3", "h100-sxm"])
def test_requests_may_be_larger_than_any_tile(
    name: str, make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, 50_000, "bf16", 1)))
        p.load(Slot(buffer, p.begun), Region(0, {"x": (0, 50_000)}))
        p.load(Slot(buffer, p.begun), Region(0, {"x": (500_000, 50_000)}))

    found = []
    for size in ("100 kB", "1024 TiB"):
        machine = make_machine(name, {"cores.dma.request_bytes": size})
        result = simulate(make_program(write, cores=machine.spec.cores.count), machine)
        assert [tensor.requests for tensor in result.traffic] == [2]
        found.append(result.metrics() | {"machine_hash": ""})
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["npu-hbm3", "h100-sxm"])
def test_the_bound_of_multicast_holds_where_one_core_asks_for_the_same_tile_again_and_again(
    name: str, make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, 2048, "bf16", 1)))
        for _ in range(8):
            p.load(Slot(buffer, p.begun), Region(0, {"x": (0, 2048)}))

    slow = {"cores.count": 1, "noc.multicast_window": "1 us", "noc.bisection": "10 GB/s"}
    result = simulate(make_program(write, cores=1), make_machine(name, slow))  # asserts it
    assert result.makespan_fs >= result.bound.total_fs > 8 * 4096 * 10**5  # 10 GB/s: a byte in 0.1 ns


def test_descriptors_complete_in_order(make_program: Any, placed: Any, make_machine: MachineMaker) -> None:
    """A tiny load behind a large one signals after it, so a store that waits for the tiny one waits for both."""
    machine = make_machine("npu-hbm3", NO_REFRESH)

    def time_fs(large_first: bool) -> int:
        def write(p: PhaseAssembler) -> None:
            blocks = placed(("large", 1, 400_000, "bf16", 1), ("small", 1, 16, "bf16", 1), ("w", 1, 400_000, "bf16", 1))
            large, small, work = p.add_buffers(blocks)
            loaded = p.counter("small loaded", "memory")
            regions = [(large, (0, 400_000), []), (small, (500_000, 16), [loaded])]
            for buffer, here, signal in regions if large_first else regions[::-1]:
                p.load(Slot(buffer, p.begun), Region(0, {"x": here}), signal=signal)
            p.vector("convert", [Slot(work, p.begun)] * 2, (1, 400_000), wait=[(loaded, 1)])

        return simulate(make_program(write), machine).makespan_fs

    vector_fs = -(-400_000 // 256) * 10**15 // 1_500_000_000
    assert time_fs(large_first=False) < 10**9 + 2 * vector_fs + 4 * 10**8
    assert time_fs(large_first=True) > 10**9 + vector_fs + 800_000 * 10**15 // (256 * 1_500_000_000)


def test_an_empty_tile_is_complete_at_once(make_program: Any, placed: Any, make_machine: MachineMaker) -> None:
    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, 16, "bf16", 1)))
        loaded = p.counter("loaded", "memory")
        p.load(Slot(buffer, p.begun), Region(0, {"x": (0, 0)}), signal=[loaded])
        p.vector("convert", [Slot(buffer, p.begun)] * 2, (1, 16), wait=[(loaded, 1)])

    machine = make_machine("npu-hbm3")
    result = simulate(make_program(write), machine)
    assert result.makespan_fs == machine.spec.launch.latency + machine.core_fs(2)  # 32 B are read and written
    assert result.hbm_read_bytes == 0


def test_two_cores_share_the_work_of_one(make_program: Any, placed: Any, make_machine: MachineMaker) -> None:
    machine = make_machine("npu-hbm3")

    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 64, 2080, "bf16", 1)))
        slot = Slot(buffer, p.begun)
        p.matmul(slot, slot, slot, (64, 64, p.column("c0")), transpose_b=True)

    def time_fs(shares: list[list[int]]) -> int:
        tasks = [[1024], [1024], [2048]]
        return simulate(make_program(write, tasks=tasks, shares=shares), machine).makespan_fs - 10**9

    alone, halves = time_fs([[0, 1, 2]]), time_fs([[0, 1], [2]])
    assert alone == pytest.approx(2 * halves, rel=1e-6)
    assert time_fs([[2], [], [0], [1]]) == pytest.approx(halves, rel=1e-6)


def test_a_shared_cache_of_one_slice_is_one_server_for_all_cores(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    count = 100_000

    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, count, "bf16", 1)))
        p.load(Slot(buffer, p.begun), Region(0, {"x": (p.column("c0"), count)}))

    machine = make_machine("h100-sxm", {"shared_cache.bandwidth": "100 GB/s", "shared_cache.slices": 1})
    tasks = [[i * count] for i in range(4)]
    program = make_program(write, tasks=tasks, shares=[[0], [1], [2], [3]], cores=132)
    program = replace(program, tensors=(replace(program.tensors[0], resident="cache"),))
    result = simulate(program, machine)
    cache_fs = 4 * 2 * count * 10**15 // 100_000_000_000
    requests, last_bytes = 25, 2 * count % 8192  # per core
    assert requests == -(-2 * count // 8192)
    assert result.cache_busy_fs == cache_fs  # 32 bytes take whole femtoseconds
    dma = machine.spec.cores.dma
    first_fs = machine.core_fs(dma.issue_cycles + dma.request_cycles) + 34_800_000 + machine.spec.noc.latency
    last_fs = machine.spec.noc.latency + machine.port_fs(last_bytes)
    # from the first request on, 4 x 8 requests in flight keep the cache busy until it has served the last
    assert result.makespan_fs == machine.spec.launch.latency + first_fs + result.cache_busy_fs + last_fs
    assert result.hbm_read_bytes == 0


def small_cache(machine: Machine) -> dict[str, object]:
    """Return the change that leaves a shared cache, where there is one, so small that nearly all goes to memory."""
    return {"shared_cache.partitions": 1, "shared_cache.capacity": "160 KiB"} if machine.spec.shared_cache else {}


@pytest.mark.parametrize("refresh", ["per-bank", "all-bank"])
def test_a_loaded_controller_issues_every_refresh_that_falls_due_and_refreshes_every_bank(
    machine: Machine,
    refresh: str,
    make_machine: MachineMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drams: list[Dram] = []

    def recorded(*arguments: Any, **options: Any) -> Dram:
        drams.append(Dram(*arguments, **options, record_commands=True))
        return drams[-1]

    monkeypatch.setattr(reference, "Dram", recorded)
    here = make_machine(machine.spec.name, {"hbm.controller.refresh": refresh, "hbm.stacks": 1} | small_cache(machine))
    result = multiply(here, 600, 500, 1500, split_k=4)
    assert result.hbm_bandwidth_fraction > 0.3
    (dram,) = drams
    trace, channels, banks = dram.commands(), here.pseudo_channels, here.organisation.banks
    reached = int(dram.state.scalars[NOW])
    interval = here.timing.nREFIpb if refresh == "per-bank" else here.timing.nREFI
    due = (reached - 1) // interval * channels
    assert due - channels <= dram.statistics().refreshes <= due  # one per pseudo-channel may be under way
    refreshes = trace[np.isin(trace[:, 6], [COMMANDS.index("REFpb"), COMMANDS.index("REFab")])]
    assert len(refreshes) == dram.statistics().refreshes
    places, times = np.unique(refreshes[:, 1:5], axis=0, return_counts=True)
    assert len(places) == channels * (banks if refresh == "per-bank" else 1)
    rounds = (reached - 1) // here.timing.nREFI
    assert rounds >= 2
    assert set(times.tolist()) <= {rounds - 1, rounds, rounds + 1}
    assert abs(result.dram.refreshes - dram.statistics().refreshes) <= 2 * channels  # due in the time of the run


def test_requests_leave_dram_in_order_of_time_though_writes_take_less_long_than_reads(
    machine: Machine, make_machine: MachineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = MemorySide._answer
    times_fs: list[int] = []

    def watched(self: MemorySide, number: int, came_fs: int, served_fs: int) -> None:
        assert self.env.now <= served_fs + self._back_fs
        times_fs.append(came_fs)
        answer(self, number, came_fs, served_fs)

    monkeypatch.setattr(MemorySide, "_answer", watched)
    result = multiply(make_machine(machine.spec.name, small_cache(machine)), 600, 500, 1000, split_k=4)
    assert result.hbm_write_bytes > 1 << 20
    assert times_fs == sorted(times_fs)
