"""The checker against the rules read literally, one pair at a time, and against the traces of two simulators."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.dram.checker import Checker, Violation, check
from hwmodel.dram.command_trace import read_commands
from hwmodel.dram.standards import COMMANDS, HBM3, LEVELS, Organisation, Rule, rules, standard, standard_names

T = HBM3.timing(6_400_000_000)
O = HBM3.organisation  # noqa: E741
RULES = rules(T, O)
WHOLE = ("PREab", "REFab")
Row = tuple[int, ...]
TABLES = {
    name: (rules(part.timing(part.max_pin_rate_bps), part.organisation), part.organisation)
    for name, part in ((name, standard(name)) for name in standard_names())
}


def command(name: str, tick: int, *, channel: int = 0, pc: int = 0, group: int = 0, bank: int = 0, row: int = 0) -> Row:
    if name in WHOLE:
        group, bank, row = -1, -1, -1
    return (tick, channel, pc, group, bank, row, COMMANDS.index(name))


def judged(trace: list[Row], table: tuple[Rule, ...] = RULES, organisation: Organisation = O) -> list[Violation]:
    return check(np.array(trace, np.int64).reshape(-1, 7), table, organisation)


def by_rule(trace: list[Row], table: tuple[Rule, ...], organisation: Organisation) -> list[Violation]:
    """What the rules alone say: the traces planted here do not mind the states of the banks."""
    return [v for v in judged(trace, table, organisation) if v.rule]


def near_and_far(level: str, o: Organisation) -> tuple[dict[str, int], dict[str, int]]:
    """The farthest command that a rule of the level still covers, and the nearest that it does not."""
    other_pc = {"pc": 1} if o.pseudo_channels > 1 else {"channel": 1}
    other_group = {"group": 1}
    other_bank = {"bank": 1} if o.banks_per_group > 1 else other_group
    other_stack = {"bank": o.banks_per_group}
    return {
        "channel": ({"pc": 1} if o.pseudo_channels > 1 else other_group, {"channel": 1}),
        "pseudo_channel": (other_group | (other_stack if o.stack_ids > 1 else {}), other_pc),
        "stack_id": (other_group, other_stack),
        "bank_group": (other_bank if o.banks_per_group > 1 else {}, other_group),
        "bank": ({}, other_bank),
    }[level]


PAIRS = [
    pytest.param(name, rule, p, f, id=f"{name} {rule.name} {rule.level} {p} {f}")
    for name, (table, _) in TABLES.items()
    for rule in table
    for p in rule.previous
    for f in rule.following
]


@pytest.mark.parametrize(("name", "rule", "previous", "following"), PAIRS)
def test_a_planted_violation_of_each_rule_is_found_and_its_absence_is_not(
    name: str, rule: Rule, previous: str, following: str
) -> None:
    o = TABLES[name][1]
    inside, outside = near_and_far(rule.level, o)
    if rule.sibling:
        inside, outside = outside, inside
    before = [command(previous, i) for i in range(rule.window)]
    (early,) = by_rule([*before, command(following, rule.ticks - 1, **inside)], (rule,), o)
    assert early.previous is not None
    assert (early.rule, early.missing_ticks, early.command.name, early.previous.name) == (rule, 1, following, previous)
    assert (early.previous.index, early.command.index) == (0, rule.window)
    assert not by_rule([*before, command(following, rule.ticks, **inside)], (rule,), o)
    if not set(WHOLE) & {previous, following} or rule.level in ("channel", "pseudo_channel"):
        assert not by_rule([*before, command(following, rule.window, **outside)], (rule,), o)


@pytest.mark.parametrize("name", ["HBM3", "HBM3E", "HBM4"])
@pytest.mark.parametrize("kind", COMMANDS)
def test_only_precharges_may_start_on_the_falling_edge(name: str, kind: str) -> None:
    table, o = TABLES[name]
    found = [v for tick in range(1, 9) for v in by_rule([command(kind, tick)], table, o)]
    wrong = [] if kind in ("PRE", "PREab") else [2, 4, 6, 8]
    assert [v.command.tick for v in found] == wrong
    assert all((v.rule and v.rule.name, v.previous, v.missing_ticks) == ("rising edge", None, 1) for v in found)


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


def place(level: str, c: Row, o: Organisation) -> Row:
    stack_id, bank = divmod(c[4], o.banks_per_group)
    return (c[1], c[2], stack_id, c[3], bank)[: LEVELS.index(level) + 1]


def early_pair(before: list[Row], c: Row, rule: Rule, o: Organisation) -> int:
    """The rule read literally: how many ticks `c` is early after the commands before it."""
    name, low = COMMANDS[c[6]], rule.level in LEVELS[2:]
    if name not in rule.following or (low and name in WHOLE):
        return 0
    if not rule.previous:
        return next(wait for wait in range(rule.ticks) if (c[0] + wait) % rule.ticks == 1)
    before = [p for p in before if COMMANDS[p[6]] in rule.previous and not (low and COMMANDS[p[6]] in WHOLE)]
    if rule.sibling:
        before = [p for p in before if p[1:3] == c[1:3] and place(rule.level, p, o) != place(rule.level, c, o)]
    else:
        before = [p for p in before if place(rule.level, p, o) == place(rule.level, c, o)]
    return max(0, rule.ticks - (c[0] - before[-rule.window][0])) if len(before) >= rule.window else 0


def early_by_definition(trace: list[Row], table: tuple[Rule, ...], o: Organisation) -> set[tuple[int, Rule, int]]:
    """(index, rule, missing ticks) of every violated rule."""
    found = ((i, rule, early_pair(trace[:i], c, rule, o)) for i, c in enumerate(trace) for rule in table)
    return {(i, rule, missing) for i, rule, missing in found if missing}


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


def found_in(violations: list[Violation]) -> set[tuple[int, Rule, int]]:
    return {(v.command.index, v.rule, v.missing_ticks) for v in violations if v.rule}


def random_commands(o: Organisation) -> st.SearchStrategy[Row]:
    banks = {0, 1 % o.banks_per_group, o.banks_per_group * (o.stack_ids - 1)}
    return st.builds(
        command,
        st.sampled_from(COMMANDS),
        st.integers(0, 6),
        channel=st.integers(0, 1),
        pc=st.integers(0, o.pseudo_channels - 1),
        group=st.integers(0, 1),
        bank=st.sampled_from(sorted(banks)),
        row=st.integers(0, 1),
    )


random_traces = st.sampled_from(sorted(TABLES)).flatmap(
    lambda name: st.tuples(st.just(name), st.lists(random_commands(TABLES[name][1]), max_size=40))
)


@given(random_traces)
def test_what_is_found_in_random_traces_is_what_the_rules_say_literally(case: tuple[str, list[Row]]) -> None:
    (table, o), gaps = TABLES[case[0]], case[1]
    ticks = np.cumsum([c[0] for c in gaps])
    trace = [(int(tick), *c[1:]) for tick, c in zip(ticks, gaps, strict=True)]
    violations = judged(trace, table, o)
    assert found_in(violations) == early_by_definition(trace, table, o)
    assert len(found_in(violations)) == sum(v.rule is not None for v in violations)
    assert {v.command.index for v in violations if v.rule is None} == illegal_by_definition(trace)
    for v in violations:
        for c in (v.command, v.previous):
            if c is not None:
                numbers = (c.tick, c.channel, c.pseudo_channel, c.bank_group, c.bank, c.row, COMMANDS.index(c.name))
                assert numbers == trace[c.index]
        if v.rule and v.previous:
            assert v.rule.ticks - (v.command.tick - v.previous.tick) == v.missing_ticks


def legal(moves: list[Row], table: tuple[Rule, ...], o: Organisation) -> list[Row]:
    """The moves that the bank states allow, in order, each at the first tick that the rules allow."""
    trace: list[Row] = []
    tick = 1
    for move in moves:
        c = (tick, *move[1:])
        if illegal_by_definition([*trace, c]):
            continue
        while wait := max((early_pair(trace, c, rule, o) for rule in table), default=0):
            c = (c[0] + wait, *c[1:])
        trace.append(c)
        tick = c[0]
    return trace


@given(random_traces, st.data())
def test_a_trace_at_the_first_legal_ticks_passes_and_one_tick_earlier_anywhere_does_not(
    case: tuple[str, list[Row]], data: st.DataObject
) -> None:
    table, o = TABLES[case[0]]
    trace = legal(case[1], table, o)
    assert judged(trace, table, o) == []
    forced = [i for i, c in enumerate(trace) if i and trace[i - 1][0] < c[0]]
    if not forced:
        return
    moved = data.draw(st.sampled_from(forced))
    early = [*trace[:moved], (trace[moved][0] - 1, *trace[moved][1:])]
    violations = judged(early, table, o)
    assert found_in(violations) == early_by_definition(early, table, o)
    assert {v.command.index for v in violations} == {moved}
    assert min(v.missing_ticks for v in violations) == 1


@given(random_traces, st.lists(st.integers(0, 40), max_size=5))
def test_a_trace_in_parts_is_judged_as_a_whole(case: tuple[str, list[Row]], cuts: list[int]) -> None:
    (table, o), gaps = TABLES[case[0]], case[1]
    trace = np.array(gaps, np.int64).reshape(-1, 7)
    trace[:, 0] = np.cumsum(trace[:, 0])
    checker = Checker(table, o, refresh_interval_ticks=20, postponed_refreshes=1)
    parts = np.split(trace, sorted(min(cut, len(trace)) for cut in cuts))
    violations = [v for part in parts for v in checker.feed(part)] + checker.finish(int(trace[:, 0].max(initial=0)))
    assert violations == check(trace, table, o, refresh_interval_ticks=20, postponed_refreshes=1)
    assert checker.commands == len(trace)


def test_channels_may_stand_one_after_another() -> None:
    one = [command("ACT", 1), command("RD", 63), command("PRE", 93)]
    two = [(c[0], 1, *c[2:]) for c in one]
    first, second = (Checker(RULES, O).feed(np.array(trace)) for trace in (one + two, sorted(one + two)))
    assert len(first) == len(second) == 2
    assert {v.command.tick for v in first + second} == {63}  # one tick early


def test_more_violations_than_are_read_out_at_a_time_are_all_reported() -> None:
    reads = np.array([command("RD", tick) for tick in range(20_000)])
    violations = Checker((), O).feed(reads)
    assert [v.command.index for v in violations] == list(range(20_000))


def test_a_legal_row_cycle_with_both_refreshes_is_accepted() -> None:
    t = [1, 1 + 64, 1 + 92, 1 + 146, 1 + 146 + 638, 1 + 146 + 638 + 92, 1 + 146 + 638 + 146]
    trace = [command("ACT", t[0]), command("RD", t[1]), command("PRE", t[2]), command("REFpb", t[3])]
    trace += [command("ACT", t[4]), command("PREab", t[5]), command("REFab", t[6]), command("ACT", t[6] + 1118)]
    assert judged(trace) == []


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


REFERENCE = [
    ("ram2_hbm3_rh32", "HBM3", 6_400_000_000),
    ("ram2_hbm2_rh32", "HBM2", 2_000_000_000),
    ("ds3_hbm2", "HBM2-legacy", 2_000_000_000),
]
STREAMS = ("a_seq_read_0", "c_stride_2p7", "d_rand_read_0", "e_rand_rw21_0")


@cache
def reference_trace(data_dir: Path, config: str, stream: str, organisation: Organisation) -> Any:
    with gzip.open(data_dir / "dram" / "commands" / f"{config}.{stream}.csv.gz", "rt") as lines:
        return np.concatenate(list(read_commands(lines, organisation)))


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(("config", "name", "rate"), REFERENCE)
def test_the_traces_of_other_simulators_pass_refreshes_included(
    data_dir: Path, config: str, name: str, rate: int, stream: str
) -> None:
    part = standard(name)
    timing = part.timing(rate)
    trace = reference_trace(data_dir, config, stream, part.organisation)
    assert len(trace) > 1500
    refresh = {"refresh_interval_ticks": timing.nREFI, "postponed_refreshes": 1}
    assert check(trace, rules(timing, part.organisation), part.organisation, **refresh) == []


# limits that another one hides: four activates take 16 ticks in any case, a burst takes two
HIDDEN = {("HBM2", "nFAW"), ("HBM2-legacy", "nCCDS")}
SAME_GROUP = {"nCCDS": ("nCCDL", "nCCDLW"), "nRRDS": ("nRRDL",), "nWTRS": ("nWTRL",)}


@pytest.mark.parametrize("field", ["nRCDRD", "nRRDS", "nFAW", "nCCDS", "nRTW", "nWTRS", "nRTP", "nRFC"])
@pytest.mark.parametrize(("config", "name", "rate"), REFERENCE)
def test_the_traces_of_other_simulators_break_limits_one_ck_longer(
    data_dir: Path, config: str, name: str, rate: int, field: str
) -> None:
    part = standard(name)
    timing = part.timing(rate)
    ticks = getattr(timing, field) + timing.ticks_per_ck
    at_least = {other: max(ticks, getattr(timing, other)) for other in SAME_GROUP.get(field, ())}
    longer = rules(replace(timing, **{field: ticks}, **at_least), part.organisation)
    found: list[Violation] = []
    for stream in STREAMS:
        found += check(reference_trace(data_dir, config, stream, part.organisation), longer, part.organisation)
    assert bool(found) == ((name, field) not in HIDDEN)
    assert all(0 < v.missing_ticks <= timing.ticks_per_ck for v in found)


def refreshes(*commands: tuple[str, int, int]) -> list[Row]:
    """REFpb of banks 0 and 1 of one group, or REFab, of an organisation that has no more banks."""
    return [command(name, tick, bank=bank) for name, tick, bank in commands]


TWO_BANKS = replace(O, channels=1, pseudo_channels=1, stack_ids=1, bank_groups=1, banks_per_group=2)


@pytest.mark.parametrize(
    ("trace", "end", "late"),
    [
        (refreshes(("REFab", 100, 0), ("REFab", 200, 0)), 300, []),
        (refreshes(("REFab", 150, 0)), 300, []),  # the second may come until 300
        (refreshes(("REFab", 150, 0)), 301, [(-1, 1)]),
        (refreshes(("REFab", 201, 0)), 300, [(0, 1)]),  # the first may come until 200
        (refreshes(("REFab", 450, 0), ("REFab", 500, 0)), 600, [(0, 250)]),  # reported once, then forgiven
        (refreshes(("REFab", 450, 0), ("REFab", 500, 0)), 601, [(0, 250), (-1, 1)]),
        (refreshes(("REFpb", 90, 0), ("REFpb", 190, 0)), 199, []),
        (refreshes(("REFpb", 90, 0), ("REFpb", 190, 0)), 201, [(-1, 1)]),  # bank 1 never
        (refreshes(("REFpb", 90, 0), ("REFpb", 190, 1), ("REFpb", 290, 0)), 300, []),
        (refreshes(("REFpb", 90, 0), ("REFpb", 230, 1)), 300, [(1, 30)]),
        (refreshes(("REFpb", 10, 0), ("REFpb", 20, 0), ("REFpb", 30, 1), ("REFpb", 31, 1)), 300, []),
        ([command("ACT", 1)], 200, []),
        ([command("ACT", 1)], 250, [(-1, 50)]),
    ],
)
def test_refreshes_that_come_more_than_the_postponed_intervals_late_are_found(
    trace: list[Row], end: int, late: list[tuple[int, int]]
) -> None:
    checker = Checker((), TWO_BANKS, refresh_interval_ticks=100, postponed_refreshes=1)
    violations = checker.feed(np.array(trace)) + checker.finish(end)
    assert [(v.command.index, v.missing_ticks) for v in violations] == late
    assert all("refresh" in v.problem for v in violations)


def test_refreshes_are_not_judged_unless_asked_for() -> None:
    checker = Checker((), TWO_BANKS)
    assert checker.feed(np.array([command("ACT", 1)])) + checker.finish(10**12) == []


def test_an_overdue_refresh_names_its_bank_and_how_many_there_are() -> None:
    checker = Checker((), O, refresh_interval_ticks=100, postponed_refreshes=0)
    checker.feed(np.array([command("REFpb", 50, channel=1, pc=1)]))
    first, second = checker.finish(150)
    assert (first.command.channel, first.command.pseudo_channel, first.command.bank) == (1, 0, 0)
    assert first.problem == "refresh overdue by 50 ticks, in 32 banks"
    assert (second.command.channel, second.command.pseudo_channel, second.command.bank) == (1, 1, 1)
    assert second.problem == "refresh overdue by 50 ticks, in 31 banks"


@pytest.mark.parametrize(
    ("trace", "problem"),
    [
        (np.zeros((2, 6)), "shape"),
        (np.array([command("ACT", 0, pc=2)]), "command 0: pseudo_channel 2 is outside 0 .. 1"),
        (np.array([command("ACT", 0), command("ACT", 0, bank=8)]), "command 1: bank 8 is outside 0 .. 7"),
        (np.array([command("ACT", 0, bank=-1)]), "bank -1 is outside 0 .. 7"),
        (np.array([command("ACT", 0, group=4)]), "bank_group 4 is outside 0 .. 3"),
        (np.array([command("ACT", 0, row=16384)]), "row 16384 is outside 0 .. 16383"),
        (np.array([command("RD", 0, row=-1)]), "row -1 is outside 0 .. 16383"),
        (np.array([command("ACT", 0, channel=-1)]), "channel -1 is outside 0 .. 4095"),
        (np.array([command("ACT", 0, channel=1 << 40)]), "command 0: channel 1099511627776 is outside 0 .. 4095"),
        (np.array([(0, 0, 0, 0, 0, 0, 7)]), "command 7 is outside 0 .. 6"),
    ],
)
def test_a_trace_that_is_none_is_refused_with_the_value(trace: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check(trace, RULES, O)


def test_a_channel_that_goes_back_in_time_is_refused_in_parts_and_sorted_in_a_whole() -> None:
    trace = np.array([command("ACT", 9), command("ACT", 5, channel=1), command("ACT", 8, group=1)])
    checker = Checker((), O)
    with pytest.raises(ValueError, match="command 2: tick 8 comes after tick 9 of the same channel"):
        checker.feed(trace)
    rule = next(rule for rule in RULES if rule.name == "tRRD_S" and rule.following == ("ACT",))
    (violation,) = check(trace, (rule,), O)
    assert violation.previous is not None
    assert (violation.command.index, violation.previous.index) == (0, 2)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"level": "rank"}, r"rule 0 \(tRC\): unknown 'rank'"),
        ({"following": ("RDA",)}, "unknown 'RDA'"),
        ({"ticks": 0}, "must be at least 1"),
        ({"following": ()}, "must be at least 1"),
        ({"sibling": True}, "only stack IDs have siblings"),
        ({"window": 4, "previous": ("RD", "WR")}, "a window is of one command"),
    ],
)
def test_a_rule_that_nothing_can_be_judged_by_is_refused(change: dict[str, Any], problem: str) -> None:
    rule = replace(Rule("tRC", "bank", ("ACT",), ("ACT",), 3), **change)
    with pytest.raises(ValueError, match=problem):
        Checker((rule,), O)


def test_negative_intervals_are_refused() -> None:
    with pytest.raises(ValueError, match="refresh_interval_ticks -1, postponed_refreshes 8: must not be negative"):
        Checker((), O, refresh_interval_ticks=-1)
