from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodel.spec import MACHINES, load_machine, machine_names


def test_the_shipped_machines_are_the_files_of_their_folder() -> None:
    ampere, hopper = ("a100-pcie-40gb", "a100-pcie-80gb", "a100-sxm", "a100-sxm-40gb"), ("h100-pcie", "h100-sxm", "h20")
    hopper += ("h200-sxm", "h800-sxm")
    others = ("mi100", "mi300a", "mi300x", "mi355x", "npu-hbm3", "npu-sram", "npu-sram-local", "tpu-v5e", "tpu-v6e")
    others += ("v100-pcie",)
    gddr = ("a40", "l4", "l40", "l40s", "rtx-4090", "rtx-pro-6000-server", "t4")
    hbm = (*ampere, "b200-sxm", "b300-sxm", "gb200", "gh200", *hopper, *others)
    assert machine_names() == tuple(sorted((*hbm, *gddr)))
    for name in machine_names():
        assert load_machine(name).name == name


def test_null_and_a_file_that_is_no_mapping_are_named_as_they_stand(refusal: Any) -> None:
    tree = yaml.safe_load((MACHINES / "npu-hbm3.yaml").read_text()) | {"noc": None}
    assert ": noc: null; allowed: a mapping with the keys port_bytes_per_cycle, " in refusal(tree)
    assert ": [1]: a machine description is a mapping with the keys name, description, cores, " in refusal([1])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "a machine description is a mapping"),
        (b"- 1\n- 2\n", "a machine description is a mapping"),
        (b"name: x\n" + b"z" * 1000 + b": 1\n", "unknown key 'zzz"),
        (b"name: x\n? [1, 2]\n: 1\n", "machine.yaml:2:3: not YAML"),
        (b"1: 2\n", "machine.yaml: "),
        (b"hbm.stacks: 4\n", "unknown key 'hbm.stacks'"),
    ],
)
def test_a_file_of_other_keys_gives_one_short_line(content: bytes, expected: str, refusal: Any) -> None:
    assert expected in refusal(content)


def test_a_misspelt_key_is_named_before_the_key_that_is_then_missing(refusal: Any) -> None:
    text = (MACHINES / "npu-hbm3.yaml").read_bytes()
    assert "unknown key 'cores.cuont'; known: cores.count" in refusal(text.replace(b"count: 16", b"cuont: 16"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"0x" + b"f" * 100_000, "cores.count: a very long number; allowed: at most 4096"),
        (b"y" * 100_000, "cores.count: 'yyy"),
    ],
)
def test_a_value_of_any_length_is_shown_short(value: bytes, expected: str, refusal: Any) -> None:
    text = (MACHINES / "npu-hbm3.yaml").read_bytes()
    assert expected in refusal(text.replace(b"count: 16", b"count: " + value))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_as_a_value_error(refusal: Any, content: bytes) -> None:
    refusal(content)


def test_a_missing_file_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.yaml: not readable: No such file"):
        load_machine(str(tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match=r"unknown machine 'h100-smx'; known: h100-sxm, .*path ending in \.yaml"):
        load_machine("h100-smx")
