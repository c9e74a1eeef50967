from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.reference import simulate
from workloads.kernels import gemm

EMPTY = Program("empty", (), ())


@pytest.mark.parametrize("name", ["npu-hbm3", "npu-sram", "h100-sxm"])
@pytest.mark.parametrize("phases", [0, 1])
def test_a_run_that_takes_no_time_uses_nothing(
    name: str, phases: int, make_program: Any, make_machine: Callable[..., Machine]
) -> None:
    machine = make_machine(name, {"launch.latency": "0 ns"})
    idle = make_program(lambda phase: None, cores=machine.spec.cores.count)
    result = simulate(idle if phases else EMPTY, machine)
    assert result.makespan_fs == result.bound.total_fs == 0
    assert set(result.utilisation) >= {"load", "store", "matrix", "vector", "sram"}
    assert set(result.utilisation.values()) == {0.0}
    metrics = json.loads(json.dumps(result.metrics(), allow_nan=False))
    assert metrics["limited_by"] == "nothing"
    assert metrics["hbm_bandwidth_fraction"] == metrics["time_us"] == metrics["energy_pj"] == 0


def test_a_program_of_launches_alone_is_limited_by_nothing(make_program: Any, machine: Machine) -> None:
    result = simulate(make_program(lambda phase: None, cores=machine.spec.cores.count, launches=2), machine)
    assert result.makespan_fs == result.bound.total_fs == 2 * machine.spec.launch.latency
    assert result.metrics()["limited_by"] == "nothing"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("npu-hbm3", {}),
        ("npu-hbm3", {"noc.multicast_window": "1 us"}),
        ("npu-sram", {}),
        ("npu-sram-local", {}),
        ("h100-sxm", {}),
    ],
)
def test_what_a_level_was_asked_for_is_told_apart_as_its_description_says(
    name: str, changes: dict[str, str], make_machine: Callable[..., Machine]
) -> None:
    machine = make_machine(name, changes)
    program = gemm.compile(gemm.Problem(128, 128, 128, "bf16"), gemm.Knobs(), machine, 0)
    levels = simulate(program, machine).levels
    assert {"network"} < levels.keys() <= {"network", "tlb", "shared cache", "hbm", "distributed sram"}
    for place, level in levels.items():
        parts = level.hit + level.missed + level.merged
        parts += {"network": level.fetched, "shared cache": level.stored}.get(place, 0)
        assert level.asked == parts > 0, place
