"""What lies on top of an order of digits: nothing, or one stage such as a swizzle or padding.

An order sends the tensor one to one onto the offsets 0..size-1, so what a stage does to runs and pages is a
property of the stage alone: it is looked at once, before any order is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import gcd
from typing import Any

import numpy as np

from layouts import bulk
from layouts.bulk import IntArray
from layouts.injective import is_injective
from layouts.layout import Layout, Stage, Table, flat_layout, modes_of_key
from layouts.stride import X
from layouts.xor_form import affine_bits

MAX_LOOKED_AT = 2**20  # assumed: values of a stage looked at one by one
_MAX_COMPARED = 2**16  # assumed: values compared as a table to tell two stages apart


@dataclass(frozen=True)
class Variant:
    """A stage on offsets 0..count-1, None for no stage; ValueError if it sends two offsets to one."""

    stage: Stage | None
    count: int

    def __post_init__(self) -> None:
        if self.layout.axes is not None:
            raise ValueError(f"stage {self.stage}: gives axes, an offset is needed")
        if not self._injective:
            raise ValueError(f"stage {self.stage}: sends two of the offsets 0..{self.count - 1} to one")

    @cached_property
    def layout(self) -> Layout:
        """The stage as a layout of the offsets."""
        return Layout(self.count) if self.stage is None else Layout(self.count).then(self.stage)

    @cached_property
    def values(self) -> IntArray | None:
        """The result of every offset, None where these are too many."""
        return np.asarray(self.layout.table()) if self.count <= MAX_LOOKED_AT else None

    @cached_property
    def bitwise(self) -> tuple[int, tuple[int, ...]] | None:
        """The value at 0 and the change by each bit, if the stage is F2-affine on as many bits as offsets have."""
        over = Layout(1 << (self.count - 1).bit_length())
        return affine_bits(over if self.stage is None else over.then(self.stage))

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Equal for stages that do the same to all offsets."""
        return ("bits", *self.bitwise) if self.bitwise is not None else self.layout.key

    @cached_property
    def _injective(self) -> bool:
        if self.stage is None:
            return True
        if self.values is not None:
            return len(np.unique(self.values)) == self.count
        if self.bitwise is not None:
            return len(self._inverse[0]) == len(self.bitwise[1])
        return is_injective(flat_layout(modes_of_key((self.count, tuple(term for term in self._terms if term[0])))))

    @property
    def _terms(self) -> tuple[tuple[int, int], ...]:
        form = self.layout.key[1]
        if form and isinstance(form[0], str):
            raise ValueError(
                f"stage {self.stage}: is neither linear nor bitwise on {self.count} offsets, "
                f"at most {MAX_LOOKED_AT} can be looked at"
            )
        return form

    @cached_property
    def grain(self) -> int:
        """The largest divisor g of the size for which every aligned block of g offsets is seen to stay one."""
        if self.values is not None:
            starts = np.flatnonzero(np.diff(self.values) != 1) + 1
            return int(np.gcd.reduce([self.count, self.values[0], *starts, *self.values[starts]]))
        if self.bitwise is not None:
            zero, bits = self.bitwise
            same = next((k for k, bit in enumerate(bits) if bit != 1 << k), len(bits))
            if same == len(bits):
                return gcd(self.count, zero)
            return gcd(self.count, 1 << same, zero, *bits[same:])
        terms = dict(self._terms)
        others = [number for p, c in terms.items() if p != 1 for number in (p, c)]
        return gcd(self.count, *others) if terms.get(1) == 1 else 1

    def keeps_pages(self, page: int) -> bool:
        """Tell whether the offsets of every page of `page` elements stay together on one page."""
        if self.grain % page == 0 or self.stage is None:
            return True
        if self.values is not None:
            pages = np.arange(self.count) // page
            first = self.values[::page] // page
            return bool(np.array_equal(first[pages], self.values // page))
        if self.bitwise is None:
            return False
        zero, bits = self.bitwise
        if page & (page - 1) == 0:
            return all(bit < page for bit in bits[: page.bit_length() - 1])
        return page % _window([zero, *bits]) == 0

    def undo(self, values: Sequence[int] | IntArray) -> list[int] | None:
        """Return the offsets that the stage sends to `values`, None if it does not reach one of them."""
        if self.stage is None:
            return [int(value) for value in values]
        if self.values is not None:
            order, ordered = self._ordered
            wanted = np.asarray(values, dtype=np.int64)
            places = np.minimum(np.searchsorted(ordered, wanted), self.count - 1)
            return order[places].tolist() if np.array_equal(ordered[places], wanted) else None
        found = self._undo_bits(values) if self.bitwise is not None else None
        return None if found is None or max(found) >= self.count else found

    def _undo_bits(self, values: Iterable[int]) -> list[int] | None:
        assert self.bitwise is not None
        zero, (pivots, sources) = self.bitwise[0], self._inverse
        found: list[int] = []
        for value in values:
            rest, offset = int(value) ^ zero, 0
            for pivot, source in zip(pivots, sources, strict=True):
                if rest ^ pivot < rest:
                    rest, offset = rest ^ pivot, offset ^ source
            if rest:
                return None
            found.append(offset)
        return found

    @cached_property
    def _ordered(self) -> tuple[Any, Any]:
        assert self.values is not None
        order = np.argsort(self.values)
        return order, self.values[order]

    @cached_property
    def _inverse(self) -> tuple[list[int], list[int]]:
        assert self.bitwise is not None
        return _inverse(self.bitwise[1])

    def may_meet(self, other: Variant) -> bool:
        """Tell whether an order under this stage may be the same function as another order under `other`.

        False is certain; True may be said where it cannot be decided.
        """
        if self.bitwise is not None and other.bitwise is not None:
            zero, bits = other.bitwise
            between = self._undo_bits([zero, *(zero ^ bit for bit in bits)])
            if between is None or between[0] != 0:
                return False
            if self.count & (self.count - 1) == 0:
                return all(bit & (bit - 1) == 0 for bit in between[1:])
            window = _window(between)
            if self.count % window or window > _MAX_COMPARED:
                return True
            return _is_order(
                bulk.outer_table([(2, X(bit ^ between[0])) for bit in between[1 : window.bit_length()]], 0), self.count
            )
        if self.values is None or other.values is None:
            return True
        offsets = self.undo(other.values)
        return offsets is not None and (self.count > _MAX_COMPARED or _is_order(np.array(offsets), self.count))


def _is_order(values: IntArray, count: int) -> bool:
    """Tell whether the values at 0, 1, 2 ... may be those of an exchange of the digits of `count`."""
    form = Layout(len(values)).then(Table(values)).key[1]
    if form and isinstance(form[0], str):
        return False
    bounds = [*(p for p, _ in form), count]
    return bounds[0] != 0 and not any(above % below for below, above in pairwise(bounds))


def _window(values: Sequence[int]) -> int:
    """Return the least power of two within whose aligned blocks the map with these values at 0, 1, 2, 4 ... stays."""
    bits = [value ^ values[0] for value in values[1:]]
    moved = [values[0], *(bit ^ 1 << k for k, bit in enumerate(bits))]
    low = max((k + 1 for k, bit in enumerate(bits) if bit != 1 << k), default=0)
    return 1 << max([low, *(value.bit_length() for value in moved)])


def _inverse(bits: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return a basis of what `bits` span, each with a highest bit of its own, largest first, and its pre-images."""
    basis: list[tuple[int, int]] = []
    for k, bit in enumerate(bits):
        source = 1 << k
        for known, known_source in basis:
            if bit ^ known < bit:
                bit, source = bit ^ known, source ^ known_source
        if bit:
            basis = sorted([*basis, (bit, source)], reverse=True)
    return [bit for bit, _ in basis], [source for _, source in basis]
