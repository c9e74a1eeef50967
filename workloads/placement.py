"""Placement: which physical address each tensor starts at.

Tensors lie one after another from address 0, each aligned; the address map of the machine interleaves them over stacks
and channels. Pinning tensors to stacks, partitioning and replication are not modelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwmodel.machine import Machine
from hwmodel.program import Tensor

ALIGNMENT_BYTES = 4096  # assumed: what an allocator of device memory gives at least


def place(tensors: Sequence[Tensor], machine: Machine) -> tuple[Tensor, ...]:
    """Return the tensors with base addresses.

    Tensors that ask to reside in the shared cache do so in the order given as long as all of them fit it; the others,
    and all on a machine without one, reside in main memory. Raises ValueError if the tensors do not fit that.
    """
    placed, address = [], 0
    cache_left = machine.spec.shared_cache.capacity if machine.spec.shared_cache else 0
    for tensor in tensors:
        near = tensor.resident == "cache" and tensor.size_bytes <= cache_left
        cache_left -= tensor.size_bytes if near else 0
        placed.append(replace(tensor, base_bytes=address, resident="cache" if near else machine.memory))
        address += -(-tensor.size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    capacity = machine.memory_capacity_bytes
    if address > capacity:
        sizes = ", ".join(f"{t.name} {t.size_bytes} B" for t in tensors)
        raise ValueError(
            f"the tensors need {address} B of {machine.memory.upper()}, {address - capacity} B more than the "
            f"{capacity} B of {machine.spec.name}: {sizes}"
        )
    return tuple(placed)
