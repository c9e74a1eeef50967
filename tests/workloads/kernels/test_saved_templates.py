"""A program of every kernel goes to a file and back, so that what a reader refuses is no kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwmodel.machine import Machine
from hwmodel.saving import Saved, archive, load
from hwmodel.spec import load_machine
from workloads.batch import uniform
from workloads.kernels import KERNELS
from workloads.model import load_model

SIZES = {
    "m": 40, "n": 64, "k": 128, "products": 2, "heads": 4, "prefix": 32, "rows": 20, "ratio": 4, "sequences": 2,
    "tokens": 16, "experts": 4, "topk": 2, "inter": 64, "columns": 128,
}  # fmt: skip
OPTIONAL = {"top_k": 16, "vocabulary": 256, "columns": 128, "hidden": 128}
ROOM = {"cores.sram.capacity": "1 MiB"}  # for whatever a kernel suggests
CHANGES = {"npu-hbm3": {}, "b200-sxm": ROOM | {"cores.matrix.accumulator_capacity": "1 MiB"}, "npu-sram": ROOM}
MACHINES = {name: Machine(load_machine(name).with_overrides(changes)) for name, changes in CHANGES.items()}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", KERNELS)
def test_a_program_of_every_kernel_comes_back(name: str, machine: str, tmp_path: Path) -> None:
    kernel, device = KERNELS[name], MACHINES[machine]
    options = {option: SIZES[option] for option in kernel.options}
    options |= {option: size for option, size in OPTIONAL.items() if option in kernel.optional}
    options |= {"k": 8} if name == "top-k" else {}
    batch = uniform(2, 70) if "batch" in kernel.needs else None
    problem = kernel.shape(load_model("llama-3.1-8b"), batch, options)
    program = kernel.compile(problem, kernel.suggested(problem, device), device, 1)
    path = tmp_path / "kernel.run"
    path.write_bytes(data := archive(Saved(program, None)))
    found = load(path)
    assert found.program is not None
    assert found.program.hash == program.hash
    assert archive(found) == data
