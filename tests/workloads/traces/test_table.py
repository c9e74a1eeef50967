from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from workloads.traces import PromptBlocks, RequestTable


def int64(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize(
    ("arrival", "prompt", "answer", "message"),
    [
        ((), (), (), r"arrival_ns has shape \(0,\); allowed"),
        ((0, 1), (5,), (5, 5), r"input_tokens has shape \(1,\); allowed"),
        ((0, 1), (5, 0), (5, 5), r"input_tokens\[1\] is 0; allowed: 1 to 5000000"),
        ((0, 1), (5, 5), (5, 5_000_001), r"output_tokens\[1\] is 5000001; allowed"),
        ((3, 2), (5, 5), (5, 5), r"arrival_ns\[1\] is 2; times must not fall"),
        ((-1, 2), (5, 5), (5, 5), r"arrival_ns\[0\] is -1; times must not fall"),
    ],
)
def test_columns_that_are_no_requests_are_refused(
    arrival: tuple[int, ...], prompt: tuple[int, ...], answer: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=f"requests: {message}"):
        RequestTable("by hand", int64(*arrival), int64(*prompt), int64(*answer))


@pytest.mark.parametrize(
    ("size", "ids", "first"),
    [(4, (1, 2), (0, 1)), (4, (1,), (0, 2)), (3, (1, 2), (0, 2)), (4, (1, 2, 3), (0, 3))],
)
def test_blocks_that_do_not_cover_the_prompts_are_refused(
    size: int, ids: tuple[int, ...], first: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"requests: .* prompt blocks of .* allowed: every prompt in whole blocks, "):
        RequestTable("by hand", int64(0), int64(8), int64(1), PromptBlocks(size, int64(*ids), int64(*first)))


def test_a_table_keeps_read_only_copies() -> None:
    mine = int64(8)
    table = RequestTable("by hand", int64(0), mine, int64(1))
    mine[0] = 9
    assert table.input_tokens.tolist() == [8]
    with pytest.raises(ValueError, match="read-only"):
        table.input_tokens[0] = 1
