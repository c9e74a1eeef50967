"""The states of a channel at boundaries: remembered in full, found by a hash.

Between `replay`, which stops at boundaries, and `fast_forward`, which writes states down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.compiled import compiled
from hwmodel.dram import state as k
from hwmodel.dram.fast_forward import describe
from hwmodel.dram.organisation import Organisation
from hwmodel.dram.patterns import Pattern
from hwmodel.dram.queue_of_bank import GOLDEN
from hwmodel.dram.state import ACCEPTED, NONE, DramState, channel_at, memory_of
from hwmodel.dram.traffic import Accesses

Array = np.ndarray[Any, Any]

HASH, BEGIN, LENGTH, BURSTS, AT, FIELDS = range(6)  # columns of the boundaries: where in `numbers`, at which tick
ROWS, NUMBERS = range(2)  # how much is used

# assumed: bursts in a state that is written down; reads that wait for the same data know no bound
MAX_WAITING = 1 << 14
MAX_NUMBERS = (1 << 13) + 4 * MAX_WAITING  # what there always is, and four numbers a burst

# Columns that count what has happened
_PC_COUNTS = [*range(k.CAUSE, k.CAUSE + len(k.CAUSES)), *range(k.READS, k.LATENCY_MAX)]
_BANK_COUNTS = [k.BANK_ACTIVATES, k.BANK_CONFLICTS, k.BANK_BURSTS]


@dataclass(frozen=True)
class Repetition:
    """What happened since the state was last the same."""

    bursts: int
    ticks: int
    counts: Array  # [count], of `Boundaries.columns`
    back: int  # how many bursts ago the oldest one that matters was accepted


class Boundaries:
    """The boundaries of a segment of the traffic, of the only channel."""

    def __init__(self, organisation: Organisation, bank_stride: int) -> None:
        banks = [
            pc * bank_stride + bank for pc in range(organisation.pseudo_channels) for bank in range(organisation.banks)
        ]
        pcs = range(organisation.pseudo_channels)
        self.columns = np.array(  # of a channel, which count what has happened
            [
                k.MERGED_READS,
                k.MERGED_READS + 1,
                *(k.PCS + pc * k.PC_FIELDS + column for pc in pcs for column in _PC_COUNTS),
                *(k.BANK_ROWS + bank * k.BANK_FIELDS + column for bank in banks for column in _BANK_COUNTS),
            ]
        )
        self._used = np.zeros(2, np.int64)
        self._note = np.empty(MAX_NUMBERS, np.int64)
        self._rows = np.empty((64, FIELDS), np.int64)
        self._counts = np.empty((64, len(self.columns)), np.int64)
        self._numbers = np.empty(16 * MAX_NUMBERS, np.int64)  # takes the memory that is written to

    def __len__(self) -> int:
        return int(self._used[ROWS])

    def clear(self) -> None:
        self._used[:] = 0

    def repeated(
        self, state: DramState, accesses: Accesses, segment: int, pattern: Pattern, parts: int, tick: int, since: int
    ) -> Repetition | None:
        """Write down the state at a tick; return what happened since it was the same, or None if it never was.

        `since` is that of `fast_forward.describe`.
        """
        self._make_room()
        row, back = _remember(
            state, accesses, segment, pattern.unit, pattern.first, parts, pattern.banks, tick, since, self._note,
            self.columns, self._rows, self._counts, self._numbers, self._used,
        )  # fmt: skip
        if row == NONE:
            return None
        before, channel = self._rows[row], state.channels[0]
        counts = channel[self.columns] - self._counts[row]
        return Repetition(int(channel[ACCEPTED] - before[BURSTS]), int(tick - before[AT]), counts, int(back))

    def _make_room(self) -> None:
        if self._used[ROWS] == len(self._rows):
            self._rows, self._counts = (_doubled(a, len(a)) for a in (self._rows, self._counts))
        if self._used[NUMBERS] + MAX_NUMBERS > len(self._numbers):
            self._numbers = _doubled(self._numbers, int(self._used[NUMBERS]))


def _doubled(array: Array, used: int) -> Array:
    grown = np.empty((2 * len(array), *array.shape[1:]), array.dtype)
    grown[:used] = array[:used]
    return grown


@compiled
def _remember(
    state: DramState, accesses: Accesses, segment: int, unit: int, first: int, parts: int, banks: Array, tick: int,
    since: int, note: Array, columns: Array, rows: Array, counts: Array, numbers: Array, used: Array,
) -> tuple[int, int]:  # fmt: skip
    """Return (boundary at which the state was the same, how far back its oldest burst lies), or write it down."""
    length, back = describe(state, accesses, segment, unit, parts, banks, tick, since, note)
    if length == 0:
        return NONE, 0
    c = channel_at(memory_of(state), state.words, 0)
    note[length] = (c[ACCEPTED] - first) % unit
    length += 1
    mixed = 0
    for i in range(length):
        mixed += (note[i] + i) * (GOLDEN + 2 * i)
        mixed ^= mixed >> 29
    for row in range(used[ROWS]):
        if rows[row, HASH] == mixed and rows[row, LENGTH] == length:
            begin, i = rows[row, BEGIN], 0
            while i < length and numbers[begin + i] == note[i]:
                i += 1
            if i == length:
                return row, back
    row, begin = used[ROWS], used[NUMBERS]
    rows[row, HASH], rows[row, BEGIN], rows[row, LENGTH] = mixed, begin, length
    rows[row, BURSTS], rows[row, AT] = c[ACCEPTED], tick
    for i in range(len(columns)):
        counts[row, i] = c[columns[i]]
    for i in range(length):
        numbers[begin + i] = note[i]
    used[ROWS] += 1
    used[NUMBERS] += length
    return NONE, back
