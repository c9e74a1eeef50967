from __future__ import annotations

from collections.abc import Callable
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
from kernels_ref.sparse_attention import sparse_gqa
from workloads.batch import Batch
from workloads.kernels import decode_attention
from workloads.kernels.sparse_gqa import Knobs, Problem, canonical, compile, program, shape
from workloads.model import load_model

CORES = 3
NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": CORES}))
H100 = Machine(load_machine("h100-sxm").with_overrides({"cores.count": CORES}))
LAYOUTS = ("page kv token head dim", "page kv head token dim", "kv page head dim token", "head kv page token dim")


def tensor(compiled: Program, name: str) -> Tensor:
    return next(found for found in compiled.tensors if found.name == name)


def filled(compiled: Program) -> Memory:
    memory = Memory(compiled)
    rng = np.random.default_rng(3)
    for name in ("q", "kv"):
        layout = tensor(compiled, name).layout
        memory.write(name, rng.standard_normal([layout.size(axis) for axis in layout.axes]))
    return memory


def cache_of(compiled: Program, memory: Memory) -> tuple[np.ndarray, np.ndarray]:
    """Return keys and values by slot, [slot, head, dim]."""
    axes = tensor(compiled, "kv").layout.axes
    kv = memory.read("kv").astype(float).transpose([axes.index(axis) for axis in ("kv", "token", "head", "dim")])
    return kv[0], kv[1]


def check_values(problem: Problem, knobs: Knobs, seed: int, tolerance: Callable[..., np.ndarray]) -> None:
    compiled = compile(problem, knobs, NPU, seed)
    memory = filled(compiled)
    (keys, values), slots = cache_of(compiled, memory), tensor(compiled, "slots").values
    assert slots is not None
    chosen = np.split(slots, np.cumsum(np.minimum(problem.seen(), problem.top_k))[:-1])
    q = memory.read("q").astype(float)
    expected = sparse_gqa(q, keys, values, chosen, problem.head_dim**-0.5)
    run(compiled, memory, CORES)
    plain = decode_attention.Problem(problem.heads_q, problem.heads_kv, problem.head_dim, problem.dtype, (1,))
    limit = tolerance(plain, q[:, None], [keys[c] for c in chosen], [values[c] for c in chosen])
    assert (np.abs(memory.read("out").astype(float) - expected) <= limit).all()


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Knobs]:
    heads_kv, q_len = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    least = max(q_len, 1)
    problem = Problem(
        heads_kv * draw(st.integers(1, 4)),
        heads_kv,
        draw(st.sampled_from([8, 24])),
        draw(st.sampled_from([1, 7, 20, 100])),
        q_len,
        draw(st.sampled_from(["bf16", "fp16"])),
        tuple(draw(st.lists(st.one_of(st.just(least), st.integers(least, 60)), min_size=1, max_size=3))),
    )
    knobs = Knobs(
        layout=draw(st.sampled_from(LAYOUTS)),
        page_size=draw(st.sampled_from([1, 3, 16, 64])),
        page_order=draw(st.sampled_from(["contiguous", "shuffled"])),
        selection=draw(st.sampled_from(["uniform", "recent"])),
        tile=draw(st.sampled_from([1, 5, 16, 64])),
        stages=draw(st.integers(1, 4)),
        split_tokens=draw(st.sampled_from([0, 0, 1, 6, 20])),
        schedule=draw(st.sampled_from(["static", "balanced", "dynamic"])),
        sram_layout=draw(st.sampled_from(["row-major", "row-major", "swizzled"])),
    )
    return problem, knobs


ODD = Problem(6, 2, 24, 17, 2, "bf16", (50, 3))


@settings(max_examples=12)
@given(case=cases(), seed=st.integers(0, 3))
@example(case=(ODD, Knobs(page_size=7, tile=5, split_tokens=6, stages=2)), seed=0)
def test_the_program_attends_to_the_selected_tokens(
    attention_tolerance: Callable[..., np.ndarray], case: tuple[Problem, Knobs], seed: int
) -> None:
    check_values(*case, seed, attention_tolerance)


@pytest.mark.nightly
@settings(max_examples=250)
@given(case=cases(), seed=st.integers(0, 3))
def test_the_program_attends_to_the_selected_tokens_for_very_many(
    attention_tolerance: Callable[..., np.ndarray], case: tuple[Problem, Knobs], seed: int
) -> None:
    check_values(*case, seed, attention_tolerance)


def test_another_selection_gives_another_result() -> None:
    """The comparison can fail: by the tokens, and by the heads that they are read for."""
    outputs = []
    for positions in ([0, 3], [0, 4]):
        compiled = program(replace(ODD, q_len=1, contexts=(9,)), Knobs(), NPU, 0, [np.array(positions)])
        memory = filled(compiled)
        run(compiled, memory, CORES)
        outputs.append(memory.read("out").astype(float))
    assert np.abs(outputs[0] - outputs[1]).max(axis=2).min() > 0.02


@settings(max_examples=5)
@given(cases(), st.sampled_from(["static", "balanced", "dynamic"]))
def test_schedule_and_machine_change_no_bit(case: tuple[Problem, Knobs], schedule: str) -> None:
    problem, knobs = case
    results = set()
    for other, machine in ((knobs, NPU), (knobs, H100), (replace(knobs, schedule=schedule), NPU)):
        compiled = compile(problem, other, machine, 0)
        memory = filled(compiled)
        run(compiled, memory, CORES)
        results.add(memory.read("out").tobytes())
    assert len(results) == 1


def test_traffic_is_keys_and_values_of_every_selected_token_for_every_kv_head() -> None:
    problem = Problem(32, 8, 128, 50, 2, "bf16", (200, 30))
    selected = 2 * 50 + 29 + 30
    for split_tokens in (0, 30):
        result = simulate(compile(problem, Knobs(split_tokens=split_tokens), NPU, 0), NPU)
        moved = {t.name: t for t in result.traffic}
        assert moved["kv"].load_useful_bytes == selected * 8 * 2 * 256
        assert moved["kv"].indices == selected * 8 * 2
        assert moved["q"].load_useful_bytes == (4 if not split_tokens else 2 * 2 + 1 + 1) * 32 * 256
        assert moved["out"].store_useful_bytes == 4 * 32 * 256
        assert 0 < result.bound.total_fs <= result.makespan_fs


def test_many_parts_are_merged_by_strips_of_heads_that_fit() -> None:
    """128 parts of 8 rows of 129 fp32 twice are 1 MiB; a core has 227 KiB, and strips of one head take an eighth."""
    compiled = compile(Problem(64, 8, 128, 2048, 1, "bf16", (4000,)), Knobs(split_tokens=16), H100, 0)
    merged = compiled.phases[1]
    assert merged.tasks[:, merged.columns.index("strip")].tolist() == [1] * 64
    assert set(merged.tasks[:, merged.columns.index("parts")]) == {128}


def test_canonical_keys_are_equal_exactly_for_knobs_of_one_meaning() -> None:
    problem = Problem(8, 2, 128, 50, 1, "bf16", (400, 9))
    key = canonical(problem, Knobs())
    same = [Knobs(layout="page kv token head dim//4 dim%4"), Knobs(split_tokens=50)]
    assert {canonical(problem, knobs) for knobs in same} == {key}
    different = [Knobs(layout=LAYOUTS[1]), Knobs(split_tokens=49), Knobs(tile=32), Knobs(stages=2)]
    different += [Knobs(page_size=32), Knobs(page_order="contiguous"), Knobs(schedule="dynamic")]
    different += [Knobs(selection="recent"), Knobs(sram_layout="row-major")]
    assert len({key, *(canonical(problem, knobs) for knobs in different)}) == len(different) + 1


def test_problems_and_positions_that_cannot_be_are_refused() -> None:
    llama = load_model("llama-3.1-8b")
    problem = shape(llama, Batch((5,), "test"), {"top_k": 3})
    assert problem == Problem(32, 8, 128, 3, 1, "bf16", (5,))
    with pytest.raises(ValueError, match=r"^model: kernel sparse-gqa needs one"):
        shape(None, Batch((5,), "test"), {})
    with pytest.raises(ValueError, match=r"^batch: kernel sparse-gqa needs one"):
        shape(llama, None, {})
    with pytest.raises(ValueError, match=r"^batch: sequence 0 has 5 tokens; allowed: at least its q_len, 6"):
        shape(llama, Batch((5,), "test"), {"q_len": 6})
    with pytest.raises(ValueError, match=r"^positions: 0 arrays; allowed: one for each of 1 queries"):
        program(problem, Knobs(), NPU, 0, [])
    with pytest.raises(ValueError, match=r"^positions: query 0 has ends \(0, 5\); allowed: one or more in 0 to 4"):
        program(problem, Knobs(), NPU, 0, [np.array([0, 5])])
