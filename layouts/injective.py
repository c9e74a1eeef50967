"""Whether a layout is injective: whether no two indices have the same result.

A buffer may only be written through an injective layout.  Decided exactly: integer strides by a search among the
differences of coordinates that keeps only what the smaller strides can still cancel, XOR strides by their rank, what
has neither form by its values.  Where none of these is within bounds, a ValueError says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from layouts.f2 import rank
from layouts.floor_form import modes_of_terms
from layouts.layout import Layout, flat_layout
from layouts.shape import INT64_MAX, shown
from layouts.span import loose_span
from layouts.stride import X
from layouts.table import Table
from layouts.xor_form import affine_bits

MAX_STATES = 200_000  # assumed: partial sums held at once; ordinary layouts need a handful
MAX_VALUES = 1 << 24  # assumed: results looked at where no closed form decides


def is_injective(layout: Layout) -> bool:
    """Tell whether no two indices have the same result: offset, or coordinates along all axes together.

    Exact for every layout.  ValueError where no closed form decides and there are more than MAX_VALUES indices.
    """
    parts = [layout] if layout.axes is None else [layout.along(axis) for axis in layout.axes]
    bits = _joint_bits(parts)
    if bits is not None:
        return rank(bits) == len(bits)
    joint = _joint_strides(layout, parts)
    if joint is not None:
        try:
            return _integer_injective(joint)
        except ValueError:  # too many partial sums
            if layout.size > MAX_VALUES:
                raise
    if _stages_injective(layout):
        return True
    if layout.size > MAX_VALUES:
        raise ValueError(
            f"layout {shown(layout)}: no closed form decides whether it is injective, and {layout.size} indices are "
            f"too many to look at (at most {MAX_VALUES})"
        )
    return _values_differ([part.table() for part in parts])


def _stages_injective(layout: Layout) -> bool:
    """Tell whether the layout and each stage alone are injective on all that may reach them: enough, not needed."""
    reach = Layout(layout.shape, layout.stride, layout.offset)
    if not layout.stages or not is_injective(reach):
        return False
    for stage in layout.stages:
        if isinstance(stage, Table) or stage.stage_axes is not None:
            return False
        spans = [loose_span(reach.only(axis)) for axis in reach.axes] if reach.axes is not None else [loose_span(reach)]
        if any(low < 0 for low, _ in spans):
            return False
        groups = stage.stage_modes(None if reach.axes is None else len(spans))
        if reach.axes is not None and len(groups) != len(spans):
            return False
        modes = [mode for group, (_, high) in zip(groups, spans, strict=True) for mode in _reached(group, high)]
        reach = flat_layout(modes or [(1, 0)])
        if not is_injective(reach):
            return False
    return True


def _reached(modes: list[tuple[int, Any]], high: int) -> list[tuple[int, Any]]:
    """Return the modes of a stage, the last one just long enough for values up to `high`."""
    below = prod(extent for extent, _ in modes[:-1])
    extent, step = high // below + 1, modes[-1][1]
    if isinstance(step, X):
        extent = 1 << (extent - 1).bit_length()
    return [*modes[:-1], (extent, step)]


def _joint_bits(parts: Sequence[Layout]) -> list[int] | None:
    """Return the bits of all parts side by side, None unless all are F2-affine."""
    joint: list[int] | None = None
    for part in parts:
        affine = affine_bits(part)
        if affine is None:
            return None
        low = 0 if joint is None else max(bit.bit_length() for bit in [0, *joint])
        joint = [bit << low | below for bit, below in zip(affine[1], joint or [0] * len(affine[1]), strict=True)]
    return joint


def _joint_strides(layout: Layout, parts: Sequence[Layout]) -> Layout | None:
    """Return an integer layout that has equal offsets where all parts have, None where there is none."""
    terms: dict[int, int] = {}
    weight = 1
    for part in parts:
        form = part.key[1]
        if form and isinstance(form[0], str):
            return None
        for p, c in form:
            terms[p] = terms.get(p, 0) + c * weight
        weight *= part.cosize  # of a mixed-radix number, with the parts as digits
    if weight > INT64_MAX and len(parts) > 1:
        return None
    steps = modes_of_terms(layout.size, sorted((p, c) for p, c in terms.items() if p and c))
    return None if steps is None else flat_layout(steps[1])


def _values_differ(tables: Sequence[Any]) -> bool:
    joint = np.zeros(len(tables[0]), dtype=np.int64)
    for table in tables:  # numbered anew each time, so that they stay small
        values = table - table.min()
        width = int(values.max()) + 1
        if width <= 8 * len(values) and len(tables) == 1:
            flags = np.zeros(width, dtype=bool)
            flags[values] = True
            return int(np.count_nonzero(flags)) == len(values)
        _, digits = np.unique(values, return_inverse=True)
        _, joint = np.unique(joint * len(values) + digits.reshape(-1), return_inverse=True)
    return int(joint.max()) + 1 == len(joint)


def _integer_injective(layout: Layout) -> bool:
    modes = sorted(((abs(d), s) for s, d in layout.leaves() if s > 1), reverse=True)
    if layout.size > layout.cosize or any(stride == 0 for stride, _ in modes):
        return False
    reach = sum(stride * (extent - 1) for stride, extent in modes)
    sums: set[int] = set()  # offsets of differences that are not zero; by symmetry their first digit is positive
    for stride, extent in modes:
        reach -= stride * (extent - 1)
        following: set[int] = set()
        for partial, lowest in [(0, 1), *((partial, 1 - extent) for partial in sums)]:
            digits = _window(lowest, extent - 1, partial, stride, reach)
            if len(following) + len(digits) > MAX_STATES:
                raise ValueError(f"layout {shown(layout)}: injectivity needs more than {MAX_STATES} partial sums")
            following.update(partial + stride * x for x in digits)
        sums = following
        if 0 in sums:
            return False
    return True


def _window(low: int, high: int, partial: int, stride: int, reach: int) -> range:
    """Return the digits x in low..high with abs(partial + stride * x) <= reach."""
    first = -((reach + partial) // stride)
    last = (reach - partial) // stride
    return range(max(low, first), min(high, last) + 1)
