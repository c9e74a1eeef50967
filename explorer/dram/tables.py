"""A DRAM trace, cut down to what a picture can hold: every table has a fixed most of rows, however long the trace.

Between `hwmodel.dram.trace`, whose numbers are exact, and `dram_figures`, which draws these tables and reads them out.
Where a table leaves something out or takes the highest of many values, it keeps how much, so that the text can say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from explorer.balance import Balance
from hwmodel.dram.trace import bytes_moved, count_per_bank, nearest_rank, queue_steps

if TYPE_CHECKING:
    import pandas as pd

    from hwmodel.dram.trace import DramTrace

Array = np.ndarray[Any, Any]

# assumed: what a browser draws at once and a reader can tell apart
MAX_BANKS = 512  # lanes of a heat map
MAX_BINS = 200  # of time in a heat map
MAX_STEPS = 2000  # of a queue depth
LATENCY_BINS = 100
PERCENTILES = {"p50": 500, "p90": 900, "p99": 990, "max": 1000}  # per mille of the bursts


def pseudo_channel_name(trace: DramTrace, pseudo_channel: int) -> str:
    """Return the name of a pseudo-channel: channel over all stacks, pseudo-channel in it."""
    channel, place = divmod(pseudo_channel, trace.organisation.pseudo_channels)
    return f"ch {channel} pc {place}"


@dataclass(frozen=True, eq=False)
class BankHeat:
    """Counts per bank and bin of time: int64[lane, bin]. A lane is a bank with at least one, in order of address."""

    counted: str
    lanes: tuple[str, ...]
    counts: Array
    start_us: float  # of the first bin
    bin_us: float
    total: int  # over all banks, shown or not
    banks: int  # of the memory
    active_banks: int  # with at least one
    busiest: int  # the most of one bank


def bank_heat(trace: DramTrace, counted: str) -> BankHeat:
    """Return the counts of one of `hwmodel.dram.trace.COUNTED`; of more than `MAX_BANKS` banks the fullest."""
    places, ticks = count_per_bank(trace, counted)
    banks = trace.organisation.banks
    totals = np.bincount(places, minlength=trace.pseudo_channels * banks)
    shown = np.sort(np.argsort(-totals, kind="stable")[: min(MAX_BANKS, np.count_nonzero(totals))])
    start, end = trace.span
    start, end = int(ticks.min(initial=start)), int(ticks.max(initial=end - 1)) + 1
    bin_ticks = max(1, -(-(end - start) // MAX_BINS))
    bins = -(-(end - start) // bin_ticks)
    lane_of = np.full(len(totals), -1, np.int64)
    lane_of[shown] = np.arange(len(shown))
    lanes = lane_of[places]
    cells = lanes[lanes >= 0] * bins + (ticks[lanes >= 0] - start) // bin_ticks
    counts = np.bincount(cells, minlength=len(shown) * bins).astype(np.int64).reshape(len(shown), bins)
    names = tuple(f"{pseudo_channel_name(trace, int(at) // banks)} bank {int(at) % banks}" for at in shown)
    tick_us = trace.tick_ns / 1000
    return BankHeat(
        counted, names, counts, start * tick_us, bin_ticks * tick_us, len(places), len(totals),
        int(np.count_nonzero(totals)), int(totals.max()),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class QueueDepth:
    """How many bursts of one kind wait, as steps over time.

    `steps`: columns time_us and depth, which holds from its time to the next; the highest depth of each bin of time
    where there are more than `MAX_STEPS` changes (`binned`).
    """

    kind: str
    steps: pd.DataFrame
    binned: bool
    highest: int
    mean: float  # over the whole trace
    bursts: int


def queue_depth(trace: DramTrace, is_write: bool, pseudo_channel: int | None = None) -> QueueDepth:
    """Return the depth of the queue of reads or of writes, of one pseudo-channel or of all together."""
    import pandas as pd

    ticks, depths = queue_steps(trace, is_write, pseudo_channel)
    start, end = trace.span
    if len(ticks) and ticks[0] > start:
        ticks, depths = np.append(start, ticks), np.append(0, depths)
    waited = int((depths * np.diff(np.append(ticks, end))).sum())
    binned = len(ticks) > MAX_STEPS
    highest = int(depths.max(initial=0))
    if binned:
        ticks, depths = _highest_of_bins(ticks, depths, end)
    chosen = trace.bursts[:, 5] == int(is_write)
    if pseudo_channel is not None:
        chosen &= trace.burst_pseudo_channels == pseudo_channel
    if len(ticks):
        ticks, depths = np.append(ticks, end), np.append(depths, depths[-1])
    steps = pd.DataFrame({"time_us": ticks * (trace.tick_ns / 1000), "depth": depths})
    mean = waited / (end - start) if end > start else 0.0
    return QueueDepth("writes" if is_write else "reads", steps, binned, highest, mean, int(chosen.sum()))


def _highest_of_bins(ticks: Array, depths: Array, end: int) -> tuple[Array, Array]:
    """Return the starts of `MAX_STEPS` bins of time at most, and the highest depth that holds anywhere in each."""
    first = int(ticks[0])
    bin_ticks = -(-(end - first) // MAX_STEPS)
    starts = np.arange(first, end, bin_ticks)
    entering = np.searchsorted(ticks, starts, "right") - 1  # the step that holds at the start of the bin
    highest = np.maximum.reduceat(depths, entering)  # without the step that leaves into the next bin
    leaving = np.append(entering[1:], len(ticks) - 1)
    within = ticks[leaving] < np.append(starts[1:], end)
    return starts, np.where(within, np.maximum(highest, depths[leaving]), highest)


@dataclass(frozen=True, eq=False)
class Latency:
    """The latencies of bursts of one kind, from arrival to last data.

    Bin i counts latencies from `edges_ns[i]` to below `edges_ns[i + 1]`; `marks_ns` are `PERCENTILES` by name, each
    the latency of a burst (nearest rank).
    """

    kind: str
    edges_ns: Array
    counts: Array
    marks_ns: dict[str, float]
    mean_ns: float
    log: bool


def latency(trace: DramTrace, is_write: bool | None = None, log: bool = False) -> Latency:
    """Return the latencies of reads, of writes, or of all bursts; with `log`, bins grow in proportion."""
    kind = "bursts" if is_write is None else "writes" if is_write else "reads"
    chosen = trace.latency_ticks if is_write is None else trace.latency_ticks[trace.bursts[:, 5] == int(is_write)]
    if not len(chosen):
        none = np.zeros(0, np.int64)
        return Latency(kind, none.astype(np.float64), none, {}, 0.0, log)
    ordered = np.sort(chosen)
    least, most = int(ordered[0]), int(ordered[-1])
    width = -(-(most + 1 - least) // LATENCY_BINS)
    edges = np.arange(least, most + 1 + width, width)
    if log:
        edges = np.unique(np.rint(np.geomspace(least, most + 1, LATENCY_BINS + 1)).astype(np.int64))
    counts = np.diff(np.searchsorted(ordered, edges))
    marks = {name: nearest_rank(ordered, part) * trace.tick_ns for name, part in PERCENTILES.items()}
    return Latency(kind, edges * trace.tick_ns, counts, marks, float(ordered.mean()) * trace.tick_ns, log)


def balance(trace: DramTrace, level: str = "pseudo_channel") -> Balance:
    """Return the bytes that the bursts moved, per pseudo-channel or per channel."""
    return Balance(level.replace("_", "-"), "bytes", tuple(bytes_moved(trace, level).tolist()))
