from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref.attention import decode_attention
from workloads.batch import Batch
from workloads.kernels import decode_attention as plain
from workloads.kernels.cascade_decode import KV, TABLE, Knobs, Problem, canonical, compile, shape
from workloads.model import load_model

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))

Values = np.ndarray[Any, Any]
Tolerance = Callable[..., np.ndarray[Any, Any]]


def filled(program: Program) -> Memory:
    memory, rng = Memory(program), np.random.default_rng(3)
    for tensor in program.tensors:
        if tensor.name in ("q", "kv", "sinks"):
            memory.write(tensor.name, rng.standard_normal([tensor.layout.size(axis) for axis in tensor.layout.axes]))
    return memory


def expected(problem: Problem, knobs: Knobs, program: Program) -> tuple[Values, tuple[Any, ...]]:
    """Return the exact values, and the q, keys and values by sequence."""
    memory, table = filled(program), program.tensors[TABLE].values
    assert table is not None
    pool, first, runs = memory.read("kv"), 0, []
    lengths = [problem.prefix] * problem.prefixes + [context - problem.prefix for context in problem.contexts]
    for tokens in lengths:
        pages = table[first : first + -(-tokens // knobs.page_size)]
        first += len(pages)
        sides = pool[pages].transpose(1, 0, 3, 2, 4).reshape(2, -1, problem.heads_kv, problem.head_dim)
        runs.append(sides[:, :tokens])
    shared, own = runs[: problem.prefixes], runs[problem.prefixes :]
    both = [np.concatenate([shared[i // problem.together], mine], axis=1) for i, mine in enumerate(own)]
    q, sinks = memory.read("q"), memory.read("sinks") if problem.sinks else None
    keys, values = [side[0] for side in both], [side[1] for side in both]
    exact = decode_attention(q, keys, values, problem.head_dim**-0.5, sinks=sinks, soft_cap=problem.soft_cap)
    return exact, ([row[None] for row in q], keys, values)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    heads_kv, prefix = draw(st.integers(1, 2)), draw(st.integers(1, 50))
    problem = Problem(
        heads_kv * draw(st.integers(1, 4)),
        heads_kv,
        draw(st.sampled_from([8, 16])),
        draw(st.sampled_from(["bf16", "fp16"])),
        tuple(prefix + own for own in draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))),
        prefix,
        draw(st.integers(0, 4)),
        draw(st.integers(0, 1)),
        draw(st.sampled_from([0, 0, 3, 30])),
    )
    knobs = Knobs(
        draw(st.sampled_from(["page kv token head dim", "head kv page dim token"])),
        draw(st.sampled_from([1, 4, 7, 16])),
        draw(st.sampled_from(["contiguous", "shuffled"])),
        draw(st.sampled_from([1, 5, 8, 64])),
        draw(st.integers(1, 3)),
        draw(st.sampled_from([0, 1, 6, 16])),
        draw(st.sampled_from(["static", "balanced", "dynamic"])),
        tile_q=draw(st.sampled_from([4, 7, 64])),
        split_prefix=draw(st.sampled_from([0, 0, 1, 9, 30])),
    )
    return problem, knobs


def check_values(tolerance: Tolerance, case: tuple[Problem, Knobs], seed: int) -> None:
    problem, knobs = case
    program = compile(problem, knobs, NPU, seed)
    exact, operands = expected(problem, knobs, program)
    memory = filled(program)
    run(program, memory, CORES)
    assert (np.abs(memory.read("out").astype(float) - exact) <= tolerance(problem, *operands)).all()


@settings(max_examples=15)
@given(cases(), st.integers(0, 3))
@example((Problem(4, 2, 16, "bf16", (20, 31, 40, 18, 22), 17, 2, 1), Knobs(tile=8, split_prefix=6, tile_q=2)), 1)
def test_the_program_computes_attention_within_the_roundings_of_its_dtype(
    attention_tolerance: Tolerance, case: tuple[Problem, Knobs], seed: int
) -> None:
    check_values(attention_tolerance, case, seed)


@pytest.mark.nightly
@settings(max_examples=300, derandomize=False)
@given(cases(), st.integers(0, 3))
def test_the_program_computes_attention_for_very_many(
    attention_tolerance: Tolerance, case: tuple[Problem, Knobs], seed: int
) -> None:
    check_values(attention_tolerance, case, seed)


def test_a_prefix_is_loaded_once_for_all_that_share_it_and_every_part_is_stored_once() -> None:
    problem = Problem(4, 2, 16, "bf16", (70, 80, 90, 75, 66), 64, 3)
    result = simulate(compile(problem, Knobs(split_tokens=16, split_prefix=40), NPU, 0), NPU)
    assert result.bound.total_fs <= result.makespan_fs
    loaded = {t.name: t.load_useful_bytes for t in result.traffic}
    stored = {t.name: t.store_useful_bytes for t in result.traffic}
    own, row_bytes = (6, 16, 26, 11, 2), 16 * 2
    assert loaded["kv"] == 2 * 2 * (2 * 64 + sum(own)) * row_bytes
    parts = 5 * 2 + 1 + 1 + 2 + 1 + 1
    assert stored["partial"] == loaded["partial"] == parts * 2 * 2 * 17 * 4
    assert stored["out"] == 5 * 4 * row_bytes
    assert loaded["q"] == parts * 4 * row_bytes  # every part needs its queries


def test_tiles_of_queries_that_hold_fewer_sequences_load_the_prefix_more_often() -> None:
    problem = Problem(4, 1, 16, "bf16", (65,) * 6, 64)
    for tile_q, times in ((64, 1), (12, 2), (4, 6)):
        phases = compile(problem, Knobs(tile_q=tile_q), NPU, 0).phases
        assert [phase.name for phase in phases] == ["attend to prefixes", "attend", "combine"]
        tokens = phases[0].tasks[:, phases[0].columns.index("tokens")]
        assert tokens.sum() == times * 64


def test_sharing_a_long_prefix_is_faster_than_loading_it_for_every_sequence() -> None:
    contexts = (1040,) * 24
    knobs = Knobs(split_prefix=256)
    shared = compile(Problem(8, 2, 64, "bf16", contexts, 1024), knobs, NPU, 0)
    alone = plain.compile(plain.Problem(8, 2, 64, "bf16", contexts), plain.Knobs(), NPU, 0)
    assert 2 * simulate(shared, NPU).makespan_fs < simulate(alone, NPU).makespan_fs


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = Problem(8, 2, 16, "bf16", (40, 39), 30)
    key = canonical(problem, Knobs())
    assert canonical(problem, Knobs(split_tokens=10)) == canonical(problem, Knobs(split_prefix=30)) == key
    assert canonical(problem, Knobs(tile_q=8)) == key
    different = [Knobs(tile_q=4), Knobs(split_prefix=29), Knobs(split_tokens=9), Knobs(tile=32), Knobs(page_size=8)]
    different += [Knobs(epilogue="exposed")]
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == len(different) + 1


def test_a_sequence_without_a_token_of_its_own_and_a_tile_too_low_are_refused() -> None:
    problem = shape(load_model("llama-3.1-8b"), Batch((9, 30), "test"), {"prefix": 8})
    assert (problem.together, problem.prefixes, problem.runs) == (2, 1, (8, 1, 22))
    with pytest.raises(ValueError, match=r"^batch: sequence 0: context is 9; allowed: more than the prefix \(9\)"):
        shape(load_model("llama-3.1-8b"), Batch((9, 30), "test"), {"prefix": 9})
    with pytest.raises(ValueError, match=r"^options: size prefix is missing"):
        shape(load_model("llama-3.1-8b"), Batch((9, 30), "test"), {})
    with pytest.raises(ValueError, match=r"^tile_q: 3; allowed: at least the 4 query heads"):
        compile(problem, Knobs(tile_q=3), NPU, 0)


def test_the_pool_holds_every_prefix_once() -> None:
    problem = Problem(4, 2, 16, "bf16", (70, 80, 90), 64, 2)
    program = compile(problem, Knobs(page_size=16), NPU, 0)
    pages = 2 * 4 + 1 + 1 + 2
    assert program.tensors[KV].size_bytes == pages * 16 * 2 * 2 * 16 * 2
