"""The compiled engine against the SimPy reference: a small program of every kernel on every shipped machine, as it is.

A handful by default; all with the marker `slow`: every kernel fits every machine in some tiles.
"""

from __future__ import annotations

from typing import Any

import pytest
from random_programs import differences
from small_kernels import small_program

from hwmodel import engine, reference
from hwmodel.machine import Machine
from hwmodel.spec import load_machine, machine_names
from workloads.kernels import KERNELS

PAIRS = [(kernel, machine) for machine in machine_names() for kernel in KERNELS]
HANDFUL = [
    ("gemm", "npu-hbm3"),
    ("moe", "npu-sram-local"),
    ("mla-decode", "npu-hbm3"),
    ("decode-attention", "h100-sxm"),
    ("rms-norm", "h100-sxm"),
]


def check(kernel: str, name: str, changes: dict[str, Any] | None = None) -> None:
    machine = Machine(load_machine(name).with_overrides(changes or {}))
    program = small_program(kernel, machine)
    assert differences(engine.simulate(program, machine), reference.simulate(program, machine)) == []


@pytest.mark.parametrize(("kernel", "machine"), HANDFUL)
def test_a_kernel_takes_the_time_of_the_reference(kernel: str, machine: str) -> None:
    check(kernel, machine)


@pytest.mark.parametrize(("kernel", "machine"), [("gemm", "npu-hbm3"), ("linear-prefill", "h100-sxm")])
def test_a_kernel_takes_the_time_of_the_reference_where_its_sums_lie_in_the_scratchpad(
    kernel: str, machine: str
) -> None:
    """Of its matmuls some add to their destination and read it, others only write it."""
    changes = {"cores.matrix.accumulators": "scratchpad", "cores.matrix.accumulator_capacity": None}
    check(kernel, machine, changes)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "machine"), PAIRS)
def test_every_kernel_takes_the_time_of_the_reference_on_every_machine(kernel: str, machine: str) -> None:
    check(kernel, machine)


def test_all_machines_but_those_with_multicast_run_on_the_engine() -> None:
    left = {name for name in machine_names() if not engine.supports(Machine(load_machine(name)))}
    assert left == {name for name in machine_names() if load_machine(name).noc.multicast_window is not None}
    assert len(left) <= 2
