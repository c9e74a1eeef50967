from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from small_study import STUDY

from explorer.cli import app as cli
from hwmodel.spec import MACHINES
from workloads.kernels import FAMILIES, KERNELS

Rowhit = Callable[..., subprocess.CompletedProcess[str]]
RUN = ("run", "--machine", "h100-sxm", "--model", "llama-3.1-8b", "--kernel", "decode-attention")
SMALL = (*RUN, "--batch", "4", "--context", "256")
GEMM = ("run", "--machine", "npu-hbm3", "--kernel", "gemm", "--m", "64", "--n", "256", "--k", "128")
STEP = ("step", "--machine", "npu-hbm3", "--model", "llama-3.1-8b", "--context", "64")
SMALL_MODEL = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1, "hidden_size": 64, "vocab_size": 64}
SMALL_MODEL |= {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 64, "torch_dtype": "bfloat16"}


def process(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own, as the fixture `rowhit` does not."""
    command = [sys.executable, "-m", "explorer.cli.app", *arguments]
    root = str(Path(__file__).parents[3])
    variables = os.environ | {"PYTHONPATH": root} | environment
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=600)


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    return path


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys, explorer.cli.app\n"
        "try:\n    explorer.cli.app.app(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'numpy', 'pandas', 'optuna', 'plotly', 'numba', 'simpy', 'pyarrow', 'pydantic', 'yaml'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for command in ("run", "program", "whatif", "explore", "report", "kernels", "machines", "models", "dram"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--machine", "h100-smx", *RUN[3:], "--batch", "1", "--context", "8"), "h100-sxm"),
        ((*RUN[:4], "llama-3.1-9b", *RUN[5:], "--batch", "1", "--context", "8"), "llama-3.1-8b"),
        ((*RUN[:6], "decode-atention", "--batch", "1", "--context", "8"), "did you mean 'decode-attention'"),
        ((*SMALL, "--set", "pagesize=16"), "did you mean 'page_size'?"),
        ((*SMALL, "--set", "page_size=0"), "--set page_size=0: must be at least 1"),
        ((*SMALL, "--set", "tile=1048576"), "sized by tile=1048576, stages=4"),
        ((*SMALL, "--set", "layout=page kv tokn head dim"), "rowhit: layout: notation 'page kv tokn"),
        ((*SMALL, "--set", "schedule=fair"), "rowhit: schedule: unknown 'fair'; known: "),
        ((*SMALL, "--set", "page_order=fair"), "rowhit: page_order: unknown 'fair'; known: "),
        ((*SMALL, "--set", "tile=64", "--set", "tile=128"), "tile stands there twice"),
        ((*SMALL, "--set", "hbm.address_map.hashes=none"), "is a list, and lists cannot be set"),
        ((*SMALL, "--set", "hbm.stakcs=2"), "hbm.stacks"),
        ((*SMALL, "--set", "hbm.stacks=-2"), "-2"),
        ((*SMALL, "--set", "hbm.pin_rate=5 parsec"), "5 parsec"),
        ((*RUN, "--batch", "0", "--context", "8"), "--batch 0: must be at least 1"),
        ((*RUN, "--size", "m=-1"), "--size m=-1: allowed: NAME=VALUE"),
        ((*RUN, "--size", "m=1,,n=2"), "--size : allowed: NAME=VALUE"),
        ((*RUN[:5], "--kernel", "gemm", "--m", "8", "--n", "8", "--size", "k=x"), "size k is 'x'; allowed: an integer"),
        ((*STEP, "--set", "tile_m=64"), "--set tile_m=64: not a number of the machine; allowed: paths such as hbm."),
        ((*STEP, "--engine", "fast"), "--engine: unknown engine 'fast'"),
        ((*STEP, "--set", "hbm.stakcs=2"), "hbm.stacks"),
        ((*SMALL, "--engine", "fast"), "--engine: unknown engine 'fast'"),
        ((*RUN, "--m", "2", "--size", "m=2"), "--size m=2: m is given twice"),
        ((*RUN, "--m", "2", "--m", "4"), "--m 4: m is given twice"),
        ((*RUN, "--batch", "4"), "--context"),
        ((*RUN, "--batch", "4", "--trace", "azur"), "did you mean 'azure' or 'azure-2023-conversation'?"),
        (RUN, "batch: kernel decode-attention needs one"),
        ((*RUN[:3], "--kernel", "decode-attention"), "model: kernel decode-attention needs one"),
        ((*RUN, "--batch", "4", "--trace", "azure", "--set", "context=64"), "give --context instead of --trace"),
        (("run", "--machine", "h100-sxm", "--kernel", "gemm", "--m", "8"), "size n is missing"),
        ((*GEMM, "--batch", "4"), "kernel gemm takes no batch and no context"),
        ((*GEMM, "--context", "8"), "kernel gemm takes no batch and no context"),
        ((*GEMM, "--set", "context=8"), "--set context=8: there is no batch to change"),
        ((*RUN[:5], "--kernel", "gemm", "--m", "8", "--n", "8"), "size k is missing"),
        ((*SMALL, "--jsn"), "--json"),
        (("run", "--kernel", "gemm"), "--machine"),
        (("frobnicate",), "frobnicate"),
        (("whatif", *SMALL[1:]), "at least one --set"),
        (("whatif", *SMALL[1:], "--sweep", "page_size"), "--sweep 'page_size': allowed: PATH=A..B"),
        (("whatif", *SMALL[1:], "--sweep", "page_size=64..16"), "ends before it begins"),
        (("whatif", *SMALL[1:], "--sweep", "page_siz=16,64"), "did you mean 'page_size'?"),
        (("whatif", *SMALL[1:], "--sweep", "hbm.stakcs=1..2"), "hbm.stacks"),
        (("whatif", *SMALL[1:], "--sweep", "tile=32", "--set", "tile=64"), "--set tile: is swept, too"),
        (("whatif", *SMALL[1:], "--set", "tile=64", "--fidelity", "fast"), "unknown fidelity 'fast'"),
        (("whatif", *SMALL[1:], "--against", "tile"), "is not of the form path=value"),
        (("robust", "no-such-folder"), "no-such-folder: no results folder"),
        (("explore", "no-such-study.yaml"), "no-such-study.yaml: not readable: No such file or directory"),
        (("report", "no-such-folder"), "no-such-folder: no results folder"),
        (("report", "/dev/null"), "/dev/null: no results folder: it has no study.json"),
        (
            ("predict", "t.csv", "--machine", "h100-sxm", "--out", "o.parquet", "--set", "tile=3"),
            "--set tile=3: not a ",
        ),
        (("explore", "no-such-study.yaml", "--cluster", "foo"), "--cluster 'foo': no address of a scheduler"),
        (("explore", "no-such-study.yaml", "--storage", "foo"), "--storage: it does not begin with postgresql://"),
        (("report", "no-such-folder", "--storage", "foo"), "--storage: it does not begin with postgresql://"),
        (("machines", "h100"), "unknown machine 'h100'; known: h100-sxm, h100-pcie, "),
        (("machines", "H100-SXM"), "unknown machine 'H100-SXM'; known: h100-sxm, "),
        (("kernels", "decode"), "did you mean 'decode-attention' or "),
        (("dram", "configs", "hbm3"), "unknown config 'hbm3'; known: hbm3e, "),
        (("kernels", "gem"), "did you mean 'gemm' or 'gemv' or 'gemm-fp8'? allowed: gemm, gemv, gemm-fp8, "),
        (("models", "llama"), "llama-3.1-8b"),
        (("models", "tiny", "--kv-dtype", "bf61"), "kv_dtype is 'bf61'; allowed: bf16, "),
        (("models", "--kv-dtype", "bf16"), "--kv-dtype: give the model, too"),
    ],
)
def test_bad_input_gets_one_line_status_2_and_leaves_nothing(
    rowhit: Rowhit, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = rowhit(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("rowhit: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["/proc/results", "/dev/null/results", "small.yaml"])
def test_a_results_folder_that_cannot_be_written_is_one_line(rowhit: Rowhit, study_file: Path, out: str) -> None:
    done = rowhit("explore", str(study_file), "--out", out, "--jobs", "1", cwd=study_file.parent)
    assert done.returncode == 2
    assert done.stderr.startswith("rowhit: ")
    assert done.stderr.count("\n") == 1
    assert out in done.stderr


def test_run_answers_with_the_promised_keys(rowhit: Rowhit, tmp_path: Path) -> None:
    done = rowhit(*SMALL, "--json", cwd=tmp_path)
    metrics = json.loads(done.stdout)
    promised = {
        "time_us", "cycles", "bound_us", "hbm_read_bytes", "hbm_useful_bytes", "hbm_bandwidth_fraction",
        "row_hits", "row_misses", "row_conflicts", "limited_by", "stalls",
    }  # fmt: skip
    assert promised <= metrics.keys()
    assert 0 < metrics["bound_us"] <= metrics["time_us"]
    assert metrics["hbm_useful_bytes"] == 4 * 256 * 2 * 8 * 128 * 2  # sequences, tokens, K and V, heads, dim, bf16


def test_run_shows_joules_and_gives_null_where_the_machine_has_no_energies(rowhit: Rowhit, tmp_path: Path) -> None:
    tree = yaml.safe_load((MACHINES / "npu-hbm3.yaml").read_text())
    del tree["energy"], tree["sources"]["energy.static"]
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(tree))
    line = next(line for line in rowhit(*GEMM, cwd=tmp_path).stdout.splitlines() if line.startswith("energy "))
    assert re.fullmatch(r"energy [0-9.]+ [num]J \((\w+ \d+ %(, )?)+\), at least [0-9.]+ [num]J", line)
    bare = [*GEMM[: GEMM.index("--machine")], "--machine", "bare.yaml", *GEMM[GEMM.index("--machine") + 2 :]]
    assert "energy" not in rowhit(*bare, cwd=tmp_path).stdout
    metrics = json.loads(rowhit(*bare, "--json", cwd=tmp_path).stdout)
    assert metrics["energy_pj"] is metrics["energy_bound_pj"] is metrics["energy_by_component_pj"] is None


def test_run_shows_every_knob_it_used_as_set_takes_it(rowhit: Rowhit, tmp_path: Path) -> None:
    chosen = (*GEMM, "--set", "tile_m=32", "--set", "schedule=dynamic")
    knobs = json.loads(rowhit(*chosen, "--json", cwd=tmp_path).stdout)["knobs"]
    facts = json.loads(rowhit("kernels", "gemm", "--json", cwd=tmp_path).stdout)["knobs"]
    assert knobs == {name: fact["default"] for name, fact in facts.items()} | {"tile_m": 32, "schedule": "dynamic"}
    title, line = rowhit(*chosen, cwd=tmp_path).stdout.splitlines()[:2]
    assert title.startswith("gemm")
    assert line == "knobs: " + ", ".join(f"{name}={value}" for name, value in knobs.items())


def test_kernels_are_listed_and_described_with_every_knob(rowhit: Rowhit, tmp_path: Path) -> None:
    listed = rowhit("kernels", cwd=tmp_path).stdout.splitlines()
    assert [line for line in listed if line and line[0] != " "] == list(FAMILIES)
    assert [line.split()[0] for line in listed if line.startswith("  ")] == list(KERNELS)
    text = rowhit("kernels", "gemm", cwd=tmp_path).stdout
    assert "\nsizes:\n  m: no default   [rows of a and of the result]\n" in text
    assert "  q_len: 1   [new tokens of a sequence]\n" in rowhit("kernels", "decode-attention", cwd=tmp_path).stdout
    facts = json.loads(rowhit("kernels", "--json", cwd=tmp_path).stdout)
    for name, knob in facts["gemm"]["knobs"].items():
        assert f"  {name}: {knob['default']}   [" in text
    assert facts["decode-attention"]["needs"] == ["model", "batch"]
    assert facts["decode-attention"]["knobs"]["page_order"]["allowed"].startswith("contiguous, shuffled, first-fit")


def test_the_version_is_that_of_the_package(rowhit: Rowhit, tmp_path: Path) -> None:
    done = rowhit("--version", cwd=tmp_path)
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert (done.returncode, done.stdout) == (0, f"rowhit {project['version']}\n")


def test_sizes_may_stand_in_one_option(rowhit: Rowhit, tmp_path: Path) -> None:
    apart = rowhit("run", "--machine", "npu-hbm3", "--kernel", "gemm", "--size", "m=64,n=256,k=128", cwd=tmp_path)
    assert apart.stdout == rowhit(*GEMM, cwd=tmp_path).stdout != ""


def test_a_step_takes_numbers_of_the_machine_and_an_engine_and_tells_its_knobs(rowhit: Rowhit, tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(json.dumps(SMALL_MODEL))
    step = ("step", "--machine", "npu-hbm3", "--model", "small.json", "--context", "64")
    facts = json.loads(rowhit(*step, "--json", cwd=tmp_path).stdout)
    for line in facts["steps"]:
        assert line["knobs"].keys() == {field.name for field in fields(KERNELS[line["kernel"]].Knobs)}
    assert (facts["machine"], facts["model"], facts["parallel"]) == ("npu-hbm3", "small.json", 1)
    reference = json.loads(rowhit(*step, "--engine", "reference", "--json", cwd=tmp_path).stdout)
    assert reference == facts | {"engine": "reference"}
    slower = (*step, "--set", "launch.latency=900 us")
    assert json.loads(rowhit(*slower, "--json", cwd=tmp_path).stdout)["launch_us"] == 900 * len(facts["steps"])
    assert " · npu-hbm3 · launch.latency = 900 us · " in rowhit(*slower, cwd=tmp_path).stdout.splitlines()[0]


def test_a_step_says_in_which_formats_weights_are_and_takes_others(rowhit: Rowhit, tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(json.dumps(SMALL_MODEL))
    step = ("step", "--machine", "h100-sxm", "--model", "small.json", "--context", "64")
    assert "weights: 16 bits" in rowhit(*step, cwd=tmp_path).stdout.splitlines()
    narrow = (*step, "--weights", "fp8", "--kv-dtype", "fp8")
    facts = json.loads(rowhit(*narrow, "--json", cwd=tmp_path).stdout)
    assert facts["weights"] == "e4m3, a scale per 128 x 128 (qkv, out, gate and up, down); all else 16 bits"
    assert facts["notes"] == []
    assert [line["kernel"] for line in facts["steps"]].count("quantise") == 4
    appends = [line for line in facts["steps"] if line["kernel"] == "kv-append"]
    assert {line["knobs"]["cache_dtype"] for line in appends} == {"fp8_e4m3"}
    for option in ("--weights", "--kv-dtype"):
        refused = rowhit(*step, option, "fp6", cwd=tmp_path)
        assert refused.returncode == 2
        assert "unknown 'fp6'; known: " in refused.stderr


def test_no_arguments_print_the_help_with_status_2(rowhit: Rowhit, tmp_path: Path) -> None:
    done = rowhit(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == rowhit("--help", cwd=tmp_path).stdout
    assert done.stdout.startswith("Usage: ")


def test_a_terminal_of_ascii_is_no_reason_to_fail(tmp_path: Path) -> None:
    done = process(*GEMM, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("gemm ? m = 64 ? ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("channel[1] ^= row[2] row[7]", "channel[1] ^= channel[1]", "hbm.address_map: address map: the hashes are not"),
        ('"stack", ', "", "hbm.address_map: address map: digits of stack"),
        ('"row"]', '"row:9"]', "hbm.address_map: address map: digits of row"),
        ("6.4 Gb/s\n", "60 Gb/s\n", "hbm.pin_rate: HBM3: pin rate 60000000000 b/s is outside"),
        ("clock: 1.5 GHz", "clock: 1.5 GB", "cores.clock: '1.5 GB'"),
    ],
)
def test_machines_refuses_what_run_refuses_by_the_name_of_the_file(
    rowhit: Rowhit, tmp_path: Path, old: str, new: str, message: str
) -> None:
    shipped = (Path(__file__).parents[3] / "hwmodel" / "machines" / "npu-hbm3.yaml").read_text().split("ranges:")[0]
    assert old in shipped
    mine = f"{tmp_path.name}.yaml"
    (tmp_path / mine).write_text(shipped.replace(old, new, 1))
    described = rowhit("machines", mine, cwd=tmp_path)
    assert described.returncode == 2
    assert described.stderr.startswith(f"rowhit: {mine}: {message}")
    assert rowhit("run", "--machine", mine, *GEMM[3:], cwd=tmp_path).stderr == described.stderr


def test_suggested_knobs_are_shown_and_those_that_are_set_stay(rowhit: Rowhit, tmp_path: Path) -> None:
    few = ("run", "--machine", "npu-hbm3", "--kernel", "gemm", "--m", "16", "--n", "512", "--k", "256", "--json")
    plain, suggested, mixed = (
        json.loads(rowhit(*few, *more, cwd=tmp_path).stdout)
        for more in ((), ("--suggest",), ("--suggest", "--set", "tile_n=128"))
    )
    assert plain["knobs"]["tile_m"] == 128
    assert suggested["knobs"]["tile_m"] == 16
    assert mixed["knobs"] == suggested["knobs"] | {"tile_n": 128}
    assert suggested["time_us"] < plain["time_us"]


def test_gemm_runs_on_its_three_sizes(rowhit: Rowhit, tmp_path: Path) -> None:
    alone = json.loads(rowhit(*GEMM, "--json", cwd=tmp_path).stdout)
    assert alone["hbm_useful_bytes"] >= (256 * 128) * 2  # the weights, once, in bf16
    with_model = json.loads(rowhit(*GEMM, "--model", "llama-3.1-8b", "--json", cwd=tmp_path).stdout)
    assert with_model == alone  # the model gives its dtype only, which is bf16
    title = rowhit(*GEMM, "--model", "llama-3.1-8b", cwd=tmp_path).stdout.splitlines()[0]
    assert title == "gemm · dtype of llama-3.1-8b · m = 64 · n = 256 · k = 128 · npu-hbm3"
    assert "batch" not in alone


@pytest.mark.parametrize(("with_file", "words"), [(True, "(file)"), (False, "(shipped quantiles)")])
def test_a_drawn_batch_says_where_its_lengths_come_from(
    rowhit: Rowhit, tmp_path: Path, with_file: bool, words: str
) -> None:
    if with_file:
        trace = tmp_path / "requests" / "azure-2023-conversation.csv.gz"
        trace.parent.mkdir()
        trace.write_bytes(gzip.compress(b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,100,20\n"))
    drawn = (*RUN, "--batch", "2", "--trace", "azure")
    title = rowhit(*drawn, cwd=tmp_path, ROWHIT_DATA=str(tmp_path)).stdout.splitlines()[0]
    assert f"2 sequences from the Azure conversation trace {words} · h100-sxm" in title
    source = json.loads(rowhit(*drawn, "--json", cwd=tmp_path, ROWHIT_DATA=str(tmp_path)).stdout)["batch"]
    assert ("shipped quantiles" in source) != with_file
    what = rowhit("whatif", *drawn[1:], "--set", "tile=32", cwd=tmp_path, ROWHIT_DATA=str(tmp_path)).stdout
    assert what.splitlines()[0] == title


def test_a_batch_of_the_mooncake_trace_says_so(rowhit: Rowhit, tmp_path: Path) -> None:
    trace = tmp_path / "requests" / "mooncake-conversation.jsonl.gz"
    trace.parent.mkdir()
    trace.write_bytes(b'{"timestamp": 0, "input_length": 100, "output_length": 20, "hash_ids": [3]}')
    title = rowhit(*RUN, "--batch", "2", "--trace", "mooncake", cwd=tmp_path, ROWHIT_DATA=str(tmp_path)).stdout
    assert "2 sequences from the Mooncake conversation trace (file) · h100-sxm" in title.splitlines()[0]


def test_a_data_folder_that_is_not_there_or_holds_no_trace_is_one_line(rowhit: Rowhit, tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    done = rowhit(*RUN, "--trace", "azure", cwd=tmp_path, ROWHIT_DATA=absent)
    expected = "is no folder; allowed: the folder that holds requests/azure-2023-conversation.csv.gz\n"
    assert (done.returncode, done.stderr) == (2, f"rowhit: ROWHIT_DATA: {absent!r} {expected}")
    done = rowhit(*RUN, "--trace", "mooncake", cwd=tmp_path, ROWHIT_DATA=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("rowhit: trace mooncake-conversation: no file of it is here; set ROWHIT_DATA to ")
    assert rowhit(*RUN, "--context", "64", cwd=tmp_path, ROWHIT_DATA=absent).returncode == 0  # no trace is asked for


def test_no_memory_left_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def app(**_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "rowhit: out of memory\n"


def test_a_machine_is_described_with_units_and_in_json_with_plain_integers(rowhit: Rowhit, tmp_path: Path) -> None:
    text = rowhit("machines", "npu-hbm3", cwd=tmp_path).stdout
    for line in ("clock: 1.5 GHz", "latency: 40 ns", "pin_rate: 6.4 Gb/s   [the highest", "capacity: 2 MiB"):
        assert f" {line}" in text
    assert "capacity: 227 KiB   [" in rowhit("machines", "h100-sxm", cwd=tmp_path).stdout
    facts = json.loads(rowhit("machines", "npu-hbm3", "--json", cwd=tmp_path).stdout)
    assert facts["noc"]["latency"] == 40 * 10**6
    assert facts["hbm"]["pin_rate"] == 6_400_000_000


def test_explore_writes_its_folder_and_answers_with_the_promised_keys(rowhit: Rowhit, study_file: Path) -> None:
    home = study_file.parent
    done = process("explore", str(study_file), "--jobs", "1", "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert {"best", "baseline", "bound_us", "gap", "points", "simulated", "pruned"} <= record.keys()
    assert record["bound_us"] <= record["best"]["time_us"] <= record["baseline"]["time_us"]
    assert record["report"] == "results/small/report.html"
    assert (home / record["report"]).exists()
    for point in (record["best"], record["baseline"]):
        assert sum(point["stalls"]["hbm"].values()) > 0
        assert 0 < point["utilisation"]["hbm"] <= 1
    assert done.stderr == ""
    again = rowhit("report", "results/small", "--json", cwd=home)
    assert json.loads(again.stdout).items() >= record.items()
    other = rowhit("explore", str(study_file), "--seed", "1", cwd=home)
    assert other.returncode == 2
    assert "results/small: belongs to another study: study.seed is 1 here and 0 there" in other.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("machine: h100-sxm", "machine: h100", "unknown machine 'h100'"),
        ("model: llama-3.1-8b", "model: llama", "no model is named 'llama'"),
        ("model: llama-3.1-8b\n", "", "model: kernel decode-attention needs one"),
        ("batch: {sequences: 4, context: 256}\n", "", "batch: kernel decode-attention needs one"),
        ("kernel: decode-attention", "kernel: decode", "unknown kernel 'decode'"),
        ("kernel: decode-attention", "kernel: gemm", "batch: kernel gemm takes no batch"),
        ("budget:", "options: {m: 3}\nbudget:", "options: kernel decode-attention takes no size 'm'"),
        ("budget:", "fixed: {page_order: foo}\nbudget:", "fixed.page_order: unknown 'foo'; known: "),
        ("budget:", "fixed: {stage: 2}\nbudget:", "fixed: unknown knob of decode-attention 'stage'"),
        ("budget:", "fixed: {machine.hbm.pin_rate: 9 Gb/s}\nbudget:", "fixed.machine.hbm.pin_rate: machine h100-sxm: "),
        ("baseline: {page_size: 16}", "baseline: {layout: page}", "baseline.layout: notation 'page': "),
        ("baseline: {page_size: 16}", "baseline: {tile: 65536}", "baseline: phase attend needs "),
        ("tile: [32, 64]", "tile: [32, 65536]", "knobs.tile: 65536: phase attend needs "),
        ("tile: [32, 64]", "tile: [65536]", "knobs: layout=page kv token head dim, page_size=16, tile=65536: phase "),
    ],
)
def test_a_study_that_cannot_run_is_blamed_by_its_file_and_the_key_at_fault(
    rowhit: Rowhit, study_file: Path, old: str, new: str, message: str
) -> None:
    assert old in STUDY
    study_file.write_text(STUDY.replace(old, new, 1))
    done = rowhit("explore", "small.yaml", "--jobs", "1", cwd=study_file.parent)
    assert done.returncode == 2
    assert done.stderr.startswith(f"rowhit: small.yaml: {message}")
    assert done.stderr.count("\n") == 1
    assert not (study_file.parent / "results").exists()


@pytest.mark.slow
def test_paths_in_a_study_start_at_its_file_and_the_results_do_not_depend_on_where_it_is_read(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[3] / "hwmodel" / "machines" / "h100-sxm.yaml"
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "mine.yaml").write_text(shipped.read_text())
    text = STUDY.replace("machine: h100-sxm", "machine: mine.yaml").replace("points: 6", "points: 1")
    (folder / "small.yaml").write_text(text)
    out = ("--out", str(tmp_path / "out"), "--jobs", "1", "--json")
    first = process("explore", "studies/small.yaml", *out, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert process("explore", "small.yaml", *out, cwd=folder).stdout == first.stdout
    assert json.loads((tmp_path / "out" / "study.json").read_text())["study"]["machine"] == "mine.yaml"


def test_machines_and_models_are_listed_and_described(rowhit: Rowhit, tmp_path: Path) -> None:
    assert "h100-sxm" in json.loads(rowhit("machines", "--json", cwd=tmp_path).stdout)
    assert json.loads(rowhit("machines", "h100-sxm", "--json", cwd=tmp_path).stdout)["hbm"]["stacks"] == 5
    facts = json.loads(rowhit("models", "llama-3.1-8b", "--json", cwd=tmp_path).stdout)
    assert facts["parameters"] == facts["active_parameters"] == 8_030_261_248
    assert facts["kv_bytes_per_token"] == 32 * 2 * 8 * 128 * 2
    (group,) = facts["layers"]
    assert (group["kind"], group["count"], group["positions"]) == ("full_attention + dense", 32, list(range(32)))
    assert re.search(r"llama-3.1-8b +32 +8,030,261,248 ", rowhit("models", cwd=tmp_path).stdout)


def test_a_model_of_several_kinds_of_layers_is_described(rowhit: Rowhit, tmp_path: Path, data_dir: Path) -> None:
    file = str(data_dir / "models" / "Qwen--Qwen3.5-35B-A3B.json")
    facts = json.loads(rowhit("models", file, "--json", cwd=tmp_path).stdout)
    kinds = {group["kind"]: group for group in facts["layers"]}
    linear, full = kinds["linear_attention + experts"], kinds["full_attention + experts"]
    assert (linear["count"], full["count"]) == (30, 10)
    assert facts["state_bytes"] == 30 * linear["state_bytes"]
    assert facts["kv_bytes_per_token"] == 10 * full["kv_bytes_per_token"] == 20_480
    layers = sum(group["count"] * group["parameters"] for group in kinds.values())
    assert facts["parameters"] == layers + (2 * facts["vocabulary"] + 1) * facts["hidden"]
    halved = json.loads(rowhit("models", file, "--kv-dtype", "fp8_e4m3", "--json", cwd=tmp_path).stdout)
    assert halved["kv_bytes_per_token"] == 10_240
    text = rowhit("models", file, cwd=tmp_path).stdout
    assert "10 x     full_attention + experts" in text
    assert "full_attention + experts: layers 3-39 by 4" in text
    assert re.search(r"\nparameters +34,660,610,688 ", text)


def test_an_unknown_field_of_a_model_is_named_on_stderr(rowhit: Rowhit, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps(SMALL_MODEL | {"num_hidden_layrs": 2}))
    warning = "rowhit: warning: m.json: num_hidden_layrs is not known and was passed over\n"
    done = rowhit("models", "m.json", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, warning)
    assert json.loads(done.stdout)["warnings"] == ["num_hidden_layrs is not known and was passed over"]
    command = ("run", "--machine", "npu-hbm3", "--model", "m.json", *RUN[5:], "--batch", "1", "--context", "64")
    assert rowhit(*command, cwd=tmp_path).stderr == warning


def test_a_kernel_refuses_the_attention_it_does_not_know(rowhit: Rowhit, tmp_path: Path, data_dir: Path) -> None:
    file = str(data_dir / "models" / "deepseek-ai--DeepSeek-V3.2.json")
    done = rowhit(*RUN[:4], file, *RUN[5:], "--batch", "1", "--context", "64", cwd=tmp_path)
    known = "rowhit: model: kernel decode-attention knows softmax attention over all tokens or a window only; "
    has = "deepseek-ai--DeepSeek-V3.2 has an indexer that chooses 2048 tokens, latent attention\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", known + has)
