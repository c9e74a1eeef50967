"""Answers: what scripts and notebooks get for one question, every number with its unit and where it comes from.

A `Quantity` is a float that knows both, so that answers can be compared, divided and drawn as they are:

    answer.time_us, answer.time_us.unit, answer.time_us.source, answer["stalls.load.memory"]

Frozen; holds names and numbers only. `explorer.questions.asking` makes answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from types import MappingProxyType
from typing import Any

from explorer.evaluate import Metric
from explorer.query import Query, Scalar
from explorer.questions.fidelity import Measured
from explorer.questions.validated import Validation
from explorer.search.certificate import relative_gap
from explorer.storage.row import flatten, nested
from explorer.text.tables import align, number, percent

_UNITS = {"_us": "us", "_pj": "pJ", "_bytes": "B", "_fraction": "", "cycles": "cycles"}
_GROUPS = {"stalls": "fs", "phases": "us", "energy_by_component_pj": "pJ", "utilisation": "", "levels": "B", "sram": ""}
_BOUNDS = ("bound_us", "energy_bound_pj")
_WORDS = {
    "time_us": "time",
    "bound_us": "lower bound",
    "gap": "above the bound",
    "limited_by": "limited by",
    "energy_pj": "energy",
    "energy_bound_pj": "energy, at least",
}


class Quantity(float):
    """A number with its `unit` ("" where it counts or is a share) and its `source` in words."""

    __slots__ = ("_source", "_unit", "_value")
    _value: float
    _unit: str
    _source: str

    def __new__(cls, value: float, unit: str, source: str) -> Quantity:
        made = super().__new__(cls, value)
        made._value, made._unit, made._source = value, unit, source
        return made

    @property
    def value(self) -> float:
        """The number alone, whole where it counts."""
        return self._value

    @property
    def unit(self) -> str:
        return self._unit

    @property
    def source(self) -> str:
        return self._source

    def __getnewargs__(self) -> tuple[float, str, str]:  # type: ignore[override]
        return self.value, self._unit, self._source

    def __repr__(self) -> str:
        text = f"{self._value:,}" if isinstance(self._value, int) else f"{self._value:,.6g}"
        return f"{text} {self._unit}".rstrip()

    def _repr_html_(self) -> str:
        return f"{escape(repr(self))} <small>({escape(self._source)})</small>"


@dataclass(frozen=True)
class RunKey:
    """What a run is identified by: digests of the program, of the machine, and of the simulator's own code."""

    program_hash: str
    machine_hash: str
    engine: str

    def __str__(self) -> str:
        return f"{self.program_hash}-{self.machine_hash}-{self.engine}"


@dataclass(frozen=True)
class Answer:
    """One answer. `how`: "whole", "windows" or "bound"; `source`: the same in words, with what is known of its error.

    `numbers`: all there are, by flat name such as "stalls.load.memory"; `settings`: every knob and machine override.
    """

    title: str
    query: Query
    how: str
    source: str
    numbers: Mapping[str, Quantity | str]
    settings: Mapping[str, Scalar]
    key: RunKey
    validation: Validation = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("numbers", "settings"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __reduce__(self) -> tuple[Any, ...]:  # read-only views do not pickle
        parts = (self.title, self.query, self.how, self.source, dict(self.numbers), dict(self.settings))
        return Answer, (*parts, self.key, self.validation)

    @property
    def time_us(self) -> Quantity | None:
        """The simulated time; None where only the bound was asked for."""
        return self._quantity("time_us")

    @property
    def bound_us(self) -> Quantity:
        """What no run of this program can be faster than."""
        found = self._quantity("bound_us")
        assert found is not None
        return found

    @property
    def gap(self) -> Quantity | None:
        """How far the time is above the bound, as a share of the bound."""
        gap = None if self.time_us is None else relative_gap(self.time_us, self.bound_us)
        return None if gap is None else Quantity(gap, "", "time over bound, less 1")

    @property
    def energy_pj(self) -> Quantity | None:
        """The energy; None where the machine gives none, or the run was not simulated whole."""
        return self._quantity("energy_pj")

    @property
    def energy_bound_pj(self) -> Quantity | None:
        return self._quantity("energy_bound_pj")

    @property
    def limited_by(self) -> str:
        """The resource that sets the lower bound."""
        return str(self.numbers["limited_by"])

    @property
    def validated(self) -> bool:
        """Whether the answer lies in the range validated against measurements; `validation.text` says more."""
        return self.validation.inside

    def __getitem__(self, name: str) -> Quantity | str:
        """Return a number by its flat name; KeyError lists those there are."""
        if name not in self.numbers:
            raise KeyError(f"{name}: not in this answer ({self.how}); there are {', '.join(self.numbers)}")
        return self.numbers[name]

    def _quantity(self, name: str) -> Quantity | None:
        found = self.numbers.get(name)
        return found if isinstance(found, Quantity) else None

    @property
    def headline(self) -> dict[str, str]:
        """The numbers that count, as texts with units by their names."""
        names = ("time_us", "bound_us", "energy_pj", "energy_bound_pj")
        found = {name: number(name, value) for name in names if (value := self._quantity(name)) is not None}
        if self.gap is not None:
            found["gap"] = percent(self.gap)
        return found | {"limited_by": self.limited_by}

    def record(self) -> dict[str, Any]:
        """Return the answer as JSON-able values; `numbers` in the shape of `rowhit run --json`."""
        plain = {name: value.value if isinstance(value, Quantity) else value for name, value in self.numbers.items()}
        return {
            "title": self.title,
            "fidelity": {"how": self.how, "source": self.source},
            "settings": dict(self.settings),
            "numbers": nested(plain),
            "gap": None if self.gap is None else self.gap.value,
            "key": {"program": self.key.program_hash, "machine": self.key.machine_hash, "engine": self.key.engine},
            "validation": self.validation.record(),
        }

    @property
    def _lines(self) -> list[tuple[str, str]]:
        shown = [(_WORDS[name], text) for name, text in self.headline.items()]
        return [*shown, ("how", self.source), ("validation", self.validation.text), ("key", str(self.key))]

    def __str__(self) -> str:
        return f"{self.title}\n{align([(*line, '') for line in self._lines], left=2)}"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in self._lines)
        return f"<table><caption>{escape(self.title)}</caption>{rows}</table>"


def answer_of(
    query: Query, title: str, settings: Mapping[str, Scalar], measured: Measured, engine: str, validation: Validation
) -> Answer:
    """Return the numbers of a query as an answer to it; `engine`: the digest of the simulator's code."""
    source = said(measured)
    flat = flatten({name: value for name, value in measured.metrics.items() if name != "bound_us"})
    flat |= {"bound_us": _number(measured.metrics["bound_us"])}
    order = dict.fromkeys(name for name in ("time_us", "bound_us", *flat) if name in flat)
    numbers = {name: _quantity(name, flat[name], source) for name in order}
    key = RunKey(str(flat["program_hash"]), str(flat["machine_hash"]), engine)
    return Answer(title, query, measured.how, source, numbers, settings, key, validation)


def said(measured: Measured) -> str:
    """Return in words how numbers came about, and what is known of their error."""
    if measured.how == "whole":
        return "simulated whole, every burst"
    if measured.how == "bound":
        return "not simulated: lower bounds alone"
    from explorer.questions.window_error import known_error

    return f"simulated by windows, about {percent(measured.part)} of its tiles: {known_error(measured.fidelity).text}"


def _number(value: Metric) -> float:
    assert isinstance(value, int | float)
    return value


def _quantity(name: str, value: Scalar, source: str) -> Quantity | str:
    if isinstance(value, str):
        return value
    unit = _GROUPS.get(name.split(".")[0])
    if unit is None:
        unit = next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), "")
    return Quantity(value, unit, "lower bound of the whole program" if name in _BOUNDS else source)
