"""The values of softmax attention: prefill, chunks of it, verification of drafted tokens, and decode.

End of the data's path: queries, keys and values come in as plain arrays, already gathered through the page table.
The queries of a sequence stand at its last positions, `context - q_len` and on, so that one formula serves all: a
prefill has as many queries as keys, a decode step has one. Head `h` of the queries reads key-value head `h // group`
with `group = heads_q // heads_kv` (grouped-query attention; one group is multi-query, groups of one are multi-head;
Ainslie et al. 2023, arXiv:2305.13245). A window is that of Mistral (Jiang et al. 2023, arXiv:2310.06825), a sink a
logit per head that takes part in the denominator only (gpt-oss, 2025), a soft cap that of Gemma 2 (2024,
arXiv:2408.00118). Not modelled: positions (rotary embedding comes before), biases, splits of the context (they change
no value), latent attention, and rounding to types narrower than float64, but for weights in e4m3 (`fp8_attention`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels_ref.quant import E4M3, round_to

Array = NDArray[np.float64]
Tiles = Sequence[Sequence[int]]  # the lengths of the tiles of every part of a context


def attention(
    q: Sequence[NDArray[Any]],
    keys: Sequence[NDArray[Any]],
    values: Sequence[NDArray[Any]],
    scale: float,
    *,
    causal: bool = True,
    window: int = 0,
    sinks: NDArray[Any] | None = None,
    soft_cap: float = 0.0,
) -> list[Array]:
    """Return softmax(scale · q kᵀ) v of every query and head in float64, one array per sequence.

    Shapes per sequence: q [q_len, heads_q, dim], keys [context, heads_kv, dim], values [context, heads_kv, dim_v] ->
    [q_len, heads_q, dim_v]. Any real type. Lengths differ between sequences; context >= max(1, q_len).
    `causal`: a query sees the keys up to its own position, otherwise all; `window` (needs `causal`): the last so many
    of these only, 0 for all. `sinks` [heads_q]: exp(sink) joins the denominator. `soft_cap`: scores s become
    cap · tanh(s / cap), 0 for none.
    Raises ValueError when shapes do not fit together, naming the sequence, or for a window without `causal`.
    """
    all_scores = _scores(q, keys, values, scale, causal, window, sinks, soft_cap)
    return [_weighted(_softmax(scores, sinks), value) for scores, value in zip(all_scores, values, strict=True)]


def fp8_attention(
    q: Sequence[NDArray[Any]],
    keys: Sequence[NDArray[Any]],
    values: Sequence[NDArray[Any]],
    scale: float,
    tiles: Sequence[Tiles],
    *,
    peak: float = 256.0,
    causal: bool = True,
    window: int = 0,
    sinks: NDArray[Any] | None = None,
    soft_cap: float = 0.0,
) -> list[Array]:
    """Return `attention` where weights are rounded to e4m3 before they multiply values, as FlashAttention-3 does.

    A key's weight is taken against the largest score (or sink) of its part of the context up to its tile, times `peak`,
    and rounded; what it is divided by is not. `tiles` has for each sequence its parts, a part being the lengths of its
    tiles, all together the context. Quantised queries, keys and values come in multiplied by their scales. The rest as
    for `attention`; ValueError for tiles that do not add up, too.
    """
    out = []
    all_scores = _scores(q, keys, values, scale, causal, window, sinks, soft_cap)
    for sequence, (scores, value, parts) in enumerate(zip(all_scores, values, tiles, strict=True)):
        if sum(map(sum, parts)) != len(value):
            raise ValueError(f"fp8_attention: sequence {sequence}: tiles {parts}; allowed: {len(value)} keys in all")
        highest = _highest(scores, parts, sinks)
        shifted = np.exp(scores - np.where(highest == -np.inf, 0.0, highest))
        rounded = round_to(peak * shifted, E4M3) / peak
        ratio = np.divide(rounded, shifted, out=np.zeros_like(shifted), where=shifted > 0)
        out.append(_weighted(_softmax(scores, sinks) * ratio, value))
    return out


def _highest(scores: Array, parts: Tiles, sinks: NDArray[Any] | None) -> Array:
    """Return for every key the largest score of its part up to its tile's end; [heads, q, context]."""
    found, begin = np.empty_like(scores), 0
    for number, part in enumerate(parts):
        highest = np.full((*scores.shape[:2], 1), -np.inf)
        if number == 0 and sinks is not None:
            highest[:] = sinks.astype(np.float64)[:, None, None]
        for tile in part:
            here = slice(begin, begin + tile)
            highest = np.maximum(highest, scores[:, :, here].max(axis=2, initial=-np.inf, keepdims=True))
            found[:, :, here] = highest
            begin += tile
    return found


def _scores(
    q: Sequence[NDArray[Any]],
    keys: Sequence[NDArray[Any]],
    values: Sequence[NDArray[Any]],
    scale: float,
    causal: bool,
    window: int,
    sinks: NDArray[Any] | None,
    soft_cap: float,
) -> list[Array]:
    """Return the scores of every sequence, [heads, q, context], -inf where a query does not see a key."""
    if window < 0 or (window and not causal):
        raise ValueError(f"attention: window is {window}, causal {causal}; allowed: 0, or with causal 1 or more")
    if not len(q) == len(keys) == len(values):
        counts = f"{len(q)} q, {len(keys)} keys and {len(values)} values"
        raise ValueError(f"attention: {counts}; allowed: as many of each")
    found = []
    for sequence, (query, key, value) in enumerate(zip(q, keys, values, strict=True)):
        _check(query, key, value, sinks, f"attention: sequence {sequence}")
        k = np.repeat(key.astype(np.float64), query.shape[1] // key.shape[1], axis=1)
        scores = scale * np.einsum("qhd,chd->hqc", query.astype(np.float64), k)
        if soft_cap:
            scores = soft_cap * np.tanh(scores / soft_cap)
        scores[:, ~_visible(len(query), len(key), causal, window)] = -np.inf
        found.append(scores)
    return found


def _weighted(weights: Array, value: NDArray[Any]) -> Array:
    """Return the sums of values [context, heads_kv, dim_v] by weights [heads, q, context]: [q, heads, dim_v]."""
    v = np.repeat(value.astype(np.float64), len(weights) // value.shape[1], axis=1)
    summed: Array = np.einsum("hqc,chd->qhd", weights, v)
    return summed


def decode_attention(
    q: NDArray[Any], keys: Sequence[NDArray[Any]], values: Sequence[NDArray[Any]], scale: float, **more: Any
) -> Array:
    """Return the attention of one new token per sequence: q [batch, heads_q, dim] -> [batch, heads_q, dim_v].

    `more` are the keywords of `attention`, which says the rest. Raises ValueError as it does.
    """
    if q.ndim != 3:
        raise ValueError(f"decode_attention: q has shape {q.shape}; allowed: [batch, heads_q, dim]")
    if not len(keys) == len(values) == len(q):
        raise ValueError(
            f"decode_attention: {len(keys)} keys and {len(values)} values; allowed: one per sequence of q ({len(q)})"
        )
    return np.concatenate(attention([row[None] for row in q], keys, values, scale, **more))


def _visible(q_len: int, context: int, causal: bool, window: int) -> NDArray[np.bool_]:
    """Return which keys each query sees, [q_len, context]."""
    behind = np.subtract.outer(np.arange(context - q_len, context), np.arange(context))
    if not causal:
        return np.ones_like(behind, dtype=bool)
    seen: NDArray[np.bool_] = behind >= 0
    return seen & (behind < window) if window else seen


def _softmax(scores: Array, sinks: NDArray[Any] | None) -> Array:
    """Return exp(scores) over its sum along the last axis; scores [heads, q, context]."""
    logit = np.full(len(scores), -np.inf) if sinks is None else sinks.astype(np.float64)
    sink = np.broadcast_to(logit[:, None, None], (*scores.shape[:2], 1))
    highest = np.maximum(scores.max(axis=2, keepdims=True), sink)  # the shift cancels; it keeps exp in range
    weights = np.exp(scores - highest)
    normalised: Array = weights / (weights.sum(axis=2, keepdims=True) + np.exp(sink - highest))
    return normalised


def _check(q: NDArray[Any], key: NDArray[Any], value: NDArray[Any], sinks: NDArray[Any] | None, where: str) -> None:
    if q.ndim != 3:
        raise ValueError(f"{where}: q has shape {q.shape}; allowed: [q_len, heads_q, dim]")
    least, dim = max(1, len(q)), q.shape[2]
    if key.ndim != 3 or key.shape[0] < least or key.shape[2] != dim:
        raise ValueError(f"{where}: keys have shape {key.shape}; allowed: [context >= {least}, heads_kv, {dim}]")
    if value.ndim != 3 or key.shape[:2] != value.shape[:2]:
        raise ValueError(f"{where}: keys are {key.shape} and values {value.shape}; the first two sizes must be equal")
    if key.shape[1] < 1 or q.shape[1] % key.shape[1]:
        raise ValueError(f"{where}: heads_kv is {key.shape[1]}; allowed: a divisor of heads_q ({q.shape[1]})")
    if sinks is not None and sinks.shape != (q.shape[1],):
        raise ValueError(f"{where}: sinks have shape {sinks.shape}; allowed: [{q.shape[1]}]")
