"""What the tests of attention share: how far a computed result may be from the exact one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}


def tolerance(problem: Any, q: Sequence[Any], keys: Sequence[Any], values: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Return how far the results of a problem may be from the exact ones, per query: [queries, 1, 1].

    Two roundings to the dtype: of the weights (each at most 1, their sum at least 1) and of the result; both are
    relative, so both are at most u of the largest value. Everything else is fp32: a score is a sum of `head_dim`
    products, rescaled; an error of a score is a relative error of its weight, in numerator and denominator; sums run
    over the context; exp, the rescaling per tile and the merge of parts are a few roundings each, and a log-sum-exp
    is as large as the largest score. A soft cap adds a few roundings of numbers as large as it. fp16 also loses what
    is below its smallest number, 2**-24.
    """
    u, w = UNIT_ROUNDOFF[problem.dtype], UNIT_ROUNDOFF["fp32"]
    limits = []
    for query, k, v in zip(q, keys, values, strict=True):
        largest = [float(np.abs(side.astype(float)).max()) for side in (query, k, v)]
        score = largest[0] * largest[1] * problem.head_dim**0.5 + 2 * problem.soft_cap
        fp32 = w * (2 * (problem.head_dim + 8) * score + 4 * len(k) + 32)
        subnormal = 2.0**-25 * len(k) if problem.dtype == "fp16" else 0.0
        limits.append((2 * u + u * u + fp32 + subnormal) * largest[2] + subnormal)
    return np.repeat(limits, [len(query) for query in q])[:, None, None]


@pytest.fixture(scope="session")
def attention_tolerance() -> Callable[..., np.ndarray[Any, Any]]:
    return tolerance
