"""Where a full shared cache has the data of others from, and that main memory has such addresses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hwmodel import engine, reference
from hwmodel.free_memory import free_place
from hwmodel.machine import Machine
from hwmodel.program import Program, Tensor
from layouts import named
from workloads.kernels import elementwise

UNIT, SIZE, CAPACITY = 64, 256, 4096


def program(*ranges: tuple[int, int]) -> Program:
    """A program of tensors from a first byte to a last one."""
    tensors = [Tensor(f"t{a}", named("i", {"i": b - a}), "fp8_e4m3", a) for a, b in ranges]
    return Program("p", tuple(tensors), (), 0.5)


@pytest.mark.parametrize(
    ("ranges", "base"),
    [
        ([(0, 100), (1000, 1001)], 1024),  # above the last
        ([(512, 3000), (3100, 3841)], 0),  # below the first
        ([(0, 100), (448, 3900)], 128),  # between two, rounded up
        ([(0, 3000), (0, 500), (3500, 4096)], 3008),  # tensors may share bytes
    ],
)
def test_the_highest_gap_with_room_is_taken(ranges: list[tuple[int, int]], base: int) -> None:
    assert free_place(program(*ranges), SIZE, UNIT, CAPACITY) == base


def test_where_tensors_leave_no_room_one_line_says_so() -> None:
    with pytest.raises(ValueError, match=r"program p: earlier_stores is 0.5; allowed: null, as tensors leave no 256 B"):
        free_place(program((0, 100), (300, 3900)), SIZE, UNIT, CAPACITY)


def test_tensors_at_the_top_of_memory_may_find_the_cache_full_of_others(make_machine: Callable[..., Machine]) -> None:
    small = {"cores.count": 2, "shared_cache.partitions": 1, "shared_cache.capacity": f"{80 * 16 * 128} B"}
    machine = make_machine("h100-sxm", small)
    made = elementwise.compile(elementwise.Problem(64, 512, "fp32", "relu"), elementwise.Knobs(), machine, 0)
    end = max(tensor.base_bytes + tensor.size_bytes for tensor in made.tensors)
    up = (machine.memory_capacity_bytes - end) // 4096 * 4096
    high = tuple(replace(tensor, base_bytes=tensor.base_bytes + up, resident="hbm") for tensor in made.tensors)
    moved = replace(made, tensors=high, earlier_stores=1.0)
    result = engine.simulate(moved, machine)
    assert result.makespan_fs == reference.simulate(moved, machine).makespan_fs
    cache = result.levels["shared cache"]
    assert cache.written_back > 0
    assert cache.missed == sum(tensor.size_bytes for tensor in made.tensors) // 2  # nothing of them was there before
