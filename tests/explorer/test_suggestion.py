from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from explorer import evaluate, programs
from explorer.query import Query
from explorer.suggestion import MOST_BYTES, suggestion
from hwmodel.result import Result

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


def run(query: Query) -> Result:
    found = evaluate.saved_run(query).result
    assert found is not None
    return found


@pytest.mark.parametrize(("machine", "kernel", "sizes"), CASES)
def test_suggested_knobs_are_faster_wherever_they_are_named(
    machine: str, kernel: str, sizes: tuple[tuple[str, int], ...]
) -> None:
    query = Query(machine, kernel, options=sizes)
    if suggestion(query, default := run(query)):
        assert run(programs.suggested(query)).time_us < default.time_us


def test_some_of_these_cases_have_a_line_and_some_are_passed_over() -> None:
    lines = [suggestion(query, run(query)) for query in (Query(*case[:2], options=case[2]) for case in CASES)]
    assert any(lines)
    assert not all(lines)
    assert not any("\n" in line for line in lines)


def test_nothing_is_suggested_where_knobs_are_set_by_kernels_that_suggest_none_and_after_long_runs() -> None:
    query = Query("tpu-v6e", "gemm", options=GEMM)
    result = run(query)
    assert suggestion(query, result).startswith("default knobs (lower bound ")
    assert suggestion(query.with_knob("tile_k", 64), result) == suggestion(programs.suggested(query), result) == ""
    assert suggestion(Query("tpu-v6e", "absmax", options=(("columns", 512), ("rows", 64))), result) == ""
    dram = result.dram
    assert dram is not None
    long = replace(result, dram=replace(dram, reads=10 * MOST_BYTES // 32))
    assert suggestion(query, long) == ""


def test_a_run_with_default_knobs_names_what_is_suggested_in_a_line_beside_its_answer(
    rowhit: Rowhit, tmp_path: Path
) -> None:
    question = ("--machine", "tpu-v6e", "--kernel", "gemm", "--m", "128", "--n", "512", "--k", "512")
    plain, suggested = (
        rowhit("run", *question, "--json", cwd=tmp_path),
        rowhit("run", *question, "--suggest", "--json", cwd=tmp_path),
    )
    bounds = [json.loads(done.stdout)["bound_us"] for done in (plain, suggested)]
    taken = "tile_n=512, tile_k=128, stages=8, order=grouped"
    default, other = (f"(lower bound {bound:.4g} us)" for bound in bounds)
    line = f"rowhit: default knobs {default}; --suggest takes {taken} {other}\n"
    assert (plain.stderr, suggested.stderr) == (line, "")
    assert rowhit("run", *question, "--set", "tile_k=64", cwd=tmp_path).stderr == ""
    assert rowhit("explain", *question, cwd=tmp_path).stderr == line
