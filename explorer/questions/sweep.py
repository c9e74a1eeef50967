"""Axes of a what-if: a path of `--set` with the values that it takes one after another, written in one line.

    page_size=16,32,64          these values, numbers or words
    hbm.stacks=4..8             every whole number, both ends included
    context=1024..8192+1024     in steps
    batch=1..64*2               in factors
    cores.sram.capacity=1..4 MiB    with a unit

Values stay texts, as `settings` takes them. On an axis of numbers points between two values can be asked, too: whole
numbers where all values are whole, else decimal ones; that is how a crossing is found (`explorer.questions.crossing`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from explorer.query import MACHINE_PREFIX, Scalar
from hwmodel.units import written

MAX_VALUES = 256  # assumed: of one axis; more are a slip
MAX_AXES = 2
SWEEP = "--sweep"
_NUMBER = re.compile(r"(-?[0-9]{1,18}(?:\.[0-9]{1,12})?)\s*([A-Za-z%][A-Za-z/%]{0,11})?", re.ASCII)
_RANGE = re.compile(
    r"([0-9]{1,18})\.\.([0-9]{1,18})(?:\s*([+*])\s*([0-9]{1,18}))?\s*([A-Za-z%][A-Za-z/%]{0,11})?", re.ASCII
)


@dataclass(frozen=True)
class Axis:
    """What is swept: the `path` of a setting, and its `values` as texts, each once; `option`: where it was given."""

    path: str
    values: tuple[str, ...]
    option: str = field(default=SWEEP, compare=False)

    @property
    def numbers(self) -> tuple[Decimal, ...] | None:
        """The values as numbers of one unit; None where they are words, or of several units."""
        found = [_NUMBER.fullmatch(value) for value in self.values]
        matches = [match for match in found if match is not None]
        if len(matches) < len(found) or len({match[2] for match in matches}) > 1:
            return None
        return tuple(Decimal(match[1]) for match in matches)

    @property
    def is_whole(self) -> bool:
        """Whether all values are whole numbers."""
        numbers = self.numbers
        return numbers is not None and all(number == number.to_integral_value() for number in numbers)

    @property
    def unit(self) -> str:
        """What stands behind the numbers; empty without one."""
        match = _NUMBER.fullmatch(self.values[0])
        return (match[2] or "") if match is not None else ""

    def text(self, number: Decimal) -> str:
        """Return a number on this axis as a value of it, sizes in whole bytes."""
        return written(number, self.unit)


def parse_axis(text: str, option: str = SWEEP) -> Axis:
    """Return the axis that `path=values` writes, given to an option; ValueError says what of it cannot be."""
    path, equals, values = (part.strip() for part in text.partition("="))
    if not (path and equals and values):
        raise ValueError(
            f"{option} {_shown(text)}: allowed: PATH=A..B, PATH=A..B+STEP, PATH=A..B*FACTOR or PATH=V,V,..."
        )
    return axis_of(path, values, option)


def axis_of(path: str, values: str | Iterable[Scalar], option: str = SWEEP) -> Axis:
    """Return the axis of a path, its values written as after `=`, or one by one."""
    where = f"{option} {_shown(path)}"
    if not isinstance(values, Iterable):
        raise ValueError(f"{where}: {_shown(values)}: allowed: a list of values, or a text such as '4..8'")
    if isinstance(values, str):
        found = _ranged(values, where) if ".." in values else [value.strip() for value in values.split(",")]
    else:
        taken = list(itertools.islice(values, MAX_VALUES + 1))
        if wrong := next((value for value in taken if not isinstance(value, bool | int | float | str)), None):
            raise ValueError(f"{where}: {_shown(wrong)}: allowed: numbers and texts")
        found = [str(value).strip() for value in taken]
    if len(found) > MAX_VALUES:
        raise ValueError(f"{where}: more than {MAX_VALUES} values")
    if not found or not all(found):
        raise ValueError(f"{where}: a value is missing")
    if twice := next((value for value in found if found.count(value) > 1), None):
        raise ValueError(f"{where}: {_shown(twice)} stands there twice")
    return Axis(path, tuple(found), option)


def axes_of(axes: Sequence[Axis] | Mapping[str, str | Iterable[Scalar]], option: str = SWEEP) -> tuple[Axis, ...]:
    """Return up to two axes of different paths."""
    found = tuple(axis_of(*item, option) for item in axes.items()) if isinstance(axes, Mapping) else tuple(axes)
    if len(found) > MAX_AXES:
        raise ValueError(f"{option}: {len(found)} axes; allowed: one, or two that make a grid")
    paths = [axis.path.removeprefix(MACHINE_PREFIX) for axis in found]
    if len(set(paths)) < len(paths):
        raise ValueError(f"{option} {_shown(paths[0])}: stands there twice")
    return found


def _ranged(text: str, where: str) -> list[str]:
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{where}: {_shown(text)}: allowed: A..B, A..B+STEP or A..B*FACTOR, of whole numbers")
    first, last, by = int(match[1]), int(match[2]), int(match[4] or 1)
    factor = match[3] == "*"
    if last < first:
        raise ValueError(f"{where}: {_shown(text)}: ends before it begins")
    if by < (2 if factor else 1) or (factor and first < 1):
        raise ValueError(f"{where}: {_shown(text)}: allowed: steps from 1; factors from 2, of numbers from 1")
    unit = f" {match[5]}" if match[5] else ""
    numbers = itertools.takewhile(lambda number: number <= last, _counted(first, by, factor))
    return [f"{number}{unit}" for number in itertools.islice(numbers, MAX_VALUES + 1)]


def _counted(first: int, by: int, factor: bool) -> Iterable[int]:
    return (first * by**power for power in itertools.count()) if factor else itertools.count(first, by)


def _shown(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
