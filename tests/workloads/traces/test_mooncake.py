from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workloads.traces import read_mooncake
from workloads.traces.mooncake import BLOCK_TOKENS


def line(**changes: Any) -> str:
    request = {"timestamp": 7, "input_length": 513, "output_length": 2, "hash_ids": [4, 9]} | changes
    return json.dumps({name: value for name, value in request.items() if value is not ...})


def write(folder: Path, *lines: str, packed: bool = False) -> Path:
    path = folder / "trace.jsonl"
    content = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_a_request_has_its_arrival_its_lengths_and_the_blocks_of_its_prompt(tmp_path: Path, packed: bool) -> None:
    lines = (line(), "", line(timestamp=12, input_length=512, hash_ids=[4], model="x"))
    table = read_mooncake(write(tmp_path, *lines, packed=packed))
    assert table.arrival_ns.tolist() == [0, 5_000_000]
    assert (table.input_tokens.tolist(), table.output_tokens.tolist()) == ([513, 512], [2, 2])
    assert table.blocks is not None
    assert table.blocks.block_tokens == BLOCK_TOKENS
    assert [table.blocks.of(request).tolist() for request in (0, 1)] == [[4, 9], [4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 2: not JSON: "),
        ("[" * 100_000, "line 2: not JSON: "),
        ("7" * 5000, "line 2: not JSON: "),
        ("[1, 2]", r"line 2: the line is \[1, 2\]; allowed: an object with timestamp, input_length"),
        (line(hash_ids=...), "line 2: hash_ids is missing; allowed: an object with"),
        (line(timestamp=6), r"line 2: timestamp is 6; allowed: milliseconds from 7 \(never falling\) to "),
        (line(timestamp=7.5), "line 2: timestamp is 7.5"),
        (line(timestamp=10**13), "line 2: timestamp is 10000000000000"),
        (line(input_length=0), "line 2: input_length is 0; allowed: an integer from 1 to 5000000"),
        (line(input_length=True), "line 2: input_length is True"),
        (line(output_length="3"), "line 2: output_length is '3'; allowed: an integer from 1 to 5000000"),
        (line(output_length=5_000_001), "line 2: output_length is 5000001"),
        (line(hash_ids=[4]), "line 2: hash_ids is 'a list of 1'; allowed: a list of 2, one per 512 tokens of input_le"),
        (line(hash_ids="4, 9"), "line 2: hash_ids is '4, 9'; allowed: a list of 2"),
        (line(hash_ids=[4, -1]), r"line 2: hash_ids\[1\] is -1; allowed: an integer from 0 to "),
        (line(hash_ids=[4, 2**62]), r"line 2: hash_ids\[1\] is 4611686018427387904; allowed"),
        (line(hash_ids=[4, "x" * 1000]), r"line 2: hash_ids\[1\] is 'x{39}\.\.\.; allowed"),
    ],
)
def test_a_line_that_is_no_request_is_refused_with_its_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"trace.jsonl: {message}") as refusal:
        read_mooncake(write(tmp_path, line(), text))
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300 + len(str(tmp_path))


def test_a_file_without_requests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trace.jsonl: no request in any line"):
        read_mooncake(write(tmp_path, "", " "))


def test_the_published_trace_has_its_requests_and_its_shared_blocks(data_file: Callable[[str], Path]) -> None:
    path = data_file("requests/mooncake-conversation.jsonl.gz")
    table = read_mooncake(path)
    assert len(table) == 12_031  # the published file
    assert table.blocks is not None
    parents: dict[int, int] = {}
    for request in range(len(table)):
        before = -1
        for block in table.blocks.of(request).tolist():
            assert parents.setdefault(block, before) == before  # a number names the whole prefix that ends with it
            before = block
    assert (len(table.blocks.ids), len(parents)) == (288_500, 182_790)  # of the published file, counted without us
