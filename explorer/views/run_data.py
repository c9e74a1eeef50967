"""One simulation as views read it: its numbers, what its banks carried, and where known what happened when.

A row of a store has the numbers; a timeline and the tensors take a run of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explorer.storage.row import nested
from explorer.views.view import NotShown

if TYPE_CHECKING:
    import numpy as np

    from explorer.query import Query
    from hwmodel.timeline import Timeline
    from layouts import AddressMap, NamedLayout


@dataclass(frozen=True)
class Placed:
    """A tensor in main memory: its layout, the bytes of an element and where byte 0 is."""

    name: str
    layout: NamedLayout
    element_bytes: int
    base_bytes: int


@dataclass(frozen=True)
class Memory:
    """Where the bytes of a run live: its tensors, the address map of main memory, and the size of a scratchpad."""

    tensors: tuple[Placed, ...]
    address_map: AddressMap | None
    sram_bytes: int


@dataclass(frozen=True)
class RunData:
    """One simulation. `metrics` nested as `Result.metrics` gives them; what a source does not know is None."""

    title: str
    metrics: Mapping[str, Any]
    banks: Mapping[str, np.ndarray] | None = None
    timeline: Timeline | None = None
    memory: Memory | None = None

    def table(self, name: str) -> Mapping[str, Any]:
        """Return a table of the metrics; NotShown where the run has none."""
        found = self.metrics.get(name)
        if not found:
            raise NotShown(f"the run has no {name.replace('_', ' ')}")
        return dict(found)

    def recorded(self) -> Timeline:
        """Return what happened when; NotShown where it was not recorded."""
        if self.timeline is None:
            raise NotShown("what happened when was not recorded; `rowhit timeline --pictures` records it")
        return self.timeline


def of_row(title: str, row: Mapping[str, Any], banks: Mapping[str, np.ndarray] | None = None) -> RunData:
    """Return the run behind a row of a store, whose columns are flat names with dots."""
    return RunData(title, nested(row), banks)


def of_query(query: Query) -> RunData:
    """Return the run of a query with everything that views show of it, by the SimPy reference."""
    from explorer import evaluate, programs

    program, machine, result, timeline = evaluate.recorded_run(query)
    tensors = tuple(
        Placed(tensor.name, tensor.layout, tensor.element_bytes, tensor.base_bytes)
        for tensor in program.tensors
        if tensor.resident == "hbm"
    )
    address_map = machine.address_map if machine.spec.hbm is not None else None
    memory = Memory(tensors, address_map, int(machine.spec.cores.sram.capacity))
    return RunData(programs.describe(query), result.metrics(), result.banks, timeline, memory)
