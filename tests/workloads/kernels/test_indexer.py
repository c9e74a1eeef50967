from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program, Tensor
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref.sparse_attention import index_scores, select
from layouts.catalog.mla import indexer_fp8
from workloads.batch import Batch
from workloads.kernels.indexer import Knobs, Problem, canonical, compile, shape

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))
LAYOUTS = ("page token dim", "token page dim", "page dim token", "dim//8 page token dim%8")


def tensor(program: Program, name: str) -> Tensor:
    return next(found for found in program.tensors if found.name == name)


def filled(program: Program, whole_numbers: bool) -> Memory:
    """Whole numbers are exact in every type, and so are their scores: many of them are equal."""
    memory = Memory(program)
    rng = np.random.default_rng(5)
    for name in ("q", "weights", "cache", "cache scale"):
        for found in program.tensors:
            if found.name == name:
                size = [found.layout.size(axis) for axis in found.layout.axes]
                values = rng.integers(-2, 3, size) if whole_numbers else rng.standard_normal(size)
                memory.write(name, np.abs(values) if name == "cache scale" else values)
    return memory


def operands(problem: Problem, knobs: Knobs, program: Program, memory: Memory) -> list[tuple[np.ndarray, ...]]:
    """Return q, keys and weights of every sequence as plain arrays, by the program's page table."""
    pool = memory.read("cache").astype(float)
    if knobs.record != "plain":
        pool = pool * memory.read("cache scale").astype(float)[..., None]
    table = tensor(program, "page table").values
    assert table is not None
    q = memory.read("q").reshape(-1, problem.heads, problem.dim).astype(float)
    weights = memory.read("weights")
    found, first, query = [], 0, 0
    for keys, count in zip(problem.keys, problem.queries.lengths, strict=True):
        pages = table[first : first + -(-keys // knobs.page_size)]
        first += len(pages)
        mine = slice(query, query + count)
        query += count
        found.append((q[mine], pool[pages].reshape(-1, problem.dim)[:keys], weights[mine]))
    return found


def check_scores(problem: Problem, knobs: Knobs) -> None:
    """fp32 throughout: a product is a sum of `dim` terms, a score one of `heads`, each term rounded twice."""
    program = compile(problem, knobs, NPU, 1)
    memory = filled(program, whole_numbers=False)
    sequences = operands(problem, knobs, program, memory)
    run(program, memory, CORES)
    scores, seen, query = memory.read("scores"), problem.seen(), 0
    for q, keys, weights in sequences:
        largest = np.einsum("qh,qhc->qc", np.abs(weights), np.einsum("qhd,cd->qhc", np.abs(q), np.abs(keys)))
        error = np.abs(scores[query : query + len(q), : len(keys)] - index_scores(q, keys, weights))
        visible = np.arange(len(keys)) < seen[query : query + len(q), None]
        query += len(q)
        assert (error <= 2.0**-24 * (problem.dim + problem.heads + 8) * largest)[visible].all()


def check_positions(problem: Problem, knobs: Knobs) -> None:
    """The formula selects for the last queries of a sequence of keys: one query at a time, among the keys it sees."""
    program = compile(problem, knobs, NPU, 1)
    memory = filled(program, whole_numbers=True)
    sequences = operands(problem, knobs, program, memory)
    run(program, memory, CORES)
    positions, seen, query = memory.read("positions"), problem.seen(), 0
    for q, keys, weights in sequences:
        scores = index_scores(q, keys, weights)
        for row in scores:
            (expected,) = select(row[None, : seen[query]], problem.top_k)
            assert positions[query, : len(expected)].tolist() == expected.tolist()
            query += 1


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    record = draw(st.sampled_from(["plain", "indexer_fp8"]))
    q_len, ratio = draw(st.sampled_from([0, 1, 2, 3])), draw(st.sampled_from([1, 1, 4]))
    least = max(q_len, ratio)
    contexts = draw(st.lists(st.one_of(st.just(least), st.integers(least, 90)), min_size=1, max_size=3))
    problem = Problem(
        draw(st.integers(1, 9)),
        draw(st.sampled_from([8, 24])) if record == "plain" else 32,
        draw(st.sampled_from([1, 7, 16, 200])),
        q_len,
        draw(st.sampled_from(["bf16", "fp16"])),
        tuple(contexts),
        ratio,
    )
    knobs = Knobs(
        query_tile=draw(st.sampled_from([1, 2, 7])),
        record=record,
        layout=draw(st.sampled_from(LAYOUTS)),
        page_size=draw(st.sampled_from([1, 5, 16])) if record == "plain" else draw(st.sampled_from([32, 64])),
        page_order=draw(st.sampled_from(["contiguous", "shuffled"])),
        tile=draw(st.sampled_from([1, 5, 16, 128])),
        stages=draw(st.integers(1, 4)),
        split_tokens=draw(st.sampled_from([0, 1, 6, 40])),
        select_tile=draw(st.sampled_from([1, 9, 2048])),
        schedule=draw(st.sampled_from(["static", "balanced", "dynamic"])),
        sram_layout=draw(st.sampled_from(["row-major", "row-major", "swizzled"])),
    )
    return problem, knobs


ODD = Problem(3, 32, 7, 2, "bf16", (61, 2))


@settings(max_examples=12)
@given(cases())
@example((replace(ODD, q_len=0, ratio=4, contexts=(61, 5)), Knobs(query_tile=5, tile=9, split_tokens=4, page_size=5)))
@example((ODD, Knobs(record="indexer_fp8", page_size=32, tile=9, stages=1, split_tokens=20, select_tile=8)))
def test_scores_and_positions_are_those_of_the_formula(case: tuple[Problem, Knobs]) -> None:
    check_scores(*case)
    check_positions(*case)


@pytest.mark.nightly
@settings(max_examples=250)
@given(cases())
def test_scores_and_positions_are_those_of_the_formula_for_very_many(case: tuple[Problem, Knobs]) -> None:
    check_scores(*case)
    check_positions(*case)


def test_a_tie_that_goes_to_the_later_token_is_found_out() -> None:
    """The comparison can fail: there are equal scores at the edge of the selection, and another choice among them."""
    problem = Problem(1, 8, 7, 2, "bf16", (61, 2))
    program = compile(problem, Knobs(), NPU, 1)
    memory = filled(program, whole_numbers=True)
    q, keys, weights = operands(problem, Knobs(), program, memory)[0]
    scores = index_scores(q, keys, weights)[1]
    later = np.sort(len(scores) - 1 - np.argsort(-scores[::-1], kind="stable")[:7])
    run(program, memory, CORES)
    assert memory.read("positions")[1].tolist() != later.tolist()


@settings(max_examples=5)
@given(cases(), st.integers(1, 4), st.sampled_from(LAYOUTS))
def test_stages_layout_and_machine_change_no_bit(case: tuple[Problem, Knobs], stages: int, layout: str) -> None:
    problem, knobs = case
    outputs = set()
    for other, machine in (
        (knobs, NPU),
        (knobs, H100),
        (replace(knobs, stages=stages), NPU),
        (replace(knobs, layout=layout), NPU),
    ):
        program = compile(problem, other, machine, 0)
        memory = filled(program, whole_numbers=False)
        run(program, memory, CORES)
        outputs.add(memory.read("scores").tobytes() + memory.read("positions").tobytes())
    assert len(outputs) == 1


def test_eight_bit_keys_lie_at_the_bytes_of_the_catalog() -> None:
    program = compile(Problem(4, 128, 5, 1, "bf16", (130, 5)), Knobs(record="indexer_fp8"), NPU, 0)
    known = indexer_fp8(4, 64, 128)
    keys, scales = tensor(program, "cache"), tensor(program, "cache scale")
    for found, field in ((keys, "key"), (scales, "scale")):
        axes = np.ix_(*(np.arange(found.layout.size(axis)) for axis in found.layout.axes))
        coordinates = dict(zip(found.layout.axes, axes, strict=True))
        addresses = found.base_bytes - keys.base_bytes + found.layout.offsets(**coordinates) * found.element_bytes
        np.testing.assert_array_equal(addresses, known.addresses(field, **coordinates))
    assert scales.base_bytes - keys.base_bytes + 4 * scales.layout.offset(page=3, token=63) == 3 * 8448 + 8192 + 252


@pytest.mark.parametrize(("record", "row"), [("plain", 256), ("indexer_fp8", 132)])
def test_traffic_is_every_key_once_and_scores_there_and_back(record: str, row: int) -> None:
    contexts, queries = (200, 64), 2
    problem = Problem(8, 128, 50, queries, "bf16", contexts)
    result = simulate(compile(problem, Knobs(record=record), NPU, 0), NPU)
    moved = {t.name: (t.load_useful_bytes, t.store_useful_bytes) for t in result.traffic}
    assert sum(load for name, (load, _) in moved.items() if name.startswith("cache")) == sum(contexts) * row
    seen = sum(2 * context - 1 for context in contexts)  # the first query does not see the second's token
    assert moved["scores"] == (4 * seen, 4 * queries * sum(contexts))
    assert moved["positions"] == (0, 4 * 2 * queries * 50)
    assert moved["q"][0] == 2 * queries * 8 * 128 * (2 if record == "plain" else 1)
    assert moved["weights"] == (4 * 2 * queries * 8, 0)
    assert 0 < result.bound.total_fs <= result.makespan_fs


def test_a_prefill_scores_the_entries_before_its_queries_by_tiles_of_queries() -> None:
    """18 tokens, an entry for every 4: pairs of queries see 0, 1, 1, 2, 2, 3, 3, 4, 4 entries at their second."""
    problem = Problem(8, 128, 3, 0, "bf16", (18,), 4)
    result = simulate(compile(problem, Knobs(), NPU, 0), NPU)
    moved = {t.name: (t.load_useful_bytes, t.store_useful_bytes) for t in result.traffic}
    assert moved["cache"] == ((1 + 1 + 2 + 2 + 3 + 3 + 4 + 4) * 256, 0)
    seen = 4 * (1 + 2 + 3) + 3 * 4  # the last three see all four
    assert moved["scores"] == (4 * seen, 4 * 2 * (1 + 1 + 2 + 2 + 3 + 3 + 4 + 4))
    assert moved["positions"] == (0, 4 * (4 * (1 + 2 + 3) + 3 * 3))


def test_a_program_does_not_grow_with_the_context() -> None:
    short, long = (compile(Problem(64, 128, 2048, 1, "bf16", (n,)), Knobs(), NPU, 0) for n in (100, 100_000))
    for before, after in zip(short.phases, long.phases, strict=True):
        assert [len(queue) for queue in before.queues] == [len(queue) for queue in after.queues]
        assert len(before.tasks) == len(after.tasks) == 1


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = Problem(4, 32, 7, 1, "bf16", (400, 9))
    key = canonical(problem, Knobs())
    same = [Knobs(layout="page token dim//4 dim%4"), Knobs(split_tokens=400), Knobs(select_tile=400)]
    assert {canonical(problem, knobs) for knobs in same} == {key}
    different = [Knobs(layout="token page dim"), Knobs(split_tokens=399), Knobs(tile=32), Knobs(stages=2)]
    different += [Knobs(page_size=32), Knobs(page_order="contiguous"), Knobs(schedule="dynamic")]
    different += [Knobs(record="indexer_fp8"), Knobs(select_tile=399)]
    assert canonical(problem, Knobs(query_tile=1)) == key  # there is one query
    several = replace(problem, q_len=2)
    assert canonical(several, Knobs(query_tile=1)) != canonical(several, Knobs())
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == len(different) + 1


def test_problems_and_knobs_out_of_range_are_named() -> None:
    assert shape(None, Batch((5,), "test"), {}) == Problem(64, 128, 2048, 1, "bf16", (5,))
    with pytest.raises(ValueError, match=r"^batch: kernel indexer needs one"):
        shape(None, None, {})
    with pytest.raises(ValueError, match=r"^batch: sequence 0 has 5 tokens; allowed: at least its q_len, 6"):
        shape(None, Batch((5,), "test"), {"q_len": 6})
    with pytest.raises(ValueError, match=r"^batch: a context is 3; allowed: the ratio \(4\) or more"):
        shape(None, Batch((5, 3), "test"), {"ratio": 4})
    with pytest.raises(ValueError, match=r"^record: unknown 'fp8'; known: indexer_fp8, plain"):
        compile(ODD, Knobs(record="fp8"), NPU, 0)
    with pytest.raises(ValueError, match=r"indexer_fp8: page_size is 16, allowed"):
        compile(ODD, Knobs(record="indexer_fp8", page_size=16), NPU, 0)
    with pytest.raises(ValueError, match=r"phase select needs .* sized by select_tile=400000"):
        compile(replace(ODD, contexts=(400_000,)), Knobs(select_tile=400_000), NPU, 0)
