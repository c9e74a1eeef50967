"""The commands of a window of time, lane by lane: the table, its figure, and the sentence that reads it.

A lane is a bank that had a command, or the data bus of a pseudo-channel. One trace per kind of command, whatever their
number; a window with more commands than a figure can hold is drawn from its start, and the sentence says where it ends.
What began before the window and lasts into it is drawn from the window's start: data on the bus exactly, an open row
where a later command shows that it was open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from explorer.dram_tables import pseudo_channel_name
from explorer.views.look import count, nothing, titled
from hwmodel.dram.standards import COMMANDS
from hwmodel.dram.trace import OUTCOMES, DramTrace

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]

# Okabe and Ito's palette; a shape beside each colour
KINDS = {
    "ACT": ("#0072B2", "triangle-right"),
    "PRE": ("#E69F00", "triangle-left"),
    "RD": ("#009E73", "circle"),
    "WR": ("#D55E00", "square"),
    "REF": ("#CC79A7", "diamond"),
    "other": ("#000000", "x"),
}
SPANS = {
    "row open": ("#D9E6F2", 10),
    "refreshing": ("#EBCFDF", 10),
    "read data": ("#009E73", 12),
    "write data": ("#D55E00", 12),
}
# assumed: what a browser draws at once and a reader can tell apart
MAX_COMMANDS = 10_000
MAX_PSEUDO_CHANNELS = 8
FIRST_COMMANDS = 400  # in the window that is taken where none is asked for
_LANE_PIXELS = 20


@dataclass(frozen=True, eq=False)
class Timeline:
    """The commands of some pseudo-channels from `start_tick` to below `end_tick`.

    `commands`: columns tick, lane, name, kind, bank_group, bank, row, column, arrival_tick, outcome, in order of time;
    -1 where not known, outcome "". `spans`: columns lane, what (a key of `SPANS`), from_tick, to_tick.
    `left_out`: commands of the window asked for that lie beyond `end_tick`.
    """

    pseudo_channels: tuple[str, ...]
    start_tick: int
    end_tick: int
    tick_ns: float
    lanes: tuple[str, ...]
    commands: pd.DataFrame
    spans: pd.DataFrame
    left_out: int


def timeline(
    trace: DramTrace, window: tuple[int, int] | None = None, pseudo_channels: Sequence[int] | None = None
) -> Timeline:
    """Return the commands in `window` (first tick, tick after the last) of some pseudo-channels, over all stacks.

    Without pseudo-channels, the one with the most commands in the window; without a window, its first
    `FIRST_COMMANDS` commands. ValueError for an empty window, an unknown pseudo-channel or too many of them.
    """
    chosen = _chosen(trace, window, pseudo_channels)
    start, end = window or _first_window(trace, chosen)
    of_channels = np.isin(trace.command_pseudo_channels, chosen)
    ticks = trace.commands[:, 0]
    inside = np.flatnonzero(of_channels & (ticks >= start) & (ticks < end))
    inside = inside[np.argsort(ticks[inside], kind="stable")]
    left_out = 0
    if len(inside) > MAX_COMMANDS:
        end = max(int(ticks[inside[MAX_COMMANDS]]), start + 1)
        kept = inside[ticks[inside] < end][:MAX_COMMANDS]
        left_out, inside = len(inside) - len(kept), kept
    frame = _command_frame(trace, inside)
    data = _data_on_bus(trace, np.flatnonzero(of_channels), start, end)
    lanes = _lanes(chosen, frame)
    frame["lane"] = [lanes[key] for key in zip(frame["pseudo_channel"], frame["place"], strict=True)]
    spans = [*_open_rows(frame, start, end), *_refreshes(trace, frame, end), *data]
    return Timeline(
        tuple(pseudo_channel_name(trace, each) for each in chosen), start, end, trace.tick_ns,
        tuple(_lane_name(trace, *key) for key in lanes), frame, _span_frame(spans, lanes), left_out,
    )  # fmt: skip


def _chosen(trace: DramTrace, window: tuple[int, int] | None, pseudo_channels: Sequence[int] | None) -> tuple[int, ...]:
    if window is not None and not 0 <= window[0] < window[1]:
        raise ValueError(f"window: ticks {window[0]} .. {window[1]}: not 0 <= first < end")
    if pseudo_channels is None:
        where = trace.command_pseudo_channels
        if window is not None:
            where = where[(trace.commands[:, 0] >= window[0]) & (trace.commands[:, 0] < window[1])]
        return (int(np.bincount(where, minlength=trace.pseudo_channels).argmax()),)
    for each in pseudo_channels:
        if not 0 <= each < trace.pseudo_channels:
            raise ValueError(f"pseudo_channels: {each}; allowed: 0 .. {trace.pseudo_channels - 1}")
    distinct = tuple(sorted(set(pseudo_channels)))
    if not 1 <= len(distinct) <= MAX_PSEUDO_CHANNELS:
        raise ValueError(f"pseudo_channels: {len(distinct)} of them; allowed: 1 .. {MAX_PSEUDO_CHANNELS}")
    return distinct


def _first_window(trace: DramTrace, chosen: tuple[int, ...]) -> tuple[int, int]:
    ticks = np.sort(trace.commands[np.isin(trace.command_pseudo_channels, chosen), 0])
    if not len(ticks):
        return 0, 1
    return int(ticks[0]), int(ticks[min(FIRST_COMMANDS, len(ticks)) - 1]) + 1


def _kind(name: str) -> str:
    return next((kind for kind in KINDS if name.startswith(kind)), "other")


def _command_frame(trace: DramTrace, inside: Array) -> pd.DataFrame:
    import pandas as pd

    part = trace.commands[inside]
    names = [COMMANDS[number] for number in part[:, 6].tolist()]
    found = _bursts_of(trace, part[:, 0], trace.command_pseudo_channels[inside], names)
    located = trace.bursts.shape[1] > 7
    padded = np.vstack([trace.bursts, np.full((1, trace.bursts.shape[1]), -1)]) if len(found) else trace.bursts
    bursts = padded[found]
    return pd.DataFrame(
        {
            "tick": part[:, 0],
            "pseudo_channel": trace.command_pseudo_channels[inside],
            "place": trace.command_banks[inside],
            "name": names,
            "kind": [_kind(name) for name in names],
            "bank_group": part[:, 3],
            "bank": part[:, 4],
            "row": part[:, 5],
            "column": bursts[:, 8] if located else np.full(len(part), -1),
            "arrival_tick": bursts[:, 0],
            "outcome": [OUTCOMES[number] if number >= 0 else "" for number in bursts[:, 6].tolist()],
        }
    )


def _bursts_of(trace: DramTrace, ticks: Array, pseudo_channels: Array, names: list[str]) -> Array:
    """Return the burst of each command, int64[commands]; -1 for row commands and where the trace has no such burst."""
    found = np.full(len(ticks), -1, np.int64)
    columns = np.array([_kind(name) in ("RD", "WR") for name in names], bool)
    if not columns.any():
        return found
    issues = trace.issue_ticks
    near = np.flatnonzero((issues >= ticks[0]) & (issues <= ticks[-1]))
    width = int(ticks[-1]) + 1
    keys = trace.burst_pseudo_channels[near] * width + issues[near]
    order = np.argsort(keys, kind="stable")
    wanted = pseudo_channels * width + ticks
    at = np.searchsorted(keys[order], wanted)
    there = columns & (at < len(keys))
    there[there] = keys[order][at[there]] == wanted[there]
    found[there] = near[order[at[there]]]
    return found


Key = tuple[int, int]  # pseudo-channel and place of the bank; for the other lanes one of:
_BUS, _ALL_BANKS = -2, -1
_Span = tuple[Key, str, int, int]


def _lanes(chosen: tuple[int, ...], frame: pd.DataFrame) -> dict[Key, int]:
    """Return the lanes from top to bottom: of each pseudo-channel the data bus, all banks at once, each bank."""
    used = set(zip(frame["pseudo_channel"].tolist(), frame["place"].tolist(), strict=True))
    keys = sorted(used | {(each, _BUS) for each in chosen}) if len(frame) else []
    return {key: lane for lane, key in enumerate(keys)}


def _lane_name(trace: DramTrace, pseudo_channel: int, place: int) -> str:
    what = {_BUS: "data bus", _ALL_BANKS: "all banks"}.get(place, f"bank {place}")
    return f"{pseudo_channel_name(trace, pseudo_channel)} {what}"


def _data_on_bus(trace: DramTrace, candidates: Array, start: int, end: int) -> Iterator[_Span]:
    """Yield the part of every burst's data that lies in the window."""
    t = trace.timing
    kinds = [_kind(name) for name in COMMANDS]
    for kind, what, after in (("RD", "read data", t.nCL), ("WR", "write data", t.nCWL)):
        numbers = [number for number, of in enumerate(kinds) if of == kind]
        part = trace.commands[candidates]
        firsts = part[:, 0] + after
        visible = np.isin(part[:, 6], numbers) & (firsts < end) & (firsts + t.nBL > start)
        where = trace.command_pseudo_channels[candidates][visible]
        order = np.argsort(firsts[visible], kind="stable")
        for pseudo_channel, first in zip(where[order].tolist(), firsts[visible][order].tolist(), strict=True):
            yield (pseudo_channel, _BUS), what, max(first, start), min(first + t.nBL, end)


def _open_rows(frame: pd.DataFrame, start: int, end: int) -> Iterator[_Span]:
    """Yield from when to when each bank had a row open, as its commands in the window tell."""
    opened: dict[Key, int] = {}
    seen: set[Key] = set()
    columns = (frame[name].tolist() for name in ("tick", "pseudo_channel", "place", "kind"))
    for tick, pseudo_channel, place, kind in zip(*columns, strict=True):
        key = (pseudo_channel, place)
        if kind == "ACT":
            opened[key] = tick
        elif kind in ("RD", "WR", "PRE") and place >= 0 and not seen & {key, (pseudo_channel, _ALL_BANKS)}:
            opened.setdefault(key, start)
        seen.add(key)
        if kind == "PRE":
            closed = [key] if place >= 0 else [other for other in opened if other[0] == pseudo_channel]
            for each in closed:
                if each in opened:
                    yield each, "row open", opened.pop(each), tick
    for key, since in opened.items():
        yield key, "row open", since, end


def _refreshes(trace: DramTrace, frame: pd.DataFrame, end: int) -> Iterator[_Span]:
    lasts = {"REFab": trace.timing.nRFC, "REFpb": trace.timing.nRFCpb}
    part = frame[frame["name"].isin(list(lasts))]
    columns = (part[name].tolist() for name in ("tick", "pseudo_channel", "place", "name"))
    for tick, pseudo_channel, place, name in zip(*columns, strict=True):
        yield (pseudo_channel, place), "refreshing", tick, min(tick + lasts[name], end)


def _span_frame(spans: list[_Span], lanes: dict[Key, int]) -> pd.DataFrame:
    import pandas as pd

    rows = [(lanes[key], what, first, last) for key, what, first, last in spans if key in lanes]
    return pd.DataFrame(rows, columns=["lane", "what", "from_tick", "to_tick"])


def timeline_figure(table: Timeline) -> go.Figure:
    """Return the lanes over time: a mark per command, a bar per stretch of data, open row or refresh."""
    figure = go.Figure()
    if not len(table.commands):
        return nothing(figure, "no commands in this window")
    for what, (colour, width) in SPANS.items():
        part = table.spans[table.spans["what"] == what]
        if len(part):
            figure.add_scattergl(
                x=_with_gaps(part["from_tick"], part["to_tick"]), y=_with_gaps(part["lane"], part["lane"]),
                name=what, mode="lines", line={"color": colour, "width": width}, hoverinfo="skip",
            )  # fmt: skip
    for kind, (colour, symbol) in KINDS.items():
        part = table.commands[table.commands["kind"] == kind]
        if len(part):
            figure.add_scattergl(
                x=part["tick"].to_numpy(), y=part["lane"].to_numpy(), name=kind, mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 8, "line": {"width": 0.5, "color": "white"}},
                hovertext=_hover(part, table.tick_ns), hoverinfo="text",
            )  # fmt: skip
    titled(figure, f"time [ticks of {table.tick_ns:.4g} ns]", "")
    figure.update_layout(
        height=140 + _LANE_PIXELS * len(table.lanes), margin={"l": 150, "t": 60}, legend={"y": 1, "yanchor": "bottom"}
    )
    figure.update_xaxes(range=[table.start_tick - 0.5, table.end_tick - 0.5], tickformat=",d")
    return figure.update_yaxes(
        tickvals=list(range(len(table.lanes))), ticktext=list(table.lanes), range=[len(table.lanes) - 0.5, -0.5],
    )  # fmt: skip


def _with_gaps(firsts: pd.Series[Any], lasts: pd.Series[Any]) -> Array:
    """Return first, last and a gap of each, in one array."""
    return np.column_stack([firsts, lasts, np.full(len(firsts), np.nan)]).astype(np.float64).ravel()


def _hover(part: pd.DataFrame, tick_ns: float) -> list[str]:
    names = ("tick", "name", "bank_group", "bank", "row", "column", "arrival_tick", "outcome")
    texts = []
    for tick, name, *location, arrival, outcome in zip(*(part[each].tolist() for each in names), strict=True):
        words = zip(("bank group", "bank", "row", "column"), location, strict=True)
        lines = [f"{name} tick {tick:,} ({tick * tick_ns:,.1f} ns)"]
        lines += [", ".join(f"{word} {value}" for word, value in words if value >= 0)]
        lines += [f"{outcome}, arrived at tick {arrival:,}"] if outcome else []
        texts.append("<br>".join(line for line in lines if line))
    return texts


def timeline_text(table: Timeline) -> str:
    """Return the window in one sentence, with what is not drawn of it."""
    ticks = table.end_tick - table.start_tick
    where = f"Ticks {table.start_tick:,} to {table.end_tick - 1:,} of {', '.join(table.pseudo_channels)}"
    if not len(table.commands):
        return f"{where}: no commands."
    counts = table.commands["kind"].value_counts()
    kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in KINDS if kind in counts)
    banks = table.commands.loc[table.commands["place"] >= 0, ["pseudo_channel", "place"]].drop_duplicates()
    data = table.spans[table.spans["what"].isin(["read data", "write data"])]
    busy = int((data["to_tick"] - data["from_tick"]).sum()) / (ticks * len(table.pseudo_channels))
    text = (
        f"{where} ({ticks * table.tick_ns:,.1f} ns): {count(len(table.commands), 'command')} ({kinds}) "
        f"in {count(len(banks), 'bank')}; the data bus is busy {100 * busy:.1f} % of the time"
    )
    return f"{text}; {table.left_out:,} later commands of the window are not drawn." if table.left_out else f"{text}."
