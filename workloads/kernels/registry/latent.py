"""Kernels: latent, sparse and compressed attention."""

from __future__ import annotations

from functools import partial

from workloads.kernels import (
    compress,
    compressed_attention,
    indexer,
    mla_decode,
    mla_prefill,
    model_sizes,
    sparse_attention,
    sparse_gqa,
)
from workloads.kernels.base import Kernel, kernel_of
from workloads.kernels.tuning import attention

NEW = "new tokens of a sequence, the last of its context"
LATENT = {
    "heads": "query heads",
    "rank": "elements of a latent",
    "rope": "elements of a rotary key, which all heads share",
    "nope": "elements of a head's key beside the rotary ones; of an absorbed one, for the scale only",
}
ABSORBED = {**LATENT, "value": "elements of the latent that are values; 0: all", "q_len": NEW}

KERNELS = (
    Kernel(
        "mla-decode",
        "a few tokens per sequence attend to its paged latent cache, absorbed; a model gives heads and widths",
        mla_decode.Knobs,
        ("batch",),
        mla_decode.OPTIONS,
        mla_decode.shape,
        mla_decode.canonical,
        mla_decode.compile,
        optional=mla_decode.OPTIONAL,
        candidates=partial(attention.candidates, attention.latent),
        sizes=ABSORBED,
        gives=model_sizes.absorbed,
        keeps=("cache",),
    ),
    Kernel(
        "mla-prefill",
        "latents are expanded to keys and values of every head, then causal attention; a model gives all sizes",
        mla_prefill.Knobs,
        ("batch",),
        mla_prefill.OPTIONS,
        mla_prefill.shape,
        mla_prefill.canonical,
        mla_prefill.compile,
        optional=mla_prefill.OPTIONAL,
        sizes={**LATENT, "value": "elements of a value of a head"},
        gives=model_sizes.expanded,
        keeps=("w_uk", "w_uv", "latent", "rotary"),
    ),
    Kernel(
        "sparse-attention",
        "a few tokens per sequence attend to selected tokens of its paged latent cache; a model gives all but q_len",
        sparse_attention.Knobs,
        ("batch",),
        sparse_attention.OPTIONS,
        sparse_attention.shape,
        sparse_attention.canonical,
        sparse_attention.compile,
        optional=sparse_attention.OPTIONAL,
        sizes={**ABSORBED, "top_k": "tokens that a query attends to"},
        gives=model_sizes.selected,
        keeps=("cache", "sinks"),
    ),
    kernel_of(
        "sparse-gqa",
        "a few tokens per sequence attend to selected tokens of its paged KV cache, grouped-query heads, split-KV",
        sparse_gqa,
        "model",
        "batch",
        sizes={"top_k": "tokens that a query attends to", "q_len": NEW},
    ),
    Kernel(
        "indexer",
        "scores of a lightning indexer over its paged keys and the top-k positions; a model gives all but q_len",
        indexer.Knobs,
        ("batch",),
        (),
        indexer.shape,
        indexer.canonical,
        indexer.compile,
        optional=indexer.OPTIONAL,
        sizes={
            "heads": "heads of the indexer",
            "dim": "elements of a key of the indexer",
            "top_k": "positions kept for a query",
            "q_len": NEW,
            "ratio": "tokens to a key",
        },
        gives=model_sizes.indexer_sizes,
        keeps=("cache",),
    ),
    kernel_of(
        "compressed-attention",
        "tokens attend to a window and to compressed entries, gathered, with sinks; a model gives the dtype only",
        compressed_attention,
        "batch",
        sizes={
            "heads": "query heads",
            "head_dim": "elements of an entry",
            "rope": "elements of them that are rotated",
            "window": "newest tokens that a query sees",
            "ratio": "tokens to a compressed entry; 0: there are none",
            "top_k": "entries that a query attends to; 0: all",
            "q_len": "new tokens of a sequence; 0: all",
        },
        keeps=("cache", "sinks"),
    ),
    kernel_of(
        "compress",
        "entries of a compressed cache: windows of tokens, weighed channel by channel; a model gives the dtype only",
        compress,
        sizes={
            "rows": "entries of one sequence",
            "ratio": "tokens to an entry",
            "dim": "channels of an entry",
            "overlap": "1: the windows of neighbouring entries overlap",
            "waiting": "1: tokens wait in fp32 for their window to be full",
        },
        keeps=("bias",),
    ),
)
