"""Where in main memory none of a program's tensors lies: the data of others that a full shared cache begins with.

`memory_side` puts such data there, for both executors; what is written back of it needs addresses that exist.
"""

from __future__ import annotations

from hwmodel.program import Program


def free_place(program: Program, size_bytes: int, unit_bytes: int, capacity_bytes: int) -> int:
    """Return the highest gap between tensors and ends of memory that has room, at its first multiple of a unit.

    Raises ValueError where none has.
    """
    end = capacity_bytes
    for tensor in sorted(program.tensors, key=lambda tensor: -tensor.base_bytes - tensor.size_bytes):
        base = _rounded_up(tensor.base_bytes + tensor.size_bytes, unit_bytes)
        if base + size_bytes <= end:
            return base
        end = min(end, tensor.base_bytes)
    if size_bytes <= end:
        return 0
    raise ValueError(
        f"program {program.name}: earlier_stores is {program.earlier_stores}; allowed: null, as tensors leave no "
        f"{size_bytes} B in one piece of the {capacity_bytes} B of main memory for what the shared cache holds"
    )


def _rounded_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
