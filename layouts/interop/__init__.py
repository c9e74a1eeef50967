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
    "triton": re.compile(r"#ttg|#triton|#linear|!ttg|memdesc|\b\w*(?:Shared|Distributed\w*|Blocked)\w*Layout\s*\(|^\s*\[\s*\["),
    "mlir": re.compile(r"affine_map|memref\s*<|strided\s*<|\bpack\b"),
    "tvm": re.compile(r"index_map|lambda|TileLayout|ComposeLayout|\bS\s*\["),
    "xla": re.compile(r"^\s*\w+\[[0-9,\s]*\]"),
}
DIALECTS = ("cute", *_MARKS)


def _module(dialect: str) -> Any:
    if dialect not in DIALECTS:
        raise ValueError(f"dialect {dialect[:80]!r}: allowed are {nearest_first(dialect, DIALECTS)}")
    return import_module(f"layouts.interop.{dialect}")


def dialect_of(text: str) -> str:
    """Return which of DIALECTS a text is written in, by words that only one of them has; CuTe has none."""
    return next((name for name, mark in _MARKS.items() if mark.search(text)), "cute")


def read(text: str, shape: Sequence[int] | None = None) -> Layout | NamedLayout:
    """Read a layout in any dialect; `shape` is for texts that do not say it: affine maps, bases, encodings.

    A register layout is a `NamedLayout` to tensor coordinates, everything else a `Layout` to element offsets.
    ValueError with the position and what was expected there.
    """
    reader: Callable[..., Layout | NamedLayout] = _module(dialect_of(text)).read
    return reader(text) if shape is None else reader(text, shape)


def write(layout: Layout | NamedLayout, dialect: str) -> str:
    """Return a layout in the words of `dialect`; ValueError names the stage that it cannot express."""
    writer: Callable[[Layout | NamedLayout], str] = _module(dialect).write
    return writer(layout)
