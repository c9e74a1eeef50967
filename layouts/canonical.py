"""The canonical key of a layout: equal exactly when two layouts are the same function of the linear index.

Every integer layout is a floor sum ``f(i) = sum c_k * (i // P_k)``, with P_k the products of the extents and
``c_0 = d_0``, ``c_k = d_k - s_(k-1) * d_(k-1)``; the functions ``i // P`` of distinct P are independent, so the
non-zero (P_k, c_k) and the size are a complete key (P = 0 stands for the constant 1).  An XOR layout is F2-affine;
its key is its value at 0 and at each bit, unless these are bit-disjoint, in which case XOR is addition and it is
a floor sum.  Stages are fused into one of the two forms where that is exact.  What neither form covers is decided
by its values up to MAX_ENUMERATED indices, and beyond that by its spelling, where equal keys still mean equal
functions, but unequal keys no longer mean different ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from layouts.bulk import xor_table
from layouts.stride import Axis, Scalar, X, along
from layouts.table import Table

if TYPE_CHECKING:
    from layouts.layout import Layout

Terms: TypeAlias = tuple[tuple[int, int], ...]
Key: TypeAlias = tuple[int, tuple[Any, ...]]  # (size, Terms), or a marked form: see `key_of`
Mode: TypeAlias = tuple[int, int]  # extent, stride

MAX_ENUMERATED = 2**20  # assumed: a table of a million values takes some 10 ms
_MAX_TERMS = 64  # more boundaries than a 64-bit index has factors


def key_of(layout: Layout) -> Key:
    """Return (size, terms) of a floor sum; (size, ("f2", at 0, at bit 0, ...)) of an XOR layout; else a digest.

    A layout with axes has (size, ("axes", (axis, form), ...)), an axis that is always 0 left out.
    """
    if layout.size == 0:
        return 0, ()
    if layout.axes is None:
        return layout.size, _form(layout)
    forms = ((axis, _form(layout.along(axis))) for axis in layout.axes)
    return layout.size, ("axes", *((axis, form) for axis, form in forms if form != ()))


def _form(layout: Layout) -> tuple[Any, ...]:
    if not layout.stages and not layout.has_xor:
        return floor_sum(layout.leaves(), _int(layout.offset))
    affine = affine_bits(layout)
    if affine is not None:
        return _affine_form(*affine)
    fused = fused_terms(layout)
    if fused is not None and (_odd(layout.size) > 1 or all(_odd(p) <= 1 for p, _ in fused)):
        return fused
    if layout.size <= MAX_ENUMERATED:  # of 2**n indices, a floor sum with other boundaries may be an XOR layout
        return _recognised(layout.table())
    return fused if fused is not None else ("spelt", str(layout))


def _odd(number: int) -> int:
    """Return the odd part of a number: 1 for powers of two, 0 for 0."""
    return number // (number & -number) if number else 0


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


def modes_of_key(key: Key) -> tuple[Mode, ...]:
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


def _int(offset: Any) -> int:
    assert isinstance(offset, int)
    return offset


# --- XOR layouts ------------------------------------------------------------------------------------------------


def affine_bits(layout: Layout) -> tuple[int, tuple[int, ...]] | None:
    """Return (value at 0, change by each bit of the index) of a scalar F2-affine layout, None if it is not one."""
    if layout.size & (layout.size - 1):
        return None
    columns = _index_columns(layout)
    values = None if columns is None else _affine_sums(layout, columns)
    for stage in layout.stages:
        if values is None or isinstance(stage, Table):
            return None
        values = _affine_stage(stage, values)
    return None if values is None else next(iter(values.values()))


_Column: TypeAlias = tuple[Any, int]  # a stride, and which bit of its digit
_Affine: TypeAlias = dict["Axis | None", tuple[int, tuple[int, ...]]]  # per axis: value at 0, change by each bit


def _axes(layout: Layout) -> tuple[Axis | None, ...]:
    return layout.stage_axes if layout.stage_axes is not None else (None,)


def _pick(step: Any, axis: Axis | None) -> Scalar:
    return along(step, axis) if axis is not None else step if isinstance(step, int | X) else 0


def _index_columns(layout: Layout) -> list[_Column] | None:
    """Return the stride of each bit of the index, None where an extent is no power of two."""
    pairs: Iterable[tuple[int, Any]] = layout.leaves()
    if any(extent & (extent - 1) for extent, _ in pairs):
        if layout.has_xor or layout.stage_axes is not None:
            return None
        pairs = modes_of_key((layout.size, floor_sum(pairs)))  # of a power of two: so may be its extents now
        if any(extent & (extent - 1) for extent, _ in pairs):
            return None
    return [(step, k) for extent, step in pairs for k in range(extent.bit_length() - 1)]


def _affine_sums(stage: Layout, columns: Sequence[_Column]) -> _Affine | None:
    """Return what each column adds to each result, None unless addition is XOR there.

    It is where the integer strides and the offset are non-negative and share no bit.
    """
    sums: _Affine = {}
    for axis in _axes(stage):
        offset = _int(_pick(stage.offset, axis))
        taken = offset
        if offset < 0:
            return None
        bits = []
        for step, shift in columns:
            part = step if axis is None else along(step, axis)
            if isinstance(part, X):
                bits.append(part.value << shift)
                continue
            value = part << shift
            if value < 0 or value & taken:
                return None
            taken |= value
            bits.append(value)
        sums[axis] = offset, tuple(bits)
    return sums


def _affine_stage(stage: Layout, values: _Affine) -> _Affine | None:
    """Send values through a stage that is F2-affine on the bits they have; None where it is not."""
    scalar = None in values
    columns: list[_Column] = []
    zero, count = 0, len(next(iter(values.values()))[1])
    joint = [0] * count  # the values of all axes side by side, as the columns are
    for place, modes in enumerate(stage.stage_modes(None if scalar else len(values))):
        offset, bits = values.get(None if scalar else place, (0, (0,) * count))
        reach = offset
        for bit in bits:
            reach |= bit
        start = len(columns)
        found = _open_columns(modes, reach.bit_length())
        if found is None:
            return None
        columns += found
        zero |= offset << start
        joint = [before | bit << start for before, bit in zip(joint, bits, strict=True)]
    sums = _affine_sums(stage, columns)
    if sums is None:
        return None
    return {
        axis: (at_zero ^ _xor_of(bits, zero), tuple(_xor_of(bits, bit) for bit in joint))
        for axis, (at_zero, bits) in sums.items()
    }


def _xor_of(columns: Sequence[int], chosen: int) -> int:
    """Return the XOR of the columns whose bits are set in `chosen`."""
    result = 0
    while chosen:
        lowest = chosen & -chosen
        result ^= columns[lowest.bit_length() - 1]
        chosen ^= lowest
    return result


def _open_columns(modes: Sequence[tuple[int, Any]], bits: int) -> list[_Column] | None:
    """Return the stride of each of `bits` input bits of a stage whose last mode goes on without end."""
    columns: list[_Column] = []
    for place, (extent, step) in enumerate(modes):
        last = place == len(modes) - 1
        if extent & (extent - 1) and not last:
            return None if len(columns) < bits else columns[:bits]
        width = bits - len(columns) if last else extent.bit_length() - 1
        columns += [(step, k) for k in range(width)]
    return columns[:bits]


def _affine_form(zero: int, bits: tuple[int, ...]) -> tuple[Any, ...]:
    taken = 0
    for bit in bits:
        if bit & taken:
            return ("f2", zero, *bits)
        taken |= bit
    return floor_sum([(2, bit - 2 * (bit & zero)) for bit in bits], zero)


_Values: TypeAlias = dict["Axis | None", int]


# --- fused integer stages -----------------------------------------------------------------------------------------


def fused_terms(layout: Layout) -> Terms | None:
    """Return the floor sum of a chain of integer stages with a scalar result, None where fusing is not exact."""
    if layout.has_xor:
        return None
    modes: list[tuple[int, _Values]] = [
        (extent, {a: _int(_pick(step, a)) for a in _axes(layout)}) for extent, step in layout.leaves() if extent > 1
    ]
    offset: _Values = {a: _int(_pick(layout.offset, a)) for a in _axes(layout)}
    for stage in layout.stages:
        if isinstance(stage, Table) or stage.has_xor:
            return None
        terms = _stage_terms(stage, modes, offset)
        if terms is None:
            return None
        if stage is layout.stages[-1]:
            (result,) = terms.values()
            return _sorted_terms(result)
        joint = _joint_modes(terms, layout.size)
        if joint is None:
            return None
        offset, modes = joint
    return None


def _stage_terms(
    stage: Layout, modes: list[tuple[int, _Values]], offset: _Values
) -> dict[Axis | None, dict[int, int]] | None:
    """Return per result axis the floor-sum terms {P: c} after a stage, None where a digit carries."""
    result: dict[Axis | None, dict[int, int]] = {a: {0: _int(_pick(stage.offset, a))} for a in _axes(stage)}
    groups = stage.stage_modes(len(offset) if None not in offset else None)
    inputs: list[Axis | None] = [None] if None in offset else list(range(len(groups)))
    for axis, group in zip(inputs, groups, strict=True):
        for out in _axes(stage):
            steps = [(extent, _int(_pick(step, out))) for extent, step in group]
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


def _sorted_terms(terms: dict[int, int]) -> Terms:
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


# --- what only its values tell ------------------------------------------------------------------------------------


def _recognised(table: np.ndarray) -> tuple[Any, ...]:
    """Return the form of a function given by its values: a floor sum, an F2-affine map, or a digest."""
    count = len(table)
    if count & (count - 1) == 0 and table.min() >= 0:
        bits = tuple(int(table[1 << k] ^ table[0]) for k in range(count.bit_length() - 1))
        if np.array_equal(xor_table(int(table[0]), bits), table):
            return _affine_form(int(table[0]), bits)
    terms = _terms_of_table(table)
    if terms is not None:
        return terms
    return ("table", hashlib.sha256(np.ascontiguousarray(table, dtype="<i8").tobytes()).hexdigest())


def _terms_of_table(table: np.ndarray) -> Terms | None:
    terms: list[tuple[int, int]] = [(0, int(table[0]))] if table[0] else []
    steps = np.diff(table)
    while len(terms) <= _MAX_TERMS:
        places = np.flatnonzero(steps)
        if len(places) == 0:
            return tuple(terms)
        p = int(places[0]) + 1
        c = int(steps[p - 1])
        terms.append((p, c))
        steps[p - 1 :: p] -= c
    return None
