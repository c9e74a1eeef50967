from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from explorer import catalog, evaluate, programs
from explorer.explore import explore
from explorer.progress import silent
from explorer.query import BatchSpec, Query
from explorer.study.study import Study

GEMM = Query("npu-hbm3", "gemm", options=(("m", 64), ("n", 64), ("k", 64)))
DECODE = Query("npu-hbm3", "decode-attention", "llama-3.1-8b", BatchSpec(2, 64))


def test_keys_are_equal_only_for_one_problem_on_one_machine() -> None:
    others = [
        GEMM,
        Query("npu-hbm3", "gemm", options=(("m", 128), ("n", 64), ("k", 64))),
        GEMM.with_knob("tile_m", 64),
        GEMM.with_knob("machine.hbm.stacks", 2),
        DECODE,
        Query("npu-hbm3", "decode-attention", "llama-3.1-8b", BatchSpec(4, 64)),
        Query("npu-hbm3", "decode-attention", "llama-3.1-8b", BatchSpec(2, 65)),
    ]
    assert len({programs.key(query) for query in others}) == len(others)
    respelt = GEMM.with_knob("layout_a", "m  k")
    assert programs.key(respelt) == programs.key(GEMM)


def test_the_energy_of_a_run_is_not_below_its_bound() -> None:
    for query in (GEMM, DECODE):
        energy = evaluate.simulate(query).metrics["energy_pj"]
        assert isinstance(energy, float)
        assert 0 < evaluate.bound_pj(query) <= energy


@pytest.mark.parametrize("machine", ["npu-hbm3", "npu-sram", "npu-sram-local"])
def test_the_bytes_of_hbm_are_not_below_their_bound_or_no_objective_where_there_is_none(
    machine: str, tmp_path: Path
) -> None:
    sizes, knobs = dict(GEMM.options), {"tile_k": [32, 64]}
    fields = {"name": "s", "machine": machine, "kernel": "gemm", "options": sizes, "knobs": knobs}
    asked = Study.model_validate(fields | {"objectives": ["time_us", "hbm_bytes"]})
    if machine == "npu-hbm3":
        best = explore(asked, tmp_path / "out", 1, evaluate.EVALUATOR, silent).best
        assert 0 < best["hbm_bound_bytes"] <= best["hbm_bytes"]
        return
    reason = rf"objective: .*{machine}.*: hbm: missing; the objective hbm_bytes needs it; allowed: time_us, energy_pj, "
    with pytest.raises(ValueError, match=reason):
        explore(asked, tmp_path / "out", 1, evaluate.EVALUATOR, silent)
    assert not (tmp_path / "out").exists()


def test_every_unit_belongs_to_a_whole_number_of_the_machine() -> None:
    units = catalog.machine_units()
    assert units["noc.latency"] == units["shared_cache.miss_latency"] == "fs"
    assert (units["cores.clock"], units["hbm.pin_rate"]) == ("Hz", "b/s")
    assert (units["energy.hbm.activate"], units["energy.chip.noc"], units["energy.static"]) == ("fJ", "fJ/B", "uW")
    facts = catalog.describe_machine("h100-sxm")
    for path in units:
        value = facts
        for name in path.split("."):
            value = None if value is None else value[name]
        assert value is None or isinstance(value, int), path  # not every machine has every part


def test_a_simulation_finds_compiled_what_was_prepared() -> None:
    from hwmodel.dram import kernel
    from hwmodel.engine import kernel as engine

    for prepare in evaluate.EVALUATOR.prepare:
        prepare(DECODE)
    functions = (kernel.run_deep, engine.run)
    prepared = [list(function.signatures) for function in functions]
    assert all(prepared)
    evaluate.simulate(DECODE)
    assert [list(function.signatures) for function in functions] == prepared


def test_what_is_not_compiled_yet_another_process_compiles_for_the_same_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hwmodel import reference

    asked: list[list[str]] = []
    compiled: list[str] = []

    class Beside:
        def __init__(self, command: list[str], **_: Any) -> None:
            asked.append(command)

        def wait(self) -> None:
            exec(asked[-1][2])  # what the process would run

    query = GEMM.with_knob("machine.hbm.stacks", 2)
    monkeypatch.setattr(subprocess, "Popen", Beside)
    monkeypatch.setattr(sys, "argv", ["-c", query.machine, "hbm.stacks=2"])
    monkeypatch.setattr(reference, "compile_dram", lambda machine: compiled.append(machine.spec.hash))
    evaluate.simulate(query)
    assert not asked  # it lies on the disk
    monkeypatch.setattr(reference, "is_dram_compiled", lambda _: False)
    evaluate.simulate(query)
    assert [command[3:] for command in asked] == [sys.argv[1:]]
    assert compiled == [programs.machine_of(query.machine, query.machine_overrides).spec.hash]
