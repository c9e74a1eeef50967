from __future__ import annotations

import pytest

from explorer.names import MOST, nearest, unknown
from layouts.notation import nearest_first

MACHINES = ("gh200", "a100-sxm", "h100-pcie", "h100-sxm")


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("h100", "h100-sxm, h100-pcie, gh200, a100-sxm"),  # the beginning of a name before what is spelt alike
        ("H100-SXM", "h100-sxm, a100-sxm, h100-pcie, gh200"),
        ("h100-smx", "h100-sxm, a100-sxm, h100-pcie, gh200"),
        ("", "a100-sxm, gh200, h100-pcie, h100-sxm"),
    ],
)
def test_the_nearest_names_come_first_whatever_the_case(name: str, order: str) -> None:
    assert nearest_first(name, MACHINES) == order


def test_only_what_may_be_meant_is_asked_about() -> None:
    assert nearest("h100", MACHINES, 3) == ["h100-sxm", "h100-pcie", "gh200"]
    assert nearest("tpu", MACHINES, 3) == []
    assert nearest("h", MACHINES, 3) == []  # which begins two of them
    assert unknown("machine", "tpu", MACHINES).startswith("unknown machine 'tpu': allowed: ")
    assert unknown("machine", "a100-smx", MACHINES).startswith(
        "unknown machine 'a100-smx': did you mean 'a100-sxm' or "
    )
    assert nearest("fp8-gemm", ("gemm", "grouped-gemm", "gemm-fp8", "gemm-fp8-block"), 3)[0] == "gemm-fp8"
    assert unknown("machine", "tpu", []) == "unknown machine 'tpu': allowed: none"


def test_of_many_names_the_nearest_are_listed_and_the_others_counted() -> None:
    names = [f"knob_{number:02}" for number in range(MOST + 3)]
    line = unknown("knob", "knob_14", names)
    assert "allowed: knob_14, " in line
    assert line.endswith(" and 3 more")
