"""A program of every kernel goes to a file and back, so that what a reader refuses is no kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_kernels import small_program

from hwmodel.machine import Machine
from hwmodel.saving import Saved, archive, load
from hwmodel.spec import load_machine
from workloads.kernels import KERNELS

ROOM = {"cores.sram.capacity": "1 MiB"}  # for whatever a kernel suggests
CHANGES = {"npu-hbm3": {}, "b200-sxm": ROOM | {"cores.matrix.accumulator_capacity": "1 MiB"}, "npu-sram": ROOM}
MACHINES = {name: Machine(load_machine(name).with_overrides(changes)) for name, changes in CHANGES.items()}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", KERNELS)
def test_a_program_of_every_kernel_comes_back(name: str, machine: str, tmp_path: Path) -> None:
    program = small_program(name, MACHINES[machine])
    path = tmp_path / "kernel.run"
    path.write_bytes(data := archive(Saved(program, None)))
    found = load(path)
    assert found.program is not None
    assert found.program.hash == program.hash
    assert archive(found) == data
