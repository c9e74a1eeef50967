from __future__ import annotations

from pathlib import Path

import pytest

from explorer.files import remove_temporaries, require_folder, require_place, write_atomically, written_atomically


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


def test_a_place_for_a_file_is_in_a_folder_and_holds_no_folder_no_device_and_nothing_that_is_read(
    tmp_path: Path,
) -> None:
    table = tmp_path / "table.csv"
    table.touch()
    require_place(tmp_path / "new.csv", "--out", table)
    require_place(table, "--out")
    (tmp_path / "link.csv").symlink_to(table)
    for path in (tmp_path / "none" / "new.csv", tmp_path, Path("/dev/null")):
        with pytest.raises(ValueError, match=rf"^--out: {path}: allowed: a file in a folder that is there$"):
            require_place(path, "--out")
    with pytest.raises(ValueError, match=r"^--out: .*link.csv: is the file that is read; allowed: another one$"):
        require_place(tmp_path / "link.csv", "--out", table)


def test_a_place_for_a_folder_is_one_or_can_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    for path in (Path("new/deep"), Path(), tmp_path):
        require_folder(path, "--pictures")
    for path, file in ((Path("file"), Path("file")), (Path("file/deep"), tmp_path / "file")):
        with pytest.raises(ValueError, match=rf"^--pictures: {path}: {file} is no folder; allowed: a folder, "):
            require_folder(path, "--pictures")


def test_a_file_that_cannot_be_written_is_named_by_its_own_path(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomically(path, b"")
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_atomically(tmp_path / "report.html"):  # noqa: PT012
        assert len(list(tmp_path.iterdir())) == 1
        remove_temporaries(tmp_path)
        assert not list(tmp_path.iterdir())
