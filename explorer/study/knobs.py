"""A knob of a study as data: the choices it stands for, and where it is one.

First link of a search: the study file writes a knob as a list of choices, or as a mapping with one of

    {choices: [static, dynamic]}            these
    {from: 16, to: 256, times: 2}           16, 32, 64, 128, 256; `unit: KiB` makes texts of a machine's numbers
    {from: 2, to: 8, step: 3}               2, 5, 8
    {layouts: {sizes: {...}, ...}}          every legal layout of a tensor (`layouts.space`), or `sample: n` of them

and, in any of them, `when: {other: [values]}`: elsewhere the knob keeps its default. `read_knob` checks the form and
spells the choices out. Whether a kernel has such a knob and takes such values is checked by `space`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from explorer.names import unknown
from explorer.query import MACHINE_PREFIX, Scalar

MAX_CHOICES = 1 << 16  # assumed: of one knob; more is a slip
MAX_WHOLE = 10**18  # a whole number of 64 bits
_FORMS = ("choices", "from", "layouts")
_KEYS = ("choices", "from", "to", "times", "step", "unit", "layouts", "when")
_SPACE_KEYS = ("sizes", "element_bytes", "tiles", "max_digits", "outer", "innermost", "run_bytes", "align_bytes")
_LAYOUT_KEYS = (*_SPACE_KEYS, "page_bytes", "sample", "seed")

When = tuple[tuple[str, tuple[Scalar, ...]], ...]


@dataclass(frozen=True)
class Knob:
    """`choices`: different values of one type. `when`: other knobs with the values at which this one is a choice."""

    name: str
    choices: tuple[Scalar, ...]
    when: When = ()


def read_knob(name: str, written: Any) -> Knob:
    """Return the knob that a study writes; ValueError says what is wrong with it, without its name."""
    try:
        text = json.dumps(written)
    except (TypeError, ValueError, RecursionError):  # ValueError: a number of thousands of digits
        raise ValueError("a list of choices, or a mapping, is needed, of numbers and texts") from None
    return _read(name, text)


@lru_cache(maxsize=256)
def _read(name: str, text: str) -> Knob:
    written = json.loads(text)
    if isinstance(written, list):
        return Knob(name, _checked(written))
    if not isinstance(written, dict):
        raise ValueError("a list of choices, or a mapping with one of choices, from and layouts, is needed")
    for key in written:
        if key not in _KEYS:
            raise ValueError(unknown("key", key, _KEYS))
    forms = [form for form in _FORMS if form in written]
    if len(forms) != 1:
        raise ValueError(f"give one of {', '.join(_FORMS)}")
    stray = set(written) & {"to", "times", "step", "unit"}
    if forms != ["from"] and stray:
        raise ValueError(f"{min(stray)} goes with from")
    made = _range(written) if forms == ["from"] else _layouts(written) if forms == ["layouts"] else written["choices"]
    return Knob(name, _checked(made), _when(name, written.get("when", {})))


def _checked(choices: Any) -> tuple[Scalar, ...]:
    if not isinstance(choices, list) or not choices:
        raise ValueError("give at least one choice")
    if len(choices) > MAX_CHOICES:
        raise ValueError(f"{len(choices)} choices, at most {MAX_CHOICES} are allowed")
    for choice in choices:
        require_scalar(choice)
    if len({type(choice) for choice in choices}) > 1:
        raise ValueError(f"{_short(choices)}: the choices of one knob must be of one type")
    if len(set(choices)) < len(choices):
        raise ValueError(f"{_short(choices)}: a choice stands there twice")
    return tuple(choices)


def require_scalar(value: Any) -> None:
    """Raise ValueError unless a value can be one of a knob: finite, and a whole number that arrays hold."""
    if not isinstance(value, bool | int | float | str) or value != value or value in (float("inf"), -float("inf")):
        raise ValueError(f"{_short(value)}: a number, a text, true or false is needed")
    if isinstance(value, int) and abs(value) > MAX_WHOLE:
        raise ValueError(f"a whole number of {value.bit_length()} bits; allowed: up to {MAX_WHOLE}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _range(written: Mapping[str, Any]) -> list[Scalar]:
    """Return the numbers of a range, its end included where a step meets it."""
    if "to" not in written or ("times" in written) == ("step" in written):
        raise ValueError("a range is {from: a, to: b, times: t} or {from: a, to: b, step: s}")
    how = "times" if "times" in written else "step"
    first, last, step = (_number(key, written[key]) for key in ("from", "to", how))
    if first > last:
        raise ValueError(f"from {written['from']} is above to {written['to']}")
    if step <= (1 if how == "times" else 0) or (how == "times" and first <= 0):
        raise ValueError(f"{how} {written[how]}: the range from {written['from']} would not end")
    found = []
    while first <= last:
        found.append(first)
        if len(found) > MAX_CHOICES:
            raise ValueError(f"more than {MAX_CHOICES} choices")
        first = first * step if how == "times" else first + step
    whole = all(number.denominator == 1 for number in found)
    numbers: list[Scalar] = [int(number) if whole else float(number) for number in found]
    return [f"{number} {_unit(written['unit'])}" for number in numbers] if "unit" in written else numbers


def _number(key: str, value: Any) -> Fraction:
    """Return a number as it is written, so that steps of 0.1 add up; of a size that cannot make work."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_WHOLE:
        raise ValueError(f"{key} {_short(value)}: a number is needed")
    return Fraction(str(value))


def _unit(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 8 or not value.replace("/", "").isalpha():
        raise ValueError(f"unit {_short(value)}: a unit such as KiB or GB/s is needed")
    return value


def _layouts(written: Mapping[str, Any]) -> list[Scalar]:
    """Return the layouts of a space as texts, outermost factor first."""
    import numpy as np

    from layouts.space import Space

    given = written["layouts"]
    if not isinstance(given, dict) or not isinstance(given.get("sizes"), dict):
        raise ValueError("layouts: a mapping with the sizes of the axes is needed")
    for key in given:
        if key not in _LAYOUT_KEYS:
            raise ValueError(f"layouts: {unknown('key', key, _LAYOUT_KEYS)}")
    try:
        space = Space(**{key: value for key, value in given.items() if key not in ("sample", "seed")})
        count = space.count()
        wanted = given.get("sample", count)
        if not isinstance(wanted, int) or not 1 <= wanted <= MAX_CHOICES:
            raise ValueError(f"{wanted} layouts; give sample: how many of them, at most {MAX_CHOICES}")
        if wanted >= count:
            return [layout.text for layout in space.enumerate()]
        seed = given.get("seed", 0)
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed {_short(seed)}: a whole number from 0 is needed")
        return [layout.text for layout in space.sample(np.random.default_rng(seed), wanted)]
    except (ValueError, TypeError, AttributeError) as error:  # a size that is no number fails where it is used
        raise ValueError(f"layouts: {' '.join(str(error).split())}") from None


def _when(name: str, written: Any) -> When:
    if not isinstance(written, dict):
        raise ValueError("when: a mapping of other knobs to their values is needed")
    if written and name.startswith(MACHINE_PREFIX):
        raise ValueError("when: a number of the machine has no default to keep; allowed: knobs of the kernel")
    found = []
    for other, values in written.items():
        values = values if isinstance(values, list) else [values]
        if not values:
            raise ValueError(f"when: {other}: give at least one value")
        for value in values:
            require_scalar(value)
        found.append((other, tuple(values)))
    return tuple(found)


def check_conditions(knobs: Iterable[Knob], fixed: Mapping[str, Scalar]) -> None:
    """Raise ValueError unless every condition names a fixed knob, or one that stands before, with one of its values."""
    before: dict[str, tuple[Scalar, ...]] = {}
    for knob in knobs:
        for other, values in knob.when:
            if other not in before and other not in fixed:
                allowed = unknown("knob", other, [*before, *fixed])
                raise ValueError(f"{knob.name}: when: {allowed} (knobs that stand before it, and fixed ones)")
            for value in values:
                if other in before and value not in before[other]:
                    raise ValueError(f"{knob.name}: when: {other}: {value!r} is none of its choices")
        before[knob.name] = knob.choices
