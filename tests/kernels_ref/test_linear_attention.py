from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_ref.linear_attention import chunked, recurrent

Operands = dict[str, np.ndarray]


@st.composite
def heads(draw: st.DrawFn) -> Operands:
    tokens, key, value = draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    decays = draw(st.sampled_from([1, key]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k = rng.normal(size=(tokens, key))
    return {
        "q": rng.normal(size=(tokens, key)),
        "k": k / np.linalg.norm(k, axis=1, keepdims=True),
        "v": rng.normal(size=(tokens, value)),
        "log_decay": -rng.exponential(size=(tokens, decays)),
        "strength": rng.uniform(size=tokens),
        "state": rng.normal(size=(key, value)),
    }


@given(heads(), st.integers(1, 10))
def test_chunks_of_any_size_give_what_token_by_token_gives(head: Operands, chunk: int) -> None:
    out, state = recurrent(**head, scale=0.5)
    for found, expected in zip(chunked(**head, scale=0.5, chunk=chunk), (out, state), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)


@given(heads())
def test_the_state_is_that_of_the_published_recurrence(head: Operands) -> None:
    """Equation 10 of Gated DeltaNet, and equation 1 of Kimi Delta Attention, as they are printed."""
    _, state = recurrent(**head, scale=1.0)
    k, v, b = head["k"], head["v"], head["strength"]
    a = np.exp(head["log_decay"])
    eye = np.eye(k.shape[1])
    transposed, kimi = head["state"].T, head["state"]
    for t in range(len(k)):
        if a.shape[1] == 1:
            transposed = transposed @ (a[t, 0] * (eye - b[t] * np.outer(k[t], k[t]))) + b[t] * np.outer(v[t], k[t])
        kimi = (eye - b[t] * np.outer(k[t], k[t])) @ np.diag(a[t] * np.ones(k.shape[1])) @ kimi
        kimi = kimi + b[t] * np.outer(k[t], v[t])
    np.testing.assert_allclose(state, kimi, rtol=1e-9, atol=1e-10)
    if a.shape[1] == 1:
        np.testing.assert_allclose(state, transposed.T, rtol=1e-9, atol=1e-10)


def test_full_strength_without_decay_stores_a_value_under_its_key() -> None:
    keys, values = np.eye(3)[[0, 1, 0]], np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    out, state = recurrent(keys, keys, values, np.zeros((3, 1)), np.ones(3), np.zeros((3, 2)), 1.0)
    assert out.tolist() == values.tolist()
    assert state.tolist() == [[5, 6], [3, 4], [0, 0]]  # the third token has replaced the first


def test_shapes_and_decays_that_do_not_fit_are_refused() -> None:
    k, v, one = np.ones((2, 3)), np.ones((2, 4)), np.ones(2)
    with pytest.raises(ValueError, match=r"log_decay \(2, 2\).*; allowed: one number of tokens"):
        recurrent(k, k, v, np.zeros((2, 2)), one, np.zeros((3, 4)), 1.0)
    with pytest.raises(ValueError, match=r"state is \(4, 3\); allowed: \(3, 4\)"):
        chunked(k, k, v, np.zeros((2, 1)), one, np.zeros((4, 3)), 1.0, 2)
    with pytest.raises(OverflowError, match=r"fades by exp\(-800\) in a chunk"):
        chunked(k, k, v, np.full((2, 1), -400.0), one, np.zeros((3, 4)), 1.0, 2)
