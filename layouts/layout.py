"""The layout: a function from an index to an offset, written shape:stride.

First link of the chain tensor index -> element offset -> address -> DRAM bank.  The coordinate of an
index is taken digit by digit, the LEFTMOST mode fastest, and the result is the inner product of
coordinate and stride: ``((2,4),8):((1,16),2)`` sends index 3 = coordinate ((1,1),0) to 1 + 16 = 17 (the
conventions of CuTe).  A stride is an integer, an XOR stride or a step along axes (`layouts.stride`); where
integers and XOR strides meet, the sum of the integers is taken first and the rest is XORed into it.

What one shape:stride cannot say is a chain: `stages` read the result of the layout one after the other.  A
stage is a layout again (padding is ``(64,1):(1,68)``, a remainder ``(5,1):(1,0)``, a swizzle has XOR strides),
whose last mode goes on without end, or a `Table`.  A stage that reads the coordinates 0, 1, ... takes them
mode by mode, so that every map of floor divisions and remainders is a chain.

Two layouts are equal when they are the same function of the linear index, however they are spelt
(`layouts.canonical`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from layouts import bulk
from layouts.bulk import as_index_array
from layouts.canonical import Key, key_of
from layouts.floor_form import Terms, modes_of_key, separate
from layouts.shape import (
    INT64_MAX,
    MAX_DEPTH,
    IntTuple,
    as_int_tuple,
    compact_strides,
    leaves,
    replace_leaves,
    shown,
    size,
    to_text,
)
from layouts.span import loose_span
from layouts.stride import Axis, Step, StrideTuple, Vector, X, along, as_step, axes_of, stride_leaves
from layouts.swizzle_text import swizzle_of
from layouts.table import Table
from layouts.xor_form import affine_bits

Value: TypeAlias = "int | tuple[int, ...] | dict[Axis, int]"

MAX_TABLE = 2**31  # assumed: 16 GiB of offsets; beyond it ask for the offsets of chosen indices
MAX_STAGES = 16  # assumed: the longest chain of a real layout has four
MAX_SPAN_TABLE = 2**24  # assumed: values looked at to find the span of a chain that has no closed form


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Layout:
    """A hierarchical shape with one stride per extent; an extent of 0 makes the layout empty.

    Without `stride` the layout is compact, leftmost mode fastest.  `offset` is added to the result: an integer,
    or a `Vector` of integers for a layout with axes.  `stages` then read it, the first one first.  ValueError if
    shape and stride do not nest alike, or a stage cannot read the result before it.
    """

    shape: IntTuple
    stride: StrideTuple
    offset: int | Vector
    stages: tuple[Stage, ...]

    def __init__(self, shape: object, stride: object = None, offset: object = 0, stages: Iterable[Stage] = ()) -> None:
        checked = as_int_tuple(shape, "shape")
        if negative := [extent for extent in leaves(checked) if extent < 0]:
            raise ValueError(f"shape {to_text(checked)}: extent {negative[0]} is not allowed, extents are at least 0")
        given = compact_strides(checked) if stride is None else stride
        strides = _as_strides(given, checked, 0)
        if strides is None:
            raise ValueError(f"shape {shown(to_text(checked))} and stride {shown(_text(given))} do not nest alike")
        object.__setattr__(self, "shape", checked)
        object.__setattr__(self, "stride", strides)
        object.__setattr__(self, "offset", _as_offset(offset))
        object.__setattr__(self, "stages", _flat_stages(stages))
        before = self.stage_axes
        if any(isinstance(stage, Layout) and stage.size == 0 for stage in self.stages):
            raise ValueError("stages: a stage of extent 0 reads nothing")
        for stage in self.stages:
            before = stage.reads(before)

    def __str__(self) -> str:
        inner = f"{to_text(self.shape)}:{to_text(self.stride)}"
        if self.offset != 0 or (self.stages and _is_swizzle(self.stages[0])):
            inner = f"{self.offset} o {inner}"
        return " o ".join([*(stage.stage_text() for stage in reversed(self.stages)), inner])

    def __repr__(self) -> str:
        parts = [repr(self.shape), repr(self.stride)]
        parts += [f"offset={self.offset!r}"] if self.offset != 0 else []
        parts += [f"stages={self.stages!r}"] if self.stages else []
        return f"Layout({', '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Layout) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def rank(self) -> int:
        """The number of top-level modes."""
        return len(self.shape) if isinstance(self.shape, tuple) else 1

    @cached_property
    def size(self) -> int:
        """The number of indices."""
        return size(self.shape)

    @cached_property
    def key(self) -> Key:
        """The canonical form: equal exactly for equal functions, see `layouts.canonical`."""
        return key_of(self)

    @cached_property
    def axes(self) -> tuple[Axis, ...] | None:
        """The axes of the result, None where it is one number."""
        axes = self.stage_axes
        for stage in self.stages:
            axes = stage.reads(axes)
        return axes

    @cached_property
    def stage_axes(self) -> tuple[Axis, ...] | None:
        """The axes of the result before any stage."""
        return axes_of([*stride_leaves(self.stride), self.offset], "layout")

    @cached_property
    def has_xor(self) -> bool:
        """Whether a stride of the layout itself, before any stage, is an XOR stride."""
        parts = (s.parts if isinstance(s, Vector) else ((0, s),) for s in stride_leaves(self.stride))
        return any(isinstance(part, X) for step in parts for _, part in step)

    @property
    def is_affine(self) -> bool:
        """Whether the layout is integer strides alone: no XOR, no axes, no offset, no stages."""
        return not self.stages and self.offset == 0 and self.axes is None and not self.has_xor

    @property
    def is_f2(self) -> bool:
        """Whether the layout is F2-affine, along every axis: XOR of a constant and one value per bit of the index."""
        parts = [self] if self.axes is None else [self.along(axis) for axis in self.axes]
        return all(affine_bits(part) is not None for part in parts)

    @property
    def bits(self) -> tuple[int, ...]:
        """What each bit of the index changes in the result; ValueError unless the layout is F2-affine."""
        affine = affine_bits(self) if self.axes is None else None
        if affine is None:
            raise ValueError(f"layout {shown(self)}: is not linear over F2")
        return affine[1]

    def leaves(self) -> tuple[tuple[int, Any], ...]:
        """Return (extent, stride) of every leaf before any stage, leftmost (fastest) first."""
        return tuple(zip(leaves(self.shape), stride_leaves(self.stride), strict=True))

    def mode(self, k: int) -> Layout:
        """Return top-level mode `k`, with the stages but not the offset; ValueError unless 0 <= k < rank."""
        if not 0 <= k < self.rank:
            raise ValueError(f"layout {shown(self)}: there is no mode {k}, modes are 0..{self.rank - 1}")
        if isinstance(self.shape, tuple) and isinstance(self.stride, tuple):
            return Layout(self.shape[k], self.stride[k], stages=self.stages)
        return Layout(self.shape, self.stride, stages=self.stages)

    def along(self, axis: Axis) -> Layout:
        """Return the layout of one axis of the result alone; ValueError for an axis it does not have."""
        if self.axes is None or axis not in self.axes:
            known = "none" if self.axes is None else ", ".join(map(str, self.axes))
            raise ValueError(f"layout {shown(self)}: there is no axis {axis!r}, its axes are {known}")
        if not self.stages:
            return self.only(axis)
        before, last = Layout(self.shape, self.stride, self.offset, self.stages[:-1]), self.stages[-1]
        if isinstance(last, Layout):
            return before.then(last.only(axis))
        return before.along(axis).then(Table(last.values)) if axis == last.axis else before.along(axis)

    def only(self, axis: Axis) -> Layout:
        """Return this layout without stages, its result along `axis` alone."""
        steps = iter([along(step, axis) for step in stride_leaves(self.stride)])
        return Layout(self.shape, _replaced(self.shape, steps), along(self.offset, axis))

    def then(self, *stages: Stage) -> Layout:
        """Return the layout whose result the given stages read, the first one first."""
        return Layout(self.shape, self.stride, self.offset, (*self.stages, *stages))

    def __call__(self, *coordinate: object) -> Any:
        """Return the offset of a linear index or a coordinate; an int may stand for a nested mode.

        A layout with axes gives a tuple, if they are numbers, or a dict by axis.  Arrays give arrays: one of linear
        indices as `offsets` does, one per mode as `coordinate_offsets` does.
        """
        if any(isinstance(part, np.ndarray) for part in coordinate):
            arrays: Any = coordinate
            return self.offsets(arrays[0]) if len(arrays) == 1 else self.coordinate_offsets(*arrays)
        value = as_int_tuple(coordinate[0] if len(coordinate) == 1 else coordinate, "coordinate")
        try:
            digits = list(_digits(value, self.shape))
            return self._shown_value(self._follow_all(digits))
        except ValueError as error:
            raise ValueError(f"layout {shown(self)}, coordinate {to_text(value)}: {error}") from None

    def _follow_all(self, digits: list[Any]) -> Any:
        result = _total(digits, self)
        for stage in self.stages:
            result = stage.follow(result)
        return result

    def _shown_value(self, result: Any) -> Any:
        if isinstance(result, dict) and all(isinstance(axis, int) for axis in self.axes or ()):
            zero = next((np.zeros_like(part) for part in result.values() if isinstance(part, np.ndarray)), 0)
            return tuple(result.get(k, zero) for k in range(max(self.axes or (0,)) + 1))  # type: ignore[operator]
        return result

    def offsets(self, indices: ArrayLike) -> Any:
        """Return the offsets of an integer array of linear indices, int64 in the same shape.

        A layout with axes gives a tuple or a dict of arrays, as a call does of numbers.  ValueError for an index
        outside 0..size-1 or for offsets that do not fit 64 bits.
        """
        array = as_index_array(indices, self.size, f"layout {shown(self)}")
        if self.axes is not None:
            found = {axis: self.along(axis).offsets(array) for axis in self.axes}
            return self._shown_value(found)
        low, high = self._int64_bounds()
        form = self.key[1]
        if not form or not isinstance(form[0], str):
            return bulk.floor_sums(array, form, low, high, self.size)
        if form[0] == "f2":
            return bulk.xor_sums(array, form[1], form[2:])
        return bulk.in_blocks(array, lambda block: self._follow_all(self._block_digits(block)))

    def _block_digits(self, block: Any) -> list[Any]:
        return list(_split(block, [extent for extent, _ in self.leaves()]))

    def coordinate_offsets(self, *coordinates: ArrayLike) -> Any:
        """Return the offsets of coordinates, one integer array per top-level mode, broadcast together."""
        if len(coordinates) != self.rank:
            raise ValueError(f"layout {shown(self)}: {len(coordinates)} coordinates for {self.rank} modes")
        if self.size > INT64_MAX:
            raise ValueError(f"layout {shown(self)}: {self.size} indices do not fit 64 bits")
        index, product = np.zeros((), dtype=np.int64), 1
        for k, given in enumerate(coordinates):
            extent = size(self.shape[k]) if isinstance(self.shape, tuple) else self.size
            index = index + as_index_array(given, extent, f"layout {shown(self)}, mode {k}") * product
            product *= extent
        return self.offsets(index)

    def table(self) -> Any:
        """Return the offsets of all indices as int64[size]; ValueError above MAX_TABLE."""
        if self.size == 0:
            return np.zeros(0, dtype=np.int64)
        if self.size > MAX_TABLE:
            raise ValueError(f"layout {shown(self)}: a table of {self.size} offsets, at most {MAX_TABLE} are allowed")
        if self.axes is not None:
            return self._shown_value({axis: self.along(axis).table() for axis in self.axes})
        self._int64_bounds()
        if not self.stages:
            return bulk.outer_table(self.leaves(), int(self.offset))  # type: ignore[arg-type]
        affine = affine_bits(self)
        if affine is not None:
            return bulk.xor_table(*affine)
        if self.size > MAX_SPAN_TABLE:
            return self.offsets(np.arange(self.size))
        return np.asarray(self._follow_all(self._block_digits(np.arange(self.size))), dtype=np.int64)

    @cached_property
    def _bounds(self) -> tuple[int, int]:
        """Lowest and highest offset; 0 and -1 for an empty layout."""
        if self.size == 0:
            return 0, -1
        if not self.stages and not self.has_xor:
            spans = [(extent - 1) * stride for extent, stride in self.leaves()]
            base = int(self.offset)  # type: ignore[arg-type]
            return base + sum(s for s in spans if s < 0), base + sum(s for s in spans if s > 0)
        affine = affine_bits(self)
        if affine is not None:
            return bulk.xor_extremes(*affine)
        modes = separate(self)
        if modes is not None:
            shared = (len(modes) - 1) * int(self.stages[0].offset)  # type: ignore[union-attr, arg-type]
            bounds = [mode._bounds for mode in modes]
            return sum(low for low, _ in bounds) - shared, sum(high for _, high in bounds) - shared
        if self.size > MAX_SPAN_TABLE:
            return self._bounds_of_key()
        self._int64_bounds()
        values = bulk.in_blocks(np.arange(self.size), lambda block: self._follow_all(self._block_digits(block)))
        return int(values.min()), int(values.max())

    def _bounds_of_key(self) -> tuple[int, int]:
        form = self.key[1]
        try:
            modes = modes_of_key((self.size, tuple(term for term in form if isinstance(term, str) or term[0])))
        except ValueError:
            raise ValueError(
                f"layout {shown(self)}: its span has no closed form, and {self.size} values are too many to look at"
            ) from None
        base = sum(c for p, c in form if p == 0)
        spans = [(extent - 1) * stride for extent, stride in modes]
        return base + sum(s for s in spans if s < 0), base + sum(s for s in spans if s > 0)

    @property
    def cosize(self) -> int:
        """Highest minus lowest offset plus 1: the elements a buffer for this layout holds."""
        if self.axes is not None:
            raise ValueError(
                f"layout {shown(self)}: has the axes {', '.join(map(str, self.axes))}; ask along(axis).cosize"
            )
        low, high = self._bounds
        return high - low + 1

    def _int64_bounds(self) -> tuple[int, int]:
        try:
            low, high = loose_span(self) if self.stages or self.has_xor else self._bounds
        except ValueError as error:
            raise ValueError(f"layout {shown(self)}: {error}") from None
        if low < -INT64_MAX or high > INT64_MAX:
            raise ValueError(f"layout {shown(self)}: offsets {low}..{high} do not fit 64 bits")
        return low, high

    def explain(self) -> str:
        """Return what the layout does, in words: a line for the whole, one per mode, one per stage."""
        from layouts.explain import explain

        return explain(self)

    def _repr_svg_(self) -> str:
        """Return a picture for notebooks."""
        from layouts.draw import repr_svg

        return repr_svg(self)

    # As a stage: reads the result of another layout.

    def reads(self, axes: tuple[Axis, ...] | None) -> tuple[Axis, ...] | None:
        """Return the axes of the result when this stage reads a result with `axes`; ValueError if it cannot."""
        if axes is not None:
            for axis in axes:
                if not isinstance(axis, int) or axis >= self.rank:
                    raise ValueError(f"stage {shown(self)}: has {self.rank} modes and cannot read the axis {axis!r}")
        return self.stage_axes

    def stage_modes(self, given: int | None) -> list[list[tuple[int, Any]]]:
        """Return the (extent, stride) leaves per value read: of all modes for one number, else mode by mode."""
        if given is None:
            return [list(self.leaves())]
        return [list(self.mode(k).leaves()) for k in range(self.rank)]

    def follow(self, value: Any) -> Any:
        """Return what this stage makes of a value, of arrays element by element."""
        if not isinstance(value, dict):
            return _total(list(_split(value, [extent for extent, _ in self.leaves()])), self)
        digits: list[Any] = []
        for k in range(self.rank):
            digits += _split(value.get(k, 0), [extent for extent, _ in self.mode(k).leaves()])
        return _total(digits, self)

    def stage_text(self) -> str:
        """Return the text of this stage in a chain."""
        swizzle = swizzle_of(self)
        if swizzle is not None:
            return "S<{},{},{}>".format(*swizzle)
        inner = f"{to_text(self.shape)}:{to_text(self.stride)}"
        return f"{self.offset} o {inner}" if self.offset != 0 else inner


Stage: TypeAlias = "Layout | Table"


def _as_strides(value: object, shape: IntTuple, depth: int) -> StrideTuple | None:
    """Return `value` as nested strides, None where it does not nest like `shape`."""
    if depth > MAX_DEPTH:
        raise ValueError(f"stride: tuples nest deeper than {MAX_DEPTH} levels")
    if isinstance(shape, tuple):
        if not isinstance(value, tuple | list) or len(value) != len(shape):
            return None
        items = [_as_strides(v, s, depth + 1) for v, s in zip(value, shape, strict=True)]
        return None if any(item is None for item in items) else tuple(item for item in items if item is not None)
    return None if isinstance(value, tuple | list) else as_step(value, "stride")


def _text(value: object) -> str:
    try:
        return to_text(value)
    except RecursionError:
        return "nested too deep"


def _as_offset(value: object) -> int | Vector:
    step = as_step(value, "offset")
    parts = step.parts if isinstance(step, Vector) else ((0, step),)
    if any(isinstance(part, X) for _, part in parts):
        raise ValueError(f"offset {value}: an offset is an integer, or integers along axes")
    return step  # type: ignore[return-value]


def _flat_stages(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    flat: list[Stage] = []
    for stage in stages:
        if not isinstance(stage, Layout | Table):
            raise ValueError(f"stage {stage!r}: a Layout or a Table is needed")
        if isinstance(stage, Layout) and stage.stages:
            flat += [Layout(stage.shape, stage.stride, stage.offset), *stage.stages]
        else:
            flat.append(stage)
    if len(flat) > MAX_STAGES:
        raise ValueError(f"a chain of {len(flat)} stages, at most {MAX_STAGES} are allowed")
    return tuple(flat)


def _replaced(profile: IntTuple, items: Iterator[Step]) -> StrideTuple:
    if isinstance(profile, int):
        return next(items)
    return tuple(_replaced(part, items) for part in profile)


def _digits(coordinate: IntTuple, shape: IntTuple) -> Iterator[int]:
    """Yield one digit per leaf; ValueError outside the shape."""
    if isinstance(coordinate, tuple):
        if not (isinstance(shape, tuple) and len(shape) == len(coordinate)):
            raise ValueError(f"{to_text(coordinate)} is not a coordinate of the shape {to_text(shape)}")
        for part, extents in zip(coordinate, shape, strict=True):
            yield from _digits(part, extents)
        return
    if not 0 <= coordinate < size(shape):
        raise ValueError(f"{coordinate} is outside 0..{size(shape) - 1}")
    yield from _split(coordinate, leaves(shape))


def _split(value: Any, extents: Sequence[int]) -> Iterator[Any]:
    """Yield the digits of a number or an array, the last one without end."""
    for extent in extents[:-1]:
        rest = value // extent
        yield value - rest * extent
        value = rest
    yield value


def _total(digits: Sequence[Any], layout: Layout) -> Any:
    """Return the inner product of digits and strides, with the offset; a dict by axis if there are axes."""
    pairs = list(zip(digits, stride_leaves(layout.stride), strict=True))
    if layout.stage_axes is None:
        return _inner(pairs, layout.offset)
    return {
        axis: _inner([(digit, along(step, axis)) for digit, step in pairs], along(layout.offset, axis))
        for axis in layout.stage_axes
    }


def _inner(pairs: Iterable[tuple[Any, Any]], offset: Any) -> Any:
    total: Any = offset
    xored: Any = 0
    for digit, step in pairs:
        if isinstance(step, X):
            xored = xored ^ bulk.carryless(digit, step.value)
        elif step:
            total = total + digit * step
        elif isinstance(digit, np.ndarray) and not isinstance(total, np.ndarray):
            total = np.full(digit.shape, total, dtype=np.int64)
    return total ^ xored if isinstance(xored, np.ndarray) or xored else total


def _is_swizzle(stage: Stage) -> bool:
    return isinstance(stage, Layout) and swizzle_of(stage) is not None


def flat_layout(modes: Iterable[tuple[int, Any]]) -> Layout:
    """Return the layout of (extent, stride) pairs, fastest first; a single pair gives an unnested layout."""
    extents, strides = zip(*modes, strict=True)
    return Layout(extents, strides) if len(extents) > 1 else Layout(extents[0], strides[0])


def nested_layout(profile: IntTuple, parts: Iterable[Layout]) -> Layout:
    """Return the layout that has the layouts `parts` in place of the leaves of `profile`, leftmost first."""
    listed = list(parts)
    return Layout(
        replace_leaves(profile, iter([part.shape for part in listed])),
        replace_leaves(profile, iter([part.stride for part in listed])),  # type: ignore[misc]
    )


__all__ = ["Key", "Layout", "Stage", "Table", "Terms", "flat_layout", "modes_of_key", "nested_layout"]
