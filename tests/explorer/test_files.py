from __future__ import annotations

from pathlib import Path

import pytest

from explorer.files import remove_temporaries, written_atomically


def test_two_who_write_a_file_at_once_each_write_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with written_atomically(path) as one:
        one.write(b"one, ")
        with written_atomically(path) as other:
            other.write(b"another")
            one.write(b"whole")
        assert path.read_bytes() == b"another"
    assert path.read_bytes() == b"one, whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_atomically(path) as file:  # noqa: PT012
        file.write(b"new")
        raise RuntimeError
    assert [(each, each.read_text()) for each in tmp_path.iterdir()] == [(path, "old")]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_atomically(tmp_path / "report.html"):  # noqa: PT012
        assert len(list(tmp_path.iterdir())) == 1
        remove_temporaries(tmp_path)
        assert not list(tmp_path.iterdir())
