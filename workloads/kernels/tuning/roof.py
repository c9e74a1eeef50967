"""Closed-form times by which schedules are ranked before any is run; no result is made of them.

A phase of equal items takes waves of them: each core takes `tiles` after one another, a tile as long as the slowest of
matrix unit, vector unit, port, its share of the shared cache and of main memory, and of what latency lets through.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwmodel.machine import Machine
from hwmodel.units import FS_PER_SECOND


@dataclass(frozen=True)
class Items:
    """A phase: `count` items of `tiles` tiles. Per tile: multiply-accumulates, vector operations, bytes loaded.

    `unique_bytes` come from main memory in the phase as a whole; `end_bytes` are loaded and stored, and `end_ops`
    vector operations done, once per item. `loads` is in how many descriptors a tile comes.
    """

    count: int
    tiles: int
    macs: float
    dtype: str
    tile_bytes: float
    unique_bytes: float
    stages: int
    vector_ops: float = 0.0
    end_bytes: float = 0.0
    end_ops: float = 0.0
    on_vector: bool = False
    loads: int = 2


class Roof:
    """Rates of a machine, in femtoseconds per unit."""

    def __init__(self, machine: Machine) -> None:
        cores, spec = machine.spec.cores, machine.spec
        self.machine, self.cores = machine, cores.count
        self.cycle_fs = FS_PER_SECOND / cores.clock
        self.port_fs = self.cycle_fs / spec.noc.port_bytes_per_cycle
        cache = spec.shared_cache
        peak = machine.hbm_peak_bytes_per_second if machine.memory == "hbm" else 0
        self.memory_fs = FS_PER_SECOND / float(peak) if peak else 0.0
        # of a byte that any core loads: without a cache, each core's tiles come from main memory by themselves
        self.shared_fs = FS_PER_SECOND / cache.bandwidth if cache else self.memory_fs
        self.latency_fs = 2 * spec.noc.latency + (cache.miss_latency if cache else 0)
        self.launch_fs = spec.launch.latency

    def mac_fs(self, dtype: str) -> float:
        """Return the time of a multiply-accumulate on one core's matrix unit, in long kernels."""
        rate = self.machine.spec.cores.matrix.rate(dtype)
        return self.cycle_fs * 100 / (rate.macs_per_cycle * (rate.sustained_percent or 100))

    def least_fs(self, macs: int, dtype: str, moved_bytes: int, on_vector: bool = False) -> float:
        """Return what no schedule can be faster than: all cores multiply at their rate, all pins of memory move."""
        mac_fs = self.cycle_fs / self.machine.spec.cores.vector.alu if on_vector else self.mac_fs(dtype)
        return max(macs * mac_fs / self.cores, moved_bytes * self.memory_fs)

    def phase_fs(self, items: Items) -> float:
        """Return the estimate of a phase, with its launch."""
        waves = -(-items.count // self.cores)
        active = min(items.count, self.cores)
        vector = self.machine.spec.cores.vector.alu
        mac_fs = self.cycle_fs / vector if items.on_vector else self.mac_fs(items.dtype)
        dma = self.machine.spec.cores.dma
        requests = max(items.loads, items.tile_bytes / dma.request_bytes)
        tile_fs = max(
            (items.loads * dma.issue_cycles + requests * dma.request_cycles) * self.cycle_fs,
            items.macs * mac_fs,
            items.vector_ops * self.cycle_fs / vector,
            items.tile_bytes * self.port_fs,
            items.tile_bytes * self.shared_fs * active,
            items.unique_bytes * self.memory_fs / (waves * max(1, items.tiles)),
            (self.latency_fs + items.tile_bytes * self.port_fs) / items.stages,
        )
        end_fs = items.end_bytes * self.port_fs + items.end_ops * self.cycle_fs / vector
        return self.launch_fs + self.latency_fs + waves * (items.tiles * tile_fs + end_fs)
