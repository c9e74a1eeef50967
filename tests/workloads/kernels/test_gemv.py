from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref.gemm import gemm as exact
from workloads.kernels.gemm import UNITS, Problem
from workloads.kernels.gemv import Knobs, canonical, compile, shape

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    m, n, k = draw(st.integers(1, 9)), draw(st.integers(1, 60)), draw(st.integers(1, 100))
    knobs = Knobs(
        layout_a=draw(st.sampled_from(["m k", "k m"])),
        layout_b=draw(st.sampled_from(["n k", "k n"])),
        layout_c=draw(st.sampled_from(["m n", "n m"])),
        unit=draw(st.sampled_from(["vector", "matrix"])),
        tile_n=draw(st.sampled_from([5, 8, 16, 64])),
        tile_k=draw(st.sampled_from([5, 16, 64])),
        stages=draw(st.integers(1, 4)),
        split_k=draw(st.integers(1, 4)),
        schedule=draw(st.sampled_from(["static", "balanced", "dynamic"])),
    )
    return Problem(m, n, k, draw(st.sampled_from(["bf16", "fp16", "fp32"]))), knobs


def check_values(problem: Problem, knobs: Knobs) -> None:
    """The bound of `test_gemm`: k sums in fp32, one rounding to the dtype, one more of products of fp32."""
    program = compile(problem, knobs, NPU, 0)
    memory, rng = Memory(program), np.random.default_rng(7)
    memory.write("a", rng.standard_normal((problem.m, problem.k)))
    memory.write("b", rng.standard_normal((problem.n, problem.k)))
    a, b = (memory.read(name).astype(float) for name in ("a", "b"))
    run(program, memory, CORES)
    u, w = UNIT_ROUNDOFF[problem.dtype], UNIT_ROUNDOFF["fp32"]
    expected = exact(a, b.T)
    limit = u * np.abs(expected) + 1.02 * (problem.k + 1) * w * (np.abs(a) @ np.abs(b).T) + 2.0**-25
    assert (np.abs(memory.read("c").astype(float) - expected) <= limit).all()


@settings(max_examples=15)
@given(cases())
@example((Problem(1, 1, 1, "bf16"), Knobs()))
def test_either_unit_computes_the_product(case: tuple[Problem, Knobs]) -> None:
    check_values(*case)


@pytest.mark.nightly
@settings(max_examples=400)
@given(cases())
def test_either_unit_computes_many_products(case: tuple[Problem, Knobs]) -> None:
    check_values(*case)


@pytest.mark.parametrize("unit", UNITS)
def test_weights_are_read_once_and_the_activations_once_per_tile_of_rows(unit: Any) -> None:
    machine = Machine(load_machine("npu-hbm3"))
    m, n, k = 3, 200, 2000
    result = simulate(compile(Problem(m, n, k, "bf16"), Knobs(unit=unit, split_k=2), machine, 0), machine)
    traffic = {t.name: (t.load_useful_bytes, t.store_useful_bytes) for t in result.traffic}
    partial = 2 * m * n * 4
    assert traffic == {
        "a": (2 * m * k * 7, 0),
        "b": (2 * n * k, 0),
        "c": (0, 2 * m * n),
        "partial": (partial, partial),
    }
    assert result.bound.total_fs <= result.makespan_fs
    assert result.stalls[unit]["useful"] > result.stalls["matrix" if unit == "vector" else "vector"].get("useful", 0)


def test_the_matrix_unit_takes_one_row_as_long_as_a_block_of_rows_and_the_vector_unit_by_the_row() -> None:
    machine = Machine(load_machine("h100-sxm").with_overrides({"cores.count": 4}))
    rows = machine.spec.cores.matrix.m // 4
    useful = {
        (unit, m): simulate(compile(Problem(m, 128, 2048, "bf16"), Knobs(unit=unit), machine, 0), machine).stalls[unit][  # type: ignore[arg-type]
            "useful"
        ]
        for unit in UNITS
        for m in (1, rows)
    }
    assert useful["matrix", rows] == useful["matrix", 1]
    assert useful["vector", rows] > 3 * useful["vector", 1]


def test_activations_and_results_reside_in_the_cache_where_there_is_one() -> None:
    machine = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))
    for there, near in ((machine, "cache"), (NPU, "hbm")):
        tensors = compile(Problem(1, 64, 64, "bf16"), Knobs(), there, 0).tensors
        assert {t.name: t.resident for t in tensors} == {"a": near, "b": "hbm", "c": near}


def test_problems_keys_and_errors() -> None:
    problem = shape(None, None, {"m": 1, "n": 64, "k": 1024})
    assert problem == Problem(1, 64, 1024, "bf16")
    key = canonical(problem, Knobs())
    assert canonical(problem, Knobs(sram_layout="row-major")) == key
    assert canonical(problem, Knobs(split_k=2)) == canonical(problem, Knobs(split_k=9))
    other = [Knobs(unit="matrix"), Knobs(unit="matrix", sram_layout="row-major"), Knobs(tile_n=8), Knobs(split_k=2)]
    assert len({key, *(canonical(problem, knobs) for knobs in other)}) == 5
    with pytest.raises(ValueError, match=r"^unit: unknown 'scalar'; known: "):
        compile(problem, Knobs(unit="scalar"), NPU, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="options: kernel gemv takes no size 'kk'"):
        shape(None, None, {"m": 1, "n": 64, "k": 1024, "kk": 1})
    with pytest.raises(ValueError, match="sized by tile_n=4096, tile_k=512, stages=4"):
        compile(problem, Knobs(tile_n=4096), NPU, 0)
