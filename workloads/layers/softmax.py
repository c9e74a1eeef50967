"""Softmax attention: heads with keys and values of their own or in groups, windows, chunks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from workloads.kernels import decode_attention, kv_append, prefill_attention
from workloads.kernels.tuning.attention import candidates, decode, prefill
from workloads.layers.products import product
from workloads.layers.setting import RESULT, Setting, Values, fitted, fitting
from workloads.model.attention import SoftmaxAttention
from workloads.scheduled import Scheduled, of
from workloads.sequence import Step
from workloads.values import Part

HEADS = "token", "head", "dim"  # the axes of heads as they stand in a row


def softmax_steps(a: SoftmaxAttention, s: Setting) -> Iterator[Step]:
    heads = s.share(a.heads_q, "heads_q"), s.share(a.heads_kv, "heads_kv", copied=True)
    heads_q, heads_kv = heads
    width = heads_q * a.head_dim_qk + heads_kv * (a.head_dim_qk + (0 if a.shared_kv else a.head_dim_v))
    width += heads_q * a.head_dim_v if a.gate else 0
    yield product("qkv", s, width, a.hidden, "normed", "qkv")
    for which, part in s.parts():
        append = kv_append.Problem(*heads, a.head_dim_qk, s.dtype, part.work.contexts, part.work.each)
        values = {"q": part.part("q", heads_q * a.head_dim_qk, *HEADS)}
        if a.head_dim_v == a.head_dim_qk or not part.work.decodes:  # else attention has keys and values of its own
            values["kv"] = Part(f"cache{which}", held=True)
        if a.head_dim_v == a.head_dim_qk and not a.shared_kv:
            values["new"] = part.part("qkv", width, *HEADS)
        appending = kv_append.Knobs(rope="neox", cache_dtype=s.formats.cache or "model")
        yield fitted(f"append{which}", "kv-append", append, appending, part, values)
    for which, part in s.parts(_seen(a, s.work)):
        values = {
            "q": part.part("q", heads_q * a.head_dim_qk, *HEADS),
            "out": part.part("heads", heads_q * a.head_dim_v, *HEADS),
        }
        if part.work.decodes or not part.work.is_whole:
            values |= {} if a.chunked else _cache(a, which)
        elif not s.formats.cache:  # keys and values are read in its type
            keys = heads_q * a.head_dim_qk
            begin = {"k": keys, "v": keys + (0 if a.shared_kv else heads_kv * a.head_dim_qk)}
            values |= {name: part.part("qkv", width, *HEADS, column=column) for name, column in begin.items()}
        yield _attend(f"attention{which}", a, heads, part, values)
    yield product("out", s, a.hidden, heads_q * a.head_dim_v, "heads", RESULT)


def _cache(a: SoftmaxAttention, which: str) -> dict[str, Part]:
    """Return the cache of a part of the step as a value: one tensor where keys and values are equally long."""
    return {"kv": Part(f"cache{which}", held=True)} if a.head_dim_v == a.head_dim_qk else {}


def _attend(title: str, a: SoftmaxAttention, heads: tuple[int, int], s: Setting, values: Values) -> Step:
    """Return the attention of a part of the step: over what is cached, or of whole prompts over what is computed."""
    contexts, window = s.work.contexts, 0 if a.chunked else a.window or 0
    sizes = *heads, a.head_dim_qk, s.dtype, contexts
    value_dim = 0 if a.head_dim_v == a.head_dim_qk else a.head_dim_v
    more: dict[str, Any] = {"window": window, "sinks": int(a.sinks), "head_dim_v": value_dim}
    more["kv_dtype"] = s.formats.cache
    if s.work.decodes:
        problem: Any = decode_attention.Problem(*sizes, s.work.new[0], **more)
        return fitting(title, "decode-attention", problem, candidates(decode, problem, s.machine), s, values)
    if s.work.is_whole:
        problem = prefill_attention.Problem(*sizes, **more)
        return fitting(title, "prefill-attention", problem, candidates(prefill, problem, s.machine), s, values)
    problem = prefill_attention.Problem(*sizes, s.work.each, **more)
    paged = partial(prefill, page_size=kv_append.Knobs().page_size)
    return fitting(title, "prefill-attention", problem, candidates(paged, problem, s.machine), s, values)


def _seen(a: SoftmaxAttention, work: Scheduled) -> Scheduled:
    """Return the sequences that attention runs over: of a chunked one, every chunk is one.

    Where a draft goes on in a new chunk, the rows of the step are counted in the order of these.
    """
    if a.window is None or not a.chunked:
        return work
    pieces = []
    for context, new in zip(work.contexts, work.new, strict=True):
        for begin in range((context - new) // a.window * a.window, context, a.window):
            end = min(begin + a.window, context)
            pieces.append((end - begin, end - max(begin, context - new)))
    return of(pieces)
