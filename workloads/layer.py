"""The kernels of one layer of a model, for one decode step or one prefill, on one device of a tensor-parallel group.

From a `model.Layer` and the lengths of a batch to the steps of a `sequence`: heads, and the inner sizes of MLP and
experts, are divided by the degree of tensor parallelism. Each step is a kernel over tensors of its own, with its
template's default knobs, or the first smaller tiles that fit the machine.

Not modelled: the exchange between devices, the convolution of linear attention, the append of latents, of index keys
and of a ragged prefill's keys and values, the selection in a prefill that its indexer's top-k covers, the
multiplication by gates, rotary embedding of latents, norms of single heads and those beyond one before attention and
one before the feed forward, biases, the append of values narrower than keys at their own width, and weights and caches
narrower than 16 bits.
Compressed attention and several residual streams (DeepSeek V4) have no kernels and are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from hwmodel.machine import Machine
from workloads.kernels import (
    activation,
    decode_attention,
    gemm,
    gemv,
    indexer,
    kv_append,
    linear_decode,
    linear_prefill,
    mla_decode,
    mla_prefill,
    moe_layer,
    norm,
    prefill_attention,
    sparse_attention,
)
from workloads.kernels.latent import Heads
from workloads.model.attention import LatentAttention, SoftmaxAttention
from workloads.model.feed_forward import Dense, Experts
from workloads.model.linear import LinearAttention
from workloads.model.model import Layer
from workloads.sequence import Step

# Tiles of a matrix product, the first that fits the scratchpad is taken: (m, n, k, stages)
FEW_ROWS = 64  # assumed: up to here `gemv` beats tiles of 128 rows on the shipped machines
HEAD_TILE = mla_decode.Knobs().head_tile
ROW_TILES = ((8, 2), (4, 2), (2, 2), (1, 2), (1, 1))  # rows and stages of row-wise kernels
TILES = ((128, 128, 64, 3), (64, 128, 64, 3), (64, 64, 64, 3), (64, 64, 32, 2), (32, 32, 32, 2))


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

    def share(self, count: int, what: str, *, copied: bool = False) -> int:
        """Return a device's part of a count that the group divides; of fewer heads that may be copied, one."""
        if count % self.parallel and not (copied and self.parallel % count == 0):
            raise ValueError(f"parallel: {self.parallel} does not divide {what} ({count})")
        return max(1, count // self.parallel)


def layer_steps(layer: Layer, setting: Setting, name: str, count: int) -> list[Step]:
    """Return the steps of `count` equal layers; their names begin with `name`.

    Raises ValueError for an attention that has no kernels, or sizes that the group does not divide.
    """
    if layer.streams != 1:
        raise ValueError(f"model: layers with {layer.streams} residual streams have no kernels")
    steps = [*_attention(layer.attention, setting), *_feed_forward(layer.feed_forward, setting)]
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

    Few rows take the kernel that reads weights once; of others k is split where a quarter of the cores had all tiles.
    """
    rows = setting.tokens if m is None else m
    problem = gemm.Problem(rows, n, k, setting.dtype, batch)
    if rows <= FEW_ROWS and batch is None:
        try:
            return fitting(title, "gemv", problem, [gemv.Knobs(unit="matrix")], setting)
        except ValueError:  # all rows of a core's tile must fit
            pass
    unit, cores = setting.machine.spec.cores.matrix.m, setting.machine.spec.cores.count
    kind = gemm.Knobs if batch is None else gemm.BatchedKnobs
    candidates = []
    for tile_m, tile_n, tile_k, stages in TILES:
        tile = min(tile_m, -(-rows // unit) * unit)
        idle = cores // (-(-rows // tile) * -(-n // tile_n) * (batch or 1))
        split = min(idle, k // (4 * tile_k)) if idle >= 4 else 1
        candidates.append(kind(tile_m=tile, tile_n=tile_n, tile_k=tile_k, stages=stages, split_k=max(1, split)))
    return fitting(title, "gemm" if batch is None else "batched-gemm", problem, candidates, setting)


def rms_norm(title: str, setting: Setting, columns: int, *, residual: bool = True) -> Step:
    """Return a norm of the new tokens, with the addition of what the layer before has computed."""
    problem = norm.Problem(setting.tokens, columns, setting.dtype, residual)
    candidates = (norm.Knobs(tile_rows=rows, stages=stages) for rows, stages in ROW_TILES)
    return fitting(title, "rms-norm", problem, candidates, setting)


def _attention(attention: Any, setting: Setting) -> Iterator[Step]:
    hidden = attention.hidden
    yield rms_norm("norm", setting, hidden)
    if isinstance(attention, SoftmaxAttention):
        yield from _softmax(attention, setting)
    elif isinstance(attention, LatentAttention):
        yield from _latent(attention, setting)
    elif isinstance(attention, LinearAttention):
        yield from _linear(attention, setting)
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
    """Return how many tokens an item of split-KV takes, so that all cores have some; 0 where heads are enough."""
    cores = s.machine.spec.cores.count
    parts = -(-cores // (items * len(s.contexts)))
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
    if s.prefill:
        if a.indexer is not None and max(s.contexts) > a.indexer.top_k:
            raise ValueError(
                f"model: a prefill of {max(s.contexts)} tokens, more than the {a.indexer.top_k} that its indexer "
                "selects, has no kernel"
            )
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
    index = a.indexer
    problem = indexer.Problem(index.heads, index.head_dim, index.top_k, 1, s.dtype, s.contexts)
    yield _fitted("index", "indexer", problem, indexer.Knobs(), s)
    sparse = sparse_attention.Problem(heads, index.top_k, 1, s.contexts)
    selected = min(index.top_k, max(s.contexts))
    knobs = sparse_attention.Knobs(split_tokens=_split(s, -(-heads.count // HEAD_TILE), selected))
    yield _fitted("attention", "sparse-attention", sparse, knobs, s)


def _linear(a: LinearAttention, s: Setting) -> Iterator[Step]:
    key_heads, heads = s.share(a.heads_k, "heads_k"), s.share(a.heads_v, "heads_v")
    if a.decay == "head":
        yield product("in", s, 2 * key_heads * a.dim_k + 2 * heads * a.dim_v + 2 * heads, a.hidden)
    else:  # gate and decay are products of two narrow ones
        yield product("in", s, 2 * key_heads * a.dim_k + heads * a.dim_v + heads + a.dim_k + a.dim_v, a.hidden)
        yield product("decay", s, key_heads * a.dim_k, a.dim_k)
        yield product("gate", s, heads * a.dim_v, a.dim_v)
    if s.prefill:
        if a.decay == "channel":
            raise ValueError("model: a prefill of linear attention with a decay per channel has no kernel")
        problem: Any = linear_prefill.Problem(s.contexts, heads, key_heads, a.dim_k, a.dim_v, s.dtype)
        yield _fitted("attention", "linear-prefill", problem, linear_prefill.Knobs(), s)
    else:
        sizes = len(s.contexts), heads, key_heads, a.dim_k, a.dim_v, a.decay == "channel"
        yield _fitted("attention", "linear-decode", linear_decode.Problem(*sizes, s.dtype), linear_decode.Knobs(), s)
    yield product("out", s, a.hidden, heads * a.dim_v)


def _feed_forward(f: Any, s: Setting) -> Iterator[Step]:
    yield rms_norm("mlp norm", s, f.hidden)
    if isinstance(f, Dense):
        inner = s.share(f.intermediate, "intermediate")
        yield product("gate and up", s, 2 * inner, f.hidden)
        candidates = (activation.Knobs(tile_rows=rows, stages=stages) for rows, stages in ROW_TILES)
        yield fitting("swiglu", "swiglu", activation.Problem(s.tokens, inner, s.dtype), candidates, s)
        yield product("down", s, f.hidden, inner)
    elif isinstance(f, Experts):
        inner, shared = s.share(f.intermediate, "intermediate"), 0
        if f.shared_intermediate:
            shared = s.share(f.shared_intermediate, "shared_intermediate")
        yield product("router", s, f.routed, f.hidden)
        problem = moe_layer.Problem(
            tokens=s.tokens, experts=f.routed, topk=f.top_k, dtype=s.dtype, hidden=f.hidden, inter=inner, shared=shared
        )
        yield _fitted("experts", "moe", problem, moe_layer.Knobs(), s)
    else:
        raise ValueError(f"model: feed forward {f.kind} has no kernels")
