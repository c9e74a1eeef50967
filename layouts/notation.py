"""Layouts by the names of their axes: ``page kv head token//8 dim token%8``.

First link of the data's path as people write it.  The text lists the factors of a tensor OUTERMOST first;
a factor is an axis, or a digit of one: ``token//8`` (quotient), ``token%8`` (remainder), ``token%32//8``
(a digit between).  The tensor is compact and row-major in the order written: the last factor has stride 1.
The meaning of a factor is its Python expression, so ``token%32//8`` runs over ``(token % 32) // 8``.

Not modelled: padding and gaps (build a `NamedLayout` from strides for those), swizzles, and element
sizes: offsets count elements.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property, reduce
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from layouts.injective import is_injective
from layouts.layout import Key, Layout, modes_of_key
from layouts.shape import MAX_LEAVES, IntTuple, as_int
from layouts.shape import size as product_of

NamedKey: TypeAlias = tuple[str, Key]

TELLING = 3  # assumed: fewer characters begin a name by chance
MAX_NOTATION = 4096  # assumed: characters of a notation text
_FACTOR = re.compile(r"([A-Za-z_]\w*)(?:%([0-9]{1,18}))?(?://([0-9]{1,18}))?", re.ASCII)


def likeness(name: str, other: str) -> float:
    """Return how much like a typed name another is, in either case: 0 to 1, and 1 more where it begins with it.

    Parts between dashes may stand in another order.
    """
    typed, known = name[:80].lower(), other.lower()
    begins = len(typed) >= TELLING and known.startswith(typed)
    spellings = {(typed, known), (_in_order(typed), _in_order(known))}
    return max(SequenceMatcher(None, *spelling).ratio() for spelling in spellings) + begins


def _in_order(name: str) -> str:
    return "-".join(sorted(name.split("-")))


def nearest_first(name: str, allowed: Iterable[str], most: int | None = None) -> str:
    """Return the allowed names as text for an error message, those most like `name` first.

    Of more than `most` the others are counted.
    """
    names = sorted(allowed, key=lambda other: (-likeness(name, other), other))
    shown = names[:most]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(shown) < len(names) else "")


@dataclass(frozen=True, eq=False)
class NamedLayout:
    """A layout whose top-level mode k belongs to the logical axis ``axes[k]``.

    Two named layouts are equal when they give every named coordinate the same offset, whatever the order
    of their axes; an axis of size 1 does not count.  ValueError unless there is one distinct name per
    mode.
    """

    axes: tuple[str, ...]
    layout: Layout

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", tuple(self.axes))
        if len(self.axes) != self.layout.rank:
            raise ValueError(f"{len(self.axes)} axes {self.axes} for the {self.layout.rank} modes of {self.layout}")
        if repeated := [axis for axis in self.axes if self.axes.count(axis) > 1]:
            raise ValueError(f"axes {self.axes}: axis {repeated[0]!r} appears more than once")

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, NamedLayout) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def mode(self, axis: str) -> Layout:
        """Return the layout of one axis alone; ValueError for an unknown axis."""
        return self._modes[self._index(axis)]

    def size(self, axis: str) -> int:
        """Return the number of coordinates of an axis."""
        return self._sizes[self._index(axis)]

    def leaves(self, axis: str) -> tuple[tuple[int, int], ...]:
        """Return (extent, stride) of the digits of an axis, the fastest-varying digit first."""
        return self.mode(axis).leaves()

    @property
    def cosize(self) -> int:
        """The length of the span of the offsets, in elements."""
        return self.layout.cosize

    @cached_property
    def key(self) -> NamedKey:
        """The canonical form: names with sizes, and the key of the layout with its axes in the order of the names."""
        names = sorted(f"{axis}={size}" for axis, size in zip(self.axes, self._sizes, strict=True) if size > 1)
        return " ".join(names), self._in_order_of_names.key

    @property
    def _axis_keys(self) -> tuple[tuple[str, Key], ...]:
        """(axis, key of its mode) in the order of the names, axes of size 1 left out; of integer strides alone."""
        keys = {axis: mode.key for axis, mode in zip(self.axes, self._modes, strict=True)}
        return tuple((axis, keys[axis]) for axis in sorted(self.axes) if keys[axis][0] > 1)

    @property
    def _in_order_of_names(self) -> Layout:
        if not isinstance(self.layout.shape, tuple) or not isinstance(self.layout.stride, tuple):
            return self.layout
        modes = sorted(zip(self.axes, self.layout.shape, self.layout.stride, strict=True), key=lambda item: item[0])
        shape, stride = tuple(mode[1] for mode in modes), tuple(mode[2] for mode in modes)
        return Layout(shape, stride, self.layout.offset, self.layout.stages)

    @cached_property
    def is_injective(self) -> bool:
        """Whether no two coordinates share an offset."""
        return is_injective(self.layout)

    @cached_property
    def text(self) -> str:
        """The normalised notation, or ``axis=shape:stride`` per axis if the layout has gaps."""
        if not self.layout.is_affine:
            return f"({','.join(self.axes)}) -> {self.layout}"
        ones = [axis for axis, mode in zip(self.axes, self._modes, strict=True) if mode.size == 1]
        digits = []
        for axis, key in self._axis_keys:
            low = 1
            for extent, stride in modes_of_key(key):
                digits.append((stride, _Factor(axis, low, low * extent).spelling(key[0]), extent))
                low *= extent
        digits.sort(reverse=True)
        expected = prod(extent for _, _, extent in digits)
        for stride, _, extent in digits:
            expected //= extent
            if stride != expected:
                modes = zip(self.axes, self._modes, strict=True)
                return " ".join(f"{axis}={mode}" for axis, mode in sorted(modes, key=lambda item: item[0]))
        return " ".join([*sorted(ones), *(spelling for _, spelling, _ in digits)])

    def offset(self, /, **coordinates: int) -> Any:
        """Return the offset, in elements, of one coordinate per axis; ValueError outside the axis."""
        self._check_names(coordinates)
        point = []
        for axis, size in zip(self.axes, self._sizes, strict=True):
            point.append(self._within(axis, as_int(coordinates[axis], f"axis {axis}"), size))
        return self.layout(*point)

    def offsets(self, /, **coordinates: ArrayLike) -> Any:
        """Return the int64 offsets of integer coordinate arrays, one per axis, broadcast together."""
        self._check_names(coordinates)
        if not self.layout.is_affine:
            return self.layout.coordinate_offsets(*(coordinates[axis] for axis in self.axes))
        parts = []
        for axis, mode in zip(self.axes, self._modes, strict=True):
            try:
                parts.append(mode.offsets(coordinates[axis]))
            except ValueError as error:
                raise ValueError(f"axis {axis}: {error}") from None
        return np.asarray(reduce(np.add, parts), dtype=np.int64)

    def explain(self) -> str:
        """Return what the layout does, in words: a line for the whole, one per axis, one per stage."""
        from layouts.explain import explain

        return explain(self)

    def _repr_svg_(self) -> str:
        """Return a picture for notebooks."""
        from layouts.draw import repr_svg

        return repr_svg(self)

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        shape = self.layout.shape
        return tuple(map(product_of, shape)) if isinstance(shape, tuple) else (shape,)

    @cached_property
    def _modes(self) -> tuple[Layout, ...]:
        return tuple(self.layout.mode(k) for k in range(self.layout.rank))

    def _index(self, axis: str) -> int:
        if axis not in self.axes:
            raise ValueError(f"unknown axis {axis!r}, allowed are {nearest_first(axis, self.axes)}")
        return self.axes.index(axis)

    def _check_names(self, coordinates: Mapping[str, object]) -> None:
        for axis in coordinates:
            self._index(axis)
        if missing := [axis for axis in self.axes if axis not in coordinates]:
            raise ValueError(f"no coordinate is given for axis {missing[0]}")

    @staticmethod
    def _within(axis: str, coordinate: int, size: int) -> int:
        if not 0 <= coordinate < size:
            raise ValueError(f"axis {axis}: {coordinate} is outside 0..{size - 1}")
        return coordinate


class _Factor(NamedTuple):
    """The digit ``axis % high // low`` of a coordinate."""

    axis: str
    low: int
    high: int

    def spelling(self, size: int) -> str:
        remainder = f"%{self.high}" if self.high < size else ""
        quotient = f"//{self.low}" if self.low > 1 else ""
        return self.axis + remainder + quotient


def named(text: str, sizes: Mapping[str, int]) -> NamedLayout:
    """Read the notation, with the size of every axis; the axes of the result stand in the order of `sizes`.

    ValueError names the text and the factor: unknown, missing or repeated axes, a tile factor that does
    not divide the axis, factors that do not cover an axis exactly, and sizes below 1.
    """
    shown = text if len(text) <= 80 else text[:77] + "..."
    try:
        return _named(text, sizes)
    except ValueError as error:
        raise ValueError(f"notation {shown!r}: {error}") from None


def _named(text: str, sizes: Mapping[str, int]) -> NamedLayout:
    if len(text) > MAX_NOTATION:
        raise ValueError(f"{len(text)} characters, at most {MAX_NOTATION} are allowed")
    for axis, size in sizes.items():
        if as_int(size, f"size of axis {axis}") < 1:
            raise ValueError(f"axis {axis} has size {size}, sizes are at least 1")
    words = text.split()
    if not words or len(words) > MAX_LEAVES:
        raise ValueError(f"{len(words)} factors, allowed are 1 to {MAX_LEAVES}")
    if repeated := [word for word in words if words.count(word) > 1]:
        raise ValueError(f"factor {repeated[0]!r} is repeated")
    factors = [_read_factor(word, sizes) for word in words]
    strides: dict[_Factor, int] = {}
    stride = 1
    for factor in reversed(factors):
        strides[factor] = stride
        stride *= factor.high // factor.low
    shapes: list[IntTuple] = []
    steps: list[IntTuple] = []
    for axis in sizes:
        chain = _covering_chain(axis, sizes[axis], factors)
        shape = tuple(factor.high // factor.low for factor in chain)
        step = tuple(strides[factor] for factor in chain)
        shapes.append(shape if len(chain) > 1 else shape[0])
        steps.append(step if len(chain) > 1 else step[0])
    return NamedLayout(tuple(sizes), Layout(tuple(shapes), tuple(steps)))


def _read_factor(word: str, sizes: Mapping[str, int]) -> _Factor:
    match = _FACTOR.fullmatch(word)
    if match is None:
        raise ValueError(f"factor {word!r}: expected axis, axis//n, axis%n or axis%m//n")
    axis = match[1]
    if axis not in sizes:
        raise ValueError(f"factor {word!r}: unknown axis {axis!r}, allowed are {nearest_first(axis, sizes)}")
    high = _divisor(word, int(match[2]), sizes[axis]) if match[2] else sizes[axis]
    low = _divisor(word, int(match[3]), high) if match[3] else 1
    return _Factor(axis, low, high)


def _divisor(word: str, tile: int, whole: int) -> int:
    if tile < 1 or whole % tile:
        nearest = " and ".join(map(str, _nearest_divisors(tile, whole)))
        raise ValueError(f"factor {word!r}: {tile} does not divide {whole}, nearest divisors are {nearest}")
    return tile


def _nearest_divisors(tile: int, whole: int) -> list[int]:
    """Return the divisors of `whole` next below and next above `tile`, looking at most 65536 numbers far."""
    below = next((n for n in range(min(tile, whole), max(0, tile - 65_536), -1) if whole % n == 0), 1)
    above = next((n for n in range(max(tile, 1), min(whole, tile + 65_536)) if whole % n == 0), whole)
    return sorted({below, above})


def _covering_chain(axis: str, size: int, factors: list[_Factor]) -> list[_Factor]:
    """Return the factors of an axis, innermost first; ValueError unless they cover it exactly."""
    chain = sorted(factor for factor in factors if factor.axis == axis)
    if not chain:
        raise ValueError(f"axis {axis} is missing")
    ends = [_Factor(axis, 1, 1), *chain, _Factor(axis, size, size)]
    for inner, outer in pairwise(ends):
        if inner.high == outer.low:
            continue
        written = " ".join(factor.spelling(size) for factor in chain)
        fault = "overlap" if inner.high > outer.low else "leave a gap"
        gap = _Factor(axis, *sorted((inner.high, outer.low))).spelling(size)
        raise ValueError(
            f"the factors {written} do not cover axis {axis} of size {size} exactly: they {fault} at {gap}"
        )
    return chain
