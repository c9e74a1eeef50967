from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.vector import OPERATIONS, Work


@given(st.integers(1, 9), st.integers(1, 5), st.floats(0.1, 100), st.integers(0, 2**31))
def test_blocks_of_any_size_give_every_product_of_a_token_with_those_up_to_it(
    tokens: int, block: int, strongest: float, seed: int
) -> None:
    """However strong the decays are: no factor overflows."""
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(2, tokens, 3)).astype(np.float32)
    decay = (-strongest * rng.uniform(size=(tokens, 3))).astype(np.float32)
    faded = decay.copy()
    OPERATIONS["sum_decays"].values([faded], 0.0, tokens, 3)
    key_products, query_products = np.zeros((2, tokens, tokens), np.float32)
    for first in range(0, tokens, block):
        then_keys, then_queries = np.zeros((2, block, 3), np.float32)
        back = np.zeros((tokens, 3), np.float32)
        if first:
            OPERATIONS["fade_block"].values([then_keys, then_queries, back, q, k, faded], 0.0, tokens, first, block, 3)
        before = [then @ back[:first].T for then in (then_keys, then_queries)]
        blocks = [key_products, query_products, *before, q, k, faded]
        OPERATIONS["pair_block"].values(blocks, 0.0, tokens, first, block, 3)
    for i in range(tokens):
        for j in range(i + 1):
            between = np.exp(decay[j + 1 : i + 1].astype(float).sum(axis=0))
            for found, left in ((key_products, k), (query_products, q)):
                exact = (left[i].astype(float) * k[j] * between).sum()
                size = (np.abs(left[i].astype(float) * k[j]) * between).sum()
                near = 2.0**-22 * (8 + tokens * strongest * tokens)  # roundings of sums of decays, and of products
                assert abs(found[i, j] - exact) <= near * size + 1e-37


def test_a_pair_costs_an_exp_per_channel_and_the_rest_of_a_block_a_copy() -> None:
    assert OPERATIONS["pair_block"].work([], 10, 8, 4, 3) == Work(
        alu=4 * 3 * 3 + 2 * 2 * 8, exp=3 * 3, reduce=2 * 3 * 3, convert=2 * 2 * 3
    )
    assert OPERATIONS["fade_block"].work([], 10, 8, 4, 3) == Work(
        alu=(3 * 2 + 2 * 8) * 3, exp=10 * 3, convert=(2 * 2 + 8) * 3
    )
    assert OPERATIONS["solve_faded_chunk"].work([], 3) == Work(alu=12 + 8)
