from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hwmodel.description import MachineSpec
from hwmodel.spec import MACHINES, load_machine

RANGE = {"low": "5 Gb/s", "high": "6.4 Gb/s", "source": "two data sheets"}


def with_ranges(ranges: object, tmp_path: Path) -> MachineSpec:
    """Return the machine of a file with ranges."""
    path, shipped = tmp_path / "chip.yaml", yaml.safe_load((MACHINES / "npu-hbm3.yaml").read_text())
    path.write_text(yaml.safe_dump(shipped | {"ranges": ranges}))
    load_machine.cache_clear()
    return load_machine(str(path))


def test_ranges_do_not_change_what_a_machine_is(tmp_path: Path) -> None:
    spec = with_ranges({"hbm.pin_rate": RANGE}, tmp_path)
    assert spec.hash == load_machine("npu-hbm3").hash
    assert spec.ranges["hbm.pin_rate"].high == "6.4 Gb/s"


def test_a_number_that_is_changed_loses_its_range(tmp_path: Path) -> None:
    spec = with_ranges({"hbm.pin_rate": RANGE, "launch.latency": RANGE | {"low": "1 us", "high": "2 us"}}, tmp_path)
    assert list(spec.with_overrides({"hbm.pin_rate": "1 Gb/s"}).ranges) == ["launch.latency"]


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"hbm.pin_rat": RANGE}, "ranges: unknown number 'hbm.pin_rat'"),
        ({"hbm.standard": RANGE}, "ranges: unknown number 'hbm.standard'"),
        ({"hbm.address_map.fields": RANGE}, "ranges: unknown number"),
        ({"hbm.pin_rate": RANGE | {"low": "6.5 Gb/s"}}, "allowed: a range that the number itself lies in"),
        ({"hbm.pin_rate": RANGE | {"low": "6.4 Gb/s"}}, "allowed: a range that the number itself lies in"),
        ({"hbm.pin_rate": RANGE | {"low": "6.5 Gb/s"}}, "6.5 Gb/s to 6.4 Gb/s, where hbm.pin_rate is 6.4 Gb/s: "),
        ({"tlb.entries": RANGE | {"low": 1, "high": 2}}, "chip.yaml: tlb: missing, but ranges name tlb.entries; "),
        ({"hbm.pin_rate": RANGE | {"low": "5 ns"}}, "ranges.hbm.pin_rate.low: "),
        ({"hbm.pin_rate": {"low": 1, "high": 2}}, "source"),
        ({"hbm.pin_rate": RANGE | {"source": " "}}, "source"),
        ({"hbm.pin_rate": RANGE | {"middle": 1}}, "middle"),
        ({"hbm.pin_rate": [5, 6]}, "ranges.hbm.pin_rate"),
        ([1], "ranges"),
        ("x", "ranges"),
    ],
)
def test_a_range_that_cannot_be_is_refused_in_one_line(ranges: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        with_ranges(ranges, tmp_path)
    assert message in str(refused.value)
    assert "chip.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_machine_like_another_keeps_the_ranges_of_the_numbers_that_it_keeps() -> None:
    base, like = load_machine("h100-sxm"), load_machine("h200-sxm")
    assert set(like.ranges) == set(base.ranges) - {"launch.latency"}
    assert like.launch.latency != base.launch.latency
