"""The latent cache of one layer: its tensors in one pool of bytes, plain or as records that mix data types.

A plain cache is one tensor with axes page, token, dim. A record is the fields of `layouts.catalog.mla`, each a tensor
of its own over the same pool: it begins at the field's first byte and strides over the other fields, so that traffic
lands on the bytes that it touches on a real machine. Where tokens are gathered one by one, page and token are one axis.

A field is loaded by descriptors of its own, so a burst that two fields share is asked for twice; a shared cache answers
the second. Not modelled: quantising what is appended to the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hwmodel.machine import Machine
from hwmodel.program import NONE, Tensor
from layouts import Layout
from layouts.catalog.mla import fp8_ds_mla, model1_mla
from layouts.catalog.record import Record
from layouts.notation import NamedLayout, named
from workloads.placement import place


@dataclass(frozen=True)
class Format:
    """A record: its columns with a scale per `group` of them, its 16-bit columns, the scale's type, the catalog's map.

    Fields are nope (e4m3), scale and rope (bf16).
    """

    scaled: int
    group: int
    tail: int
    scale_dtype: str
    record: Callable[[int, int], Record]

    @property
    def groups(self) -> int:
        return self.scaled // self.group


FORMATS = {
    "fp8_ds_mla": Format(512, 128, 64, "fp32", fp8_ds_mla),
    "model1": Format(448, 64, 64, "e8m0", model1_mla),
}
RECORDS = ("plain", *FORMATS)


@dataclass(frozen=True)
class Pool:
    """Tensors whose `base_bytes` count from the start of a pool of `size_bytes`."""

    tensors: tuple[Tensor, ...]
    size_bytes: int


def check_record(name: str, columns: int, dtype: str) -> None:
    """Raise ValueError unless the record `name` can hold keys of so many columns in `dtype`."""
    if name in FORMATS and (columns != FORMATS[name].scaled + FORMATS[name].tail or dtype != "bf16"):
        known = FORMATS[name]
        raise ValueError(
            f"record: {name} holds {known.scaled} + {known.tail} columns of bf16, the problem has {columns} of {dtype}"
        )


def plain_pool(layout: NamedLayout, dtype: str) -> Pool:
    """Return the pool of a cache of one data type."""
    tensor = Tensor("cache", layout, dtype, 0)
    return Pool((tensor,), tensor.size_bytes)


def record_pool(name: str, pages: int, page_size: int) -> Pool:
    """Return the pool of a record, its tensors in the order of memory traffic: nope, scale, rope."""
    known = FORMATS[name]
    record = known.record(pages, page_size)
    dtypes = {"nope": "fp8_e4m3", "scale": known.scale_dtype, "rope": "bf16"}
    return Pool(tuple(field_tensor(record, field, f"cache {field}", dtypes[field]) for field in dtypes), record.size)


def field_tensor(record: Record, field: str, name: str, dtype: str) -> Tensor:
    """Return a field of a record as a tensor that begins at the field's byte in the record.

    Raises ValueError where its elements do not lie whole elements apart.
    """
    layout = record.fields[field].layout
    width = record.bits(field)
    start = int(layout.layout.offset)  # type: ignore[arg-type]
    strides = _divided(layout.layout.stride, width, f"{name}: bits between elements")
    return Tensor(name, NamedLayout(layout.axes, Layout(layout.layout.shape, strides)), dtype, start // 8)


def by_token(pool: Pool) -> Pool:
    """Return the pool with page and token as one axis, token: page * page size + the token in its page."""
    return replace(pool, tensors=tuple(replace(t, layout=joined(t.layout)) for t in pool.tensors))


def place_with(tensors: Sequence[Tensor], pool: Pool, machine: Machine) -> tuple[Tensor, ...]:
    """Return `tensors` and, behind them, those of the pool, with base addresses. Raises ValueError as `place`."""
    whole = Tensor("cache", named("byte", {"byte": pool.size_bytes}), "uint8", NONE)
    *placed, there = place([*tensors, whole], machine)
    moved = [replace(t, base_bytes=there.base_bytes + t.base_bytes, resident=there.resident) for t in pool.tensors]
    return (*placed, *moved)


def _divided(steps: Any, width: int, where: str) -> Any:
    if isinstance(steps, tuple):
        return tuple(_divided(step, width, where) for step in steps)
    if steps % width:
        raise ValueError(f"{where} are {steps}; allowed: multiples of {width}")
    return steps // width


def joined(layout: NamedLayout) -> NamedLayout:
    """Return the layout with page and token as one axis, token."""
    others = [axis for axis in layout.axes if axis not in ("page", "token")]
    digits = [*layout.leaves("token"), *layout.leaves("page")] or [(1, 0)]
    modes = [tuple(zip(*digits, strict=True))]
    modes += [tuple(zip(*(layout.leaves(axis) or ((1, 0),)), strict=True)) for axis in others]
    shape, stride = zip(*modes, strict=True)
    return NamedLayout(("token", *others), Layout(shape, stride))
