"""Appending to the cache and choosing the largest, beside loops over plain lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_ref.kv_append import kv_append
from kernels_ref.sampling import top_k

seeds = st.integers(0, 2**32 - 1)


@given(st.integers(1, 5), st.integers(1, 9), seeds)
def test_the_largest_come_first_and_equal_ones_by_the_lower_index(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-3, 3, (rows, columns)).astype(np.float16)
    k = int(rng.integers(1, columns + 1))
    values, indices = top_k(logits, k)
    assert values.dtype == np.float16
    for row, found, where in zip(logits.tolist(), values.tolist(), indices.tolist(), strict=True):
        left = list(enumerate(row))
        for value, index in zip(found, where, strict=True):
            best = max(left, key=lambda entry: (entry[1], -entry[0]))
            assert (index, value) == best
            left.remove(best)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), seeds, st.booleans())
def test_a_token_lies_in_its_slot_and_nothing_else_has_changed(
    pages: int, heads: int, page_size: int, seed: int, quantised: bool
) -> None:
    rng = np.random.default_rng(seed)
    pool = rng.normal(size=(pages, 2, heads, page_size, 2))
    tokens = int(rng.integers(1, pages * page_size + 1))
    slots = rng.permutation(pages * page_size)[:tokens]
    new = rng.normal(size=(2, tokens, heads, 2))
    scales = rng.uniform(0.01, 2, 2)
    options = (scales, 5.0) if quantised else ()
    out = kv_append(pool, new[0], new[1], slots, *options)
    for page, part, head, place, element in np.ndindex(pool.shape):
        (token,) = np.nonzero(slots == page * page_size + place)
        expected = pool[page, part, head, place, element]
        if len(token):
            expected = new[part, token[0], head, element]
            if quantised:
                expected = min(5.0, max(-5.0, expected / scales[part]))
        assert out[page, part, head, place, element] == pytest.approx(expected, rel=1e-12)


POOL, ROWS = np.zeros((2, 2, 1, 4, 3)), np.zeros((2, 1, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_k(np.zeros((2, 3)), 4), r"^top_k: logits are \(2, 3\) and k 4; allowed"),
        (lambda: kv_append(POOL, ROWS, ROWS[:1], np.arange(2)), r"^kv_append: values are \(1, 1, 3\); allowed"),
        (lambda: kv_append(POOL, ROWS, ROWS, np.array([0, 8])), r"^kv_append: slots \[0, 8\]; allowed: 0 to 7"),
        (lambda: kv_append(POOL, ROWS, ROWS, np.array([3, 3])), r"^kv_append: slots \[3, 3\]; allowed: .* each once"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
