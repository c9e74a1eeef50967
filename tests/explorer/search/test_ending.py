from __future__ import annotations

from pathlib import Path

import pytest
from table_evaluator import Table

from explorer.explore import explore
from explorer.progress import silent
from explorer.search.ending import front_table, how_it_ended
from explorer.summary import Summary


def summary_of(folder: Path, points: int, **fields: object) -> Summary:
    table = Table((4, 4, 4), seed=5, slack=0.5)
    return explore(table.study(budget={"points": points, "batch": 2}, **fields), folder, 1, table.evaluator, silent)


@pytest.mark.parametrize(
    ("points", "fields", "said"),
    [
        (64, {}, "sampler exhaustive (auto: 64 combinations for 64 points); stopped: nothing unseen"),
        (3, {}, "sampler best-first (auto: 64 combinations for 3 points); stopped: the budget is used up"),
        (60, {"sampler": "random", "target": "900 %"}, "sampler random; stopped: the target is reached"),
    ],
)
def test_the_output_says_who_searched_and_why_it_stopped(
    tmp_path: Path, points: int, fields: dict[str, object], said: str
) -> None:
    assert how_it_ended(summary_of(tmp_path, points, **fields)).startswith(said)


def test_the_front_has_a_line_per_point_and_per_objective(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, 20, objectives=["energy_pj", "time_us"])
    lines = front_table(summary).splitlines()
    assert lines[0].startswith("energy: none can be below ")
    assert lines[1].startswith("time: none can be below ")
    assert lines[2].startswith(f"{len(summary.front)} point")
    assert lines[3].split() == ["energy", "time"]
    assert len(lines) == 4 + len(summary.front)
    rows = sorted(summary.front, key=lambda row: row["energy_pj"])  # by the first objective
    for row, line in zip(rows, lines[4:], strict=True):
        assert line.endswith(f"a {row['a']}, b {row['b']}, c {row['c']}")


def test_what_is_proven_of_an_objective_is_said_as_such(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, 64, objectives=["energy_pj", "time_us"])
    assert all(proof.proven for proof in summary.certificates)
    assert front_table(summary).startswith("energy: none can be below the best found, ")
