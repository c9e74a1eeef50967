"""Placement: where in main memory each tensor lies, down to the stack and the channel, or beside which core.

Between layouts and the address map. `place` puts tensors one after another from address 0, so that the map interleaves
them over everything; `place_as` takes a `Placement` per tensor:

- `Interleaved`: as `place` does, or round the stacks in pieces of `granule_bytes`,
- `Pinned`: all bytes in some stacks, channels or pseudo-channels,
- `Partitioned`: one axis (head, sequence, expert) cut into equal parts, each in a stack of its own, or in some,
- `Replicated`: a copy in each stack; the tensor gets an axis "replica" that comes first, for kernels to choose from.

A field whose digit lies low in the address, as stacks do in every machine that is shipped, comes round again every few
KiB, so that a tensor that avoids some of its values is strided (`workloads.subspace`): its layout changes, its axes do
not. Addresses are given out from 0 upwards, first to what lies everywhere, then to what lies in fewer places.
Where SRAM lies beside the cores (`distributed_sram.local`), slice i is stack i of the address map, and "core" another
name of the field: `Partitioned("expert", "core", "cyclic")` puts expert e beside core e modulo the cores, and
`Partitioned("head", "core", parts=8, within=Partitioned("page", "core", "cyclic"))` head h of page p, on 64 cores,
beside core 8 h + p modulo 8. Work that is to find it there is dealt by `workloads.schedule.beside`.
Not modelled: channels of a map that hashes them, SRAM whose slices are hashed, distances between cores and stacks,
and tensors that move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwmodel.machine import Machine, TooLarge
from hwmodel.program import Tensor
from layouts import AddressMap, Layout, composition
from layouts.address_fields import FIELDS
from layouts.notation import NamedLayout
from workloads.subspace import ALIGNMENT_BYTES, FieldDigit, Subspace, field_digit, restrict

Field: TypeAlias = Literal["stack", "channel", "pseudo_channel", "core"]
REPLICA = "replica"  # the axis of a replicated tensor


@dataclass(frozen=True)
class Interleaved:
    """Over all of memory: as the address map does, or round the stacks in pieces of `granule_bytes`."""

    granule_bytes: int | None = None


@dataclass(frozen=True)
class Pinned:
    """All bytes where the fields have these values, which rise in equal steps; None: any."""

    stack: tuple[int, ...] | None = None
    channel: tuple[int, ...] | None = None
    pseudo_channel: tuple[int, ...] | None = None
    core: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Partitioned:
    """Equal parts of an axis, part p where field `over` has its p-th value, or run of values.

    `order`: "blocked", part p has the p-th run of coordinates, or "cyclic", coordinate c lies in part c % parts.
    `parts`: how many, None for one per value; each of fewer has a run of values, over which it is interleaved, or cut
    by another axis `within`, whose own `over` and `parts` do not count.
    """

    axis: str
    over: Field = "stack"
    order: Literal["blocked", "cyclic"] = "blocked"
    parts: int | None = None
    within: Partitioned | None = None


@dataclass(frozen=True)
class Replicated:
    """A copy at every value of the field `over`."""

    over: Field = "stack"


Placement: TypeAlias = Interleaved | Pinned | Partitioned | Replicated


def place(tensors: Sequence[Tensor], machine: Machine) -> tuple[Tensor, ...]:
    """Return the tensors with base addresses.

    Tensors that ask to reside in the shared cache do so in the order given as long as all of them fit it; the others,
    and all on a machine without one, reside in main memory. Raises TooLarge if the tensors do not fit that.
    """
    placed, address = [], 0
    for tensor in _residing(tensors, machine):
        placed.append(replace(tensor, base_bytes=address))
        address += -(-tensor.size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    capacity = machine.memory_capacity_bytes
    if address > capacity:
        sizes = ", ".join(f"{t.name} {t.size_bytes} B" for t in tensors)
        raise TooLarge(
            f"the tensors need {address} B of {machine.memory.upper()}, {address - capacity} B more than the "
            f"{capacity} B of {machine.spec.name}: {sizes}"
        )
    return tuple(placed)


def place_as(tensors: Sequence[Tensor], placements: Sequence[Placement], machine: Machine) -> tuple[Tensor, ...]:
    """Return the tensors with base addresses and with layouts that keep each where its placement says.

    One placement per tensor; where all are `Interleaved()`, the result is that of `place`. Where tensors reside is
    decided as in `place`. Raises ValueError naming the tensor and what its placement cannot have: a field that has no
    strided layout, an axis or a size that does not divide, or memory, with the number of bytes that are missing.
    """
    if len(placements) != len(tensors):
        raise ValueError(f"placement: {len(placements)} placements for {len(tensors)} tensors; allowed: one each")
    if all(placement == Interleaved() for placement in placements):
        return place(tensors, machine)
    spots = []
    for tensor, placement in zip(_residing(tensors, machine), placements, strict=True):
        try:
            spots.append(_spot(tensor, _on_map(placement, machine), machine.address_map))
        except ValueError as error:
            raise ValueError(f"tensor {tensor.name}: {error}") from None
    free_from = np.zeros(machine.address_map.sizes[: len(_CELLS)], dtype=np.int64)
    bases = [0] * len(spots)
    for number in sorted(range(len(spots)), key=lambda n: -free_from[spots[n].cells].size):
        bases[number] = _give(spots[number], free_from, machine)
    return tuple(replace(spot.tensor, base_bytes=base) for spot, base in zip(spots, bases, strict=True))


def _residing(tensors: Sequence[Tensor], machine: Machine) -> list[Tensor]:
    cache_left = machine.spec.shared_cache.distinct_bytes if machine.spec.shared_cache else 0
    found = []
    for tensor in tensors:
        near = tensor.resident == "cache" and tensor.size_bytes <= cache_left
        cache_left -= tensor.size_bytes if near else 0
        found.append(replace(tensor, resident="cache" if near else machine.memory))
    return found


_CELLS = FIELDS[:3]  # stack, channel, pseudo-channel: what a placement can choose


def _on_map(placement: Placement, machine: Machine) -> Placement:
    """Return a placement by the fields of the address map: a core's own slice is a stack of it."""
    if isinstance(placement, Interleaved):
        return placement
    of_cores = placement.core is not None if isinstance(placement, Pinned) else placement.over == "core"
    if not of_cores:
        return placement
    if not machine.is_local:
        raise ValueError(
            f"core: {machine.spec.name} has no memory that is a core's own (distributed_sram.local); "
            f"allowed: {', '.join(_CELLS)}"
        )
    if not isinstance(placement, Pinned):
        return replace(placement, over="stack")
    if placement.stack is not None:
        raise ValueError(f"stack is {placement.stack} beside core {placement.core}; allowed: one of them")
    return replace(placement, stack=placement.core, core=None)


class _Spot(NamedTuple):
    """What a tensor needs: a line of bytes, how many of it, and which (stack, channel, pseudo-channel)s it meets.

    Of a tensor in parts, `line` is that of the first part and `size_bytes` the size of each.
    """

    tensor: Tensor
    line: Subspace
    size_bytes: int
    cells: tuple[NDArray[np.int64], ...]
    parts: int = 1


def _spot(tensor: Tensor, placement: Placement, address_map: AddressMap) -> _Spot:
    if not tensor.layout.layout.is_affine:
        raise ValueError(f"layout {tensor.layout.text} has other than integer strides; allowed: those alone")
    if isinstance(placement, Interleaved):
        return _interleaved(tensor, placement.granule_bytes, address_map)
    if isinstance(placement, Pinned):
        values = {name: getattr(placement, name) for name in _CELLS}
        wanted = {name: chosen for name, chosen in values.items() if chosen is not None}
        line = restrict(address_map, wanted)
        moved = _strided(tensor.layout, line, tensor.element_bytes)
        return _Spot(replace(tensor, layout=moved), line, tensor.size_bytes, _cells(address_map, wanted))
    if placement.over not in _CELLS:
        raise ValueError(f"over is {placement.over!r}; allowed: {', '.join(_CELLS)}")
    digit = field_digit(address_map, placement.over)
    line = restrict(address_map, {digit.name: (0,)})
    stride = digit.divisor // tensor.element_bytes
    if isinstance(placement, Replicated):
        moved = _strided(tensor.layout, line, tensor.element_bytes)
        modes = [(digit.size, stride)] if digit.size > 1 else [(1, 0)]
        layout = of_leaves((REPLICA, *moved.axes), [modes, *(list(moved.leaves(axis)) for axis in moved.axes)])
        return _Spot(replace(tensor, layout=layout), line, tensor.size_bytes, _cells(address_map, {}), digit.size)
    cuts = _cuts(placement, digit)
    rest = digit.size // prod(cut.size for _, cut in cuts)
    line = restrict(address_map, {digit.name: range(rest)})
    part = tensor.layout
    for by, cut in cuts:
        part = _part(part, by, cut)
    layout = _strided(part, line, tensor.element_bytes)
    for by, cut in reversed(cuts):
        layout = _with_digit(layout, by, (cut.size, cut.divisor // tensor.element_bytes))
    size, parts = part.cosize * tensor.element_bytes, digit.size // rest
    return _Spot(replace(tensor, layout=layout), line, size, _cells(address_map, {}), parts)


def _cuts(placement: Partitioned, digit: FieldDigit) -> list[tuple[Partitioned, FieldDigit]]:
    """Return what a tensor is partitioned by, and the part of the field's digit that numbers the parts."""
    parts = digit.size if placement.parts is None else placement.parts
    if parts < 1 or digit.size % parts:
        raise ValueError(f"parts is {parts}; allowed: what divides the {digit.size} of {digit.name}")
    rest = digit.size // parts
    found = [(placement, FieldDigit(digit.name, digit.divisor * rest, parts))]
    if placement.within is None:
        return found
    return found + _cuts(replace(placement.within, parts=None), FieldDigit(digit.name, digit.divisor, rest))


def _interleaved(tensor: Tensor, granule_bytes: int | None, address_map: AddressMap) -> _Spot:
    line = restrict(address_map, {})
    if granule_bytes is None:
        return _Spot(tensor, line, tensor.size_bytes, _cells(address_map, {}))
    digit = field_digit(address_map, "stack")
    rounds, rest = divmod(granule_bytes, digit.divisor)
    if rounds < 1 or rest:
        raise ValueError(f"granule_bytes is {granule_bytes}; allowed: a multiple of the map's own {digit.divisor} B")
    period = digit.divisor * digit.size
    modes = ((digit.divisor, 1), (rounds, period), (digit.size, digit.divisor))
    line = Subspace(0, (*modes, (address_map.capacity_bytes // (period * rounds), period * rounds)))
    # Within a round addresses do not rise along this line, so a round is given to one tensor.
    whole = -(-tensor.size_bytes // (period * rounds)) * period * rounds
    moved = _strided(tensor.layout, line, tensor.element_bytes)
    return _Spot(replace(tensor, layout=moved), line, whole, _cells(address_map, {}))


def _cells(address_map: AddressMap, wanted: dict[str, tuple[int, ...]]) -> tuple[NDArray[np.int64], ...]:
    """Return an index of the (stack, channel, pseudo-channel)s in which the fields have the wanted values."""
    sizes = address_map.sizes[: len(_CELLS)]
    return np.ix_(*(np.array(wanted.get(name, range(size))) for name, size in zip(_CELLS, sizes, strict=True)))


def _give(spot: _Spot, free_from: NDArray[np.int64], machine: Machine) -> int:
    """Return a base address for the tensor, above all that is taken where it lies, and take what it needs."""
    line, size = spot.line, spot.size_bytes
    start = line.fit(line.from_address(int(free_from[spot.cells].max())), size)
    if start + size > line.capacity_bytes:
        what = f"{spot.parts} parts of {size} B" if spot.parts > 1 else f"{size} B"
        which = "each" if spot.parts > 1 else "it"
        raise ValueError(
            f"tensor {spot.tensor.name}: {what} from byte {start} on need {start + size - line.capacity_bytes} B more "
            f"than the {line.capacity_bytes} B of {machine.spec.name} where its placement lets {which} lie"
        )
    base = line.address(start)
    free_from[spot.cells] = base + spot.tensor.size_bytes
    return base


# --- layouts ----------------------------------------------------------------------------------------------------------


def _strided(layout: NamedLayout, line: Subspace, element_bytes: int) -> NamedLayout:
    """Return a layout over the line of bytes as one over addresses."""
    if len(line.modes) == 1:
        return layout
    return NamedLayout(layout.axes, composition(line.stage(element_bytes), layout.layout))


def _part(layout: NamedLayout, placement: Partitioned, digit: FieldDigit) -> NamedLayout:
    """Return the layout of one part, its elements close together: the digit that numbers the parts is taken out."""
    axis, parts = placement.axis, digit.size
    if axis not in layout.axes:
        raise ValueError(f"no axis {axis!r} to partition; allowed: {', '.join(layout.axes)}")
    leaves = {name: list(layout.leaves(name)) or [(1, 0)] for name in layout.axes}
    where = -1 if placement.order == "blocked" else 0
    extent, stride = leaves[axis][where]
    if extent % parts:
        raise ValueError(
            f"axis {axis} of {layout.size(axis)}, {placement.order}: its digit of {extent} is no multiple of the "
            f"{parts} parts, one per {digit.name}"
        )
    rest = extent // parts
    step = stride * rest if where else stride  # from one part to the next
    leaves[axis][where] = (rest, stride if where else stride * parts)
    for name, modes in leaves.items():
        leaves[name] = [(n, _closed(d, step, parts) if n > 1 else d) for n, d in modes]
    return of_leaves(layout.axes, [leaves[name] for name in layout.axes])


def _closed(stride: int, step: int, parts: int) -> int:
    """Return a stride of the layout without the digit `parts`:`step`."""
    if stride < step:
        return stride
    if stride < step * parts or stride % parts:
        raise ValueError(f"the stride {stride} is no multiple of {step * parts} elements, what all parts take together")
    return stride // parts


def _with_digit(part: NamedLayout, placement: Partitioned, digit: tuple[int, int]) -> NamedLayout:
    leaves = {name: list(part.leaves(name)) for name in part.axes}
    own = leaves[placement.axis]
    leaves[placement.axis] = [*own, digit] if placement.order == "blocked" else [digit, *own]
    return of_leaves(part.axes, [leaves[name] for name in part.axes])


def of_leaves(axes: tuple[str, ...], leaves: list[list[tuple[int, int]]]) -> NamedLayout:
    """Return the layout whose axes have these digits, fastest first."""
    kept = [[mode for mode in modes if mode[0] > 1] or [(1, 0)] for modes in leaves]
    shape = tuple(tuple(n for n, _ in modes) if len(modes) > 1 else modes[0][0] for modes in kept)
    stride = tuple(tuple(d for _, d in modes) if len(modes) > 1 else modes[0][1] for modes in kept)
    return NamedLayout(axes, Layout(shape, stride))
