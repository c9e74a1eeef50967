"""A what-if as text and as HTML: designs beside each other, or a line per point of a sweep; sentences below.

Pure functions of a `Table`. Below it stand where designs cross, what could not run, how the numbers came about, and
whether measurements back them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape

from explorer.questions.answer import Answer
from explorer.questions.sameness import listed, place_of
from explorer.questions.variants import Cell, Table, differences
from explorer.storage.row import all_numbers, per_unit, unit_name
from explorer.text.tables import align, number, percent, signed

Rows = list[list[str]]
SAME = "same"  # where a difference would stand
CANNOT = "cannot run"  # where a number would stand


def table_text(table: Table) -> str:
    """Return a table as lines of text, its title first."""
    return "\n".join([table.title, align(_rows(table), left=max(1, len(table.axes))), "", *notes(table)])


def table_html(table: Table) -> str:
    """Return a table as HTML, every text escaped."""
    head, *rows = _rows(table)
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    below = "".join(f"<p>{escape(line)}</p>" for line in notes(table))
    return f"<table><caption>{escape(table.title)}</caption><tr>{top}</tr>{body}</table>{below}"


def notes(table: Table) -> list[str]:
    """Return the lines below a table."""
    return [*table.sentences, *_refused(table), *_told(table, "", _source), *_told(table, "validation: ", _validation)]


def _source(answer: Answer) -> str:
    return answer.source


def _validation(answer: Answer) -> str:
    return answer.validation.text


def _rows(table: Table) -> Rows:
    return _swept(table) if table.axes else _compared(table)


def _compared(table: Table) -> Rows:
    """Return a line per number that is not 0 everywhere, each design with its difference from the first."""
    first, *others = (per_unit(all_numbers(cell.metrics)) for cell in table.cells)
    titles = [", ".join(f"{path}={value}" for path, value in design.values.items()) for design in table.designs]
    rows = [["", titles[0] or "baseline", *(cell for title in titles[1:] for cell in (title or "baseline", "")), ""]]
    changes = [
        None if same == 0 else differences(first, numbers) for numbers, same in zip(others, table.same[1:], strict=True)
    ]
    for name in dict.fromkeys(name for numbers in (first, *others) for name in numbers if not name.endswith("_hash")):
        if not any(numbers.get(name) for numbers in (first, *others)):
            continue
        shown_name = unit_name(name)
        cells = [shown_name, number(shown_name, first.get(name, ""))]
        for shown, difference in zip(others, changes, strict=True):
            change = SAME if difference is None else signed(difference.get(name))
            cells += [number(shown_name, shown.get(name, "" if shown or len(rows) > 1 else CANNOT)), change]
        rows.append([*cells, ""])
    return rows


def _swept(table: Table) -> Rows:
    """Return a line per point: for every design its cost, what that is more than the first's, and the gap."""
    heads = [[design.label, *(["change"] if place else []), "gap"] for place, design in enumerate(table.designs)]
    rows = [[*(axis.path for axis in table.axes), *(cell for head in heads for cell in head), "limited by"]]
    shown = table.goal.objective.shown
    for point in table.points:
        first, *others = table.at(point)
        cells = [*_cells(first, None, shown), *(text for cell in others for text in _cells(cell, first, shown))]
        limits = dict.fromkeys(answer.limited_by for cell in (first, *others) for answer in cell.answers)
        rows.append([*point, *cells, ", ".join(limits)])
    return rows


def _cells(cell: Cell, first: Cell | None, shown: Callable[[float], str]) -> Iterator[str]:
    cost, start = cell.cost, None if first is None else first.cost
    yield CANNOT if cost is None else shown(cost)
    if first is not None:
        change = "" if cost is None or not start else signed(cost / start - 1)
        yield SAME if change and cell.keys == first.keys else change
    yield "" if cell.gap is None else percent(cell.gap)


def _refused(table: Table) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for cell in table.cells:
        if not cell.answers:
            reasons.setdefault(cell.reason, []).append(_point(table, cell))
    for reason, points in reasons.items():
        yield f"{CANNOT} ({listed(points)}): {reason}"


def _told(table: Table, head: str, text: Callable[[Answer], str]) -> Iterator[str]:
    """Yield what is said of the answers, once, with the points where there are several sayings."""
    said: dict[str, dict[str, None]] = {}
    for cell in table.cells:
        for answer in cell.answers:
            said.setdefault(text(answer), {})[_point(table, cell)] = None
    for line, points in said.items():
        yield f"{head}{line}" if len(said) == 1 else f"{head}{listed(points)}: {line}"


def _point(table: Table, cell: Cell) -> str:
    at = place_of(table, cell)
    label = [table.designs[cell.design].label] if len(table.designs) > 1 or not at else []
    return " ".join([*([at] if at else []), *label])
