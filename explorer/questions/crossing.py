"""Where one design begins to be better than another along a swept axis.

Between two neighbouring points of a sweep at which different designs are better lies at least one crossing. It is found
by asking points between: halving whole numbers until neighbours are left, or decimal ones until they are within a
thousandth (near 0, a millionth of the distance at the begin). Points that cannot run are passed over; where none
between two points can run, the crossing is only known to lie between them. Two crossings between neighbouring points of
the sweep are not seen. Equal costs do not beat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

from explorer.study.objective import TIME, Objective

PRECISION = Decimal("0.001")  # of a crossing on an axis of decimal numbers, relative
FINEST = Decimal("0.000001")  # of the distance of the points between which it is looked for: it may lie at 0
TRIES = 8  # points around the middle that are asked where those before cannot run

Costs = tuple[float, float]  # of the design and of the one it is compared with: times in us, or another objective
Ask = Callable[[Decimal], Costs | None]  # None where one of the two cannot run


@dataclass(frozen=True)
class Flip:
    """Two points between which the better design changes: `exact` where no point that can run lies between them.

    `low`, `high`: values as texts; the costs of both designs there.
    """

    low: str
    high: str
    at_low: Costs
    at_high: Costs
    exact: bool

    @property
    def begins(self) -> bool:
        """Whether the design is better at the high end."""
        return self.at_high[0] < self.at_high[1]


@dataclass(frozen=True)
class Crossing:
    """Where `design` beats `other` from `first` to `last` of an axis.

    `where` says what else is held, `doubt` why the better one may be another, where it is not both run whole;
    `objective` is what is compared.
    """

    design: str
    other: str
    path: str
    first: str
    last: str
    flips: tuple[Flip, ...]
    beats_at_first: bool
    where: str = ""
    doubt: str = ""
    objective: Objective = TIME

    @property
    def sentence(self) -> str:
        """Return in one sentence where the design beats the other."""
        held = f" at {self.where}" if self.where else ""
        doubt = f"; {self.doubt}" if self.doubt else ""
        if not self.flips:
            always = "beats" if self.beats_at_first else "never beats"
            return f"{self.design} {always} {self.other} at {self.path} {self.first} to {self.last}{held}{doubt}"
        spans = " and ".join(self._spans())
        costs = "; ".join(self._costs(flip) for flip in self.flips)
        return f"{self.design} beats {self.other} {spans}{held} ({costs}){doubt}"

    def _costs(self, flip: Flip) -> str:
        ends, shown = ((flip.low, flip.at_low), (flip.high, flip.at_high)), self.objective.shown
        return ", ".join(f"{value}: {shown(one)} against {shown(other)}" for value, (one, other) in ends)

    def _spans(self) -> Iterator[str]:
        begun = self.first
        for flip in self.flips:
            between = f"somewhere between {flip.low} and {flip.high}"
            if flip.begins:
                begun = flip.high if flip.exact else between
            else:
                yield self._span(begun, flip.low if flip.exact else between)
        if self.flips[-1].begins:
            yield self._span(begun, self.last)

    def _span(self, begin: str, end: str) -> str:
        return f"at {self.path} {end}" if begin == end else f"from {self.path} {begin} to {end}"

    def record(self) -> dict[str, Any]:
        """Return the crossing as JSON-able values."""
        flips = [
            {
                "low": flip.low,
                "high": flip.high,
                "exact": flip.exact,
                f"{self.objective.metric}_at_low": list(flip.at_low),
                f"{self.objective.metric}_at_high": list(flip.at_high),
            }
            for flip in self.flips
        ]
        return {
            "design": self.design,
            "other": self.other,
            "path": self.path,
            "where": self.where,
            "beats_at_first": self.beats_at_first,
            "flips": flips,
            "doubt": self.doubt,
            "sentence": self.sentence,
        }


def flips(
    points: Sequence[tuple[Decimal, Costs]], ask: Ask, whole: bool, text: Callable[[Decimal], str]
) -> tuple[Flip, ...]:
    """Return the crossings that the points of a sweep show, in order of the axis."""
    ordered = sorted(points)
    found = []
    for (low, at_low), (high, at_high) in pairwise(ordered):
        if _beats(at_low) != _beats(at_high):
            found.append(_narrowed((low, at_low), (high, at_high), ask, whole, text))
    return tuple(found)


def _narrowed(
    low: tuple[Decimal, Costs], high: tuple[Decimal, Costs], ask: Ask, whole: bool, text: Callable[[Decimal], str]
) -> Flip:
    finest, precision = (Decimal(1), Decimal(0)) if whole else (FINEST * (high[0] - low[0]), PRECISION)
    while high[0] - low[0] > max(finest, precision * abs(high[0])):
        middle = next(((at, costs) for at in _between(low[0], high[0], whole) if (costs := ask(at))), None)
        if middle is None:
            return Flip(text(low[0]), text(high[0]), low[1], high[1], exact=False)
        if _beats(middle[1]) == _beats(low[1]):
            low = middle
        else:
            high = middle
    return Flip(text(low[0]), text(high[0]), low[1], high[1], exact=True)


def _beats(costs: Costs) -> bool:
    return costs[0] < costs[1]


def _between(low: Decimal, high: Decimal, whole: bool) -> Iterator[Decimal]:
    """Yield points between two, those near the middle first: neighbours of it, or parts of the distance."""
    for place in range(TRIES):
        away = (place + 1) // 2 * (1 if place % 2 else -1)
        at = (low + high) // 2 + away if whole else low + (high - low) * (TRIES + away) / (2 * TRIES)
        if low < at < high:
            yield at
