"""Recorded choices of experts, from the command line and from a study: what a file gives, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from explorer import evaluate, programs
from explorer.explore import check_problem
from explorer.query import Query
from explorer.study.study import load_study
from workloads.kernels import KERNELS

Rowhit = Callable[..., CompletedProcess[str]]
GROUPED = ("run", "--machine", "npu-hbm3", "--kernel", "grouped-gemm")
SIZES = "experts=8,n=64,k=128"


def recorded(folder: Path, tokens: int = 40, hot: bool = False) -> Path:
    """A file in which every token goes to two of eight experts; `hot`: all to the same two."""
    rng = np.random.default_rng(0)
    path = folder / "choices.csv"
    rows = [rng.permutation(8)[:2] if not hot else np.array([3, 5]) for _ in range(tokens)]
    lines = [f"{a},{b},0.75,0.25" for a, b in rows]
    path.write_text("\n".join(["expert_0,expert_1,weight_0,weight_1", *lines]) + "\n")
    return path


def query(path: Path | None, **options: int) -> Query:
    given = {"experts": 8, "n": 64, "k": 128} | options
    return Query("npu-hbm3", "grouped-gemm", options=tuple(given.items()), routing=path and str(path))


def test_a_run_takes_its_tokens_and_choices_from_the_file(rowhit: Rowhit, tmp_path: Path) -> None:
    path = recorded(tmp_path)
    done = rowhit(*GROUPED, "--size", SIZES, "--routing", str(path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"grouped gemm · 40 tokens to 2 of 8 experts as in {path} · experts = 8 · n = 64")
    metrics = json.loads(rowhit(*GROUPED, "--size", SIZES, "--routing", str(path), "--json", cwd=tmp_path).stdout)
    assert metrics["hbm_useful_bytes"] >= 8 * 64 * 128 * 2
    assert "tile_m" in metrics["knobs"]
    assert not {"routing", "skew_percent", "repeat_percent"} & metrics["knobs"].keys()


def test_only_the_weights_of_experts_that_the_file_names_are_read(rowhit: Rowhit, tmp_path: Path) -> None:
    read = []
    for hot in (False, True):
        folder = tmp_path / str(hot)  # what is read is kept by the file's name
        folder.mkdir()
        arguments = ("--size", SIZES, "--routing", str(recorded(folder, hot=hot)), "--json")
        read.append(json.loads(rowhit(*GROUPED, *arguments, cwd=tmp_path).stdout)["hbm_useful_bytes"])
    assert read[0] - read[1] >= 6 * 64 * 128 * 2


def test_an_archive_goes_with_a_model_that_says_how_many_experts_there_are(rowhit: Rowhit, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "choices.npz", experts=np.stack([rng.permutation(32)[:4] for _ in range(6)]))
    arguments = ("--machine", "h100-sxm", "--kernel", "moe", "--model", "gpt-oss-20b", "--routing", "choices.npz")
    done = rowhit("program", *arguments, "--suggest", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("moe · gpt-oss-20b · 6 tokens to 4 of 32 experts as in choices.npz · h100-sxm")


HEADER = "expert_0,expert_1,weight_0,weight_1\n"


@pytest.mark.parametrize(
    ("text", "sizes", "message"),
    [
        (HEADER + "0,1,0.5,0.5\n", SIZES + ",tokens=2", "tokens, topk and experts are (1, 2, 8); allowed: (2, 2, 8)"),
        (HEADER + "0,1,0.5,0.5\n", SIZES + ",topk=3", "tokens, topk and experts are (1, 2, 8); allowed: (1, 3, 8)"),
        (HEADER + "0,9,0.5,0.5\n", SIZES, "token 0: expert 9; allowed: 0 to 7"),
        (HEADER + "1,1,0.5,0.5\n", SIZES, "token 0: experts [1, 1]; allowed: each once"),
        (HEADER + "0,1,0.5,nan\n", SIZES, "token 0: weights [0.5, nan]; allowed: from 0, finite"),
        (HEADER + "0,1,0.5\n", SIZES, "line 2: 3 values; allowed: 4"),
        (HEADER + "0,x,0.5,0.5\n", SIZES, "line 2: expert 'x'; allowed: an integer from 0"),
        (HEADER, SIZES, "routing: ids are"),
        ("", SIZES, "line 1: ''; allowed: expert_0, ..."),
        (
            HEADER + "0,1,0.5,0.5\n",
            "n=64,k=128",
            "size experts is missing; choices.csv says which experts",
        ),
        (HEADER + "0,1,0.5,0.5\n", "experts=0,n=64,k=128", "routing: experts is 0; allowed: an integer from 1 to"),
        (HEADER + "0,1,0.5,0.5\n", "experts=many,n=64,k=128", "routing: experts is 'many'; allowed: an integer"),
        (HEADER + "0,1,0.5,0.5\n", "experts=8,n=64", "size k is missing"),
    ],
)
def test_a_file_that_is_no_routing_or_another_ones_is_refused_in_one_line(
    rowhit: Rowhit, tmp_path: Path, text: str, sizes: str, message: str
) -> None:
    (tmp_path / "choices.csv").write_text(text)
    done = rowhit(*GROUPED, "--size", sizes, "--routing", "choices.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("rowhit: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*GROUPED, "--size", SIZES, "--routing", "none.csv"), "none.csv: cannot be read (No such file or directory)"),
        ((*GROUPED, "--size", SIZES, "--routing", "."), ".: cannot be read (Is a directory)"),
        ((*GROUPED, "--size", SIZES, "--routing", "not.npz"), "not.npz"),
        (
            ("run", "--machine", "npu-hbm3", "--kernel", "gemm", "--routing", "x"),
            "routing: kernel gemm takes none",
        ),
        (
            ("run", "--machine", "npu-hbm3", "--kernel", "moe-route", "--routing", "x"),
            "kernel moe-route takes",
        ),
        (
            (*GROUPED, "--size", SIZES, "--routing", "choices.csv", "--set", "tile_m=16,routing=zipf"),
            "knob routing: allowed where experts are drawn; choices.csv says which each token takes",
        ),
        (
            (*GROUPED, "--size", SIZES, "--routing", "choices.csv", "--set", "skew_percent=50"),
            "knob skew_percent: allowed where experts are drawn",
        ),
    ],
)
def test_a_routing_that_cannot_be_taken_is_one_line(
    rowhit: Rowhit, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "not.npz").write_bytes(b"\x80\x04K\x01.")  # a pickle
    recorded(tmp_path)
    done = rowhit(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("rowhit: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_query_is_known_by_what_the_file_says_and_not_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    same, moved = recorded(tmp_path), recorded(tmp_path / "other")
    assert programs.key(query(same)) == programs.key(query(moved))
    assert programs.inputs(query(same)) == programs.inputs(query(moved))
    (tmp_path / "hot").mkdir()
    other = recorded(tmp_path / "hot", hot=True)
    assert programs.key(query(other)) != programs.key(query(same))
    assert programs.inputs(query(other))["routing"] != programs.inputs(query(same))["routing"]
    assert programs.key(query(None, tokens=40, topk=2)) != programs.key(query(same))


def test_a_study_names_a_routing_from_its_own_folder(tmp_path: Path) -> None:
    recorded(tmp_path)
    text = (
        "machine: npu-hbm3\nkernel: grouped-gemm\noptions: {experts: 8, n: 64, k: 128}\nrouting: choices.csv\n"
        "knobs: {schedule: [static, pinned], copies: [0, 2]}\n"
    )
    (tmp_path / "balance.yaml").write_text(text)
    study = load_study(tmp_path / "balance.yaml")
    assert study.routing == "choices.csv"
    assert study.located().routing == str(tmp_path / "choices.csv")
    check_problem(study, evaluate.EVALUATOR, None)
    (tmp_path / "balance.yaml").write_text(text.replace("choices", "chioces"))
    with pytest.raises(ValueError, match=r"chioces\.csv: cannot be read"):
        check_problem(load_study(tmp_path / "balance.yaml"), evaluate.EVALUATOR, None)


def test_the_kernels_that_take_a_routing_are_those_whose_problem_has_one() -> None:
    assert [name for name, kernel in KERNELS.items() if kernel.routed] == [
        "moe", "moe-permute", "grouped-gemm", "moe-finalize"
    ]  # fmt: skip
