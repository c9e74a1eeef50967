"""Latent attention: expanded in a prefill, absorbed in a decode step, over selected tokens with an indexer."""

from __future__ import annotations

from collections.abc import Iterator

from workloads.kernels import indexer, mla_decode, mla_prefill, sparse_attention
from workloads.kernels.latent import Heads
from workloads.layers.products import product
from workloads.layers.residual import rms_norm
from workloads.layers.setting import Setting, fitted, split
from workloads.model.attention import Indexer, LatentAttention
from workloads.sequence import Step

HEAD_TILE = mla_decode.Knobs().head_tile


def latent_steps(a: LatentAttention, s: Setting) -> Iterator[Step]:
    heads = s.share(a.heads, "heads")
    queries = heads * (a.nope_dim + a.rope_dim)
    if a.q_rank is not None:
        yield product("q down", s, a.q_rank, a.hidden)
        yield rms_norm("q norm", s, a.q_rank, residual=False)
    yield product("q up", s, queries, a.q_rank or a.hidden)
    yield product("kv down", s, a.kv_rank + a.rope_dim, a.hidden)
    yield rms_norm("kv norm", s, a.kv_rank, residual=False)
    if a.indexer is not None:
        yield product("index q", s, a.indexer.heads * a.indexer.head_dim, a.indexer.rank)
        yield product("index k and weights", s, a.indexer.head_dim + a.indexer.heads, a.hidden)
    scale = float((a.nope_dim + a.rope_dim) ** -0.5)
    if s.prefill and (a.indexer is None or max(s.contexts) <= a.indexer.top_k):
        sizes = heads, a.kv_rank, a.rope_dim, a.nope_dim, a.v_dim
        expanded = mla_prefill.Problem(*sizes, s.dtype, s.contexts)
        yield fitted("attention", "mla-prefill", expanded, mla_prefill.Knobs(), s)
    else:
        yield product("absorb", s, a.kv_rank, a.nope_dim, batch=heads)
        yield from _absorbed(a, s, Heads(heads, a.kv_rank, a.rope_dim, a.kv_rank, scale, s.dtype))
        yield product("value up", s, a.v_dim, a.kv_rank, batch=heads)
    yield product("out", s, a.hidden, heads * a.v_dim)


def _absorbed(a: LatentAttention, s: Setting, heads: Heads) -> Iterator[Step]:
    if a.indexer is None:
        latent = mla_decode.Knobs(split_tokens=split(s, -(-heads.count // HEAD_TILE), max(s.contexts)))
        yield fitted("attention", "mla-decode", mla_decode.Problem(heads, 1, s.contexts), latent, s)
        return
    yield from index(a.indexer, s, 1)
    top_k = a.indexer.top_k
    sparse = sparse_attention.Problem(heads, top_k, s.q_len, s.contexts)
    selected = min(top_k, max(s.contexts))
    knobs = sparse_attention.Knobs(split_tokens=split(s, -(-heads.count // HEAD_TILE), selected))
    yield fitted("attention", "sparse-attention", sparse, knobs, s)


def index(a: Indexer, s: Setting, ratio: int) -> Iterator[Step]:
    """Yield the step that selects among keys for `ratio` tokens each, if a sequence has one."""
    contexts = tuple(context for context in s.contexts if context >= ratio)
    if contexts:
        problem = indexer.Problem(a.heads, a.head_dim, a.top_k, s.q_len, s.dtype, contexts, ratio)
        yield fitted("index", "indexer", problem, indexer.Knobs(split_tokens=split(s, 1, max(problem.keys))), s)
