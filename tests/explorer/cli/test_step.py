from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from explorer.query import BatchSpec
from explorer.step_work import served_work
from explorer.study.objective import octets
from hwmodel.machine import Machine
from hwmodel.spec import load_machine

Rowhit = Callable[..., CompletedProcess[str]]
SMALL_MODEL = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1, "hidden_size": 64, "vocab_size": 64}
SMALL_MODEL |= {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 64, "torch_dtype": "bfloat16"}
STEP = ("step", "--machine", "npu-hbm3", "--model", "small.json")


def test_steps_of_one_kind_said_in_two_ways_are_equal_to_the_last_number(rowhit: Rowhit, tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(json.dumps(SMALL_MODEL))
    step = ("step", "--machine", "npu-hbm3", "--model", "small.json", "--json")

    def facts(*arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(rowhit(*step, *arguments, cwd=tmp_path).stdout)
        del found["batch"]
        return found

    decoding = facts("--batch", "2", "--context", "64")
    assert decoding == facts("--chunk", "1@64", "--chunk", "1@64")
    assert decoding == facts("--batch", "2", "--context", "64", "--draft", "0")
    assert facts("--context", "64", "--prefill") == facts("--chunk", "64") == facts("--chunk", "64@64")
    drafts = facts("--context", "64", "--draft", "3")
    assert drafts == facts("--chunk", "4@64")
    mixed = facts("--context", "64", "--chunk", "32@48")
    kinds = [(found["kind"], found["new_tokens"]) for found in (decoding, drafts, mixed)]
    assert kinds == [("decode", 2), ("speculative", 4), ("mixed", 33)]
    assert mixed["capacity_bytes"] == Machine(load_machine("npu-hbm3")).memory_capacity_bytes
    assert 0 < mixed["transient_bytes"] < mixed["held_bytes"] < mixed["capacity_bytes"]
    assert (mixed["contexts"], mixed["new"]) == ([64, 48], [1, 32])
    text = rowhit(*step[:-1], "--context", "64", "--chunk", "32@48", cwd=tmp_path).stdout
    held, transient, capacity = (octets(mixed[f"{name}_bytes"]) for name in ("held", "transient", "capacity"))
    assert f"of all layers: {held}, activations and tables {transient}, of {capacity}\n" in text
    assert transient.endswith(" kB")
    title, source = text.splitlines()[:2]
    assert title.startswith("mixed step · 33 new of 112 KV tokens in 2 sequences · small.json · npu-hbm3 · ")
    assert source == "uniform: every sequence has 64 tokens; chunks: 32@48"


def test_the_title_has_the_name_of_the_machine_whose_file_is_given(rowhit: Rowhit, tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(json.dumps(SMALL_MODEL))
    (tmp_path / "chip.yaml").write_text("like: npu-hbm3\nname: our chip\ndescription: as shipped\nsources: {}\n")
    step = ("step", "--machine", str(tmp_path / "chip.yaml"), "--model", "small.json", "--context", "64")
    assert " · small.json · our chip · " in rowhit(*step, cwd=tmp_path).stdout.splitlines()[0]


def test_what_of_the_model_is_not_in_the_sum_is_a_note(rowhit: Rowhit, tmp_path: Path) -> None:
    biased = SMALL_MODEL | {"architectures": ["Qwen2ForCausalLM"]}
    (tmp_path / "small.json").write_text(json.dumps(biased))
    note = "not in the sum: biases of queries, keys and values (1 layer, 192 weights)"
    assert f"\nnote: {note}\n" in rowhit(*STEP, "--context", "64", cwd=tmp_path).stdout
    assert json.loads(rowhit(*STEP, "--context", "64", "--json", cwd=tmp_path).stdout)["notes"] == [note]


def test_without_shortcuts_every_layer_is_simulated_to_the_same_answer(rowhit: Rowhit, tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(json.dumps(SMALL_MODEL | {"num_hidden_layers": 3}))
    asked = (*STEP, "--context", "64", "--batch", "2", "--json")
    found, every = (json.loads(rowhit(*asked, *more, cwd=tmp_path).stdout) for more in ((), ("--no-shortcuts",)))
    assert {line["count"] for line in found["steps"]} == {1, 3}
    assert every == found


def test_every_line_is_of_one_run_and_the_total_of_all(rowhit: Rowhit, tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(json.dumps(SMALL_MODEL | {"num_hidden_layers": 3}))
    found = json.loads(rowhit(*STEP, "--context", "64", "--json", cwd=tmp_path).stdout)
    assert {line["count"] for line in found["steps"]} == {1, 3}
    assert found["memory_bytes"] == sum(line["count"] * line["memory_bytes"] for line in found["steps"])
    assert found["time_us"] == pytest.approx(sum(line["count"] * line["time_us"] for line in found["steps"]))


def test_a_layout_that_is_changed_by_its_knob_shows_as_a_conversion(rowhit: Rowhit, tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(json.dumps(SMALL_MODEL))
    before, after = (
        json.loads(rowhit(*STEP, "--context", "64", "--batch", "9", *more, "--json", cwd=tmp_path).stdout)
        for more in ((), ("--knob", "gate and up.layout_c=n m"))
    )
    added = [line for line in after["steps"] if line["kernel"] == "convert-layout"]
    assert [line["step"].count("gate and up to ") for line in added] == [1]
    assert len(after["steps"]) == len(before["steps"]) + 1
    assert added[0]["time_us"] > 0
    assert after["time_us"] == pytest.approx(sum(line["count"] * line["time_us"] for line in after["steps"]))


def test_a_knob_may_be_the_nought_that_it_is_by_default(rowhit: Rowhit, tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(json.dumps(SMALL_MODEL))
    asked = ("step", "--machine", "h100-sxm", "--model", "small.json", "--context", "8192", "--batch", "1", "--json")
    split, whole = (
        json.loads(rowhit(*asked, *more, cwd=tmp_path).stdout) for more in ((), ("--knob", "attention.split_tokens=0"))
    )
    assert split["time_us"] < whole["time_us"]


TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:17:0{second}.0000000,{prompt},{answer}\n" for second, prompt, answer in ((0, 90, 9), (0, 200, 5))
)


def test_a_served_trace_gives_a_mixed_step_within_its_budget(rowhit: Rowhit, tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(json.dumps(SMALL_MODEL))
    (tmp_path / "data" / "requests").mkdir(parents=True)
    with gzip.open(tmp_path / "data" / "requests" / "azure-2023-conversation.csv.gz", "wt") as file:
        file.write(TRACE)
    step = ("step", "--machine", "npu-hbm3", "--model", "small.json", "--trace", "azure", "--budget", "128")
    data = {"ROWHIT_DATA": str(tmp_path / "data")}
    facts = json.loads(rowhit(*step, "--at", "0", "--json", cwd=tmp_path, **data).stdout)
    assert (facts["kind"], facts["contexts"], facts["new"]) == ("mixed", [91, 165], [1, 127])
    assert facts["batch"].endswith(" s, 128 tokens a step, 128 sequences")
    late = rowhit(*step, cwd=tmp_path, **data)
    assert late.returncode == 2
    assert late.stderr.startswith("rowhit: --at 60: no step with prompts and answers begins so late; Azure ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "step: give --context, --trace or --chunk"),
        (("--context", "64", "--prefill", "--draft", "2"), "step: --draft is of sequences that decode"),
        (("--context", "64", "--draft", "16"), "draft: 16 tokens; allowed: 0 to 15"),
        (("--context", "3", "--draft", "3"), "batch: sequence 0: 4 new tokens; allowed: 1 to its context, 3"),
        (("--context", "64", "--chunk", "9@8"), "9 new tokens; allowed: 1 to its context, 8"),
        (("--chunk", "9@"), "--chunk 9@: allowed: NEW tokens, or NEW@CONTEXT with the KV tokens after them"),
        (("--chunk", "0"), "batch: sequence 0: context is 0; allowed: "),
        (("--context", "64", "--knob", "qkv=3"), "--knob qkv=3: allowed: STEP.KNOB=VALUE"),
        (("--context", "64", "--knob", "qvk.tile_n=3"), "unknown step 'qvk': did you mean 'qkv'?"),
        (("--context", "64", "--knob", "qkv.tile=3"), "unknown knob of gemv 'tile': did you mean 'tile_"),
        (("--context", "64", "--knob", "qkv.tile_n=0"), "--knob qkv.tile_n=0: must be at least 1"),
        (("--context", "64", "--knob", "qkv.layout_c=n q"), "layout_c: "),
        (("--context", "64", "--at", "5"), "--at: allowed with --budget"),
        (("--context", "64", "--budget", "128"), "--budget: allowed with --trace, and without --context, --prefill"),
        (
            ("--trace", "azure", "--budget", "8", "--batch", "9"),
            "--batch 9: allowed with --budget 8: up to 8 sequences",
        ),
        (("--trace", "azure", "--budget", "8", "--at", "nan"), "'--at': Input should be greater than or equal to 0"),
        (("--trace", "azure", "--budget", "8", "--at", "inf"), "--at inf: allowed: seconds from 0"),
        (
            ("--trace", "azure", "--budget", "9000000000", "--batch", "8000000000"),
            "--batch 8000000000: allowed with --budget: up to 65536 sequences",
        ),
        (
            ("--trace", "mooncake", "--budget", "8"),
            "--budget: no file of mooncake-conversation is here; set ROWHIT_DATA",
        ),
    ],
)
def test_what_no_step_can_be_is_refused_in_one_line(
    rowhit: Rowhit, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "small.json").write_text(json.dumps(SMALL_MODEL))
    (tmp_path / "data" / "requests").mkdir(parents=True)
    with gzip.open(tmp_path / "data" / "requests" / "azure-2023-conversation.csv.gz", "wt") as file:
        file.write(TRACE)
    done = rowhit(*STEP, *arguments, cwd=tmp_path, ROWHIT_DATA=str(tmp_path / "data"))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("at_s", [float("nan"), float("inf"), -1.0])
def test_a_time_that_is_none_is_refused_before_a_trace_is_served(at_s: float) -> None:
    with pytest.raises(ValueError, match=r"--at .*: allowed: seconds from 0"):
        served_work(BatchSpec(sequences=8, trace="azure-2023-conversation", trace_path="none.csv"), 8, at_s)
