from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodel.assembler import PhaseAssembler, Region, Slot
from hwmodel.bounds import _Touched, lower_bound
from hwmodel.energy import instructions
from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Op, Program, Tensor, walk
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from layouts import Layout, NamedLayout
from workloads.kernels import decode_attention as attention
from workloads.kernels import gemm
from workloads.sequence import Step, plan

MachineMaker = Callable[..., Machine]
TOUCHING = Machine(load_machine("h100-sxm"))


def matmuls(make_program: Any, placed: Any, **options: Any) -> Program:
    """Return a program whose tasks are matmuls of 64 x 64 x c0."""

    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 64, 3232, "bf16", 1)))  # rows 6464 B apart: no conflicts
        slot = Slot(buffer, p.begun)
        p.matmul(slot, slot, slot, (64, 64, p.column("c0")), transpose_b=True)

    return make_program(write, **options)  # type: ignore[no-any-return]


def test_the_bound_of_matmuls_is_the_busiest_core_and_exact(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    machine = make_machine("npu-hbm3")
    sizes = [3200, 640, 960]
    program = matmuls(make_program, placed, tasks=[[k] for k in sizes], shares=[[0], [], [1, 2]])
    bound = lower_bound(program, machine)
    cycles = [64 * 64 * k // 8192 for k in sizes]
    fs = max(machine.core_fs(cycles[0]), machine.core_fs(cycles[1]) + machine.core_fs(cycles[2]))
    assert bound.total_fs == machine.spec.launch.latency + fs
    assert bound.by_resource["matrix"] == fs
    assert bound.limited_by == "matrix"
    assert simulate(program, machine).makespan_fs == bound.total_fs


def test_a_dynamic_schedule_is_bounded_by_its_mean_and_its_largest_task(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    machine = make_machine("npu-hbm3", {"cores.count": 2})
    cycles = machine.core_fs
    for sizes, least in (([3200, 320, 320], 1600), ([640, 640, 640, 640], 640)):
        program = matmuls(make_program, placed, tasks=[[k] for k in sizes], dynamic=True, cores=2)
        assert lower_bound(program, machine).by_resource["matrix"] == pytest.approx(cycles(least), abs=8)


def test_a_later_phase_must_fetch_what_none_before_it_has_touched(make_machine: MachineMaker) -> None:
    machine = make_machine("h100-sxm")
    knobs, size = gemm.Knobs(), 1024 * 1024 * 2
    problem = gemm.Problem(16, 1024, 1024, "bf16")
    fresh = plan([Step("one", "gemm", problem, knobs), Step("two", "gemm", problem, knobs)], machine).program()
    again = plan([Step(name, "gemm", problem, knobs, 1, {"b": "w"}) for name in ("one", "two")], machine).program()
    read = {name: lower_bound(p, machine).bursts["load"] for name, p in (("fresh", fresh), ("again", again))}
    assert read["fresh"] * machine.burst_bytes >= 2 * size
    assert size <= read["again"] * machine.burst_bytes < 2 * size  # the shared cache may have kept it
    assert simulate(fresh, machine).makespan_fs > simulate(again, machine).makespan_fs


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=20))
def test_what_was_touched_are_as_many_ranges_as_lie_apart(pieces: list[tuple[int, int]]) -> None:
    touched = _Touched(TOUCHING)
    line = TOUCHING.spec.shared_cache.line  # type: ignore[union-attr]

    def tensor(first: int, lines: int) -> Tensor:
        layout = NamedLayout(("byte",), Layout((lines * line,), (1,)))
        return Tensor("x", layout, "uint8", first * line)

    known: set[int] = set()
    for first, lines in pieces:
        touched.add([tensor(first, lines)])
        known |= set(range(first, first + lines))
        assert [touched.holds(tensor(number, 1)) for number in range(70)] == [number in known for number in range(70)]
        assert len(touched) == sum(number - 1 not in known for number in known)


def test_what_one_transfer_brings_along_was_touched(make_machine: MachineMaker) -> None:
    """The transfer from 96 on brings the burst before 128, which is another line's."""
    touched = _Touched(make_machine("h100-sxm", {"cores.dma.min_transfer": "96 B"}))
    layout = NamedLayout(("byte",), Layout((10,), (1,)))
    touched.add([Tensor("x", layout, "uint8", 190)])
    assert touched.holds(Tensor("y", layout, "uint8", 100))


# of two tensors: where they begin, their bytes, whether the first resides in the cache
NEIGHBOURS: dict[str, tuple[tuple[int, int], tuple[int, int], bool]] = {
    "reach over each other": ((0, 1024), (2048, 2048), False),
    "share a burst": ((0, 16), (16, 16), True),
}


@pytest.mark.parametrize("stores", [False, True])
@pytest.mark.parametrize("name", NEIGHBOURS)
def test_bytes_that_tensors_share_are_fetched_once(
    make_program: Any, placed: Any, make_machine: MachineMaker, name: str, stores: bool
) -> None:
    """The second tensor is loaded when the first one has been, or has been stored, in two phases and in one."""
    bases, sizes, is_resident = NEIGHBOURS[name]
    machine = make_machine("h100-sxm")

    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, 1024, "bf16", 1)))
        there, slot = p.counter("there", "memory"), Slot(buffer, p.begun)
        (p.store if stores else p.load)(slot, Region(0, {}), signal=[there])
        p.load(slot, Region(1, {}), wait=[(there, 1)])

    program = make_program(write, elements=[size // 2 for size in sizes], cores=132, launches=2)
    tensors = [replace(tensor, base_bytes=base) for tensor, base in zip(program.tensors, bases, strict=True)]
    tensors[0] = replace(tensors[0], resident="cache" if is_resident else "hbm")
    result = simulate(replace(program, tensors=tuple(tensors)), machine)
    assert result.bound.bursts["load"] <= result.dram.reads
    assert result.bound.total_fs <= result.makespan_fs


def test_queues_of_banks_serve_bursts_of_one_address_together_and_the_bound_knows(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, 64, "bf16", 1)))
        p.load(Slot(buffer, p.begun), Region(0, {"x": (0, 64)}))

    policy = {"scheduler": "per-bank-queues", "refresh": "all-bank", "merge": False}
    machine = make_machine("npu-hbm3", {f"hbm.controller.{name}": value for name, value in policy.items()})
    program = make_program(write, tasks=[[0]] * 16, shares=[[core] for core in range(16)])
    result = simulate(program, machine)
    assert result.dram.reads - result.dram.merged_reads < result.dram.reads == 16 * 128 // machine.burst_bytes
    assert lower_bound(program, machine).bursts["load"] == 128 // machine.burst_bytes


def test_phases_add_up(make_program: Any, placed: Any, make_machine: MachineMaker) -> None:
    machine = make_machine("npu-hbm3")
    one, three = (lower_bound(matmuls(make_program, placed, launches=n), machine) for n in (1, 3))
    assert three.total_fs == 3 * one.total_fs
    assert three.by_resource == {name: 3 * fs for name, fs in one.by_resource.items()}


def test_what_limits_is_what_sets_most_of_the_total_and_not_what_has_the_largest_sum(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    """The vector unit limits the first phase only, by more than the matrix unit limits the two others."""
    machine = make_machine("npu-hbm3", {"cores.vector.convert": 64})

    def phase(products: int, vector_cycles: int) -> Any:
        def write(p: PhaseAssembler) -> None:
            matrices, row = p.add_buffers(placed(("b", 64, 3232, "bf16", 1), ("r", 1, 64_000, "bf16", 1)))
            slot = Slot(matrices, p.begun)
            p.matmul(slot, slot, slot, (64, 64, 64 * products), transpose_b=True)
            p.vector("convert", [Slot(row, p.begun)] * 2, (1, 64 * vector_cycles))

        return make_program(write).phases[0]

    phases = phase(25, 1000), phase(10, 0), phase(10, 0)  # 800, 320 and 320 cycles of the matrix unit
    bound = lower_bound(replace(make_program(lambda p: None), phases=phases), machine)
    cycles = machine.core_fs
    assert bound.by_resource["matrix"] == cycles(800) + 2 * cycles(320) > bound.by_resource["vector"] == cycles(1000)
    assert bound.total_fs == 3 * machine.spec.launch.latency + cycles(1000) + 2 * cycles(320)
    assert bound.limiting == {"vector": cycles(1000), "matrix": 2 * cycles(320)}
    assert bound.limited_by == "vector"


@pytest.mark.parametrize(("dtype", "element_bytes"), [("fp8_e4m3", 1), ("bf16", 2), ("fp32", 4)])
def test_a_tile_meets_the_scratchpad_with_the_bytes_that_it_has_there(
    make_program: Any, placed: Any, make_machine: MachineMaker, dtype: str, element_bytes: int
) -> None:
    """A buffer may have another type than the tensor of bf16 that is loaded into it."""

    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, 1 << 16, dtype, 1)))
        p.load(Slot(buffer, p.begun), Region(0, {"x": (0, 1 << 16)}))

    machine = make_machine("npu-hbm3", {"cores.dma.write_bytes": "16 B", "noc.port_bytes_per_cycle": 1 << 16})
    program = make_program(write)
    result = simulate(program, machine)
    assert lower_bound(program, machine).by_resource["sram"] == machine.sram_fs((element_bytes << 16) // 16)
    assert instructions(program).sram_write_bytes == result.sram["load"].written_bytes == element_bytes << 16


def test_the_hbm_bound_is_the_bytes_at_the_peak_bandwidth_after_the_first_request(make_machine: MachineMaker) -> None:
    machine = make_machine("h100-sxm")
    problem = attention.Problem(32, 8, 128, "bf16", (4096,) * 32)
    program = attention.compile(problem, attention.Knobs(), machine, 0)
    bound = lower_bound(program, machine)
    bytes_moved = 2 * 8 * 128 * 2 * 4096 * 32
    at_peak_fs = bytes_moved / 3352e9 * 1e15
    assert bound.limited_by == "hbm"
    assert at_peak_fs < bound.by_resource["hbm"] < at_peak_fs + 1e9
    slower = lower_bound(program, make_machine("h100-sxm", {"hbm.controller.refresh": "all-bank"})).by_resource["hbm"]
    busy = machine.timing.nRFC / machine.timing.nREFI
    assert slower == pytest.approx(at_peak_fs / (1 - busy), rel=0.02)


def test_a_run_that_one_resource_limits_comes_close_to_its_bound(make_machine: MachineMaker) -> None:
    cases: dict[str, tuple[dict[str, object], dict[str, Any]]] = {
        "matrix": ({"cores.count": 1, "cores.matrix.macs_per_cycle": 256}, {}),
        "load port": ({"cores.count": 1, "noc.port_bytes_per_cycle": 8}, {"tile_m": 64}),
    }
    for resource, (changes, knobs) in cases.items():
        machine = make_machine("npu-hbm3", changes)
        program = gemm.compile(gemm.Problem(256, 256, 1024, "bf16"), gemm.Knobs(**knobs), machine, 0)
        result = simulate(program, machine)
        assert result.bound.limited_by == resource
        assert 0.9 < result.bound.total_fs / result.makespan_fs <= 1


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contexts=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    tile=st.sampled_from([7, 16, 64]),
    split=st.sampled_from([0, 20]),
    schedule=st.sampled_from(["static", "balanced"]),
)
def test_the_sums_over_loops_are_those_of_walking_them(
    contexts: list[int], tile: int, split: int, schedule: str, make_machine: MachineMaker
) -> None:
    """The expansion into arrays against `walk`, one instruction after another: the matrix and vector units.

    The scratchpad is so wide that the units never wait for it.
    """
    wide = {"cores.sram.ports": 8, "cores.sram.banks": 1024, "cores.sram.write_granule": "2 B"}
    machine = make_machine("npu-hbm3", {"cores.count": 3} | wide)
    problem = attention.Problem(4, 2, 16, "bf16", tuple(contexts))
    program = attention.compile(problem, attention.Knobs(tile=tile, split_tokens=split, schedule=schedule), machine, 0)
    expected = dict.fromkeys(("matrix", "vector"), 0)
    for phase in program.phases:
        starts = phase.schedule.start.tolist()
        for name in expected:
            busy = []
            for core in range(3):
                tasks = phase.schedule.order[starts[core] : starts[core + 1]].tolist()
                total = 0
                for instruction, variables in walk(phase, QUEUES.index(name), tasks):
                    sizes = [size(variables) for size in instruction.sizes]
                    total += machine.core_fs(cost_cycles(instruction.op, instruction.function, sizes))
                busy.append(total)
            expected[name] += max(busy)
    bound = lower_bound(program, machine)
    assert {name: bound.by_resource[name] for name in expected} == expected


def cost_cycles(op: Op, function: str, sizes: list[int]) -> int:
    """Return the cycles on the npu (blocks of 16 x 16 x 32, 512 alu, 128 exp, 256 reduce, 256 convert), head_dim 16."""
    if op is Op.MATMUL:
        m, n, k = sizes
        padded = -(-m // 16) * 16 * -(-n // 16) * 16 * -(-k // 32) * 32
        return -(-padded // 8192)
    formulas: dict[str, Callable[..., tuple[int, ...]]] = {
        "softmax_step": lambda r, c, _: (r * (2 * c + 16), r * (c + 1), 2 * r * c, r * c),
        "normalise": lambda r, c: (r * c, 0, 0, r * c),
        "partial": lambda r, c: (r * c, r, 0, 0),
        "combine": lambda p, r, c: (2 * p * r * c, p * r, p * r, r * c),
    }
    counts = formulas[function](*sizes)
    return max(-(-count // lanes) for count, lanes in zip(counts, (512, 128, 256, 256), strict=True))


def test_instructions_that_move_nothing_cost_nothing(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, 16, "bf16", 1)))
        p.load(Slot(buffer, p.begun), Region(0, {"x": (0, p.column("c0"))}))

    machine = make_machine("npu-hbm3")
    bound = lower_bound(make_program(write, tasks=np.zeros((4, 1))), machine)
    assert bound.total_fs == machine.spec.launch.latency


@pytest.mark.parametrize("refresh", ["none", "per-bank"])
@pytest.mark.parametrize("queue", ["load", "store"])
def test_a_later_phase_may_find_its_row_open_and_the_bound_knows(
    make_program: Any, placed: Any, make_machine: MachineMaker, queue: str, refresh: str
) -> None:
    machine = make_machine("npu-hbm3", {"hbm.controller.refresh": refresh, "launch.latency": "100 ns"})

    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, 16, "bf16", 1)))
        move = p.load if queue == "load" else p.store
        move(Slot(buffer, p.begun), Region(0, {}))

    program = make_program(write, elements=(16,), launches=12)
    result = simulate(program, machine)
    assert result.bound.total_fs <= result.makespan_fs
    assert result.phases[-1].fs < result.phases[0].fs  # no activate


def test_a_size_that_depends_on_a_running_index_is_refused(make_program: Any, placed: Any, machine: Machine) -> None:
    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 64, 64, "bf16", 1)))
        slot = Slot(buffer, p.begun)
        p.matmul(slot, slot, slot, (64, 64, p.begun + 1))

    with pytest.raises(ValueError, match="phase only: a size or a trip count depends on a running index"):
        lower_bound(make_program(write), machine)
