"""What a run says: times, bytes, DRAM statistics and an accounting of every unit's time that closes.

Immutable. `metrics()` is the flat view that tables, files and searches use. Times are femtoseconds inside and
microseconds in `metrics`; stall tables stay in femtoseconds, so that their sums equal makespan x units exactly.
Energies are whole femtojoules inside and picojoules in `metrics`.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from hwmodel.bounds import Bound, launches, lower_bound
from hwmodel.descriptors import TileCost
from hwmodel.dma import Region
from hwmodel.dram.controller import CAUSES, Dram, DramStatistics
from hwmodel.energy import Actions, Energy, banks_refreshed, instructions, least_of, refreshes_due, spent
from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Program
from hwmodel.sram_access import Cost
from hwmodel.traffic import LevelTraffic
from hwmodel.units import FJ_PER_PJ, FS_PER_SECOND, FS_PER_US

BIN_FS = 10**9  # bandwidth over time is kept in bins of a microsecond
ENDS = ("network", "tlb", "distributed sram", "hbm")  # levels where bytes set out and where they arrive


@dataclass(slots=True)
class Ledger:
    """The time of one unit, attributed as it passes: every interval between two calls has exactly one cause."""

    mark_fs: int = 0
    causes: dict[str, int] = field(default_factory=dict)

    def spend(self, cause: str, now_fs: int) -> None:
        """Attribute the time since the last call to `cause`."""
        if now_fs > self.mark_fs:
            self.causes[cause] = self.causes.get(cause, 0) + now_fs - self.mark_fs
            self.mark_fs = now_fs


class SramUse:
    """The scratchpads of all cores, by queue: accesses, and what units waited for one another."""

    def __init__(self) -> None:
        self._times: dict[int, list[Any]] = {}  # by id: times, cost, queue, accesses read and written
        self.waited_fs = [0] * len(QUEUES)

    def count(self, queue: int, cost: object, read: Cost, written: Cost, times: int = 1) -> None:
        """Count the accesses of instructions; `cost` is what all those alike have in common."""
        entry = self._times.get(id(cost))
        if entry is None:
            self._times[id(cost)] = [times, cost, queue, read, written]
        else:
            entry[0] += times

    def totals(self, queue: int) -> tuple[Cost, Cost]:
        """Return what one kind of unit has read and written."""
        read = written = Cost()
        for times, _, number, one_read, one_written in self._times.values():
            if number == queue:
                read, written = read.plus(one_read, times), written.plus(one_written, times)
        return read, written

    def wait(self, queue: int, contention_fs: int) -> None:
        """Count what an access took longer than alone."""
        self.waited_fs[queue] += contention_fs


class Traffic:
    """Per tensor: bytes asked for (useful) and moved in whole bursts (fetched); descriptors, indices and requests."""

    def __init__(self, program: Program, burst_bytes: int) -> None:
        self._element_bytes = [tensor.element_bytes for tensor in program.tensors]
        self._burst_bytes = burst_bytes
        self.bytes = {name: [[0, 0] for _ in program.tensors] for name in ("load", "store")}
        self.issued = {name: [[0, 0, 0] for _ in program.tensors] for name in ("load", "store")}

    def count(self, queue: str, region: Region, bursts: int, requests: int, cost: TileCost) -> None:
        """Count one tile."""
        entry = self.bytes[queue][region.tensor]
        entry[0] += region.elements * self._element_bytes[region.tensor]
        entry[1] += bursts * self._burst_bytes
        issued = self.issued[queue][region.tensor]
        issued[0] += cost.descriptors
        issued[1] += cost.indices
        issued[2] += requests


@dataclass(frozen=True)
class TensorTraffic:
    """Bytes of one tensor: useful is what descriptors asked for, fetched and written the whole bursts they sent for."""

    name: str
    resident: str
    load_useful_bytes: int
    load_fetched_bytes: int
    store_useful_bytes: int
    store_written_bytes: int
    descriptors: int = 0
    indices: int = 0
    requests: int = 0


@dataclass(frozen=True)
class SramTraffic:
    """Bytes that one kind of unit read from and wrote to the scratchpads of all cores.

    `conflict_cycles`: cycles of the scratchpads that its accesses took beyond one per row of lanes, because words met
    in a bank or were written in part. `contention_cycles`: by how much its instructions or requests ended later
    because other units used the scratchpad, added up.
    """

    read_bytes: int
    written_bytes: int
    conflict_cycles: int
    contention_cycles: int


@dataclass(frozen=True)
class PhaseTime:
    """The duration of one phase, launch included."""

    name: str
    fs: int


@dataclass(frozen=True)
class Result:
    """The outcome of one run of a program on a machine."""

    program: str
    machine: str
    program_hash: str
    machine_hash: str
    makespan_fs: int
    cycles: int
    bound: Bound
    phases: tuple[PhaseTime, ...]
    traffic: tuple[TensorTraffic, ...]
    sram: dict[str, SramTraffic]  # by kind of unit
    sram_busy_fs: int  # summed over cores
    dram: DramStatistics
    stalls: dict[str, dict[str, int]]  # unit kind -> cause -> fs summed over units
    units: dict[str, int]  # unit kind -> how many
    levels: dict[str, LevelTraffic]  # from the cores outwards: network, tlb, shared cache, hbm or distributed sram
    cache_busy_fs: int
    hbm_peak_bytes_per_second: float
    burst_bytes: int
    bin_fs: int
    actions: Actions
    energy: Energy | None  # None where the machine gives no energies, as for the bound
    energy_bound: Energy | None

    @property
    def time_us(self) -> float:
        return self.makespan_fs / FS_PER_US

    @property
    def hbm_useful_bytes(self) -> int:
        """Bytes of tensors in HBM that loads asked for, whether a shared cache had them or not."""
        return sum(t.load_useful_bytes for t in self.traffic if t.resident == "hbm")

    @property
    def hbm_read_bytes(self) -> int:
        return (self.dram.reads - self.dram.merged_reads) * self.burst_bytes

    @property
    def hbm_write_bytes(self) -> int:
        return (self.dram.writes - self.dram.merged_writes) * self.burst_bytes

    @property
    def hbm_bandwidth_fraction(self) -> float:
        """Bytes moved over HBM in the whole run, launches included, as a fraction of what the peak would move."""
        moved = self.hbm_read_bytes + self.hbm_write_bytes
        return moved / (self.hbm_peak_bytes_per_second * self.makespan_fs / 1e15) if moved else 0.0

    @property
    def utilisation(self) -> dict[str, float]:
        """Useful time of each kind of unit, and of scratchpad and shared cache in use, over makespan x units.

        In a run that takes no time nothing is in use: every share is 0.
        """
        whole_fs = max(1, self.makespan_fs)  # where it is 0, so are the useful times
        shares = {kind: causes.get("useful", 0) / (whole_fs * self.units[kind]) for kind, causes in self.stalls.items()}
        sram = {"sram": self.sram_busy_fs / (whole_fs * self.units["load"])}
        cache = {"shared cache": self.cache_busy_fs / self.makespan_fs} if self.cache_busy_fs else {}
        return shares | sram | cache

    def metrics(self) -> dict[str, Any]:
        """Return the run as JSON-able values; see the README for the meaning of each key."""
        return {
            "time_us": self.time_us,
            "cycles": self.cycles,
            "bound_us": self.bound.total_fs / FS_PER_US,
            "energy_pj": self.energy and self.energy.total_fj / FJ_PER_PJ,
            "energy_bound_pj": self.energy_bound and self.energy_bound.total_fj / FJ_PER_PJ,
            "energy_by_component_pj": self.energy and _picojoules(self.energy.by_component_fj),
            "hbm_read_bytes": self.hbm_read_bytes,
            "hbm_useful_bytes": self.hbm_useful_bytes,
            "hbm_write_bytes": self.hbm_write_bytes,
            "hbm_bandwidth_fraction": self.hbm_bandwidth_fraction,
            "row_hits": self.dram.row_hits,
            "row_misses": self.dram.row_misses,
            "row_conflicts": self.dram.row_conflicts,
            "activates": self.dram.activates,
            "refreshes": self.dram.refreshes,
            "sram": {kind: asdict(traffic) for kind, traffic in self.sram.items()},
            "dma": {tensor.name: _issued(tensor) for tensor in self.traffic},
            "limited_by": self.bound.limited_by,
            "levels": {name: level.metrics() for name, level in self.levels.items()},
            "utilisation": self.utilisation,
            "stalls": self.stalls,
            "phases": {phase.name: phase.fs / FS_PER_US for phase in self.phases},
            "program_hash": self.program_hash,
            "machine_hash": self.machine_hash,
        }

    def bandwidth(self) -> dict[str, list[float]]:
        """Return HBM bytes per second over time: columns time_us (start of the bin) and bytes_per_second."""
        per_bin = self.dram.bytes_per_bin.astype(np.float64)
        used = -(-self.makespan_fs // self.bin_fs)
        per_bin = np.pad(per_bin[:used], (0, max(0, used - len(per_bin))))
        return {
            "time_us": [i * self.bin_fs / FS_PER_US for i in range(used)],
            "bytes_per_second": (per_bin / (self.bin_fs / 1e15)).tolist(),
        }

    @property
    def banks(self) -> dict[str, Any]:
        """Per-bank counts, int64[pseudo-channel, bank]: bursts, activates, conflicts."""
        return {
            "bursts": self.dram.bank_bursts,
            "activates": self.dram.bank_activates,
            "conflicts": self.dram.bank_conflicts,
        }


def make_result(
    program: Program,
    machine: Machine,
    makespan_fs: int,
    phases: list[PhaseTime],
    ledgers: list[list[Ledger]],
    traffic: Traffic,
    sram_use: SramUse,
    dram: Dram | None,
    cache_busy_fs: int,
    levels: dict[str, LevelTraffic],
    own: tuple[str, ...] = (),
) -> Result:
    """Close the books of a run. Raises AssertionError if an account does not close or the bound is above the time.

    `own` names components that are not the machine's: nobody knows what they cannot beat, but for the launches.
    """
    bound = launches(program, machine) if own else lower_bound(program, machine)
    assert bound.total_fs <= makespan_fs, f"bound {bound} above makespan {makespan_fs} fs of {program.name}"
    stalls = {name: _sum(row[i].causes for row in ledgers) for i, name in enumerate(QUEUES)}
    units = dict.fromkeys(QUEUES, len(ledgers))
    statistics = NO_DRAM
    if dram is not None:
        stalls["hbm"], units["hbm"] = _hbm_stalls(machine, dram, makespan_fs), machine.pseudo_channels
        statistics = replace(dram.statistics(), refreshes=refreshes_due(machine, makespan_fs))
        levels = levels | {"hbm": _rows(statistics, machine.burst_bytes)}
    for kind, causes in stalls.items():
        assert sum(causes.values()) == makespan_fs * units[kind], f"the account of {kind} does not close"
    tensors = _tensor_traffic(program, traffic)
    found = machine.spec.shared_cache.distinct_bytes if machine.spec.shared_cache and program.earlier_stores else 0
    _check_bytes(tensors, levels, found)
    actions = _actions(program, machine, makespan_fs, levels, statistics)
    energy, energy_bound = _energies(machine, actions, bound)
    name, digest = _identity(machine, own)
    return Result(
        program=program.name,
        machine=name,
        program_hash=program.hash,
        machine_hash=digest,
        makespan_fs=makespan_fs,
        cycles=-(-makespan_fs * machine.spec.cores.clock // FS_PER_SECOND),
        bound=bound,
        phases=tuple(phases),
        traffic=tensors,
        sram=_sram_traffic(machine, sram_use),
        sram_busy_fs=machine.sram_fs(sum(c.wavefronts for q in range(len(QUEUES)) for c in sram_use.totals(q))),
        dram=statistics,
        stalls=stalls,
        units=units,
        levels=levels,
        cache_busy_fs=cache_busy_fs,
        hbm_peak_bytes_per_second=float(machine.hbm_peak_bytes_per_second),
        burst_bytes=machine.burst_bytes,
        bin_fs=machine.ticks_to_fs(machine.fs_to_ticks(BIN_FS)) if dram is not None else BIN_FS,
        actions=actions,
        energy=energy,
        energy_bound=energy_bound,
    )


def _identity(machine: Machine, own: tuple[str, ...]) -> tuple[str, str]:
    """Return the name and the hash of a machine with components of one's own, of whose code neither says anything."""
    name, digest = machine.spec.name, machine.spec.hash
    if not own:
        return name, digest
    return f"{name} with {', '.join(own)}", hashlib.sha256(repr((digest, own)).encode()).hexdigest()[:16]


NO_DRAM = DramStatistics(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, *[np.zeros(0, np.int64)] * 6)


def _rows(dram: DramStatistics, burst_bytes: int) -> LevelTraffic:
    """Return what DRAM was asked for, hits being those of open rows."""
    missed = dram.row_misses + dram.row_conflicts
    return LevelTraffic(
        asked=dram.bursts * burst_bytes,
        hit=dram.row_hits * burst_bytes,
        missed=missed * burst_bytes,
        merged=(dram.merged_reads + dram.merged_writes) * burst_bytes,
        stored=dram.writes * burst_bytes,
    )


def _check_bytes(tensors: tuple[TensorTraffic, ...], levels: dict[str, LevelTraffic], found: int) -> None:
    """Follow every byte from the descriptors outwards: each level is asked for what the one before it sends on.

    `found`: up to so many bytes were in the shared cache and not yet in main memory when the run began.
    """
    network = levels["network"]
    sent = sum(t.load_fetched_bytes + t.store_written_bytes for t in tensors)
    assert sent == network.asked, f"descriptors sent for {sent} B, the network carried {network.asked} B"
    asked, stored = network.fetched + network.hit, sum(t.store_written_bytes for t in tensors)
    for name, level in levels.items():  # the shared cache, and levels of components of one's own
        if name in ENDS:
            continue
        assert level.asked == asked, f"the {name} was asked for {level.asked} B of {asked} B"
        assert level.stored == stored, f"the {name} took {level.stored} B of {stored} B stored"
        assert level.dirty + level.written_back <= stored + found, f"the {name} wrote back more than was stored"
        asked, stored = level.fetched + level.written_back, level.written_back
    memory = levels.get("hbm") or levels["distributed sram"]
    assert memory.asked == asked, f"main memory moved {memory.asked} B of {asked} B"


def _tensor_traffic(program: Program, traffic: Traffic) -> tuple[TensorTraffic, ...]:
    found = []
    for i, tensor in enumerate(program.tensors):
        moved = *traffic.bytes["load"][i], *traffic.bytes["store"][i]
        issued = map(sum, zip(traffic.issued["load"][i], traffic.issued["store"][i], strict=True))
        found.append(TensorTraffic(tensor.name, tensor.resident, *moved, *issued))
    return tuple(found)


def _sram_traffic(machine: Machine, use: SramUse) -> dict[str, SramTraffic]:
    clock = machine.spec.cores.clock
    found = {}
    for number, kind in enumerate(QUEUES):
        read, written = use.totals(number)
        conflicts = read.wavefronts - read.phases + written.wavefronts - written.phases
        waited_cycles = -(-use.waited_fs[number] * clock // FS_PER_SECOND)
        found[kind] = SramTraffic(read.size_bytes, written.size_bytes, conflicts, waited_cycles)
    return found


def _issued(tensor: TensorTraffic) -> dict[str, int]:
    moved = tensor.load_fetched_bytes + tensor.store_written_bytes
    return {
        "descriptors": tensor.descriptors,
        "indices": tensor.indices,
        "requests": tensor.requests,
        "overfetch_bytes": moved - tensor.load_useful_bytes - tensor.store_useful_bytes,
    }


def _picojoules(energies_fj: dict[str, int]) -> dict[str, float]:
    return {name: energy_fj / FJ_PER_PJ for name, energy_fj in energies_fj.items()}


def _actions(
    program: Program,
    machine: Machine,
    makespan_fs: int,
    levels: dict[str, LevelTraffic],
    statistics: DramStatistics,
) -> Actions:
    """Return how often the run did what costs energy."""
    cache = levels.get("shared cache", LevelTraffic())
    return Actions(
        instructions=instructions(program),
        activates=statistics.activates,
        bank_refreshes=banks_refreshed(machine, statistics.refreshes),
        hbm_read_bytes=(statistics.reads - statistics.merged_reads) * machine.burst_bytes,
        hbm_write_bytes=(statistics.writes - statistics.merged_writes) * machine.burst_bytes,
        distributed_sram_bytes=levels.get("distributed sram", LevelTraffic()).asked,
        cache_bytes=cache.asked + cache.fetched + cache.written_back,
        noc_bytes=levels["network"].asked - levels["network"].hit,
        time_fs=makespan_fs,
    )


def _energies(machine: Machine, actions: Actions, bound: Bound) -> tuple[Energy | None, Energy | None]:
    """Return the energy of a run and its lower bound. Raises AssertionError if a component is below its bound."""
    spec = machine.spec.energy
    if spec is None:
        return None, None
    energy, lowest = spent(spec, actions), least_of(actions.instructions, machine, bound)
    assert lowest is not None
    for name, bound_fj in lowest.by_component_fj.items():
        assert bound_fj <= energy.by_component_fj[name], f"energy of {name}: bound {bound_fj} fJ above {energy}"
    return energy, lowest


def _sum(tables: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for table in tables:
        for cause, fs in table.items():
            total[cause] = total.get(cause, 0) + fs
    return dict(sorted(total.items()))


def _hbm_stalls(machine: Machine, dram: Dram, makespan_fs: int) -> dict[str, int]:
    """Convert the controllers' accounts from ticks; the rounding of ticks to femtoseconds falls to `no work`."""
    ticks = dram.close(machine.fs_to_ticks(makespan_fs)).sum(axis=0).tolist()
    spent = {name: machine.ticks_to_fs(t) for name, t in zip(CAUSES, ticks, strict=True) if name != "idle"}
    useful = {"useful": spent.pop("data")}
    return useful | spent | {"no work": makespan_fs * machine.pseudo_channels - sum(spent.values()) - useful["useful"]}
