from __future__ import annotations

import ml_dtypes
import numpy as np

from hwmodel.assembler import block
from hwmodel.vector import OPERATIONS, Work


def test_a_window_whose_gates_are_shut_counts_for_nothing() -> None:
    rng = np.random.default_rng(1)
    kv, gates, bias = (rng.normal(size=(rows, 3)).astype(np.float32) for rows in (4, 4, 2))
    one, both = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)
    OPERATIONS["pool_windows"].values([one, kv, gates, bias], 0.0, 2, 3, 2, 1)
    shut = [np.ones_like(kv), np.full_like(gates, -np.inf), bias]
    OPERATIONS["pool_windows"].values([both, kv, gates, bias, *shut], 0.0, 2, 3, 2, 2)
    np.testing.assert_allclose(both, one, rtol=1e-6)


def test_without_rounds_there_is_only_the_weight_with_which_streams_are_read() -> None:
    weights, streams = np.full((1, 4), -1, np.float32), np.array([[3.0], [4.0]], np.float32)
    logits, base, scales = np.array([[1.0, 2.0]]), np.array([[0.0, 0.5]]), np.array([[2.0]])
    OPERATIONS["stream_weights"].values([weights, streams, logits, base, scales], 0.0, 1, 2, 1, 0)
    exact = 1 / (1 + np.exp(-(2 * np.array([1.0, 2.0]) / np.sqrt(12.5) + [0, 0.5])))
    np.testing.assert_allclose(weights[0], [*exact, -1, -1], rtol=1e-6)


def test_streams_are_mixed_by_the_transposed_matrix() -> None:
    new = np.zeros((2, 1), ml_dtypes.bfloat16)
    streams, result = np.array([[1.0], [10.0]], np.float32), np.array([[100.0]], np.float32)
    weights = np.array([[9, 9, 1, 2, 0, 1, 0.5, 0]], np.float32)  # pre, post, mix
    OPERATIONS["expand_streams"].values([new, streams, result, weights], 0.0, 1, 2, 1)
    assert new.astype(float).tolist() == [[105.0], [201.0]]


def test_pooling_costs_an_exp_and_three_sums_an_element_and_narrow_operands_are_converted() -> None:
    wide, narrow = ([block("any", 64, 64, dtype)] * 7 for dtype in ("fp32", "bf16"))
    work = OPERATIONS["pool_windows"].work
    assert work(wide, 2, 8, 4, 2) == Work(alu=3 * 128 + 16, exp=128, reduce=3 * 128, convert=16)
    assert work(narrow, 2, 8, 4, 2).convert == 2 * 128 + 16
