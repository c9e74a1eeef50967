"""A simulator of random numbers: the time and energy of every combination stand in tables, their bounds below them.

Knobs a, b and c are whole numbers; `refused` combinations do not run, and combinations whose c differs by a multiple of
`period` are the same point. Counts what is simulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from explorer.evaluate import Evaluator, Outcome
from explorer.query import Query, Scalar
from explorer.study import Study


@dataclass(frozen=True)
class Columns:
    time_us: Any
    energy_pj: Any


@dataclass
class Table:
    """`shape`: the number of choices of each knob; `slack`: how far bounds may be below the values."""

    shape: tuple[int, int, int]
    seed: int = 0
    slack: float = 0.5
    refused: float = 0.0
    period: int = 1 << 30
    smooth: bool = False
    vectorised: bool = False
    simulated: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.times, self.energies = (self._draw(rng) for _ in range(2))
        self.bounds, self.least = (
            values * (1 - self.slack * rng.random(self.shape)) for values in (self.times, self.energies)
        )
        self.fails = rng.random(self.shape) < self.refused
        self.fails[0, 0, 0] = False

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        if not self.smooth:
            return rng.integers(1, 50, self.shape).astype(float)
        effects = [rng.random(count) for count in self.shape]
        return 100 * np.exp(effects[0][:, None, None] + effects[1][None, :, None] + effects[2][None, None, :])

    def place(self, query: Query) -> tuple[int, int, int]:
        knobs = {"a": 0, "b": 0, "c": 0} | dict(query.knobs)
        return int(knobs["a"]), int(knobs["b"]), int(knobs["c"]) % self.period

    def key(self, query: Query) -> str:
        return "/".join(map(str, self.place(query))) + str(query.batch or "")

    def factor(self, query: Query) -> float:
        """What the batch makes of a time."""
        return query.batch.sequences if query.batch else 1.0

    def _checked(self, query: Query) -> tuple[int, int, int]:
        if self.fails[self.place(query)]:
            raise ValueError("does not fit")
        return self.place(query)

    def bound_us(self, query: Query) -> float:
        return float(self.bounds[self._checked(query)]) * self.factor(query)

    def bound_pj(self, query: Query) -> float:
        return float(self.least[self._checked(query)]) * self.factor(query)

    def simulate(self, query: Query) -> Outcome:
        place, factor = self._checked(query), self.factor(query)
        self.simulated.append(self.key(query))
        metrics = {
            "time_us": float(self.times[place]) * factor,
            "energy_pj": float(self.energies[place]) * factor,
            "bound_us": self.bound_us(query),
            "limited_by": "hbm",
        }
        arrays = {"time_us": np.arange(2.0), "bytes_per_second": np.arange(2.0)}
        return Outcome(metrics, arrays, {"activates": np.ones((1, 1)), "conflicts": np.ones((1, 1))})

    def bound_columns(self, query: Query, columns: Mapping[str, Sequence[Scalar]]) -> Columns | None:
        if not self.vectorised:
            return None
        known = {"a": 0, "b": 0, "c": 0} | dict(query.knobs)
        a, b, c = (np.asarray(columns.get(name, known[name])) for name in "abc")
        factor = self.factor(query)
        return Columns(self.bounds[a, b, c % self.period] * factor, self.least[a, b, c % self.period] * factor)

    @property
    def evaluator(self) -> Evaluator:
        return Evaluator(
            defaults=lambda kernel: {"a": 0, "b": 0, "c": 0},
            key=self.key,
            bound_us=self.bound_us,
            simulate=self.simulate,
            inputs=lambda query: {},
            describe=lambda query: "a table",
            bound_pj=self.bound_pj,
            check=self._checked,
            bound_columns=self.bound_columns,
        )

    def study(self, **fields: Any) -> Study:
        knobs = {name: list(range(count)) for name, count in zip("abc", self.shape, strict=True)}
        return Study.model_validate({"name": "table", "machine": "none", "kernel": "table", "knobs": knobs} | fields)

    def values(self) -> np.ndarray:
        """Time and energy of all points that run, float64[n, 2]."""
        cells = [index for index in np.ndindex(self.shape) if index[2] < self.period and not self.fails[index]]
        return np.array([(self.times[cell], self.energies[cell]) for cell in cells])
