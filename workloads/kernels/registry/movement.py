"""Kernels: what moves data and computes little."""

from __future__ import annotations

from workloads.kernels import convert_layout, embedding, kv_append, model_sizes
from workloads.kernels.base import Kernel

KERNELS = (
    Kernel(
        "embedding",
        "rows of a table by token numbers; a model gives vocabulary, hidden size and dtype",
        embedding.Knobs,
        (),
        ("rows",),
        embedding.shape,
        embedding.canonical,
        embedding.compile,
        optional={"vocabulary": 0, "columns": 0},
        sizes={
            "rows": "tokens",
            "vocabulary": "rows of the table; by default the model's",
            "columns": "elements of a row of the table; by default the model's hidden size",
        },
        gives=model_sizes.table,
        keeps=("table",),
    ),
    Kernel(
        "kv-append",
        "keys and values of new tokens into the paged cache, rotated and quantised on the way or not",
        kv_append.Knobs,
        ("model", "batch"),
        (),
        kv_append.shape,
        kv_append.canonical,
        kv_append.compile,
        optional={"new": 1},
        sizes={"new": "new tokens of a sequence, the last of its context"},
    ),
    Kernel(
        "convert-layout",
        "a matrix read in one layout and written in another, between kernels that differ in it",
        convert_layout.Knobs,
        (),
        ("rows", "columns"),
        convert_layout.shape,
        convert_layout.canonical,
        convert_layout.compile,
        sizes={"rows": "rows of the matrix", "columns": "elements of a row"},
    ),
)
