"""The compiled engine against the SimPy reference: every count and femtosecond, on random machines and programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_programs import differences, kernels, machines, streams

from hwmodel import engine, reference
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.spec import load_machine
from workloads.kernels import gemm, moe_gemm

# the nightly run: 10,000 programs on machines, half kernels and half streams, in parts for several processes
PARTS, EXAMPLES = range(10), 500


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
    max_examples=EXAMPLES, derandomize=False, database=None, phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@settings(max_examples=20)
@given(streams(), machines(), st.floats(0, 1))
def test_streams_that_find_the_cache_full_of_others_take_the_time_of_the_reference(
    make: Any, machine: Machine, stores: float
) -> None:
    check(replace(make(machine), earlier_stores=stores), machine)


@pytest.mark.nightly
@pytest.mark.parametrize("part", PARTS)
@NIGHTLY
@given(case=kernels(), machine=machines())
def test_very_many_kernels_take_the_time_of_the_reference(
    part: int, case: tuple[Any, Any, Any], machine: Machine
) -> None:
    check_kernel(case, machine)


@pytest.mark.nightly
@pytest.mark.parametrize("part", PARTS)
@NIGHTLY
@given(make=streams(), machine=machines())
def test_very_many_streams_take_the_time_of_the_reference(part: int, make: Any, machine: Machine) -> None:
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


@pytest.mark.parametrize("window", [None, "100 ns"], ids=["engine", "reference"])
def test_times_without_books_are_those_of_the_run(window: str | None) -> None:
    machine = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": 2, "noc.multicast_window": window}))
    program = gemm.compile(gemm.Problem(96, 96, 96, "bf16"), gemm.Knobs(split_k=2), machine, 0)
    assert len(program.phases) == 2
    result = engine.simulate(program, machine)
    assert engine.phase_times(program, machine) == list(result.phases)


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
