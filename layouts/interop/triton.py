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
from itertools import chain
from math import prod
from operator import gt
from typing import Any, TypeAlias

from layouts import f2
from layouts.interop.triton_maps import (
    HARDWARE,
    Bases,
    LinearMap,
    Sizes,
    apply,
    bases_of,
    blocked,
    compose,
    distributed_linear,
    from_bases,
    invert,
    invert_and_compose,
    nvmma_shared,
    padded_shared,
    product,
    pseudo_invert,
    shared_bank_conflicts,
    shared_linear,
    shortened,
    sizes_of_results,
    swizzled_shared,
)
from layouts.layout import Layout, Table
from layouts.notation import NamedLayout, nearest_first
from layouts.shape import MAX_TEXT, as_int
from layouts.stride import E
from layouts.text import Reader
from layouts.xor_form import affine_bits

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
                raise ValueError(f"the type has the shape {shortened(sizes)}, not {shortened(shape)}")
            layout = _typed(reader, found[1], sizes, aliases)
        else:
            layout = _build(*_encoding(reader, aliases), shape)
        reader.end()
    except ValueError as error:
        raise ValueError(f"Triton layout {shortened(repr(text))}: {error}") from None
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
        raise ValueError(f"the shape {shortened(sizes)} is no part of the allocated {shortened(allocated)}")
    rank = as_int(fields.get("rank", 2), "rank")
    if kind != _NVMMA:
        bases = fields.get("order") or next(iter(f2.as_list(fields.get("offset_bases", []), "offset_bases")), sizes)
        rank = len(f2.as_list(bases, "order"))
    if not 0 < rank <= len(sizes):
        raise ValueError(f"an encoding of {rank} dimensions for the shape {shortened(sizes)}")
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
        raise ValueError(f"at position {start}: expected an encoding, such as {known}, found {shortened(name, 40)!r}")
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
            raise ValueError(f"at position {start}: the field {shortened(name, 40)} is {fault}")
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
        axes = list(sizes_of_results(layout)) or [0]
        numbers = [axis for axis in axes if isinstance(axis, int)]
        steps = bases_of(layout, range(max(numbers) + 1) if len(numbers) == len(axes) else axes)
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


__all__ = [
    "HARDWARE",
    "Bases",
    "LinearMap",
    "Sizes",
    "apply",
    "blocked",
    "compose",
    "distributed_linear",
    "from_bases",
    "invert",
    "invert_and_compose",
    "nvmma_shared",
    "padded_shared",
    "product",
    "pseudo_invert",
    "read",
    "shared_bank_conflicts",
    "shared_linear",
    "swizzled_shared",
    "write",
]
