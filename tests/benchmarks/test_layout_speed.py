"""Layouts analysed per second; run with -n0 --benchmark-only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from layouts import Layout, parse, swizzle
from layouts.analysis.conflicts import Access, Banks, bank_conflicts, bank_conflicts_many
from layouts.analysis.counting import count_wavefronts

TILE = (128, 64)  # bf16
LDMATRIX = Access.of_tile(TILE, (1, 8), [(0, 8)])
GPU = Banks(32, 4)


@pytest.mark.parametrize(
    "text",
    ["(7,100,(100,10),100):(1000003,3,(100,10100),100000)", "S<3,3,3> o 0 o (8192,8192):(8192,1)"],
    ids=["rank 5", "swizzled"],
)
@pytest.mark.parametrize("call", ["offsets", "table"])
def test_a_hundred_million_addresses(benchmark: Any, text: str, call: str) -> None:
    """The targets on 2 cores: arbitrary indices in 1 s, a whole domain of 10^8 in 0.4 s."""
    layout = parse(text)
    arguments = (np.random.default_rng(1).integers(0, layout.size, 10**8),) if call == "offsets" else ()
    benchmark.pedantic(getattr(layout, call), args=arguments, rounds=3, warmup_rounds=1)


def test_bank_conflicts_of_many_swizzled_tiles_by_rank(benchmark: Any) -> None:
    """All 128 phases of a 128 x 64 tile; the target is 20,000 layouts per second on one core."""
    rng = np.random.default_rng(1)
    bases = 1 << np.argsort(rng.random((100_000, 13)), axis=1)
    bases ^= (bases >> 3) & 0b111000
    benchmark.pedantic(bank_conflicts_many, args=(bases, LDMATRIX, GPU, 2), rounds=5)
    benchmark.extra_info["layouts_per_second"] = round(len(bases) / benchmark.stats.stats.min)


@pytest.mark.parametrize("text", ["S<3,3,3> o 0 o (128,64):(64,1)", "(128,64):(72,1)"], ids=["rank", "cyclic"])
def test_bank_conflicts_of_one_tile(benchmark: Any, text: str) -> None:
    layout = parse(text)
    benchmark(bank_conflicts, layout, LDMATRIX, GPU, 2)
    benchmark.extra_info["layouts_per_second"] = round(1 / benchmark.stats.stats.min)


@pytest.mark.parametrize("banks", [32, 12], ids=["32 banks", "12 banks"])
def test_bank_conflicts_by_counting(benchmark: Any, banks: int) -> None:
    """A swizzled tile with padded rows, which has no closed form; the target is 50 million accesses per second."""
    offsets = Layout((2**14, 64), (72, 1)).then(swizzle(3, 3, 3)).table()
    count_wavefronts(offsets[:64], 64, 2, banks, 4)  # compile
    benchmark.pedantic(count_wavefronts, args=(offsets, 64, 2, banks, 4), rounds=5)
    benchmark.extra_info["accesses_per_second"] = round(len(offsets) / benchmark.stats.stats.min)


def test_bank_conflicts_by_counting_offsets_included(benchmark: Any) -> None:
    layout = Layout((2**14, 64), (72, 1)).then(swizzle(3, 3, 3))
    access = Access.of_tile((2**14, 64), (1, 8), [(0, 8)])
    assert bank_conflicts(layout, access, Banks(12, 4), 2).form == "count"
    benchmark.pedantic(bank_conflicts, args=(layout, access, Banks(12, 4), 2), rounds=5)
    benchmark.extra_info["accesses_per_second"] = round(layout.size / benchmark.stats.stats.min)
