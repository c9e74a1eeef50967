from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.vector import OPERATIONS, Work


@given(st.integers(1, 9), st.integers(0, 2**31))
def test_the_inverse_of_a_chunk_solves_its_system(tokens: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(tokens, 4))
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    queries = rng.normal(size=(tokens, 4))
    decay, strength = -rng.exponential(size=(1, tokens)), rng.uniform(size=(1, tokens))
    inverse, attention = (np.full((tokens, tokens), 9, np.float32) for _ in range(2))
    products = [(a @ keys.T).astype(np.float32) for a in (keys, queries)]
    blocks = [inverse, attention, *products, decay.astype(np.float32), strength.astype(np.float32)]
    OPERATIONS["solve_chunk"].values(blocks, 0.5, tokens)
    system, expected = np.eye(tokens), np.zeros((tokens, tokens))
    for i in range(tokens):
        for j in range(i + 1):
            between = np.exp(decay[0, j + 1 : i + 1].sum())
            expected[i, j] = 0.5 * between * (queries[i] @ keys[j])
            if j < i:
                system[i, j] = strength[0, i] * between * (keys[i] @ keys[j])
    np.testing.assert_allclose(system @ inverse, np.diag(strength[0]), atol=1e-5)
    np.testing.assert_allclose(attention, expected, rtol=1e-4, atol=1e-5)


def test_a_step_replaces_what_the_key_reads_and_leaves_the_rest() -> None:
    states = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.float32)  # two heads of two keys and two values
    q, k = np.array([[0, 1]], np.float32), np.array([[1, 0]], np.float32)
    v, out = np.array([[10, 10], [20, 20]], np.float32), np.zeros((2, 2), np.float32)
    decay, strength = np.log(np.array([[1.0, 0.5], [1.0, 1.0]], np.float32)), np.array([[1.0, 0.5]], np.float32)
    OPERATIONS["delta_step"].values([out, states, q, k, v, decay, strength], 2.0, 2, 2, 2, 2, 2)
    assert states.tolist() == [[10, 10], [1.5, 2], [12.5, 13], [7, 8]]
    assert out.tolist() == [[3, 4], [14, 16]]


def test_the_work_of_a_step_is_seven_operations_per_element_of_the_state() -> None:
    assert OPERATIONS["delta_step"].work([], 4, 8, 16, 2, 1) == Work(alu=7 * 512, exp=4, convert=32 + 128)
    assert OPERATIONS["solve_chunk"].work([], 3) == Work(alu=42 + 8, exp=6, reduce=3)
    assert OPERATIONS["fade_state"].work([], 3, 8, 16) == Work(alu=128, exp=1, reduce=3)
