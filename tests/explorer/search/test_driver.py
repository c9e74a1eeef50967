from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from explorer.evaluate import EVALUATOR
from explorer.explore import explore
from explorer.progress import silent
from explorer.storage.folder import rows_frame, space_frame
from explorer.study.study import Study
from explorer.summary import Summary

Explore = Callable[..., Summary]


@pytest.fixture
def search(fake: ModuleType) -> Explore:
    def run(study: Study, folder: Path, jobs: int = 1) -> Summary:
        return explore(study, folder, jobs, fake.EVALUATOR, silent)

    return run


def changed(study: Study, **fields: Any) -> Study:
    return Study.model_validate(study.model_dump() | fields)


def valid_times(fake: ModuleType, study: Study) -> dict[str, float]:
    """Every distinct point of the space with its true time, by full enumeration."""
    from explorer.query import Query

    times = {}
    for choice in itertools.product(*study.knobs.values()):
        query = Query(study.machine, study.kernel)
        for name, value in zip(study.knobs, choice, strict=True):
            query = query.with_knob(name, value)
        try:
            times[fake.key(query)] = fake.time_us(query)
        except ValueError:
            continue
    return times


@pytest.mark.parametrize("sampler", ["tpe", "random", "exhaustive"])
@pytest.mark.parametrize(("points", "seed"), [(1, 0), (12, 3), (200, 0)])
def test_certified_bound_is_below_the_true_optimum_and_the_best_found_above(
    search: Explore, fake: ModuleType, study: Study, tmp_path: Path, sampler: str, points: int, seed: int
) -> None:
    study = changed(study, sampler=sampler, budget={"points": points, "batch": 4}, seed=seed)
    summary = search(study, tmp_path / "out")
    optimum = min(valid_times(fake, study).values())
    assert summary.certificate.bound <= optimum <= summary.certificate.best
    assert summary.best["time_us"] == summary.certificate.best
    assert summary.points == summary.simulated + summary.pruned <= points
    if points == 200:
        assert summary.certificate.proven
        assert summary.certificate.best == optimum


@pytest.mark.parametrize("sampler", ["tpe", "random", "exhaustive"])
def test_no_point_is_evaluated_twice_and_two_spellings_of_a_layout_are_one_point(
    search: Explore, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "simulated"))
    summary = search(changed(study, sampler=sampler, budget={"points": 100, "batch": 4}), tmp_path / "out")
    simulated = (tmp_path / "simulated").read_text().splitlines()
    assert len(simulated) == len(set(simulated)) == summary.simulated
    assert rows_frame(tmp_path / "out")["key"].is_unique
    assert summary.space_points == 2 * 12 - 2
    assert set(summary.invalid) == {"tile 128: needs 2048 B of SRAM, there are 1536 B"}


def test_a_point_is_pruned_only_when_its_bound_is_above_the_best_time_so_far(
    search: Explore, study: Study, tmp_path: Path
) -> None:
    summary = search(changed(study, sampler="random", budget={"points": 100, "batch": 2}), tmp_path)
    rows = rows_frame(tmp_path)
    assert summary.pruned > 0
    for row in rows.itertuples():
        best_us = rows["time_us"][: row.batch].min()
        assert (row.status == "pruned") == (row.bound_us > best_us)
    assert rows.loc[rows["status"] == "pruned", "time_us"].isna().all()


@pytest.mark.parametrize("sampler", ["random", "best-first"])
def test_a_point_is_asked_for_when_all_but_the_last_few_before_it_are_known(
    search: Explore, study: Study, tmp_path: Path, sampler: str
) -> None:
    search(changed(study, sampler=sampler, budget={"points": 16, "batch": 4}), tmp_path)
    rows = rows_frame(tmp_path)
    simulated = (rows["status"] == "simulated").tolist()
    for point, known in enumerate(rows["batch"]):
        assert sum(simulated[known:point]) < 4
        assert known == 0 or sum(simulated[known - 1 : point]) == 4  # not later than it could be


@pytest.mark.parametrize(
    ("sampler", "jobs"),
    [("best-first", 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in [("best-first", 4), ("tpe", 4)])],
)
def test_rows_are_identical_with_one_and_several_workers(
    search: Explore, study: Study, tmp_path: Path, sampler: str, jobs: int
) -> None:
    study = changed(study, sampler=sampler)
    for count in (1, jobs):
        search(study, tmp_path / str(count), jobs=count)
    files = [tmp_path / str(count) / "points.parquet" for count in (1, jobs)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_another_seed_asks_for_other_points(search: Explore, study: Study, tmp_path: Path) -> None:
    keys = []
    for seed in (0, 1):
        search(changed(study, seed=seed, sampler="random"), tmp_path / str(seed))
        keys.append(rows_frame(tmp_path / str(seed))["key"].tolist())
    assert keys[0] != keys[1]


def test_the_baseline_comes_first_also_when_it_lies_outside_the_space(
    search: Explore, study: Study, tmp_path: Path
) -> None:
    summary = search(changed(study, baseline={"tile": 8}), tmp_path)
    rows = rows_frame(tmp_path)
    assert rows["tile"].tolist()[0] == 8
    assert rows["batch"].tolist()[0] == 0
    assert summary.baseline["tile"] == 8
    assert len(space_frame(tmp_path)) == 24 + 1


def test_a_bound_above_the_simulated_time_is_a_failure_and_not_a_result(
    fake: ModuleType, study: Study, tmp_path: Path
) -> None:
    from dataclasses import replace

    wrong = replace(fake.EVALUATOR, bound_us=lambda query: fake.time_us(query) + 1)
    with pytest.raises(AssertionError, match="lower bound"):
        explore(study, tmp_path / "out", 1, wrong, silent)


def test_a_machine_number_is_a_knob_like_any_other(search: Explore, study: Study, tmp_path: Path) -> None:
    knobs = {"machine.hbm.stacks": [2, 4], "tile": [32, 64]}
    summary = search(changed(study, knobs=knobs, baseline={}), tmp_path)
    assert summary.best["machine.hbm.stacks"] == "4"
    assert summary.best["tile"] == 64


def test_a_baseline_outside_the_combinations_is_a_point_of_the_space_and_may_be_the_best(
    fake: ModuleType, study: Study, tmp_path: Path
) -> None:
    fields = {
        "knobs": {"tile": [16, 32], "stages": [2, 4]},
        "baseline": {"layout": "head page", "tile": 128, "stages": 3},
    }
    outside = Study.model_validate(study.model_dump() | fields)
    summary = explore(outside, tmp_path, 1, fake.EVALUATOR, silent)
    assert summary.best["key"] == summary.baseline["key"] == "head page/128/3/4"
    assert summary.space_points == 2 * 2 + 1
    assert summary.account.combinations == summary.record()["combinations"]["all"] == 2 * 2 + 1
    assert summary.certificate.proven


def cheapest(fake: ModuleType, study: Study) -> float:
    """The least energy of the whole space, by full enumeration."""
    from explorer.query import Query

    energies = []
    for choice in itertools.product(*study.knobs.values()):
        query = Query(study.machine, study.kernel)
        for name, value in zip(study.knobs, choice, strict=True):
            query = query.with_knob(name, value)
        if 4 * int(dict(query.knobs)["tile"]) * int(dict(query.knobs)["stages"]) <= fake.SRAM_BYTES:
            energies.append(fake.simulate(query).metrics["energy_pj"])
    return float(min(energies))


@pytest.mark.parametrize("sampler", ["tpe", "exhaustive"])
@pytest.mark.parametrize("points", [3, 200])
def test_a_study_of_energy_finds_and_certifies_the_cheapest_point(
    search: Explore, fake: ModuleType, study: Study, tmp_path: Path, sampler: str, points: int
) -> None:
    budget = {"points": points, "batch": 2}
    study = changed(study, machine="somewhere", objective="energy_pj", sampler=sampler, budget=budget)
    study = changed(study, baseline={"layout": "page head", "tile": 64})
    summary = search(study, tmp_path)
    rows, space = rows_frame(tmp_path), space_frame(tmp_path)
    least = cheapest(fake, study)
    assert summary.certificate.bound <= least <= summary.certificate.best
    assert summary.best["energy_pj"] == summary.certificate.best == rows["energy_pj"].min()
    assert (rows["energy_bound_pj"] == rows["key"].map(space.set_index("key")["energy_bound_pj"])).all()
    for row in rows[rows["status"] == "pruned"].itertuples():
        assert row.energy_bound_pj > rows["energy_pj"][: row.batch].min()
    if points == 200:
        assert (summary.pruned > 0) == (sampler == "tpe")
        assert summary.certificate.proven
        assert summary.certificate.best == least
        fastest = search(changed(study, objective="time_us"), tmp_path / "time")
        assert fastest.best["time_us"] < summary.best["time_us"]
        assert fastest.best["energy_pj"] > least
    record = summary.record()
    assert record["energy_bound_pj"] == summary.certificate.bound
    assert sum(record["best"]["energy_by_component_pj"].values()) == record["best"]["energy_pj"]


def test_a_study_of_energy_continues_where_it_stopped(
    search: Explore, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "simulated"))
    study = changed(study, machine="somewhere", objective="energy_pj", sampler="random")
    search(study, tmp_path / "whole")
    simulated = (tmp_path / "simulated").read_text()
    search(study, tmp_path / "whole")
    assert (tmp_path / "simulated").read_text() == simulated
    rows = rows_frame(tmp_path / "whole")
    packed = tmp_path / "whole" / "points.parquet"
    pq.write_table(pq.read_table(packed).slice(0, 4), packed)
    search(study, tmp_path / "whole")
    pd.testing.assert_frame_equal(rows_frame(tmp_path / "whole"), rows)


def test_a_study_of_energy_on_a_machine_that_gives_none_is_refused_before_anything_is_written(
    search: Explore, study: Study, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"objective: machine nowhere: energy: missing; the objective energy_pj needs"):
        search(changed(study, objective="energy_pj"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bound_above_the_simulated_energy_is_a_failure_and_not_a_result(
    fake: ModuleType, study: Study, tmp_path: Path
) -> None:
    from dataclasses import replace

    wrong = replace(fake.EVALUATOR, bound_pj=lambda query: fake.simulate(query).metrics["energy_pj"] + 1)
    with pytest.raises(AssertionError, match=r"lower bound .*J is above the simulated"):
        explore(changed(study, machine="somewhere", objective="energy_pj"), tmp_path / "out", 1, wrong, silent)


def test_a_machine_file_that_changes_between_two_searches_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "chip.yaml"
    knobs = {"knobs": {"tile_k": [64, 128]}, "options": {"m": 64, "n": 64, "k": 128}, "sampler": "exhaustive"}
    study = Study.model_validate({"name": "chip", "machine": str(file), "kernel": "gemm"} | knobs)
    times = []
    for latency_us in (1, 2):
        text = f"like: npu-hbm3\nname: chip\ndescription: a chip\nlaunch: {{latency: {latency_us} us}}\n"
        file.write_text(text + "sources: {launch.latency: assumed}\n")
        found = explore(study, tmp_path / f"{latency_us}", 1, EVALUATOR, silent)
        times.append(found.certificate.best)
    assert times[1] == pytest.approx(times[0] + 1, rel=0.01)  # refreshes fall otherwise
