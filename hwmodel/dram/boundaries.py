"""The states of a channel at boundaries: some are written down, all later ones are compared with them.

Between `replay`, which stops at boundaries, and `fast_forward`, which writes states down. The first few are kept, then
fewer and fewer, so that time and memory hardly grow with the traffic: a period is found when it has come once after a
kept state, at most an eighth later than after the first that comes again. A state is written down to be compared only
where a kept one has the same place in the unit of the traffic, counts and masks of banks.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from hwmodel.dram import state as k
from hwmodel.dram.description import describe
from hwmodel.dram.organisation import Organisation
from hwmodel.dram.patterns import Pattern
from hwmodel.dram.state import NONE, DramState
from hwmodel.dram.traffic import Accesses

Array = np.ndarray[Any, Any]

# assumed: bursts in a state that is written down; reads that wait for the same data know no bound
MAX_WAITING = 1 << 14
MAX_NUMBERS = (1 << 13) + 4 * MAX_WAITING  # what there always is, and four numbers a burst
SPACING = 8  # after n boundaries, the next state is kept n / SPACING boundaries on

# Columns that count what has happened
_PC_COUNTS = [*range(k.CAUSE, k.CAUSE + len(k.CAUSES)), *range(k.READS, k.LATENCY_MAX)]
_BANK_COUNTS = [k.BANK_ACTIVATES, k.BANK_CONFLICTS, k.BANK_BURSTS]


class Repetition(NamedTuple):
    """What happened since the state was last the same."""

    bursts: int
    ticks: int
    counts: Array  # [count], of `Boundaries.columns`
    back: int  # how many bursts ago the oldest one that matters was accepted


class _Kept(NamedTuple):
    """A state that was written down, and what had happened by then."""

    state: bytes
    bursts: int
    tick: int
    counts: Array


class Boundaries:
    """The boundaries of a segment of the traffic, of the only channel."""

    def __init__(self, organisation: Organisation, bank_stride: int) -> None:
        self.columns = _counting_columns(organisation, bank_stride)
        self._note = np.empty(MAX_NUMBERS, np.int64)  # takes the memory that is written to
        self.clear()

    def clear(self) -> None:
        self._met = self._next = 0  # boundaries so far; which one is kept next
        self._newest = NONE  # of the states kept: the bursts accepted until then
        self._kept: dict[tuple[int, bytes, bytes], list[_Kept]] = {}  # by what is known without writing them down

    def repeated(
        self, state: DramState, accesses: Accesses, segment: int, pattern: Pattern, parts: int, tick: int, since: int
    ) -> Repetition | None:
        """Compare the state at a tick with those kept; return what happened since it was the same, or None.

        `since` is that of `fast_forward.describe`.
        """
        channel = state.channels[0]
        accepted = int(channel[k.ACCEPTED])
        buffers, banks = channel[k.MODE : k.TAIL], channel[k.LAST_BANK : k.ACTIVE_WAKE]
        key = (accepted - pattern.first) % pattern.unit, buffers.tobytes(), banks.tobytes()
        is_due = self._met >= self._next
        self._met += 1
        if not is_due and key not in self._kept:
            return None
        length, back = describe(state, accesses, segment, pattern.unit, parts, pattern.banks, tick, since, self._note)
        if length == 0:
            return None
        alike, note = self._kept.setdefault(key, []), self._note[:length].tobytes()
        for kept in alike:
            if kept.state == note:
                counts = channel[self.columns] - kept.counts
                return Repetition(accepted - kept.bursts, tick - kept.tick, counts, back)
        if is_due:
            alike.append(_Kept(note, accepted, tick, channel[self.columns]))
            self._next = self._met + self._met // SPACING
            self._newest = accepted
        return None

    def are_over(self, pattern: Pattern, accepted: int) -> bool:
        """Return whether any kept state that comes again from now on would leave less than a period to be skipped."""
        return accepted - max(self._newest, pattern.first) >= pattern.stop - accepted


@cache
def _counting_columns(organisation: Organisation, bank_stride: int) -> Array:
    """Return the columns of a channel that count what has happened."""
    pcs = range(organisation.pseudo_channels)
    banks = [pc * bank_stride + bank for pc in pcs for bank in range(organisation.banks)]
    return np.array(
        [
            k.MERGED_READS,
            k.MERGED_READS + 1,
            *(k.PCS + pc * k.PC_FIELDS + column for pc in pcs for column in _PC_COUNTS),
            *(k.BANK_ROWS + bank * k.BANK_FIELDS + column for bank in banks for column in _BANK_COUNTS),
        ]
    )
