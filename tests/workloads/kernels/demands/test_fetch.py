from __future__ import annotations

from itertools import permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.dma import tile_bursts
from hwmodel.program import DTYPES
from layouts.notation import named
from workloads.kernels.demands.fetch import tile_transfers

ORDERS = [" ".join(axes) for axes in permutations(("page", "kv", "head", "token", "dim"))]


@given(
    text=st.sampled_from(ORDERS),
    page_size=st.sampled_from([1, 2, 6, 8, 16]),
    tile=st.sampled_from([1, 2, 4, 8, 12, 16]),
    dim=st.sampled_from([4, 16, 24]),
    head=st.integers(0, 2),
    transfer=st.sampled_from([32, 64]),
    first=st.integers(0, 3),
)
def test_no_tile_takes_fewer_transfers(
    text: str, page_size: int, tile: int, dim: int, head: int, transfer: int, first: int
) -> None:
    """Against what the DMA engine's compiled code finds, of a tile anywhere in a sequence."""
    axes = {"kv": 2, "head": 3, "token": page_size, "dim": dim}
    least = tile_transfers(text, tuple(axes.items()), tile, "bf16", transfer)
    layout = named(text, {"page": 64} | axes)
    digits = [layout.leaves(axis) or ((1, 0),) for axis in layout.axes]
    extents, strides = np.ones((2, len(digits), 1), np.int64)
    for i, ((extent, stride),) in enumerate(digits):
        extents[i], strides[i] = extent, stride * DTYPES["bf16"].itemsize * (extent > 1)
    start = {"page": 0, "kv": 1, "head": head, "token": first * tile, "dim": 0}
    count = {"page": 1, "kv": 1, "head": 1, "token": tile, "dim": dim}
    table = np.random.default_rng(0).permutation(64).astype(np.int32)
    bursts = tile_bursts(
        0, 2, transfer, extents, strides, np.argsort(-strides[:, 0], kind="stable"),
        np.array([start[axis] for axis in layout.axes]), np.array([count[axis] for axis in layout.axes]),
        layout.axes.index("page"), layout.axes.index("token"), page_size, table, 0,
    )  # fmt: skip
    assert -(-tile * dim * 2 // transfer) <= least <= len(bursts)


def test_runs_of_a_few_tokens_take_a_transfer_each() -> None:
    axes = (("kv", 2), ("head", 4), ("token", 16), ("dim", 128))
    assert tile_transfers("page kv head token dim", axes, 16, "bf16", 32) == 128
    assert tile_transfers("page kv head dim token", axes, 4, "bf16", 32) == 128
    assert tile_transfers("page kv head dim token", axes, 4, "bf16", 64) == 64
