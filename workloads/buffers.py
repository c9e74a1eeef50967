"""Scratchpad buffers: addresses for the multi-buffers of one phase.

Every buffer lives as long as its phase, so they lie one after another; each block starts at a multiple of the
scratchpad's full width, so that no two blocks share a row of banks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwmodel.machine import Machine
from hwmodel.program import Buffer


def allocate(blocks: Sequence[Buffer], machine: Machine) -> tuple[Buffer, ...]:
    """Return the buffers with addresses and aligned pitches; `Machine.require_fit` says whether they fit."""
    row_bytes = machine.sram_bytes_per_cycle
    placed, address = [], 0
    for block in blocks:
        pitch = -(-block.pitch_bytes // row_bytes) * row_bytes
        placed.append(replace(block, address=address, pitch_bytes=pitch))
        address += block.slots * pitch
    return tuple(placed)
