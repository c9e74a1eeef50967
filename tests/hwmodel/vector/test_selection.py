from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.vector import OPERATIONS, Work


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(1, 9), st.integers(0, 2**31))
def test_selecting_tile_by_tile_is_selecting_from_the_whole_row(tiles: list[int], top_k: int, seed: int) -> None:
    row = np.random.default_rng(seed).integers(-2, 3, sum(tiles)).astype(np.float32)  # with equals among them
    positions, kept = np.full((1, top_k), 77, np.int32), np.full((1, top_k), 7, np.float32)  # of the item before
    begin = 0
    for tile in tiles:
        block = np.zeros((1, max(tiles)), np.float32)
        block[0, :tile] = row[begin : begin + tile]
        OPERATIONS["select_step"].values([positions, kept, block], 0.0, tile, begin, top_k)
        begin += tile
    expected = sorted(sorted(range(len(row)), key=lambda i: (-row[i], i))[:top_k])
    assert positions[0, : len(expected)].tolist() == expected
    assert kept[0, : len(expected)].tolist() == row[expected].tolist()
    assert (positions[0, len(expected) :] == 77).all()


def test_scores_are_summed_over_the_heads_of_a_query_and_scaled_by_key() -> None:
    products = np.array([[1, -1, 9], [2, 3, 9], [-4, 5, 9], [1, 1, 9]], np.float32)
    weights = np.array([[10, 1], [2, -1]], np.float32)
    out = np.zeros((2, 3), np.float32)
    OPERATIONS["index_scores"].values([out, products, weights], 0.0, 2, 2, 2)
    assert out.tolist() == [[12, 3, 0], [-1, 9, 0]]
    scales = np.array([[0.5, 2, 9]], np.float32)
    OPERATIONS["scaled_index_scores"].values([out, products, weights, scales], 0.0, 2, 2, 2)
    assert out.tolist() == [[6, 6, 0], [-0.5, 18, 0]]


def test_the_work_of_a_selection_follows_what_is_compared() -> None:
    work = OPERATIONS["select_step"].work
    assert work([], 100, 0, 64) == Work(alu=900, reduce=500)
    assert work([], 100, 4000, 64) == Work(alu=9 * 164, reduce=5 * 164)
    assert OPERATIONS["index_scores"].work([], 2, 10, 3) == Work(alu=120, reduce=60)
    assert OPERATIONS["scaled_index_scores"].work([], 2, 10, 3) == Work(alu=140, reduce=60)
