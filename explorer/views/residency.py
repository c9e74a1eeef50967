"""R7: what the scratchpad of a core holds over time: blocks with data that is loaded and still to be used, by tensor.

A lane is a block (buffer[slot]), not an address: blocks of one buffer follow one another in the scratchpad. Blocks that
units compute are not drawn.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from explorer.text.tables import percent
from explorer.views.look import SERIES, count, titled
from explorer.views.run_data import RunData
from explorer.views.view import NotShown, View
from hwmodel.program import QUEUES
from hwmodel.timeline import USEFUL, held
from hwmodel.units import FS_PER_US

if TYPE_CHECKING:
    import pandas as pd

    from hwmodel.timeline import Timeline

MAX_BARS = 2000
MAX_LANES = 64
_KIB = 1024


@dataclass(frozen=True)
class Residency:
    """`blocks`: columns block, tensor, from_us, to_us, of the busiest core; `high_bytes` held at most."""

    core: int
    blocks: pd.DataFrame
    high_bytes: int
    capacity_bytes: int | None
    left_out: int  # intervals


def _table(run: RunData) -> Residency:
    return residency(run.recorded(), run.memory.sram_bytes if run.memory else None)


def residency(timeline: Timeline, capacity_bytes: int | None = None) -> Residency:
    import pandas as pd

    used = {each.core: max(each.values) for each in timeline.counts if each.name == "scratchpad bytes" and each.values}
    if not used:
        raise NotShown("nothing was loaded into a scratchpad")
    core = max(used, key=lambda number: (used[number], -number))
    records = _held(timeline, core)
    lanes = list(dict.fromkeys(record["block"] for record in records))[:MAX_LANES]
    kept = [record for record in records if record["block"] in lanes][:MAX_BARS]
    columns = ["block", "tensor", "from_us", "to_us"]
    frame = pd.DataFrame(kept, columns=columns)
    return Residency(core, frame, int(used[core]), capacity_bytes, len(records) - len(kept))


def _held(timeline: Timeline, core: int) -> list[dict[str, str | float]]:
    begun: dict[int, int] = {}
    for span in timeline.spans:
        if span.cause == USEFUL and span.core == core:
            begun.setdefault(span.execution, span.from_fs)
    fills: dict[str, list[tuple[int, str]]] = defaultdict(list)
    uses: dict[str, list[tuple[int, int]]] = defaultdict(list)
    load = QUEUES.index("load")
    for number, each in enumerate(timeline.executions):
        for block in each.blocks if each.core == core else ():
            if each.queue == load:
                fills[block].append((each.done_fs, each.name.removeprefix("load ")))
            elif number in begun:
                uses[block].append((begun[number], each.done_fs))
    records: list[dict[str, str | float]] = []
    for block, filled in fills.items():
        tensors = dict(filled)
        for from_fs, to_fs in held([time_fs for time_fs, _ in filled], uses[block], timeline.makespan_fs):
            times = {"from_us": from_fs / FS_PER_US, "to_us": to_fs / FS_PER_US}
            records.append({"block": block, "tensor": tensors[from_fs], **times})
    return sorted(records, key=lambda record: (record["from_us"], record["block"]))


def figure(table: Residency) -> go.Figure:
    drawing = go.Figure()
    for (tensor, part), colour in zip(table.blocks.groupby("tensor", sort=True), cycle(SERIES), strict=False):
        drawing.add_bar(
            base=list(part["from_us"]), x=list(part["to_us"] - part["from_us"]), y=list(part["block"]), orientation="h",
            name=str(tensor), marker={"color": colour, "line": {"width": 0}},
        )  # fmt: skip
    lanes = sorted(table.blocks["block"].unique())
    titled(drawing, "time [us]", "block of the scratchpad").update_layout(
        height=160 + 22 * len(lanes), margin={"l": 140}, barmode="overlay", showlegend=True
    )
    return drawing.update_yaxes(type="category", autorange="reversed", categoryorder="array", categoryarray=lanes)


def text(table: Residency) -> str:
    of = ""
    if table.capacity_bytes:
        of = f" of {table.capacity_bytes / _KIB:,.0f} KiB ({percent(table.high_bytes / table.capacity_bytes)})"
    left = f" {count(table.left_out, 'interval')} are not drawn." if table.left_out else ""
    return (
        f"Core {table.core} holds most: up to {table.high_bytes / _KIB:,.1f} KiB{of} of loaded data that is still to "
        f"be used, in {count(table.blocks['block'].nunique(), 'block')}.{left}"
    )


VIEW = View("R7", "residency", "What the scratchpad holds", _table, text, figure)
