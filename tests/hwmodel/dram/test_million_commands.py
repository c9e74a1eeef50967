"""A million commands of every standard under every policy, read by the independent checker."""

from __future__ import annotations

import numpy as np
import pytest
from regular_traffic import policies, random_memory, random_traffic

from hwmodel.dram.checker import check
from hwmodel.dram.replay import replay
from hwmodel.dram.rules import COMMANDS
from hwmodel.dram.standards import rules, standard_names

CASES = [(name, policy) for name in standard_names() for policy in policies()]
ALL = 100_000_000  # commands of the nightly run


def run_checked(name: str, policy: tuple[str, str, str], seed: int, commands: int, accesses: int) -> int:
    """Replay traffic until so many commands were checked; return how many there were."""
    checked, rng = 0, np.random.default_rng([seed, *name.encode(), policies().index(policy)])
    while checked < commands:
        memory = random_memory(rng, policy, name=name)
        traffic = random_traffic(rng, memory, accesses)
        dram = memory.dram(record_commands=True)
        ticks = replay(dram, traffic)
        trace, s, t = dram.commands(), dram.statistics(), memory.timing
        assert check(trace, rules(t, memory.organisation), memory.organisation) == []
        bursts = traffic.count * traffic.access_bytes // memory.organisation.burst_bytes
        if dram.idle:  # a few writes may wait for more of them, with per-bank queues
            assert s.reads + s.writes == bursts
        columns = trace[np.isin(trace[:, 6], [COMMANDS.index("RD"), COMMANDS.index("WR")])]
        for pc in range(memory.organisation.pseudo_channels):
            issued = np.count_nonzero(columns[:, 2] == pc)
            assert issued * t.nBL <= ticks + t.nCL + t.nCWL + t.nBL  # never above the peak
        checked += len(trace)
    return checked


@pytest.mark.parametrize("name", standard_names())
def test_some_commands_of_every_standard_break_no_rule(name: str) -> None:
    policy = policies()[standard_names().index(name) * 7 % len(policies())]
    assert run_checked(name, policy, 0, 10_000, 4_000) >= 10_000


@pytest.mark.slow
@pytest.mark.parametrize(("name", "policy"), CASES)
def test_a_million_commands_break_no_rule_and_never_pass_the_peak(name: str, policy: tuple[str, str, str]) -> None:
    assert run_checked(name, policy, 1, 1_000_000, 150_000) >= 1_000_000


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "policy"), CASES)
def test_a_hundred_million_commands_over_all_break_no_rule(name: str, policy: tuple[str, str, str]) -> None:
    share = -(-ALL // len(CASES))
    assert run_checked(name, policy, 2, share, 150_000) >= share
