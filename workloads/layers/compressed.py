"""Attention over compressed entries beside a window of tokens (DeepSeek V4)."""

from __future__ import annotations

from collections.abc import Iterator

from workloads.kernels import compress, compressed_attention
from workloads.layers.latent import HEAD_TILE, index, record_of
from workloads.layers.products import product
from workloads.layers.residual import rms_norm
from workloads.layers.setting import RESULT, Setting, by_rows, fitted, noted, split
from workloads.model.compressed import CompressedAttention, Compressor
from workloads.scheduled import Scheduled
from workloads.sequence import Step
from workloads.values import Part


def compressed_steps(a: CompressedAttention, s: Setting) -> Iterator[Step]:
    heads, groups = s.share(a.heads, "heads"), s.share(a.out_groups, "o_groups")
    yield product("q down", s, a.q_rank, a.hidden, "normed", "q latent")
    yield rms_norm("q norm", s, a.q_rank, "q latent", "q latent normed")
    yield product("q up", s, heads * a.head_dim, a.q_rank, "q latent normed", "q")
    yield product("kv", s, a.head_dim, a.hidden, "normed", "kv")
    yield rms_norm("kv norm", s, a.head_dim, "kv", "kv normed")
    if a.compressor is not None:
        yield from _compress("entries", a.compressor, s)
    if a.indexer is not None and a.index_compressor is not None:
        width = a.indexer.heads * a.indexer.head_dim
        yield product("index q", s, width, a.indexer.rank, "q latent normed", "index q")
        yield product("index weights", s, a.indexer.heads, a.hidden, "normed")
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
        values = {"q": part.part("q", heads * a.head_dim), "out": part.part("heads", heads * a.head_dim)}
        yield noted(fitted(f"attention{which}", "compressed-attention", problem, knobs, part, values), note)
    takes, leaves = Part("heads", axes=("m", "batch", "k")), Part("grouped", axes=("m", "batch", "n"))
    yield product("out groups", s, a.out_rank, heads // groups * a.head_dim, takes, leaves, batch=groups)
    yield product("out", s, a.hidden, groups * a.out_rank, "grouped", RESULT)


def _compress(title: str, c: Compressor, s: Setting) -> Iterator[Step]:
    """Yield the projection of the new tokens, and the entries whose windows they complete."""
    yield product(f"{title} kv and gates", s, 2 * c.width, c.hidden, "normed")
    parts = [(which, _windows(part.work, c.ratio), part) for which, part in s.parts()]
    rows, begin = sum(sum(windows) for _, windows, _ in parts), 0
    for which, windows, part in parts:
        if windows:
            problem = compress.Problem(windows, c.ratio, c.head_dim, c.overlap, part.work.decodes, s.dtype)
            out = Part(title, (rows, c.head_dim), row=begin, rows=sum(windows))
            yield by_rows(f"{title}{which}", "compress", problem, compress.Knobs, part, {"out": out})
            begin += sum(windows)
    if rows:
        yield rms_norm(f"{title} norm", s, c.head_dim, title, f"{title} normed", rows=rows)


def _windows(work: Scheduled, ratio: int) -> tuple[int, ...]:
    """Return how many windows of every sequence its new tokens complete, where they complete any."""
    ends = zip(work.contexts, work.new, strict=True)
    return tuple(done for context, new in ends if (done := context // ratio - (context - new) // ratio))
