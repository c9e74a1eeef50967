from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from hwmodel.engine import simulate
from layouts.notation import named
from workloads.batch import uniform
from workloads.kernels import decode_attention
from workloads.model import load_model


@pytest.fixture(scope="module")
def study(load_study: Callable[[str], ModuleType]) -> ModuleType:
    return load_study("kv_layouts")


def program(study: ModuleType, layout: str) -> object:
    problem = decode_attention.shape(load_model("llama-3.1-8b"), uniform(1, 64), {})
    knobs = decode_attention.Knobs(layout=layout)
    return decode_attention.compile(problem, knobs, study.machine_of("npu-hbm3"), 0)


@pytest.mark.parametrize("order", ["page kv head token dim", "kv page token head dim"])
def test_a_layer_that_lies_by_itself_is_the_kernels_own_layout(study: ModuleType, order: str) -> None:
    machine = study.machine_of("npu-hbm3")
    plain, own = program(study, "page kv token head dim"), program(study, order)
    first, second = (simulate(p, machine) for p in (study.laid_out(plain, f"layer {order}", 32, machine), own))
    assert (first.makespan_fs, first.stalls, first.levels) == (second.makespan_fs, second.stalls, second.levels)


def test_pages_of_a_block_with_all_layers_lie_as_far_apart_as_all_layers_take(study: ModuleType) -> None:
    plain = program(study, "page kv token head dim")
    moved = study.laid_out(plain, study.LAYOUTS["NHD, all layers in a block"], 32, study.machine_of("npu-hbm3"))
    before, after = (next(t.layout for t in p.tensors if t.name == "kv") for p in (plain, moved))
    assert after.leaves("page")[0][1] == 32 * before.leaves("page")[0][1]
    assert [after.leaves(axis) for axis in after.axes[1:]] == [before.leaves(axis) for axis in before.axes[1:]]


def test_every_layout_names_the_layers_and_puts_no_two_elements_in_one_place(study: ModuleType) -> None:
    sizes = {"layer": 3, "page": 2, "kv": 2, "head": 2, "token": 4, "dim": 8}
    assert len({named(layout, sizes) for layout in study.LAYOUTS.values()}) == len(study.LAYOUTS)
    assert all(named(layout, sizes).is_injective for layout in study.LAYOUTS.values())


@pytest.mark.parametrize("winner", ["NHD, K and V in a page", "HND, layers inside heads"])
def test_the_answer_names_the_layout_that_the_table_favours(study: ModuleType, winner: str) -> None:
    rows = [
        {"machine": "m", "model": "x", "layout": name, "page_size": page,
         "time_us": (1.0 if name == winner else 4.0) + page / 1000}
        for name in study.LAYOUTS for page in study.PAGES
    ]  # fmt: skip
    first, second = study.sentences(rows)
    assert first == f"Most often among the fastest: {winner}, in 1 of 1 cases (a model on a machine)."
    assert f"the fastest is {winner} in pages of 16" in second
    assert ("NHD in pages of 16 takes as much" in second) == (winner == study.NHD)
