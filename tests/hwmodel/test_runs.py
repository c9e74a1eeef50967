from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.runs import BEGIN, BURSTS, bursts_of, runs_of


@given(
    numbers=st.lists(st.integers(0, 40), max_size=40), skipped=st.integers(0, 5), burst_bytes=st.sampled_from([32, 64])
)
def test_runs_are_the_same_bursts_in_the_same_order_and_as_long_as_they_can_be(
    numbers: list[int], skipped: int, burst_bytes: int
) -> None:
    bursts = np.array(numbers, np.int64) * burst_bytes
    first = min(skipped, len(bursts))
    runs = runs_of(bursts, first, len(bursts), burst_bytes)
    assert bursts_of(runs, burst_bytes).tolist() == bursts[first:].tolist()
    for one, other in pairwise(runs.tolist()):
        assert one[BEGIN] + one[BURSTS] * burst_bytes != other[BEGIN]
