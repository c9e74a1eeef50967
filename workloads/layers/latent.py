"""Latent attention: expanded in a prefill, absorbed in a decode step, over selected tokens with an indexer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from workloads.kernels import indexer, latent_cache, mla_decode, mla_prefill, sparse_attention
from workloads.kernels.latent import Heads
from workloads.kernels.tuning.attention import candidates
from workloads.kernels.tuning.attention import latent as ranked
from workloads.layers.products import in_16_bits, product
from workloads.layers.residual import rms_norm
from workloads.layers.setting import RESULT, Setting, Values, fitted, fitting, noted, split
from workloads.model.attention import Indexer, LatentAttention
from workloads.scheduled import of
from workloads.sequence import Step
from workloads.values import Part

HEADS = "token", "head", "dim"
HEAD_TILE = mla_decode.Knobs().head_tile


def latent_steps(a: LatentAttention, s: Setting) -> Iterator[Step]:
    heads = s.share(a.heads, "heads")
    narrow, parts = "normed", list(s.parts())
    if a.q_rank is not None:
        yield product("q down", s, a.q_rank, a.hidden, "normed", "q latent")
        narrow = "q latent normed"
        yield rms_norm("q norm", s, a.q_rank, "q latent", narrow)
    yield product("q up", s, heads * (a.nope_dim + a.rope_dim), a.q_rank or a.hidden, narrow, "q")
    yield product("kv down", s, a.kv_rank + a.rope_dim, a.hidden, "normed", "kv")
    yield rms_norm("kv norm", s, a.kv_rank, s.part("kv", a.kv_rank + a.rope_dim), "latent")
    if a.indexer is not None:
        yield product("index q", s, a.indexer.heads * a.indexer.head_dim, a.indexer.rank, narrow, "index q")
        keys = (
            Part("index keys", held=True) if all(_expands(a, part) for _, part in parts) else ""
        )  # no index reads them
        yield product("index k", s, a.indexer.head_dim, a.hidden, "normed", keys)
        yield product("index weights", s, a.indexer.heads, a.hidden, "normed")
    for which, part in parts:
        if _expands(a, part):
            yield _expanded(f"attention{which}", a, part, heads)
    absorbed = [(which, part) for which, part in parts if not _expands(a, part)]
    if absorbed:
        yield from _absorbed(a, s, absorbed, heads)
    yield product("out", s, a.hidden, heads * a.v_dim, "heads", RESULT)


def _expands(a: LatentAttention, s: Setting) -> bool:
    """Return whether keys and values of all heads are made from the latents: of prompts whose keys all are attended."""
    return not s.work.decodes and (a.indexer is None or max(s.work.contexts) <= a.indexer.top_k)


def _expanded(title: str, a: LatentAttention, s: Setting, heads: int) -> Step:
    sizes = heads, a.kv_rank, a.rope_dim, a.nope_dim, a.v_dim
    queries = () if s.work.is_whole else s.work.new
    problem = mla_prefill.Problem(*sizes, s.dtype, s.work.contexts, queries)
    values = {
        "q": s.part("q", heads * (a.nope_dim + a.rope_dim), *HEADS),
        "out": s.part("heads", heads * a.v_dim, *HEADS),
    }
    if s.work.is_whole:  # else latents of earlier chunks are among them
        rotary = s.part("kv", a.kv_rank + a.rope_dim, column=a.kv_rank)
        values["latent"] = replace(s.part("latent", a.kv_rank), held=True)
        values["rotary"] = replace(rotary, held=True)
    step = in_16_bits(fitted(title, "mla-prefill", problem, mla_prefill.Knobs(), s, values), "kv up", s)
    if s.work.is_whole or not s.formats.cache:
        return step
    return noted(step, "cache: the latents before a chunk are read in 16 bits: mla-prefill knows no records")


def _absorbed(a: LatentAttention, s: Setting, parts: list[tuple[str, Setting]], count: int) -> Iterator[Step]:
    """Yield attention in the absorbed form over parts that lie together, between the products before and after it."""
    first, tokens = parts[0][1].first, sum(part.tokens for _, part in parts)
    here = replace(s, first=first, whole=s.tokens)  # rows of what all tokens of the step have

    def rows(value: str, width: int, axis: str) -> Part:
        return replace(here.part(value, width, "m", "batch", axis, rows=count), rows=count * tokens)

    inside = (count * tokens, a.kv_rank + a.rope_dim), (count * tokens, a.kv_rank)  # rows of the parts alone
    leaves = Part("absorbed", inside[0], ("m", "batch", "n"))
    yield product(
        "absorb", s, a.kv_rank, a.nope_dim, rows("q", a.nope_dim + a.rope_dim, "k"), leaves, m=tokens, batch=count
    )
    scale = float((a.nope_dim + a.rope_dim) ** -0.5)
    heads = Heads(count, a.kv_rank, a.rope_dim, a.kv_rank, scale, s.dtype)
    for which, part in parts:
        begin, own = count * (part.first - first), count * part.tokens
        tensors = (("q", "absorbed", inside[0]), ("out", "attended", inside[1]))
        values = {name: Part(value, shape, row=begin, rows=own) for name, value, shape in tensors}
        yield from _attend(which, a, part, heads, values)
    takes = Part("attended", inside[1], ("m", "batch", "k"))
    yield product("value up", s, a.v_dim, a.kv_rank, takes, rows("heads", a.v_dim, "n"), m=tokens, batch=count)


def _attend(which: str, a: LatentAttention, s: Setting, heads: Heads, values: Values) -> Iterator[Step]:
    contexts, items = s.work.contexts, -(-heads.count // HEAD_TILE)
    record, note = record_of(heads.dim, s)
    if a.indexer is None:
        problem = mla_decode.Problem(heads, s.work.new[0], contexts)
        found = candidates(partial(ranked, record=record), problem, s.machine)
        yield noted(fitting(f"attention{which}", "mla-decode", problem, found, s, values), note)
        return
    yield from index(f"index{which}", a.indexer, s, 1)
    top_k = a.indexer.top_k
    sparse = sparse_attention.Problem(heads, top_k, s.work.each, contexts)
    knobs = sparse_attention.Knobs(record, split_tokens=split(s, items, min(top_k, max(contexts))))
    yield noted(fitted(f"attention{which}", "sparse-attention", sparse, knobs, s, values), note)


def record_of(columns: int, s: Setting) -> tuple[str, str]:
    """Return how keys of so many columns lie in the cache: as they are, or as a record of eight bits; and a note.

    The records are those of FlashMLA, 656 and 584 bytes per token.
    """
    if not s.formats.cache:
        return "plain", ""
    for name in latent_cache.FORMATS:
        try:
            latent_cache.check_record(name, columns, s.dtype)
        except ValueError:
            continue
        return name, f"cache: latents are records of {name}: e4m3 with scales, the rotary columns in bf16"
    return "plain", f"cache: latents are read in 16 bits: no record holds {columns} columns of {s.dtype}"


def index(title: str, a: Indexer, s: Setting, ratio: int) -> Iterator[Step]:
    """Yield the step that selects among keys for `ratio` tokens each, if a sequence has one."""
    keyed = [(context, new) for context, new in zip(s.work.contexts, s.work.new, strict=True) if context >= ratio]
    if keyed:
        work = of(keyed)
        problem = indexer.Problem(a.heads, a.head_dim, a.top_k, work.each, s.dtype, work.contexts, ratio)
        has_fp8 = s.machine.spec.cores.matrix.fp8 is not None
        record = "indexer_fp8" if s.formats.cache and has_fp8 else "plain"
        knobs = indexer.Knobs(record, split_tokens=split(s, 1, max(problem.keys)))
        is_linked = work == s.work and record == "plain"  # others take queries in e4m3
        values = {"q": s.part("index q", a.heads * a.head_dim)} if is_linked else {}
        step = fitted(title, "indexer", problem, knobs, s, values)
        note = f"cache: index keys are read in 16 bits: {s.machine.spec.name} multiplies no fp8"
        yield noted(step, "" if has_fp8 or not s.formats.cache else note)
