"""Lower bounds of many points of one query at once: columns of settings in, columns of bounds out.

Beside `evaluate`, whose door it stands behind. Points are grouped by machine, and within one by the knobs that the
kernel's demands depend on, so that each distinct combination is worked out once (`workloads.kernels.demands`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from explorer.evaluate import BoundColumns
from explorer.names import unknown
from explorer.programs import defaults, kernel_of, machine_of, problem_of
from explorer.query import MACHINE_PREFIX, Query, Scalar
from explorer.space.columns import distinct_rows, numbered
from hwmodel.bound_table import least_fs, least_pj
from hwmodel.machine import Machine
from hwmodel.units import FS_PER_US
from workloads.kernels.base import MAX_KNOB
from workloads.kernels.demands import DEMANDS, Demands

Numbered = dict[str, tuple[np.ndarray, list[Any]]]  # columns by name, see `explorer.space.columns`


def bounds_of(query: Query, columns: Mapping[str, Sequence[Scalar]]) -> BoundColumns | None:
    """Return what `evaluate.bound_columns` does."""
    template = DEMANDS.get(query.kernel)
    if template is None or query.routing is not None:
        return None
    points = {len(values) for values in columns.values()}
    if len(points) != 1:
        raise ValueError(f"columns: of {sorted(points)} values; allowed: one or more columns, equally long")
    known = defaults(query.kernel)
    for name in columns:
        if name not in known and not name.startswith(MACHINE_PREFIX):
            raise ValueError(unknown(f"knob of {query.kernel}", name, known))
    settings = known | dict(query.knobs)
    matters = {
        name: numbered(values) for name, values in columns.items() if name not in known or name in template.knobs
    }
    first, which = distinct_rows(matters, *points)
    rows = {name: (numbers[first], values) for name, (numbers, values) in matters.items()}
    for name in template.knobs:
        rows.setdefault(name, (np.zeros(len(first), np.int64), [settings[name]]))
    time_us, energy_pj = np.zeros((2, len(first)))
    allowed = _allowed(query.kernel, template, rows)
    has_energy = False
    for machine, here in _machines(query, rows, allowed):
        found = template.of(problem_of(query), {name: _values(*rows[name], here) for name in template.knobs}, machine)
        times = least_fs(found.phases, machine)
        time_us[here] = times / FS_PER_US
        energies = least_pj(found.phases, found.counts, machine, times)
        if energies is not None:
            has_energy, energy_pj[here] = True, energies
    return BoundColumns(time_us[which], energy_pj[which] if has_energy else None)


def _allowed(kernel: str, template: Demands, rows: Numbered) -> np.ndarray:
    """Return which rows have values that their knobs take; whether a layout is one does not matter here."""
    found: np.ndarray = np.ones(len(next(iter(rows.values()))[0]), bool)
    for entry in fields(kernel_of(kernel).Knobs):
        if entry.name in template.knobs:
            numbers, values = rows[entry.name]
            found &= np.array([_takes(entry.metadata, value) for value in values], bool)[numbers]
    return found


def _takes(facts: Mapping[str, Any], value: Any) -> bool:
    """Return whether a knob takes a value, by the facts of `workloads.kernels.base.knob`."""
    if facts["least"] is not None:
        return type(value) is int and facts["least"] <= value <= MAX_KNOB
    return isinstance(value, str) and (not facts["choices"] or value in facts["choices"])


def _machines(query: Query, rows: Numbered, allowed: np.ndarray) -> Iterator[tuple[Machine, np.ndarray]]:
    """Yield every machine that can be made, with the allowed rows that have its numbers."""
    numbers = {name: column for name, column in rows.items() if name.startswith(MACHINE_PREFIX)}
    one_of_each, which = distinct_rows(numbers, len(allowed))
    for number, row in enumerate(one_of_each.tolist()):
        here = query
        for name, (column, values) in numbers.items():
            here = here.with_knob(name, values[column[row]])
        mine = np.flatnonzero((which == number) & allowed)
        if len(mine) == 0:
            continue
        try:
            machine = machine_of(here.machine, here.machine_overrides)
        except ValueError:  # such points cannot run
            continue
        yield machine, mine


def _values(numbers: np.ndarray, values: list[Any], rows: np.ndarray) -> np.ndarray:
    """Return the values of some rows as an array of one type, which they all have."""
    used, which = np.unique(numbers[rows], return_inverse=True)
    found: np.ndarray = np.array([values[number] for number in used.tolist()])[which.reshape(-1)]
    return found
