"""Schedules of linear attention by chunks: by estimate, and as simulated."""

from __future__ import annotations

from typing import Any

import pytest

from hwmodel.engine import simulate
from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads.kernels import KERNELS
from workloads.kernels.base import shrinking
from workloads.kernels.linear_prefill import Problem
from workloads.kernels.tuning import chunks

H100, MI300X, NPU, TPU = (Machine(load_machine(name)) for name in ("h100-sxm", "mi300x", "npu-hbm3", "tpu-v6e"))
KERNELS_BY_CHUNKS = ("linear-prefill", "kda-prefill")
FEW, MANY = Problem((300,), 4, 4, 128, 128, "bf16"), Problem((500, 300), 32, 32, 128, 128, "bf16")
WIDE = Problem((300, 200), 16, 16, 128, 256, "bf16")


def time_fs(kernel: str, problem: Problem, knobs: Any, machine: Machine) -> int:
    return simulate(KERNELS[kernel].compile(problem, knobs, machine, 0), machine).makespan_fs


def halved(kernel: str, problem: Problem, machine: Machine) -> Any:
    """Return the first knobs that fit of the defaults and what is smaller."""
    for knobs in shrinking(KERNELS[kernel].Knobs()):
        try:
            KERNELS[kernel].compile(problem, knobs, machine, 0)
        except ValueError:
            continue
        return knobs
    raise AssertionError


@pytest.mark.parametrize("machine", [H100, MI300X, NPU, TPU], ids=lambda machine: machine.spec.name)
@pytest.mark.parametrize("kernel", KERNELS_BY_CHUNKS)
@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(FEW, id="few"),
        *(pytest.param(one, id=name, marks=pytest.mark.slow) for one, name in ((MANY, "many"), (WIDE, "wide"))),
    ],
)
def test_suggested_chunks_take_no_longer_than_halved_defaults(kernel: str, problem: Problem, machine: Machine) -> None:
    suggested = time_fs(kernel, problem, KERNELS[kernel].suggested(problem, machine), machine)
    assert suggested <= 1.02 * time_fs(kernel, problem, halved(kernel, problem, machine), machine)


@pytest.mark.parametrize("kernel", KERNELS_BY_CHUNKS)
def test_value_channels_are_split_over_cores_that_would_be_idle_only(kernel: str) -> None:
    few, many = (KERNELS[kernel].suggested(problem, H100) for problem in (FEW, MANY))
    assert few.tile_v < many.tile_v


@pytest.mark.parametrize("ranking", [chunks.by_head, chunks.by_channel])
def test_an_estimate_grows_with_the_heads_of_busy_cores(ranking: Any) -> None:
    """A head more never takes less, and twice as many on one core take twice as long, but for the launch."""
    estimates = []
    for heads in (2, 4):
        found = ranking(Problem((1000,), heads, heads, 128, 128, "bf16"), TPU)
        estimates.append({repr(choice.knobs): choice.estimate_fs - TPU.spec.launch.latency for choice in found})
    for knobs, time in estimates[0].items():
        assert time < estimates[1][knobs] <= 2.4 * time  # rows of more heads lie in fewer channels


@pytest.mark.parametrize("machine", [H100, NPU], ids=lambda machine: machine.spec.name)
@pytest.mark.parametrize(
    ("kernel", "ranking"), [("linear-prefill", chunks.by_head), ("kda-prefill", chunks.by_channel)]
)
def test_the_estimate_of_busy_cores_counts_what_the_simulation_takes_time_for(
    kernel: str, ranking: Any, machine: Machine
) -> None:
    """Without the bytes of half of the products it was a quarter too short."""
    knobs = KERNELS[kernel].suggested(MANY, machine)
    (estimate,) = [choice.estimate_fs for choice in ranking(MANY, machine) if choice.knobs == knobs]
    assert estimate >= 0.85 * time_fs(kernel, MANY, knobs, machine)
