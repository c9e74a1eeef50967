"""The values of multi-head latent attention (MLA), expanded and absorbed.

End of the data's path: every token has one latent vector c of `rank` numbers and one rotary key of `rope` numbers,
shared by all heads. Expanded, head h has the keys [W_uk c, rotary] and the values W_uv c, and attention is multi-head.
Absorbed, W_uk moves to the query and W_uv behind the weighted sum, so that the heads share the one key [c, rotary], and
its first columns are the value: (W_uk c) . q = c . (W_uk^T q) (DeepSeek-V2, arXiv:2405.04434, section 2.1 and appendix
C). Queries are the last tokens of their sequence: query i of n sees all but the n - 1 - i last tokens.
Not modelled: projections of the hidden state, norms, the rotation itself, and rounding to types narrower than float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def mla_prefill(
    q: NDArray[Any], latent: NDArray[Any], rotary: NDArray[Any], w_uk: NDArray[Any], w_uv: NDArray[Any], scale: float
) -> Array:
    """Return expanded attention of one sequence in float64.

    Shapes: q [queries, heads, nope + rope]; latent [context, rank]; rotary [context, rope]; w_uk [heads, nope, rank];
    w_uv [heads, value, rank] -> [queries, heads, value]. `scale` is usually 1/√(nope + rope).
    Raises ValueError when the shapes do not fit together.
    """
    queries, heads, dim = q.shape
    nope = w_uk.shape[1]
    if dim != nope + rotary.shape[1] or latent.shape[0] != rotary.shape[0] or not 1 <= queries <= len(latent):
        raise ValueError(
            f"mla_prefill: q is {q.shape}, latent {latent.shape}, rotary {rotary.shape}, w_uk {w_uk.shape}"
        )
    c = latent.astype(np.float64)
    keys = np.concatenate(
        [
            np.einsum("hnr,cr->hcn", w_uk.astype(np.float64), c),
            np.broadcast_to(rotary.astype(np.float64), (heads, *rotary.shape)),
        ],
        axis=2,
    )
    values = np.einsum("hvr,cr->hcv", w_uv.astype(np.float64), c)
    scores = scale * np.einsum("qhd,hcd->hqc", q.astype(np.float64), keys)
    out: Array = np.einsum("hqc,hcv->qhv", _weights(scores), values)
    return out


def mla_decode(q: NDArray[Any], keys: Sequence[NDArray[Any]], value_dim: int, scale: float) -> Array:
    """Return absorbed attention of every sequence in float64.

    Shapes: q [batch, queries, heads, dim], already absorbed; keys one array [context, dim] per sequence, whose first
    `value_dim` columns are the values -> [batch, queries, heads, value_dim]. `scale` is that of the expanded heads.
    Raises ValueError when the shapes do not fit together, naming the sequence.
    """
    batch, queries, heads, dim = q.shape
    if len(keys) != batch:
        raise ValueError(f"mla_decode: {len(keys)} keys; allowed: one per sequence of q ({batch})")
    out = np.empty((batch, queries, heads, value_dim))
    for sequence, key in enumerate(keys):
        if key.ndim != 2 or key.shape[0] < queries or not value_dim <= key.shape[1] == dim:
            allowed = f"[context >= {queries}, {dim}], of which {value_dim} columns are values"
            raise ValueError(f"mla_decode: sequence {sequence}: keys have shape {key.shape}; allowed: {allowed}")
        k = key.astype(np.float64)
        scores = scale * np.einsum("qhd,cd->hqc", q[sequence].astype(np.float64), k)
        out[sequence] = np.einsum("hqc,cv->qhv", _weights(scores), k[:, :value_dim])
    return out


def absorb(q: NDArray[Any], w_uk: NDArray[Any]) -> Array:
    """Return the queries that meet the latent cache: q [.., heads, nope + rope], w_uk [heads, nope, rank] ->
    [.., heads, rank + rope].
    """
    nope = w_uk.shape[1]
    wide = q.astype(np.float64)
    latent = np.einsum("...hn,hnr->...hr", wide[..., :nope], w_uk.astype(np.float64))
    return np.concatenate([latent, wide[..., nope:]], axis=-1)


def dequantise(values: NDArray[Any], scales: NDArray[Any], group: int) -> Array:
    """Return values [.., columns] times the scale [.., columns / group] of their group of columns."""
    return values.astype(np.float64) * np.repeat(scales.astype(np.float64), group, axis=-1)


def _weights(scores: Array) -> Array:
    """Return the softmax over the last axis of [heads, queries, context], of the tokens each query sees."""
    _, queries, context = scores.shape
    later = np.arange(context) > np.arange(queries)[:, None] + context - queries
    seen = np.where(later, -np.inf, scores)
    weights = np.exp(seen - seen.max(axis=-1, keepdims=True))  # the shift cancels; it keeps exp in range
    normalised: Array = weights / weights.sum(axis=-1, keepdims=True)
    return normalised
