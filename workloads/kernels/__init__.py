"""Kernel templates by name."""

from __future__ import annotations

from workloads.kernels import decode_attention, gemm
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
    "gemm-fp32": Kernel(
        "gemm-fp32",
        "gemm of fp32 operands",
        gemm.Knobs,
        (),
        ("m", "n", "k"),
        gemm.shape_in("gemm-fp32", "fp32"),
        gemm.canonical,
        gemm.compile,
    ),
    "gemm-fp8": Kernel(
        "gemm-fp8",
        "gemm of e4m3 operands with a scale per tensor, to bf16",
        gemm.Knobs,
        (),
        ("m", "n", "k"),
        gemm.shape_in("gemm-fp8", "fp8_e4m3"),
        gemm.canonical,
        gemm.compile,
    ),
    "gemm-int8": Kernel(
        "gemm-int8",
        "gemm of int8 operands with a scale per tensor, summed in int32, to bf16",
        gemm.Knobs,
        (),
        ("m", "n", "k"),
        gemm.shape_in("gemm-int8", "int8"),
        gemm.canonical,
        gemm.compile,
    ),
    "batched-gemm": Kernel(
        "batched-gemm",
        "`products` matrix products of one shape; a model gives the dtype only",
        gemm.BatchedKnobs,
        (),
        ("products", "m", "n", "k"),
        gemm.batched_shape,
        gemm.canonical,
        gemm.compile,
    ),
}

__all__ = ["KERNELS", "Kernel"]
