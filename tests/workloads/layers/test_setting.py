from __future__ import annotations

import pytest

from hwmodel.machine import DoesNotFit, Machine
from hwmodel.spec import load_machine
from workloads.kernels import gemm
from workloads.layers.setting import Setting, fitting
from workloads.scheduled import decode

SETTING = Setting(decode((64,)), 1, "bf16", Machine(load_machine("npu-hbm3")))
PROBLEM = gemm.Problem(256, 256, 1 << 20, "bf16")
GOOD, LARGE, WRONG = gemm.Knobs(), gemm.Knobs(tile_k=1 << 20), gemm.Knobs(layout_b="n o")


def test_candidates_that_do_not_fit_are_passed_over_and_none_at_all_is_an_error() -> None:
    assert fitting("out", "gemm", PROBLEM, [LARGE, GOOD], SETTING).knobs == GOOD
    with pytest.raises(DoesNotFit, match=r"^step out: phase .* B of scratchpad"):
        fitting("out", "gemm", PROBLEM, [LARGE], SETTING)


def test_a_candidate_that_is_wrong_otherwise_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match=r"^step out: .*n o"):
        fitting("out", "gemm", PROBLEM, [WRONG, GOOD], SETTING)
