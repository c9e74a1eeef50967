"""Points per second of lower bounds of many points at once; run with -n0 --benchmark-only.

The target on one core: 20,000 points/s of decode attention, so that a space of a million is bounded in a minute.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from explorer.evaluate import bound_columns
from explorer.query import BatchSpec, Query

DECODE: dict[str, list[Any]] = {
    "layout": ["page kv token head dim", "page kv head token dim", "kv page token head dim", "kv page head token dim"],
    "page_size": [8, 16, 32, 64, 128],
    "page_order": ["shuffled", "contiguous"],
    "tile": [16, 32, 48, 64, 96, 128, 192, 256],
    "stages": [1, 2, 3, 4, 6],
    "split_tokens": [0, 256, 512, 1024, 1536, 2048, 4096],
    "schedule": ["static", "balanced", "dynamic"],
    "sram_layout": ["swizzled", "row-major"],
    "epilogue": ["overlapped", "exposed"],
    "machine.hbm.stacks": ["4", "5", "6"],
    "machine.noc.latency": ["50 ns", "70 ns"],
}
GEMM: dict[str, list[Any]] = {
    "tile_m": [16, 32, 64, 96, 128, 192, 256],
    "tile_n": [16, 32, 64, 96, 128, 192, 256],
    "tile_k": [16, 32, 64, 128, 256],
    "stages": [1, 2, 3, 4, 6],
    "split_k": [1, 2, 4, 8],
    "schedule": ["static", "balanced", "dynamic"],
    "order": ["row-major", "column-major", "grouped"],
    "machine.hbm.stacks": ["4", "5", "6"],
}


def columns(space: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return dict(zip(space, map(list, zip(*product(*space.values()), strict=True)), strict=True))


@pytest.mark.parametrize("trace", [None, "azure"])
def test_eight_hundred_thousand_points_of_decode_attention(benchmark: Any, trace: str | None) -> None:
    batch = BatchSpec(32, None if trace else 8192, trace and "azure-2023-conversation")
    timed(benchmark, Query("h100-sxm", "decode-attention", "llama-3.1-8b", batch), columns(DECODE))


def test_two_hundred_thousand_points_of_decode_attention_of_which_none_share_tile_and_split(benchmark: Any) -> None:
    rng = np.random.default_rng(0)
    tile, split = np.divmod(rng.permutation(200_000), 500)
    query = Query("h100-sxm", "decode-attention", "llama-3.1-8b", BatchSpec(32, 8192))
    timed(benchmark, query, {"tile": (tile + 1).tolist(), "split_tokens": (16 * split).tolist()})


def test_products(benchmark: Any) -> None:
    timed(benchmark, Query("h100-sxm", "gemm", options=(("m", 4096), ("n", 4096), ("k", 4096))), columns(GEMM))


def timed(benchmark: Any, query: Query, points: dict[str, list[Any]]) -> None:
    count = len(next(iter(points.values())))
    bound_columns(query, {name: values[:1] for name, values in points.items()})  # the imports
    bounds = benchmark.pedantic(bound_columns, args=(query, points), rounds=3)
    benchmark.extra_info["points_per_second"] = count / benchmark.stats["median"]
    assert (bounds.time_us > 0).all()
