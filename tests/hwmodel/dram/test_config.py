from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hwmodel.dram.checker import check
from hwmodel.dram.config import CONFIGS, SETTABLE, DramConfig, config_names, load_config
from hwmodel.dram.replay_result import replay_trace
from hwmodel.dram.standards import standard, standard_names

BASE = "ram2_hbm3_rh32"
by_name = pytest.mark.parametrize("name", config_names())


def written(tmp_path: Path, change: Any) -> Path:
    """Return a file with the base configuration, changed by a function of its tree."""
    tree = yaml.safe_load((CONFIGS / f"{BASE}.yaml").read_text())
    change(tree)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def at(path: str, value: object) -> Any:
    """Return the change that sets a value at a dotted path."""

    def change(tree: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            tree = tree.setdefault(key, {})
        tree[last] = value

    return change


def without(path: str) -> Any:
    def change(tree: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            tree = tree[key]
        del tree[last]

    return change


@by_name
def test_a_shipped_configuration_is_named_as_its_file_and_covers_its_memory_once(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert config.address_map.capacity_bytes == config.organisation.capacity_bytes
    assert all(source.strip() for source in config.sources.values())


# queues of another length are compiled for themselves, which takes a minute
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "ram2_hbm3_rh128")) for name in config_names()]
)
def test_commands_under_a_shipped_configuration_break_no_rule(name: str) -> None:
    config = load_config(name)
    rng = np.random.default_rng(1)
    addresses = rng.integers(0, config.organisation.capacity_bytes // 64, 1500, np.uint64) * 64
    addresses[500:] = np.arange(1000) * 64
    result, dram = replay_trace(config, addresses, rng.random(1500) < 0.3, record_commands=True)
    assert check(dram.commands(), config.rules(), config.organisation) == []
    assert 0 < result.bandwidth_fraction <= 1


def test_every_standard_has_a_configuration() -> None:
    assert {load_config(name).standard for name in config_names()} == set(standard_names())


def test_a_file_is_read_like_a_shipped_name_and_names_itself_in_errors(tmp_path: Path) -> None:
    path = written(tmp_path, at("policy.read_queue", 48))
    config = load_config(str(path))
    assert config.policy.read_queue == 48
    assert config.where == str(path)
    assert config.timing == load_config(BASE).timing


def test_overrides_give_another_configuration_and_leave_the_old_one() -> None:
    base = load_config(BASE)
    changed = base.with_overrides({"policy.read_queue": 64, "pin_rate": "5.2 Gb/s", "policy.scheduler": "fcfs"})
    assert (changed.policy.read_queue, changed.pin_rate, changed.policy.scheduler) == (64, 5_200_000_000, "fcfs")
    assert (base.policy.read_queue, base.pin_rate, base.policy.scheduler) == (32, 6_400_000_000, "fr-fcfs-row-hit")
    assert changed.sources["policy.read_queue"] == "what-if"
    assert "policy.read_queue" in base.sources
    assert base.with_overrides({}) is base
    twice = changed.with_overrides({"policy.write_queue": "16"})
    assert (twice.policy.read_queue, twice.policy.write_queue) == (64, 16)


def test_overriding_the_rows_changes_capacity_and_map_together() -> None:
    config = load_config(BASE).with_overrides({"organisation.rows": 1024})
    assert config.address_map.capacity_bytes == config.organisation.capacity_bytes == 1 << 26


def test_explicit_timing_replaces_the_standards_in_ticks_or_as_a_time() -> None:
    base = load_config(BASE)
    ticks = base.with_overrides({"timing.nRCDRD": 70, "timing.nFAW": "20 ns"})
    assert ticks.timing.nRCDRD == 70
    assert ticks.timing.nFAW == 64  # 20 ns are 32 CK of 0.625 ns, of two ticks each
    assert base.with_overrides({"timing.nFAW": "20001 ps"}).timing.nFAW == 66  # up to whole CK
    assert ticks.timing.nRP == base.timing.nRP


def test_a_refresh_interval_rounds_down_and_divides_among_the_banks() -> None:
    timing = load_config(BASE).with_overrides({"timing.nREFI": "2000.9 ns"}).timing
    assert timing.nREFI == 6402  # 3201.44 CK
    assert timing.nREFIpb == 3201 // 32 * 2


def test_the_description_survives_as_a_summary_with_its_sources() -> None:
    facts = load_config(BASE).summary()
    assert facts["policy"]["read_queue"] == 32
    assert facts["capacity_bytes"] == 1 << 30
    assert facts["peak_bytes_per_second"] == 51_200_000_000
    assert facts["tick_ps"] == 312.5
    assert facts["timing_ticks"]["nREFI"] == 12480  # 3.9 us
    assert "sources" in facts


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (at("polcy", {}), "unknown key 'polcy'; known: policy"),
        (at("policy.read_queu", 4), "unknown key 'policy.read_queu'; known: policy.read_queue"),
        (at("address_map.hash", []), "unknown key 'address_map.hash'; known: address_map.hashes"),
        (at("organisation.channels", 2), "unknown key 'organisation.channels'"),
        (at("organisation.row", 2), "unknown key 'organisation.row'; known: organisation.rows"),
        (at("timing.nRCD", 2), "unknown key 'timing.nRCD'; known: timing.nRCDRD, timing.nRCDWR, timing.nRC"),
        (without("standard"), "standard: missing"),
        (without("policy.scheduler"), "policy.scheduler: missing"),
        (without("address_map.fields"), "address_map.fields: missing"),
        (without("sources.pin_rate"), "sources: pin_rate has no source"),
        (at("sources.pinrate", "a test"), "sources: unknown 'pinrate'; known: pin_rate"),
        (at("sources.pin_rate", " "), "sources.pin_rate: ' ': name a source"),
        (at("policy.read_queue", 0), "policy.read_queue: 0; allowed: at least 1$"),
        (at("policy.read_queue", True), "policy.read_queue: True; allowed: an integer$"),
        (at("policy.read_queue", 5000), "policy.read_queue: 5000 is outside 1 .. 4096"),
        (at("policy.scheduler", "frfcfs"), "policy.scheduler: 'frfcfs'; known: fr-fcfs"),
        (at("policy.refresh", "all-bnk"), "policy.refresh: 'all-bnk'; known: all-bank"),
        (at("policy.write_low", 0.9), "policy: write_low 0.9, write_high 0.8"),
        (at("policy.write_high", float("nan")), "policy: write_low 0.2, write_high nan"),
        (at("policy.row_policy", "timeout"), "policy.timeout_ticks: 0 with row policy 'timeout'"),
        (at("pin_rate", "9 Gb/s"), "pin_rate: HBM3: pin rate 9000000000 b/s is outside 1000000000 .. 6400000000 b/s"),
        (at("pin_rate", 6_400_000_000), "pin_rate: 6400000000 is no bit rate: give a number and a unit"),
        (at("standard", "HBM33"), "standard: unknown DRAM standard 'HBM33'; known: HBM3"),
        (at("channels", 0), "channels: 0; allowed: at least 1$"),
        (at("channels", 65), "channels: 65; allowed: at most 64$"),
        (at("name", 5), "name: 5; allowed: a text$"),
        (at("organisation.rows", "many"), "organisation.rows: 'many'; allowed: an integer$"),
        (at("organisation", 3), "organisation: 3; allowed: a mapping of keys to values$"),
        (at("policy", "fcfs"), "policy: 'fcfs'; allowed: a mapping with the keys scheduler, row_policy, "),
        (at("policy.merge", 1), "policy.merge: 1; allowed: true or false$"),
        (at("policy.write_high", "half"), "policy.write_high: 'half'; allowed: a number$"),
        (at("address_map.fields", "row"), "address_map.fields: 'row'; allowed: a list$"),
        (at("address_map.fields", ["offset:5", "column", "row"]), "address_map: address map: digits of pseudo_channel"),
        (at("address_map.hashes", ["bank[9] ^= row[0]"]), "address_map: .* there is no bank"),
        (at("organisation.row_bytes", 1000), "organisation.row_bytes: 1000 is no multiple of burst_bytes 32"),
        (at("organisation.burst_bytes", 64), "timing.tBL: 2 CK of 32 pins .* are not the 64 B of a burst"),
        (at("timing.nRAS", 4000), "timing: nRAS 4000 .* is more than nRC"),
        (at("timing.nRP", 0), "timing: nRP 0 must be an integer"),
        (at("timing.nRP", "16 parsec"), "timing.nRP: '16 parsec'; allowed: an integer of ticks, or a time"),
        (at("timing.nRP", 3.5), "timing.nRP: 3.5; allowed: an integer of ticks"),
        (at("timing.nREFI", "1 ns"), "timing: nREFI"),
        (at("timing.nBL", 1), "timing: nBL 1: a burst takes . ticks on its pins, or more"),
        (at("timing.nREFI", 1160), "timing.nREFI: 1160 ticks leave no time .*; allowed: more than"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_with_file_path_and_value(tmp_path: Path, change: Any, problem: str) -> None:
    def changed(tree: dict[str, Any]) -> None:
        tree["sources"] |= {"timing": "a test", "organisation": "a test"}
        change(tree)

    path = written(tmp_path, changed)
    with pytest.raises(ValueError, match=problem) as caught:
        load_config(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- 1\n", r": \[1\]; allowed: a mapping with the keys name, .*, organisation, timing, policy, address_map, "),
        ("", ": nothing; allowed: a mapping"),
        ("a: [", ":1:5: not YAML"),
        ("a: &x 1\nb: *x\n", ":2:4: not YAML: aliases are not allowed"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{path}{problem}"):
        load_config(str(path))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"policy.read_queu": 4}, "unknown config path 'policy.read_queu'; known: policy.read_queue"),
        ({"address_map.fields": "x"}, "'address_map.fields' is a list"),
        ({"policy.read_queue": "many"}, "config ram2_hbm3_rh32: policy.read_queue: 'many'"),
        ({"channels": 2}, "digits of channel: 1 bits too few"),
        ({"sources": "none"}, "unknown config path 'sources'"),
    ],
)
def test_a_bad_override_is_refused_with_the_path(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        load_config(BASE).with_overrides(changes)


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown config 'ds3_hmb2'; known: ds3_hbm2, .*or a path ending in .yaml"):
        load_config("ds3_hmb2")


def test_an_organisation_that_the_controller_has_no_room_for_is_refused_when_it_is_made() -> None:
    config = load_config("ds3_hbm2").with_overrides({"organisation.bank_groups": 64})
    with pytest.raises(ValueError, match="config ds3_hbm2: organisation: 256 banks per pseudo-channel"):
        config.dram()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"organisation.rows": (1 << 24) + 1}, "config ds3_hbm2: organisation: 16777217 rows; allowed: 1 .. 16777216"),
        ({"organisation.row_bytes": 1 << 25}, "config ds3_hbm2: organisation: 524288 columns; allowed: 1 .. 262144"),
    ],
)
def test_rows_and_columns_beyond_what_a_place_holds_are_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        load_config("ds3_hbm2").with_overrides(changes).dram()
    most = {"organisation.rows": 1 << 24, "organisation.row_bytes": 1 << 24}
    largest = load_config("ds3_hbm2").with_overrides(most)
    last = np.array([largest.organisation.capacity_bytes - 64])
    result, dram = replay_trace(largest, last, np.zeros(1, bool), record_commands=True)
    assert (result.rd, dram.commands()[0, 5]) == (1, (1 << 24) - 1)


def test_every_settable_path_is_accepted_with_the_value_that_it_has() -> None:
    config = load_config(BASE)
    values: dict[str, object] = {"standard": config.standard, "pin_rate": "6.4 Gb/s", "channels": 1}
    for path in SETTABLE:
        head, _, name = path.partition(".")
        value = values.get(path, getattr(getattr(config, head), name) if name else None)
        changed = config.with_overrides({path: value})
        assert isinstance(changed, DramConfig)
        assert (changed.timing, changed.organisation, changed.policy) == (
            config.timing,
            config.organisation,
            config.policy,
        )


def test_the_timing_of_the_standard_holds_where_nothing_replaces_it() -> None:
    for name in config_names():
        config = load_config(name)
        assert config.timing == standard(config.standard).timing(config.pin_rate)
