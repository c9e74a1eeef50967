"""A lower bound of a program's time: what each resource must at least do, without running anything.

Phases follow one another, so their bounds add up. Within a phase every resource gives a bound of its own and the
largest holds: matrix and vector units and DMA issue of the busiest core, all accesses to the scratchpad of the busiest
core (those of DMA in full lines at least), bytes through the busiest core's port, bytes through the network's bisection
and the shared cache, and bursts on the HBM data buses, spread evenly over all pseudo-channels (the best case), or
through main memory's slices of SRAM. Behind a shared cache or multicast, memory must move only what is distinct
(`footprint`), and of what earlier phases have touched only what the cache cannot have kept. The first request must also
make its way through an idle machine. Where a phase is short, two more bounds count: DRAM's, from where its bursts lie
(`placed_bursts`), and that of dependencies, a core's queues waiting for each other (`lone_core`). Row misses of long
phases, uneven slices, misses for want of capacity and the tail after the last byte are not in it: they can only make a
run longer. Where slices of SRAM are the cores' own, all requests might stay beside their cores, so that the network
gives no bound.

Else loops are not walked: an instruction's executions are expanded over iterations and tasks, one of those that are
alike (`expansion`), and its cost is computed once per distinct set of sizes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.bound_costs import cache_fs, first_data_fs, issue_fs, main_memory_fs, network_fs
from hwmodel.expansion import (
    add_by,
    adding,
    alike,
    evaluate,
    executions,
    grouped,
    per_distinct,
    regions,
    tile_bytes,
    tile_pages,
)
from hwmodel.footprint import Footprint
from hwmodel.lone_core import MOST_STEPS, lone_core_fs
from hwmodel.machine import Machine
from hwmodel.operands import Operands, UnitCost
from hwmodel.placed_bursts import asked, placed_fs
from hwmodel.program import QUEUES, Op, Phase, Program, Tensor
from hwmodel.vector import costed

Array = np.ndarray[Any, Any]
DEPENDENCIES = "dependencies"  # beside the resources: what waits for what


@dataclass(frozen=True)
class Bound:
    """`total_fs` is never more than the time of a run.

    `by_resource` sums each resource's own bound over the phases, `limiting` only over the phases which it limits: the
    launches and the values of `limiting` make up the total. All in femtoseconds. `bursts` is what main memory moves
    at least, for "load" and for "store".
    """

    total_fs: int
    by_resource: dict[str, int]
    limiting: dict[str, int]
    bursts: dict[str, int]

    @property
    def limited_by(self) -> str:
        """The resource that sets the largest part of the total; "nothing" where none needs any time."""
        if not any(self.limiting.values()):
            return "nothing"
        return max(self.limiting, key=lambda name: self.limiting[name])


def lower_bound(program: Program, machine: Machine) -> Bound:
    """Return the bound of `program` on `machine`."""
    total = 0
    by_resource: dict[str, int] = {}
    limiting: dict[str, int] = {}
    all_bursts = {"load": 0, "store": 0}
    touched = _Touched(machine)
    for number, phase in enumerate(program.phases):
        resources, moved = _phase(program, phase, machine, touched, rows_closed=number == 0)
        longest = max(resources.values())
        limit = _limit(resources)
        limiting[limit] = limiting.get(limit, 0) + longest
        total += machine.spec.launch.latency + longest
        for name, fs in resources.items():
            by_resource[name] = by_resource.get(name, 0) + fs
        for name, bursts in moved.items():
            all_bursts[name] += bursts
    return Bound(total, by_resource, limiting, all_bursts)


def _limit(resources: dict[str, int]) -> str:
    """Return what limits a phase: the busiest resource, or dependencies where it is idle for most of their time."""
    longest = max(resources.values())
    busiest = max((name for name in resources if name != DEPENDENCIES), key=lambda name: resources[name])
    return busiest if 2 * resources[busiest] >= longest else DEPENDENCIES


def launches(program: Program, machine: Machine) -> Bound:
    """Return the bound that holds whatever the components do between the launches."""
    return Bound(len(program.phases) * machine.spec.launch.latency, {}, {}, {"load": 0, "store": 0})


class _Touched:
    """The bytes that the phases so far may have brought into a shared cache, as ranges of whole lines and transfers."""

    def __init__(self, machine: Machine) -> None:
        cache = machine.spec.shared_cache
        self._transfer_bytes = max(machine.burst_bytes, machine.spec.cores.dma.min_transfer)
        self._line_bytes = cache.line if cache is not None else 1
        self._begins: list[int] = []  # of ranges that lie apart, in order
        self._ends: list[int] = []

    def __len__(self) -> int:
        """The ranges that it takes to say what was touched."""
        return len(self._begins)

    def add(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            begin, end = self._range(tensor)
            first, stop = bisect_left(self._ends, begin), bisect_right(self._begins, end)
            if first < stop:  # they touch it
                begin, end = min(begin, self._begins[first]), max(end, self._ends[stop - 1])
            self._begins[first:stop], self._ends[first:stop] = [begin], [end]

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a byte of a tensor may have been touched."""
        begin, end = self._range(tensor)
        nearest = bisect_right(self._ends, begin)
        return nearest < len(self) and self._begins[nearest] < end

    def _range(self, tensor: Tensor) -> tuple[int, int]:
        begin, end = tensor.base_bytes, tensor.base_bytes + tensor.size_bytes
        for piece in (self._transfer_bytes, self._line_bytes):
            begin, end = begin // piece * piece, -(-end // piece) * piece
        return begin, end


class _Work:
    """What the instructions of a queue do for tasks: int64[tasks] each, bytes and bursts of loads and stores only."""

    def __init__(self, tasks: int) -> None:
        self.busy_fs, self.sram_fs, self.steps, self.moved_bytes, self.bursts = np.zeros((5, tasks), np.int64)


def _work(program: Program, phase: Phase, machine: Machine, operands: Operands, queue: int) -> tuple[_Work, Array]:
    """Return the work of a queue for tasks that stand for all, and for every task which of them it is like."""
    tasks, which = alike(phase, queue)
    work = _Work(len(tasks))
    for instruction, task, variables in executions(phase, queue, tasks):
        add_by(work.steps, task, np.ones(len(task), np.int64))
        if instruction.op in (Op.LOAD, Op.STORE):
            size = tile_bytes(program, phase, instruction, variables)
            pages = tile_pages(program, phase, instruction, variables)
            issue = per_distinct(np.stack([size, pages], axis=1), lambda s, n: issue_fs(machine, s, n))
            tensor = program.tensors[phase.tiles[instruction.tile]["tensor"]]
            buffer = phase.buffers[instruction.operands[0][0]]  # whose type may be another
            line = max(1, machine.spec.cores.dma.write_bytes // buffer.element_bytes)
            elements = size[:, None] // tensor.element_bytes
            lines_fs = per_distinct(elements, lambda count, n=line: machine.sram_fs(-(-count // n)))
            add_by(work.busy_fs, task, issue)
            add_by(work.sram_fs, task, lines_fs)
            add_by(work.moved_bytes, task, size)
            add_by(work.bursts, task, -(-size // machine.burst_bytes))
        else:
            columns = [evaluate(phase, size, variables) for size in costed(instruction)]
            if (adds := operands.adds(instruction)) is not None:
                columns.append(adding(phase, adds, variables, if_unknown=False))
            sizes = np.stack(columns, axis=1)
            for total, cost in ((work.busy_fs, _alone_fs), (work.sram_fs, _sram_fs)):
                add_by(total, task, per_distinct(sizes, lambda *s, i=instruction, c=cost: c(operands.cost(i, s))))
    return work, which


def _phase(
    program: Program, phase: Phase, machine: Machine, touched: _Touched, rows_closed: bool
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bound of every resource, and the bursts that main memory moves at least; adds to `touched`."""
    operands = Operands(machine, phase)
    units, moved, bursts, kinds = {}, {}, {}, []
    sram, steps = np.zeros((2, len(phase.tasks)), np.int64)
    for number, name in enumerate(QUEUES):
        work, which = _work(program, phase, machine, operands, number)
        units[name] = work.busy_fs[which]
        kinds.append(which)
        sram += work.sram_fs[which]
        steps += work.steps[which]
        if name in ("load", "store"):
            moved[name] = work.moved_bytes[which]
            bursts[name] = int(work.bursts[which].sum())
    footprints = {name: Footprint(program, phase) for name in ("load", "store")}
    merges = machine.memory == "hbm" and machine.hbm.policy.merges
    reuses = merges or machine.spec.shared_cache is not None or machine.spec.noc.multicast_window is not None
    if reuses:
        for name, footprint in footprints.items():
            for instruction, variables in regions(phase, QUEUES.index(name)):
                footprint.add(instruction.tile, variables)
    cores = machine.spec.cores.count
    resources = {name: _busiest(phase, cores, busy) for name, busy in units.items()}
    resources["sram"] = _busiest(phase, cores, sram)
    first_fs = first_data_fs(machine)
    for name, bytes_per_task in moved.items():
        busiest = _busiest(phase, cores, bytes_per_task)
        if busiest:
            resources[f"{name} port"] = (first_fs if name == "load" else 0) + machine.port_fs(busiest)
    loaded, stored = (int(moved[name].sum()) for name in ("load", "store"))
    shared = {"network": network_fs(machine, loaded, stored), "shared cache": cache_fs(machine, loaded, stored)}
    held, seen = _held(program, machine, footprints["store"].tensors), _numbers(program, touched)
    placed = _placed_fs(program, phase, machine, held | seen, rows_closed)
    if reuses:
        bursts = _unavoidable(machine, bursts, footprints, held, seen)
        named = footprints["load"].tensors | footprints["store"].tensors
        touched.add(program.tensors[number] for number in sorted(named))
    memory = "hbm" if machine.memory == "hbm" else "distributed sram"
    shared[memory] = max(main_memory_fs(machine, bursts["load"], bursts["store"], rows_closed), placed)
    busy = np.sum(list(units.values()), axis=0)
    kind = grouped(np.stack(kinds, axis=1))[1]
    resources |= {name: fs for name, fs in shared.items() if fs}
    counted = busy, steps, kind
    alone_fs = _dependencies_fs(program, phase, machine, operands, counted, enough_fs=max(resources.values()))
    return resources | ({DEPENDENCIES: alone_fs} if alone_fs else {}), bursts


def _dependencies_fs(
    program: Program,
    phase: Phase,
    machine: Machine,
    operands: Operands,
    counted: tuple[Array, Array, Array],
    enough_fs: int,
) -> int:
    """Return what the slowest of the cores with most work takes alone; nought where it has too many steps to walk them.

    `counted`: the time that every task's instructions take, how many they are, and its kind: of cores with tasks of the
    same kinds one is walked. Where the core with most work takes no longer than `enough_fs`, which the phase takes
    anyway, others are not looked at. Of a dynamic schedule nobody knows which tasks come before which.
    """
    busy, steps, kind = counted
    if len(phase.tasks) == 0 or phase.schedule.dynamic:
        return 0
    order, start = phase.schedule.order, phase.schedule.start
    core = np.repeat(np.arange(len(start) - 1), np.diff(start))
    longest, left, walked = 0, MOST_STEPS, set[bytes]()
    for one in np.argsort(-np.bincount(core, weights=busy[order]), kind="stable").tolist():
        tasks = order[start[one] : start[one + 1]]
        if (alike_ones := kind[tasks].tobytes()) in walked:
            continue
        walked.add(alike_ones)
        left -= int(steps[tasks].sum())
        if left < 0:
            break
        longest = max(longest, lone_core_fs(program, phase, machine, operands, tasks.tolist()))
        if longest <= enough_fs:
            break
    return longest


def _reuses_stores(machine: Machine) -> bool:
    """Return whether bytes may be stored without reaching main memory, and loaded again from where they are."""
    return machine.spec.shared_cache is not None or (machine.memory == "hbm" and machine.hbm.policy.merges)


def _held(program: Program, machine: Machine, stored: Set[int]) -> set[int]:
    """Return the tensors that share a line with one that resides in the cache, or with one that the phase stores."""
    held = _Touched(machine)
    if machine.spec.shared_cache is not None:
        held.add(tensor for tensor in program.tensors if tensor.resident == "cache")
    if _reuses_stores(machine):
        held.add(program.tensors[number] for number in sorted(stored))
    return _numbers(program, held)


def _numbers(program: Program, touched: _Touched) -> set[int]:
    return {number for number, tensor in enumerate(program.tensors) if len(touched) and touched.holds(tensor)}


def _unavoidable(
    machine: Machine, bursts: dict[str, int], footprints: dict[str, Footprint], held: Set[int], seen: Set[int]
) -> dict[str, int]:
    """Return the bursts that main memory moves at least where not every request reaches its data buses.

    A shared cache answers loads, multicast and a controller that merges leave one of several equal accesses. Tensors
    that are `held` need not be loaded; those that earlier phases have `seen` may lie in the cache, as far as it goes.
    """
    cache = machine.spec.shared_cache
    kept = cache.distinct_bytes if cache is not None else 0
    loaded = footprints["load"].distinct_bytes(without=held)
    again = sum(size for tensors, size in loaded if not tensors.isdisjoint(seen))
    fetched = sum(size for _, size in loaded) - min(again, kept)
    least = {"load": -(-fetched // machine.burst_bytes), "store": bursts["store"]}
    if _reuses_stores(machine):
        written = sum(size for _, size in footprints["store"].distinct_bytes(without=set())) - kept
        least["store"] = max(0, -(-written // machine.burst_bytes))
    return least


def _placed_fs(program: Program, phase: Phase, machine: Machine, cached: Set[int], rows_closed: bool) -> int:
    """Return the bound of DRAM from where bursts lie: all of them, or those loads that a cache cannot answer.

    What shares a line with a tensor that may be `cached` already is left out.
    """
    if machine.memory != "hbm" or machine.hbm.policy.merges:
        return 0
    everything = set(range(len(program.tensors)))
    if machine.spec.shared_cache is None and machine.spec.noc.multicast_window is None:
        moved = [asked(program, phase, machine, queue, everything) for queue in ("load", "store")]
        return placed_fs(machine, np.concatenate(moved), rows_closed, written_back=False)
    loads = asked(program, phase, machine, "load", everything - cached)
    return placed_fs(machine, np.unique(loads), rows_closed, written_back=False)


def _alone_fs(cost: UnitCost) -> int:
    return cost.alone_fs


def _sram_fs(cost: UnitCost) -> int:
    return cost.sram_fs


def _busiest(phase: Phase, cores: int, per_task: Array) -> int:
    """Return the largest sum over a core's tasks; for a dynamic schedule, what no assignment can be below."""
    if len(per_task) == 0:
        return 0
    if phase.schedule.dynamic:
        return max(-(-int(per_task.sum()) // cores), int(per_task.max()))
    totals = np.add.reduceat(np.append(per_task[phase.schedule.order], 0), phase.schedule.start[:-1])
    return int(np.where(np.diff(phase.schedule.start) > 0, totals, 0).max())
