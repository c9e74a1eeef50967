"""Attention over compressed entries beside a window of tokens (DeepSeek V4)."""

from __future__ import annotations

from collections.abc import Iterator

from workloads.kernels import compress, compressed_attention
from workloads.layers.latent import HEAD_TILE, index, record_of
from workloads.layers.products import product
from workloads.layers.residual import rms_norm
from workloads.layers.setting import Setting, by_rows, fitted, noted, split
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
        for which, part in s.parts():
            yield from index(f"index{which}", a.indexer, part, a.index_compressor.ratio)
    ratio, top_k = a.compressor.ratio if a.compressor else 0, a.indexer.top_k if a.indexer else 0
    shared = compressed_attention.heads_of(heads, a.head_dim, a.rope_dim, s.dtype)
    for which, part in s.parts():
        problem = compressed_attention.Problem(shared, a.window, ratio, top_k, part.work.each, part.work.contexts)
        tokens = split(part, -(-heads // HEAD_TILE), int(problem.attended().max()))
        record, note = record_of(a.head_dim, s)
        knobs = compressed_attention.Knobs(record, split_tokens=tokens)
        yield noted(fitted(f"attention{which}", "compressed-attention", problem, knobs, part), note)
    yield product("out groups", s, a.out_rank, heads // groups * a.head_dim, batch=groups)
    yield product("out", s, a.hidden, groups * a.out_rank)


def _compress(title: str, c: Compressor, s: Setting) -> Iterator[Step]:
    """Yield the projection of the new tokens, and the entries whose windows they complete."""
    yield product(f"{title} kv and gates", s, 2 * c.width, c.hidden)
    made = 0
    for which, part in s.parts():
        ends = zip(part.work.contexts, part.work.new, strict=True)
        windows = tuple(done for context, new in ends if (done := context // c.ratio - (context - new) // c.ratio))
        if windows:
            problem = compress.Problem(windows, c.ratio, c.head_dim, c.overlap, part.work.decodes, s.dtype)
            yield by_rows(f"{title}{which}", "compress", problem, compress.Knobs, part)
        made += sum(windows)
    if made:
        yield rms_norm(f"{title} norm", s, c.head_dim, residual=False, rows=made)
