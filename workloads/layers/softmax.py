"""Softmax attention: heads with keys and values of their own or in groups, windows, chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from workloads.kernels import decode_attention, kv_append, prefill_attention
from workloads.layers.products import product
from workloads.layers.setting import Setting, fitted, split
from workloads.model.attention import SoftmaxAttention
from workloads.sequence import Step


def softmax_steps(a: SoftmaxAttention, s: Setting) -> Iterator[Step]:
    heads_q, heads_kv = s.share(a.heads_q, "heads_q"), s.share(a.heads_kv, "heads_kv", copied=True)
    width = heads_q * a.head_dim_qk + heads_kv * (a.head_dim_qk + (0 if a.shared_kv else a.head_dim_v))
    width += heads_q * a.head_dim_v if a.gate else 0
    seen, window = _seen(a, s)
    sinks = int(a.sinks)
    yield product("qkv", s, width, a.hidden)
    new = max(s.contexts) if s.prefill else 1
    if not s.prefill or len(set(s.contexts)) == 1:
        append = kv_append.Problem(heads_q, heads_kv, a.head_dim_qk, s.dtype, s.contexts, new)
        yield fitted("append", "kv-append", append, kv_append.Knobs(rope="neox"), s)
    sizes = heads_q, heads_kv, a.head_dim_qk, s.dtype, seen
    value_dim = 0 if a.head_dim_v == a.head_dim_qk else a.head_dim_v
    if s.prefill:
        problem: Any = prefill_attention.Problem(*sizes, window=window, sinks=sinks, head_dim_v=value_dim)
        yield fitted("attention", "prefill-attention", problem, prefill_attention.Knobs(), s)
    else:
        problem = decode_attention.Problem(*sizes, window=window, sinks=sinks, head_dim_v=value_dim)
        knobs = decode_attention.Knobs(split_tokens=split(s, heads_kv, min(max(seen), window or max(seen))))
        yield fitted("attention", "decode-attention", problem, knobs, s)
    yield product("out", s, a.hidden, heads_q * a.head_dim_v)


def _seen(a: SoftmaxAttention, s: Setting) -> tuple[tuple[int, ...], int]:
    """Return the lengths that attention runs over, and its window: a chunk is a sequence of its own."""
    if a.window is None or not a.chunked:
        return s.contexts, a.window or 0
    if not s.prefill:
        return tuple((context - 1) % a.window + 1 for context in s.contexts), 0
    whole = [a.window] * sum(context // a.window for context in s.contexts)
    return (*whole, *(context % a.window for context in s.contexts if context % a.window)), 0
