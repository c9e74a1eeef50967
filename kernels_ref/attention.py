"""The values of decode attention: one new token per sequence attends to all keys and values of its sequence.

End of the data's path: keys and values come in as plain arrays, already gathered through the page table.
Head `h` of the queries reads key-value head `h // group` with `group = heads_q // heads_kv` (grouped-query
attention; one group is multi-query, groups of one are multi-head; Ainslie et al. 2023, arXiv:2305.13245).
Not modelled: masks, windows, sinks, soft caps, positions (rotary embedding comes before), splits of the
context, latent attention, and rounding to types narrower than float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def decode_attention(
    q: NDArray[Any], keys: Sequence[NDArray[Any]], values: Sequence[NDArray[Any]], scale: float
) -> NDArray[np.float64]:
    """Return softmax(scale · q kᵀ) v of every sequence and head in float64.

    Shapes: q [batch, heads_q, dim]; keys and values one array [context, heads_kv, dim] per sequence, where
    context differs between sequences and is at least 1 -> [batch, heads_q, dim]. Any real type. `scale` is
    usually 1/√dim.
    Raises ValueError when the shapes do not fit together, naming the sequence.
    """
    _check(q, keys, values)
    out = np.empty(q.shape, dtype=np.float64)
    for sequence, (key, value) in enumerate(zip(keys, values, strict=True)):
        group = q.shape[1] // key.shape[1]
        k = np.repeat(key.astype(np.float64), group, axis=1)
        v = np.repeat(value.astype(np.float64), group, axis=1)
        scores = scale * np.einsum("hd,chd->hc", q[sequence].astype(np.float64), k)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))  # the shift cancels; it keeps exp in range
        out[sequence] = np.einsum("hc,chd->hd", weights / weights.sum(axis=1, keepdims=True), v)
    return out


def _check(q: NDArray[Any], keys: Sequence[NDArray[Any]], values: Sequence[NDArray[Any]]) -> None:
    if q.ndim != 3:
        raise ValueError(f"decode_attention: q has shape {q.shape}; allowed: [batch, heads_q, dim]")
    batch, heads_q, dim = q.shape
    if not len(keys) == len(values) == batch:
        raise ValueError(
            f"decode_attention: {len(keys)} keys and {len(values)} values; allowed: one per sequence of q ({batch})"
        )
    for sequence, (key, value) in enumerate(zip(keys, values, strict=True)):
        where = f"decode_attention: sequence {sequence}"
        if key.shape != value.shape:
            raise ValueError(f"{where}: keys are {key.shape} and values {value.shape}; they must be equal")
        if key.ndim != 3 or key.shape[0] < 1 or key.shape[2] != dim:
            raise ValueError(f"{where}: keys have shape {key.shape}; allowed: [context >= 1, heads_kv, {dim}]")
        if key.shape[1] < 1 or heads_q % key.shape[1]:
            raise ValueError(f"{where}: heads_kv is {key.shape[1]}; allowed: a divisor of heads_q ({heads_q})")
