"""Spaces that are bounded in columns: keys and what cannot run are found when a point is about to be simulated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from table_evaluator import Table

from explorer.explore import explore
from explorer.progress import silent
from explorer.query import Query
from explorer.space.space import span
from explorer.storage.folder import rows_frame, space_frame

SHAPE = (20, 20, 20)  # more combinations than get keys before a search


def test_a_point_spelled_twice_is_simulated_once_and_its_twin_is_settled_with_it(tmp_path: Path) -> None:
    table = Table(SHAPE, seed=1, slack=0.1, period=10, vectorised=True, smooth=True)
    summary = explore(table.study(budget={"points": 400, "batch": 4}), tmp_path, 1, table.evaluator, silent)
    assert len(table.simulated) == len(set(table.simulated)) == summary.simulated
    assert summary.certificate.proven
    assert summary.certificate.best == table.values()[:, 0].min()
    space = space_frame(tmp_path)
    assert set(rows_frame(tmp_path)["key"]) <= set(space["key"])
    assert 8000 - 400 < len(space) < 8000  # twins of what was asked for are gone, the others stand there still


def test_what_cannot_run_is_found_when_it_is_tried_and_counted(tmp_path: Path) -> None:
    table = Table(SHAPE, seed=2, slack=0.3, refused=0.3, vectorised=True, smooth=True)
    study = table.study(budget={"points": 60, "batch": 4}, baseline={"a": 0, "b": 0, "c": 0})
    summary = explore(study, tmp_path, 1, table.evaluator, silent)
    rows = rows_frame(tmp_path)
    assert summary.invalid == {"does not fit": int((rows["status"] == "invalid").sum())}
    assert summary.invalid.total() > 0
    assert summary.certificate.bound <= table.values()[:, 0].min() <= summary.certificate.best


def test_refusing_combinations_for_reasons_of_their_own_takes_time_in_proportion() -> None:
    table = Table(SHAPE)
    space = span(table.study(), table.evaluator)

    class Counted(str):
        """A reason that counts how often it is compared."""

        __slots__ = ()
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    for index in range(2000):
        space.refuse(index, Counted(f"reason {index // 2}"))
    assert Counted.compared <= 2 * 2000
    assert [space.reasons[place] for place in space.reason[:2000]] == [f"reason {place // 2}" for place in range(2000)]


def test_what_has_no_key_is_settled_by_its_row(tmp_path: Path) -> None:
    table = Table(SHAPE, seed=2, slack=0.05, vectorised=True, smooth=True)

    def key(query: Query) -> str:
        if sum(table.place(query)) % 3 == 1:
            raise ValueError("no layout")
        return table.key(query)

    study = table.study(budget={"points": 400, "batch": 4})
    summary = explore(study, tmp_path, 1, replace(table.evaluator, key=key), silent)
    places = np.indices(SHAPE).sum(axis=0)
    assert summary.invalid["no layout"] > 0
    assert summary.certificate.best == table.times[places % 3 != 1].min()
    assert summary.stopped == "proven"
    assert summary.covered == 1


def test_a_search_of_a_large_space_that_stopped_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    table = Table(SHAPE, seed=3, slack=0.5, refused=0.1, period=10, vectorised=True, smooth=True)
    study = table.study(budget={"points": 40, "batch": 4}, baseline={"a": 0, "b": 0, "c": 0})
    whole = explore(study, tmp_path / "whole", 1, table.evaluator, silent)

    def stop(what: str, done: int, total: int) -> None:
        if what == "points" and done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explore(study, tmp_path / "stopped", 1, table.evaluator, stop)
    assert set(rows_frame(tmp_path / "stopped")["key"]) <= set(space_frame(tmp_path / "stopped")["key"])
    again = explore(study, tmp_path / "stopped", 1, table.evaluator, silent)
    pd.testing.assert_frame_equal(rows_frame(tmp_path / "stopped"), rows_frame(tmp_path / "whole"))
    assert again.record() == whole.record()
