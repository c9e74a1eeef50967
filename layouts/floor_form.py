"""Integer layouts as floor sums: ``f(i) = sum c_k * (i // P_k)``, the form that is unique for a function.

For a flat layout P_k are the products of the extents, ``c_0 = d_0`` and ``c_k = d_k - s_(k-1) * d_(k-1)``; P = 0 stands
for the constant 1.  Chains of integer stages are fused into one floor sum where no digit carries, and a tiled matrix
whose extents the tiles do not divide is the sum of one floor sum per mode.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from layouts.stride import Axis, Scalar, X, along
from layouts.table import Table

if TYPE_CHECKING:
    from layouts.layout import Layout

Terms: TypeAlias = tuple[tuple[int, int], ...]
Mode: TypeAlias = tuple[int, int]  # extent, stride
_Values: TypeAlias = dict["Axis | None", int]


def floor_sum(modes: Iterable[tuple[int, Any]], offset: int = 0) -> Terms:
    """Return the (P, c) of ``offset + sum digit * stride`` over (extent, stride), fastest first."""
    terms: list[tuple[int, int]] = [(0, offset)] if offset else []
    product, below = 1, 0
    for extent, stride in modes:
        if extent == 1:
            continue
        if stride != below:
            terms.append((product, stride - below))
        product *= extent
        below = extent * stride
    return tuple(terms)


def modes_of_key(key: tuple[int, tuple[Any, ...]]) -> tuple[Mode, ...]:
    """Return the (extent, stride) pairs, fastest first, of the shortest flat layout with this key.

    ValueError for the key of a function that no flat integer layout with offset 0 is.
    """
    count, terms = key
    if count == 0:
        return ((0, 1),)
    if terms and (isinstance(terms[0], str) or terms[0][0] == 0):
        raise ValueError("no integer strides alone give this function")
    steps = terms if terms and terms[0][0] == 1 else ((1, 0), *terms)
    bounds = [p for p, _ in steps] + [count]
    modes: list[Mode] = []
    below = 0
    for (p, c), above in zip(steps, bounds[1:], strict=True):
        if above % p:
            raise ValueError(f"the boundary at index {p} does not divide {above}: no integer strides alone do that")
        extent, stride = above // p, c + below
        modes.append((extent, stride))
        below = extent * stride
    return tuple(modes)


def modes_of_terms(count: int, terms: Iterable[tuple[int, int]]) -> tuple[int, tuple[Mode, ...]] | None:
    """Return (start, (extent, stride) fastest first) of a floor sum, None where its boundaries do not divide."""
    listed = tuple(terms)
    start = sum(c for p, c in listed if p == 0)
    try:
        return start, modes_of_key((count, tuple(term for term in listed if term[0])))
    except ValueError:
        return None


def as_integer(offset: Any) -> int:
    """Return a step that is known to be an integer."""
    assert isinstance(offset, int)
    return offset


def result_axes(layout: Layout) -> tuple[Axis | None, ...]:
    """Return the axes of the result before any stage, (None,) where it is one number."""
    return layout.stage_axes if layout.stage_axes is not None else (None,)


def pick(step: Any, axis: Axis | None) -> Scalar:
    """Return what a step adds along an axis, None for the one result of a layout without axes."""
    return along(step, axis) if axis is not None else step if isinstance(step, int | X) else 0


def fused_terms(layout: Layout) -> Terms | None:
    """Return the floor sum of a chain of integer stages with a scalar result, None where fusing is not exact."""
    if layout.has_xor:
        return None
    modes: list[tuple[int, _Values]] = []
    for extent, step in layout.leaves():
        strides = {a: as_integer(pick(step, a)) for a in result_axes(layout)}
        if modes and strides == {a: modes[-1][0] * stride for a, stride in modes[-1][1].items()}:
            modes[-1] = (modes[-1][0] * extent, modes[-1][1])  # goes on where the mode before ends
        elif extent > 1:
            modes.append((extent, strides))
    offset: _Values = {a: as_integer(pick(layout.offset, a)) for a in result_axes(layout)}
    for stage in layout.stages:
        if isinstance(stage, Table) or stage.has_xor:
            return None
        terms = _stage_terms(stage, modes, offset)
        if terms is None:
            return None
        if stage is layout.stages[-1]:
            (result,) = terms.values()
            return sorted_terms(result)
        joint = _joint_modes(terms, layout.size)
        if joint is None:
            return None
        offset, modes = joint
    return None


def _stage_terms(
    stage: Layout, modes: list[tuple[int, _Values]], offset: _Values
) -> dict[Axis | None, dict[int, int]] | None:
    """Return per result axis the floor-sum terms {P: c} after a stage, None where a digit carries."""
    result: dict[Axis | None, dict[int, int]] = {a: {0: as_integer(pick(stage.offset, a))} for a in result_axes(stage)}
    groups = stage.stage_modes(len(offset) if None not in offset else None)
    inputs: list[Axis | None] = [None] if None in offset else list(range(len(groups)))
    for axis, group in zip(inputs, groups, strict=True):
        for out in result_axes(stage):
            steps = [(extent, as_integer(pick(step, out))) for extent, step in group]
            steps[-1] = (2 * steps[-1][0] + 2, steps[-1][1])  # goes on without end; no term comes from an extent
            for boundary, c in floor_sum(steps):
                found = _floor_of_sum(boundary, modes, offset.get(axis, 0), axis)
                if found is None:
                    return None
                for p, count in found.items():
                    result[out][p] = result[out].get(p, 0) + c * count
    return result


def _floor_of_sum(
    boundary: int, modes: list[tuple[int, _Values]], offset: int, axis: Axis | None
) -> dict[int, int] | None:
    """Return ``(offset + sum digit * stride) // boundary`` as terms {P: c}; None where remainders may carry."""
    terms = {0: offset // boundary}
    remainder, product = offset % boundary, 1
    for place, (extent, strides) in enumerate(modes):
        quotient, rest = divmod(strides.get(axis, 0), boundary)
        last = place == len(modes) - 1
        _add_digit(terms, product, extent, quotient, last)
        if rest:
            period = boundary // rest
            if extent <= period or boundary % rest:
                remainder += rest * (extent - 1)
            else:
                if extent % period and not last:
                    return None
                remainder += rest * (period - 1)
                inner = product * period
                terms[inner] = terms.get(inner, 0) + 1
                if not last:
                    terms[product * extent] = terms.get(product * extent, 0) - extent // period
        product *= extent
        if remainder >= boundary:
            return None
    return terms


def _add_digit(terms: dict[int, int], product: int, extent: int, coefficient: int, last: bool) -> None:
    """Add coefficient * digit, where digit = (i // product) % extent, and the last digit is i // product."""
    terms[product] = terms.get(product, 0) + coefficient
    if not last:
        terms[product * extent] = terms.get(product * extent, 0) - extent * coefficient


def sorted_terms(terms: dict[int, int]) -> Terms:
    return tuple((p, c) for p, c in sorted(terms.items()) if c)


def _joint_modes(
    terms: dict[Axis | None, dict[int, int]], count: int
) -> tuple[_Values, list[tuple[int, _Values]]] | None:
    """Return offset and modes of functions given as floor sums, None unless their boundaries form a chain."""
    bounds = sorted({1, count} | {p for part in terms.values() for p, c in part.items() if c and 0 < p < count})
    if any(above % below for below, above in pairwise(bounds)):
        return None
    offset = {axis: part.get(0, 0) for axis, part in terms.items()}
    below: _Values = dict.fromkeys(terms, 0)
    modes: list[tuple[int, _Values]] = []
    for p, above in pairwise(bounds):
        strides = {axis: part.get(p, 0) + below[axis] for axis, part in terms.items()}
        modes.append((above // p, strides))
        below = {axis: above // p * stride for axis, stride in strides.items()}
    return offset, modes


# --- sums over modes ----------------------------------------------------------------------------------------------


def separate(layout: Layout) -> list[Layout] | None:
    """Return the layouts of the modes whose sum a layout is, None where it is not one, or has a single mode.

    So are coordinates, each of one mode, that one integer stage reads: tiles of a matrix whose extents they do not
    divide.  The offset of the stage counts once, each layout has it.
    """
    if len(layout.stages) != 1 or layout.rank == 1 or layout.offset != 0 or layout.stage_axes is None:
        return None
    stage = layout.stages[0]
    if isinstance(stage, Table) or stage.has_xor or stage.stage_axes is not None or layout.has_xor:
        return None
    modes = _groups(layout)
    return modes if len(modes) > 1 else None


def _groups(layout: Layout) -> list[Layout]:
    """Return the modes of a layout of rank 2 or more, those together, with all between, that go along one axis."""
    modes = [layout.mode(k) for k in range(layout.rank)]
    last = [0] * layout.rank
    for k, mode in enumerate(modes):
        same = (j for j, other in enumerate(modes) if set(mode.stage_axes or ()) & set(other.stage_axes or ()))
        last[k] = max(k, *same, k)
    groups: list[Layout] = []
    start = end = 0
    for k in range(layout.rank):
        end = max(end, last[k])
        if k == end:
            group = modes[start : k + 1]
            shape, stride = [part.shape for part in group], [part.stride for part in group]
            groups.append(group[0] if len(group) == 1 else type(layout)(shape, stride, 0, layout.stages))
            start = end = k + 1
    return groups


def blocks_of(layout: Layout) -> list[tuple[int, Terms]] | None:
    """Return (size, floor sum) of the modes a layout is the sum of, joined where the boundaries divide the sizes."""
    modes = separate(layout)
    blocks: list[tuple[int, dict[int, int]]] = []
    for mode in modes or ():
        terms = fused_terms(mode) if mode.stage_axes is not None else ()
        if terms is None:
            return None
        found = {p: c for p, c in terms if p}
        count, last = blocks[-1] if blocks else (0, {})
        if blocks and all(count % p == 0 for p in last):
            last[count] = last.get(count, 0) - sum(c * (count // p) for p, c in last.items() if p != count)
            for p, c in found.items():
                last[count * p] = last.get(count * p, 0) + c
            blocks[-1] = count * mode.size, {p: c for p, c in last.items() if c}
        else:
            blocks.append((mode.size, found))
    if modes is None:
        return None
    stage_offset = layout.stages[0].offset  # type: ignore[union-attr]
    return [(0, ((0, as_integer(stage_offset)),)), *((count, sorted_terms(terms)) for count, terms in blocks)]
