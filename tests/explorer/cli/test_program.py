from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads.kernels import gemm

Rowhit = Callable[..., subprocess.CompletedProcess[str]]
GEMM = ("program", "--machine", "npu-hbm3", "--kernel", "gemm", "--m", "64", "--n", "256", "--k", "128")
ATTENTION = ("program", "--machine", "h100-sxm", "--kernel", "decode-attention", "--model", "llama-3.1-8b")


def test_the_text_shows_the_program_and_a_map_of_its_scratchpad(rowhit: Rowhit, tmp_path: Path) -> None:
    done = rowhit(*GEMM, "--set", "tile_k=32", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    compiled = gemm.compile(gemm.Problem(64, 256, 128, "bf16"), gemm.Knobs(tile_k=32), machine(), 0)
    assert f"program gemm {compiled.hash}" in done.stdout
    assert "  tensor a: bf16 m k, hbm at 0\n" in done.stdout
    assert "tile_k=32" in done.stdout
    ranges = re.findall(r"^ +(\d+) to +(\d+)  (.+): (\d+) x (\d+) B(, in accumulators)?$", done.stdout, re.MULTILINE)
    assert [name for _, _, name, *_ in ranges] == ["a", "b", "accumulator", "out"]
    assert [name for _, _, name, *_, apart in ranges if apart] == ["accumulator"]
    end = apart_bytes = 0
    for first, last, _, slots, pitch, apart in ranges:
        assert int(first) == end
        end = int(last)
        assert end - int(first) == int(slots) * int(pitch)
        apart_bytes += end - int(first) if apart else 0
    used = end - apart_bytes
    assert f"high-water mark {used} B, {2097152 - used} B of 2097152 B free\n" in done.stdout
    assert f"  accumulators {apart_bytes} B\n" in done.stdout


def machine() -> Machine:
    return Machine(load_machine("npu-hbm3"))


@pytest.mark.parametrize("command", [GEMM, (*ATTENTION, "--batch", "3", "--context", "300")], ids=["gemm", "attention"])
def test_json_gives_the_facts_of_the_text(rowhit: Rowhit, tmp_path: Path, command: tuple[str, ...]) -> None:
    text = rowhit(*command, cwd=tmp_path).stdout
    facts = json.loads(rowhit(*command, "--json", cwd=tmp_path).stdout)
    assert f"program {facts['program']} {facts['hash']}\n" in text
    assert f"{facts['instructions']} instructions, {facts['size_bytes']} B with its tables" in text
    assert facts["knobs"]
    for tensor in facts["tensors"]:
        line = f"  tensor {tensor['name']}: {tensor['dtype']} {tensor['layout']}, {tensor['resident']}"
        assert f"{line} at {tensor['base_bytes']}\n" in text
    for phase in facts["phases"]:
        assert f"phase {phase['name']}: {phase['tasks']} tasks of ({', '.join(phase['columns'])})" in text
        for buffer in phase["buffers"]:
            shape = f"{buffer['slots']} x {buffer['rows']} x {buffer['columns']} {buffer['dtype']}, {buffer['layout']}"
            assert f"  buffer {buffer['name']}: {shape}, at {buffer['address']} every {buffer['pitch_bytes']}\n" in text
        assert all(f"  counter {name}: {cause}\n" in text for name, cause in phase["counters"].items())
        assert [name for name, lines in phase["queues"].items() if lines] == ["load", "store", "matrix", "vector"]
        assert all(f"    {line}\n" in text for lines in phase["queues"].values() for line in lines)
        pad = phase["scratchpad"]
        taken = {True: 0, False: 0}  # apart, in the scratchpad
        for buffer in phase["buffers"]:
            taken[buffer["in_accumulators"]] += buffer["end"] - buffer["address"]
        assert pad["high_water_bytes"] == taken[False]
        assert pad["accumulator_bytes"] == taken[True] > 0
        assert sum(taken.values()) == max(buffer["end"] for buffer in phase["buffers"])
        assert pad["high_water_bytes"] + pad["free_bytes"] == pad["capacity_bytes"]


def test_a_program_stays_as_small_for_a_longer_context(rowhit: Rowhit, tmp_path: Path) -> None:
    short, long = (
        json.loads(rowhit(*ATTENTION, "--context", tokens, "--json", cwd=tmp_path).stdout) for tokens in ("64", "16384")
    )
    assert short["instructions"] == long["instructions"]
    entries = next(t["size_bytes"] for t in long["tensors"] if t["name"] == "page table")
    assert long["size_bytes"] - short["size_bytes"] == entries - next(
        t["size_bytes"] for t in short["tensors"] if t["name"] == "page table"
    )


def test_what_does_not_fit_is_one_line(rowhit: Rowhit, tmp_path: Path) -> None:
    done = rowhit(*GEMM, "--set", "tile_k=1048576", cwd=tmp_path)
    assert done.returncode == 2
    assert "B more than the 2097152 B of a core of npu-hbm3" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "program", "explain"])
def test_default_knobs_that_do_not_fit_give_way_to_what_suggest_takes_and_a_line_says_so(
    rowhit: Rowhit, tmp_path: Path, command: str
) -> None:
    small = (command, "--machine", "mi300x", "--kernel", "gemm", "--size", "m=64,n=256,k=128", "--json")
    done = rowhit(*small, cwd=tmp_path)
    said = r"rowhit: with default knobs .*; sized by tile_m=128, .*; taken instead, as by --suggest: tile_[mnk]=\d+.*\n"
    assert re.fullmatch(said, done.stderr), done.stderr
    suggested = rowhit(*small, "--suggest", cwd=tmp_path)
    assert (done.returncode, done.stdout, suggested.stderr) == (0, suggested.stdout, "")


def test_set_knobs_that_do_not_fit_say_what_suggest_takes_where_that_fits(rowhit: Rowhit, tmp_path: Path) -> None:
    small = ("run", "--machine", "mi300x", "--kernel", "gemm", "--size", "m=64,n=256,k=128")
    error = rowhit(*small, "--set", "stages=3", cwd=tmp_path).stderr
    tiles = re.search(r"; sized by tile_m=128, .*; --suggest takes what fits: tile_[mnk]=\d+(, \w+=\w+)*\n", error)
    assert tiles is not None, error
    taken = "stages=3," + tiles[0].rpartition(": ")[2].strip().replace(" ", "")
    shown = rowhit("program", *small[1:], "--set", taken, "--json", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    set_too_large = rowhit(*small, "--set", "tile_m=4096", cwd=tmp_path)  # which no other tiles make up for
    assert (set_too_large.returncode, "--suggest" in set_too_large.stderr) == (2, False)


def test_experts_that_a_model_stores_in_fewer_bits_are_named_where_no_format_is(rowhit: Rowhit, tmp_path: Path) -> None:
    moe = ("program", "--machine", "h100-sxm", "--kernel", "moe", "--model", "gpt-oss-20b", "--size", "tokens=4")
    said = "gpt-oss-20b: experts are stored as mxfp4 and taken in 16 bits; --size format=NAME takes others\n"
    assert rowhit(*moe, cwd=tmp_path).stderr == said
    assert rowhit(*moe, "--size", "format=w4a16-mxfp4", cwd=tmp_path).stderr == ""
