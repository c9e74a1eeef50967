"""Kernel templates by name."""

from __future__ import annotations

from workloads.kernels import (
    decode_attention,
    gemm,
    indexer,
    linear_decode,
    linear_prefill,
    mla_decode,
    sparse_attention,
)
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
    "indexer": Kernel(
        "indexer",
        "scores of a lightning indexer over its paged keys and the top-k positions; a model gives the dtype only",
        indexer.Knobs,
        ("batch",),
        (),
        indexer.shape,
        indexer.canonical,
        indexer.compile,
        indexer.OPTIONAL,
    ),
    "linear-decode": Kernel(
        "linear-decode",
        "one token per sequence updates and reads states of gated-delta linear attention; a model gives the dtype only",
        linear_decode.Knobs,
        (),
        linear_decode.OPTIONS,
        linear_decode.shape,
        linear_decode.canonical,
        linear_decode.compile,
        linear_decode.OPTIONAL,
    ),
    "linear-prefill": Kernel(
        "linear-prefill",
        "gated-delta linear attention over whole sequences, chunk by chunk; a model gives the dtype only",
        linear_prefill.Knobs,
        ("batch",),
        linear_prefill.OPTIONS,
        linear_prefill.shape,
        linear_prefill.canonical,
        linear_prefill.compile,
        linear_prefill.OPTIONAL,
    ),
    "mla-decode": Kernel(
        "mla-decode",
        "a few tokens per sequence attend to its paged latent cache, absorbed, split-KV; a model gives the dtype only",
        mla_decode.Knobs,
        ("batch",),
        mla_decode.OPTIONS,
        mla_decode.shape,
        mla_decode.canonical,
        mla_decode.compile,
        mla_decode.OPTIONAL,
    ),
    "sparse-attention": Kernel(
        "sparse-attention",
        "a few tokens per sequence attend to selected tokens of its paged latent cache; a model gives the dtype only",
        sparse_attention.Knobs,
        ("batch",),
        sparse_attention.OPTIONS,
        sparse_attention.shape,
        sparse_attention.canonical,
        sparse_attention.compile,
        sparse_attention.OPTIONAL,
    ),
}

__all__ = ["KERNELS", "Kernel"]
