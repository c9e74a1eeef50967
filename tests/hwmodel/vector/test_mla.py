from __future__ import annotations

import ml_dtypes
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.assembler import block
from hwmodel.vector import OPERATIONS, Work


def test_a_record_is_widened_by_the_scales_of_its_groups_and_keeps_its_tail() -> None:
    out = np.full((3, 7), -1, ml_dtypes.bfloat16)
    values = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]], ml_dtypes.float8_e4m3fn)
    scales = np.array([[2.0, 0.5], [1.0, 4.0], [1.0, 1.0]], ml_dtypes.float8_e8m0fnu)
    tail = np.array([[10, 11], [12, 13], [14, 15]], ml_dtypes.bfloat16)
    OPERATIONS["dequantise_record"].values([out, values, scales, tail], 0.0, 2, 4, 2, 2)
    assert out.astype(float).tolist() == [[2, 4, 1.5, 2, 10, 11, -1], [5, 6, 28, 32, 12, 13, -1], [-1] * 7]


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 20), st.integers(0, 2**31))
def test_masked_columns_of_a_softmax_count_as_if_they_were_not_there(
    heads: int, queries: int, more: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = heads * queries, queries + more
    scores = rng.normal(0, 4, (rows, columns)).astype(np.float32)
    width = 4
    maximum, total, accumulator = (np.full((rows, n), 7, np.float32) for n in (1, 1, 3))
    weights = np.zeros((rows, columns), np.float32)
    for first in range(0, columns, width):
        tile = scores[:, first : first + width]
        blocks = [np.zeros_like(tile), tile, maximum, total, accumulator]
        sizes = (rows, tile.shape[1], 1 - first, 0, more + 1 - first, heads)
        before = maximum.copy() if first else maximum + np.inf
        OPERATIONS["causal_softmax_step"].values(blocks, 0.5, *sizes)
        weights *= np.exp(before - maximum) if first else 0
        weights[:, first : first + width] = blocks[0]
    for row in range(rows):
        seen = more + 1 + row // heads
        exact = np.exp(0.5 * scores[row, :seen].astype(float))
        np.testing.assert_allclose(weights[row, :seen] / total[row], exact / exact.sum(), rtol=1e-4, atol=1e-6)
        assert not weights[row, seen:].any()


def test_widening_costs_two_conversions_a_value_and_one_for_its_tail() -> None:
    buffers = [block("any", 8, 16, "bf16")] * 4
    assert OPERATIONS["dequantise_record"].work(buffers, 8, 12, 3, 4) == Work(alu=96, convert=8 * (24 + 4))
    touched = OPERATIONS["dequantise_record"].touches(buffers, 8, 12, 3, 4)
    assert [(t.rows, t.columns, t.writes) for t in touched] == [
        (8, 16, True),
        (8, 12, False),
        (8, 3, False),
        (8, 4, False),
    ]
