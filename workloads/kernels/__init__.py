"""Kernel templates by name."""

from __future__ import annotations

from workloads.kernels import cascade_decode, decode_attention, gemm, prefill_attention
from workloads.kernels.base import Kernel

KERNELS: dict[str, Kernel] = {
    "cascade-decode": Kernel(
        "cascade-decode",
        "sequences that share a prefix attend to it together, then each to its own tokens, then parts are merged",
        cascade_decode.Knobs,
        ("model", "batch"),
        cascade_decode.REQUIRED,
        cascade_decode.shape,
        cascade_decode.canonical,
        cascade_decode.compile,
        cascade_decode.OPTIONAL,
    ),
    "decode-attention": Kernel(
        "decode-attention",
        "the newest tokens of each sequence attend to its paged KV cache, grouped-query heads, split-KV",
        decode_attention.Knobs,
        ("model", "batch"),
        (),
        decode_attention.shape,
        decode_attention.canonical,
        decode_attention.compile,
        decode_attention.OPTIONAL,
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
    "prefill-attention": Kernel(
        "prefill-attention",
        "all tokens of each sequence, or a chunk of them, attend to those before, grouped-query heads, ragged",
        prefill_attention.Knobs,
        ("model", "batch"),
        (),
        prefill_attention.shape,
        prefill_attention.canonical,
        prefill_attention.compile,
        prefill_attention.OPTIONAL,
    ),
}

__all__ = ["KERNELS", "Kernel"]
