from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any

import pytest

from hwmodel import reference
from hwmodel.assembler import PhaseAssembler, Region, Slot
from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Program
from hwmodel.recorder import Recorder, record
from hwmodel.timeline import USEFUL, Steps, Timeline, bandwidth, held, round_fs, stepped, waiting
from workloads.kernels import decode_attention as attention
from workloads.kernels import gemm

MachineMaker = Callable[..., Machine]
LOAD, STORE, MATRIX, VECTOR = range(4)


def attend(machine: Machine) -> Program:
    problem = attention.Problem(8, 2, 64, "bf16", (200, 37, 90))
    return attention.compile(problem, attention.Knobs(split_tokens=64, schedule="dynamic"), machine, 0)


def multiply(machine: Machine) -> Program:
    return gemm.compile(gemm.Problem(96, 200, 150, "bf16"), gemm.Knobs(tile_m=64, tile_n=64), machine, 0)


def moved_bytes(steps: Steps) -> int:
    """Return what a bandwidth over time adds up to, of which every step must be whole bytes."""
    parts = [
        value * (to_fs - from_fs) / 10**6
        for value, (from_fs, to_fs) in zip(steps.values, pairwise(steps.times_fs), strict=False)
    ]
    assert all(part == pytest.approx(round(part), abs=1e-6) for part in parts)
    return sum(map(round, parts))


def counts(timeline: Timeline) -> dict[tuple[int, str], Steps]:
    return {(steps.core, steps.name): steps for steps in timeline.counts}


@pytest.mark.parametrize("make", [attend, multiply])
def test_the_spans_of_a_unit_do_not_overlap_and_add_up_to_the_accounts(
    machine: Machine, make: Callable[[Machine], Program]
) -> None:
    result, timeline = record(make(machine), machine)
    spent: dict[str, Count[str]] = {name: Count() for name in QUEUES}
    for _, unit in groupby(timeline.spans, key=lambda span: (span.core, span.queue)):
        spans = list(unit)
        assert all(before.to_fs <= after.from_fs for before, after in pairwise(spans))
        assert all(span.from_fs < span.to_fs <= result.makespan_fs for span in spans)
        for span in spans:
            spent[QUEUES[span.queue]][span.cause] += span.to_fs - span.from_fs
    for name in QUEUES:
        idle = {"launch", "no work"}
        assert spent[name] == {cause: fs for cause, fs in result.stalls[name].items() if cause not in idle}
    assert [(phase.name, phase.to_fs - phase.from_fs) for phase in timeline.phases] == [
        (phase.name, phase.fs) for phase in result.phases
    ]


@pytest.mark.parametrize("make", [attend, multiply])
def test_recording_changes_nothing(machine: Machine, make: Callable[[Machine], Program]) -> None:
    result, timeline = record(make(machine), machine)
    assert result.metrics() == reference.simulate(make(machine), machine).metrics()
    assert record(make(machine), machine)[1] == timeline


@pytest.mark.parametrize("make", [attend, multiply])
def test_bandwidths_add_up_to_the_bytes_moved(machine: Machine, make: Callable[[Machine], Program]) -> None:
    result, timeline = record(make(machine), machine)
    found = counts(timeline)
    moved = result.hbm_read_bytes + result.hbm_write_bytes
    assert moved_bytes(found[-1, "HBM GB/s"]) == moved > 0
    assert sum(moved_bytes(steps) for (_, name), steps in found.items() if name.startswith("HBM stack")) == moved
    assert moved_bytes(found[-1, "network GB/s"]) == result.levels["network"].asked


def test_bursts_wait_for_as_long_as_the_controllers_log_says(machine: Machine) -> None:
    class Keeping(Recorder):
        kept: Any = None

        def bursts(self, log: Any) -> None:
            self.kept = log.copy()
            super().bursts(log)

    recorder = Keeping(multiply(machine), machine)
    timeline = recorder.finish(reference.simulate(multiply(machine), machine, observer=recorder))
    steps = counts(timeline)[-1, "HBM bursts waiting"]
    spans = zip(steps.values, pairwise(steps.times_fs), strict=False)
    waited_fs = sum(value * (to_fs - from_fs) for value, (from_fs, to_fs) in spans)
    ticks = [machine.ticks_to_fs(t) for t in recorder.kept[:, :2].reshape(-1).tolist()]
    assert waited_fs == pytest.approx(sum(ticks[1::2]) - sum(ticks[::2]), rel=1e-12)


def test_merged_bursts_are_not_bytes_moved(make_machine: MachineMaker) -> None:
    machine = make_machine("npu-hbm3", {"hbm.controller.merge": True})
    result, timeline = record(multiply(machine), machine)
    assert result.dram.merged_writes > 0
    assert moved_bytes(counts(timeline)[-1, "HBM GB/s"]) == result.hbm_read_bytes + result.hbm_write_bytes


def test_a_machine_without_hbm_has_the_bytes_of_its_network(make_machine: MachineMaker) -> None:
    machine = make_machine("npu-sram")
    result, timeline = record(multiply(machine), machine)
    found = counts(timeline)
    assert moved_bytes(found[-1, "network GB/s"]) == result.levels["network"].asked > 0
    assert not any(name.startswith("HBM") for _, name in found)


def test_counts_keep_to_what_there_is_room_for_and_end_at_nought(machine: Machine) -> None:
    _, timeline = record(attend(machine), machine)
    dma, sram = machine.spec.cores.dma, machine.spec.cores.sram
    most = {"load requests in flight": dma.max_outstanding, "store requests in flight": dma.max_outstanding}
    most |= {"scratchpad bytes": sram.capacity}
    seen = set()
    for steps in timeline.counts:
        assert all(before < after for before, after in pairwise(steps.times_fs))
        assert min(steps.values) == steps.values[-1] == 0
        if steps.core >= 0:
            seen.add(steps.name)
            assert 0 < max(steps.values) <= most[steps.name]
    assert seen == most.keys()


def test_every_load_leads_to_a_matmul_and_from_there_to_the_store(make_machine: MachineMaker) -> None:
    machine = make_machine("npu-hbm3")
    _, timeline = record(multiply(machine), machine)
    queue = [execution.queue for execution in timeline.executions]
    leads = Count((queue[source], queue[target]) for source, target in timeline.links)
    loads, tiles = queue.count(LOAD), queue.count(STORE)
    assert leads == {(LOAD, MATRIX): loads, (MATRIX, VECTOR): tiles, (VECTOR, STORE): tiles}
    assert sorted(source for source, _ in timeline.links if queue[source] == LOAD) == [
        place for place, kind in enumerate(queue) if kind == LOAD
    ]
    begun: dict[int, int] = {}
    for span in timeline.spans:
        if span.cause == USEFUL:
            begun.setdefault(span.execution, span.from_fs)
    for source, target in timeline.links:
        one, other = timeline.executions[source], timeline.executions[target]
        assert one.core == other.core
        assert one.done_fs <= begun[target] < other.done_fs
        if one.queue == LOAD:  # what was loaded is what is multiplied
            assert set(one.blocks) < set(other.blocks)


def test_a_copy_holds_its_blocks_from_the_load_to_the_end_of_the_store(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, 4096, "bf16", 2)))
        loaded, free = p.counter("loaded", "memory"), p.counter("free", "buffer")
        slot, where = Slot(buffer, p.begun), {"x": (p.column("c0"), 4096)}
        p.load(slot, Region(0, where), [(free, p.begun - 1)], [loaded])
        p.store(slot, Region(1, where), [(loaded, p.begun + 1)], [free])

    machine = make_machine("npu-hbm3")
    tasks = [[4096 * i] for i in range(5)]
    _, timeline = record(make_program(write, elements=(1 << 20, 1 << 20), tasks=tasks), machine)
    loads, stores = ([e for e in timeline.executions if e.queue == queue] for queue in (LOAD, STORE))
    assert [e.blocks for e in loads] == [e.blocks for e in stores] == [(f"b[{i % 2}]",) for i in range(5)]
    assert [e.of for e in loads] == [f"x {4096 * i} + 4096" for i in range(5)]
    assert {e.name for e in loads} == {"load t0"}
    numbers = [[i for i, e in enumerate(timeline.executions) if e.queue == queue] for queue in (LOAD, STORE)]
    assert sorted(timeline.links) == sorted(zip(*numbers, strict=True))  # free blocks lead back, and are left out
    changes = [(e.done_fs, 8192) for e in loads] + [(e.done_fs, -8192) for e in stores]
    assert counts(timeline)[0, "scratchpad bytes"] == stepped(0, "scratchpad bytes", sorted(changes))


def test_counters_begin_again_in_every_phase(make_program: Any, placed: Any, make_machine: MachineMaker) -> None:
    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, 64, "bf16", 1)))
        loaded = p.counter("loaded", "memory")
        p.load(Slot(buffer, p.begun), Region(0, {"x": (0, 64)}), signal=[loaded])
        p.store(Slot(buffer, p.begun), Region(0, {"x": (64, 64)}), [(loaded, 1)])

    _, timeline = record(make_program(write, launches=2), make_machine("npu-hbm3"))
    names = [(timeline.executions[a].name, timeline.executions[b].name) for a, b in timeline.links]
    assert names == [("load t0", "store t0")] * 2
    assert len({number for link in timeline.links for number in link}) == 4
    assert len(timeline.phases) == 2


@pytest.mark.parametrize(
    ("fills", "uses", "expected"),
    [
        ([5], [(7, 9)], [(5, 9)]),
        ([5], [(7, 9), (8, 20), (9, 12)], [(5, 20)]),
        ([5, 6], [(7, 9)], [(5, 9)]),  # two parts of one tile
        ([5, 15], [(7, 9), (16, 18)], [(5, 9), (15, 18)]),
        ([5, 15], [(7, 9)], [(5, 9), (15, 99)]),  # nobody uses the second
        ([5], [(1, 3)], [(5, 99)]),  # used before anything was loaded
        ([], [(1, 3)], []),
    ],
)
def test_a_block_is_held_until_its_last_use(fills: Any, uses: Any, expected: Any) -> None:
    assert list(held(fills, uses, 99)) == expected


def test_steps_of_one_time_are_one() -> None:
    assert stepped(3, "n", [(1, 1), (1, 1), (4, -1), (4, 1), (6, -2)]) == Steps(3, "n", (1, 6), (2, 0))


def test_bandwidth_is_in_bins_of_a_round_width_in_which_a_byte_begins() -> None:
    ns = 10**6
    found = bandwidth("n", [0, 4 * ns - 1, 4 * ns, 9 * ns], [100, 100, 200, 50], 1000 * ns)  # bins of 2 ns
    assert found == Steps(-1, "n", (0, 4 * ns, 6 * ns, 8 * ns, 10 * ns), (50, 100, 0, 25, 0))  # equal bins are one
    assert bandwidth("n", [], [], ns) == Steps(-1, "n", (), ())


def test_what_waits_is_counted_as_the_mean_of_a_bin() -> None:
    ns = 10**6
    found = waiting("n", [0, 3 * ns], [5 * ns, 5 * ns], 1000 * ns)  # bins of 2 ns
    assert found == Steps(-1, "n", (0, 2 * ns, 4 * ns, 6 * ns), (1, 1.5, 1, 0))
    assert waiting("n", [], [], ns) == Steps(-1, "n", (), ())


@pytest.mark.parametrize(("least_ps", "ns"), [(0, 1), (999, 1), (1001, 2), (2001, 5), (5001, 10), (100_001, 200)])
def test_round_widths_are_1_2_5_times_powers_of_ten(least_ps: int, ns: int) -> None:
    assert round_fs(least_ps * 1000) == ns * 10**6
