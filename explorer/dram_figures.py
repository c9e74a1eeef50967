"""Pictures of what a memory did: figures from the tables of a trace, each with the sentence that reads it, on one page.

Figure and sentence come from the same table (`dram_tables`, `dram_timeline`). The page is one file with the drawing
library in it: it opens without a network and can be mailed. Reads and writes keep the colours of their commands.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from explorer import dram_tables as tables
from explorer.dram_timeline import KINDS, timeline, timeline_figure, timeline_text
from explorer.files import write_atomically
from explorer.page import page, section
from explorer.views import look
from explorer.views.memory_use import balance_figure, balance_text

if TYPE_CHECKING:
    from hwmodel.dram.trace import DramTrace

PAGE = "dram.html"
COLOURS = {"reads": KINDS["RD"][0], "writes": KINDS["WR"][0], "bursts": look.BASELINE}
MAX_NAMES = 40  # beside a map; assumed: more cannot be read


def bank_heat_figure(table: tables.BankHeat) -> go.Figure:
    """Return the counts as a map: a line per bank, a column per bin of time."""
    figure = go.Figure()
    if not table.total:
        return look.nothing(figure, f"no {table.counted}")
    figure.add_heatmap(
        z=table.counts, x0=table.start_us + table.bin_us / 2, dx=table.bin_us, y=list(table.lanes),
        zmin=0, zmax=int(table.counts.max()), colorscale="Cividis",
        hovertemplate="%{y}<br>%{x:.4g} us: %{z}<extra></extra>", colorbar={"title": {"text": table.counted}},
    )  # fmt: skip
    look.titled(figure, "time [us]", "").update_layout(height=min(1200, 160 + 20 * len(table.lanes)), margin={"l": 130})
    return figure.update_yaxes(type="category", autorange="reversed", nticks=MAX_NAMES)


def bank_heat_text(table: tables.BankHeat) -> str:
    """Return where and when most happened, and what is not drawn."""
    if not table.total:
        return f"No {table.counted}."
    lane, at = np.unravel_index(int(table.counts.argmax()), table.counts.shape)
    first = table.start_us + int(at) * table.bin_us
    text = (
        f"{table.total:,} {table.counted} in {table.active_banks:,} of {look.count(table.banks, 'bank')}; the "
        f"busiest bank has {table.busiest:,}, {table.busiest * table.banks / table.total:.2f} times the mean of all; "
        f"the fullest cell is {table.lanes[int(lane)]} from {first:.4g} us on, {int(table.counts.max()):,} in "
        f"{table.bin_us:.4g} us"
    )
    hidden = table.active_banks - len(table.lanes)
    return f"{text}; {hidden:,} less busy banks are not drawn." if hidden else f"{text}."


def queue_figure(queues: Sequence[tables.QueueDepth]) -> go.Figure:
    """Return the bursts that wait over time, as steps, one line per kind."""
    figure = go.Figure()
    if not any(queue.bursts for queue in queues):
        return look.nothing(figure, "no bursts")
    for queue in queues:
        if queue.bursts:
            figure.add_scatter(
                x=queue.steps["time_us"].to_numpy(), y=queue.steps["depth"].to_numpy(),
                name=f"{queue.kind}, highest of each bin" if queue.binned else queue.kind, mode="lines",
                line={"color": COLOURS[queue.kind], "shape": "hv"},
            )  # fmt: skip
    return look.titled(figure, "time [us]", "bursts waiting").update_yaxes(rangemode="tozero")


def queue_text(queues: Sequence[tables.QueueDepth], where: str = "all pseudo-channels together") -> str:
    """Return the mean and the highest depth of each kind."""
    parts = [
        f"{queue.mean:,.1f} {queue.kind} wait on average, {queue.highest:,} at most" for queue in queues if queue.bursts
    ]
    if not parts:
        return "No bursts."
    binned = any(queue.binned for queue in queues)
    ending = "; drawn is the highest of each bin of time" if binned else ""
    return f"From arrival to column command, {where}: {'; '.join(parts)}{ending}."


def latency_figure(table: tables.Latency) -> go.Figure:
    """Return the latencies as a histogram with its percentiles; logarithmic on both axes where the table is."""
    figure = go.Figure()
    if not len(table.counts):
        return look.nothing(figure, f"no {table.kind}")
    figure.add_bar(
        x=(table.edges_ns[:-1] + table.edges_ns[1:]) / 2, width=np.diff(table.edges_ns), y=table.counts,
        name=table.kind, marker={"color": COLOURS[table.kind], "line": {"width": 0}},
    )  # fmt: skip
    highest = int(table.counts.max())
    for place, (name, value) in enumerate(table.marks_ns.items()):
        figure.add_scatter(
            x=[value, value], y=[0.5 if table.log else 0, highest * (1.3 if table.log else 1.04)],
            name=f"{name}: {value:,.1f} ns", mode="lines",
            line={"color": look.BOUND, "dash": ("solid", "dash", "dashdot", "dot")[place % 4], "width": 1.5},
        )  # fmt: skip
    look.titled(figure, "latency [ns]", f"{table.kind} per bin").update_layout(bargap=0)
    if table.log:
        figure.update_xaxes(type="log").update_yaxes(type="log")
    return figure


def latency_text(table: tables.Latency) -> str:
    """Return the mean and the percentiles in one sentence."""
    if not len(table.counts):
        return f"No {table.kind}."
    marks = ", ".join(f"{name} {value:,.1f} ns" for name, value in table.marks_ns.items())
    return (
        f"From arrival to last data of {int(table.counts.sum()):,} {table.kind}: mean {table.mean_ns:,.1f} ns, {marks}."
    )


def write_pictures(
    folder: Path,
    trace: DramTrace,
    *,
    title: str = "DRAM trace",
    window: tuple[int, int] | None = None,
    pseudo_channels: Sequence[int] | None = None,
    counted: Sequence[str] = ("conflicts", "activates"),
    log_latency: bool = False,
) -> Path:
    """Write one page with all pictures of a trace into a folder, made where it is missing, and return its path.

    `window` (first tick, tick after the last) and `pseudo_channels` (over all stacks) choose what the command timeline
    shows, see `dram_timeline.timeline`; `counted`, which maps of banks are drawn, see `hwmodel.dram.trace.COUNTED`.
    Raises ValueError for a choice that the trace does not have, and OSError where the folder cannot be written.
    """
    page = render(trace, title, window, pseudo_channels, counted, log_latency)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PAGE, page.encode())
    return folder / PAGE


def render(
    trace: DramTrace,
    title: str = "DRAM trace",
    window: tuple[int, int] | None = None,
    pseudo_channels: Sequence[int] | None = None,
    counted: Sequence[str] = ("conflicts", "activates"),
    log_latency: bool = False,
) -> str:
    """Return the page; see `write_pictures`."""
    from plotly.offline import get_plotlyjs

    commands = timeline(trace, window, pseudo_channels)
    body = [
        section("Commands", timeline_text(commands), look.shielded(timeline_figure(commands)), "commands"),
        *_bank_sections(trace, counted),
        *_burst_sections(trace, log_latency),
    ]
    facts = f"<p>{html.escape(_facts(trace))}</p>"
    return page(title, [facts, *body], script=get_plotlyjs())


def _facts(trace: DramTrace) -> str:
    start, end = trace.span
    o = trace.organisation
    return (
        f"{look.count(len(trace.commands), 'command')} and {look.count(len(trace.bursts), 'burst')} of "
        f"{o.burst_bytes} B in {(end - start) * trace.tick_ns / 1000:,.4g} us, a tick is {trace.tick_ns:.4g} ns; "
        f"{look.count(trace.pseudo_channels, 'pseudo-channel')} of {look.count(o.banks, 'bank')}. "
        "The simulation is deterministic: the same trace and versions give the same page."
    )


def _bank_sections(trace: DramTrace, counted: Sequence[str]) -> Iterator[str]:
    for name in counted:
        heat = tables.bank_heat(trace, name)
        yield section(f"Banks: {name}", bank_heat_text(heat), look.shielded(bank_heat_figure(heat)), f"banks-{name}")


def _burst_sections(trace: DramTrace, log_latency: bool) -> Iterator[str]:
    queues = [tables.queue_depth(trace, is_write) for is_write in (False, True)]
    yield section("Queues", queue_text(queues), look.shielded(queue_figure(queues)), "queues")
    present = [is_write for is_write, queue in zip((False, True), queues, strict=True) if queue.bursts]
    for is_write in present or (None,):
        table = tables.latency(trace, is_write, log_latency)
        yield section(
            f"Latency of {table.kind}",
            latency_text(table),
            look.shielded(latency_figure(table)),
            f"latency-{table.kind}",
        )
    loads = {"This trace": tables.balance(trace)}
    yield section("Balance", balance_text(loads), look.shielded(balance_figure(loads)), "balance")
