from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_ref.attention import decode_attention
from kernels_ref.mla import absorb, dequantise, mla_decode, mla_prefill


@st.composite
def layers(draw: st.DrawFn) -> dict[str, np.ndarray]:
    heads, nope, rope, rank, value = (draw(st.integers(1, 4)) for _ in range(5))
    context = draw(st.integers(1, 8))
    queries = draw(st.integers(1, context))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return {
        "q": rng.normal(size=(queries, heads, nope + rope)) * draw(st.sampled_from([1.0, 30.0])),
        "latent": rng.normal(size=(context, rank)),
        "rotary": rng.normal(size=(context, rope)),
        "w_uk": rng.normal(size=(heads, nope, rank)),
        "w_uv": rng.normal(size=(heads, value, rank)),
    }


@given(layers(), st.sampled_from([0.125, 1.0]))
def test_absorbed_attention_is_expanded_attention(layer: dict[str, np.ndarray], scale: float) -> None:
    expanded = mla_prefill(**layer, scale=scale)
    q = absorb(layer["q"], layer["w_uk"])[None]
    key = np.concatenate([layer["latent"], layer["rotary"]], axis=1)
    (out,) = mla_decode(q, [key], layer["latent"].shape[1], scale)
    projected = np.stack([out[:, h] @ layer["w_uv"][h].T for h in range(out.shape[1])], axis=1)
    np.testing.assert_allclose(projected, expanded, rtol=1e-8, atol=1e-9)


@given(layers(), st.sampled_from([0.125, 1.0]))
def test_every_query_and_head_is_a_softmax_written_out_in_scalars(layer: dict[str, np.ndarray], scale: float) -> None:
    q, latent, rotary = layer["q"], layer["latent"], layer["rotary"]
    out = mla_prefill(**layer, scale=scale)
    queries, heads, _ = q.shape
    for i in range(queries):
        for h in range(heads):
            seen = range(len(latent) - queries + i + 1)
            keys = [[*(layer["w_uk"][h] @ latent[t]), *rotary[t]] for t in seen]
            scores = [scale * math.fsum(a * b for a, b in zip(q[i, h], key, strict=True)) for key in keys]
            weights = [math.exp(s - max(scores)) for s in scores]
            values = [layer["w_uv"][h] @ latent[t] for t in seen]
            mean = sum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)
            np.testing.assert_allclose(out[i, h], mean, rtol=1e-8, atol=1e-9)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_with_one_query_it_is_multi_query_attention_with_the_key_as_value(heads: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, keys = rng.normal(size=(2, heads, dim)), [rng.normal(size=(c, dim)) for c in (3, 7)]
    expected = decode_attention(q, *[[k[:, None] for k in keys]] * 2, 0.3)
    np.testing.assert_allclose(mla_decode(q[:, None], keys, dim, 0.3)[:, 0], expected, rtol=1e-10, atol=1e-12)


def test_a_scale_belongs_to_its_group_of_columns() -> None:
    values, scales = np.arange(8.0).reshape(2, 4), np.array([[1.0, 10.0], [2.0, 0.5]])
    assert dequantise(values, scales, 2).tolist() == [[0, 1, 20, 30], [8, 10, 3, 3.5]]


def test_shapes_that_do_not_fit_are_refused() -> None:
    q = np.zeros((1, 3, 2, 8))
    with pytest.raises(ValueError, match=r"^mla_decode: 0 keys; allowed: one per sequence of q \(1\)"):
        mla_decode(q, [], 4, 1.0)
    with pytest.raises(ValueError, match=r"sequence 0: keys have shape \(2, 8\); allowed: \[context >= 3, 8\]"):
        mla_decode(q, [np.zeros((2, 8))], 4, 1.0)
    with pytest.raises(ValueError, match=r"^mla_prefill: q is \(3, 2, 8\)"):
        mla_prefill(q[0], np.zeros((4, 5)), np.zeros((4, 3)), np.zeros((2, 4, 5)), np.zeros((2, 4, 5)), 1.0)
