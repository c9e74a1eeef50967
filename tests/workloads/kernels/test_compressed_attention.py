from __future__ import annotations

from dataclasses import replace

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
from kernels_ref.compressed import compressed_attention
from kernels_ref.mla import dequantise
from workloads import paging
from workloads.batch import Batch
from workloads.kernels import indexer
from workloads.kernels.compressed_attention import Knobs, Problem, canonical, compile, heads_of, program, shape
from workloads.kernels.sparse_attention import draw_positions

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))
UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}
LAYOUTS = ("page token dim", "token page dim", "page dim token", "dim//8 page token dim%8")


def tensor(compiled: Program, name: str) -> Tensor:
    return next(found for found in compiled.tensors if found.name == name)


def filled(compiled: Program) -> Memory:
    memory = Memory(compiled)
    rng = np.random.default_rng(3)
    for found in compiled.tensors:
        if found.name in ("q", "sinks") or found.name.startswith("cache"):
            values = rng.standard_normal([found.layout.size(axis) for axis in found.layout.axes])
            memory.write(found.name, np.exp2(np.rint(values)) if found.dtype == "e8m0" else values)
    return memory


def stored(problem: Problem, knobs: Knobs, memory: Memory, seed: int) -> list[np.ndarray]:
    """Return the cache of every sequence, tokens and entries, as plain arrays."""
    if knobs.record == "plain":
        pool = memory.read("cache").astype(float)
    else:
        wide = dequantise(memory.read("cache nope"), memory.read("cache scale"), 64)
        wide = wide.astype(ml_dtypes.bfloat16).astype(float)
        pool = np.concatenate([wide, memory.read("cache rope").astype(float)], axis=-1)
    table = paging.page_table(knobs.page_order, problem.stored, knobs.page_size, np.random.default_rng(seed))
    found = []
    for sequence, count in enumerate(problem.stored):
        slots = (table.row(sequence)[:, None] * knobs.page_size + np.arange(knobs.page_size)).reshape(-1)
        found.append(pool[slots[:count]])
    return found


def check_values(problem: Problem, knobs: Knobs, seed: int = 0) -> None:
    rng = np.random.default_rng(9)
    seen = problem.seen()
    chosen = draw_positions(seen, problem.top_k or seen, "uniform", rng)
    compiled = program(problem, knobs, NPU, seed, chosen)
    memory = filled(compiled)
    caches, heads = stored(problem, knobs, memory, seed), problem.heads
    q = memory.read("q").reshape(-1, heads.count, heads.dim).astype(float)
    sinks = memory.read("sinks").astype(float)
    run(compiled, memory, CORES)
    out, first = memory.read("out").astype(float).reshape(q.shape), 0
    for sequence, (context, queries) in enumerate(zip(problem.contexts, problem.queries.lengths, strict=True)):
        kept = min(context, problem.window - 1 + queries)
        tokens = np.zeros((context, heads.dim))  # no query sees those that are not kept
        tokens[context - kept :] = caches[sequence][:kept]
        mine = slice(first, first + queries)
        first += queries
        expected = compressed_attention(
            q[mine],
            tokens,
            caches[sequence][kept:],
            problem.window,
            problem.ratio,
            chosen[mine] if problem.top_k else None,
            sinks,
            heads.scale,
        )
        assert np.abs(out[mine] - expected).max() <= tolerance(problem, q[mine], caches[sequence], sinks)


def tolerance(problem: Problem, q: np.ndarray, key: np.ndarray, sinks: np.ndarray) -> float:
    """Return how far a result may be from the exact one: as for mla-decode, two roundings and sums in fp32."""
    heads = problem.heads
    u, w = UNIT_ROUNDOFF[heads.dtype], UNIT_ROUNDOFF["fp32"]
    magnitude = heads.scale * float(np.abs(q).max() * np.abs(key).max()) * heads.dim + float(np.abs(sinks).max())
    fp32 = w * (2 * (heads.dim + 8) * magnitude + 4 * len(key) + 32)
    subnormal = 2.0**-25 * len(key) if heads.dtype == "fp16" else 0.0
    return (2 * u + u * u + fp32 + subnormal) * float(np.abs(key).max()) + subnormal


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    record = draw(st.sampled_from(["plain", "plain", "model1"]))
    dtype = "bf16" if record == "model1" else draw(st.sampled_from(["bf16", "fp16"]))
    dims = (512, 64) if record == "model1" else (24, 8)
    problem = Problem(
        heads_of(draw(st.integers(1, 9)), *dims, dtype),
        draw(st.sampled_from([1, 5, 16])),
        draw(st.sampled_from([0, 2, 4, 9])),
        draw(st.sampled_from([0, 1, 3])),
        draw(st.sampled_from([0, 1, 1, 2])),
        tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))),
    )
    knobs = Knobs(
        record=record,
        layout=draw(st.sampled_from(LAYOUTS)),
        page_size=draw(st.sampled_from([1, 3, 16, 64])),
        page_order=draw(st.sampled_from(["contiguous", "shuffled"])),
        head_tile=draw(st.sampled_from([1, 4, 64])),
        tile=draw(st.sampled_from([1, 5, 16, 64])),
        stages=draw(st.integers(2, 4)),
        split_tokens=draw(st.sampled_from([0, 0, 1, 6, 20])),
        schedule=draw(st.sampled_from(["static", "balanced", "dynamic"])),
        sram_layout=draw(st.sampled_from(["row-major", "row-major", "swizzled"])),
    )
    return problem, knobs


@settings(max_examples=15)
@given(cases(), st.integers(0, 3))
@example((Problem(heads_of(5, 24, 8, "bf16"), 5, 4, 2, 0, (33, 2)), Knobs(page_size=7, tile=5, split_tokens=4)), 0)
@example((Problem(heads_of(5, 24, 8, "bf16"), 5, 9, 0, 1, (40, 3)), Knobs(page_size=7, tile=5, head_tile=3)), 0)
def test_the_program_attends_to_window_and_entries(case: tuple[Problem, Knobs], seed: int) -> None:
    check_values(*case, seed)


@pytest.mark.nightly
@settings(max_examples=250)
@given(cases(), st.integers(0, 3))
def test_the_program_attends_to_window_and_entries_for_very_many(case: tuple[Problem, Knobs], seed: int) -> None:
    check_values(*case, seed)


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


def test_a_sink_that_is_left_out_is_found_out() -> None:
    """The comparison can fail: without the sink the result would be another one."""
    problem = Problem(heads_of(1, 24, 8, "bf16"), 5, 4, 0, 1, (20,))
    compiled = compile(problem, Knobs(), NPU, 0)
    memory = filled(compiled)
    caches = stored(problem, Knobs(), memory, 0)
    tokens = np.concatenate([np.zeros((15, 24)), caches[0][:5]])
    q = memory.read("q").reshape(1, 1, 24).astype(float)
    without = compressed_attention(q, tokens, caches[0][5:], 5, 4, None, np.full(1, -np.inf), problem.heads.scale)
    run(compiled, memory, CORES)
    assert np.abs(memory.read("out").astype(float) - without[0]).max() > 0.05


def test_traffic_is_what_every_query_attends_to() -> None:
    """Decode: a window of 128 of 1030 and 300 tokens, and 50 of 257 and 50 of 75 entries; each of 512 bf16."""
    problem = Problem(heads_of(64, 512, 64, "bf16"), 128, 4, 50, 1, (1030, 300))
    result = simulate(compile(problem, Knobs(), NPU, 0), NPU)
    moved = {t.name: t for t in result.traffic}
    assert moved["cache"].load_useful_bytes == 2 * (128 + 50) * 1024
    assert moved["cache"].indices == 2 * (128 + 50)
    assert moved["sinks"].load_useful_bytes == 2 * 64 * 4
    assert moved["out"].store_useful_bytes == 2 * 64 * 1024
    assert 0 < result.bound.total_fs <= result.makespan_fs


def test_a_prefill_gathers_windows_and_the_entries_before_each_query() -> None:
    """Of 9 tokens, windows of 4 have 1 + 2 + 3 + 6 * 4, and after every third token there is an entry more."""
    problem = Problem(heads_of(4, 16, 8, "bf16"), 4, 3, 0, 0, (9,))
    assert problem.stored == (9 + 3,)
    assert problem.seen().tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    result = simulate(compile(problem, Knobs(), NPU, 0), NPU)
    (cache,) = [t for t in result.traffic if t.name == "cache"]
    assert cache.load_useful_bytes == (1 + 2 + 3 + 6 * 4 + 12) * 32


def test_entries_that_an_indexer_selects_are_entries_that_a_query_sees() -> None:
    """The chain: the positions that the indexer's program writes for keys of 4 tokens each, attended to."""
    asked = indexer.Problem(4, 16, 3, 0, "bf16", (33, 6), 4)
    first = indexer.compile(asked, indexer.Knobs(), NPU, 0)
    memory = Memory(first)
    rng = np.random.default_rng(7)
    for name in ("q", "weights", "cache"):
        found = tensor(first, name)
        memory.write(name, rng.integers(-3, 4, [found.layout.size(axis) for axis in found.layout.axes]))
    run(first, memory, CORES)
    problem = Problem(heads_of(4, 24, 8, "bf16"), 5, 4, 3, 0, (33, 6))
    assert problem.seen().tolist() == asked.seen().tolist()
    counts = np.minimum(problem.seen(), 3)
    entries = [row[:count] for row, count in zip(memory.read("positions"), counts, strict=True)]
    compiled = program(problem, Knobs(), NPU, 0, entries)
    memory = filled(compiled)
    caches = stored(problem, Knobs(), memory, 0)
    q, sinks = memory.read("q").reshape(-1, 4, 24).astype(float), memory.read("sinks").astype(float)
    run(compiled, memory, CORES)
    out, start = memory.read("out").astype(float).reshape(q.shape), 0
    for cache, context in zip(caches, problem.contexts, strict=True):
        mine = slice(start, start + context)
        start += context
        operands = cache[:context], cache[context:], 5, 4, entries[mine], sinks, problem.heads.scale
        exact = compressed_attention(q[mine], *operands)
        assert np.abs(out[mine] - exact).max() <= tolerance(problem, q[mine], cache, sinks)


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = Problem(heads_of(8, 512, 64, "bf16"), 128, 4, 50, 1, (400, 9))
    key = canonical(problem, Knobs())
    same = [Knobs(layout="page token dim//4 dim%4"), Knobs(split_tokens=178), Knobs(head_tile=8)]
    assert {canonical(problem, knobs) for knobs in same} == {key}
    different = [Knobs(layout="token page dim"), Knobs(split_tokens=177), Knobs(tile=32), Knobs(stages=2)]
    different += [Knobs(page_size=32), Knobs(record="model1"), Knobs(selection="recent"), Knobs(head_tile=7)]
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == len(different) + 1


def test_problems_and_entries_that_cannot_be_are_refused() -> None:
    problem = shape(None, Batch((50,), "test"), {"heads": 64, "ratio": 4, "q_len": 1})
    assert (problem.heads, problem.window, problem.stored) == (heads_of(64, 512, 64, "bf16"), 128, (50 + 12,))
    with pytest.raises(ValueError, match=r"^batch: kernel compressed-attention needs one"):
        shape(None, None, {"heads": 64})
    with pytest.raises(ValueError, match=r"^options: size rope is 64; allowed: up to head_dim, 32"):
        shape(None, Batch((50,), "test"), {"heads": 64, "head_dim": 32})
    with pytest.raises(ValueError, match=r"^entries: 0 arrays; allowed: one for each of 1 queries"):
        program(problem, Knobs(), NPU, 0, [])
    with pytest.raises(ValueError, match=r"^entries: query 0 has ends \(3, 12\); allowed: from 0 to below 12"):
        program(problem, Knobs(), NPU, 0, [np.array([3, 12])])
