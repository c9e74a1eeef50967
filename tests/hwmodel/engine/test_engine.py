"""The compiled engine against the SimPy reference: every count and femtosecond, on random machines and programs."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hwmodel import engine, reference
from hwmodel.assembler import Affine, PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import Program, Tensor
from hwmodel.result import Result
from hwmodel.spec import load_machine
from layouts import named
from workloads.buffers import allocate
from workloads.kernels import decode_attention, gemm, moe_gemm
from workloads.schedule import SCHEDULES, schedule

MANY = 2_000  # examples of each kind in the nightly run
CORES = st.sampled_from([1, 2, 3, 5, 7])


def differences(one: Result, other: Result) -> list[str]:
    """Return the names of all fields in which two results differ, those of the DRAM statistics among them."""
    found = [f.name for f in fields(Result) if f.name != "dram" and getattr(one, f.name) != getattr(other, f.name)]
    pairs = [(f.name, getattr(one.dram, f.name), getattr(other.dram, f.name)) for f in fields(one.dram)]
    return found + [name for name, a, b in pairs if not np.array_equal(a, b)]


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """A shipped machine with few cores and other sizes."""
    name = draw(
        st.sampled_from(["npu-hbm3", "npu-sram", "npu-sram-local", "h100-sxm", "b200-sxm", "mi300x", "tpu-v5e"])
    )
    spec = load_machine(name)
    changes: dict[str, Any] = {
        "cores.count": draw(CORES),
        "cores.dma.max_outstanding": draw(st.sampled_from([1, 2, 5, 48])),
        "cores.dma.request_bytes": draw(st.sampled_from(["256 B", "512 B", "8 KiB"])),
        "cores.dma.max_runs": draw(st.sampled_from([1, 3, 64])),
        "cores.dma.request_cycles": draw(st.integers(1, 70)),
        "cores.dma.min_transfer": draw(st.sampled_from(["32 B", "64 B", "256 B"])),  # a burst, or more
        "cores.dma.gather": draw(st.booleans()),
        "cores.dma.dimensions": draw(st.integers(1, 5)),
        "cores.matrix.accumulators": draw(st.sampled_from(["own", "scratchpad"])),
        "noc.port_bytes_per_cycle": draw(st.sampled_from([16, 64, 257])),
        "noc.latency": draw(st.sampled_from(["40 ns", "1 ps", "333 ns"])),
        "noc.multicast_window": None,  # which the engine leaves to the reference
        "launch.latency": draw(st.sampled_from(["1 us", "0 s"])),
    }
    if name == "npu-sram-local":  # a slice per core
        cores = changes["cores.count"]
        changes |= {"distributed_sram.slices": cores, "distributed_sram.capacity": f"{8 * cores} MiB"}
        changes["distributed_sram.interleave"] = draw(st.sampled_from(["256 B", "4 KiB"]))
    if draw(st.booleans()):
        changes["noc.bisection"] = draw(st.sampled_from(["1 TB/s", "77 GB/s"]))
    if spec.tlb is not None:
        changes |= {"tlb.entries": draw(st.integers(1, 3)), "tlb.page": draw(st.sampled_from(["4 KiB", "2 MiB"]))}
    if spec.shared_cache is not None and draw(st.booleans()):
        cache = spec.shared_cache
        ways = draw(st.sampled_from([1, 4]))
        changes |= {
            "shared_cache.capacity": f"{cache.slices * cache.ways * cache.line * ways} B",
            "shared_cache.outstanding_misses": draw(st.sampled_from([40, 300])),
        }
    return Machine(spec.with_overrides(changes))


@st.composite
def kernels(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """A template, a problem and knobs."""
    kind = draw(st.sampled_from(SCHEDULES))
    if draw(st.booleans()):
        problem = gemm.Problem(draw(st.integers(1, 90)), draw(st.integers(1, 90)), draw(st.integers(1, 200)), "bf16")
        knobs = gemm.Knobs(
            tile_m=draw(st.sampled_from([16, 33, 64])),
            tile_n=draw(st.sampled_from([16, 40])),
            tile_k=draw(st.sampled_from([16, 50])),
            stages=draw(st.integers(1, 4)),
            split_k=draw(st.integers(1, 3)),
            schedule=kind,
        )
        return gemm, problem, knobs
    contexts = tuple(draw(st.lists(st.integers(1, 150), min_size=1, max_size=4)))
    attention = decode_attention.Problem(4, draw(st.sampled_from([1, 2])), 32, "bf16", contexts)
    chosen = decode_attention.Knobs(
        layout=draw(st.sampled_from(["page kv token head dim", "page kv head dim token"])),
        page_size=draw(st.sampled_from([1, 7, 16])),
        tile=draw(st.sampled_from([5, 16, 64])),
        stages=draw(st.integers(1, 4)),
        split_tokens=draw(st.sampled_from([0, 33])),
        schedule=kind,
    )
    return decode_attention, attention, chosen


@st.composite
def streams(draw: st.DrawFn) -> Any:
    """A maker of programs that load, convert and store rows, by ranges or an index: ragged, empty, several phases."""
    rows, width = draw(st.integers(1, 40)), draw(st.integers(1, 70))
    tile, slots = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    counts = draw(st.lists(st.integers(0, rows), min_size=1, max_size=8))
    starts = [draw(st.integers(0, rows - count)) for count in counts]
    gathers, phases = draw(st.booleans()), draw(st.integers(1, 3))
    kind, order = draw(st.sampled_from(SCHEDULES)), draw(st.permutations(range(rows)))
    spelt = draw(
        st.sampled_from(["row column", "column row", "row//3 column row%3"]) if rows % 3 == 0 else st.just("row column")
    )
    return lambda machine: _stream(
        machine, (rows, width, spelt), (tile, slots, gathers), (starts, counts), kind, phases, order
    )


def _stream(machine: Machine, shape: Any, way: Any, items: Any, kind: str, phases: int, order: list[int]) -> Program:
    (rows, width, spelt), (tile, slots, gathers), (starts, counts) = shape, way, items
    layout = named(spelt, {"row": rows, "column": width})
    size = -(-layout.cosize * 2 // 256) * 256
    index = Tensor(
        "index", named("entry", {"entry": rows}), "int32", 2 * size, machine.memory, np.array(order, np.int32)
    )
    tensors = (
        Tensor("from", layout, "bf16", 0, machine.memory),
        Tensor("to", layout, "bf16", size, machine.memory),
        index,
    )
    p = PhaseAssembler("copy", tensors, ("start", "count", "trips"))
    source, target = p.add_buffers(
        allocate((block("source", tile, width, "bf16", slots), block("target", tile, width, "bf16", slots)), machine)
    )
    loaded, free = p.counter("loaded", "memory"), p.counter("source free", "buffer")
    ready, out_free = p.counter("ready", "dependency"), p.counter("target free", "buffer")
    start, count, trips = (p.column(name) for name in ("start", "count", "trips"))
    gather = {"page_table": 2, "page_axis": "row", "position_axis": "row"} if gathers else {}

    def piece(i: Any) -> tuple[Affine, Affine]:
        return start + i.index * tile, (count - i.index * tile).clip(tile)

    with p.loop("load", trips) as i:
        region = Region(0, {"row": piece(i), "column": (0, width)}, **gather)
        p.load(Slot(source, i.running), region, wait=[(free, i.running - slots + 1)], signal=[loaded])
    with p.loop("vector", trips) as i:
        waits = [(loaded, i.running + 1), (out_free, i.running - slots + 1)]
        operands = (Slot(target, i.running), Slot(source, i.running))
        p.vector("convert", operands, (piece(i)[1], width), wait=waits, signal=[ready, free])
    with p.loop("store", trips) as i:
        region = Region(1, {"row": piece(i), "column": (0, width)})
        p.store(Slot(target, i.running), region, wait=[(ready, i.running + 1)], signal=[out_free])
    table = np.array([(a, n, -(-n // tile)) for a, n in zip(starts, counts, strict=True)], np.int64)
    dealt = schedule(kind, table[:, 2] + 1, machine.spec.cores.count)
    return Program("copy", tensors, (p.finish(table, dealt),) * phases)


def check(program: Program, machine: Machine) -> None:
    assert engine.supports(machine)
    assert differences(engine.simulate(program, machine), reference.simulate(program, machine)) == []


def check_kernel(case: tuple[Any, Any, Any], machine: Machine) -> None:
    template, problem, knobs = case
    check(template.compile(problem, knobs, machine, 3), machine)


@settings(max_examples=40)
@given(kernels(), machines())
def test_kernels_take_the_time_of_the_reference_in_every_count(case: tuple[Any, Any, Any], machine: Machine) -> None:
    check_kernel(case, machine)


@settings(max_examples=80)
@given(streams(), machines())
def test_streams_take_the_time_of_the_reference_in_every_count(make: Any, machine: Machine) -> None:
    check(make(machine), machine)


NIGHTLY = settings(
    max_examples=MANY, derandomize=False, database=None, phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@settings(max_examples=20)
@given(streams(), machines(), st.floats(0, 1))
def test_streams_that_find_the_cache_full_of_others_take_the_time_of_the_reference(
    make: Any, machine: Machine, stores: float
) -> None:
    check(replace(make(machine), earlier_stores=stores), machine)


@pytest.mark.nightly
@NIGHTLY
@given(kernels(), machines())
def test_very_many_kernels_take_the_time_of_the_reference(case: tuple[Any, Any, Any], machine: Machine) -> None:
    check_kernel(case, machine)


@pytest.mark.nightly
@NIGHTLY
@given(streams(), machines())
def test_very_many_streams_take_the_time_of_the_reference(make: Any, machine: Machine) -> None:
    check(make(machine), machine)


def test_a_comparison_that_is_off_by_a_count_is_found_out() -> None:
    machine = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": 2}))
    result = engine.simulate(gemm.compile(gemm.Problem(20, 20, 20, "bf16"), gemm.Knobs(), machine, 0), machine)
    other = replace(result, dram=replace(result.dram, row_hits=result.dram.row_hits + 1), makespan_fs=1)
    assert differences(result, other) == ["makespan_fs", "row_hits"]


def test_a_deadlock_names_the_phase_and_the_program(shift_wait: Any, list_waits: Any) -> None:
    machine = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": 2}))
    program = gemm.compile(gemm.Problem(20, 20, 500, "bf16"), gemm.Knobs(), machine, 0)
    queue, position, which, _ = next(wait for wait in list_waits(program) if wait[3] == "memory")
    with pytest.raises(RuntimeError, match="phase multiply of gemm deadlocks"):
        engine.simulate(shift_wait(program, queue, position, which, 1000), machine)


def test_a_machine_with_multicast_runs_on_the_reference() -> None:
    machine = Machine(load_machine("npu-sram"))
    program = gemm.compile(gemm.Problem(40, 30, 50, "bf16"), gemm.Knobs(tile_m=16, tile_n=16), machine, 0)
    assert not engine.supports(machine)
    assert differences(engine.simulate(program, machine), reference.simulate(program, machine)) == []


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_what_stays_beside_its_core_takes_the_same_time_in_both(schedule: str) -> None:
    changes = {"cores.count": 4, "distributed_sram.slices": 4, "distributed_sram.capacity": "32 MiB"}
    slow = {"noc.multicast_window": None, "noc.bisection": "200 GB/s"}
    machine = Machine(load_machine("npu-sram-local").with_overrides(changes | slow))
    problem = moe_gemm.Problem(tokens=40, experts=8, topk=2, dtype="bf16", n=64, k=128)
    knobs = moe_gemm.Knobs(schedule=schedule, placement="cores")
    program = moe_gemm.compile(problem, knobs, machine, 0)
    one, other = engine.simulate(program, machine), reference.simulate(program, machine)
    assert differences(one, other) == []
    network = one.levels["network"]
    assert network.hit > 0
    assert network.fetched > 0
