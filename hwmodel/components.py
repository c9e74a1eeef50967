"""The components of the reference that a script may replace by its own: one field per component.

Below `hwmodel.reference`, which makes them. A component of one's own is a class with the calls of the one it replaces,
best derived from it, or a frozen dataclass of its numbers that makes one when it is called. What a memory side sends on
otherwise than it was asked, it says in a level of its own (`MemorySide.levels`), and the books are closed over that.

Not modelled: energy of components of one's own, and bounds of their time beside the launches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from hwmodel.dma_engine import DmaEngine
from hwmodel.dram.controller import Dram
from hwmodel.machine import Machine
from hwmodel.memory_side import Clock, MemorySide
from hwmodel.sram import SharedSram

if TYPE_CHECKING:
    from hwmodel.reference import Core


@dataclass(frozen=True)
class Components:
    """What makes each component: one memory side per run, a scratchpad and two DMA engines per core and phase.

    The DMA engine's arguments are its core, the number of its queue, and whether it stores.
    """

    memory_side: Callable[[Clock, Machine, Dram | None], MemorySide] = MemorySide
    dma_engine: Callable[[Core, int, bool], DmaEngine] = DmaEngine
    scratchpad: Callable[[], SharedSram] = SharedSram

    @property
    def own(self) -> tuple[str, ...]:
        """What is not the machine's: classes by name, descriptions with their numbers."""
        made_by = [(getattr(self, field.name), field.default) for field in fields(self)]
        return tuple(getattr(mine, "__qualname__", repr(mine)) for mine, standard in made_by if mine is not standard)
