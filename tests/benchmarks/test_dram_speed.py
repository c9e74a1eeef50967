"""Bursts per second of the DRAM controller, enqueueing included; run with --benchmark-only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numba import njit

from hwmodel.dram.controller import Dram, Policy, enqueue_bursts, open_request
from hwmodel.dram.standards import HBM3
from layouts import AddressMap

BURSTS = 1_000_000
FIELDS = (
    [
        "offset:5",
        "column:2",
        "bank_group:2",
        "pseudo_channel:1",
        "channel:4",
        "stack",
        "column:3",
        "bank",
        "row",
    ],
    ["offset:5", "column:2", "bank_group:2", "pseudo_channel:1", "column:3", "bank", "row"],
)


@njit
def feed(state: Any, addresses: Any, bursts_per_request: int) -> None:
    for first in range(0, len(addresses), bursts_per_request):
        request = open_request(state, min(bursts_per_request, len(addresses) - first))
        enqueue_bursts(state, addresses, first, min(first + bursts_per_request, len(addresses)), request, 0, 0)


def serve(channels: int, stacks: int, pattern: str, bursts: int) -> None:
    organisation = replace(HBM3.organisation, channels=channels)
    sizes = {"stack": stacks} | organisation.field_sizes()
    hashes = [f"pseudo_channel[0] ^= row[{0}] row[{5}]"] if channels > 1 else []
    address_map = AddressMap.create(FIELDS[channels == 1], hashes, sizes, 32)
    dram = Dram(HBM3.timing(6_400_000_000), organisation, stacks, address_map.compiled(), Policy())
    dram.reserve(bursts)
    blocks = np.arange(bursts, dtype=np.int64)
    if pattern == "random":
        blocks = np.random.default_rng(1).integers(0, address_map.capacity_bytes // 32, bursts)
    feed(dram.state, blocks * 32, 64)
    dram.drain()


@pytest.mark.parametrize("pattern", ["sequential", "random"])
@pytest.mark.parametrize(("channels", "stacks"), [(1, 1), (16, 5)], ids=["1 channel", "5 stacks"])
def test_serve_a_million_reads(benchmark: Any, channels: int, stacks: int, pattern: str) -> None:
    serve(channels, stacks, pattern, 1000)  # compile
    benchmark.pedantic(serve, args=(channels, stacks, pattern, BURSTS), rounds=3)
    benchmark.extra_info["bursts_per_second"] = round(BURSTS / benchmark.stats.stats.min)
