from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from workloads.traces import MAX_TRACE_BYTES, read_azure

HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
TIME = b"2023-11-16 18:15:46.6805900"


def write(folder: Path, content: bytes) -> Path:
    path = folder / "broken.csv"
    path.write_bytes(content)
    return path


def test_times_count_from_the_first_request_in_nanoseconds(tmp_path: Path) -> None:
    rows = TIME + b",10,20\n" + b"2023-11-16 18:15:46.6805901,5,1\n" + b"2023-11-17 00:00:00,7,8\n"
    table = read_azure(write(tmp_path, HEADER + rows))
    assert table.arrival_ns.tolist() == [0, 100, (5 * 3600 + 44 * 60 + 13) * 10**9 + 319_410_000]
    assert (table.input_tokens.tolist(), table.output_tokens.tolist()) == ([10, 5, 7], [20, 1, 8])
    assert table.blocks is None


def test_the_order_of_columns_and_compression_do_not_matter(tmp_path: Path) -> None:
    plain = read_azure(write(tmp_path, HEADER + TIME + b",10,20\n"))
    packed = gzip.compress(b"\xef\xbb\xbfGeneratedTokens,TIMESTAMP,ContextTokens\r\n20," + TIME + b",10\r\n")
    other = read_azure(write(tmp_path, packed))
    assert (other.input_tokens, other.output_tokens) == (plain.input_tokens, plain.output_tokens)


@pytest.mark.parametrize("value", ["0", "-3", "", "1.5", "x", "1_0", "²", "99999999999", "5000001"])
def test_a_row_with_an_unusable_number_is_refused_with_its_line(tmp_path: Path, value: str) -> None:
    content = HEADER + TIME + b",5,5\n" + TIME + b"," + value.encode() + b",5\n"
    with pytest.raises(ValueError, match=r"broken.csv: line 3: ContextTokens is .*; allowed: an integer from 1"):
        read_azure(write(tmp_path, content))


@pytest.mark.parametrize("value", ["", "x", "0", "2023-13-16 18:15:46", "2023-11-16T18:15:46", "1969-11-16 18:15:46"])
def test_a_row_with_an_unusable_time_is_refused_with_its_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(ValueError, match=r"broken.csv: line 2: TIMESTAMP is .*; allowed: a time as in 2023-11-16 18"):
        read_azure(write(tmp_path, HEADER + value.encode() + b",5,5\n"))


def test_time_that_runs_backwards_is_refused(tmp_path: Path) -> None:
    content = HEADER + TIME + b",5,5\n2023-11-16 18:15:46,5,5\n"
    with pytest.raises(ValueError, match=r"line 3: TIMESTAMP is .*; allowed: a time not before that of the line above"):
        read_azure(write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: no column TIMESTAMP"),
        (b"TIMESTAMP,ContextTokens\nx,1\n", "line 1: no column GeneratedTokens; the file has "),
        (HEADER, "no request below the header"),
        (HEADER + TIME + b",5\n", "line 2: GeneratedTokens is ''"),
        (HEADER + b"\xff,5,5\n", "byte 40: not UTF-8"),
        (HEADER + b"x" * 200_000, "line 2: not CSV: "),
        (gzip.compress(b"x" * 1000, mtime=0)[:-9], "cannot be read"),
        (gzip.compress(b"x" * (MAX_TRACE_BYTES + 1), 1), "larger than "),
    ],
)
def test_a_file_that_is_no_trace_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"broken.csv: {message}") as refusal:
        read_azure(write(tmp_path, content))
    assert "\n" not in str(refusal.value)


def test_a_folder_in_place_of_the_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_azure(tmp_path)
