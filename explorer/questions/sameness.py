"""Which designs of a comparison are the same, in words, and how its points are named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from explorer.questions.variants import Cell, Table

SHOWN = 3  # of lines that say the same of different points
SAME_RUN = "the same program on the same machine"


def same_sentences(table: Table) -> Iterator[str]:
    """Yield which designs are the same as an earlier one, and which points of the axes are the same to a design."""
    pairs: dict[tuple[int, int], list[str]] = {}
    points: dict[tuple[int, str], list[str]] = {}
    for cell, same in zip(table.cells, table.same, strict=True):
        at = place_of(table, cell)
        if same is not None:
            pairs.setdefault((cell.design, same), []).append(at)
        elif cell.answers:
            points.setdefault((cell.design, str(cell.keys)), []).append(at)
    labels = [design.label for design in table.designs]
    for (design, first), where in pairs.items():
        points_of_it = "" if len(where) == len(table.points) else f" at {listed(where)}"
        yield f"{labels[design]} is the same as {labels[first]}{points_of_it}: {SAME_RUN}"
    alike = [(labels[design], where) for (design, _), where in points.items() if len(where) > 1]
    for label, where in alike[:SHOWN]:
        yield f"{label} is the same at {listed(where)}: {SAME_RUN}"
    if len(alike) > SHOWN:
        yield f"and {len(alike) - SHOWN} more groups of points that are the same"


def place_of(table: Table, cell: Cell) -> str:
    """Return the point of a cell: a value on every axis."""
    return " ".join(f"{axis.path} {value}" for axis, value in zip(table.axes, cell.at, strict=True))


def listed(points: Iterable[str]) -> str:
    """Return the first of some points, and how many more there are."""
    found = list(points)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more
