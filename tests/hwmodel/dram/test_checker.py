from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.dram.checker import check
from hwmodel.dram.standards import COMMANDS, HBM3, LEVELS, Organisation, Rule, rules

T = HBM3.timing(6_400_000_000)
O = HBM3.organisation  # noqa: E741
RULES = rules(T, O)
WHOLE = ("PREab", "REFab")
Row = tuple[int, ...]


def command(name: str, tick: int, *, channel: int = 0, pc: int = 0, group: int = 0, bank: int = 0, row: int = 0) -> Row:
    if name in WHOLE:
        group, bank, row = -1, -1, -1
    return (tick, channel, pc, group, bank, row, COMMANDS.index(name))


def judged(trace: list[Row], table: tuple[Rule, ...] = RULES, organisation: Organisation = O) -> list[Any]:
    return check(np.array(trace, np.int64).reshape(-1, 7), table, organisation)


# the nearest command that the rule still covers, and the nearest that it does not
AT_LEVEL = {
    "channel": ({"pc": 1}, {"channel": 1}),
    "pseudo_channel": ({"group": 1, "bank": 4}, {"pc": 1}),
    "bank_group": ({"bank": 1}, {"group": 1}),
    "bank": ({}, {"bank": 1}),
    "stack_id": ({"bank": 4}, {"bank": 1}),  # the only rule is between siblings
}
PAIRS = [(rule, p, f) for rule in RULES for p in rule.previous for f in rule.following]


@pytest.mark.parametrize(("rule", "previous", "following"), PAIRS, ids=lambda v: v if isinstance(v, str) else v.level)
def test_a_planted_violation_of_each_rule_is_found_and_its_absence_is_not(
    rule: Rule, previous: str, following: str
) -> None:
    inside, outside = AT_LEVEL[rule.level]
    before = [command(previous, i) for i in range(rule.window)]
    early = judged([*before, command(following, rule.ticks - 1, **inside)], (rule,))
    early = [v for v in early if v.rule]
    assert [(v.rule, v.missing_ticks, v.command.name, v.previous.name) for v in early] == [
        (rule, 1, following, previous)
    ]
    assert (v := early[0]).previous.index == 0
    assert v.command.index == rule.window
    assert not [v for v in judged([*before, command(following, rule.ticks, **inside)], (rule,)) if v.rule]
    if not set(WHOLE) & {previous, following} or rule.level in ("channel", "pseudo_channel"):
        assert not [v for v in judged([*before, command(following, 0, **outside)], (rule,)) if v.rule]


def test_three_activates_before_do_not_fill_the_window_of_four() -> None:
    rule = next(rule for rule in RULES if rule.window == 4)
    assert not judged([command("ACT", 4 * i, group=i) for i in range(4)], (rule,))


@pytest.mark.parametrize(
    ("trace", "problem"),
    [
        ([command("RD", 0)], "column command to a closed bank"),
        ([command("ACT", 0), command("PRE", 100), command("RD", 200)], "column command to a closed bank"),
        ([command("ACT", 0), command("PREab", 100), command("WR", 200)], "column command to a closed bank"),
        ([command("ACT", 0), command("RD", 100, row=1)], "column command to another row than the open one"),
        ([command("ACT", 0), command("ACT", 100)], "activate of an open bank"),
        ([command("ACT", 0), command("REFpb", 100)], "refresh of an open bank"),
        ([command("ACT", 0, bank=3), command("REFab", 100)], "refresh with open banks"),
        (
            [command("ACT", 0, pc=1), command("ACT", 9), command("PRE", 90), command("REFab", 200, pc=1)],
            "refresh with open banks",
        ),
    ],
)
def test_a_command_that_the_state_of_the_bank_forbids_is_found(trace: list[Row], problem: str) -> None:
    assert [v.problem for v in judged(trace, ())] == [problem]


def test_a_legal_row_cycle_with_both_refreshes_is_accepted() -> None:
    t = [0, T.nRCDRD, T.nRAS, T.nRC + T.nRP, T.nRC + T.nRP + T.nRFCpb]
    trace = [command("ACT", t[0]), command("RD", t[1]), command("PRE", t[2]), command("REFpb", t[3])]
    trace += [command("ACT", t[4]), command("PREab", t[4] + T.nRAS), command("REFab", t[4] + T.nRC)]
    trace += [command("ACT", t[4] + T.nRC + T.nRFC)]
    assert judged(trace) == []


def node(rule_level: str, c: Row) -> Row:
    bank_in_group, stack_id = c[4] % O.banks_per_group, c[4] // O.banks_per_group
    return (c[1], c[2], stack_id, c[3], bank_in_group)[: LEVELS.index(rule_level) + 1]


def early_by_definition(trace: list[Row], rule: Rule) -> set[int]:
    """The rule read literally, one pair at a time."""
    found = set()
    for i, c in enumerate(trace):
        name = COMMANDS[c[6]]
        low = rule.level in LEVELS[2:]
        if name not in rule.following or (low and name in WHOLE):
            continue
        before = [p for p in trace[:i] if COMMANDS[p[6]] in rule.previous and not (low and COMMANDS[p[6]] in WHOLE)]
        if rule.sibling:
            before = [p for p in before if p[1:3] == c[1:3] and node(rule.level, p) != node(rule.level, c)]
        else:
            before = [p for p in before if node(rule.level, p) == node(rule.level, c)]
        if len(before) >= rule.window and c[0] - before[-rule.window][0] < rule.ticks:
            found.add(i)
    return found


def illegal_by_definition(trace: list[Row]) -> set[int]:
    """Bank states followed command by command."""
    rows: dict[Row, int] = {}
    found = set()
    for i, c in enumerate(trace):
        name, bank = COMMANDS[c[6]], c[1:5]
        same_pc = [b for b in rows if b[:2] == c[1:3]]
        if (
            (name in ("RD", "WR") and rows.get(bank) != c[5])
            or (name in ("ACT", "REFpb") and bank in rows)
            or (name == "REFab" and same_pc)
        ):
            found.add(i)
        if name == "ACT":
            rows[bank] = c[5]
        elif name == "PRE":
            rows.pop(bank, None)
        elif name == "PREab":
            for b in same_pc:
                del rows[b]
    return found


random_commands = st.builds(
    command,
    st.sampled_from(COMMANDS),
    st.integers(0, 6),
    channel=st.integers(0, 1),
    pc=st.integers(0, 1),
    group=st.integers(0, 1),
    bank=st.sampled_from([0, 1, 4]),
    row=st.integers(0, 1),
)


@given(st.lists(random_commands, max_size=60))
def test_the_vectorised_checks_equal_the_definitions_on_random_traces(gaps: list[Row]) -> None:
    ticks = np.cumsum([c[0] for c in gaps])
    trace = [(int(tick), *c[1:]) for tick, c in zip(ticks, gaps, strict=True)]
    violations = judged(trace)
    for rule in RULES:
        assert {v.command.index for v in violations if v.rule is rule} == early_by_definition(trace, rule)
    assert {v.command.index for v in violations if v.rule is None} == illegal_by_definition(trace)


@pytest.mark.parametrize("refresh", ["per-bank", "all-bank", "none"])
@pytest.mark.parametrize("pattern", ["sequential", "random", "strided", "mixed"])
def test_the_controller_breaks_no_rule_and_never_exceeds_the_peak(
    make_memory: Callable[..., Any], pattern: str, refresh: str
) -> None:
    order = ("pseudo_channel", "bank_group", "column", "bank", "channel", "stack", "row")
    memory = make_memory(order=order, refresh=refresh)
    bursts, rng = 20_000, np.random.default_rng(11)
    blocks = memory.capacity_bytes // 32
    index = np.arange(bursts)
    if pattern in ("random", "mixed"):
        index = np.where(rng.random(bursts) < 0.5, rng.integers(0, blocks, bursts), index)
    elif pattern == "strided":
        index = index * 4097 % blocks
    memory.dram.reserve(bursts)
    for part in np.array_split(index * 32, 500):
        memory.offer(part.tolist(), 0, pattern == "mixed" and bool(rng.random() < 0.4))
    memory.dram.drain()
    trace = memory.dram.commands()
    assert check(trace, RULES, memory.organisation) == []
    columns = trace[np.isin(trace[:, 6], (3, 4))]
    assert len(columns) == bursts
    for pc in range(2):
        ticks = np.sort(columns[columns[:, 2] == pc][:, 0])
        assert len(ticks) * T.nBL <= ticks[-1] - ticks[0] + T.nBL


@pytest.mark.parametrize(
    ("trace", "problem"),
    [
        (np.zeros((2, 6)), "shape"),
        (np.array([command("ACT", 0, pc=2)]), "pseudo_channel 2"),
        (np.array([command("ACT", 0, bank=8)]), "bank 8 is outside 0 .. 7"),
        (np.array([(0, 0, 0, 0, 0, 0, 7)]), "command 7"),
    ],
)
def test_a_trace_that_is_none_is_refused_with_the_value(trace: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check(trace, RULES, O)
