from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workloads.numbering import within_owners


@given(st.lists(st.integers(0, 5), max_size=6))
def test_entries_are_numbered_within_their_owners(counts: list[int]) -> None:
    found = within_owners(np.array(counts, np.int64))
    expected = [(owner, number) for owner, count in enumerate(counts) for number in range(count)]
    assert list(zip(*map(np.ndarray.tolist, found), strict=True)) == expected
