from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import explorer
from explorer import evaluate, programs
from explorer.explore import explore
from explorer.progress import silent
from explorer.query import BatchSpec, Query
from explorer.questions.asking import ASKER
from explorer.questions.robustness import Bench, Robustness, around, designs_of
from explorer.questions.sweep import parse_axis
from explorer.storage.folder import rows_frame
from explorer.study.study import Study
from explorer.workers import SerialExecutor

STUDY = {
    "name": "small",
    "machine": "npu-hbm3",
    "kernel": "decode-attention",
    "model": "llama-3.1-8b",
    "batch": {"sequences": 2, "context": 128},
    "knobs": {"page_size": [16, 64], "stages": [1, 2]},
    "fixed": {"tile": 32},
    "sampler": "exhaustive",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robust") / "small"
    explore(Study.model_validate(STUDY), folder, 1, evaluate.EVALUATOR, silent)
    return folder


@pytest.fixture(scope="module")
def found(results: Path) -> Robustness:
    robust: Robustness = explorer.robust(results, axes={"context": "64..256*2"}, top=2, seeds=1)
    return robust


def test_the_contenders_are_the_best_rows_and_are_asked_again_to_the_same_time(results: Path) -> None:
    query, contenders, _ = designs_of(results, 3)
    best = rows_frame(results).sort_values(["time_us", "point"])[:3]
    assert [each.point for each in contenders] == list(best["point"])
    assert dict(query.knobs)["tile"] == 32
    for each in contenders:
        settings = dict(each.changes)
        own = query
        for name, value in settings.items():
            own = own.with_knob(name, int(value))
        assert evaluate.simulate(own).metrics["time_us"] == each.time_us
    assert [each.name for each in contenders] == ["the winner", "the runner-up", "number 3"]


def test_every_range_of_the_machine_has_a_bar_the_widest_first(found: Robustness, results: Path) -> None:
    assert {swing.path for swing in found.swings} == set(programs.machine_of("npu-hbm3").spec.ranges)
    widths = [swing.width for swing in found.swings]
    assert widths == sorted(widths, reverse=True)
    latency = next(swing for swing in found.swings if swing.path == "launch.latency")
    assert (latency.low, latency.high) == ("0.5 us", "2 us")
    assert latency.at_low[0] + 1 < latency.at_high[0]
    query, (winner, _), _ = designs_of(results, 2)
    for name, value in winner.changes:
        query = query.with_knob(name, int(value))
    slow = evaluate.simulate(query.with_knob("machine.launch.latency", "2 us"))
    assert latency.at_high[0] == slow.metrics["time_us"]
    assert list(found.to_pandas()["path"]) == [swing.path for swing in found.swings]


def test_the_winner_is_judged_on_batches_that_the_study_did_not_see(found: Robustness) -> None:
    (held,) = found.held_out
    assert held.batch == "azure-2023-conversation, seed 0"
    assert held.regret == held.times_us[0] / min(held.times_us) - 1
    assert held.regret >= 0


def test_the_text_says_where_the_winner_stops_winning(found: Robustness) -> None:
    text = str(found)
    (sentence,) = found.flips[0].sentences
    assert sentence.startswith("the winner ")
    assert "beats the runner-up" in sentence
    assert sentence in text
    assert "1 held-out batches" in text
    assert text.count("launch.latency") >= 1
    record = json.loads(json.dumps(found.record()))
    assert record["sentences"] == found.sentences
    assert "<pre>" in found._repr_html_()


def test_an_axis_along_which_designs_would_be_the_same_is_refused(results: Path) -> None:
    query, contenders, _ = designs_of(results, 2)
    designs = tuple(replace(each, changes=(("stages", f"{place + 1}"),)) for place, each in enumerate(contenders))
    bench = Bench(query, designs, "exact", ASKER, SerialExecutor())
    with pytest.raises(ValueError, match="--axis stages: designs differ in nothing else"):
        bench.table([parse_axis("stages=1,2")])


def test_ranges_that_were_not_asked_are_named(found: Robustness) -> None:
    none = replace(found, swings=(), unasked=("hbm.rate",))
    assert "hbm.rate" in " ".join(none.sentences)
    assert "gives no ranges" not in " ".join(none.sentences)
    assert "gives no ranges" in " ".join(replace(none, unasked=()).sentences)


def test_default_axes_lie_around_the_question() -> None:
    query = Query("m", "k", batch=BatchSpec(4, 128))
    assert [(axis.path, axis.values) for axis in around(query)] == [
        ("batch", ("1", "2", "4", "8", "16")),
        ("context", ("32", "64", "128", "256", "512")),
    ]
    assert around(Query("m", "k")) == ()
    assert [axis.path for axis in around(Query("m", "k", batch=BatchSpec(1, trace="azure")))] == ["batch"]


def test_a_mix_of_workloads_is_refused(tmp_path: Path, results: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(results, folder)
    content = json.loads((folder / "study.json").read_text())
    content["study"]["mix"] = {"a": {"weight": 1}, "b": {"batch": {"sequences": 1, "context": 64}}}
    (folder / "study.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="a mix of 2 workloads"):
        explorer.robust(folder)


def test_one_design_has_no_runner_up(tmp_path: Path) -> None:
    study = Study.model_validate(STUDY | {"knobs": {"page_size": [16]}, "baseline": {"page_size": 16}})
    explore(study, tmp_path / "one", 1, evaluate.EVALUATOR, silent)
    with pytest.raises(ValueError, match="1 design was simulated; two are needed"):
        explorer.robust(tmp_path / "one")


def test_what_is_no_results_folder_or_no_axis_is_one_line(
    rowhit: Callable[..., CompletedProcess[str]], results: Path, tmp_path: Path
) -> None:
    for arguments, message in (
        (("absent",), "absent: no results folder"),
        ((str(results), "--axis", "context=4..1"), "ends before it begins"),
        ((str(results), "--axis", "contxt=1..4"), "did you mean 'context'"),
        ((str(results), "--trace", "azur"), "did you mean 'azure'"),
        ((str(results), "--fidelity", "fast"), "unknown fidelity 'fast'"),
    ):
        done = rowhit("robust", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert message in done.stderr
