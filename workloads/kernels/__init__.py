"""Kernel templates by name."""

from __future__ import annotations

from workloads.kernels import activation, decode_attention, gemm, norm, residual_add, rope, softmax
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
    "residual-add": Kernel(
        "residual-add",
        "out = x + residual; a model gives the hidden size and the dtype",
        residual_add.Knobs,
        (),
        ("rows",),
        residual_add.shape,
        residual_add.canonical,
        residual_add.compile,
        {"columns": 0},
    ),
    "rms-norm": Kernel(
        "rms-norm",
        "RMSNorm of rows; residual=1: of x + residual, stored too; a model gives the hidden size and the dtype",
        norm.Knobs,
        (),
        ("rows",),
        norm.shape,
        norm.canonical,
        norm.compile,
        {"columns": 0, "residual": 0},
    ),
    "rope": Kernel(
        "rope",
        "rotary position embedding of the query and key heads of one new token per sequence",
        rope.Knobs,
        ("model", "batch"),
        (),
        rope.shape,
        rope.canonical,
        rope.compile,
    ),
    "softmax": Kernel(
        "softmax",
        "softmax along rows; a model gives the dtype only",
        softmax.Knobs,
        (),
        ("rows", "columns"),
        softmax.shape,
        softmax.canonical,
        softmax.compile,
    ),
    "swiglu": Kernel(
        "swiglu",
        "out = silu(gate) up, gate and up in one tensor; a model gives the intermediate size and the dtype",
        activation.Knobs,
        (),
        ("rows",),
        activation.shape,
        activation.canonical,
        activation.compile,
        {"inter": 0},
    ),
}

__all__ = ["KERNELS", "Kernel"]
