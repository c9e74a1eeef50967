"""The DRAM of a machine: all channels of all stacks under one policy, with exact statistics.

Owner of the arrays on which the compiled controller (`kernel`) works: it lets `initial_state` turn the description
into numbers, grows the pools, and reads results out. The executors enqueue
bursts (`enqueue`, also from compiled code) and call `Dram.advance`. Time is integer ticks of `Timing.tick_hz`.
A read is done when its last data has been transferred, a write likewise. Channels are independent; requests
may span them.
A completion is reported when its last column command issues: its done tick lies at least `lookahead_ticks`
after the tick that `advance` started from. Bursts that need no command (reads of a waiting write) are reported
when they are taken in.
Not modelled: what the schedulers and `standards` name; staggered refresh (one falls due in all pseudo-channels at
once), and refreshes put off until a channel is idle: one waits only for what its rules make it wait for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.dram import state as k
from hwmodel.dram.initial_state import aligned, initial_state
from hwmodel.dram.intake import enqueue, enqueue_bursts, enqueue_runs, open_request
from hwmodel.dram.kernel import next_tick, run_of
from hwmodel.dram.policy import Policy
from hwmodel.dram.room import MAX_PCS
from hwmodel.dram.standards import Organisation, Rule, Timing, rules
from hwmodel.dram.state import CAUSES, DramState

__all__ = [
    "CAUSES",
    "Dram",
    "DramState",
    "DramStatistics",
    "Policy",
    "enqueue",
    "enqueue_bursts",
    "enqueue_runs",
    "next_tick",
    "open_request",
]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class DramStatistics:
    """Exact counts since the start. Arrays are int64 over pseudo-channels (stack-major), or over their banks.

    A burst is a row hit, miss or conflict by its first command: column (row open), activate (bank closed) or
    precharge (other row open); `merged` ones had none. Latencies are ticks from arrival to done, of reads.
    `precharges` counts banks closed.
    """

    reads: int
    writes: int
    merged_reads: int
    merged_writes: int
    row_hits: int
    row_misses: int
    row_conflicts: int
    activates: int
    precharges: int
    precharge_commands: int
    precharge_all_commands: int
    refreshes: int
    latency_ticks_sum: int
    latency_ticks_max: int
    pseudo_channel_bursts: Array  # [pseudo-channel]
    pseudo_channel_busy_ticks: Array  # [pseudo-channel], data bus
    bank_activates: Array  # [pseudo-channel, bank]; bank = (stack ID, bank group, bank)
    bank_conflicts: Array
    bank_bursts: Array
    bytes_per_bin: Array  # [time bin] of the first data tick; empty without bins

    @property
    def bursts(self) -> int:
        return self.reads + self.writes


class Dram:
    """The DRAM channels of a machine.

    `address_map_tables` = (digits int64[n, 4], hashes int64[m, 6]): rows (divisor, modulus, field,
    multiplier) and (target field, target bit, source field, source bit, weight, size), as
    `AddressMap.compiled` returns them. `bin_ticks` > 0 keeps bytes per time bin,
    `record_commands` the trace, `log_bursts` one row per burst. `table` replaces the standard's rules.
    Raises ValueError for tables that leave the organisation.
    """

    def __init__(
        self,
        timing: Timing,
        organisation: Organisation,
        stacks: int,
        address_map_tables: tuple[Array, Array],
        policy: Policy,
        *,
        record_commands: bool = False,
        log_bursts: bool = False,
        bin_ticks: int = 0,
        table: tuple[Rule, ...] | None = None,
    ) -> None:
        self.timing, self.organisation, self.policy = timing, organisation, policy
        self.pseudo_channels = stacks * organisation.channels * organisation.pseudo_channels
        self.state = initial_state(
            timing,
            organisation,
            stacks,
            address_map_tables,
            policy,
            rules(timing, organisation) if table is None else table,
        )
        scalars = self.state.scalars
        scalars[k.RECORD], scalars[k.LOG], scalars[k.BIN_TICKS] = record_commands, log_bursts, bin_ticks
        self._settled = False  # whether what has completed is still to be returned
        self.reserve(1024)

    @property
    def lookahead_ticks(self) -> int:
        """From a column command to its completion, at least; less where bursts need no command."""
        if self.policy.merges:
            return 1
        return min(self.timing.nCL, self.timing.nCWL) + self.timing.nBL

    @property
    def waiting(self) -> int:
        """How many bursts have been offered and not yet got their column command."""
        return len(self.state.pool) - int(self.state.scalars[k.BURSTS_LEFT])

    @property
    def idle(self) -> bool:
        """True when no burst waits anywhere."""
        return self.waiting == 0

    @property
    def next_tick(self) -> int:
        """A lower bound of the next tick at which a channel with bursts or open rows acts; 2**62 if there is none."""
        return int(next_tick(self.state))

    def reserve(self, bursts: int) -> None:
        """Make room for that many more bursts, and for as many requests. Replaces `state` when it grows."""
        scalars = self.state.scalars
        self.state = self.state._replace(
            pool=_grown(self.state.pool, scalars, bursts, k.FREE_BURST, k.BURSTS_LEFT, k.LINK),
            requests=_grown(self.state.requests, scalars, bursts, k.FREE_REQUEST, k.REQUESTS_LEFT, k.DONE),
        )
        missing = len(self.state.requests) - len(self.state.completed)
        if missing:
            self.state = self.state._replace(completed=np.pad(self.state.completed, ((0, missing), (0, 0))))

    def open_request(self, bursts: int) -> int:
        """Return a request that completes when that many bursts are done; its number is recycled later."""
        if not self.state.scalars[k.REQUESTS_LEFT]:
            self.reserve(1)
        return int(open_request(self.state, bursts))

    def enqueue(self, address: int, request: int, is_write: bool, tick: int) -> None:
        """Offer one burst; see `intake.enqueue`. Makes room where needed."""
        if not self.state.scalars[k.BURSTS_LEFT]:
            self.reserve(1)
        enqueue(self.state, address, request, is_write, tick)

    def advance(self, until_tick: int) -> tuple[Array, Array]:
        """Run every channel up to (not including) a tick, at which bursts may still be enqueued.

        Returns (requests, done ticks), sorted by (tick, request), of the requests whose last burst was
        scheduled; done ticks may lie up to `nCL + nBL` past `until_tick`. Any steps give the same commands,
        counts and ticks; a request's number is free again from the next call on.
        """
        self._run(until_tick, int(self._settled))
        self._settled = False
        completed = self.state.completed[: self.state.scalars[k.COMPLETED]]
        order = np.lexsort((completed[:, 0], completed[:, 1]))
        return completed[order, 0], completed[order, 1]

    def _run(self, until_tick: int, resume: int) -> int:
        run = run_of(self.policy)
        self._reserve_log()
        status = run(self.state, until_tick, resume)
        while status in (k.TRACE_FULL, k.BINS_FULL):
            field = {k.TRACE_FULL: "trace", k.BINS_FULL: "bins"}[status]
            array = getattr(self.state, field)
            padding = [(0, max(4096, len(array))), *[(0, 0)] * (array.ndim - 1)]
            grown: dict[str, Any] = {field: np.pad(array, padding)}
            self.state = self.state._replace(**grown)
            self.state.scalars[k.TRACE_ROWS] = len(self.state.trace)
            self.state.scalars[k.BINS] = len(self.state.bins)
            status = run(self.state, until_tick, 1)
        return int(status)

    def _reserve_log(self) -> None:
        """Make room in the log, where there is one, for every waiting burst and one more of a replay."""
        scalars = self.state.scalars
        if not scalars[k.LOG]:
            return
        rows = len(self.state.log)
        missing = int(scalars[k.LOGGED]) + self.waiting + 1 - rows
        if missing > 0:
            self.state = self.state._replace(log=np.pad(self.state.log, ((0, max(4096, rows, missing)), (0, 0))))
            scalars[k.LOG_ROWS] = len(self.state.log)

    def _settle(self) -> None:
        """Let channels that sleep catch up with their refreshes; what completes with it, the next `advance` returns."""
        self.state.channels[:, k.ASLEEP] = 0
        self._run(int(self.state.scalars[k.NOW]), int(self._settled))
        self._settled = True

    def drain(self) -> tuple[Array, Array]:
        """Run until no burst waits; returns what `advance` returns."""
        done = [self.advance(int(self.state.scalars[k.NOW]))]
        while not self.idle:
            done.append(self.advance(max(self.next_tick, int(self.state.scalars[k.NOW])) + self.timing.nREFI))
        requests, ticks = (np.concatenate(parts) for parts in zip(*done, strict=True))
        order = np.lexsort((requests, ticks))
        return requests[order], ticks[order]

    def commands(self) -> Array:
        """Return the recorded commands, int64[n, 7], channel by channel in time order within one `advance`.

        Columns: tick, channel (over all stacks), pseudo_channel, bank_group, bank (as in addresses), row,
        command (place in `COMMANDS`). What does not apply is -1.
        """
        self._settle()
        return self.state.trace[: self.state.scalars[k.TRACED]].copy()

    def bursts(self) -> Array:
        """Return the log, int64[n, 7], in the order of completion within a channel.

        Columns: arrival tick, done tick, channel, pseudo_channel, bank (stack ID, bank group, bank), is_write,
        outcome (0 row hit, 1 miss, 2 conflict, 3 merged).
        """
        return self.state.log[: self.state.scalars[k.LOGGED]].copy()

    @property
    def _pcs(self) -> Array:
        """The rows of all pseudo-channels, stack-major."""
        area = self.state.channels[:, k.PCS : k.BANK_ROWS].reshape(-1, MAX_PCS, k.PC_FIELDS)
        return area[:, : self.organisation.pseudo_channels].reshape(-1, k.PC_FIELDS)

    @property
    def _banks(self) -> Array:
        """The rows of the banks of all pseudo-channels."""
        stride, pcs = int(self.state.scalars[k.BANK_STRIDE]), self.organisation.pseudo_channels
        area = self.state.channels[:, k.BANK_ROWS : k.BANK_ROWS + pcs * stride * k.BANK_FIELDS]
        return area.reshape(self.pseudo_channels, stride, k.BANK_FIELDS)[:, : self.organisation.banks]

    def statistics(self) -> DramStatistics:
        """Return the exact counts up to now."""
        self._settle()
        pcs, banks = self._pcs, self._banks
        bursts = pcs[:, k.READS] + pcs[:, k.WRITES]
        used = np.flatnonzero(self.state.bins)
        names = {
            "reads": k.READS,
            "writes": k.WRITES,
            "row_hits": k.HITS,
            "row_misses": k.MISSES,
            "row_conflicts": k.CONFLICTS,
            "activates": k.ACTIVATES,
            "precharges": k.CLOSED,
            "precharge_commands": k.PRECHARGES,
            "precharge_all_commands": k.PRECHARGE_ALLS,
            "refreshes": k.REFRESHES,
            "latency_ticks_sum": k.LATENCY_SUM,
        }
        return DramStatistics(
            **{name: int(pcs[:, field].sum()) for name, field in names.items()},
            merged_reads=int(self.state.channels[:, k.MERGED_READS].sum()),
            merged_writes=int(self.state.channels[:, k.MERGED_READS + 1].sum()),
            latency_ticks_max=int(pcs[:, k.LATENCY_MAX].max()),
            pseudo_channel_bursts=bursts,
            pseudo_channel_busy_ticks=pcs[:, k.CAUSE + k.DATA].copy(),
            bank_activates=banks[:, :, k.BANK_ACTIVATES].copy(),
            bank_conflicts=banks[:, :, k.BANK_CONFLICTS].copy(),
            bank_bursts=banks[:, :, k.BANK_BURSTS].copy(),
            bytes_per_bin=self.state.bins[: used[-1] + 1 if len(used) else 0].copy(),
        )

    def close(self, makespan_ticks: int) -> Array:
        """Return where each pseudo-channel's time from 0 to the makespan went: int64[pseudo-channel, cause].

        Causes are `CAUSES`; rows add up to the makespan. Data is counted from the column command on; the wait
        before a burst goes to the refresh, then the row that its bank waited for, then turnaround, bus.
        Raises ValueError while bursts wait or if the makespan ends before the last data.
        """
        pcs = self._pcs
        if not self.idle:
            raise ValueError(f"close: {self.waiting} bursts still wait; advance until idle")
        if makespan_ticks < pcs[:, k.ACCOUNTED].max():
            raise ValueError(
                f"close: makespan {makespan_ticks} ends before the last data at {pcs[:, k.ACCOUNTED].max()}"
            )
        causes = pcs[:, k.CAUSE : k.CAUSE + len(CAUSES)].copy()
        causes[:, k.IDLE] += makespan_ticks - pcs[:, k.ACCOUNTED]
        return causes


def _grown(array: Array, scalars: Array, wanted: int, free: int, left: int, link: int) -> Array:
    """Return the pool with at least `wanted` free rows, by doubling, new rows first in its free list."""
    missing = wanted - int(scalars[left])
    if missing <= 0:
        return array
    old = len(array)
    new = max(old * 2, old + missing)
    array = aligned(array, new)
    array[old:, link] = np.arange(old + 1, new + 1)
    array[new - 1, link] = scalars[free]
    scalars[free] = old
    scalars[left] += new - old
    return array
