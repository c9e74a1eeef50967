from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwmodel.functional import Memory, run
from hwmodel.machine import Machine
from hwmodel.program import Phase, Program
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref.attention import attention
from workloads.batch import Batch
from workloads.kernels.prefill_attention import KV, TABLE, Knobs, Problem, canonical, compile, shape
from workloads.model import load_model

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))

Values = np.ndarray[Any, Any]
Tolerance = Callable[..., np.ndarray[Any, Any]]


def filled(program: Program) -> Memory:
    memory, rng = Memory(program), np.random.default_rng(3)
    for tensor in program.tensors:
        if tensor.name in ("q", "k", "v", "kv", "sinks"):
            memory.write(tensor.name, rng.standard_normal([tensor.layout.size(axis) for axis in tensor.layout.axes]))
    return memory


def computed(program: Program) -> Values:
    memory = filled(program)
    run(program, memory, CORES)
    return memory.read("out").astype(float)


def keys_and_values(problem: Problem, knobs: Knobs, program: Program) -> tuple[list[Values], list[Values]]:
    memory = filled(program)
    if not knobs.page_size:
        ends = np.cumsum(problem.contexts)[:-1]
        return np.split(memory.read("k"), ends), np.split(memory.read("v"), ends)
    table, first = program.tensors[TABLE].values, 0
    assert table is not None
    apart = problem.dim_v != problem.head_dim
    pools = [memory.read(name) for name in (("k", "v") if apart else ("kv", "kv"))]  # page, kv, head, token, dim
    sides: tuple[list[Values], list[Values]] = ([], [])
    for context in problem.contexts:
        pages = table[first : first + -(-context // knobs.page_size)]
        first += len(pages)
        for number, (side, pool) in enumerate(zip(sides, pools, strict=True)):
            tokens = pool[pages, 0 if apart else number].transpose(0, 2, 1, 3)
            side.append(tokens.reshape(-1, problem.heads_kv, pool.shape[-1])[:context])
    return sides


def expected(problem: Problem, knobs: Knobs, program: Program) -> tuple[Values, tuple[Any, ...]]:
    """Return the exact values, and the q, keys and values by sequence."""
    memory = filled(program)
    q = np.split(memory.read("q"), np.cumsum(problem.lengths)[:-1])
    keys, values = keys_and_values(problem, knobs, program)
    rules = {"causal": not problem.bidirectional, "window": problem.window, "soft_cap": problem.soft_cap}
    sinks = memory.read("sinks") if problem.sinks else None
    exact = attention(q, keys, values, problem.head_dim**-0.5, sinks=sinks, **rules)
    return np.concatenate(exact), (q, keys, values)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    group, heads_kv, bidirectional = draw(st.integers(1, 5)), draw(st.integers(1, 2)), draw(st.sampled_from([0, 0, 1]))
    q_len: int | tuple[int, ...] = draw(st.sampled_from([0, 0, 1, 5, 17]))
    least = q_len or 1
    contexts = draw(st.lists(st.one_of(st.just(least), st.integers(least, 60)), min_size=1, max_size=3))
    if draw(st.integers(0, 2)) == 2:
        q_len = tuple(draw(st.integers(1, context)) for context in contexts)
    problem = Problem(
        heads_kv * group,
        heads_kv,
        draw(st.sampled_from([8, 16])),
        draw(st.sampled_from(["bf16", "fp16"])),
        tuple(contexts),
        q_len,
        0 if bidirectional else draw(st.sampled_from([0, 1, 4, 19])),
        draw(st.integers(0, 1)),
        draw(st.sampled_from([0, 0, 3, 30])),
        bidirectional,
        draw(st.sampled_from([0, 0, 8, 24])),
    )
    knobs = Knobs(
        tile_q=draw(st.sampled_from([5, 6, 12, 16, 33])),
        tile_kv=draw(st.sampled_from([1, 5, 8, 16, 64])),
        stages=draw(st.integers(1, 3)),
        packing=draw(st.sampled_from(["group", "head"])),
        pipeline=draw(st.sampled_from(["two-stage", "warp-specialised"])),
        epilogue=draw(st.sampled_from(["overlapped", "exposed"])),
        order=draw(st.sampled_from(["natural", "longest-first"])),
        schedule=draw(st.sampled_from(["static", "balanced", "dynamic"])),
        page_size=draw(st.sampled_from([0, 0, 1, 4, 7, 16])),
        layout=draw(st.sampled_from(["page kv token head dim", "head kv page dim token"])),
        layout_k=draw(st.sampled_from(["token head dim", "head dim token"])),
        sram_layout=draw(st.sampled_from(["swizzled", "row-major"])),
        split_tokens=draw(st.sampled_from([0, 0, 1, 7, 20])),
    )
    return problem, knobs


def check_values(tolerance: Tolerance, case: tuple[Problem, Knobs]) -> None:
    problem, knobs = case
    program = compile(problem, knobs, NPU, 0)
    exact, operands = expected(problem, knobs, program)
    assert (np.abs(computed(program) - exact) <= tolerance(problem, *operands)).all()


@settings(max_examples=15)
@given(cases())
@example((Problem(3, 1, 16, "bf16", (41, 1)), Knobs(tile_q=7, tile_kv=16, pipeline="warp-specialised")))
@example((Problem(2, 1, 16, "bf16", (50, 9, 33), (20, 9, 1)), Knobs(tile_q=6, tile_kv=4, page_size=4, stages=1)))
@example((Problem(2, 1, 16, "fp16", (50,), 20, 9, 1, 30), Knobs(tile_q=6, tile_kv=4, page_size=4, stages=1)))
def test_the_program_computes_attention_within_the_roundings_of_its_dtype(
    attention_tolerance: Tolerance, case: tuple[Problem, Knobs]
) -> None:
    check_values(attention_tolerance, case)


@pytest.mark.nightly
@settings(max_examples=300, derandomize=False)
@given(cases())
def test_the_program_computes_attention_for_very_many(
    attention_tolerance: Tolerance, case: tuple[Problem, Knobs]
) -> None:
    check_values(attention_tolerance, case)


@settings(max_examples=10)
@given(cases(), st.sampled_from(["static", "balanced", "dynamic"]))
def test_how_tiles_of_queries_are_made_and_dealt_changes_no_bit(case: tuple[Problem, Knobs], schedule: str) -> None:
    problem, knobs = case
    tall = replace(knobs, tile_q=1024, page_order="contiguous", split_tokens=0)
    outputs = {
        computed(compile(problem, other, machine, 0)).tobytes()
        for other, machine in (
            (tall, NPU),
            (tall, H100),
            (replace(tall, schedule=schedule, order="longest-first", stages=1, epilogue="exposed"), NPU),
            (replace(tall, layout_k="head token dim", layout="page head kv token dim"), NPU),
        )
    }
    assert len(outputs) == 1


def column(phase: Phase, name: str) -> list[int]:
    found: list[int] = phase.tasks[:, phase.columns.index(name)].tolist()
    return found


def test_only_tiles_below_the_diagonal_are_walked_and_only_those_on_it_are_masked() -> None:
    problem = Problem(1, 1, 16, "bf16", (100,))
    (phase,) = compile(problem, Knobs(tile_q=32, tile_kv=16, order="natural"), NPU, 0).phases
    assert column(phase, "tiles") == [2, 4, 6, 7]
    assert column(phase, "tokens") == [32, 64, 96, 100]
    assert column(phase, "full") == [0, 2, 4, 6]
    assert column(phase, "edge") == [0, 0, 0, 0]


def test_a_window_has_a_masked_head_and_tail_and_nothing_before() -> None:
    problem = Problem(1, 1, 16, "bf16", (200,), window=64)
    (phase,) = compile(problem, Knobs(tile_q=32, tile_kv=16), NPU, 0).phases
    # queries 96 to 127 see keys from 33 to 64 on: tiles from 32, of which 32 to 63 are left by some, 96 to 127 ahead
    item = column(phase, "q_row").index(96)
    assert [column(phase, name)[item] for name in ("begin", "tokens", "tiles", "edge", "full")] == [32, 96, 6, 2, 2]


def test_a_bidirectional_prefill_has_no_masks_and_walks_every_tile() -> None:
    problem = Problem(2, 2, 16, "bf16", (50, 20), bidirectional=1)
    (phase,) = compile(problem, Knobs(tile_q=16, tile_kv=16), NPU, 0).phases
    assert phase.functions == ("softmax_step", "normalise")
    assert sorted(set(column(phase, "tiles"))) == [2, 4]


def test_packing_loads_keys_once_for_all_heads_of_a_group() -> None:
    problem = Problem(8, 2, 16, "bf16", (48, 20))
    traffic = {}
    for packing in ("group", "head"):
        program = compile(problem, Knobs(tile_q=256, packing=packing), NPU, 0)
        result = simulate(program, NPU)
        assert result.bound.total_fs <= result.makespan_fs
        traffic[packing] = {t.name: (t.load_useful_bytes, t.store_useful_bytes) for t in result.traffic}
    row_bytes, tokens = 16 * 2, 48 + 20
    once = {"q": (8 * tokens * row_bytes, 0), "out": (0, 8 * tokens * row_bytes)}
    keys = 2 * tokens * row_bytes
    assert traffic["group"] == once | {"k": (keys, 0), "v": (keys, 0)}
    assert traffic["head"] == once | {"k": (4 * keys, 0), "v": (4 * keys, 0)}


def test_a_chunk_loads_the_pages_before_it_and_its_own_queries() -> None:
    problem = Problem(2, 1, 16, "bf16", (70, 13), q_len=12)
    program = compile(problem, Knobs(tile_q=64, page_size=8), NPU, 0)
    traffic = {t.name: t.load_useful_bytes for t in simulate(program, NPU).traffic}
    assert traffic["q"] == 2 * (12 + 12) * 16 * 2
    assert traffic["kv"] == 2 * (70 + 13) * 16 * 2
    assert program.tensors[KV].size_bytes == 2 * (9 + 2) * 8 * 16 * 2


def test_a_tile_twice_as_high_loads_half_the_keys_of_distant_chunks() -> None:
    problem = Problem(1, 1, 16, "bf16", (1024,), q_len=256)
    loaded = []
    for tile_q in (64, 128):
        (phase,) = compile(problem, Knobs(tile_q=tile_q), NPU, 0).phases
        loaded.append(sum(column(phase, "tokens")))
    assert loaded == [832 + 896 + 960 + 1024, 896 + 1024]


def test_splitting_gives_an_item_per_part_of_the_keys_and_merges_strips_of_queries() -> None:
    problem = Problem(4, 2, 16, "bf16", (100,), q_len=40, sinks=1)
    knobs = Knobs(tile_q=32, tile_kv=16, split_tokens=32, order="natural")
    program = compile(problem, knobs, NPU, 0)
    attend, combine = program.phases
    # of each KV head, queries 60 to 75, 76 to 91 and 92 to 99 see 76, 92 and 100 keys
    assert column(attend, "tokens") == 2 * [32, 32, 12, 32, 32, 28, 32, 32, 32, 4]
    assert column(attend, "begin") == 2 * [0, 32, 64, 0, 32, 64, 0, 32, 64, 96]
    assert column(attend, "sink") == 2 * [1, 0, 0, 1, 0, 0, 1, 0, 0, 0]
    assert column(combine, "parts") == 2 * ([3] * 4 + [3] * 4 + [4] * 2)  # strips of 16 // 4 positions
    assert column(combine, "q_tokens") == [4] * 20
    result = simulate(program, NPU)
    assert result.bound.total_fs <= result.makespan_fs
    traffic = {t.name: (t.load_useful_bytes, t.store_useful_bytes) for t in result.traffic}
    row_bytes, partial = 16 * 2, 2 * (3 * 16 + 3 * 16 + 4 * 8) * 2 * (16 + 1) * 4
    assert traffic["partial"] == (partial, partial)
    assert traffic["q"] == (2 * (3 * 16 + 3 * 16 + 4 * 8) * 2 * row_bytes, 0)
    assert traffic["k"] == traffic["v"] == (2 * (76 + 92 + 100) * row_bytes, 0)
    assert traffic["out"] == (0, 4 * 40 * row_bytes)


def test_a_short_chunk_of_a_long_context_is_faster_when_its_keys_are_split() -> None:
    problem = Problem(8, 1, 128, "bf16", (4096,), q_len=8)
    times = []
    for split_tokens in (0, 1408):
        result = simulate(compile(problem, Knobs(split_tokens=split_tokens), NPU, 0), NPU)
        assert result.bound.total_fs <= result.makespan_fs
        times.append(result.makespan_fs)
    assert times[1] < 0.6 * times[0]  # three cores instead of one, and a launch more


def test_tiles_of_keys_that_no_row_of_a_tile_sees_are_not_loaded() -> None:
    problem, knobs = Problem(2, 1, 16, "bf16", (300,), window=40), Knobs(tile_q=64, tile_kv=16)
    program = compile(problem, knobs, NPU, 0)
    tiles = {
        (first // 32, key // 16)
        for first in range(0, 300, 32)
        for query in range(first, min(first + 32, 300))
        for key in range(max(0, query - 39), query + 1)
    }
    keys = sum(min(300 - 16 * tile, 16, 32 * (item + 1) - 16 * tile) for item, tile in tiles)
    assert sum(column(program.phases[0], "tiles")) == len(tiles)
    loaded = {t.name: t.load_useful_bytes for t in simulate(program, NPU).traffic}
    assert loaded["k"] == loaded["v"] == keys * 16 * 2


def test_paged_values_of_another_length_than_keys_take_their_own_bytes() -> None:
    problem = Problem(4, 2, 192, "bf16", (70,), 12, head_dim_v=128)
    program = compile(problem, Knobs(tile_q=32, tile_kv=32, page_size=8), NPU, 0)
    result = simulate(program, NPU)
    assert result.bound.total_fs <= result.makespan_fs
    moved = {traffic.name: (traffic.load_useful_bytes, traffic.store_useful_bytes) for traffic in result.traffic}
    assert (moved["k"], moved["v"]) == ((2 * 70 * 192 * 2, 0), (2 * 70 * 128 * 2, 0))
    assert (moved["q"], moved["out"]) == ((4 * 12 * 192 * 2, 0), (0, 4 * 12 * 128 * 2))


@pytest.mark.parametrize("head_dim", [64, 72, 80, 96, 128, 192, 256, 512])
@pytest.mark.parametrize("page_size", [0, 16])
def test_head_dims_of_published_models_are_computed_and_padded_in_time_only(
    attention_tolerance: Tolerance, head_dim: int, page_size: int
) -> None:
    problem = Problem(2, 1, head_dim, "bf16", (40, 17), bidirectional=1)
    knobs = Knobs(tile_q=128, tile_kv=16, page_size=page_size)
    check_values(attention_tolerance, (problem, knobs))
    for machine in (NPU, H100):
        result = simulate(compile(problem, replace(knobs, tile_q=16), machine, 0), machine)
        assert result.bound.total_fs <= result.makespan_fs
        stored = {traffic.name: traffic.store_useful_bytes for traffic in result.traffic}
        assert stored["out"] == 2 * 57 * head_dim * 2


def test_items_with_most_work_come_first_and_shorten_the_run() -> None:
    problem = Problem(3, 3, 64, "bf16", (512,))
    makespans = {}
    for order in ("natural", "longest-first"):
        program = compile(problem, Knobs(tile_q=64, tile_kv=64, order=order), NPU, 0)
        makespans[order] = simulate(program, NPU).makespan_fs
        work = np.array(column(program.phases[0], "tokens"))
        assert (np.diff(work) <= 0).all() == (order == "longest-first")
    assert makespans["longest-first"] < makespans["natural"]


def test_a_program_of_a_longer_prefill_differs_in_its_items_only() -> None:
    streams = []
    for context in (300, 30_000):
        problem = Problem(4, 2, 16, "bf16", (context,), window=100)
        (phase,) = compile(problem, Knobs(tile_q=64), NPU, 0).phases
        streams.append([queue.tobytes() for queue in phase.queues])
    assert streams[0] == streams[1]


def test_two_tiles_that_take_turns_and_overlapping_loads_are_faster_than_one_after_another() -> None:
    problem = Problem(1, 1, 128, "bf16", (2048,), bidirectional=1)
    alone = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": 1}))
    cycles = {}
    for pipeline in ("two-stage", "warp-specialised"):
        for epilogue in ("overlapped", "exposed"):
            knobs = Knobs(tile_q=128, tile_kv=128, pipeline=pipeline, epilogue=epilogue)
            cycles[pipeline, epilogue] = simulate(compile(problem, knobs, alone, 0), alone).cycles
    assert cycles["warp-specialised", "overlapped"] < cycles["two-stage", "overlapped"]
    assert all(cycles[pipeline, "overlapped"] < cycles[pipeline, "exposed"] for pipeline, _ in cycles)


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = Problem(8, 2, 16, "bf16", (40, 9))
    key = canonical(problem, Knobs())
    assert canonical(problem, Knobs(tile_q=67)) == canonical(problem, Knobs(layout_k="token head dim//4 dim%4")) == key
    assert canonical(problem, Knobs(page_order="contiguous", layout="page kv head token dim")) == key
    assert canonical(problem, Knobs(split_tokens=40)) == canonical(problem, Knobs(products="16-bit")) == key
    different = [Knobs(tile_q=32), Knobs(tile_kv=32), Knobs(stages=1), Knobs(packing="head"), Knobs(page_size=16)]
    different += [Knobs(pipeline="warp-specialised"), Knobs(epilogue="exposed"), Knobs(order="natural")]
    different += [Knobs(layout_v="head token dim"), Knobs(schedule="dynamic"), Knobs(sram_layout="row-major")]
    different += [Knobs(split_tokens=39), Knobs(split_tokens=8)]
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == len(different) + 1


@settings(max_examples=20)
@given(
    cases(),
    st.integers(5, 40),
    st.sampled_from(["natural", "longest-first"]),
    st.sampled_from(["group", "head"]),
    st.integers(0, 80),
)
def test_knobs_of_one_canonical_key_give_one_program(
    case: tuple[Problem, Knobs], tile_q: int, order: str, packing: str, split_tokens: int
) -> None:
    problem, knobs = case
    other = replace(knobs, tile_q=tile_q, order=order, packing=packing, split_tokens=split_tokens)
    if canonical(problem, knobs) == canonical(problem, other):
        assert compile(problem, knobs, NPU, 0).hash == compile(problem, other, NPU, 0).hash


def test_the_problem_takes_its_sizes_from_model_batch_and_options() -> None:
    batch = Batch((520, 600), "test")
    problem = shape(load_model("llama-3.1-8b"), batch, {"q_len": 512, "window": 100})
    assert (problem.heads_q, problem.heads_kv, problem.dim_v, problem.lengths) == (32, 8, 128, (512, 512))
    with pytest.raises(ValueError, match=r"^batch: sequence 1: context is 5; allowed: q_len \(512\) or more"):
        shape(load_model("llama-3.1-8b"), Batch((600, 5), "test"), {"q_len": 512})
    with pytest.raises(ValueError, match=r"^options: size window is 3; allowed where bidirectional is 1: 0"):
        shape(load_model("llama-3.1-8b"), batch, {"window": 3, "bidirectional": 1})
    with pytest.raises(ValueError, match=r"^model: kernel prefill-attention needs one"):
        shape(None, batch, {})
    with pytest.raises(ValueError, match=r"^batch: kernel prefill-attention needs one"):
        shape(load_model("llama-3.1-8b"), None, {})


@pytest.mark.parametrize(
    ("problem", "knobs", "message"),
    [
        (Problem(8, 1, 16, "bf16", (40,)), Knobs(tile_q=7), r"^tile_q: 7; allowed: .* at least the 8 query heads"),
        (Problem(8, 1, 16, "bf16", (40,)), Knobs(pipeline="ping-pong"), r"^pipeline: unknown 'ping-pong'; known"),
        (Problem(8, 1, 16, "bf16", (40,)), Knobs(split_tokens=-1), r"^split_tokens: -1; allowed: an integer from 0"),
        (Problem(8, 1, 16, "bf16", (40,)), Knobs(layout_v="token dim"), r"^layout_v: .* axis head is missing"),
        (Problem(8, 1, 128, "bf16", (4096,)), Knobs(tile_q=8192), r"phase attend needs .* sized by tile_q=8192"),
    ],
)
def test_a_knob_out_of_range_is_named_with_what_is_allowed(problem: Problem, knobs: Knobs, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        compile(problem, knobs, NPU, 0)
    assert "\n" not in str(error.value)
