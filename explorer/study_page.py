"""The answer of a study to its question: tables of what was measured, sentences computed from them, what is left out.

Last in the data's path: a study in `studies/` measures rows (in processes: `in_parallel`), puts them into words, and
gives both as an `Answer`; `markdown` makes a page of it and `pictures` a second one that opens offline. `command` is
the main function of such a study. Sentences say what the rows say: words of comparison come from `compared`, so that a
table that comes out the other way round is not described as it was expected.

Not here: searches with a certificate (`explorer.search`), and reports of results folders (`explorer.report`).
"""

from __future__ import annotations

import argparse
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from explorer.files import write_atomically
from explorer.workers import workers

if TYPE_CHECKING:
    import plotly.graph_objects as go

Value: TypeAlias = str | int | float | None
Row: TypeAlias = Mapping[str, Value]
_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

SAME = 0.001  # assumed: what differs by less than a thousandth is called the same


@dataclass(frozen=True)
class Picture:
    """How a table is drawn: `y` over `x`, a line (or bars, where x is no number) for each value of `by`."""

    x: str
    y: str
    by: str
    logarithmic: bool = False


@dataclass(frozen=True)
class Table:
    """Rows with the same keys, under a title."""

    title: str
    rows: tuple[Row, ...]
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a study found.

    `name`: of its file. `setting`: what was run. `sentences`: the answer, the most important one first. `limits`: what
    was not simulated, and what of the model has not been held against measurements.
    """

    name: str
    question: str
    setting: tuple[str, ...]
    sentences: tuple[str, ...]
    tables: tuple[Table, ...]
    limits: tuple[str, ...]


def in_parallel(function: Callable[[_Item], _Answer], items: Iterable[_Item], jobs: int) -> list[_Answer]:
    """Return what a function of a module gives for every item, in their order, computed by so many processes."""
    with workers(jobs) as pool:
        return list(pool.map(function, items))


def compared(value: float, other: float, less: str = "less", more: str = "more") -> str:
    """Return how a value differs from another: "12.0 % less", "3.20 times as much", or "as much"."""
    if other <= 0:
        raise ValueError(f"compared with {other}; allowed: a positive number")
    ratio = value / other
    if abs(ratio - 1) < SAME:
        return "as much"
    if ratio >= 2:
        return f"{ratio:.2f} times as much"
    return f"{100 * abs(ratio - 1):.1f} % {less if ratio < 1 else more}"


def ties(rows: Sequence[Row], column: str) -> list[Row]:
    """Return the rows whose number in a column is the smallest, or as small but for a thousandth."""
    smallest = number(least(rows, column), column)
    return [row for row in rows if number(row, column) <= smallest * (1 + SAME)]


def least(rows: Sequence[Row], column: str) -> Row:
    """Return the first of the rows with the smallest number in a column; ValueError without rows."""
    return min(rows, key=lambda row: number(row, column))


def most(rows: Sequence[Row], column: str) -> Row:
    """Return the first of the rows with the largest number in a column; ValueError without rows."""
    return max(rows, key=lambda row: number(row, column))


def number(row: Row, column: str) -> float:
    """Return a number of a row; ValueError where it is none."""
    value = row[column]
    if isinstance(value, int | float):
        return value
    raise ValueError(f"column {column}: {value!r} is no number")


def where(rows: Sequence[Row], **values: Value) -> list[Row]:
    """Return the rows with these values; ValueError where there are none."""
    found = [row for row in rows if all(row[name] == value for name, value in values.items())]
    if not found:
        raise ValueError(f"no row has {values}")
    return found


def listed(words: Sequence[object]) -> str:
    """Return words as a sentence lists them: "a, b and c"."""
    texts = [str(word) for word in words]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


# --- pages ------------------------------------------------------------------------------------------------------------


def markdown(answer: Answer) -> str:
    """Return the page of an answer."""
    parts = [
        f"# {answer.question}",
        f"The answer of `python studies/{answer.name}.py`, which writes this page.",
        "\n".join(f"- {sentence}" for sentence in answer.sentences),
        "## What was run",
        "\n".join(f"- {line}" for line in answer.setting),
        *(part for table in answer.tables for part in (f"## {table.title}", table_text(table.rows))),
        "## What this does not say",
        "\n".join(f"- {line}" for line in answer.limits),
    ]
    return "\n\n".join(parts) + "\n"


def table_text(rows: Sequence[Row]) -> str:
    """Return rows as a table in Markdown, a column for every key of the first row."""
    columns = list(rows[0])
    lines = [columns, ["---" if isinstance(rows[0][name], str) else "---:" for name in columns]]
    lines += [[_cell(row[name]) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value.replace("|", "\\|")


def figure(rows: Sequence[Row], picture: Picture) -> go.Figure:
    """Return a picture of rows."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    for name in dict.fromkeys(row[picture.by] for row in rows):
        mine = [row for row in rows if row[picture.by] == name]
        x, y = [[row[column] for row in mine] for column in (picture.x, picture.y)]
        if any(isinstance(value, str) for value in x):
            drawn.add_bar(x=x, y=y, name=str(name))
        else:
            drawn.add_scatter(x=x, y=y, name=str(name), mode="lines+markers")
    drawn.update_layout(xaxis_title=picture.x, yaxis_title=picture.y, legend_title=picture.by)
    return drawn.update_xaxes(type="log") if picture.logarithmic else drawn


def pictures(answer: Answer) -> str:
    """Return a page with the sentences of an answer and the pictures of its tables, for `plotly.min.js` beside it."""
    from explorer.report.page import page, section
    from explorer.views.look import shielded

    body = [f"<p>{html.escape(sentence)}</p>" for sentence in answer.sentences]
    for table in answer.tables:
        for picture in table.pictures:
            text = f"{picture.y} over {picture.x}, for every {picture.by}."
            body.append(section(table.title, text, shielded(figure(table.rows, picture)), f"figure-{len(body)}"))
    return page(answer.question, body)


def command(study: Callable[[int], Answer], about: str, arguments: Sequence[str] | None = None) -> None:
    """Run a study, `study(jobs)`: print its sentences and tables, and write its pages."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--page", type=Path, help="write the answer into this file of Markdown")
    parser.add_argument("--figures", type=Path, help="write the figures into this folder, as a page that opens offline")
    given = parser.parse_args(arguments)
    answer = study(given.jobs)
    page = markdown(answer)
    print(page, end="")
    if given.page is not None:
        write_atomically(given.page, page.encode())
    if given.figures is not None:
        write_pictures(answer, given.figures)


def write_pictures(answer: Answer, folder: Path) -> None:
    """Write the page of pictures, and the script it needs, into a folder."""
    from plotly.offline import get_plotlyjs

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "plotly.min.js", get_plotlyjs().encode())
    write_atomically(folder / f"{answer.name}.html", pictures(answer).encode())
