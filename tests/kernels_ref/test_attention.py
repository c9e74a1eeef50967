from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels_ref.attention import attention, decode_attention, fp8_attention

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


def one_query(q: Array, key: Array, value: Array, position: int, rules: tuple[bool, int, float | None, float]) -> Array:
    """One query and head by the definition, key by key; rules: causal, window, sink, soft cap."""
    causal, window, sink, cap = rules
    seen = [j for j in range(len(key)) if not causal or (j <= position and (window == 0 or position - j + 1 <= window))]
    scores = [math.fsum(q * key[j]) * 0.5 for j in seen]
    if cap:
        scores = [cap * math.tanh(s / cap) for s in scores]
    below = math.fsum(math.exp(s) for s in scores) + (0.0 if sink is None else math.exp(sink))
    return sum((math.exp(s) / below * value[j] for s, j in zip(scores, seen, strict=True)), np.zeros(value.shape[1]))


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from([(True, 0), (True, 1), (True, 3), (False, 0)]),
    st.booleans(),
    st.sampled_from([0.0, 2.0, 30.0]),
    st.integers(0, 2**32 - 1),
)
def test_every_query_equals_the_definition_key_by_key(
    lengths: list[tuple[int, int]],
    group: int,
    heads_kv: int,
    view: tuple[bool, int],
    with_sinks: bool,
    cap: float,
    seed: int,
) -> None:
    rng, (causal, window) = np.random.default_rng(seed), view
    heads_q = heads_kv * group
    q = [rng.normal(0, 2, (n, heads_q, 4)) for n, _ in lengths]
    keys = [rng.normal(size=(n + before, heads_kv, 4)) for n, before in lengths]
    values = [rng.normal(size=(n + before, heads_kv, 3)) for n, before in lengths]
    sinks = rng.normal(0, 3, heads_q) if with_sinks else None
    out = attention(q, keys, values, 0.5, causal=causal, window=window, sinks=sinks, soft_cap=cap)
    for (n, before), query, key, value, got in zip(lengths, q, keys, values, out, strict=True):
        assert got.shape == (n, heads_q, 3)
        for i in range(n):
            for head in range(heads_q):
                rules = (causal, window, None if sinks is None else float(sinks[head]), cap)
                expected = one_query(query[i, head], key[:, head // group], value[:, head // group], before + i, rules)
                np.testing.assert_allclose(got[i, head], expected, rtol=1e-9, atol=1e-11)


def test_a_prefill_in_chunks_is_the_prefill() -> None:
    rng = np.random.default_rng(5)
    q, key, value = rng.normal(size=(9, 4, 8)), rng.normal(size=(9, 2, 8)), rng.normal(size=(9, 2, 8))
    (whole,) = attention([q], [key], [value], 0.3, window=4)
    chunks = [attention([q[i : i + 3]], [key[: i + 3]], [value[: i + 3]], 0.3, window=4)[0] for i in (0, 3, 6)]
    np.testing.assert_allclose(np.concatenate(chunks), whole, rtol=1e-12)
    steps = [decode_attention(q[i : i + 1], [key[: i + 1]], [value[: i + 1]], 0.3, window=4)[0] for i in range(9)]
    np.testing.assert_allclose(np.stack(steps), whole, rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 3, "causal": False}, "window is 3, causal False; allowed: 0, or with causal 1 or more"),
        ({"window": -1}, "window is -1, causal True; allowed"),
        ({"sinks": np.zeros(3)}, r"sequence 0: sinks have shape \(3,\); allowed: \[4\]"),
        ({"q": [np.zeros((5, 4, 8))]}, r"allowed: \[context >= 5, heads_kv, 8\]"),
        ({"q": []}, "0 q, 1 keys and 1 values; allowed: as many of each"),
    ],
)
def test_what_attention_cannot_mean_is_refused(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"q": [np.zeros((2, 4, 8))], "keys": [KEY], "values": [KEY], "scale": 1.0}
    with pytest.raises(ValueError, match=message):
        attention(**arguments | changes)


def online_in_fp8(q: Array, key: Array, value: Array, parts: list[list[int]], sink: float) -> Array:
    """One query of one head, tile by tile, its parts merged by their log-sum-exps; weights are rounded to e4m3."""
    merged, total, begin = np.zeros(value.shape[1]), 0.0, 0
    for number, part in enumerate(parts):
        highest, below, out = (sink, 1.0, 0.0 * merged) if number == 0 else (-math.inf, 0.0, 0.0 * merged)
        for tile in part:
            scores = [math.fsum(q * k) for k in key[begin : begin + tile]]
            shift = math.exp(highest - max(highest, *scores))
            highest = max(highest, *scores)
            weights = [math.exp(score - highest) for score in scores]
            rounded = [float(ml_dtypes.float8_e4m3fn(256 * weight)) / 256 for weight in weights]
            out = out * shift + sum(w * v for w, v in zip(rounded, value[begin : begin + tile], strict=True))
            below = below * shift + math.fsum(weights)
            begin += tile
        merged, total = merged + out * math.exp(highest), total + below * math.exp(highest)
    return merged / total


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3), st.integers(0, 99))
def test_weights_in_fp8_are_those_of_an_online_softmax_that_rounds_them(parts: list[list[int]], seed: int) -> None:
    rng, context = np.random.default_rng(seed), sum(map(sum, parts))
    q, key, value = rng.normal(0, 2, (1, 2, 3)), rng.normal(size=(context, 1, 3)), rng.normal(size=(context, 1, 2))
    sinks = rng.normal(size=2)
    (out,) = fp8_attention([q], [key], [value], 1.0, [parts], sinks=sinks)
    for head in range(2):
        expected = online_in_fp8(q[0, head], key[:, 0], value[:, 0], parts, float(sinks[head]))
        np.testing.assert_allclose(out[0, head], expected, rtol=1e-9, atol=1e-12)


def test_weights_that_e4m3_has_are_not_rounded() -> None:
    key = -math.log(2) * np.arange(18.0)[:, None, None]  # weights from 1 to 2^-17, times 256 from 2^8 to 2^-9
    value = np.arange(18.0)[:, None, None] ** 2
    q = [np.ones((1, 1, 1))]
    rounded, exact = fp8_attention(q, [key], [value], 1.0, [[[18]]]), attention(q, [key], [value], 1.0)
    np.testing.assert_allclose(rounded, exact, rtol=1e-12)
    (lost,) = fp8_attention(q, [key], [value], 1.0, [[[18]]], peak=1.0)  # those below 2^-10 are
    kept = sum(2.0**-i * i**2 for i in range(10)) / (2 - 2.0**-17)
    np.testing.assert_allclose(lost, kept, rtol=1e-12)


def test_tiles_that_are_not_the_context_are_refused() -> None:
    q, key = np.ones((1, 1, 1)), np.ones((5, 1, 1))
    with pytest.raises(ValueError, match=r"^fp8_attention: sequence 0: tiles \[\[2, 2\]\]; allowed: 5 keys in all"):
        fp8_attention([q], [key], [key], 1.0, [[[2, 2]]])
