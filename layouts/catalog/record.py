"""Records: several tensors of different element widths in one byte space.

Where a cache mixes data types - eight-bit keys, then their scales, then sixteen-bit rotary parts - no single
shape:stride over elements describes it.  A record has named fields, each a layout into the same bytes with an
element width, and knows that they do not overlap and how many bytes they all need.  Offsets of fields are kept in
BITS, so that four-bit elements have addresses too; element 0 of a byte is its low part.

Not modelled: byte order within an element (little), and what the padding bytes hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from layouts.catalog.sizes import check_sizes
from layouts.layout import Layout
from layouts.notation import NamedLayout, nearest_first
from layouts.shape import IntTuple, as_int
from layouts.stride import StrideTuple, stride_leaves

MAX_STATES = 1_000_000  # assumed: partial sums the overlap test may hold; ordinary records need a handful
MAX_ELEMENTS = 2**22  # assumed: elements looked at one by one where a field is no sum of digits


@dataclass(frozen=True)
class Field:
    """One tensor of a record: `layout` gives the BIT where an element of `bits` bits starts."""

    layout: NamedLayout
    bits: int

    def __post_init__(self) -> None:
        check_sizes("field", bits=self.bits)

    @property
    def payload(self) -> int:
        """The number of bits of all elements."""
        return self.layout.layout.size * self.bits


def field(bits: int, at: int = 0, /, **modes: tuple[IntTuple, StrideTuple]) -> Field:
    """Return a field of `bits`-wide elements at byte `at`, with a mode (shape, strides in BITS) per axis."""
    shapes, strides = zip(*modes.values(), strict=True)
    return Field(NamedLayout(tuple(modes), Layout(shapes, strides, as_int(at, "field: byte") * 8)), bits)


class Record:
    """Named fields in one space of `size` bytes; ValueError if two elements share a bit or one lies outside.

    `Record({"key": Field(...), "scale": Field(...)}, size=640)`.  Without `size` the record ends with its last
    element.  Two records are equal when they have equal fields of the same names and the same size.
    """

    fields: dict[str, Field]
    size: int

    def __init__(self, fields: Mapping[str, Field], size: int | None = None) -> None:
        if not fields:
            raise ValueError("record: at least one field is needed")
        self.fields = dict(fields)
        spans = {name: _span(part) for name, part in self.fields.items()}
        end = -(-max(high for _, high in spans.values()) // 8)
        self.size = end if size is None else as_int(size, "record: size")
        for name, (low, high) in spans.items():
            if low < 0 or high > 8 * self.size:
                raise ValueError(
                    f"record: field {name!r} takes bits {low}..{high - 1}, the record has {self.size} bytes, "
                    f"bits 0..{8 * self.size - 1}"
                )
        self._check_apart(spans)

    def _check_apart(self, spans: Mapping[str, tuple[int, int]]) -> None:
        names = list(self.fields)
        for place, name in enumerate(names):
            if _meets_itself(self.fields[name]):
                raise ValueError(f"record: two elements of the field {name!r} overlap")
            for other in names[:place]:
                apart = spans[name][0] >= spans[other][1] or spans[other][0] >= spans[name][1]
                if not apart and _meet(self.fields[name], self.fields[other]):
                    raise ValueError(f"record: the fields {other!r} and {name!r} overlap")

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Record) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Record({self.fields!r}, size={self.size})"

    def __str__(self) -> str:
        parts = (f"{name}: {part.bits} bits at {part.layout.text}" for name, part in self.fields.items())
        return "; ".join([*parts, f"{self.size} bytes"])

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """The canonical form: the size, then (name, width, key of the bits) of the fields in the order of names."""
        fields = sorted(self.fields.items())
        return (self.size, *((name, part.bits, part.layout.key) for name, part in fields))

    @property
    def payload(self) -> int:
        """The bytes of all elements together, rounded up; `size` minus this is padding."""
        return -(-sum(part.payload for part in self.fields.values()) // 8)

    def bits(self, name: str) -> int:
        """Return the element width of a field in bits."""
        return self._field(name).bits

    def axes(self, name: str) -> tuple[str, ...]:
        """Return the axes of a field."""
        return self._field(name).layout.axes

    def address(self, name: str, /, **coordinates: int) -> int:
        """Return the byte in which an element starts."""
        return int(self.bit(name, **coordinates)) // 8

    def bit(self, name: str, /, **coordinates: int) -> int:
        """Return the bit at which an element starts; ValueError for a coordinate outside its axis."""
        return int(self._in_field(name, lambda part: part.layout.offset(**coordinates)))

    def addresses(self, name: str, /, **coordinates: ArrayLike) -> Any:
        """Return the bytes in which elements start: int64, one array per axis, broadcast together."""
        return self._in_field(name, lambda part: part.layout.offsets(**coordinates)) // 8

    def bytes_of(self, name: str) -> NamedLayout:
        """Return the layout from the coordinates of a field to byte addresses."""
        part = self._field(name)
        layout = part.layout.layout
        plain = not layout.stages and not layout.has_xor and layout.axes is None
        steps = [*stride_leaves(layout.stride), layout.offset] if plain else [1]
        if all(isinstance(step, int) and step % 8 == 0 for step in steps):
            return NamedLayout(part.layout.axes, Layout(layout.shape, _eighth(layout.stride), _eighth(layout.offset)))
        return NamedLayout(part.layout.axes, layout.then(Layout((8, 1), (0, 1))))

    def _field(self, name: str) -> Field:
        if name not in self.fields:
            raise ValueError(f"record: unknown field {name!r}, allowed are {nearest_first(name, self.fields)}")
        return self.fields[name]

    def _in_field(self, name: str, ask: Callable[[Field], Any]) -> Any:
        part = self._field(name)
        try:
            return ask(part)
        except ValueError as error:
            raise ValueError(f"field {name!r}: {error}") from None


def _eighth(steps: Any) -> Any:
    return tuple(_eighth(step) for step in steps) if isinstance(steps, tuple) else steps // 8


def _span(part: Field) -> tuple[int, int]:
    """Return the first bit of a field and the bit behind its last one."""
    layout = part.layout.layout
    if _is_sum(part):
        reach = [(extent - 1) * stride for extent, stride in layout.leaves()]
        base = int(layout.offset)  # type: ignore[arg-type]
        return base + sum(r for r in reach if r < 0), base + sum(r for r in reach if r > 0) + part.bits
    values = _values(part)
    return int(values.min()), int(values.max()) + part.bits


def _is_sum(part: Field) -> bool:
    layout = part.layout.layout
    return not layout.stages and not layout.has_xor and layout.axes is None


def _values(part: Field) -> Any:
    layout = part.layout.layout
    if layout.size > MAX_ELEMENTS:
        raise ValueError(f"record: {layout.size} elements of a field of stages, at most {MAX_ELEMENTS} are looked at")
    return layout.table()


# --- overlap: two elements of widths v and w, starting at bits a and b, share one when -v < a - b < w ---------------


def _meets_itself(part: Field) -> bool:
    if not _is_sum(part):
        return bool((np.diff(np.sort(_values(part))) < part.bits).any())
    digits = [(abs(stride), extent - 1, extent - 1) for extent, stride in part.layout.layout.leaves() if extent > 1]
    return any(step == 0 for step, _, _ in digits) or _reaches(digits, 0, 1 - part.bits, part.bits - 1, distinct=True)


def _meet(a: Field, b: Field) -> bool:
    if not (_is_sum(a) and _is_sum(b)):
        first, second = np.sort(_values(a)), np.sort(_values(b))
        before = np.searchsorted(second, first + a.bits)  # how many of b start before this one of a ends
        return bool(((before > 0) & (second[np.maximum(before, 1) - 1] + b.bits > first)).any())
    signed: dict[int, list[int]] = {}  # step -> how often it goes up, and down, in the difference a - b
    for sign, part in ((1, a), (-1, b)):
        for extent, stride in part.layout.layout.leaves():
            ways = signed.setdefault(abs(stride), [0, 0])
            ways[sign * stride < 0] += extent - 1
    digits = [(step, up, down) for step, (up, down) in signed.items() if step]
    start = int(a.layout.layout.offset) - int(b.layout.layout.offset)  # type: ignore[arg-type]
    return _reaches(digits, start, 1 - a.bits, b.bits - 1, distinct=False)


def _reaches(digits: list[tuple[int, int, int]], start: int, low: int, high: int, *, distinct: bool) -> bool:
    """Tell whether start + sum of digit * step, with -down <= digit <= up for (step, up, down), lies in low..high.

    `distinct` asks for one digit other than 0.  Largest step first, keeping only the partial sums from which the
    smaller steps can still come back.
    """
    ordered = sorted(digits, reverse=True)
    up = sum(step * ups for step, ups, _ in ordered)
    down = sum(step * downs for step, _, downs in ordered)
    sums = {start: False}  # partial sum -> whether a digit other than 0 leads there
    for step, ups, downs in ordered:
        up -= step * ups
        down -= step * downs
        following: dict[int, bool] = {}
        for partial, moved in sums.items():
            first = max(-downs, -((partial + up - low) // step))
            last = min(ups, (high + down - partial) // step)
            if last - first + len(following) > MAX_STATES:
                raise ValueError(f"record: the overlap test needs more than {MAX_STATES} partial sums")
            for digit in range(first, last + 1):
                value = partial + digit * step
                following[value] = following.get(value, False) or moved or digit != 0
        sums = following
    return any(low <= value <= high and (moved or not distinct) for value, moved in sums.items())


__all__ = ["Field", "Record", "field"]
