"""Calls of attention: decode steps, prefills, and both of latent attention.

Keys and values of new tokens are appended to the cache in a launch before, as serving stacks do; an encoder, which has
no causal mask, has no cache. Pages lie in order, as in the measurements. Caches in fp8 are multiplied in fp8 where the
matrix unit has that, and widened where it has not. As the kernels that were measured are not persistent, an item's
loads wait for the end of the one before (epilogue `exposed`).
"""

from __future__ import annotations

from typing import Any

from hwmodel.machine import Machine
from layouts.notation import nearest_first
from workloads.calls.call import (
    DTYPES,
    MAX_QUERIES,
    MAX_TOKENS,
    SPELLINGS,
    Call,
    Launch,
    NotModelled,
    Row,
    Variant,
    require_within,
)
from workloads.kernels import decode_attention, kv_append, mla_decode, prefill_attention
from workloads.kernels.attention_problem import FP8
from workloads.kernels.latent import Heads
from workloads.kernels.tuning import attention
from workloads.kernels.tuning.choice import Choice

PAGE_SIZE = 64
PAGES: dict[str, Any] = {"page_size": PAGE_SIZE, "page_order": "contiguous"}
CACHES = {"bfloat16": "", "float16": "", "fp8": FP8}
VALUES = {192: 128}  # of models whose values are not as long as their keys: DeepSeek's


def decode_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op decode_attention."""
    batch, kv_len, heads_q, heads_kv, dim = row.need("batch", "kv_len", "heads_q", "heads_kv", "head_dim")
    dtype, kv_dtype = _dtypes(row)
    _check_heads(row, heads_q, heads_kv)
    require_within(row.op, "tokens times KV heads are", batch * kv_len * heads_kv, MAX_TOKENS)
    window = _window(row, kv_len)
    contexts = (kv_len,) * batch
    q_len = row.optional("q_len", 1)
    _check_queries(row, batch, q_len, kv_len, heads_q)
    dim_v = _values(row, dim)
    problem = decode_attention.Problem(
        heads_q, heads_kv, dim, dtype, contexts,
        q_len=q_len, window=window, head_dim_v=0 if dim_v == dim else dim_v, kv_dtype=kv_dtype,
    )  # fmt: skip
    append = _append(heads_q, heads_kv, _width(dim, dim_v), dtype, kv_dtype, contexts, q_len)
    return Call((append, _decode(problem, machine)), graph=True)


def prefill_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op flash_prefill."""
    batch, q_len, kv_len, heads_q, heads_kv, dim = row.need(
        "batch", "q_len", "kv_len", "heads_q", "heads_kv", "head_dim"
    )
    return _prefill_call(row, machine, (batch, q_len, kv_len, heads_q, heads_kv, dim, _values(row, dim)))


def latent_prefill_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op mla_prefill: keys and values of every head, or absorbed as in decode steps."""
    batch, q_len, kv_len, heads, dim = row.need("batch", "q_len", "kv_len", "heads_q", "head_dim")
    if dim == 576:
        return _latent_call(row, machine, batch, q_len, kv_len, heads)
    return _prefill_call(row, machine, (batch, q_len, kv_len, heads, heads, dim, row.optional("head_dim_v", 128)))


def latent_decode_call(row: Row, machine: Machine) -> Call:
    """Return the call of a row of op mla_decode."""
    batch, kv_len, heads = row.need("batch", "kv_len", "heads_q")
    return _latent_call(row, machine, batch, row.optional("q_len", 1), kv_len, heads)


def _values(row: Row, dim: int) -> int:
    """Return the length of values: what the row says, or what models with keys of `dim` elements have."""
    return row.optional("head_dim_v", VALUES.get(dim, dim))


def _width(dim: int, dim_v: int) -> int:
    """Return the elements of one of two equally long records that are as long as a key and a value together."""
    return -(-(dim + dim_v) // 2)


def _dtypes(row: Row) -> tuple[str, str]:
    """Return the types of results and of the cache. Raises NotModelled for others than 16 bits and fp8."""
    if row.dtype not in CACHES:
        raise row.unknown_dtype(CACHES)
    kv = row.names.get("kv_dtype", "") or row.dtype
    kv = SPELLINGS.get(kv, kv)
    if kv not in CACHES:
        words = [DTYPES.get(one, one) for one in CACHES]
        raise NotModelled(f"{row.op}: kv_dtype {kv!r} has no kernel; known: {nearest_first(kv, words)}")
    return DTYPES.get(row.dtype, "bf16"), CACHES[kv]


def _check_heads(row: Row, heads_q: int, heads_kv: int) -> None:
    if heads_q % heads_kv:
        raise NotModelled(f"{row.op}: heads_q {heads_q} is no multiple of heads_kv {heads_kv}")


def _check_queries(row: Row, batch: int, q_len: int, kv_len: int, heads: int) -> None:
    if q_len > kv_len:
        raise NotModelled(f"{row.op}: q_len {q_len} is more than kv_len {kv_len}")
    require_within(row.op, "tokens are", batch * kv_len, MAX_TOKENS)
    require_within(row.op, "queries times heads are", batch * q_len * heads, MAX_QUERIES)


def _window(row: Row, kv_len: int) -> int:
    window = row.sizes.get("window", 0)
    if window < 0:
        raise NotModelled(f"{row.op}: window is {window}; allowed: from 0, which stands for none")
    return window if window < kv_len else 0


def _append(
    heads_q: int, heads_kv: int, dim: int, dtype: str, kv_dtype: str, contexts: tuple[int, ...], new: int
) -> Launch:
    problem = kv_append.Problem(heads_q, heads_kv, dim, dtype, contexts, new)
    knobs = kv_append.Knobs(cache_dtype=kv_dtype or "model", **PAGES)
    small = (
        kv_append.Knobs(cache_dtype=kv_dtype or "model", tile_rows=rows, stages=stages, **PAGES)
        for rows, stages in ((2, 2), (1, 2), (1, 1))
    )
    variants = tuple(Variant("kv-append", problem, each) for each in (knobs, *small))
    return Launch("append", variants, dtype, 0, 0)


def _decode(p: decode_attention.Problem, machine: Machine) -> Launch:
    seen, kv_bytes = min(p.contexts[0], p.window or p.contexts[0]), 1 if p.kv_dtype == FP8 else 2
    moved = len(p.contexts) * p.heads_kv * seen * (p.head_dim + p.dim_v) * kv_bytes
    held = sum(p.contexts) * p.heads_kv * (p.head_dim + p.dim_v) * kv_bytes
    warm = _is_warm(held, len(p.contexts) * p.q_len * p.heads_q * (p.head_dim + p.dim_v) // 2, machine)
    choices = attention.decode(p, machine, warm, epilogue="exposed", **PAGES)
    return _launch("decode-attention", p, choices, attention.rate(p, machine), _decode_macs(p), moved)


def _is_warm(cache_bytes: int, elements: int, machine: Machine) -> bool:
    """Return whether a KV cache, queries and results of so many elements fit a shared cache, where a replay finds them.

    For the choice of a schedule: what a launch finds there is asked of its program.
    """
    cache = machine.spec.shared_cache
    return cache is not None and cache_bytes + 4 * elements <= cache.distinct_bytes


def _launch(kernel: str, problem: Any, choices: tuple[Choice, ...], dtype: str, macs: int, moved: int) -> Launch:
    variants = (Variant(kernel, problem, each.knobs, each.estimate_fs, each.family) for each in choices)
    return Launch("attention", tuple(variants), dtype, macs, moved)


def _decode_macs(p: decode_attention.Problem) -> int:
    """Return the multiply-accumulates of the pairs of a query and a key that it sees."""
    pairs = sum(min(p.contexts[0] - ahead, p.window or p.contexts[0]) for ahead in range(p.q_len))
    return len(p.contexts) * p.heads_q * pairs * (p.head_dim + p.dim_v)


def _prefill_call(row: Row, machine: Machine, sizes: tuple[int, ...]) -> Call:
    batch, q_len, kv_len, heads_q, heads_kv, dim, dim_v = sizes
    _check_queries(row, batch, q_len, kv_len, heads_q)
    _check_heads(row, heads_q, heads_kv)
    dtype, kv_dtype = _dtypes(row)
    causal = row.sizes.get("causal", 1) != 0
    contexts = (kv_len,) * batch
    problem = prefill_attention.Problem(
        heads_q, heads_kv, dim, dtype, contexts,
        q_len=0 if q_len == kv_len else q_len,
        window=_window(row, kv_len) if causal else 0,
        bidirectional=int(not causal),
        head_dim_v=0 if dim_v == dim else dim_v,
        kv_dtype=kv_dtype,
        q_fp8=int(row.dtype == "fp8" and kv_dtype == FP8),
    )  # fmt: skip
    macs = heads_q * attention.scores(problem) * (dim + dim_v)
    held = sum(contexts) * heads_kv * (dim + dim_v) * (1 if kv_dtype == FP8 else 2)
    warm = _is_warm(held, batch * q_len * heads_q * (dim + dim_v) // 2, machine)
    choices = attention.prefill(problem, machine, warm, epilogue="exposed")
    main = _launch("prefill-attention", problem, choices, attention.rate(problem, machine), macs, 0)
    if not causal:
        return Call((main,), graph=True)
    return Call((_append(heads_q, heads_kv, _width(dim, dim_v), dtype, kv_dtype, contexts, q_len), main), graph=True)


def _latent_call(row: Row, machine: Machine, batch: int, q_len: int, kv_len: int, heads: int) -> Call:
    dtype, kv_dtype = _dtypes(row)
    _check_queries(row, batch, q_len, kv_len, heads)
    contexts = (kv_len,) * batch
    record = "fp8_ds_mla" if kv_dtype == FP8 else "plain"
    problem = mla_decode.Problem(Heads(heads, 512, 64, 512, 192**-0.5, dtype), q_len, contexts)
    held = batch * kv_len * attention.latent_bytes(problem, record)
    warm = _is_warm(held, batch * q_len * heads * (576 + 512) // 2, machine)
    choices = attention.latent(problem, machine, warm, record=record, **PAGES)
    seen = batch * heads * q_len * (kv_len - (q_len - 1) / 2)
    macs, moved = int(seen * (576 + 512)), held
    append = _append(1, 1, 288, dtype, kv_dtype, contexts, q_len)
    return Call((append, _launch("mla-decode", problem, choices, dtype, macs, moved)), graph=True)
