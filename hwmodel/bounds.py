"""A lower bound of a program's time: what each resource must at least do, without running anything.

Phases follow one another, so their bounds add up. Within a phase every resource gives a bound of its own and the
largest holds: matrix and vector units and DMA issue of the busiest core, bytes through the busiest core's port, bytes
through the shared cache, and bursts on the HBM data buses, spread evenly over all pseudo-channels (the best case).
Memory resources also wait for the first request to make its way through an idle machine. Row misses, uneven channels,
waiting for counters and the tail after the last byte are not in it: they can only make a run longer.

Loops are not walked: an instruction's executions are expanded over tasks and iterations (`expansion`), and its cost is
computed once per distinct set of sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel import matrix
from hwmodel.expansion import evaluate, executions, per_distinct, sum_by, tile_bytes
from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Instruction, Op, Phase, Program
from hwmodel.vector import OPERATIONS

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Bound:
    """`total_fs` is never more than the time of a run.

    `by_resource` sums each resource's own bound over the phases, `limiting` only over the phases which it limits: the
    launches and the values of `limiting` make up the total. All in femtoseconds. `hbm_bursts` is what HBM moves at
    least, for "load" and for "store".
    """

    total_fs: int
    by_resource: dict[str, int]
    limiting: dict[str, int]
    hbm_bursts: dict[str, int]

    @property
    def limited_by(self) -> str:
        """The resource that sets the largest part of the total."""
        return max(self.limiting, key=lambda name: self.limiting[name])


def lower_bound(program: Program, machine: Machine) -> Bound:
    """Return the bound of `program` on `machine`."""
    total = 0
    by_resource: dict[str, int] = {}
    limiting: dict[str, int] = {}
    hbm_bursts = {"load": 0, "store": 0}
    for number, phase in enumerate(program.phases):
        resources, moved = _phase(program, phase, machine, rows_closed=number == 0)
        limit = max(resources, key=lambda name: resources[name])
        limiting[limit] = limiting.get(limit, 0) + resources[limit]
        total += machine.spec.launch.latency + resources[limit]
        for name, fs in resources.items():
            by_resource[name] = by_resource.get(name, 0) + fs
        for name, bursts in moved.items():
            hbm_bursts[name] += bursts
    return Bound(total, by_resource, limiting, hbm_bursts)


def _phase(
    program: Program, phase: Phase, machine: Machine, rows_closed: bool
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bound of every resource, and the bursts that HBM moves at least."""
    units = {name: np.zeros(len(phase.tasks), np.int64) for name in QUEUES}
    moved = {name: np.zeros(len(phase.tasks), np.int64) for name in ("load", "store")}
    hbm_bursts = {"load": 0, "store": 0}
    through_cache = 0
    for number, name in enumerate(QUEUES):
        for instruction, task, variables in executions(phase, number):
            if instruction.op in (Op.LOAD, Op.STORE):
                size = tile_bytes(program, phase, instruction, variables)
                units[name] += sum_by(
                    task, per_distinct(size[:, None], lambda s: _issue_fs(machine, s)), len(phase.tasks)
                )
                moved[name] += sum_by(task, size, len(phase.tasks))
                in_cache = program.tensors[phase.tiles[instruction.tile]["tensor"]].resident == "cache"
                if not in_cache:
                    hbm_bursts[name] += int((-(-size // machine.organisation.burst_bytes)).sum())
                if in_cache or name == "load":
                    through_cache += int(size.sum())
            else:
                sizes = np.stack([evaluate(phase, size, variables) for size in instruction.sizes], axis=1)
                fs = per_distinct(sizes, lambda *s, i=instruction: compute_fs(machine, phase, i, s))
                units[name] += sum_by(task, fs, len(phase.tasks))
    cores = machine.spec.cores.count
    resources = {name: _busiest(phase, cores, busy) for name, busy in units.items()}
    first_fs = _first_data_fs(machine)
    for name, bytes_per_task in moved.items():
        busiest = _busiest(phase, cores, bytes_per_task)
        if busiest:
            resources[f"{name} port"] = (first_fs if name == "load" else 0) + machine.port_fs(busiest)
    if through_cache and machine.spec.shared_cache is not None:
        resources["shared cache"] = machine.cache_fs(through_cache)
    if any(hbm_bursts.values()):
        resources["hbm"] = _hbm_fs(machine, hbm_bursts["load"], hbm_bursts["store"], rows_closed)
    return resources, hbm_bursts


def compute_fs(machine: Machine, phase: Phase, instruction: Instruction, sizes: tuple[int, ...]) -> int:
    """Return the duration of a MATMUL or VECTOR instruction with these sizes."""
    buffers = [phase.buffers[number] for number, _ in instruction.operands]
    if instruction.op is Op.VECTOR:
        cycles = OPERATIONS[instruction.function].work(buffers, *sizes).cycles(machine.spec.cores.vector)
    else:
        m, n, k = sizes
        operands = m * k * buffers[1].element_bytes + n * k * buffers[2].element_bytes
        cycles = matrix.cycles(machine.spec.cores.matrix, m, n, k, operands, machine.sram_bytes_per_cycle)
    return machine.core_fs(cycles)


def _issue_fs(machine: Machine, size_bytes: int) -> int:
    """Return the least time a DMA engine spends on a descriptor of so many bytes."""
    dma = machine.spec.cores.dma
    if size_bytes == 0:
        return 0
    return machine.core_fs(dma.issue_cycles + dma.request_cycles * -(-size_bytes // dma.request_bytes))


def _busiest(phase: Phase, cores: int, per_task: Array) -> int:
    """Return the largest sum over a core's tasks; for a dynamic schedule, what no assignment can be below."""
    if len(per_task) == 0:
        return 0
    if phase.schedule.dynamic:
        return max(-(-int(per_task.sum()) // cores), int(per_task.max()))
    totals = np.add.reduceat(np.append(per_task[phase.schedule.order], 0), phase.schedule.start[:-1])
    return int(np.where(np.diff(phase.schedule.start) > 0, totals, 0).max())


def _first_data_fs(machine: Machine) -> int:
    """Return the earliest time, after a launch, at which data of a load can reach a core's port."""
    dma = machine.spec.cores.dma
    issue = machine.core_fs(dma.issue_cycles + dma.request_cycles)
    return issue + 2 * machine.spec.noc.latency  # a load that the shared cache answers


def _hbm_fs(machine: Machine, reads: int, writes: int, rows_closed: bool) -> int:
    """Return the least time for so many bursts from the first issue to the last byte's arrival.

    The first burst needs an activate where no row can be open yet.
    """
    timing, dma = machine.timing, machine.spec.cores.dma
    issue = machine.core_fs(dma.issue_cycles + dma.request_cycles)
    busy = -(-(reads + writes) // machine.pseudo_channels) * timing.nCCDS
    activate = min(timing.nRCDRD, timing.nRCDWR) if rows_closed else 0
    ticks = activate + min(timing.nCL, timing.nCWL) + timing.nBL + busy - timing.nCCDS
    if machine.spec.hbm.refresh == "all-bank":
        # Every nREFI a pseudo-channel stands still for nRFC; one refresh may still be due when the last burst is done.
        while (longer := busy + max(0, ticks // timing.nREFI - 1) * timing.nRFC) > ticks:
            ticks = longer
    return issue + machine.memory_request_fs + machine.ticks_to_fs(ticks) + machine.spec.noc.latency
