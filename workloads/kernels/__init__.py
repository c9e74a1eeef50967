"""Kernel templates by name."""

from __future__ import annotations

from workloads.kernels import convert_layout, decode_attention, gemm
from workloads.kernels.base import Kernel

KERNELS: dict[str, Kernel] = {
    "decode-attention": Kernel(
        "decode-attention",
        "one token per sequence attends to its paged KV cache, grouped-query heads, split-KV",
        decode_attention.Knobs,
        ("model", "batch"),
        (),
        decode_attention.shape,
        decode_attention.canonical,
        decode_attention.compile,
    ),
    "gemm": Kernel(
        "gemm",
        "c[m, n] = a[m, k] b[n, k]^T, tiled, multi-buffered, split-K; a model gives the dtype only",
        gemm.Knobs,
        (),
        ("m", "n", "k"),
        gemm.shape,
        gemm.canonical,
        gemm.compile,
    ),
    "convert-layout": Kernel(
        "convert-layout",
        "a matrix read in one layout and written in another, between kernels that differ in it",
        convert_layout.Knobs,
        (),
        ("rows", "columns"),
        convert_layout.shape,
        convert_layout.canonical,
        convert_layout.compile,
    ),
}

__all__ = ["KERNELS", "Kernel"]
