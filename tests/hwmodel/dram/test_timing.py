from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.dram.standards import HBM3, Limit, Timing
from hwmodel.dram.timing import FIELDS, TICKS

TABLE = asdict(HBM3.timing(6_400_000_000))


@given(st.integers(0, 100), st.integers(0, 10**9), st.integers(1, 10**10), st.sampled_from([1, 2]))
def test_a_limit_is_the_fewest_whole_ck_that_hold_both_its_count_and_its_time(
    cycles: int, time_fs: int, ck_hz: int, ticks_per_ck: int
) -> None:
    limit = Limit(Fraction(cycles), time_fs)
    ticks = limit.ticks(Fraction(ck_hz), ticks_per_ck)
    assert ticks % ticks_per_ck == 0
    lasts = Fraction(ticks, ticks_per_ck) / ck_hz
    assert ticks >= cycles * ticks_per_ck
    assert lasts >= Fraction(time_fs, 10**15)
    shorter = ticks // ticks_per_ck - 1
    assert ticks == 0 or shorter < cycles or Fraction(shorter, ck_hz) < Fraction(time_fs, 10**15)


def test_a_table_in_ticks_gives_the_timing_that_it_was_made_of() -> None:
    assert Timing.from_ticks(TABLE) == HBM3.timing(6_400_000_000)


@pytest.mark.parametrize("name", FIELDS)
def test_a_table_in_ticks_needs_every_field(name: str) -> None:
    with pytest.raises(ValueError, match=f"timing: {name} is missing"):
        Timing.from_ticks({key: value for key, value in TABLE.items() if key != name})


def test_a_table_with_a_misspelt_field_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="timing: unknown field 'nRCDR'; known: nRCDRD"):
        Timing.from_ticks(TABLE | {"nRCDR": 3})


@pytest.mark.parametrize("name", TICKS)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", None, 1 << 40])
def test_every_value_must_be_a_positive_integer(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"timing: {name} .* must be an integer of 1 \.\. "):
        Timing.from_ticks(TABLE | {name: value})


@pytest.mark.parametrize("value", [0, -1, 1.6e9, True])
def test_the_tick_rate_must_be_positive_and_exact(value: Any) -> None:
    with pytest.raises(ValueError, match="timing: tick_hz"):
        Timing.from_ticks(TABLE | {"tick_hz": value})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"nRAS": 93}, r"timing: nRAS 93 \+ nRP 52 is more than nRC 144$"),
        ({"nFAW": 7}, "timing: nFAW 7 is less than nRRDS 8"),
        ({"nRTW": 23}, r"timing: nRTW 23 is less than nCL 40 \+ nBL 4 - nCWL 20: data of reads and writes"),
        ({"nRRDL": 7}, "timing: nRRDL 7 is less than nRRDS 8"),
        ({"nCCDL": 3}, "timing: nCCDL 3 is less than nCCDS 4"),
        ({"nCCDLW": 3}, "timing: nCCDLW 3 is less than nCCDS 4"),
        ({"nWTRL": 13}, "timing: nWTRL 13 is less than nWTRS 14"),
        ({"nRPab": 51}, "timing: nRPab 51 is less than nRP 52"),
        ({"nREFI": 1119}, "timing: nREFI 1119 is less than nRFC 1120"),
        ({"nREFIpb": 15}, "timing: nREFIpb 15 is less than nRREFD 16"),
        ({"nRCDRD": 91}, "timing: nRAS 90 is less than nRCDRD 91"),
        ({"nRCDWR": 91}, "timing: nRAS 90 is less than nRCDWR 91"),
        ({"ticks_per_ck": 3}, "timing: ticks_per_ck 3 must be 1 or 2"),
    ],
)
def test_values_that_contradict_each_other_are_refused_by_name(changes: dict[str, int], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Timing.from_ticks(TABLE | changes)


def test_the_row_cycle_may_be_exactly_its_two_parts() -> None:
    assert Timing.from_ticks(TABLE | {"nRAS": 92}).nRC == 144


def test_least_distances_hold_for_bursts_longer_than_the_column_interval() -> None:
    timing = Timing.from_ticks(TABLE | {"nCCDS": 1})
    assert (timing.burst_interval_ticks, timing.activate_to_column_ticks) == (4, 31)  # 30 + 3 - 2
