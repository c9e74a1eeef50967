"""Softmax attention: heads with keys and values of their own or in groups, windows, chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from workloads.kernels import decode_attention, kv_append, prefill_attention
from workloads.layers.products import product
from workloads.layers.setting import Setting, fitted, split
from workloads.model.attention import SoftmaxAttention
from workloads.scheduled import Scheduled, of
from workloads.sequence import Step


def softmax_steps(a: SoftmaxAttention, s: Setting) -> Iterator[Step]:
    heads_q, heads_kv = s.share(a.heads_q, "heads_q"), s.share(a.heads_kv, "heads_kv", copied=True)
    width = heads_q * a.head_dim_qk + heads_kv * (a.head_dim_qk + (0 if a.shared_kv else a.head_dim_v))
    width += heads_q * a.head_dim_v if a.gate else 0
    yield product("qkv", s, width, a.hidden)
    for which, part in s.parts():
        sizes = heads_q, heads_kv, a.head_dim_qk, s.dtype, part.work.contexts
        append = kv_append.Problem(*sizes, part.work.each)
        appending = kv_append.Knobs(rope="neox", cache_dtype=s.formats.cache or "model")
        yield fitted(f"append{which}", "kv-append", append, appending, part)
    for which, part in s.parts(_seen(a, s.work)):
        yield _attend(f"attention{which}", a, (heads_q, heads_kv), part)
    yield product("out", s, a.hidden, heads_q * a.head_dim_v)


def _attend(title: str, a: SoftmaxAttention, heads: tuple[int, int], s: Setting) -> Step:
    contexts, window = s.work.contexts, 0 if a.chunked else a.window or 0
    sizes = *heads, a.head_dim_qk, s.dtype, contexts
    value_dim = 0 if a.head_dim_v == a.head_dim_qk else a.head_dim_v
    more: dict[str, Any] = {"window": window, "sinks": int(a.sinks), "head_dim_v": value_dim}
    more["kv_dtype"] = s.formats.cache
    products: Any = "16-bit" if s.machine.spec.cores.matrix.fp8 is None else "fp8"
    if s.work.decodes:
        longest = min(max(contexts), window or max(contexts))
        decoding = decode_attention.Knobs(split_tokens=split(s, heads[1], longest), products=products)
        problem: Any = decode_attention.Problem(*sizes, s.work.new[0], **more)
        return fitted(title, "decode-attention", problem, decoding, s)
    if s.work.is_whole:
        problem = prefill_attention.Problem(*sizes, **more)
        return fitted(title, "prefill-attention", problem, prefill_attention.Knobs(products=products), s)
    problem = prefill_attention.Problem(*sizes, s.work.each, **more)
    paged = prefill_attention.Knobs(page_size=kv_append.Knobs().page_size, products=products)
    return fitted(title, "prefill-attention", problem, paged, s)


def _seen(a: SoftmaxAttention, work: Scheduled) -> Scheduled:
    """Return the sequences that attention runs over: of a chunked one, every chunk is one."""
    if a.window is None or not a.chunked:
        return work
    pieces = []
    for context, new in zip(work.contexts, work.new, strict=True):
        for begin in range((context - new) // a.window * a.window, context, a.window):
            end = min(begin + a.window, context)
            pieces.append((end - begin, end - max(begin, context - new)))
    return of(pieces)
