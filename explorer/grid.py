"""All combinations of the choices of a study, as numbers: a mixed-radix count, last knob fastest.

It stands between `knobs` and `space`. Combination i has one digit per knob, its place among the knob's choices; arrays
of digits stand for a million combinations where objects would not fit. Where a knob's condition does not hold its
digit means nothing: its level is the one beyond its choices, the default, and of the combinations that differ in
nothing else the one with digit 0 is the point that all of them are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explorer.knobs import Knob
from explorer.query import Scalar

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """The product of the choices of `knobs`; `held`: defaults of the kernel and fixed values, by name."""

    knobs: tuple[Knob, ...]
    held: Mapping[str, Scalar]

    @cached_property
    def size(self) -> int:
        """The number of combinations."""
        return math.prod(len(knob.choices) for knob in self.knobs)

    @cached_property
    def _strides(self) -> list[int]:
        counts = [len(knob.choices) for knob in self.knobs]
        return [math.prod(counts[place + 1 :]) for place in range(len(counts))]

    def digits(self, index: Index) -> Index:
        """Return the places of combinations int64[n] among the choices of each knob, int64[n, knob]."""
        counts = [len(knob.choices) for knob in self.knobs]
        places = [index // stride % count for stride, count in zip(self._strides, counts, strict=True)]
        return np.stack(places, axis=-1)

    def index(self, digits: Index) -> Index:
        """Return the combinations int64[n] of places int64[n, knob]."""
        return digits @ np.array(self._strides, np.int64)

    def levels(self, index: Index) -> Index:
        """Return the same as `digits`, but the number of its choices where a knob keeps its default."""
        levels = self.digits(index)
        for place, knob in enumerate(self.knobs):
            if knob.when:
                levels[~self._active(knob, levels), place] = len(knob.choices)
        return levels

    def _active(self, knob: Knob, levels: Index) -> NDArray[np.bool_]:
        """Return where the conditions of a knob hold, the levels of those before it being right."""
        names = [other.name for other in self.knobs]
        active = np.ones(len(levels), np.bool_)
        for other, values in knob.when:
            if other not in names:
                active &= self.held.get(other) in values
                continue
            place = names.index(other)
            allowed = [level for level, value in enumerate(self.values_of(place)) if value in values]
            active &= np.isin(levels[:, place], allowed)
        return active

    def values_of(self, place: int) -> tuple[Scalar, ...]:
        """Return what each level of a knob stands for; of one with a condition, its default comes last."""
        knob = self.knobs[place]
        return (*knob.choices, self.held[knob.name]) if knob.when else knob.choices

    @property
    def conditional(self) -> bool:
        """Whether any knob has a condition."""
        return any(knob.when for knob in self.knobs)

    def first(self, index: Index) -> Index:
        """Return the first combination that is the same point as each of `index`, as far as conditions tell."""
        if not self.conditional:
            return index
        levels = self.levels(index)
        counts = np.array([len(knob.choices) for knob in self.knobs])
        return self.index(np.where(levels == counts, 0, levels))

    def columns(self, index: Index) -> dict[str, NDArray[Any]]:
        """Return the values of every knob in combinations, arrays of their type by name, texts as objects."""
        levels = self.levels(index)
        return {knob.name: _table(self.values_of(p))[levels[:, p]] for p, knob in enumerate(self.knobs)}

    def values(self, index: int) -> dict[str, Scalar]:
        """Return the values of every knob in one combination."""
        levels = self.levels(np.array([index]))[0]
        return {knob.name: self.values_of(place)[levels[place]] for place, knob in enumerate(self.knobs)}

    def find(self, values: Mapping[str, Scalar]) -> int | None:
        """Return the first combination that has these values of its knobs, None where there is none."""
        digits: list[int] = []
        for knob in self.knobs:
            levels = np.array([[*digits, *[0] * (len(self.knobs) - len(digits))]])
            active = not knob.when or bool(self._active(knob, self.levels(self.index(levels)))[0])
            value = values[knob.name]
            wanted: Sequence[Scalar] = knob.choices if active else (self.held[knob.name],)
            if value not in wanted:
                return None
            digits.append(wanted.index(value) if active else 0)
        return int(self.index(np.array(digits)))


def _table(values: Sequence[Scalar]) -> NDArray[Any]:
    """Return values as an array of their type, so that taking from it keeps it."""
    if all(isinstance(value, bool) for value in values):
        return np.array(values, np.bool_)
    if all(isinstance(value, int) for value in values):
        return np.array(values, np.int64)
    if all(isinstance(value, int | float) for value in values):
        return np.array(values, np.float64)
    table = np.empty(len(values), object)
    table[:] = values
    return table
