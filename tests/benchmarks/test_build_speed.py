"""Seconds to build programs of long contexts; run with -n0 --benchmark-only.

Llama-3.1-405B on a device of eight, 256 sequences. The targets on 2 cores: 0.2 s for 131,072 tokens, and less than 1.2
times as much for twice the tokens where items are whole sequences.
"""

from __future__ import annotations

from typing import Any

import pytest

from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads.kernels import decode_attention


@pytest.mark.parametrize("split", [0, 8192], ids=["whole", "split"])
@pytest.mark.parametrize("tokens", [65_536, 131_072, 262_144])
def test_decode_attention(benchmark: Any, tokens: int, split: int) -> None:
    machine = Machine(load_machine("b200-sxm"))
    problem = decode_attention.Problem(16, 1, 128, "bf16", (tokens,) * 256)
    knobs = decode_attention.Knobs(split_tokens=split)
    benchmark.pedantic(decode_attention.compile, args=(problem, knobs, machine, 0), rounds=9, warmup_rounds=2)


def test_the_page_table_of_two_million_pages(benchmark: Any) -> None:
    """What the first reader of a table waits for."""
    machine = Machine(load_machine("b200-sxm"))
    problem = decode_attention.Problem(16, 1, 128, "bf16", (131_072,) * 256)

    def fresh() -> tuple[tuple[Any], dict[str, Any]]:
        program = decode_attention.compile(problem, decode_attention.Knobs(), machine, 0)
        return (program.tensors[decode_attention.TABLE],), {}

    benchmark.pedantic(lambda tensor: tensor.values, setup=fresh, rounds=5)
