from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from hwmodel.machine import Machine
from hwmodel.main_memory import SramMemory
from hwmodel.memory_side import Clock, MemorySide
from hwmodel.noc import Server
from hwmodel.reference import make_dram, simulate
from hwmodel.spec import load_machine, machine_names
from workloads.kernels import decode_attention as attention
from workloads.kernels import gemm

MachineMaker = Callable[..., Machine]
NS = 10**6
NO_TLB = {"tlb.entries": 1 << 20, "tlb.miss_latency": "0 s"}


@dataclass
class Request:
    engine: Engine
    number: int
    size_bytes: int


class Engine:
    """Sends requests at given times and notes when each is complete."""

    def __init__(self, side: Side, core: int) -> None:
        self.port = Server()
        self.side = side
        self.core = core

    def send(self, at_fs: int, first_byte: int, size_bytes: int, is_write: bool = False) -> None:
        def submit(_: Any) -> None:
            bursts = np.arange(first_byte, first_byte + size_bytes, 32, dtype=np.int64)
            request = Request(self, len(self.side.sent), size_bytes)
            self.side.sent.append(request)
            self.side.memory.submit(request, bursts, 0, len(bursts), is_write)

        self.side.memory.at(at_fs, submit)

    def receive(self, request: Request, now_fs: int) -> None:
        done_fs = self.port.serve(now_fs, self.side.port_fs(request.size_bytes))
        self.side.memory.at(done_fs - self.side.env.now, self.complete, request)

    def complete(self, event: Any) -> None:
        self.side.done_fs[event.value.number] = self.side.env.now


class Side:
    """The memory side of a machine with engines of our own."""

    def __init__(self, machine: Machine) -> None:
        self.env = Clock()
        self.port_fs = machine.port_fs
        self.memory = MemorySide(self.env, machine, make_dram(machine) if machine.memory == "hbm" else None)
        self.sent: list[Request] = []
        self.done_fs: dict[int, int] = {}

    def engines(self, count: int) -> list[Engine]:
        return [Engine(self, core) for core in range(count)]

    def run(self) -> list[int]:
        """Run all events; return when each request was complete, in the order of sending."""
        self.memory.run()
        return [self.done_fs[number] for number in range(len(self.sent))]


@pytest.fixture
def side(make_machine: MachineMaker) -> Callable[..., Side]:
    return lambda name, changes=None: Side(make_machine(name, changes or {}))


def test_what_one_core_has_read_another_finds_in_the_cache(side: Callable[..., Side]) -> None:
    here = side("h100-sxm", NO_TLB)
    one, two = here.engines(2)
    one.send(0, 0, 4096)
    two.send(10_000 * NS, 0, 4096)
    first_fs, second_fs = here.run()
    cache, hbm = (here.memory.levels()["shared cache"], here.memory._dram.statistics())
    assert (cache.missed, cache.hit, cache.merged, cache.fetched) == (4096, 4096, 0, 4096)
    assert hbm.reads == 4096 // 32
    assert second_fs - 10_000 * NS < first_fs - 130 * NS


def test_cores_that_ask_at_the_same_time_share_one_fetch_and_get_it_together(side: Callable[..., Side]) -> None:
    here = side("h100-sxm", NO_TLB)
    for engine in here.engines(5):
        engine.send(0, 0, 256)
    times = here.run()
    cache = here.memory.levels()["shared cache"]
    assert (cache.missed, cache.merged, cache.fetched) == (256, 4 * 256, 256)
    assert max(times) - min(times) < 20 * NS  # each in turn through the slices


def test_stores_stay_in_the_cache_until_it_is_full_and_then_leave_it_once(side: Callable[..., Side]) -> None:
    capacity = 80 * 16 * 128
    here = side("h100-sxm", NO_TLB | {"shared_cache.partitions": 1, "shared_cache.capacity": f"{capacity} B"})
    (engine,) = here.engines(1)
    for i in range(3 * capacity // 4096):
        engine.send(i * 100 * NS, i * 4096, 4096, is_write=True)
    here.run()
    cache = here.memory.levels()["shared cache"]
    assert cache.stored == 3 * capacity
    assert cache.dirty <= capacity
    assert cache.dirty + cache.written_back == cache.stored  # nothing was written twice
    assert here.memory._dram.statistics().writes * 32 == cache.written_back
    assert here.memory._dram.statistics().reads == 0


def test_with_one_outstanding_miss_lines_come_one_after_another(side: Callable[..., Side]) -> None:
    lines = 12
    times = {}
    for misses in (1, 4, 1000):
        here = side("h100-sxm", NO_TLB | {"shared_cache.outstanding_misses": misses, "hbm.controller.refresh": "none"})
        (engine,) = here.engines(1)
        engine.send(0, 0, lines * 128)
        times[misses] = here.run()[0] - 2 * 70_800_000
    assert times[1] > lines * (130.5 + 17) * NS  # the way to memory and a read of an open row, each time
    assert times[4] > 0.9 * times[1] / 4
    assert times[1] > 2.5 * times[4]
    assert times[1000] < 200 * NS


def test_a_request_that_waits_for_a_free_miss_holds_up_those_behind_it(side: Callable[..., Side]) -> None:
    here = side("h100-sxm", NO_TLB | {"shared_cache.outstanding_misses": 1})
    one, two = here.engines(2)
    two.send(0, 1 << 20, 128)
    one.send(1_000 * NS, 0, 5 * 128)
    two.send(1_001 * NS, 1 << 20, 128)  # would hit
    _, _, behind_fs = here.run()
    assert here.memory.levels()["shared cache"].hit == 128
    assert behind_fs - 1_001 * NS > 4 * 130.5 * NS  # until the last of five misses could be sent


def test_a_page_costs_a_walk_until_it_is_known_and_again_when_it_was_pushed_out(side: Callable[..., Side]) -> None:
    changes = {"tlb.entries": 2, "tlb.page": "4 KiB", "tlb.miss_latency": "500 ns"}
    here = side("h100-sxm", changes)
    one, two = here.engines(2)
    here.memory.hold([(0, 3 * 4096)])
    pages = [0, 0, 1, 0, 2, 1, 0]  # 2 pushes 1 out, then 1 pushes 0 out, then 0 pushes 2 out
    for i, page in enumerate(pages):
        one.send(i * 10_000 * NS, page * 4096, 32)
    two.send(len(pages) * 10_000 * NS, 0, 32)
    waited = [done_fs - i * 10_000 * NS for i, done_fs in enumerate(here.run())]
    walked = [True, False, True, False, True, True, True, True]  # the last: an engine's TLB is its own
    assert [fs - min(waited) for fs in waited] == [500 * NS * walk for walk in walked]
    assert here.memory.levels()["tlb"].missed == 32 * sum(walked)


def test_requests_that_need_the_same_page_wait_for_one_walk(side: Callable[..., Side]) -> None:
    here = side("h100-sxm", {"tlb.miss_latency": "500 ns"})
    (engine,) = here.engines(1)
    here.memory.hold([(0, 4096)])
    engine.send(0, 0, 32)
    engine.send(300 * NS, 128, 32)
    first_fs, second_fs = here.run()
    assert first_fs > 500 * NS
    assert second_fs - first_fs < NS


@pytest.mark.parametrize("is_write", [False, True])
def test_all_cores_together_pass_no_more_than_the_bisection(side: Callable[..., Side], is_write: bool) -> None:
    here = side("npu-hbm3", {"noc.bisection": "100 GB/s"})
    for core, engine in enumerate(here.engines(8)):
        for i in range(16):
            engine.send(0, (16 * core + i) * 4096, 4096, is_write)
    end_fs = max(here.run())
    crossing_fs = 8 * 16 * 4096 * 10**15 // 100_000_000_000
    assert crossing_fs < end_fs < crossing_fs + 300 * NS


def test_data_from_an_idle_slice_crosses_the_network_before_data_that_a_busy_slice_serves_later(
    side: Callable[..., Side],
) -> None:
    changes = NO_TLB | {"shared_cache.slices": 2, "shared_cache.bandwidth": "100 GB/s", "noc.bisection": "10 TB/s"}
    changes |= {"shared_cache.capacity": "1 MiB"}
    lines = [line for line in range(64) if line.bit_count() % 2 == 0]  # all in one slice

    def time_of_the_last(busy: list[int]) -> int:
        here = side("h100-sxm", changes)
        here.memory.hold([(0, 64 * 128)])
        first, second = here.engines(2)
        for line in busy:
            first.send(0, line * 128, 128)
        second.send(NS, 128, 128)
        return here.run()[-1]

    assert time_of_the_last(lines) == time_of_the_last([])


def test_equal_loads_within_the_window_are_one_to_memory_and_each_is_answered(side: Callable[..., Side]) -> None:
    here = side("npu-hbm3", {"noc.multicast_window": "50 ns", "noc.bisection": "1 TB/s"})
    for i, engine in enumerate(here.engines(4)):
        engine.send([0, 20, 50, 51][i] * NS, 0, 4096)
    other = here.engines(1)[0]
    other.send(0, 0, 2048)  # not the same bursts
    times = here.run()
    assert here.memory._dram.statistics().reads == (2 * 4096 + 2048) // 32
    assert here.memory.levels()["network"].merged == 2 * 4096
    assert len(times) == 5


def test_a_core_that_asks_again_does_not_join_a_load_that_it_waits_for(side: Callable[..., Side]) -> None:
    here = side("npu-hbm3", {"noc.multicast_window": "50 ns"})
    one, two = here.engines(2)
    for i, engine in enumerate([one, two, two, one]):  # two joins one, then asks again; one joins that
        engine.send(i * NS, 0, 4096)
    here.run()
    assert here.memory._dram.statistics().reads == 2 * 4096 // 32
    assert here.memory.levels()["network"].merged == 2 * 4096


def test_a_load_does_not_join_one_whose_data_has_left_memory(side: Callable[..., Side]) -> None:
    here = side("npu-hbm3", {"noc.multicast_window": "1 us"})
    one, two = here.engines(2)
    one.send(0, 0, 32)
    two.send(900 * NS, 0, 32)  # within the window, but long after the answer
    here.run()
    assert here.memory._dram.statistics().reads == 2


def test_a_memory_of_sram_takes_its_latency_and_its_bandwidth(side: Callable[..., Side]) -> None:
    here = side("npu-sram")
    (one,) = here.engines(1)
    one.send(0, 0, 32)
    slice_fs = -(-64 * 32 * 10**15 // (24 * 10**12))
    port_fs = -(-(10**15) // 1_500_000_000)
    cut_fs = -(-32 * 10**15 // (12 * 10**12))
    assert here.run() == [2 * 30 * NS + 20 * NS + slice_fs + port_fs + cut_fs]
    busy = side("npu-sram", {"noc.bisection": "1 PB/s", "noc.multicast_window": "0 s"})
    engines = busy.engines(64)
    for i in range(64 * 16):
        engines[i % 64].send(0, i * 4096, 4096)
    moved_fs = 64 * 16 * 4096 * 10**15 // (24 * 10**12)
    assert moved_fs < max(busy.run()) < moved_fs + 200 * NS
    assert busy.memory.levels()["distributed sram"].asked == 64 * 16 * 4096


def test_a_request_to_its_cores_own_slice_takes_neither_the_networks_latency_nor_its_bandwidth(
    side: Callable[..., Side],
) -> None:
    slice_fs = -(-64 * 32 * 10**15 // (24 * 10**12))
    port_fs = -(-(10**15) // 1_500_000_000)
    cut_fs = -(-32 * 10**15 // (12 * 10**12))
    for core, crossing_fs, hit in ((0, 0, 32), (1, 2 * 30 * NS + cut_fs, 0)):
        here = side("npu-sram-local")
        here.engines(2)[core].send(0, 64 * 1024, 32)  # slice 0, once round
        assert here.run() == [20 * NS + slice_fs + port_fs + crossing_fs]
        assert here.memory.levels()["network"].metrics() | {"hit_bytes": hit, "fetched_bytes": 32 - hit} == (
            here.memory.levels()["network"].metrics()
        )
        assert here.memory.levels()["distributed sram"].asked == 32
        here = side("npu-sram-local")
        here.engines(2)[core].send(0, 64 * 1024, 32, is_write=True)
        assert here.run() == [20 * NS + slice_fs + crossing_fs]


def test_the_slice_that_serves_an_address_is_the_stack_of_the_address_map() -> None:
    machine = Machine(load_machine("npu-sram-local"))
    assert machine.spec.distributed_sram is not None
    addresses = np.random.default_rng(0).integers(0, machine.memory_capacity_bytes // 32, 200) * 32
    for address, stack in zip(addresses, machine.address_map.decode(addresses).stack.tolist(), strict=True):
        memory = SramMemory(machine.spec.distributed_sram)
        memory.slices.serve(np.array([address]), 0, 1, 0)
        assert np.flatnonzero(memory.slices.free_fs).tolist() == [stack]
        assert memory.holds(stack, np.array([address]))
        assert not memory.holds((stack + 1) % 64, np.array([address]))


def test_a_request_that_touches_another_slice_crosses_the_network_whole(side: Callable[..., Side]) -> None:
    here = side("npu-sram-local")
    (engine,) = here.engines(1)
    engine.send(0, 1024 - 32, 64)
    here.run()
    network = here.memory.levels()["network"]
    assert (network.asked, network.hit, network.fetched) == (64, 0, 64)


def test_what_lies_beside_a_core_does_not_wait_for_what_is_on_its_way(side: Callable[..., Side]) -> None:
    here = side("npu-sram-local")
    zero, one = here.engines(2)
    one.send(0, 0, 1024)  # reaches slice 0 after 30 ns, and its data the port 30 ns after that
    zero.send(1 * NS, 64 * 1024, 32)  # from the same slice
    one.send(60 * NS, 1024, 32)  # to the port between
    far_fs, near_fs, between_fs = here.run()
    assert near_fs < 30 * NS
    assert between_fs - 60 * NS < 30 * NS
    assert between_fs < far_fs


def test_multicast_leaves_alone_what_stays_beside_its_core(side: Callable[..., Side]) -> None:
    here = side("npu-sram-local")
    for engine in here.engines(3):
        engine.send(0, 0, 1024)
    here.run()
    network = here.memory.levels()["network"]
    assert (network.asked, network.hit, network.merged, network.fetched) == (3 * 1024, 1024, 1024, 1024)
    assert here.memory.levels()["distributed sram"].asked == 2 * 1024


@pytest.mark.parametrize("name", machine_names())
def test_every_shipped_machine_runs_a_kernel(name: str) -> None:
    """Its bound holds, its accounts close, its bytes are followed from level to level: `simulate` asserts all three."""
    machine = Machine(load_machine(name))
    problem = attention.Problem(8, 2, 64, "bf16", (100, 300))
    decode = simulate(attention.compile(problem, attention.Knobs(stages=2), machine, 0), machine)
    product = simulate(
        gemm.compile(gemm.Problem(200, 300, 256, "bf16"), gemm.Knobs(tile_m=64, tile_n=64, stages=2), machine, 0),
        machine,
    )
    for result in (decode, product):
        assert 0 < result.bound.total_fs <= result.makespan_fs
        below = result.levels.get("hbm") or result.levels["distributed sram"]
        assert below.asked > 0
