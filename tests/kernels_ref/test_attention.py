from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels_ref.attention import decode_attention

Array = NDArray[np.float64]


def online_softmax(q: Array, key: Array, value: Array, scale: float) -> Array:
    """One head, token by token, by the recurrence of Milakov and Gimelshein 2018 (arXiv:1805.02867)."""
    highest, total, out = -math.inf, 0.0, np.zeros_like(q)
    for k, v in zip(key, value, strict=True):
        score = scale * math.fsum(q * k)
        shift = math.exp(highest - max(highest, score))
        highest = max(highest, score)
        weight = math.exp(score - highest)
        total, out = total * shift + weight, out * shift + weight * v
    return out / total


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, list[Array], list[Array]]:
    contexts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    heads_kv, group, dim = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    q = rng.normal(size=(len(contexts), heads_kv * group, dim)) * draw(st.sampled_from([1.0, 40.0]))
    keys, values = ([rng.normal(size=(c, heads_kv, dim)) for c in contexts] for _ in range(2))
    return q, keys, values


@given(problems(), st.sampled_from([0.125, 1.0, -3.0]))
def test_every_head_equals_the_online_softmax_over_its_groups_head(
    problem: tuple[Array, list[Array], list[Array]], scale: float
) -> None:
    q, keys, values = problem
    out = decode_attention(q, keys, values, scale)
    assert out.shape == q.shape
    for sequence, (key, value) in enumerate(zip(keys, values, strict=True)):
        group = q.shape[1] // key.shape[1]
        for head in range(q.shape[1]):
            expected = online_softmax(q[sequence, head], key[:, head // group], value[:, head // group], scale)
            np.testing.assert_allclose(out[sequence, head], expected, rtol=1e-9, atol=1e-11)


@given(problems(), st.integers(0, 2**32 - 1))
def test_the_order_of_the_tokens_does_not_matter(problem: tuple[Array, list[Array], list[Array]], seed: int) -> None:
    q, keys, values = problem
    orders = [np.random.default_rng(seed).permutation(len(key)) for key in keys]
    moved = [[a[order] for a, order in zip(side, orders, strict=True)] for side in (keys, values)]
    np.testing.assert_allclose(
        decode_attention(q, *moved, 0.5), decode_attention(q, keys, values, 0.5), rtol=1e-10, atol=1e-12
    )


@given(problems())
def test_a_scale_of_zero_gives_the_mean_of_the_values(
    problem: tuple[Array, list[Array], list[Array]],
) -> None:
    q, keys, values = problem
    out = decode_attention(q, keys, values, 0.0)
    for sequence, value in enumerate(values):
        mean = np.repeat(value.mean(axis=0), q.shape[1] // value.shape[1], axis=0)
        np.testing.assert_allclose(out[sequence], mean, rtol=1e-10, atol=1e-12)


def test_scores_far_outside_the_range_of_exp_stay_finite() -> None:
    q = np.full((1, 1, 2), 1000.0)
    keys = [np.array([[[1.0, 1.0]], [[-1.0, -1.0]], [[1.0, 1.0]]])]
    values = [np.array([[[2.0, 0.0]], [[9.0, 9.0]], [[4.0, 2.0]]])]
    assert decode_attention(q, keys, values, 10.0).tolist() == [[[3.0, 1.0]]]


def test_half_precision_operands_are_widened_first() -> None:
    rng = np.random.default_rng(1)
    narrow: list[NDArray[Any]] = [rng.normal(size=(1, 7, 8)).astype(np.float16) for _ in range(3)]
    q, key, value = narrow[0].reshape(1, 7, 8), narrow[1].reshape(7, 1, 8), narrow[2].reshape(7, 1, 8)
    wide = decode_attention(q.astype(float), [key.astype(float)], [value.astype(float)], 0.3)
    out = decode_attention(q, [key], [value], 0.3)
    assert out.dtype == np.float64
    assert np.array_equal(out, wide)


KEY = np.zeros((4, 2, 8))


@pytest.mark.parametrize(
    ("q", "keys", "values", "message"),
    [
        (np.zeros((4, 8)), [KEY], [KEY], r"q has shape \(4, 8\)"),
        (np.zeros((2, 4, 8)), [KEY], [KEY], r"1 keys and 1 values; allowed: one per sequence of q \(2\)"),
        (np.zeros((1, 4, 8)), [KEY], [KEY[:3]], r"sequence 0: keys are \(4, 2, 8\) and values \(3, 2, 8\)"),
        (np.zeros((1, 4, 8)), [KEY[:0]], [KEY[:0]], r"sequence 0: keys have shape \(0, 2, 8\)"),
        (np.zeros((1, 4, 7)), [KEY], [KEY], r"allowed: \[context >= 1, heads_kv, 7\]"),
        (np.zeros((1, 5, 8)), [KEY], [KEY], r"heads_kv is 2; allowed: a divisor of heads_q \(5\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(q: Array, keys: list[Array], values: list[Array], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_attention(q, keys, values, 1.0)
