from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from workloads.batch import uniform
from workloads.kernels import prefill_attention
from workloads.model import load_model


@pytest.fixture(scope="module")
def study(load_study: Callable[[str], ModuleType]) -> ModuleType:
    return load_study("prefill_swizzle")


def operands(study: ModuleType, machine: str) -> list[Any]:
    problem = prefill_attention.shape(load_model("llama-3.1-8b"), uniform(1, 64), {})
    program = prefill_attention.compile(problem, prefill_attention.Knobs(), study.machine_of(machine), 0)
    return [replace(b, address=0, layout=None) for b in program.phases[0].buffers if b.name in study.OPERANDS]


@pytest.mark.parametrize("machine", ["npu-hbm3", "h100-sxm", "tpu-v6e"])
def test_a_searched_tile_costs_in_the_simulator_what_its_proof_says(study: ModuleType, machine: str) -> None:
    on = study.machine_of(machine)
    for buffer in operands(study, machine):
        found = study.searched(machine, buffer)
        assert study.wavefronts(on, [replace(buffer, layout=found.layout)]) == found.wavefronts
        assert found.lower <= found.wavefronts <= study.wavefronts(on, [buffer])


def test_layouts_change_conflicts_and_nothing_else(study: ModuleType) -> None:
    rows = {kind: study.measure(study.Case("npu-hbm3", "llama-3.1-8b", kind, 128)) for kind in study.KINDS}
    assert rows[study.SEARCHED]["conflict_cycles"] < rows[study.NONE]["conflict_cycles"]
    assert rows[study.SEARCHED]["time_us"] <= rows[study.NONE]["time_us"]
    assert len({row["least_wavefronts"] for row in rows.values()}) == 1


@pytest.mark.parametrize("winner", ["row-major", "CuTe 64B", "searched"])
def test_the_answer_names_the_layout_that_the_table_favours(study: ModuleType, winner: str) -> None:
    rows = [
        {
            "machine": "m", "model": "x", "layout": kind, "time_us": 1.0 if kind == winner else 3.0,
            "tile_wavefronts": 8, "least_wavefronts": 4,
        }
        for kind in study.KINDS
    ]  # fmt: skip
    (words,) = study.sentences(rows)
    assert f"the fastest, 1.00 us, {winner}." in words
    assert ("Row by row takes as much" in words) == (winner == "row-major")
    assert ("what is searched 3.00 times as much" in words) == (winner != "searched")
