"""Attention over compressed entries beside a window of tokens (DeepSeek V4)."""

from __future__ import annotations

from collections.abc import Iterator

from workloads.kernels import compress, compressed_attention
from workloads.layers.latent import HEAD_TILE, index
from workloads.layers.products import product
from workloads.layers.residual import rms_norm
from workloads.layers.setting import Setting, by_rows, fitted, split
from workloads.model.compressed import CompressedAttention, Compressor
from workloads.sequence import Step


def compressed_steps(a: CompressedAttention, s: Setting) -> Iterator[Step]:
    heads, groups = s.share(a.heads, "heads"), s.share(a.out_groups, "o_groups")
    yield product("q down", s, a.q_rank, a.hidden)
    yield rms_norm("q norm", s, a.q_rank, residual=False)
    yield product("q up", s, heads * a.head_dim, a.q_rank)
    yield product("kv", s, a.head_dim, a.hidden)
    yield rms_norm("kv norm", s, a.head_dim, residual=False)
    if a.compressor is not None:
        yield from _compress("entries", a.compressor, s)
    if a.indexer is not None and a.index_compressor is not None:
        yield product("index q", s, a.indexer.heads * a.indexer.head_dim, a.indexer.rank)
        yield product("index weights", s, a.indexer.heads, a.hidden)
        yield from _compress("index entries", a.index_compressor, s)
        yield from index(a.indexer, s, a.index_compressor.ratio)
    ratio, top_k = a.compressor.ratio if a.compressor else 0, a.indexer.top_k if a.indexer else 0
    shared = compressed_attention.heads_of(heads, a.head_dim, a.rope_dim, s.dtype)
    problem = compressed_attention.Problem(shared, a.window, ratio, top_k, s.q_len, s.contexts)
    parts = split(s, -(-heads // HEAD_TILE), int(problem.attended().max()))
    yield fitted("attention", "compressed-attention", problem, compressed_attention.Knobs(split_tokens=parts), s)
    yield product("out groups", s, a.out_rank, heads // groups * a.head_dim, batch=groups)
    yield product("out", s, a.hidden, groups * a.out_rank)


def _compress(title: str, c: Compressor, s: Setting) -> Iterator[Step]:
    """Yield the projection of the new tokens, and the entries whose windows they complete."""
    yield product(f"{title} kv and gates", s, 2 * c.width, c.hidden)
    done = [context // c.ratio if s.prefill else int(context % c.ratio == 0) for context in s.contexts]
    if any(done):
        windows = tuple(count for count in done if count)
        problem = compress.Problem(windows, c.ratio, c.head_dim, c.overlap, not s.prefill, s.dtype)
        yield by_rows(title, "compress", problem, compress.Knobs, s)
        yield rms_norm(f"{title} norm", s, c.head_dim, residual=False, rows=sum(windows))
