"""What the templates with a method per queue share: buffers and counters by their names, and the order of writing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hwmodel.assembler import Affine, PhaseAssembler, Slot
from hwmodel.machine import Machine
from hwmodel.program import Buffer, Cause, Phase, Schedule, Tensor
from workloads.buffers import allocate


class PhaseWriter(ABC):
    """One phase in the making. Subclasses write a queue in each of `load`, `matrix`, `vector` and `store`."""

    def __init__(
        self,
        name: str,
        tensors: Sequence[Tensor],
        tasks: Mapping[str, np.ndarray[Any, Any]],
        requested: Sequence[Buffer],
        causes: Mapping[Cause, Sequence[str]],
        machine: Machine,
    ) -> None:
        self._p = p = PhaseAssembler(name, tensors, tuple(tasks))
        self._tasks = tasks
        numbers = p.add_buffers(allocate(requested, machine))
        self._buffers = dict(zip((b.name for b in requested), numbers, strict=True))
        self._counters = {name: p.counter(name, cause) for cause, names in causes.items() for name in names}

    @abstractmethod
    def load(self) -> None:
        """Write the load DMA's queue."""

    @abstractmethod
    def matrix(self) -> None:
        """Write the matrix unit's queue."""

    @abstractmethod
    def vector(self) -> None:
        """Write the vector unit's queue."""

    @abstractmethod
    def store(self) -> None:
        """Write the store DMA's queue."""

    def finish(self, order: Schedule) -> Phase:
        """Write all queues and return the phase."""
        self.load()
        self.matrix()
        self.vector()
        self.store()
        return self._p.finish(np.stack(list(self._tasks.values()), axis=1), order)

    def _slot(self, buffer: str, number: Affine) -> Slot:
        return Slot(self._buffers[buffer], number)

    def _item(self, *buffers: str) -> tuple[Slot, ...]:
        """Return the blocks of buffers that change once per work item."""
        return tuple(self._slot(buffer, self._p.begun) for buffer in buffers)

    def _waits(self, **values: Affine) -> list[tuple[int, Affine | int]]:
        """Return waits for counters, a space in their names written as an underscore."""
        return [(self._counters[name.replace("_", " ")], value) for name, value in values.items()]

    def _signals(self, *names: str) -> list[int]:
        return [self._counters[name] for name in names]
