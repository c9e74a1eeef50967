"""What a replay of an address trace under a controller configuration comes to: time, rows, commands, latencies.

Stands above the controller and below the command line: checks the trace, runs it through `replay`, reads the counts
out in nanoseconds and fractions. Time runs from 0 until every access is done; refreshes are inside it.
Not modelled: sources that reorder accesses, and several of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from hwmodel.dram.config import DramConfig
from hwmodel.dram.controller import Dram
from hwmodel.dram.replay import replay
from hwmodel.dram.trace import nearest_rank
from hwmodel.dram.traffic import trace
from hwmodel.units import FS_PER_SECOND

Array = np.ndarray[Any, Any]
MAX_TICKS = 1 << 36  # assumed: half a minute, of which every refresh is simulated; beyond, a gap is a mistake


@dataclass(frozen=True)
class Latencies:
    """Read latencies in nanoseconds, from acceptance into the queue to the last data; by nearest rank."""

    p50_read_latency_ns: float
    p99_read_latency_ns: float
    max_read_latency_ns: float


@dataclass(frozen=True)
class Replay:
    """One replay. Hits, misses and conflicts count bursts by the first command of each; the rest counts commands.

    `bandwidth_fraction`: bytes of all accesses over what all data pins would move in that time. `pre`: precharge
    commands, of one bank and of all. `forwarded_reads`: reads served by a waiting burst of the same address;
    `coalesced_writes` likewise; both are in no other count. `held_writes`: bursts that the controller still holds at
    the end, which per-bank queues do with a few; they are in no other count but `bandwidth_fraction`, which they may
    lift above 1. `avg_read_latency_ns` is 0 without reads. `gap_ticks` from one access to the next, at least, the gap
    that was simulated. `latencies` only where a log was kept.
    """

    ticks: int
    time_ns: float
    bandwidth_fraction: float
    row_hits: int
    row_misses: int
    row_conflicts: int
    act: int
    pre: int
    rd: int
    wr: int
    ref: int
    avg_read_latency_ns: float
    forwarded_reads: int
    coalesced_writes: int
    held_writes: int
    gap_ticks: int
    simulated_gap_ns: float
    latencies: Latencies | None = None

    def record(self) -> dict[str, int | float]:
        """Return the numbers by name, as JSON has them."""
        numbers = asdict(self)
        return numbers | (numbers.pop("latencies") or {})


def replay_trace(
    config: DramConfig,
    addresses: Array,
    writes: Array,
    *,
    access_bytes: int = 64,
    gap_fs: int = 0,
    log_bursts: bool = False,
    record_commands: bool = False,
    fast_forward: bool = True,
) -> tuple[Replay, Dram]:
    """Replay accesses at byte addresses (integers[n]; `writes` bool[n]) in order; return the result and the controller.

    The source offers an access from its turn on, `gap_fs` after the one before (in whole ticks, rounded up), until it
    is accepted, and nothing behind it. Without `fast_forward` periods of regular traffic are simulated, too. Raises
    ValueError in one line for a trace that the configuration does not take, with the index and the value of the first
    wrong access.
    """
    checked = check_accesses(config, addresses, writes, access_bytes)
    gap_ticks = _gap_ticks(config, gap_fs, len(checked))
    dram = config.dram(log_bursts=log_bursts, record_commands=record_commands)
    ticks = replay(dram, trace(checked, writes, access_bytes), gap_ticks, fast_forward)
    return _result_of(config, dram, ticks, len(checked) * access_bytes, gap_ticks), dram


def check_accesses(config: DramConfig, addresses: Array, writes: Array, access_bytes: int) -> Array:
    """Return the addresses as int64[n], all multiples of the access and inside the memory; ValueError otherwise."""
    burst_bytes, capacity = config.organisation.burst_bytes, config.organisation.capacity_bytes
    if not 0 < access_bytes <= capacity or access_bytes % burst_bytes:
        raise ValueError(
            f"access of {access_bytes} B; allowed: multiples of a burst of {config.standard}, {burst_bytes} B, "
            f"up to {capacity} B"
        )
    if addresses.ndim != 1 or addresses.dtype.kind not in "iu" or writes.dtype != np.bool_:
        raise ValueError(
            f"trace: addr {addresses.dtype}{list(addresses.shape)}, is_write {writes.dtype}; allowed: one list of "
            "integers, one of bools"
        )
    if addresses.shape != writes.shape:
        raise ValueError(f"trace: {len(addresses)} addr, is_write {list(writes.shape)}; allowed: as many of both")
    if not len(addresses):
        raise ValueError("trace: no accesses; at least 1 is needed")
    for wrong, allowed in (
        ((addresses < 0) | (addresses >= capacity), f"0 .. {capacity - 1}, the capacity of {config.where}"),
        (addresses % access_bytes != 0, f"multiples of the access of {access_bytes} B"),
    ):
        if wrong.any():
            first = int(wrong.argmax())
            raise ValueError(f"trace: addr[{first}] {int(addresses[first])}; allowed: {allowed}")
    return addresses.astype(np.int64)


def _gap_ticks(config: DramConfig, gap_fs: int, accesses: int) -> int:
    gap_ticks = -(-gap_fs * config.timing.tick_hz // FS_PER_SECOND)
    if gap_fs < 0 or gap_ticks * accesses > MAX_TICKS:
        most = int(MAX_TICKS // accesses * FS_PER_SECOND / config.timing.tick_hz)
        raise ValueError(f"gap of {gap_fs / 10**6:g} ns; allowed for {accesses} accesses: 0 .. {most / 10**6:g} ns")
    return int(gap_ticks)


def _result_of(config: DramConfig, dram: Dram, ticks: int, size_bytes: int, gap_ticks: int) -> Replay:
    """Return what a replay that took `ticks` for accesses of `size_bytes` in all came to."""
    s = dram.statistics()
    tick_ns = Fraction(10**9) / config.timing.tick_hz
    return Replay(
        ticks=ticks,
        time_ns=float(ticks * tick_ns),
        bandwidth_fraction=float(size_bytes * config.timing.tick_hz / (ticks * config.peak_bytes_per_second)),
        row_hits=s.row_hits,
        row_misses=s.row_misses,
        row_conflicts=s.row_conflicts,
        act=s.activates,
        pre=s.precharge_commands + s.precharge_all_commands,
        rd=s.reads - s.merged_reads,
        wr=s.writes - s.merged_writes,
        ref=s.refreshes,
        avg_read_latency_ns=float(s.latency_ticks_sum * tick_ns / max(1, s.reads)),
        forwarded_reads=s.merged_reads,
        coalesced_writes=s.merged_writes,
        held_writes=dram.waiting,
        gap_ticks=gap_ticks,
        simulated_gap_ns=float(gap_ticks * tick_ns),
        latencies=_latencies(dram, tick_ns),
    )


def _latencies(dram: Dram, tick_ns: Fraction) -> Latencies | None:
    """Return what the log says about reads; nothing where there were none, or no log."""
    log = dram.bursts()
    reads = log[log[:, 5] == 0]
    ticks = np.sort(reads[:, 1] - reads[:, 0])
    if not len(ticks):
        return None
    return Latencies(*(float(nearest_rank(ticks, share) * tick_ns) for share in (500, 990, 1000)))
