"""Nested tuples of integers: the shapes, strides and coordinates of the layout algebra.

Ground floor of the data's path: a tensor index is first a coordinate inside a shape, and only
`layouts.layout` gives it an offset.  A shape is an integer or a tuple of shapes, ``((2, 4), 8)``; the
LEFTMOST leaf varies fastest when a shape is walked by one linear index (colexicographic order, as in
CuTe).

Not modelled: symbolic extents, empty tuples, and values beyond 64 bits (an offset is an address).  Depth
and number of leaves are bounded, so that text from outside cannot make these functions recurse without
end.
"""

import operator
from collections.abc import Iterator
from math import prod
from typing import TypeAlias

IntTuple: TypeAlias = "int | tuple[IntTuple, ...]"

MAX_DEPTH = 32  # assumed: real kernels nest three or four levels
MAX_LEAVES = 256  # assumed: a tensor has at most some ten axes of some ten tile levels
MAX_DIGITS = 19  # decimal digits of 2**63 - 1
MAX_TEXT = 65_536  # longer than any text these bounds admit
INT64_MAX = 2**63 - 1


def as_int(value: object, where: str) -> int:
    """Return `value` as a plain int; ValueError unless it is an integer of 64 bits (a bool is not)."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"{where}: {value!r} is not an integer")
    if abs(number) > INT64_MAX:
        raise ValueError(f"{where}: an integer of {number.bit_length()} bits does not fit 64 bits")
    return number


def as_int_tuple(value: object, where: str) -> IntTuple:
    """Return nested ints, tuples and lists as nested tuples of plain ints; ValueError outside the bounds."""
    result = _nested(value, where, 0)
    if (count := len(leaves(result))) > MAX_LEAVES:
        raise ValueError(f"{where}: {count} leaves, at most {MAX_LEAVES} are allowed")
    return result


def _nested(value: object, where: str, depth: int) -> IntTuple:
    if not isinstance(value, tuple | list):
        return as_int(value, where)
    if depth == MAX_DEPTH:
        raise ValueError(f"{where}: tuples nest deeper than {MAX_DEPTH} levels")
    if not 0 < len(value) <= MAX_LEAVES:
        raise ValueError(f"{where}: a tuple of {len(value)} elements, allowed are 1 to {MAX_LEAVES}")
    return tuple(_nested(item, where, depth + 1) for item in value)


def leaves(value: IntTuple) -> tuple[int, ...]:
    """Return the integers of a nested tuple, leftmost first."""
    if isinstance(value, int):
        return (value,)
    return tuple(leaf for item in value for leaf in leaves(item))


def size(shape: IntTuple) -> int:
    """Return the number of coordinates of a shape: the product of its leaves."""
    return prod(leaves(shape))


def congruent(a: IntTuple, b: IntTuple) -> bool:
    """Tell whether two nested tuples have the same nesting."""
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int)
    return len(a) == len(b) and all(map(congruent, a, b))


def replace_leaves(profile: IntTuple, replacements: Iterator[IntTuple]) -> IntTuple:
    """Return `profile` with its leaves, leftmost first, replaced by the next items of `replacements`."""
    if isinstance(profile, int):
        return next(replacements)
    return tuple(replace_leaves(item, replacements) for item in profile)


def shown(value: object, most: int = 60) -> str:
    """Return `value` as text for an error message, cut to `most` characters."""
    text = str(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def compact_strides(shape: IntTuple) -> IntTuple:
    """Return the strides that number the coordinates of `shape` 0, 1, 2 ..., leftmost leaf fastest."""
    strides, stride = [], 1
    for extent in leaves(shape):
        strides.append(stride)
        stride *= extent
    return replace_leaves(shape, iter(strides))


def to_text(value: object) -> str:
    """Return the compact CuTe spelling of nested extents or strides, ``((2,4),8)``."""
    return "(" + ",".join(map(to_text, value)) + ")" if isinstance(value, tuple) else str(value)
