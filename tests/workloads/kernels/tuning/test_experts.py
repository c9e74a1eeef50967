"""Knobs of grouped products of experts: the same whoever asks, and no slower than usual tiles or neighbours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwmodel.engine import simulate
from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads.calls import Row, call_of
from workloads.kernels import KERNELS, moe_gemm, moe_layer
from workloads.kernels.moe_formats import FORMATS
from workloads.kernels.tuning import experts
from workloads.routing import Routing

H100, B200, NPU, TPU = (Machine(load_machine(name)) for name in ("h100-sxm", "b200-sxm", "npu-hbm3", "tpu-v6e"))
UNCACHED = pytest.mark.parametrize("machine", [NPU, TPU], ids=lambda machine: machine.spec.name)
SIZES = ("tokens", "experts", "topk", "inter", "hidden")


def layer(*sizes: int, form: str = "16-bit", **more: Any) -> moe_layer.Problem:
    """Return a layer of these SIZES."""
    return moe_layer.Problem(**dict(zip(SIZES, sizes, strict=True)), dtype="bf16", format=form, **more)


def time_fs(problem: moe_layer.Problem, knobs: moe_layer.Knobs, machine: Machine) -> int:
    return simulate(moe_layer.compile(problem, knobs, machine, 0), machine).makespan_fs


@UNCACHED
@pytest.mark.parametrize("form", ["16-bit", "w4a16-mxfp4"])
@pytest.mark.parametrize("sizes", [(8, 8, 2, 512, 1024), (96, 8, 2, 512, 1024), (600, 4, 2, 384, 768)])
def test_without_a_shared_cache_experts_are_faster_than_in_the_tiles_that_suit_one(
    machine: Machine, form: str, sizes: tuple[int, ...]
) -> None:
    problem = layer(*sizes, form=form)
    found, usual = (KERNELS["moe"].suggested(problem, of) for of in (machine, H100))
    assert time_fs(problem, found, machine) < 0.9 * time_fs(problem, usual, machine)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["16-bit", "w4a16-mxfp4"])
@pytest.mark.parametrize("sizes", [(48, 8, 2, 512, 1536), (400, 6, 2, 640, 1024)])
def test_no_neighbour_of_suggested_tiles_is_faster_by_a_quarter(form: str, sizes: tuple[int, ...]) -> None:
    problem, compared = layer(*sizes, form=form), 0
    knobs = KERNELS["moe"].suggested(problem, NPU)
    least = time_fs(problem, knobs, NPU)
    for name in ("tile_m", "tile_n", "tile_k", "stages"):
        for factor in (0.5, 2):
            try:
                other = time_fs(problem, replace(knobs, **{name: int(getattr(knobs, name) * factor)}), NPU)
            except ValueError:
                continue
            compared += 1
            assert least < 1.25 * other, (name, factor)
    assert compared >= 5


@UNCACHED
def test_a_prediction_takes_the_tiles_that_are_suggested(machine: Machine) -> None:
    sizes = {"tokens": 300, "experts": 16, "topk": 2, "inter": 768, "hidden": 1024}
    (launch,) = call_of(Row({"op": "moe_grouped_gemm", "dtype": "bfloat16"}, sizes), machine).launches
    variant, _ = launch.fitting(machine, 1)[0]
    suggested = KERNELS["moe"].suggested(variant.problem, machine)
    tiles = [(k.tile_m, k.tile_n, k.tile_k, k.stages) for k in (variant.knobs, suggested)]
    assert tiles[0] == tiles[1]


def test_a_single_product_of_experts_has_tiles_of_the_same_estimate() -> None:
    single = moe_gemm.Problem(tokens=300, experts=16, topk=2, dtype="bf16", n=768, k=1024)
    pair = layer(300, 16, 2, 768, 1024)
    first, both = (experts.Products(problem, NPU) for problem in (single, pair))
    cut = next(first.cuts())
    assert 2 * first.estimate(cut) < both.estimate(cut)


@UNCACHED
@pytest.mark.parametrize("form", FORMATS)
def test_the_best_tiles_of_every_format_fit(machine: Machine, form: str) -> None:
    problem = layer(700, 12, 3, 896, 1408, form=form)
    best = experts.ranked(problem, machine)[0]
    moe_layer.compile(problem, best.knobs, machine, 0)


def test_rows_that_an_expert_does_not_have_cost_nothing_without_a_shared_cache_and_time_with_one() -> None:
    ids = np.arange(512, dtype=np.int32).reshape(-1, 1) % 16
    problem = layer(512, 16, 1, 512, 1024, routing=Routing(16, ids, np.ones(ids.shape, np.float32)))  # 32 rows each
    for machine, is_free in ((NPU, True), (H100, False)):
        products = experts.Products(problem, machine)
        times = [products.estimate(experts.Tiled(rows, 64, 64, 4)) for rows in (64, 256)]
        assert (times[0] == times[1]) == is_free


def test_an_expert_has_its_rows_in_one_tile_though_which_tokens_it_has_is_drawn() -> None:
    problem = layer(128, 32, 4, 512, 1024)
    knobs = KERNELS["moe"].suggested(problem, TPU)
    drawn = [moe_layer.routing_of(problem, knobs, seed).counts.max() for seed in range(20)]
    assert max(drawn) <= knobs.tile_m


@pytest.mark.parametrize("sizes", [(1, 1000, 1), (1, 16, 4), (200, 160, 6), (2048, 16, 2), (64, 1, 1)])
def test_rows_that_are_not_drawn_yet_add_up_to_about_those_that_are(sizes: tuple[int, int, int]) -> None:
    tokens, count, topk = sizes
    rows = experts.uniform(layer(*sizes, 128, 128))
    assert len(rows) == count
    assert (rows > 0).sum() >= topk
    assert abs(int(rows.sum()) - tokens * topk) <= max(1, 0.02 * tokens * topk)
    assert rows.max() <= tokens


def test_rows_in_a_tile_of_row_wise_phases_keep_a_core_s_share_of_memory_busy() -> None:
    problem = layer(2048, 8, 2, 512, 2048)
    rows = {m.spec.name: KERNELS["moe"].suggested(problem, m).tile_rows for m in (H100, B200, NPU, TPU)}
    assert rows["h100-sxm"] == rows["b200-sxm"] == rows["npu-hbm3"] == moe_layer.Knobs().tile_rows
    knobs = KERNELS["moe"].suggested(problem, TPU)
    few = replace(knobs, tile_rows=moe_layer.Knobs().tile_rows)
    assert time_fs(problem, knobs, TPU) < 0.9 * time_fs(problem, few, TPU)


def test_a_scratchpad_too_small_for_the_best_tiles_has_others() -> None:
    small = Machine(load_machine("npu-hbm3").with_overrides({"cores.sram.capacity": "48 KiB"}))
    problem = moe_gemm.Problem(tokens=256, experts=8, topk=2, dtype="bf16", n=256, k=512)
    moe_gemm.compile(problem, KERNELS["grouped-gemm"].suggested(problem, small), small, 0)
