"""The part files: what they add up to against published figures, and timings against the presets they cite."""

from __future__ import annotations

import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.dram import standards
from hwmodel.dram.standards import HBM3, PARTS, Standard, read_standard, standard, standard_names
from hwmodel.units import FS_PER_SECOND

GB, GIB = 10**9, 1 << 30
FULL_RATE = 6_400_000_000
PART = [standard(name) for name in standard_names()]
by_part = pytest.mark.parametrize("part", PART, ids=lambda part: part.name)

# part, pin rate, stacks, bandwidth as published in bytes/s, how far it is rounded, source
PUBLISHED = [
    ("HBM2", 2.4, 1, 307e9, 1e9, "JESD235B, 307 GB/s per stack"),
    ("HBM2", 1.754, 4, 900e9, 5e9, "NVIDIA V100 datasheet, 900 GB/s"),
    ("HBM2", 2.4, 4, 1228.8e9, 1e8, "AMD MI100 datasheet, 1228.8 GB/s"),
    ("HBM2E", 3.6, 1, 460e9, 1e9, "SK hynix HBM2E announcement, 460 GB/s"),
    ("HBM2E", 3.186, 5, 2039e9, 1e9, "NVIDIA A100 80 GB datasheet, 2039 GB/s"),
    ("HBM2E", 3.2, 4, 1638.4e9, 1e8, "AMD MI210 datasheet, 1638.4 GB/s"),
    ("HBM2-legacy", 2.0, 1, 256e9, 1e8, "JESD235A, 256 GB/s per stack"),
    ("HBM3", 6.4, 1, 819e9, 1e9, "JESD238, 819 GB/s per stack"),
    ("HBM3", 5.2, 8, 5325e9, 1e9, "AMD MI300X datasheet, 5.3 TB/s"),
    ("HBM3E", 6.25, 6, 4800e9, 1e8, "NVIDIA H200 datasheet, 4.8 TB/s"),
    ("HBM3E", 8.0, 8, 8000e9, 2e11, "AMD MI355X (CDNA4 whitepaper), 8 TB/s"),
    ("HBM3E", 9.6, 1, 1.23e12, 2e9, "Rambus HBM3E controller product page, 1.23 TB/s"),
    ("HBM4", 8.0, 1, 2e12, 5e10, "JESD270-4, 2 TB/s per stack"),
    ("GDDR6", 10.0, 8, 320e9, 1e8, "NVIDIA T4 datasheet, 320 GB/s over 256 bits"),
    ("GDDR6", 12.5, 6, 300e9, 1e8, "NVIDIA L4 datasheet, 300 GB/s over 192 bits"),
    ("GDDR6", 14.5, 12, 696e9, 1e8, "NVIDIA A40 datasheet, 696 GB/s over 384 bits"),
    ("GDDR6", 16.0, 8, 512e9, 1e8, "AMD Radeon RX 6900 XT, 512 GB/s over 256 bits"),
    ("GDDR6", 18.0, 12, 864e9, 1e8, "NVIDIA L40 and L40S datasheets, 864 GB/s over 384 bits"),
    ("GDDR6", 20.0, 10, 800e9, 1e8, "AMD Radeon RX 7900 XT, 800 GB/s over 320 bits"),
    ("GDDR6X", 21.0, 12, 1008e9, 1e8, "NVIDIA GeForce RTX 4090 (Ada whitepaper), 1008 GB/s over 384 bits"),
    ("GDDR7", 28.0, 16, 1792e9, 1e8, "NVIDIA RTX PRO 6000 Blackwell, 1792 GB/s"),
    ("LPDDR5X", 8.533, 4, 273e9, 1e9, "Apple M4 Pro, 256 bits of LPDDR5X-8533, 273 GB/s"),
    ("DDR5", 4.8, 1, 38.4e9, 1e7, "JESD79-5, PC5-38400, 38.4 GB/s per module"),
]
# part, bytes per stack, bytes per row of a pseudo-channel, source
SIZES = [
    ("HBM2", 8 * GIB, 1024, "JESD235, 8 GB; pages of 1 KiB in pseudo-channel mode"),
    ("HBM2E", 16 * GIB, 1024, "SK hynix HBM2E announcement, 16 GB"),
    ("HBM2-legacy", 8 * GIB, 2048, "JESD235, 8 GB; pages of 2 KiB in legacy mode"),
    ("HBM3", 16 * GIB, 1024, "JESD238, eight dies of 16 Gb; NVIDIA H100 80 GB has five stacks"),
    ("HBM3E", 24 * GIB, 1024, "Micron HBM3E product brief, eight dies of 24 Gb"),
    ("HBM4", 32 * GIB, 1024, "JESD270-4, eight dies of 32 Gb"),
    ("GDDR6", 2 * GIB, 4096, "JESD250, device of 16 Gb; pages of 128 bursts"),
    ("GDDR6X", 2 * GIB, 4096, "Micron GDDR6X product brief, device of 16 Gb; assumed, pages of GDDR6"),
    ("GDDR7", 2 * GIB, 2048, "JESD239, device of 16 Gb"),
    ("LPDDR5X", 8 * GIB, 2048, "JESD209-5, four channels of 16 Gb; pages of 2 KiB"),
    ("DDR5", 16 * GIB, 4096, "JESD79-5, eight x8 devices of 16 Gb; pages of 1 KiB in each of four"),
]
# timings at one data rate, in CK, as Ramulator 2's presets give them
GDDR6 = "GDDR6_2000_1350mV_quad"  # its CK of 0.57 ns is that of 14 Gb/s
PRESETS = [
    ("HBM4", 8.0, "HBM4_8000Mbps", "nBL 2 nCL 20 nCWL 10 nRC 90 nRAS 57 nRP 33 nRCDRD 39 nRCDWR 19 nRRDL 7 nRRDS 5"),
    ("HBM4", 8.0, "HBM4_8000Mbps", "nFAW 30 nRTP 12 nWR 42 nCCDL 4 nCCDS 2 nCCDR 2 nWTRL 13 nWTRS 9 nRTW 25 nPPD 2"),
    ("HBM4", 8.0, "HBM4_8000Mbps", "nRFCpb 560 nRFC 900 nREFI 7800 nRREFD 16"),
    ("GDDR6", 14.0, GDDR6, "nCL 24 nRCDRD 26 nRCDWR 16 nRP 26 nRAS 53 nRC 79 nWR 26 nRTP 4 nCWL 6 nRRDS 7 nRRDL 7"),
    ("GDDR6", 14.0, GDDR6, "nWTRS 9 nWTRL 11 nFAW 28 nRFC 210 nRFCpb 105 nRREFD 14"),
    ("GDDR7", 28.0, "GDDR7_28000_PAM3", "nBL 2 nRCDRD 30 nRCDWR 19 nRP 30 nRAS 60 nRC 90 nWR 30 nRTP 4 nRRDS 4"),
    ("GDDR7", 28.0, "GDDR7_28000_PAM3", "nRREFD 21 nWTRS 9 nWTRL 11 nRFC 315 nRFCpb 105 nCWL 6"),
    ("GDDR7", 28.0, "GDDR7, the model's nRL 24 + nBL 2 + 4 - nWL 6", "nRTW 24"),
    (
        "LPDDR5X",
        6.4,
        "LPDDR5_6400",
        "nBL 2 nCL 17 nRCDRD 15 nRP 15 nRPab 17 nRAS 34 nWR 28 nCWL 9 nPPD 2 nCCDS 2 nCCDL 4",
    ),
    ("LPDDR5X", 6.4, "LPDDR5_6400", "nWTRS 5 nWTRL 10 nRFC 224"),
    ("LPDDR5X", 6.4, "JESD209-5B, LPDDR5X", "nRRDS 3 nRRDL 3 nFAW 12 nRFCpb 112"),
    ("LPDDR5X", 8.5, "JESD209-5B, LPDDR5X", "nRRDS 4 nRRDL 4 nFAW 16 nRFCpb 149"),
    ("DDR5", 4.8, "DDR5_4800AN", "nBL 8 nCL 34 nRCDRD 34 nRP 34 nRAS 77 nRC 111 nWR 72 nRTP 18 nCWL 32 nPPD 2 nCCDS 8"),
    ("DDR5", 4.8, "DDR5_4800AN", "nCCDL 12 nWTRS 6 nWTRL 24 nRRDS 8 nRRDL 12"),
    ("DDR5", 3.2, "JESD79-5, DDR5-3200", "nFAW 32 nCCDLW 16"),
    ("DDR5", 4.8, "JESD79-5, DDR5-4800", "nFAW 32 nCCDLW 24"),
    ("DDR5", 6.4, "JESD79-5, DDR5-6400", "nFAW 32 nCCDLW 32"),
]


@pytest.mark.parametrize(("name", "gbps", "stacks", "published", "rounding", "source"), PUBLISHED)
def test_peak_bandwidth_is_the_published_one(
    name: str, gbps: float, stacks: int, published: float, rounding: float, source: str
) -> None:
    peak = stacks * standard(name).peak_bytes_per_second(round(gbps * 1e9))
    assert abs(float(peak) - published) <= rounding, source


@pytest.mark.parametrize(("name", "capacity_bytes", "row_bytes", "source"), SIZES)
def test_capacity_and_row_are_the_published_ones(name: str, capacity_bytes: int, row_bytes: int, source: str) -> None:
    o = standard(name).organisation
    by_hand = o.channels * o.pseudo_channels * o.stack_ids * o.bank_groups * o.banks_per_group * o.rows * row_bytes
    assert (o.capacity_bytes, by_hand, o.row_bytes) == (capacity_bytes, capacity_bytes, row_bytes), source


def test_every_part_has_a_published_bandwidth_and_capacity_to_compare_with() -> None:
    assert {row[0] for row in PUBLISHED} == {row[0] for row in SIZES} == set(standard_names())


def test_gddr6x_is_gddr6_but_for_its_data_rates() -> None:
    plain, pam4 = standard("GDDR6"), standard("GDDR6X")
    assert (pam4.organisation, pam4.clock, pam4.limits) == (plain.organisation, plain.clock, plain.limits)
    rate = 21 * GB
    assert pam4.timing(rate) == plain.timing(rate)
    with pytest.raises(ValueError, match=r"GDDR6X: pin rate 16000000000 b/s is outside 19000000000 \.\. "):
        pam4.timing(16 * GB)


def test_an_hbm4_stack_has_64_pseudo_channels_of_32_bits() -> None:
    o = standard("HBM4").organisation
    assert (o.channels * o.pseudo_channels, o.channels * o.pseudo_channels * o.width_bits) == (64, 2048)


@pytest.mark.parametrize(("name", "gbps", "preset", "values"), PRESETS)
def test_timing_is_that_of_the_cited_preset(name: str, gbps: float, preset: str, values: str) -> None:
    timing = standard(name).timing(round(gbps * 1e9))
    words = values.split()
    for field, cycles in zip(words[::2], words[1::2], strict=True):
        assert getattr(timing, field) == int(cycles) * timing.ticks_per_ck, (preset, field)


@pytest.mark.parametrize(
    ("name", "rate", "config", "renamed"),
    [
        ("HBM3", FULL_RATE, "ram2_hbm3_rh32", {}),
        ("HBM2", 2_000_000_000, "ram2_hbm2_rh32", {"nRTPL": "nRTP"}),
    ],
)
def test_timing_equals_the_cited_preset_in_every_value(
    data_dir: Path, name: str, rate: int, config: str, renamed: dict[str, str]
) -> None:
    cited = json.loads((data_dir / "dram" / "configs.json").read_text())[config]
    timing = asdict(standard(name).timing(rate))
    values = {renamed.get(key, key): value for key, value in cited["timing_ticks"].items() if "RFM" not in key}
    if name == "HBM2":  # the preset divides by the banks of both pseudo-channels; each is refreshed by itself
        assert values.pop("nREFIpb") == timing["nREFIpb"] // 2 + 1
    assert values == {key: timing[key] for key in values}
    assert timing["ticks_per_ck"] == cited["ticks_per_CK"]
    assert 10**9 / timing["tick_hz"] == Fraction(cited["tick_ns"])
    lengths = cited["command_cycles_ticks"]
    assert (timing["act_ticks"], timing["column_ticks"]) == (lengths["ACT"], lengths["RD"])
    assert {value for key, value in lengths.items() if key[0] in "PR" and key not in ("RD", "RDA")} == {1}


@pytest.mark.parametrize(
    ("name", "config"), [("HBM3", "ram2_hbm3_rh32"), ("HBM2", "ram2_hbm2_rh32"), ("HBM2-legacy", "ds3_hbm2")]
)
def test_organisation_equals_the_cited_preset(data_dir: Path, name: str, config: str) -> None:
    cited = json.loads((data_dir / "dram" / "configs.json").read_text())[config]["organisation"]
    o = standard(name).organisation
    row, width = cited.get("row_bytes_per_pc", cited.get("row_bytes")), "channel_width_bits_per_pc"
    assert (o.pseudo_channels, o.stack_ids, o.bank_groups, o.banks_per_group) == (
        cited["pseudo_channels"], cited.get("sids", 1), cited["bank_groups"], cited["banks_per_group"]
    )  # fmt: skip
    assert (o.columns, o.row_bytes, o.rows, o.burst_bytes, o.width_bits) == (
        cited["bursts_per_row"], row, cited["rows"], cited["burst_bytes"], cited.get(width, cited.get("bus_width_bits"))
    )  # fmt: skip
    assert o.capacity_bytes == o.channels * cited["capacity_bytes"]


rates = st.sampled_from(PART).flatmap(
    lambda part: st.tuples(st.just(part), st.integers(part.min_pin_rate_bps, part.max_pin_rate_bps))
)


@given(rates)
def test_bursts_back_to_back_are_the_peak_of_the_pins(case: tuple[Standard, int]) -> None:
    part, rate = case
    timing, o = part.timing(rate), part.organisation
    by_bursts = timing.tick_hz * o.burst_bytes * o.channels * o.pseudo_channels / timing.burst_interval_ticks
    assert by_bursts == part.peak_bytes_per_second(rate)


@given(rates)
def test_limits_hold_at_every_data_rate_in_the_fewest_ck_and_intervals_are_not_exceeded(
    case: tuple[Standard, int],
) -> None:
    part, rate = case
    timing = part.timing(rate)
    ck_hz = timing.tick_hz / timing.ticks_per_ck
    assert ck_hz == Fraction(rate, part.clock.pin_bits_per_ck)
    for name, limit in part.limits.items():
        field = f"n{name[1:]}"
        if field in ("nREFI", "nBTR", "nRC"):
            continue
        cycles = Fraction(getattr(timing, field), timing.ticks_per_ck)
        assert cycles.denominator == 1
        needed = max(limit.ck, Fraction(limit.time_fs, FS_PER_SECOND) * ck_hz)
        assert needed <= cycles < needed + 1, name
    assert timing.nRC >= max(timing.nRAS + timing.nRP, part.limits["tRC"].ticks(ck_hz, timing.ticks_per_ck))
    interval = Fraction(part.limits["tREFI"].time_fs, FS_PER_SECOND)
    assert timing.nREFI <= interval * timing.tick_hz < timing.nREFI + timing.ticks_per_ck
    assert timing.nREFIpb * part.organisation.banks <= timing.nREFI


@pytest.mark.parametrize("rate", [0, -1, HBM3.min_pin_rate_bps - 1, FULL_RATE + 1])
def test_a_data_rate_outside_the_standard_is_refused_with_its_value(rate: int) -> None:
    with pytest.raises(ValueError, match=rf"HBM3: pin rate {rate} b/s is outside 1000000000 .. 6400000000 b/s"):
        HBM3.timing(rate)


def test_an_unknown_standard_is_refused_with_the_known_ones() -> None:
    assert standard("HBM3") == HBM3
    with pytest.raises(ValueError, match="'HBM33'; known: HBM3, "):
        standard("HBM33")


@by_part
def test_a_part_is_named_like_its_file_and_says_where_every_number_is_from(part: Standard) -> None:
    tree = yaml.safe_load((PARTS / f"{part.name}.yaml").read_text())
    assert tree["name"] == part.name
    numbers = {f"organisation.{key}" for key in tree["organisation"]} | {f"timing.{key}" for key in tree["timing"]}
    unused = set(part.sources) - numbers - {"organisation", "clock", "timing", "min_pin_rate", "max_pin_rate"}
    assert not unused
    assert all(len(source) > 8 for source in part.sources.values())
    assert all(source.startswith("assumed; ") for source in part.sources.values() if "assumed" in source[:8])


def edited(tmp_path: Path, path: str, value: Any) -> Path:
    tree = yaml.safe_load((PARTS / "HBM3.yaml").read_text())
    *parents, last = path.split(".", 1)
    node = tree[parents[0]] if parents else tree
    if value is None:
        del node[last]
    else:
        node[last] = value
    file = tmp_path / "part.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("timing.tRAS", "30 ns", r"tRAS \+ tRP is more than tRC: tRAS 30 ns, tRP 16.25 ns, tRC 45 ns"),
        ("timing.tRAS", "7.5 ns", "HBM3 at 1000000000 b/s: timing: nRAS 4 is less than nRCDRD 10"),
        ("timing.tRCDRD", None, "timing.tRCDRD: missing"),
        ("timing.tRCD", "14 ns", "timing.tRCD: unknown; known: tRC"),
        ("timing.tRP", "0 ns", "timing.tRP: '0 ns' must be more than zero"),
        ("timing.tRP", "-3 CK", "timing.tRP: '-3 CK' must be more than zero"),
        ("timing.tRP", [], r"timing.tRP: \[\] must be more than zero"),
        ("timing.tRP", 26, "timing.tRP: 26 is no limit: give a count of CK, or a time such as 15 ns"),
        ("timing.tRP", "many CK", "timing.tRP: 'many CK' is no limit"),
        ("timing.tFAW", "2 CK", "nFAW 4 is less than nRRDS"),
        ("timing.tCCDL", "1 CK", "nCCDL 2 is less than nCCDS 4"),
        ("timing.tREFI", "300 ns", "nREFI .* is less than nRFC"),
        ("timing.tBL", "4 CK", "timing.tBL: 4 CK of 32 pins with 4 bits per CK are not the 32 B of a burst"),
        ("timing", [1], r"timing: \[1\] must be a mapping"),
        ("clock.ticks_per_ck", 3, "ticks_per_ck 3 must be 1 or 2"),
        ("clock.act_ticks", 0, "clock.act_ticks: 0 must be an integer of at least 1"),
        ("clock", 5, "clock: 5 must be a mapping"),
        ("organisation.rows", 0, "organisation.rows: 0 must be an integer of at least 1"),
        ("organisation.rows", 1 << 40, "organisation.rows: 1099511627776; allowed: 1 to 1048576"),
        ("organisation.rows", "many", "organisation.rows: 'many' must be an integer"),
        ("organisation.burst_bytes", 48, "organisation.row_bytes: 1024 is no multiple of burst_bytes 48"),
        ("organisation.command_buses", 3, "organisation.command_buses: 3 must be 1 or 2"),
        ("organisation.bank", 4, "organisation: unknown key 'bank'; known: "),
        ("organisation.channels", None, "organisation: channels is missing"),
        ("min_pin_rate", "7 Gb/s", "min_pin_rate 7000000000 b/s is above max_pin_rate"),
        ("max_pin_rate", "fast", "max_pin_rate: 'fast' is no bit rate"),
        ("sources.timing.tRCD", "a test", "sources: unknown 'timing.tRCD'; known: timing.tRC"),
        ("sources.timing", None, "sources: timing.tCL has no source"),
        ("sources.max_pin_rate", " ", "sources: max_pin_rate has no source"),
        ("sources", 1, "sources: 1 must be a mapping"),
    ],
)
def test_a_part_file_with_a_mistake_is_refused_in_one_line(tmp_path: Path, path: str, value: Any, problem: str) -> None:
    file = edited(tmp_path, path, value)
    with pytest.raises(ValueError, match=problem) as error:
        read_standard(file)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)


def test_a_part_called_otherwise_than_its_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standards, "PARTS", tmp_path)
    edited(tmp_path, "name", "OTHER").rename(tmp_path / "MINE.yaml")
    try:
        standards.forget()
        with pytest.raises(ValueError, match=r"MINE\.yaml: name: 'OTHER'; allowed: MINE, as the file is called$"):
            standard("MINE")
    finally:
        standards.forget()


@pytest.mark.parametrize(
    ("path", "value"),
    [("timing.tRCDRD", "25 ns"), ("timing.tRTW", "99 CK"), ("clock.act_ticks", 4), ("organisation.rows", 8192),
     ("max_pin_rate", "6.5 Gb/s")],
)  # fmt: skip
def test_the_digest_of_a_part_is_of_its_numbers(tmp_path: Path, path: str, value: Any) -> None:
    assert read_standard(edited(tmp_path, path, value)).digest != standard("HBM3").digest


def test_the_digest_of_a_part_is_not_of_its_words_or_of_how_a_number_is_written(tmp_path: Path) -> None:
    for path, value in (
        ("name", "MINE"),
        ("description", "mine"),
        ("sources.clock", "mine"),
        ("max_pin_rate", "6400 Mb/s"),
    ):
        assert read_standard(edited(tmp_path, path, value)).digest == standard("HBM3").digest


def test_a_part_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "part.yaml"
    file.write_text("- HBM3\n")
    with pytest.raises(ValueError, match="must be a mapping"):
        read_standard(file)


def test_a_part_of_ones_own_is_read_with_its_numbers(tmp_path: Path) -> None:
    part = read_standard(edited(tmp_path, "timing.tRCDRD", ["8 CK", "14 ns"]))
    assert part.timing(FULL_RATE).nRCDRD == 2 * 23  # 22.4 CK
    assert part.timing(HBM3.min_pin_rate_bps).nRCDRD == 2 * 8
