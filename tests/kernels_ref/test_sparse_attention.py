from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_ref.attention import attention
from kernels_ref.mla import mla_decode
from kernels_ref.sparse_attention import index_scores, select, sparse_gqa, sparse_mla


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_a_score_is_the_weighted_sum_of_what_is_positive(
    queries: int, heads: int, dim: int, context: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    q, keys = rng.normal(size=(queries, heads, dim)), rng.normal(size=(context, dim))
    weights = rng.normal(size=(queries, heads))
    scores = index_scores(q, keys, weights)
    for t in range(queries):
        for s in range(context):
            products = [math.fsum(q[t, j] * keys[s]) for j in range(heads)]
            expected = math.fsum(weights[t, j] * p for j, p in enumerate(products) if p > 0)
            assert scores[t, s] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=12), st.integers(1, 13), st.integers(1, 3))
def test_the_selected_are_the_best_of_what_is_seen_and_of_equals_the_earlier(
    row: list[int], top_k: int, queries: int
) -> None:
    queries = min(queries, len(row))
    chosen = select(np.array([row] * queries), top_k)
    for query, positions in enumerate(chosen):
        seen = row[: len(row) - queries + 1 + query]
        expected = sorted(range(len(seen)), key=lambda i: (-seen[i], i))[:top_k]
        assert positions.tolist() == sorted(expected)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_attention_over_all_tokens_that_are_seen_is_dense_attention(queries: int, more: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, keys = rng.normal(size=(queries, 2, 4)), rng.normal(size=(queries + more, 4))
    positions = select(rng.normal(size=(queries, len(keys))), len(keys))
    dense = mla_decode(q[None], [keys], 3, 0.7)[0]
    np.testing.assert_allclose(sparse_mla(q, keys, positions, 3, 0.7), dense, rtol=1e-10, atol=1e-12)


def test_tokens_that_are_not_selected_do_not_count() -> None:
    q, keys = np.ones((1, 1, 2)), np.array([[9.0, 9.0], [1.0, 2.0], [1.0, 2.0]])
    assert sparse_mla(q, keys, [np.array([1, 2])], 2, 1.0).tolist() == [[[1.0, 2.0]]]
    with pytest.raises(ValueError, match=r"^sparse_mla: \[0\] positions; allowed: some for each of 1 queries"):
        sparse_mla(q, keys, [np.array([], int)], 2, 1.0)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_grouped_attention_over_all_tokens_that_are_seen_is_dense_attention(queries: int, more: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, (k, v) = rng.normal(size=(queries, 4, 5)), rng.normal(size=(2, queries + more, 2, 5))
    positions = select(rng.normal(size=(queries, len(k))), len(k))
    (dense,) = attention([q], [k], [v], 0.7)
    np.testing.assert_allclose(sparse_gqa(q, k, v, positions, 0.7), dense, rtol=1e-10, atol=1e-12)


def test_of_one_selected_token_the_value_is_the_result() -> None:
    values = np.arange(12.0).reshape(3, 2, 2)
    found = sparse_gqa(np.ones((1, 4, 2)), np.ones((3, 2, 2)), values, [np.array([1])], 1.0)
    assert found.tolist() == [[[4, 5], [4, 5], [6, 7], [6, 7]]]
