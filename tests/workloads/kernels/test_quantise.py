from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import DTYPES
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref import quant
from workloads.kernels.quantise import Knobs, Problem, canonical, compile, shape_per

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs, int]:
    per = draw(st.sampled_from(["block", "tensor", "given", "none"]))
    m, k = draw(st.integers(1, 40)), draw(st.one_of(st.integers(1, 400), st.sampled_from([128, 256])))
    knobs = Knobs(
        layout_x=draw(st.sampled_from(["m k", "k m"])),
        layout_q=draw(st.sampled_from(["m k", "k m"])),
        scales=draw(st.sampled_from(["m-major", "k-major"])),
        tile_m=draw(st.sampled_from([1, 5, 16, 64])),
        tile_k=draw(st.sampled_from([128, 256])),
        stages=draw(st.integers(1, 3)),
        schedule=draw(st.sampled_from(["static", "balanced", "dynamic"])),
    )
    return Problem(m, k, draw(st.sampled_from(["bf16", "fp16", "fp32"])), per), knobs, draw(st.integers(0, 2**31))


def parts(problem: Problem, knobs: Knobs) -> int:
    return min(CORES, -(-problem.m // knobs.tile_m))


def check_values(problem: Problem, knobs: Knobs, seed: int) -> None:
    """Equal to the quantiser bit for bit, scales and elements, with zeros among the activations."""
    rng = np.random.default_rng(seed)
    size = (problem.m, problem.k)
    x = rng.standard_normal(size) * 2.0 ** rng.integers(-3, 4, size) * (rng.random((problem.m, 1)) < 0.9)
    x = x.astype(DTYPES[problem.dtype]).astype(float)
    program = compile(problem, knobs, NPU, 0)
    memory = Memory(program)
    memory.write("x", x)
    given = np.float32(rng.uniform(0.001, 1))  # some values exceed the largest
    if problem.per == "given":
        memory.write("scales", np.array([[given]]))
    run(program, memory, CORES)
    if problem.per == "none":  # the rows of tiles are dealt in equal runs to the cores
        heights = np.diff(np.arange(parts(problem, knobs) + 1) * -(-problem.m // knobs.tile_m) // parts(problem, knobs))
        bands = np.split(np.abs(x), np.cumsum(heights)[:-1] * knobs.tile_m)
        np.testing.assert_array_equal(memory.read("maxima").astype(float), [band.max() for band in bands])
        return
    if problem.per == "given":
        np.testing.assert_array_equal(memory.read("q").astype(float), quant.fp8_static(x, float(given)))
        return
    elements, scales = quant.fp8_rows(x) if problem.per == "block" else quant.fp8_tensor(x)
    np.testing.assert_array_equal(memory.read("q").astype(float), elements)
    np.testing.assert_array_equal(memory.read("scales").astype(float), scales)


@settings(max_examples=15)
@given(cases())
@example((Problem(1, 1, "bf16", "tensor"), Knobs(), 0))
def test_activations_become_exactly_what_the_quantiser_makes_of_them(case: tuple[Problem, Knobs, int]) -> None:
    check_values(*case)


@pytest.mark.nightly
@settings(max_examples=500)
@given(cases())
def test_many_activations_become_exactly_what_the_quantiser_makes_of_them(case: tuple[Problem, Knobs, int]) -> None:
    check_values(*case)


def test_a_tensor_takes_two_passes_over_the_activations_and_all_else_one() -> None:
    m, k = 100, 1000
    machine = Machine(load_machine("npu-hbm3"))
    parts = min(machine.spec.cores.count, -(-m // 16))
    tiles = -(-m // 16) * 2
    expected: dict[str, dict[str, tuple[int, int]]] = {
        "block": {"x": (2 * m * k, 0), "q": (0, m * k), "scales": (0, 4 * m * 8)},
        "tensor": {
            "x": (2 * 2 * m * k, 0),
            "q": (0, m * k),
            "scales": (0, 4),
            "maxima": (4 * parts * tiles, 4 * parts),
        },
        "given": {"x": (2 * m * k, 0), "q": (0, m * k), "scales": (4 * tiles, 0)},
        "none": {"x": (2 * m * k, 0), "maxima": (0, 4 * parts)},
    }
    for per, bytes_of in expected.items():
        result = simulate(compile(Problem(m, k, "bf16", per), Knobs(), machine, 0), machine)  # type: ignore[arg-type]
        assert {t.name: (t.load_useful_bytes, t.store_useful_bytes) for t in result.traffic} == bytes_of
        assert result.bound.total_fs <= result.makespan_fs


def test_keys_and_problems_are_told_apart() -> None:
    problem = shape_per("quantise", "block")(None, None, {"m": 8, "k": 256})
    assert problem == Problem(8, 256, "bf16", "block")
    key = canonical(problem, Knobs())
    assert canonical(problem, Knobs(layout_x="m k//4 k%4")) == key
    other: list[dict[str, Any]] = [{"scales": "k-major"}, {"layout_q": "k m"}, {"tile_m": 8}, {"schedule": "dynamic"}]
    assert len({key, *(canonical(problem, Knobs(**changes)) for changes in other)}) == 5
    assert shape_per("absmax", "none")(None, None, {"m": 8, "k": 256, "dtype": "fp32"}).dtype == "fp32"
    tensor = Problem(8, 256, "bf16", "tensor")
    assert canonical(tensor, Knobs(scales="k-major")) == canonical(tensor, Knobs())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (Knobs(tile_k=64), "^tile_k: 64; allowed: multiples of 128, a block of a scale"),
        (Knobs(scales="m"), "^scales: unknown 'm'; known: k-major, m-major"),
        (Knobs(tile_m=4096, tile_k=1024), "sized by tile_m=4096, tile_k=1024, stages=3"),
    ],
)
def test_a_knob_that_does_not_fit_is_named(knobs: Knobs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compile(Problem(8, 8, "bf16", "block"), knobs, NPU, 0)
