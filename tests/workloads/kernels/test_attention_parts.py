from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.spec import load_machine
from workloads import paging
from workloads.kernels import (
    cascade_decode,
    compressed_attention,
    decode_attention,
    indexer,
    kv_append,
    mla_decode,
    prefill_attention,
    sparse_attention,
    sparse_gqa,
)
from workloads.kernels.latent import Heads

H100, B200 = (Machine(load_machine(name)) for name in ("h100-sxm", "b200-sxm"))
HEADS = Heads(16, 512, 64, 512, 0.1, "bf16")
SHARED = compressed_attention.heads_of(16, 512, 64, "bf16")
LATENT: dict[str, Any] = {"tile": 16, "stages": 2}
TOKENS = (300, 5000, 17)
MADE: dict[str, Callable[[tuple[int, ...], int], Program]] = {  # by contexts and seed
    "decode": lambda contexts, seed: decode_attention.compile(
        decode_attention.Problem(8, 2, 64, "bf16", contexts), decode_attention.Knobs(), H100, seed
    ),
    "split decode": lambda contexts, seed: decode_attention.compile(
        decode_attention.Problem(8, 2, 64, "bf16", contexts), decode_attention.Knobs(split_tokens=512), H100, seed
    ),
    "cascade": lambda contexts, seed: cascade_decode.compile(
        cascade_decode.Problem(8, 2, 64, "bf16", contexts, 16), cascade_decode.Knobs(), H100, seed
    ),
    "prefill": lambda contexts, seed: prefill_attention.compile(
        prefill_attention.Problem(8, 2, 64, "bf16", contexts), prefill_attention.Knobs(page_size=16), H100, seed
    ),
    "append": lambda contexts, seed: kv_append.compile(
        kv_append.Problem(8, 2, 64, "bf16", contexts, 1), kv_append.Knobs(), H100, seed
    ),
    "latent": lambda contexts, seed: mla_decode.compile(
        mla_decode.Problem(HEADS, 1, contexts), mla_decode.Knobs(**LATENT), H100, seed
    ),
    "sparse": lambda contexts, seed: sparse_attention.compile(
        sparse_attention.Problem(HEADS, 256, 1, contexts), sparse_attention.Knobs(**LATENT), H100, seed
    ),
    "sparse grouped": lambda contexts, seed: sparse_gqa.compile(
        sparse_gqa.Problem(8, 2, 64, 256, 1, "bf16", contexts), sparse_gqa.Knobs(), H100, seed
    ),
    "compressed": lambda contexts, seed: compressed_attention.compile(
        compressed_attention.Problem(SHARED, 128, 4, 64, 1, contexts),
        compressed_attention.Knobs(**LATENT),
        H100,
        seed,
    ),
    "index": lambda contexts, seed: indexer.compile(
        indexer.Problem(16, 128, 256, 1, "bf16", contexts), indexer.Knobs(), H100, seed
    ),
}


def table(program: Program) -> Any:
    """Return the tensor that says where tokens lie."""
    return next(tensor for tensor in program.tensors if tensor.name in ("page table", "slots"))


@pytest.mark.parametrize("kernel", MADE)
def test_no_page_has_a_number_before_one_is_read(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []

    def counted(*arguments: Any, **options: Any) -> Any:
        tables.append(arguments)
        return drawn(*arguments, **options)

    drawn = paging.page_table
    monkeypatch.setattr(paging, "page_table", counted)
    program = MADE[kernel](TOKENS, 3)
    assert not tables
    assert len(table(program).values) == table(program).layout.size("entry")
    assert not table(program).values.flags.writeable
    assert len(tables) == 1


@pytest.mark.parametrize("kernel", MADE)
def test_programs_of_equal_arguments_are_equal_and_those_of_another_seed_are_not(kernel: str) -> None:
    one, same, other = (MADE[kernel](TOKENS, seed) for seed in (3, 3, 4))
    assert one.tensors == same.tensors != other.tensors
    assert one.hash == same.hash != other.hash


@pytest.mark.parametrize("kernel", MADE)
def test_a_pickled_program_has_its_tables_again_but_does_not_carry_them(kernel: str) -> None:
    program = MADE[kernel]((9_000,) * 4, 3)
    before = pickle.dumps(program.tensors)
    values = table(program).values
    after = pickle.dumps(program.tensors)
    assert before == after
    again = next(tensor for tensor in pickle.loads(after) if tensor.name == table(program).name)
    assert again.values.tolist() == values.tolist()


def peak_bytes(tokens: int) -> int:
    """Return what building takes at most: Llama-3.1-405B, a device of eight, 256 sequences."""
    problem = decode_attention.Problem(16, 1, 128, "bf16", (tokens,) * 256)
    tracemalloc.start()
    try:
        decode_attention.compile(problem, decode_attention.Knobs(), B200, 0)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_building_takes_no_more_memory_for_a_context_of_twice_the_length() -> None:
    peak_bytes(1024)  # fill caches
    usual, double = peak_bytes(131_072), peak_bytes(262_144)
    assert double < 1.05 * usual
    assert double < 4 * 256 * 131_072 // 16 // 8  # an eighth of the page table
