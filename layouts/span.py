"""Between which values the offsets of a layout lie, without looking at any: sound, not tight.

What `Layout.offsets` needs to know before it computes with 64-bit or 32-bit numbers.  `Layout.cosize` is exact and
may have to look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from layouts.shape import INT64_MAX
from layouts.stride import Axis, X, along
from layouts.table import Table

if TYPE_CHECKING:
    from layouts.layout import Layout

Interval: TypeAlias = tuple[int, int]


def loose_span(layout: Layout) -> Interval:
    """Return (low, high) with low <= every offset <= high, of a layout with a scalar result.

    ValueError where a value on the way may not fit 64 bits, or an XOR stride may meet a negative step.
    """
    digits = [((0, extent - 1), step) for extent, step in layout.leaves()]
    now = _results(layout, digits)
    for stage in layout.stages:
        if isinstance(stage, Table):
            now = now | {stage.axis: (min(stage.values), max(stage.values))}
        else:
            now = _results(stage, _stage_digits(stage, now))
    return now[None]


def _stage_digits(stage: Layout, values: dict[Axis | None, Interval]) -> list[tuple[Interval, Any]]:
    """Return the interval of each digit that a stage takes out of the values, with its stride."""
    scalar = None in values
    digits: list[tuple[Interval, Any]] = []
    for place, modes in enumerate(stage.stage_modes(None if scalar else len(values))):
        low, high = values.get(None if scalar else place, (0, 0))
        below = 1
        for k, (extent, step) in enumerate(modes):
            if k == len(modes) - 1:
                interval = low // below, high // below
            else:
                interval = (0, min(extent - 1, high // below) if low >= 0 else extent - 1)
            digits.append((interval, step))
            below *= extent
    return digits


def _results(stage: Layout, digits: list[tuple[Interval, Any]]) -> dict[Axis | None, Interval]:
    if stage.stage_axes is None:
        return {None: _sum(digits, stage.offset)}
    return {
        axis: _sum([(digit, along(step, axis)) for digit, step in digits], along(stage.offset, axis))
        for axis in stage.stage_axes
    }


def _sum(digits: list[tuple[Interval, Any]], offset: Any) -> Interval:
    low = high = int(offset)
    xor_bits = 0
    for (first, last), step in digits:
        if isinstance(step, X):
            if first < 0:
                raise ValueError(f"XOR stride {step}: a step of {first} may reach it, steps from 0 on are needed")
            xor_bits = max(xor_bits, step.value.bit_length() + last.bit_length() - 1 if last > 0 else 0)
        else:
            low += min(first * step, last * step)
            high += max(first * step, last * step)
    if xor_bits:
        width = max(xor_bits, max(abs(low), abs(high)).bit_length())  # XOR changes bits below the highest one only
        low, high = (0 if low >= 0 else -(1 << width)), (1 << width) - 1
    if low < -INT64_MAX or high > INT64_MAX:
        raise ValueError(f"values {low}..{high} do not fit 64 bits")
    return low, high
