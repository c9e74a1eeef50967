from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.spec import load_machine
from kernels_ref.gemm import gemm as exact
from workloads.kernels.gemm import Knobs, Problem, canonical, compile, shape
from workloads.model import load_model

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}


def filled(program: Program) -> Memory:
    memory = Memory(program)
    rng = np.random.default_rng(11)
    for tensor in program.tensors[:2]:
        memory.write(tensor.name, rng.standard_normal([tensor.layout.size(axis) for axis in tensor.layout.axes]))
    return memory


def computed(program: Program) -> np.ndarray[Any, Any]:
    memory = filled(program)
    run(program, memory, CORES)
    return memory.read("c")


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    m, n, k = (draw(st.one_of(st.integers(1, 40), st.sampled_from([16, 24, 48]))) for _ in range(3))
    problem = Problem(m, n, k, draw(st.sampled_from(["bf16", "fp16"])))
    tile = st.sampled_from([5, 8, 16, 64])
    digit = next(d for d in (4, 3, 2, 1) if k % d == 0)
    knobs = Knobs(
        layout_a=draw(st.sampled_from(["m k", "k m", f"k//{digit} m k%{digit}"])),
        layout_b=draw(st.sampled_from(["n k", "k n", f"k%{digit} n k//{digit}"])),
        layout_c=draw(st.sampled_from(["m n", "n m"])),
        tile_m=draw(tile),
        tile_n=draw(tile),
        tile_k=draw(tile),
        stages=draw(st.integers(1, 4)),
        split_k=draw(st.integers(1, 5)),
        schedule=draw(st.sampled_from(["static", "balanced", "dynamic"])),
    )
    return problem, knobs


@settings(max_examples=80)
@given(cases())
@example((Problem(1, 1, 1, "bf16"), Knobs()))
@example((Problem(37, 29, 41, "fp16"), Knobs("k m", "k n", "n m", 16, 8, 5, 1, 4, "dynamic")))
def test_the_program_computes_the_product_within_the_roundings_of_its_dtype(case: tuple[Problem, Knobs]) -> None:
    """Products of 16-bit numbers are exact in fp32; k sums in fp32, one rounding per element to the dtype.

    |error| <= u |c| + (1 + u) k w |a| |b|, with u and w the unit roundoffs of the dtype and of fp32 (Higham, Accuracy
    and Stability of Numerical Algorithms, section 3.1, to first order; 2 % for the rest). Below the normal range of
    fp16 the last rounding is at most 2**-25.
    """
    problem, knobs = case
    program = compile(problem, knobs, NPU, 0)
    memory = filled(program)
    a, b = memory.read("a").astype(float), memory.read("b").astype(float)
    expected = exact(a, b.T)
    u, w = UNIT_ROUNDOFF[problem.dtype], UNIT_ROUNDOFF["fp32"]
    bound = u * np.abs(expected) + 1.02 * problem.k * w * (np.abs(a) @ np.abs(b).T) + 2.0**-25
    assert (np.abs(computed(program).astype(float) - expected) <= bound).all()


@settings(max_examples=40)
@given(cases(), st.integers(1, 4), st.sampled_from(["static", "balanced", "dynamic"]))
def test_stages_schedule_and_layouts_change_no_bit(case: tuple[Problem, Knobs], stages: int, schedule: str) -> None:
    problem, knobs = case
    plain = replace(knobs, layout_a="m k", layout_b="n k", layout_c="m n")
    variants = (knobs, plain, replace(knobs, stages=stages), replace(knobs, schedule=schedule))
    assert len({computed(compile(problem, variant, NPU, 0)).tobytes() for variant in variants}) == 1


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 20))
def test_the_parts_of_k_cover_it_once_and_none_is_empty(k: int, tile_k: int, split_k: int) -> None:
    program = compile(Problem(4, 4, k, "bf16"), Knobs(tile_m=4, tile_n=4, tile_k=tile_k, split_k=split_k), NPU, 0)
    phase = program.phases[0]
    starts, tiles = (phase.tasks[:, phase.columns.index(name)].tolist() for name in ("k", "tiles"))
    covered = [start // tile_k + i for start, count in zip(starts, tiles, strict=True) for i in range(count)]
    assert sorted(covered) == list(range(-(-k // tile_k)))
    assert min(tiles) >= 1
    assert 1 <= len(starts) <= min(split_k, -(-k // tile_k))
    assert len(program.phases) == (2 if len(starts) > 1 else 1)


def test_every_tile_of_the_result_is_one_item() -> None:
    phase = compile(Problem(100, 70, 64, "bf16"), Knobs(tile_m=32, tile_n=32), NPU, 0).phases[0]
    origins = phase.tasks[:, [phase.columns.index("m"), phase.columns.index("n")]].tolist()
    assert sorted(map(tuple, origins)) == [(m, n) for m in range(0, 100, 32) for n in range(0, 70, 32)]


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = Problem(64, 64, 128, "bf16")
    key = canonical(problem, Knobs())
    assert canonical(problem, Knobs(layout_a="m k//8 k%8")) == key
    assert canonical(problem, Knobs(split_k=2)) == canonical(problem, Knobs(split_k=100))  # two tiles of k
    different = [
        Knobs(layout_a="k m"),
        Knobs(layout_b="k n"),
        Knobs(layout_c="n m"),
        Knobs(split_k=2),
        Knobs(tile_m=64),
    ]
    different += [Knobs(tile_n=64), Knobs(tile_k=32), Knobs(stages=2), Knobs(schedule="dynamic")]
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == len(different) + 1


@settings(max_examples=40)
@given(cases(), st.integers(1, 9))
def test_knobs_of_one_canonical_key_give_one_program(case: tuple[Problem, Knobs], split_k: int) -> None:
    problem, knobs = case
    other = replace(knobs, split_k=split_k)
    if canonical(problem, knobs) == canonical(problem, other):
        assert compile(problem, knobs, NPU, 0).hash == compile(problem, other, NPU, 0).hash


def test_the_problem_takes_its_sizes_from_options_and_its_dtype_from_the_model() -> None:
    sizes = {"m": 3, "n": 5, "k": 7}
    assert shape(None, None, sizes) == Problem(3, 5, 7, "bf16")
    assert shape(load_model("llama-3.1-8b"), None, sizes).dtype == "bf16"
    with pytest.raises(ValueError, match="options: size k is missing; kernel gemm needs m, n, k"):
        shape(None, None, {"m": 3, "n": 5})
    with pytest.raises(ValueError, match="options: size m is 0; allowed: an integer from 1"):
        shape(None, None, sizes | {"m": 0})
    with pytest.raises(ValueError, match="options: kernel gemm takes no size 'kk'; it takes k"):
        shape(None, None, sizes | {"kk": 1})


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (Knobs(tile_m=0), "^tile_m: 0; allowed: an integer from 1"),
        (Knobs(split_k=0), "^split_k: 0; allowed"),
        (Knobs(stages=2.0), "^stages: 2.0; allowed"),  # type: ignore[arg-type]
        (Knobs(schedule="dynamik"), "^schedule: unknown 'dynamik'; known: dynamic"),
        (Knobs(layout_a="n k"), "^layout_a: notation 'n k': factor 'n': unknown axis 'n'"),
        (Knobs(layout_b="m k"), "^layout_b: notation 'm k': factor 'm': unknown axis 'm'"),
        (Knobs(layout_c="m"), "^layout_c: notation 'm': axis n is missing"),
        (Knobs(tile_m=4096, tile_n=4096), "phase multiply needs .* B more than the 2097152 B of a core of npu-hbm3"),
        (Knobs(tile_m=4096, stages=9), "sized by tile_m=4096, tile_n=128, tile_k=64, stages=9$"),
    ],
)
def test_a_knob_out_of_range_is_named_with_what_is_allowed(knobs: Knobs, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        compile(Problem(64, 64, 64, "bf16"), knobs, NPU, 0)
    assert "\n" not in str(error.value)
