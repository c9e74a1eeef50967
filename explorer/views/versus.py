"""R9: two designs beside each other: every number with its difference, and what made the time another one.

The accounts are those of `explorer.compare`: the causes of the average unit add up to the time, so their differences
add up to the difference in time; told is the kind of unit whose own work and obstacles come nearest to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from explorer.compare import CAUSES, UNITS, WAITING
from explorer.storage.row import flatten, per_unit, unit_name
from explorer.study.objective import microseconds
from explorer.text.tables import number, signed
from explorer.views.look import BASELINE, BEST, OTHER, titled
from explorer.views.run_data import RunData
from explorer.views.study_data import StudyData
from explorer.views.view import NotShown, View

if TYPE_CHECKING:
    import pandas as pd

LESS, MORE = "#009E73", "#D55E00"
MOST_NUMBERS = 60


@dataclass(frozen=True)
class Versus:
    """Two designs. `causes`: columns cause, difference_us of the unit told; `numbers`: name, a, b, relative."""

    names: tuple[str, str]
    times_us: tuple[float, float]
    told: str
    causes: pd.DataFrame
    numbers: pd.DataFrame


def _of_study(study: StudyData) -> Versus:
    if study.best["point"] == study.baseline["point"]:
        raise NotShown("the baseline is the best found")
    hidden = {*study.settings, "point", "batch", "key", "status", "reason"}
    rows = [{k: v for k, v in row.items() if k not in hidden} for row in (study.baseline, study.best)]
    return versus(("baseline", "best found"), *rows)


def of_runs(runs: tuple[RunData, RunData]) -> Versus:
    """Compare two runs by their nested metrics."""
    return versus((runs[0].title, runs[1].title), *({**flatten(run.metrics)} for run in runs))


def versus(names: tuple[str, str], first: Mapping[str, Any], second: Mapping[str, Any]) -> Versus:
    import pandas as pd

    a, b = per_unit(first), per_unit(second)
    change = float(b["time_us"]) - float(a["time_us"])
    accounts: dict[str, dict[str, float]] = {}
    both = {name.split(".")[1] for name in a if name.startswith("stalls.")}
    both &= {name.split(".")[1] for name in b if name.startswith("stalls.")}
    for name in dict.fromkeys([*a, *b]):
        if name.startswith("stalls.") and name.split(".")[1] in both:
            _, unit, cause = name.split(".", 2)
            accounts.setdefault(unit, {})[cause] = float(b.get(name, 0)) - float(a.get(name, 0))
    if not accounts:
        raise NotShown("not both have an account of their time")
    told = min(accounts, key=lambda unit: abs(change - sum(d for c, d in accounts[unit].items() if c not in WAITING)))
    causes = sorted(accounts[told].items(), key=lambda entry: (-abs(entry[1]), entry[0]))
    frame = pd.DataFrame([(c, d) for c, d in causes if d], columns=["cause", "difference_us"])
    return Versus(names, (float(a["time_us"]), float(b["time_us"])), told, frame, _numbers(a, b))


def _numbers(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    records = []
    for name in dict.fromkeys([*a, *b]):
        one, other = a.get(name), b.get(name)
        if one == other or name.endswith("_hash"):
            continue
        relative = None
        if isinstance(one, int | float) and isinstance(other, int | float) and one:
            relative = other / one - 1
        records.append((unit_name(name), one, other, relative))
    return pd.DataFrame(records, columns=["name", "a", "b", "relative"], dtype=object)


def figure(table: Versus) -> go.Figure:
    a, b = table.names
    causes = [CAUSES.get(cause, cause) for cause in table.causes["cause"]]
    drawing = go.Figure()
    drawing.add_waterfall(
        x=[a, *causes, b], measure=["absolute", *["relative"] * len(causes), "total"],
        y=[table.times_us[0], *table.causes["difference_us"], 0.0], name="time",
        increasing={"marker": {"color": MORE}}, decreasing={"marker": {"color": LESS}},
        totals={"marker": {"color": BEST}}, connector={"line": {"color": OTHER}},
    )  # fmt: skip
    drawing.add_scatter(
        x=[a, b], y=[table.times_us[0]] * 2, mode="lines", name=f"{a}'s time", line={"color": BASELINE, "dash": "dash"}
    )
    titled(drawing, f"causes, in the account of the average {UNITS.get(table.told, table.told)}", "time [us]")
    return drawing.update_xaxes(type="category")


def text(table: Versus) -> str:
    before, after = table.times_us
    words = [
        f"{CAUSES.get(cause, cause)} {change:+,.3g} us"
        for cause, change in table.causes.head(3).itertuples(index=False)
    ]
    rest = float(table.causes["difference_us"].iloc[3:].sum())
    words += [f"all else {rest:+,.3g} us"] if rest else []
    share = f" ({signed(after / before - 1)})" if before else ""
    return (
        f"{table.names[1]} takes {microseconds(after)}, {table.names[0]} {microseconds(before)}{share}. In the account "
        f"of the average {UNITS.get(table.told, table.told)}: {', '.join(words) or 'no difference'}."
    )


def numbers_figure(table: Versus) -> go.Figure:
    shown = table.numbers.head(MOST_NUMBERS)
    cells = [
        list(shown["name"]),
        *([_cell(name, value) for name, value in zip(shown["name"], shown[part], strict=True)] for part in ("a", "b")),
        ["" if value is None else signed(float(value)) for value in shown["relative"]],
    ]
    drawing = go.Figure()
    drawing.add_table(
        header={"values": ["number", *table.names, "difference"], "align": "left", "fill": {"color": "#e8eef4"}},
        cells={"values": cells, "align": ["left", "right", "right", "right"]}, columnwidth=[3, 2, 2, 1],
    )  # fmt: skip
    return titled(drawing, "", "").update_layout(height=min(700, 130 + 22 * len(shown)), margin={"l": 10})


def _cell(name: str, value: Any) -> str:
    return "-" if value is None or value != value else number(name, value)


def numbers_text(table: Versus) -> str:
    left = len(table.numbers) - MOST_NUMBERS
    more = f", the first {MOST_NUMBERS} listed" if left > 0 else ""
    return f"{len(table.numbers)} numbers differ{more}; stalls are microseconds of the average unit."


VIEW = View("R9", "versus", "Best found against baseline", _of_study, text, figure)
NUMBERS = View("R9", "numbers", "Every number of both", _of_study, numbers_text, numbers_figure)
RUNS = View("R9", "versus", "Against the baseline", of_runs, text, figure)
RUN_NUMBERS = View("R9", "numbers", "Every number of both", of_runs, numbers_text, numbers_figure)
