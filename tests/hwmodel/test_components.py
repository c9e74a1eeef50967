"""Components of one's own on the reference: what they change is in the result, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest

from hwmodel.components import Components
from hwmodel.dma_engine import DmaEngine
from hwmodel.machine import Machine
from hwmodel.memory_side import MemorySide, Trip
from hwmodel.program import Program
from hwmodel.reference import simulate
from hwmodel.result import Result
from hwmodel.sram import SharedSram
from hwmodel.traffic import LevelTraffic
from workloads.kernels import gemm

NS = 10**6
SMALL = {"cores.count": 3}


class SameMemorySide(MemorySide):
    pass


class SameDmaEngine(DmaEngine):
    pass


class SameScratchpad(SharedSram):
    pass


@dataclass(frozen=True)
class FarMemory:
    """Main memory that is further away."""

    ns: int

    def __call__(self, *parts: Any) -> MemorySide:
        return FarMemorySide(self.ns, *parts)


class FarMemorySide(MemorySide):
    def __init__(self, ns: int, *parts: Any) -> None:
        super().__init__(*parts)
        self._later_fs = ns * NS

    def enter(self, trip: Trip, crossed_fs: int) -> None:
        super().enter(trip, crossed_fs + self._later_fs)


class LossyMemorySide(MemorySide):
    """Has a level that says it sends nothing on."""

    def levels(self) -> dict[str, LevelTraffic]:
        found = super().levels()
        return found | {"sieve": LevelTraffic(asked=found["network"].fetched)}


@pytest.fixture(params=["npu-hbm3", "h100-sxm", "npu-sram"])
def machine(request: pytest.FixtureRequest, make_machine: Callable[..., Machine]) -> Machine:
    return make_machine(request.param, SMALL)


def product(machine: Machine) -> Program:
    return gemm.compile(gemm.Problem(40, 64, 96, "bf16"), gemm.Knobs(tile_m=32, tile_n=32, split_k=2), machine, 0)


def other_fields(one: Result, other: Result) -> set[str]:
    """Return the names of the fields in which two results differ, DRAM's among them as one."""
    found = {f.name for f in fields(Result) if f.name != "dram" and getattr(one, f.name) != getattr(other, f.name)}
    return found | ({"dram"} if str(one.dram) != str(other.dram) else set())


@pytest.mark.parametrize(
    "own",
    [
        Components(memory_side=SameMemorySide),
        Components(dma_engine=SameDmaEngine),
        Components(scratchpad=SameScratchpad),
    ],
    ids=lambda own: own.own[0],
)
def test_a_component_that_does_the_same_changes_only_what_is_said_of_it(machine: Machine, own: Components) -> None:
    standard, other = simulate(product(machine), machine), simulate(product(machine), machine, own)
    assert other_fields(standard, other) == {"machine", "machine_hash", "bound", "energy_bound"}
    assert other.machine == f"{machine.spec.name} with {own.own[0]}"
    assert own.own[0].startswith("Same")
    assert other.bound.total_fs == 2 * machine.spec.launch.latency
    assert other.bound.limited_by == "nothing"


def test_without_components_of_ones_own_nothing_is_said(machine: Machine) -> None:
    assert Components().own == ()
    assert other_fields(simulate(product(machine), machine), simulate(product(machine), machine, Components())) == set()


def test_a_longer_way_to_memory_is_found_in_the_stalls_of_the_engines(machine: Machine) -> None:
    program = product(machine)
    times = [simulate(program, machine, Components(memory_side=FarMemory(ns))) for ns in (0, 100, 300)]
    for near, far, ns in zip(times, times[1:], (100, 200), strict=False):
        # a load and a store of each phase come later; bursts meet refreshes at other times
        assert far.makespan_fs - near.makespan_fs > 3 * ns * NS
        assert far.stalls["load"]["memory"] > near.stalls["load"]["memory"]
        assert sum(far.stalls["load"].values()) == 3 * far.makespan_fs
        assert far.levels["network"] == near.levels["network"]


def test_a_description_is_named_with_its_numbers_and_hashed_with_them(machine: Machine) -> None:
    one, other = (simulate(product(machine), machine, Components(memory_side=FarMemory(ns))) for ns in (1, 2))
    assert one.machine == f"{machine.spec.name} with FarMemory(ns=1)"
    assert len({one.machine_hash, other.machine_hash, machine.spec.hash}) == 3


def test_several_components_are_all_named(machine: Machine) -> None:
    own = Components(SameMemorySide, SameDmaEngine)
    assert simulate(product(machine), machine, own).machine.endswith("with SameMemorySide, SameDmaEngine")


def test_a_level_that_loses_bytes_is_found_out(make_machine: Callable[..., Machine]) -> None:
    machine = make_machine("npu-hbm3", SMALL)
    with pytest.raises(AssertionError, match="the sieve took 0 B of"):
        simulate(product(machine), machine, Components(memory_side=LossyMemorySide))


def test_components_are_values(machine: Machine) -> None:
    assert Components(memory_side=FarMemory(1)) == Components(memory_side=FarMemory(1))
    assert replace(Components(), scratchpad=SameScratchpad).own == ("SameScratchpad",)
