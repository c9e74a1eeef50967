"""Archives of arrays are read as they were saved, and no further than allowed; hostile ones in the tests of users."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.npz_file import Wanted, archive_bytes, read_npz, read_text

MOST = 1000
KINDS = ("bool", "int16", "uint64", "float16", "float64")


@given(st.sampled_from(KINDS), st.sampled_from("<>"), st.booleans(), st.integers(1, 9), st.integers(1, 9), st.data())
def test_an_array_comes_back_in_any_order_of_bytes_and_axes(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    order: str,
    transposed: bool,
    rows: int,
    columns: int,
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "some.npz"
    values = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 2, (rows, columns))
    saved = values.astype(np.dtype(name).newbyteorder(order), order="F" if transposed else "C")
    np.savez(path, table=saved)
    wanted = [Wanted("table", (name,), MOST, 2), Wanted("other", KINDS, MOST, optional=True)]
    found = read_npz(path, wanted)
    assert list(found) == ["table"]
    assert found["table"].dtype == np.dtype(name)
    np.testing.assert_array_equal(found["table"], saved)


@pytest.mark.parametrize("shape", ["(1000000000,)", "(999999999999999999,)", "(1001,)"])
def test_a_shape_that_is_not_allowed_is_refused_before_there_is_room_for_it(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "large.npz"
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
        file.writestr("list.npy", start + header + bytes(50_000_000))  # 50 kB in the file
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"large.npz: list: shape .*; allowed: one list of 1 .. 1000 values"):
        read_npz(path, [Wanted("list", ("float64",), MOST)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_arrays_and_texts_are_written_the_same_to_the_byte_and_read_back(tmp_path: Path) -> None:
    arrays = {"b": np.arange(6, dtype=np.int32), "a": np.zeros(0, np.int64)}
    data = archive_bytes(arrays, {"z.json": "{}"})
    assert data == archive_bytes(dict(reversed(arrays.items())), {"z.json": "{}"})
    path = tmp_path / "some.npz"
    path.write_bytes(data)
    found = read_npz(path, [Wanted("a", ("int64",), 9, least=0), Wanted("b", ("int32",), 9)], most_bytes=1000)
    assert {name: values.tolist() for name, values in found.items()} == {"a": [], "b": [0, 1, 2, 3, 4, 5]}
    assert read_text(path, "z.json", 2, "nothing") == "{}"
    with pytest.raises(ValueError, match=r"some.npz: a: shape \(0,\); allowed: one list of 1 .. 9 values"):
        read_npz(path, [Wanted("a", ("int64",), 9)])


def test_an_archive_that_holds_more_than_allowed_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    path.write_bytes(archive_bytes({"a": np.zeros(10_000_000, np.int64)}, {}))  # 80 MB in less than 1 MB
    with pytest.raises(ValueError, match=r"bomb.npz: \d+ B in it; allowed: up to 1000000 B"):
        read_npz(path, [Wanted("a", ("int64",), 10_000_000)], most_bytes=1_000_000)


def test_names_in_an_archive_do_not_break_the_line_of_an_error(tmp_path: Path) -> None:
    path = tmp_path / "odd.npz"
    path.write_bytes(archive_bytes({"a\nb": np.zeros(1)}, {}))
    with pytest.raises(ValueError, match=r"^.*odd.npz: no array list; it has 'a\\nb', needed are list$"):
        read_npz(path, [Wanted("list", ("float64",), MOST)])


def test_a_broken_file_of_many_arrays_is_refused_in_a_short_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"broken.npz: no .npz file of a0 and a1 and a2 and 97 more: File is not"):
        read_npz(path, [Wanted(f"a{i}", ("int64",), MOST) for i in range(100)])
