from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from kernels_ref.moe import moe, route

seeds = st.integers(0, 2**32 - 1)


@st.composite
def layers(draw: st.DrawFn) -> tuple[Any, ...]:
    tokens, experts, hidden, inter = (draw(st.integers(1, 6)) for _ in range(4))
    rng = np.random.default_rng(draw(seeds))
    topk = draw(st.integers(1, experts))
    ids = np.array([rng.permutation(experts)[:topk] for _ in range(tokens)])
    weights = rng.random((tokens, topk))
    shapes = ((tokens, hidden), (experts, 2, inter, hidden), (experts, hidden, inter))
    x, w13, w2 = (rng.normal(size=shape) for shape in shapes)
    return x, ids, weights, w13, w2


@given(layers())
def test_every_token_is_the_weighted_sum_of_its_experts_one_by_one(layer: tuple[Any, ...]) -> None:
    x, ids, weights, w13, w2 = layer
    out = moe(x, ids, weights, w13, w2)
    for t, h in np.ndindex(x.shape):
        terms = []
        for expert, weight in zip(ids[t], weights[t], strict=True):
            for i in range(w2.shape[2]):
                gate = math.fsum(w13[expert, 0, i] * x[t])
                up = math.fsum(w13[expert, 1, i] * x[t])
                terms.append(weight * w2[expert, h, i] * gate * float(special.expit(gate)) * up)
        assert out[t, h] == pytest.approx(math.fsum(terms), rel=1e-9, abs=1e-11)


@given(st.integers(1, 6), st.integers(1, 9), seeds, st.sampled_from(["softmax", "sigmoid"]))
def test_routing_takes_the_largest_scores(tokens: int, experts: int, seed: int, scoring: str) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (tokens, experts)).astype(float)  # many are equal
    topk = int(rng.integers(1, experts + 1))
    ids, weights = route(logits, topk, scoring, renormalise=False)
    scores = special.softmax(logits, axis=1) if scoring == "softmax" else special.expit(logits)
    for t in range(tokens):
        ranked = sorted(range(experts), key=lambda e: (-logits[t, e], e))[:topk]
        assert ids[t].tolist() == ranked
        np.testing.assert_allclose(weights[t], scores[t, ranked], rtol=1e-12)
    _, shares = route(logits, topk, scoring)
    np.testing.assert_allclose(shares, weights / weights.sum(axis=1)[:, None], rtol=1e-12)


X, IDS, W13, W2 = np.zeros((2, 3)), np.zeros((2, 1), int), np.zeros((4, 2, 5, 3)), np.zeros((4, 3, 5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moe(X[:1], IDS, IDS, W13, W2), r"^moe: x is \(1, 3\), ids \(2, 1\), .*; allowed: one row per token"),
        (lambda: moe(X, IDS, IDS, W13[:, :1], W2), r"^moe: w13 is \(4, 1, 5, 3\) and w2 \(4, 3, 5\); allowed"),
        (lambda: moe(X, IDS + 4, IDS, W13, W2), r"^moe: ids are 4 to 4; allowed: 0 to 3"),
        (lambda: route(X, 4), r"^route: logits are \(2, 3\) and topk 4; allowed"),
        (lambda: route(X, 1, "tanh"), r"^route: scoring is 'tanh'; allowed: softmax, sigmoid"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
