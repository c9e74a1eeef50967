from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.tables import quantity, tree
from hwmodel import units

QUANTITIES = {"B": "bytes", "Hz": "frequency", "fs": "time", "B/s": "bandwidth", "b/s": "bit rate"}


@given(st.integers(1, 2**62 - 1), st.sampled_from(sorted(QUANTITIES)))
def test_a_quantity_reads_back_as_itself(value: int, unit: str) -> None:
    assert units.parse(quantity(value, unit), QUANTITIES[unit]) == value


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (40_000_000, "fs", "40 ns"),
        (70_800_000, "fs", "70.8 ns"),
        (10**15, "fs", "1 s"),
        (0, "fs", "0 fs"),
        (6_400_000_000, "b/s", "6.4 Gb/s"),
        (1_755_000_000, "Hz", "1.755 GHz"),
        (227 * 1024, "B", "227 KiB"),
        (50_000_000, "B", "50 MB"),
        (16, "B", "16 B"),
    ],
)
def test_a_quantity_has_the_prefix_a_reader_expects(value: int, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_a_tree_shows_units_and_sources_by_path_and_no_long_line() -> None:
    facts = {"noc": {"latency": 40_000_000, "ports": 16}, "cache": None}
    text = tree(facts, {"noc.latency": "fs"}, {"noc": "assumed", "noc.latency": "word " * 40})
    lines = text.splitlines()
    assert lines[0] == "noc:   [assumed]"
    assert lines[1].startswith("  latency: 40 ns   [word")
    assert lines[-2:] == ["  ports: 16", "cache: none"]
    assert max(map(len, lines)) <= 110
