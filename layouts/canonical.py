"""The canonical key of a layout: equal exactly when two layouts are the same function of the linear index.

Every integer layout is a floor sum ``f(i) = sum c_k * (i // P_k)``, with P_k the products of the extents and
``c_0 = d_0``, ``c_k = d_k - s_(k-1) * d_(k-1)``; the functions ``i // P`` of distinct P are independent, so the
non-zero (P_k, c_k) and the size are a complete key (P = 0 stands for the constant 1).  An XOR layout is F2-affine;
its key is its value at 0 and at each bit, unless these are bit-disjoint, in which case XOR is addition and it is
a floor sum.  Stages are fused into one of the two forms where that is exact.  What neither form covers is decided
by its values up to MAX_ENUMERATED indices, and beyond that by the floor sums of its modes or its spelling, where equal
keys still mean equal functions, but unequal keys no longer mean different ones.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from layouts.bulk import xor_table
from layouts.floor_form import Terms, as_integer, blocks_of, floor_sum, fused_terms
from layouts.xor_form import affine_bits

if TYPE_CHECKING:
    from layouts.layout import Layout

Key: TypeAlias = tuple[int, tuple[Any, ...]]  # (size, Terms), or a marked form: see `key_of`

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
    forms = [(axis, _form(layout.along(axis))) for axis in layout.axes]
    moving = [(axis, form) for axis, form in forms if form != ()]
    return layout.size, ("axes", *moving) if moving else ()


def _form(layout: Layout) -> tuple[Any, ...]:
    if not layout.stages and not layout.has_xor:
        return floor_sum(layout.leaves(), as_integer(layout.offset))
    affine = affine_bits(layout)
    if affine is not None:
        return _affine_form(*affine)
    fused = fused_terms(layout)
    if fused is not None and (_odd(layout.size) > 1 or all(_odd(p) <= 1 for p, _ in fused)):
        return fused
    if layout.size <= MAX_ENUMERATED:  # of 2**n indices, a floor sum with other boundaries may be an XOR layout
        try:
            return _recognised(layout.table())
        except ValueError:  # its values do not fit 64 bits, or a table does not have them
            return ("spelt", repr(layout))
    if fused is not None:
        return fused
    blocks = blocks_of(layout)
    return ("blocks", *blocks) if blocks is not None else ("spelt", repr(layout))


def _odd(number: int) -> int:
    """Return the odd part of a number: 1 for powers of two, 0 for 0."""
    return number // (number & -number) if number else 0


def _affine_form(zero: int, bits: tuple[int, ...]) -> tuple[Any, ...]:
    taken = 0
    for bit in bits:
        if bit & taken:
            return ("f2", zero, *bits)
        taken |= bit
    return floor_sum([(2, bit - 2 * (bit & zero)) for bit in bits], zero)


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
