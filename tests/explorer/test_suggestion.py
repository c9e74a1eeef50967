from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from explorer import evaluate, programs
from explorer.query import Query
from explorer.suggestion import CLEARLY, suggestion

Rowhit = Callable[..., subprocess.CompletedProcess[str]]
GEMM = (("k", 512), ("m", 128), ("n", 512))
FEW = (("k", 1024), ("m", 16), ("n", 512))
ONE = (("k", 4096), ("m", 1), ("n", 4096))
PRODUCTS = (("gemm", GEMM), ("gemm", FEW), ("gemm-fp8", GEMM), ("gemm-w8a8-block", GEMM), ("gemm-w4a16", FEW))
CASES = [
    *((machine, *each) for machine in ("tpu-v6e", "npu-hbm3", "h100-sxm", "a100-sxm") for each in PRODUCTS),
    ("npu-hbm3", "gemv", ONE),
    ("h100-sxm", "gemv", ONE),
]


def times_us(query: Query) -> tuple[float, float]:
    """Return what a query takes, and what it takes with suggested knobs."""
    one, other = (evaluate.simulate(each).metrics["time_us"] for each in (query, programs.suggested(query)))
    assert isinstance(one, float)
    assert isinstance(other, float)
    return one, other


@pytest.mark.parametrize(("machine", "kernel", "sizes"), CASES)
def test_suggested_knobs_are_faster_where_bounds_are_given_and_hardly_where_nothing_is_said(
    machine: str, kernel: str, sizes: tuple[tuple[str, int], ...]
) -> None:
    query = Query(machine, kernel, options=sizes)
    default, suggested = times_us(query)
    line = suggestion(query, default)
    if "lower bound" in line:
        assert suggested < default
    if not line:
        assert default < CLEARLY * suggested


def test_some_of_these_cases_have_bounds_some_are_named_alone_and_some_are_passed_over() -> None:
    lines = [suggestion(query := Query(*case[:2], options=case[2]), times_us(query)[0]) for case in CASES]
    kinds = {("lower bound" in line, bool(line)) for line in lines}
    assert kinds == {(True, True), (False, True), (False, False)}
    assert not any("\n" in line for line in lines)


def test_nothing_is_suggested_where_knobs_are_set_and_by_kernels_that_suggest_none() -> None:
    query = Query("tpu-v6e", "gemm", options=GEMM)
    assert suggestion(query).startswith("default knobs (lower bound ")
    assert suggestion(query.with_knob("tile_k", 64)) == suggestion(programs.suggested(query)) == ""
    assert suggestion(Query("tpu-v6e", "softmax", options=(("columns", 512), ("rows", 64))), 1e6) == ""


def test_a_run_with_default_knobs_names_what_is_suggested_in_a_line_beside_its_answer(
    rowhit: Rowhit, tmp_path: Path
) -> None:
    question = ("--machine", "tpu-v6e", "--kernel", "gemm", "--m", "128", "--n", "512", "--k", "512")
    plain, suggested = (
        rowhit("run", *question, "--json", cwd=tmp_path),
        rowhit("run", *question, "--suggest", "--json", cwd=tmp_path),
    )
    bounds = [json.loads(done.stdout)["bound_us"] for done in (plain, suggested)]
    taken = "tile_n=512, tile_k=256, stages=8, order=grouped"
    default, other = (f"(lower bound {bound:.4g} us)" for bound in bounds)
    line = f"rowhit: default knobs {default}; --suggest takes {taken} {other}\n"
    assert (plain.stderr, suggested.stderr) == (line, "")
    assert rowhit("run", *question, "--set", "tile_k=64", cwd=tmp_path).stderr == ""
    assert rowhit("explain", *question, cwd=tmp_path).stderr == line
    bound = ("whatif", *question, "--fidelity", "bound")
    assert rowhit(*bound, "--set", "hbm.stacks=1", cwd=tmp_path).stderr == line
    assert rowhit(*bound, "--sweep", "m=64,128", cwd=tmp_path).stderr == line
    for more in (("--set", "tile_k=128"), ("--sweep", "tile_k=64,128"), ("--set", "hbm.stacks=1", "--suggest")):
        assert rowhit(*bound, *more, cwd=tmp_path).stderr == ""
