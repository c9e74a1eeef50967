from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.assembler import block
from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from hwmodel.vector import OPERATIONS
from kernels_ref.gemm import gemm as exact
from workloads.kernels import KERNELS
from workloads.kernels.gemm import (
    DTYPES,
    UNITS,
    BatchedKnobs,
    Knobs,
    Problem,
    batched_shape,
    canonical,
    compile,
    shape,
    shape_in,
)
from workloads.kernels.gemm_grid import ORDERS
from workloads.model import load_model

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm"))
UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}


def filled(program: Program) -> Memory:
    memory = Memory(program)
    rng = np.random.default_rng(11)
    for tensor in program.tensors:
        shape = [tensor.layout.size(axis) for axis in tensor.layout.axes]
        if tensor.name in ("a", "b"):
            memory.write(tensor.name, (20 if tensor.dtype == "int8" else 1) * rng.standard_normal(shape))
        elif tensor.name == "scales":
            memory.write(tensor.name, rng.uniform(0.5, 2, shape))
    return memory


def computed(program: Program) -> np.ndarray[Any, Any]:
    memory = filled(program)
    run(program, memory, CORES)
    return memory.read("c")


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    m, n, k = (draw(st.one_of(st.integers(1, 40), st.sampled_from([16, 24, 48]))) for _ in range(3))
    batch = draw(st.sampled_from([None, None, 1, 3]))
    problem = Problem(m, n, k, draw(st.sampled_from(DTYPES)), batch)
    tile = st.sampled_from([5, 8, 16, 64])
    digit = next(d for d in (4, 3, 2, 1) if k % d == 0)
    layouts = {
        "layout_a": draw(st.sampled_from(["m k", "k m", f"k//{digit} m k%{digit}"])),
        "layout_b": draw(st.sampled_from(["n k", "k n", f"k%{digit} n k//{digit}"])),
        "layout_c": draw(st.sampled_from(["m n", "n m"])),
    }
    if batch is not None:
        layouts = {name: draw(st.sampled_from([f"batch {text}", f"{text} batch"])) for name, text in layouts.items()}
    knobs = (Knobs if batch is None else BatchedKnobs)(
        **layouts,
        tile_m=draw(tile),
        tile_n=draw(tile),
        tile_k=draw(tile),
        stages=draw(st.integers(1, 4)),
        split_k=draw(st.integers(1, 5)),
        schedule=draw(st.sampled_from(["static", "balanced", "dynamic"])),
        order=draw(st.sampled_from(ORDERS)),
        group_m=draw(st.integers(1, 4)),
        unit="matrix" if problem.dtype == "int8" else draw(st.sampled_from(UNITS)),
    )
    return problem, knobs


def check_values(problem: Problem, knobs: Knobs) -> None:
    """Products of 16-bit numbers are exact in fp32; k sums in fp32, one rounding per element to the dtype.

    |error| <= u |c| + (1 + u) (k + 3) w |a| |b|, with u and w the unit roundoffs of the dtype and of fp32 (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1, to first order; 2 % for the rest), where 3 more are
    the roundings of fp32 products and of scaling. Below the normal range of fp16 the last rounding is at most 2**-25.
    """
    program = compile(problem, knobs, NPU, 0)
    memory = filled(program)
    a, b = (memory.read(name).astype(float) for name in ("a", "b"))
    scale = float(np.prod(memory.read("scales").astype(float))) if problem.scaled else 1.0
    pairs = ((a, b),) if problem.batch is None else zip(a, b, strict=True)
    results = computed(program).astype(float)
    u, w = UNIT_ROUNDOFF[problem.result_dtype], UNIT_ROUNDOFF["fp32"]
    for (x, y), result in zip(pairs, [results] if problem.batch is None else results, strict=True):
        expected = scale * exact(x, y.T)
        limit = u * np.abs(expected) + 1.02 * (problem.k + 3) * w * scale * (np.abs(x) @ np.abs(y).T) + 2.0**-25
        assert (np.abs(result - expected) <= limit).all()


@settings(max_examples=15)
@given(cases())
@example((Problem(1, 1, 1, "bf16"), Knobs()))
@example((Problem(37, 29, 41, "fp16"), Knobs("k m", "k n", "n m", 16, 8, 5, 1, 4, "dynamic")))
def test_the_program_computes_the_product_within_the_roundings_of_its_dtype(case: tuple[Problem, Knobs]) -> None:
    check_values(*case)


@pytest.mark.nightly
@settings(max_examples=400)
@given(cases())
def test_many_programs_compute_the_product_within_the_roundings_of_their_dtypes(case: tuple[Problem, Knobs]) -> None:
    check_values(*case)


@settings(max_examples=12)
@given(cases(), st.integers(1, 4), st.sampled_from(["static", "balanced", "dynamic"]))
def test_stages_schedule_order_and_layouts_change_no_bit(
    case: tuple[Problem, Knobs], stages: int, schedule: str
) -> None:
    problem, knobs = case
    default = Knobs() if problem.batch is None else BatchedKnobs()
    plain = replace(knobs, **{name: getattr(default, name) for name in ("layout_a", "layout_b", "layout_c")})
    variants = [knobs, plain, replace(knobs, stages=stages), replace(knobs, schedule=schedule)]
    variants += [replace(knobs, order=order) for order in ORDERS]
    assert len({computed(compile(problem, variant, NPU, 0)).tobytes() for variant in variants}) == 1


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 20))
def test_the_parts_of_k_cover_it_once_and_none_is_empty(k: int, tile_k: int, split_k: int) -> None:
    program = compile(Problem(4, 4, k, "bf16"), Knobs(tile_m=4, tile_n=4, tile_k=tile_k, split_k=split_k), NPU, 0)
    phase = program.phases[0]
    starts, tiles = (phase.tasks[:, phase.columns.index(name)].tolist() for name in ("first", "tiles"))
    covered = [start + i for start, count in zip(starts, tiles, strict=True) for i in range(count)]
    assert sorted(covered) == list(range(-(-k // tile_k)))
    assert min(tiles) >= 1
    assert 1 <= len(starts) <= min(split_k, -(-k // tile_k))
    assert len(program.phases) == (2 if len(starts) > 1 else 1)


def test_every_tile_of_the_result_is_one_item() -> None:
    phase = compile(Problem(100, 70, 64, "bf16"), Knobs(tile_m=32, tile_n=32), NPU, 0).phases[0]
    origins = phase.tasks[:, [phase.columns.index("m"), phase.columns.index("n")]].tolist()
    assert sorted(map(tuple, origins)) == [(m, n) for m in range(0, 100, 32) for n in range(0, 70, 32)]


def test_tiles_are_walked_by_rows_by_columns_or_in_groups_of_rows() -> None:
    def walked(**changes: Any) -> list[tuple[int, int]]:
        knobs = Knobs(tile_m=16, tile_n=16, **changes)
        phase = compile(Problem(80, 48, 16, "bf16"), knobs, NPU, 0).phases[0]
        return [(row // 16, column // 16) for row, column in phase.tasks[:, [1, 2]].tolist()]

    assert walked() == [(row, column) for row in range(5) for column in range(3)]
    assert walked(order="column-major") == [(row, column) for column in range(3) for row in range(5)]
    groups = [range(2), range(2, 4), range(4, 5)]
    expected = [(row, column) for group in groups for column in range(3) for row in group]
    assert walked(order="grouped", group_m=2) == expected


@pytest.mark.parametrize("tile", [(128, 96, 64), (96, 136, 32), (160, 192, 64), (224, 64, 128)])
@pytest.mark.parametrize(("dtype", "size"), [("bf16", 2), ("fp32", 4), ("fp8_e4m3", 1)])
def test_the_traffic_of_a_tiled_product_is_that_of_the_textbook(
    tile: tuple[int, int, int], dtype: str, size: int
) -> None:
    """Every row of tiles of c reads all of b once, every column of tiles all of a; c is written once."""
    m, n, k = 300, 410, 200
    machine = Machine(load_machine("npu-hbm3"))
    knobs = Knobs(tile_m=tile[0], tile_n=tile[1], tile_k=tile[2])
    result = simulate(compile(Problem(m, n, k, dtype), knobs, machine, 0), machine)
    traffic = {tensor.name: (tensor.load_useful_bytes, tensor.store_useful_bytes) for tensor in result.traffic}
    assert traffic["a"] == (m * k * -(-n // tile[1]) * size, 0)
    assert traffic["b"] == (n * k * -(-m // tile[0]) * size, 0)
    assert traffic["c"] == (0, m * n * {"fp32": 4}.get(dtype, 2))
    assert result.bound.total_fs <= result.makespan_fs


def test_with_split_k_partial_sums_are_written_and_read_once() -> None:
    machine = Machine(load_machine("npu-hbm3"))
    problem, knobs = Problem(100, 70, 512, "int8", 2), BatchedKnobs(tile_m=64, tile_n=64, split_k=3)
    result = simulate(compile(problem, knobs, machine, 0), machine)
    traffic = {tensor.name: tensor for tensor in result.traffic}
    partial = 3 * 2 * 100 * 70 * 4
    assert traffic["partial"].store_useful_bytes == traffic["partial"].load_useful_bytes == partial
    assert traffic["a"].load_useful_bytes == 2 * 100 * 512 * 2
    assert traffic["c"].store_useful_bytes == 2 * 100 * 70 * 2
    assert result.bound.total_fs <= result.makespan_fs


@pytest.mark.parametrize("machine_name", ["h100-sxm", "a100-sxm"])
def test_operands_of_eight_bits_multiply_at_their_own_rate(machine_name: str) -> None:
    """One core, operands that are there: the matrix unit's useful time is that of its rate."""
    machine = Machine(load_machine(machine_name).with_overrides({"cores.count": 1}))
    problem = Problem(256, 256, 512, "bf16")
    unit = machine.spec.cores.matrix
    busy = {}
    for dtype in ("bf16", "int8"):
        program = compile(replace(problem, dtype=dtype), Knobs(tile_m=128, tile_n=128, tile_k=64, stages=2), machine, 0)
        busy[dtype] = simulate(program, machine).stalls["matrix"]["useful"]
    rates = [unit.rate(dtype) for dtype in ("bf16", "int8")]
    speeds = [rate.macs_per_cycle * (rate.sustained_percent or 100) for rate in rates]
    assert busy["bf16"] / busy["int8"] == pytest.approx(speeds[1] / speeds[0], rel=0.02)


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = Problem(64, 64, 128, "bf16")
    key = canonical(problem, Knobs())
    assert canonical(problem, Knobs(layout_a="m k//8 k%8")) == key
    assert canonical(problem, Knobs(split_k=2)) == canonical(problem, Knobs(split_k=100))  # two tiles of k
    assert canonical(problem, Knobs(order="grouped")) == key  # one tile
    small = Knobs(tile_m=16, tile_n=32)
    ordered = [replace(small, order="grouped", group_m=group) for group in (1, 2, 4, 99)]
    named = [replace(small, order=order) for order in ("row-major", "column-major")]
    keys = [canonical(problem, knobs) for knobs in (*ordered, *named)]
    assert keys[0] == keys[4]
    assert keys[2] == keys[3] == keys[5]
    assert len(set(keys)) == 3
    different = [
        Knobs(layout_a="k m"),
        Knobs(layout_b="k n"),
        Knobs(layout_c="n m"),
        Knobs(split_k=2),
        Knobs(tile_m=64),
    ]
    different += [Knobs(tile_n=64), Knobs(tile_k=32), Knobs(stages=2), Knobs(schedule="dynamic")]
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == len(different) + 1


@settings(max_examples=20)
@given(cases(), st.integers(1, 9))
def test_knobs_of_one_canonical_key_give_one_program(case: tuple[Problem, Knobs], split_k: int) -> None:
    problem, knobs = case
    other = replace(knobs, split_k=split_k, order=ORDERS[split_k % 3])
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
    assert shape_in("gemm-fp8", "fp8_e4m3")(None, None, sizes) == Problem(3, 5, 7, "fp8_e4m3")
    assert batched_shape(None, None, sizes | {"products": 4}) == Problem(3, 5, 7, "bf16", 4)
    with pytest.raises(ValueError, match="options: size products is missing; kernel batched-gemm needs products, m, n"):
        batched_shape(None, None, sizes)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (Knobs(tile_m=0), "^tile_m: 0; allowed: an integer from 1"),
        (Knobs(split_k=0), "^split_k: 0; allowed"),
        (Knobs(stages=2.0), "^stages: 2.0; allowed"),  # type: ignore[arg-type]
        (Knobs(schedule="dynamik"), "^schedule: unknown 'dynamik'; known: dynamic"),
        (Knobs(order="zigzag"), "^order: unknown 'zigzag'; known: "),
        (Knobs(group_m=0), "^group_m: 0; allowed"),
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


@pytest.mark.parametrize("batch", [None, 2])
def test_a_large_fp32_product_on_the_vector_unit_takes_one_cycle_per_lane_and_multiply_add(batch: int | None) -> None:
    machine = Machine(load_machine("h100-sxm").with_overrides({"cores.count": 4}))
    problem = Problem(256 // (batch or 1), 256, 2048, "fp32", batch)
    kind = Knobs if batch is None else BatchedKnobs
    result = simulate(compile(problem, kind(unit="vector", tile_k=32), machine, 0), machine)
    spec = machine.spec.cores
    least = 256 * 256 * 2048 / (4 * spec.vector.alu * int(spec.clock)) * 1e15
    assert least < result.bound.total_fs <= result.makespan_fs < 1.1 * least
    assert "useful" not in result.stalls["matrix"]


def test_registers_are_filled_from_the_scratchpad_once_per_64_rows_and_32_columns() -> None:
    tiles = [block("sum", 130, 70, "fp32"), block("a", 130, 16, "fp32"), block("b", 70, 16, "bf16")]
    touched = OPERATIONS["dot"].touches(tiles, 130, 70, 16, 0)
    reads = [(touch.operand, touch.rows) for touch in touched if touch.operand > 0]
    assert reads == 3 * [(1, 130)] + 3 * [(2, 70)]
    work = OPERATIONS["dot"].work(tiles, 130, 70, 16, 0)
    assert (work.alu, work.convert) == (130 * 70 * 16, 70 * 16)  # fp32 stays what it is


def test_the_vector_unit_takes_no_integers_and_its_products_have_keys_of_their_own() -> None:
    problem = Problem(64, 64, 64, "fp32")
    with pytest.raises(ValueError, match=r"^unit: vector, which sums in fp32, for operands of int8; allowed: matrix"):
        compile(Problem(8, 8, 8, "int8"), Knobs(unit="vector"), NPU, 0)
    keys = [canonical(problem, Knobs(unit=unit, sram_layout=at)) for unit in UNITS for at in ("swizzled", "row-major")]
    assert len(set(keys)) == 3  # the vector unit reads rows whatever the knob says
    for name, dtype in (("batched-gemm-fp32", "fp32"), ("batched-gemm-fp8", "fp8_e4m3")):
        made = KERNELS[name].shape(None, None, {"products": 3, "m": 4, "n": 5, "k": 6})
        assert made == Problem(4, 5, 6, dtype, 3)


@settings(max_examples=15)
@given(st.integers(1, 5000), st.integers(1, 9000), st.integers(1, 9000), st.sampled_from(["bf16", "fp32", "fp8_e4m3"]))
def test_suggested_knobs_fit_and_fill_the_matrix_unit(m: int, n: int, k: int, dtype: str) -> None:
    problem = Problem(m, n, k, dtype)
    knobs = KERNELS["gemm"].suggested(problem, H100)
    compile(problem, knobs, H100, 0)
    unit = H100.spec.cores.matrix
    assert (knobs.tile_m % unit.m, knobs.tile_n % unit.n) == (0, 0)
    assert knobs.tile_k % unit.k == 0 or knobs.tile_k >= k  # a tile with all of a short k


@pytest.mark.parametrize("sizes", [(64, 4096, 1024), (128, 8192, 512)])
def test_few_tiles_are_made_smaller_until_the_cores_are_busy_and_take_less_time(sizes: tuple[int, int, int]) -> None:
    problem = Problem(*sizes, "bf16")
    suggested = KERNELS["gemm"].suggested(problem, H100)
    times = [simulate(compile(problem, knobs, H100, 0), H100).makespan_fs for knobs in (suggested, Knobs())]
    assert times[0] < times[1]
