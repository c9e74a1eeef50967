"""A machine that can be run: the description with its names resolved and its parts checked against each other.

`Machine` holds integers only (bytes, femtoseconds, ticks, tables); it is what the executors and the bounds read.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property

from hwmodel import units
from hwmodel.dram.standards import Organisation, Timing, standard
from hwmodel.program import Phase
from hwmodel.spec import MachineSpec
from hwmodel.sram_access import Scratchpad
from layouts import AddressMap
from layouts.analysis import Banks


class Machine:
    """A validated machine. Raises ValueError naming the part of the description that does not fit."""

    def __init__(self, spec: MachineSpec) -> None:
        self.spec = spec
        hbm = spec.hbm
        try:
            dram = standard(hbm.standard)
        except ValueError as error:
            raise ValueError(f"{spec.where}: hbm.standard: {error}") from None
        try:
            self.timing: Timing = dram.timing(hbm.pin_rate)
        except ValueError as error:
            raise ValueError(f"{spec.where}: hbm.pin_rate: {error}") from None
        self.organisation: Organisation = dram.organisation
        self.hbm_peak_bytes_per_second: Fraction = hbm.stacks * dram.peak_bytes_per_second(hbm.pin_rate)
        try:
            self.address_map = AddressMap.create(
                hbm.address_map.fields,
                hbm.address_map.hashes,
                {"stack": hbm.stacks} | self.organisation.field_sizes(),
                self.organisation.burst_bytes,
            )
        except ValueError as error:
            raise ValueError(f"{spec.where}: hbm.address_map: {error}") from None
        self._check_core()

    def _check_core(self) -> None:
        where, dma, sram = self.spec.where, self.spec.cores.dma, self.spec.cores.sram
        burst = self.organisation.burst_bytes
        if dma.request_bytes < burst:
            raise ValueError(
                f"{where}: cores.dma.request_bytes: {dma.request_bytes} B is less than one burst of {burst} B"
            )
        if dma.min_transfer > burst and (dma.min_transfer % burst or dma.min_transfer > dma.request_bytes):
            raise ValueError(
                f"{where}: cores.dma.min_transfer: {dma.min_transfer} B; allowed: at most one burst of {burst} B, or "
                f"a multiple of it up to a request of {dma.request_bytes} B"
            )
        if dma.write_bytes > self.sram_line_bytes:
            raise ValueError(
                f"{where}: cores.dma.write_bytes: {dma.write_bytes} B is more than one row of banks, "
                f"{self.sram_line_bytes} B"
            )
        if sram.bank_width % sram.write_granule:
            raise ValueError(
                f"{where}: cores.sram.write_granule: {sram.write_granule} B does not divide the bank width, "
                f"{sram.bank_width} B"
            )

    def require_fit(self, phase: Phase, knobs: Mapping[str, object] | None = None) -> None:
        """Raise ValueError if a phase needs more scratchpad than a core has.

        The message says by how many bytes, which buffers take them, and `knobs`: the settings that size them.
        """
        capacity = self.spec.cores.sram.capacity
        if phase.sram_bytes > capacity:
            names = ", ".join(f"{b.name} {b.slots} x {b.pitch_bytes} B" for b in phase.buffers)
            sized = ", ".join(f"{name}={value}" for name, value in (knobs or {}).items())
            raise ValueError(
                f"phase {phase.name} needs {phase.sram_bytes} B of scratchpad, {phase.sram_bytes - capacity} B more "
                f"than the {capacity} B of a core of {self.spec.name} (cores.sram.capacity); buffers: {names}"
                + (f"; sized by {sized}" if sized else "")
            )

    def core_fs(self, cycles: int) -> int:
        """Return the duration of core cycles."""
        return units.cycles_to_fs(cycles, self.spec.cores.clock)

    def port_fs(self, size_bytes: int) -> int:
        """Return how long a core's port to the network is busy with a transfer."""
        return self.core_fs(-(-size_bytes // self.spec.noc.port_bytes_per_cycle))

    def cache_fs(self, size_bytes: int) -> int:
        """Return how long the shared cache is busy with a transfer; nothing where there is none."""
        cache = self.spec.shared_cache
        return 0 if cache is None else units.transfer_fs(size_bytes, cache.bandwidth)

    def ticks_to_fs(self, ticks: int) -> int:
        """Return the time of a DRAM clock tick, rounded up."""
        return -(-ticks * self.tick_fs.numerator // self.tick_fs.denominator)

    def fs_to_ticks(self, time_fs: int) -> int:
        """Return the first DRAM clock tick not before a time."""
        return -(-time_fs * self.tick_fs.denominator // self.tick_fs.numerator)

    @cached_property
    def tick_fs(self) -> Fraction:
        return Fraction(units.FS_PER_SECOND) / Fraction(self.timing.tick_hz)

    @cached_property
    def memory_request_fs(self) -> int:
        """From a core's DMA engine to the memory controller: network, and the shared cache's miss path."""
        cache = self.spec.shared_cache
        return self.spec.noc.latency + (cache.miss_latency if cache else 0)

    @property
    def sram_line_bytes(self) -> int:
        """One row of a scratchpad's banks: what it moves in one access of all of them."""
        return self.spec.cores.sram.banks * self.spec.cores.sram.bank_width

    @property
    def sram_bytes_per_cycle(self) -> int:
        return self.sram_line_bytes * self.spec.cores.sram.ports

    @cached_property
    def scratchpad(self) -> Scratchpad:
        """The banks of a core's scratchpad."""
        sram = self.spec.cores.sram
        return Scratchpad(Banks(sram.banks, sram.bank_width), sram.write_granule)

    def sram_fs(self, wavefronts: int) -> int:
        """Return how long a core's scratchpad is busy with so many accesses of a bank."""
        return self.core_fs(-(-wavefronts // self.spec.cores.sram.ports))

    @property
    def pseudo_channels(self) -> int:
        return self.spec.hbm.stacks * self.organisation.channels * self.organisation.pseudo_channels

    @property
    def peak_flops(self) -> int:
        """Dense 16-bit FLOP/s of all matrix units."""
        return 2 * self.spec.cores.matrix.macs_per_cycle * self.spec.cores.clock * self.spec.cores.count
