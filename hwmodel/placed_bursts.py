"""What DRAM must at least do in a phase, from where its bursts lie: fullest channel, rows, activates, bank cycles.

Beside `bound_costs`, which knows how many bursts there are and spreads them evenly: here every burst has its address,
so that a phase that touches few channels, or little of many rows, takes the time that those take. A row that is
touched needs an activate, unless it may be open when the phase begins. Only of phases with few descriptors and bursts,
where it matters: the traffic of long ones is spread, and its rows are read in full.

Not in it: that reads and writes take turns, conflicts of rows that come back, and refresh.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.bound_costs import first_request_fs
from hwmodel.dma import Regions
from hwmodel.expansion import executions
from hwmodel.footprint import starts_unknown
from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Phase, Program

Array = np.ndarray[Any, Any]
MOST_DESCRIPTORS = 512  # assumed: what is looked at, in all some ten milliseconds
MOST_BURSTS = 1 << 17


def asked(program: Program, phase: Phase, machine: Machine, queue: str, tensors: set[int]) -> Array:
    """Return the addresses of bursts that a DMA queue asks for of some tensors; int64[n], none where they are many.

    Regions whose place only an executor knows are left out.
    """
    tiles, descriptors, total = [], 0, 0
    nothing = np.zeros(0, np.int64)
    for instruction, _, variables in executions(phase, QUEUES.index(queue)):
        tile = phase.tiles[instruction.tile]
        if int(tile["tensor"]) in tensors and not starts_unknown(phase, tile, variables.shape[1]):
            tiles.append((instruction.tile, variables))
            descriptors += len(variables)
            if descriptors > MOST_DESCRIPTORS:
                return nothing
    regions = Regions(program, phase, machine.burst_bytes, machine.spec.cores.dma.min_transfer)
    found = [nothing]
    for number, variables in tiles:
        for row in variables.tolist():
            found.append(regions.bursts(regions.region(number, row), queue == "store"))
            total += len(found[-1])
            if total > MOST_BURSTS:
                return nothing
    return np.concatenate(found)


def placed_fs(machine: Machine, addresses: Array, rows_closed: bool, written_back: bool) -> int:
    """Return the least time of moving bursts at these addresses, each as often as it stands there.

    From the first issue to the last answer, which nobody waits for where all are `written_back`.
    """
    if len(addresses) == 0:
        return 0
    timing, o, at = machine.timing, machine.organisation, machine.address_map.decode(addresses)
    channel = (at.stack * o.channels + at.channel) * o.pseudo_channels + at.pseudo_channel
    bank = channel * o.banks + at.bank_group * (o.banks // o.bank_groups) + at.bank
    banks, rows = np.unique(np.unique(bank * o.rows + at.row) // o.rows, return_counts=True)
    activates = rows if rows_closed else rows - 1  # its last row may be open
    of_channel = np.bincount(banks // o.banks, weights=activates).astype(np.int64)
    between = max(
        (int(np.bincount(channel).max()) - 1) * timing.burst_interval_ticks,
        int((activates - 1).max()) * timing.nRC,
        int((of_channel - 1).max()) // 4 * timing.nFAW,
        int((of_channel - 1).max()) * timing.nRRDS,
    )  # of the first and the last burst, or activate
    opened = timing.activate_to_column_ticks if rows_closed else 0
    ticks = opened + between + min(timing.nCL, timing.nCWL) + timing.nBL
    back_fs = 0 if written_back else machine.spec.noc.latency
    return first_request_fs(machine) + machine.memory_request_fs + machine.ticks_to_fs(ticks) + back_fs
