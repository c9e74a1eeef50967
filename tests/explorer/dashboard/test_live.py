from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from explorer.dashboard.live import Live
from explorer.explore import explore
from explorer.files import owned
from explorer.progress import silent
from explorer.report import write_report
from explorer.study import Study


@pytest.fixture
def results(fake: ModuleType, study: Study, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    explore(study, folder, 1, fake.EVALUATOR, silent)
    return folder


def test_rows_that_are_added_are_seen_and_nothing_else_is_read_again(results: Path, tmp_path: Path) -> None:
    later = sorted((results / "points").iterdir())[6:]
    for path in later:
        shutil.move(path, tmp_path / path.name)
    live = Live([results])
    with owned(results):  # as a running study does
        assert live.refresh() == 1
        assert len(live.study(0).rows) == 6
        before = live.study(0)
        assert live.refresh() == 1
        assert live.study(0) is before
        for path in later:
            shutil.move(tmp_path / path.name, path)
        assert live.refresh() == 2
        assert len(live.study(0).rows) == 6 + len(later)


def test_a_report_is_no_news(results: Path) -> None:
    live = Live([results])
    version = live.refresh()
    write_report(results)
    assert live.refresh() == version


def test_a_folder_damaged_while_it_is_shown_keeps_what_was_read(results: Path) -> None:
    live = Live([results])
    rows = live.study(0).rows
    (results / "points" / "000000.parquet").write_bytes(b"half")
    live.refresh()
    assert live.study(0).rows is rows


def test_a_study_without_a_point_yet_says_so_and_is_shown_when_it_has_one(results: Path, tmp_path: Path) -> None:
    points = results / "points"
    points.rename(tmp_path / "kept")
    points.mkdir()
    live = Live([results])
    with pytest.raises(ValueError, match="no point was evaluated there yet"):
        live.study(0)
    assert live.studies() == []
    points.rmdir()
    (tmp_path / "kept").rename(points)
    live.refresh()
    assert len(live.study(0).rows) > 0
    with pytest.raises(ValueError, match="no study 7; there are 1"):
        live.study(7)
