"""Conflicts and contention in whole runs: small programs by hand, and kernels whose buffers are laid out otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwmodel import functional
from hwmodel.assembler import PhaseAssembler, Region, Slot, block
from hwmodel.machine import Machine
from hwmodel.program import Buffer, Program, Tensor
from hwmodel.reference import simulate
from hwmodel.result import Result
from layouts import Layout, named, swizzle
from workloads.buffers import allocate
from workloads.kernels import gemm

MachineMaker = Callable[..., Machine]
SWIZZLED = Layout((128, 64), (64, 1)).then(swizzle(3, 3, 3))


def product(
    machine: Machine, make_program: Any, layout: Layout | None, transpose_b: bool = True, accumulate: int = 0
) -> Result:
    """Run one matmul of 128 x 128 x 64 (or 128 x 64 x 128 with b as [k, n]) whose operands have a layout."""

    def write(p: PhaseAssembler) -> None:
        operands = (block("a", 128, 64, "bf16", 1, layout), block("b", 128, 64, "bf16", 1, layout))
        wide = block("w", 128, 128, "bf16", 1, Layout((128, 128), (128, 1)).then(swizzle(3, 3, 4)))
        numbers = p.add_buffers(allocate((*operands, wide, block("c", 128, 128, "fp32")), machine))
        a, b, w, c = (Slot(number, p.begun) for number in numbers)
        if transpose_b:
            p.matmul(c, a, b, (128, 128, 64), transpose_b=True, accumulate=accumulate)
        else:
            p.matmul(c, w, b, (128, 64, 128))

    return simulate(make_program(write, cores=machine.spec.cores.count), machine)


@pytest.mark.parametrize("transpose_b", [True, False])
def test_a_swizzle_takes_the_conflicts_off_a_matmul_of_the_gpu(
    make_program: Any, make_machine: MachineMaker, transpose_b: bool
) -> None:
    machine = make_machine("h100-sxm")
    plain, free = (product(machine, make_program, layout, transpose_b) for layout in (None, SWIZZLED))
    cycles = -(-128 * 128 * 64 * 100 // (2048 * 78))  # of the rate, 78 % last
    assert free.makespan_fs == machine.spec.launch.latency + machine.core_fs(cycles)
    assert free.sram["matrix"].conflict_cycles == 0
    # fragments of 8 rows x 16 B at a pitch of 128 B meet in the same 4 banks: 8 wavefronts each
    reads = (2 if transpose_b else 1) * 128 * 8
    whole = 0 if transpose_b else 128 * 128 * 2 // 128
    assert plain.makespan_fs == machine.spec.launch.latency + machine.core_fs(max(cycles, reads + whole))
    assert plain.stalls["matrix"]["SRAM bank conflict"] == machine.core_fs(reads + whole) - machine.core_fs(cycles)
    assert plain.sram["matrix"].conflict_cycles == reads * 7 // 8
    assert "SRAM contention" not in plain.stalls["matrix"]


def test_two_ports_halve_the_time_of_conflicts(make_program: Any, make_machine: MachineMaker) -> None:
    one, two = (make_machine("h100-sxm", {"cores.sram.ports": ports}) for ports in (1, 2))
    times = [product(m, make_program, None).makespan_fs - m.spec.launch.latency for m in (one, two)]
    assert times == [one.core_fs(2048), one.core_fs(1024)]


@pytest.mark.parametrize("accumulate", [0, 1, 2])
def test_accumulators_in_the_scratchpad_cost_their_lines_and_are_read_where_they_are_added_to(
    accumulate: int, make_program: Any, make_machine: MachineMaker
) -> None:
    machine = make_machine("h100-sxm", {"cores.matrix.accumulators": "scratchpad"})
    result = product(machine, make_program, SWIZZLED, accumulate=accumulate)
    operands, accumulator, times = 2 * 128 * 64 * 2, 128 * 128 * 4, 2 if accumulate else 1  # written, or read as well
    assert result.sram["matrix"].read_bytes == operands + (times - 1) * accumulator
    assert result.sram["matrix"].written_bytes == accumulator
    assert result.makespan_fs == machine.spec.launch.latency + machine.core_fs((operands + times * accumulator) // 128)
    assert result.bound.total_fs == result.makespan_fs


def test_the_bound_reads_no_accumulator_where_only_an_executor_knows(
    make_program: Any, make_machine: MachineMaker
) -> None:
    """The first of a core's tasks overwrites it, the others add; the bound of dependencies knows a core's tasks."""
    machine = make_machine("h100-sxm", {"cores.matrix.accumulators": "scratchpad"})

    def run(dynamic: bool, tasks: int) -> Result:
        def write(p: PhaseAssembler) -> None:
            a, c = (Slot(n, p.begun) for n in p.add_buffers(allocate(blocks, machine)))
            p.matmul(c, a, a, (128, 128, 64), transpose_b=True, accumulate=p.begun)

        blocks = block("a", 128, 64, "bf16", 1, SWIZZLED), block("c", 128, 128, "fp32")
        return simulate(make_program(write, tasks=[[0]] * tasks, cores=132, dynamic=dynamic), machine)

    operands, accumulator = 2 * 128 * 64 * 2, 128 * 128 * 4
    assert run(False, 3).sram["matrix"].read_bytes == 3 * operands + 2 * accumulator
    assert run(False, 3).bound.total_fs == run(False, 3).makespan_fs
    assert run(True, 132).sram["matrix"].read_bytes == 132 * operands
    assert run(True, 132).bound.total_fs == run(True, 132).makespan_fs


def test_two_units_that_only_use_the_scratchpad_take_the_sum_of_their_times(
    make_program: Any, make_machine: MachineMaker
) -> None:
    """A matmul of 512 wavefronts more than its 512 cycles of multiplying beside a conversion that is all wavefronts."""
    machine = make_machine("h100-sxm", {"cores.matrix.macs_per_cycle": 1 << 20, "cores.vector.convert": 1 << 20})

    def run(units: str) -> Result:
        def write(p: PhaseAssembler) -> None:
            blocks = (block("a", 128, 64, "bf16"), block("c", 128, 128, "fp32"), block("v", 128, 256, "fp32"))
            a, c, v = (Slot(number, p.begun) for number in p.add_buffers(allocate(blocks, machine)))
            if "m" in units:
                p.matmul(c, a, a, (128, 128, 64), transpose_b=True)
            if "v" in units:
                p.vector("convert", [v, v], (128, 256))

        return simulate(make_program(write, cores=132), machine)

    launch, cycles = machine.spec.launch.latency, machine.core_fs
    assert run("m").makespan_fs - launch == cycles(2048)
    assert run("v").makespan_fs - launch == cycles(2 * 128 * 256 * 4 // 128) == cycles(2048)
    both = run("mv")
    assert 2 * cycles(2048) <= both.makespan_fs - launch <= 2 * cycles(2048) + 2
    assert both.bound.limited_by == "sram"
    assert both.bound.total_fs - launch == 2 * cycles(2048)
    assert both.stalls["vector"]["SRAM contention"] == both.makespan_fs - launch - cycles(2048)
    assert both.sram["vector"].contention_cycles == pytest.approx(2048, abs=1)
    assert both.stalls["matrix"]["SRAM bank conflict"] == cycles(2048) - cycles(256)


def test_a_load_that_meets_conflicts_is_slower_and_says_so(make_program: Any, make_machine: MachineMaker) -> None:
    """Every line of a tile whose columns are contiguous in the block goes to one bank: the port waits for it."""
    machine = make_machine("h100-sxm", {"cores.dma.max_outstanding": 2})
    matrix = Tensor("t", named("x y", {"x": 256, "y": 512}), "bf16", 0)

    def run(layout: Layout | None) -> Result:
        def write(p: PhaseAssembler) -> None:
            p.tensors = [matrix]
            (number,) = p.add_buffers(allocate([block("b", 256, 64, "bf16", 1, layout)], machine))
            b = Slot(number, p.begun)
            for tile in range(8):
                p.load(b, Region(0, {"x": (0, 256), "y": (64 * tile, 64)}))

        return simulate(replace(make_program(write, cores=132), tensors=(matrix,)), machine)

    free, across = run(None), run(Layout((256, 64), (1, 256)))
    assert free.sram["load"].conflict_cycles == 0
    assert "SRAM bank conflict" not in free.stalls["load"]
    assert across.sram["load"].conflict_cycles == 8 * 256 * 63  # 64 elements 512 B apart: 64 words of one bank
    assert across.stalls["load"]["SRAM bank conflict"] > 0
    assert across.makespan_fs > free.makespan_fs + machine.core_fs(8 * 256 * 63 // 2)
    assert across.bound.total_fs <= across.makespan_fs


def relaid(program: Program, layout: Callable[[Buffer], Layout | None]) -> Program:
    """Return a program whose buffers have other layouts, placed anew."""
    phases = []
    for phase in program.phases:
        address, buffers = 0, []
        for old in phase.buffers:
            new = block(old.name, old.rows, old.columns, old.dtype, old.slots, layout(old))
            buffers.append(replace(new, address=address))
            address += new.size_bytes
        phases.append(replace(phase, buffers=tuple(buffers)))
    return replace(program, phases=tuple(phases))


@pytest.mark.parametrize("kind", ["column-major", "padded", "swizzled"])
def test_layouts_of_buffers_change_no_bit_of_the_values(kind: str, make_machine: MachineMaker) -> None:
    machine = make_machine("npu-hbm3")
    knobs = gemm.Knobs(tile_m=32, tile_n=16, tile_k=64, split_k=2, sram_layout="row-major")
    program = gemm.compile(gemm.Problem(70, 50, 200, "bf16"), knobs, machine, 0)
    steps = {"column-major": lambda b: (1, b.rows), "padded": lambda b: (b.columns + 3, 1)}

    def layout(old: Buffer) -> Layout:
        plain = Layout((old.rows, old.columns), steps.get(kind, lambda b: (b.columns, 1))(old))
        return plain.then(swizzle(2, 1, 3)) if kind == "swizzled" else plain

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((70, 200)), rng.standard_normal((50, 200))
    results = []
    for variant in (program, relaid(program, layout)):
        memory = functional.Memory(variant)
        memory.write("a", a)
        memory.write("b", b)
        functional.run(variant, memory, machine.spec.cores.count)
        results.append(memory.read("c").tobytes())
    assert results[0] == results[1]


def test_the_hash_of_a_program_knows_the_layouts_of_its_buffers_by_their_function(make_machine: MachineMaker) -> None:
    knobs = gemm.Knobs(sram_layout="row-major")
    program = gemm.compile(gemm.Problem(64, 64, 64, "bf16"), knobs, make_machine("npu-hbm3"), 0)
    spelt = relaid(program, lambda b: Layout((b.rows, b.columns), (b.columns, 1)))
    plain = relaid(program, lambda b: None)
    across = relaid(program, lambda b: Layout((b.rows, b.columns), (1, b.rows)))
    assert plain.hash == spelt.hash != across.hash
