from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.text.tables import at_most, energy_line, quantity, tree
from hwmodel import units

QUANTITIES = {"B": "bytes", "Hz": "frequency", "fs": "time", "B/s": "bandwidth", "b/s": "bit rate"}
QUANTITIES |= {"fJ": "energy", "fJ/B": "energy per byte", "uW": "power"}


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
        (909_000, "fJ", "909 pJ"),
        (6_400, "fJ/B", "6.4 pJ/B"),
        (70_500_000, "uW", "70.5 W"),
        (0, "uW", "0 uW"),
    ],
)
def test_a_quantity_has_the_prefix_a_reader_expects(value: int, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_a_tree_shows_units_and_sources_by_path_and_no_long_line() -> None:
    facts = {"noc": {"latency": 40_000_000, "ports": 16}, "cache": None, "sizes": {}}
    text = tree(facts, {"noc.latency": "fs"}, {"noc": "assumed", "noc.latency": "word " * 40})
    lines = text.splitlines()
    assert lines[0] == "noc:   [assumed]"
    assert lines[1].startswith("  latency: 40 ns   [word")
    assert lines[-3:] == ["  ports: 16", "cache: none", "sizes: none"]
    assert max(map(len, lines)) <= 110


def energies(**parts: int) -> dict[str, object]:
    table = {name.replace("_", " "): fj / 1000 for name, fj in parts.items()}
    return {"energy_pj": sum(table.values()), "energy_bound_pj": 1.5e6, "energy_by_component_pj": table}


def test_the_energy_line_gives_the_shares_of_the_components_largest_first() -> None:
    parts = {"hbm_activate": 1_000_000, "hbm_io": 2_000_000, "noc": 500_000, "matrix": 1_480_000, "vector": 20_000}
    text = energy_line(energies(**parts, static=0))
    assert text == "energy 5 nJ (HBM 60 %, MAC 30 %, NoC 10 %), at least 1.5 uJ"


def test_no_energies_give_no_line_and_no_energy_at_all_no_shares() -> None:
    assert energy_line({"energy_pj": None, "energy_bound_pj": None, "energy_by_component_pj": None}) == ""
    assert energy_line({}) == ""
    assert energy_line(energies(noc=0)) == "energy 0 fJ, at least 1.5 uJ"


def test_a_gap_over_a_bound_of_zero_is_any() -> None:
    assert at_most(None) == "any"
    assert at_most(0.1234) == "12.4 %"
