"""What may watch a run of the reference: the few calls that every observer takes.

`reference.simulate` calls an observer where there is one, and asks for none of this where there is not. An observer
changes nothing: times are given to it as they are, in femtoseconds, and never go back.

Not told: what happens between a request's way out and its answer, and which counter a unit waits for.
"""

from __future__ import annotations

from typing import Any, Protocol

from hwmodel.dma import Region
from hwmodel.program import Instruction, Phase
from hwmodel.result import Ledger


class Observer(Protocol):
    """Watches the units of all cores; `queue` is a place in `program.QUEUES`."""

    def ledger(self, core: int, queue: int) -> Ledger:
        """Return the account that a unit keeps: it hears of every interval of the unit's time, and its cause."""
        ...

    def begin(self, phase: Phase, now_fs: int) -> None:
        """The launch of a phase is over."""
        ...

    def turn(
        self, core: int, queue: int, instruction: Instruction, variables: list[int], region: Region | None
    ) -> None:
        """A unit turns to an instruction, whose counters it waits for first; loads and stores have a region."""
        ...

    def complete(self, core: int, queue: int, now_fs: int) -> None:
        """The oldest instruction of a unit that was not complete is; it adds to its counters now."""
        ...

    def request(self, core: int, queue: int, now_fs: int) -> None:
        """A DMA engine has issued a memory request, of the instruction that it turned to last."""
        ...

    def answer(self, core: int, queue: int, number: int, size_bytes: int, now_fs: int) -> None:
        """The engine's request of this number, in the order of issue in the phase, is complete.

        `size_bytes` in whole bursts.
        """
        ...

    def bursts(self, log: Any) -> None:
        """The run is over: what `Dram.bursts` returns; not called on a machine without HBM."""
        ...
