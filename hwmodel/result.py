"""What a run says: times, bytes, DRAM statistics and an accounting of every unit's time that closes.

Immutable. `metrics()` is the flat view that tables, files and searches use. Times are femtoseconds inside and
microseconds in `metrics`; stall tables stay in femtoseconds, so that their sums equal makespan x units exactly.
Energies likewise: femtojoules by component, picojoules in total.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hwmodel.bounds import Bound, lower_bound
from hwmodel.dma import Region
from hwmodel.dram.controller import CAUSES, Dram, DramStatistics
from hwmodel.energy import Actions, Energy, banks_refreshed, instructions, least_of, refreshes_due, spent
from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Program
from hwmodel.units import FJ_PER_PJ, FS_PER_SECOND, FS_PER_US


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


class Traffic:
    """Bytes per tensor: asked for by descriptors (useful) and moved in whole bursts (fetched)."""

    def __init__(self, program: Program, burst_bytes: int) -> None:
        self._element_bytes = [tensor.element_bytes for tensor in program.tensors]
        self._in_cache = [tensor.resident == "cache" for tensor in program.tensors]
        self._burst_bytes = burst_bytes
        self.bytes = {name: [[0, 0] for _ in program.tensors] for name in ("load", "store")}

    def count(self, queue: str, region: Region, bursts: int) -> bool:
        """Count one descriptor; return whether its tensor resides in the shared cache."""
        entry = self.bytes[queue][region.tensor]
        entry[0] += region.elements * self._element_bytes[region.tensor]
        entry[1] += bursts * self._burst_bytes
        return self._in_cache[region.tensor]


@dataclass(frozen=True)
class TensorTraffic:
    """Bytes of one tensor: useful is what descriptors asked for, fetched and written are whole bursts."""

    name: str
    resident: str
    load_useful_bytes: int
    load_fetched_bytes: int
    store_useful_bytes: int
    store_written_bytes: int


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
    dram: DramStatistics
    stalls: dict[str, dict[str, int]]  # unit kind -> cause -> fs summed over units
    units: dict[str, int]  # unit kind -> how many
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
        """Bytes that loads asked HBM for."""
        return sum(t.load_useful_bytes for t in self.traffic if t.resident == "hbm")

    @property
    def hbm_read_bytes(self) -> int:
        return self.dram.reads * self.burst_bytes

    @property
    def hbm_write_bytes(self) -> int:
        return self.dram.writes * self.burst_bytes

    @property
    def hbm_bandwidth_fraction(self) -> float:
        """Bytes moved over HBM in the whole run, launches included, as a fraction of what the peak would move."""
        moved = self.hbm_read_bytes + self.hbm_write_bytes
        return moved / (self.hbm_peak_bytes_per_second * self.makespan_fs / 1e15)

    @property
    def utilisation(self) -> dict[str, float]:
        """Useful time of each kind of unit, and of a shared cache in use, as a fraction of makespan x units."""
        shares = {
            kind: causes.get("useful", 0) / (self.makespan_fs * self.units[kind])
            for kind, causes in self.stalls.items()
        }
        cache = {"shared cache": self.cache_busy_fs / self.makespan_fs} if self.cache_busy_fs else {}
        return shares | cache

    def metrics(self) -> dict[str, Any]:
        """Return the run as JSON-able values; see the README for the meaning of each key."""
        return {
            "time_us": self.time_us,
            "cycles": self.cycles,
            "bound_us": self.bound.total_fs / FS_PER_US,
            "energy_pj": self.energy and self.energy.total_fj / FJ_PER_PJ,
            "energy_bound_pj": self.energy_bound and self.energy_bound.total_fj / FJ_PER_PJ,
            "energy_fj": self.energy and self.energy.by_component,
            "hbm_read_bytes": self.hbm_read_bytes,
            "hbm_useful_bytes": self.hbm_useful_bytes,
            "hbm_write_bytes": self.hbm_write_bytes,
            "hbm_bandwidth_fraction": self.hbm_bandwidth_fraction,
            "row_hits": self.dram.row_hits,
            "row_misses": self.dram.row_misses,
            "row_conflicts": self.dram.row_conflicts,
            "activates": self.dram.activates,
            "refreshes": self.dram.refreshes,
            "limited_by": self.bound.limited_by,
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
    dram: Dram,
    cache_busy_fs: int,
    bin_ticks: int,
) -> Result:
    """Close the books of a run. Raises AssertionError if an account does not close or the bound is above the time."""
    bound = lower_bound(program, machine)
    assert bound.total_fs <= makespan_fs, f"bound {bound} above makespan {makespan_fs} fs of {program.name}"
    stalls = {name: _sum(row[i].causes for row in ledgers) for i, name in enumerate(QUEUES)}
    units = dict.fromkeys(QUEUES, len(ledgers)) | {"hbm": machine.pseudo_channels}
    stalls["hbm"] = _hbm_stalls(machine, dram, makespan_fs)
    for kind, causes in stalls.items():
        assert sum(causes.values()) == makespan_fs * units[kind], f"the account of {kind} does not close"
    statistics = replace(dram.statistics(), refreshes=refreshes_due(machine, makespan_fs))
    tensors = tuple(
        TensorTraffic(t.name, t.resident, *traffic.bytes["load"][i], *traffic.bytes["store"][i])
        for i, t in enumerate(program.tensors)
    )
    for moved, bursts in (
        ("load_fetched_bytes", statistics.reads),
        ("store_written_bytes", statistics.writes),
    ):
        asked = sum(getattr(t, moved) for t in tensors if t.resident == "hbm")
        assert asked == bursts * machine.organisation.burst_bytes, f"{moved}: {asked} B asked, {bursts} bursts moved"
    actions = _actions(program, machine, makespan_fs, tensors, statistics)
    energy, energy_bound = _energies(machine, actions, bound)
    return Result(
        program=program.name,
        machine=machine.spec.name,
        program_hash=program.hash,
        machine_hash=machine.spec.hash,
        makespan_fs=makespan_fs,
        cycles=-(-makespan_fs * machine.spec.cores.clock // FS_PER_SECOND),
        bound=bound,
        phases=tuple(phases),
        traffic=tensors,
        dram=statistics,
        stalls=stalls,
        units=units,
        cache_busy_fs=cache_busy_fs,
        hbm_peak_bytes_per_second=float(machine.hbm_peak_bytes_per_second),
        burst_bytes=machine.organisation.burst_bytes,
        bin_fs=machine.ticks_to_fs(bin_ticks),
        actions=actions,
        energy=energy,
        energy_bound=energy_bound,
    )


def _actions(
    program: Program,
    machine: Machine,
    makespan_fs: int,
    tensors: tuple[TensorTraffic, ...],
    statistics: DramStatistics,
) -> Actions:
    """Return how often the run did what costs energy."""
    has_cache = machine.spec.shared_cache is not None
    return Actions(
        instructions=instructions(program),
        activates=statistics.activates,
        bank_refreshes=banks_refreshed(machine, statistics.refreshes),
        hbm_read_bytes=statistics.reads * machine.organisation.burst_bytes,
        hbm_write_bytes=statistics.writes * machine.organisation.burst_bytes,
        cache_bytes=sum(
            t.load_fetched_bytes + (t.store_written_bytes if t.resident == "cache" else 0) for t in tensors if has_cache
        ),
        noc_bytes=sum(t.load_fetched_bytes + t.store_written_bytes for t in tensors),
        time_fs=makespan_fs,
    )


def _energies(machine: Machine, actions: Actions, bound: Bound) -> tuple[Energy | None, Energy | None]:
    """Return the energy of a run and its lower bound. Raises AssertionError if a component is below its bound."""
    spec = machine.spec.energy
    if spec is None:
        return None, None
    energy, lowest = spent(spec, actions), least_of(actions.instructions, machine, bound)
    assert lowest is not None
    for name, bound_fj in lowest.by_component.items():
        assert bound_fj <= energy.by_component[name], f"energy of {name}: bound {bound_fj} fJ above {energy} fJ"
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
