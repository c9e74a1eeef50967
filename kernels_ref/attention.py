"""The values of softmax attention: prefill, chunks of it, verification of drafted tokens, and decode.

End of the data's path: queries, keys and values come in as plain arrays, already gathered through the page table.
The queries of a sequence stand at its last positions, `context - q_len` and on, so that one formula serves all: a
prefill has as many queries as keys, a decode step has one. Head `h` of the queries reads key-value head `h // group`
with `group = heads_q // heads_kv` (grouped-query attention; one group is multi-query, groups of one are multi-head;
Ainslie et al. 2023, arXiv:2305.13245). A window is that of Mistral (Jiang et al. 2023, arXiv:2310.06825), a sink a
logit per head that takes part in the denominator only (gpt-oss, 2025), a soft cap that of Gemma 2 (2024,
arXiv:2408.00118). Not modelled: positions (rotary embedding comes before), biases, splits of the context (they change
no value), latent attention, and rounding to types narrower than float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
    if window < 0 or (window and not causal):
        raise ValueError(f"attention: window is {window}, causal {causal}; allowed: 0, or with causal 1 or more")
    if not len(q) == len(keys) == len(values):
        counts = f"{len(q)} q, {len(keys)} keys and {len(values)} values"
        raise ValueError(f"attention: {counts}; allowed: as many of each")
    out = []
    for sequence, (query, key, value) in enumerate(zip(q, keys, values, strict=True)):
        _check(query, key, value, sinks, f"attention: sequence {sequence}")
        group = query.shape[1] // key.shape[1]
        k, v = (np.repeat(a.astype(np.float64), group, axis=1) for a in (key, value))
        scores = scale * np.einsum("qhd,chd->hqc", query.astype(np.float64), k)
        if soft_cap:
            scores = soft_cap * np.tanh(scores / soft_cap)
        scores[:, ~_visible(len(query), len(key), causal, window)] = -np.inf
        out.append(np.einsum("hqc,chd->qhd", _softmax(scores, sinks), v))
    return out


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
