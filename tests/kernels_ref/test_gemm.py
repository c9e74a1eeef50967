from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels_ref.gemm import gemm

sizes = st.integers(1, 6)


@given(sizes, sizes, sizes, st.integers(0, 2**32 - 1))
def test_every_element_is_the_sum_of_products_along_k(m: int, n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.integers(-100, 100, (m, k))
    b = rng.integers(-100, 100, (k, n))
    expected = [[sum(int(a[i, p]) * int(b[p, j]) for p in range(k)) for j in range(n)] for i in range(m)]
    assert gemm(a, b).tolist() == expected  # whole numbers this small are exact in float64


def test_narrow_operands_are_widened_before_they_are_multiplied() -> None:
    ones = np.full((1, 4096), 100, dtype=np.int8)
    product = gemm(ones, ones.T)
    assert product.dtype == np.float64
    assert product.item() == 4096 * 100 * 100
    third = np.full((1, 1000), 1 / 3, dtype=np.float16)
    assert gemm(third, third.T).item() == pytest.approx(1000 * float(third[0, 0]) ** 2, rel=1e-12)


def test_matrices_whose_inner_sizes_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a is \(2, 3\) and b is \(4, 5\)"):
        gemm(np.zeros((2, 3)), np.zeros((4, 5)))


def test_an_operand_that_is_no_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"b has shape \(3,\); allowed: two axes"):
        gemm(np.zeros((2, 3)), np.zeros(3))
