from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from hwmodel.components import Components
from hwmodel.machine import Machine
from hwmodel.reference import simulate
from hwmodel.result import Result
from hwmodel.spec import load_machine
from workloads.kernels import gemm

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies/near_memory_reducer.py"
PARTS, M, N = 4, 64, 256
SUM_BYTES = 4 * M * N


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("near_memory_reducer", STUDY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["near_memory_reducer"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    module.PROBLEM = gemm.Problem(M, N, 2048, "bf16")
    return module


@pytest.fixture(scope="module")
def npu() -> Machine:
    return Machine(load_machine("npu-hbm3"))


@pytest.fixture(scope="module")
def results(study: ModuleType, npu: Machine) -> tuple[Result, Result]:
    """What the standard machine and the one with reducers take."""
    found: tuple[Result, Result] = study.compare(npu, PARTS, study.NearMemoryReducer())
    return found


def test_every_partial_sum_is_taken_and_every_sum_is_written_once(results: tuple[Result, Result]) -> None:
    own = results[1]
    reducer = own.levels["reducer"]
    assert reducer.stored == PARTS * SUM_BYTES
    assert reducer.written_back == own.hbm_write_bytes == SUM_BYTES
    assert reducer.fetched == reducer.missed == own.hbm_read_bytes
    assert reducer.asked == own.levels["network"].asked == reducer.missed + reducer.stored
    assert [*own.levels] == ["network", "reducer", "hbm"]


def test_memory_no_longer_moves_the_parts(results: tuple[Result, Result]) -> None:
    standard, own = results
    assert standard.hbm_read_bytes - own.hbm_read_bytes == PARTS * SUM_BYTES
    assert standard.hbm_write_bytes - own.hbm_write_bytes == PARTS * SUM_BYTES + SUM_BYTES // 2 - SUM_BYTES


def test_the_account_of_every_unit_closes(results: tuple[Result, Result]) -> None:
    for result in results:
        for kind, causes in result.stalls.items():
            assert sum(causes.values()) == result.makespan_fs * result.units[kind]


def test_the_second_kernel_is_gone_and_the_result_says_what_ran(npu: Machine, results: tuple[Result, Result]) -> None:
    standard, own = results
    assert [phase.name for phase in standard.phases] == ["multiply", "reduce"]
    assert [phase.name for phase in own.phases] == ["multiply"]
    assert own.makespan_fs < standard.makespan_fs - npu.spec.launch.latency
    assert own.machine.startswith("npu-hbm3 with NearMemoryReducer(bytes_per_second=")
    assert standard.machine_hash == npu.spec.hash != own.machine_hash


def test_a_kernel_with_reducers_ends_when_its_sums_are_in_memory(
    study: ModuleType, npu: Machine, results: tuple[Result, Result]
) -> None:
    multiply = results[0].phases[0]
    write_fs = SUM_BYTES * 10**15 // npu.hbm_peak_bytes_per_second
    assert results[1].makespan_fs > multiply.fs * 0.9 + write_fs


def test_slower_adders_take_longer_and_no_faster_than_their_rate(study: ModuleType, npu: Machine) -> None:
    rates = [10**12, 10**10, 10**9]
    times = [study.compare(npu, PARTS, study.NearMemoryReducer(rate))[1].makespan_fs for rate in rates]
    assert times == sorted(times)
    assert times[0] < times[1] < times[2]
    for rate, time_fs in zip(rates, times, strict=True):
        assert time_fs >= npu.spec.launch.latency + PARTS * SUM_BYTES * 10**15 / (rate * npu.hbm.spec.stacks)


def test_without_parts_the_reducers_change_nothing(study: ModuleType, npu: Machine) -> None:
    standard, own = study.compare(npu, 1, study.NearMemoryReducer())
    assert own.makespan_fs == standard.makespan_fs
    assert own.stalls == standard.stalls


def test_sums_that_a_reducer_has_no_room_for_are_refused_in_one_line(study: ModuleType, npu: Machine) -> None:
    with pytest.raises(ValueError, match=r"^reducer of stack \d: \d+ B of sums; allowed: up to 4096 B$"):
        study.compare(npu, PARTS, study.NearMemoryReducer(capacity_bytes=4096))


@pytest.mark.parametrize("name", ["h100-sxm", "npu-sram"])
def test_a_machine_without_stacks_or_with_a_cache_is_refused(study: ModuleType, name: str) -> None:
    machine = Machine(load_machine(name))
    program = gemm.compile(study.PROBLEM, gemm.Knobs(tile_m=64, tile_n=64), machine, 0)
    with pytest.raises(ValueError, match=r"needs hbm without a shared cache$"):
        simulate(program, machine, Components(memory_side=study.NearMemoryReducer()))


def test_the_parts_lie_at_the_place_of_the_first_and_nothing_else_is_changed(study: ModuleType, npu: Machine) -> None:
    program = gemm.compile(study.PROBLEM, gemm.Knobs(split_k=PARTS), npu, 0)
    summed = study.summed_in_memory(program)
    for before, after in zip(program.tensors, summed.tensors, strict=True):
        if before.name != "partial":
            assert after == before
        else:
            assert after.size_bytes * PARTS == before.size_bytes
            assert not after.layout.is_injective
            assert replace(after, layout=before.layout) == before


def test_the_command_prints_a_line_per_number_of_parts(study: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    study.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:-1]] == [str(split) for split in study.SPLITS]
    assert lines[1].startswith("npu-hbm3 with NearMemoryReducer(")
    assert lines[-1].startswith("best: ")


def test_the_example_of_the_readme_runs_and_names_its_component() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## A component of your own\n")[1].split("\n## ")[0]
    code = section.split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "npu-hbm3 with FarMemory\n"
    assert len(section.splitlines()) < 25
