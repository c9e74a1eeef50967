"""The rule table against the constraints that two independent simulators enforce, and against its own laws."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from hwmodel.dram.rules import COLUMN, ROW
from hwmodel.dram.standards import COMMANDS, LEVELS, Rule, Standard, Timing, rules, standard, standard_names

PART = [standard(name) for name in standard_names()]
by_part = pytest.mark.parametrize("part", PART, ids=lambda part: part.name)
Key = tuple[str, str, str, int, bool]  # level, previous, following, window, sibling

# what Ramulator 2.1's tables leave out, see `rules`
BUSES = ("row bus", "column bus", "rising edge")
ADDED = {
    ("pseudo_channel", "REFab", "PRE"),
    ("pseudo_channel", "REFab", "REFab"),
    ("pseudo_channel", "REFab", "REFpb"),
    ("pseudo_channel", "REFpb", "REFpb"),
    ("pseudo_channel", "REFpb", "REFab"),
    ("pseudo_channel", "REFpb", "PREab"),
    ("pseudo_channel", "PREab", "REFpb"),
    ("bank", "REFpb", "REFpb"),
    ("bank", "REFpb", "PRE"),
    ("bank_group", "ACT", "REFpb"),
    *(("pseudo_channel", close, other) for close in ("PRE", "PREab") for other in ("PRE", "PREab")),
}


def expanded(table: tuple[Rule, ...]) -> dict[Key, int]:
    """One entry per pair of commands: the longest distance."""
    found: dict[Key, int] = {}
    for rule in table:
        for previous in rule.previous:
            for following in rule.following:
                key = (rule.level, previous, following, rule.window, rule.sibling)
                found[key] = max(found.get(key, 0), rule.ticks)
    return found


def cited_table(config: dict[str, Any]) -> dict[Key, int]:
    """The constraints of the reference between the commands that the model has."""
    levels = dict(zip(("Channel", "PseudoChannel", "Sid", "BankGroup", "Bank"), LEVELS, strict=True))
    names = {name: name for name in COMMANDS} | {"PREpb": "PRE"}
    found: dict[Key, int] = {}
    for row in config["timing_constraints_ticks"]:
        for previous in set(row["prev"]) & set(names):
            for following in set(row["next"]) & set(names):
                key = (levels[row["level"]], names[previous], names[following], row["window"], row["sibling"])
                found[key] = max(found.get(key, 0), row["ticks"])
    return found


@pytest.mark.parametrize(
    ("name", "rate", "config", "rows"),
    [("HBM3", 6_400_000_000, "ram2_hbm3_rh32", 48), ("HBM2", 2_000_000_000, "ram2_hbm2_rh32", 36)],
)
def test_the_table_is_exactly_what_ramulator_enforces(
    data_dir: Path, name: str, rate: int, config: str, rows: int
) -> None:
    cited = cited_table(json.loads((data_dir / "dram" / "configs.json").read_text())[config])
    assert len(cited) == rows
    part = standard(name)
    ours = expanded(rules(part.timing(rate), part.organisation))
    assert {key: ours.get(key) for key in cited} == cited
    for level, previous, following, _, _ in set(ours) - set(cited):
        on_bus = level == "channel" and (previous in COLUMN) == (following in COLUMN)
        turnaround = (level, previous in COLUMN, following in COLUMN) == ("pseudo_channel", True, True)
        assert on_bus or turnaround or (level, previous, following) in ADDED, (level, previous, following)


def test_the_legacy_table_is_exactly_what_dramsim3_enforces(data_dir: Path) -> None:
    cited = json.loads((data_dir / "dram" / "configs.json").read_text())["ds3_hbm2"]["derived_ticks"]
    part = standard("HBM2-legacy")
    timing = part.timing(2_000_000_000)
    ours = expanded(rules(timing, part.organisation))

    def distance(previous: str, following: str, *levels: str) -> int:
        return max(ours.get((level, previous, following, 1, False), 0) for level in levels)

    group = ("pseudo_channel", "bank_group")
    assert cited == {
        "read_to_read": distance("RD", "RD", *group),
        "write_to_write": distance("WR", "WR", *group),
        "read_to_write": distance("RD", "WR", *group),
        "write_to_read_same_bg": distance("WR", "RD", *group),
        "write_to_read_other_bg": distance("WR", "RD", "pseudo_channel"),
        "read_to_precharge": distance("RD", "PRE", "bank"),
        "write_to_precharge": distance("WR", "PRE", "bank"),
        "act_to_read": distance("ACT", "RD", "bank"),
        "act_to_write": distance("ACT", "WR", "bank"),
        "act_to_pre": distance("ACT", "PRE", "bank"),
        "act_to_act_same_bank": distance("ACT", "ACT", "bank"),
        "act_to_act_same_bg": distance("ACT", "ACT", *group),
        "act_to_act_other_bg": distance("ACT", "ACT", "pseudo_channel"),
        "four_activate_window": ours["pseudo_channel", "ACT", "ACT", 4, False],
        "pre_to_act": distance("PRE", "ACT", "bank"),
        "pre_to_ref": distance("PRE", "REFab", "pseudo_channel"),
        "ref_to_act": distance("REFab", "ACT", "pseudo_channel"),
        "read_latency_issue_to_done": timing.nCL + timing.nBL,
        "write_data_done": timing.nCWL + timing.nBL,
    }


@by_part
def test_rules_name_only_known_levels_and_commands(part: Standard) -> None:
    for rule in rules(part.timing(part.max_pin_rate_bps), part.organisation):
        assert rule.level in LEVELS
        assert rule.name
        assert set(rule.previous) | set(rule.following) <= set(COMMANDS)
        assert rule.ticks > 0


@by_part
def test_every_timing_parameter_but_latencies_and_intervals_stands_in_the_rule_table(part: Standard) -> None:
    base = part.timing(part.max_pin_rate_bps)
    table = rules(base, part.organisation)
    outside = {"tick_hz", "nCL", "nREFI", "nREFIpb"} | ({"nCCDR"} if part.organisation.stack_ids == 1 else set())
    for field in fields(Timing):
        if field.name == "ticks_per_ck":
            continue
        changed = altered(base, field.name)
        assert (rules(changed, part.organisation) == table) == (field.name in outside), field.name


def altered(timing: Timing, name: str) -> Timing:
    """Return the timing with one value a tick longer, or shorter where it must not be longer."""
    try:
        return replace(timing, **{name: getattr(timing, name) + 1})
    except ValueError:
        return replace(timing, **{name: getattr(timing, name) - 1})


@by_part
def test_a_longer_activate_moves_every_start_after_it_and_lets_it_start_earlier(part: Standard) -> None:
    timing = part.timing(part.max_pin_rate_bps)
    before = expanded(rules(timing, part.organisation))
    after = expanded(rules(replace(timing, act_ticks=timing.act_ticks + 1), part.organisation))
    for key, ticks in before.items():
        level, previous, following, *_ = key
        if level == "channel":
            assert after[key] == ticks + (previous == "ACT")
        elif following == "ACT" and ticks == 1 and previous != "ACT":
            assert key not in after
        else:
            assert after[key] == ticks + (previous == "ACT") - (following == "ACT"), key


@by_part
def test_precharges_alone_start_on_the_falling_edge(part: Standard) -> None:
    edges = [rule for rule in rules(part.timing(part.max_pin_rate_bps), part.organisation) if not rule.previous]
    if part.name in ("HBM3", "HBM3E", "HBM4"):
        assert [(rule.level, rule.ticks, set(COMMANDS) - set(rule.following)) for rule in edges] == [
            ("channel", 2, {"PRE", "PREab"})
        ]
    else:
        assert not edges


@by_part
def test_a_channel_starts_one_row_and_one_column_command_per_tick_or_one_in_all(part: Standard) -> None:
    table = expanded(rules(part.timing(part.max_pin_rate_bps), part.organisation))
    for previous in COMMANDS:
        for following in COMMANDS:
            together = part.organisation.command_buses == 1 or (previous in ROW) == (following in ROW)
            assert (table.get(("channel", previous, following, 1, False), 0) >= 1) == together


def test_one_stack_id_has_no_rules_between_stack_ids() -> None:
    part = standard("HBM3")
    timing = part.timing(part.max_pin_rate_bps)
    assert any(rule.sibling for rule in rules(timing, part.organisation))
    table = rules(timing, replace(part.organisation, stack_ids=1))
    assert not any(rule.level == "stack_id" for rule in table)
