"""Columns of knob values, cut into groups that have some values in common, and results put back in their places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from hwmodel.bound_table import Counts, Demand

Array = np.ndarray[Any, Any]
Columns = Mapping[str, Array]  # equally long


def groups(columns: Columns, names: Sequence[str]) -> Iterator[tuple[Array, dict[str, Any]]]:
    """Yield the rows of every distinct combination of values of `names`, and these values."""
    which = np.zeros(len(next(iter(columns.values()))), np.int64)
    for name in names:
        values, numbers = np.unique(columns[name], return_inverse=True)
        which = np.unique(which * len(values) + numbers.reshape(-1), return_inverse=True)[1].reshape(-1)
    order = np.argsort(which, kind="stable")
    edges = np.flatnonzero(np.diff(which[order], prepend=-1, append=-1))
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        rows = order[begin:end]
        yield rows, {name: columns[name][rows[0]].item() for name in names}


def distinct(columns: Sequence[Array]) -> tuple[list[Array], Array]:
    """Return the distinct rows of columns of integers, as columns, and which of them every row is."""
    found, which = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    return list(found.T), which.reshape(-1)


class Gathered:
    """The demands and the counts of all points, filled group by group."""

    def __init__(self, points: int, phases: int) -> None:
        self._points = points
        self._phases: list[dict[str, Array]] = [
            {entry.name: np.zeros(points, np.int64) for entry in fields(Demand)} for _ in range(phases)
        ]
        self._counts: dict[tuple[str, str], Array] = {}

    def put(self, rows: Array, which: Array, phases: Sequence[Demand], counts: Counts) -> None:
        """Put what some rows demand: of the cases that `phases` and `counts` have, number `which` of each.

        There may be fewer phases than others have.
        """

        def spread(values: Any) -> Any:
            return values[which] if np.size(values) > 1 else values

        for demand, there in zip(phases, self._phases, strict=False):
            for name, values in vars(demand).items():
                there[name][rows] = spread(values)
        for name, values in vars(counts).items():
            group = values if isinstance(values, dict) else {"": values}
            for key, numbers in group.items():
                column = self._counts.setdefault((name, key), np.zeros(self._points, np.int64))
                column[rows] = spread(numbers)

    @property
    def phases(self) -> tuple[Demand, ...]:
        return tuple(Demand(**values) for values in self._phases)

    @property
    def counts(self) -> Counts:
        groups: dict[str, dict[str, Array]] = {"macs": {}, "vector": {}}
        plain = {name: column for (name, _), column in self._counts.items() if name not in groups}
        for (name, key), column in self._counts.items():
            if name in groups:
                groups[name][key] = column
        return Counts(**plain, macs=dict(groups["macs"]), vector=dict(groups["vector"]))
