from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import DTYPES, Program
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from workloads.kernels.convert_layout import Knobs, Problem, canonical, compile, shape
from workloads.model import load_model

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    rows, columns = draw(st.integers(1, 90)), draw(st.sampled_from([1, 7, 12, 64, 96]))
    digit = next(d for d in (4, 3, 2, 1) if columns % d == 0)
    layouts = st.sampled_from(["row column", "column row", f"column//{digit} row column%{digit}"])
    knobs = Knobs(
        tile_rows=draw(st.sampled_from([1, 5, 16, 64])),
        tile_columns=draw(st.sampled_from([3, 16, 128])),
        stages=draw(st.integers(1, 4)),
        schedule=draw(st.sampled_from(["static", "balanced", "dynamic"])),
        layout_in=draw(layouts),
        layout_out=draw(layouts),
    )
    return Problem(rows, columns, draw(st.sampled_from(sorted(DTYPES)))), knobs


def check_values(problem: Problem, knobs: Knobs) -> Program:
    program = compile(problem, knobs, NPU, 0)
    memory = Memory(program)
    numbers = np.random.default_rng(3).integers(0, 100, (problem.rows, problem.columns))
    memory.write("source", np.exp2(numbers % 8) if problem.dtype == "e8m0" else numbers)
    run(program, memory, CORES)
    assert memory.read("target").tobytes() == memory.read("source").tobytes()
    return program


@settings(max_examples=20)
@given(cases())
@example((Problem(1, 1, "e8m0"), Knobs()))
def test_no_value_changes(case: tuple[Problem, Knobs]) -> None:
    check_values(*case)


@pytest.mark.nightly
@settings(max_examples=400)
@given(cases())
def test_no_value_changes_in_many_shapes_and_layouts(case: tuple[Problem, Knobs]) -> None:
    check_values(*case)


@settings(max_examples=5)
@given(cases())
def test_every_element_moves_once_each_way_and_no_run_beats_its_bound(case: tuple[Problem, Knobs]) -> None:
    problem, knobs = case
    result = simulate(compile(problem, knobs, NPU, 0), NPU)
    size = problem.rows * problem.columns * DTYPES[problem.dtype].itemsize
    source, target = result.traffic
    assert (source.load_useful_bytes, source.store_useful_bytes) == (size, 0)
    assert (target.load_useful_bytes, target.store_useful_bytes) == (0, size)
    assert result.bound.total_fs <= result.makespan_fs


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = Problem(32, 64, "bf16")
    key = canonical(problem, Knobs())
    assert canonical(problem, Knobs(tile_rows=32, layout_in="row column//8 column%8")) == key
    different = (Knobs(tile_rows=16), Knobs(layout_out="row column"), Knobs(stages=1), Knobs(schedule="dynamic"))
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == 5
    same = replace(Knobs(), tile_rows=4096)
    assert canonical(problem, same) == key
    assert compile(problem, same, NPU, 0).hash == compile(problem, Knobs(), NPU, 0).hash


def test_the_problem_takes_its_sizes_from_options_and_its_dtype_from_the_model() -> None:
    assert shape(None, None, {"rows": 3, "columns": 5}) == Problem(3, 5, "bf16")
    assert shape(load_model("llama-3.1-8b"), None, {"rows": 3, "columns": 5}).dtype == "bf16"
    with pytest.raises(ValueError, match="options: size columns is missing; kernel convert-layout needs rows, columns"):
        shape(None, None, {"rows": 3})


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (Knobs(tile_rows=0), "^tile_rows: 0; allowed: an integer from 1"),
        (Knobs(layout_in="row"), "^layout_in: notation 'row': axis column is missing"),
        (Knobs(tile_rows=1 << 20, tile_columns=1 << 20, stages=9), "sized by tile_rows=1048576, tile_columns=1048576"),
    ],
)
def test_a_knob_out_of_range_is_named_with_what_is_allowed(knobs: Knobs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compile(Problem(4096, 4096, "bf16"), knobs, NPU, 0)
