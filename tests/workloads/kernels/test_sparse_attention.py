from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Program, Tensor
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref.mla import dequantise
from kernels_ref.sparse_attention import index_scores, select, sparse_mla
from layouts.catalog.mla import fp8_ds_mla, model1_mla
from workloads.batch import Batch
from workloads.kernels import indexer
from workloads.kernels.latent import Heads
from workloads.kernels.sparse_attention import Knobs, Problem, canonical, compile, program, shape

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))
UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}
LAYOUTS = ("page token dim", "token page dim", "page dim token", "dim//8 page token dim%8")
GROUPS = {"fp8_ds_mla": 128, "model1": 64}


def tensor(compiled: Program, name: str) -> Tensor:
    return next(found for found in compiled.tensors if found.name == name)


def filled(compiled: Program, seed: int = 3) -> Memory:
    memory = Memory(compiled)
    rng = np.random.default_rng(seed)
    for found in compiled.tensors:
        if found.name == "q" or found.name.startswith("cache"):
            values = rng.standard_normal([found.layout.size(axis) for axis in found.layout.axes])
            memory.write(found.name, np.exp2(np.rint(values)) if found.dtype == "e8m0" else values)
    return memory


def pool_of(knobs: Knobs, memory: Memory) -> np.ndarray:
    """Return the cache as bf16 numbers [slot, dim]."""
    if knobs.record == "plain":
        return memory.read("cache").astype(float)
    wide = dequantise(memory.read("cache nope"), memory.read("cache scale"), GROUPS[knobs.record])
    wide = wide.astype(ml_dtypes.bfloat16).astype(float)
    return np.concatenate([wide, memory.read("cache rope").astype(float)], axis=-1)


def check_values(problem: Problem, knobs: Knobs, seed: int = 0) -> None:
    compiled = compile(problem, knobs, NPU, seed)
    memory = filled(compiled)
    pool, slots, heads = pool_of(knobs, memory), tensor(compiled, "slots").values, problem.heads
    assert slots is not None
    counts = np.minimum(problem.seen(), problem.top_k)
    chosen = np.split(slots, np.cumsum(counts)[:-1])
    q = memory.read("q").reshape(len(counts), heads.count, heads.dim).astype(float)
    expected = sparse_mla(q, pool, chosen, heads.value_dim, heads.scale)
    run(compiled, memory, CORES)
    error = np.abs(memory.read("out").astype(float).reshape(expected.shape) - expected)
    for i, picked in enumerate(chosen):
        assert error[i].max() <= tolerance(heads, q[i], pool[picked])


def tolerance(heads: Heads, q: np.ndarray, key: np.ndarray) -> float:
    """Return how far a result may be from the exact one: as for mla-decode, two roundings and sums in fp32."""
    u, w = UNIT_ROUNDOFF[heads.dtype], UNIT_ROUNDOFF["fp32"]
    magnitude = heads.scale * float(np.abs(q).max() * np.abs(key).max()) * heads.dim
    fp32 = w * (2 * (heads.dim + 8) * magnitude + 4 * len(key) + 32)
    subnormal = 2.0**-25 * len(key) if heads.dtype == "fp16" else 0.0
    return (2 * u + u * u + fp32 + subnormal) * float(np.abs(key[:, : heads.value_dim]).max()) + subnormal


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    record = draw(st.sampled_from(["plain", "plain", "fp8_ds_mla", "model1"]))
    rank, rope, value, dtype = 24, 8, draw(st.sampled_from([5, 24, 32])), draw(st.sampled_from(["bf16", "fp16"]))
    if record != "plain":
        rank, rope, value, dtype = (512 if record == "fp8_ds_mla" else 448), 64, 512, "bf16"
    q_len = draw(st.integers(0, 3))
    contexts = draw(st.lists(st.one_of(st.just(max(q_len, 1)), st.integers(max(q_len, 1), 60)), min_size=1, max_size=3))
    heads = Heads(draw(st.integers(1, 9)), rank, rope, value, (rank + rope) ** -0.5, dtype)
    knobs = Knobs(
        record=record,
        layout=draw(st.sampled_from(LAYOUTS)),
        page_size=draw(st.sampled_from([1, 3, 16, 64])),
        page_order=draw(st.sampled_from(["contiguous", "shuffled"])),
        selection=draw(st.sampled_from(["uniform", "recent"])),
        head_tile=draw(st.sampled_from([1, 4, 64])),
        tile=draw(st.sampled_from([1, 5, 16, 64])),
        stages=draw(st.integers(2, 4)),
        split_tokens=draw(st.sampled_from([0, 0, 1, 6, 20])),
        schedule=draw(st.sampled_from(["static", "balanced", "dynamic"])),
        sram_layout=draw(st.sampled_from(["row-major", "row-major", "swizzled"])),
    )
    return Problem(heads, draw(st.sampled_from([1, 7, 20, 100])), q_len, tuple(contexts)), knobs


SMALL = Heads(8, 24, 8, 24, 0.2, "bf16")


@settings(max_examples=12)
@given(cases(), st.integers(0, 3))
@example((Problem(SMALL, 17, 2, (50, 3)), Knobs(page_size=7, tile=5, head_tile=3, split_tokens=6, stages=2)), 0)
def test_the_program_attends_to_the_selected_tokens(case: tuple[Problem, Knobs], seed: int) -> None:
    check_values(*case, seed)


@pytest.mark.nightly
@settings(max_examples=250)
@given(cases(), st.integers(0, 3))
def test_the_program_attends_to_the_selected_tokens_for_very_many(case: tuple[Problem, Knobs], seed: int) -> None:
    check_values(*case, seed)


def test_what_the_indexer_program_selects_is_what_attention_is_compiled_with() -> None:
    """The chain: an indexer's program writes positions, equal to the formula's; attention over them, likewise."""
    contexts, queries, top_k = (70, 9, 33), 2, 12
    asked = indexer.Problem(4, 16, top_k, queries, "bf16", contexts)
    first = indexer.compile(asked, indexer.Knobs(page_order="contiguous", page_size=16), NPU, 0)
    memory = Memory(first)
    rng = np.random.default_rng(7)
    for name in ("q", "weights", "cache"):  # whole numbers: scores are exact, and some are equal
        found = tensor(first, name)
        memory.write(name, rng.integers(-3, 4, [found.layout.size(axis) for axis in found.layout.axes]))
    run(first, memory, CORES)
    q, weights = memory.read("q").reshape(3, queries, 4, 16), memory.read("weights").reshape(3, queries, 4)
    pool, start, expected = memory.read("cache").reshape(-1, 16), 0, []
    for i, context in enumerate(contexts):
        expected += select(index_scores(q[i], pool[start : start + context], weights[i]), top_k)
        start += -(-context // 16) * 16
    written = memory.read("positions")
    positions = [written[i, : len(chosen)] for i, chosen in enumerate(expected)]
    assert [p.tolist() for p in positions] == [p.tolist() for p in expected]

    problem, knobs = Problem(SMALL, top_k, queries, contexts), Knobs(page_size=16, page_order="contiguous")
    second = program(problem, knobs, NPU, 0, positions)
    memory = filled(second)
    keys = memory.read("cache").astype(float)
    start = 0
    heads = memory.read("q").reshape(3, queries, SMALL.count, SMALL.dim).astype(float)
    run(second, memory, CORES)
    out = memory.read("out").astype(float).reshape(3, queries, SMALL.count, SMALL.value_dim)
    for i, context in enumerate(contexts):
        mine = keys[start : start + context]
        exact = sparse_mla(heads[i], mine, expected[queries * i : queries * (i + 1)], SMALL.value_dim, SMALL.scale)
        assert np.abs(out[i] - exact).max() <= tolerance(SMALL, heads[i], mine)
        start += -(-context // 16) * 16


@settings(max_examples=5)
@given(cases(), st.sampled_from(["static", "balanced", "dynamic"]), st.sampled_from(LAYOUTS))
def test_schedule_layout_and_machine_change_no_bit(case: tuple[Problem, Knobs], schedule: str, layout: str) -> None:
    problem, knobs = case
    knobs = replace(knobs, head_tile=min(knobs.head_tile, 7), tile=min(knobs.tile, 16))
    outputs = set()
    for other, machine in (
        (knobs, NPU),
        (knobs, H100),
        (replace(knobs, schedule=schedule), NPU),
        (replace(knobs, layout=layout), NPU),
    ):
        compiled = compile(problem, other, machine, 0)
        memory = filled(compiled)
        run(compiled, memory, CORES)
        outputs.add(memory.read("out").tobytes())
    assert len(outputs) == 1


@pytest.mark.parametrize(("record", "catalog", "rank"), [("fp8_ds_mla", fp8_ds_mla, 512), ("model1", model1_mla, 448)])
def test_a_slot_of_a_record_is_its_token_in_its_page(record: str, catalog: Any, rank: int) -> None:
    heads = Heads(4, rank, 64, 512, 0.1, "bf16")
    compiled = compile(Problem(heads, 5, 1, (130,)), Knobs(record=record, page_size=48), NPU, 0)
    known = catalog(3, 48)
    pool = tensor(compiled, "cache nope").base_bytes
    for field, last in (("nope", "dim"), ("scale", "tile"), ("rope", "dim")):
        found = tensor(compiled, f"cache {field}")
        for slot in (0, 47, 48, 100, 143):
            address = found.base_bytes - pool + found.element_bytes * found.layout.offset(**{"token": slot, last: 3})
            assert address == known.address(field, page=slot // 48, token=slot % 48, **{last: 3})


@pytest.mark.parametrize(("record", "row"), [("plain", 1152), ("fp8_ds_mla", 656)])
def test_traffic_is_every_selected_token_once_per_tile_of_heads(record: str, row: int) -> None:
    problem = Problem(Heads(32, 512, 64, 512, 0.1, "bf16"), 50, 2, (200, 30))
    selected = 2 * 50 + 29 + 30
    for head_tile, times in ((32, 1), (16, 2)):
        knobs = Knobs(record=record, head_tile=head_tile, split_tokens=30)
        result = simulate(compile(problem, knobs, NPU, 0), NPU)
        moved = {t.name: t for t in result.traffic}
        cache = [t for name, t in moved.items() if name.startswith("cache")]
        assert sum(t.load_useful_bytes for t in cache) == selected * row * times
        assert {t.indices for t in cache} == {selected * times}
        assert moved["out"].store_useful_bytes == 4 * 32 * 512 * 2
        assert 0 < result.bound.total_fs <= result.makespan_fs


def test_the_queries_of_a_prefill_see_what_comes_before_them() -> None:
    problem = Problem(SMALL, 4, 0, (6, 2))
    assert problem.seen().tolist() == [1, 2, 3, 4, 5, 6, 1, 2]
    result = simulate(compile(problem, Knobs(), NPU, 0), NPU)
    assert {t.indices for t in result.traffic if t.name == "cache"} == {1 + 2 + 3 + 4 + 4 + 4 + 1 + 2}


def test_tokens_far_apart_fetch_more_bursts_where_they_lie_across_them() -> None:
    problem = Problem(Heads(16, 56, 8, 56, 0.1, "bf16"), 64, 1, (4000,))
    fetched = {}
    for layout in ("page token dim", "page dim token"):
        result = simulate(compile(problem, Knobs(layout=layout), NPU, 0), NPU)
        (cache,) = [t for t in result.traffic if t.name == "cache"]
        fetched[layout] = cache.load_fetched_bytes / cache.load_useful_bytes
    assert fetched["page token dim"] == 1
    assert fetched["page dim token"] == 16  # a burst of 32 bytes for every element of two


@pytest.mark.parametrize("record", ["plain", "fp8_ds_mla"])
def test_an_engine_without_gather_takes_a_descriptor_per_token(record: str) -> None:
    problem = Problem(Heads(16, 512, 64, 512, 0.1, "bf16"), 50, 2, (200, 30))
    knobs = Knobs(record=record, head_tile=16, tile=16, stages=2)
    result = simulate(compile(problem, knobs, H100, 0), H100)
    assert {t.descriptors for t in result.traffic if t.name.startswith("cache")} == {2 * 50 + 29 + 30}
    assert 0 < result.bound.total_fs <= result.makespan_fs


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = Problem(Heads(8, 512, 64, 512, 0.1, "bf16"), 50, 1, (400, 9))
    key = canonical(problem, Knobs())
    same = [Knobs(layout="page token dim//4 dim%4"), Knobs(split_tokens=50), Knobs(head_tile=8)]
    assert {canonical(problem, knobs) for knobs in same} == {key}
    different = [Knobs(layout="token page dim"), Knobs(split_tokens=49), Knobs(tile=32), Knobs(stages=2)]
    different += [Knobs(page_size=32), Knobs(page_order="contiguous"), Knobs(schedule="dynamic"), Knobs(head_tile=7)]
    different += [Knobs(record="fp8_ds_mla"), Knobs(selection="recent")]
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == len(different) + 1


def test_problems_and_positions_that_cannot_be_are_refused() -> None:
    problem = shape(None, Batch((5,), "test"), {"heads": 128})
    assert (problem.top_k, problem.q_len, problem.heads.dim) == (2048, 1, 576)
    with pytest.raises(ValueError, match=r"^batch: kernel sparse-attention needs one"):
        shape(None, None, {"heads": 128})
    with pytest.raises(ValueError, match=r"^batch: sequence 0 has 5 tokens; allowed: at least its q_len, 6"):
        shape(None, Batch((5,), "test"), {"heads": 1, "q_len": 6})
    with pytest.raises(ValueError, match=r"^selection: unknown 'all'; known: "):
        compile(problem, Knobs(selection="all"), NPU, 0)
    with pytest.raises(ValueError, match=r"^record: model1 holds 448 [+] 64 columns"):
        compile(problem, Knobs(record="model1"), NPU, 0)
    with pytest.raises(ValueError, match=r"^positions: 0 arrays; allowed: one for each of 1 queries"):
        program(problem, Knobs(), NPU, 0, [])
    for wrong, ends in (([], r"\(\)"), ([0, 5], r"\(0, 5\)"), ([-1], r"\(-1, -1\)")):
        with pytest.raises(ValueError, match=rf"^positions: query 0 has ends {ends}; allowed: one or more in 0 to 4"):
            program(problem, Knobs(), NPU, 0, [np.array(wrong, int)])
