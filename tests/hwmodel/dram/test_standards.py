from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.dram.standards import COMMANDS, HBM3, LEVELS, PS_PER_SECOND, Timing, rules, standard

FULL_RATE = 6_400_000_000


def test_full_rate_timing_equals_the_cited_preset(data_dir: Path) -> None:
    cited = json.loads((data_dir / "dram" / "configs.json").read_text())["ram2_hbm3_rh32"]["timing_ck"]
    timing = asdict(HBM3.timing(FULL_RATE))
    assert timing.pop("tick_hz") == 1_600_000_000
    assert timing == {name: cited[name] for name in timing}


def test_organisation_equals_the_cited_preset(data_dir: Path) -> None:
    cited = json.loads((data_dir / "dram" / "configs.json").read_text())["ram2_hbm3_rh32"]["organisation"]
    o = HBM3.organisation
    assert (o.pseudo_channels, o.stack_ids, o.bank_groups) == (
        cited["pseudo_channels"],
        cited["sids"],
        cited["bank_groups"],
    )
    assert (o.columns, o.row_bytes, o.rows) == (
        cited["bursts_per_row"],
        cited["row_bytes_per_pc"],
        cited["rows"],
    )
    assert o.capacity_bytes == o.channels * cited["capacity_bytes"] == 16 << 30


def test_stack_peak_is_the_published_819_gigabytes_per_second() -> None:
    assert HBM3.peak_bytes_per_second(FULL_RATE) == 819_200_000_000


@given(st.integers(HBM3.min_pin_rate_bps, FULL_RATE))
def test_a_burst_per_column_interval_is_the_peak_of_the_pins(rate: int) -> None:
    timing, o = HBM3.timing(rate), HBM3.organisation
    by_bursts = timing.tick_hz * o.burst_bytes * o.channels * o.pseudo_channels / timing.nCCDS
    assert by_bursts == HBM3.peak_bytes_per_second(rate)
    assert timing.nBL == timing.nCCDS


@given(st.integers(HBM3.min_pin_rate_bps, FULL_RATE))
def test_analogue_limits_hold_at_every_data_rate_and_intervals_are_not_exceeded(rate: int) -> None:
    timing = HBM3.timing(rate)
    ps = asdict(HBM3.analogue_ps)
    interval = ps.pop("tREFI")
    for name, value in ps.items():
        ticks = getattr(timing, f"n{name[1:]}")
        assert Fraction(ticks) / timing.tick_hz >= Fraction(value, PS_PER_SECOND)
        assert Fraction(ticks - 1) / timing.tick_hz < Fraction(value, PS_PER_SECOND)
    assert Fraction(timing.nREFI) / timing.tick_hz <= Fraction(interval, PS_PER_SECOND)
    assert timing.nREFIpb * HBM3.organisation.banks <= timing.nREFI


@pytest.mark.parametrize("rate", [0, -1, HBM3.min_pin_rate_bps - 1, FULL_RATE + 1])
def test_a_data_rate_outside_the_standard_is_refused_with_its_value(rate: int) -> None:
    with pytest.raises(ValueError, match=str(rate)):
        HBM3.timing(rate)


def test_an_unknown_standard_is_refused_with_the_known_ones() -> None:
    assert standard("HBM3") is HBM3
    with pytest.raises(ValueError, match="'HBM33'; known: HBM3"):
        standard("HBM33")


def test_every_timing_parameter_but_latencies_and_intervals_stands_in_the_rule_table() -> None:
    base = HBM3.timing(FULL_RATE)
    table = rules(base, HBM3.organisation)
    outside = {"tick_hz", "nCL", "nREFI", "nREFIpb"}
    for field in fields(Timing):
        changed = replace(base, **{field.name: getattr(base, field.name) + 1})
        assert (rules(changed, HBM3.organisation) == table) == (field.name in outside), field.name


def test_rules_name_only_known_levels_and_commands() -> None:
    for rule in rules(HBM3.timing(FULL_RATE), HBM3.organisation):
        assert rule.level in LEVELS
        assert set(rule.previous) | set(rule.following) <= set(COMMANDS)
        assert rule.ticks > 0


def test_one_stack_id_has_no_rules_between_stack_ids() -> None:
    table = rules(HBM3.timing(FULL_RATE), replace(HBM3.organisation, stack_ids=1))
    assert not any(rule.sibling for rule in table)
