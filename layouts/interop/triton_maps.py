"""Triton's layouts as values: named linear maps, the encodings of registers and shared memory, bank conflicts.

What the texts of `layouts.interop.triton` are read into; the conventions are described there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from math import prod
from operator import or_
from typing import Any, TypeAlias

from layouts import f2
from layouts.layout import Layout
from layouts.notation import NamedLayout
from layouts.stride import Axis, X, vector
from layouts.xor_form import affine_bits

Bases: TypeAlias = Mapping[str, f2.Vectors]
Sizes: TypeAlias = Mapping[Any, int]  # by name of an input, or by axis of a result

HARDWARE = ("register", "lane", "warp", "block")


# --- named linear maps ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LinearMap(NamedLayout):
    """A named layout that is linear over F2, with the size of each result, even of one it does not reach in full.

    Bit k of the input ``axes[i]`` is bit k of mode i of the layout, whose results are named by the axes of its
    strides.  As for all named layouts, equal are the same functions; the sizes do not count.
    """

    results: tuple[tuple[Axis, int], ...] = ()


def from_bases(bases: Bases, out_dims: Sizes) -> LinearMap:
    """Return the map with ``bases[input][bit]`` the vector of results, a number per entry of `out_dims`.

    ValueError for sizes that are no powers of two, for a vector outside the sizes, and beyond 62 bits.
    """
    sizes = {axis: 1 << f2.log2(size, f"size of {axis}") for axis, size in out_dims.items()}
    checked = {name: f2.as_vectors(vectors, f"bases of {name}", sizes.values()) for name, vectors in bases.items()}
    if not sizes or not checked or sum(map(len, checked.values())) > f2.MAX_BITS:
        raise ValueError(f"a linear map has inputs and results, and at most {f2.MAX_BITS} input bits")
    modes = [f2.mode(v, lambda step: vector(zip(sizes, map(X, step), strict=True))) for v in checked.values()]
    shape, stride = zip(*modes, strict=True)
    return LinearMap(tuple(checked), Layout(shape, stride), tuple(sizes.items()))


def apply(linear: NamedLayout, inputs: Mapping[str, int]) -> dict[Axis, int]:
    """Return the results for one number per input; ValueError for unknown inputs and numbers outside."""
    value = linear.offset(**inputs)
    if not isinstance(value, dict):
        value = dict(enumerate(value)) if isinstance(value, tuple) else {}
    return {axis: value.get(axis, 0) for axis in sizes_of_results(linear)}


def compose(first: NamedLayout, second: NamedLayout) -> LinearMap:
    """Return `second` after `first`: the results of `first` are the inputs of `second`, coordinate k as ``dim<k>``.

    ValueError unless they have the same names and `first` stays within the sizes of `second`.
    """
    given = {_as_input(axis): size for axis, size in sizes_of_results(first).items()}
    taken = {name: second.size(name) for name in second.axes}
    if given.keys() != taken.keys() or any(size > taken[name] for name, size in given.items()):
        raise ValueError(f"compose: the first map gives {_shown(given)}, the second takes {_shown(taken)}")
    bases_of(second)  # refuses what is not linear
    steps = {name: [dict(zip(given, v, strict=True)) for v in vectors] for name, vectors in bases_of(first).items()}
    return from_bases(
        {n: [[*apply(second, s).values()] for s in v] for n, v in steps.items()}, sizes_of_results(second)
    )


def invert(linear: NamedLayout) -> LinearMap:
    """Return the inverse, from the results to the inputs; ValueError where there is none."""
    if linear.layout.size != (count := prod(sizes_of_results(linear).values())):
        raise ValueError(f"invert: {linear.layout.size} inputs and {count} results are not one to one")
    return pseudo_invert(linear)


def pseudo_invert(linear: NamedLayout) -> LinearMap:
    """Return a map from results to inputs which `linear` undoes, to the earliest bits; ValueError unless onto."""
    sizes = sizes_of_results(linear)
    identity = {_as_input(axis): _units(axis, sizes) for axis in sizes}
    return invert_and_compose(from_bases(identity, sizes), linear)


def invert_and_compose(first: NamedLayout, second: NamedLayout) -> LinearMap:
    """Return C with ``second(C(x)) == first(x)``: where a conversion from `second` to `first` finds its elements.

    An input that both maps have, with the same bases, stays as it is, if the others do without it.  ValueError
    unless the results have the same names and sizes, and `second` reaches all that `first` does.
    """
    results = sizes_of_results(second)
    if sizes_of_results(first) != results:
        raise ValueError(f"the results {_shown(sizes_of_results(first))} and {_shown(results)} differ in name or size")
    ours, theirs = bases_of(first, [*results]), bases_of(second)
    inputs = {name: second.size(name) for name in second.axes}

    def converted(kept: set[str]) -> LinearMap:
        # A kept input takes part as columns of 0, which no solution uses.
        columns = [0 if name in kept else f2.join(v, results.values()) for name, steps in theirs.items() for v in steps]
        bases: dict[str, f2.Vectors] = {name: _units(name, inputs) for name in ours}
        for name in ours.keys() - kept:
            found = f2.invert_and_compose([f2.join(v, results.values()) for v in ours[name]], columns)
            bases[name] = [f2.split(value, inputs.values()) for value in found]
        return from_bases(bases, inputs)

    try:
        return converted({name for name, steps in ours.items() if theirs.get(name) == steps})
    except ValueError:
        return converted(set())


def product(*maps: NamedLayout) -> LinearMap:
    """Return the product: each map works on the bits above those of the maps before it, in inputs and results."""
    sizes: dict[Axis, int] = {}
    steps: dict[str, list[dict[Axis, int]]] = {}
    for factor in maps:
        own = sizes_of_results(factor)
        for name, vectors in bases_of(factor).items():
            scaled = ({a: part * sizes.get(a, 1) for a, part in zip(own, v, strict=True)} for v in vectors)
            steps.setdefault(name, []).extend(scaled)
        sizes |= {axis: size * sizes.get(axis, 1) for axis, size in own.items()}
    return from_bases({n: [[s.get(a, 0) for a in sizes] for s in v] for n, v in steps.items()}, sizes)


def sizes_of_results(linear: NamedLayout) -> dict[Axis, int]:
    """Return the sizes of the results, those reached where the map does not say."""
    if isinstance(linear, LinearMap):
        return dict(linear.results)
    layout = linear.layout
    if layout.axes is None and layout.key[1] != ():
        raise ValueError("a linear map has results along axes, such as E('dim0'), and this layout gives plain numbers")
    return {axis: 1 << reduce(or_, layout.along(axis).bits, 0).bit_length() for axis in layout.axes or ()}


def bases_of(linear: NamedLayout, order: Sequence[Axis] | None = None) -> dict[str, list[tuple[int, ...]]]:
    """Return the vectors of each input, their parts in the order of the results; ValueError unless linear."""
    counts = [f2.log2(linear.size(name), f"input {name}") for name in linear.axes]
    parts: list[Sequence[int]] = []
    for axis in sizes_of_results(linear) if order is None else order:
        parts.append((0,) * sum(counts))
        if axis in (linear.layout.axes or ()):
            affine = affine_bits(linear.layout.along(axis))
            if affine is None or affine[0] != 0:
                raise ValueError(f"the result {axis} is not linear over F2")
            parts[-1] = affine[1]
    vectors = zip(*parts, strict=True) if parts else iter([()] * sum(counts))
    return {name: [next(vectors) for _ in range(n)] for name, n in zip(linear.axes, counts, strict=True)}


def _units(axis: Axis, sizes: Sizes) -> list[list[int]]:
    """Return the vectors that send the bits of one axis to themselves."""
    return [[(1 << k) * (other == axis) for other in sizes] for k in range(f2.log2(sizes.get(axis, 1)))]


def _as_input(axis: Axis) -> str:
    return axis if isinstance(axis, str) else f"dim{axis}"


def _shown(sizes: Sizes) -> str:
    return shortened(", ".join(f"{name}={size}" for name, size in sizes.items()) or "nothing")


def shortened(value: object, most: int = 80) -> str:
    """Return `value` as text of at most `most` characters."""
    text = str(value)
    return text if len(text) <= most else text[: most - 3] + "..."


# --- encodings -----------------------------------------------------------------------------------------------------


def blocked(
    size_per_thread: Sequence[int],
    threads_per_warp: Sequence[int],
    warps_per_cta: Sequence[int],
    order: Sequence[int],
    shape: Sequence[int],
    cga_layout: f2.Vectors = (),
) -> LinearMap:
    """Return the blocked layout of a tensor: threads of `size_per_thread` elements, tiled into warps and blocks.

    `order` lists the dimensions, fastest first; a larger tensor repeats in further registers, in a smaller one
    lanes and warps hold copies.  `cga_layout` tells how the blocks of a cluster share the tensor.
    """
    sizes, dims = f2.as_shape(shape), f2.as_order(order, len(shape))
    block = f2.as_vectors(cga_layout, "cga_layout", [1 << f2.MAX_BITS] * len(sizes))
    clusters = f2.span(block) if block else [1] * len(sizes)
    own = [max(1, size // min(count, size)) for size, count in zip(sizes, clusters, strict=True)]
    tile, bases = [1] * len(sizes), {}
    for name, given in zip(HARDWARE[:3], (size_per_thread, threads_per_warp, warps_per_cta), strict=True):
        extents = f2.as_powers(given, f"{name} counts", len(sizes))
        bases[name] = f2.grown(tile, [n * t for n, t in zip(extents, tile, strict=True)], dims)
    bases["register"] += f2.grown(tile, own, dims)
    bases = {name: f2.cut(steps, own, keep=name != "register") for name, steps in bases.items()}
    bases["block"] = f2.cut([[part * n for part, n in zip(v, own, strict=True)] for v in block], sizes)
    return from_bases(bases, dict(enumerate(sizes)))


def distributed_linear(bases: Bases, shape: Sequence[int] | None = None) -> LinearMap:
    """Return the distributed layout with the given bases per register, lane, warp and block.

    A larger `shape` repeats in further registers, in a smaller one lanes and warps hold copies; without it the
    shape is the one that the bases span.
    """
    if other := [name for name in bases if name not in HARDWARE]:
        raise ValueError(f"unknown input {shortened(other[0])}, a distributed layout has {', '.join(HARDWARE)}")
    every = f2.as_vectors([v for name in bases for v in f2.as_list(bases[name], name)], "bases")
    sizes = f2.span(every) if shape is None else f2.as_shape(shape)
    tile = f2.span(every) if every else [1] * len(sizes)
    if len(tile) != len(sizes):
        raise ValueError(f"bases of {len(tile)} dimensions for a shape of {len(sizes)}")
    steps = {name: [list(v) for v in bases.get(name, ())] for name in HARDWARE}
    fastest = [d for v in steps["register"] for d, part in enumerate(v) if part]
    steps["register"] += f2.grown(tile, sizes, dict.fromkeys([*fastest, *reversed(range(len(sizes)))]))
    cut = {name: f2.cut(v, sizes, keep=name != "register") for name, v in steps.items()}
    return from_bases(cut, dict(enumerate(sizes)))


def shared_linear(offset_bases: f2.Vectors, shape: Sequence[int] | None = None) -> Layout:
    """Return the memory layout, coordinates -> offset, of bases that send offset bits to coordinates.

    ValueError where the bases have no inverse, or are of another shape; `from_bases` keeps their direction.
    """
    sizes = f2.span(f2.as_vectors(offset_bases, "offset bases")) if shape is None else f2.as_shape(shape)
    vectors = f2.as_vectors(offset_bases, "offset bases", sizes)
    try:
        columns = iter(f2.invert([f2.join(v, sizes) for v in vectors], f2.width(sizes)))
    except ValueError as error:
        raise ValueError(f"offset bases of the shape {shortened(sizes)}: {error}, see from_bases") from None
    # A column of one bit is a plain stride: in an invertible map no other column is the same bit.
    modes = [
        f2.mode([[next(columns)] for _ in range(f2.log2(n))], lambda s: s[0] if s[0].bit_count() == 1 else X(s[0]))
        for n in sizes
    ]
    return Layout(*zip(*modes, strict=True))


def swizzled_shared(vec: int, per_phase: int, max_phase: int, order: Sequence[int], shape: Sequence[int]) -> Layout:
    """Return the swizzled memory layout: groups of `vec` elements change places from row to row.

    `per_phase` rows share an arrangement, `max_phase` arrangements take turns; `order` lists the dimensions, the
    contiguous one first and the one of the rows second.
    """
    sizes, dims = f2.as_shape(shape), f2.as_order(order, len(shape))
    bases = f2.grown([1] * len(sizes), sizes, dims)
    phases = f2.as_powers([vec, per_phase, max_phase], "vec, perPhase, maxPhase", 3)
    if len(dims) > 1:
        _swizzle(bases, dims[1], dims[0], phases, sizes[dims[0]])
    return shared_linear(bases, sizes)


def _swizzle(bases: list[list[int]], row: int, column: int, phases: Sequence[int], columns: int) -> None:
    """Move the columns of those vectors that lead to another row."""
    vec, per_phase, max_phase = phases
    for step in bases:
        if step[row]:
            step[column] = vec * (step[row] // per_phase % max_phase) % columns


def nvmma_shared(
    swizzle_byte_width: int, element_bitwidth: int, shape: Sequence[int], transposed: bool = False
) -> Layout:
    """Return the memory layout that Hopper's and Blackwell's tensor cores read: boxes of a TMA copy, swizzled.

    A box is `swizzle_byte_width` bytes of the contiguous dimension, the last one or if `transposed` the first, by
    at most 256 in the others; in each 8 rows of it groups of 16 bytes change places.  ValueError for widths other
    than 0, 32, 64, 128 bytes and 8, 16, 32, 64 bits, and for shapes below 8 rows of a box.
    """
    sizes = f2.as_shape(shape)
    rank, bits = len(sizes), element_bitwidth
    if swizzle_byte_width not in (0, 32, 64, 128) or bits not in (8, 16, 32, 64):
        raise ValueError(f"nvmma: {shortened(swizzle_byte_width)} bytes of swizzle, elements of {shortened(bits)} bits")
    if not isinstance(transposed, bool):
        raise ValueError(f"nvmma: transposed is {shortened(transposed)}, a truth value is needed")
    dims = [0, *range(rank - 1, 0, -1)] if transposed else [*range(rank - 1, -1, -1)]  # contiguous one first
    box = [min(size, 256) for size in sizes]
    if swizzle_byte_width == 0:
        if transposed and rank > 2:
            raise ValueError("nvmma: without swizzle a transposed tensor has 2 dimensions")
        tile = [1] * rank
        return shared_linear(f2.grown(tile, box, dims) + f2.grown(tile, sizes, reversed(range(rank))), sizes)
    width = box[dims[0]] = 8 * swizzle_byte_width // bits
    rows, columns = (box[-1], prod(box[:-1])) if transposed else (prod(box[:-1]), box[-1])
    if rank < 2 or sizes[dims[0]] < width or rows < 8:
        raise ValueError(f"nvmma: the shape {shortened(sizes)} has no 8 rows of {width} contiguous elements to swizzle")
    tile = [1, 1]
    steps = f2.grown(tile, [8, width], [1, 0])
    _swizzle(steps, 0, 1, (128 // bits, 128 // swizzle_byte_width, swizzle_byte_width // 16), width)
    steps += f2.grown(tile, [rows, columns], [0, 1])
    bases = []
    for row, column in steps:
        digits = dict(zip(dims, f2.split(row * columns + column, [box[d] for d in dims]), strict=True))
        bases.append([digits[d] for d in range(rank)])
    return shared_linear(bases + f2.grown(box, sizes, range(rank)), sizes)


def padded_shared(
    interval_padding_pairs: f2.Vectors,
    offset_bases: f2.Vectors | None,
    shape: Sequence[int],
    order: Sequence[int] | None = None,
) -> Layout:
    """Return `shared_linear` with padding behind every interval; without bases compact, `order` fastest first.

    Where intervals end together their paddings add up.  ValueError unless all are powers of two, intervals once.
    """
    sizes, pairs = f2.as_shape(shape), f2.as_list(interval_padding_pairs, "padding")
    if offset_bases is None:
        offset_bases = f2.grown([1] * len(sizes), sizes, f2.as_order(order, len(sizes)))
    checked = sorted(f2.as_powers(pair, "interval and padding", 2) for pair in pairs)
    bounds = [1, *(interval for interval, _ in checked)]
    if len({interval for interval, _ in checked}) < max(1, len(checked)):
        raise ValueError("padding: each interval stands once, and at least one is needed")
    strides = [n + sum(n // interval * padding for interval, padding in checked) for n in bounds]
    extents = [above // below for below, above in pairwise(bounds)]
    return shared_linear(offset_bases, sizes).then(Layout((*extents, 1), tuple(strides)))


def shared_bank_conflicts(register_layout: NamedLayout, shared_layout: Layout, element_bits: int) -> int:
    """Return how many extra passes moving a tensor between registers and shared memory takes, per access.

    `register_layout` has the inputs register and lane, and warp and block if it likes, and gives coordinates;
    `shared_layout` sends these to offsets.  The measure is that of `layouts.f2.bank_conflicts`, equal to Triton's.
    ValueError for layouts of different shapes and for a memory layout that is not linear, such as a padded one.
    """
    counts = {name: register_layout.size(name) for name in ("register", "lane", *register_layout.axes)}
    sizes = sizes_of_results(register_layout)
    for axis, size in sizes.items():
        if not isinstance(axis, int) or axis >= shared_layout.rank or shared_layout.mode(axis).size < size:
            raise ValueError(f"the register layout gives {_shown(sizes)}, outside the shape of the memory layout")
    affine = affine_bits(register_layout.layout.then(shared_layout))
    if affine is None:
        raise ValueError("bank conflicts: the register or the memory layout is not linear over F2")
    bits = iter(affine[1])
    columns = {name: tuple(next(bits) for _ in range(f2.log2(counts[name]))) for name in register_layout.axes}
    registers, lanes = columns.pop("register"), columns.pop("lane")
    return f2.bank_conflicts(registers, lanes, tuple(c for part in columns.values() for c in part), element_bits)
