from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import explorer
from explorer import evaluate, programs
from explorer.query import Query
from explorer.questions.fidelity import measure
from hwmodel.dram import standards
from workloads.window_lengths import Lengths
from workloads.windows import plan

GEMM: dict[str, Any] = {"machine": "npu-hbm3", "kernel": "gemm", "sizes": {"m": 64, "n": 128, "k": 128}}


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, explorer; sys.exit(any(name in sys.modules for name in ('numpy', 'pandas', 'typer', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
    assert {"ask", "whatif", "robust"} <= set(explorer.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'aks'"):
        explorer.aks  # noqa: B018


def test_an_answer_has_the_numbers_of_a_run() -> None:
    answer = explorer.ask(**GEMM, set={"tile_k": 64})
    query = Query("npu-hbm3", "gemm", options=tuple(GEMM["sizes"].items())).with_knob("tile_k", 64)
    metrics = evaluate.simulate(query).metrics
    assert answer.query == query
    assert answer.time_us == metrics["time_us"]
    assert answer["hbm_read_bytes"] == metrics["hbm_read_bytes"]
    assert (answer.key.program_hash, answer.key.machine_hash) == (metrics["program_hash"], metrics["machine_hash"])
    assert answer.settings["tile_k"] == 64
    assert answer.validation.text == "not validated: no measurement of npu-hbm3"


def test_a_bound_is_the_bound_of_the_run_and_simulates_nothing() -> None:
    bound, whole = explorer.ask(**GEMM, fidelity="bound"), explorer.ask(**GEMM)
    assert bound.time_us is None
    assert bound.gap is None
    assert bound.bound_us == whole.bound_us
    assert bound.energy_bound_pj == whole.energy_bound_pj
    assert bound.key == whole.key
    assert "not simulated" in bound.source


def test_what_is_short_is_run_whole_at_every_fidelity() -> None:
    whole = explorer.ask(**GEMM)
    for fidelity in ("auto", "windows"):
        other = explorer.ask(**GEMM, fidelity=fidelity)
        assert (other.how, other.time_us) == ("whole", whole.time_us)


def test_where_windows_fall_below_the_bound_more_is_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    query = Query("npu-hbm3", "gemm", options=(("m", 256), ("n", 1024), ("k", 2048)))
    lengths = Lengths(1 << 20, 1 << 20)
    monkeypatch.setattr("explorer.questions.fidelity.LENGTHS", {"windows": lengths, "auto": lengths})
    monkeypatch.setattr("explorer.questions.fidelity._time_us", lambda *_: 0.001)
    program, machine = programs.program_on(query)
    assert len(plan(program, machine, lengths).windows) > 1
    found = measure(query, "windows")
    assert found.how == "whole"
    assert found.metrics == measure(query, "exact").metrics


def test_a_long_program_of_which_windows_fall_below_the_bound_takes_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    query = Query("npu-hbm3", "gemm", options=(("m", 256), ("n", 1024), ("k", 2304)))  # that no other test asks
    lengths = Lengths(1 << 20, 1 << 20)
    monkeypatch.setattr("explorer.questions.fidelity.LENGTHS", {"windows": lengths, "auto": lengths})
    monkeypatch.setattr("explorer.questions.fidelity.MOST_BYTES", 1 << 20)
    monkeypatch.setattr("explorer.questions.fidelity._time_us", lambda *_: 0.001)
    found = measure(query, "windows")
    assert (found.how, found.fidelity) == ("windows", "auto")
    assert found.metrics["time_us"] == found.metrics["bound_us"]


def test_windows_say_that_they_are_and_keep_the_bound_and_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    query = Query("npu-hbm3", "gemm", options=(("m", 512), ("n", 512), ("k", 4608)))  # that no other test asks
    lengths = {"windows": Lengths(1 << 20, 1 << 20), "auto": Lengths(1 << 30, 1 << 20)}
    monkeypatch.setattr("explorer.questions.fidelity.LENGTHS", lengths)
    cut, whole = measure(query, "windows"), measure(query, "auto")
    assert (cut.how, whole.how) == ("windows", "whole")
    assert 0 < cut.part < 1
    for name in ("bound_us", "limited_by", "energy_bound_pj", "program_hash", "machine_hash"):
        assert cut.metrics[name] == whole.metrics[name]
    assert float(cut.metrics["time_us"]) >= float(cut.metrics["bound_us"])  # type: ignore[arg-type]
    assert "energy_pj" not in cut.metrics


def test_a_what_if_takes_an_answer_or_its_arguments() -> None:
    base = explorer.ask(**GEMM)
    table = explorer.whatif(base, [{"hbm.stacks": 2}], sweep={"tile_k": [32, 64]})
    assert table.rows() == explorer.whatif(GEMM, [{"hbm.stacks": 2}], sweep={"tile_k": "32..64*2"}).rows()
    frame = table.to_pandas()
    assert list(frame["design"]) == ["baseline", "hbm.stacks=2"] * 2
    assert list(frame["tile_k"]) == [32, 32, 64, 64]
    assert (frame["bound_us"] <= frame["time_us"]).all()


@pytest.mark.parametrize("given", [{}, {"window": 16, "kv_fp8": 1}])
def test_sizes_of_which_0_is_one_are_varied_to_0_whether_they_are_given_or_not(given: dict[str, int]) -> None:
    decode = {"machine": "h200-sxm", "kernel": "decode-attention", "model": "llama-3.1-8b", "batch": 1, "context": 64}
    base = decode | {"sizes": given}
    table = explorer.whatif(base, [{"window": 0, "kv_fp8": 0}, {"window": 16, "kv_fp8": 1}], fidelity="bound")
    assert table.same == ([None, None, 0] if given else [None, 0, None])
    swept = explorer.whatif(base, sweep={"kv_fp8": [0, 1]}, fidelity="bound")
    assert len({cell.said(lambda answer: str(answer.key)) for cell in swept}) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"machine": "h100"}, "unknown machine 'h100'"),
        ({"kernel": "gem"}, "unknown kernel 'gem'"),
        ({"set": {"tile": 3}}, "unknown path 'tile'"),
        ({"set": {"tile_k": [1]}}, "tile_k: '[1]': allowed: numbers and texts"),
        ({"set": {"tile_k": "1; import os"}}, "is not a whole number"),
        ({"knobs": {"hbm.stacks": "2 GiB"}}, "2 GiB"),
        ({"fidelity": "fast"}, "unknown fidelity 'fast'"),
        ({"batch": 4, "context": 8}, "takes no batch"),
        ({"machine": "../../etc/passwd"}, "a path of a machine file ends in .yaml"),
    ],
)
def test_bad_arguments_are_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        explorer.ask(**(GEMM | arguments))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_base_that_is_none_is_one_line() -> None:
    with pytest.raises(ValueError, match="base: unknown argument 'fidelity'"):
        explorer.whatif(GEMM | {"fidelity": "exact"}, [{"tile_k": 32}])
    with pytest.raises(ValueError, match="base: kernel is missing"):
        explorer.whatif({"machine": "npu-hbm3"}, [{"tile_k": 32}])
    with pytest.raises(ValueError, match="give variants, or a sweep"):
        explorer.whatif(GEMM)
    with pytest.raises(ValueError, match="'stages=2': allowed: numbers and texts by path"):
        explorer.whatif(GEMM, ["stages=2"])
    with pytest.raises(ValueError, match=r"sweep: 'stages=2\.\.4': allowed: values by path"):
        explorer.whatif(GEMM, sweep="stages=2..4")
    with pytest.raises(ValueError, match=r"^--sweep 'm': '5': allowed: a list of values, or a text such as '4\.\.8'"):
        explorer.whatif(GEMM, sweep={"m": 5})
    with pytest.raises(ValueError, match=r"^base: '3': allowed: an answer, or the arguments of ask by name"):
        explorer.whatif(3)
    with pytest.raises(ValueError, match=r"^variants: '3': allowed: a list of changes"):
        explorer.whatif(GEMM, 3)
    with pytest.raises(ValueError, match=r"^variants\[1\]: changes nothing; allowed: changes of the baseline"):
        explorer.whatif(GEMM, [{"tile_k": 32}, {}])
    with pytest.raises(ValueError, match=r"^results: 'None': allowed: the folder that explore wrote"):
        explorer.robust(None)


def test_a_machine_file_that_changes_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "chip.yaml"
    times = []
    for latency_us in (1, 10):
        text = f"like: npu-hbm3\nname: chip-read-again\ndescription: a chip\nlaunch: {{latency: {latency_us} us}}\n"
        file.write_text(text + "sources: {launch.latency: assumed}\n")
        times.append(explorer.ask(**(GEMM | {"machine": str(file)})).bound_us)
    assert times[1] == pytest.approx(times[0] + 9)


def test_a_dram_part_that_changes_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = standards.PARTS / "HBM3.yaml"
    assert shipped in programs.files_under(programs.FLOORS, ".yaml")
    file, parts = tmp_path / "chip.yaml", tmp_path / "parts"
    parts.mkdir()
    monkeypatch.setattr(standards, "PARTS", parts)
    monkeypatch.setattr("explorer.workers.sources.files_under", lambda floors, suffix: sorted(parts.glob(f"*{suffix}")))
    file.write_text(
        "like: npu-hbm3\nname: chip-of-my-part\ndescription: a chip\nhbm: {standard: MINE}\n"
        "energy: {hbm: {like: hbm3}}\n"
        "sources: {hbm.standard: my data sheet}\n"
    )
    answers = []
    try:
        for latency in ("20 ns", "400 ns"):
            part = yaml.safe_load(shipped.read_text()) | {"name": "MINE"}
            part["timing"] |= {"tCL": latency, "tRTW": latency}
            (parts / "MINE.yaml").write_text(yaml.safe_dump(part))
            answers.append(explorer.ask(**(GEMM | {"machine": str(file)})))
    finally:
        programs.forget()
    assert answers[0].time_us < answers[1].time_us
    assert answers[0].key.program_hash == answers[1].key.program_hash
    assert answers[0].key.machine_hash != answers[1].key.machine_hash


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"machine": 3}, "machine: '3': allowed: a name"),
        ({"sizes": [1, 2]}, "sizes: '\\[1, 2\\]': allowed: values by name"),
        ({"batch": "many"}, "batch: 'many': allowed: a whole number"),
        ({"context": True}, "context: 'True': allowed: a whole number"),
        ({"model": 1.5}, "model: '1.5': allowed: a name"),
    ],
)
def test_an_argument_of_another_type_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explorer.ask(**{"machine": "npu-hbm3", "kernel": "gemm"} | given)
