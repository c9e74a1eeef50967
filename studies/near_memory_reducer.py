"""Does it pay to add up the partial sums of split-K beside the memory?

    python studies/near_memory_reducer.py

A product with few rows has fewer tiles than there are cores, unless its k is split. Then every part stores a tile of
partial sums in fp32, and a second kernel loads all of them to add them up. A reducer in the base of every stack would
take these stores instead: it holds one sum for all parts and writes it to memory at the end of the kernel. What that is
worth is printed beside the standard machine, for several numbers of parts.

The reducer is a component of its own (`hwmodel.components`): a description, `NearMemoryReducer`, that makes a
`ReducingMemorySide`. Its program is the product's without the second phase, with all parts at one place, which is how
the reducer knows what to add.

Not modelled: the rounding of the sums to bf16 (they are left in fp32, twice the bytes), energy of the reducer, the
order of its additions, and machines with a shared cache, where the stores would end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import simpy

from hwmodel.components import Components
from hwmodel.dram.controller import Dram
from hwmodel.machine import Machine
from hwmodel.memory_side import Clock, MemorySide, Trip
from hwmodel.noc import Server
from hwmodel.program import Program, Tensor
from hwmodel.reference import simulate
from hwmodel.result import Result
from hwmodel.spec import load_machine
from hwmodel.traffic import LevelTraffic
from hwmodel.units import transfer_fs
from layouts import Layout
from layouts.notation import NamedLayout
from workloads.kernels import gemm

MACHINE = "npu-hbm3"
PROBLEM = gemm.Problem(m=64, n=512, k=8192, dtype="bf16")
TILES = {"tile_m": 64, "tile_n": 128, "tile_k": 512}  # four tiles, for sixteen cores
SPLITS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class NearMemoryReducer:
    """A reducer in every stack."""

    bytes_per_second: int = 819_200_000_000  # partial sums that one takes; assumed: as fast as the pins of its stack
    capacity_bytes: int = 1 << 20  # of the sums that one holds; assumed

    def __call__(self, env: Clock, machine: Machine, dram: Dram | None) -> ReducingMemorySide:
        """Return the memory side of a run."""
        return ReducingMemorySide(self, env, machine, dram)


@dataclass(frozen=True)
class Write:
    """Sums on their way from a reducer to memory."""

    engine: Writer
    size_bytes: int


class Writer:
    """What sends sums to memory; `done` succeeds when all are there."""

    core = -1  # none

    def __init__(self, done: simpy.Event) -> None:
        self.done = done
        self.under_way = 0

    def receive(self, request: Any, now_fs: int) -> None:
        raise AssertionError("a writer loads nothing")

    def complete(self, event: simpy.Event) -> None:
        self.under_way -= 1
        if not self.under_way:
            self.done.succeed()


class ReducingMemorySide(MemorySide):
    """Takes the stores of partial sums out of the stream to memory, and holds their sum until the kernel ends."""

    def __init__(self, reducer: NearMemoryReducer, env: Clock, machine: Machine, dram: Dram | None) -> None:
        if dram is None or machine.spec.shared_cache:
            raise ValueError(f"{machine.spec.where}: a reducer in the stacks needs hbm without a shared cache")
        super().__init__(env, machine, dram)
        stacks = machine.hbm.spec.stacks
        self._reducer = reducer
        self._summed: list[tuple[int, int]] = []  # addresses from, to
        self._adders = [Server() for _ in range(stacks)]
        self._sums: list[set[int]] = [set() for _ in range(stacks)]  # addresses of bursts
        self._loaded = self._stored = self._written = 0  # bytes

    def begin(self, program: Program) -> None:
        """Note the tensors of which several elements lie at one place: what is stored there is added."""
        super().begin(program)
        shared = [tensor for tensor in program.tensors if not tensor.layout.is_injective]
        self._summed = [(tensor.base_bytes, tensor.base_bytes + tensor.size_bytes) for tensor in shared]

    def enter(self, trip: Trip, crossed_fs: int) -> None:
        """Let a request go on to memory, or add what it stores."""
        if not trip.is_write:
            self._loaded += trip.size_bytes
        else:
            self._stored += trip.size_bytes
            if any(start <= trip.bursts[trip.first] < stop for start, stop in self._summed):
                self._add(trip, crossed_fs + self.machine.spec.noc.latency)
                return
            self._written += trip.size_bytes
        super().enter(trip, crossed_fs)

    def _add(self, trip: Trip, arrival_fs: int) -> None:
        bursts = trip.bursts[trip.first : trip.stop]
        stacks = self.machine.address_map.decode(bursts).stack
        done_fs = arrival_fs
        for stack in np.unique(stacks).tolist():
            here = bursts[stacks == stack].tolist()
            duration_fs = transfer_fs(len(here) * self.machine.burst_bytes, self._reducer.bytes_per_second)
            done_fs = max(done_fs, self._adders[stack].serve(arrival_fs, duration_fs))
            self._sums[stack].update(here)
            held = len(self._sums[stack]) * self.machine.burst_bytes
            if held > self._reducer.capacity_bytes:
                allowed = self._reducer.capacity_bytes
                raise ValueError(f"reducer of stack {stack}: {held} B of sums; allowed: up to {allowed} B")
        self.answer(trip, done_fs)

    def quiet(self) -> simpy.Event | None:
        """Write the sums to memory, each once; return when that is done. A kernel ends with it."""
        writer, burst_bytes = Writer(self.env.event()), self.machine.burst_bytes
        most = self.machine.spec.cores.dma.request_bytes // burst_bytes
        for sums in self._sums:
            bursts = np.array(sorted(sums), np.int64)
            sums.clear()
            for first in range(0, len(bursts), most):
                stop = min(first + most, len(bursts))
                write = Write(writer, (stop - first) * burst_bytes)
                writer.under_way += 1
                self._written += write.size_bytes
                super().enter(Trip(write, bursts, first, stop, is_write=True), self.env.now)
        return writer.done if writer.under_way else None

    def levels(self) -> dict[str, LevelTraffic]:
        """Return what passes each level; the reducers' is the last one before memory."""
        loaded, stored = self._loaded, self._stored
        here = LevelTraffic(loaded + stored, missed=loaded, stored=stored, fetched=loaded, written_back=self._written)
        return super().levels() | {"reducer": here}


def summed_in_memory(program: Program) -> Program:
    """Return a split product without its second phase, and with all partial tiles of one place at that place."""
    tensors = tuple(_at_one_place(tensor) if tensor.name == "partial" else tensor for tensor in program.tensors)
    return replace(program, name=f"{program.name}, summed in memory", tensors=tensors, phases=program.phases[:1])


def _at_one_place(tensor: Tensor) -> Tensor:
    parts, m, n = (tensor.layout.size(axis) for axis in ("part", "m", "n"))
    return replace(tensor, layout=NamedLayout(("part", "m", "n"), Layout((parts, m, n), (0, n, 1))))


def compare(machine: Machine, split: int, reducer: NearMemoryReducer) -> tuple[Result, Result]:
    """Return what a product with k in so many parts takes on the standard machine and with reducers."""
    program = gemm.compile(PROBLEM, gemm.Knobs(**TILES, split_k=split), machine, 0)
    own = Components(memory_side=reducer)
    return simulate(program, machine), simulate(summed_in_memory(program), machine, own)


def table(results: Sequence[tuple[int, Result, Result]]) -> str:
    """Return a line per number of parts, and which is best without and with reducers."""
    lines = ["split_k  standard_us  of_it_reduce_us  reducer_us  standard_hbm_bytes  reducer_hbm_bytes"]
    for split, standard, own in results:
        reduce_us = sum(phase.fs for phase in standard.phases[1:]) / 1e9
        moved = [result.hbm_read_bytes + result.hbm_write_bytes for result in (standard, own)]
        times = f"{standard.time_us:11.2f}  {reduce_us:15.2f}  {own.time_us:10.2f}"
        lines.append(f"{split:7}  {times}  {moved[0]:18,}  {moved[1]:17,}")
    best = [min(results, key=lambda row, i=i: row[i].makespan_fs) for i in (1, 2)]
    without, with_us = best[0][1].time_us, best[1][2].time_us
    lines.append(
        f"best: {without:.2f} us with k in {best[0][0]} parts, {with_us:.2f} us in {best[1][0]} with reducers, "
        f"{1 - with_us / without:.0%} less"
    )
    return "\n".join(lines)


def main() -> None:
    machine, p = Machine(load_machine(MACHINE)), PROBLEM
    results = [(split, *compare(machine, split, NearMemoryReducer())) for split in SPLITS]
    print(f"product of {p.m} x {p.k} and {p.k} x {p.n} in {p.dtype} on {MACHINE}, beside it")
    print(results[0][2].machine)
    print(table(results))


if __name__ == "__main__":
    main()
