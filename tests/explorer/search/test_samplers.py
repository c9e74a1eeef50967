"""What every sampler must do, whatever it proposes; a new one is one more name in the table."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from table_evaluator import Table

from explorer.explore import explore
from explorer.progress import silent
from explorer.search.samplers import SAMPLERS, choose
from explorer.storage.folder import rows_frame
from explorer.summary import Summary

NEEDS = {"cmaes": "cmaes", "gp": "torch"}
EVERY = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None, reason=f"needs {NEEDS.get(name)}"
        ),
    )
    for name in SAMPLERS
]
each_sampler = pytest.mark.parametrize("sampler", EVERY)


def search(table: Table, folder: Path, points: int = 500, **fields: object) -> Summary:
    budget = {"points": points, "batch": 3}
    return explore(table.study(budget=budget, **fields), folder, 1, table.evaluator, silent)


@each_sampler
def test_with_enough_budget_it_proves_the_optimum(sampler: str, tmp_path: Path) -> None:
    table = Table((3, 4, 3), seed=1, refused=0.2)
    summary = search(table, tmp_path, sampler=sampler)
    assert summary.certificate.proven
    assert summary.certificate.best == table.values()[:, 0].min()
    assert summary.stopped == "proven"


@each_sampler
def test_it_simulates_no_point_twice_and_keeps_to_the_budget(sampler: str, tmp_path: Path) -> None:
    table = Table((5, 5, 4), seed=2, slack=1.0, period=2)
    summary = search(table, tmp_path, 9, sampler=sampler)
    assert len(table.simulated) == len(set(table.simulated)) == summary.simulated
    assert summary.points == 9 >= summary.simulated
    assert summary.stopped == "budget"


@each_sampler
def test_the_same_seed_asks_for_the_same_points_and_stopping_half_way_changes_nothing(
    sampler: str, tmp_path: Path
) -> None:
    table = Table((5, 5, 3), seed=3, slack=1.0)
    search(table, tmp_path / "one", 14, sampler=sampler, seed=5)
    search(table, tmp_path / "two", 14, sampler=sampler, seed=5)
    whole = rows_frame(tmp_path / "one")
    pd.testing.assert_frame_equal(rows_frame(tmp_path / "two"), whole)

    def stop(what: str, done: int, total: int) -> None:
        if what == "points" and done == 6:
            raise KeyboardInterrupt

    study = table.study(budget={"points": 14, "batch": 3}, sampler=sampler, seed=5)
    with pytest.raises(KeyboardInterrupt):
        explore(study, tmp_path / "three", 1, table.evaluator, stop)
    assert len(rows_frame(tmp_path / "three")) == 6
    explore(study, tmp_path / "three", 1, table.evaluator, silent)
    pd.testing.assert_frame_equal(rows_frame(tmp_path / "three"), whole)


@pytest.mark.parametrize("sampler", [p for p in EVERY if p.values[0] != "cmaes"])
def test_of_two_objectives_it_proves_the_whole_front(sampler: str, tmp_path: Path) -> None:
    table = Table((3, 3, 3), seed=4, refused=0.1)
    summary = search(table, tmp_path, sampler=sampler, objectives=["time_us", "energy_pj"])
    values = {tuple(row) for row in table.values()}
    beaten = {p for p in values for q in values if q != p and q[0] <= p[0] and q[1] <= p[1]}
    assert {(row["time_us"], row["energy_pj"]) for row in summary.front} == values - beaten
    assert summary.covered == 1
    assert all(certificate.proven for certificate in summary.certificates)


def test_cma_es_takes_one_objective_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cmaes takes one objective, there are 2; allowed: nsga2, best-first"):
        search(Table((2, 2, 2)), tmp_path / "out", sampler="cmaes", objectives=["time_us", "energy_pj"])
    assert not (tmp_path / "out").exists()


def test_the_choice_follows_space_budget_and_objectives() -> None:
    assert choose("auto", 50, 60, 1)[0] == "exhaustive"
    assert choose("auto", 500, 60, 1)[0] == "best-first"
    assert choose("auto", 5000, 60, 2)[0] == "best-first"
    assert choose("auto", 5000, 1000, 2)[0] == "nsga2"
    assert choose("auto", 5000, 1000, 3)[0] == "nsga3"
    assert choose("tpe", 5, 60, 1) == ("tpe", "")
    assert "50 combinations" in choose("auto", 50, 60, 1)[1]


def test_best_first_finds_the_optimum_with_a_fifth_of_the_simulations_in_the_median(tmp_path: Path) -> None:
    parts = []
    for seed in range(5):
        table = Table((5, 6, 4), seed=seed, slack=0.6, smooth=True)
        search(table, tmp_path / str(seed), 60, sampler="best-first", seed=seed)
        rows = rows_frame(tmp_path / str(seed))
        times = rows.loc[rows["status"] == "simulated", "time_us"].tolist()
        best = table.times.min()
        parts.append((times.index(best) + 1) / table.times.size if best in times else 1.0)
    assert np.median(parts) <= 0.2
