"""Commands per second of the checker, in parts of a long trace; run with -n0 --benchmark-only."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodel.dram.checker import Checker
from hwmodel.dram.standards import COMMANDS, HBM3, rules

PARTS, ROUNDS = 4, 10_000
ACT, PRE, RD = (COMMANDS.index(name) for name in ("ACT", "PRE", "RD"))
# one row cycle: four banks of four bank groups are activated, read eight times and precharged
CYCLE = [(1 + 12 * bank, bank, ACT) for bank in range(4)]
CYCLE += [(101 + 4 * (8 * bank + i), bank, RD) for bank in range(4) for i in (0, 2, 4, 6)]
CYCLE += [(260 + 4 * bank, bank, PRE) for bank in range(4)]
CYCLE_TICKS = 330


def trace(first: int) -> np.ndarray[Any, Any]:
    """`ROUNDS` row cycles of one pseudo-channel in each of 16 channels, all at once."""
    rows = np.array([(tick, 0, 0, group, 0, 0, code) for tick, group, code in sorted(CYCLE)])
    rounds = np.arange(first, first + ROUNDS)
    cycles = np.repeat(rows[None], ROUNDS, axis=0)
    cycles[:, :, 0] += rounds[:, None] * CYCLE_TICKS
    cycles[:, :, 1] = (rounds % 16)[:, None]
    return cycles.reshape(-1, 7)


def judge(parts: list[Any]) -> int:
    checker = Checker(rules(HBM3.timing(6_400_000_000), HBM3.organisation), HBM3.organisation)
    assert all(checker.feed(part) == [] for part in parts)
    return checker.commands


def test_judge_a_million_commands(benchmark: Any) -> None:
    judge([trace(0)])  # compile
    parts = [trace(ROUNDS * i) for i in range(PARTS)]
    commands = benchmark.pedantic(judge, args=(parts,), rounds=3)
    assert commands == PARTS * ROUNDS * len(CYCLE)
    benchmark.extra_info["commands_per_second"] = round(commands / benchmark.stats.stats.min)
