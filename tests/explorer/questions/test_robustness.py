from __future__ import annotations

import json
import pickle
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
from explorer.query import AZURE, BatchSpec, Query
from explorer.questions.asking import ASKER
from explorer.questions.fidelity import for_objective
from explorer.questions.robustness import (
    Bench,
    HeldOut,
    Robustness,
    Swing,
    Unheld,
    around,
    designs_of,
    drawn_batches,
    held_out,
    swings_of,
    why_undrawn,
)
from explorer.questions.sweep import parse_axis
from explorer.storage.folder import rows_frame
from explorer.study.objective import OBJECTIVES, TIME
from explorer.study.study import Study, load_study
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
    robust: Robustness = explorer.robust(results, axes={"context": "64..256*2"}, top=2, seeds=1, trace="azure")
    return robust


def test_the_contenders_are_the_best_rows_and_are_asked_again_to_the_same_time(results: Path) -> None:
    designs = designs_of(results, 3)
    (query,), contenders = designs.queries, designs.contenders
    best = rows_frame(results).sort_values(["time_us", "point"])[:3]
    assert [each.point for each in contenders] == list(best["point"])
    assert dict(query.knobs)["tile"] == 32
    for each in contenders:
        settings = dict(each.changes)
        own = query
        for name, value in settings.items():
            own = own.with_knob(name, int(value))
        assert evaluate.simulate(own).metrics["time_us"] == each.cost
    assert [each.name for each in contenders] == ["the winner", "the runner-up", "number 3"]


def test_every_range_of_the_machine_has_a_bar_the_widest_first(found: Robustness, results: Path) -> None:
    assert {swing.path for swing in found.swings} == set(programs.machine_of("npu-hbm3").spec.ranges)
    widths = [swing.width for swing in found.swings]
    assert widths == sorted(widths, reverse=True)
    latency = next(swing for swing in found.swings if swing.path == "launch.latency")
    assert (latency.low, latency.high) == ("0.5 us", "2 us")
    assert latency.at_low[0] + 1 < latency.at_high[0]
    designs = designs_of(results, 2)
    (query,), winner = designs.queries, designs.contenders[0]
    for name, value in winner.changes:
        query = query.with_knob(name, int(value))
    slow = evaluate.simulate(query.with_knob("machine.launch.latency", "2 us"))
    assert latency.at_high[0] == slow.metrics["time_us"]
    ends = latency.at_low[0], latency.at_high[0]
    assert latency.width == max(abs(cost - latency.nominal) / latency.nominal for cost in ends)
    assert list(found.to_pandas()["path"]) == [swing.path for swing in found.swings]


def test_the_winner_is_judged_on_batches_that_the_study_did_not_see(found: Robustness) -> None:
    (held,) = found.held_out
    assert held.batch == "azure-2023-conversation, seed 0"
    assert held.regret == held.costs[0] / min(held.costs) - 1
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


def test_a_batch_on_which_a_design_cannot_run_is_named_and_the_others_are_asked(results: Path) -> None:
    designs = designs_of(results, 2)
    (query,) = designs.queries
    small, large = (BatchSpec(2, None, AZURE, seed) for seed in range(2))
    draws = [(replace(query, batch=batch),) for batch in (small, large)]
    runner_up = {(name, int(value)) for name, value in designs.contenders[1].changes}

    def check(asked: Query) -> object:
        if asked.batch == large and runner_up <= set(asked.knobs):
            raise ValueError("too many tokens")
        return ASKER.check(asked)

    bench = Bench(designs, "exact", replace(ASKER, check=check), SerialExecutor())
    held, unheld = held_out(bench, draws)
    assert isinstance(held, HeldOut)
    assert len(held.costs) == 2
    assert unheld == Unheld(f"{AZURE}, seed 1", "the runner-up: too many tokens")


def test_an_uncertain_number_at_whose_ends_a_design_cannot_run_is_left_out(results: Path) -> None:
    def check(asked: Query) -> object:
        if any(path == "launch.latency" for path, _ in asked.machine_overrides):
            raise ValueError("cannot run")
        return ASKER.check(asked)

    bench = Bench(designs_of(results, 2), "bound", replace(ASKER, check=check), SerialExecutor())
    ranges = programs.machine_of("npu-hbm3").spec.ranges
    assert {swing.path for swing in swings_of(bench, bench.table())} == ranges.keys() - {"launch.latency"}


def test_what_could_not_be_asked_is_said_with_the_reason(found: Robustness) -> None:
    none = replace(found, held_out=(), unheld=(Unheld("azure, seed 3", "number 3: too large"),))
    assert "not asked, as a design cannot run there: azure, seed 3 (number 3: too large)" in str(none)
    assert none.record()["not_held_out"] == [{"batch": "azure, seed 3", "reason": "number 3: too large"}]


def test_a_trace_is_read_anew_when_its_file_has_changed(results: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"

    def costs() -> list[tuple[float, ...]]:
        asked: Robustness = explorer.robust(
            results, axes=(), top=2, seeds=1, fidelity="bound", trace="azure", trace_paths={AZURE: str(trace)}
        )
        return [held.costs for held in asked.held_out]

    found = []
    for tokens in (64, 512):
        lines = [f"2023-11-16 18:15:{second:02d}.0000000,{tokens},8" for second in range(8)]
        trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]) + "\n")
        found.append(costs())
    assert found[0] != found[1]
    trace.write_text("no trace\n")
    with pytest.raises(ValueError, match=r"trace\.csv"):
        costs()


def test_an_axis_along_which_designs_would_be_the_same_is_refused(results: Path) -> None:
    designs = designs_of(results, 2)
    alike = (replace(each, changes=(("stages", f"{place + 1}"),)) for place, each in enumerate(designs.contenders))
    bench = Bench(replace(designs, contenders=tuple(alike)), "exact", ASKER, SerialExecutor())
    with pytest.raises(ValueError, match="--axis stages: designs differ in nothing else"):
        bench.table([parse_axis("stages=1,2")])


def test_ranges_that_were_not_asked_are_named(found: Robustness) -> None:
    none = replace(found, swings=(), unasked=("hbm.rate",))
    assert "hbm.rate" in " ".join(none.sentences)
    assert "gives no ranges" not in " ".join(none.sentences)
    assert "gives no ranges" in " ".join(replace(none, unasked=()).sentences)


def test_default_axes_lie_around_the_question() -> None:
    query = Query("m", "k", batch=BatchSpec(4, 128))
    assert [(axis.path, axis.values) for axis in around((query,))] == [
        ("batch", ("1", "2", "4", "8", "16")),
        ("context", ("32", "64", "128", "256", "512")),
    ]
    assert around((Query("m", "k"),)) == ()
    assert [axis.path for axis in around((Query("m", "k", batch=BatchSpec(1, trace="azure")),))] == ["batch"]


MIX = {
    "few": {"batch": {"sequences": 1, "context": 64}, "weight": 3},
    "many": {"batch": {"sequences": 2, "context": 128}},
}


@pytest.mark.parametrize(
    ("objective", "risk"),
    [("time_us", "worst"), ("energy_pj", "mean"), ("hbm_bytes", {"cvar": 0.5}), ("sram_bytes", "mean")],
)
def test_every_objective_of_a_mix_is_asked_again_to_the_same_number(
    tmp_path: Path, objective: str, risk: object
) -> None:
    study = Study.model_validate(STUDY | {"mix": MIX, "risk": risk, "objective": objective})
    explore(study, tmp_path / "mixed", 1, evaluate.EVALUATOR, silent)
    stages: set[str] = set()
    found: Robustness = explorer.robust(
        tmp_path / "mixed",
        axes={"hbm.stacks": [2, 4]},
        top=2,
        seeds=1,
        trace="azure",
        progress=lambda stage, *_: stages.add(stage),
    )
    assert stages == {"designs", "axis hbm.stacks", "uncertain numbers", "held-out batches"}
    rows = rows_frame(tmp_path / "mixed").set_index("point")
    for each, cell in zip(found.contenders, found.nominal.cells, strict=True):
        assert cell.cost == each.cost == rows.loc[each.point, objective]
        assert len(cell.answers) == 2
        assert cell.gap is None or cell.gap >= 0
    (held,) = found.held_out
    assert held.batch == "azure-2023-conversation, seed 0, azure-2023-conversation, seed 1"
    text = str(found)
    assert "of the mix few (" in text
    assert f"{OBJECTIVES[objective].noun} at low" in text
    assert found.record()["designs"][0][f"results_{objective}"] == found.contenders[0].cost


def test_axes_and_batches_change_every_workload_of_a_mix(tmp_path: Path) -> None:
    study = Study.model_validate(STUDY | {"mix": MIX, "risk": "worst"})
    explore(study, tmp_path / "mixed", 1, evaluate.EVALUATOR, silent)
    found: Robustness = explorer.robust(tmp_path / "mixed", axes={"context": [64, 128]}, top=2, seeds=0)
    assert around(designs_of(tmp_path / "mixed", 2).queries) == ()
    for cell in found.flips[0].at(("64",)):
        contexts = [answer.query.batch.context for answer in cell.answers if answer.query.batch]
        assert contexts == [64, 64]
        assert cell.cost == max(float(answer.time_us or 0) for answer in cell.answers)


def test_a_cost_of_the_machine_is_compared_as_it_is(tmp_path: Path) -> None:
    knobs = {"page_size": [16], "stages": [1, 2], "machine.hbm.stacks": [2, 4]}
    objectives = {"objectives": ["time_us", "hbm_stacks"]}
    explore(
        Study.model_validate(STUDY | {"knobs": knobs} | objectives), tmp_path / "cost", 1, evaluate.EVALUATOR, silent
    )
    found: Robustness = explorer.robust(tmp_path / "cost", objective="hbm_stacks", top=2)
    assert [cell.cost for cell in found.nominal.cells] == [each.cost for each in found.contenders]
    assert found.contenders[0].cost == 2
    assert {answer.how for cell in found.nominal.cells for answer in cell.answers} == {"bound"}
    assert "asked again, all 2 designs tie at 2 stacks; their order is that of time in the results" in str(found)
    assert [each.name for each in found.contenders] == ["number 1", "number 2"]
    times = rows_frame(tmp_path / "cost").set_index("point")["time_us"]
    order = [times[each.point] for each in found.contenders]
    assert order == sorted(order)
    assert "winner" not in str(found)
    with pytest.raises(
        ValueError, match=r"^--objective: unknown objective of .*'energy_pj'.*allowed: time_us, hbm_stacks"
    ):
        explorer.robust(tmp_path / "cost", objective="energy_pj")


def test_windows_give_no_energy_and_nothing_bounds_the_bytes_of_scratchpads() -> None:
    energy, octets = OBJECTIVES["energy_pj"], OBJECTIVES["sram_bytes"]
    assert (for_objective("auto", energy), for_objective("bound", energy)) == ("exact", "bound")
    assert (for_objective("auto", TIME), for_objective("windows", TIME)) == ("auto", "windows")
    with pytest.raises(ValueError, match="windows give the time, and energy_pj is asked; allowed: exact, auto, bound"):
        for_objective("windows", energy)
    for fidelity, reason in (("windows", "sram_bytes is asked"), ("bound", "sram_bytes has no bound but 0")):
        with pytest.raises(ValueError, match=f"{reason}; allowed: exact, auto$"):
            for_objective(fidelity, octets)


def test_an_objective_that_came_from_another_process_is_the_same_one() -> None:
    assert for_objective("windows", pickle.loads(pickle.dumps(TIME))) == "windows"


def test_held_out_batches_are_no_batches_of_the_study_and_differ() -> None:
    specs = [BatchSpec(1, None, AZURE, 0), BatchSpec(2, None, AZURE, 4), BatchSpec(2, 128)]
    queries = tuple(Query("m", "k", batch=spec) for spec in specs)
    drawn = [query.batch for draw in range(3) for query in drawn_batches(queries, draw, AZURE, {})]
    seeds = [(spec.trace, spec.seed) for spec in drawn if spec]
    assert len(set(seeds)) == 9
    assert not {(AZURE, 0), (AZURE, 4)} & set(seeds)
    assert [spec.sequences for spec in drawn[:3] if spec] == [1, 2, 2]
    assert drawn_batches(queries, 0, None, {})[2].batch == specs[2]


def test_without_a_trace_no_batch_is_held_out_and_a_line_says_so(results: Path) -> None:
    alone: Robustness = explorer.robust(results, axes=(), top=2, fidelity="bound")
    assert alone.held_out == ()
    line = "no batch was held out: the study draws none from a trace; --trace draws them from one: azure"
    assert line in str(alone)
    assert alone.record()["no_batch_held_out"] == alone.undrawn
    silent: Robustness = explorer.robust(results, axes=(), top=2, fidelity="bound", seeds=0)
    assert "held out" not in str(silent)


def test_a_trace_is_refused_where_the_kernel_takes_no_batch(results: Path) -> None:
    designs = replace(designs_of(results, 2), queries=(Query("npu-hbm3", "gemm"),))
    with pytest.raises(ValueError, match=r"^--trace: kernel gemm takes no batch"):
        why_undrawn(designs, "azure")
    assert why_undrawn(designs, None) == "gemm takes none"
    with pytest.raises(ValueError, match=r"^--trace: unknown trace 'azur'"):
        explorer.robust(results, trace="azur")


def test_how_far_a_number_moves_is_taken_from_its_nominal_value() -> None:
    at_most = Swing("launch.latency", "1 us", "3 us", "", (9.0,), (10.0,), 12.0, None)
    assert at_most.width == 0.25


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
        ((str(results), "--axis", "context=4..1"), "--axis 'context': '4..1': ends before it begins"),
        ((str(results), "--axis", "contxt=1..4"), "--axis contxt=1: unknown path 'contxt': did you mean 'context'"),
        ((str(results), "--trace", "azur"), "did you mean 'azure'"),
        ((str(results), "--fidelity", "fast"), "unknown fidelity 'fast'"),
    ):
        done = rowhit("robust", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert message in done.stderr


def filed(folder: Path) -> Path:
    """Write a study with a machine in a file beside it, search it, and return its results."""
    (folder / "asked").mkdir()
    (folder / "asked" / "chip.yaml").write_text("like: npu-hbm3\nname: chip\ndescription: as shipped\nsources: {}\n")
    (folder / "asked" / "small.yaml").write_text(json.dumps(STUDY | {"machine": "chip.yaml"}))
    explore(load_study(folder / "asked" / "small.yaml"), folder / "results", 1, evaluate.EVALUATOR, silent)
    return folder / "results"


SLOWER = "like: npu-hbm3\nname: chip\ndescription: slower\nhbm: {stacks: 2}\nsources: {hbm.stacks: assumed}\n"


def test_files_of_the_study_are_found_where_it_lay_and_have_to_be_what_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, elsewhere = filed(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "chip.yaml").write_text(SLOWER)
    monkeypatch.chdir(elsewhere)
    found = designs_of(results, 2)
    assert found.queries[0].machine == str(tmp_path / "asked" / "chip.yaml")
    assert not found.is_of_another_version
    (tmp_path / "asked" / "chip.yaml").write_text(SLOWER)
    with pytest.raises(
        ValueError, match=r"results: belongs to another study: inputs\.machine is '.*' here and '.*' th"
    ):
        designs_of(results, 2)


def test_where_the_files_of_a_study_are_missed_is_said_and_exploring_it_from_elsewhere_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = filed(tmp_path)
    (tmp_path / "asked").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"chip\.yaml: no such file; relative paths of a study start at its folder, /"):
        designs_of(results, 2)
    moved = load_study(tmp_path / "moved" / "small.yaml")
    explore(moved, results, 1, evaluate.EVALUATOR, silent)
    assert designs_of(results, 2).queries[0].machine == str(tmp_path / "moved" / "chip.yaml")
    both = tmp_path / "together"
    both.mkdir()
    for folder in ("moved", "results"):
        (tmp_path / folder).rename(both / folder)
    monkeypatch.chdir(both)
    assert len(designs_of(Path("results"), 2).contenders) == 2


def test_files_of_a_study_behind_a_link_are_found_beside_the_link(tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    filed(tmp_path)
    (tmp_path / "asked" / "chip.yaml").rename(tmp_path / "linked" / "chip.yaml")
    (tmp_path / "linked" / "small.yaml").symlink_to(tmp_path / "asked" / "small.yaml")
    linked = load_study(tmp_path / "linked" / "small.yaml")
    explore(linked, tmp_path / "other", 1, evaluate.EVALUATOR, silent)
    assert designs_of(tmp_path / "other", 2).queries[0].machine == str(tmp_path / "linked" / "chip.yaml")


def test_a_batch_that_is_no_longer_the_one_of_the_study_is_refused(tmp_path: Path) -> None:
    mix = {"few": {"batch": {"sequences": 1, "trace": "azure"}}, "more": {"batch": {"sequences": 1, "context": 64}}}
    explore(Study.model_validate(STUDY | {"mix": mix}), tmp_path / "mixed", 1, evaluate.EVALUATOR, silent)
    lines = [f"2023-11-16 18:15:{second:02d}.0000000,{64 + second},8" for second in range(8)]
    trace = tmp_path / "trace.csv"
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]) + "\n")
    assert len(designs_of(tmp_path / "mixed", 2).queries) == 2
    with pytest.raises(ValueError, match=r"belongs to another study: inputs\.few\.batch is"):
        designs_of(tmp_path / "mixed", 2, {AZURE: str(trace)})


def test_results_of_another_version_of_the_simulator_are_asked_again_and_a_line_says_so(
    results: Path, found: Robustness, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(results, older)
    content = json.loads((older / "study.json").read_bytes())
    content["inputs"]["simulator"] = "0" * 16
    (older / "study.json").write_text(json.dumps(content))
    assert designs_of(older, 2).is_of_another_version
    line = "the results are of another version of the simulator"
    assert line in str(replace(found, is_of_another_version=True))
    assert line not in str(found)
