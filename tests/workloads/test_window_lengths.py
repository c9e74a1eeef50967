from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workloads.window_lengths import Axis, axes


@given(
    stages=st.integers(2, 8),
    waves=st.integers(1, 64),
    tiles=st.integers(1, 512),
    tile_bytes=st.integers(1 << 10, 8 << 20),
    step_bytes=st.integers(1 << 20, 64 << 20),
)
def test_windows_differ_by_the_step(stages: int, waves: int, tiles: int, tile_bytes: int, step_bytes: int) -> None:
    items, kept = axes(stages, waves, tiles, float(tiles * tile_bytes), float(step_bytes))
    if items.is_whole and kept.is_whole:
        return
    more = [axis.whole if axis.is_whole else axis.long - axis.short for axis in (items, kept)]
    assert more[0] * more[1] * tile_bytes >= step_bytes


def test_items_and_tiles_share_the_step_so_that_windows_have_least_tiles() -> None:
    items, kept = axes(4, 16, 64, 64.0, 48.0)
    assert (items, kept) == (Axis(16, 1, 4), Axis(64, 4, 20))

    def tiles_of_all(more_waves: int) -> int:
        return (2 + more_waves) * (4 + 4 + 48 // more_waves)

    assert (items.short + items.long) * (kept.short + kept.long) == min(map(tiles_of_all, (1, 2, 3, 4, 6, 8)))
