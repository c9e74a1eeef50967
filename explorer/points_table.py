"""The evaluated points as a table of a page, and as a CSV file that no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from explorer.tables import number

if TYPE_CHECKING:
    import pandas as pd

    from explorer.objective import Objective

MAX_LINES = 1000  # assumed: browsers slow down above; all are in the CSV file
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
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def points_table(rows: pd.DataFrame, settings: Sequence[str], objectives: Sequence[Objective]) -> str:
    """Return the points as an HTML table, the best of the first objective where they are too many."""
    columns = shown_columns(rows, settings, objectives)
    first = objectives[0]
    shown = rows if len(rows) <= MAX_LINES else rows.nsmallest(MAX_LINES, first.metric)
    lines = [_line("th", columns, columns)]
    lines += [_line("td", columns, row) for row in shown[columns].itertuples(index=False)]
    caption = f"<p>{len(shown)} of {len(rows)} points{'' if shown is rows else f', the {first.better} ones'}.</p>"
    return f'{caption}<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def shown_columns(rows: pd.DataFrame, settings: Sequence[str], objectives: Sequence[Objective]) -> list[str]:
    """Return the columns that a reader looks at first."""
    asked = [name for objective in objectives for name in (objective.bound, objective.metric)]
    return [name for name in dict.fromkeys(["point", "status", *settings, *asked, *_COLUMNS]) if name in rows]


def cell_text(column: str, value: Any) -> str:
    """Return one value as it is shown: numbers with their unit, nothing where there is none."""
    import pandas as pd

    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else number(column, getattr(value, "item", lambda: value)())


def points_csv(rows: pd.DataFrame) -> str:
    """Return all points with all columns as CSV; a text that a spreadsheet would compute gets a ' before it."""
    import pandas as pd

    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([_inert(str(name)) for name in rows.columns])
    for row in rows.itertuples(index=False):
        writer.writerow([_inert(v) if isinstance(v, str) else "" if pd.isna(v) else v for v in row])
    return buffer.getvalue()


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _line(tag: str, columns: Sequence[str], values: Sequence[Any]) -> str:
    return "<tr>" + "".join(_cell(tag, column, value) for column, value in zip(columns, values, strict=True)) + "</tr>"


def _cell(tag: str, column: str, value: Any) -> str:
    kind = ' class="text"' if isinstance(value, str) else ""
    return f"<{tag}{kind}>{html.escape(cell_text(column, value))}</{tag}>"
