from __future__ import annotations

import io
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from explorer.dashboard.live import Live
from explorer.files import owned
from explorer.storage.folder import rows_frame


def keep_first(results: Path, rows: int) -> bytes:
    """Leave the first rows of a results folder; return what its file held before."""
    path = results / "points.parquet"
    whole = path.read_bytes()
    path.unlink()
    if rows:
        pq.write_table(pq.read_table(io.BytesIO(whole)).slice(0, rows), path)
    return whole


def test_rows_that_are_added_are_seen_and_nothing_else_is_read_again(results: Path) -> None:
    whole = keep_first(results, 4)
    live = Live([results])
    with owned(results):  # as a running study does
        assert live.refresh() == 1
        assert len(live.study(0).rows) == 4
        before = live.study(0)
        assert live.refresh() == 1
        assert live.study(0) is before
        (results / "points.parquet").write_bytes(whole)
        assert live.refresh() == 2
        assert len(live.study(0).rows) == len(rows_frame(results)) > 4


def test_a_report_is_no_news(results: Path, reported: Path) -> None:
    live = Live([results])
    version = live.refresh()
    shutil.copytree(reported, results, ignore=shutil.ignore_patterns("*.parquet", "study.json"), dirs_exist_ok=True)
    assert (results / "report.html").is_file()
    assert live.refresh() == version


def test_a_folder_damaged_while_it_is_shown_keeps_what_was_read(results: Path) -> None:
    live = Live([results])
    rows = live.study(0).rows
    (results / "points.parquet").write_bytes(b"half")
    live.refresh()
    assert live.study(0).rows is rows


def test_a_study_without_a_point_yet_says_so_and_is_shown_when_it_has_one(results: Path) -> None:
    whole = keep_first(results, 0)
    live = Live([results])
    with pytest.raises(ValueError, match="no point was evaluated there yet"):
        live.study(0)
    assert live.studies() == []
    (results / "points.parquet").write_bytes(whole)
    live.refresh()
    assert len(live.study(0).rows) > 0
    with pytest.raises(ValueError, match="no study 7; there are 1"):
        live.study(7)
