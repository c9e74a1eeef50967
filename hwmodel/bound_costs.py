"""The least times of what passes the shared parts of a machine: one truth for all lower bounds.

`bounds` asks for one program, `bound_table` for many points at once. Everything is in femtoseconds from the launch of
a phase, and assumes the best case: requests spread evenly, rows open, nobody else in the way.
"""

from __future__ import annotations

from hwmodel.machine import Machine
from hwmodel.slices import slice_burst_fs
from hwmodel.units import transfer_fs


def issue_fs(machine: Machine, size_bytes: int, pages: int = 0) -> int:
    """Return the least time a DMA engine spends on a tile of so many bytes in so many pages; nought: without a table.

    An engine that does not gather takes a descriptor for each page.
    """
    dma = machine.spec.cores.dma
    if size_bytes == 0:
        return 0
    descriptors = 1 if dma.gather else max(1, pages)
    requests = -(-size_bytes // dma.request_bytes)
    cycles = descriptors * dma.issue_cycles + pages * dma.index_cycles + requests * dma.request_cycles
    return machine.core_fs(cycles)


def first_request_fs(machine: Machine) -> int:
    """Return the earliest time at which a DMA engine's first request leaves its core."""
    dma = machine.spec.cores.dma
    return machine.core_fs(dma.issue_cycles + dma.request_cycles)


def first_data_fs(machine: Machine) -> int:
    """Return the earliest time at which data of a load can reach a core's port."""
    return first_request_fs(machine) + 2 * machine.least_network_fs  # a load that the shared cache answers


def answer_fs(machine: Machine) -> int:
    """Return the least time between a load's request that leaves a core and its first data at the port."""
    if machine.spec.noc.multicast_window is not None:
        return machine.least_network_fs  # it may join another when that one's data is about to leave
    if machine.spec.shared_cache is not None or machine.memory != "hbm" or machine.hbm.policy.merges:
        return 2 * machine.least_network_fs
    timing = machine.timing
    return 2 * machine.least_network_fs + machine.ticks_to_fs(min(timing.nCL, timing.nCWL) + timing.nBL)


def last_store_fs(machine: Machine, size_bytes: int) -> int:
    """Return the least time from the result of so many bytes to the word that it is stored; nothing for none."""
    if size_bytes == 0:
        return 0
    return first_request_fs(machine) + machine.port_fs(size_bytes) + 2 * machine.least_network_fs


def network_fs(machine: Machine, loaded: int, stored: int) -> int:
    """Return the least time in which all cores' bytes pass the network's bisection; nothing where none limits."""
    noc = machine.spec.noc
    if noc.multicast_window is not None:
        loaded = -(-loaded // machine.spec.cores.count)  # no load serves more cores than there are
    if noc.bisection is None or machine.is_local:
        return 0
    there, back = (transfer_fs(size, noc.bisection) for size in (stored, loaded))
    return max(there, back + first_data_fs(machine) if loaded else 0)


def cache_fs(machine: Machine, loaded: int, stored: int) -> int:
    """Return the least time in which all cores' bytes pass the shared cache; nothing where there is none."""
    if machine.spec.noc.multicast_window is not None:
        loaded = -(-loaded // machine.spec.cores.count)
    return machine.cache_fs(loaded + stored)


def main_memory_fs(machine: Machine, reads: int, writes: int, rows_closed: bool) -> int:
    """Return the least time for so many bursts from the first issue to the last answer; nothing for none."""
    if reads + writes == 0:
        return 0
    if machine.memory == "hbm":
        return _hbm_fs(machine, reads, writes, rows_closed)
    return _distributed_sram_fs(machine, reads + writes)


def _hbm_fs(machine: Machine, reads: int, writes: int, rows_closed: bool) -> int:
    """Return the least time for so many bursts from the first issue to the last byte's arrival.

    The first burst needs an activate where no row can be open yet.
    """
    timing = machine.timing
    busy = -(-(reads + writes) // machine.pseudo_channels) * timing.burst_interval_ticks
    activate = timing.activate_to_column_ticks if rows_closed else 0
    ticks = activate + min(timing.nCL, timing.nCWL) + timing.nBL + busy - timing.burst_interval_ticks
    if machine.hbm.policy.refresh == "all-bank":
        # Every nREFI a pseudo-channel stands still for nRFC; one refresh may still be due when the last burst is done.
        while (longer := busy + max(0, ticks // timing.nREFI - 1) * timing.nRFC) > ticks:
            ticks = longer
    written_back = writes and machine.spec.shared_cache is not None  # nobody waits for an answer
    back_fs = 0 if written_back else machine.spec.noc.latency
    return first_request_fs(machine) + machine.memory_request_fs + machine.ticks_to_fs(ticks) + back_fs


def _distributed_sram_fs(machine: Machine, bursts: int) -> int:
    """Return the least time for so many accesses of a main memory of SRAM from the first issue to the last answer."""
    sram = machine.spec.distributed_sram
    assert sram is not None
    busy = -(-bursts // sram.slices) * slice_burst_fs(sram.slices, sram.access, sram.bandwidth)
    return first_request_fs(machine) + machine.memory_request_fs + busy + sram.latency
