"""Replaying traffic: an in-order source that offers accesses until one is refused.

No limit on what is accepted per tick; nothing behind a refused access is offered, on any channel. Where the traffic of
a single channel has long regular segments, periods of its state are found and skipped (`fast_forward`), with the same
result.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.dram import state as k
from hwmodel.dram.boundaries import MAX_WAITING, Boundaries
from hwmodel.dram.controller import Dram
from hwmodel.dram.fast_forward import skip
from hwmodel.dram.patterns import Pattern, block_bytes, joined_runs, pattern_of
from hwmodel.dram.source import seek
from hwmodel.dram.traffic import ACCESSES, FIRST, Traffic

Array = np.ndarray[Any, Any]
BETWEEN_BOUNDARIES = 4096  # bursts, at least, where no refresh sets the boundaries


def replay(dram: Dram, traffic: Traffic, gap_ticks: int = 0, fast_forward: bool = True) -> int:
    """Run the traffic through a fresh `dram`; return the ticks until everything is done.

    Access i is offered from tick i * `gap_ticks` on; addresses go round at the capacity. The counts are in
    `dram.statistics()`. Raises ValueError for accesses that are no whole bursts or a negative gap.
    """
    burst_bytes = dram.organisation.burst_bytes
    if traffic.access_bytes < 1 or traffic.access_bytes % burst_bytes:
        raise ValueError(
            f"replay: accesses of {traffic.access_bytes} B; allowed: multiples of a burst of {burst_bytes} B"
        )
    if gap_ticks < 0:
        raise ValueError(f"replay: gap of {gap_ticks} ticks; allowed: 0 or more")
    return _Replay(dram, traffic, gap_ticks, fast_forward).run()


class _Replay:
    """A replay: runs the channels to the end, or a single one from boundary to boundary, where it looks for periods."""

    def __init__(self, dram: Dram, traffic: Traffic, gap_ticks: int, fast_forward: bool) -> None:
        self.dram = dram
        self.parts = traffic.access_bytes // dram.organisation.burst_bytes
        scalars = dram.state.scalars
        self.block = block_bytes(dram.state.address_map, int(scalars[k.DIGITS]))
        is_plain = not gap_ticks and not any(scalars[[k.RECORD, k.LOG, k.BIN_TICKS]])
        self.fast = fast_forward and is_plain and scalars[k.CHANNELS] == 1
        self.traffic = joined_runs(traffic, self.block) if self.fast else traffic
        self.total = traffic.count * self.parts
        self.gap_ticks = gap_ticks
        self.pattern: Pattern | None = None
        self.segment = -1
        self.segment_stop = 0  # bursts
        self.stop_at = self.reached = 0  # bursts, of the boundaries without refresh
        self.interval = self._interval()
        self.seen = Boundaries(dram.organisation, int(scalars[k.BANK_STRIDE]))
        scalars[k.REPLAYING] = 1

    def _interval(self) -> int:
        """Return the ticks between boundaries: until every bank was refreshed once; 0 where there is no refresh."""
        scalars = self.dram.state.scalars
        if scalars[k.REFRESH] == k.REFRESH_NONE:
            return 0
        banks = self.dram.organisation.banks if scalars[k.REFRESH] == k.REFRESH_PER_BANK else 1
        return int(scalars[k.REFRESH_INTERVAL]) * banks

    @property
    def accepted(self) -> int:
        return int(self.dram.state.channels[0, k.ACCEPTED])

    def run(self) -> int:
        scalars = self.dram.state.scalars
        if not self.total:
            return 0
        self._seek()
        while True:
            until = self._next_boundary()
            status = self.dram._run(until, 1)
            if status == k.NO_ROOM:  # reads that wait for the same data are not bounded by a queue
                self.dram.reserve(1)
            elif until == k.NEVER and status == k.FINISHED:
                break
            elif until == k.NEVER or status == k.FINISHED:
                self._at_boundary(until)
        scalars[k.STOP_AT] = k.NEVER
        ticks = int(self.dram.state.channels[:, k.LAST_DONE].max())
        first_tick = 0 if scalars[k.SCHEDULER] == k.PER_BANK_QUEUES else 1
        self.dram._run(ticks + first_tick, 1)  # what refreshes still do while the last data are under way
        return ticks

    def _seek(self) -> None:
        seek(self.dram.state, self.traffic.accesses, self.accepted, self.parts, self.gap_ticks)

    def _next_boundary(self) -> int:
        """Set where the run must stop next: return the tick, or set the bursts accepted."""
        scalars = self.dram.state.scalars
        if not self.fast:
            scalars[k.STOP_AT] = k.NEVER
            return k.NEVER
        accepted = self.accepted
        self._find_segment(accepted)
        pattern = self.pattern
        if pattern is None or pattern.stop <= accepted:
            scalars[k.STOP_AT] = self.segment_stop if self.segment_stop < self.total else k.NEVER
            return k.NEVER
        if not self.interval:
            if self.stop_at <= self.reached:
                unit = pattern.unit * -(-BETWEEN_BOUNDARIES // pattern.unit)
                repeated = (accepted - pattern.first) // unit + 1
                self.stop_at = min(pattern.first + repeated * unit, pattern.stop)
            scalars[k.STOP_AT] = self.stop_at
            return k.NEVER
        scalars[k.STOP_AT] = pattern.stop  # beyond the last burst, refreshes would be counted that never come
        now = max(int(scalars[k.NOW]), int(self.dram.state.channels[0, k.TICK]))
        return (now // self.interval + 1) * self.interval

    def _find_segment(self, accepted: int) -> None:
        """Note which segment the next burst is from, and how it repeats."""
        accesses, segment = self.traffic.accesses, self.segment
        while accepted >= self.segment_stop and segment + 1 < len(accesses.segments):
            segment += 1
            self.segment_stop = (
                int(accesses.segments[segment, FIRST] + accesses.segments[segment, ACCESSES]) * self.parts
            )
        if segment != self.segment:
            self.segment = segment
            self.seen.clear()
            self.pattern = pattern_of(self.dram.state, accesses, segment, self.traffic.access_bytes, self.block)

    def _at_boundary(self, until: int) -> None:
        """Compare the state with earlier ones; if it was the same, skip as many periods as the segment has left."""
        pattern, state, accepted = self.pattern, self.dram.state, self.accepted
        self.reached = accepted
        if pattern is None or accepted >= pattern.stop or self.dram.waiting > MAX_WAITING:
            return
        tick = int(state.channels[0, k.TICK]) if until == k.NEVER else until
        since = tick - (self.interval or 1 << 16)
        repetition = self.seen.repeated(state, self.traffic.accesses, self.segment, pattern, self.parts, tick, since)
        if repetition is None:
            if self.seen.are_over(pattern, accepted):
                self.pattern = None
            return
        bursts, back = repetition.bursts, repetition.back
        if not bursts or back > bursts or back + bursts >= pattern.apart:
            return
        self.pattern = None  # what is left of the segment is less than a period
        periods = (pattern.stop - 1 - accepted) // bursts
        if not periods:
            return
        skip(
            state,
            self.traffic.accesses,
            self.segment,
            self.parts,
            pattern.banks,
            periods * bursts,
            periods * repetition.ticks,
            pattern.first,
            since,
        )
        state.channels[0, self.seen.columns] += periods * repetition.counts
        self.reached = self.accepted
        self._seek()
