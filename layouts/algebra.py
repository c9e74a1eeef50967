"""Operations on layouts: coalesce, slice, compose, complement, invert, filter, recast.

Second step on the ground floor: a tile of a tensor is a composition, two spellings of one layout coalesce
to one, and a buffer may only be written through an injective layout.  All answers come from the canonical
floor sum of `layouts.canonical` or from the bits of an XOR layout, none by walking the domain.  The results are
spelt as CuTe spells them; the definitions are those of "CuTe Layout Representation and Algebra" (Cecka,
arXiv:2603.02298).  Input for which a definition has no layout as its answer is refused; CuTe itself returns
wrong layouts for some of it.

Not modelled: compositions that are layouts only because carries at different boundaries happen to cancel;
they are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import gcd
from typing import Any

from layouts.f2 import invert
from layouts.injective import is_injective
from layouts.layout import Layout, flat_layout, nested_layout
from layouts.shape import as_int, as_int_tuple, shown, size
from layouts.stride import X
from layouts.swizzle_text import swizzle_modes, swizzle_of
from layouts.xor_form import affine_bits

_MAX_TRIES = 512  # assumed: how far the nearest admissible tile is looked for


def coalesce(layout: Layout, profile: object = None) -> Layout:
    """Return the flat layout with the fewest modes that is the same function of the linear index.

    With `profile`, a tuple no longer than the layout's rank, each of the modes it names is coalesced by itself (an
    item that is a tuple goes one level deeper), and the others stay as they are.
    """
    if isinstance(profile, tuple | list):
        return _by_mode(layout, profile, coalesce, "coalesce")
    modes: list[tuple[int, Any]] = []
    for extent, step in layout.leaves():
        if extent == 1:
            continue
        if modes and _extends(modes[-1], step):
            modes[-1] = (modes[-1][0] * extent, modes[-1][1])
        else:
            modes.append((extent, step))
    return _like(flat_layout(modes or [(1, 0)]), layout)


def _extends(mode: tuple[int, Any], step: Any) -> bool:
    extent, before = mode
    if _has_xor(before) and extent & (extent - 1):
        return False
    return bool(step == before * extent)


def _has_xor(step: Any) -> bool:
    parts = getattr(step, "parts", ((0, step),))
    return any(isinstance(part, X) for _, part in parts)


def _bare(layout: Layout) -> Layout:
    return Layout(layout.shape, layout.stride)


def _like(inner: Layout, layout: Layout) -> Layout:
    """Return `inner` with the offset and the stages of `layout`."""
    if layout.offset == 0 and not layout.stages:
        return inner
    return Layout(inner.shape, inner.stride, layout.offset, layout.stages)


def join(parts: list[Layout], like: Layout | None = None) -> Layout:
    """Return the layout that has `parts` as its top-level modes, with the offset and stages of `like`."""
    joined = Layout(tuple(part.shape for part in parts), tuple(part.stride for part in parts))
    return joined if like is None else _like(joined, like)


def bare_mode(layout: Layout, k: int) -> Layout:
    """Return top-level mode `k` without offset and stages."""
    return _bare(layout.mode(k))


def _by_mode(
    layout: Layout, items: tuple[Any, ...] | list[Any], operation: Callable[[Layout, Any], Layout], name: str
) -> Layout:
    """Apply `operation(mode, item)` to the first modes, one per item, and keep the others."""
    if len(items) > layout.rank:
        raise ValueError(f"{name} of {shown(layout)}: {len(items)} items for {layout.rank} modes")
    parts = []
    for k in range(layout.rank):
        mode = bare_mode(layout, k)
        parts.append(operation(mode, items[k]) if k < len(items) and items[k] is not None else mode)
    return join(parts, layout)


def filter_zeros_and_ones(layout: Layout) -> Layout:
    """Return the coalesced layout without modes of extent 1 or stride 0: CuTe's ``filter``."""
    kept = [(extent, step) for extent, step in layout.leaves() if extent != 1 and (step != 0 or extent == 0)]
    return coalesce(_like(flat_layout(kept or [(1, 0)]), layout))


# --- slicing ------------------------------------------------------------------------------------------------------


def slice_modes(layout: Layout, *coordinate: object) -> Layout:
    """Return the layout of the modes where `coordinate` is None, the others held at their number.

    ``slice_modes(layout, None, 3)`` is column 3; a tuple goes into a nested mode.  ValueError for a coordinate that
    does not nest like the shape or lies outside.
    """
    given = coordinate[0] if len(coordinate) == 1 and isinstance(coordinate[0], tuple) else coordinate
    whole = given[0] if isinstance(given, tuple) and len(given) == 1 and layout.rank == 1 else given
    kept: list[Layout] = []
    point: list[int] = []
    _split_coordinate(whole, _bare(layout), kept, point, f"slice of {shown(layout)}")
    base = _fixed(layout, point)
    result = join(kept) if len(kept) > 1 else kept[0] if kept else Layout(1, 0)
    if isinstance(base, tuple):  # XOR strides: what is held flips bits of the rest
        flips = [(2, -(1 << k) if base[1] >> k & 1 else 1 << k) for k in range(base[1].bit_length())]
        flip = flat_layout([*flips, (1, 1 << base[1].bit_length())])
        stages = (Layout(flip.shape, flip.stride, base[1]), *layout.stages)
        return Layout(result.shape, result.stride, base[0], stages)
    return Layout(result.shape, result.stride, base, layout.stages)


def _split_coordinate(coordinate: Any, mode: Layout, kept: list[Layout], point: list[int], where: str) -> None:
    """Collect the modes that are kept, and a digit for every leaf, 0 for those kept."""
    if coordinate is None:
        kept.append(mode)
        point += [0] * len(mode.leaves())
    elif isinstance(coordinate, tuple):
        if not isinstance(mode.shape, tuple) or len(coordinate) != mode.rank:
            raise ValueError(f"{where}: {len(coordinate)} coordinates for the mode {mode}")
        for k, item in enumerate(coordinate):
            _split_coordinate(item, mode.mode(k), kept, point, where)
    else:
        index = as_int(coordinate, where)
        if not 0 <= index < mode.size:
            raise ValueError(f"{where}: {index} is outside 0..{mode.size - 1} of the mode {mode}")
        for extent, _ in mode.leaves():
            index, digit = divmod(index, extent)
            point.append(digit)


def _fixed(layout: Layout, point: list[int]) -> Any:
    """Return the offset of the digits held, or (offset, XOR) where XOR strides of a layout without axes are held."""
    base: Any = layout.offset
    flips = 0
    for digit, (_, step) in zip(point, layout.leaves(), strict=True):
        if not digit or step == 0:
            continue
        if isinstance(step, X):
            flips ^= (step * digit).value
        elif _has_xor(step):
            raise ValueError(f"slice of {shown(layout)}: the XOR step {step} along axes cannot be held")
        else:
            base = step * digit if base == 0 else base + step * digit
    return (base, flips) if flips else base


# --- composition --------------------------------------------------------------------------------------------------


def composition(a: Layout, b: Any) -> Layout:
    """Return `a` after `b`: the layout with ``result(i) == a(b(i))``, whose shape refines the shape of `b`.

    `b` is a layout, an integer n for ``n:1``, or a tuple of these (None keeps a mode) that is composed with the
    modes of `a` one by one.  Beyond its domain `a` goes on in its last mode, as in CuTe.  ValueError where a mode of
    `b` does not divide the modes of `a`, or two modes of `b` meet in one mode of `a` and carry; the nearest
    admissible mode is named.  A `b` of other than integer strides is read by `a` as a stage.
    """
    if isinstance(b, tuple | list):
        return _by_mode(a, b, composition, "composition")
    inner = as_tiler(b)
    if not inner.is_affine:
        return inner.then(a)
    result = compose_leaves(a, inner)
    _check_carries(_open_modes(a, inner), inner, f"composition of {shown(a)} after {shown(inner)}")
    return result


def compose_leaves(a: Layout, b: Layout) -> Layout:
    """Return `a` after each mode of `b` alone: `composition` unless modes of `b` carry into each other."""
    where = f"composition of {shown(a)} after {shown(b)}"
    if not b.is_affine:
        raise ValueError(f"{where}: the second has other than integer strides, an offset or stages")
    if a.size == 0 or b.size == 0:
        raise ValueError(f"{where}: one of them is empty")
    if any(extent > 1 and stride < 0 for extent, stride in b.leaves()):
        raise ValueError(f"{where}: b reaches negative offsets, a takes indices from 0 on")
    modes = _open_modes(a, b)
    return _like(
        nested_layout(b.shape, [_leaf_after(modes, extent, stride, where) for extent, stride in b.leaves()]), a
    )


def as_tiler(value: object) -> Layout:
    """Return a layout as it is, and an integer n as ``n:1``; ValueError for anything else."""
    return value if isinstance(value, Layout) else Layout(as_int(value, "tiler"))


def _open_modes(a: Layout, b: Layout) -> list[tuple[int, Any]]:
    """Return the coalesced modes of `a`, the last of which goes on without end.

    Where `b` goes beyond the domain, a last mode of extent 1 says how `a` goes on, and is kept.
    """
    modes = list(coalesce(_bare(a)).leaves())
    extent, step = a.leaves()[-1]
    reach = max(sum(stride * (count - 1) for count, stride in b.leaves()), *(stride for _, stride in b.leaves()), 0)
    if extent == 1 and reach >= a.size:
        modes = [mode for mode in modes if mode[0] > 1]
        if not modes or not _extends(modes[-1], step):
            modes.append((1, step))
    return modes


def _leaf_after(modes: list[tuple[int, Any]], extent: int, stride: int, where: str) -> Layout:
    try:
        return _divided_leaf(modes, extent, stride)
    except ValueError as error:
        near = _nearest_leaves(modes, extent, stride)
        raise ValueError(f"{where}: the mode {extent}:{stride} of b {error}; nearest admissible: {near}") from None


def _divided_leaf(modes: list[tuple[int, Any]], extent: int, stride: int) -> Layout:
    """Return the modes that extent:stride walks in `modes`: it skips whole modes, enters one evenly, goes on."""
    found: list[tuple[int, Any]] = []
    rest, step = extent, stride
    for k, (count, unit) in enumerate(modes[:-1]):
        if step == 0:
            break
        inside = step < count and step * (rest - 1) < count
        if not inside and step % count and count % step:
            raise ValueError(f"does not divide mode {k} of a, {count}:{unit}")
        taken = rest if inside else min(max(1, count // step), rest)
        if rest % taken:
            raise ValueError(f"takes {taken} steps in mode {k} of a, {count}:{unit}, which do not divide {rest}")
        if taken > 1:
            found.append((taken, unit * step))
        rest //= taken
        step = -(-step // count)
    if rest > 1 or not found:
        found.append((rest, modes[-1][1] * step))
    return flat_layout(found)


def _nearest_leaves(modes: list[tuple[int, Any]], extent: int, stride: int) -> str:
    """Return, in words, the admissible modes next to extent:stride: of another stride, else of another extent."""

    def admissible(e: int, d: int) -> bool:
        try:
            _divided_leaf(modes, e, d)
        except ValueError:
            return False
        return True

    def around(middle: int, allowed: Callable[[int], bool]) -> list[int]:
        below = next(filter(allowed, range(middle - 1, max(0, middle - _MAX_TRIES), -1)), None)
        above = next(filter(allowed, range(middle + 1, middle + _MAX_TRIES)), None)
        return [n for n in (below, above) if n is not None]

    near = [f"{extent}:{n}" for n in around(stride, lambda n: admissible(extent, n))]
    near = near or [f"{n}:{stride}" for n in around(extent, lambda n: admissible(n, stride))]
    return " and ".join(near) or "none"


def _check_carries(modes: list[tuple[int, Any]], b: Layout, where: str) -> None:
    """Refuse modes of `b` whose sum carries: over a boundary of `a`, or over a bit of an XOR mode."""
    boundary = 1
    for extent, _ in modes[:-1]:
        boundary *= extent
        reach = sum(_peak(e, d, boundary) for e, d in b.leaves())
        if reach >= boundary:
            raise ValueError(
                f"{where}: the modes of b together carry over the boundary of a at index {boundary}: "
                f"their largest remainders add up to {reach}"
            )
    if any(_has_xor(step) for _, step in modes):
        taken = 0
        for extent, stride in b.leaves():
            touched = stride * ((1 << (extent - 1).bit_length()) - 1)
            if touched & taken or stride & (stride - 1):
                raise ValueError(
                    f"{where}: the modes of b meet in one bit, and {extent}:{stride} carries in an XOR mode"
                )
            taken |= touched


def _peak(extent: int, stride: int, boundary: int) -> int:
    """Return the largest (stride * i) % boundary, i < extent, of a leaf that `_divided_leaf` has accepted."""
    remainder = stride % boundary
    reach = remainder * (extent - 1)
    return reach if reach < boundary else boundary - remainder


# --- complement and inverses --------------------------------------------------------------------------------------


def _sorted_modes(layout: Layout, name: str) -> list[tuple[int, int, int]]:
    """Return (stride, extent, index step) of the coalesced modes with a stride, smallest stride first."""
    if not layout.is_affine:
        raise ValueError(f"{name} of {shown(layout)}: needs integer strides alone")
    if layout.size == 0:
        raise ValueError(f"{name} of {shown(layout)}: an empty layout has none")
    product, found = 1, []
    for extent, stride in coalesce(layout).leaves():
        if extent > 1 and stride != 0:
            if stride < 0:
                raise ValueError(
                    f"{name} of {shown(layout)}: the stride {stride} is negative, strides from 0 on are needed"
                )
            found.append((stride, extent, product))
        product *= extent
    return sorted(found, key=lambda mode: (mode[0], mode[2]))


def complement(layout: Layout, cotarget: object = 1) -> Layout:
    """Return the layout of the offsets below `cotarget` (a size or a shape) that `layout` steps over.

    No offset is reached twice by the sum of both; where every stride is a multiple of the span of the modes below
    it, every offset up to the next multiple of the span of `layout` is reached.  Where the highest mode alone overlaps
    the ones below and nothing is left above it, the complement is empty, as in CuTe; ValueError for other overlaps.
    """
    current = 1
    modes: list[tuple[int, int]] = []
    target = size(as_int_tuple(cotarget, "cotarget"))
    overlap = ""
    for stride, extent, _ in _sorted_modes(filter_zeros_and_ones(layout), "complement"):
        if overlap and not current <= stride < 2 * current:
            raise ValueError(f"complement of {shown(layout)}: {overlap}")
        if stride < current:
            overlap = f"mode {extent}:{stride} overlaps the {current} offsets below it; nearest: {extent}:{current}"
        modes.append((stride // current, current))
        current = stride * extent
    modes.append((-(-target // current), current))
    if overlap and modes[-1][0] > 1:
        raise ValueError(f"complement of {shown(layout)}: {overlap}")
    return coalesce(flat_layout(modes))


def check_nested(layout: Layout, where: str) -> None:
    """Raise ValueError unless every stride is a multiple of the span of the modes below it.

    Then a layout and its complement together reach every offset once.
    """
    current = 1
    for stride, extent, _ in _sorted_modes(filter_zeros_and_ones(layout), "complement"):
        if stride % current:
            near = " and ".join(
                f"{extent}:{n}" for n in (stride // current * current, -(-stride // current) * current) if n
            )
            raise ValueError(
                f"{where}: the tile's mode {extent}:{stride} is no multiple of the span {current} of those below it, "
                f"tile and rest leave gaps; nearest: {near}"
            )
        current = stride * extent


def right_inverse(layout: Layout) -> Layout:
    """Return the longest layout R with ``layout(R(i)) == i``: the indices of the offsets 0, 1, 2 ..."""
    if _is_bijective_xor(layout):
        return _inverse_bits(layout)
    current = 1
    modes: list[tuple[int, int]] = []
    for stride, extent, step in _sorted_modes(layout, "right inverse"):
        if stride > current:
            break
        if stride == current:
            modes.append((extent, step))
            current = stride * extent
    return coalesce(flat_layout(modes or [(1, 0)]))


def left_inverse(layout: Layout) -> Layout:
    """Return a layout L with ``layout(L(layout(i))) == layout(i)``, so ``L(layout(i)) == i`` if it is injective.

    Offsets that the layout does not reach go anywhere.  Where two indices share an offset, L may lead beyond the last
    index: there both go on in their last modes, as in CuTe.  ValueError where there is no such layout: a stride is no
    multiple of the stride below it, or modes overlap in a way that no layout undoes.
    """
    if _is_bijective_xor(layout):
        return _inverse_bits(layout)
    modes = _sorted_modes(layout, "left inverse")
    if not modes:
        return Layout(1, 0)
    found: list[tuple[int, int]] = [(modes[0][0], 0)]
    apart = True
    for (stride, extent, step), (end, _, _) in pairwise(modes):
        if end % stride:
            raise ValueError(f"left inverse of {shown(layout)}: the stride {end} is no multiple of the stride {stride}")
        apart = apart and end >= stride * extent
        found.append((end // stride, step))
    found.append(modes[-1][1:])
    inverse = coalesce(flat_layout(found))
    if not apart and layout.then(inverse, _bare(layout)) != layout:
        raise ValueError(f"left inverse of {shown(layout)}: its modes overlap, no layout leads back from their offsets")
    return inverse


def _is_bijective_xor(layout: Layout) -> bool:
    if layout.is_affine or layout.axes is not None:
        return False
    affine = affine_bits(layout)
    return affine is not None and affine[0] == 0 and layout.cosize == layout.size and is_injective(layout)


def _inverse_bits(layout: Layout) -> Layout:
    """Return the inverse of an F2-linear bijection."""
    columns = invert(layout.bits, len(layout.bits))
    plain = all(a & b == 0 for i, a in enumerate(columns) for b in columns[:i])
    return coalesce(flat_layout([(2, column if plain else X(column)) for column in columns] or [(1, 0)]))


# --- recast -------------------------------------------------------------------------------------------------------


def recast(layout: Layout, old_bits: int, new_bits: int) -> Layout:
    """Return the layout of elements of `new_bits` over the same memory as one of elements of `old_bits`.

    The mode of stride 1 is shortened or lengthened, other strides, the offset and swizzles are scaled; a wider element
    of which only a part is used counts whole.  ValueError where elements do not fall on boundaries: a stride that the
    ratio does not divide, an extent of a mode of stride 1 that it does not divide, modes that carry.
    """
    for name, bits in (("old_bits", old_bits), ("new_bits", new_bits)):
        if as_int(bits, name) < 1:
            raise ValueError(f"recast of {shown(layout)}: {name} is {bits}, at least 1 is needed")
    common = gcd(old_bits, new_bits)
    finer, coarser = old_bits // common, new_bits // common
    where = f"recast of {shown(layout)}"
    if layout.has_xor or layout.stage_axes is not None:
        raise ValueError(f"{where}: needs integer strides, behind which swizzles may stand")
    if finer > 1 and all(abs(stride) != 1 for _, stride in layout.leaves()):
        raise ValueError(f"{where}: an element falls apart into {finer}, and no mode of stride 1 takes them")
    finest = [_downcast(extent, stride, finer) for extent, stride in layout.leaves()]
    offset = int(layout.offset) * finer  # type: ignore[arg-type]
    within = sum(step * (min(extent, coarser // step) - 1) for extent, step in finest if 0 < step < coarser)
    if within >= coarser or offset % coarser:
        raise ValueError(f"{where}: its modes reach {within} within {coarser} elements that become one, and carry")
    leaf_layouts = [Layout(*_upcast(extent, stride, coarser, where)) for extent, stride in finest]
    nested = nested_layout(layout.shape, leaf_layouts)
    stages = [_recast_swizzle(stage, finer, coarser, where) for stage in layout.stages]
    return Layout(nested.shape, nested.stride, offset // coarser, stages)


def _recast_swizzle(stage: Any, finer: int, coarser: int, where: str) -> Layout:
    """Return a swizzle of finer or coarser elements: its bits move up or down."""
    found = swizzle_of(stage) if isinstance(stage, Layout) else None
    if found is None or finer & (finer - 1) or coarser & (coarser - 1):
        raise ValueError(f"{where}: the stage {shown(stage)} is no swizzle that moves by whole bits")
    bits, base, shift = found
    moved = base + finer.bit_length() - coarser.bit_length()
    if moved < 0:
        raise ValueError(f"{where}: the swizzle S<{bits},{base},{shift}> moves bits within an element of the new width")
    return flat_layout(swizzle_modes(bits, moved, shift))


def _downcast(extent: int, stride: int, n: int) -> tuple[int, int]:
    return (extent * n, stride) if abs(stride) == 1 else (extent, stride * n)


def _upcast(extent: int, stride: int, n: int, where: str) -> tuple[int, int]:
    step = abs(stride)
    if step == 0 or n == 1:
        return extent, stride
    if step % n == 0:
        return extent, stride // n
    if n % step:
        raise ValueError(f"{where}: the stride {stride} and the ratio {n} do not divide each other")
    per = n // step
    if extent % per and per % extent:
        raise ValueError(f"{where}: {per} elements of the mode {extent}:{stride} are one, and {per} does not divide it")
    return -(-extent // per), 1 if stride > 0 else -1
