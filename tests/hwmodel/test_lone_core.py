from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodel.assembler import PhaseAssembler, Region, Slot
from hwmodel.bound_costs import answer_fs, first_request_fs, last_store_fs
from hwmodel.bounds import DEPENDENCIES, lower_bound
from hwmodel.lone_core import lone_core_fs
from hwmodel.machine import Machine
from hwmodel.operands import Operands
from hwmodel.program import Program
from hwmodel.reference import simulate
from workloads.kernels import gemm

MachineMaker = Callable[..., Machine]


def relay(make_program: Any, placed: Any, stages: int, tiles: int = 6) -> Program:
    """Return a program of one core that loads, multiplies and stores tile after tile, with so many buffers of each."""

    def write(p: PhaseAssembler) -> None:
        tile, out = p.add_buffers(placed(("tile", 1, 4096, "bf16", stages), ("out", 1, 4096, "bf16", stages)))
        loaded, ready = p.counter("loaded", "memory"), p.counter("ready", "dependency")
        free, stored = p.counter("free", "buffer"), p.counter("stored", "buffer")
        here = p.begun - stages + 1
        p.load(Slot(tile, p.begun), Region(0, {"x": (p.begun * 4096, 4096)}), wait=[(free, here)], signal=[loaded])
        p.vector(
            "convert",
            [Slot(out, p.begun), Slot(tile, p.begun)],
            (1, 4096),
            wait=[(loaded, p.begun + 1), (stored, here)],
            signal=[ready, free],
        )
        p.store(
            Slot(out, p.begun), Region(1, {"x": (p.begun * 4096, 4096)}), wait=[(ready, p.begun + 1)], signal=[stored]
        )

    return make_program(write, elements=(4096 * tiles, 4096 * tiles), tasks=[[0]] * tiles)  # type: ignore[no-any-return]


def alone_fs(program: Program, machine: Machine, tasks: list[int]) -> int:
    phase = program.phases[0]
    return lone_core_fs(program, phase, machine, Operands(machine, phase), tasks)


def test_one_tile_takes_its_load_its_operation_and_its_store(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    machine = make_machine("h100-sxm")
    program = relay(make_program, placed, stages=1, tiles=1)
    phase = program.phases[0]
    (instruction,) = (i for i in phase.decoded[3] if i.function == "convert")
    operation_fs = Operands(machine, phase).cost(instruction, (1, 4096)).alone_fs
    load_fs = first_request_fs(machine) + answer_fs(machine) + machine.port_fs(8192)
    assert alone_fs(program, machine, [0]) == load_fs + operation_fs + last_store_fs(machine, 8192)


def test_with_one_buffer_every_tile_waits_for_the_one_before(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    machine = make_machine("npu-hbm3", {"noc.latency": "1 us"})
    one, three = (relay(make_program, placed, stages) for stages in (1, 3))
    bounds = [lower_bound(program, machine) for program in (one, three)]
    times = [simulate(program, machine).makespan_fs for program in (one, three)]
    assert bounds[0].limited_by == DEPENDENCIES
    assert bounds[0].total_fs > 1.5 * bounds[1].total_fs
    for bound, time in zip(bounds, times, strict=True):
        assert 0.8 * time < bound.total_fs <= time


def test_the_bound_is_that_of_the_slowest_core_which_need_not_be_the_busiest(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    """One core computes longer, the second waits more often for what it loads, the third is like the first."""

    def write(p: PhaseAssembler) -> None:
        (tile,) = p.add_buffers(placed(("tile", 1, 65536, "bf16", 1)))
        loaded, free = p.counter("loaded", "memory"), p.counter("free", "buffer")
        slot = Slot(tile, p.begun)
        p.load(slot, Region(0, {"x": (0, 16)}), wait=[(free, p.begun)], signal=[loaded])
        p.vector("convert", [slot, slot], (1, p.column("c0")), wait=[(loaded, p.begun + 1)], signal=[free])

    machine = make_machine("npu-hbm3", {"noc.latency": "1 us"})
    shares = [[0, 1], [2, 3, 4, 5], [6, 7]]
    program = make_program(write, tasks=[[65536]] * 2 + [[4096]] * 4 + [[65536]] * 2, shares=shares)
    busiest, slowest, alike = (alone_fs(program, machine, tasks) for tasks in shares)
    assert busiest == alike < slowest
    bound, run = lower_bound(program, machine), simulate(program, machine)
    assert bound.by_resource[DEPENDENCIES] == slowest
    assert bound.total_fs <= run.makespan_fs


def test_queues_that_wait_for_what_never_comes_say_nothing(
    make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 1, 16, "bf16", 1)))
        never = p.counter("never", "memory")
        p.load(Slot(buffer, p.begun), Region(0, {"x": (0, 16)}), wait=[(never, p.begun + 1)])
        p.store(Slot(buffer, p.begun), Region(0, {"x": (0, 16)}), wait=[(never, p.begun + 2)], signal=[never])

    assert alone_fs(make_program(write), make_machine("npu-hbm3"), [0]) == 0


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(m=st.integers(1, 60), k=st.integers(1, 200), tile=st.sampled_from([16, 32]), stages=st.integers(1, 3))
@pytest.mark.parametrize("name", ["h100-sxm", "npu-hbm3"])
def test_fewer_buffers_and_a_longer_way_never_make_it_shorter(
    name: str, m: int, k: int, tile: int, stages: int, make_machine: MachineMaker
) -> None:
    machine = make_machine(name, {"cores.count": 1})
    far = make_machine(name, {"cores.count": 1, "noc.latency": "500 ns"})
    problem = gemm.Problem(m, 32, k, "bf16")

    def time_fs(stages: int, on: Machine) -> int:
        program = gemm.compile(problem, gemm.Knobs(tile_m=tile, tile_n=tile, tile_k=16, stages=stages), on, 0)
        return alone_fs(program, on, list(range(len(program.phases[0].tasks))))

    assert 0 < time_fs(stages + 1, machine) <= time_fs(stages, machine) <= time_fs(stages, far)
