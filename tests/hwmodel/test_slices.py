from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.hashing import hash_of
from hwmodel.slices import Slices

BURST = 32
RUNS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 200), st.integers(0, 10**5)), min_size=1, max_size=8)


@given(
    runs=RUNS, count=st.sampled_from([1, 2, 3, 8, 80]), line_bursts=st.sampled_from([1, 3, 4]), in_turn=st.booleans()
)
def test_a_run_passes_when_its_bursts_pass_one_by_one(
    runs: list[tuple[int, int, int]], count: int, line_bursts: int, in_turn: bool
) -> None:
    """Runs (first burst, how many, femtoseconds after the last one)."""
    together, alone = (Slices(count, line_bursts * BURST, BURST, 10**12, in_turn) for _ in range(2))
    now_fs = 0
    for first, bursts, later_fs in runs:
        now_fs += later_fs
        addresses = np.arange(first, first + bursts) * BURST
        done_fs = together.serve(addresses, 0, bursts, now_fs)
        assert done_fs == max(alone.serve(addresses, at, at + 1, now_fs) for at in range(bursts))
        assert together.free_fs.tolist() == alone.free_fs.tolist()
    assert together.bursts == alone.bursts


def test_slices_keep_their_hash_when_nobody_else_does() -> None:
    kept = Slices(80, 128, BURST, 10**12)
    hash_of.cache_clear()
    others = [np.full(len(hash_of(96)), 7, np.int64) for _ in range(50)]  # take the memory that may have been let go
    addresses = np.arange(100_000, 100_400) * BURST
    assert kept.serve(addresses, 0, 400, 0) == Slices(80, 128, BURST, 10**12).serve(addresses, 0, 400, 0)
    assert len(others) == 50
