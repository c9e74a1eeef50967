"""Closed-form times by which schedules are ranked before any is run; no result is made of them.

A phase of equal items takes waves of them, the last of which may leave cores idle: those that work share the cache and
main memory. Each takes `tiles` after one another, a tile as long as the slowest of matrix unit, vector unit,
scratchpad, port, its share of the shared cache and of main memory, and of what latency lets through: so many stages, or
so many requests of the engine, are in flight.

Where the tiles of a core lie in a share of main memory's channels only, cores wait for one another: by as much as so
many customers at 1 / share equal stations of a closed queueing network, of which n customers at s stations keep
n / (n + s - 1) busy.

Where memory's time varies, stages queue at it, as so many customers that circulate between latency and one station; and
where the units need about as long for a tile, both wait for each other, as two stations in line with room for so many
customers. (Assumed: what comes from a shared cache comes evenly.)

Not modelled: that requests queue at memory before it is full, and that a stage is held while its tile is multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwmodel.machine import Machine
from hwmodel.units import FS_PER_SECOND


@dataclass(frozen=True)
class Items:
    """A phase: `count` items of `tiles` tiles, on average. Per tile: multiply-accumulates, vector operations, bytes.

    `unique_bytes` come from main memory in the phase as a whole; `end_bytes` are loaded and stored, and `end_ops`
    vector operations done, once per item. `loads` is in how many descriptors a tile comes, `requests` in how many
    requests of memory at least. `channels` is the share of main memory's channels that one core has tiles in flight of.
    `sram_bytes` are read and written in the scratchpad by the units per tile, besides those that arrive.
    `takes_turns`: memory's time varies, so that stages queue at it, and it and the units wait for each other.
    """

    count: int
    tiles: float
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
    requests: int = 0
    sram_bytes: float = 0.0
    channels: float = 1.0
    takes_turns: bool = False


class Roof:
    """Rates of a machine, in femtoseconds per unit; `warm`: what is loaded lies in a shared cache already."""

    def __init__(self, machine: Machine, warm: bool = False) -> None:
        cores, spec = machine.spec.cores, machine.spec
        self.machine, self.cores = machine, cores.count
        self.cycle_fs = FS_PER_SECOND / cores.clock
        self.port_fs = self.cycle_fs / spec.noc.port_bytes_per_cycle
        cache = spec.shared_cache
        peak = machine.hbm_peak_bytes_per_second if machine.memory == "hbm" else 0
        self.memory_fs = FS_PER_SECOND / float(peak) if peak and not warm else 0.0
        self.steady_fs = self.memory_fs / _between_refreshes(machine) if peak else 0.0
        # of a byte that any core loads: without a cache, each core's tiles come from main memory by themselves
        self.shared_fs = FS_PER_SECOND / cache.bandwidth if cache else self.steady_fs
        self.latency_fs = 2 * spec.noc.latency + (cache.miss_latency if cache and not warm else 0)
        # of a load from main memory: a row is opened, and its first burst read
        self.load_fs = self.latency_fs + (_access_fs(machine) if peak and not warm else 0)
        self.launch_fs = spec.launch.latency
        self.dma, self.has_cache = cores.dma, cache is not None
        self.vector_fs = self.cycle_fs / cores.vector.alu
        self.sram_fs = self.cycle_fs / (cores.sram.banks * cores.sram.bank_width * cores.sram.ports)
        self._mac_fs: dict[str, float] = {}

    def mac_fs(self, dtype: str) -> float:
        """Return the time of a multiply-accumulate on one core's matrix unit, in long kernels."""
        if dtype not in self._mac_fs:
            rate = self.machine.spec.cores.matrix.rate(dtype)
            self._mac_fs[dtype] = self.cycle_fs * 100 / (rate.macs_per_cycle * (rate.sustained_percent or 100))
        return self._mac_fs[dtype]

    def least_fs(self, macs: int, dtype: str, moved_bytes: int, on_vector: bool = False) -> float:
        """Return what no schedule can be faster than: all cores multiply at their rate, all pins of memory move."""
        mac_fs = self.vector_fs if on_vector else self.mac_fs(dtype)
        return max(macs * mac_fs / self.cores, moved_bytes * self.memory_fs)

    def turn_fs(self, tile_bytes: float, active: int, stages: int) -> float:
        """Return how often a tile comes to each of some cores that share no cache, with so many stages in flight."""
        come_fs = max(tile_bytes * self.port_fs, tile_bytes * self.shared_fs * active)
        return _turn_fs(self.load_fs, come_fs, stages)

    def phase_fs(self, items: Items) -> float:
        """Return the estimate of a phase, with its launch, in whole femtoseconds: what is alike compares as equal."""
        dma, vector_fs = self.dma, self.vector_fs
        requests = max(items.loads, items.requests, items.tile_bytes / dma.request_bytes)
        least_fs = max(
            (items.loads * dma.issue_cycles + requests * dma.request_cycles) * self.cycle_fs,
            items.macs * (vector_fs if items.on_vector else self.mac_fs(items.dtype)),
            items.vector_ops * vector_fs,
            (items.tile_bytes + items.sram_bytes) * self.sram_fs if items.sram_bytes else 0.0,
        )
        port_fs, shared_fs = items.tile_bytes * self.port_fs, items.tile_bytes * self.shared_fs
        unique_fs = items.unique_bytes * self.steady_fs / (items.count * max(1, items.tiles))
        memory_fs = unique_fs if self.has_cache else max(unique_fs, shared_fs)
        whole, rest = divmod(items.count, self.cores)
        tiles_fs = fill_fs = 0.0
        for waves, active in ((whole, self.cores), (1, rest)):
            if waves and active:
                come_fs = max(port_fs, shared_fs * active, memory_fs * (active + 1 / items.channels - 1))
                staged_fs = (self.load_fs + come_fs) / items.stages
                asked_fs = (requests * self.load_fs + come_fs) / dma.max_outstanding
                busy_fs = max(least_fs, come_fs)
                if items.takes_turns:
                    faster, slower = sorted((least_fs, _turn_fs(self.load_fs, come_fs, items.stages)))
                    fill_fs = max(fill_fs, faster)  # nothing else happens meanwhile
                    busy_fs = slower / kept_busy(faster / slower, items.stages)
                tiles_fs += waves * items.tiles * max(busy_fs, staged_fs, asked_fs)
        end_fs = items.end_bytes * self.port_fs + items.end_ops * vector_fs
        return round(self.launch_fs + self.load_fs + fill_fs + tiles_fs + (whole + bool(rest)) * end_fs)


def _turn_fs(latency_fs: float, service_fs: float, customers: int) -> float:
    """Return how often one of so many customers leaves a station, if all come back to it after a latency.

    By mean value analysis: a customer finds what there would be without it, and services vary like exponential ones.
    """
    response_fs, queue = service_fs, 0.0
    for count in range(1, customers + 1):
        response_fs = service_fs * (1 + queue)
        queue = count * response_fs / (latency_fs + response_fs)
    return (latency_fs + response_fs) / customers


def kept_busy(load: float, stages: int) -> float:
    """Return what part of the time the slower of two stations in line is busy, between which so many tiles have room.

    `load`: the time of the faster one, as a part of the other's; both times vary, here like exponential ones.
    """
    return stages / (stages + 1) if load == 1 else (1 - load**stages) / (1 - load ** (stages + 1))


def _between_refreshes(machine: Machine) -> float:
    """Return the part of the time in which memory is not refreshed as a whole."""
    timing, refresh = machine.timing, machine.hbm.policy.refresh
    return 1 - timing.nRFC / timing.nREFI if refresh == "all-bank" else 1.0


def _access_fs(machine: Machine) -> int:
    timing = machine.timing
    return machine.ticks_to_fs(timing.nRCDRD + timing.nCL + timing.nBL)
