"""Adds up the instructions of work items in closed form: cycles per item, and counts for the energy.

Items of one kind are alike: sizes and how often an instruction runs are arrays int64[points, kinds], or numbers. The
costs are those of `hwmodel.matrix` and of the operations in `hwmodel.vector`, without conflicts in the scratchpad.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwmodel import matrix
from hwmodel.bound_table import Counts
from hwmodel.machine import Machine
from hwmodel.program import DTYPES, Buffer
from hwmodel.vector import OPERATIONS, Work

Array = np.ndarray[Any, Any]


class Tally:
    """`items`: how many items there are of every kind."""

    def __init__(self, machine: Machine, items: Array) -> None:
        self._machine, self._items = machine, items
        self._sums: dict[str, Any] = dict.fromkeys(
            ("loaded_bytes", "stored_bytes", "sram_read_bytes", "sram_write_bytes"), 0
        )
        self._macs: dict[str, Any] = {}
        self._vector: dict[str, Any] = {}

    @property
    def counts(self) -> Counts:
        return Counts(**self._sums, macs=self._macs, vector=self._vector)

    def total(self, per_item: Any) -> Array:
        """Return the sum over all items; int64[points], or one for all."""
        found: Array = (np.asarray(per_item) * self._items).sum(axis=-1)
        return found

    def matmul(self, times: Any, sizes: tuple[Any, Any, Any], dtypes: tuple[str, str], adds: Any = 0) -> Any:
        """Count matmuls of [m, k] x [k, n] and return their cycles per item; a product `adds` to what is there, or not.

        `dtypes`: of the operands, which are alike, and of the result.
        """
        m, n, k = sizes
        operand, result = (DTYPES[dtype].itemsize for dtype in dtypes)
        self._add(self._macs, dtypes[0], times * m * n * k)
        self._add(self._sums, "sram_read_bytes", times * (m * k + n * k) * operand + adds * m * n * result)
        self._add(self._sums, "sram_write_bytes", times * m * n * result)
        return times * matmul_cycles(self._machine, (m, n, k), dtypes[0])

    def vector(self, times: Any, name: str, buffers: Sequence[Buffer], *sizes: Any) -> Any:
        """Count an operation and return its cycles per item; of `buffers` their types and columns count."""
        for touch in OPERATIONS[name].touches(buffers, *sizes):
            size_bytes = times * touch.rows * touch.columns * buffers[touch.operand].element_bytes
            self._add(self._sums, "sram_read_bytes", size_bytes * touch.reads)
            self._add(self._sums, "sram_write_bytes", size_bytes * touch.writes)
        return self.work(times, name, buffers, *sizes)

    def work(self, times: Any, name: str, buffers: Sequence[Buffer], *sizes: Any) -> Any:
        """Do the same without what the operation touches."""
        work = OPERATIONS[name].work(buffers, *sizes)
        for kind, count in vars(work).items():
            self._add(self._vector, kind, times * count)
        return times * vector_cycles(work, self._machine)

    def load(self, size_bytes: Any) -> None:
        """Count bytes that an item loads."""
        self._add(self._sums, "loaded_bytes", size_bytes)
        self._add(self._sums, "sram_write_bytes", size_bytes)

    def store(self, size_bytes: Any) -> None:
        """Count bytes that an item stores."""
        self._add(self._sums, "stored_bytes", size_bytes)
        self._add(self._sums, "sram_read_bytes", size_bytes)

    def add(self, other: Tally) -> None:
        """Add what another one has counted."""
        for mine, others in ((self._sums, other._sums), (self._macs, other._macs), (self._vector, other._vector)):
            for name, count in others.items():
                mine[name] = mine.get(name, 0) + count

    def _add(self, sums: dict[str, Any], name: str, per_item: Any) -> None:
        sums[name] = sums.get(name, 0) + self.total(per_item)


def matmul_cycles(machine: Machine, sizes: tuple[Any, Any, Any], dtype: str) -> Any:
    """Return the cycles of matmuls whose sizes m, n, k may be arrays."""
    return matrix.cycles(machine.spec.cores.matrix, *sizes, dtype)


def vector_cycles(work: Work, machine: Machine) -> Any:
    """Return the cycles of `Work.cycles` where counts are arrays."""
    unit = machine.spec.cores.vector
    lanes = [-(-np.asarray(count) // getattr(unit, name)) for name, count in vars(work).items()]
    return np.maximum.reduce(np.broadcast_arrays(*lanes))
