"""R3: where the time went: phase, unit, instruction and cause where it was recorded, else unit and cause.

Microseconds of one unit, so that the causes of a unit add up to the time of the run.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from explorer.compare import CAUSES
from explorer.text.tables import percent
from explorer.views.look import CAUSE_COLOURS, UNIT_COLOURS, coloured, titled
from explorer.views.run_data import RunData
from explorer.views.view import View
from hwmodel.program import QUEUES
from hwmodel.units import FS_PER_US

if TYPE_CHECKING:
    import pandas as pd

    from hwmodel.timeline import Timeline

MOST_NAMES = 12  # instructions of a unit and phase that are named; the rest are one
IDLE = "no work"


def _table(run: RunData) -> pd.DataFrame:
    """Return columns path (tuple of names from the outside in; the last is the cause) and time_us."""
    import pandas as pd

    if run.timeline is not None:
        times = _recorded(run.timeline)
    else:
        times = {}
        for unit, causes in run.table("stalls").items():
            whole = sum(causes.values()) or 1
            for cause, spent in causes.items():
                if spent:
                    times[(unit, cause)] = spent * run.metrics["time_us"] / whole
    return pd.DataFrame({"path": list(times), "time_us": list(times.values())})


def _recorded(timeline: Timeline) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = defaultdict(float)
    scale = FS_PER_US * timeline.cores
    for span in timeline.spans:
        during = next((p.name for p in timeline.phases if span.from_fs < p.to_fs), timeline.phases[-1].name)
        name = timeline.executions[span.execution].name
        found[during, QUEUES[span.queue], name, span.cause] += (span.to_fs - span.from_fs) / scale
    lengths: dict[str, float] = defaultdict(float)  # phases of one name are one
    for phase in timeline.phases:
        lengths[phase.name] += (phase.to_fs - phase.from_fs) / FS_PER_US
    for name, length_us in lengths.items():
        for unit in QUEUES:
            rest = length_us - sum(time for path, time in found.items() if path[:2] == (name, unit))
            if rest > 1e-9:
                found[name, unit, IDLE] += rest
    return _few(found)


def _few(times: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """Return the times with all but the longest instructions of a unit and phase in one."""
    totals: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for path, time_us in times.items():
        if len(path) == 4:
            totals[path[0], path[1]][path[2]] += time_us
    kept = {key: sorted(names, key=lambda n: -names[n])[:MOST_NAMES] for key, names in totals.items()}
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for path, time_us in times.items():
        if len(path) == 4 and path[2] not in kept[path[0], path[1]]:
            path = (*path[:2], "others", path[3])
        found[path] += time_us
    return dict(found)


def figure(table: pd.DataFrame) -> go.Figure:
    nodes: dict[tuple[str, ...], float] = {}
    for path, time_us in table.itertuples(index=False):
        for depth in range(1, len(path) + 1):
            nodes[path[:depth]] = nodes.get(path[:depth], 0.0) + time_us
    colours = coloured(sorted({path[-1] for path in nodes}), UNIT_COLOURS | CAUSE_COLOURS, ("#EEEEEE",))
    drawing = go.Figure()
    drawing.add_icicle(
        ids=["/".join(path) for path in nodes], labels=[path[-1] for path in nodes],
        parents=["/".join(path[:-1]) for path in nodes], values=list(nodes.values()), branchvalues="total",
        marker={"colors": [colours[path[-1]] for path in nodes]}, tiling={"orientation": "v"}, sort=False,
        hovertemplate="%{id}<br>%{value:.4g} us of one unit<extra></extra>",
    )  # fmt: skip
    return titled(drawing, "", "").update_layout(height=480, margin={"l": 10, "r": 10, "b": 10})


def text(table: pd.DataFrame) -> str:
    by_unit: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for path, time_us in table.itertuples(index=False):
        by_unit[path[1] if len(path) > 2 else path[0]][path[-1]] += time_us
    parts = []
    for unit, causes in by_unit.items():
        whole = sum(causes.values())
        largest: Any = max(causes, key=lambda cause: causes[cause])
        if largest == IDLE and causes[IDLE] == whole:
            continue
        words = CAUSES.get(largest, largest)
        parts.append(f"{unit} most of it on {words} ({percent(causes[largest] / whole)})")
    return f"Of the time of one unit (widths are microseconds): {'; '.join(parts)}."


VIEW = View("R3", "time", "Where the time went", _table, text, figure)
