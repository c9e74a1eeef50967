"""Kernels: attention with a state instead of a cache."""

from __future__ import annotations

from functools import partial

from workloads.kernels import kda_prefill, linear_decode, linear_prefill, model_sizes
from workloads.kernels.base import Kernel, kernel_of
from workloads.kernels.tuning import chunks

LINEAR = {
    "heads": "value heads",
    "key_heads": "key heads, a divisor of heads; 0: as many",
    "key_dim": "elements of a key",
    "value_dim": "elements of a value",
}

KERNELS = (
    Kernel(
        "linear-decode",
        "one token per sequence updates states of gated-delta linear attention; a model gives all but sequences",
        linear_decode.Knobs,
        (),
        linear_decode.OPTIONS,
        linear_decode.shape,
        linear_decode.canonical,
        linear_decode.compile,
        optional=linear_decode.OPTIONAL,
        sizes={
            **LINEAR,
            "sequences": "sequences in the batch, a token each",
            "per_channel": "1: a decay per channel of the keys; 0: per head",
        },
        gives=model_sizes.linear,
        keeps=("state",),
    ),
    Kernel(
        "linear-prefill",
        "gated-delta linear attention over whole sequences, chunk by chunk; a model gives all sizes",
        linear_prefill.Knobs,
        ("batch",),
        linear_prefill.OPTIONS,
        linear_prefill.shape,
        linear_prefill.canonical,
        linear_prefill.compile,
        optional=linear_prefill.OPTIONAL,
        candidates=partial(chunks.candidates, chunks.by_head),
        sizes=LINEAR,
        gives=model_sizes.linear,
        keeps=("state",),
    ),
    kernel_of(
        "kda-prefill",
        "delta-rule linear attention with a decay per channel, chunk by chunk; a model gives all sizes",
        kda_prefill,
        "batch",
        candidates=partial(chunks.candidates, chunks.by_channel),
        sizes={name: LINEAR[name] for name in ("heads", "key_dim", "value_dim")},
        gives=model_sizes.linear,
        keeps=("state",),
    ),
)
