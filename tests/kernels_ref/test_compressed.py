from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_ref.attention import attention
from kernels_ref.compressed import collapse, compress, compressed_attention, expand, stream_weights

seeds = st.integers(0, 2**32 - 1)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(1, 5), seeds)
def test_without_entries_it_is_attention_over_a_window_with_sinks(
    context: int, queries: int, heads: int, window: int, seed: int
) -> None:
    queries = min(queries, context)
    rng = np.random.default_rng(seed)
    q, tokens, sinks = rng.normal(size=(queries, heads, 4)), rng.normal(size=(context, 4)), rng.normal(size=heads)
    found = compressed_attention(q, tokens, np.empty((0, 4)), window, 0, None, sinks, 0.7)
    keys = tokens[:, None]
    (expected,) = attention([q], [keys], [keys], 0.7, window=window, sinks=sinks)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@given(st.integers(1, 16), st.integers(1, 5), st.integers(1, 5), seeds)
def test_a_query_sees_its_window_and_the_entries_whose_tokens_have_all_been(
    context: int, window: int, ratio: int, seed: int
) -> None:
    """Keys are unit vectors and scores are nought, so the result counts what a query sees, and the sink."""
    size = context + context // ratio
    keys = np.eye(size)
    found = compressed_attention(
        np.zeros((context, 1, size)), keys[:context], keys[context:], window, ratio, None, np.zeros(1), 1.0
    )
    for t in range(context):
        tokens = list(range(max(0, t - window + 1), t + 1))
        entries = [context + e for e in range(context // ratio) if (e + 1) * ratio - 1 <= t]
        expected = np.zeros(size)
        expected[tokens + entries] = 1 / (len(tokens) + len(entries) + 1)
        np.testing.assert_allclose(found[t, 0], expected, rtol=1e-12)


def test_only_entries_that_are_chosen_count_and_later_ones_are_refused() -> None:
    tokens, entries = np.zeros((4, 2)), np.array([[3.0, 0.0], [0.0, 3.0]])
    q, sinks = np.zeros((1, 1, 2)), np.full(1, -np.inf)
    found = compressed_attention(q, tokens, entries, 1, 2, [np.array([1])], sinks, 1.0)
    assert found.tolist() == [[[0.0, 1.5]]]
    with pytest.raises(ValueError, match="an entry that stands for a token after it"):
        compressed_attention(np.zeros((4, 1, 2)), tokens, entries, 1, 2, [np.array([1])] * 4, sinks, 1.0)


@given(st.integers(1, 4), st.integers(0, 13), st.booleans(), seeds)
def test_an_entry_is_a_softmax_over_the_tokens_of_its_windows(
    ratio: int, tokens: int, overlap: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    width, dim = (6, 3) if overlap else (3, 3)
    kv, gates = rng.normal(size=(tokens, width)), rng.normal(size=(tokens, width))
    bias = rng.normal(size=(ratio, width))
    found = compress(kv, gates, bias, overlap)
    assert found.shape == (tokens // ratio, dim)
    for entry in range(tokens // ratio):
        for channel in range(dim):
            parts = [(t, t % ratio, width - dim + channel) for t in range(entry * ratio, (entry + 1) * ratio)]
            if overlap and entry:
                parts += [(t, t % ratio, channel) for t in range((entry - 1) * ratio, entry * ratio)]
            weights = [math.exp(gates[t, c] + bias[place, c]) for t, place, c in parts]
            expected = math.fsum(w * kv[t, c] for w, (t, _, c) in zip(weights, parts, strict=True)) / math.fsum(weights)
            assert found[entry, channel] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.integers(1, 4), st.integers(2, 4), seeds)
def test_many_rounds_bring_the_mix_near_a_doubly_stochastic_matrix(tokens: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    streams = rng.normal(size=(tokens, n, 8))
    fn, base = rng.normal(size=((2 + n) * n, 8 * n)), rng.normal(size=(2 + n) * n)
    pre, post, mix = stream_weights(streams, 0.3 * fn, base, np.ones(3), 60, 1e-6)
    assert ((pre > 0) & (pre < 1.001) & (post > 0) & (post < 2)).all()
    np.testing.assert_allclose(mix.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(mix.sum(axis=2), 1, atol=2e-2)


def test_weights_do_not_depend_on_the_size_of_the_streams() -> None:
    rng = np.random.default_rng(3)
    streams, fn = rng.normal(size=(3, 4, 8)), rng.normal(size=(24, 32))
    one, ten = (stream_weights(scale * streams, fn, np.zeros(24), np.ones(3), 20, 1e-12) for scale in (1, 10))
    for a, b in zip(one, ten, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_a_block_reads_a_sum_and_writes_to_every_stream() -> None:
    streams = np.array([[[1.0, 2.0], [10.0, 20.0]]])
    assert collapse(streams, np.array([[1.0, 0.5]])).tolist() == [[6.0, 12.0]]
    mix = np.array([[[0.0, 1.0], [0.5, 0.0]]])  # stream 0 becomes half of stream 1, stream 1 becomes stream 0
    new = expand(streams, np.array([[100.0, 0.0]]), np.array([[1.0, 2.0]]), mix)
    assert new.tolist() == [[[105.0, 10.0], [201.0, 2.0]]]
