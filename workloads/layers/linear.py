"""Linear attention: Gated DeltaNet and KDA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from workloads.kernels import kda_prefill, linear_decode, linear_prefill
from workloads.layers.products import product
from workloads.layers.setting import Setting, fitted
from workloads.model.linear import LinearAttention
from workloads.sequence import Step

KDA = "kda-prefill", kda_prefill.Knobs()


def linear_steps(a: LinearAttention, s: Setting) -> Iterator[Step]:
    key_heads, heads = s.share(a.heads_k, "heads_k"), s.share(a.heads_v, "heads_v")
    if a.decay == "head":
        yield product("in", s, 2 * key_heads * a.dim_k + 2 * heads * a.dim_v + 2 * heads, a.hidden)
    else:  # gate and decay are products of two narrow ones
        yield product("in", s, 2 * key_heads * a.dim_k + heads * a.dim_v + heads + a.dim_k + a.dim_v, a.hidden)
        yield product("decay", s, key_heads * a.dim_k, a.dim_k)
        yield product("gate", s, heads * a.dim_v, a.dim_v)
    if s.prefill:
        problem: Any = linear_prefill.Problem(s.contexts, heads, key_heads, a.dim_k, a.dim_v, s.dtype)
        kernel, knobs = ("linear-prefill", linear_prefill.Knobs()) if a.decay == "head" else KDA
        yield fitted("attention", kernel, problem, knobs, s)
    else:
        sizes = len(s.contexts), heads, key_heads, a.dim_k, a.dim_v, a.decay == "channel"
        yield fitted("attention", "linear-decode", linear_decode.Problem(*sizes, s.dtype), linear_decode.Knobs(), s)
    yield product("out", s, a.hidden, heads * a.dim_v)
