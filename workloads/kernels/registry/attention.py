"""Kernels: softmax attention over keys and values in pages."""

from __future__ import annotations

from functools import partial

from workloads.kernels import cascade_decode, decode_attention, prefill_attention
from workloads.kernels.base import Kernel
from workloads.kernels.tuning import attention

ATTENTION = {
    "soft_cap": "scores stay within it; 0: they are free",
    "q_fp8": "1: queries come in e4m3, for an fp8 cache",
    "sinks": "1: every head has a logit that joins the denominator; by default the model's",
    "head_dim_v": "elements of a value; 0: the model's",
    "kv_fp8": "1: keys and values lie in e4m3; 0: in the model's type of the cache",
    "layer": "the layer whose attention it is, from 0, where layers differ",
}
WINDOW = {"window": "newest tokens that a query sees, 0: all; by default the model's"}

KERNELS = (
    Kernel(
        "decode-attention",
        "the newest tokens of each sequence attend to its paged KV cache, grouped-query heads, split-KV",
        decode_attention.Knobs,
        ("model", "batch"),
        (),
        decode_attention.shape,
        decode_attention.canonical,
        decode_attention.compile,
        optional=decode_attention.OPTIONAL,
        candidates=partial(attention.candidates, attention.decode),
        sizes={**ATTENTION, **WINDOW, "q_len": "new tokens of a sequence"},
        keeps=("k", "v", "sinks"),
    ),
    Kernel(
        "prefill-attention",
        "all tokens of each sequence, or a chunk of them, attend to those before, grouped-query heads, split-KV",
        prefill_attention.Knobs,
        ("model", "batch"),
        (),
        prefill_attention.shape,
        prefill_attention.canonical,
        prefill_attention.compile,
        optional=prefill_attention.OPTIONAL,
        candidates=partial(attention.candidates, attention.prefill),
        sizes={
            **ATTENTION,
            **WINDOW,
            "q_len": "new tokens of a sequence, the last of its context; 0: all",
            "bidirectional": "1: every token sees all, as in encoders",
        },
        keeps=("sinks",),
    ),
    Kernel(
        "cascade-decode",
        "sequences that share a prefix attend to it together, then each to its own tokens, then parts are merged",
        cascade_decode.Knobs,
        ("model", "batch"),
        cascade_decode.REQUIRED,
        cascade_decode.shape,
        cascade_decode.canonical,
        cascade_decode.compile,
        optional=cascade_decode.OPTIONAL,
        sizes={
            **ATTENTION,
            "prefix": "tokens at the start of every context that are shared",
            "sharing": "sequences in a row that share one prefix; 0: all",
        },
    ),
)
