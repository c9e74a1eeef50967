"""In which channels of main memory rows of weights lie that are read in step, a run of each.

Rows at one stride may all begin in the same few channels: a tile keeps those busy that its runs reach. Not modelled:
where the tensor begins, and what other cores read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.machine import Machine
from layouts.address_fields import FIELDS

MOST_ROWS = 64  # assumed: of a tile; more hardly meet more channels
FINDING = ("stack", "channel", "pseudo_channel")  # fields that say which channel a burst lies in


class Channels:
    """The channels of `rows` of `row_bytes`, by pieces of a row within which the channel is one: int[rows, pieces]."""

    def __init__(self, machine: Machine, rows: int, row_bytes: int) -> None:
        self._count, self._piece_bytes, self._of = 1, 1, np.zeros((1, 1), np.int64)
        if machine.spec.shared_cache is None and machine.memory == "hbm":
            digits = machine.address_map.digits
            self._count = machine.pseudo_channels
            self._piece_bytes = min(digit.divisor for digit in digits if FIELDS[digit.field] in FINDING)
            self._of = self._found(machine, min(rows, MOST_ROWS), row_bytes)

    def _found(self, machine: Machine, rows: int, row_bytes: int) -> np.ndarray[Any, Any]:
        pieces = max(1, min(-(-row_bytes // self._piece_bytes), self._count))  # so many meet all channels
        addresses = np.arange(rows)[:, None] * row_bytes + np.arange(pieces) * self._piece_bytes
        at = machine.address_map.decode(addresses % machine.memory_capacity_bytes)
        _, channels, halves = machine.address_map.sizes[:3]
        return (at.stack * channels + at.channel) * halves + at.pseudo_channel

    def share(self, rows: int, run_bytes: float, parts: int = 1, part_bytes: float = 0.0) -> float:
        """Return the share of channels that runs of so many bytes lie in, one where each part of each row begins."""
        if self._count == 1:
            return 1.0
        pieces, there = max(1, round(run_bytes / self._piece_bytes)), self._of[:rows]
        found = there[:, :pieces]
        if parts > 1 and pieces < there.shape[1]:
            begins = np.arange(parts) * round(part_bytes / self._piece_bytes)
            found = there[:, np.add.outer(begins, np.arange(pieces)) % there.shape[1]]
        return np.count_nonzero(np.bincount(found.ravel())) / self._count
