from __future__ import annotations

from itertools import pairwise
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
from workloads.kernels import gemm
from workloads.kernels.gemm import DTYPES, Problem
from workloads.kernels.gemm_grid import ORDERS, Grid
from workloads.kernels.gemm_stream_k import STREAMED, Knobs, canonical, compile, shape, work_items

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    m, n, k = (draw(st.one_of(st.integers(1, 40), st.sampled_from([16, 24, 48]))) for _ in range(3))
    tile = st.sampled_from([5, 8, 16, 64])
    knobs = Knobs(
        layout_a=draw(st.sampled_from(["m k", "k m"])),
        layout_b=draw(st.sampled_from(["n k", "k n"])),
        layout_c=draw(st.sampled_from(["m n", "n m"])),
        tile_m=draw(tile),
        tile_n=draw(tile),
        tile_k=draw(tile),
        stages=draw(st.integers(1, 3)),
        streamed=draw(st.sampled_from(STREAMED)),
        order=draw(st.sampled_from(ORDERS)),
        group_m=draw(st.integers(1, 3)),
    )
    return Problem(m, n, k, draw(st.sampled_from(DTYPES))), knobs


def check_values(problem: Problem, knobs: Knobs) -> None:
    """The bound of `test_gemm`: k sums in fp32, one rounding to the dtype, three more of products and scales."""
    program = compile(problem, knobs, NPU, 0)
    rng = np.random.default_rng(5)
    memory = Memory(program)
    for tensor in program.tensors:
        size = [tensor.layout.size(axis) for axis in tensor.layout.axes]
        if tensor.name in ("a", "b"):
            memory.write(tensor.name, (20 if tensor.dtype == "int8" else 1) * rng.standard_normal(size))
        elif tensor.name == "scales":
            memory.write(tensor.name, rng.uniform(0.5, 2, size))
    a, b = (memory.read(name).astype(float) for name in ("a", "b"))
    scale = float(np.prod(memory.read("scales").astype(float))) if problem.scaled else 1.0
    run(program, memory, CORES)
    expected = scale * exact(a, b.T)
    u, w = UNIT_ROUNDOFF[problem.result_dtype], UNIT_ROUNDOFF["fp32"]
    limit = u * np.abs(expected) + 1.02 * (problem.k + 3) * w * scale * (np.abs(a) @ np.abs(b).T) + 2.0**-25
    assert (np.abs(memory.read("c").astype(float) - expected) <= limit).all()


@settings(max_examples=15)
@given(cases())
@example((Problem(40, 40, 48, "bf16"), Knobs(tile_m=16, tile_n=16, tile_k=5, streamed="all")))
@example((Problem(16, 16, 48, "int8"), Knobs(tile_m=16, tile_n=16, tile_k=5)))
def test_pieces_of_the_line_and_their_fix_up_give_the_product(case: tuple[Problem, Knobs]) -> None:
    check_values(*case)


@pytest.mark.nightly
@settings(max_examples=300)
@given(cases())
def test_many_pieces_of_the_line_and_their_fix_up_give_the_product(case: tuple[Problem, Knobs]) -> None:
    check_values(*case)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 90), st.integers(1, 20), st.sampled_from(STREAMED))
def test_every_step_is_done_once_and_shares_differ_by_one_at_most(
    m: int, n: int, k: int, cores: int, streamed: str
) -> None:
    grid = Grid(m, n, k, 8, 8, 8)
    items, order = work_items(grid, cores, streamed)
    starts = order.start.tolist()
    shares = [order.order[begin:end] for begin, end in pairwise(starts)]
    assert sorted(order.order.tolist()) == list(range(len(items["m"])))
    steps = [int(items["tiles"][share].sum()) for share in shares]
    assert max(steps) - min(steps) <= 1
    assert items["tiles"].min() >= 1
    done = [
        (row, column, first + i)
        for row, column, first, count in zip(items["m"], items["n"], items["first"], items["tiles"], strict=True)
        for i in range(count)
    ]
    tiles = [-(-size // 8) for size in (m, n, k)]
    expected = [(8 * i, 8 * j, step) for i, j, step in np.ndindex(*tiles)]
    assert sorted(done) == expected
    assert ((items["whole"] > 0) != (items["split"] > 0)).all()
    parts = items["part"][items["split"] > 0]
    assert parts.tolist() == list(range(len(parts)))


def test_nine_tiles_on_eight_cores_take_two_thirds_of_the_two_rounds_they_take_whole() -> None:
    """What Stream-K is for: a tile more than there are cores costs a whole round otherwise."""
    machine = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": 8}))
    problem = Problem(3 * 256, 3 * 256, 4096, "bf16")
    tile: dict[str, Any] = {"tile_m": 256, "tile_n": 256, "tile_k": 256, "stages": 2}
    tile |= {f"layout_{name}": f"{rows}//256 k//256 {rows}%256 k%256" for name, rows in (("a", "m"), ("b", "n"))}
    streamed = simulate(compile(problem, Knobs(**tile), machine, 0), machine)
    plain = simulate(gemm.compile(problem, gemm.Knobs(**tile), machine, 0), machine)
    assert streamed.phases[0].fs < 0.75 * plain.phases[0].fs
    assert streamed.makespan_fs < 0.85 * plain.makespan_fs
    assert streamed.bound.total_fs <= streamed.makespan_fs


def test_only_tiles_that_are_cut_leave_partial_sums() -> None:
    machine = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": 4}))
    problem = Problem(100, 5 * 64, 640, "bf16")  # five tiles, the last of which four cores share
    result = simulate(compile(problem, Knobs(tile_n=64), machine, 0), machine)
    traffic: dict[str, Any] = {tensor.name: tensor for tensor in result.traffic}
    partial = 4 * 100 * 64 * 4
    assert traffic["partial"].store_useful_bytes == traffic["partial"].load_useful_bytes == partial
    assert traffic["a"].load_useful_bytes == 5 * 100 * 640 * 2
    assert traffic["b"].load_useful_bytes == 5 * 64 * 640 * 2
    assert traffic["c"].store_useful_bytes == 100 * 5 * 64 * 2
    whole = compile(Problem(100, 4 * 64, 640, "bf16"), Knobs(tile_n=64), machine, 0)
    assert len(whole.phases) == 1
    assert [tensor.name for tensor in whole.tensors] == ["a", "b", "c"]


def test_problems_keys_and_errors() -> None:
    problem = shape(None, None, {"m": 64, "n": 64, "k": 128})
    assert problem == Problem(64, 64, 128, "bf16")
    with pytest.raises(ValueError, match="options: kernel stream-k takes no size 'kk'"):
        shape(None, None, {"m": 64, "n": 64, "k": 128, "kk": 1})
    key = canonical(problem, Knobs())
    assert canonical(problem, Knobs(order="grouped")) == key
    other = [Knobs(tile_m=32), Knobs(streamed="all"), Knobs(stages=3), Knobs(layout_b="k n")]
    assert len({key, *(canonical(problem, knobs) for knobs in other)}) == 5
    with pytest.raises(ValueError, match=r"^streamed: unknown 'al'; known: all, rest"):
        compile(problem, Knobs(streamed="al"), NPU, 0)
    with pytest.raises(ValueError, match="sized by tile_m=4096, tile_n=128, tile_k=64, stages=2"):
        compile(problem, Knobs(tile_m=4096), NPU, 0)
