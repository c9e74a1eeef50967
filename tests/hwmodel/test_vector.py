from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.assembler import block
from hwmodel.description import VectorSpec
from hwmodel.vector import OPERATIONS, Work

UNIT = VectorSpec(alu=8, exp=2, reduce=4, convert=3)


@pytest.mark.parametrize(
    ("work", "cycles"),
    [(Work(alu=17), 3), (Work(exp=17), 9), (Work(alu=16, exp=1), 2), (Work(reduce=5, convert=9), 3), (Work(), 0)],
)
def test_an_operation_takes_as_long_as_its_slowest_class(work: Work, cycles: int) -> None:
    assert work.cycles(UNIT) == cycles


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**31))
def test_softmax_over_tiles_is_softmax_over_the_whole_row(tiles: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, width, scale = 3, 4, 0.5
    scores = rng.normal(0, 6, (rows, sum(tiles))).astype(np.float32)
    values = rng.standard_normal((sum(tiles), width)).astype(np.float32)
    block = np.zeros((rows, max(tiles)), np.float32)
    maximum, total, accumulator = (np.full((rows, n), 7, np.float32) for n in (1, 1, width))  # of the item before
    begin = 0
    for i, tile in enumerate(tiles):
        here = slice(begin, begin + tile)
        block[:, :tile] = scores[:, here]
        probabilities = np.zeros((rows, max(tiles)), np.float32)
        blocks = [probabilities, block, maximum, total, accumulator]
        OPERATIONS["softmax_step"].values(blocks, scale, rows, tile, 1 - i)
        accumulator += probabilities[:, :tile] @ values[here]
        begin += tile
    out = np.zeros((rows, width), np.float32)
    OPERATIONS["normalise"].values([out, accumulator, total], 0.0, rows, width)
    weights = np.exp(scale * scores.astype(float))
    np.testing.assert_allclose(out, weights @ values / weights.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-5)


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_merging_partial_results_by_their_log_sum_exps_is_the_whole_result(parts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, width, tokens = 2, 3, 5
    scores = rng.normal(0, 5, (parts, rows, tokens)).astype(np.float32)
    values = rng.standard_normal((parts, tokens, width)).astype(np.float32)
    partials = np.zeros((parts * rows, width + 1), np.float32)
    for part in range(parts):
        maximum = scores[part].max(axis=1, keepdims=True)
        weights = np.exp(scores[part] - maximum)
        operands = [weights @ values[part], maximum, weights.sum(axis=1, keepdims=True)]
        OPERATIONS["partial"].values([partials[part * rows : (part + 1) * rows], *operands], 0.0, rows, width)
    out = np.zeros((rows, width), np.float32)
    OPERATIONS["combine"].values([out, partials], 0.0, parts, rows, width)
    exact = np.exp(scores.astype(float))
    expected = np.einsum("prt,ptw->rw", exact, values) / exact.sum(axis=(0, 2))[:, None]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_sum_and_convert_touch_only_the_given_rows_and_columns() -> None:
    partials = np.arange(24, dtype=np.float32).reshape(6, 4)
    out = np.full((3, 4), -1, np.float32)
    OPERATIONS["sum"].values([out, partials], 0.0, 3, 2, 3)
    np.testing.assert_array_equal(out[:2, :3], [[24, 27, 30], [36, 39, 42]])
    assert (out[2] == -1).all()
    assert (out[:, 3] == -1).all()
    OPERATIONS["convert"].values([out, partials], 0.0, 1, 2)
    assert out[0].tolist() == [0, 1, 30, -1]


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 6),
    st.sampled_from([0, 7, 20]),
    st.integers(0, 2**31),
)
def test_masked_steps_after_a_sink_are_the_softmax_of_what_is_seen(
    tiles: list[int], heads: int, queries: int, window: int, cap: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, width, tokens = heads * queries, 4, sum(tiles)
    position = rng.integers(0, tokens) + np.arange(rows) // heads
    scores = rng.normal(0, 6, (rows, tokens)).astype(np.float32)
    values = rng.standard_normal((tokens, width)).astype(np.float32)
    sinks = rng.normal(0, 3, (1, heads)).astype(np.float32)
    maximum, total, accumulator = (np.full((rows, n), 7, np.float32) for n in (1, 1, width))
    OPERATIONS["start_with_sink"].values([maximum, total, accumulator, sinks], 0.0, rows, heads, 1)
    begin = 0
    for tile in tiles:
        block, probabilities = np.zeros((2, rows, max(tiles)), np.float32)
        block[:, :tile] = scores[:, begin : begin + tile]
        if cap:
            OPERATIONS["soft_cap"].values([block], 0.5, rows, tile, cap)
        blocks = [probabilities, block, maximum, total, accumulator]
        where = (int(position[0]) - begin, heads, window)
        OPERATIONS["masked_softmax_step"].values(blocks, 1.0 if cap else 0.5, rows, tile, 0, *where)
        accumulator += probabilities[:, :tile] @ values[begin : begin + tile]
        begin += tile
    out = np.zeros((rows, width), np.float32)
    OPERATIONS["normalise"].values([out, accumulator, total], 0.0, rows, width)
    exact = 0.5 * scores.astype(float)
    weights = np.exp(cap * np.tanh(exact / cap) if cap else exact)
    behind = position[:, None] - np.arange(tokens)
    weights[(behind < 0) | ((behind >= window) & (window > 0))] = 0
    below = weights.sum(axis=1) + np.exp(sinks[0, np.arange(rows) % heads].astype(float))
    np.testing.assert_allclose(out, weights @ values / below[:, None], rtol=1e-4, atol=1e-5)


def test_a_row_that_saw_nothing_weighs_nothing_when_parts_are_merged() -> None:
    maximum, total, accumulator = np.full((2, 1), -np.inf, np.float32), np.zeros((2, 1), np.float32), np.zeros((2, 3))
    maximum[1], total[1], accumulator[1] = 0.5, 2.0, (2.0, 4.0, 6.0)
    partials = np.ones((4, 4), np.float32)
    OPERATIONS["partial"].values([partials[2:], accumulator, maximum, total], 0.0, 2, 3)
    out = np.zeros((2, 3), np.float32)
    OPERATIONS["combine"].values([out, partials], 0.0, 2, 2, 3)
    weight = 2 * np.exp(0.5) / (2 * np.exp(0.5) + np.e)
    np.testing.assert_allclose(out[0], [1, 1, 1])
    np.testing.assert_allclose(out[1], weight * np.array([1, 2, 3]) + (1 - weight), rtol=1e-6)


def test_weights_in_e4m3_are_stored_times_256_and_results_take_that_and_the_scales_back() -> None:
    scales = np.array([[0.5, 4.0, 3.0]], np.float32)  # of queries, keys and values
    scores = -np.log(2) / 2 * np.array([[0, 1, 9, 17, 19]], np.float32)  # the scales of both multiply them by 2
    weights = np.zeros((1, 5), ml_dtypes.float8_e4m3fn)
    maximum, total, accumulator = (np.full((1, n), 7, np.float32) for n in (1, 1, 2))
    OPERATIONS["softmax_step"].values([weights, scores, maximum, total, accumulator, scales], 1.0, 1, 5, 1)
    assert weights.astype(float).tolist() == [[256, 128, 0.5, 2.0**-9, 0]]
    np.testing.assert_allclose(total, 1 + 2.0**-1 + 2.0**-9 + 2.0**-17 + 2.0**-19, rtol=1e-6)
    accumulator[:] = 256, 512
    out, partial = np.zeros((1, 2), np.float32), np.zeros((1, 3), np.float32)
    OPERATIONS["normalise"].values([out, accumulator, total, scales], 1 / 256, 1, 2)
    np.testing.assert_allclose(out, np.array([[3, 6]]) / total, rtol=1e-6)
    OPERATIONS["partial"].values([partial, accumulator, maximum, total, scales], 1 / 256, 1, 2)
    np.testing.assert_allclose(partial, np.array([[3, 6, 0]]) / total + [0, 0, np.log(total[0, 0])], rtol=1e-6)
    OPERATIONS["soft_cap"].values([scores, scales], 1.0, 1, 5, 3)
    np.testing.assert_allclose(scores[0, 1], 3 * np.tanh(-np.log(2) / 3), rtol=1e-6)


def test_scales_are_read_and_cost_a_division_per_row() -> None:
    state = [block("", 6, n, "fp32") for n in (8, 8, 1, 1, 5)]
    scales = block("", 1, 3, "fp32")
    for name, operands, sizes, alu in (
        ("softmax_step", state, (6, 8, 0), 0),
        ("masked_softmax_step", state, (6, 8, 0, 3, 2, 4), 0),
        ("soft_cap", state[1:2], (6, 8, 30), 0),
        ("normalise", [state[4], state[4], state[2]], (6, 5), 6),
        ("partial", [block("", 6, 6, "fp32"), state[4], state[2], state[3]], (6, 5), 6),
    ):
        plain, scaled = (OPERATIONS[name].work(buffers, *sizes) for buffers in (operands, [*operands, scales]))
        assert (scaled.alu - plain.alu, scaled.exp, scaled.convert) == (alu, plain.exp, plain.convert)
        touches = OPERATIONS[name].touches([*operands, scales], *sizes)
        assert touches == (*OPERATIONS[name].touches(operands, *sizes), (len(operands), 1, 3, True, False))


@pytest.mark.parametrize(
    ("offset", "window", "edges"),
    [(7, 0, 0), (6, 0, 1), (-3, 0, 1), (7, 9, 1), (7, 10, 0), (3, 4, 2), (7, 11, 0)],
)
def test_mask_comparisons_are_counted_for_the_edges_that_run_through_the_tile(
    offset: int, window: int, edges: int
) -> None:
    heads, rows, columns = 2, 6, 8  # queries at offset, offset + 1, offset + 2
    buffers = [block("", rows, n, "fp32") for n in (columns, columns, 1, 1, 5)]
    plain = OPERATIONS["softmax_step"].work(buffers, rows, columns, 0)
    masked = OPERATIONS["masked_softmax_step"].work(buffers, rows, columns, 0, offset, heads, window)
    assert masked.alu - plain.alu == 2 * edges * rows * columns
    assert (masked.exp, masked.reduce, masked.convert) == (plain.exp, plain.reduce, plain.convert)
