"""R8: where the energy of designs goes, by component. Area, and the energy of an instruction, are not modelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from explorer.objective import ENERGY, at_least_joules, joules
from explorer.row import flatten
from explorer.tables import percent
from explorer.views.look import MUTED, coloured, titled
from explorer.views.run_data import RunData
from explorer.views.study_data import BASELINE, BEST, StudyData
from explorer.views.view import NotShown, View

if TYPE_CHECKING:
    import pandas as pd

PJ_PER_US_PER_W = 1e6
_COMPONENT = "energy_by_component_pj."
_COLOURS = {
    "hbm activate": "#D55E00",
    "hbm array": "#E69F00",
    "hbm io": "#F0E442",
    "hbm refresh": "#882255",
    "sram": "#CC79A7",
    "noc": "#999999",
    "matrix": "#009E73",
    "vector": "#0072B2",
    "static": "#332288",
}


def energies(designs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return columns design, component, energy_pj of flat rows by name; whole and bound under "total" and "bound"."""
    import pandas as pd

    records = []
    for name, row in designs.items():
        if "energy_pj" not in row:
            raise NotShown("the machine's description has no energies")
        parts = {column.removeprefix(_COMPONENT): row[column] for column in row if column.startswith(_COMPONENT)}
        parts |= {"total": row["energy_pj"], "bound": row["energy_bound_pj"], "time_us": row["time_us"]}
        records += [{"design": name, "component": part, "energy_pj": float(value)} for part, value in parts.items()]
    return pd.DataFrame(records)


def _of_study(study: StudyData) -> pd.DataFrame:
    return energies({BASELINE: study.baseline, BEST: study.best})


def _of_run(run: RunData) -> pd.DataFrame:
    return energies({"This run": dict(flatten(run.metrics))})


def figure(table: pd.DataFrame) -> go.Figure:
    wide = table.pivot(index="design", columns="component", values="energy_pj").loc[table["design"].unique()]
    names = [str(name) for name in table["component"].unique() if name not in ("total", "bound", "time_us")]
    colours = coloured(names, _COLOURS, MUTED)
    drawing = go.Figure()
    for name in names:
        parts = [float(value) for value in wide[name].fillna(0)]
        if any(parts):
            drawing.add_bar(x=list(wide.index), y=parts, name=name, marker={"color": colours[name]})
    return titled(drawing, "design", ENERGY.axis).update_layout(barmode="stack", showlegend=True)


def text(table: pd.DataFrame) -> str:
    said = []
    for name, part in table.groupby("design", sort=False):
        row = dict(zip(part["component"], part["energy_pj"], strict=True))
        total, bound, time_us = row.pop("total"), row.pop("bound"), row.pop("time_us")
        largest = max(row, key=lambda component: row[component], default="")
        most = f", {percent(row[largest] / total)} of it in {largest}" if total and largest else ""
        power = f"{total / time_us / PJ_PER_US_PER_W:.0f} W while it runs, " if time_us else ""
        said.append(f"{name}: {joules(total)} ({power}at least {at_least_joules(bound)} whatever the order){most}")
    return f"{'; '.join(said)}."


VIEW = View("R8", "energy", "Energy", _of_study, text, figure)
RUN = View("R8", "energy", "Energy", _of_run, text, figure)
