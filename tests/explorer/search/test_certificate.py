"""What a search claims is true: bound <= optimum <= best found, whatever the space, the seed and the budget."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_evaluator import Table

from explorer.explore import explore
from explorer.progress import silent
from explorer.search.certificate import Certificate
from explorer.search.pareto import front, hypervolume
from explorer.storage.folder import rows_frame
from explorer.summary import Summary

tables = st.builds(
    Table,
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 1000),
    slack=st.sampled_from([0.0, 0.3, 1.0]),
    refused=st.sampled_from([0.0, 0.3]),
    period=st.sampled_from([2, 1 << 30]),
)


def searched(table: Table, folder: Path, **fields: object) -> Summary:
    """Search a table, from the combination that always runs."""
    study = table.study(baseline={"a": 0, "b": 0, "c": 0}, **fields)
    return explore(study, folder, 1, table.evaluator, silent)


def runnable(table: Table) -> bool:
    """Whether every choice has a point that runs: a study without it is refused."""
    fails = np.stack([table.fails[:, :, c % table.period] for c in range(table.shape[2])], axis=2)
    axes = [tuple(other for other in range(3) if other != axis) for axis in range(3)]
    return not any(fails.all(axis=axis).any() for axis in axes)


@given(
    tables.filter(runnable),
    st.sampled_from(["best-first", "random", "exhaustive"]),
    st.integers(1, 40),
    st.integers(1, 5),
    st.sampled_from([["time_us"], ["energy_pj"], ["time_us", "energy_pj"]]),
)
@settings(max_examples=20, deadline=None)
def test_the_bound_is_below_the_optimum_and_the_best_found_above(
    table: Table, sampler: str, points: int, lag: int, objectives: list[str]
) -> None:
    budget = {"points": points, "batch": lag}
    with tempfile.TemporaryDirectory() as name:
        summary = searched(table, Path(name), sampler=sampler, budget=budget, objectives=objectives)
        rows = rows_frame(Path(name))
    values = table.values()
    columns = [["time_us", "energy_pj"].index(objective) for objective in objectives]
    for certificate, optimum in zip(summary.certificates, values[:, columns].min(axis=0), strict=True):
        assert certificate.bound <= optimum <= certificate.best
        assert certificate.proven == (certificate.bound == certificate.best)
    found = rows.loc[rows["status"] == "simulated", objectives].to_numpy(float)
    true = values[:, columns]
    if summary.stopped == "proven":
        assert all((found <= value).all(axis=1).any() for value in true)
    assert 0 <= summary.covered <= 1
    assert summary.points <= points


@given(st.integers(0, 1000), st.sampled_from([2.0, 10.0, 50.0]))
@settings(max_examples=6, deadline=None)
def test_a_search_with_a_target_stops_no_later_than_it_must_and_is_within_it(seed: int, percent: float) -> None:
    table = Table((4, 4, 4), seed=seed, slack=0.3)
    with tempfile.TemporaryDirectory() as name:
        summary = searched(table, Path(name), target=f"{percent:g} %", budget={"points": 100, "batch": 1})
        rows = rows_frame(Path(name))
    assert summary.stopped in ("target", "proven")
    assert summary.certificate.within(percent / 100)
    assert summary.certificate.best <= (1 + percent / 100) * table.times.min()
    before = rows[rows["status"] == "simulated"].iloc[:-1]
    if len(before):
        best = float(before["time_us"].min())
        place = tuple(before[knob].to_numpy(int) for knob in "abc")
        left = table.bounds.copy()
        left[place] = np.inf
        assert min(best, left.min()) < best / (1 + percent / 100)  # one simulation earlier it was not reached


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=20))
def test_the_front_is_what_nothing_beats_and_the_hypervolume_counts_cells(points: list[tuple[int, int, int]]) -> None:
    values = np.array(points, float)
    kept = front(values)
    for place, value in enumerate(values):
        beaten = [(other <= value).all() and (other < value).any() for other in values]
        repeated = any((values[other] == value).all() for other in range(place))
        assert (place in kept) == (not any(beaten) and not repeated)
    cells = np.stack(np.meshgrid(*[np.arange(7)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    assert hypervolume(values, [7, 7, 7]) == sum((values <= cell).all(axis=1).any() for cell in cells)


def test_a_certificate_within_a_tolerance() -> None:
    assert Certificate(100, 102).within(0.02)
    assert not Certificate(100, 103).within(0.02)
    assert not Certificate(0, 3).within(0.5)
    assert Certificate(3, 3).within(None)
    assert not Certificate(2, 3).within(None)


@pytest.mark.parametrize("vectorised", [False, True])
def test_bounds_of_columns_and_of_single_points_prove_the_same(tmp_path: Path, vectorised: bool) -> None:
    table = Table((4, 4, 4), seed=7, slack=0.4, refused=0.1, period=2, vectorised=vectorised)
    summary = searched(table, tmp_path, budget={"points": 200, "batch": 4})
    assert summary.certificate.proven
    assert summary.certificate.best == table.values()[:, 0].min()
    assert summary.space_points == len(table.values())
    assert summary.invalid.total() == int(table.fails[:, :, :2].sum())
