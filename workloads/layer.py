"""The kernels of one layer of a model, for one decode step or one prefill, on one device of a tensor-parallel group.

From a `model.Layer` and the lengths of a batch to the steps of a `sequence`: heads, and the inner sizes of MLP and
experts, are divided by the degree of tensor parallelism. Each step is a kernel over tensors of its own, with its
template's candidates or default knobs, or the first smaller tiles that fit the machine.

Not modelled: the exchange between devices, the convolution of linear attention, the append of latents, of compressed
entries, of index keys and of a ragged prefill's keys and values, the selection in a prefill of latents that its
indexer's top-k covers, the multiplication by gates, rotary embedding of latents, norms of single heads and those beyond
one before attention and one before the feed forward, biases, the append of values narrower than keys at their own
width, and weights and caches narrower than 16 bits. Of DeepSeek V4, also the copies of the embedding to all streams,
and the table by which the first layers choose experts, for which they take the router's choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from hwmodel.machine import Machine
from workloads.kernels import (
    activation,
    compress,
    compressed_attention,
    decode_attention,
    gemm,
    gemv,
    indexer,
    kda_prefill,
    kv_append,
    linear_decode,
    linear_prefill,
    mla_decode,
    mla_prefill,
    moe_layer,
    norm,
    prefill_attention,
    sparse_attention,
    stream_collapse,
    stream_expand,
)
from workloads.kernels.latent import Heads
from workloads.model.attention import Indexer, LatentAttention, SoftmaxAttention
from workloads.model.compressed import CompressedAttention, Compressor
from workloads.model.feed_forward import Dense, Experts
from workloads.model.linear import LinearAttention
from workloads.model.model import Layer
from workloads.sequence import Step

FEW_ROWS = 64  # assumed: up to here `gemv` beats tiles of 128 rows on the shipped machines
HEAD_TILE = mla_decode.Knobs().head_tile
KDA = "kda-prefill", kda_prefill.Knobs()
ROUNDS = stream_collapse.SIZES["rounds"]
ROW_TILES = ((8, 2), (4, 2), (2, 2), (1, 2), (1, 1))  # rows and stages of row-wise kernels


@dataclass(frozen=True)
class Setting:
    """What the layers of a step have in common: KV tokens per sequence, of which one is new, or in a prefill all.

    `seed` draws what kernels leave to chance.
    """

    contexts: tuple[int, ...]
    prefill: bool
    parallel: int
    dtype: str
    machine: Machine
    seed: int = 0

    @property
    def tokens(self) -> int:
        """The new tokens of all sequences."""
        return sum(self.contexts) if self.prefill else len(self.contexts)

    @property
    def q_len(self) -> int:
        """The new tokens of a sequence, 0 for all of it."""
        return 0 if self.prefill else 1

    def share(self, count: int, what: str, *, copied: bool = False) -> int:
        """Return a device's part of a count that the group divides; of fewer heads that may be copied, one."""
        if count % self.parallel and not (copied and self.parallel % count == 0):
            raise ValueError(f"parallel: {self.parallel} does not divide {what} ({count})")
        return max(1, count // self.parallel)


def layer_steps(layer: Layer, setting: Setting, name: str, count: int) -> list[Step]:
    """Return the steps of `count` equal layers; their names begin with `name`.

    Raises ValueError for an attention that has no kernels, or sizes that the group does not divide.
    """
    added = layer.streams == 1  # the norm before a mixer adds up what the mixer before has computed
    mixers = _attention(layer.attention, setting, added), _feed_forward(layer.feed_forward, setting, added)
    steps = [*_in_streams(layer, "", mixers[0], setting), *_in_streams(layer, "mlp ", mixers[1], setting)]
    return [replace(step, name=f"{name} {step.name}", count=count) for step in steps]


def fitting(title: str, kernel: str, problem: Any, candidates: Iterable[Any], setting: Setting) -> Step:
    """Return a step with the first knobs whose program fits the machine. Raises ValueError naming it if none do."""
    last: ValueError | None = None
    for knobs in candidates:
        step = Step(title, kernel, problem, knobs)
        try:
            return replace(step, made=step.compile(setting.machine, setting.seed))
        except ValueError as error:
            last = error
    raise ValueError(f"step {title}: {last}")


def shrinking(knobs: Any) -> Iterator[Any]:
    """Yield knobs, then with fewer stages, then with tiles halved again and again, the largest first."""
    yield knobs
    sizes = {f.name: getattr(knobs, f.name) for f in fields(knobs) if "tile" in f.name or f.name == "chunk"}
    least = {name: 16 if size > 16 else 1 for name, size in sizes.items()}
    stages = getattr(knobs, "stages", 2)
    while stages > 2:
        stages -= 1
        yield replace(knobs, stages=stages)
    knobs = replace(knobs, stages=stages) if hasattr(knobs, "stages") else knobs
    while any(sizes[name] > least[name] for name in sizes):
        name = max((name for name in sizes if sizes[name] > least[name]), key=lambda name: sizes[name])
        sizes[name] //= 2
        yield replace(knobs, **sizes)


def _fitted(title: str, kernel: str, problem: Any, knobs: Any, setting: Setting) -> Step:
    return fitting(title, kernel, problem, shrinking(knobs), setting)


def product(title: str, setting: Setting, n: int, k: int, m: int | None = None, batch: int | None = None) -> Step:
    """Return a matrix product of the new tokens (or `m` rows) with weights of `n` rows and `k` columns.

    Few rows take the kernel that reads weights once, their k split where idle cores are enough for four parts of four
    loads or more; others the candidates of `gemm`.
    """
    rows = setting.tokens if m is None else m
    problem = gemm.Problem(rows, n, k, setting.dtype, batch)
    cores = setting.machine.spec.cores.count
    if rows <= FEW_ROWS and batch is None:
        few = gemv.Knobs(unit="matrix")
        parts = min(cores // -(-n // few.tile_n), k // (4 * few.tile_k))
        few = replace(few, split_k=parts if parts >= 4 else 1)
        try:
            return fitting(title, "gemv", problem, [few], setting)
        except ValueError:  # all rows of a core's tile must fit
            pass
    kernel = "gemm" if batch is None else "batched-gemm"
    return fitting(title, kernel, problem, gemm.candidates(problem, setting.machine), setting)


def by_rows(title: str, kernel: str, problem: Any, knobs: type[Any], setting: Setting) -> Step:
    """Return a step of a row-wise kernel, in tiles of fewer rows where more do not fit."""
    candidates = (knobs(tile_rows=rows, stages=stages) for rows, stages in ROW_TILES)
    return fitting(title, kernel, problem, candidates, setting)


def rms_norm(title: str, setting: Setting, columns: int, *, residual: bool = True, rows: int | None = None) -> Step:
    """Return a norm of the new tokens (or `rows`), with the addition of what the layer before has computed."""
    problem = norm.Problem(setting.tokens if rows is None else rows, columns, setting.dtype, residual)
    return by_rows(title, "rms-norm", problem, norm.Knobs, setting)


def collapse(title: str, setting: Setting, streams: int, hidden: int, *, head: bool = False) -> Iterator[Step]:
    """Yield the steps that read residual streams: their logits, the weights and the sum; before a `head`, the sum."""
    problem = stream_collapse.Problem(setting.tokens, streams, hidden, 0 if head else ROUNDS, setting.dtype)
    yield product(f"{title}stream logits", setting, problem.weights, streams * hidden)
    yield by_rows(f"{title}streams in", "collapse-streams", problem, stream_collapse.Knobs, setting)


def _in_streams(layer: Layer, title: str, mixer: Iterator[Step], s: Setting) -> Iterator[Step]:
    """Yield the steps of a mixer, between those that read and write residual streams where there are several."""
    hidden, streams = layer.attention.hidden, layer.streams
    if streams > 1:
        yield from collapse(title, s, streams, hidden)
    yield from mixer
    if streams > 1:
        problem = stream_expand.Problem(s.tokens, streams, hidden, s.dtype)
        yield by_rows(f"{title}streams out", "expand-streams", problem, stream_expand.Knobs, s)


def _attention(attention: Any, setting: Setting, residual: bool) -> Iterator[Step]:
    yield rms_norm("norm", setting, attention.hidden, residual=residual)
    if isinstance(attention, SoftmaxAttention):
        yield from _softmax(attention, setting)
    elif isinstance(attention, LatentAttention):
        yield from _latent(attention, setting)
    elif isinstance(attention, LinearAttention):
        yield from _linear(attention, setting)
    elif isinstance(attention, CompressedAttention):
        yield from _compressed(attention, setting)
    else:
        raise ValueError(f"model: attention {attention.kind} has no kernels")


def _softmax(a: SoftmaxAttention, s: Setting) -> Iterator[Step]:
    heads_q, heads_kv = s.share(a.heads_q, "heads_q"), s.share(a.heads_kv, "heads_kv", copied=True)
    width = heads_q * a.head_dim_qk + heads_kv * (a.head_dim_qk + (0 if a.shared_kv else a.head_dim_v))
    width += heads_q * a.head_dim_v if a.gate else 0
    seen, window = _seen(a, s)
    sinks = int(a.sinks)
    yield product("qkv", s, width, a.hidden)
    new = max(s.contexts) if s.prefill else 1
    if not s.prefill or len(set(s.contexts)) == 1:
        append = kv_append.Problem(heads_q, heads_kv, a.head_dim_qk, s.dtype, s.contexts, new)
        yield _fitted("append", "kv-append", append, kv_append.Knobs(rope="neox"), s)
    sizes = heads_q, heads_kv, a.head_dim_qk, s.dtype, seen
    value_dim = 0 if a.head_dim_v == a.head_dim_qk else a.head_dim_v
    if s.prefill:
        problem: Any = prefill_attention.Problem(*sizes, window=window, sinks=sinks, head_dim_v=value_dim)
        yield _fitted("attention", "prefill-attention", problem, prefill_attention.Knobs(), s)
    else:
        problem = decode_attention.Problem(*sizes, window=window, sinks=sinks, head_dim_v=value_dim)
        knobs = decode_attention.Knobs(split_tokens=_split(s, heads_kv, min(max(seen), window or max(seen))))
        yield _fitted("attention", "decode-attention", problem, knobs, s)
    yield product("out", s, a.hidden, heads_q * a.head_dim_v)


def _seen(a: SoftmaxAttention, s: Setting) -> tuple[tuple[int, ...], int]:
    """Return the lengths that attention runs over, and its window: a chunk is a sequence of its own."""
    if a.window is None or not a.chunked:
        return s.contexts, a.window or 0
    if not s.prefill:
        return tuple((context - 1) % a.window + 1 for context in s.contexts), 0
    whole = [a.window] * sum(context // a.window for context in s.contexts)
    return (*whole, *(context % a.window for context in s.contexts if context % a.window)), 0


def _split(s: Setting, items: int, longest: int) -> int:
    """Return how many tokens an item of split-KV takes, so that all cores have some; 0 where items are enough.

    `items`: those of a query.
    """
    cores = s.machine.spec.cores.count
    parts = -(-cores // (items * s.tokens))
    return 0 if parts == 1 else max(256, -(-longest // parts))


def _latent(a: LatentAttention, s: Setting) -> Iterator[Step]:
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
        yield _fitted("attention", "mla-prefill", expanded, mla_prefill.Knobs(), s)
    else:
        yield product("absorb", s, a.kv_rank, a.nope_dim, batch=heads)
        yield from _absorbed(a, s, Heads(heads, a.kv_rank, a.rope_dim, a.kv_rank, scale, s.dtype))
        yield product("value up", s, a.v_dim, a.kv_rank, batch=heads)
    yield product("out", s, a.hidden, heads * a.v_dim)


def _absorbed(a: LatentAttention, s: Setting, heads: Heads) -> Iterator[Step]:
    if a.indexer is None:
        latent = mla_decode.Knobs(split_tokens=_split(s, -(-heads.count // HEAD_TILE), max(s.contexts)))
        yield _fitted("attention", "mla-decode", mla_decode.Problem(heads, 1, s.contexts), latent, s)
        return
    yield from _index(a.indexer, s, 1)
    top_k = a.indexer.top_k
    sparse = sparse_attention.Problem(heads, top_k, s.q_len, s.contexts)
    selected = min(top_k, max(s.contexts))
    knobs = sparse_attention.Knobs(split_tokens=_split(s, -(-heads.count // HEAD_TILE), selected))
    yield _fitted("attention", "sparse-attention", sparse, knobs, s)


def _index(a: Indexer, s: Setting, ratio: int) -> Iterator[Step]:
    """Yield the step that selects among keys for `ratio` tokens each, if a sequence has one."""
    contexts = tuple(context for context in s.contexts if context >= ratio)
    if contexts:
        problem = indexer.Problem(a.heads, a.head_dim, a.top_k, s.q_len, s.dtype, contexts, ratio)
        yield _fitted("index", "indexer", problem, indexer.Knobs(split_tokens=_split(s, 1, max(problem.keys))), s)


def _compressed(a: CompressedAttention, s: Setting) -> Iterator[Step]:
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
        yield from _index(a.indexer, s, a.index_compressor.ratio)
    ratio, top_k = a.compressor.ratio if a.compressor else 0, a.indexer.top_k if a.indexer else 0
    shared = compressed_attention.heads_of(heads, a.head_dim, a.rope_dim, s.dtype)
    problem = compressed_attention.Problem(shared, a.window, ratio, top_k, s.q_len, s.contexts)
    split = _split(s, -(-heads // HEAD_TILE), int(problem.attended().max()))
    yield _fitted("attention", "compressed-attention", problem, compressed_attention.Knobs(split_tokens=split), s)
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


def _linear(a: LinearAttention, s: Setting) -> Iterator[Step]:
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
        yield _fitted("attention", kernel, problem, knobs, s)
    else:
        sizes = len(s.contexts), heads, key_heads, a.dim_k, a.dim_v, a.decay == "channel"
        yield _fitted("attention", "linear-decode", linear_decode.Problem(*sizes, s.dtype), linear_decode.Knobs(), s)
    yield product("out", s, a.hidden, heads * a.dim_v)


def _feed_forward(f: Any, s: Setting, residual: bool) -> Iterator[Step]:
    yield rms_norm("mlp norm", s, f.hidden, residual=residual)
    if isinstance(f, Dense):
        inner = s.share(f.intermediate, "intermediate")
        yield product("gate and up", s, 2 * inner, f.hidden)
        yield by_rows("swiglu", "swiglu", activation.Problem(s.tokens, inner, s.dtype), activation.Knobs, s)
        yield product("down", s, f.hidden, inner)
    elif isinstance(f, Experts):
        inner, shared = s.share(f.intermediate, "intermediate"), 0
        if f.shared_intermediate:
            shared = s.share(f.shared_intermediate, "shared_intermediate")
        yield product("router", s, f.routed, f.hidden)
        problem = moe_layer.Problem(
            tokens=s.tokens, experts=f.routed, topk=f.top_k, dtype=s.dtype, hidden=f.hidden, inter=inner, shared=shared
        )
        tiles = (*moe_layer.candidates(problem, s.machine), *shrinking(moe_layer.Knobs()))
        yield fitting("experts", "moe", problem, tiles, s)
    else:
        raise ValueError(f"model: feed forward {f.kind} has no kernels")
