"""The values of sparse attention: an indexer's scores, the tokens it selects, and attention over these alone.

End of the data's path: keys come in as plain arrays, already gathered through the page table. The score of token s for
query t is the sum over index heads j of w[t, j] relu(q[t, j] . k[s]), and query t attends to the `top_k` tokens of the
largest scores among those it sees (DeepSeek-V3.2-Exp, "lightning indexer", section 2.1, equations 1 and 2). Which of
two equal scores is taken, that report leaves open: here the earlier token.
Not modelled: quantisation, rotation of index keys, and rounding to types narrower than float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels_ref.attention import attention

Array = NDArray[np.float64]


def index_scores(q: NDArray[Any], keys: NDArray[Any], weights: NDArray[Any]) -> Array:
    """Return the scores of one sequence in float64.

    Shapes: q [queries, heads, dim]; keys [context, dim]; weights [queries, heads] -> [queries, context].
    """
    products = np.einsum("qhd,cd->qhc", q.astype(np.float64), keys.astype(np.float64))
    scores: Array = np.einsum("qh,qhc->qc", weights.astype(np.float64), np.maximum(products, 0.0))
    return scores


def select(scores: NDArray[Any], top_k: int) -> list[NDArray[np.int64]]:
    """Return per query of scores [queries, context] the positions it attends to, ascending.

    Queries are the last tokens of their sequence: query i of n sees all but the n - 1 - i last tokens.
    """
    queries, context = scores.shape
    chosen = []
    for query in range(queries):
        seen = scores[query, : context - queries + 1 + query]
        best = np.argsort(-seen.astype(np.float64), kind="stable")[:top_k]
        chosen.append(np.sort(best))
    return chosen


def sparse_mla(
    q: NDArray[Any], keys: NDArray[Any], positions: Sequence[NDArray[Any]], value_dim: int, scale: float
) -> Array:
    """Return absorbed latent attention of one sequence over the selected tokens in float64.

    Shapes: q [queries, heads, dim]; keys [context, dim], whose first `value_dim` columns are the values; positions one
    array per query -> [queries, heads, value_dim]. Raises ValueError where a query has no positions of its own.
    """
    if len(positions) != len(q) or not all(len(p) for p in positions):
        raise ValueError(
            f"sparse_mla: {[len(p) for p in positions]} positions; allowed: some for each of {len(q)} queries"
        )
    out = np.empty((*q.shape[:2], value_dim))
    for query, chosen in enumerate(positions):
        k = keys[chosen].astype(np.float64)
        scores = scale * (q[query].astype(np.float64) @ k.T)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))  # the shift cancels; it keeps exp in range
        out[query] = weights / weights.sum(axis=1, keepdims=True) @ k[:, :value_dim]
    return out


def sparse_gqa(
    q: NDArray[Any], keys: NDArray[Any], values: NDArray[Any], positions: Sequence[NDArray[Any]], scale: float
) -> Array:
    """Return grouped-query attention of one sequence over the selected tokens in float64; all heads select the same.

    Shapes: q [queries, heads_q, dim]; keys, values [context, heads_kv, dim]; positions one array per query ->
    [queries, heads_q, dim]. Raises ValueError where a query has no positions, or shapes do not fit together.
    """
    seen = [side[chosen] for side in (keys, values) for chosen in positions]
    each = [row[None] for row in q]
    return np.concatenate(attention(each, seen[: len(positions)], seen[len(positions) :], scale, causal=False))
