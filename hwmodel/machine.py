"""A machine that can be run: the description with its names resolved and its parts checked against each other.

`Machine` holds integers only (bytes, femtoseconds, ticks, tables); it is what the executors and the bounds read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

from hwmodel import units
from hwmodel.description import DistributedSramSpec, HbmSpec, MachineSpec, SharedCacheSpec
from hwmodel.dram.policy import Policy, check_refresh_interval
from hwmodel.dram.room import check_room
from hwmodel.dram.standards import Organisation, Timing
from hwmodel.l1 import L1
from hwmodel.program import Phase
from hwmodel.sram_access import Scratchpad
from layouts import AddressMap
from layouts.analysis import Banks
from layouts.analysis.conflicts import MAX_BANKS


class DoesNotFit(ValueError):
    """A phase needs more scratchpad, or more accumulators, than a core has; smaller tiles may need less."""


class TooLarge(ValueError):
    """Tensors need more main memory than a machine has, which few knobs change."""


@dataclass(frozen=True)
class Hbm:
    """The HBM of a machine, resolved: timing in ticks, what a stack consists of, where an address lies."""

    spec: HbmSpec
    timing: Timing
    organisation: Organisation
    address_map: AddressMap
    policy: Policy
    peak_bytes_per_second: Fraction

    @staticmethod
    def of(spec: HbmSpec, where: str, *, ideal_rows: bool = False) -> Hbm:
        """Resolve a description, with rows as in `Machine`. Raises ValueError naming the part that does not fit."""
        dram = spec.part(where)
        try:
            timing = dram.timing(spec.pin_rate)
        except ValueError as error:
            raise ValueError(f"{where}: hbm.pin_rate: {error}") from None
        try:
            policy = spec.controller.policy()
        except ValueError as error:
            raise ValueError(f"{where}: hbm.controller: {error}") from None
        organisation = dram.organisation if spec.rows is None else replace(dram.organisation, rows=spec.rows)
        try:
            check_refresh_interval(timing, organisation, policy.refresh)
        except ValueError as error:
            raise ValueError(f"{where}: hbm.standard: {spec.standard} at {spec.pin_rate} b/s: {error}") from None
        try:
            check_room(organisation, spec.stacks, policy)
        except ValueError as error:
            raise ValueError(f"{where}: hbm.standard: {spec.standard}: {error}") from None
        sizes = {"stack": spec.stacks} | organisation.field_sizes()
        fields, hashes = spec.address_map.fields, spec.address_map.hashes
        try:
            address_map = AddressMap.create(fields, hashes, sizes, organisation.burst_bytes)
        except ValueError as error:
            found = ", ".join(f"{field} {size}" for field, size in sizes.items())
            raise ValueError(f"{where}: hbm.address_map: {error}; sizes with {spec.standard}: {found}") from None
        peak = spec.stacks * dram.peak_bytes_per_second(spec.pin_rate)
        if ideal_rows:
            timing, policy = timing.without_rows(), replace(policy, refresh="none")
        return Hbm(spec, timing, organisation, address_map, policy, peak)


class Machine:
    """A validated machine. Raises ValueError naming the part of the description that does not fit.

    Two obstacles that no number of a description says away can be left out, for `hwmodel.ideal`: with `ideal_rows` the
    rows of its HBM open and close as fast as the command buses allow and need no refresh, with `conflict_free` no two
    words meet in a bank of a scratchpad.
    """

    def __init__(self, spec: MachineSpec, *, ideal_rows: bool = False, conflict_free: bool = False) -> None:
        self.spec = spec
        self._conflict_free = conflict_free
        self._hbm = Hbm.of(spec.hbm, spec.where, ideal_rows=ideal_rows) if spec.hbm else None
        if spec.distributed_sram:
            check_sram(spec, spec.distributed_sram)
        self._check_core()
        if spec.shared_cache:
            try:
                check_cache(spec.shared_cache, self.burst_bytes)
                check_tags(spec.shared_cache, self.memory_capacity_bytes)
            except ValueError as error:
                raise ValueError(f"{spec.where}: shared_cache.{error}") from None

    def _check_core(self) -> None:
        where, dma, sram = self.spec.where, self.spec.cores.dma, self.spec.cores.sram
        burst = self.burst_bytes
        if sram.banks > MAX_BANKS:
            raise ValueError(f"{where}: cores.sram.banks: {sram.banks}; allowed: 1 to {MAX_BANKS}")
        if sram.bank_width > MAX_BANKS:
            raise ValueError(f"{where}: cores.sram.bank_width: {sram.bank_width} B; allowed: 1 B to {MAX_BANKS} B")
        if dma.request_bytes < burst:
            raise ValueError(
                f"{where}: cores.dma.request_bytes: {dma.request_bytes} B is less than one burst of {burst} B"
            )
        most = min(dma.request_bytes, MAX_TRANSFER_BYTES)
        if dma.min_transfer > burst and (dma.min_transfer % burst or dma.min_transfer > most):
            raise ValueError(
                f"{where}: cores.dma.min_transfer: {dma.min_transfer} B; allowed: at most one burst of {burst} B, or "
                f"a multiple of it up to {most} B, a request or {MAX_TRANSFER_BYTES} B"
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
        l1 = self.spec.cores.l1
        if l1 and (l1.line & (l1.line - 1) or l1.line > MAX_BANKS):
            raise ValueError(f"{where}: cores.l1.line: {l1.line} B; allowed: powers of two up to {MAX_BANKS} B")
        if l1 and (l1.tag_banks & (l1.tag_banks - 1) or l1.tag_banks > MAX_BANKS):
            raise ValueError(f"{where}: cores.l1.tag_banks: {l1.tag_banks}; allowed: powers of two up to {MAX_BANKS}")

    @property
    def memory(self) -> Literal["hbm", "sram"]:
        """What main memory consists of."""
        return "hbm" if self._hbm else "sram"

    @property
    def hbm(self) -> Hbm:
        """The HBM. Raises ValueError on a machine that has none."""
        if self._hbm is None:
            raise ValueError(f"{self.spec.where}: hbm: this machine has none; its main memory is distributed_sram")
        return self._hbm

    @property
    def timing(self) -> Timing:
        return self.hbm.timing

    @property
    def organisation(self) -> Organisation:
        return self.hbm.organisation

    @cached_property
    def address_map(self) -> AddressMap:
        """Where an address lies; a slice of SRAM is a stack of the map. Raises ValueError where slices are hashed."""
        if self._hbm:
            return self._hbm.address_map
        if not self.is_local:
            raise ValueError(
                f"{self.spec.where}: distributed_sram: its slices are hashed, so that no layout keeps to some of them; "
                "allowed: a machine with hbm, or with distributed_sram.local"
            )
        return _sram_map(self._sram)

    @property
    def is_local(self) -> bool:
        """Whether main memory is made of slices that are the cores' own."""
        return self._hbm is None and bool(self._sram.local)

    @property
    def hbm_peak_bytes_per_second(self) -> Fraction:
        """Of all data pins; nought without HBM."""
        return self._hbm.peak_bytes_per_second if self._hbm else Fraction(0)

    @property
    def burst_bytes(self) -> int:
        """The least that main memory moves."""
        return self._hbm.organisation.burst_bytes if self._hbm else self._sram.access

    @property
    def memory_capacity_bytes(self) -> int:
        return self._hbm.address_map.capacity_bytes if self._hbm else self._sram.capacity

    @property
    def _sram(self) -> DistributedSramSpec:
        assert self.spec.distributed_sram is not None
        return self.spec.distributed_sram

    def require_fit(self, phase: Phase, knobs: Mapping[str, object] | None = None) -> None:
        """Raise DoesNotFit if a phase needs more scratchpad, or more accumulators, than a core has.

        The message says by how many bytes, which buffers take them, and `knobs`: the settings that size them.
        """
        matrix, capacity = self.spec.cores.matrix, self.spec.cores.sram.capacity
        own = matrix.accumulators == "own"
        scratchpad, products = phase.split_bytes(own)
        within = phase.products if own else frozenset()
        rest = frozenset(range(len(phase.buffers))) - within
        most = products if matrix.accumulator_capacity is None else matrix.accumulator_capacity
        for needed, room, what, path, numbers in (
            (scratchpad, capacity, "scratchpad", "cores.sram.capacity", rest),
            (products, most, "accumulators", "cores.matrix.accumulator_capacity", within),
        ):
            if needed > room:
                buffers = (phase.buffers[number] for number in sorted(numbers))
                names = ", ".join(f"{b.name} {b.slots} x {b.pitch_bytes} B" for b in buffers)
                sized = ", ".join(f"{name}={value}" for name, value in (knobs or {}).items())
                raise DoesNotFit(
                    f"phase {phase.name} needs {needed} B of {what}, {needed - room} B more "
                    f"than the {room} B of a core of {self.spec.name} ({path}); buffers: {names}"
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

    def times_of(self, ticks: Any) -> Any:
        """Return `ticks_to_fs` of an int64 array."""
        return units.scaled(ticks, self.tick_fs.numerator, self.tick_fs.denominator)

    def ticks_of(self, times_fs: Any) -> Any:
        """Return `fs_to_ticks` of an int64 array."""
        return units.scaled(times_fs, self.tick_fs.denominator, self.tick_fs.numerator)

    @cached_property
    def tick_fs(self) -> Fraction:
        return Fraction(units.FS_PER_SECOND) / Fraction(self.timing.tick_hz)

    @cached_property
    def memory_request_fs(self) -> int:
        """From a core's DMA engine to main memory, at least: network, and the shared cache's miss path."""
        cache = self.spec.shared_cache
        return self.least_network_fs + (cache.miss_latency if cache else 0)

    @property
    def least_network_fs(self) -> int:
        """The network's latency, one way; none where a request may stay beside its core."""
        return 0 if self.is_local else self.spec.noc.latency

    @property
    def sram_line_bytes(self) -> int:
        """One row of a scratchpad's banks: what it moves in one access of all of them."""
        return self.spec.cores.sram.banks * self.spec.cores.sram.bank_width

    @cached_property
    def scratchpad(self) -> Scratchpad:
        """The banks of a core's scratchpad."""
        sram = self.spec.cores.sram
        return Scratchpad(Banks(sram.banks, sram.bank_width), sram.write_granule, self._conflict_free)

    @cached_property
    def l1(self) -> L1:
        """The cache that a core's loads pass. Raises ValueError on a machine that describes none."""
        l1 = self.spec.cores.l1
        if l1 is None:
            raise ValueError(f"{self.spec.where}: cores.l1: this machine describes none")
        return L1(self.scratchpad.banks, Banks(l1.tag_banks, l1.line))

    def sram_fs(self, wavefronts: int) -> int:
        """Return how long a core's scratchpad is busy with so many accesses of a bank."""
        return self.core_fs(-(-wavefronts // self.spec.cores.sram.ports))

    @property
    def pseudo_channels(self) -> int:
        return self.hbm.spec.stacks * self.organisation.channels * self.organisation.pseudo_channels


MAX_LINE_BURSTS = 32  # presence in a line is a mask of bursts
MAX_CACHE_LINES = 1 << 24  # assumed: eight times the MI300X's; their state takes some 270 MB
MAX_MEMORY_LINES = 1 << 38  # a line's number shares a word with that of its miss; 32 TiB in lines of 128 B
MAX_TRANSFER_BYTES = 1 << 16  # assumed: far more than any sector or access of a memory


def check_cache(spec: SharedCacheSpec, burst_bytes: int) -> None:
    """Raise ValueError where the numbers of a cache do not fit each other or the bursts of its memory."""
    if spec.sector % burst_bytes:
        raise ValueError(f"sector: {spec.sector} B is no multiple of a burst of {burst_bytes} B")
    if spec.line % spec.sector or spec.line > MAX_LINE_BURSTS * burst_bytes:
        raise ValueError(
            f"line: {spec.line} B; allowed: a multiple of the sector of {spec.sector} B up to "
            f"{MAX_LINE_BURSTS * burst_bytes} B"
        )
    copies = spec.partitions or 1
    if spec.distinct_bytes > MAX_CACHE_LINES * spec.line:
        most = copies * MAX_CACHE_LINES
        raise ValueError(f"capacity: {spec.capacity} B; allowed: up to {most} lines of {spec.line} B")
    unit = copies * spec.slices * spec.ways * spec.line
    if spec.capacity % unit:
        every = f"{copies} copies of " if copies > 1 else ""
        raise ValueError(
            f"capacity: {spec.capacity} B is no multiple of {unit} B: {every}{spec.slices} slices of {spec.ways} ways "
            f"of lines of {spec.line} B"
        )


def check_tags(spec: SharedCacheSpec, memory_bytes: int) -> None:
    """Raise ValueError where lines are too small for the numbers of all of main memory's to be kept."""
    if memory_bytes >= MAX_MEMORY_LINES * spec.line:
        raise ValueError(
            f"line: {spec.line} B; allowed: fewer than {MAX_MEMORY_LINES} of them in {memory_bytes} B of memory"
        )


def check_sram(spec: MachineSpec, sram: DistributedSramSpec) -> None:
    """Raise ValueError where the numbers of a main memory of SRAM do not fit each other, or the cores."""
    where = f"{spec.where}: distributed_sram"
    if sram.access > MAX_TRANSFER_BYTES:
        raise ValueError(f"{where}.access: {sram.access} B; allowed: up to {MAX_TRANSFER_BYTES} B")
    if sram.interleave % sram.access:
        raise ValueError(f"{where}.interleave: {sram.interleave} B is no multiple of an access of {sram.access} B")
    if sram.capacity % (sram.slices * sram.interleave):
        raise ValueError(
            f"{where}.capacity: {sram.capacity} B is no multiple of {sram.slices} slices of {sram.interleave} B"
        )
    if not sram.local:
        return
    if sram.slices != spec.cores.count:
        raise ValueError(
            f"{where}.slices: {sram.slices}; allowed where they are local: one per core, {spec.cores.count}"
        )
    if spec.shared_cache:
        raise ValueError(f"{where}.local: beside a shared cache, which all requests pass; allowed: without one")
    try:
        _sram_map(sram)
    except ValueError as error:
        raise ValueError(f"{where}.local: {error}") from None


def _sram_map(sram: DistributedSramSpec) -> AddressMap:
    """Return the address map of slices that have their lines in turn: a slice is a stack of it, an access a burst."""
    columns = sram.interleave // sram.access
    sizes = {"stack": sram.slices, "row": sram.capacity // (sram.slices * sram.interleave), "column": columns}
    others = dict.fromkeys(("channel", "pseudo_channel", "bank_group", "bank"), 1)
    order = (f"offset:{sram.access.bit_length() - 1}", "column", "stack", "row")
    return AddressMap.create(order, (), sizes | others, sram.access)
