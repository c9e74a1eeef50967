"""Norms, softmax, SwiGLU and rotary embedding beside formulas written another way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special

from kernels_ref.activation import gelu, swiglu
from kernels_ref.norm import layer_norm, rms_norm, softmax
from kernels_ref.rope import rope, rotation_angles

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 9)


@given(sizes, sizes, seeds)
def test_a_normed_row_is_its_direction_times_the_root_of_its_length(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weight = rng.normal(size=(rows, columns)), rng.normal(size=columns)
    for row, out in zip(x, rms_norm(x, weight, 1e-6), strict=True):
        scale = math.sqrt(math.fsum(v * v for v in row) / columns + 1e-6)
        np.testing.assert_allclose(out, [v / scale * w for v, w in zip(row, weight, strict=True)], rtol=1e-12)


@given(sizes, st.integers(2, 9), seeds)
def test_a_layer_norm_has_the_mean_of_its_bias_and_forgets_shift_and_scale(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, bias = rng.normal(size=(rows, columns)), rng.normal(size=columns)
    out = layer_norm(x, np.ones(columns), bias, 0.0)
    np.testing.assert_allclose((out - bias).mean(axis=1), 0, atol=1e-9)
    np.testing.assert_allclose((out - bias).std(axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(layer_norm(3 * x + 7, np.ones(columns), bias, 0.0), out, atol=1e-6)
    weighed = layer_norm(x, np.full(columns, 2.0), np.zeros(columns), 0.0)
    np.testing.assert_allclose(weighed, 2 * (out - bias), atol=1e-9)
    with pytest.raises(ValueError, match=r"^layer_norm: x is .*; allowed: one of each per column$"):
        layer_norm(x, np.ones(columns), np.ones(columns + 1), 0.0)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=9))
def test_gelu_is_near_the_number_times_the_normal_distribution_up_to_it(values: list[float]) -> None:
    x = np.array(values)
    np.testing.assert_allclose(gelu(x), x * special.ndtr(x), atol=5e-4)  # the form with tanh is that near
    np.testing.assert_allclose(gelu(x) - gelu(-x), x, atol=1e-12)


@given(sizes, sizes, seeds, st.sampled_from([1.0, 0.5, 30.0]))
def test_softmax_equals_that_of_scipy(rows: int, columns: int, seed: int, scale: float) -> None:
    x = np.random.default_rng(seed).normal(size=(rows, columns)) * 20
    np.testing.assert_allclose(softmax(x, scale), special.softmax(scale * x, axis=1), rtol=1e-10, atol=1e-300)


@given(st.lists(st.floats(-600, 600), min_size=1, max_size=9), seeds)
def test_swiglu_is_the_gate_times_its_logistic_times_the_up(gates: list[float], seed: int) -> None:
    gate, up = np.array(gates), np.random.default_rng(seed).normal(size=len(gates))
    np.testing.assert_allclose(swiglu(gate, up), gate * special.expit(gate) * up, rtol=1e-12, atol=1e-300)


@given(sizes, st.integers(1, 4), st.integers(1, 5), seeds, st.sampled_from(["neox", "interleaved"]))
def test_rope_multiplies_every_pair_by_a_rotation_matrix(
    tokens: int, heads: int, half: int, seed: int, style: str
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, heads, 2 * half))
    positions = rng.integers(0, 1000, tokens)
    angles = rotation_angles(positions, 2 * half)
    out = rope(x, np.cos(angles), np.sin(angles), style)
    for t, h, i in np.ndindex(tokens, heads, half):
        pair = [i, i + half] if style == "neox" else [2 * i, 2 * i + 1]
        theta = positions[t] * 10000.0 ** (-i / half)
        rotation = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
        np.testing.assert_allclose(out[t, h, pair], rotation @ x[t, h, pair], rtol=1e-9, atol=1e-9)


@given(sizes, st.integers(1, 5), seeds, st.integers(0, 100), st.sampled_from(["neox", "interleaved"]))
def test_products_of_turned_vectors_depend_on_the_distance_alone(
    first: int, half: int, seed: int, distance: int, style: str
) -> None:
    q, k = np.random.default_rng(seed).normal(size=(2, 1, 1, 2 * half))

    def product(start: int) -> float:
        angles = rotation_angles(np.array([[start], [start + distance]]), 2 * half)
        turned = [rope(v, np.cos(a), np.sin(a), style) for v, a in zip((q, k), angles, strict=True)]
        return float((turned[0] * turned[1]).sum())

    assert product(first) == pytest.approx(product(0), rel=1e-9, abs=1e-9)


ROW = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rms_norm(ROW, np.zeros(2), 0.1), r"^rms_norm: x is \(2, 3\) and weight \(2,\); allowed"),
        (lambda: swiglu(ROW, ROW[:1]), r"^swiglu: gate is \(2, 3\) and up \(1, 3\); they must be equal"),
        (lambda: rope(np.zeros((2, 1, 3)), ROW, ROW), r"^rope: x has shape \(2, 1, 3\); allowed: .*even dim"),
        (lambda: rope(np.zeros((2, 1, 4)), ROW, ROW), r"^rope: cosine is \(2, 3\) .*; allowed: \(2, 2\)"),
        (lambda: rope(np.zeros((2, 1, 6)), ROW, ROW, "gptj"), r"^rope: style is 'gptj'; allowed: neox, interleaved"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_narrow_operands_are_widened_first() -> None:
    rng = np.random.default_rng(2)
    narrow: NDArray[Any] = rng.normal(size=(4, 8)).astype(np.float16)
    assert np.array_equal(softmax(narrow), softmax(narrow.astype(float)))
    assert np.array_equal(
        rms_norm(narrow, narrow[0], 1e-5), rms_norm(narrow.astype(float), narrow[0].astype(float), 1e-5)
    )
    assert np.array_equal(swiglu(narrow, narrow), swiglu(narrow.astype(float), narrow.astype(float)))
