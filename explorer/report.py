"""The report: one folder that opens offline, made from the rows in a results folder and from nothing else.

`report.html` holds the table, the figures with their sentences, all evaluated points and the provenance;
`plotly.min.js` lies beside it. Every text that a study can choose is escaped. Both files are written whole or
not at all.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer import figures
from explorer.balance import balance_of
from explorer.details import Details
from explorer.files import write_atomically
from explorer.objective import Objective
from explorer.provenance import provenance
from explorer.store import read_details, rows_frame
from explorer.summary import Summary, summarise
from explorer.tables import number, result_table, verdict

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MAX_LINES = 1000  # of the table of points; assumed: browsers slow down above; all are in points.parquet
PAGE, SCRIPT = "report.html", "plotly.min.js"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 2em auto; padding: 0 1em; color: #222 }
pre { background: #f4f4f4; padding: 1em; font-size: 12px; overflow-x: auto }
table { border-collapse: collapse; font-size: 13px }
td, th { padding: 2px 10px; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
td.text, th.text { text-align: left }
.wide { overflow-x: auto; max-height: 32em }
footer { color: #555 }
"""
_CONFIG = {"displaylogo": False, "showSendToCloud": False}  # no button that uploads the figure
_COLUMNS = (
    "time_us",
    "energy_pj",
    "hbm_bandwidth_fraction",
    "hbm_read_bytes",
    "row_hits",
    "row_misses",
    "row_conflicts",
    "limited_by",
)


def write_report(folder: Path) -> Path:
    """Write the report of a results folder into it and return the page's path; ValueError without results."""
    page = render(summarise(folder), rows_frame(folder), *_details(folder))
    from plotly.offline import get_plotlyjs

    write_atomically(folder / SCRIPT, get_plotlyjs().encode())
    write_atomically(folder / PAGE, page.encode())
    return folder / PAGE


def _details(folder: Path) -> tuple[Details, Details]:
    summary = summarise(folder)
    return read_details(folder, int(summary.baseline["point"])), read_details(folder, int(summary.best["point"]))


def render(summary: Summary, rows: pd.DataFrame, baseline: Details, best: Details) -> str:
    """Return the page."""
    study = summary.identity.study
    body = [
        f"<h1>{html.escape(study.name)}</h1>",
        f"<p>{html.escape(summary.identity.title)}</p>",
        f"<pre>{html.escape(result_table(summary))}\n{html.escape(verdict(summary))}</pre>",
        *_search_sections(summary, rows),
        *_machine_sections(baseline, best),
        "<h2>Points</h2>",
        _points_table(rows, summary.identity.settings, summary.objective),
        _invalid(summary.invalid),
        _footer(summary),
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(study.name)}</title><style>{STYLE}</style>'
    script = f'<script src="{SCRIPT}"></script>'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}{script}</head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _search_sections(summary: Summary, rows: pd.DataFrame) -> list[str]:
    search = (rows, summary.certificate.bound, summary.objective)
    traffic = (rows, summary.objective)
    sections = [
        section("Search", figures.history_text(*search), figures.history(*search), "history"),
        section("Time and traffic", figures.traffic_text(*traffic), figures.traffic(*traffic), "traffic"),
    ]
    pair = (summary.baseline, summary.best)
    if all("energy_pj" in row for row in pair):
        sections.append(section("Energy", figures.energy_text(*pair), figures.energy(*pair), "energy"))
    return sections


def _machine_sections(baseline: Details, best: Details) -> list[str]:
    frames = (baseline.bandwidth, best.bandwidth)
    highest = max(int(details.banks["activates"].max()) for details in (baseline, best))
    sections = [section("Bandwidth", figures.bandwidth_text(*frames), figures.bandwidth(*frames), "bandwidth")]
    runs = {"Baseline": baseline, "Best found": best}
    loads = {name: balance_of(details.banks["bursts"]) for name, details in runs.items() if "bursts" in details.banks}
    if loads:  # a results folder of an older version has none
        sections.append(section("Balance", figures.balance_text(loads), figures.balance(loads), "balance"))
    for name, details in runs.items():
        banks = details.banks
        text = figures.bank_text(name, banks["activates"], banks["conflicts"])
        heat = figures.bank_heat(banks["activates"], highest)
        sections.append(section(f"Banks: {name.lower()}", text, heat, f"banks-{name.split()[0].lower()}"))
    return sections


def section(title: str, text: str, figure: go.Figure, name: str) -> str:
    """Return a heading, the sentence, and the figure below it; `name` is the figure's, unique on its page."""
    drawing = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=_CONFIG)
    return f"<h2>{html.escape(title)}</h2>\n<p>{html.escape(text)}</p>\n{drawing}"


def _points_table(rows: pd.DataFrame, settings: Sequence[str], objective: Objective) -> str:
    columns = ["point", "status", *settings, objective.bound, *(name for name in _COLUMNS if name in rows)]
    columns = [name for name in columns if name in rows]
    shown = rows if len(rows) <= MAX_LINES else rows.nsmallest(MAX_LINES, objective.metric)
    lines = [_line("th", columns, columns)]
    lines += [_line("td", columns, row) for row in shown[columns].itertuples(index=False)]
    caption = f"<p>{len(shown)} of {len(rows)} points{'' if shown is rows else f', the {objective.better} ones'}.</p>"
    return f'{caption}<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def _line(tag: str, columns: Sequence[str], values: Sequence[Any]) -> str:
    return "<tr>" + "".join(_cell(tag, column, value) for column, value in zip(columns, values, strict=True)) + "</tr>"


def _cell(tag: str, column: str, value: Any) -> str:
    import pandas as pd

    if isinstance(value, str):
        return f'<{tag} class="text">{html.escape(value)}</{tag}>'
    text = "" if pd.isna(value) else number(column, getattr(value, "item", lambda: value)())
    return f"<{tag}>{html.escape(text)}</{tag}>"


def _invalid(reasons: Counter[str]) -> str:
    if not reasons:
        return ""
    lines = (f"<li>{count} times: {html.escape(reason)}</li>" for reason, count in reasons.most_common(10))
    return f"<p>{reasons.total()} points cannot run:</p><ul>{''.join(lines)}</ul>"


def _footer(summary: Summary) -> str:
    facts = "".join(
        f'<tr><td class="text">{html.escape(name)}</td><td class="text">{html.escape(text)}</td></tr>'
        for name, text in provenance(summary.identity).items()
    )
    study = html.escape(json.dumps(summary.identity.study.model_dump(), indent=1, ensure_ascii=False))
    note = "The simulation is deterministic: the same study and versions give the same numbers."
    return f"<footer><h2>Provenance</h2><p>{note}</p><table>{facts}</table><pre>{study}</pre></footer>"
