"""The values of a layer of experts: choosing them, and the weighted sum of what they return.

The experts are gated MLPs (`kernels_ref.activation`). Not modelled: groups of experts, correction biases, capacity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels_ref.activation import swiglu
from kernels_ref.norm import softmax

Array = NDArray[Any]
SCORINGS = ("softmax", "sigmoid")


def route(
    logits: Array, topk: int, scoring: str = "softmax", renormalise: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the `topk` experts of every token by falling score, and their weights, both [tokens, topk].

    logits [tokens, experts] become scores by softmax or, one by one, by the logistic function; equal scores go by the
    lower expert. With `renormalise` the weights of a token add up to one. Raises ValueError for other shapes or names.
    """
    if logits.ndim != 2 or not 1 <= topk <= logits.shape[1]:
        raise ValueError(f"route: logits are {logits.shape} and topk {topk}; allowed: [tokens, experts], 1 to experts")
    if scoring not in SCORINGS:
        raise ValueError(f"route: scoring is {scoring!r}; allowed: {', '.join(SCORINGS)}")
    wide = logits.astype(np.float64)
    scores = softmax(wide) if scoring == "softmax" else np.exp(-np.logaddexp(0.0, -wide))
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :topk]
    weights = np.take_along_axis(scores, ids, axis=1)
    return ids, weights / weights.sum(axis=1, keepdims=True) if renormalise else weights


def moe(x: Array, ids: Array, weights: Array, w13: Array, w2: Array) -> NDArray[np.float64]:
    """Return sum over j of weights[t, j] · expert ids[t, j] (x[t]) in float64.

    Shapes: x [tokens, hidden], ids and weights [tokens, topk], w13 [experts, 2, inter, hidden] (gates, then ups),
    w2 [experts, hidden, inter] -> [tokens, hidden]. Raises ValueError when they do not fit together.
    """
    _check(x, ids, weights, w13, w2)
    out = np.zeros(x.shape, np.float64)
    for expert in np.unique(ids):
        token, choice = np.nonzero(ids == expert)
        rows = x[token].astype(np.float64)
        gate, up = (rows @ half.astype(np.float64).T for half in w13[expert])
        share = weights[token, choice].astype(np.float64)
        np.add.at(out, token, share[:, None] * (swiglu(gate, up) @ w2[expert].astype(np.float64).T))
    return out


def _check(x: Array, ids: Array, weights: Array, w13: Array, w2: Array) -> None:
    if x.ndim != 2 or ids.ndim != 2 or ids.shape != weights.shape or len(ids) != len(x):
        raise ValueError(f"moe: x is {x.shape}, ids {ids.shape}, weights {weights.shape}; allowed: one row per token")
    experts, inter = len(w13), w2.shape[-1]
    if w13.shape != (experts, 2, inter, x.shape[1]) or w2.shape != (experts, x.shape[1], inter):
        raise ValueError(
            f"moe: w13 is {w13.shape} and w2 {w2.shape}; allowed: [experts, 2, inter, hidden], [experts, hidden, inter]"
            f" with hidden {x.shape[1]}"
        )
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < experts:
        raise ValueError(f"moe: ids are {ids.min()} to {ids.max()}; allowed: 0 to {experts - 1}")
