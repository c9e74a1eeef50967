"""TVM's tile layouts: ``T.TileLayout(T.S[(8, 2):(4@laneid, 1)] + T.R[2:4@warpid] + 5@warpid)``, and with a swizzle.

``S`` places the distinct elements: one extent and stride per shard, the LAST shard fastest, a stride along a named
hardware axis or along the memory ``m``; ``R`` lists the copies every element has beside; offsets are added at the
end.  ``T.ComposeLayout(per_element, swizzle_len, atom_len, tile)`` XORs the offset of a tile as CuTe's
``Sw<swizzle_len, per_element, atom_len>`` does.

As a `Layout` a tile has one mode per shard, or the modes of the logical shape given for it.  Not modelled: symbolic
extents, and joining axes (warp and lane to thread) as a target would.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple, TypeVar

from layouts.interop.affine import PYTHON, check_length, in_text
from layouts.interop.affine_chain import affine_of
from layouts.interop.quasi_affine import Digit
from layouts.layout import Layout
from layouts.shape import as_int
from layouts.stride import Scalar, Vector, X, stride_leaves, vector
from layouts.swizzle_text import swizzle_of
from layouts.swizzles import swizzle
from layouts.text import Reader
from layouts.xor_form import affine_bits

V = TypeVar("V")

MEMORY = "m"  # the axis of a stride without one
MAX_SHARDS = 64  # assumed: factors of one layout; real ones have less than ten
MAX_SHIFT = 12  # assumed: the furthest a swizzle to write reaches

_HEAD = re.compile(r"\s*(?:(?:T|tvm\.tirx|tirx)\s*\.\s*)?(TileLayout|ComposeLayout)\s*\(")
_SPEC = re.compile(r"(?:T\s*\.\s*)?([SR])\s*(?=\[)")
_AXIS = re.compile(r"(?:T\s*\.\s*)?(?:Axis\s*\.\s*)?([A-Za-z_][A-Za-z0-9_]{0,63})")
_SWIZZLE = re.compile(r"(?:T\s*\.\s*)?SwizzleLayout\s*(?=\()")
_INNER = re.compile(r"swizzle_inner\s*=\s*(True|False)\b")


class Iter(NamedTuple):
    """A factor of a tile layout: `extent` steps of `stride` along `axis`."""

    extent: int
    stride: int
    axis: str = MEMORY

    def __str__(self) -> str:
        return f"{self.extent}:{_on_axis(self.stride, self.axis)}"


def _on_axis(number: int, axis: str) -> str:
    return str(number) if axis == MEMORY else f"{number}@{axis}"


@dataclass(frozen=True)
class TileLayout:
    """Shards, the last one fastest, replicas, and (axis, offset) pairs.  ValueError for an extent below 1."""

    shard: tuple[Iter, ...]
    replica: tuple[Iter, ...] = ()
    offset: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        for item in (*self.shard, *self.replica):
            if as_int(item.extent, "extent") < 1:
                raise ValueError(f"tile layout: extent {item.extent} is not allowed, extents are at least 1")
            as_int(item.stride, "stride")
        if not self.shard:
            raise ValueError("tile layout: at least one shard is needed")

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of the shards."""
        return tuple(item.extent for item in self.shard)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of shards, replicas and offsets, in the order in which they appear."""
        return tuple(dict.fromkeys([*(item.axis for item in (*self.shard, *self.replica)), *dict(self.offset)]))

    def span(self, axis: str = MEMORY) -> int:
        """Return how far the shards and replicas reach along an axis, in elements: 1 if they do not move."""
        items = [item for item in (*self.shard, *self.replica) if item.axis == axis]
        return 1 + sum((item.extent - 1) * abs(item.stride) for item in items)

    def apply(self, *coordinate: int, shape: Sequence[int] | None = None) -> dict[str, int]:
        """Return the place, by axis, of the first copy of an element.

        The coordinate is one of the shards, of `shape` if it is given, or a single row-major index.
        """
        layout = self.layout(shape) if shape is not None else self.layout()
        if len(coordinate) == 1 and layout.rank > 1:
            (rest,) = coordinate
            extents = [layout.mode(k).size for k in range(layout.rank)]
            digits = [rest // prod(extents[k + 1 :]) for k in range(len(extents))]
            coordinate = (digits[0], *(d % extent for d, extent in zip(digits[1:], extents[1:], strict=True)))
        found = layout(*coordinate)
        return {str(axis): value for axis, value in found.items()} if isinstance(found, dict) else {MEMORY: found}

    def layout(self, shape: Sequence[int] | None = None) -> Layout:
        """Return the layout to the first copy of every element, with the modes of `shape`, else one per shard.

        Its value is the element offset, or, where other axes than the memory are in use, one number per axis.
        """
        whole = shape is None or tuple(shape) == self.shape
        groups = [(item,) for item in self.shard] if whole else self.group(shape or ())
        named = any(axis != MEMORY for axis in [item.axis for item in self.shard] + [a for a, v in self.offset if v])
        modes = [tuple(reversed(group)) or (Iter(1, 0),) for group in groups]
        shapes = tuple(_one_or_tuple([item.extent for item in mode]) for mode in modes)
        steps = tuple(_one_or_tuple([_step(item.stride, item.axis, named) for item in mode]) for mode in modes)
        parts = [(axis, value) for axis, value in self.offset]
        offset: Any = vector(parts) if named else sum(value for _, value in parts)
        if len(shapes) == 1 and isinstance(shapes[0], int):
            return Layout(shapes[0], steps[0], offset)
        return Layout(shapes, steps, offset)

    def group(self, shape: Sequence[int]) -> list[tuple[Iter, ...]]:
        """Return the shards of each dimension of `shape`, split where a dimension ends within one.

        ValueError where a dimension ends unevenly within a shard, or the sizes differ.
        """
        left = [item for item in self.shard if item.extent > 1]
        groups: list[tuple[Iter, ...]] = []
        for extent in reversed(shape):
            needed, found = as_int(extent, "extent"), list[Iter]()
            while needed != 1:
                item = left.pop() if left else Iter(1, 0)
                if needed % item.extent and item.extent % max(1, needed) == 0:
                    left.append(Iter(item.extent // needed, item.stride * needed, item.axis))
                    item = Iter(needed, item.stride, item.axis)
                if needed < 1 or item.extent == 1 or needed % item.extent:
                    raise ValueError(f"{self} cannot be grouped by {tuple(shape)}: extent {extent} does not fit")
                needed //= item.extent
                found.append(item)
            groups.append(tuple(reversed(found)))
        if left:
            raise ValueError(f"{self} has {prod(self.shape)} elements, the shape {tuple(shape)} has {prod(shape)}")
        return groups[::-1]

    def canonicalize(self) -> TileLayout:
        """Return the layout without unit shards and zero offsets, contiguous neighbours on one axis joined."""
        shard: list[Iter] = []
        for item in self.shard:
            if item.extent == 1:
                continue
            if shard and shard[-1].axis == item.axis and shard[-1].stride == item.extent * item.stride:
                shard[-1] = Iter(shard[-1].extent * item.extent, item.stride, item.axis)
            else:
                shard.append(item)
        offset = tuple(sorted((axis, value) for axis, value in self.offset if value))
        return TileLayout(tuple(shard) or (Iter(1, 1, self.shard[0].axis),), tuple(sorted(self.replica)), offset)

    def tile(self, outer: TileLayout, outer_shape: Sequence[int], inner_shape: Sequence[int]) -> TileLayout:
        """Return `outer` made of whole copies of this layout, over the shape outer times inner, canonical.

        Strides of `outer` count spans of this layout along the axes that it uses.
        """
        if len(outer_shape) != len(inner_shape):
            raise ValueError(f"outer shape {tuple(outer_shape)} and inner shape {tuple(inner_shape)} differ in rank")
        inner, whole = self.canonicalize(), outer.canonicalize()
        own = {item.axis for item in inner.shard}
        shard: list[Iter] = []
        for around, within in zip(whole.group(outer_shape), inner.group(inner_shape), strict=True):
            scaled = (i._replace(stride=i.stride * inner.span(i.axis)) if i.axis in own else i for i in around)
            shard += [*scaled, *within]
        total: dict[str, int] = {}
        for axis, value in (*inner.offset, *whole.offset):
            total[axis] = total.get(axis, 0) + value
        shards = tuple(shard) or (Iter(1, 1),)
        return TileLayout(shards, (*inner.replica, *whole.replica), tuple(total.items())).canonicalize()

    def __str__(self) -> str:
        parts = [f"T.S[{_spec(self.shard)}]"]
        parts += [f"T.R[{_spec(self.replica)}]"] if self.replica else []
        parts += [_on_axis(value, axis) for axis, value in self.offset]
        return f"T.TileLayout({' + '.join(parts)})"


@dataclass(frozen=True)
class ComposeLayout:
    """A tile layout in memory whose offset a swizzle changes; `swizzle_inner` XORs the higher bits into the lower."""

    per_element: int
    swizzle_len: int
    atom_len: int
    tile: TileLayout
    swizzle_inner: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.swizzle_len <= self.atom_len:
            raise ValueError(f"swizzle_len {self.swizzle_len}: allowed are 0 to atom_len {self.atom_len}")
        if other := [axis for axis in self.tile.axes if axis != MEMORY]:
            raise ValueError(f"a swizzle changes offsets in memory, the tile has the axis {other[0]!r}")
        swizzle(self.swizzle_len, self.per_element, self.atom_len)

    def layout(self, shape: Sequence[int] | None = None) -> Layout:
        """Return the layout to element offsets, see `TileLayout.layout`."""
        shift = self.atom_len if self.swizzle_inner else -self.atom_len
        return self.tile.layout(shape).then(swizzle(self.swizzle_len, self.per_element, shift))

    def __str__(self) -> str:
        tail = "" if self.swizzle_inner else ", swizzle_inner=False"
        return f"T.ComposeLayout({self.per_element}, {self.swizzle_len}, {self.atom_len}, {self.tile}{tail})"


def _spec(items: Sequence[Iter]) -> str:
    if len(items) == 1:
        return str(items[0])
    extents = ", ".join(str(item.extent) for item in items)
    return f"({extents}):({', '.join(_on_axis(item.stride, item.axis) for item in items)})"


def _step(stride: int, axis: str, named: bool) -> Any:
    return vector([(axis, stride)]) if named else stride


def _one_or_tuple(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else tuple(items)


# --- reading ------------------------------------------------------------------------------------------------------


def is_tile(text: str) -> bool:
    """Tell whether a text starts like a tile layout, with its constructor or without, or a composition."""
    return _HEAD.match(text) is not None or _SPEC.match(text.lstrip()) is not None


def read(text: str, shape: Sequence[int] | None = None) -> Layout:
    """Read a tile layout or a composition, with one mode per shard or the modes of `shape`.

    ValueError gives the position and what was expected there, and refuses replicas: an element of a `Layout` has
    one place (`read_tile` keeps them).
    """
    tile = read_tile(text)
    replica = (tile if isinstance(tile, TileLayout) else tile.tile).replica
    if copies := [item for item in replica if item.extent > 1]:
        raise ValueError(f"tile layout: the replica R[{copies[0]}] gives an element several places, a layout gives one")
    return tile.layout(shape)


def read_tile(text: str) -> TileLayout | ComposeLayout:
    """Read ``T.TileLayout(...)``, what stands in it, or ``T.ComposeLayout(...)``; ValueError gives the position."""
    check_length(text, "tile layout")
    reader = Reader(text)
    try:
        reader.space()
        if _SPEC.match(text, reader.position):
            found: TileLayout | ComposeLayout = _parts(reader)
        else:
            found = _compose(reader) if _is_compose(reader) else _tile(reader)
        reader.end()
        return found
    except ValueError as error:
        raise in_text(text, "tile layout", error) from None


def _is_compose(reader: Reader) -> bool:
    head = _HEAD.match(reader.text, reader.position)
    return head is not None and head[1] == "ComposeLayout"


def _head(reader: Reader, name: str) -> None:
    head = _HEAD.match(reader.text, reader.position)
    if head is None or head[1] != name:
        raise reader.error(f"expected 'T.{name}('")
    reader.position = head.end()


def _compose(reader: Reader) -> ComposeLayout:
    _head(reader, "ComposeLayout")
    nested = reader.match(_SWIZZLE) is not None
    if nested:
        reader.expect("(")
    numbers = [_integer(reader)]
    for _ in range(2):
        reader.expect(",")
        numbers.append(_integer(reader))
    inner = _inner(reader) if nested else None
    if nested:
        reader.expect(")")
    reader.expect(",")
    tile = _tile(reader)
    inner = _inner(reader) if inner is None else inner
    reader.expect(")", " or ', swizzle_inner='")
    return ComposeLayout(numbers[0], numbers[1], numbers[2], tile, inner is not False)


def _inner(reader: Reader) -> bool | None:
    """Read ``, swizzle_inner=False`` if it is there."""
    if not reader.take(","):
        return None
    found = reader.match(_INNER)
    if found is None:
        raise reader.error("expected swizzle_inner=True or swizzle_inner=False")
    return found[1] == "True"


def _tile(reader: Reader) -> TileLayout:
    _head(reader, "TileLayout")
    found = _parts(reader)
    reader.expect(")", " or '+'")
    return found


def _parts(reader: Reader) -> TileLayout:
    """Read ``T.S[...] + T.R[...] + 3@axis``: the shards, then replicas and offsets."""
    shard: tuple[Iter, ...] | None = None
    replica: tuple[Iter, ...] = ()
    offset: dict[str, int] = {}
    while True:
        reader.space()
        position = reader.position
        spec = reader.match(_SPEC)
        if spec is None and shard is not None:
            number, axis = _axis_number(reader)
            if axis in offset:
                raise ValueError(f"at position {position}: a second offset along {axis}")
            offset[axis] = number
        elif spec is None or (spec[1] == "S") != (shard is None) or (spec[1] == "R" and replica):
            raise ValueError(f"at position {position}: expected one T.S[...], then one T.R[...] or offsets")
        elif spec[1] == "S":
            shard = _iters(reader)
        else:
            replica = _iters(reader)
        if not reader.take("+"):
            break
    return TileLayout(shard or (), replica, tuple(offset.items()))


def _iters(reader: Reader) -> tuple[Iter, ...]:
    """Read ``[(8, 2):(4@laneid, 1)]``, ``[8:1]``, or extents alone, which are row-major."""
    reader.expect("[")
    extents = _some(reader, _integer, ":]")
    strides: list[tuple[int, str]] = []
    if reader.take(":"):
        strides = _some(reader, _axis_number, "]")
        if len(strides) != len(extents):
            raise reader.error(f"{len(strides)} strides for {len(extents)} extents")
    reader.expect("]")
    strides = strides or [(prod(extents[k + 1 :]), MEMORY) for k in range(len(extents))]
    return tuple(Iter(extent, *step) for extent, step in zip(extents, strides, strict=True))


def _some(reader: Reader, item: Any, closing: str) -> list[Any]:
    """Read one or several items with commas between, in parentheses or not."""
    bracketed = reader.take("(")
    stops = ")" if bracketed else closing
    found = [item(reader)]
    while reader.take(",") and reader.peek() not in stops:
        if len(found) == MAX_SHARDS:
            raise ValueError(f"at position {reader.position}: more than {MAX_SHARDS} items")
        found.append(item(reader))
    if bracketed:
        reader.expect(")", " or ','")
    return found


def _integer(reader: Reader) -> int:
    """Read an integer, ``T.int64(4)`` too."""
    assert PYTHON.casts is not None
    if reader.match(PYTHON.casts) is None:
        return reader.integer()
    reader.expect("(")
    value = reader.integer()
    reader.expect(")")
    return value


def _axis_number(reader: Reader) -> tuple[int, str]:
    value = _integer(reader)
    if not reader.take("@"):
        return value, MEMORY
    quote = next((mark for mark in "'\"" if reader.take(mark)), "")
    axis = reader.match(_AXIS)
    if axis is None:
        raise reader.error("expected the name of an axis")
    if quote:
        reader.expect(quote)
    return value, axis[1]


# --- writing ------------------------------------------------------------------------------------------------------


def write(layout: Layout) -> str:
    """Return the tile layout, or the composition with a swizzle, of a layout.

    Reading it back over the shape of the layout gives an equal layout; without the shape too, where every mode is
    one shard.  ValueError names what a tile layout cannot say.
    """
    return str(tile_of(layout))


def tile_of(layout: Layout) -> TileLayout | ComposeLayout:
    """Return the tile layout or composition of a layout, see `write`."""
    if layout.axes is not None:
        return _named_tile(layout)
    last = layout.stages[-1] if layout.stages else None
    if isinstance(last, Layout) and (found := swizzle_of(last)):
        bits, base, shift = found
        inner = Layout(layout.shape, layout.stride, layout.offset, layout.stages[:-1])
        return ComposeLayout(base, bits, abs(shift), _plain_tile(inner), shift > 0)
    if affine_bits(layout) is not None and isinstance(layout.key[1][0] if layout.key[1] else 0, str):
        return _swizzled(layout)
    return _plain_tile(layout)


def _named_tile(layout: Layout) -> TileLayout:
    numbers = [axis for axis in layout.axes or () if isinstance(axis, int)]
    if numbers:
        raise ValueError(f"TVM tile layout: the axis {numbers[0]} has no name")
    if layout.axes == (MEMORY,):
        raise ValueError(f"TVM tile layout: the axis {MEMORY!r} alone is a place in memory, write along({MEMORY!r})")
    if layout.stages or layout.has_xor:
        raise ValueError("TVM tile layout: cannot express stages or XOR strides of a layout with named axes")
    shard: list[Iter] = []
    for k in range(layout.rank):
        for extent, step in reversed(layout.mode(k).leaves()):
            parts = step.parts if isinstance(step, Vector) else ((MEMORY, 0),)
            if len(parts) > 1:
                raise ValueError(f"TVM tile layout: a stride moves along one axis, not along {step}")
            shard.append(Iter(extent, _number(parts[0][1]), str(parts[0][0])))
    offset = layout.offset.parts if isinstance(layout.offset, Vector) else ()
    return TileLayout(tuple(shard), (), tuple((str(axis), _number(value)) for axis, value in offset))


def _number(step: Scalar) -> int:
    if isinstance(step, X):
        raise ValueError(f"TVM tile layout: cannot express the XOR stride {step}")
    return step


def _plain_tile(layout: Layout) -> TileLayout:
    """Return the tile layout of integer strides, whatever chain they are spelt as."""
    space, (result,) = affine_of(layout)
    digits, constant = space.digits(result)
    shard: list[Iter] = []
    for k, extent in enumerate(space.extents):
        own = [digit for digit in digits if digit.argument.terms == ((k, 1),) and not digit.argument.constant]
        digits = [digit for digit in digits if digit not in own]
        shard += reversed(list(_factors(k, extent, own)))
    if digits:
        raise ValueError("TVM tile layout: cannot express the division of a sum of dimensions")
    return TileLayout(tuple(shard), (), ((MEMORY, constant),) if constant else ())


def _factors(k: int, extent: int, digits: Iterable[Digit]) -> Iterator[Iter]:
    """Yield the factors of a dimension, the lowest first; ValueError where its digits do not divide it."""
    if extent == 1:
        yield Iter(1, 1)
        return
    strides = {digit.low: digit.stride for digit in digits}
    borders = {1, extent, *strides, *(d.low * d.extent for d in digits if d.extent is not None)}
    for low, above in pairwise(sorted(borders)):
        if above % low:
            raise ValueError(f"TVM tile layout: cannot express padding, dimension {k}: {low} does not divide {above}")
        yield Iter(above // low, strides.get(low, 0))


def _swizzled(layout: Layout) -> ComposeLayout:
    """Return a plain tile behind the swizzle that makes the offsets of an XOR layout plain."""
    affine = affine_bits(layout)
    assert affine is not None
    width = max(value.bit_length() for value in (affine[0], *affine[1]))
    for bits in range(1, MAX_SHIFT + 1):
        for shift in range(bits, MAX_SHIFT + 1):
            for base in range(width - bits - shift + 1):
                for sign in (1, -1):
                    if _is_disjoint([_swizzle_value(value, bits, base, sign * shift) for value in affine[1]]):
                        plain = layout.then(swizzle(bits, base, sign * shift))
                        if not (plain.key[1] and isinstance(plain.key[1][0], str)):
                            return ComposeLayout(base, bits, shift, _plain_tile(plain), sign > 0)
    step = next((s for s in stride_leaves(layout.stride) if not isinstance(s, int)), "of a stage")
    raise ValueError(f"TVM: the XOR stride {step} is not that of a swizzle")


def _swizzle_value(value: int, bits: int, base: int, shift: int) -> int:
    mask = (1 << bits) - 1
    if shift > 0:
        return value ^ ((value >> (base + shift) & mask) << base)
    return value ^ ((value >> base & mask) << (base - shift))


def _is_disjoint(values: Iterable[int]) -> bool:
    taken = 0
    for value in values:
        if value & taken:
            return False
        taken |= value
    return True
