from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import DTYPES
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref import quant
from workloads.kernels.quantise_scaled import NAMES, Knobs, Problem, canonical, compile, shape_of

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs, int]:
    m, k = draw(st.integers(1, 40)), 2 * draw(st.one_of(st.integers(1, 200), st.sampled_from([64, 128])))
    knobs = Knobs(draw(st.sampled_from([1, 5, 8])), draw(st.integers(1, 3)), draw(st.sampled_from([16, 96, 1024])))
    form, dtype = draw(st.sampled_from(list(NAMES))), draw(st.sampled_from(["bf16", "fp16"]))
    return Problem(m, k, dtype, form), knobs, draw(st.integers(0, 2**31))


@settings(max_examples=15)
@given(cases())
def test_activations_are_quantised_as_the_formula_has_them_bit_for_bit(case: tuple[Problem, Knobs, int]) -> None:
    problem, knobs, seed = case
    rng = np.random.default_rng(seed)
    size = (problem.m, problem.k)
    x = rng.standard_normal(size) * 2.0 ** rng.integers(-3, 4, size) * (rng.random((problem.m, 1)) < 0.9)
    program = compile(problem, knobs, NPU, 0)
    memory = Memory(program)
    memory.write("x", x.astype(DTYPES[problem.dtype]))
    x = memory.read("x").astype(float)
    given_scale = float(np.float32(0.01))
    if problem.format == "nvfp4":
        memory.write("scale", np.array([[given_scale]]))
    run(program, memory, CORES)
    if problem.format == "nvfp4":
        elements, scales, _ = quant.nvfp4(x, tensor=given_scale)
        found = quant.pack(quant.e2m1_codes(elements))
        np.testing.assert_array_equal(memory.read("q"), found)
    else:
        elements, scales = quant.mx(x, quant.E4M3)
        np.testing.assert_array_equal(memory.read("q").astype(float), elements)
    stored = memory.read("scales q").astype(float)[: problem.m, : scales.shape[1]]
    np.testing.assert_array_equal(stored, scales)


@pytest.mark.parametrize(("form", "bits", "block"), [("mxfp8", 8, 32), ("nvfp4", 4, 16)])
def test_activations_are_read_once_and_elements_and_scales_written_once(form: str, bits: int, block: int) -> None:
    result = simulate(compile(Problem(24, 512, "bf16", form), Knobs(), NPU, 0), NPU)
    found = {t.name: (t.load_useful_bytes, t.store_useful_bytes) for t in result.traffic}
    assert found["x"] == (24 * 512 * 2, 0)
    assert found["q"] == (0, 24 * 512 * bits // 8)
    assert found["scales q"] == (0, 24 * 512 // block)
    assert result.bound.total_fs <= result.makespan_fs


def test_knobs_of_one_meaning_have_one_key_and_sizes_come_from_options() -> None:
    problem: Any = shape_of("mxfp8")(None, None, {"m": 8, "k": 256})
    assert problem == Problem(8, 256, "bf16", "mxfp8")
    keys = [canonical(problem, knobs) for knobs in (Knobs(), Knobs(tile_columns=256), Knobs(tile_columns=128))]
    assert keys[0] == keys[1] != keys[2]
    with pytest.raises(ValueError, match=r"^tile_rows: 0; allowed"):
        compile(problem, Knobs(tile_rows=0), NPU, 0)
