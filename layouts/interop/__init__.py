"""Layouts in the notations of other systems: each module reads one family of texts and writes it.

`read` finds out which one a text is; `write` spells a layout in the one asked for.  A tensor layout read from any of
them is a `Layout` from coordinates to element offsets, dimension 0 first, so that `==` compares across systems.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from layouts.layout import Layout
from layouts.notation import NamedLayout, nearest_first

_MARKS = {  # what only one family writes
    "triton": re.compile(r"#ttg|!ttg|memdesc|\b(?:\w*Shared|\w*Distributed|Blocked)\w*Layout\s*\(|^\s*\[\s*\["),
    "mlir": re.compile(r"affine_map|memref\s*<|strided\s*<|\bpack\b"),
    "tvm": re.compile(r"index_map|lambda|TileLayout|ComposeLayout|\bS\s*\["),
    "xla": re.compile(r"^\s*\w+\[[0-9,\s-]*\]"),
}
_CUTE = re.compile(r"\s*(?:-?[0-9(]|X[0-9]|Sw?\s*<|\[\s*-?[0-9])")  # how its text begins, and no other's
DIALECTS = ("cute", *_MARKS)
_ELEMENTS = {"xla": {1: "s8", 2: "bf16", 4: "f32", 8: "f64"}, "mlir": {1: "i8", 2: "bf16", 4: "f32", 8: "f64"}}
_WITHOUT_SHAPE = ("triton", "mlir", "tvm")  # whose texts may leave the shape of the tensor open


def _module(dialect: str) -> Any:
    if dialect not in DIALECTS:
        raise ValueError(f"dialect {dialect[:80]!r}: allowed are {nearest_first(dialect, DIALECTS)}")
    return import_module(f"layouts.interop.{dialect}")


def dialect_of(text: str) -> str:
    """Return which of DIALECTS a text is written in, by words that only one of them has; CuTe has none."""
    if _CUTE.match(text):
        return "cute"
    return next((name for name, mark in _MARKS.items() if mark.search(text)), "cute")


def read(text: str, shape: Sequence[int] | None = None) -> Layout | NamedLayout:
    """Read a layout in any dialect; `shape` is for texts that do not say it: affine maps, bases, encodings.

    A register layout is a `NamedLayout` to tensor coordinates, everything else a `Layout` to element offsets.
    ValueError with the position and what was expected there.
    """
    dialect = dialect_of(text)
    reader: Callable[..., Layout | NamedLayout] = _module(dialect).read
    if shape is None:
        return reader(text)
    if dialect not in _WITHOUT_SHAPE:
        raise ValueError(f"{dialect} text: says its shape itself, none can be given beside it")
    return reader(text, shape)


def write(layout: Layout | NamedLayout, dialect: str, element: str | int = 4) -> str:
    """Return a layout in the words of `dialect`; ValueError names the stage that it cannot express.

    `element` gives XLA's shapes and MLIR's memrefs their element type, by name or by its bytes.  Only Triton has names
    for the axes of a register layout; elsewhere its modes stand in their order.
    """
    writer: Callable[..., str] = _module(dialect).write
    if dialect != "triton" and isinstance(layout, NamedLayout):
        layout = layout.layout
    if dialect not in _ELEMENTS:
        return writer(layout)
    if isinstance(element, str):
        integer = re.fullmatch(r"[sui](\d+)", element)
        return writer(layout, f"{'i' if dialect == 'mlir' else 's'}{integer[1]}" if integer else element)
    if element not in _ELEMENTS[dialect]:
        known = ", ".join(map(str, _ELEMENTS[dialect]))
        raise ValueError(f"{dialect}: no element type of {element} bytes, known are {known}")
    return writer(layout, _ELEMENTS[dialect][element])
