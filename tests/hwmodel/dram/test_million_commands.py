"""A million commands of every kind of traffic under every refresh policy, read by the independent checker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hwmodel.dram.checker import check
from hwmodel.dram.standards import rules

pytestmark = pytest.mark.slow

COMMANDS = 1_000_000
# bursts that make about a million commands: random traffic takes an activate and a precharge per burst
BURSTS = {"sequential": 980_000, "strided": 340_000, "random": 340_000, "mixed": 340_000}
ORDER = ("pseudo_channel", "bank_group", "column", "channel", "stack", "bank", "row")


def addresses(pattern: str, bursts: int, capacity_bytes: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(7)
    total = capacity_bytes // 32
    if pattern == "sequential":
        return np.arange(bursts) * 32
    if pattern == "strided":
        return np.arange(bursts) * 5 * (1 << 12) % capacity_bytes
    return rng.integers(0, total, bursts) * 32


@pytest.mark.parametrize("refresh", ["per-bank", "all-bank", "none"])
@pytest.mark.parametrize("pattern", list(BURSTS))
def test_no_rule_is_broken_and_the_peak_is_never_passed(
    make_memory: Callable[..., Any], pattern: str, refresh: str
) -> None:
    memory = make_memory(order=ORDER, refresh=refresh)
    bursts = BURSTS[pattern]
    writes = np.random.default_rng(8).random(bursts) < (0.33 if pattern == "mixed" else 0.0)
    memory.dram.reserve(bursts)
    for address, is_write in zip(addresses(pattern, bursts, memory.capacity_bytes).tolist(), writes, strict=True):
        memory.dram.enqueue(address, memory.dram.open_request(1), bool(is_write), 0)
    _, done = memory.dram.drain()
    trace = memory.dram.commands()
    assert len(trace) >= COMMANDS
    assert check(trace, rules(memory.timing, memory.organisation), memory.organisation) == []
    peak_bursts = done.max() / memory.timing.nCCDS * memory.organisation.pseudo_channels
    assert bursts <= peak_bursts
    statistics = memory.dram.statistics()
    assert statistics.reads + statistics.writes == bursts == len(done)
