from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Rowhit = Callable[..., subprocess.CompletedProcess[str]]
CASE = ("--machine", "h100-sxm", "--model", "llama-3.1-8b", "--kernel", "decode-attention")
SMALL = (*CASE, "--batch", "4", "--context", "256")


def test_whatif_has_one_default_for_its_jobs(rowhit: Rowhit, tmp_path: Path) -> None:
    assert "one per CPU" not in rowhit("whatif", "--help", cwd=tmp_path).stdout
    assert "one per CPU" in rowhit("explore", "--help", cwd=tmp_path).stdout
    assert "Sequences in the batch.  [default: 1]" in rowhit("run", "--help", cwd=tmp_path).stdout


def test_whatif_with_half_the_stacks_shows_every_difference(rowhit: Rowhit, tmp_path: Path) -> None:
    done = rowhit("whatif", *SMALL, "--set", "hbm.stacks=2", "--set", "context=512,tile=32", "--json", cwd=tmp_path)
    record = json.loads(done.stdout)
    half, longer = record["variants"]
    assert half["set"] == {"hbm.stacks": 2}
    assert longer["set"] == {"context": 512, "tile": 32}
    assert half["difference"]["hbm_useful_bytes"] == 0
    alone = json.loads(rowhit("run", *SMALL, "--json", cwd=tmp_path).stdout)
    del alone["knobs"], alone["batch"]
    assert record["baseline"] == alone
    assert half["stalls"].keys() == alone["stalls"].keys() == half["difference"]["stalls"].keys()
    assert longer["hbm_useful_bytes"] == 2 * record["baseline"]["hbm_useful_bytes"]
    table = rowhit("whatif", *SMALL, "--set", "hbm.stacks=2", cwd=tmp_path)
    assert "hbm.stacks=2" in table.stdout.splitlines()[1]
    assert "dma.kv.requests" in table.stdout
    assert "overfetch_bytes" not in table.stdout  # 0 in both


def test_a_sweep_says_where_the_better_design_changes(rowhit: Rowhit, tmp_path: Path) -> None:
    sweep = ("whatif", *SMALL, "--set", "launch.latency=1 us,tile=32", "--sweep", "context=64..256*2")
    done = rowhit(*sweep, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["context", "64", "128", "256"]
    assert any(line.startswith("launch.latency=1 us,tile=32 ") and "beats baseline" in line for line in lines)
    assert any(line.startswith("validation: ") for line in lines)
    record = json.loads(rowhit(*sweep, "--json", cwd=tmp_path).stdout)
    assert [row["context"] for row in record["rows"]] == [64, 64, 128, 128, 256, 256]
    assert record["crossings"][0]["sentence"] in lines


def test_the_title_of_a_sweep_leaves_out_what_is_swept(rowhit: Rowhit, tmp_path: Path) -> None:
    decode = ("whatif", *SMALL, "--fidelity", "bound")
    gemm = ("whatif", "--machine", "npu-hbm3", "--kernel", "gemm", "--size", "m=64,n=64,k=64", "--fidelity", "bound")
    for arguments, title in (
        ((*decode, "--sweep", "tile=16,32"), "decode attention · llama-3.1-8b · 4 sequences of 256 tokens · h100-sxm"),
        ((*decode, "--sweep", "batch=1,2"), "decode attention · llama-3.1-8b · sequences of 256 tokens · h100-sxm"),
        ((*decode, "--sweep", "context=64,128"), "decode attention · llama-3.1-8b · 4 sequences · h100-sxm"),
        (
            (*decode, "--sweep", "context=64,128", "--sweep", "batch=1,2"),
            "decode attention · llama-3.1-8b · h100-sxm",
        ),
        ((*gemm, "--sweep", "m=64,128", "--sweep", "machine.hbm.stacks=2,3"), "gemm · n = 64 · k = 64 · npu-hbm3"),
    ):
        assert rowhit(*arguments, cwd=tmp_path).stdout.splitlines()[0] == title


def test_what_is_wrong_with_a_change_names_the_option_it_was_given_to(rowhit: Rowhit, tmp_path: Path) -> None:
    for arguments, message in (
        (("--against", "", "--set", "tile=32"), "--against '': '' is not of the form path=value"),
        (
            ("--against", "hbm.stack=6"),
            "--against hbm.stack=6: unknown machine path 'hbm.stack'; did you mean hbm.stacks",
        ),
        (("--against", "tile=32", "--sweep", "tile=16,32"), "--against tile: is swept, too"),
        (("--sweep", "tyle=16,32"), "--sweep tyle=16: unknown path 'tyle': did you mean 'tile'"),
    ):
        done = rowhit("whatif", *SMALL, *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert message in done.stderr
