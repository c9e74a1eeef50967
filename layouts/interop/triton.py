"""Triton: its linear layouts, its encodings from TTGIR and Gluon, and bank conflicts of shared memory.

Two directions meet here, and the types keep them apart.  A distributed layout goes from hardware to data: a
`LinearMap` from register, lane, warp and block to the tensor coordinates 0, 1, ...  A memory layout goes the
other way, as all layouts of this package: a `Layout` from tensor coordinates to the element offset in shared
memory, the inverse of the ``offset`` bases that Triton prints.  Bases without an inverse can stay a `LinearMap`
from offset to coordinates, made with `from_bases`.

Not modelled: tensor-core layouts (mma, dot operands), slices, tensor memory, shared layouts spread over several
blocks, fp4 padding, and where a subslice of a buffer starts (it is read as if it were at the start).
Conventions: Triton 3.9, and Zhou et al., "Linear Layouts", arXiv:2505.23819.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain, pairwise
from math import prod
from operator import gt, or_
from typing import Any, TypeAlias

from layouts import f2
from layouts.layout import Layout, Table
from layouts.notation import NamedLayout, nearest_first
from layouts.shape import MAX_TEXT, as_int
from layouts.stride import Axis, E, X, vector
from layouts.text import Reader
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
    return {axis: value.get(axis, 0) for axis in _results(linear)}


def compose(first: NamedLayout, second: NamedLayout) -> LinearMap:
    """Return `second` after `first`: the results of `first` are the inputs of `second`, coordinate k as ``dim<k>``.

    ValueError unless they have the same names and `first` stays within the sizes of `second`.
    """
    given = {_as_input(axis): size for axis, size in _results(first).items()}
    taken = {name: second.size(name) for name in second.axes}
    if given.keys() != taken.keys() or any(size > taken[name] for name, size in given.items()):
        raise ValueError(f"compose: the first map gives {_shown(given)}, the second takes {_shown(taken)}")
    _bases(second)  # refuses what is not linear
    steps = {name: [dict(zip(given, v, strict=True)) for v in vectors] for name, vectors in _bases(first).items()}
    return from_bases({n: [[*apply(second, s).values()] for s in v] for n, v in steps.items()}, _results(second))


def invert(linear: NamedLayout) -> LinearMap:
    """Return the inverse, from the results to the inputs; ValueError where there is none."""
    if linear.layout.size != (count := prod(_results(linear).values())):
        raise ValueError(f"invert: {linear.layout.size} inputs and {count} results are not one to one")
    return pseudo_invert(linear)


def pseudo_invert(linear: NamedLayout) -> LinearMap:
    """Return a map from results to inputs which `linear` undoes, to the earliest bits; ValueError unless onto."""
    sizes = _results(linear)
    identity = {_as_input(axis): _units(axis, sizes) for axis in sizes}
    return invert_and_compose(from_bases(identity, sizes), linear)


def invert_and_compose(first: NamedLayout, second: NamedLayout) -> LinearMap:
    """Return C with ``second(C(x)) == first(x)``: where a conversion from `second` to `first` finds its elements.

    An input that both maps have, with the same bases, stays as it is, if the others do without it.  ValueError
    unless the results have the same names and sizes, and `second` reaches all that `first` does.
    """
    results = _results(second)
    if _results(first) != results:
        raise ValueError(f"the results {_shown(_results(first))} and {_shown(results)} differ in name or size")
    ours, theirs = _bases(first, [*results]), _bases(second)
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
        own = _results(factor)
        for name, vectors in _bases(factor).items():
            scaled = ({a: part * sizes.get(a, 1) for a, part in zip(own, v, strict=True)} for v in vectors)
            steps.setdefault(name, []).extend(scaled)
        sizes |= {axis: size * sizes.get(axis, 1) for axis, size in own.items()}
    return from_bases({n: [[s.get(a, 0) for a in sizes] for s in v] for n, v in steps.items()}, sizes)


def _results(linear: NamedLayout) -> dict[Axis, int]:
    """Return the sizes of the results, those reached where the map does not say."""
    if isinstance(linear, LinearMap):
        return dict(linear.results)
    layout = linear.layout
    if layout.axes is None and layout.key[1] != ():
        raise ValueError("a linear map has results along axes, such as E('dim0'), and this layout gives plain numbers")
    return {axis: 1 << reduce(or_, layout.along(axis).bits, 0).bit_length() for axis in layout.axes or ()}


def _bases(linear: NamedLayout, order: Sequence[Axis] | None = None) -> dict[str, list[tuple[int, ...]]]:
    """Return the vectors of each input, their parts in the order of the results; ValueError unless linear."""
    counts = [f2.log2(linear.size(name), f"input {name}") for name in linear.axes]
    parts: list[Sequence[int]] = []
    for axis in _results(linear) if order is None else order:
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
    return _short(", ".join(f"{name}={size}" for name, size in sizes.items()) or "nothing")


def _short(value: object, most: int = 80) -> str:
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
        raise ValueError(f"unknown input {_short(other[0])}, a distributed layout has {', '.join(HARDWARE)}")
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
        raise ValueError(f"offset bases of the shape {_short(sizes)}: {error}, see from_bases") from None
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
        raise ValueError(f"nvmma: {_short(swizzle_byte_width)} bytes of swizzle, elements of {_short(bits)} bits")
    if not isinstance(transposed, bool):
        raise ValueError(f"nvmma: transposed is {_short(transposed)}, a truth value is needed")
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
        raise ValueError(f"nvmma: the shape {_short(sizes)} has no 8 rows of {width} contiguous elements to swizzle")
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
    sizes = _results(register_layout)
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


# --- text ----------------------------------------------------------------------------------------------------------

_BLOCKED, _LINEAR = ("#ttg.blocked", "BlockedLayout"), ("#ttg.linear", "DistributedLinearLayout")
_SWIZZLED, _NVMMA = ("#ttg.swizzled_shared", "SwizzledSharedLayout"), ("#ttg.nvmma_shared", "NVMMASharedLayout")
_SHARED, _PADDED = ("#ttg.shared_linear", "SharedLinearLayout"), ("#ttg.padded_shared", "PaddedSharedLayout")
_BASES = ("reg_bases", "lane_bases", "warp_bases", "block_bases")
_FIELDS = {  # in the order of Gluon's arguments
    _BLOCKED: ("size_per_thread", "threads_per_warp", "warps_per_cta", "order", "block_bases"),
    _LINEAR: (*_BASES, "shape"),
    _SWIZZLED: ("vec", "per_phase", "max_phase", "order", "block_bases"),
    _NVMMA: ("swizzle_byte_width", "element_bitwidth", "rank", "transposed", "fp4_padded", "block_bases"),
    _SHARED: ("offset_bases", "block_bases", "alignment"),
    _PADDED: ("interval_padding_pairs", "offset_bases", "block_bases", "shape", "order"),
}
_OTHERWISE = {  # what TTGIR and Gluon call some fields
    "swizzling_byte_width": "swizzle_byte_width",
    "element_bit_width": "element_bitwidth",
    "offset": "offset_bases",
    "cga_layout": "block_bases",
    "cgalayout": "block_bases",
    **dict(zip(HARDWARE, _BASES, strict=True)),
}
_ALIAS = re.compile(r"(#[A-Za-z_]\w*)\s*=")
_TYPE = re.compile(r"(tensor|!\w+\.memdesc)\s*<\s*((?:[0-9]{1,19}x){1,16})!?[A-Za-z][\w.]*(?:<[^<>]{0,80}>)?\s*,")
_MEMORY = re.compile(r"#ttg\.shared_memory\b")
_SIZES = re.compile(r"[0-9]{1,19}(?:x[0-9]{1,19}){0,16}")
_NAME = re.compile(r"#?[A-Za-z_][\w.]*")
_KEY = re.compile(r"([A-Za-z_]\w*)\s*=")
_PADDING = re.compile(r"([0-9]{1,19})\s*:\s*\+\s*([0-9]{1,19})")
_TRUTH = re.compile(r"([Tt]rue|[Ff]alse)\b")
_Kind: TypeAlias = tuple[str, str]
_Encoding: TypeAlias = tuple[_Kind, dict[str, Any]]


def read(text: str, shape: Sequence[int] | None = None) -> Layout | LinearMap:
    """Read an encoding, with the shape of its type or `shape`: a memory layout, or a distributed `LinearMap`.

    Accepted are TTGIR types (``tensor<64x64xf16, #ttg.blocked<{...}>>``, ``!ttg.memdesc<...>``), after aliases
    (``#shared = ...``) if they use them, encodings alone, Gluon's constructors, and bare offset bases ``[[0, 1],
    ...]``.  ValueError gives the position and what was expected there.
    """
    try:
        if len(text) > MAX_TEXT:
            raise ValueError(f"{len(text)} characters, at most {MAX_TEXT} are allowed")
        reader = Reader(text)
        aliases: dict[str, _Encoding] = {}
        while alias := reader.match(_ALIAS):
            if not reader.match(_MEMORY):
                aliases[alias[1]] = _encoding(reader, aliases)
        if found := reader.match(_TYPE):
            sizes = [int(size) for size in found[2][:-1].split("x")]
            if shape is not None and list(shape) != sizes:
                raise ValueError(f"the type has the shape {_short(sizes)}, not {_short(shape)}")
            layout = _typed(reader, found[1], sizes, aliases)
        else:
            layout = _build(*_encoding(reader, aliases), shape)
        reader.end()
    except ValueError as error:
        raise ValueError(f"Triton layout {_short(repr(text))}: {error}") from None
    return layout


def _typed(reader: Reader, what: str, sizes: list[int], aliases: Mapping[str, _Encoding]) -> Layout | LinearMap:
    """Read the rest of a type and return its layout."""
    kind, fields = _encoding(reader, aliases)
    allocated = sizes
    while reader.take(","):
        if found := reader.match(_SIZES):
            allocated = [int(size) for size in found[0].split("x")][-len(sizes) :]
        elif not reader.match(_NAME):
            raise reader.error("expected a memory space, 'mutable' or the allocated shape")
    reader.expect(">")
    if what == "tensor":
        return _build(kind, fields, sizes)
    if len(sizes) != len(allocated) or any(map(gt, sizes, allocated)) or min(sizes) < 1:
        raise ValueError(f"the shape {_short(sizes)} is no part of the allocated {_short(allocated)}")
    rank = as_int(fields.get("rank", 2), "rank")
    if kind != _NVMMA:
        bases = fields.get("order") or next(iter(f2.as_list(fields.get("offset_bases", []), "offset_bases")), sizes)
        rank = len(f2.as_list(bases, "order"))
    if not 0 < rank <= len(sizes):
        raise ValueError(f"an encoding of {rank} dimensions for the shape {_short(sizes)}")
    inner = _build(kind, fields, allocated[-rank:])
    return inner if isinstance(inner, LinearMap) else _part(_buffers(allocated[: -inner.rank], inner), sizes)


def _buffers(counts: list[int], inner: Layout) -> Layout:
    """Return the layout of buffers one behind the other, their dimensions first and the last of them fastest."""
    assert isinstance(inner.shape, tuple)
    assert isinstance(inner.stride, tuple)
    strides = [inner.size * prod(counts[k + 1 :]) for k in range(len(counts))]
    return Layout((*counts, *inner.shape), (*strides, *inner.stride), stages=inner.stages)


def _part(whole: Layout, sizes: list[int]) -> Layout:
    """Return the layout of the first coordinates of each dimension."""
    if all(whole.mode(k).size == size for k, size in enumerate(sizes)):
        return whole
    return Layout(tuple(sizes), tuple(E(k) for k in range(len(sizes)))).then(whole)


def _encoding(reader: Reader, aliases: Mapping[str, _Encoding]) -> _Encoding:
    if reader.peek() == "[":
        return _SHARED, {"offset_bases": _value(reader)}
    start, found = reader.position, reader.match(_NAME)
    name = found[0] if found else ""
    if name in aliases:
        return aliases[name]
    kind = next((names for names in _FIELDS if name.removeprefix("ttgl.") in names), None)
    if kind is None:
        known = nearest_first(name, [*chain(*_FIELDS), *list(aliases)[:16]], 3)
        raise ValueError(f"at position {start}: expected an encoding, such as {known}, found {_short(name, 40)!r}")
    fields: dict[str, Any] = {}
    if not name.startswith("#"):
        reader.expect("(")
        _read_fields(reader, kind, ")", fields)
        return kind, fields
    reader.expect("<")
    if kind == _PADDED:
        fields["interval_padding_pairs"] = _pairs(reader)
    reader.expect("{")
    _read_fields(reader, kind, "}", fields)
    if reader.take(","):
        _read_fields(reader, kind, ">", fields)
    else:
        reader.expect(">")
    return kind, fields


def _pairs(reader: Reader) -> list[list[int]]:
    reader.expect("[")
    pairs = []
    while found := reader.match(_PADDING):
        pairs.append([int(found[1]), int(found[2])])
        if not reader.take(","):
            break
    reader.expect("]", " or interval:+padding")
    return pairs


def _read_fields(reader: Reader, kind: _Kind, close: str, fields: dict[str, Any]) -> None:
    names = _FIELDS[kind]
    while not reader.take(close):
        key = reader.match(_KEY)
        if key:
            snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key[1]).lower()
            name = _OTHERWISE.get(snake, snake)
        elif close == ")" and len(fields) < len(names):
            name = names[len(fields)]
        else:
            raise reader.error(f"expected a field and '=', or {close!r}")
        if name not in names or name in fields:
            fault = "repeated" if name in fields else f"unknown, allowed are {nearest_first(name, names)}"
            start = key.start() if key else reader.position
            raise ValueError(f"at position {start}: the field {_short(name, 40)} is {fault}")
        fields[name] = _value(reader)
        if not reader.take(","):
            reader.expect(close, " or ','")
            return


def _value(reader: Reader, depth: int = 0) -> Any:
    if found := reader.match(_TRUTH):
        return found[0] in ("true", "True")
    if depth == 2 or not reader.take("["):
        return reader.integer("an integer, a truth value or a list of lists" if depth < 2 else "an integer")
    values: list[Any] = []
    while not reader.take("]"):
        values.append(_value(reader, depth + 1))
        if not reader.take(","):
            reader.expect("]", " or ','")
            break
    return values


def _build(kind: _Kind, f: Mapping[str, Any], shape: Sequence[int] | None) -> Layout | LinearMap:
    sizes: Any = f.get("shape") if shape is None else shape
    if sizes is None and kind not in (_LINEAR, _SHARED):
        raise ValueError(f"{kind[0]}: a shape is needed, as in tensor<64x64xf16, ...>")
    try:
        if kind == _LINEAR:
            return distributed_linear({h: f[n] for h, n in zip(HARDWARE, _BASES, strict=True) if n in f}, sizes)
        blocks = f2.as_vectors(f.get("block_bases", []), "block_bases")
        if kind == _BLOCKED:
            return blocked(f["size_per_thread"], f["threads_per_warp"], f["warps_per_cta"], f["order"], sizes, blocks)
        if f.get("fp4_padded") or any(map(any, blocks)):
            raise ValueError(f"{kind[0]}: fp4 padding and several blocks are not modelled")
        if kind == _SWIZZLED:
            return swizzled_shared(f["vec"], f["per_phase"], f["max_phase"], f["order"], sizes)
        if kind == _NVMMA:
            return nvmma_shared(f["swizzle_byte_width"], f["element_bitwidth"], sizes, f.get("transposed", False))
        if kind == _PADDED:
            return padded_shared(f["interval_padding_pairs"], f.get("offset_bases"), sizes, f.get("order"))
        return shared_linear(f["offset_bases"], sizes)
    except KeyError as missing:
        raise ValueError(f"{kind[0]}: the field {missing} is missing") from None


def write(layout: Layout | NamedLayout) -> str:
    """Return a memory layout as ``#ttg.shared_linear``, a distributed one as ``#ttg.linear``.

    ValueError, with what stands in the way, for what is not linear over F2, and for a memory layout that does not
    fill its offsets one to one.
    """
    if isinstance(layout, NamedLayout):
        if other := [axis for axis in layout.axes if axis not in HARDWARE]:
            raise ValueError(f"a distributed layout has the inputs {', '.join(HARDWARE)}, not {other[0]!r}")
        axes = list(_results(layout)) or [0]
        numbers = [axis for axis in axes if isinstance(axis, int)]
        steps = _bases(layout, range(max(numbers) + 1) if len(numbers) == len(axes) else axes)
        bases = [f"{name} = {[list(v) for v in steps.get(name, ())]}" for name in HARDWARE]
        return f"#ttg.linear<{{{', '.join(bases)}}}>"
    sizes = [1 << f2.log2(layout.mode(k).size, f"shared_linear: extent of mode {k}") for k in range(layout.rank)]
    affine = affine_bits(layout) if layout.axes is None else None
    if affine is None or affine[0]:
        table = any(isinstance(stage, Table) for stage in layout.stages)
        fault = "a table" if table else "an offset" if affine else "padding, a remainder, a carry or a step along axes"
        raise ValueError(f"shared_linear: {fault} is not linear over F2 and cannot be written")
    rows = f2.width(sizes)
    if max(affine[1], default=0) >> rows or f2.rank(affine[1]) < rows:
        fault = "padding or gaps" if f2.rank(affine[1]) == rows else "coordinates that share an offset"
        raise ValueError(f"shared_linear: {fault} cannot be written, offsets are one to one with 0..{(1 << rows) - 1}")
    offset = [f2.split(column, sizes) for column in f2.invert(affine[1], rows)]
    return f"#ttg.shared_linear<{{offset = {offset}}}, alignment = 16>"
