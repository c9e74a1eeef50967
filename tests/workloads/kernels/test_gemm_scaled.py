from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.energy import least
from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import DTYPES, Program
from hwmodel.reference import simulate
from hwmodel.result import Result
from hwmodel.spec import load_machine
from kernels_ref import quant
from kernels_ref.gemm import gemm as exact
from workloads.kernels import gemm_mx, gemm_w4a16, gemm_w8a8
from workloads.kernels.gemm_grid import ORDERS
from workloads.model import load_model

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
B200 = Machine(load_machine("b200-sxm").with_overrides({"cores.count": CORES}))
UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}
Floats = np.ndarray[Any, Any]
Operand = tuple[dict[str, Floats], Floats]  # what is written to memory by tensor, and the values that it stands for

sizes = st.one_of(st.integers(1, 40), st.sampled_from([64, 130]))
depths = st.one_of(st.integers(1, 300), st.sampled_from([128, 256]))
common = {
    "tile_m": st.sampled_from([5, 8, 16, 40]),
    "stages": st.integers(1, 3),
    "split_k": st.integers(1, 3),
    "schedule": st.sampled_from(["static", "balanced", "dynamic"]),
    "sram_layout": st.sampled_from(["swizzled", "row-major"]),
    "order": st.sampled_from(ORDERS),
    "group_m": st.integers(1, 3),
    "layout_a": st.sampled_from(["m k", "k m"]),
    "layout_b": st.sampled_from(["n k", "k n"]),
    "layout_c": st.sampled_from(["m n", "n m"]),
}


def normal(rows: int, columns: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, columns)) * 2.0 ** rng.integers(-3, 4, (rows, 1))


def check(program: Program, machine: Machine, a: Operand, b: Operand, scale: float = 1.0, extra: Any = ()) -> None:
    """|error| <= u |c| + (1 + u) (k + 4) w |a| |b|: k sums in fp32, 4 roundings more of scales and their products.

    u and w are the unit roundoffs of the result and of fp32 (Higham, Accuracy and Stability of Numerical Algorithms,
    section 3.1, to first order; 2 % for the rest).
    """
    memory = Memory(program)
    for name, values in (a[0] | b[0] | dict(extra)).items():
        memory.write(name, values)
    run(program, memory, machine.spec.cores.count)
    x, y = a[1], b[1]
    dtype = next(tensor.dtype for tensor in program.tensors if tensor.name == "c")
    u, w = UNIT_ROUNDOFF[dtype], UNIT_ROUNDOFF["fp32"]
    expected = scale * exact(x, y.T)
    limit = u * np.abs(expected) + 1.02 * (x.shape[1] + 4) * w * scale * (np.abs(x) @ np.abs(y).T) + 2.0**-25
    assert (np.abs(memory.read("c").astype(float) - expected) <= limit).all()


def row_blocks(rows: int, k: int, seed: int) -> Operand:
    elements, scales = quant.fp8_rows(normal(rows, k, seed))
    return {"a": elements, "scales a": scales}, elements * quant.spread(scales, 128, k)


def square_blocks(n: int, k: int, seed: int) -> Operand:
    elements, scales = quant.fp8_squares(normal(n, k, seed))
    return {"b": elements, "scales b": scales}, elements * quant.squares(scales, 128, n, k)


@st.composite
def w8a8_cases(draw: st.DrawFn) -> tuple[gemm_w8a8.Problem, gemm_w8a8.Knobs]:
    problem = gemm_w8a8.Problem(draw(sizes), draw(st.one_of(sizes, st.integers(100, 300))), draw(depths))
    chosen = {name: draw(values) for name, values in common.items()}
    tile_n = draw(st.sampled_from([16, 96, 128, 136, 160]))
    order, accumulators = draw(st.sampled_from(gemm_w8a8.SCALE_LAYOUTS)), draw(st.integers(2, 4))
    return problem, gemm_w8a8.Knobs(tile_n=tile_n, scales_a=order, accumulators=accumulators, **chosen)


def check_w8a8(problem: gemm_w8a8.Problem, knobs: gemm_w8a8.Knobs) -> None:
    a, b = row_blocks(problem.m, problem.k, 1), square_blocks(problem.n, problem.k, 2)
    check(gemm_w8a8.compile(problem, knobs, NPU, 0), NPU, a, b)


@settings(max_examples=15)
@given(w8a8_cases())
@example((gemm_w8a8.Problem(3, 300, 257), gemm_w8a8.Knobs(tile_n=96, accumulators=2, split_k=2)))
def test_products_of_scaled_blocks_are_promoted_to_the_product_of_the_scaled_matrices(case: Any) -> None:
    check_w8a8(*case)


@pytest.mark.nightly
@settings(max_examples=300)
@given(w8a8_cases())
def test_many_products_of_scaled_blocks_are_promoted_rightly(case: Any) -> None:
    check_w8a8(*case)


@st.composite
def w4a16_cases(draw: st.DrawFn) -> tuple[gemm_w4a16.Problem, gemm_w4a16.Knobs]:
    group = draw(st.sampled_from([16, 32, 128]))
    dtype = draw(st.sampled_from(["bf16", "fp16"]))
    problem = gemm_w4a16.Problem(draw(sizes), draw(sizes), draw(depths), dtype, group)
    chosen = {name: draw(values) for name, values in common.items()}
    return problem, gemm_w4a16.Knobs(
        tile_n=draw(st.sampled_from([16, 96])),
        tile_k=group * draw(st.integers(1, 2)),
        expanded=draw(st.integers(1, 3)),
        layout_scales=draw(st.sampled_from(["k n", "n k"])),
        **chosen,
    )


def check_w4a16(problem: gemm_w4a16.Problem, knobs: gemm_w4a16.Knobs) -> None:
    """The weights are what a number times its scale rounds to in the type of the activations."""
    a = normal(problem.m, problem.k, 1).astype(DTYPES[problem.dtype]).astype(float)
    integers, scales = quant.int4_groups(normal(problem.n, problem.k, 2), problem.group)
    weights = (integers * quant.spread(scales, problem.group, problem.k)).astype(DTYPES[problem.dtype]).astype(float)
    b = {"b": quant.pack(integers + 8), "scales b": scales}, weights
    check(gemm_w4a16.compile(problem, knobs, NPU, 0), NPU, ({"a": a}, a), b)


@settings(max_examples=15)
@given(w4a16_cases())
def test_packed_weights_of_four_bits_multiply_as_what_they_stand_for(case: Any) -> None:
    check_w4a16(*case)


@pytest.mark.nightly
@settings(max_examples=300)
@given(w4a16_cases())
def test_many_packed_weights_of_four_bits_multiply_as_what_they_stand_for(case: Any) -> None:
    check_w4a16(*case)


@st.composite
def w8a16_cases(draw: st.DrawFn) -> tuple[gemm_w4a16.Problem, gemm_w4a16.Knobs]:
    k = draw(depths)
    problem = gemm_w4a16.Problem(draw(sizes), draw(sizes), k, draw(st.sampled_from(["bf16", "fp16"])), k, "int8")
    chosen = {name: draw(values) for name, values in common.items()}
    tile_k = draw(st.sampled_from([8, 48, 128]))
    return problem, gemm_w4a16.Knobs(tile_n=draw(st.sampled_from([16, 96])), tile_k=tile_k, **chosen)


def check_w8a16(problem: gemm_w4a16.Problem, knobs: gemm_w4a16.Knobs) -> None:
    """The weights are what an integer times the scale of its channel rounds to in the type of the activations."""
    dtype = DTYPES[problem.dtype]
    a = normal(problem.m, problem.k, 1).astype(dtype).astype(float)
    integers, scales = quant.int8_channels(normal(problem.n, problem.k, 2))
    scales = scales.astype(dtype).astype(float)
    weights = (integers * scales).astype(dtype).astype(float)
    b = {"b": integers, "scales b": scales}, weights
    check(gemm_w4a16.compile(problem, knobs, NPU, 0), NPU, ({"a": a}, a), b)


@settings(max_examples=15)
@given(w8a16_cases())
def test_weights_of_eight_bits_multiply_as_what_they_stand_for(case: Any) -> None:
    check_w8a16(*case)


@pytest.mark.nightly
@settings(max_examples=300)
@given(w8a16_cases())
def test_many_weights_of_eight_bits_multiply_as_what_they_stand_for(case: Any) -> None:
    check_w8a16(*case)


@st.composite
def float_weight_cases(draw: st.DrawFn) -> tuple[gemm_w4a16.Problem, gemm_w4a16.Knobs]:
    weights, k = draw(st.sampled_from(["fp8", "mxfp8", "mxfp4", "nvfp4"])), draw(depths)
    group = draw(st.sampled_from([128, k])) if weights == "fp8" else gemm_w4a16.MICROSCALED[weights]
    tile_k = 48 if group == k else group * draw(st.integers(1, 4))
    problem = gemm_w4a16.Problem(draw(sizes), draw(sizes), k, "bf16", group, weights)
    chosen = {name: draw(values) for name, values in common.items()}
    return problem, gemm_w4a16.Knobs(tile_n=draw(st.sampled_from([16, 96])), tile_k=tile_k, **chosen)


def float_weights(problem: gemm_w4a16.Problem, w: Floats) -> tuple[Operand, float]:
    """Return weights as they are stored, what they are expanded to, and the scale of the tensor."""
    group, k, dtype = problem.group, problem.k, DTYPES[problem.dtype]
    if problem.weights == "nvfp4":
        elements, scales, tensor = quant.nvfp4(w)
        packed = quant.pack(quant.e2m1_codes(elements))
        return ({"b": packed, "scales b": scales}, elements * quant.spread(scales, group, k)), float(np.float32(tensor))
    if problem.weights == "mxfp8":
        elements, scales = quant.mx(w, quant.E4M3)
        return ({"b": elements, "scales b": scales}, elements * quant.spread(scales, group, k)), 1.0
    if problem.weights == "mxfp4":
        elements, scales = quant.mx(w, quant.E2M1)
        packed = quant.pack(quant.e2m1_codes(elements))
        return ({"b": packed, "scales b": scales}, elements * quant.spread(scales, group, k)), 1.0
    elements, scales = quant.fp8_rows(w, group)
    scales = scales.astype(dtype).astype(float)
    worth = (elements * quant.spread(scales, group, k)).astype(dtype).astype(float)
    return ({"b": elements, "scales b": scales}, worth), 1.0


def check_float_weights(problem: gemm_w4a16.Problem, knobs: gemm_w4a16.Knobs) -> None:
    a = normal(problem.m, problem.k, 1).astype(DTYPES[problem.dtype]).astype(float)
    b, tensor = float_weights(problem, normal(problem.n, problem.k, 2))
    extra = {"scales": np.array([1.0, tensor])} if problem.weights == "nvfp4" else {}
    program = gemm_w4a16.compile(problem, knobs, NPU, 0)
    assert program.name == gemm_w4a16.WEIGHTS[problem.weights].kernel
    check(program, NPU, ({"a": a}, a), b, tensor, extra)


@settings(max_examples=20)
@given(float_weight_cases())
def test_weights_in_narrow_floats_multiply_as_what_they_stand_for(case: Any) -> None:
    check_float_weights(*case)


@pytest.mark.nightly
@settings(max_examples=300)
@given(float_weight_cases())
def test_many_weights_in_narrow_floats_multiply_as_what_they_stand_for(case: Any) -> None:
    check_float_weights(*case)


def test_scales_of_channels_come_with_every_tile_of_the_weights() -> None:
    m, n, k = 100, 200, 513
    machine = Machine(load_machine("npu-hbm3"))
    problem, knobs = gemm_w4a16.shape_of("int8")(None, None, {"m": m, "n": n, "k": k}), gemm_w4a16.Knobs(tile_n=256)
    program = gemm_w4a16.compile(problem, knobs, machine, 0)
    assert program.name == "gemm-w8a16"
    _, traffic = simulated(program, machine)
    assert traffic == {"a": (2 * m * k, 0), "b": (n * k, 0), "c": (0, 2 * m * n), "scales b": (2 * n * 5, 0)}


@st.composite
def mx_cases(draw: st.DrawFn) -> tuple[gemm_mx.Problem, gemm_mx.Knobs, Machine]:
    problem = gemm_mx.Problem(draw(sizes), draw(sizes), draw(depths), draw(st.sampled_from(list(gemm_mx.FORMATS))))
    chosen = {name: draw(values) for name, values in common.items()}
    knobs = gemm_mx.Knobs(
        tile_n=draw(st.sampled_from([16, 96])),
        tile_k=32 * draw(st.integers(1, 5)),
        expanded=draw(st.integers(1, 2)),
        scales=draw(st.sampled_from(gemm_mx.SCALE_LAYOUTS)),
        **chosen,
    )
    return problem, knobs, draw(st.sampled_from([NPU, B200]))


def microscaled(problem: gemm_mx.Problem, name: str, rows: int, seed: int) -> tuple[Operand, float]:
    """Return an operand in its format, and the scale of its tensor."""
    values, tensor = normal(rows, problem.k, seed), 1.0
    if problem.format == "mxfp8":
        elements, scales = quant.mx(values, quant.E4M3)
    elif problem.format == "mxfp4":
        elements, scales = quant.mx(values, quant.E2M1)
    else:
        elements, scales, tensor = quant.nvfp4(values)
    stored = elements if problem.format == "mxfp8" else quant.pack(quant.e2m1_codes(elements))
    worth = elements * quant.spread(scales, problem.form.block, problem.k)
    return ({name: stored, f"scales {name}": scales}, worth), tensor


def check_mx(problem: gemm_mx.Problem, knobs: gemm_mx.Knobs, machine: Machine) -> None:
    (a, scale_a), (b, scale_b) = microscaled(problem, "a", problem.m, 1), microscaled(problem, "b", problem.n, 2)
    extra = {"scales": np.array([scale_a, scale_b])} if problem.form.has_tensor_scale else {}
    check(gemm_mx.compile(problem, knobs, machine, 0), machine, a, b, scale_a * scale_b, extra)


@settings(max_examples=15)
@given(mx_cases())
@example((gemm_mx.Problem(130, 64, 256, "nvfp4"), gemm_mx.Knobs(tile_m=128), B200))
def test_microscaled_operands_multiply_as_what_they_stand_for_natively_and_expanded(case: Any) -> None:
    check_mx(*case)


@pytest.mark.nightly
@settings(max_examples=300)
@given(mx_cases())
def test_many_microscaled_operands_multiply_as_what_they_stand_for(case: Any) -> None:
    check_mx(*case)


def simulated(program: Program, machine: Machine) -> tuple[Result, dict[str, tuple[int, int]]]:
    """Return the result, and for every tensor the useful bytes loaded and stored."""
    result = simulate(program, machine)
    assert result.bound.total_fs <= result.makespan_fs
    return result, {t.name: (t.load_useful_bytes, t.store_useful_bytes) for t in result.traffic}


def test_scales_of_blocks_are_loaded_beside_their_tiles_and_nothing_twice() -> None:
    m, n, k = 100, 200, 300
    machine = Machine(load_machine("npu-hbm3"))
    program = gemm_w8a8.compile(gemm_w8a8.Problem(m, n, k), gemm_w8a8.Knobs(tile_m=128, tile_n=256), machine, 0)
    _, traffic = simulated(program, machine)
    assert traffic == {
        "a": (m * k, 0),
        "b": (n * k, 0),
        "c": (0, 2 * m * n),
        "scales a": (4 * m * 3, 0),
        "scales b": (4 * 2 * 3, 0),
    }


def test_scales_of_a_row_by_row_fetch_whole_bursts_for_four_bytes_of_each_row() -> None:
    machine = Machine(load_machine("npu-hbm3"))
    problem, fetched = gemm_w8a8.Problem(128, 64, 4096), {}
    for order in gemm_w8a8.SCALE_LAYOUTS:
        program = gemm_w8a8.compile(problem, gemm_w8a8.Knobs(scales_a=order), machine, 0)
        scales = next(t for t in simulate(program, machine).traffic if t.name == "scales a")
        fetched[order] = scales.load_fetched_bytes / scales.load_useful_bytes
    assert fetched == {"m-major": 1, "k-major": machine.burst_bytes / 4}


def test_weights_of_four_bits_are_half_a_byte_and_their_scales_two_bytes_per_group() -> None:
    m, n, k = 100, 200, 513
    machine = Machine(load_machine("npu-hbm3"))
    knobs = gemm_w4a16.Knobs(tile_m=128, tile_n=256)
    program = gemm_w4a16.compile(gemm_w4a16.Problem(m, n, k, "bf16"), knobs, machine, 0)
    _, traffic = simulated(program, machine)
    assert traffic == {"a": (2 * m * k, 0), "b": (n * 257, 0), "c": (0, 2 * m * n), "scales b": (2 * n * 5, 0)}


@pytest.mark.parametrize(("form", "bits", "block"), [("mxfp8", 8, 32), ("mxfp4", 4, 32), ("nvfp4", 4, 16)])
def test_microscaled_operands_are_as_small_as_their_format(form: str, bits: int, block: int) -> None:
    m, n, k = 100, 64, 512
    machine = Machine(load_machine("npu-hbm3"))
    program = gemm_mx.compile(gemm_mx.Problem(m, n, k, form), gemm_mx.Knobs(), machine, 0)
    _, traffic = simulated(program, machine)
    scales = {"scales": (8, 0)} if form == "nvfp4" else {}
    assert traffic == scales | {
        "a": (m * k * bits // 8, 0),
        "b": (n * k * bits // 8, 0),
        "c": (0, 2 * m * n),
        "scales a": (m * k // block, 0),
        "scales b": (n * k // block, 0),
    }


@pytest.mark.parametrize("form", list(gemm_mx.FORMATS))
def test_a_unit_that_applies_scales_multiplies_at_its_rate_and_leaves_the_vector_unit_alone(form: str) -> None:
    machine = Machine(load_machine("b200-sxm").with_overrides({"cores.count": 1}))
    problem, knobs = gemm_mx.Problem(128, 64, 1024, form), gemm_mx.Knobs(stages=2)
    program = gemm_mx.compile(problem, knobs, machine, 0)
    result, _ = simulated(program, machine)
    unit, clock = machine.spec.cores.matrix, machine.spec.cores.clock
    rate = unit.rate(problem.form.native)
    multiplying = -(-100 * 128 * 64 * 128 // (rate.macs_per_cycle * (rate.sustained_percent or 100)))
    reading = (128 + 64) * 128 * (8 if form == "mxfp8" else 4) // 8 // machine.sram_line_bytes
    cycles = 8 * max(multiplying, reading)  # eight tiles of k
    assert result.stalls["matrix"]["useful"] == pytest.approx(cycles / clock * 1e15, rel=1e-3)
    hopper = Machine(load_machine("h100-sxm").with_overrides({"cores.count": 1}))
    expanded, _ = simulated(gemm_mx.compile(problem, knobs, hopper, 0), hopper)
    assert result.stalls["vector"]["useful"] < expanded.stalls["vector"]["useful"] / 4
    found = least(program, machine, result.bound)
    assert found is not None
    assert found.by_component_fj["matrix"] == 128 * 64 * 1024 * machine.spec.energy.chip.mac.fp8  # type: ignore[union-attr]


def test_with_three_accumulators_promotion_and_multiplication_overlap() -> None:
    quick = {"cores.count": 1, "noc.port_bytes_per_cycle": 512, "cores.dma.request_cycles": 8}
    machine = Machine(load_machine("h100-sxm").with_overrides(quick))
    problem = gemm_w8a8.Problem(128, 64, 8192)
    times = []
    for accumulators in (2, 3):
        program = gemm_w8a8.compile(problem, gemm_w8a8.Knobs(accumulators=accumulators), machine, 0)
        times.append(simulate(program, machine).makespan_fs)
    assert times[1] < times[0]


def test_knobs_of_one_meaning_have_one_key_and_others_have_others() -> None:
    for module, problem in (
        (gemm_w8a8, gemm_w8a8.Problem(64, 256, 512)),
        (gemm_w4a16, gemm_w4a16.Problem(64, 256, 512, "bf16")),
        (gemm_mx, gemm_mx.Problem(64, 256, 512, "mxfp4")),
    ):
        key = module.canonical(problem, module.Knobs())  # type: ignore[attr-defined]
        same = [module.Knobs(order="grouped"), module.Knobs(group_m=3)]  # type: ignore[attr-defined]
        other = [
            module.Knobs(**{name: value})  # type: ignore[attr-defined]
            for name, value in (("tile_m", 32), ("tile_n", 32), ("stages", 2), ("split_k", 2), ("layout_a", "k m"))
        ]
        assert {module.canonical(problem, knobs) for knobs in same} == {key}  # type: ignore[attr-defined]
        keys = {key, *(module.canonical(problem, knobs) for knobs in other)}  # type: ignore[attr-defined]
        assert len(keys) == len(other) + 1


def test_problems_take_sizes_from_options_and_a_16_bit_type_from_the_model() -> None:
    found = {"m": 3, "n": 5, "k": 7}
    assert gemm_w8a8.shape(None, None, found) == gemm_w8a8.Problem(3, 5, 7)
    model = load_model("llama-3.1-8b")
    assert gemm_w4a16.shape_of("int4")(model, None, found | {"group": 64}) == gemm_w4a16.Problem(3, 5, 7, "bf16", 64)
    assert gemm_mx.shape_in("gemm-nvfp4", "nvfp4")(None, None, found) == gemm_mx.Problem(3, 5, 7, "nvfp4")
    with pytest.raises(ValueError, match="options: size group is 5; allowed: even numbers"):
        gemm_w4a16.shape_of("int4")(None, None, found | {"group": 5})
    with pytest.raises(ValueError, match="options: kernel gemm-nvfp4 takes no size 'kk'"):
        gemm_mx.shape_in("gemm-nvfp4", "nvfp4")(None, None, found | {"kk": 5})


@pytest.mark.parametrize(
    ("module", "problem", "knobs", "message"),
    [
        (gemm_w4a16, gemm_w4a16.Problem(8, 8, 8, "bf16"), {"tile_k": 64}, "^tile_k: 64; allowed: multiples of 128"),
        (gemm_mx, gemm_mx.Problem(8, 8, 8, "mxfp8"), {"tile_k": 48}, "^tile_k: 48; allowed: multiples of 32"),
        (gemm_mx, gemm_mx.Problem(8, 8, 8, "mxfp8"), {"scales": "8x4"}, "^scales: unknown '8x4'; known: 128x4, linear"),
        (gemm_w8a8, gemm_w8a8.Problem(8, 8, 8), {"accumulators": 1}, "^accumulators: 1; allowed: an integer from 2"),
        (gemm_w8a8, gemm_w8a8.Problem(8, 8, 8), {"tile_m": 4096, "tile_n": 512}, "sized by tile_m=4096, tile_n=512"),
    ],
)
def test_a_knob_that_does_not_fit_is_named(module: Any, problem: Any, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        module.compile(problem, module.Knobs(**knobs), NPU, 0)
    assert "\n" not in str(error.value)
