"""Two runs beside each other: the accounts add up to the difference in time, and the cause that was put in is named."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from explorer import evaluate
from explorer.cli.app import app
from explorer.compare import Comparison, compare, context, summary
from explorer.query import Query
from explorer.text.compare import comparison_text
from explorer.text.tables import percent, row_hit_fraction
from hwmodel.saving import Saved, archive

SIZES = (("m", 256), ("n", 256), ("k", 512))


def run_of(machine: str = "npu-hbm3", overrides: dict[str, str] | None = None, **knobs: Any) -> Saved:
    changes = tuple(sorted((overrides or {}).items()))
    query = Query(machine, "gemm", options=SIZES, knobs=tuple(sorted(knobs.items())), machine_overrides=changes)
    return evaluate.saved_run(query)


BASE = run_of()


def against(**changes: Any) -> Comparison:
    return compare(BASE, run_of(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"tile_k": 16},
        {"stages": 1},
        {"machine": "npu-sram"},
        {"machine": "h100-sxm"},
        {"overrides": {"cores.count": "3"}},
        {"overrides": {"launch.latency": "3 us"}},
    ],
)
def test_every_account_adds_up_to_the_difference_in_time_exactly(changes: dict[str, Any]) -> None:
    found = against(**changes)
    before, after = found.time_fs
    assert before != after
    for causes in found.accounts.values():
        assert sum(causes.values()) == Fraction(after - before)
    assert set(found.accounts) >= {"load", "store", "matrix", "vector"}


def test_a_longer_launch_is_the_whole_cause_and_the_words_say_so() -> None:
    found = compare(run_of("npu-sram"), run_of("npu-sram", {"launch.latency": "3 us"}))  # which needs no refreshes
    assert [cause for cause, _ in found.causes] == ["launch"]
    assert found.time_fs[1] - found.time_fs[0] == 2 * 10**9
    assert "slower than A (+2 us, " in summary(found)
    assert summary(found).endswith("launches +2 us")


def test_the_account_told_is_of_the_unit_that_had_more_to_do() -> None:
    assert against(overrides={"cores.matrix.macs_per_cycle": "16"}).told == "matrix"
    assert against(overrides={"cores.dma.issue_cycles": "3000"}).told in ("load", "store")


def test_named_causes_and_the_rest_add_up_in_words_too() -> None:
    found = against(stages=1)
    words = summary(found).split(": in the account of the average ")[1]
    amounts = [float(part.rsplit(" ", 2)[1]) for part in words.split(", ", 1)[1].split(", ")]
    assert sum(amounts) == pytest.approx((found.time_fs[1] - found.time_fs[0]) / 10**9, rel=0.02)  # three digits each


def test_a_run_beside_itself_has_no_difference() -> None:
    found = compare(BASE, BASE)
    assert summary(found).startswith("B takes as long as A: ")
    assert "the lower bound stays at " in context(found)
    assert comparison_text(found).endswith(f"{len(found.numbers)} numbers are the same in both")


def test_the_share_of_bursts_in_open_rows_is_that_of_bursts_moved_as_in_the_table_of_a_study() -> None:
    result = BASE.result
    assert result is not None
    dram = result.dram
    merged = replace(dram, writes=dram.writes + 50_000, merged_writes=dram.merged_writes + 50_000)
    words = context(compare(BASE, replace(BASE, result=replace(result, dram=merged))))
    share = percent(row_hit_fraction(result.metrics()))
    assert words.endswith(f"bursts in open rows go from {share} to {share}")


def test_the_text_has_every_number_that_differs_and_the_knobs_that_do() -> None:
    found = against(tile_k=16)
    text = comparison_text(found)
    shown = {line.split("   ")[0].strip() for line in text.splitlines()}
    for name, entry in found.numbers.items():
        assert (name in shown) == (entry.a != entry.b)
    assert "(tile_k=64)" in text
    assert "(tile_k=16)" in text


def test_machines_of_one_name_and_other_numbers_are_told_apart() -> None:
    assert BASE.result is not None
    edited = replace(BASE, result=replace(BASE.result, machine_hash="0123456789abcdef"))
    text = comparison_text(compare(BASE, edited))
    assert f"A: {BASE.title}   (machine_hash={BASE.result.machine_hash})" in text
    assert f"B: {BASE.title}   (machine_hash=0123456789abcdef)" in text
    assert "machine_hash=" not in comparison_text(against(overrides={"cores.count": "3"}))  # the titles say it


def test_the_rounding_of_averages_is_no_difference() -> None:
    """With a longer launch every unit works as long as before, in a run of another length."""
    longer = against(overrides={"launch.latency": "3 us"})
    useful = {name: entry for name, entry in longer.numbers.items() if name.endswith(".useful")}
    assert len(useful) > 4
    for name, entry in useful.items():
        _, kind, cause = name.split(".")
        fs = longer.accounts[kind][cause]
        assert (entry.a == entry.b) == (abs(fs) < 1), name
        assert entry.absolute == pytest.approx(float(fs) / 1e9, abs=1.1e-9), name
    assert {"stalls_us.load.useful", "stalls_us.matrix.useful"} <= {
        n for n, entry in useful.items() if not entry.absolute
    }


def test_differences_of_shares_are_points_and_relative_ones_per_cent() -> None:
    found = against(tile_k=16)
    (line,) = (line for line in comparison_text(found).splitlines() if line.startswith("hbm_bandwidth_fraction"))
    entry = found.numbers["hbm_bandwidth_fraction"]
    assert entry.absolute is not None
    assert entry.relative is not None
    assert line.split()[-4:] == [f"{100 * entry.absolute:+.1f}", "points", f"{100 * entry.relative:+.1f}", "%"]


def test_swapped_runs_have_the_opposite_difference() -> None:
    other = run_of(tile_k=16)
    there, back = compare(BASE, other), compare(other, BASE)
    assert [(cause, -fs) for cause, fs in there.causes] == back.causes
    for name, entry in there.numbers.items():
        if entry.absolute is not None:
            assert back.numbers[name].absolute == -entry.absolute


def test_a_file_without_a_result_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="B: no result in it; allowed: what `rowhit run --save` wrote"):
        compare(BASE, replace(BASE, result=None))


def command(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_saved_runs_are_compared_and_explained_by_their_files(tmp_path: Path) -> None:
    run = ("run", "--machine", "npu-hbm3", "--kernel", "gemm", "--size", "m=256,n=256,k=512")
    files = [str(tmp_path / name) for name in ("a.run", "b.run")]
    metrics = json.loads(command(*run, "--save", files[0], "--json").stdout)
    command(*run, "--set", "tile_k=16", "--save", files[1])
    assert Path(files[0]).read_bytes() == archive(BASE)
    found = json.loads(command("compare", *files, "--json").stdout)
    assert found["numbers"]["time_us"]["a"] == metrics["time_us"]
    assert found["summary"] == summary(compare(BASE, run_of(tile_k=16)))
    here = json.loads(command("explain", files[0], "--machine", "npu-hbm3", "--json").stdout)
    assert here == json.loads(command("explain", *run[1:], "--json").stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--machine", "npu-sram"), r"was run on npu-hbm3 with the hash \w+; --machine npu-sram has \w+"),
        (("--machine", "npu-hbm3", "--set", "hbm.stacks=2"), "allowed: the same numbers, by --set if need be"),
        (("--machine", "npu-hbm3", "--kernel", "gemm"), "a saved run takes --machine, --set of its numbers"),
        (("--machine", "npu-hbm3", "--seed", "3"), "a saved run takes --machine, --set of its numbers"),
    ],
)
def test_what_a_saved_run_cannot_be_asked_is_refused(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    path = tmp_path / "a.run"
    path.write_bytes(archive(BASE))
    done = command("explain", str(path), *arguments)
    assert isinstance(done.exception, ValueError)
    with pytest.raises(ValueError, match=message):
        raise done.exception


def test_a_saved_deadlock_is_an_error_of_the_file(tmp_path: Path) -> None:
    assert BASE.program is not None
    phase = BASE.program.phases[0]
    expressions = phase.expressions.copy()
    counters = phase.queues[2]["wait_value"]
    expressions[counters[counters >= 0], 2] += 1000
    program = replace(BASE.program, phases=(replace(phase, expressions=expressions),))
    path = tmp_path / "stuck.run"
    path.write_bytes(archive(Saved(program, None)))
    done = command("explain", str(path), "--machine", "npu-hbm3")
    assert isinstance(done.exception, ValueError)
    assert str(done.exception).startswith(f"{path}: phase multiply of gemm deadlocks")
