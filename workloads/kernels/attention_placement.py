"""Placement of decode attention: beside which core the keys and values of a head of a sequence lie, and its work.

Between the KV cache with its page table and `workloads.placement`, for machines whose SRAM lies beside the cores. Heads
have equal runs of cores, and the sequences are dealt round the cores of each run: on 64 cores, head h of 8 of sequence
s belongs to core 8 h + s modulo 8. A page holds all heads, so it lies in pieces, one in every run, and the pages of a
sequence are those whose number is s modulo the cores of a run. Page tables keep their order within these.
Not modelled: an allocator that knows such pages (free ones between those of the batch are left out), and sequences
dealt by their lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.machine import Machine
from hwmodel.program import NONE, Deferred, Tensor
from layouts.notation import named
from workloads.paging import page_numbers
from workloads.placement import Interleaved, Partitioned, place_as
from workloads.schedule import SCHEDULES

PLACEMENTS = ("interleaved", "cores")
DEALT = (*SCHEDULES, "beside")
CACHES = ("kv", "k", "v")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Homes:
    """Which core has which of `heads`, in which sequence. Raises ValueError where the heads do not share the cores."""

    heads: int
    cores: int

    def __post_init__(self) -> None:
        if self.cores % self.heads and self.heads % self.cores:
            raise ValueError(
                f"placement: {self.heads} heads of keys and values on {self.cores} cores; allowed: a multiple of the "
                "cores, or a divisor of their number"
            )

    @property
    def wide(self) -> int:
        """The cores of a head, round which sequences are dealt."""
        return max(1, self.cores // self.heads)

    def core(self, sequence: Array, head: Array) -> Array:
        """Return the core of every item."""
        found: Array = head * min(self.heads, self.cores) // self.heads * self.wide + sequence % self.wide
        return found

    def pages(self, contexts: Sequence[int], page_size: int) -> int:
        """Return the pages of a pool in which every core of a run has as many."""
        counts = -(-np.array(contexts, np.int64) // page_size)
        fullest = np.bincount(np.arange(len(counts)) % self.wide, weights=counts).max()
        return int(fullest) * self.wide

    def table(self, order: str, contexts: Sequence[int], page_size: int, seed: int) -> Tensor:
        """Return the page table, which `decode_attention` calls "page table"."""
        entries = named("entry", {"entry": int(sum(-(-context // page_size) for context in contexts))})
        pages = Deferred(dealt_pages, (order, tuple(contexts), page_size, seed, self.wide))
        return Tensor("page table", entries, "int32", NONE, "cache", pages)

    def place(self, tensors: Sequence[Tensor], machine: Machine) -> tuple[Tensor, ...]:
        """Return the tensors placed, the cache beside its cores. Raises ValueError naming what cannot lie there."""
        by_page = Partitioned("page", "core", "cyclic") if self.wide > 1 else None
        there = Partitioned("head", "core", parts=min(self.heads, self.cores), within=by_page)
        try:
            return place_as(tensors, [there if t.name in CACHES else Interleaved() for t in tensors], machine)
        except ValueError as error:
            raise ValueError(f"placement: cores: {error}") from None


def dealt_pages(order: str, contexts: Sequence[int], page_size: int, seed: int, wide: int) -> Array:
    """Return `page_numbers` renumbered: sequence s has pages s modulo `wide`, in their order and without gaps."""
    pages = page_numbers(order, contexts, page_size, seed)
    counts = -(-np.array(contexts, np.int64) // page_size)
    whose = np.repeat(np.arange(len(counts)) % wide, counts)
    found = np.empty_like(pages)
    for core in range(wide):
        mine = np.flatnonzero(whose == core)
        found[mine[np.argsort(pages[mine])]] = np.arange(len(mine)) * wide + core
    return found
