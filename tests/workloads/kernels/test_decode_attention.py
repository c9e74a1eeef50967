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
from hwmodel.program import Program
from hwmodel.reference import simulate
from hwmodel.spec import load_machine
from kernels_ref.attention import attention
from workloads.batch import Batch
from workloads.kernels.decode_attention import KV, TABLE, Knobs, Problem, canonical, compile, shape
from workloads.model import load_model

Tolerance = Callable[..., np.ndarray[Any, Any]]

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))
LAYOUTS = (
    "page kv token head dim",
    "page kv head token dim",
    "kv page head dim token",
    "head kv page token dim",
    "page kv head dim//8 token dim%8",
    "kv head dim%8 page token dim//8",
    "page head token kv dim%4 dim//4",
)


def filled(program: Program, seed: int = 3) -> Memory:
    memory = Memory(program)
    rng = np.random.default_rng(seed)
    for tensor in program.tensors:
        if tensor.name in ("q", "kv", "k", "v", "sinks"):
            # drawn in the order of the axes, so that the values do not depend on the layout
            memory.write(tensor.name, rng.standard_normal([tensor.layout.size(axis) for axis in tensor.layout.axes]))
    return memory


def computed(program: Program) -> np.ndarray[Any, Any]:
    memory = filled(program)
    run(program, memory, CORES)
    return memory.read("out")


def gathered(problem: Problem, knobs: Knobs, program: Program) -> tuple[Any, list[Any], list[Any]]:
    """Return q, keys and values as plain arrays, by the page table that the program was compiled with."""
    memory = filled(program)
    table = program.tensors[TABLE].values
    assert table is not None
    apart = problem.dim_v != problem.head_dim
    pools = [memory.read(name) for name in (("k", "v") if apart else ("kv", "kv"))]  # page, kv, head, token, dim
    sides: tuple[list[Any], list[Any]] = ([], [])
    first = 0
    for context in problem.contexts:
        pages = table[first : first + -(-context // knobs.page_size)]
        first += len(pages)
        for number, (side, pool) in enumerate(zip(sides, pools, strict=True)):
            tokens = pool[pages, 0 if apart else number].transpose(0, 2, 1, 3)
            side.append(tokens.reshape(-1, problem.heads_kv, pool.shape[-1])[:context])
    return memory.read("q"), *sides


def exact(problem: Problem, knobs: Knobs, program: Program) -> tuple[np.ndarray[Any, Any], tuple[Any, ...]]:
    """Return what the program should compute, and the q, keys and values by sequence."""
    q, keys, values = gathered(problem, knobs, program)
    queries = np.split(q, len(keys))
    rules = {"window": problem.window, "soft_cap": problem.soft_cap}
    sinks = filled(program).read("sinks") if problem.sinks else None
    expected = attention(queries, keys, values, problem.head_dim**-0.5, sinks=sinks, **rules)
    return np.concatenate(expected), (queries, keys, values)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    heads_kv, q_len = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3, 8]))
    problem = Problem(
        heads_kv * draw(st.integers(1, 8)),
        heads_kv,
        draw(st.sampled_from([8, 16, 64])),
        draw(st.sampled_from(["bf16", "fp16"])),
        tuple(draw(st.lists(st.one_of(st.just(q_len), st.integers(q_len, 70)), min_size=1, max_size=4))),
        q_len,
        draw(st.sampled_from([0, 0, 1, 5, 16, 40])),
        draw(st.integers(0, 1)),
        draw(st.sampled_from([0, 0, 3, 30])),
        draw(st.sampled_from([0, 0, 8, 24])),
    )
    knobs = Knobs(
        draw(st.sampled_from(LAYOUTS)),
        draw(st.sampled_from([1, 3, 4, 7, 16, 33])),
        draw(st.sampled_from(["contiguous", "shuffled"])),
        draw(st.sampled_from([1, 5, 8, 16, 64])),
        draw(st.integers(1, 4)),
        draw(st.sampled_from([0, 1, 6, 16, 50])),
        draw(st.sampled_from(["static", "balanced", "dynamic"])),
    )
    return problem, knobs


def check_values(tolerance: Tolerance, case: tuple[Problem, Knobs], seed: int) -> None:
    problem, knobs = case
    program = compile(problem, knobs, NPU, seed)
    expected, operands = exact(problem, knobs, program)
    assert (np.abs(computed(program).astype(float) - expected) <= tolerance(problem, *operands)).all()


@settings(max_examples=15)
@given(cases(), st.integers(0, 3))
@example((Problem(8, 1, 16, "bf16", (1,)), Knobs(page_size=7, tile=64, split_tokens=1)), 0)
@example((Problem(8, 1, 16, "fp16", (70, 1)), Knobs(page_size=33, tile=5, stages=1, split_tokens=6)), 1)
@example((Problem(2, 1, 16, "bf16", (40,), 8, 5, 1), Knobs(page_size=4, tile=5, split_tokens=3)), 0)
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


@settings(max_examples=8)
@given(cases(), st.integers(1, 4), st.sampled_from(["static", "balanced", "dynamic"]), st.sampled_from(LAYOUTS))
def test_stages_schedule_layout_and_machine_change_no_bit(
    case: tuple[Problem, Knobs], stages: int, schedule: str, layout: str
) -> None:
    problem, knobs = case
    outputs = {
        computed(compile(problem, other, machine, 0)).tobytes()
        for other, machine in (
            (knobs, NPU),
            (knobs, H100),
            (replace(knobs, stages=stages), NPU),
            (replace(knobs, schedule=schedule, epilogue="exposed"), NPU),
            (replace(knobs, layout=layout), NPU),
        )
    }
    assert len(outputs) == 1


def test_a_transposed_layout_that_the_oracle_does_not_share_is_found_out(attention_tolerance: Tolerance) -> None:
    """The comparison can fail: reading the pool through another layout gives other keys and values."""
    problem = Problem(4, 2, 16, "bf16", (40,))
    program = compile(problem, Knobs(), NPU, 0)
    other = compile(problem, Knobs(layout="page kv head token dim"), NPU, 0)
    expected, operands = exact(problem, Knobs(), program)
    memory = filled(program)
    run(other, memory, CORES)
    error = np.abs(memory.read("out").astype(float) - expected)
    assert not (error <= attention_tolerance(problem, *operands)).all()


@pytest.mark.parametrize("page_size", [1, 16, 48, 64, 256])
def test_a_window_loads_its_tokens_only_whatever_the_pages_and_q_and_out_once(page_size: int) -> None:
    problem = Problem(4, 2, 16, "bf16", (200, 31), 2, window=50, sinks=1)
    result = simulate(compile(problem, Knobs(page_size=page_size, tile=32), NPU, 0), NPU)
    assert result.bound.total_fs <= result.makespan_fs
    loaded = {traffic.name: traffic.load_useful_bytes for traffic in result.traffic}
    first = 200 - 2 - 50 + 1  # the first key that a query sees
    row_bytes = 16 * 2
    assert loaded["kv"] == 2 * 2 * (200 - first + 31) * row_bytes
    assert loaded["q"] == 2 * 2 * 4 * row_bytes
    assert loaded["sinks"] == 2 * 4 * 4
    stored = {traffic.name: traffic.store_useful_bytes for traffic in result.traffic}
    assert stored["out"] == 2 * 2 * 4 * row_bytes


def test_an_item_that_waits_for_the_end_of_the_one_before_takes_longer_and_less_room() -> None:
    problem = Problem(4, 2, 16, "bf16", (40,) * 6)
    programs = [compile(problem, Knobs(epilogue=epilogue), NPU, 0) for epilogue in ("overlapped", "exposed")]
    overlapping, waiting = (simulate(program, NPU).makespan_fs for program in programs)
    assert overlapping < waiting
    assert programs[1].phases[0].sram_bytes < programs[0].phases[0].sram_bytes


def test_values_of_another_length_than_keys_lie_apart_and_take_their_own_bytes() -> None:
    problem = Problem(4, 2, 192, "bf16", (100, 37), head_dim_v=128)
    program = compile(problem, Knobs(page_size=16, tile=32, stages=2, split_tokens=50), NPU, 0)
    pages, row = 7 + 3, 2 * 2  # of both KV heads, bytes per element
    sizes = {tensor.name: tensor.size_bytes for tensor in program.tensors}
    assert (sizes["k"], sizes["v"]) == (pages * 16 * 192 * row, pages * 16 * 128 * row)
    result = simulate(program, NPU)
    assert result.bound.total_fs <= result.makespan_fs
    moved = {traffic.name: (traffic.load_useful_bytes, traffic.store_useful_bytes) for traffic in result.traffic}
    assert (moved["k"], moved["v"]) == ((137 * 192 * row, 0), (137 * 128 * row, 0))
    partial = 2 * (2 + 1) * 2 * (128 + 1) * 4  # heads, parts, rows, columns
    assert (moved["partial"], moved["out"]) == ((partial, partial), (0, 2 * 4 * 128 * 2))


@pytest.mark.parametrize("head_dim", [64, 72, 80, 96, 128, 192, 256, 512])
def test_head_dims_of_published_models_are_computed_and_padded_in_time_only(
    attention_tolerance: Tolerance, head_dim: int
) -> None:
    problem = Problem(4, 2, head_dim, "bf16", (40, 17))
    case = problem, Knobs(tile=16, stages=2)
    check_values(attention_tolerance, case, 0)
    for machine in (NPU, H100):
        program = compile(*case, machine, 0)
        result = simulate(program, machine)
        assert result.bound.total_fs <= result.makespan_fs
        loaded = {traffic.name: traffic.load_useful_bytes for traffic in result.traffic}
        assert (loaded["q"], loaded["kv"]) == (2 * 4 * head_dim * 2, 2 * 2 * 57 * head_dim * 2)


def test_masked_steps_run_on_the_tiles_at_an_edge_only() -> None:
    problem = Problem(4, 2, 16, "bf16", (200,), 3, window=100)
    (phase,) = compile(problem, Knobs(page_size=16, tile=16), NPU, 0).phases
    tiles, edge, full = (phase.tasks[0, phase.columns.index(name)] for name in ("tiles", "edge", "full"))
    # queries at 197 to 199 see keys from 98, 99 and 100; tiles from 98: the first is left behind, the last is ahead
    assert (tiles, edge, full) == (7, 1, 5)
    (plain,) = compile(Problem(4, 2, 16, "bf16", (200,)), Knobs(), NPU, 0).phases
    assert plain.functions == ("softmax_step", "normalise")


def test_queries_that_no_context_holds_and_half_a_sink_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^batch: sequence 1: context is 3; allowed: q_len \(4\) or more"):
        Problem(4, 2, 16, "bf16", (9, 3), q_len=4)
    with pytest.raises(ValueError, match=r"^options: size sinks is 2; allowed: 0 or 1"):
        shape(load_model("llama-3.1-8b"), Batch((9,), "test"), {"sinks": 2})
    options = {"q_len": 4, "window": 3, "soft_cap": 50}
    problem = shape(load_model("llama-3.1-8b"), Batch((9,), "test"), options)
    assert (problem.q_len, problem.window, problem.sinks, problem.soft_cap) == (4, 3, 0, 50)


def test_splitting_gives_one_item_per_part_and_merges_them() -> None:
    problem = Problem(4, 2, 16, "bf16", (50, 7))
    program = compile(problem, Knobs(split_tokens=20, page_size=8, tile=8), NPU, 0)
    attend, combine = program.phases
    assert len(attend.tasks) == 2 * (3 + 1)
    assert len(combine.tasks) == 2 * 2 * 2  # of three parts one head at a time fits
    tokens = attend.tasks[:, attend.columns.index("tokens")]
    assert sorted(tokens.tolist()) == [7, 7, 10, 10, 20, 20, 20, 20]
    assert [len(compile(problem, Knobs(split_tokens=n), NPU, 0).phases) for n in (0, 50, 49)] == [1, 1, 2]


def test_items_cover_every_token_of_every_head_once() -> None:
    problem = Problem(6, 3, 16, "bf16", (50, 7, 1))
    (phase, _) = compile(problem, Knobs(split_tokens=13), NPU, 0).phases
    column = {name: phase.tasks[:, i].tolist() for i, name in enumerate(phase.columns)}
    covered = [
        (sequence, head, token)
        for sequence, head, begin, tokens in zip(
            column["sequence"], column["head"], column["begin"], column["tokens"], strict=True
        )
        for token in range(begin, begin + tokens)
    ]
    every = [(s, h, t) for s, context in enumerate(problem.contexts) for h in range(3) for t in range(context)]
    assert sorted(covered) == every


def test_the_kv_cache_takes_its_bytes_by_hand() -> None:
    problem = Problem(32, 8, 128, "bf16", (1000, 17))
    program = compile(problem, Knobs(page_size=16), NPU, 0)
    pages = 63 + 2
    assert program.tensors[KV].size_bytes == pages * 16 * 2 * 8 * 128 * 2
    assert sorted(program.tensors[TABLE].values.tolist()) == list(range(pages))  # type: ignore[union-attr]
    assert [tensor.name for tensor in program.tensors] == ["q", "kv", "page table", "out"]


def test_queries_and_results_reside_in_the_cache_where_there_is_one() -> None:
    problem = Problem(4, 2, 16, "bf16", (50,))
    for machine, near in ((H100, "cache"), (NPU, "hbm")):
        resident = {t.name: t.resident for t in compile(problem, Knobs(split_tokens=20), machine, 0).tensors}
        assert resident == {"q": near, "kv": "hbm", "page table": near, "out": near, "partial": near}


def test_the_seed_draws_the_page_order_and_nothing_else() -> None:
    problem = Problem(4, 2, 16, "bf16", (400,))
    hashes = {compile(problem, Knobs(), NPU, seed).hash for seed in range(4)}
    assert len(hashes) == 4
    assert len({compile(problem, Knobs(page_order="contiguous"), NPU, seed).hash for seed in range(4)}) == 1


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = Problem(4, 2, 16, "bf16", (40, 9))
    key = canonical(problem, Knobs())
    assert canonical(problem, Knobs(layout="page kv token head dim//4 dim%4")) == key
    assert canonical(problem, Knobs(split_tokens=40)) == canonical(problem, Knobs(split_tokens=4000)) == key
    different = [Knobs(layout="page kv head token dim"), Knobs(split_tokens=39), Knobs(tile=32), Knobs(stages=2)]
    different += [
        Knobs(page_size=8),
        Knobs(page_order="contiguous"),
        Knobs(schedule="dynamic"),
        Knobs(epilogue="exposed"),
    ]
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == len(different) + 1


@settings(max_examples=20)
@given(cases(), st.integers(0, 80))
def test_knobs_of_one_canonical_key_give_one_program(case: tuple[Problem, Knobs], split: int) -> None:
    problem, knobs = case
    other = replace(knobs, split_tokens=split)
    if canonical(problem, knobs) == canonical(problem, other):
        assert compile(problem, knobs, NPU, 0).hash == compile(problem, other, NPU, 0).hash


def test_the_problem_of_llama_3_70b_has_its_published_heads() -> None:
    model = load_model("llama-3.1-70b")
    problem = shape(model, Batch((5, 6), "test"), {})
    assert (problem.heads_q, problem.heads_kv, problem.head_dim, problem.group) == (64, 8, 128, 8)
    assert problem.contexts == (5, 6)


def test_a_model_or_batch_that_is_missing_and_an_option_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^model: kernel decode-attention needs one"):
        shape(None, Batch((5,), "test"), {})
    with pytest.raises(ValueError, match=r"^batch: kernel decode-attention needs one"):
        shape(load_model("llama-3.1-8b"), None, {})
    with pytest.raises(ValueError, match=r"^options: kernel decode-attention takes no size 'm'"):
        shape(None, None, {"m": 3})


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (Knobs(tile=0), "^tile: 0; allowed: an integer from 1 to"),
        (Knobs(stages=-1), "^stages: -1; allowed"),
        (Knobs(split_tokens=-1), "^split_tokens: -1; allowed: an integer from 0"),
        (Knobs(page_size=True), "^page_size: True; allowed"),
        (Knobs(page_size=1 << 21), "^page_size: 2097152; allowed"),
        (Knobs(page_order="shufled"), "^page_order: unknown 'shufled'; known: shuffled, "),
        (Knobs(schedule="statik"), "^schedule: unknown 'statik'; known: static"),
        (Knobs(layout="page kv token head"), "^layout: notation 'page kv token head': axis dim is missing"),
        (Knobs(layout="page kv token head dim//3 dim%3"), "^layout: .* 3 does not divide 16"),
    ],
)
def test_a_knob_out_of_range_is_named_with_what_is_allowed(knobs: Knobs, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        compile(Problem(4, 2, 16, "bf16", (40,)), knobs, NPU, 0)
    assert "\n" not in str(error.value)


def test_buffers_that_do_not_fit_are_an_error_with_the_bytes_that_are_too_many() -> None:
    problem = Problem(4, 2, 128, "bf16", (4096,))
    block = 1024 * 128 * 2  # one tile of K or V
    capacity = 2 << 20
    with pytest.raises(ValueError, match="phase attend needs") as error:
        compile(problem, Knobs(tile=1024, stages=5), NPU, 0)
    message = str(error.value)
    needed = int(message.split("needs ")[1].split(" B")[0])
    assert f"{needed - capacity} B more than the {capacity} B of a core of npu-hbm3" in message
    assert f"k 5 x {block} B, v 5 x {block} B" in message
    assert needed > 2 * 5 * block
    assert "(cores.sram.capacity)" in message
    assert message.endswith("; sized by tile=1024, stages=5")
    compile(problem, Knobs(tile=1024, stages=3), NPU, 0)
