"""Views of memrefs: the type of a subview, a transposition, a collapsed or an expanded shape, and whether it is legal.

Beside the data's path: a view moves nothing, so its type must place every element where the source has it.  The
rules are those of MLIR 19's verifier: strides are compared as they are written, also those of a dimension of one
element; collapsing and expanding compare whole types, a subview may leave out dimensions of one element.

Not modelled: dynamic types, sources with an affine map, and whether a subview stays within its source (MLIR 19 does
not ask; later versions do).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import prod

from layouts.interop.affine import check_length, in_text
from layouts.interop.mlir_types import MemRef, read_integers, read_map_type, read_memref_type
from layouts.shape import MAX_LEAVES, as_int
from layouts.text import Reader

_OPERATION = re.compile(r"(?:%[\w.#]+\s*=\s*)?memref\.(subview|transpose|collapse_shape|expand_shape)\s+%[\w.#$]+")
_TO = re.compile(r"(?:to|into)\b")
_OUTPUT = re.compile(r"output_shape\b")
MAX_REDUCED = 12  # assumed: dimensions of one element that a subview may choose among


@dataclass(frozen=True)
class Verdict:
    """Whether a view is accepted, the result type it should have (None if there is none), and why it is not."""

    accepted: bool
    expected: MemRef | None
    reason: str = ""


def subview(source: MemRef, offsets: Sequence[int], sizes: Sequence[int], steps: Sequence[int]) -> MemRef:
    """Return the type of a subview of full rank: every stride times its step, the offset moved to the first element."""
    rank = len(source.shape)
    for name, values in (("offsets", offsets), ("sizes", sizes), ("steps", steps)):
        if len(values) != rank:
            raise ValueError(f"subview: {len(values)} {name} for {rank} dimensions")
        for value in values:
            as_int(value, f"subview {name}")
    if any(size < 1 for size in sizes) or any(offset < 0 for offset in offsets):
        raise ValueError(f"subview: sizes {list(sizes)} are at least 1, offsets {list(offsets)} at least 0")
    strides = tuple(stride * step for stride, step in zip(source.steps, steps, strict=True))
    moved = sum(stride * offset for stride, offset in zip(source.steps, offsets, strict=True))
    return MemRef(tuple(sizes), source.element, strides, source.offset + moved)


def transpose(source: MemRef, permutation: Sequence[int]) -> MemRef:
    """Return the type whose dimension k is dimension permutation[k] of the source."""
    if sorted(permutation) != list(range(len(source.shape))):
        raise ValueError(f"transpose: {list(permutation)} is no order of the dimensions 0..{len(source.shape) - 1}")
    shape = tuple(source.shape[k] for k in permutation)
    return MemRef(shape, source.element, tuple(source.steps[k] for k in permutation), source.offset)


def collapse_shape(source: MemRef, reassociation: Sequence[Sequence[int]]) -> MemRef:
    """Return the type with each group of neighbouring dimensions made one.

    ValueError unless the groups are the dimensions in order, and those of each group lie in memory as one dimension:
    a stride is the stride times the extent of the next dimension, dimensions of one element left aside.
    """
    _check_groups(reassociation, len(source.shape), "collapse_shape")
    shape = tuple(prod(source.shape[k] for k in group) for group in reassociation)
    if source.is_plain:
        return MemRef(shape, source.element)
    strides = []
    for group in reassociation:
        large = [k for k in group if source.shape[k] > 1]
        for outer, inner in pairwise(large):
            expected = source.steps[inner] * source.shape[inner]
            if source.steps[outer] != expected:
                raise ValueError(
                    f"collapse_shape: dimensions {outer} and {inner} are not contiguous, stride {source.steps[outer]} "
                    f"is not {source.steps[inner]} * {source.shape[inner]} = {expected}"
                )
        strides.append(source.steps[large[-1] if large else group[0]])
    return MemRef(shape, source.element, tuple(strides), source.offset)


def expand_shape(source: MemRef, reassociation: Sequence[Sequence[int]], shape: Sequence[int]) -> MemRef:
    """Return the type with each dimension taken apart into the group of dimensions of `shape`, the last one fastest.

    ValueError unless the groups are the dimensions of `shape` in order and multiply to those of the source.
    """
    _check_groups(reassociation, len(shape), "expand_shape")
    if len(reassociation) != len(source.shape):
        raise ValueError(f"expand_shape: {len(reassociation)} groups for {len(source.shape)} dimensions")
    strides: list[int] = []
    for k, group in enumerate(reassociation):
        extents = [as_int(shape[dim], "expand_shape") for dim in group]
        if prod(extents) != source.shape[k]:
            raise ValueError(f"expand_shape: dimension {k} of {source.shape[k]} elements is not {extents} multiplied")
        strides += [source.steps[k] * prod(extents[place + 1 :]) for place in range(len(extents))]
    if source.is_plain:
        return MemRef(tuple(shape), source.element)
    return MemRef(tuple(shape), source.element, tuple(strides), source.offset)


def _check_groups(groups: Sequence[Sequence[int]], rank: int, what: str) -> None:
    if [k for group in groups for k in group] != list(range(rank)) or not all(groups):
        raise ValueError(f"{what}: the groups {[list(group) for group in groups]} are not the dimensions 0..{rank - 1}")


def verify(text: str) -> Verdict:
    """Tell whether MLIR accepts an operation, ``memref.transpose %m (d0) -> (d0) : memref<..> to memref<..>``.

    ValueError gives the position where the text is no such operation.
    """
    check_length(text, "memref view")
    reader = Reader(text)
    try:
        return _verify(reader)
    except ValueError as error:
        raise in_text(text, "memref view", error) from None


def _verify(reader: Reader) -> Verdict:
    operation = reader.match(_OPERATION)
    if operation is None:
        raise reader.error("expected memref.subview, .transpose, .collapse_shape or .expand_shape of a %value")
    name = operation[1]
    arguments = _arguments(reader, name)
    reader.expect(":")
    source = read_memref_type(reader)
    if reader.match(_TO) is None:
        raise reader.error("expected 'to' or 'into'")
    result = read_memref_type(reader)
    reader.end()
    try:
        expected = _VIEWS[name](source, *arguments)  # type: ignore[operator]
    except ValueError as error:
        return Verdict(False, None, str(error))
    return check(name, expected, result)


def _arguments(reader: Reader, name: str) -> list[object]:
    if name == "subview":
        return [read_integers(reader, what) for what in ("offsets", "sizes", "steps")]
    if name == "transpose":
        found = read_map_type(reader)
        order = [result.code[0][1] for result in found.results if [op for op, _ in result.code] == ["dim"]]
        if len(order) != len(found.results):
            raise reader.error("a permutation of the dimensions is needed")
        return [order]
    groups: list[tuple[int, ...]] = []
    reader.expect("[")
    while reader.peek() != "]":
        if groups:
            reader.expect(",", " or ']'")
        if len(groups) == MAX_LEAVES:
            raise ValueError(f"at position {reader.position}: more than {MAX_LEAVES} groups")
        groups.append(read_integers(reader, "dimensions"))
    reader.expect("]")
    if name == "collapse_shape":
        return [groups]
    if reader.match(_OUTPUT) is None:
        raise reader.error("expected output_shape")
    return [groups, read_integers(reader, "extents")]


def check(name: str, expected: MemRef, result: MemRef) -> Verdict:
    """Tell whether the verifier of operation `name` takes `result` for the type `expected`."""
    if name == "subview":
        accepted = _is_reduced(expected, result)
    elif name == "transpose":
        accepted = result.map is None and _placement(result) == _placement(expected)
    else:
        accepted = result == expected
    return Verdict(accepted, expected, "" if accepted else f"expected {str(expected)[:120]}, found {str(result)[:120]}")


def _placement(memref: MemRef) -> tuple[object, ...]:
    return memref.shape, memref.element, memref.steps, memref.offset


def _is_reduced(full: MemRef, result: MemRef) -> bool:
    """Tell whether `result` is `full`, or is so without some of its dimensions of one element."""
    if result.map is not None or (result.element, result.offset) != (full.element, full.offset):
        return False
    wanted = list(zip(result.shape, result.steps, strict=True))
    dims = list(zip(full.shape, full.steps, strict=True))
    ones = [k for k, (extent, _) in enumerate(dims) if extent == 1]
    dropped = len(dims) - len(wanted)
    if not 0 <= dropped <= len(ones) or (0 < dropped < len(ones) > MAX_REDUCED):
        return False
    return any([d for k, d in enumerate(dims) if k not in gone] == wanted for gone in combinations(ones, dropped))


_VIEWS = {"subview": subview, "transpose": transpose, "collapse_shape": collapse_shape, "expand_shape": expand_shape}
