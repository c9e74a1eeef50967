"""Knobs of products: the same whoever asks, and no slower than the defaults."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwmodel.engine import simulate
from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads.calls import Row, call_of
from workloads.kernels import KERNELS, gemm, gemm_w4a16, gemm_w8a8, gemv
from workloads.kernels.tuning import products
from workloads.kernels.tuning.roof import Items, Roof
from workloads.model import load_model
from workloads.scheduled import prefill
from workloads.step import model_steps

MACHINES = {name: Machine(load_machine(name)) for name in ("h100-sxm", "npu-hbm3")}
H100, NPU = MACHINES.values()
MI300X, B200 = (Machine(load_machine(name)) for name in ("mi300x", "b200-sxm"))
ROWS = {"gemm": "bfloat16", "gemm-w8a8-block": "fp8_block", "gemm-w4a16": "int4_wo"}  # dtype of a row, by kernel


@pytest.mark.parametrize(
    ("machine", "weights", "kernel"),
    [
        (H100, "16-bit", "gemm"),
        (H100, "fp8", "gemm-w8a8-block"),
        (H100, "w4a16", "gemm-w4a16"),
        (NPU, "16-bit", "gemm"),
        (NPU, "w4a16", "gemm-w4a16"),
    ],
)
def test_a_step_and_a_prediction_take_the_same_knobs_for_the_same_product(
    machine: Machine, weights: str, kernel: str
) -> None:
    steps = model_steps(load_model("llama-3.1-8b"), prefill((200,)), machine, weights=weights, parallel=2)
    found = [step for step in steps if step.kernel == kernel]
    assert len(found) >= 4
    for step in found:
        p = step.problem
        row = Row({"op": "gemm", "dtype": ROWS[kernel]}, {"m": p.m, "n": p.n, "k": p.k})
        variant, _ = call_of(row, machine).launches[-1].fitting(machine, 1)[0]
        assert (variant.kernel, variant.knobs) == (step.kernel, step.knobs)
        assert KERNELS[kernel].suggested(p, machine) == step.knobs


SHAPES = [(32, 1792, 2048), (64, 4096, 1024), (200, 2048, 1024), (302, 1792, 1024), (512, 512, 512), (1000, 700, 300)]


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("sizes", SHAPES)
def test_suggested_knobs_take_no_longer_than_the_defaults(machine: Machine, sizes: tuple[int, int, int]) -> None:
    kernel, problem = KERNELS["gemm"], gemm.Problem(*sizes, "bf16")
    times = [
        simulate(kernel.compile(problem, knobs, machine, 0), machine).makespan_fs
        for knobs in (kernel.suggested(problem, machine), gemm.Knobs())
    ]
    assert times[0] <= times[1]


def test_without_a_shared_cache_tiles_come_from_main_memory_each_time_and_may_be_larger() -> None:
    items = Items(160, 100, 1000, "bf16", 10**5, 10**6, 8)
    roof = Roof(NPU)
    assert roof.phase_fs(items) > 160 * 100 * 10**5 * roof.memory_fs
    problem = gemm.Problem(2048, 4096, 1024, "bf16")
    edges = [{c.knobs.tile_m for c in products.ranked(problem, machine)} for machine in (H100, NPU)]
    assert max(edges[0]) == 256 < max(edges[1])


def test_few_rows_of_narrow_weights_are_read_in_long_runs_of_k() -> None:
    first = next(products.candidates(gemm_w4a16.Problem(16, 4096, 4096, "bf16"), H100))
    assert first.tile_k == 512
    first = next(products.candidates(gemm_w8a8.Problem(16, 4096, 4096), H100))
    assert first.tile_m == 64


def test_knobs_that_are_given_are_kept_in_all_schedules() -> None:
    problem = gemm.Problem(256, 256, 256, "fp32")
    assert {choice.knobs.unit for choice in products.ranked(problem, H100, unit="vector")} == {"vector"}
    plain, on_vector = (products.ranked(problem, H100, **given)[0] for given in ({}, {"unit": "vector"}))
    assert on_vector.estimate_fs > plain.estimate_fs


def test_what_fits_no_other_tiles_finds_small_ones() -> None:
    small = Machine(load_machine("npu-hbm3").with_overrides({"cores.sram.capacity": "12 KiB"}))
    problem = gemm.Problem(256, 256, 256, "bf16")
    knobs = KERNELS["gemm"].suggested(problem, small)
    assert knobs.tile_k < 64
    gemm.compile(problem, knobs, small, 0)


def test_few_rows_split_k_where_cores_would_be_idle() -> None:
    wide, narrow = (KERNELS["gemv"].suggested(gemm.Problem(4, n, 8192, "bf16"), H100) for n in (8192, 512))
    assert wide == replace(gemv.Knobs(), unit="matrix")
    assert narrow.split_k > 1


@pytest.mark.slow
def test_without_a_shared_cache_one_row_takes_no_longer_than_two() -> None:
    kernel, times = KERNELS["gemv"], []
    for rows in (1, 2):
        problem = gemm.Problem(rows, 28672, 4096, "bf16")
        program = kernel.compile(problem, kernel.suggested(problem, NPU), NPU, 0)
        times.append(simulate(program, NPU).makespan_fs)
    assert times[0] <= times[1]


def time_fs(problem: gemm.Problem, knobs: gemv.Knobs, machine: Machine) -> int:
    return simulate(gemv.compile(problem, knobs, machine, 0), machine).makespan_fs


WIDE = [(1, 5120, 1024), (2, 1792, 4096), (8, 2048, 2048), (16, 2880, 2880), (32, 1792, 4096), (8, 10240, 1024)]


def finer_than(knobs: gemv.Knobs) -> list[gemv.Knobs]:
    """Return the knobs with tiles of half as many columns, or half as deep, where there are such tiles."""
    least = {"tile_n": min(products.FEW_N), "tile_k": min(products.FEW_K)}
    halves = {name: getattr(knobs, name) // 2 for name in least}
    return [replace(knobs, **{name: half}) for name, half in halves.items() if half >= least[name]]


@pytest.mark.slow
@pytest.mark.parametrize("machine", [H100, NPU, MI300X, B200], ids=lambda machine: machine.spec.name)
def test_few_rows_are_not_cut_so_that_finer_tiles_would_be_faster(machine: Machine) -> None:
    compared = 0
    for sizes in WIDE:
        problem = gemm.Problem(*sizes, "bf16")
        knobs = KERNELS["gemv"].suggested(problem, machine)
        for finer in finer_than(knobs):
            assert time_fs(problem, knobs, machine) <= 1.05 * time_fs(problem, finer, machine), sizes
            compared += 1
    assert compared >= len(WIDE) // 2


def test_few_rows_leave_no_cores_idle_that_finer_tiles_of_the_same_traffic_use() -> None:
    problem = gemm.Problem(2, 1792, 4096, "bf16")
    knobs = KERNELS["gemv"].suggested(problem, NPU)
    assert -(-problem.n // knobs.tile_n) * knobs.split_k >= NPU.spec.cores.count
    known = replace(knobs, tile_n=32, tile_k=512, stages=8)
    assert time_fs(problem, knobs, NPU) <= 1.02 * time_fs(problem, known, NPU)


def test_few_rows_find_tiles_for_scratchpads_that_hold_fewer_stages() -> None:
    problem = gemm.Problem(64, 768, 4096, "bf16")
    knobs = next(products.few_rows(problem, MI300X))
    assert 1 < knobs.stages < products.FEW_STAGES
    gemv.compile(problem, knobs, MI300X, 0)


@pytest.mark.parametrize("rows", [1, 16, 64])
def test_few_rows_keep_more_in_flight_where_no_cache_is_shared(rows: int) -> None:
    kernel, problem = KERNELS["gemv"], gemm.Problem(rows, 4096, 4096, "bf16")
    knobs = kernel.suggested(problem, NPU)
    shallow = replace(knobs, tile_k=512, stages=4)
    assert knobs.tile_k * knobs.stages > shallow.tile_k * shallow.stages
    times = [simulate(kernel.compile(problem, each, NPU, 0), NPU).makespan_fs for each in (knobs, shallow)]
    assert times[0] < times[1]


def test_few_rows_find_tiles_for_a_small_scratchpad() -> None:
    small = Machine(load_machine("npu-hbm3").with_overrides({"cores.sram.capacity": "64 KiB"}))
    problem = gemm.Problem(4, 4096, 4096, "bf16")
    gemv.compile(problem, KERNELS["gemv"].suggested(problem, small), small, 0)


def test_a_problem_of_another_template_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^no product: workloads\.kernels\.norm"):
        products.form_of(KERNELS["rms-norm"].shape(None, None, {"rows": 4, "columns": 64}))


def test_two_stages_that_fill_a_scratchpad_to_the_byte_are_taken_where_no_scales_lie_there() -> None:
    """64 KiB: twice 64 x 64 of a and 128 x 64 of b, and 64 x 128 of the result."""
    problem = gemm.Problem(4096, 4096, 4096, "bf16")
    knobs = KERNELS["gemm"].suggested(problem, MI300X)
    assert (knobs.tile_m * knobs.tile_n, knobs.tile_k, knobs.stages) == (64 * 128, 64, 2)
    assert KERNELS["gemm"].compile(problem, knobs, MI300X, 0).phases[0].split_bytes(True)[0] == 64 << 10
